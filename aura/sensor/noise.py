"""Sensor noise: what it is at a camera and ISO. Adding it is in :mod:`aura.sensor.noise_draws`.

The model follows Wei et al., *A Physics-based Noise Formation Model for Extreme Low-light Raw Denoising* (ELD, CVPR
2020): photons arrive as a Poisson process, the readout adds noise with tails heavier than a Gaussian's, each row of the
mosaic shares an error, and the converter rounds. All numbers are in the camera's DN with the black level taken off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np

from aura.errors import InvalidInputError, NoiseUnavailableError
from aura.sensor.catalog import load_profile
from aura.sensor.profile import (
    FourLevels,
    LogLinearNoise,
    NoiseCalibration,
    PolynomialNoise,
    SensorProfile,
    TabulatedNoise,
)

NoiseModel = Literal["calibrated", "generic"]

_PARAMETER_STREAM: Final = 0x6E6F6973  # keeps these draws apart from others of the same seed
LOGISTIC_BELOW: Final = 1e-5
"""Shapes of the Tukey-lambda distribution nearer to 0 than this are taken for 0, the logistic one."""


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
    return _noise(profile, iso, np.random.default_rng([seed, _PARAMETER_STREAM]), model)


def typical_noise(profile: SensorProfile, iso: int, *, model: NoiseModel = "calibrated") -> NoiseParameters:
    """Noise without the scatter of :func:`noise_at`: every scale on its line, the median shape, no black offset.

    Raises:
        NoiseUnavailableError: the camera has no calibration, or the ISO lies outside it.
    """
    return replace(_noise(profile, iso, None, model), black_offset_dn=(0.0, 0.0, 0.0, 0.0))


def _noise(profile: SensorProfile, iso: int, rng: np.random.Generator | None, model: NoiseModel) -> NoiseParameters:
    calibration = _calibration(profile, model)
    if not calibration.iso_min <= iso <= calibration.iso_max:
        raise NoiseUnavailableError(
            f"The {model} noise of {profile.name} is known from ISO {calibration.iso_min} to {calibration.iso_max}, "
            f"not at ISO {iso}. Choose an ISO in that range, or no noise."
        )
    if isinstance(calibration, LogLinearNoise):
        parameters = _log_linear(calibration, iso, rng)
    elif isinstance(calibration, TabulatedNoise):
        parameters = _tabulated(calibration, iso)
    else:
        parameters = _polynomial(calibration, iso)
    if calibration.reference_range_dn is None:
        return parameters
    return scaled_noise(parameters, profile.levels_at(iso).range_dn / calibration.reference_range_dn)


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


def _log_linear(calibration: LogLinearNoise, iso: int, rng: np.random.Generator | None) -> NoiseParameters:
    gain = calibration.gain_dn_per_electron_at_iso_min * iso / calibration.iso_min
    lines = (calibration.read_tukey_scale_dn, calibration.row_sigma_dn)
    if rng is None:
        shape, offset = float(np.median(calibration.read_tukey_lambda)), calibration.black_offset_dn[0]
        scatter = [0.0, 0.0]
    else:
        shape = float(rng.choice(calibration.read_tukey_lambda))
        offset = calibration.black_offset_dn[int(rng.integers(len(calibration.black_offset_dn)))]
        scatter = [line.sigma * rng.standard_normal() for line in lines]
    tukey_scale, row_sigma = (
        math.exp(line.slope * math.log(gain) + line.bias + deviation)
        for line, deviation in zip(lines, scatter, strict=True)
    )
    return NoiseParameters(
        system_gain_dn_per_electron=gain,
        read_sigma_dn=tukey_scale * tukey_lambda_deviation(shape),
        read_tukey_lambda=shape,
        row_sigma_dn=row_sigma,
        black_offset_dn=offset,
    )


def _tabulated(calibration: TabulatedNoise, iso: int) -> NoiseParameters:
    """Interpolate; the shape and the black offset are those of the nearest measured ISO."""
    stops = np.log2([point.iso for point in calibration.points])
    nearest = calibration.points[int(np.abs(stops - math.log2(iso)).argmin())]

    def scale(values: Sequence[float]) -> float:
        if min(values) <= 0.0:
            return float(np.interp(math.log2(iso), stops, values))
        return float(np.exp(np.interp(math.log2(iso), stops, np.log(values))))

    return NoiseParameters(
        system_gain_dn_per_electron=scale([point.gain_dn_per_electron for point in calibration.points]),
        read_sigma_dn=scale([point.read_sigma_dn for point in calibration.points]),
        read_tukey_lambda=nearest.read_tukey_lambda,
        row_sigma_dn=scale([point.row_sigma_dn for point in calibration.points]),
        black_offset_dn=nearest.black_offset_dn,
    )


def _polynomial(calibration: PolynomialNoise, iso: int) -> NoiseParameters:
    polynomial = np.polynomial.polynomial.polyval
    return NoiseParameters(
        system_gain_dn_per_electron=float(polynomial(iso, calibration.gain_dn_per_electron)),
        read_sigma_dn=math.sqrt(float(polynomial(iso, calibration.read_variance_dn2))),
    )


def scaled_noise(noise: NoiseParameters, factor: float) -> NoiseParameters:
    """Express the same noise in DN of another size; the converter's step stays that of the camera.

    Args:
        noise: in DN of its camera at its ISO.
        factor: how many of the other DN are one of those, such as the quotient of two ranges from black to white.
    """
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
    if abs(shape) < LOGISTIC_BELOW:  # the limit; the formula would divide rounding errors by λ²
        return math.pi / math.sqrt(3.0)
    moment = 1.0 / (1.0 + 2.0 * shape) - math.gamma(shape + 1.0) ** 2 / math.gamma(2.0 * shape + 2.0)
    return math.sqrt(2.0 * moment) / abs(shape)
