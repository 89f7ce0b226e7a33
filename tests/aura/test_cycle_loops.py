"""The compiled loops behind the metrics of every sample: what torch's definition says, at every size."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aura import cycle
from aura.color import LUMA_COEFFICIENTS
from aura.cycle_loops import count_pairs, squared_error, strided_ssim
from aura.metrics import ssim_window

LUMA = np.array(LUMA_COEFFICIENTS["bt709"], np.float32)


def images(height: int, width: int, seed: int, contrast: float) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    smooth = 128 + contrast * 127 * np.sin(x / 11 + np.arange(3)[:, None, None]) * np.cos(y / 8 + seed)
    noise = random.normal(0, 20 * contrast, (2, 3, height, width))
    source, rendered = (smooth + noise).round().clip(0, 255).astype(np.uint8)
    return source, rendered


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(11, 40),
    width=st.one_of(st.integers(11, 60), st.sampled_from([518, 519, 522, 523, 540])),
    seed=st.integers(0, 2**31),
    contrast=st.sampled_from([0.0, 0.3, 1.0, 9.0]),
)
def test_they_are_what_torch_defines(height: int, width: int, seed: int, contrast: float) -> None:
    source, rendered = images(height, width, seed, contrast)
    one, other = torch.from_numpy(source), torch.from_numpy(rendered)
    joint = count_pairs(rendered, source)
    np.testing.assert_array_equal(joint, cycle._count_pairs(other[None], one[None])[0])
    tables = np.sort(np.random.default_rng(seed).random((3, 256), np.float32))
    plain, matched = LUMA / np.float32(255), tables * LUMA[:, None]
    found = strided_ssim(source, rendered, plain, matched, ssim_window().numpy())
    (defined,) = cycle._ssims(one[None], other[None], torch.from_numpy(tables)[None])
    assert found == pytest.approx(defined, abs=4e-4)  # in a flat window all variance is rounding of float32
    errors = np.stack([table[codes] for table, codes in zip(tables, rendered, strict=True)]) - source / 255.0
    assert squared_error(joint, tables) == pytest.approx(float((errors**2).sum()), rel=1e-5)


def test_where_there_is_texture_they_agree_to_five_digits() -> None:
    source, rendered = images(203, 700, 1, 1.0)
    tables = np.broadcast_to(np.linspace(0, 1, 256, dtype=np.float32) ** 2, (3, 256)).copy()
    found = strided_ssim(source, rendered, LUMA / np.float32(255), tables * LUMA[:, None], ssim_window().numpy())
    (defined,) = cycle._ssims(*(torch.from_numpy(array)[None] for array in (source, rendered, tables)))
    assert found == pytest.approx(defined, abs=3e-6)


def test_a_second_time_gives_the_same_bits() -> None:
    source, rendered = images(67, 531, 3, 1.0)
    plain, matched = LUMA / np.float32(255), np.sqrt(np.linspace(0, 1, 256, dtype=np.float32)) * LUMA[:, None]
    first, second = (strided_ssim(source, rendered, plain, matched, ssim_window().numpy()) for _ in range(2))
    assert first == second


def test_every_fourth_window_counts_once() -> None:
    """A spot in the last rows and columns that a window reaches lowers SSIM; one beyond them does not."""
    source = np.full((3, 32, 32), 100, np.uint8)  # windows start at 0, 4 .. 20: they end before row 31
    for place, seen in ((30, True), (31, False)):
        rendered = source.copy()
        rendered[:, place, 15] = rendered[:, 15, place] = 255
        plain, matched = LUMA / np.float32(255), np.linspace(0, 1, 256, dtype=np.float32) * LUMA[:, None]
        found = strided_ssim(source, rendered, plain, matched, ssim_window().numpy())
        assert (found[0] < 0.999) == seen
        assert found[1] == pytest.approx(found[0], abs=1e-4)
