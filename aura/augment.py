"""Flips and quarter turns of a Bayer mosaic, on its packed planes.

A flip or a turn moves the colours within the 2x2 cell: RGGB mirrored is GRBG. Either the new pattern is named with the
result, or one row or column is cut off each side of the mosaic, after which the pattern is the old one again (Liu et
al., *Learning Raw Image Denoising with Bayer Pattern Unification and Bayer Preserving Augmentation*, CVPR workshops
2019). Packed planes keep their names through either: red stays red, and Gr is always the green in red's row, so a
transposition exchanges Gr and Gb.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt

from aura.bayer import CfaPattern, cfa_sites
from aura.errors import InvalidInputError

ORIENTATIONS: Final = 8
"""Number of orientations: bit 0 mirrors left to right, bit 1 upside down, bit 2 transposes, which is done first."""

MIRROR, UPSIDE_DOWN, _TRANSPOSE = 1, 2, 4
_BY_RED_SITE: Final[dict[tuple[int, int], CfaPattern]] = {
    (0, 0): "RGGB",
    (0, 1): "GRBG",
    (1, 0): "GBRG",
    (1, 1): "BGGR",
}

_Scalar = TypeVar("_Scalar", bound=np.generic)


def orient(image: npt.NDArray[_Scalar], orientation: int) -> npt.NDArray[_Scalar]:
    """Turn ``(*, H, W)`` of any kind; returns a view.

    Raises:
        InvalidInputError: the orientation is not one of the eight.
    """
    if not 0 <= orientation < ORIENTATIONS:
        raise InvalidInputError(f"Orientation is {orientation}; expected 0 to {ORIENTATIONS - 1}.")
    if orientation & _TRANSPOSE:
        image = image.swapaxes(-1, -2)
    if orientation & UPSIDE_DOWN:
        image = image[..., ::-1, :]
    return image[..., ::-1] if orientation & MIRROR else image


def is_transposed(orientation: int) -> bool:
    """Tell whether an orientation exchanges height and width."""
    return bool(orientation & _TRANSPOSE)


def orient_pattern(pattern: CfaPattern, orientation: int) -> CfaPattern:
    """Name the pattern of a mosaic of even sides after :func:`orient`.

    Raises:
        InvalidInputError: the pattern or the orientation is unknown.
    """
    cell = np.zeros((2, 2), bool)
    cell[cfa_sites(pattern)[0]] = True
    row, column = np.argwhere(orient(cell, orientation))[0]  # where red lies decides the pattern
    return _BY_RED_SITE[int(row), int(column)]


def trim_of(pattern: CfaPattern, orientation: int) -> tuple[int, int]:
    """Rows and columns (0 or 1) to cut off each side of the oriented mosaic so that it has ``pattern`` again."""
    before, after = cfa_sites(pattern)[0], cfa_sites(orient_pattern(pattern, orientation))[0]
    return (after[0] - before[0]) % 2, (after[1] - before[1]) % 2


def orient_packed(packed: npt.NDArray[_Scalar], orientation: int) -> npt.NDArray[_Scalar]:
    """Turn packed planes; the mosaic's pattern becomes :func:`orient_pattern`.

    Args:
        packed: ``(4, h, w)`` in R, Gr, Gb, B.
        orientation: which of the eight.

    Returns:
        ``(4, h, w)``, or ``(4, w, h)`` if it is transposed, in R, Gr, Gb, B.

    Raises:
        InvalidInputError: not four planes, or no such orientation.
    """
    _require_packed(packed)
    turned = orient(packed, orientation)
    return turned[[0, 2, 1, 3]] if orientation & _TRANSPOSE else turned


def orient_packed_keeping_cfa(
    packed: npt.NDArray[_Scalar], pattern: CfaPattern, orientation: int
) -> npt.NDArray[_Scalar]:
    """Turn packed planes and cut so that the mosaic has the pattern it had.

    Args:
        packed: ``(4, h, w)`` in R, Gr, Gb, B.
        pattern: of the mosaic, before and after.
        orientation: which of the eight.

    Returns:
        As :func:`orient_packed`, one row and one column of planes less where :func:`trim_of` says so.

    Raises:
        InvalidInputError: not four planes, a side too short to cut, or no such pattern or orientation.
    """
    turned = orient_packed(packed, orientation)
    trim = trim_of(pattern, orientation)
    height, width = turned.shape[1] - trim[0], turned.shape[2] - trim[1]
    if not height or not width:
        raise InvalidInputError(f"Packed RAW of {packed.shape[1]}x{packed.shape[2]} is too small to cut a row off.")
    if not any(trim):
        return turned
    kept: npt.NDArray[Any] = np.empty((4, height, width), turned.dtype)
    for plane, site in enumerate(cfa_sites(orient_pattern(pattern, orientation))):
        # of a mosaic without its first and last row, planes on even rows lose the first, those on odd rows the last
        top, left = (cut * (1 - phase) for cut, phase in zip(trim, site, strict=True))
        kept[plane] = turned[plane, top : top + height, left : left + width]
    return kept


def _require_packed(packed: npt.NDArray[Any]) -> None:
    if packed.ndim != 3 or packed.shape[0] != 4:
        raise InvalidInputError(f"Packed RAW has shape {packed.shape}; expected (4, h, w) in R, Gr, Gb, B.")
