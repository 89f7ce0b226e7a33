"""Sampled one-dimensional curves: batched, differentiable lookup with linear interpolation."""

from __future__ import annotations

from torch import Tensor

from aura.errors import InvalidInputError


def apply_curve(position: Tensor, curve: Tensor) -> Tensor:
    """Evaluate a curve that is sampled uniformly on [0, 1].

    Args:
        position: ``(B, C, H, W)`` in [0, 1]; values outside take the curve's ends.
        curve: ``(B, 1, N)`` (one curve for all channels) or ``(B, C, N)``.

    Returns:
        ``(B, C, H, W)``, differentiable in both arguments.

    Raises:
        InvalidInputError: the batch sizes differ or the curve has fewer than two samples.
    """
    batch, channels, height, width = position.shape
    if curve.ndim != 3 or curve.shape[0] != batch or curve.shape[-1] < 2:
        raise InvalidInputError(
            f"Curve has shape {tuple(curve.shape)} for {batch} images; expected ({batch}, 1 or {channels}, N >= 2)."
        )
    last = curve.shape[-1] - 1
    scaled = position.clamp(0.0, 1.0) * last
    left = scaled.detach().floor().clamp_max(last - 1)
    fraction = (scaled - left).flatten(2)
    index = left.long().flatten(2)
    table = curve.expand(-1, channels, -1)
    low = table.gather(-1, index)
    high = table.gather(-1, index + 1)
    return (low + (high - low) * fraction).view(batch, channels, height, width)
