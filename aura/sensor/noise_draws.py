"""Adding noise to a signal: draws that follow from the seed and the pixel's place alone, on a CPU or a GPU.

Neither threads nor the rest of a batch matter, so an exposure can be drawn again anywhere. What the noise is comes from
:mod:`aura.sensor.noise`. Written in tensors here, for a GPU and for gradients; a CPU draws in :mod:`aura.sensor.loops`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from aura.compiled import loops_take
from aura.errors import InvalidInputError
from aura.sensor.loops import SeededNoise, add_noise_to_planes, read_quantile_table
from aura.sensor.noise import LOGISTIC_BELOW, NoiseParameters, tukey_lambda_deviation

_FEW_ELECTRONS: Final = 10.0
_MOST_OF_FEW: Final = 36  # beyond, the probability at a rate of 10 is under 2^-25
_LEAST_PROBABILITY: Final = 2.0**-25
_GOLDEN_RATIO: Final = -7046029254386353131  # 0x9E3779B97F4A7C15: 2^64 / φ, odd
_LARGEST_SEED: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class NoiseBatch:
    """Noise of B exposures as tensors, for noise that is added where the batch lies, on a CPU or a GPU.

    The fields are those of :class:`NoiseParameters`, with a first dimension of B.

    Attributes:
        system_gain_dn_per_electron: ``(B,)``.
        read_sigma_dn: ``(B,)``.
        read_tukey_lambda: ``(B,)``; NaN for Gaussian.
        row_sigma_dn: ``(B,)``.
        black_offset_dn: ``(B, 4)``, R, Gr, Gb, B.
    """

    system_gain_dn_per_electron: Tensor
    read_sigma_dn: Tensor
    read_tukey_lambda: Tensor
    row_sigma_dn: Tensor
    black_offset_dn: Tensor

    @classmethod
    def of(cls, noises: Sequence[NoiseParameters]) -> NoiseBatch:
        """Stack the noise of several exposures, float64 on the CPU."""

        def column(values: Iterable[float | None]) -> Tensor:
            return torch.tensor([math.nan if value is None else value for value in values], dtype=torch.float64)

        return cls(
            system_gain_dn_per_electron=column(noise.system_gain_dn_per_electron for noise in noises),
            read_sigma_dn=column(noise.read_sigma_dn for noise in noises),
            read_tukey_lambda=column(noise.read_tukey_lambda for noise in noises),
            row_sigma_dn=column(noise.row_sigma_dn for noise in noises),
            black_offset_dn=torch.tensor([noise.black_offset_dn for noise in noises], dtype=torch.float64),
        )


def add_noise(clean_dn: Tensor, noise: NoiseParameters, seed: int) -> Tensor:
    """Add photon, read and row noise and the black offset to a clean signal.

    Args:
        clean_dn: ``(*, 4, h, w)`` float, DN with the black level taken off; planes R, Gr, Gb, B. Light below zero
            makes no photons and passes through.
        noise: what to add.
        seed: 0 to 2^64 - 1. The same seed gives the same noise, bit for bit on one kind of device whatever the number
            of threads; another kind of device rounds otherwise, but draws the same.

    Returns:
        The same shape and dtype, to the precision of float32; neither clipped nor rounded, since values below black are
        real.

    Raises:
        InvalidInputError: not four planes, or not float.
    """
    _check_planes(clean_dn)
    one = clean_dn.reshape(1, -1, *clean_dn.shape[-3:])
    return _add(one, NoiseBatch.of([noise]), torch.tensor([_as_int64(seed)])).view(clean_dn.shape)


def add_noise_batch(clean_dn: Tensor, noise: NoiseBatch, seeds: Tensor) -> Tensor:
    """Add to each of B exposures its own noise; sample i becomes what :func:`add_noise` makes of it alone.

    Args:
        clean_dn: ``(B, 4, h, w)`` float, on any device; see :func:`add_noise`.
        noise: of the B exposures.
        seeds: ``(B,)`` int64.

    Returns:
        The same shape, dtype and device; neither clipped nor rounded.

    Raises:
        InvalidInputError: not four planes, not float, or not B rows of noise and seeds.
    """
    _check_planes(clean_dn)
    counts = {len(clean_dn), len(noise.read_sigma_dn), len(seeds)}
    if clean_dn.ndim != 4 or len(counts) != 1 or seeds.dtype != torch.int64:
        raise InvalidInputError(
            f"Clean RAW is {tuple(clean_dn.shape)}, with {len(noise.read_sigma_dn)} rows of noise and {len(seeds)} "
            f"seeds ({seeds.dtype}); expected (B, 4, h, w), B rows of noise and B int64 seeds."
        )
    return _add(clean_dn[:, None], noise, seeds)[:, 0]


def seed_of_epoch(seed: int, epoch: int) -> int:
    """Derive the seed of a sample's noise in one epoch from its own; other epochs are independent of it.

    Args:
        seed: the sample's, 0 to 2^64 - 1.
        epoch: 0 or more.

    Returns:
        0 to 2^63 - 1.
    """
    key = _mix(_mix(torch.tensor(_as_int64(seed))) + torch.tensor(epoch) * _GOLDEN_RATIO)
    return int(key) & _LARGEST_SEED


def digitise(clean_dn: Tensor, noisy_dn: Tensor, black_level: Tensor, white_level: Tensor) -> Tensor:
    """Take a signal to stored numbers: black level, rounding, clipping, saturation.

    Saturated pixels, which stand for any amount of light, stay saturated whatever the noise.

    Args:
        clean_dn: ``(*, 4, h, w)`` float, black level taken off: says what is saturated.
        noisy_dn: the same shape: what is stored.
        black_level: ``(4,)`` or ``(*, 4)`` DN.
        white_level: likewise.

    Returns:
        The same shape, int32, within 0 .. white level; what is saturated is the highest whole number in that.
    """
    black, white = (level.to(noisy_dn)[..., None, None] for level in (black_level, white_level))
    dn = torch.minimum((noisy_dn + black).round_().clamp_min_(0.0), white)
    return torch.where(clean_dn >= white - black - 0.5, white, dn).to(torch.int32)


def noise_on_read(
    clean_dn: Tensor, black_level: Tensor, white_level: Tensor, noise: NoiseBatch, seeds: Tensor
) -> Tensor:
    """Make noisy RAW of stored clean RAW: what the same camera would have stored, had it taken this exposure.

    With ``seeds`` from :func:`seed_of_epoch`, each epoch sees another exposure of the same scene, and can be repeated.
    The clean RAW was rounded once already, which adds a twelfth of a DN² to the variance.

    Args:
        clean_dn: ``(B, 4, h, w)`` DN as stored, black level included, any real dtype, on any device.
        black_level: ``(B, 4)`` DN.
        white_level: ``(B, 4)`` DN.
        noise: of the B exposures.
        seeds: ``(B,)`` int64.

    Returns:
        ``(B, 4, h, w)`` int32 DN, black level included, within 0 .. white level.

    Raises:
        InvalidInputError: shapes that do not fit.
    """
    signal = clean_dn.to(torch.float32) - black_level.to(clean_dn.device, torch.float32)[..., None, None]
    return digitise(signal, add_noise_batch(signal, noise, seeds), black_level, white_level)


def _as_int64(seed: int) -> int:
    return (seed + 2**63) % 2**64 - 2**63


def _check_planes(clean_dn: Tensor) -> None:
    if clean_dn.ndim < 3 or clean_dn.shape[-3] != 4 or not clean_dn.is_floating_point():
        raise InvalidInputError(
            f"Clean RAW is {tuple(clean_dn.shape)} {clean_dn.dtype}; expected (*, 4, h, w) floating point."
        )


def _add(clean_dn: Tensor, noise: NoiseBatch, seeds: Tensor) -> Tensor:
    """Add noise to ``(B, L, 4, h, w)``: B seeds, and L mosaics for each."""
    if loops_take(clean_dn):
        return _add_by_loops(clean_dn, noise, seeds)
    keys = _mix(seeds.to(clean_dn.device))[:, None]
    gain, read_sigma, row_sigma = (
        value.to(clean_dn)[:, None]
        for value in (noise.system_gain_dn_per_electron, noise.read_sigma_dn, noise.row_sigma_dn)
    )
    shapes = noise.read_tukey_lambda.tolist()
    deviation = [1.0 if math.isnan(value) else tukey_lambda_deviation(value) for value in shapes]
    read_scale = read_sigma / read_sigma.new_tensor(deviation)[:, None]
    clean = clean_dn.reshape(len(clean_dn), -1)
    draws = _random_bits(keys, 0, clean.shape[1])
    light = _photon_noise(clean, gain, _symmetric_uniform(draws, 40))
    unit = _unit_read_noise(_symmetric_uniform(draws, 16).to(clean_dn.dtype), shapes)
    noisy = light.addcmul_(unit, read_scale).view(clean_dn.shape)
    noisy += _row_noise(clean_dn.shape, keys, clean.shape[1], row_sigma)
    noisy += noise.black_offset_dn.to(clean_dn)[:, None, :, None, None]
    return noisy


def _add_by_loops(clean_dn: Tensor, noise: NoiseBatch, seeds: Tensor) -> Tensor:
    clean = clean_dn.to(torch.float32).contiguous()
    noisy = torch.empty_like(clean)
    for row, seed in enumerate(seeds.tolist()):
        add_noise_to_planes(clean[row].numpy(), noisy[row].numpy(), seeded(noise, row, seed))
    return noisy.to(clean_dn.dtype)


def seeded(noise: NoiseBatch, row: int, seed: int) -> SeededNoise:
    """Take the noise of one exposure of a batch to the compiled loops of a CPU."""
    shape = float(noise.read_tukey_lambda[row])
    tukey_lambda = None if math.isnan(shape) else shape
    deviation = 1.0 if tukey_lambda is None else tukey_lambda_deviation(tukey_lambda)
    return SeededNoise(
        seed=np.uint64(seed % 2**64),
        gain_dn_per_electron=np.float32(noise.system_gain_dn_per_electron[row]),
        read_scale_dn=np.float32(noise.read_sigma_dn[row] / deviation),
        read_quantiles=read_quantile_table(tukey_lambda),
        row_sigma_dn=np.float32(noise.row_sigma_dn[row]),
        black_offset_dn=noise.black_offset_dn[row].to(torch.float32).numpy(),
    )


def _random_bits(keys: Tensor, start: int, stop: int) -> Tensor:
    """64 random bits for each key and counter from ``start`` to ``stop``: ``(B, 1)`` -> ``(B, stop - start)`` int64.

    The bits of a pixel follow from seed and place alone, so neither threads nor the rest of a batch matter.
    SplitMix64 of Steele, Lea and Flood, *Fast Splittable Pseudorandom Number Generators*, OOPSLA 2014.
    """
    counter = torch.arange(start + 1, stop + 1, device=keys.device)
    return _mix(counter.mul_(_GOLDEN_RATIO) + keys)


def _mix(state: Tensor) -> Tensor:
    """SplitMix64's finalizer on int64, which wraps; masks make the signed shifts logical."""
    mixed = state ^ ((state >> 30) & 0x3_FFFF_FFFF)
    mixed *= -4658895280553007687  # 0xBF58476D1CE4E5B9
    mixed ^= (mixed >> 27) & 0x1F_FFFF_FFFF
    mixed *= -7723592293110705685  # 0x94D049BB133111EB
    mixed ^= (mixed >> 31) & 0x1_FFFF_FFFF
    return mixed


def _symmetric_uniform(bits: Tensor, lowest_bit: int) -> Tensor:
    """Odd multiples of 2^-24 in (-1, 1), each exact in float32, from 24 of the bits."""
    whole = ((bits >> lowest_bit) & 0xFF_FFFF).mul_(2).sub_(0xFF_FFFF)
    return whole.to(torch.float32).mul_(2.0**-24)


def _unit_normal(uniform: Tensor) -> Tensor:
    """Standard normal numbers by their quantile function, from uniform ones in (-1, 1)."""
    return torch.erfinv(uniform).mul_(math.sqrt(2.0))


def _photon_noise(clean_dn: Tensor, gain_dn_per_electron: Tensor, uniform: Tensor) -> Tensor:
    lossless = gain_dn_per_electron == 0.0
    rate = clean_dn.clamp_min(0.0).div_(torch.where(lossless, 1.0, gain_dn_per_electron))
    noisy = poisson_quantile(rate, uniform).mul_(gain_dn_per_electron).add_(clean_dn.clamp_max(0.0))
    return torch.where(lossless, clean_dn, noisy)


def poisson_quantile(rate: Tensor, uniform: Tensor) -> Tensor:
    """Quantiles of Poisson distributions, exact below a rate of 10 and asymptotic above.

    The asymptotic form is Q_N3 of Giles, *Algorithm 955: Approximation of the Inverse Poisson CDF*, ACM TOMS 42, 2016;
    it makes whole numbers and is several times faster than rejection.

    Args:
        rate: any shape, float, at least 0.
        uniform: the same shape, in (-1, 1): the probability is (1 + uniform) / 2.

    Returns:
        Whole numbers, at least 0, same shape and dtype.
    """
    w = _unit_normal(uniform).to(rate.dtype)
    safe = rate.clamp_min(_FEW_ELECTRONS)
    root = safe.sqrt()
    w2 = w * w
    # rate + root·w + (1/3 + w²/6) - (w/36 + w³/72)/root + (-8/405 + 7w²/810 + w⁴/270)/rate, in Horner form
    last = (w2 / 270.0).add_(7.0 / 810.0).mul_(w2).sub_(8.0 / 405.0).div_(root)
    third = (w2 / 72.0).add_(1.0 / 36.0).mul_(w)
    second = last.sub_(third).div_(root).add_(w2, alpha=1.0 / 6.0).add_(1.0 / 3.0)
    # at rates of 10 to 13 the rarest few in ten million would be -1
    count = second.addcmul_(root, w).add_(safe).floor_().clamp_min_(0.0)
    few = rate < _FEW_ELECTRONS
    # to select the few would make a GPU wait
    return torch.where(few, _few_electrons(rate.clamp_max(_FEW_ELECTRONS), uniform), count)


def _few_electrons(rate: Tensor, uniform: Tensor) -> Tensor:
    """Poisson quantiles by adding up probabilities, for rates of at most 10."""
    probability = 0.5 + 0.5 * uniform.to(rate.dtype)
    term = (-rate).exp()
    cumulative, count = term.clone(), torch.zeros_like(rate)
    for electrons in range(1, _MOST_OF_FEW + 1):
        more = probability > cumulative
        term.mul_(rate).mul_(1.0 / electrons)
        # terms that float32 cannot add any more end the sum
        count += more.logical_and_(term > _LEAST_PROBABILITY)
        cumulative += term
    return count


def _unit_read_noise(uniform: Tensor, shapes: Sequence[float]) -> Tensor:
    """Gaussian where the shape is NaN, else Tukey-lambda of scale 1: uniform ``(B, n)``, B shapes."""
    known = [not math.isnan(shape) for shape in shapes]  # here, since to ask a GPU would wait for it
    if not any(known):
        return _unit_normal(uniform)
    shape = uniform.new_tensor(shapes)[:, None]
    gaussian = shape.isnan()
    # (u^λ - (1-u)^λ) / λ, whose limit at λ = 0 is ln u - ln(1-u)
    low, high = uniform.log1p().sub_(math.log(2.0)), (-uniform).log1p_().sub_(math.log(2.0))
    logistic = shape.abs() < LOGISTIC_BELOW
    power = torch.where(logistic | gaussian, 1.0, shape)
    # expm1 keeps precision where λ is small and both powers are near 1
    tukey = (low * power).expm1_().sub_((high * power).expm1_()).div_(power)
    unit = torch.where(logistic, low.sub_(high), tukey)
    return unit if all(known) else torch.where(gaussian, _unit_normal(uniform), unit)


def _row_noise(shape: torch.Size, keys: Tensor, start: int, sigma_dn: Tensor) -> Tensor:
    """One number per mosaic row: R and Gr lie in one row of the cell, Gb and B in the other."""
    batch, mosaics, _, height, _ = shape
    bits = _random_bits(keys, start, start + 2 * mosaics * height)
    rows = _unit_normal(_symmetric_uniform(bits, 40)).to(sigma_dn.dtype).mul_(sigma_dn)
    rows = rows.view(batch, mosaics, 2, 1, height, 1).expand(-1, -1, -1, 2, -1, -1)
    return rows.reshape(batch, mosaics, 4, height, 1)
