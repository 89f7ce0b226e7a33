"""Noise: its statistics, its shapes, and that a seed decides it."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from aura.errors import InvalidInputError, NoiseUnavailableError
from aura.sensor.catalog import load_profile
from aura.sensor.noise import NoiseParameters, noise_at, noise_iso_range, tukey_lambda_deviation
from aura.sensor.noise_draws import (
    NoiseBatch,
    add_noise,
    add_noise_batch,
    digitise,
    noise_on_read,
    poisson_quantile,
    seed_of_epoch,
)
from aura.sensor.profile import NoisePoint, TabulatedNoise

CANON = load_profile("canon-eos-5d-mark-iv")
QUIET = NoiseParameters(system_gain_dn_per_electron=0.0, read_sigma_dn=0.0)
LIKELY = 1e-4
"""Least p-value accepted; seeds are fixed, so a test that passes once always does."""


def _flat(signal_dn: float, side: int = 256) -> torch.Tensor:
    return torch.full((4, side, side), signal_dn)


@pytest.mark.parametrize("gain", [0.2, 3.5, 14.0])
@pytest.mark.parametrize("signal", [0.0, 5.0, 40.0, 600.0, 12000.0])
def test_mean_and_variance_follow_the_signal(signal, gain):
    noise = NoiseParameters(gain, read_sigma_dn=6.0, read_tukey_lambda=0.1)
    noisy = add_noise(_flat(signal), noise, seed=1).double()
    expected = noise.variance_dn2(signal) - noise.quantisation_step_dn**2 / 12  # rounding comes later
    count = noisy.numel()
    assert noisy.mean().item() == pytest.approx(signal, abs=5 * math.sqrt(expected / count))
    assert noisy.var().item() == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("rate", [0.3, 4.0, 9.99, 10.0, 10.5, 33.0, 400.0])
def test_photons_are_poisson(rate):
    uniform = (2 * torch.randint(2**24, (500_000,), generator=torch.Generator().manual_seed(3)) + 1 - 2**24) * 2.0**-24
    counts = poisson_quantile(torch.full((500_000,), rate), uniform).numpy().astype(int)
    low, high = scipy.stats.poisson.ppf([2e-5, 1 - 2e-5], rate).astype(int)
    observed = np.bincount(counts.clip(low, high) - low, minlength=high - low + 1)
    cumulative = scipy.stats.poisson.cdf(np.arange(low, high), rate)
    expected = np.diff(np.concatenate([[0.0], cumulative, [1.0]])) * counts.size
    assert scipy.stats.chisquare(observed, expected).pvalue > LIKELY


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.3, 9.999, 10.0, 5e4])
def test_the_rarest_numbers_of_photons_are_those_of_poisson(rate):
    rarest = torch.tensor([-1 + 2.0**-24, 1 - 2.0**-24])
    least, most = poisson_quantile(torch.full((2,), rate), rarest).tolist()
    expected = scipy.stats.poisson.ppf([2.0**-25, 1 - 2.0**-25], rate)
    assert [least, most] == pytest.approx(expected, abs=1 + 2e-3 * rate**0.5)


@pytest.mark.parametrize("rate", [0.3, 9.99, 10.5, 400.0])
def test_photons_that_a_sensor_counts_are_poisson(rate):
    counts = add_noise(_flat(rate, 360), NoiseParameters(1.0, 0.0), seed=3).flatten().numpy()
    low, high = scipy.stats.poisson.ppf([2e-5, 1 - 2e-5], rate).astype(int)
    observed = np.bincount(counts.astype(int).clip(low, high) - low, minlength=high - low + 1)
    cumulative = scipy.stats.poisson.cdf(np.arange(low, high), np.float32(rate))
    expected = np.diff(np.concatenate([[0.0], cumulative, [1.0]])) * counts.size
    assert scipy.stats.chisquare(observed, expected).pvalue > LIKELY


@pytest.mark.parametrize("rate", [9.99, 10.0, 10.5, 11.0, 12.0, 13.0, 14.0])
def test_no_pixel_counts_fewer_photons_than_none(rate):
    seed = 3493  # one of these pixels draws the lowest of the 2^24 uniform numbers
    light = _flat(rate, 32)
    for clean in (light, light.clone().requires_grad_()):  # by loops, and by tensors
        drawn = add_noise(clean, NoiseParameters(1.0, 0.0), seed).detach()
        assert drawn.min().item() == pytest.approx(scipy.stats.poisson.ppf(2.0**-25, rate), abs=1)
        assert drawn.min().item() >= 0.0


def test_photons_come_in_whole_electrons():
    noisy = add_noise(_flat(700.0, 64), NoiseParameters(3.5, 0.0), seed=0) / 3.5
    torch.testing.assert_close(noisy, noisy.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [-0.3, -0.1, 0.0, 1e-7, 0.014, 0.14, 0.5])
def test_read_noise_is_tukey_lambda_of_the_stated_deviation(shape):
    noise = NoiseParameters(0.0, read_sigma_dn=7.0, read_tukey_lambda=shape)
    noisy = add_noise(_flat(0.0, 160), noise, seed=5).flatten().numpy()
    scale = 7.0 / tukey_lambda_deviation(shape)
    law = scipy.stats.tukeylambda(shape if shape != 1e-7 else 0.0, scale=scale)
    assert scipy.stats.kstest(noisy, law.cdf).pvalue > LIKELY
    assert np.isfinite(noisy).all()


def _some_noise(count: int) -> list[NoiseParameters]:
    """Noise of all kinds: calibrated, Gaussian, logistic, none."""
    calibrated = [noise_at(CANON, 100 * 2**stop, stop) for stop in range(count - 3)]
    logistic = NoiseParameters(0.7, 5.0, read_tukey_lambda=0.0, row_sigma_dn=1.0, black_offset_dn=(1.0, 2.0, 3.0, 4.0))
    return [*calibrated, NoiseParameters(3.0, 2.0, row_sigma_dn=4.0), logistic, QUIET]


@pytest.mark.parametrize("noise", _some_noise(5))
def test_compiled_loops_draw_what_tensors_draw(noise):
    clean = torch.rand(2, 4, 61, 67, generator=torch.Generator().manual_seed(1)) ** 4 * 4000 - 20
    by_loops = add_noise(clean, noise, seed=11)
    by_tensors = add_noise(clean.clone().requires_grad_(), noise, seed=11).detach()
    apart = (by_loops - by_tensors).abs() > 0.01  # a rate on the edge of the next electron
    assert apart.float().mean().item() < 1e-3
    assert (by_loops - by_tensors).abs().max().item() < 1.01 * max(1.0, noise.system_gain_dn_per_electron)


@given(st.floats(-0.45, 2.0))
def test_the_deviation_of_tukey_lambda_is_that_of_scipy(shape):
    variance = scipy.stats.tukeylambda.var(shape)
    assert tukey_lambda_deviation(shape) ** 2 == pytest.approx(variance, rel=1e-4)


def test_gaussian_read_noise_is_gaussian():
    noisy = add_noise(_flat(0.0, 160), NoiseParameters(0.0, read_sigma_dn=7.0), seed=5).flatten().numpy()
    assert scipy.stats.kstest(noisy / 7.0, "norm").pvalue > LIKELY


def test_a_row_of_the_mosaic_shares_its_error_and_no_other_row_does():
    noise = NoiseParameters(0.0, read_sigma_dn=0.0, row_sigma_dn=3.0)
    red, green_red, green_blue, blue = add_noise(torch.zeros(2, 4, 4000, 6), noise, seed=9).unbind(1)
    assert torch.equal(red, green_red)
    assert torch.equal(green_blue, blue)
    assert torch.equal(red, red[..., :1].expand_as(red))
    rows = torch.cat([red[..., 0], blue[..., 0]])
    assert rows.std().item() == pytest.approx(3.0, rel=0.05)
    correlations = torch.corrcoef(rows).fill_diagonal_(0)
    assert correlations.abs().max() < 0.07
    shifted = np.corrcoef(rows[0, :-1], rows[0, 1:])[0, 1]
    assert abs(shifted) < 0.07


def test_offsets_reach_their_planes_and_darkness_passes_through():
    noise = NoiseParameters(2.0, 0.0, black_offset_dn=(1.0, -2.0, 3.0, -4.0))
    noisy = add_noise(_flat(-5.0, 4), noise, seed=0)
    assert noisy[:, 0, 0].tolist() == [-4.0, -7.0, -2.0, -9.0]


@given(
    st.integers(0, 2**63 - 1),
    st.sampled_from([(), (1,), (2, 3)]),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_a_seed_decides_every_bit(seed, lead, sides, dtype):
    clean = torch.linspace(0, 4000, math.prod((*lead, 4, *sides))).reshape(*lead, 4, *sides).to(dtype)
    before = clean.clone()
    noise = noise_at(CANON, 1600, seed)
    noisy = add_noise(clean, noise, seed)
    assert noisy.shape == clean.shape
    assert noisy.dtype == dtype
    assert torch.isfinite(noisy).all()
    assert torch.equal(noisy, add_noise(clean, noise_at(CANON, 1600, seed), seed))
    assert not torch.equal(noisy, add_noise(clean, noise, seed + 1))
    assert torch.equal(clean, before)


def test_threads_and_memory_layout_do_not_matter():
    clean = torch.rand(4, 300, 200, generator=torch.Generator().manual_seed(0)) * 3000
    noise = noise_at(CANON, 3200, 1)
    expected = add_noise(clean, noise, 2)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1 if threads > 1 else 2)
        assert torch.equal(add_noise(clean, noise, 2), expected)
    finally:
        torch.set_num_threads(threads)
    strided = clean.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(add_noise(strided, noise, 2), expected)


@pytest.mark.parametrize(
    "name", ["canon-eos-5d-mark-iv", "canon-eos-700d", "canon-eos-70d", "nikon-d850", "sony-ilce-7sm2"]
)
def test_gain_is_proportional_to_iso_and_read_noise_grows_with_it(name):
    profile = load_profile(name)
    gains = [noise_at(profile, iso, 0).system_gain_dn_per_electron for iso in (100, 400, 6400)]
    assert gains == pytest.approx([gains[0], 4 * gains[0], 64 * gains[0]])
    deviations = [np.mean([noise_at(profile, iso, seed).read_sigma_dn for seed in range(40)]) for iso in (100, 6400)]
    electrons = np.array(deviations) / [gains[0], gains[2]]
    assert deviations[1] > 2 * deviations[0]
    assert electrons[1] < electrons[0]  # known of every such sensor: high ISO reads fewer electrons of noise


def test_drawn_scales_scatter_around_the_published_line():
    noise = CANON.noise
    draws = [noise_at(CANON, 1600, seed) for seed in range(400)]
    log_gain = math.log(noise.gain_dn_per_electron_at_iso_min * 16)
    logs = np.log([draw.row_sigma_dn for draw in draws])
    assert logs.mean() == pytest.approx(noise.row_sigma_dn.slope * log_gain + noise.row_sigma_dn.bias, abs=0.05)
    assert logs.std() == pytest.approx(noise.row_sigma_dn.sigma, rel=0.15)
    assert {draw.read_tukey_lambda for draw in draws} == set(noise.read_tukey_lambda)
    assert {draw.black_offset_dn for draw in draws} == set(noise.black_offset_dn)
    # the two published fits of the same read noise, Gaussian and Tukey-lambda, agree on its deviation
    gaussian = math.exp(noise.read_sigma_dn.slope * log_gain + noise.read_sigma_dn.bias)
    assert np.median([draw.read_sigma_dn for draw in draws]) == pytest.approx(gaussian, rel=0.15)


def test_generic_noise_scales_with_the_range_of_the_camera():
    twelve, fourteen = load_profile("generic"), load_profile("nikon-z-6")
    ratio = fourteen.levels_at(400).range_dn / twelve.levels_at(400).range_dn
    small, large = (noise_at(profile, 400, 0, model="generic") for profile in (twelve, fourteen))
    assert large.system_gain_dn_per_electron == pytest.approx(ratio * small.system_gain_dn_per_electron)
    assert large.read_sigma_dn == pytest.approx(ratio * small.read_sigma_dn)
    # PMRID's own numbers, at its 959 DN: K(400) = 0.2485, variance(400) = 0.4894
    scale = twelve.levels_at(400).range_dn / 959
    assert small.system_gain_dn_per_electron == pytest.approx(0.2485 * scale, rel=1e-3)
    assert small.read_sigma_dn**2 == pytest.approx(0.4894 * scale**2, rel=1e-3)


def test_every_scale_of_a_noise_that_refers_to_another_range_is_brought_to_the_camera_s():
    fields = CANON.model_dump()
    fields["noise"] |= {"reference_range_dn": 0.5 * CANON.levels_at(400).range_dn}
    own, twice = noise_at(CANON, 400, 0), noise_at(type(CANON).model_validate(fields), 400, 0)
    for name in ("system_gain_dn_per_electron", "read_sigma_dn", "row_sigma_dn", "black_offset_dn"):
        np.testing.assert_allclose(getattr(twice, name), 2.0 * np.array(getattr(own, name)), err_msg=name)
    assert twice.read_tukey_lambda == own.read_tukey_lambda


def test_gopro_noise_is_that_of_its_tags():
    profile = load_profile("gopro-hero7-black")
    noise = noise_at(profile, 252, 0)
    scale, offset = noise.normalised(16383)
    assert scale == pytest.approx(0.00039362526, rel=1e-5)
    assert offset - 1 / 12 / 16383**2 == pytest.approx(1.2297640e-07, rel=1e-4)


def test_noise_that_is_not_known_is_refused_with_what_to_do():
    with pytest.raises(NoiseUnavailableError, match=r"nikon-z-6 has no noise calibration.*'generic'"):
        noise_at(load_profile("nikon-z-6"), 400, 0)
    with pytest.raises(NoiseUnavailableError, match="from ISO 100 to 6400, not at ISO 12800"):
        noise_at(CANON, 12800, 0)
    with pytest.raises(NoiseUnavailableError, match="no noise calibration"):
        noise_iso_range(load_profile("nikon-z-6"))
    outside = CANON.model_copy(update={"iso_range": (12800, 25600)})
    with pytest.raises(NoiseUnavailableError, match="goes from ISO 12800 to 25600"):
        noise_iso_range(outside)


@pytest.mark.parametrize(
    ("name", "model", "expected"),
    [
        ("canon-eos-5d-mark-iv", "calibrated", (100, 6400)),
        ("canon-eos-5d", "generic", (100, 1600)),
        ("nikon-d700", "generic", (200, 6400)),
        ("gopro-hero7-black", "calibrated", (100, 3200)),
    ],
)
def test_the_iso_range_is_what_camera_and_model_share(name, model, expected):
    profile = load_profile(name)
    assert noise_iso_range(profile, model) == expected
    for iso in expected:
        assert noise_at(profile, iso, 0, model=model).system_gain_dn_per_electron > 0


@pytest.mark.parametrize("clean", [torch.zeros(3, 4, 4), torch.zeros(4, 4), torch.zeros(4, 4, 4, dtype=torch.int32)])
def test_what_is_no_packed_raw_is_refused(clean):
    with pytest.raises(InvalidInputError, match="floating point"):
        add_noise(clean, QUIET, 0)


@pytest.mark.parametrize(
    "fields", [{"read_sigma_dn": -1.0}, {"row_sigma_dn": math.nan}, {"read_tukey_lambda": -0.5, "read_sigma_dn": 1.0}]
)
def test_what_is_no_noise_is_refused(fields):
    with pytest.raises(InvalidInputError):
        NoiseParameters(**({"system_gain_dn_per_electron": 1.0, "read_sigma_dn": 1.0} | fields))


def test_no_noise_changes_nothing():
    clean = torch.rand(4, 8, 8)
    assert torch.equal(add_noise(clean, QUIET, 0), clean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_sample_gets_its_noise_whatever_batch_it_lies_in(dtype):
    clean = (torch.rand(7, 4, 150, 130, generator=torch.Generator().manual_seed(0)) * 4000 - 20).to(dtype)
    noises, seeds = _some_noise(7), torch.arange(7) * 2**59
    together = add_noise_batch(clean, NoiseBatch.of(noises), seeds)
    for index, noise in enumerate(noises):
        assert torch.equal(together[index], add_noise(clean[index], noise, int(seeds[index])))
    reversed_ = add_noise_batch(clean.flip(0), NoiseBatch.of(noises[::-1]), seeds.flip(0))
    assert torch.equal(reversed_.flip(0), together)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_noise():
    clean = torch.rand(7, 4, 150, 130, generator=torch.Generator().manual_seed(0)) * 4000
    noise, seeds = NoiseBatch.of(_some_noise(7)), torch.arange(7)
    here, there = add_noise_batch(clean, noise, seeds), add_noise_batch(clean.cuda(), noise, seeds.cuda()).cpu()
    close = torch.isclose(here, there, rtol=1e-4, atol=1e-2)
    assert close.float().mean() > 0.999  # rounding moves a photon now and then
    assert torch.equal(there, add_noise_batch(clean.cuda(), noise, seeds.cuda()).cpu())


def test_neither_pixels_nor_planes_nor_seeds_share_their_noise():
    noise = NoiseBatch.of([NoiseParameters(1.0, read_sigma_dn=3.0)] * 6)
    residual = add_noise_batch(torch.full((6, 4, 96, 96), 50.0), noise, torch.arange(6)).sub(50.0)
    planes = torch.corrcoef(residual.flatten(0, 1).flatten(1)).fill_diagonal_(0)
    assert planes.abs().max() < 5 / 96
    for shift in ((0, 1), (1, 0), (1, 1)):
        moved = residual.roll(shift, dims=(2, 3))
        assert (
            abs(torch.corrcoef(torch.stack([residual.flatten(), moved.flatten()]))[0, 1]) < 5 / residual.numel() ** 0.5
        )


@pytest.mark.parametrize("name", ["canon-eos-5d-mark-iv", "sony-ilce-7sm2", "gopro-hero7-black"])
def test_rows_correlate_as_much_as_the_model_says(name):
    noise = noise_at(load_profile(name), 1600, 3)
    noisy = add_noise(_flat(0.0, 800), noise, seed=1).double()
    noisy -= torch.tensor(noise.black_offset_dn, dtype=torch.float64)[:, None, None]
    # two pixels of a row share the row's error and nothing else: their covariance is its variance
    covariance = (noisy[0] * noisy[1]).mean().item()
    deviation = (noise.read_sigma_dn**2 + noise.row_sigma_dn**2) / 800
    assert covariance == pytest.approx(noise.row_sigma_dn**2, rel=0.2, abs=5 * deviation)
    assert abs((noisy[0] * noisy[3]).mean().item()) < 5 * deviation + 0.2 * noise.row_sigma_dn**2


def _mass_at_the_ends(mean_dn: float, sigma_dn: float, white_dn: float) -> tuple[float, float]:
    law = scipy.stats.norm(mean_dn, sigma_dn)
    return float(law.cdf(0.5)), float(law.sf(white_dn - 0.5))


@pytest.mark.parametrize("signal", [0.0, 40.0, 3450.0, 3560.0])
def test_what_is_clipped_is_what_the_model_puts_beyond_the_ends(signal):
    black, white = torch.full((4,), 100.0), torch.full((4,), 3700.0)
    noise = NoiseParameters(0.5, read_sigma_dn=60.0)
    clean = _flat(signal)
    dn = digitise(clean, add_noise(clean, noise, 2), black, white)
    spread = math.sqrt(noise.variance_dn2(signal) - 1 / 12)
    low, high = _mass_at_the_ends(signal + 100.0, spread, 3700.0)
    count = dn.numel()
    for seen, expected in (((dn == 0).sum().item(), low), ((dn == 3700).sum().item(), high)):
        assert scipy.stats.binomtest(seen, count, expected).pvalue > LIKELY if expected > 1e-9 else seen == 0
    law = scipy.stats.norm(signal + 100.0, spread)
    inner = dn[(dn > 0) & (dn < 3700)].double()
    a, b = (0.5 - law.mean()) / spread, (3699.5 - law.mean()) / spread
    truncated = scipy.stats.truncnorm(a, b, law.mean(), spread)
    assert inner.mean().item() == pytest.approx(truncated.mean(), abs=5 * spread / count**0.5)
    assert inner.var().item() == pytest.approx(truncated.var() + 1 / 12, rel=0.02)


def test_noise_on_read_is_what_the_camera_would_have_stored():
    black = torch.tensor([[512.0] * 4, [0.0, 10.0, 20.0, 30.0]])
    white = torch.tensor([[15000.0] * 4, [4095.0, 4000.0, 4095.0, 3900.0]])
    clean = torch.randint(0, 4096, (2, 4, 64, 96), generator=torch.Generator().manual_seed(0)).to(torch.int32)
    clean[1] = torch.minimum(clean[1], white[1, :, None, None].int())
    noises = [noise_at(CANON, 800, 1), NoiseParameters(2.0, 30.0)]
    read = noise_on_read(clean.to(torch.uint16), black, white, NoiseBatch.of(noises), torch.tensor([4, 5]))
    assert read.dtype == torch.int32
    for index, noise in enumerate(noises):
        signal = clean[index].float() - black[index, :, None, None]
        expected = digitise(signal, add_noise(signal, noise, 4 + index), black[index], white[index])
        assert torch.equal(read[index], expected)
    assert torch.equal(
        read[1] == white[1, :, None, None], (clean[1] == white[1, :, None, None]) | (read[1] == white[1, :, None, None])
    )
    assert int(read.min()) >= 0
    silent = noise_on_read(clean, black, white, NoiseBatch.of([QUIET, QUIET]), torch.tensor([4, 5]))
    assert torch.equal(silent, clean)


@given(st.integers(0, 2**63 - 1), st.integers(0, 1000))
def test_every_epoch_has_a_seed_of_its_own(seed, epoch):
    here, next_ = seed_of_epoch(seed, epoch), seed_of_epoch(seed, epoch + 1)
    assert 0 <= here < 2**63
    assert here == seed_of_epoch(seed, epoch)
    assert here != next_ != seed


def test_epochs_are_independent_exposures():
    clean, noise = _flat(300.0, 128), noise_at(CANON, 1600, 0)
    epochs = torch.stack([add_noise(clean, noise, seed_of_epoch(7, epoch)).sub(clean) for epoch in range(6)])
    correlation = torch.corrcoef(epochs.flatten(1)).fill_diagonal_(0)
    assert correlation.abs().max() < 0.05  # rows of 128 share an error


@pytest.mark.parametrize(
    ("shape", "rows", "seeds"),
    [
        ((2, 3, 4, 4), 2, torch.arange(2)),
        ((4, 4, 4), 4, torch.arange(4)),
        ((2, 4, 4, 4), 3, torch.arange(2)),
        ((2, 4, 4, 4), 2, torch.arange(3)),
        ((2, 4, 4, 4), 2, torch.zeros(2)),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(shape, rows, seeds):
    with pytest.raises(InvalidInputError, match="expected"):
        add_noise_batch(torch.zeros(shape), NoiseBatch.of([QUIET] * rows), seeds)


def test_between_measured_isos_scales_are_lines_in_logarithms_and_shapes_those_of_the_nearest():
    points = (
        NoisePoint(iso=200, gain_dn_per_electron=1.0, read_sigma_dn=2.0, read_tukey_lambda=0.1, row_sigma_dn=0.0),
        NoisePoint(
            iso=3200, gain_dn_per_electron=16.0, read_sigma_dn=8.0, read_tukey_lambda=-0.1, row_sigma_dn=4.0,
            black_offset_dn=(1.0, 2.0, 3.0, 4.0),
        ),
    )  # fmt: skip
    camera = CANON.model_copy(update={"noise": TabulatedNoise(points=points, source="test")})
    found = {iso: noise_at(camera, iso, seed=0) for iso in (200, 400, 800, 1600, 3200)}
    gains = [noise.system_gain_dn_per_electron for noise in found.values()]
    assert gains == pytest.approx([1.0, 2.0, 4.0, 8.0, 16.0])
    assert [noise.read_sigma_dn for noise in found.values()] == pytest.approx([2.0, 8**0.5, 4.0, 32**0.5, 8.0])
    # from 0 there is no line in logarithms: it is one over the stops
    assert [noise.row_sigma_dn for noise in found.values()] == pytest.approx([0.0, 1.0, 2.0, 3.0, 4.0])
    nearest = [noise_at(camera, iso, seed=0) for iso in (200, 780, 820, 3200)]
    assert [noise.read_tukey_lambda for noise in nearest] == [0.1, 0.1, -0.1, -0.1]
    assert [noise.black_offset_dn[3] for noise in nearest] == [0.0, 0.0, 4.0, 4.0]


def test_the_gain_of_a_line_is_that_of_its_first_iso():
    assert CANON.noise is not None
    moved = CANON.noise.model_copy(update={"iso_min": 200, "gain_dn_per_electron_at_iso_min": 0.5})
    camera = CANON.model_copy(update={"noise": moved})
    assert noise_at(camera, 200, seed=0).system_gain_dn_per_electron == pytest.approx(0.5)
    assert noise_at(camera, 800, seed=0).system_gain_dn_per_electron == pytest.approx(2.0)
