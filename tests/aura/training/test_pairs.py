"""Simulated training pairs: the RAW is what the pair's camera would have recorded of the scene."""

import numpy as np
import pytest
import torch

from aura.sensor.simulate import camera_to_canonical
from aura.training import pairs
from aura.training.pairs import draw_pairs
from aura.training.scenes import Scene


def test_grey_light_is_grey_after_the_gains_and_the_matrix_of_its_own_camera() -> None:
    scene = Scene("grey", "srgb", torch.full((3, 64, 64), 0.2).half())
    for seed in range(4):
        pair = draw_pairs([scene], 3, 96, (seed,))
        camera = torch.stack([pair.raw[:, 0], pair.raw[:, 1:3].mean(1), pair.raw[:, 3]], dim=1)
        light = camera_to_canonical(camera, pair.camera_to_srgb, pair.wb_gains)
        np.testing.assert_allclose(light, light.mean(1, keepdim=True).expand_as(light), rtol=1e-4)
        assert 0.04 < float(light.min()) <= float(light.max()) < 0.6  # exposure is drawn, colour is not


def test_cameras_of_warm_light_have_less_red_and_more_blue_gain() -> None:
    scene = Scene("grey", "srgb", torch.full((3, 64, 64), 0.2).half())
    gains = torch.cat([draw_pairs([scene], 8, 96, (seed,)).wb_gains for seed in range(8)])
    assert (gains[:, 1] == 1.0).all()
    assert float(gains.min()) >= 1.0
    assert float(gains.max()) <= 4.0
    red, blue = gains[:, 0].log(), gains[:, 2].log()
    assert float(torch.corrcoef(torch.stack([red, blue]))[0, 1]) < -0.5


def test_the_noise_that_the_isp_sees_grows_with_the_light_and_is_not_in_the_truth() -> None:
    raw = torch.full((64, 4, 64, 64), 1e-4)
    raw[..., 32:] = 0.8
    noise = pairs._add_noise(raw, np.random.default_rng(0)) - raw
    dark, bright = noise[..., :32].var(dim=(1, 2, 3)), noise[..., 32:].var(dim=(1, 2, 3))
    assert (bright > 2 * dark).all()  # read noise is at most a fifth of saturation's photon noise
    assert float(noise.mean()) == pytest.approx(0.0, abs=1e-4)
    flat = Scene("grey", "srgb", torch.full((3, 64, 64), 0.2).half())
    truth = draw_pairs([flat], 4, 96, (0,)).raw
    np.testing.assert_allclose(truth, truth.mean((2, 3), keepdim=True).expand_as(truth), rtol=1e-4)
