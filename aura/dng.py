"""Write RAW samples as DNG files that any raw developer opens (Adobe, *Digital Negative Specification* 1.4).

One mosaic per file, 16 bits a sample, stored losslessly: uncompressed, or as tiles of :mod:`aura.lossless_jpeg`. The
bytes are a function of the arguments: no dates, no random ids.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO, Final, Literal, NamedTuple

import numpy as np

from aura.bayer import PLANE_CHANNEL, CfaPattern, cfa_sites
from aura.errors import InvalidInputError
from aura.lossless_jpeg import encode_lossless_jpeg

Orientation = Literal[1, 2, 3, 4, 5, 6, 7, 8]

_BYTE, _ASCII, _SHORT, _LONG, _RATIONAL, _UNDEFINED, _SRATIONAL, _DOUBLE = 1, 2, 3, 4, 5, 7, 10, 12  # TIFF 6.0 types
_STRUCT_CODE: Final = {
    _BYTE: "B", _ASCII: "B", _SHORT: "H", _LONG: "I", _RATIONAL: "I", _UNDEFINED: "B", _SRATIONAL: "i", _DOUBLE: "d",
}  # fmt: skip
_SUB_IFDS: Final = 330
_EXIF_IFD: Final = 34665
_PHOTOMETRIC_CFA: Final = 32803
_PHOTOMETRIC_RGB: Final = 2
_UNCOMPRESSED: Final = 1
_LOSSLESS_JPEG: Final = 7
_ILLUMINANT_D65: Final = 21  # EXIF 2.3, LightSource
_PREVIEW_SRGB: Final = 2
_TILE_SIDE: Final = 256
_RATIONAL_DENOMINATOR: Final = 1_000_000
_LARGEST_NUMERATOR: Final = 2**31 - 1


class DngNoise(NamedTuple):
    """The DNG noise model for normalised signal x in [0, 1]: variance = ``scale`` · x + ``offset``."""

    scale: float
    offset: float


class _Tag(NamedTuple):
    """One TIFF field: code, type, and its values flattened to numbers."""

    code: int
    type: int
    values: tuple[float, ...]


class _Image(NamedTuple):
    """Fields of an image, which fields say where its encoded parts lie and how long they are, and the parts."""

    tags: tuple[_Tag, ...]
    offsets_code: int
    counts_code: int
    parts: tuple[bytes, ...]

    @property
    def byte_count(self) -> int:
        return sum(map(len, self.parts))

    def with_tags(self, tags: list[_Tag]) -> _Image:
        return self._replace(tags=(*self.tags, *tags))

    def directory(self, data_start: int) -> list[_Tag]:
        counts = tuple(map(len, self.parts))
        offsets = tuple((data_start + np.cumsum((0, *counts[:-1]))).tolist())
        return [*self.tags, _Tag(self.offsets_code, _LONG, offsets), _Tag(self.counts_code, _LONG, counts)]


def write_dng(
    target: str | os.PathLike[str] | BinaryIO,
    raw: np.ndarray,
    *,
    cfa_pattern: CfaPattern,
    black_level: float | Sequence[float],
    white_level: float | Sequence[float],
    color_matrix: np.ndarray,
    as_shot_neutral: tuple[float, float, float],
    camera_model: str,
    unique_camera_model: str | None = None,
    make: str = "AURA",
    software: str | None = None,
    iso: int | None = None,
    noise: DngNoise | Sequence[DngNoise] | None = None,
    baseline_exposure_ev: float | None = None,
    orientation: Orientation = 1,
    preview: np.ndarray | None = None,
    xmp: bytes | None = None,
    compress: bool = True,
) -> None:
    """Write one mosaic as a DNG file.

    Args:
        target: a path, or a binary file open for writing.
        raw: digital numbers, uint16: a mosaic ``(H, W)`` with H and W even, or packed ``(4, h, w)`` in R, Gr, Gb, B.
        cfa_pattern: colours at (0,0), (0,1), (1,0), (1,1) of the mosaic.
        black_level: DN, one for all or four in R, Gr, Gb, B.
        white_level: DN of saturation, one or four; DNG holds one whole number for a mosaic, so the smallest is written,
            rounded down (a larger one would leave coloured highlights).
        color_matrix: ``(3, 3)``, CIE XYZ (D65) to camera RGB, Adobe convention.
        as_shot_neutral: camera RGB of grey, the reciprocal of the white-balance gains.
        camera_model: the name developers show and look their presets up by.
        unique_camera_model: the name under which nobody else's files have this colour; ``camera_model`` if left out.
        make: the maker.
        software: program that made the file.
        iso: sensitivity, for the EXIF field.
        noise: the noise model for all, or one each for R, G, B.
        baseline_exposure_ev: stops a developer adds by default.
        orientation: EXIF orientation of the mosaic.
        preview: ``(h, w, 3)`` uint8 sRGB, kept as the first image of the file.
        xmp: an XMP packet (ISO 16684-1), UTF-8.
        compress: lossless JPEG, about half the size, or none.

    Raises:
        InvalidInputError: a shape, dtype, level or colour that DNG cannot hold.
    """
    mosaic = _as_mosaic(np.asarray(raw), cfa_pattern)
    camera_tags = _camera_tags(make, camera_model, unique_camera_model, orientation, baseline_exposure_ev)
    camera_tags += _color_tags(np.asarray(color_matrix, dtype=np.float64), as_shot_neutral)
    if software is not None:
        camera_tags.append(_Tag(305, _ASCII, _ascii(software, "Software")))
    if xmp is not None:
        camera_tags.append(_Tag(700, _BYTE, tuple(xmp)))
    raw_tags = _mosaic_tags(mosaic.shape, cfa_pattern, _four(black_level, "Black level"), _white(white_level))
    raw_image = _mosaic_image(mosaic, raw_tags + _noise_tags(noise), compress=compress)
    images = [raw_image] if preview is None else [_preview_image(preview), raw_image]
    images[0] = images[0].with_tags(camera_tags)
    parts = _tiff(images, _exif_tags(iso))
    if isinstance(target, (str, os.PathLike)):
        with Path(target).open("wb") as file:
            file.writelines(parts)
    else:
        target.writelines(parts)


def _as_mosaic(raw: np.ndarray, pattern: CfaPattern) -> np.ndarray:
    """Return ``(H, W)`` uint16 from a mosaic or packed planes."""
    sites = cfa_sites(pattern)
    if raw.dtype != np.uint16:
        raise InvalidInputError(f"RAW has dtype {raw.dtype}; expected uint16 digital numbers. Round and clip first.")
    if raw.ndim == 3 and raw.shape[0] == 4:
        mosaic = np.empty((2 * raw.shape[1], 2 * raw.shape[2]), dtype=np.uint16)
        for plane, (row, column) in zip(raw, sites, strict=True):
            mosaic[row::2, column::2] = plane
        raw = mosaic
    if raw.ndim != 2 or raw.shape[0] % 2 or raw.shape[1] % 2 or raw.size == 0:
        raise InvalidInputError(f"RAW has shape {raw.shape}; expected (H, W) with even sides or (4, h, w).")
    return raw


def _four(level: float | Sequence[float], name: str) -> tuple[float, ...]:
    given = np.ravel(np.asarray(level, dtype=np.float64)).tolist()
    values = tuple(given * 4 if len(given) == 1 else given)
    if len(values) != 4 or not all(0.0 <= value <= 65535.0 for value in values):
        raise InvalidInputError(f"{name} is {values}; expected one or four digital numbers from 0 to 65535.")
    return values


def _white(level: float | Sequence[float]) -> int:
    return math.floor(min(_four(level, "White level")))  # where digitising clips


def _mosaic_tags(shape: tuple[int, ...], pattern: CfaPattern, black: tuple[float, ...], white: int) -> list[_Tag]:
    height, width = shape
    if max(black) >= white:
        raise InvalidInputError(f"White level {white} is not above the black level {black}.")
    cell = {site: plane for plane, site in enumerate(cfa_sites(pattern))}
    planes = [cell[row, column] for row in (0, 1) for column in (0, 1)]
    return [
        _Tag(33421, _SHORT, (2, 2)),  # CFARepeatPatternDim
        _Tag(33422, _BYTE, tuple(PLANE_CHANNEL[plane] for plane in planes)),  # CFAPattern
        _Tag(50710, _BYTE, (0, 1, 2)),  # CFAPlaneColor: R, G, B
        _Tag(50711, _SHORT, (1,)),  # CFALayout: rectangular
        _Tag(50713, _SHORT, (2, 2)),  # BlackLevelRepeatDim
        _Tag(50714, _RATIONAL, _rationals(black[plane] for plane in planes)),  # BlackLevel, by position
        _Tag(50717, _LONG, (white,)),  # WhiteLevel
        _Tag(50719, _LONG, (0, 0)),  # DefaultCropOrigin
        _Tag(50720, _LONG, (width, height)),  # DefaultCropSize
        _Tag(50829, _LONG, (0, 0, height, width)),  # ActiveArea
    ]


def _noise_tags(noise: DngNoise | Sequence[DngNoise] | None) -> list[_Tag]:
    if noise is None:
        return []
    pairs = np.asarray(noise, dtype=np.float64)
    if pairs.size not in {2, 6} or not (pairs >= 0).all():
        raise InvalidInputError(f"Noise profile is {noise}; expected one or three (scale, offset) pairs, at least 0.")
    return [_Tag(51041, _DOUBLE, tuple(pairs.ravel().tolist()))]  # NoiseProfile


def _camera_tags(
    make: str, model: str, unique_model: str | None, orientation: Orientation, baseline_exposure_ev: float | None
) -> list[_Tag]:
    if orientation not in range(1, 9):
        raise InvalidInputError(f"Orientation is {orientation}; expected an EXIF orientation from 1 to 8.")
    tags = [
        _Tag(271, _ASCII, _ascii(make, "Make")),
        _Tag(272, _ASCII, _ascii(model, "Camera model")),
        _Tag(274, _SHORT, (orientation,)),
        _Tag(50706, _BYTE, (1, 4, 0, 0)),  # DNGVersion
        _Tag(50707, _BYTE, (1, 1, 0, 0)),  # DNGBackwardVersion
        _Tag(50708, _ASCII, _ascii(model if unique_model is None else unique_model, "Unique camera model")),
    ]
    if baseline_exposure_ev is not None:
        tags.append(_Tag(50730, _SRATIONAL, _rationals([baseline_exposure_ev])))  # BaselineExposure
    return tags


def _color_tags(color_matrix: np.ndarray, as_shot_neutral: tuple[float, float, float]) -> list[_Tag]:
    if color_matrix.shape != (3, 3) or not np.isfinite(color_matrix).all():
        raise InvalidInputError(f"Colour matrix has shape {color_matrix.shape}; expected 3x3 finite numbers.")
    if len(as_shot_neutral) != 3 or not all(0.0 < value < np.inf for value in as_shot_neutral):
        raise InvalidInputError(f"AsShotNeutral is {as_shot_neutral}; expected three positive numbers.")
    return [
        _Tag(50721, _SRATIONAL, _rationals(color_matrix.ravel())),  # ColorMatrix1
        _Tag(50728, _RATIONAL, _rationals(as_shot_neutral)),  # AsShotNeutral
        _Tag(50778, _SHORT, (_ILLUMINANT_D65,)),  # CalibrationIlluminant1
    ]


def _exif_tags(iso: int | None) -> list[_Tag]:
    tags = [_Tag(36864, _UNDEFINED, tuple(b"0230"))]  # ExifVersion
    if iso is not None:
        tags.append(_Tag(34855, _SHORT, (min(int(iso), 65535),)))  # PhotographicSensitivity; 65535 means "or more"
    return tags


def _ascii(text: str, name: str) -> tuple[int, ...]:
    if not text or not text.isascii() or not text.isprintable():
        raise InvalidInputError(f"{name} is {text!r}; TIFF holds printable ASCII only, and it must not be empty.")
    return tuple(text.encode("ascii") + b"\0")


def _rationals(values: Iterable[float]) -> tuple[int, ...]:
    """Flatten numbers to numerator, denominator pairs, exact for integers; a large one takes a smaller denominator."""
    pairs = []
    for value in map(float, values):
        denominator = min(_RATIONAL_DENOMINATOR, _LARGEST_NUMERATOR // (int(abs(value)) + 1))
        pairs.append(Fraction(round(value * denominator), denominator))
    return tuple(part for pair in pairs for part in pair.as_integer_ratio())


def _preview_image(preview: np.ndarray) -> _Image:
    if preview.dtype != np.uint8 or preview.ndim != 3 or preview.shape[2] != 3 or preview.size == 0:
        raise InvalidInputError(f"Preview is {preview.shape} {preview.dtype}; expected (h, w, 3) uint8.")
    tags = [
        _Tag(254, _LONG, (1,)),  # NewSubfileType: reduced image
        *_layout_tags(preview.shape, (8, 8, 8), _PHOTOMETRIC_RGB, _UNCOMPRESSED),
        _Tag(278, _LONG, (preview.shape[0],)),  # RowsPerStrip
        _Tag(50970, _LONG, (_PREVIEW_SRGB,)),  # PreviewColorSpace
    ]
    return _Image(tuple(tags), 273, 279, (preview.tobytes(),))


def _mosaic_image(mosaic: np.ndarray, tags: list[_Tag], *, compress: bool) -> _Image:
    tags = [_Tag(254, _LONG, (0,)), *tags]  # NewSubfileType: full image
    tile = _tile_shape(*mosaic.shape)
    if not compress or 0 in tile:
        tags += _layout_tags(mosaic.shape, (16,), _PHOTOMETRIC_CFA, _UNCOMPRESSED)
        tags.append(_Tag(278, _LONG, (mosaic.shape[0],)))  # RowsPerStrip
        return _Image(tuple(tags), 273, 279, (mosaic.astype("<u2").tobytes(),))
    tags += _layout_tags(mosaic.shape, (16,), _PHOTOMETRIC_CFA, _LOSSLESS_JPEG)
    tags += [_Tag(322, _LONG, (tile[1],)), _Tag(323, _LONG, (tile[0],))]  # TileWidth, TileLength
    return _Image(tuple(tags), 324, 325, tuple(encode_lossless_jpeg(part) for part in _tiles(mosaic, tile)))


def _tile_shape(height: int, width: int) -> tuple[int, int]:
    """Choose tiles that all readers read; a 0 means that there are none.

    TIFF wants multiples of 16. LibRaw misreads a tile wider than the image, and one of exactly half its width, which it
    takes for one component of two; RawTherapee 5.9 does not open a single row of tiles.
    """
    tile_width = min(_TILE_SIDE, width // 16 * 16)
    if 2 * tile_width == width:
        tile_width = -(-width // 48) * 16
    tile_height = min(_TILE_SIDE, height // 2 // 16 * 16)
    return tile_height, tile_width


def _layout_tags(shape: tuple[int, ...], bits: tuple[int, ...], photometric: int, compression: int) -> list[_Tag]:
    return [
        _Tag(256, _LONG, (shape[1],)),  # ImageWidth
        _Tag(257, _LONG, (shape[0],)),  # ImageLength
        _Tag(258, _SHORT, bits),  # BitsPerSample
        _Tag(259, _SHORT, (compression,)),
        _Tag(262, _SHORT, (photometric,)),
        _Tag(277, _SHORT, (len(bits),)),  # SamplesPerPixel
        _Tag(284, _SHORT, (1,)),  # PlanarConfiguration: samples of a pixel together
    ]


def _tiff(images: list[_Image], exif: list[_Tag]) -> list[bytes]:
    """Lay out a little-endian TIFF: header, directories, then pixel data.

    The first image is the main directory; a second one hangs below it. A directory's size does not depend on the
    offsets in it, so they are laid out with zeros first.
    """
    main, *below = images
    pointers = [_Tag(_EXIF_IFD, _LONG, (0,))] + [_Tag(_SUB_IFDS, _LONG, (0,))] * bool(below)
    drafts = [_directory([*main.directory(0), *pointers], 0), _directory(exif, 0)]
    drafts += [_directory(image.directory(0), 0) for image in below]
    starts = [int(start) for start in np.cumsum([8] + [len(draft) for draft in drafts])]
    data_starts = [int(start) for start in np.cumsum([starts[-1]] + [image.byte_count for image in images])]
    pointers = [_Tag(_EXIF_IFD, _LONG, (starts[1],))] + [_Tag(_SUB_IFDS, _LONG, (starts[2],))] * bool(below)
    directories = [_directory([*main.directory(data_starts[0]), *pointers], starts[0]), _directory(exif, starts[1])]
    directories += [_directory(image.directory(data_starts[1]), starts[2]) for image in below]
    return [b"II" + struct.pack("<HI", 42, 8), *directories, *(part for image in images for part in image.parts)]


def _directory(tags: Sequence[_Tag], start: int) -> bytes:
    """Encode one directory that begins at file offset ``start``; values over four bytes follow its entries."""
    entries, values = b"", b""
    values_start = start + 2 + 12 * len(tags) + 4
    for tag in sorted(tags):
        payload = struct.pack(f"<{len(tag.values)}{_STRUCT_CODE[tag.type]}", *tag.values)
        count = len(tag.values) // (2 if tag.type in {_RATIONAL, _SRATIONAL} else 1)
        entries += struct.pack("<HHI", tag.code, tag.type, count)
        if len(payload) <= 4:
            entries += payload.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", values_start + len(values))
            values += payload + b"\0" * (len(payload) % 2)  # offsets must be even
    return struct.pack("<H", len(tags)) + entries + bytes(4) + values


def _tiles(mosaic: np.ndarray, tile: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Cut into tiles, row by row; the last ones are filled up with repeated cells, about one bit a sample."""
    for top in range(0, mosaic.shape[0], tile[0]):
        for left in range(0, mosaic.shape[1], tile[1]):
            part = mosaic[top : top + tile[0], left : left + tile[1]]
            height, width = part.shape
            columns = np.arange(tile[1])
            wide = part[:, np.minimum(columns, width - 2 + columns % 2)]
            yield np.concatenate([wide, np.tile(wide[-2:, :2], ((tile[0] - height) // 2, tile[1] // 2))])
