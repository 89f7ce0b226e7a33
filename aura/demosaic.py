"""Bayer demosaicking: bilinear, and the gradient-corrected linear one of Malvar, He and Cutler."""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from aura.bayer import PLANE_CHANNEL, CfaPattern, cfa_sites, unpack

# Bilinear kernels on the full mosaic (each colour's samples are zero elsewhere).
_BILINEAR_GREEN = torch.tensor([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]]) / 4.0
_BILINEAR_RED_BLUE = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 4.0

# Malvar, He and Cutler, "High-quality linear interpolation for demosaicing of Bayer-patterned color images",
# ICASSP 2004, figure 2
_MALVAR_GREEN = (
    torch.tensor(
        [[0, 0, -1, 0, 0], [0, 0, 2, 0, 0], [-1, 2, 4, 2, -1], [0, 0, 2, 0, 0], [0, 0, -1, 0, 0]],
        dtype=torch.float32,
    )
    / 8.0
)
_MALVAR_SAME_ROW = (
    torch.tensor([[0, 0, 0.5, 0, 0], [0, -1, 0, -1, 0], [-1, 4, 5, 4, -1], [0, -1, 0, -1, 0], [0, 0, 0.5, 0, 0]]) / 8.0
)
_IDENTITY = F.pad(torch.ones(1, 1), (2, 2, 2, 2))
_MALVAR_SAME_COLUMN = _MALVAR_SAME_ROW.T.contiguous()
_MALVAR_DIAGONAL = (
    torch.tensor([[0, 0, -1.5, 0, 0], [0, 2, 0, 2, 0], [-1.5, 0, 6, 0, -1.5], [0, 2, 0, 2, 0], [0, 0, -1.5, 0, 0]])
    / 8.0
)


def _convolve(mosaic: Tensor, kernel: Tensor) -> Tensor:
    pad = kernel.shape[-1] // 2
    padded = F.pad(mosaic, (pad, pad, pad, pad), mode="reflect")
    return F.conv2d(padded, kernel.to(mosaic)[None, None])


def _site_masks(pattern: CfaPattern, like: Tensor) -> list[Tensor]:
    height, width = like.shape[-2:]
    planes = torch.eye(4, dtype=like.dtype, device=like.device)[:, :, None, None]
    return [unpack(plane.expand(4, height // 2, width // 2), pattern)[None, None] for plane in planes]


def demosaic_bilinear(packed: Tensor, pattern: CfaPattern) -> Tensor:
    """Interpolate bilinearly: packed ``(B, 4, h, w)`` -> RGB ``(B, 3, 2h, 2w)``; linear, not clipped."""
    mosaic = unpack(packed, pattern)[:, None]
    red, green_red, green_blue, blue = _site_masks(pattern, mosaic)
    return torch.cat(
        [
            _convolve(mosaic * red, _BILINEAR_RED_BLUE),
            _convolve(mosaic * (green_red + green_blue), _BILINEAR_GREEN),
            _convolve(mosaic * blue, _BILINEAR_RED_BLUE),
        ],
        dim=1,
    )


def demosaic_malvar(packed: Tensor, pattern: CfaPattern) -> Tensor:
    """Interpolate with the gradient-corrected 5x5 filters of Malvar et al. 2004; shapes as in bilinear."""
    return join_sites(malvar_planes(packed, pattern))


def malvar_planes(packed: Tensor, pattern: CfaPattern) -> Tensor:
    """Do what :func:`demosaic_malvar` does, and leave the four sites of the cell apart.

    In packed planes the 5x5 filters are 3x3, and all are one convolution.

    Args:
        packed: ``(B, 4, h, w)``, sides of at least 2.
        pattern: of the mosaic.

    Returns:
        ``(B, 3, 4, h, w)``: R, G, B at the sites (0,0), (0,1), (1,0), (1,1) of each cell; not clipped.
    """
    planes = F.conv2d(_reflect_cells(packed, pattern), _malvar_weights(pattern).to(packed))
    return planes.view(len(planes), 3, 4, *planes.shape[2:])


def join_sites(planes: Tensor) -> Tensor:
    """Lay the four sites of the cell side by side: ``(*, 4, h, w)`` -> ``(*, 2h, 2w)``, any dtype."""
    height, width = planes.shape[-2:]
    image = planes.new_empty(*planes.shape[:-3], 2 * height, 2 * width)
    for site, (row, column) in enumerate(product(range(2), range(2))):
        image[..., row::2, column::2] = planes[..., site, :, :]  # several times faster than torch's pixel_shuffle
    return image


def _reflect_cells(packed: Tensor, pattern: CfaPattern) -> Tensor:
    """Pad packed planes by one cell as the mosaic would be reflected: about its first and last pixel."""
    padded = F.pad(packed, (1, 1, 1, 1), mode="replicate")
    for plane, (row, column) in enumerate(cfa_sites(pattern)):
        # about the first row: its own site repeats from the second cell, the other row's from the first
        edge, inner = ((0, 2), (-1, -3))[row]
        padded[:, plane, edge] = padded[:, plane, inner]
        edge, inner = ((0, 2), (-1, -3))[column]
        padded[:, plane, :, edge] = padded[:, plane, :, inner]
    return padded


@lru_cache(maxsize=4)
def _malvar_weights(pattern: CfaPattern) -> Tensor:
    """Filters ``(12, 4, 3, 3)``: for R, G, B at each site of the cell, over packed planes."""
    sites = cfa_sites(pattern)
    plane_at = {site: plane for plane, site in enumerate(sites)}
    weights = torch.zeros(3, 4, 4, 3, 3)
    for colour, (row, column) in product(range(3), product(range(2), range(2))):
        kernel = _malvar_kernel(colour, plane_at[row, column])
        for down, right in product(range(5), range(5)):
            y, x = row + down - 2, column + right - 2
            weights[colour, 2 * row + column, plane_at[y % 2, x % 2], y // 2 + 1, x // 2 + 1] = kernel[down, right]
    return weights.flatten(0, 1)


def _malvar_kernel(colour: int, plane: int) -> Tensor:
    """The 5x5 filter for R, G or B (0, 1, 2) at a site that samples a packed plane."""
    if PLANE_CHANNEL[plane] == colour:
        return _IDENTITY
    if colour == 1:
        return _MALVAR_GREEN
    if PLANE_CHANNEL[plane] != 1:
        return _MALVAR_DIAGONAL
    return _MALVAR_SAME_ROW if (plane == 1) == (colour == 0) else _MALVAR_SAME_COLUMN  # Gr lies in red's row
