"""Photographs of real RAW files as raw developers make them, laid over the RAW they came from.

A developer's result goes through a JPEG of quality 92, then is registered to the mosaic by an integer
offset. Nothing is ever resized. Results are kept in a cache folder, since a developer takes seconds and
always does the same.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

import numpy as np
import rawpy
import tifffile
from PIL import Image

from aura.dng import write_dng
from aura.errors import DevelopmentError
from aura.training.photograph_colours import other_colours
from aura.training.raw_files import RawDescription, RawFrame, read_raw
from aura.training.registration import Registration, overlap, register

DeveloperName = Literal["libraw_fixed", "libraw_auto", "darktable", "rawtherapee", "in_camera"]
DEVELOPERS: Final[tuple[DeveloperName, ...]] = get_args(DeveloperName)

JPEG_QUALITY: Final = 92
LEAST_CORRELATION: Final = 0.8
"""Correlation of gradients under which a photograph and its RAW are not called registered."""

_CACHE_FORMAT: Final = 1
_TIMEOUT_SECONDS: Final = 600
_SUFFIXES_UNKNOWN_TO_LIBRAW: Final = (".gpr",)
_JPEG_SUFFIXES: Final = (".JPG", ".jpg", ".JPEG", ".jpeg")


@dataclass(frozen=True)
class DevelopedPair:
    """A photograph and the RAW it shows, pixel on site.

    Attributes:
        image: ``(H, W, 3)`` uint8 sRGB, after JPEG.
        frame: the RAW cropped to the same H and W (even, from an even offset: the pattern is unchanged).
        developer: who made the photograph.
        registration: how it was laid over the whole mosaic.
    """

    image: np.ndarray
    frame: RawFrame
    developer: DeveloperName
    registration: Registration


@dataclass(frozen=True)
class LeftOutPair:
    """A file and developer without a usable photograph, and why."""

    name: str
    developer: DeveloperName
    reason: str


def available_developers() -> tuple[DeveloperName, ...]:
    """Name the developers that work here: LibRaw and in-camera always, the others where their program is installed."""
    programs = {"darktable": "darktable-cli", "rawtherapee": "rawtherapee-cli"}
    return tuple(name for name in DEVELOPERS if name not in programs or shutil.which(programs[name]))


def developed_pair(
    path: Path, description: RawDescription | None, developer: DeveloperName, cache_folder: Path | None = None
) -> DevelopedPair | LeftOutPair:
    """Develop a RAW file and lay the photograph over its mosaic.

    Args:
        path: the RAW file.
        description: its manifest entry; needed for headerless dumps.
        developer: who develops. Headerless dumps and GPR files are handed over as DNG.
        cache_folder: where photographs are kept; made if missing. None keeps nothing.

    Returns:
        The pair; or why there is none: no photograph of usable size in the file, or no registration.

    Raises:
        DevelopmentError: the developer is not installed or failed.
        MissingFileError: there is no such RAW file.
        InvalidInputError: a RAW file that cannot be read.
    """
    frame = read_raw(path, description)
    jpeg, registration = _cached(path, description, developer, cache_folder, frame)
    if jpeg is None or registration is None:
        return LeftOutPair(frame.name, developer, "holds no photograph of at least 90 % of the mosaic's size")
    if (colours := other_colours(Image.open(io.BytesIO(jpeg)))) is not None:
        return LeftOutPair(frame.name, developer, f"its photograph is in {colours}, not in sRGB; convert it first")
    if registration.correlation < LEAST_CORRELATION:
        return LeftOutPair(
            frame.name,
            developer,
            f"does not register: gradients correlate by {registration.correlation:.2f}, {LEAST_CORRELATION} is needed",
        )
    image, cropped = overlap(_decode(jpeg), frame, registration)
    return DevelopedPair(image, cropped, developer, registration)


def _photograph(
    path: Path, description: RawDescription | None, frame: RawFrame, developer: DeveloperName
) -> bytes | None:
    """The developer's JPEG in the mosaic's orientation; None if there is none."""
    if developer == "in_camera":
        return _photograph_beside(path, frame) or _embedded_photograph(path, frame)
    with _file_for_developer(path, description, frame) as source:
        if developer in ("libraw_fixed", "libraw_auto"):
            image = _develop_with_libraw(source, auto_bright=developer == "libraw_auto")
        else:
            program = _run_darktable if developer == "darktable" else _run_rawtherapee
            image = _undo_flip(program(source), _libraw_flip(source))
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


@contextmanager
def _file_for_developer(path: Path, description: RawDescription | None, frame: RawFrame) -> Iterator[Path]:
    """Yield the file itself if raw developers know its format, else a DNG of the frame.

    A headerless dump is never handed over: LibRaw takes some for the output of old phones, by their size.
    """
    headerless = description is not None and description.reader.startswith("headerless")
    if not headerless and path.suffix.lower() not in _SUFFIXES_UNKNOWN_TO_LIBRAW:
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        dng = Path(folder) / "frame.dng"
        neutral = [1.0 / gain for gain in frame.wb_gains]
        brightest = max(neutral)
        write_dng(
            dng,
            frame.mosaic,
            cfa_pattern=frame.cfa_pattern,
            black_level=frame.black_level,
            white_level=frame.white_level,
            color_matrix=frame.color_matrix,
            as_shot_neutral=(neutral[0] / brightest, neutral[1] / brightest, neutral[2] / brightest),
            camera_model=frame.camera or "unknown",
            compress=False,  # RawTherapee 5.9 does not open lossless JPEG in a single row of tiles
        )
        yield dng


def _libraw_flip(path: Path) -> int:
    with rawpy.imread(str(path)) as raw:
        return int(raw.sizes.flip)


def _develop_with_libraw(path: Path, *, auto_bright: bool) -> np.ndarray:
    """LibRaw's defaults (AHD, its own gamma) with the camera's white balance, in the mosaic's orientation."""
    with rawpy.imread(str(path)) as raw:
        image: np.ndarray = raw.postprocess(
            use_camera_wb=True, no_auto_bright=not auto_bright, output_color=rawpy.ColorSpace.sRGB, user_flip=0
        )
    return image


def _run_darktable(path: Path) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "photograph.tif"
        _run(
            [
                *("darktable-cli", str(path), str(target), "--core", "--disable-opencl", "--library", ":memory:"),
                *("--configdir", f"{folder}/config", "--cachedir", f"{folder}/cache"),
                *("--conf", "plugins/imageio/format/tiff/bpp=8", "--conf", "write_sidecar_files=never"),
            ],
            target,
            {},
        )
        return _read_tiff(target)


def _run_rawtherapee(path: Path) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "photograph.tif"
        _run(
            ["rawtherapee-cli", "-q", "-d", "-t", "-b8", "-Y", "-o", str(target), "-c", str(path)],
            target,
            {"RT_SETTINGS": f"{folder}/config", "RT_CACHE": f"{folder}/cache"},
        )
        return _read_tiff(target)


def _run(command: list[str], target: Path, environment: dict[str, str]) -> None:
    if shutil.which(command[0]) is None:
        raise DevelopmentError(f"{command[0]} is not installed; install it, or leave this developer out.")
    try:
        ended = subprocess.run(  # noqa: S603  # a fixed program with paths as arguments, no shell
            command, env=os.environ | environment, capture_output=True, timeout=_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise DevelopmentError(f"{command[0]} took over {_TIMEOUT_SECONDS} s and was stopped.") from error
    if ended.returncode or not target.is_file():
        said = (ended.stderr or ended.stdout).decode(errors="replace").strip().splitlines()
        raise DevelopmentError(
            f"{command[0]} ended with {ended.returncode} and made no picture; "
            f"it said: {said[-1] if said else 'nothing'}"
        )


def _read_tiff(path: Path) -> np.ndarray:
    image = np.asarray(tifffile.imread(path))
    return image if image.dtype == np.uint8 else np.asarray(image >> 8, dtype=np.uint8)


def _undo_flip(image: np.ndarray, flip: int) -> np.ndarray:
    """Take a photograph back to the mosaic's orientation.

    LibRaw's ``flip`` is three bits: 4 swaps rows and columns after 2 has reversed rows and 1 columns.
    """
    if flip & 4:
        image = image.transpose(1, 0, 2)
    if flip & 2:
        image = image[::-1]
    if flip & 1:
        image = image[:, ::-1]
    return np.ascontiguousarray(image)


def _photograph_beside(path: Path, frame: RawFrame) -> bytes | None:
    """The JPEG of the same name that a camera wrote beside its RAW file, as stored: cameras turn it by a tag."""
    for suffix in _JPEG_SUFFIXES:
        if (beside := path.with_suffix(suffix)).is_file():
            return _if_large_enough(beside.read_bytes(), frame)
    return None


def _embedded_photograph(path: Path, frame: RawFrame) -> bytes | None:
    """The camera's own JPEG within the RAW file."""
    try:
        with rawpy.imread(str(path)) as raw:
            thumbnail = raw.extract_thumb()
    except rawpy.LibRawError:
        return None
    if thumbnail.format != rawpy.ThumbFormat.JPEG:
        return None
    return _if_large_enough(bytes(thumbnail.data), frame)


def _if_large_enough(jpeg: bytes, frame: RawFrame) -> bytes | None:
    """Take a JPEG only if it is (nearly) as large as the mosaic: it is never resized."""
    width, height = Image.open(io.BytesIO(jpeg)).size
    rows, columns = frame.mosaic.shape
    return jpeg if height >= 0.9 * rows and width >= 0.9 * columns else None


def _cached(
    path: Path,
    description: RawDescription | None,
    developer: DeveloperName,
    folder: Path | None,
    frame: RawFrame,
) -> tuple[bytes | None, Registration | None]:
    """Look the photograph and its registration up, or make and keep them."""
    if folder is None:
        return _photograph_and_registration(path, description, developer, frame)
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / f"{_cache_key(path, description, developer)}-{developer}.json"
    picture = entry.with_suffix(".jpg")
    if entry.is_file():
        kept = json.loads(entry.read_text())
        return (picture.read_bytes(), Registration(**kept)) if kept else (None, None)
    jpeg, registration = _photograph_and_registration(path, description, developer, frame)
    if jpeg is not None:
        _write_whole(picture, jpeg)
    _write_whole(entry, json.dumps(registration._asdict() if registration else None).encode())
    return jpeg, registration


def _photograph_and_registration(
    path: Path, description: RawDescription | None, developer: DeveloperName, frame: RawFrame
) -> tuple[bytes | None, Registration | None]:
    jpeg = _photograph(path, description, frame, developer)
    return jpeg, register(_decode(jpeg), frame) if jpeg is not None else None


def _decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def _write_whole(target: Path, content: bytes) -> None:
    """Write under a name of its own, then rename: a killed run leaves no half a picture."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
    Path(file.name).replace(target)


def _cache_key(path: Path, description: RawDescription | None, developer: DeveloperName) -> str:
    identity = hashlib.sha256(path.read_bytes())
    if developer == "in_camera":
        beside = [path.with_suffix(suffix) for suffix in _JPEG_SUFFIXES]
        identity.update(b"".join(jpeg.read_bytes() for jpeg in beside if jpeg.is_file()))
    described = description.model_dump_json(exclude={"file", "note", "licence"}) if description else ""
    identity.update(f"{described}|{developer_version(developer)}|{JPEG_QUALITY}|{_CACHE_FORMAT}".encode())
    return identity.hexdigest()[:24]


@cache
def developer_version(developer: DeveloperName) -> str:
    """Version of the program behind a developer, as it says itself; LibRaw's where it is LibRaw.

    Raises:
        DevelopmentError: the program is not installed.
    """
    programs = {"darktable": ["darktable-cli", "--version"], "rawtherapee": ["rawtherapee-cli", "-v"]}
    if developer not in programs:
        return ".".join(str(part) for part in rawpy.libraw_version)
    if shutil.which(programs[developer][0]) is None:
        raise DevelopmentError(f"{programs[developer][0]} is not installed; install it, or leave this developer out.")
    answer = subprocess.run(programs[developer], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603  # fixed
    return answer.stdout.strip().splitlines()[0] if answer.stdout.strip() else "unknown"
