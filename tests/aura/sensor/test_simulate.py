"""Simulated captures: colour, highlights, levels, noise, determinism."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from colour.adaptation import matrix_chromatic_adaptation_VonKries
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.bayer import CFA_PATTERNS, PLANE_CHANNEL, pack_rgb
from aura.color import SRGB_TO_XYZ
from aura.errors import InvalidInputError, NoiseUnavailableError
from aura.sensor.catalog import load_profile, profile_names
from aura.sensor.noise import NoiseParameters
from aura.sensor.profile import D65_XYZ
from aura.sensor.simulate import (
    Capture,
    camera_to_canonical,
    canonical_to_camera,
    color_under,
    denormalise_raw,
    draw_capture,
    illuminant_xyz,
    normalise_raw,
    simulate,
)

IDENTITY = np.eye(3)
GAINS = (2.0, 1.0, 1.5)
cameras = st.sampled_from(profile_names())
kelvins = st.one_of(st.none(), st.floats(2000, 15000))


def _grey(level: float, side: int = 8) -> torch.Tensor:
    return torch.full((3, side, side), level)


def _clean(name: str, kelvin: float | None = None, iso: int = 400) -> Capture:
    light = None if kelvin is None else (kelvin, kelvin)
    return draw_capture(load_profile(name), iso, 0, noise_model="none", illuminant_kelvin=light)


def _normalised(dn: torch.Tensor, capture: Capture) -> torch.Tensor:
    levels = capture.profile.levels_at(capture.iso)
    return normalise_raw(dn, levels.black_level, levels.white_level)


@given(cameras, kelvins, st.floats(0.05, 0.85))
def test_a_grey_card_is_neutral_after_the_stored_gains(name, kelvin, level):
    capture = _clean(name, kelvin)
    level *= min(1.0, *capture.wb_gains)  # a channel with a gain below 1 saturates earlier
    gains = torch.tensor(capture.wb_gains)[list(PLANE_CHANNEL)]
    means = _normalised(simulate(_grey(level), capture), capture).mean(dim=(1, 2)) * gains
    # half a digital number of rounding, besides the half per cent asked for
    rounding = 0.5 / capture.profile.levels_at(capture.iso).range_dn * gains
    assert ((means - level).abs() <= 0.005 * level + rounding).all()


@given(cameras, kelvins, st.integers(0, 2**32 - 1))
def test_camera_and_canonical_invert_each_other_up_to_saturation(name, kelvin, seed):
    gains, matrix = color_under(load_profile(name), kelvin)
    generator = torch.Generator().manual_seed(seed)
    canonical = torch.rand(2, 3, 6, 8, generator=generator, dtype=torch.float64)
    canonical[1] = 0.85 + 0.15 * canonical[1, :1]  # greys, highlights above all
    back = camera_to_canonical(canonical_to_camera(canonical, matrix, gains), matrix, gains)
    torch.testing.assert_close(back, canonical, rtol=1e-9, atol=1e-9)
    single = camera_to_canonical(canonical_to_camera(canonical.float(), matrix, gains), matrix, gains)
    # float32 loses what the matrix and the slope of the highlights multiply by
    slack = 3e-7 * float(np.linalg.cond(np.array(matrix))) * max(gains) * 20
    torch.testing.assert_close(single.double(), canonical, rtol=0, atol=slack)


def test_white_is_saturation_in_every_channel():
    camera = canonical_to_camera(_grey(1.0), IDENTITY, GAINS)
    torch.testing.assert_close(camera, torch.ones_like(camera))
    below = canonical_to_camera(_grey(0.8), IDENTITY, GAINS)[:, 0, 0]
    torch.testing.assert_close(below, torch.tensor([0.4, 0.8, 0.8 / 1.5]))


@given(cameras, kelvins, st.floats(0, 2))
def test_saturated_pixels_stay_saturated_in_the_stored_numbers(name, kelvin, over):
    capture = _clean(name, kelvin)
    white = torch.tensor(capture.profile.levels_at(capture.iso).white_level)
    dn = simulate(_grey(1.0 + over), capture)
    assert torch.equal(dn, white[:, None, None].expand_as(dn).to(torch.int32))


@given(st.floats(1.0, 3.0), st.floats(0.7, 4.0))
def test_the_way_to_saturation_is_smooth_and_rising(red, blue):
    levels = torch.linspace(0, 1, 2001, dtype=torch.float64)
    grey = levels.expand(3, 1, -1)
    camera = canonical_to_camera(grey, IDENTITY, (red, 1.0, blue))
    slope = camera.diff(dim=-1) * 2000
    assert (slope > 0).all()
    # a jump would give a slope of hundreds; a kink, a change of slope of the order of one between neighbours
    assert slope.max() < 20
    assert slope.diff(dim=-1).abs().max() < 0.5


def test_bright_saturated_colours_are_left_alone():
    yellow = torch.tensor([1.0, 1.0, 0.5])[:, None, None]
    camera = canonical_to_camera(yellow, IDENTITY, GAINS).flatten()
    torch.testing.assert_close(camera, torch.tensor([0.5, 1.0, 0.5 / 1.5]))


def test_batches_may_have_a_camera_each():
    captures = [_clean(name) for name in ("nikon-d850", "sony-ilce-7sm2")]
    matrices = torch.tensor([capture.camera_to_srgb for capture in captures])
    gains = torch.tensor([capture.wb_gains for capture in captures])
    canonical = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    together = canonical_to_camera(canonical, matrices, gains)
    for index, capture in enumerate(captures):
        alone = canonical_to_camera(canonical[index], capture.camera_to_srgb, capture.wb_gains)
        torch.testing.assert_close(together[index], alone)
    back = camera_to_canonical(together, matrices, gains)
    assert back.shape == canonical.shape


def test_gradients_pass_both_ways():
    image = (
        torch.rand(3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4)) + 0.2
    ).requires_grad_()
    _, matrix = color_under(load_profile("nikon-d850"), None)
    assert torch.autograd.gradcheck(lambda x: canonical_to_camera(x, matrix, GAINS), image)
    assert torch.autograd.gradcheck(lambda x: camera_to_canonical(x, matrix, GAINS), image)
    highlight = (0.93 + 0.05 * image.detach()).requires_grad_()
    recorded = canonical_to_camera(highlight, IDENTITY, GAINS).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: camera_to_canonical(x, IDENTITY, GAINS), recorded)


def test_daylight_needs_no_adaptation():
    profile = load_profile("canon-eos-5d-mark-iv")
    gains, matrix = color_under(profile, None)
    np.testing.assert_allclose(matrix, profile.camera_to_srgb, atol=1e-12)
    np.testing.assert_allclose(gains, profile.daylight_gains)
    np.testing.assert_allclose(color_under(profile, 6504.0)[0], gains, rtol=2e-3)


@pytest.mark.parametrize("kelvin", [2700.0, 5000.0, 9000.0])
def test_colours_under_a_light_are_those_of_an_independent_adaptation(kelvin):
    profile = load_profile("nikon-d850")
    gains, matrix = color_under(profile, kelvin)
    canonical = np.array([0.3, 0.1, 0.05])
    white = illuminant_xyz(kelvin)
    under_light = matrix_chromatic_adaptation_VonKries(D65_XYZ, white, "Bradford") @ SRGB_TO_XYZ @ canonical
    xyz_to_camera = np.array(profile.xyz_to_camera)
    expected = xyz_to_camera @ under_light / (xyz_to_camera @ white)[1]
    camera = canonical_to_camera(torch.from_numpy(canonical)[:, None, None], matrix, gains)
    np.testing.assert_allclose(camera.flatten(), expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("kelvin", "x", "y"),
    # CIE 015:2018 for D50, D65, D75; CIE illuminant A and the black body at 2000 K from published tables
    [
        (5003, 0.3457, 0.3585),
        (6504, 0.3127, 0.3290),
        (7504, 0.2990, 0.3149),
        (2856, 0.4476, 0.4074),
        (2000, 0.5267, 0.4133),
    ],
)
def test_illuminants_have_their_published_chromaticity(kelvin, x, y):
    xyz = illuminant_xyz(kelvin)
    assert xyz[1] == 1.0
    np.testing.assert_allclose((xyz / xyz.sum())[:2], (x, y), atol=7e-4)


@given(cameras, st.floats(2000, 14000))
def test_warmer_light_needs_less_red_and_more_blue(name, kelvin):
    profile = load_profile(name)
    warm, cool = color_under(profile, kelvin)[0], color_under(profile, kelvin * 1.07)[0]
    assert warm[0] < cool[0]
    assert warm[2] > cool[2]


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_planes_are_those_of_the_cameras_pattern(pattern):
    profile = load_profile("generic").model_copy(update={"cfa_pattern": pattern})
    canonical = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0)) * 0.5
    capture = draw_capture(profile, 100, 0, noise_model="none")
    dn = simulate(canonical, capture)
    assert dn.dtype == torch.int32
    assert dn.shape == (4, 3, 4)
    expected = pack_rgb(canonical, pattern) * (4095 - 256) + 256
    assert (dn - expected).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    "name", ["canon-eos-5d-mark-iv", "nikon-d850", "sony-ilce-7sm2", "gopro-hero7-black", "generic"]
)
@pytest.mark.parametrize("iso", [100, 3200])
def test_noise_in_the_stored_numbers_is_the_noise_of_the_capture(name, iso):
    capture = draw_capture(load_profile(name), iso, 7)
    levels = capture.profile.levels_at(iso)
    clean = simulate(_grey(0.3, 400), dataclasses.replace(capture, noise=None)).double()
    noisy = simulate(_grey(0.3, 400), capture).double()
    expected_mean = clean + torch.tensor(capture.noise.black_offset_dn)[:, None, None]
    signal = clean[:, 0, 0] - torch.tensor(levels.black_level)
    assert noisy.mean() == pytest.approx(expected_mean.mean().item(), abs=0.6 + 0.2 * capture.noise.row_sigma_dn)
    for plane in range(4):
        variance = capture.noise.variance_dn2(signal[plane].item())
        assert noisy[plane].var().item() == pytest.approx(variance, rel=0.03)


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_the_compiled_pass_stores_what_tensors_do(pattern):
    profile = load_profile("canon-eos-700d").model_copy(update={"cfa_pattern": pattern})
    capture = draw_capture(profile, 1600, 5, illuminant_kelvin=(3000, 6000), exposure=1.3)
    light = torch.rand(3, 62, 86, generator=torch.Generator().manual_seed(2)) ** 3 * 1.2 - 0.01
    by_loops = simulate(light, capture)
    by_tensors = simulate(light.clone().requires_grad_(), capture)
    assert (by_loops != by_tensors).float().mean().item() < 2e-3  # on the edge of the next number or electron
    clean = dataclasses.replace(capture, noise=None)
    assert (simulate(light, clean) - simulate(light.clone().requires_grad_(), clean)).abs().max().item() <= 1


def test_the_tails_of_darkness_and_of_saturation_are_clipped():
    noise = NoiseParameters(4.0, read_sigma_dn=200.0)
    capture = dataclasses.replace(_clean("generic"), noise=noise)
    dark = simulate(_grey(0.0, 200), capture)
    assert dark.min() == 0  # black is 256, so 10 % of the values fall below zero and are stored as zero
    assert (dark == 0).float().mean().item() == pytest.approx(0.5 * math.erfc(255.5 / 200 / math.sqrt(2)), rel=0.1)
    bright = simulate(_grey(0.97, 200), capture)
    assert bright.max() == 4095
    assert 0.1 < (bright == 4095).float().mean() < 0.9
    assert (simulate(_grey(1.0, 200), capture) == 4095).all()


def test_values_below_black_are_kept():
    dark = simulate(_grey(0.0, 200), draw_capture(load_profile("canon-eos-5d-mark-iv"), 1600, 0))
    black = torch.tensor(load_profile("canon-eos-5d-mark-iv").levels_at(1600).black_level)[:, None, None]
    below = (dark < black).float().mean()
    assert 0.3 < below < 0.7


@given(st.integers(0, 2**62), st.sampled_from(["none", "calibrated", "generic"]))
@settings(max_examples=20)
def test_the_same_arguments_give_the_same_capture_and_numbers(seed, noise_model):
    profile = load_profile("nikon-d850")
    draws = [
        draw_capture(profile, 800, seed, noise_model=noise_model, illuminant_kelvin=(2500, 8000)) for _ in range(2)
    ]
    assert draws[0] == draws[1]
    assert 2500 <= draws[0].illuminant_kelvin <= 8000
    canonical = torch.rand(3, 8, 10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(simulate(canonical, draws[0]), simulate(canonical, draws[1]))
    other = draw_capture(profile, 800, seed + 1, noise_model=noise_model, illuminant_kelvin=(2500, 8000))
    assert other.illuminant_kelvin != draws[0].illuminant_kelvin


def test_exposure_scales_the_light():
    profile = load_profile("nikon-d850")
    full, half = (draw_capture(profile, 100, 0, noise_model="none", exposure=factor) for factor in (1.0, 0.5))
    torch.testing.assert_close(
        _normalised(simulate(_grey(0.4), half), half), _normalised(simulate(_grey(0.2), full), full)
    )


@given(st.integers(0, 2**32 - 1), st.floats(0, 3000), st.floats(3001, 65535))
def test_normalising_round_trips_and_names_its_ends(seed, black, white):
    dn = torch.randint(0, 65536, (2, 4, 3, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.int32)
    blacks, whites = (black, 0.0, black / 2, 1.0), (white, white, 65535.0, white)
    raw = normalise_raw(dn.double(), blacks, whites)
    torch.testing.assert_close(denormalise_raw(raw, blacks, whites), dn.double(), rtol=0, atol=1e-6)
    ends = torch.tensor([blacks, whites], dtype=torch.float64)[..., None, None]
    torch.testing.assert_close(
        normalise_raw(ends, blacks, whites)[:, :, 0, 0], torch.tensor([[0.0] * 4, [1.0] * 4]).double()
    )
    assert normalise_raw(dn, blacks, whites).dtype == torch.float32


def test_what_no_camera_does_is_refused():
    canon = load_profile("canon-eos-5d-mark-iv")
    with pytest.raises(InvalidInputError, match="ISO 99 is outside the range of canon-eos-5d-mark-iv, 100 to 32000"):
        draw_capture(canon, 99, 0)
    with pytest.raises(NoiseUnavailableError, match="ISO 12800"):
        draw_capture(canon, 12800, 0)
    with pytest.raises(InvalidInputError, match="ascending pair within 2000 to 15000 K"):
        draw_capture(canon, 100, 0, illuminant_kelvin=(8000, 3000))
    with pytest.raises(InvalidInputError, match="positive factor"):
        draw_capture(canon, 100, 0, exposure=0.0)
    with pytest.raises(InvalidInputError, match="expected 2000 to 15000 K"):
        illuminant_xyz(1000.0)
    with pytest.raises(InvalidInputError, match="both sides must be even"):
        simulate(torch.zeros(3, 5, 4), _clean("generic"))
    for function in (canonical_to_camera, camera_to_canonical):
        with pytest.raises(InvalidInputError, match=r"expected \(\*, 3, H, W\)"):
            function(torch.zeros(4, 2, 2), IDENTITY, GAINS)


def test_a_light_that_a_camera_cannot_see_is_refused():
    blind = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [-0.9, 0.0, 1.0]])
    assert (blind @ D65_XYZ > 0).all()
    profile = load_profile("generic").model_copy(update={"xyz_to_camera": tuple(map(tuple, blind.tolist()))})
    with pytest.raises(InvalidInputError, match="2500 K in one channel"):
        color_under(profile, 2500.0)


@pytest.mark.parametrize("kelvin", [None, 2000, 2500, 2856, 3200, 3999, 4000, 5003, 5500, 6504, 7504, 10000, 15000])
def test_a_grey_card_is_neutral_in_every_camera_and_light(kelvin):
    for name in profile_names():
        capture = _clean(name, kelvin)
        level = 0.5 * min(1.0, *capture.wb_gains)
        gains = torch.tensor(capture.wb_gains)[list(PLANE_CHANNEL)]
        means = _normalised(simulate(_grey(level), capture), capture).mean(dim=(1, 2)) * gains
        rounding = 0.5 / capture.profile.levels_at(capture.iso).range_dn * gains
        assert ((means - level).abs() <= 0.005 * level + rounding).all(), name


@pytest.mark.parametrize("kelvin", [2700.0, 4000.0, 6504.0, 8000.0])
@pytest.mark.parametrize("name", sorted(set(profile_names()) - {"generic"}))
def test_usual_light_needs_no_gain_below_one(name, kelvin):
    assert min(color_under(load_profile(name), kelvin)[0]) == 1.0
