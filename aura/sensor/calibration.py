"""Photon transfer: a sensor's gain and noise from flat and dark frames.

The variance of a pixel that sees a constant light grows in proportion to the signal, and the slope is the system gain K
(J. R. Janesick, *Photon Transfer*, SPIE Press 2007; EMVA Standard 1288). Frames are cut into blocks, each of which
gives a signal and a variance, so that light may fall off across a frame. Where two frames show the same, their
difference gives the variance and everything that stays in place cancels: vignetting, dust, pixels of unequal response,
even a scene. A frame without a partner gives it by the differences of neighbours.

Signals are DN with the black level taken off; planes are R, Gr, Gb, B.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from aura.errors import InvalidInputError
from aura.sensor.confidence import RESAMPLES, SEED, Estimate, estimate
from aura.sensor.dark_frames import DarkCalibration, calibrate_dark
from aura.sensor.profile import FourLevels

BLOCK_SIDE: Final = 32
_SAME_EXPOSURE: Final = 0.02
_BLACK_DRIFT_DN: Final = 0.5
_SATURATED_FROM: Final = 0.95
_CUT_SHARE: Final = 0.01
"""Of values stored as 0, above which noise below black counts as cut off; under it a Gaussian loses less than 1 %."""
_OUTLIER_SIGMAS: Final = 4.0
_REFITS: Final = 12
_LEAST_BLOCKS: Final = 24
_NEIGHBOUR_VARIANCE: Final = 1.5  # of x - (left + right) / 2, in units of the pixel's

Planes = np.ndarray


@dataclass(frozen=True, slots=True)
class TransferPoints:
    """Blocks of the frames: what the fit saw, for a plot.

    Attributes:
        signal_dn: ``(n,)`` mean, black level taken off.
        variance_dn2: ``(n,)`` variance in time.
        plane: ``(n,)`` int, 0 to 3.
        used: ``(n,)`` bool; the others are outliers, such as blocks with an edge in them.
    """

    signal_dn: np.ndarray
    variance_dn2: np.ndarray
    plane: np.ndarray
    used: np.ndarray


@dataclass(frozen=True, slots=True)
class GainCalibration:
    """What frames with light say.

    Attributes:
        system_gain_dn_per_electron: K, the slope of variance over signal.
        plane_gain_dn_per_electron: the same for each plane by itself, as a check: they should agree.
        intercept_dn2: variance at no light by the fit, row noise and rounding included.
        response_nonuniformity: what makes the variance of single frames bend upwards, as a share of the signal; 0 where
            all frames had a partner.
        points: the blocks.
        pairs: frames that had a partner.
        singles: frames that had none.
    """

    system_gain_dn_per_electron: Estimate
    plane_gain_dn_per_electron: tuple[float, float, float, float]
    intercept_dn2: float
    response_nonuniformity: float
    points: TransferPoints
    pairs: int
    singles: int


@dataclass(frozen=True, slots=True)
class Calibration:
    """Gain and noise of a sensor at one setting.

    Attributes:
        dark: from the dark frames.
        gain: from the flat frames; None without any.
        warnings: sentences on what makes the figures less certain than their intervals say.
    """

    dark: DarkCalibration
    gain: GainCalibration | None
    warnings: tuple[str, ...]

    @property
    def black_level_dn(self) -> FourLevels:
        """Black level of R, Gr, Gb, B without the intervals."""
        red, green_red, green_blue, blue = (level.value for level in self.dark.black_level_dn)
        return red, green_red, green_blue, blue


def calibrate(flats: Sequence[Planes], darks: Sequence[Planes], white_level: float) -> Calibration:
    """Estimate black level, read noise, row noise and system gain from frames of one camera at one ISO.

    Args:
        flats: ``(4, h, w)`` each, DN, lit; best two or more of each of several exposures of an evenly lit surface.
        darks: ``(4, h, w)`` each, DN, with the cap on; best two or more.
        white_level: DN at saturation.

    Returns:
        The calibration; ``gain`` is None without flat frames.

    Raises:
        InvalidInputError: no dark frame, frames of different sizes, or flat frames too dark, too bright or too small
            to fit a line to.
    """
    _check_frames(flats, darks)
    dark = calibrate_dark(darks)
    warnings = []
    cut = float(np.mean([np.mean(np.asarray(dark) == 0) for dark in darks]))
    if cut > _CUT_SHARE:
        warnings.append(
            f"{cut:.0%} of the dark frames' values are 0, where noise below black is cut off: read and row noise are "
            "larger than found here, and the black level is lower. Use RAW files from which no black was subtracted."
        )
    if len(darks) == 1:
        warnings.append("There is one dark frame, so pixels that are always too bright count as read noise; take two.")
    gain = None
    if flats:
        black = [level.value for level in dark.black_level_dn]
        gain = _calibrate_gain(flats, darks, black, white_level, dark)
        if gain.singles:
            warnings.append(
                f"{gain.singles} of {len(flats)} flat frames have no partner of the same exposure, so texture may "
                "count as noise; take two of each."
            )
        spread = np.ptp(gain.plane_gain_dn_per_electron) / gain.system_gain_dn_per_electron.value
        if spread > 0.1:
            warnings.append(f"The planes' gains differ by {spread:.0%}; were the frames evenly lit and in focus?")
    return Calibration(dark, gain, tuple(warnings))


def _check_frames(flats: Sequence[Planes], darks: Sequence[Planes]) -> None:
    if not darks:
        raise InvalidInputError("There is no dark frame; photon transfer needs at least one, taken with the cap on.")
    shapes = {np.shape(frame) for frame in (*flats, *darks)}
    if len(shapes) != 1:
        raise InvalidInputError(f"Frames have the shapes {sorted(shapes)}; expected all alike, from one camera.")
    (shape,) = shapes
    if len(shape) != 3 or shape[0] != 4 or min(shape[1:]) < BLOCK_SIDE:
        raise InvalidInputError(f"Frames are {shape}; expected (4, h, w) with sides of at least {BLOCK_SIDE}.")


def _calibrate_gain(
    flats: Sequence[Planes], darks: Sequence[Planes], black: Sequence[float], white_level: float, dark: DarkCalibration
) -> GainCalibration:
    groups = _same_exposures([np.asarray(frame, dtype=np.float64) for frame in flats], float(np.mean(black)))
    blocks = [_blocks_of(group, black, white_level) for group in groups]
    if len(darks) > 1:
        blocks.append(_blocks_of([np.asarray(frame, dtype=np.float64) for frame in darks], black, white_level))
    signal, variance, freedom, plane = (np.concatenate(column) for column in zip(*blocks, strict=True))
    singles = sum(len(group) == 1 for group in groups)
    if signal.size < _LEAST_BLOCKS or np.ptp(signal) <= 0.0:
        raise InvalidInputError(
            f"Only {signal.size} blocks of {BLOCK_SIDE}x{BLOCK_SIDE} are neither dark nor saturated; at least "
            f"{_LEAST_BLOCKS} are needed. Take flat frames between a tenth and nine tenths of saturation."
        )
    dark_variance = dark.read_sigma_dn.value**2 + dark.row_sigma_dn.value**2 + dark.quantisation_step_dn**2 / 12.0
    fit, used = _fit_line(signal, variance, freedom, curved=singles > 0, start=dark_variance)
    if fit[1] <= 0.0:
        raise InvalidInputError(
            f"Variance does not grow with the signal (slope {fit[1]:.3g} DN per electron): these are no flat frames of "
            "a linear sensor. Use RAW files as the camera wrote them, without lossy compression."
        )
    rng = np.random.default_rng(SEED)
    slopes = _resampled_slopes(signal[used], variance[used], freedom[used], fit, rng)
    planes = [
        _fit_line(signal[plane == each], variance[plane == each], freedom[plane == each], curved=singles > 0,
                  start=dark_variance)[0][1]
        for each in range(4)
    ]  # fmt: skip
    return GainCalibration(
        system_gain_dn_per_electron=estimate(fit[1], slopes),
        plane_gain_dn_per_electron=(planes[0], planes[1], planes[2], planes[3]),
        intercept_dn2=float(fit[0]),
        response_nonuniformity=float(np.sqrt(fit[2])),
        points=TransferPoints(signal, variance, plane, used),
        pairs=len(flats) - singles,
        singles=singles,
    )


def _same_exposures(flats: list[np.ndarray], black: float) -> list[list[np.ndarray]]:
    """Put frames together whose mean signals differ by less than 2 %, or by what the black level drifts."""
    ordered = sorted(((float(frame.mean()) - black, frame) for frame in flats), key=lambda pair: pair[0])
    groups, first = [[ordered[0][1]]], ordered[0][0]
    for signal, frame in ordered[1:]:
        if signal <= first + max(_SAME_EXPOSURE * first, _BLACK_DRIFT_DN):
            groups[-1].append(frame)
        else:
            groups.append([frame])
            first = signal
    return groups


def _blocks_of(
    frames: list[np.ndarray], black: Sequence[float], white_level: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Signal, variance, degrees of freedom and plane of each block whose noise is cut off at neither end."""
    stack = np.stack([_in_blocks(frame) for frame in frames])  # (frames, 4, blocks, side, side)
    level = np.asarray(black)[:, None]
    signal = stack.mean(axis=(0, 3, 4)) - level
    if len(frames) > 1:
        # exposures of one setting still differ by a little: their mean is taken off block by block
        centred = stack - stack.mean(axis=(3, 4), keepdims=True)
        deviation = centred - centred.mean(axis=0)
        freedom = (len(frames) - 1) * (BLOCK_SIDE**2 - 1)
        variance = (deviation**2).sum(axis=(0, 3, 4)) / freedom
    else:
        frame = stack[0]
        second = frame[..., 1:-1] - 0.5 * (frame[..., :-2] + frame[..., 2:])
        variance = (second**2).mean(axis=(2, 3)) / _NEIGHBOUR_VARIANCE
        freedom = second[0, 0].size // 2  # neighbours' differences share pixels
    saturated = stack.max(axis=(0, 3, 4)) >= level + _SATURATED_FROM * (white_level - level)
    cut = (stack == 0.0).mean(axis=(0, 3, 4)) > _CUT_SHARE
    plane = np.broadcast_to(np.arange(4)[:, None], signal.shape)
    kept = ~(saturated | cut)
    return signal[kept], variance[kept], np.full(int(kept.sum()), freedom), plane[kept]


def _in_blocks(frame: np.ndarray) -> np.ndarray:
    """``(4, h, w)`` -> ``(4, blocks, side, side)``; what does not fill a block is left out."""
    rows, columns = frame.shape[1] // BLOCK_SIDE, frame.shape[2] // BLOCK_SIDE
    cut = frame[:, : rows * BLOCK_SIDE, : columns * BLOCK_SIDE].reshape(4, rows, BLOCK_SIDE, columns, BLOCK_SIDE)
    return cut.swapaxes(2, 3).reshape(4, rows * columns, BLOCK_SIDE, BLOCK_SIDE)


def _fit_line(
    signal: np.ndarray, variance: np.ndarray, freedom: np.ndarray, *, curved: bool, start: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit variance = c0 + c1 · signal (+ c2 · signal²) by weights from the model itself, without outliers.

    The start is low, so that blocks with structure in them, which only ever have too much variance, fall out first.
    """
    slope = np.percentile((variance - start) / np.maximum(signal, 1.0), 25 if curved else 50)
    fit = np.array([start, max(float(slope), 1e-6), 0.0])
    used = np.ones(signal.size, dtype=bool)
    for _ in range(_REFITS):
        expected = np.maximum(_model(fit, signal), 1e-9)
        sigma = expected * np.sqrt(2.0 / freedom) + 0.01 * expected
        used = np.abs(variance - expected) < _OUTLIER_SIGMAS * sigma
        if used.sum() < _LEAST_BLOCKS // 4:
            used = np.abs(variance - expected) <= np.percentile(np.abs(variance - expected), 50)
        fit = _weighted_fit(signal[used], variance[used], freedom[used] / expected[used] ** 2, curved=curved)
    return fit, used


def _model(fit: np.ndarray, signal: np.ndarray) -> np.ndarray:
    return np.asarray(fit[0] + fit[1] * signal + fit[2] * signal**2)


def _weighted_fit(signal: np.ndarray, variance: np.ndarray, weight: np.ndarray, *, curved: bool) -> np.ndarray:
    scale = max(float(np.abs(signal).max()), 1e-9)
    for terms in (3, 2) if curved else (2,):
        design = np.stack([(signal / scale) ** power for power in range(terms)], axis=1) * np.sqrt(weight)[:, None]
        solved = np.linalg.lstsq(design, variance * np.sqrt(weight), rcond=None)[0]
        fit = np.zeros(3)
        fit[:terms] = solved / scale ** np.arange(terms)
        if fit[2] >= 0.0:
            break
    return fit


def _resampled_slopes(
    signal: np.ndarray, variance: np.ndarray, freedom: np.ndarray, fit: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    weight = freedom / np.maximum(_model(fit, signal), 1e-9) ** 2
    curved = bool(fit[2] > 0.0)
    slopes = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(0, signal.size, signal.size)
        slopes.append(_weighted_fit(signal[chosen], variance[chosen], weight[chosen], curved=curved)[1])
    return np.asarray(slopes)
