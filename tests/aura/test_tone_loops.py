"""The compiled fit of a tone curve: what the metric's definition says, which asks SciPy, for any pairs of codes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.metrics import fit_tone
from aura.tone_loops import matching_tables

CODES = np.arange(256) / 255


def counted(rendered: np.ndarray, source: np.ndarray) -> np.ndarray:
    pairs = [np.bincount(256 * one + other, minlength=65536) for one, other in zip(rendered, source, strict=True)]
    return np.stack(pairs).reshape(3, 256, 256).astype(np.int32)


def defined(joint: np.ndarray) -> np.ndarray:
    values = joint.sum(axis=2) * CODES
    bands = joint.reshape(3, 64, 4, 256).sum(axis=2), values.reshape(3, 64, 4).sum(axis=2)
    return np.stack([fit_tone(pairs, sums, 256) for pairs, sums in zip(*bands, strict=True)])


@settings(max_examples=60, deadline=None)
@given(
    pixels=st.one_of(st.integers(1, 200), st.integers(200, 60_000)),
    seed=st.integers(0, 2**31),
    gamma=st.floats(-1.0, 3.0),
    noise=st.sampled_from([0.0, 2.0, 60.0]),
    steps=st.sampled_from([1, 40, 130, 255]),
)
def test_it_is_what_the_metric_defines(pixels: int, seed: int, gamma: float, noise: float, steps: int) -> None:
    random = np.random.default_rng(seed)
    rendered = random.integers(0, 256, (3, pixels)) // steps * steps
    shaped = 255 * (np.maximum(rendered, 1) / 255) ** gamma + random.normal(0, noise, rendered.shape)
    joint = counted(rendered, shaped.round().clip(0, 255).astype(np.int64))
    found = matching_tables(joint)
    np.testing.assert_allclose(found, defined(joint), atol=1e-6)
    assert np.diff(found, axis=1).min() > -1e-6


@pytest.mark.parametrize("code", [0, 3, 128, 255])
def test_a_single_colour_is_taken_to_the_source(code: int) -> None:
    joint = counted(np.full((3, 900), code), np.full((3, 900), 77))
    np.testing.assert_allclose(matching_tables(joint), 77 / 255, rtol=1e-6)
