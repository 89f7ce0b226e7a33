"""What a whole photograph tells its tiles: a thumbnail, histograms, and the small network that reads them.

Everything global in AURA comes from here, so cost is linear in pixels and a tile knows what the whole image knows.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aura.errors import InvalidInputError

THUMBNAIL_SIZE: Final = 64
GRID_SIZE: Final = 8
_BINS: Final = 64
_JOINT_BINS: Final = 16
STATISTICS_SIZE: Final = 5 * _BINS + _JOINT_BINS * _JOINT_BINS
_MAX_STATISTICS_SIDE: Final = 1024


class Summary(NamedTuple):
    """What is measured on a whole photograph, without any weights.

    Attributes:
        thumbnail: ``(B, 3, 64, 64)``, sRGB in [0, 1], the whole image averaged (aspect not kept).
        statistics: ``(B, 576)``: square roots of the 64-bin histograms of R, G, B, luma and maximum, and of the 16x16
            joint histogram of maximum and spread.
    """

    thumbnail: Tensor
    statistics: Tensor


class Context(NamedTuple):
    """What the network knows of a whole photograph.

    Attributes:
        vector: ``(B, D)`` global features.
        tokens: ``(B, 64, T)`` features of an 8x8 grid over the photograph.
    """

    vector: Tensor
    tokens: Tensor


def summarise(image: Tensor) -> Summary:
    """Measure a photograph.

    Args:
        image: sRGB ``(B, 3, H, W)`` in [0, 1], the whole photograph. Sides over 1024 are sampled regularly for
            the histograms (never averaged: averaging would hide clipped pixels).

    Returns:
        A :class:`Summary`, float32.

    Raises:
        InvalidInputError: not three channels, or a side under 8 pixels.
    """
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < GRID_SIZE:
        raise InvalidInputError(
            f"Image has shape {tuple(image.shape)}; expected (B, 3, H, W), sides at least {GRID_SIZE}."
        )
    image = image.float()
    thumbnail = F.adaptive_avg_pool2d(image, (THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    rows = max(1, image.shape[-2] // _MAX_STATISTICS_SIDE)
    columns = max(1, image.shape[-1] // _MAX_STATISTICS_SIDE)
    sample = image[..., ::rows, ::columns]
    return Summary(thumbnail, _histograms(sample))


def _histograms(image: Tensor) -> Tensor:
    luma = (0.2627 * image[:, 0:1] + 0.6780 * image[:, 1:2] + 0.0593 * image[:, 2:3]).clamp(0.0, 1.0)
    maximum, minimum = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
    planes = torch.cat([image, luma, maximum], dim=1).flatten(2)
    single = _count((planes * (_BINS - 1)).round().long(), _BINS)
    joint_index = (maximum * (_JOINT_BINS - 1)).round().long() * _JOINT_BINS + (
        (maximum - minimum) * (_JOINT_BINS - 1)
    ).round().long()
    joint = _count(joint_index.flatten(2), _JOINT_BINS**2)
    return torch.cat([single.flatten(1), joint.flatten(1)], dim=1).sqrt()


def _count(index: Tensor, bins: int) -> Tensor:
    """Share of pixels in each bin: ``(B, C, P)`` int64 -> ``(B, C, bins)`` float32."""
    batch, channels, pixels = index.shape
    offset = torch.arange(batch * channels, device=index.device).view(batch, channels, 1) * bins
    counts = torch.bincount((index + offset).flatten(), minlength=batch * channels * bins)
    return counts.view(batch, channels, bins).float() / pixels


class ContextEncoder(nn.Module):
    """Read a :class:`Summary`: convolutions over the thumbnail, a two-layer perceptron over the histograms."""

    def __init__(self, vector_size: int = 64, token_size: int = 32) -> None:
        super().__init__()
        self.vector_size = vector_size
        self.token_size = token_size
        self.thumbnail = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 24, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(24, token_size, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(token_size, token_size, 3, padding=1),
            nn.ReLU(),
        )
        self.statistics = nn.Sequential(
            nn.Linear(STATISTICS_SIZE, 96), nn.ReLU(), nn.Linear(96, vector_size), nn.ReLU()
        )
        self.join = nn.Sequential(nn.Linear(token_size + vector_size, vector_size), nn.ReLU())

    def forward(self, summary: Summary) -> Context:
        """Encode a batch of summaries."""
        grid = self.thumbnail(summary.thumbnail - 0.5)
        pooled = grid.mean((2, 3))
        vector = self.join(torch.cat([pooled, self.statistics(summary.statistics)], dim=1))
        return Context(vector, grid.flatten(2).transpose(1, 2))
