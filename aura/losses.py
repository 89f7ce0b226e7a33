"""The noise-aware composite loss on packed RAW.

total = 1.0 (L1 + 0.05 HLog) + 0.1 (1 - SSIM) + 0.1 LPIPS. HLog is steep where the error is large, so it
pushes hardest on clipped highlights and hot colours. LPIPS was trained on display images, so the RAW is
first shown as one: half-size RGB, white-balanced, in sRGB primaries, with the sRGB curve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from aura.bayer import half_size_rgb
from aura.color import apply_matrix, linear_to_srgb
from aura.errors import InvalidInputError
from aura.metrics import ssim
from aura.perceptual import Lpips

HLOG_EPSILON: Final = 1e-4
"""Keeps HLog finite where the difference is 1: at most -log(1e-4) = 9.2, with a slope of at most 10 000."""


@dataclass(frozen=True)
class LossWeights:
    """Weights of the terms; HLog's is within the first one: ``l1 * (L1 + hlog * HLog)``."""

    l1: float = 1.0
    hlog: float = 0.05
    ssim: float = 0.1
    lpips: float = 0.1


DEFAULT_WEIGHTS: Final = LossWeights()


@dataclass(frozen=True)
class LossTerms:
    """Scalars, float32. Only ``total`` is weighted; the others are the bare terms, ``ssim`` as 1 - SSIM.

    A term whose weight is 0 (or LPIPS without its network) is not computed and is 0.
    """

    total: Tensor
    l1: Tensor
    hlog: Tensor
    ssim: Tensor
    lpips: Tensor


def hlog(predicted: Tensor, target: Tensor, epsilon: float = HLOG_EPSILON) -> Tensor:
    """Mean of ``-log(1 - min(|x - y|, 1) + epsilon)``: about L1 when small, rising steeply towards 1.

    Args:
        predicted: any shape, float.
        target: same shape.
        epsilon: keeps the logarithm finite.

    Returns:
        Scalar, float32, at least ``-log(1 + epsilon)`` (equal inputs) and at most ``-log(epsilon)``.
    """
    difference = (predicted.float() - target.float()).abs().clamp_max(1.0)
    return -torch.log(1.0 - difference + epsilon).mean()


def composite_loss(
    predicted: Tensor,
    target: Tensor,
    *,
    wb_gains: Tensor,
    camera_to_srgb: Tensor,
    lpips: Lpips | None,
    weights: LossWeights = DEFAULT_WEIGHTS,
) -> LossTerms:
    """Compare packed RAW with the truth; differentiable, computed in float32 whatever the input and autocast.

    Args:
        predicted: ``(B, 4, h, w)`` normalised RAW in [0, 1], R, Gr, Gb, B; sides of at least 31 if LPIPS is
            used, else 11.
        target: same shape.
        wb_gains: ``(B, 3)``, the gains that make grey neutral, green 1.
        camera_to_srgb: ``(B, 3, 3)``, white-balanced camera RGB to canonical linear.
        lpips: the metric, or None to leave the term out.
        weights: of the terms.

    Raises:
        InvalidInputError: shapes differ or are not ``(B, 4, h, w)``.
    """
    if predicted.shape != target.shape or predicted.ndim != 4 or predicted.shape[1] != 4:
        raise InvalidInputError(
            f"RAW has shapes {tuple(predicted.shape)} and {tuple(target.shape)}; expected the same (B, 4, h, w)."
        )
    with torch.autocast(predicted.device.type, enabled=False):
        x, y = predicted.float(), target.float()
        zero = x.new_zeros(())
        l1 = (x - y).abs().mean()
        highlights = hlog(x, y) if weights.hlog else zero
        structure = 1.0 - ssim(x, y).mean() if weights.ssim else zero
        perceptual = zero
        if lpips is not None and weights.lpips:
            shown_x, shown_y = (_as_display(raw, wb_gains, camera_to_srgb) for raw in (x, y))
            perceptual = lpips(shown_x, shown_y).mean()
        total = weights.l1 * (l1 + weights.hlog * highlights) + weights.ssim * structure + weights.lpips * perceptual
    return LossTerms(total=total, l1=l1, hlog=highlights, ssim=structure, lpips=perceptual)


def _as_display(raw: Tensor, wb_gains: Tensor, camera_to_srgb: Tensor) -> Tensor:
    """Show packed RAW as sRGB at half size: ``(B, 4, h, w)`` -> ``(B, 3, h, w)`` in [0, 1]."""
    balanced = (half_size_rgb(raw) * wb_gains.float()[:, :, None, None]).clamp(0.0, 1.0)
    return linear_to_srgb(apply_matrix(balanced, camera_to_srgb.float()).clamp(0.0, 1.0))
