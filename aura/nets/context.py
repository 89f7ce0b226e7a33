"""What a whole photograph tells its tiles: a thumbnail, statistics, and the small network that reads them.

Everything global in AURA comes from here, so cost is linear in pixels and a tile knows what the whole image knows.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aura.compiled import loops_take
from aura.errors import InvalidInputError
from aura.nets.statistics_loops import average_codes
from aura.nets.tone_statistics import (
    STATISTICS_SIZE,
    close_statistics,
    close_statistics_of_codes,
    distant_statistics,
)

THUMBNAIL_SIZE: Final = 48
SMALLEST_SIDE: Final = 8
_PATCH: Final = 128
_PATCHES_A_SIDE: Final = 8
_MAX_STANDARD_SCORE: Final = 5.0


class Summary(NamedTuple):
    """What is measured on a whole photograph, without any weights.

    Attributes:
        thumbnail: ``(B, 3, 48, 48)``, sRGB in [0, 1], the whole image averaged (aspect not kept).
        statistics: ``(B, 1940)``, of the thumbnail and of pixels seen closely; see :mod:`aura.nets.tone_statistics`.
    """

    thumbnail: Tensor
    statistics: Tensor


class Context(NamedTuple):
    """What the network knows of a whole photograph.

    Attributes:
        vector: ``(B, D)`` global features, which the local network reads.
        tokens: ``(B, 36, T)`` features of a 6x6 grid over the photograph, likewise.
        opinions: ``(M, B, D)`` global features as each member of the committee sees them; the first is ``vector``.
    """

    vector: Tensor
    tokens: Tensor
    opinions: Tensor

    def of(self, row: int) -> Context:
        """What is known of one photograph of the batch; it stays a batch of one."""
        rows = slice(row, row + 1)
        return Context(self.vector[rows], self.tokens[rows], self.opinions[:, rows])


def summarise(image: Tensor, close_up: Tensor | None = None) -> Summary:
    """Measure a photograph.

    Args:
        image: sRGB ``(B, 3, H, W)`` in [0, 1], the whole photograph.
        close_up: pixels at native resolution, ``(B, 3, h, w)``; if left out, those of ``image``: all of them, or of a
            photograph over a megapixel an 8x8 grid of 128x128 patches.

    Returns:
        A :class:`Summary`, float32.

    Raises:
        InvalidInputError: not three channels, or a side under 8 pixels.
    """
    if image.ndim != 4 or image.shape[1] != 3 or min(image.shape[-2:]) < SMALLEST_SIDE:
        raise InvalidInputError(
            f"Image has shape {tuple(image.shape)}; expected (B, 3, H, W), sides at least {SMALLEST_SIDE}."
        )
    image = image.float()
    thumbnail = F.adaptive_avg_pool2d(image, (THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    near = _patches(image) if close_up is None else close_up.float()
    return Summary(thumbnail, torch.cat([distant_statistics(thumbnail), close_statistics(near)], dim=1))


def summarise_codes(codes: Tensor) -> Summary:
    """Do what :func:`summarise` does to photographs of 8 bits; on a CPU several times faster.

    Args:
        codes: sRGB ``(B, 3, H, W)`` uint8, sides of at least 8.
    """
    if not loops_take(codes):
        return summarise(codes / 255.0)
    parts = [_summarise_one(image) for image in codes.permute(0, 2, 3, 1).contiguous()]
    return Summary(*(torch.cat(part) for part in zip(*parts, strict=True)))


def _summarise_one(codes: Tensor) -> Summary:
    """``(H, W, 3)`` uint8 on a CPU."""
    sums = np.empty((3, THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.int64)
    counts = np.empty((THUMBNAIL_SIZE, THUMBNAIL_SIZE), np.int64)
    average_codes(codes.numpy(), sums, counts)
    thumbnail = torch.from_numpy((sums / (255.0 * counts)).astype(np.float32))[None]
    near = _patches_of_codes(codes)
    return Summary(thumbnail, torch.cat([distant_statistics(thumbnail), close_statistics_of_codes(near)], dim=1))


def _patches(image: Tensor) -> Tensor:
    """A megapixel of native pixels, evenly spread; averaging would hide noise and clipped pixels."""
    height, width = image.shape[-2:]
    if height * width <= (_PATCH * _PATCHES_A_SIDE) ** 2:
        return image
    rows, columns = (_evenly_spread(side, image.device) for side in (height, width))
    return image[..., rows[:, None], columns[None, :]]


def _patches_of_codes(codes: Tensor) -> Tensor:
    """As :func:`_patches`, of ``(H, W, 3)``."""
    height, width, _ = codes.shape
    if height * width <= (_PATCH * _PATCHES_A_SIDE) ** 2:
        return codes
    rows, columns = (_evenly_spread(side, codes.device) for side in (height, width))
    return codes[rows].index_select(1, columns)


def _evenly_spread(side: int, device: torch.device) -> Tensor:
    """Indices of up to eight runs of 128 along a side."""
    if side <= _PATCH * _PATCHES_A_SIDE:
        return torch.arange(side, device=device)
    starts = torch.linspace(0, side - _PATCH, _PATCHES_A_SIDE).long().to(device)
    return (starts[:, None] + torch.arange(_PATCH, device=device)).flatten()


class ContextEncoder(nn.Module):
    """Read a :class:`Summary`: convolutions over the thumbnail, a perceptron over the standardised statistics."""

    statistics_mean: Tensor
    statistics_deviation: Tensor

    def __init__(self, vector_size: int = 96, token_size: int = 48, hidden_size: int = 72) -> None:
        super().__init__()
        self.vector_size = vector_size
        self.token_size = token_size
        self.thumbnail = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, token_size, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(token_size, token_size, 3, padding=1),
            nn.ReLU(),
        )
        self.statistics = nn.Sequential(
            nn.Linear(STATISTICS_SIZE, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 96), nn.ReLU()
        )
        self.join = nn.Sequential(
            nn.Linear(96 + 2 * token_size, 128), nn.ReLU(), nn.Linear(128, vector_size), nn.ReLU()
        )
        self.register_buffer("statistics_mean", torch.zeros(STATISTICS_SIZE))
        self.register_buffer("statistics_deviation", torch.ones(STATISTICS_SIZE))

    def standardise_by(self, statistics: Tensor) -> None:
        """Take mean and deviation of ``(N, 1940)`` statistics as the scale of all that follow."""
        self.statistics_mean.copy_(statistics.mean(0))
        self.statistics_deviation.copy_(statistics.std(0) + 1e-2)

    def forward(self, summary: Summary) -> tuple[Tensor, Tensor]:
        """Encode a batch of summaries: vector ``(B, D)`` and tokens ``(B, 36, T)``."""
        grid = self.thumbnail(summary.thumbnail - 0.5)
        scores = (summary.statistics - self.statistics_mean) / self.statistics_deviation
        read = self.statistics(scores.clamp(-_MAX_STANDARD_SCORE, _MAX_STANDARD_SCORE))
        vector = self.join(torch.cat([read, grid.mean((2, 3)), grid.amax((2, 3))], dim=1))
        return vector, grid.flatten(2).transpose(1, 2)
