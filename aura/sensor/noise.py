"""Sensor noise: what it is at a camera and ISO, and adding it.

The model follows Wei et al., *A Physics-based Noise Formation Model for Extreme Low-light Raw Denoising* (ELD, CVPR
2020): photons arrive as a Poisson process, the readout adds noise with tails heavier than a Gaussian's, each row of the
mosaic shares an error, and the converter rounds. All numbers are in the camera's DN with the black level taken off.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from aura.errors import InvalidInputError, NoiseUnavailableError
from aura.sensor.catalog import load_profile
from aura.sensor.profile import FourLevels, LogLinearNoise, NoiseCalibration, PolynomialNoise, SensorProfile

NoiseModel = Literal["calibrated", "generic"]

_PARAMETER_STREAM: Final = 0x6E6F6973  # keeps these draws apart from others of the same seed
_FEW_ELECTRONS: Final = 10.0
_BLOCK_ELEMENTS: Final = 1 << 16  # intermediate results then stay in the cache, which halves the time
_LEAST_PROBABILITY: Final = 2.0**-25  # torch draws multiples of 2^-24, zero included


@dataclass(frozen=True, slots=True)
class NoiseParameters:
    """Noise of one exposure, in DN of its camera.

    Attributes:
        system_gain_dn_per_electron: K; photon noise has variance K · signal.
        read_sigma_dn: standard deviation of the read noise, whatever its shape.
        read_tukey_lambda: shape of the read noise as a Tukey-lambda distribution (above -0.5; 0 is logistic, 0.14 close
            to Gaussian), or None for Gaussian.
        row_sigma_dn: standard deviation of the error that a row of the mosaic shares.
        black_offset_dn: what the true black differs from the stated one, R, Gr, Gb, B.
        quantisation_step_dn: step of the converter.
    """

    system_gain_dn_per_electron: float
    read_sigma_dn: float
    read_tukey_lambda: float | None = None
    row_sigma_dn: float = 0.0
    black_offset_dn: FourLevels = (0.0, 0.0, 0.0, 0.0)
    quantisation_step_dn: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is not a noise."""
        scales = (self.system_gain_dn_per_electron, self.read_sigma_dn, self.row_sigma_dn, self.quantisation_step_dn)
        if not all(math.isfinite(scale) and scale >= 0 for scale in scales):
            raise InvalidInputError(f"Noise scales must be finite and at least 0 DN; found {scales}.")
        if self.read_tukey_lambda is not None and self.read_tukey_lambda <= -0.5:
            raise InvalidInputError(
                f"Tukey-lambda shape is {self.read_tukey_lambda}; its variance is finite above -0.5 only."
            )

    @property
    def dark_variance_dn2(self) -> float:
        """Variance without light, quantisation included."""
        return self.read_sigma_dn**2 + self.row_sigma_dn**2 + self.quantisation_step_dn**2 / 12.0

    def variance_dn2(self, signal_dn: float) -> float:
        """Variance at a clean signal, quantisation included."""
        return self.system_gain_dn_per_electron * max(signal_dn, 0.0) + self.dark_variance_dn2

    def normalised(self, range_dn: float) -> tuple[float, float]:
        """Scale and offset of DNG's NoiseProfile: for x = signal / ``range_dn``, variance = scale · x + offset."""
        return self.system_gain_dn_per_electron / range_dn, self.dark_variance_dn2 / range_dn**2


def noise_at(profile: SensorProfile, iso: int, seed: int, *, model: NoiseModel = "calibrated") -> NoiseParameters:
    """Draw the noise of one exposure.

    K is a function of ISO alone. In the ELD model the other scales scatter around their lines, and the shape and the
    black offset are drawn from those measured. ISO maps to K by K(ISO) = K(100) · ISO / 100: see
    :class:`aura.sensor.profile.LogLinearNoise`. No calibration is extrapolated.

    Args:
        profile: the camera.
        iso: sensitivity.
        seed: the same seed gives the same noise.
        model: the camera's own calibration, or the one model that is scaled to any camera.

    Raises:
        NoiseUnavailableError: the camera has no calibration, or the ISO lies outside it.
    """
    calibration = _calibration(profile, model)
    if not calibration.iso_min <= iso <= calibration.iso_max:
        raise NoiseUnavailableError(
            f"The {model} noise of {profile.name} is known from ISO {calibration.iso_min} to {calibration.iso_max}, "
            f"not at ISO {iso}. Choose an ISO in that range, or no noise."
        )
    rng = np.random.default_rng([seed, _PARAMETER_STREAM])
    if isinstance(calibration, LogLinearNoise):
        parameters = _draw_log_linear(calibration, iso, rng)
    else:
        parameters = _polynomial(calibration, iso)
    if calibration.reference_range_dn is None:
        return parameters
    return _scaled(parameters, profile.levels_at(iso).range_dn / calibration.reference_range_dn)


def noise_iso_range(profile: SensorProfile, model: NoiseModel = "calibrated") -> tuple[int, int]:
    """Lowest and highest ISO that the camera has and the model knows.

    Raises:
        NoiseUnavailableError: the camera has no calibration, or none of its ISOs lies inside it.
    """
    calibration = _calibration(profile, model)
    low = max(profile.iso_range[0], calibration.iso_min)
    high = min(profile.iso_range[1], calibration.iso_max)
    if low > high:
        raise NoiseUnavailableError(
            f"The {model} noise is known from ISO {calibration.iso_min} to {calibration.iso_max}; {profile.name} goes "
            f"from ISO {profile.iso_range[0]} to {profile.iso_range[1]}."
        )
    return low, high


def _calibration(profile: SensorProfile, model: NoiseModel) -> NoiseCalibration:
    calibration = load_profile("generic").noise if model == "generic" else profile.noise
    if calibration is None:
        raise NoiseUnavailableError(
            f"{profile.name} has no noise calibration. Use the noise model 'generic', or a camera that has one."
        )
    return calibration


def _draw_log_linear(calibration: LogLinearNoise, iso: int, rng: np.random.Generator) -> NoiseParameters:
    gain = calibration.gain_dn_per_electron_at_iso_min * iso / calibration.iso_min
    shape = float(rng.choice(calibration.read_tukey_lambda))
    offset = calibration.black_offset_dn[int(rng.integers(len(calibration.black_offset_dn)))]
    lines = (calibration.read_tukey_scale_dn, calibration.row_sigma_dn)
    tukey_scale, row_sigma = (
        math.exp(line.slope * math.log(gain) + line.bias + line.sigma * rng.standard_normal()) for line in lines
    )
    return NoiseParameters(
        system_gain_dn_per_electron=gain,
        read_sigma_dn=tukey_scale * tukey_lambda_deviation(shape),
        read_tukey_lambda=shape,
        row_sigma_dn=row_sigma,
        black_offset_dn=offset,
    )


def _polynomial(calibration: PolynomialNoise, iso: int) -> NoiseParameters:
    polynomial = np.polynomial.polynomial.polyval
    return NoiseParameters(
        system_gain_dn_per_electron=float(polynomial(iso, calibration.gain_dn_per_electron)),
        read_sigma_dn=math.sqrt(float(polynomial(iso, calibration.read_variance_dn2))),
    )


def _scaled(noise: NoiseParameters, factor: float) -> NoiseParameters:
    """Express the same noise in DN of another size; the converter's step stays that of the camera."""
    red, green_red, green_blue, blue = noise.black_offset_dn
    return replace(
        noise,
        system_gain_dn_per_electron=noise.system_gain_dn_per_electron * factor,
        read_sigma_dn=noise.read_sigma_dn * factor,
        row_sigma_dn=noise.row_sigma_dn * factor,
        black_offset_dn=(red * factor, green_red * factor, green_blue * factor, blue * factor),
    )


def tukey_lambda_deviation(shape: float) -> float:
    """Standard deviation of the Tukey-lambda distribution of scale 1.

    Args:
        shape: λ above -0.5.
    """
    if abs(shape) < 1e-5:  # the limit; the formula would divide rounding errors by λ²
        return math.pi / math.sqrt(3.0)
    moment = 1.0 / (1.0 + 2.0 * shape) - math.gamma(shape + 1.0) ** 2 / math.gamma(2.0 * shape + 2.0)
    return math.sqrt(2.0 * moment) / abs(shape)


def add_noise(clean_dn: Tensor, noise: NoiseParameters, seed: int) -> Tensor:
    """Add photon, read and row noise and the black offset to a clean signal.

    Args:
        clean_dn: ``(*, 4, h, w)`` float, DN with the black level taken off; planes R, Gr, Gb, B. Light below zero
            makes no photons and passes through.
        noise: what to add.
        seed: the same seed gives the same noise, bit for bit on CPU whatever the number of threads; another kind of
            device gives another noise.

    Returns:
        The same shape and dtype; neither clipped nor rounded, since values below black are real.

    Raises:
        InvalidInputError: not four planes, or not float.
    """
    if clean_dn.ndim < 3 or clean_dn.shape[-3] != 4 or not clean_dn.is_floating_point():
        raise InvalidInputError(
            f"Clean RAW is {tuple(clean_dn.shape)} {clean_dn.dtype}; expected (*, 4, h, w) floating point."
        )
    generator = torch.Generator(device=clean_dn.device).manual_seed(seed)
    noisy = clean_dn.clone(memory_format=torch.contiguous_format)
    for block in torch.split(noisy.view(-1), _BLOCK_ELEMENTS):
        light = _photon_noise(block, noise.system_gain_dn_per_electron, generator)
        torch.add(light, _read_noise(block, noise, generator), out=block)
    noisy += _row_noise(clean_dn, noise.row_sigma_dn, generator)
    noisy += noisy.new_tensor(noise.black_offset_dn)[:, None, None]
    return noisy


def _photon_noise(clean_dn: Tensor, gain_dn_per_electron: float, generator: torch.Generator) -> Tensor:
    if gain_dn_per_electron == 0.0:
        return clean_dn.clone()
    electrons = sample_poisson(clean_dn.clamp_min(0.0).div_(gain_dn_per_electron), generator)
    return electrons.mul_(gain_dn_per_electron).add_(clean_dn.clamp_max(0.0))


def sample_poisson(rate: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Poisson numbers, exactly below 10 and by the asymptotic inverse of the distribution above.

    The inverse is Q_N3 of Giles, *Algorithm 955: Approximation of the Inverse Poisson CDF*, ACM TOMS 42, 2016; it makes
    whole numbers and is several times faster than rejection.

    Args:
        rate: any shape, float, at least 0.
        generator: on the device of ``rate``.

    Returns:
        Whole numbers, same shape and dtype.
    """
    w = torch.randn(rate.shape, generator=generator, dtype=rate.dtype, device=rate.device)
    safe = rate.clamp_min(_FEW_ELECTRONS)
    root = safe.sqrt()
    w2 = w * w
    # rate + root·w + (1/3 + w²/6) - (w/36 + w³/72)/root + (-8/405 + 7w²/810 + w⁴/270)/rate, in Horner form
    last = (w2 / 270.0).add_(7.0 / 810.0).mul_(w2).sub_(8.0 / 405.0).div_(root)
    third = (w2 / 72.0).add_(1.0 / 36.0).mul_(w)
    second = last.sub_(third).div_(root).add_(w2, alpha=1.0 / 6.0).add_(1.0 / 3.0)
    count = second.addcmul_(root, w).add_(safe).floor_()
    few = rate < _FEW_ELECTRONS
    return count.masked_scatter_(few, torch.poisson(rate.masked_select(few), generator=generator))


def _read_noise(like: Tensor, noise: NoiseParameters, generator: torch.Generator) -> Tensor:
    if noise.read_tukey_lambda is None:
        unit = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=like.device)
        return unit.mul_(noise.read_sigma_dn)
    unit = _tukey_lambda(like, noise.read_tukey_lambda, generator)
    return unit.mul_(noise.read_sigma_dn / tukey_lambda_deviation(noise.read_tukey_lambda))


def _tukey_lambda(like: Tensor, shape: float, generator: torch.Generator) -> Tensor:
    """Draw by the quantile function, (u^λ - (1-u)^λ) / λ; its limit at λ = 0 is ln u - ln(1-u)."""
    uniform = torch.rand(like.shape, generator=generator, dtype=like.dtype, device=like.device)
    uniform.clamp_(_LEAST_PROBABILITY, 1.0 - 2.0 * _LEAST_PROBABILITY)
    low, high = uniform.log(), uniform.neg_().log1p_()
    if abs(shape) < 1e-5:
        return low.sub_(high)
    # expm1 keeps precision where λ is small and both powers are near 1
    return low.mul_(shape).expm1_().sub_(high.mul_(shape).expm1_()).div_(shape)


def _row_noise(like: Tensor, sigma_dn: float, generator: torch.Generator) -> Tensor:
    """One number per mosaic row: R and Gr lie in one row of the cell, Gb and B in the other."""
    shape = (*like.shape[:-3], 2, 1, like.shape[-2], 1)
    rows = torch.randn(shape, generator=generator, dtype=like.dtype, device=like.device).mul_(sigma_dn)
    return rows.expand(*like.shape[:-3], 2, 2, like.shape[-2], 1).reshape(*like.shape[:-1], 1)
