"""Bayer mosaics: patterns, mosaic, pack and unpack.

A pattern is named by the colours at (0,0), (0,1), (1,0), (1,1) of the stored mosaic. Packed planes are always in the
order R, Gr, Gb, B: Gr is the green that shares its row with red.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import torch
from torch import Tensor

from aura.errors import InvalidInputError

CfaPattern = Literal["RGGB", "GRBG", "GBRG", "BGGR"]
CFA_PATTERNS: Final[tuple[CfaPattern, ...]] = get_args(CfaPattern)
PACKED_ORDER: Final = ("R", "Gr", "Gb", "B")
PLANE_CHANNEL: Final = (0, 1, 1, 2)
"""RGB channel that each packed plane samples."""

_SITES: Final[dict[str, tuple[tuple[int, int], ...]]] = {
    "RGGB": ((0, 0), (0, 1), (1, 0), (1, 1)),
    "GRBG": ((0, 1), (0, 0), (1, 1), (1, 0)),
    "GBRG": ((1, 0), (1, 1), (0, 0), (0, 1)),
    "BGGR": ((1, 1), (1, 0), (0, 1), (0, 0)),
}


def cfa_sites(pattern: CfaPattern) -> tuple[tuple[int, int], ...]:
    """Return the (row, column) of R, Gr, Gb and B within the 2x2 cell.

    Raises:
        InvalidInputError: the pattern is not one of the four.
    """
    if pattern not in _SITES:
        raise InvalidInputError(f"CFA pattern is {pattern!r}; expected one of {', '.join(CFA_PATTERNS)}.")
    return _SITES[pattern]


def flip_pattern(pattern: CfaPattern, *, horizontal: bool = False, vertical: bool = False) -> CfaPattern:
    """Name the pattern that a mosaic of even size has after being flipped.

    Raises:
        InvalidInputError: the pattern is not one of the four.
    """
    cfa_sites(pattern)
    cell = pattern
    if horizontal:
        cell = cell[1] + cell[0] + cell[3] + cell[2]  # type: ignore[assignment]  # a permutation of a pattern is one
    if vertical:
        cell = cell[2:] + cell[:2]  # type: ignore[assignment]  # as above
    return cell


def pack(mosaic: Tensor, pattern: CfaPattern) -> Tensor:
    """Split a mosaic into its four planes.

    Args:
        mosaic: ``(*, H, W)``, H and W even, any dtype.
        pattern: the pattern of ``mosaic``.

    Returns:
        ``(*, 4, H/2, W/2)`` in the order R, Gr, Gb, B.

    Raises:
        InvalidInputError: fewer than two dimensions, or H or W is odd.
    """
    if mosaic.ndim < 2:
        raise InvalidInputError(f"Mosaic has shape {tuple(mosaic.shape)}; expected (*, H, W).")
    height, width = mosaic.shape[-2:]
    if height % 2 or width % 2:
        raise InvalidInputError(f"Mosaic is {height}x{width}; both sides must be even. Crop one row or column off.")
    return torch.stack([mosaic[..., row::2, column::2] for row, column in cfa_sites(pattern)], dim=-3)


def unpack(packed: Tensor, pattern: CfaPattern) -> Tensor:
    """Invert :func:`pack`: ``(*, 4, h, w)`` in R, Gr, Gb, B -> ``(*, 2h, 2w)`` with ``pattern``.

    Raises:
        InvalidInputError: the third dimension from the end is not 4.
    """
    if packed.ndim < 3 or packed.shape[-3] != 4:
        raise InvalidInputError(f"Packed RAW has shape {tuple(packed.shape)}; expected (*, 4, h, w).")
    height, width = packed.shape[-2:]
    mosaic = packed.new_empty((*packed.shape[:-3], 2 * height, 2 * width))
    for plane, (row, column) in enumerate(cfa_sites(pattern)):
        mosaic[..., row::2, column::2] = packed[..., plane, :, :]
    return mosaic


def require_even(height: int, width: int) -> None:
    """Check that an image consists of whole cells of a mosaic.

    Raises:
        InvalidInputError: a side is odd.
    """
    if height % 2 or width % 2:
        raise InvalidInputError(f"Image is {height}x{width}; both sides must be even. Crop one row or column off.")


def pack_rgb(image: Tensor, pattern: CfaPattern) -> Tensor:
    """Sample an RGB image at the CFA's sites, straight into packed planes.

    Args:
        image: ``(*, 3, H, W)``, H and W even.
        pattern: the CFA to sample with.

    Returns:
        ``(*, 4, H/2, W/2)`` in the order R, Gr, Gb, B; each value is one channel of one pixel, nothing is averaged.

    Raises:
        InvalidInputError: not three channels, or H or W is odd.
    """
    if image.ndim < 3 or image.shape[-3] != 3:
        raise InvalidInputError(f"Image has shape {tuple(image.shape)}; expected (*, 3, H, W).")
    require_even(*image.shape[-2:])
    planes = [
        image[..., channel, row::2, column::2]
        for channel, (row, column) in zip(PLANE_CHANNEL, cfa_sites(pattern), strict=True)
    ]
    return torch.stack(planes, dim=-3)


def mosaic(image: Tensor, pattern: CfaPattern) -> Tensor:
    """Sample an RGB image to a mosaic: ``(*, 3, H, W)`` -> ``(*, H, W)``."""
    return unpack(pack_rgb(image, pattern), pattern)


def half_size_rgb(packed: Tensor) -> Tensor:
    """Average the greens: packed ``(*, 4, h, w)`` -> RGB ``(*, 3, h, w)``, half size without invention.

    Raises:
        InvalidInputError: not four planes.
    """
    if packed.ndim < 3 or packed.shape[-3] != 4:
        raise InvalidInputError(f"Packed RAW has shape {tuple(packed.shape)}; expected (*, 4, h, w).")
    green = 0.5 * (packed[..., 1:2, :, :] + packed[..., 2:3, :, :])
    return torch.cat([packed[..., 0:1, :, :], green, packed[..., 3:4, :, :]], dim=-3)
