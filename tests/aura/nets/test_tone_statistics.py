"""Statistics of tone: what they count, what leaves them alone, and what moves them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aura.color import srgb_to_linear
from aura.nets.context import STATISTICS_SIZE, summarise, summarise_codes
from aura.nets.tone_statistics import CLOSE_SIZE, DISTANT_SIZE, close_statistics, distant_statistics

DEVIATIONS = slice(8, 8 + 4 * 16 * 12)
MEAN_DEVIATION_BIN = slice(8 + 4 * 16 * 12, 8 + 4 * 16 * 13)


def photograph(size: int = 48, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_every_pixel_is_counted_once_in_each_histogram() -> None:
    shares = distant_statistics(photograph())[:, : 5 * 64 + 256].square()
    torch.testing.assert_close(shares.sum(1), torch.full((2,), 6.0))  # R, G, B, luma, maximum, and one joint


def test_mirroring_changes_nothing() -> None:
    image = photograph()
    torch.testing.assert_close(distant_statistics(image), distant_statistics(image.flip(-1)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(close_statistics(image), close_statistics(image.flip(-2)), atol=1e-4, rtol=1e-4)


def test_a_tone_curve_moves_the_gradients_of_the_same_scene() -> None:
    image = photograph()
    gradients = slice(5 * 64 + 256, None)
    moved = distant_statistics(srgb_to_linear(image))[:, gradients] - distant_statistics(image)[:, gradients]
    assert float(moved.abs().mean()) > 0.05


def test_clipped_pixels_are_found_at_full_resolution() -> None:
    image = torch.full((1, 3, 64, 64), 0.5)
    image[:, 0, :16] = 1.0
    image[:, 1:, :32] = 0.0
    shares = close_statistics(image)[0, :8].square()
    torch.testing.assert_close(shares, torch.tensor([0.25, 0, 0, 0, 0.5, 0.5, 0.25, 0]))


@pytest.mark.parametrize(("quiet", "noisy"), [(0.0, 0.01), (0.01, 0.05)])
def test_noise_is_seen_where_it_is(quiet: float, noisy: float) -> None:
    flat = torch.full((1, 3, 64, 64), 0.4)
    grain = torch.randn(flat.shape, generator=torch.Generator().manual_seed(1))
    low, high = (close_statistics(flat + sigma * grain)[0, MEAN_DEVIATION_BIN].view(4, 16) for sigma in (quiet, noisy))
    assert bool((high[:, 6] > low[:, 6]).all())
    assert float(low[:, 12].abs().max()) == 0.0  # no pixel is that bright


def test_a_summary_has_one_size_for_any_photograph() -> None:
    small, large = summarise(photograph(16)), summarise(torch.rand(1, 3, 700, 1600))
    assert small.statistics.shape == (2, STATISTICS_SIZE)
    assert large.statistics.shape == (1, STATISTICS_SIZE)
    assert STATISTICS_SIZE == DISTANT_SIZE + CLOSE_SIZE
    assert small.thumbnail.shape[-2:] == large.thumbnail.shape[-2:] == (48, 48)


def test_a_close_up_replaces_only_what_is_seen_closely() -> None:
    image, close_up = photograph(96), photograph(64, seed=3)
    alone, both = summarise(image).statistics, summarise(image, close_up).statistics
    assert torch.equal(alone[:, :DISTANT_SIZE], both[:, :DISTANT_SIZE])
    assert torch.equal(both[:, DISTANT_SIZE:], close_statistics(close_up))


@pytest.mark.parametrize("size", [(8, 8), (9, 50), (61, 200), (1100, 1300)])
def test_codes_are_summarised_like_values(size):
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    smooth = 130 + 140 * np.sin(y / 17.0)[..., None] * np.cos(x[..., None] / np.array([11.0, 23.0, 31.0]))
    grain = rng.normal(0, 2, (*size, 3)) * (x[..., None] > size[1] // 2)
    codes = torch.from_numpy((smooth + grain).clip(0, 255).astype(np.uint8)).permute(2, 0, 1)[None].repeat(2, 1, 1, 1)
    codes[1] = codes[1].flip(-1)
    expected, found = summarise(codes / 255.0), summarise_codes(codes)
    torch.testing.assert_close(found.thumbnail, expected.thumbnail, rtol=0, atol=1e-4)
    apart = (found.statistics - expected.statistics).abs()
    assert apart.max() < 0.05  # what lies on the edge of two bins may fall into the other
    assert apart.mean() < 2e-4
