"""Bayer demosaicking: bilinear, and the gradient-corrected linear one of Malvar, He and Cutler."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from aura.bayer import CfaPattern, unpack

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
    mosaic = unpack(packed, pattern)[:, None]
    red, green_red, green_blue, blue = _site_masks(pattern, mosaic)
    green = _convolve(mosaic, _MALVAR_GREEN)
    same_row = _convolve(mosaic, _MALVAR_SAME_ROW)
    same_column = _convolve(mosaic, _MALVAR_SAME_COLUMN)
    diagonal = _convolve(mosaic, _MALVAR_DIAGONAL)
    return torch.cat(
        [
            mosaic * red + same_row * green_red + same_column * green_blue + diagonal * blue,
            mosaic * (green_red + green_blue) + green * (red + blue),
            mosaic * blue + same_row * green_blue + same_column * green_red + diagonal * red,
        ],
        dim=1,
    )
