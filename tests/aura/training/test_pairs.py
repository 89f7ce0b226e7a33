"""Simulated training pairs: the RAW is what the pair's camera would have recorded of the scene."""

import numpy as np
import pytest
import torch

from aura.nets.context import summarise
from aura.sensor.simulate import camera_to_canonical
from aura.training import pairs
from aura.training.pairs import draw_pairs, draw_summarised_views
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


def test_the_sites_of_a_summarised_view_show_the_light_of_the_same_places() -> None:
    """Brighter light is a brighter pixel under every tone curve; sites of two places would not be ordered alike."""
    ramp = torch.linspace(0.01, 0.9, 256).expand(3, 256, 256)
    views = draw_summarised_views([Scene("ramp", "srgb", ramp.half())], 12, 128, (0,))
    for seen, camera in zip(views.seen.float().mean(1), views.camera.float().mean(1), strict=True):
        order = (a.argsort().argsort().double() for a in (seen, camera))
        assert float(torch.corrcoef(torch.stack(list(order)))[0, 1]) > 0.8


def test_a_view_is_summarised_as_the_photograph_that_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its noise, sharpening and JPEG, at its own size."""
    shown: list[torch.Tensor] = []
    monkeypatch.setattr(pairs, "summarise", lambda image: shown.append(image) or summarise(image))
    scene = Scene("noise", "srgb", torch.rand(3, 256, 256, generator=torch.Generator().manual_seed(0)).half())
    views = draw_summarised_views([scene], 4, 128, (0,))
    assert shown[0].shape == (4, 3, 128, 128)
    torch.testing.assert_close(shown[0] * 255.0, (shown[0] * 255.0).round())
    torch.testing.assert_close(views.statistics, summarise(shown[0]).statistics.half())
