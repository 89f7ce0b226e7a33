"""Weights to canonical light: any size, tiles like the whole, and clear refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aura import reconstruct
from aura.color import srgb_to_linear
from aura.errors import InvalidInputError, MissingFileError, WeightsError
from aura.inversion import Window
from aura.nets.aura import Aura, AuraConfig
from aura.reconstruct import ON_CPU, RELEASED_WEIGHTS, Passes, Reconstructor
from aura.training.checkpoint import save_weights


def photograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth shapes and fine texture, as photographs have."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    base = 0.5 + 0.4 * np.sin(y / 37.0)[..., None] * np.cos(x[..., None] / np.array([23.0, 41.0, 59.0]))
    return ((base + rng.normal(0, 0.03, (height, width, 3))).clip(0, 1) * 255).astype(np.uint8)


@pytest.fixture(scope="module")
def aura() -> Reconstructor:
    return Reconstructor.load("aura", device="cpu")


def test_the_released_weights_ship_and_are_small() -> None:
    assert RELEASED_WEIGHTS.is_file()
    assert RELEASED_WEIGHTS.stat().st_size < 20_000_000


def test_tiles_equal_the_whole_image(aura: Reconstructor) -> None:
    image = photograph(608, 672)
    whole = aura.canonical(image)[0]
    tiled = replace(aura, passes=Passes(0, 192, 0)).canonical(image)[0]
    assert float((tiled - whole).abs().max()) < 1e-4


def test_windows_are_parts_of_the_whole(aura: Reconstructor) -> None:
    image = photograph(128, 176)
    whole = aura.canonical(image)[0]
    windows = [Window(0, 0, 64, 64), Window(30, 50, 98, 126)]
    for window, part in zip(windows, aura.canonical(image, windows), strict=True):
        top, left, height, width = window
        assert torch.equal(part, whole[:, top : top + height, left : left + width])


def test_a_window_of_a_large_photograph_does_not_depend_on_the_others(aura: Reconstructor) -> None:
    tiling = replace(aura, passes=replace(ON_CPU, whole_pixels=0))
    image = photograph(256, 256)
    window = Window(66, 34, 100, 120)
    alone = tiling.canonical(image, [window])[0]
    among = tiling.canonical(image, [Window(0, 0, 32, 32), window])[1]
    assert torch.equal(alone, among)


def test_tiles_of_a_plan_share_a_pass_and_are_what_each_is_alone(aura: Reconstructor, monkeypatch) -> None:
    aura = replace(aura, passes=Passes(0, 128, 0))
    monkeypatch.setattr("aura.inversion._TILE_PART", 64)
    image = photograph(200, 220)
    regular = [Window(top, left, 64, 64) for top in (0, 64, 128) for left in (0, 64)] + [Window(128, 128, 64, 90)]
    windows = [*regular, Window(2, 0, 64, 64), Window(64, 64, 128, 64)]
    groups = aura.begin(image).groups(windows)
    assert [group.members for group in groups] == [[0, 1, 2, 3], [4, 5], [6], [7], [8]]
    assert groups[0].around == Window(0, 0, 128, 128)
    assert groups[2].around == Window(128, 128, 72, 92)
    whole = aura.canonical(image)[0]
    for window, light in zip(windows, aura.canonical(image, windows), strict=True):
        assert torch.equal(light, aura.canonical(image, [window])[0])
        expected = whole[:, window.top : window.top + window.height, window.left : window.left + window.width]
        torch.testing.assert_close(light, expected, rtol=0, atol=1e-4)


@settings(max_examples=8, deadline=None)
@given(height=st.integers(16, 70), width=st.integers(16, 70), method=st.sampled_from(reconstruct.METHODS))
def test_any_size_is_taken(height: int, width: int, method: reconstruct.Method) -> None:
    canonical = Reconstructor.load(method, device="cpu").canonical(photograph(height, width))[0]
    assert canonical.shape == (3, height, width)
    assert canonical.dtype == torch.float32
    assert bool(torch.isfinite(canonical).all())


def test_the_global_map_alone_needs_no_surroundings(aura: Reconstructor) -> None:
    image = photograph(96, 112)
    inverse = Reconstructor.load("aura_global", device="cpu")
    whole = inverse.canonical(image)[0]
    window = Window(30, 50, 62, 58)
    assert torch.equal(inverse.canonical(image, [window])[0], whole[:, 30:92, 50:108])
    residual = (aura.canonical(image)[0] - whole).abs()
    assert 0 < float(residual.mean()) < 0.02  # the same map, and what the local network adds to it


def test_linearise_is_the_inverse_curve() -> None:
    image = photograph(32, 32)
    expected = srgb_to_linear(torch.from_numpy(image).permute(2, 0, 1) / 255.0)
    found = Reconstructor.load("linearise", device="cpu").canonical(image)[0]
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_digests_tell_methods_and_weights_apart(tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    save_weights(Aura(), other)
    digests = {
        Reconstructor.load("aura", device="cpu").digest,
        Reconstructor.load("aura", other, device="cpu").digest,
        Reconstructor.load("aura_global", device="cpu").digest,
        Reconstructor.load("upi", device="cpu").digest,
        Reconstructor.load("linearise", device="cpu").digest,
    }
    assert len(digests) == 5


@pytest.mark.parametrize(
    ("window", "message"),
    [(Window(1, 0, 16, 16), "even"), (Window(0, 0, 34, 16), "outside"), (Window(-2, 0, 16, 16), "outside")],
)
def test_wrong_windows_are_refused(window: Window, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Reconstructor.load("upi", device="cpu").canonical(photograph(32, 32), [window])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((8, 32, 3), np.uint8),
    ],
)
def test_wrong_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(InvalidInputError):
        Reconstructor.load("upi", device="cpu").canonical(image)


def test_a_gpu_that_is_not_there_is_named() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(InvalidInputError, match="finds no GPU"):
        Reconstructor.load("upi", device="cuda")
    with pytest.raises(InvalidInputError, match="expected auto, cpu"):
        Reconstructor.load("upi", device="tpu-or-so")


def test_missing_and_foreign_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"nowhere\.safetensors"):
        Reconstructor.load("aura", tmp_path / "nowhere.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    foreign.write_bytes(b"not a safetensors file at all")
    with pytest.raises(WeightsError, match="does not hold AURA weights"):
        Reconstructor.load("aura", foreign)
    with pytest.raises(InvalidInputError, match="has no weights"):
        Reconstructor.load("upi", foreign)
    save_weights(Aura(AuraConfig(head="packed")), tmp_path / "packed.safetensors")
    with pytest.raises(WeightsError, match="packed head"):
        Reconstructor.load("aura", tmp_path / "packed.safetensors", device="cpu")


@pytest.mark.parametrize("method", reconstruct.METHODS)
def test_photographs_of_one_shape_may_share_a_pass(method: reconstruct.Method) -> None:
    inverse = Reconstructor.load(method, device="cpu")
    images = [photograph(70, 90, seed) for seed in range(3)]
    window = Window(2, 4, 60, 80)
    for alone, among in zip(map(inverse.begin, images), inverse.begin_batch(images), strict=True):
        lights = [each.lights(*each.groups([window]))[0] for each in (alone, among)]
        torch.testing.assert_close(*lights, rtol=1e-4, atol=1e-5)
    with pytest.raises(InvalidInputError, match="expected one"):
        inverse.begin_batch([images[0], photograph(70, 92)])
