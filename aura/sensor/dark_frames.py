"""Black level, read noise and row noise of a sensor, from frames without light.

Planes are R, Gr, Gb, B, in DN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import scipy.optimize
import scipy.stats

from aura.sensor.confidence import RESAMPLES, SEED, Estimate, estimate

_SHAPE_SAMPLES: Final = 200_000
_SHAPE_RANGE: Final = (-0.4, 0.6)
_STEP_SAMPLES: Final = 500_000


@dataclass(frozen=True, slots=True)
class DarkCalibration:
    """What frames without light say.

    Attributes:
        black_level_dn: mean of each plane.
        read_sigma_dn: standard deviation of the read noise, row noise and rounding taken off.
        read_tukey_lambda: shape of the read noise; 0.14 is close to Gaussian, less has heavier tails.
        row_sigma_dn: standard deviation of what a row of the mosaic shares.
        quantisation_step_dn: smallest difference between stored numbers.
        frames: how many there were.
    """

    black_level_dn: tuple[Estimate, Estimate, Estimate, Estimate]
    read_sigma_dn: Estimate
    read_tukey_lambda: float
    row_sigma_dn: Estimate
    quantisation_step_dn: float
    frames: int


def calibrate_dark(darks: Sequence[np.ndarray]) -> DarkCalibration:
    """Estimate what needs no light.

    Args:
        darks: ``(4, h, w)`` each, DN, with the cap on, of one camera at one ISO; best two or more.
    """
    rng = np.random.default_rng(SEED)
    stack = np.stack([np.asarray(dark, dtype=np.float64) for dark in darks])
    frames, _, height, width = stack.shape
    step = _quantisation_step(darks)
    black = tuple(_mean_of_rows(stack[:, plane], rng) for plane in range(4))
    # what stays in place cancels against the frames' mean; one frame alone has only its planes' means for that
    noise = stack - (stack.mean(axis=0) if frames > 1 else stack.mean(axis=(2, 3), keepdims=True))
    noise *= np.sqrt(frames / (frames - 1)) if frames > 1 else 1.0
    noise = noise - noise.mean(axis=(2, 3), keepdims=True)
    # R and Gr share the mosaic's row, Gb and B the next
    pairs = noise.reshape(-1, 2, 2, height, width)
    row_mean = pairs.mean(axis=(2, 4), keepdims=True)
    pixels = 2 * width
    within = ((pairs - row_mean) ** 2).sum(axis=(2, 4)) / (pixels - 1)
    # a row's deviations from the frames' mean hang together, so what is resampled is the row in all frames at once
    between = (row_mean[:, :, 0, :, 0] ** 2 - within / pixels).mean(axis=0).ravel()
    within = within.mean(axis=0).ravel()
    chosen = rng.integers(0, within.size, (RESAMPLES, within.size)) if within.size else np.zeros((0, 0), int)
    read = estimate(within.mean() - step**2 / 12.0, within[chosen].mean(axis=1) - step**2 / 12.0)
    row = estimate(between.mean(), between[chosen].mean(axis=1))
    read_sigma = _root(read)
    return DarkCalibration(
        black_level_dn=(black[0], black[1], black[2], black[3]),
        read_sigma_dn=read_sigma,
        read_tukey_lambda=_tukey_shape(_residual(stack, read_sigma.value), step, rng),
        row_sigma_dn=_root(row),
        quantisation_step_dn=step,
        frames=frames,
    )


def _quantisation_step(frames: Sequence[np.ndarray]) -> float:
    """Greatest common divisor of the stored numbers' differences: over 1 where bits were shifted in."""
    values = np.unique(np.concatenate([np.asarray(frame).ravel()[:_STEP_SAMPLES] for frame in frames]))
    if values.size < 2 or not np.array_equal(values, np.round(values)):
        return 1.0
    return float(np.gcd.reduce(np.diff(values.astype(np.int64))))


def _mean_of_rows(plane: np.ndarray, rng: np.random.Generator) -> Estimate:
    """Mean of ``(frames, h, w)``; rows share an error, so rows are what is resampled."""
    rows = plane.mean(axis=2).ravel()
    chosen = rng.integers(0, rows.size, (RESAMPLES, rows.size))
    return estimate(rows.mean(), rows[chosen].mean(axis=1))


def _root(variance: Estimate) -> Estimate:
    value, low, high = (float(np.sqrt(max(end, 0.0))) for end in (variance.value, variance.low, variance.high))
    return Estimate(value, low, high)


def _residual(stack: np.ndarray, read_sigma_dn: float) -> np.ndarray:
    """Read noise of ``(frames, 4, h, w)``, rows' errors taken off, without pixels that are off in every frame.

    A difference of frames would be closer to Gaussian than the frames are.
    """
    centred = stack - stack.mean(axis=(2, 3), keepdims=True)
    pairs = centred.reshape(len(stack), 2, 2, *stack.shape[2:])
    residual = pairs - pairs.mean(axis=(2, 4), keepdims=True)
    if len(stack) == 1:
        return np.asarray(residual.ravel())
    limit = 3.0 * read_sigma_dn
    always_off = (residual.min(axis=0) > limit) | (residual.max(axis=0) < -limit)
    return np.asarray(residual[:, ~always_off].ravel())


def _tukey_shape(residual: np.ndarray, step: float, rng: np.random.Generator) -> float:
    """Shape whose quantiles correlate best with the residual's (J. J. Filliben, Technometrics 17, 1975)."""
    sample = rng.choice(residual, _SHAPE_SAMPLES, replace=False) if residual.size > _SHAPE_SAMPLES else residual
    if np.ptp(sample) == 0.0:
        return 0.14
    # rounding makes ties; spreading each value over its step undoes them
    spread = np.sort(sample + rng.uniform(-0.5 * step, 0.5 * step, sample.size))
    inner = spread[:: max(1, spread.size // 4000)]
    probability = (np.arange(inner.size) + 0.5) / inner.size

    def discorrelation(shape: float) -> float:
        return 1.0 - float(np.corrcoef(scipy.stats.tukeylambda.ppf(probability, shape), inner)[0, 1])

    return float(scipy.optimize.minimize_scalar(discorrelation, bounds=_SHAPE_RANGE, method="bounded").x)
