"""The curve of :func:`aura.metrics.fit_tone` from pairs of codes, compiled: every sample's metrics need three.

SciPy, which the definition asks, takes twenty times as long, most of it with the interpreter locked.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aura.compiled import compiled

_CODES: Final = 256
_BANDS: Final = 64
_LEAST_PIXELS: Final = 16

Counts = npt.NDArray[np.int32]
Doubles = npt.NDArray[np.float64]


@compiled
def matching_tables(joint: Counts) -> npt.NDArray[np.float32]:
    """Fit to each channel the curve that takes a rendering to its source.

    Args:
        joint: ``(3, 256, 256)``: pixels by code of the rendering and code of the source.

    Returns:
        ``(3, 256)``: the curve at each code of the rendering, non-decreasing, within [0, 1].
    """
    tables = np.empty((3, _CODES), np.float32)
    knots, heights = np.empty(_BANDS, np.float64), np.empty(_BANDS, np.float64)
    weights, slopes = np.empty(_BANDS, np.float64), np.empty(_BANDS, np.float64)
    for channel in range(3):
        used = _measure_bands(joint[channel], knots, heights, weights)
        _make_monotone(heights[:used], weights[:used])
        _find_slopes(knots[:used], heights[:used], slopes)
        _interpolate(knots[:used], heights[:used], slopes, tables[channel])
    return tables


@compiled
def _measure_bands(joint: Counts, knots: Doubles, medians: Doubles, counts: Doubles) -> int:
    """Mean of the rendering, median of the source and number of pixels of each band that has enough; how many."""
    width = _CODES // _BANDS
    most = 0
    for band in range(_BANDS):
        most = max(most, int(joint[band * width : (band + 1) * width].sum()))
    used = 0
    levels = np.empty(_CODES, np.int64)
    for band in range(_BANDS):
        levels[:] = 0
        total = 0.0
        for code in range(band * width, (band + 1) * width):
            row = joint[code]
            in_row = 0
            for level in range(_CODES):
                levels[level] += row[level]
                in_row += row[level]
            total += float(in_row) * code
        count = int(levels.sum())
        if count == 0 or count < min(_LEAST_PIXELS, most):
            continue
        median, below = 0, levels[0]
        while 2 * below < count:
            median += 1
            below += levels[median]
        knots[used] = total / count / (_CODES - 1)
        medians[used] = median / (_CODES - 1)
        counts[used] = count
        used += 1
    return used


@compiled
def _make_monotone(heights: Doubles, weights: Doubles) -> None:
    """Isotonic regression in place, by pooling adjacent violators (Barlow et al. 1972)."""
    starts = np.empty(heights.size, np.int64)
    means, masses = np.empty(heights.size, np.float64), np.empty(heights.size, np.float64)
    blocks = 0
    for place in range(heights.size):
        starts[blocks], means[blocks], masses[blocks] = place, heights[place], weights[place]
        blocks += 1
        while blocks > 1 and means[blocks - 2] > means[blocks - 1]:
            mass = masses[blocks - 2] + masses[blocks - 1]
            pooled = means[blocks - 2] * masses[blocks - 2] + means[blocks - 1] * masses[blocks - 1]
            means[blocks - 2], masses[blocks - 2] = pooled / mass, mass
            blocks -= 1
    end = heights.size
    for block in range(blocks - 1, -1, -1):
        heights[starts[block] : end] = means[block]
        end = starts[block]


@compiled
def _find_slopes(knots: Doubles, heights: Doubles, slopes: Doubles) -> None:
    """Slopes of a monotone cubic at its knots (F. N. Fritsch, J. Butland, SIAM J. Sci. Stat. Comput. 5, 1984)."""
    last = knots.size - 1
    if last == 0:
        slopes[0] = 0.0
        return
    if last == 1:
        slopes[0] = slopes[1] = (heights[1] - heights[0]) / (knots[1] - knots[0])
        return
    for knot in range(1, last):
        before, after = knots[knot] - knots[knot - 1], knots[knot + 1] - knots[knot]
        rise, next_rise = (heights[knot] - heights[knot - 1]) / before, (heights[knot + 1] - heights[knot]) / after
        slopes[knot] = 0.0
        if rise > 0.0 and next_rise > 0.0:
            one, other = 2.0 * after + before, after + 2.0 * before
            slopes[knot] = (one + other) / (one / rise + other / next_rise)
    slopes[0] = _end_slope(knots[1] - knots[0], knots[2] - knots[1], heights[1] - heights[0], heights[2] - heights[1])
    slopes[last] = _end_slope(
        knots[last] - knots[last - 1],
        knots[last - 1] - knots[last - 2],
        heights[last] - heights[last - 1],
        heights[last - 1] - heights[last - 2],
    )


@compiled
def _end_slope(step: float, next_step: float, climb: float, next_climb: float) -> float:
    """Three points' parabola at its end, kept from falling; steps and climbs are counted from the end."""
    rise, next_rise = climb / step, next_climb / next_step
    slope = ((2.0 * step + next_step) * rise - step * next_rise) / (step + next_step)
    if slope <= 0.0 or rise <= 0.0:
        return 0.0
    return min(slope, 3.0 * rise) if next_rise <= 0.0 else slope


@compiled
def _interpolate(knots: Doubles, heights: Doubles, slopes: Doubles, table: npt.NDArray[np.float32]) -> None:
    """Evaluate the cubic at 256 even steps; beyond its ends it is level."""
    last = knots.size - 1
    piece = 0
    for code in range(_CODES):
        value = code / (_CODES - 1)
        if value <= knots[0]:
            table[code] = heights[0]
        elif value >= knots[last]:
            table[code] = heights[last]
        else:
            while value > knots[piece + 1]:
                piece += 1
            step = knots[piece + 1] - knots[piece]
            t = (value - knots[piece]) / step
            s = 1.0 - t
            table[code] = (
                heights[piece] * (1.0 + 2.0 * t) * s * s
                + heights[piece + 1] * (3.0 - 2.0 * t) * t * t
                + step * t * s * (slopes[piece] * s - slopes[piece + 1] * t)
            )
