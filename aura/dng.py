"""Write RAW samples as DNG files that any raw developer opens (Adobe, *Digital Negative Specification* 1.4).

One mosaic per file, 16 bits a sample, stored losslessly: uncompressed, or as lossless JPEG (ITU-T T.81, process 14)
in the dialect all readers share, which is predictor 1 over two interleaved components of half the width. The bytes are
a function of the arguments: no dates, no random ids.
"""

from __future__ import annotations

import heapq
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import BinaryIO, Final, Literal, NamedTuple

import numpy as np
import tifffile

from aura.bayer import CfaPattern, cfa_sites
from aura.errors import InvalidInputError

Orientation = Literal[1, 2, 3, 4, 5, 6, 7, 8]

_TIFF_BYTE, _TIFF_ASCII, _TIFF_SHORT, _TIFF_LONG, _TIFF_RATIONAL = 1, 2, 3, 4, 5
_TIFF_SRATIONAL, _TIFF_DOUBLE = 10, 12
_PHOTOMETRIC_CFA: Final = 32803
_PHOTOMETRIC_RGB: Final = 2
_COMPRESSION_JPEG: Final = 7
_ILLUMINANT_D65: Final = 21  # EXIF 2.3, LightSource
_TILE_SIDE: Final = 256
_RATIONAL_DENOMINATOR: Final = 1_000_000

Tag = tuple[int, int, int, object, bool]
"""What tifffile calls an extra tag: code, TIFF type, count, value, written once."""


class DngNoise(NamedTuple):
    """The DNG noise model for normalised signal x in [0, 1]: variance = ``scale`` · x + ``offset``."""

    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class DngColor:
    """What a developer needs to know about colour.

    Attributes:
        color_matrix: ``(3, 3)``, CIE XYZ (D65) to camera RGB, Adobe convention.
        as_shot_neutral: camera RGB of a grey surface, R, G, B in (0, 1]: the reciprocal of the white-balance gains.
    """

    color_matrix: np.ndarray
    as_shot_neutral: tuple[float, float, float]

    def __post_init__(self) -> None:
        """Refuse what no developer can use."""
        if np.shape(self.color_matrix) != (3, 3) or not np.isfinite(self.color_matrix).all():
            raise InvalidInputError(
                f"Colour matrix has shape {np.shape(self.color_matrix)}; expected 3x3 finite numbers."
            )
        if len(self.as_shot_neutral) != 3 or not all(0.0 < value < np.inf for value in self.as_shot_neutral):
            raise InvalidInputError(f"AsShotNeutral is {self.as_shot_neutral}; expected three positive numbers.")


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
    make: str = "AURA",
    iso: int | None = None,
    noise: DngNoise | Sequence[DngNoise] | None = None,
    baseline_exposure_ev: float | None = None,
    orientation: Orientation = 1,
    preview: np.ndarray | None = None,
    compress: bool = True,
) -> None:
    """Write one mosaic as a DNG file.

    Args:
        target: a path, or a seekable binary file open for writing.
        raw: digital numbers, uint16: a mosaic ``(H, W)`` with H and W even, or packed ``(4, h, w)`` in R, Gr, Gb, B.
        cfa_pattern: colours at (0,0), (0,1), (1,0), (1,1) of the mosaic.
        black_level: DN, one for all or four in R, Gr, Gb, B.
        white_level: DN of saturation, one or four; DNG holds one for a mosaic, so the smallest is written (a larger one
            would leave coloured highlights).
        color_matrix: ``(3, 3)``, CIE XYZ (D65) to camera RGB, Adobe convention.
        as_shot_neutral: camera RGB of grey, the reciprocal of the white-balance gains.
        camera_model: the name developers show and look their presets up by.
        make: the maker.
        iso: sensitivity, for the EXIF field.
        noise: the noise model for all, or one each for R, G, B.
        baseline_exposure_ev: stops a developer adds by default.
        orientation: EXIF orientation of the mosaic.
        preview: ``(h, w, 3)`` uint8 sRGB, kept as the first image of the file.
        compress: lossless JPEG, about half the size, or none.

    Raises:
        InvalidInputError: a shape, dtype, level or colour that DNG cannot hold.
    """
    mosaic = _as_mosaic(np.asarray(raw), cfa_pattern)
    color = DngColor(np.asarray(color_matrix, dtype=np.float64), as_shot_neutral)
    raw_tags = _mosaic_tags(mosaic.shape, cfa_pattern, _four(black_level, "Black level"), _white(white_level))
    raw_tags += _noise_tags(noise)
    camera_tags = _camera_tags(make, camera_model, iso, orientation, color, baseline_exposure_ev)
    with tifffile.TiffWriter(target, byteorder="<", bigtiff=False) as tiff:
        if preview is None:
            _write_mosaic(tiff, mosaic, camera_tags + raw_tags, compress=compress)
        else:
            _write_preview(tiff, preview, camera_tags)
            _write_mosaic(tiff, mosaic, raw_tags, compress=compress)


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
    values = tuple(float(v) for v in np.broadcast_to(np.asarray(level, dtype=np.float64), 4))
    if not all(0.0 <= value <= 65535.0 for value in values):
        raise InvalidInputError(f"{name} is {values}; expected digital numbers from 0 to 65535.")
    return values


def _white(level: float | Sequence[float]) -> int:
    return round(min(_four(level, "White level")))


def _mosaic_tags(
    shape: tuple[int, ...], pattern: CfaPattern, black: tuple[float, ...], white: int
) -> list[Tag]:
    height, width = shape
    if min(black) >= white:
        raise InvalidInputError(f"White level {white} is not above the black level {black}.")
    cell = {site: plane for plane, site in enumerate(cfa_sites(pattern))}
    planes = [cell[row, column] for row in (0, 1) for column in (0, 1)]
    return [
        (33421, _TIFF_SHORT, 2, (2, 2), True),  # CFARepeatPatternDim
        (33422, _TIFF_BYTE, 4, bytes((0, 1, 1, 2)[plane] for plane in planes), True),  # CFAPattern
        (50710, _TIFF_BYTE, 3, bytes((0, 1, 2)), True),  # CFAPlaneColor: R, G, B
        (50711, _TIFF_SHORT, 1, 1, True),  # CFALayout: rectangular
        (50713, _TIFF_SHORT, 2, (2, 2), True),  # BlackLevelRepeatDim
        (50714, _TIFF_RATIONAL, 4, _rationals(black[plane] for plane in planes), True),  # BlackLevel, by position
        (50717, _TIFF_LONG, 1, white, True),  # WhiteLevel
        (50719, _TIFF_LONG, 2, (0, 0), True),  # DefaultCropOrigin
        (50720, _TIFF_LONG, 2, (width, height), True),  # DefaultCropSize
        (50829, _TIFF_LONG, 4, (0, 0, height, width), True),  # ActiveArea
    ]


def _noise_tags(noise: DngNoise | Sequence[DngNoise] | None) -> list[Tag]:
    if noise is None:
        return []
    pairs = np.asarray(noise, dtype=np.float64).reshape(-1, 2)
    if len(pairs) not in {1, 3} or not (pairs >= 0).all():
        raise InvalidInputError(f"Noise profile is {noise}; expected one or three (scale, offset) pairs, none negative.")
    return [(51041, _TIFF_DOUBLE, pairs.size, tuple(pairs.ravel().tolist()), True)]  # NoiseProfile


def _camera_tags(
    make: str,
    model: str,
    iso: int | None,
    orientation: Orientation,
    color: DngColor,
    baseline_exposure_ev: float | None,
) -> list[Tag]:
    if orientation not in range(1, 9):
        raise InvalidInputError(f"Orientation is {orientation}; expected an EXIF orientation from 1 to 8.")
    tags: list[Tag] = [
        (271, _TIFF_ASCII, 0, _ascii(make, "Make"), True),
        (272, _TIFF_ASCII, 0, _ascii(model, "Camera model"), True),
        (274, _TIFF_SHORT, 1, orientation, True),
        (50706, _TIFF_BYTE, 4, bytes((1, 4, 0, 0)), True),  # DNGVersion
        (50707, _TIFF_BYTE, 4, bytes((1, 1, 0, 0)), True),  # DNGBackwardVersion
        (50708, _TIFF_ASCII, 0, _ascii(model, "Camera model"), True),  # UniqueCameraModel
        (50721, _TIFF_SRATIONAL, 9, _rationals(color.color_matrix.ravel()), True),  # ColorMatrix1
        (50728, _TIFF_RATIONAL, 3, _rationals(color.as_shot_neutral), True),  # AsShotNeutral
        (50778, _TIFF_SHORT, 1, _ILLUMINANT_D65, True),  # CalibrationIlluminant1
    ]
    if iso is not None:
        tags.append((34855, _TIFF_SHORT, 1, min(int(iso), 65535), True))  # ISOSpeedRatings saturates by EXIF 2.3
    if baseline_exposure_ev is not None:
        tags.append((50730, _TIFF_SRATIONAL, 1, _rationals([baseline_exposure_ev]), True))  # BaselineExposure
    return tags


def _ascii(text: str, name: str) -> str:
    if not text or not text.isascii() or not text.isprintable():
        raise InvalidInputError(f"{name} is {text!r}; TIFF holds printable ASCII only, and it must not be empty.")
    return text


def _rationals(values: Iterator[float] | Sequence[float] | np.ndarray) -> tuple[int, ...]:
    """Flatten numbers to numerator, denominator pairs, exact for integers."""
    pairs = (Fraction(round(float(value) * _RATIONAL_DENOMINATOR), _RATIONAL_DENOMINATOR) for value in values)
    return tuple(part for pair in pairs for part in pair.as_integer_ratio())


def _write_preview(tiff: tifffile.TiffWriter, preview: np.ndarray, tags: list[Tag]) -> None:
    if preview.dtype != np.uint8 or preview.ndim != 3 or preview.shape[2] != 3:
        raise InvalidInputError(f"Preview is {preview.shape} {preview.dtype}; expected (h, w, 3) uint8.")
    tiff.write(
        preview, photometric=_PHOTOMETRIC_RGB, subfiletype=1, subifds=1, metadata=None, software="", extratags=tags
    )


def _write_mosaic(tiff: tifffile.TiffWriter, mosaic: np.ndarray, tags: list[Tag], *, compress: bool) -> None:
    options = {"photometric": _PHOTOMETRIC_CFA, "subfiletype": 0, "metadata": None, "software": "", "extratags": tags}
    # LibRaw misreads a tile wider than the image, and TIFF wants multiples of 16
    tile = tuple(min(_TILE_SIDE, side // 16 * 16) for side in mosaic.shape)
    if not compress or 0 in tile:
        tiff.write(mosaic, **options)
        return
    tiff.write(
        (encode_lossless_jpeg(part) for part in _tiles(mosaic, tile)),
        shape=mosaic.shape,
        dtype=np.uint16,
        compression=_COMPRESSION_JPEG,
        tile=tile,
        **options,
    )


def _tiles(mosaic: np.ndarray, tile: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Cut into tiles, row by row; the last ones are filled by repeating whole cells, which costs few bits."""
    for top in range(0, mosaic.shape[0], tile[0]):
        for left in range(0, mosaic.shape[1], tile[1]):
            part = mosaic[top : top + tile[0], left : left + tile[1]]
            rows = np.minimum(np.arange(tile[0]), part.shape[0] - 2 + np.arange(tile[0]) % 2)
            columns = np.minimum(np.arange(tile[1]), part.shape[1] - 2 + np.arange(tile[1]) % 2)
            yield part[rows[:, None], columns]


def encode_lossless_jpeg(mosaic: np.ndarray) -> bytes:
    """Encode a mosaic as lossless JPEG: 16 bits, predictor 1, even and odd columns as two components (ITU-T T.81, H).

    Args:
        mosaic: ``(H, W)`` uint16, W even, both sides at most 65535.

    Returns:
        A JPEG stream from SOI to EOI with one Huffman table fitted to this mosaic.
    """
    height, width = mosaic.shape
    category, extra = _categories(_differences(mosaic))
    lengths = _code_lengths(np.bincount(category, minlength=17))
    order = sorted((length, symbol) for symbol, length in enumerate(lengths) if length)
    codes = _canonical_codes(order)
    counts = np.bincount([length for length, _ in order], minlength=17)[1:]
    table = bytes(counts.astype(np.uint8)) + bytes(symbol for _, symbol in order)
    extra_bits = np.where(category == 16, 0, category)  # category 16 holds one value only
    value = (codes[category] << extra_bits) | extra
    return b"".join(
        [
            b"\xff\xd8",
            b"\xff\xc3" + struct.pack(">HBHHB", 14, 16, height, width // 2, 2) + bytes((0, 0x11, 0, 1, 0x11, 0)),
            b"\xff\xc4" + struct.pack(">HB", 3 + len(table), 0) + table,
            b"\xff\xda" + struct.pack(">HB", 10, 2) + bytes((0, 0, 1, 0, 1, 0, 0)),
            _pack_bits(value, np.asarray(lengths)[category] + extra_bits).replace(b"\xff", b"\xff\x00"),
            b"\xff\xd9",
        ]
    )


def _differences(mosaic: np.ndarray) -> np.ndarray:
    """Each sample less its prediction, in stream order: from the left, at the left edge from above, 2^15 at the start."""
    samples = mosaic.astype(np.int32)
    prediction = np.empty_like(samples)
    prediction[:, 2:] = samples[:, :-2]
    prediction[1:, :2] = samples[:-1, :2]
    prediction[0, :2] = 1 << 15
    return (samples - prediction).ravel()


def _categories(difference: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split differences modulo 2^16 into T.81's category and the bits that follow its code."""
    difference = ((difference + 32767) & 0xFFFF) - 32767  # -32767 .. 32768, as T.81 table H.2 wants them
    magnitude = np.abs(difference)
    category = np.frexp(magnitude.astype(np.float64))[1].astype(np.int64)  # bits of the magnitude: exact in float64
    category[magnitude == 32768] = 16
    extra = np.where(difference < 0, difference + (1 << category) - 1, difference)
    extra[category == 16] = 0
    return category, extra.astype(np.int64)


def _code_lengths(counts: np.ndarray) -> list[int]:
    """Huffman code lengths of at most 16 bits, 0 for unused symbols, with the all-ones code left free (T.81, K.2)."""
    weights = {symbol: int(count) for symbol, count in enumerate(counts) if count}
    while True:
        lengths = _huffman_lengths(weights)
        if max(lengths) <= 16:
            return lengths
        weights = {symbol: weight // 2 + 1 for symbol, weight in weights.items()}


def _huffman_lengths(weights: dict[int, int]) -> list[int]:
    reserved = 17  # a symbol nobody sends, of no weight: it takes a longest code, and as the last of them all ones
    lengths = [0] * 18
    heap: list[tuple[int, int, tuple[int, ...]]] = [(weight, symbol, (symbol,)) for symbol, weight in weights.items()]
    heap.append((0, reserved, (reserved,)))
    heapq.heapify(heap)
    serial = len(lengths)
    while len(heap) > 1:
        (weight_a, _, symbols_a), (weight_b, _, symbols_b) = heapq.heappop(heap), heapq.heappop(heap)
        for symbol in symbols_a + symbols_b:
            lengths[symbol] += 1
        heapq.heappush(heap, (weight_a + weight_b, serial, symbols_a + symbols_b))
        serial += 1
    return lengths[:reserved]


def _canonical_codes(order: list[tuple[int, int]]) -> np.ndarray:
    """Give the codes that a decoder rebuilds from the lengths alone (T.81, annex C), indexed by symbol."""
    codes = np.zeros(17, dtype=np.int64)
    code, previous = 0, order[0][0]
    for length, symbol in order:
        code <<= length - previous
        codes[symbol], previous = code, length
        code += 1
    return codes


def _pack_bits(value: np.ndarray, length: np.ndarray) -> bytes:
    """Concatenate bit strings of at most 31 bits, most significant first, filling the last byte with ones."""
    total = int(length.sum())
    filler = -total % 8
    value, length = np.append(value, (1 << filler) - 1), np.append(length, filler)
    end = np.cumsum(length)
    start = end - length
    word, offset = start >> 5, start & 31
    aligned = value.astype(np.uint64) << (64 - offset - length).astype(np.uint64)
    words = np.zeros(int(end[-1]) // 32 + 2)
    # bit strings never overlap, so a sum is an "or"; each sum stays under 2^32 and is exact in float64
    words[: word[-1] + 1] += np.bincount(word, weights=(aligned >> np.uint64(32)).astype(np.float64))
    words[1 : word[-1] + 2] += np.bincount(word, weights=(aligned & np.uint64(0xFFFFFFFF)).astype(np.float64))
    return words.astype(">u4").tobytes()[: (total + filler) // 8]
