"""Photon transfer: simulated frames give back what they were made with."""

import numpy as np
import pytest
import torch

from aura.errors import InvalidInputError
from aura.sensor.calibration import Calibration, calibrate
from aura.sensor.catalog import load_profile
from aura.sensor.noise import NoiseParameters, noise_at
from aura.sensor.noise_draws import add_noise, digitise

EXPOSURES = (0.04, 0.12, 0.25, 0.45, 0.7, 0.85)


def frame(noise: NoiseParameters, light: np.ndarray | float, black: float, white: float, seed: int, side: int = 128):
    """A frame of the given light (share of saturation), as stored."""
    clean = torch.as_tensor(np.broadcast_to(light, (4, side, side)).copy() * (white - black), dtype=torch.float32)
    levels = torch.full((4,), black), torch.full((4,), white)
    return digitise(clean, add_noise(clean, noise, seed), *levels).numpy()


def frames(noise: NoiseParameters, black: float, white: float, partners: int = 2, falloff: float = 0.0):
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    shade = 1.0 - falloff * (x**2 + y**2) / 2
    flats = [
        frame(noise, exposure * shade, black, white, 100 * index + partner)
        for index, exposure in enumerate(EXPOSURES)
        for partner in range(partners)
    ]
    return flats, [frame(noise, 0.0, black, white, 9000 + index) for index in range(2)]


def within(found: Calibration, noise: NoiseParameters) -> None:
    gain = found.gain.system_gain_dn_per_electron
    assert gain.value == pytest.approx(noise.system_gain_dn_per_electron, rel=0.02)
    assert gain.low < gain.value < gain.high
    assert found.dark.read_sigma_dn.value == pytest.approx(noise.read_sigma_dn, rel=0.05)


@pytest.mark.parametrize(
    ("camera", "iso", "falloff"),
    [
        ("canon-eos-5d-mark-iv", 100, 0.0),
        ("canon-eos-5d-mark-iv", 3200, 0.4),
        ("sony-ilce-7sm2", 800, 0.4),
        ("nikon-d850", 6400, 0.0),
    ],
)
def test_simulated_frames_give_back_their_gain_and_read_noise(camera, iso, falloff):
    profile = load_profile(camera)
    levels = profile.levels_at(iso)
    noise = noise_at(profile, iso, seed=3)
    flats, darks = frames(noise, levels.black_level[0], levels.white_level[0], falloff=falloff)
    found = calibrate(flats, darks, levels.white_level[0])
    within(found, noise)
    assert found.warnings == ()
    assert found.dark.quantisation_step_dn == 1.0
    for plane, level in enumerate(found.dark.black_level_dn):
        true = levels.black_level[plane] + noise.black_offset_dn[plane]
        slack = 0.02 + 4 * (noise.row_sigma_dn**2 / 256 + noise.read_sigma_dn**2 / 2**15) ** 0.5
        assert level.value == pytest.approx(true, abs=slack)
        assert level.low <= level.value <= level.high
    assert found.dark.read_tukey_lambda == pytest.approx(noise.read_tukey_lambda, abs=0.06)
    row = found.dark.row_sigma_dn
    assert row.value == pytest.approx(noise.row_sigma_dn, rel=0.3, abs=0.15)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    noise = NoiseParameters(2.0, 6.0, row_sigma_dn=1.0)
    held = {"gain": 0, "read": 0}
    for trial in range(12):
        flats = [frame(noise, light, 200, 4000, 50 * trial + k, 96) for light in (0.2, 0.6) for k in range(2)]
        found = calibrate(flats, [frame(noise, 0.0, 200, 4000, 50 * trial + 20 + k, 96) for k in range(2)], 4000)
        gain, read = found.gain.system_gain_dn_per_electron, found.dark.read_sigma_dn
        held["gain"] += gain.low <= 2.0 <= gain.high
        held["read"] += read.low <= 6.0 <= read.high
    assert min(held.values()) >= 9  # 95 % of 12 is 11.4; under 9 has a chance of 0.2 %


def test_intervals_of_many_dark_frames_hold_the_truth_as_often():
    noise = NoiseParameters(2.0, 6.0, row_sigma_dn=1.0)
    found = [
        calibrate([], [frame(noise, 0.0, 200, 4000, 50 * trial + k, 64) for k in range(6)], 4000).dark
        for trial in range(12)
    ]
    assert sum(each.read_sigma_dn.low <= 6.0 <= each.read_sigma_dn.high for each in found) >= 9
    assert sum(each.row_sigma_dn.low <= 1.0 <= each.row_sigma_dn.high for each in found) >= 9
    single = calibrate([], [frame(noise, 0.0, 200, 4000, k, 64) for k in range(1)], 4000).dark.read_sigma_dn
    for each in (dark.read_sigma_dn for dark in found):
        assert each.high - each.low < 0.7 * (single.high - single.low)  # five times the freedom


def test_faint_exposures_are_told_apart_by_their_light_and_not_by_the_black_beneath_it():
    noise = NoiseParameters(0.5, 2.0)
    light = (0.001, 0.002, 0.004, 0.3, 0.6)  # of 12,000 DN above a black of 2048: 12, 24 and 48 DN at first
    flats = [frame(noise, each, 2048, 14048, index) for index, each in enumerate(light)]
    darks = [frame(noise, 0.0, 2048, 14048, 90 + k) for k in range(2)]
    found = calibrate(flats, darks, 14048)
    assert (found.gain.pairs, found.gain.singles) == (0, 5)
    twice = [*flats, *(frame(noise, each, 2048, 14048, 50 + index) for index, each in enumerate(light))]
    assert (calibrate(twice, darks, 14048).gain.pairs) == 10


@pytest.mark.parametrize("step", [1, 8])
def test_rounding_is_no_read_noise(step):
    _, darks = frames(NoiseParameters(1.5, read_sigma_dn=0.6), 200, 4000)
    read = calibrate([], [dark * step for dark in darks], 4000 * step).dark.read_sigma_dn
    assert read.value == pytest.approx(0.6 * step, rel=0.03)
    assert read.low < read.value < read.high
    assert read.high - read.low < 0.1 * read.value


def test_what_stays_in_place_does_not_count_as_noise():
    noise = NoiseParameters(1.5, 5.0)
    rng = np.random.default_rng(0)
    response = 1.0 + 0.02 * rng.standard_normal((4, 128, 128))
    hot = (rng.random((4, 128, 128)) < 1e-3) * 0.05
    flats = [
        frame(noise, light * response + hot, 200, 15000, 10 * index + k)
        for index, light in enumerate(EXPOSURES) for k in range(2)
    ]  # fmt: skip
    darks = [frame(noise, hot, 200, 15000, 900 + k) for k in range(2)]
    within(calibrate(flats, darks, 15000), noise)


def test_single_frames_do_and_say_that_they_are_worse():
    noise = NoiseParameters(1.5, 5.0, row_sigma_dn=0.5)
    rng = np.random.default_rng(0)
    response = 1.0 + 0.01 * rng.standard_normal((4, 128, 128))
    flats = [frame(noise, light * response, 200, 15000, index) for index, light in enumerate(EXPOSURES)]
    found = calibrate(flats, [frame(noise, 0.0, 200, 15000, 900)], 15000)
    assert found.gain.system_gain_dn_per_electron.value == pytest.approx(1.5, rel=0.1)
    assert found.gain.response_nonuniformity == pytest.approx(0.01, rel=0.3)
    assert len(found.warnings) == 2
    assert "one dark frame" in found.warnings[0]
    assert "6 of 6 flat frames have no partner" in found.warnings[1]


def test_saturated_blocks_and_shifted_bits_are_noticed():
    noise = NoiseParameters(1.5, 5.0)
    flats, darks = frames(noise, 200, 4000)
    flats += [frame(noise, 1.2, 200, 4000, 77), frame(noise, 1.2, 200, 4000, 78)]
    found = calibrate([flat * 4 for flat in flats], [dark * 4 for dark in darks], 16000)
    assert found.dark.quantisation_step_dn == 4.0
    assert found.gain.points.signal_dn.max() < 4 * 3800 * 0.95
    assert found.gain.system_gain_dn_per_electron.value == pytest.approx(6.0, rel=0.02)
    assert found.dark.read_sigma_dn.value == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize(("black", "is_cut"), [(0.0, True), (6.0, True), (30.0, False)])
def test_noise_that_is_cut_off_at_0_is_told_and_does_not_bend_the_gain(black, is_cut):
    noise = NoiseParameters(1.5, read_sigma_dn=6.0)
    flats, darks = frames(noise, black, 4000)
    found = calibrate(flats, darks, 4000)
    gain = found.gain.system_gain_dn_per_electron
    assert gain.value == pytest.approx(1.5, rel=0.01)
    assert (found.dark.read_sigma_dn.value < 5.5) == is_cut
    assert [warning for warning in found.warnings if "cut off" in warning] == list(found.warnings)
    assert len(found.warnings) == is_cut


def test_the_same_frames_give_the_same_figures():
    noise = NoiseParameters(1.5, 5.0)
    flats, darks = frames(noise, 200, 4000)
    one, other = calibrate(flats, darks, 4000), calibrate(flats, darks, 4000)
    assert one.dark == other.dark
    assert one.gain.system_gain_dn_per_electron == other.gain.system_gain_dn_per_electron


def test_darks_alone_give_what_needs_no_light():
    _, darks = frames(NoiseParameters(1.5, 5.0), 200, 4000)
    found = calibrate([], darks, 4000)
    assert found.gain is None
    assert found.dark.read_sigma_dn.value == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize(
    ("flats", "darks", "said"),
    [
        ([], [], "no dark frame"),
        ([], [np.zeros((4, 64, 64)), np.zeros((4, 64, 96))], "expected all alike"),
        ([], [np.zeros((4, 16, 64))], "at least 32"),
        ([np.full((4, 64, 64), 4000.0)], [np.zeros((4, 64, 64))], "Only 0 blocks"),
        ([np.zeros((4, 64, 64))], [np.zeros((4, 64, 64))], "blocks|does not grow"),
    ],
)
def test_frames_that_cannot_tell_are_refused(flats, darks, said):
    with pytest.raises(InvalidInputError, match=said):
        calibrate(flats, darks, 4000)
