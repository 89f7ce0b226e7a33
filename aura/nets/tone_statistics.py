"""Statistics of a photograph that betray its tone curve, without any weights.

Histograms say which display values occur. Gradients say more: contrasts of natural scenes are about the same in dark
and in bright places when measured in ratios of light, so the mean gradient at each display value traces the slope of
the tone curve over log light. Seen closely, the deviation of small neighbourhoods at each display value does the same
for sensor noise, whose variance is linear in light.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aura.color import LUMA_COEFFICIENTS
from aura.nets.statistics_loops import count_clipped, count_deviations

_BINS: Final = 64
_JOINT_BINS: Final = 16
_GRADIENT_BINS: Final = 16
_GRADIENT_SCALES: Final = (1, 2, 4)
_LEAST_PAIRS: Final = 8
"""Fewer pairs of pixels in a bin say nothing about its gradient."""
_DEVIATION_BINS: Final = 12
_CODE: Final = 1.0 / 255.0
_STRIP_ROWS: Final = 64

DISTANT_SIZE: Final = 5 * _BINS + _JOINT_BINS**2 + len(_GRADIENT_SCALES) * 4 * (2 * _GRADIENT_BINS + 1)
CLOSE_SIZE: Final = 8 + 4 * _GRADIENT_BINS * (_DEVIATION_BINS + 3)
STATISTICS_SIZE: Final = DISTANT_SIZE + CLOSE_SIZE


def distant_statistics(thumbnail: Tensor) -> Tensor:
    """Measure a photograph seen from afar, where noise and sharpening vanish.

    Args:
        thumbnail: sRGB ``(B, 3, h, w)`` in [0, 1], sides of at least 8.

    Returns:
        ``(B, 972)``: square roots of the 64-bin histograms of R, G, B, luma and maximum and of the 16x16 joint
        histogram of maximum and spread; then for three scales and R, G, B, luma the logarithms of the mean gradient and
        the mean logarithm of the gradient in 16 bins of display value, relative to the whole, and the whole.
    """
    luma, maximum = _luma(thumbnail), thumbnail.amax(1, keepdim=True)
    planes = torch.cat([thumbnail, luma, maximum], dim=1).flatten(2)
    spread = maximum - thumbnail.amin(1, keepdim=True)
    cell = (maximum * (_JOINT_BINS - 1)).round() * _JOINT_BINS + (spread * (_JOINT_BINS - 1)).round()
    joint = _accumulate(cell.flatten(2), torch.ones_like(cell).flatten(2), _JOINT_BINS**2) / cell[0].numel()
    parts = [_soft_histogram(planes, _BINS).sqrt().flatten(1), joint.sqrt().flatten(1)]
    signals = torch.cat([thumbnail, luma], dim=1)
    for scale in _GRADIENT_SCALES:
        parts += _gradients_by_value(F.avg_pool2d(signals, scale))
    return torch.cat(parts, dim=1)


def close_statistics(close_up: Tensor) -> Tensor:
    """Measure pixels at their native resolution.

    Args:
        close_up: sRGB ``(B, 3, h, w)`` in [0, 1], any part of the photograph, not resized.

    Returns:
        ``(B, 968)``: square roots of the shares of pixels at 255 and at 0 (R, G, B), at 255 in any and in all channels;
        then for R, G, B, luma the distribution of the logarithm of the 3x3 standard deviation in 16 bins of display
        value (12 bins each), its mean, its lower end, and the share of pixels in the bin.
    """
    strips = list(_strips(close_up))
    shares = torch.stack([_clipped(strip[..., 1:-1, :]) for strip in strips]).sum(0)
    edges = _clipped(close_up[..., :1, :]) + _clipped(close_up[..., -1:, :])
    shares = (shares + edges) / close_up[0, 0].numel()
    counts = torch.stack([_deviations_by_level(strip) for strip in strips]).sum(0)
    return _describe(shares, counts, (close_up.shape[-2] - 2) * (close_up.shape[-1] - 2))


def close_statistics_of_codes(close_up: Tensor) -> Tensor:
    """Do what :func:`close_statistics` does to codes on a CPU: ``(h, w, 3)`` uint8, contiguous -> ``(1, 968)``."""
    height, width, _ = close_up.shape
    clipped, counts = np.zeros(8, np.int64), np.zeros((4, _GRADIENT_BINS, _DEVIATION_BINS))
    count_clipped(close_up.numpy(), clipped)
    count_deviations(close_up.numpy(), np.array(LUMA_COEFFICIENTS["bt2100"], np.float32), counts)
    shares = torch.from_numpy(clipped)[None].float() / (height * width)
    return _describe(shares, torch.from_numpy(counts)[None].float(), (height - 2) * (width - 2))


def _describe(shares: Tensor, counts: Tensor, neighbourhoods: int) -> Tensor:
    """Shares of clipped pixels ``(B, 8)`` and counts by level and deviation ``(B, 4, 16, 12)`` -> ``(B, 968)``."""
    total = counts.sum(3, keepdim=True)
    given_level = counts / (total + 1.0)
    mean_bin = given_level @ torch.arange(float(_DEVIATION_BINS), device=counts.device)
    lower_end = (given_level.cumsum(3) < 0.2).float().sum(3)
    presence = (total[..., 0] / neighbourhoods).sqrt()
    return torch.cat(
        [
            shares.sqrt(),
            given_level.sqrt().flatten(1),
            0.3 * mean_bin.flatten(1),
            0.3 * lower_end.flatten(1),
            presence.flatten(1),
        ],
        dim=1,
    )


def _strips(image: Tensor) -> Iterator[Tensor]:
    """Cut ``(B, C, h, w)`` into rows that overlap by two; a CPU then works in its cache, a GPU takes all at once."""
    height = image.shape[-2]
    rows = _STRIP_ROWS if image.device.type == "cpu" else height
    for top in range(0, height - 2, rows):
        yield image[..., top : min(top + rows + 2, height), :].contiguous()


def _clipped(part: Tensor) -> Tensor:
    """Count pixels at 255 and at 0 (R, G, B), at 255 in any and in all channels: ``(B, 3, h, w)`` -> ``(B, 8)``."""
    white, black = (part > 1.0 - 0.5 * _CODE).float(), (part < 0.5 * _CODE).float()
    channels = white.sum(1)
    some, every = (channels > 0.5).float().sum((1, 2)), (channels > 2.5).float().sum((1, 2))
    return torch.cat([white.sum((2, 3)), black.sum((2, 3)), some[:, None], every[:, None]], dim=1)


def _deviations_by_level(close_up: Tensor) -> Tensor:
    """Count 3x3 neighbourhoods by level and deviation: ``(B, 3, h, w)`` -> ``(B, 4, 16, 12)``."""
    signals = torch.cat([close_up, _luma(close_up)], dim=1)
    mean = _mean_3x3(signals)
    variance = _mean_3x3(signals.square()).sub_(mean.square()).clamp_min_(0.0)
    level = mean.mul_(_GRADIENT_BINS - 1).round_().clamp_(0, _GRADIENT_BINS - 1)
    # a quarter of a code to 64 codes, logarithmically
    position = torch.log2(variance.sqrt_().div_(_CODE).add_(0.25)).add_(2.0).mul_((_DEVIATION_BINS - 1) / 8.0)
    position = position.clamp_(0.0, _DEVIATION_BINS - 1.001)
    lower = position.floor()
    cell = level.mul_(_DEVIATION_BINS).add_(lower).long().flatten(2)
    above = position.sub_(lower).flatten(2)
    cells = _GRADIENT_BINS * _DEVIATION_BINS
    upper = _accumulate(cell, above, cells).view(*cell.shape[:2], _GRADIENT_BINS, _DEVIATION_BINS)
    counts = _accumulate(cell, above.neg_().add_(1.0), cells).view_as(upper)
    # the last of a level's bins is never a lower one, so nothing crosses into the next level
    counts[..., 1:] += upper[..., :-1]
    return counts


def _mean_3x3(planes: Tensor) -> Tensor:
    """Mean of every full neighbourhood; sums of slices are several times faster than pooling."""
    rows = planes[..., :-2, :] + planes[..., 1:-1, :] + planes[..., 2:, :]
    return (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).div_(9.0)


def _luma(image: Tensor) -> Tensor:
    red, green, blue = LUMA_COEFFICIENTS["bt2100"]
    return red * image[:, 0:1] + green * image[:, 1:2] + blue * image[:, 2:3]


def _gradients_by_value(signals: Tensor) -> list[Tensor]:
    """Two curves and a level per signal: ``(B, C, h, w)`` -> ``(B, 16 C)``, ``(B, 16 C)``, ``(B, C)``."""
    right, left, below, above = signals[..., 1:], signals[..., :-1], signals[..., 1:, :], signals[..., :-1, :]
    value = torch.cat([(0.5 * (right + left)).flatten(2), (0.5 * (below + above)).flatten(2)], dim=2)
    step = torch.cat([(right - left).abs().flatten(2), (below - above).abs().flatten(2)], dim=2)
    log_step = torch.log(step + 2.0 * _CODE)
    count, total, log_total = (
        _soft_sum(value, weight, _GRADIENT_BINS) for weight in (torch.ones_like(step), step, log_step)
    )
    known = (count > _LEAST_PAIRS).float()
    level = torch.log(step.mean(2, keepdim=True) + 1e-3)
    mean = torch.log(total / (count + 1e-6) + 1e-3) - level
    log_mean = log_total / (count + 1e-6) - log_step.mean(2, keepdim=True)
    return [0.5 * (known * mean).flatten(1), 0.5 * (known * log_mean).flatten(1), 0.3 * level.flatten(1)]


def _soft_histogram(values: Tensor, bins: int) -> Tensor:
    """Share of values at ``bins`` positions on [0, 1], split between neighbours: ``(B, C, P)`` -> ``(B, C, bins)``."""
    return _soft_sum(values, torch.ones_like(values), bins) / values.shape[2]


def _soft_sum(values: Tensor, weights: Tensor, bins: int) -> Tensor:
    position = values.clamp(0.0, 1.0) * (bins - 1)
    lower = position.floor().clamp_max(bins - 2)
    upper_share = position - lower
    return _accumulate(lower, (1.0 - upper_share) * weights, bins) + _accumulate(lower + 1, upper_share * weights, bins)


def _accumulate(cell: Tensor, weights: Tensor, cells: int) -> Tensor:
    """Sum ``weights`` by integer ``cell``: ``(B, C, P)`` -> ``(B, C, cells)``; on the CPU in one fixed order."""
    out = weights.new_zeros(*weights.shape[:2], cells)
    return out.scatter_add_(2, cell.long(), weights)
