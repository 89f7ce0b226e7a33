"""A folder of photographs to a folder of RAW: packed arrays with what one must know to use them, or DNG files."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch

from aura.bayer import PACKED_ORDER, pack_rgb
from aura.errors import EmptyCorpusError, InvalidInputError, MissingFileError, RejectedImageError
from aura.isp import render
from aura.negative import baseline_exposure, write_negative
from aura.reconstruct import Reconstructor
from aura.sensor.noise import NoiseModel
from aura.sensor.profile import SensorProfile
from aura.sensor.simulate import Capture, canonical_to_camera, draw_capture, normalise_raw, simulate
from flows.reports.pictures import display_pixels
from storage.corpora.photograph import decode
from storage.recipe import Limits

FACTS_NAME: Final = "reconstruct.json"


@dataclass(frozen=True)
class Failure:
    """A photograph that gave no array.

    Attributes:
        path: the photograph.
        reason: one sentence.
    """

    path: Path
    reason: str


@dataclass(frozen=True)
class Exposures:
    """How photographs are taken again.

    Attributes:
        profile: the camera.
        iso: sensitivity.
        noise_model: ``none``, the camera's own calibration, or the generic one.
        seed: the noise of each photograph follows from it and the photograph's name.
    """

    profile: SensorProfile
    iso: int
    noise_model: Literal["none"] | NoiseModel
    seed: int

    def capture(self, name: str) -> Capture:
        """Draw the capture of the photograph of this name."""
        seed = int.from_bytes(hashlib.sha256(f"{self.seed} {name}".encode()).digest()[:8], "big") >> 1
        return draw_capture(self.profile, self.iso, seed, noise_model=self.noise_model)


def list_photographs(folder: Path) -> list[Path]:
    """List the visible files of a folder, by name.

    Raises:
        MissingFileError: it is not a folder.
        EmptyCorpusError: it holds no file.
    """
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is not a folder; give the folder that holds the photographs.")
    files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    if not files:
        raise EmptyCorpusError(f"{folder} holds no file; give the folder that holds the photographs.")
    return files


def reconstruct_folder(
    files: list[Path],
    output: Path,
    inverse: Reconstructor,
    profile: SensorProfile,
    bit_depth: int,
    on_progress: Callable[[str, int, int], None],
) -> list[Failure]:
    """Write ``<name>.npy`` for each photograph: uint16 ``(h, w, 4)``, packed R, Gr, Gb, B, half its size.

    0 is black and ``2**bit_depth - 1`` saturation; no noise is added. ``reconstruct.json`` beside them says so, with
    the camera's white balance and matrix. A last odd row or column of a photograph is dropped.

    Args:
        files: the photographs.
        output: folder to write to; made if it is not there.
        inverse: what makes canonical light of them.
        profile: the camera to make RAW of.
        bit_depth: 8 to 16.
        on_progress: called before each photograph and at the end.

    Returns:
        The photographs that could not be used; the others are written.

    Raises:
        InvalidInputError: bit depth outside 8 to 16.
    """
    if not 8 <= bit_depth <= 16:
        raise InvalidInputError(f"The bit depth is {bit_depth}; expected 8 to 16, since the arrays are uint16.")
    output.mkdir(parents=True, exist_ok=True)
    facts = _facts(profile, inverse, bit_depth)
    (output / FACTS_NAME).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")

    def write(path: Path, target: Path) -> None:
        np.save(target, reconstruct(path.read_bytes(), inverse, profile, bit_depth))

    return _each(files, output, ".npy", write, on_progress)


def negatives_folder(
    files: list[Path],
    output: Path,
    inverse: Reconstructor,
    exposures: Exposures,
    on_progress: Callable[[str, int, int], None],
) -> list[Failure]:
    """Write ``<name>.dng`` for each photograph: the RAW file that the camera would have written.

    Args:
        files: the photographs.
        output: folder to write to; made if it is not there.
        inverse: what makes canonical light of them.
        exposures: camera, ISO and noise of all of them.
        on_progress: called before each photograph and at the end.

    Returns:
        The photographs that could not be used; the others are written.

    Raises:
        InvalidInputError: an ISO that the camera has not.
        NoiseUnavailableError: noise that is not known for the camera or ISO.
    """
    exposures.capture("")  # refuses before anything is written
    output.mkdir(parents=True, exist_ok=True)

    def write(path: Path, target: Path) -> None:
        _write_negative(path, target, inverse, exposures.capture(path.name))

    return _each(files, output, ".dng", write, on_progress)


def _each(
    files: list[Path],
    output: Path,
    suffix: str,
    write: Callable[[Path, Path], None],
    on_progress: Callable[[str, int, int], None],
) -> list[Failure]:
    """Write a file for each photograph, under the photograph's name; a photograph that cannot be used stops nothing."""
    failures = []
    written: dict[str, Path] = {}
    for done, path in enumerate(files):
        on_progress("reconstruct", done, len(files))
        if path.stem in written:
            failures.append(Failure(path, f"{written[path.stem].name} became {path.stem}{suffix} already."))
            continue
        try:
            write(path, output / f"{path.stem}{suffix}")
        except (RejectedImageError, InvalidInputError, OSError) as error:
            failures.append(Failure(path, str(error)))
        else:
            written[path.stem] = path
    on_progress("reconstruct", len(files), len(files))
    return failures


def _write_negative(path: Path, target: Path, inverse: Reconstructor, capture: Capture) -> None:
    data = path.read_bytes()
    pixels = _even_pixels(data)
    raw = simulate(inverse.canonical(pixels)[0], capture)
    levels = capture.profile.levels_at(capture.iso)
    rendered = render(
        normalise_raw(raw, levels.black_level, levels.white_level),
        capture.profile.cfa_pattern,
        torch.tensor(capture.wb_gains),
        torch.tensor(capture.camera_to_srgb),
    )
    write_negative(
        target,
        raw.numpy().astype(np.uint16),
        capture,
        photograph=pixels,
        baseline_exposure_ev=baseline_exposure(pixels, display_pixels(rendered)),
        provenance={
            "sourceUri": path.name,
            "sourceSha256": hashlib.sha256(data).hexdigest(),
            "method": inverse.name,
            "modelDigest": inverse.digest,
        },
    )


def reconstruct(data: bytes, inverse: Reconstructor, profile: SensorProfile, bit_depth: int) -> npt.NDArray[np.uint16]:
    """Make packed RAW of one encoded photograph; see :func:`reconstruct_folder` for the numbers.

    Raises:
        RejectedImageError: the photograph cannot be decoded or is too small.
    """
    canonical = inverse.canonical(_even_pixels(data))[0]
    camera = canonical_to_camera(canonical, torch.from_numpy(profile.camera_to_srgb), profile.daylight_gains)
    packed = pack_rgb(camera, profile.cfa_pattern).clamp(0, 1) * (2**bit_depth - 1)
    return np.asarray(packed.round().permute(1, 2, 0).numpy(), dtype=np.uint16)


def _even_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    """Decode a photograph and drop a last odd row or column."""
    image = decode(data, Limits()).image
    height, width = (side - side % 2 for side in image.shape[:2])
    return image[:height, :width].copy()


def _facts(profile: SensorProfile, inverse: Reconstructor, bit_depth: int) -> dict[str, object]:
    return {
        "dtype": "uint16",
        "shape": "(h, w, 4)",
        "packed_order": list(PACKED_ORDER),
        "cfa_pattern": profile.cfa_pattern,
        "bit_depth": bit_depth,
        "black_level": 0,
        "white_level": 2**bit_depth - 1,
        "noise": "none",
        "camera": profile.name,
        "wb_gains": list(profile.daylight_gains),
        "camera_to_srgb": profile.camera_to_srgb.tolist(),
        "method": inverse.name,
        "method_digest": inverse.digest,
    }
