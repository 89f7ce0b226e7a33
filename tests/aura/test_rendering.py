"""Stored RAW rendered on a CPU in one pass: what torch's definition says, at every size and pattern."""

import io
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aura import rendering
from aura.bayer import CFA_PATTERNS, CfaPattern
from aura.dng import write_dng
from aura.errors import InvalidInputError
from aura.rendering import FrameFacts, render_raw
from aura.sensor.noise_draws import digitise

MATRIX = ((1.7, -0.5, -0.2), (-0.2, 1.6, -0.4), (0.0, -0.5, 1.5))
BLACK = (512.0, 511.5, 513.0, 512.25)
WHITE = (15000.0, 14800.5, 15000.0, 16000.0)

GAINS = st.tuples(st.floats(0.5, 2.5), st.sampled_from([1.0, 0.9, 1.1]), st.floats(0.5, 3.0))


def noisy_raw(height: int, width: int, seed: int) -> torch.Tensor:
    """Smooth light with noise; some pixels saturated, some at zero, some beyond white."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    raw = 512 + 16000 * (0.5 + 0.5 * np.sin(x / 9 + seed) * np.cos(y / 7)) + random.normal(0, 60, (4, height, width))
    kind = random.random(raw.shape)
    raw = np.where(kind < 0.05, 0, np.where(kind < 0.1, 15000, np.where(kind < 0.12, 65535, raw)))
    return torch.from_numpy(raw.clip(0, 65535).astype(np.uint16))


def require_agreement(found: torch.Tensor, defined: torch.Tensor) -> None:
    apart = (found.int() - defined.int()).abs()
    assert int(apart.max()) <= 1
    assert int((apart > 0).sum()) <= 2 + 1e-4 * apart.numel()


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(2, 21),
    width=st.one_of(st.integers(2, 40), st.sampled_from([127, 128, 129, 130, 257])),
    pattern=st.sampled_from(CFA_PATTERNS),
    gains=GAINS,
    seed=st.integers(0, 2**31),
)
def test_it_is_what_torch_defines(
    height: int, width: int, pattern: CfaPattern, gains: tuple[float, float, float], seed: int
) -> None:
    raw = noisy_raw(height, width, seed)
    frame = FrameFacts(BLACK, WHITE, pattern, gains, MATRIX)
    found = render_raw(raw, frame)
    (defined,) = rendering._render_in_torch(raw.int()[None], [frame])
    require_agreement(found.codes, defined.codes)
    assert found.channel_mean == pytest.approx(defined.channel_mean, rel=1e-5, abs=1e-5)
    assert found.clipped_fraction == pytest.approx(defined.clipped_fraction, abs=1e-6)


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
@pytest.mark.parametrize("gains", [(2.0, 1.0, 1.5), (0.6, 1.0, 1.8)])
def test_black_is_black_and_saturation_is_white(pattern: CfaPattern, gains: tuple[float, float, float]) -> None:
    for level, code, clipped in ((512, 0, 0.0), (4095, 255, 1.0), (65535, 255, 1.0)):
        raw = torch.full((4, 9, 5), level, dtype=torch.int32)
        found = render_raw(raw, FrameFacts((512.0,) * 4, (4095.0,) * 4, pattern, gains, MATRIX))
        assert found.codes.dtype == torch.uint8
        assert bool((found.codes == code).all())
        assert found.clipped_fraction == clipped


def test_the_same_raw_is_rendered_the_same_whatever_holds_it() -> None:
    raw = noisy_raw(33, 140, 5)
    first = render_raw(raw, FrameFacts(BLACK, WHITE, "GRBG", (1.9, 1.0, 1.4), MATRIX))
    turned = raw.permute(0, 2, 1).contiguous().permute(0, 2, 1)
    for same in (raw, raw.to(torch.int32), raw.to(torch.int64), turned):
        again = render_raw(same, FrameFacts(BLACK, WHITE, "GRBG", (1.9, 1.0, 1.4), MATRIX))
        assert torch.equal(again.codes, first.codes)
        assert again.channel_mean == first.channel_mean


def test_frames_rendered_side_by_side_are_those_rendered_alone() -> None:
    frames = [noisy_raw(40, 150, seed) for seed in range(8)]

    def rendered(raw: torch.Tensor) -> torch.Tensor:
        return render_raw(raw, FrameFacts(BLACK, WHITE, "BGGR", (0.8, 1.0, 2.4), MATRIX)).codes

    alone = [rendered(raw) for raw in frames]
    with ThreadPoolExecutor(4) as threads:
        assert all(torch.equal(a, b) for a, b in zip(alone, threads.map(rendered, frames), strict=True))


@pytest.mark.parametrize("shape", [(4, 1, 8), (3, 8, 8), (1, 4, 8, 8)])
def test_it_names_what_it_refuses(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInputError, match="at least 2x2"):
        render_raw(torch.zeros(shape, dtype=torch.int32), FrameFacts(BLACK, WHITE, "RGGB", (2.0, 1.0, 1.5), MATRIX))


def test_it_refuses_a_white_level_that_is_not_above_black() -> None:
    level = (512.0,) * 4
    with pytest.raises(InvalidInputError, match="must be above"):
        render_raw(noisy_raw(4, 4, 0), FrameFacts(level, level, "RGGB", (2.0, 1.0, 1.5), MATRIX))


def test_numbers_that_are_none_reach_no_memory_beyond_the_table() -> None:
    nan = float("nan")
    for gains in ((nan, 1.0, 1.5), (0.5, nan, 1.5), (float("inf"), 1.0, 1.0)):
        assert render_raw(noisy_raw(4, 4, 0), FrameFacts(BLACK, WHITE, "RGGB", gains, MATRIX)).codes.shape == (3, 8, 8)


@pytest.mark.parametrize("white_dn", [4094.4, 4094.6, 4095.0])
def test_what_is_saturated_is_clipped_in_the_file_and_in_the_figures(white_dn):
    black, white = torch.full((4,), 256.0), torch.full((4,), white_dn)
    clean = torch.full((4, 8, 8), white_dn - 256.0)
    clean[0, 0, 0] = 100.0
    dn = digitise(clean, clean, black, white)
    frame = FrameFacts((256.0,) * 4, (white_dn,) * 4, "RGGB", (2.0, 1.0, 1.5), MATRIX)
    by_loops = render_raw(dn, frame)
    (by_tensors,) = rendering._render_in_torch(dn[None], [frame])
    assert by_loops.clipped_fraction == by_tensors.clipped_fraction == pytest.approx(255 / 256)
    sink = io.BytesIO()
    levels = {"black_level": 256.0, "white_level": white_dn, "color_matrix": np.eye(3), "as_shot_neutral": (1, 1, 1)}
    write_dng(sink, dn.numpy().astype(np.uint16), cfa_pattern="RGGB", camera_model="M1", **levels)
    with tifffile.TiffFile(io.BytesIO(sink.getvalue())) as file:
        assert file.pages.first.tags[50717].value == dn.max().item() == math.floor(white_dn)
