"""The global inverse of a photograph: smooth log-gain curves and a colour matrix, predicted from its context.

A photograph's ISP is mostly one map from colour to colour. Predicting that map with few numbers keeps the prior in the
structure: the network can recognise a tone curve, but has no freedom to repaint.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from aura.color import apply_matrix, srgb_to_linear
from aura.curves import apply_curve

_BASIS: Final = 8
_SAMPLES: Final = 256
_CURVES: Final = 6  # R, G, B over their own value; luma; maximum; one that all three channels share
_MINOR: Final = 0.3
"""Scale of all curves but the shared one: most ISPs differ in one curve, so that one shall be learned first."""
_MATRIX_REACH: Final = 0.3
_MAX_LOG_GAIN: Final = 4.0
LUMA_OF_CODES: Final = (17216, 44434, 3886)
"""BT.2100's luma coefficients in units of 2^-16; they sum to 1."""


class GlobalInverse(NamedTuple):
    """One global map per photograph.

    Attributes:
        own: ``(B, 3, 256)`` log-gain over each channel's own display value, sampled uniformly on [0, 1].
        luma: ``(B, 1, 256)`` log-gain over luma (BT.2100 weights on display values).
        maximum: ``(B, 1, 256)`` log-gain over max(R, G, B).
        matrix: ``(B, 3, 3)``, applied after the curves.
    """

    own: Tensor
    luma: Tensor
    maximum: Tensor
    matrix: Tensor


class GlobalMapHead(nn.Module):
    """Predict a :class:`GlobalInverse` from the context vector; starts as the inverse sRGB curve."""

    basis: Tensor

    def __init__(self, vector_size: int) -> None:
        super().__init__()
        self.predict = nn.Linear(vector_size, _CURVES * _BASIS + 9)
        nn.init.zeros_(self.predict.weight)
        nn.init.zeros_(self.predict.bias)
        axis = torch.linspace(0.0, 1.0, _SAMPLES)
        cosines = torch.stack([torch.cos(math.pi * order * axis) for order in range(_BASIS)])
        self.register_buffer("basis", cosines, persistent=False)

    def forward(self, vector: Tensor) -> GlobalInverse:
        """Map ``(B, D)`` to curves and matrices."""
        numbers = self.predict(vector)
        curves = numbers[:, : _CURVES * _BASIS].view(-1, _CURVES, _BASIS) @ self.basis
        # bounded softly, so that a photograph unlike any seen cannot explode
        own, luma, maximum = (
            _MAX_LOG_GAIN * torch.tanh(curve / _MAX_LOG_GAIN)
            for curve in (_MINOR * curves[:, 0:3] + curves[:, 5:6], _MINOR * curves[:, 3:4], _MINOR * curves[:, 4:5])
        )
        nudge = _MATRIX_REACH * torch.tanh(0.5 * numbers[:, _CURVES * _BASIS :].view(-1, 3, 3))
        return GlobalInverse(own, luma, maximum, torch.eye(3, device=numbers.device) + nudge)


def mean_inverse(inverses: Sequence[GlobalInverse]) -> GlobalInverse:
    """Average the log-gains and the matrices of several maps of the same photographs."""
    own, luma, maximum, matrix = (torch.stack(parts).mean(0) for parts in zip(*inverses, strict=True))
    return GlobalInverse(own, luma, maximum, matrix)


def apply_global_inverse(image: Tensor, inverse: GlobalInverse) -> Tensor:
    """Take a photograph to canonical linear by its global map; differentiable.

    Args:
        image: sRGB ``(B, 3, H, W)`` in [0, 1]; any part of the photograph, the map is per pixel.
        inverse: one map per image.

    Returns:
        Canonical linear ``(B, 3, H, W)``, not clipped.
    """
    luma = 0.2627 * image[:, 0:1] + 0.6780 * image[:, 1:2] + 0.0593 * image[:, 2:3]
    log_gain = (
        apply_curve(image, inverse.own)
        + apply_curve(luma, inverse.luma)
        + apply_curve(image.amax(1, keepdim=True), inverse.maximum)
    )
    return apply_matrix(srgb_to_linear(image) * torch.exp(log_gain), inverse.matrix)


class CodeMap(NamedTuple):
    """One photograph's map, as tables over 8-bit codes.

    Attributes:
        own: ``(3, 256)`` light of each channel's codes.
        luma: ``(65281,)`` gain over luma in 256ths of a code.
        maximum: ``(256,)`` gain over the largest code.
        matrix: ``(3, 3)``, applied after these.
    """

    own: Tensor
    luma: Tensor
    maximum: Tensor
    matrix: Tensor


def code_maps(inverse: GlobalInverse) -> list[CodeMap]:
    """Tabulate the map of each photograph.

    A curve has a sample for each code, so only luma lies between samples; it is taken to the nearest of 256 steps
    between two, which moves light by less than a thousandth.
    """
    axis = torch.arange(_SAMPLES, dtype=torch.float32, device=inverse.own.device) / (_SAMPLES - 1)
    linear = srgb_to_linear(axis)
    return [
        CodeMap(linear * torch.exp(own), torch.exp(_refined(luma[0])), torch.exp(maximum[0]), matrix)
        for own, luma, maximum, matrix in zip(*inverse, strict=True)
    ]


def map_codes(codes: Tensor, code_map: CodeMap) -> Tensor:
    """Do what :func:`apply_global_inverse` does to a photograph of 8 bits, by tables and several times faster.

    Args:
        codes: sRGB ``(3, H, W)`` uint8, the photograph or a part of it.
        code_map: of the photograph.

    Returns:
        Canonical linear ``(3, H, W)`` float32, not clipped.
    """
    channels = codes.to(torch.int32).flatten(1)
    red, green, blue = channels
    gain = code_map.luma.index_select(
        0, (LUMA_OF_CODES[0] * red + LUMA_OF_CODES[1] * green + LUMA_OF_CODES[2] * blue) >> 8
    )
    gain *= code_map.maximum.index_select(0, channels.amax(0))
    linear = torch.stack([table.index_select(0, code) for table, code in zip(code_map.own, channels, strict=True)])
    return (code_map.matrix @ linear.mul_(gain)).view(codes.shape)


def _refined(curve: Tensor) -> Tensor:
    """Insert 255 values between each two samples of a curve, linearly: ``(256,)`` -> ``(65281,)``."""
    share = torch.arange(256, dtype=curve.dtype, device=curve.device) / 256.0
    between = curve[:-1, None] + (curve[1:] - curve[:-1])[:, None] * share
    return torch.cat([between.flatten(), curve[-1:]])
