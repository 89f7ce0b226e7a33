"""Read camera RAW files: what LibRaw reads, GoPro's GPR, and headerless dumps that a manifest describes."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

import flashraw
import numpy as np
import rawpy
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from aura.bayer import CFA_PATTERNS, CfaPattern, cfa_sites, pack
from aura.color import SRGB_TO_XYZ, camera_to_srgb_matrix
from aura.dng_color import xyz_to_camera_of
from aura.errors import InvalidInputError, MissingFileError

RawReader = Literal["rawpy", "flashraw", "headerless uint8", "headerless uint16 little-endian"]
WhiteBalanceSource = Literal["camera", "daylight", "grey_world"]
FourLevels = tuple[float, float, float, float]
ThreeGains = tuple[float, float, float]

RAW_SUFFIXES: Final = (
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".erf", ".gpr", ".iiq", ".kdc", ".mos", ".mrw", ".nef", ".nrw"),
    *(".orf", ".pef", ".raf", ".raw", ".rw2", ".srw"),
)
_HEADERLESS_DTYPE: Final = {"headerless uint8": "u1", "headerless uint16 little-endian": "<u2"}
_FLASHRAW_SUFFIXES: Final = (".gpr",)
_GPR_WHITE_LEVEL: Final = 16383
_DNG_SUFFIXES: Final = (".dng",)
_MANIFEST_KEYS: Final = "file, reader, camera, cfa_pattern, black_level, white_level, shape"


class RawDescription(BaseModel):
    """One entry of a manifest: what a headerless dump does not say itself.

    Levels, pattern and shape are used for headerless files; other readers take them from the file.

    Attributes:
        file: path below the manifest's folder.
        reader: the program that decodes it.
        camera: for people.
        cfa_pattern: of the stored mosaic.
        black_level: DN, the same for the four colours; null if nobody knows, and then 0 is used.
        white_level: DN at saturation.
        shape: (rows, columns) of the mosaic.
        bytes: size of the file, if known.
        licence: for people.
        note: for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    reader: RawReader
    camera: str
    cfa_pattern: CfaPattern
    black_level: float | None
    white_level: float
    shape: tuple[int, int]
    bytes: int | None = None
    licence: str = ""
    note: str = ""


class RawFile(NamedTuple):
    """A RAW file, and its manifest entry if it has one."""

    path: Path
    description: RawDescription | None


@dataclass(frozen=True)
class RawFrame:
    """One exposure as the sensor saw it.

    Attributes:
        mosaic: ``(H, W)`` uint16 DN, the visible area as stored (never turned or mirrored), sides even.
        cfa_pattern: colours at (0,0), (0,1), (1,0), (1,1) of ``mosaic``.
        black_level: DN, R, Gr, Gb, B.
        white_level: DN at saturation, R, Gr, Gb, B.
        wb_gains: R, G, B gains that make grey neutral; green is 1.
        wb_source: where the gains come from.
        xyz_to_camera: ``(3, 3)`` float64, CIE XYZ (D65) to camera RGB, Adobe convention; None if nobody
            knows.
        name: the file's name.
        camera: maker and model, as far as known.
    """

    mosaic: np.ndarray
    cfa_pattern: CfaPattern
    black_level: FourLevels
    white_level: FourLevels
    wb_gains: ThreeGains
    wb_source: WhiteBalanceSource
    xyz_to_camera: np.ndarray | None
    name: str
    camera: str

    @property
    def color_matrix(self) -> np.ndarray:
        """``xyz_to_camera``, or that of a camera whose primaries are BT.709 where none is known."""
        return np.linalg.inv(SRGB_TO_XYZ) if self.xyz_to_camera is None else self.xyz_to_camera

    @property
    def camera_to_srgb(self) -> np.ndarray:
        """``(3, 3)`` float64, white-balanced camera RGB to canonical linear; the identity where no matrix is known."""
        return np.eye(3) if self.xyz_to_camera is None else camera_to_srgb_matrix(self.xyz_to_camera)

    def packed(self) -> Tensor:
        """Return normalised RAW ``(4, H/2, W/2)`` float32, R, Gr, Gb, B: 0 = black, 1 = saturation, not clipped."""
        planes = pack(torch.from_numpy(self.mosaic.astype(np.float32)), self.cfa_pattern)
        black, white = (torch.tensor(level).view(4, 1, 1) for level in (self.black_level, self.white_level))
        return (planes - black) / (white - black)


def read_manifest(path: str | os.PathLike[str]) -> tuple[RawDescription, ...]:
    """Read a manifest: a JSON list of objects with the fields of :class:`RawDescription`.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: not JSON, not a list, or an entry with a missing, unknown or wrong field (which
            it names).
    """
    manifest = Path(path)
    if not manifest.is_file():
        raise MissingFileError(f"No manifest at {manifest}; expected a JSON list of RAW files with {_MANIFEST_KEYS}.")
    try:
        entries = json.loads(manifest.read_bytes())
    except ValueError as error:
        raise InvalidInputError(f"Manifest {manifest} is not JSON ({error}).") from error
    if not isinstance(entries, list):
        raise InvalidInputError(f"Manifest {manifest} holds a {type(entries).__name__}; expected a list of objects.")
    try:
        return tuple(RawDescription.model_validate(entry) for entry in entries)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidInputError(
            f"Manifest {manifest}: field {field or '(entry)'}: {first['msg']}; an entry needs {_MANIFEST_KEYS}."
        ) from error


def list_raw_files(folder: str | os.PathLike[str]) -> tuple[RawFile, ...]:
    """List the RAW files below a folder.

    Where the folder or the one above holds a ``manifest.json``, its entries below the folder are listed, in its order;
    else all files with the suffix of a RAW format, sorted.

    Raises:
        MissingFileError: there is no such folder, or no RAW file below it.
        InvalidInputError: the manifest cannot be read.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise MissingFileError(f"No folder at {root}; expected one with RAW files.")
    for base in (root, root.parent):
        if (base / "manifest.json").is_file():
            described = [RawFile(base / entry.file, entry) for entry in read_manifest(base / "manifest.json")]
            files = [file for file in described if file.path.is_relative_to(root)]
            break
    else:
        files = [RawFile(path, None) for path in sorted(root.rglob("*")) if path.suffix.lower() in RAW_SUFFIXES]
    if not files:
        raise MissingFileError(
            f"No RAW file below {root}; expected {', '.join(RAW_SUFFIXES)}, "
            "or a manifest.json that names headerless dumps."
        )
    return tuple(files)


def read_raw(path: str | os.PathLike[str], description: RawDescription | None = None) -> RawFrame:
    """Read one RAW file.

    Args:
        path: the file; anything LibRaw opens with a Bayer mosaic, a GPR, or a headerless dump.
        description: needed for headerless dumps, and otherwise only names the camera and the reader.

    Returns:
        The visible area, levels and colour. White balance is the camera's, else daylight, else grey world.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: not a RAW file, not a 2x2 Bayer mosaic, or a dump whose size its description does
            not explain.
    """
    file = Path(path)
    if not file.is_file():
        raise MissingFileError(f"No RAW file at {file}.")
    if description is not None and description.reader in _HEADERLESS_DTYPE:
        return _read_headerless(file, description)
    if file.suffix.lower() in _FLASHRAW_SUFFIXES or (description is not None and description.reader == "flashraw"):
        return _read_gpr(file)
    return _read_libraw(file)


def _read_libraw(file: Path) -> RawFrame:
    try:
        with rawpy.imread(str(file)) as raw:
            if raw.raw_type != rawpy.RawType.Flat or raw.raw_pattern is None or raw.raw_pattern.shape != (2, 2):
                raise InvalidInputError(f"{file.name} holds no 2x2 Bayer mosaic; X-Trans, Foveon and RGB are not read.")
            cell = raw.raw_colors_visible[:2, :2]
            pattern = _pattern("".join(chr(raw.color_desc[index]) for index in cell.ravel()), file)
            mosaic = _even(raw.raw_image_visible.copy())
            site_color = [int(cell[site]) for site in cfa_sites(pattern)]
            black = [float(raw.black_level_per_channel[index]) for index in site_color]
            saturation = raw.camera_white_level_per_channel or [raw.white_level] * 4
            white = [float(min(saturation[index] or raw.white_level, raw.white_level)) for index in site_color]
            measured, daylight = list(raw.camera_whitebalance), list(raw.daylight_whitebalance)
            matrix = np.asarray(raw.rgb_xyz_matrix, dtype=np.float64)[:3]
    except rawpy.LibRawError as error:
        raise InvalidInputError(
            f"{file.name} cannot be decoded by LibRaw ({_reason(error)}); for a headerless dump give a manifest."
        ) from error
    metadata = _dng_metadata(file)
    known = (matrix if np.any(matrix) else None) if metadata is None else xyz_to_camera_of(file, metadata)
    black_level, white_level = _four(black), _four(white)
    gains, source = _first_usable_gains(measured, daylight) or (
        _grey_world(mosaic, pattern, black_level, white_level),
        "grey_world",
    )
    return RawFrame(
        mosaic=mosaic,
        cfa_pattern=pattern,
        black_level=black_level,
        white_level=white_level,
        wb_gains=gains,
        wb_source=source,
        xyz_to_camera=known,
        name=file.name,
        camera=metadata.camera.name if metadata is not None else _camera_name(file),
    )


def _read_gpr(file: Path) -> RawFrame:
    try:
        with flashraw.open(str(file)) as raw:
            frame, metadata = raw.decode(), raw.metadata
            mosaic = _even(np.array(frame.array[frame.crop.slices]))
    except flashraw.FlashRawError as error:
        raise InvalidInputError(f"{file.name} cannot be decoded ({error}); expected a GPR file.") from error
    left, top = frame.crop.x, frame.crop.y
    pattern = _pattern("".join(frame.color_at(left + x, top + y) or "?" for y in (0, 1) for x in (0, 1)), file)
    sites = cfa_sites(pattern)
    black_level = _four([frame.black_level.at(left + column, top + row) for row, column in sites])
    white_level = _four([float(frame.white_level[0] if frame.white_level else _GPR_WHITE_LEVEL)] * 4)
    usable = _first_usable_gains(list(frame.white_balance or ()), [])
    gains, source = usable or (_grey_world(mosaic, pattern, black_level, white_level), "grey_world")
    return RawFrame(
        mosaic=mosaic,
        cfa_pattern=pattern,
        black_level=black_level,
        white_level=white_level,
        wb_gains=gains,
        wb_source=source,
        xyz_to_camera=xyz_to_camera_of(file, metadata),
        name=file.name,
        camera=metadata.camera.name,
    )


def _read_headerless(file: Path, description: RawDescription) -> RawFrame:
    rows, columns = description.shape
    values = np.fromfile(file, dtype=_HEADERLESS_DTYPE[description.reader])
    if values.size != rows * columns:
        raise InvalidInputError(
            f"{file.name} holds {values.size} values; its description says {rows}x{columns} = {rows * columns} of "
            f"{description.reader}. Correct the shape or the reader in the manifest."
        )
    mosaic = _even(values.reshape(rows, columns).astype(np.uint16))
    black_level, white_level = _four([description.black_level or 0.0] * 4), _four([description.white_level] * 4)
    return RawFrame(
        mosaic=mosaic,
        cfa_pattern=description.cfa_pattern,
        black_level=black_level,
        white_level=white_level,
        wb_gains=_grey_world(mosaic, description.cfa_pattern, black_level, white_level),
        wb_source="grey_world",
        xyz_to_camera=None,
        name=file.name,
        camera=description.camera,
    )


def _pattern(letters: str, file: Path) -> CfaPattern:
    if letters not in CFA_PATTERNS:
        raise InvalidInputError(
            f"{file.name} has the colour pattern {letters}; expected one of {', '.join(CFA_PATTERNS)}."
        )
    return letters


def _even(mosaic: np.ndarray) -> np.ndarray:
    height, width = mosaic.shape
    return np.ascontiguousarray(mosaic[: height // 2 * 2, : width // 2 * 2], dtype=np.uint16)


def _four(levels: list[float]) -> FourLevels:
    red, green_red, green_blue, blue = levels
    return (red, green_red, green_blue, blue)


def _first_usable_gains(measured: list[float], daylight: list[float]) -> tuple[ThreeGains, WhiteBalanceSource] | None:
    """Take the camera's gains unless one is absent, zero or negative, as a few cameras write them."""
    candidates: tuple[tuple[list[float], WhiteBalanceSource], ...] = ((measured, "camera"), (daylight, "daylight"))
    for gains, source in candidates:
        if len(gains) >= 3 and all(np.isfinite(gains[:3])) and min(gains[:3]) > 0:
            return (gains[0] / gains[1], 1.0, gains[2] / gains[1]), source
    return None


def _grey_world(mosaic: np.ndarray, pattern: CfaPattern, black: FourLevels, white: FourLevels) -> ThreeGains:
    """Gains that make the mean of all sites under 95 % of saturation grey."""
    means = []
    for plane, (row, column) in enumerate(cfa_sites(pattern)):
        values = mosaic[row::2, column::2].astype(np.float64) - black[plane]
        scale = white[plane] - black[plane]
        exposed = values[values < 0.95 * scale]
        means.append(max(float(exposed.mean()) / scale, 1e-6) if exposed.size else 1.0)
    green = 0.5 * (means[1] + means[2])
    return (green / means[0], 1.0, green / means[3])


def _dng_metadata(file: Path) -> flashraw.Metadata | None:
    """DNG tags; None for other formats. LibRaw gives a DNG's matrix only after mixing it with the white balance."""
    if file.suffix.lower() not in _DNG_SUFFIXES:
        return None
    try:
        return flashraw.read_metadata(str(file))
    except flashraw.FlashRawError as error:
        raise InvalidInputError(f"{file.name} has unreadable DNG tags ({error}).") from error


def _camera_name(file: Path) -> str:
    """Maker and model as flashraw finds them, else empty: LibRaw through rawpy does not tell."""
    try:
        return str(flashraw.read_metadata(str(file)).camera.name)
    except flashraw.FlashRawError:
        return ""


def _reason(error: Exception) -> str:
    argument = error.args[0] if error.args else error
    return argument.decode(errors="replace") if isinstance(argument, bytes) else str(argument)
