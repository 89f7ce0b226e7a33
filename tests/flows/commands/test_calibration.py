"""What a calibration becomes in a profile."""

import numpy as np
import pytest
import torch

from aura.errors import InvalidInputError
from aura.sensor.calibration import calibrate
from aura.sensor.catalog import load_profile
from aura.sensor.noise import NoiseParameters, noise_at
from aura.sensor.noise_draws import add_noise, digitise
from flows.commands.calibration import merge_noise

GENERIC = load_profile("generic")


def frame(light_dn: float, seed: int, step: int) -> np.ndarray:
    """Frames of 12 bits, stored with the bits of ``step`` shifted in."""
    clean, levels = torch.full((4, 96, 96), light_dn), (torch.full((4,), 256.0), torch.full((4,), 4095.0))
    noise = NoiseParameters(2.0, read_sigma_dn=0.6)
    return digitise(clean, add_noise(clean, noise, seed), *levels).numpy() * step


@pytest.mark.parametrize("step", [1, 4])
def test_a_profile_has_the_noise_of_the_frames_in_the_dark_rounding_in_steps_included(step: int) -> None:
    flats = [frame(light, 10 * index + k, step) for index, light in enumerate((300.0, 1500.0, 3000.0)) for k in (0, 1)]
    darks = [frame(0.0, 900 + k, step) for k in (0, 1)]
    found = calibrate(flats, darks, 4095.0 * step)
    assert found.dark.quantisation_step_dn == step
    drawn = noise_at(merge_noise(GENERIC, found, 800, "by photon transfer"), 800, seed=0)
    assert drawn.dark_variance_dn2 == pytest.approx(np.var(darks), rel=0.05)
    assert drawn.system_gain_dn_per_electron == pytest.approx(2.0 * step, rel=0.03)


def test_a_calibration_that_contradicts_the_others_of_the_camera_is_refused_in_words() -> None:
    flats = [frame(light, 10 * index + k, 1) for index, light in enumerate((300.0, 1500.0, 3000.0)) for k in (0, 1)]
    found = calibrate(flats, [frame(0.0, 900 + k, 1) for k in (0, 1)], 4095.0)
    brighter = calibrate([2 * flat for flat in flats], [2 * frame(0.0, 900 + k, 1) for k in (0, 1)], 8190.0)
    profile = merge_noise(GENERIC, brighter, 100, "ISO 100 by photon transfer")
    with pytest.raises(InvalidInputError, match="ISO 800 does not fit into generic: gain_dn_per_electron falls"):
        merge_noise(profile, found, 800, "by photon transfer")
