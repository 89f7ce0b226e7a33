"""What :mod:`aura.nets.context` measures on a whole photograph, from its 8-bit codes, as compiled loops for a CPU."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aura.compiled import bits_of, compiled, float_of

F32 = np.float32
Floats = NDArray[np.float32]
Counts = NDArray[np.float64]
Codes = NDArray[np.uint8]

_LEVELS: Final = 16
_DEVIATIONS: Final = 12
_COPIES: Final = 4
_SQRT_HALF_BITS: Final = 0x3F3504F3


@compiled
def average_codes(codes: Codes, sums: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    """Add up the codes in each cell of a grid over a photograph; cells are those of torch's adaptive_avg_pool2d.

    Args:
        codes: ``(H, W, 3)``, contiguous like all arrays here.
        sums: ``(3, n, n)``, is written.
        counts: ``(n, n)`` pixels, is written.
    """
    height, width, _ = codes.shape
    cells = counts.shape[0]
    columns = np.empty((width, 3), np.int32)
    for i in range(cells):
        top, bottom = i * height // cells, ((i + 1) * height + cells - 1) // cells
        columns[:] = 0
        flat = columns.reshape(-1)
        for y in range(top, bottom):
            row = codes[y].reshape(-1)
            for x in range(flat.size):
                flat[x] += row[x]
        for j in range(cells):
            left, right = j * width // cells, ((j + 1) * width + cells - 1) // cells
            counts[i, j] = (bottom - top) * (right - left)
            for channel in range(3):
                total = 0
                for x in range(left, right):
                    total += columns[x, channel]
                sums[channel, i, j] = total


@compiled
def count_clipped(codes: Codes, counts: NDArray[np.int64]) -> None:
    """Count pixels at 255 and at 0 (R, G, B), at 255 in any and in all channels: ``(h, w, 3)`` to ``(8,)``."""
    for row in codes:
        for x in range(row.shape[0]):
            white = 0
            for channel in range(3):
                code = row[x, channel]
                counts[channel] += code == 255
                counts[3 + channel] += code == 0
                white += code == 255
            counts[6] += white > 0
            counts[7] += white == 3


@compiled
def _log2(x: np.float32) -> np.float32:
    """Logarithm of a positive number, by the series of artanh about the nearest power of two; libm's is no vector."""
    above = bits_of(x) - np.int32(_SQRT_HALF_BITS)
    m = float_of((above & np.int32(0x7FFFFF)) + np.int32(_SQRT_HALF_BITS))
    t = (m - F32(1.0)) / (m + F32(1.0))
    square = t * t
    series = square * F32(1.0 / 9.0) + F32(1.0 / 7.0)
    series = series * square + F32(1.0 / 5.0)
    series = series * square + F32(1.0 / 3.0)
    series = series * square + F32(1.0)
    return F32(above >> np.int32(23)) + t * series * F32(2.0 / math.log(2.0))


@compiled
def _signal_row(codes: Codes, channel: int, luma: Floats, signal: Floats) -> None:
    """R, G, B or luma (3) of a row, in [0, 1]: ``(w, 3)`` to ``(w,)``."""
    if channel < 3:
        for x in range(signal.size):
            signal[x] = F32(codes[x, channel]) / F32(255.0)
        return
    for x in range(signal.size):
        red, green, blue = (F32(codes[x, 0]) / F32(255.0), F32(codes[x, 1]) / F32(255.0), F32(codes[x, 2]) / F32(255.0))
        signal[x] = luma[0] * red + luma[1] * green + luma[2] * blue


@compiled
def _neighbourhood_row(top: Floats, middle: Floats, bottom: Floats, levels: Floats, positions: Floats) -> None:
    """Bins of the 3x3 neighbourhoods in three rows ``(w,)``: w - 2 levels, and positions among deviations.

    Flat areas have a deviation of rounding errors, which the network has learned: the order of the sums matters.
    """
    sums, squares = np.empty(top.size, np.float32), np.empty(top.size, np.float32)
    for x in range(top.size):
        sums[x] = top[x] + middle[x] + bottom[x]
        squares[x] = top[x] * top[x] + middle[x] * middle[x] + bottom[x] * bottom[x]
    for x in range(top.size - 2):
        mean = (sums[x] + sums[x + 1] + sums[x + 2]) / F32(9.0)
        variance = max((squares[x] + squares[x + 1] + squares[x + 2]) / F32(9.0) - mean * mean, F32(0.0))
        levels[x] = min(max(np.rint(mean * F32(_LEVELS - 1)), F32(0.0)), F32(_LEVELS - 1))
        positions[x] = np.sqrt(variance) / F32(1.0 / 255.0) + F32(0.25)
    for x in range(top.size - 2):  # a quarter of a code to 64 codes, logarithmically
        position = (_log2(positions[x]) + F32(2.0)) * F32((_DEVIATIONS - 1) / 8.0)
        positions[x] = min(max(position, F32(0.0)), F32(_DEVIATIONS - 1.001))


@compiled
def _count_row(levels: Floats, positions: Floats, found: Counts) -> None:
    """Count how often each bin occurs, and the share of each position above it: ``(copies, 2, bins)``."""
    for x in range(levels.size):
        position = np.int32(positions[x])
        cell = np.uint64(np.int32(levels[x]) * np.int32(_DEVIATIONS) + position)
        copy = found[np.uint64(x % _COPIES)]
        copy[0, cell] += 1.0
        copy[1, cell] += np.float64(positions[x] - F32(position))


@compiled
def count_deviations(codes: Codes, luma: Floats, counts: Counts) -> None:
    """Count 3x3 neighbourhoods by level and deviation, as :func:`aura.nets.tone_statistics.close_statistics` needs it.

    Args:
        codes: ``(h, w, 3)``, sides of at least 3.
        luma: ``(3,)`` coefficients.
        counts: ``(4, 16, 12)`` of R, G, B and luma, zeros; is written.
    """
    height, width, _ = codes.shape
    signal = np.empty((3, width), np.float32)  # three rows in turn
    levels, positions = np.empty(width, np.float32), np.empty(width, np.float32)
    # neighbours often fall into one bin; in copies by turns, none waits for the one before
    found = np.zeros((_COPIES, 2, _LEVELS * _DEVIATIONS))
    for channel in range(4):
        found[:] = 0.0
        for y in range(height):
            _signal_row(codes[y], channel, luma, signal[y % 3])
            if y >= 2:
                _neighbourhood_row(signal[(y - 2) % 3], signal[(y - 1) % 3], signal[y % 3], levels, positions)
                _count_row(levels[: width - 2], positions[: width - 2], found)
        for copy in found:
            for level in range(_LEVELS):
                for lower in range(_DEVIATIONS - 1):
                    cell = level * _DEVIATIONS + lower
                    counts[channel, level, lower] += copy[0, cell] - copy[1, cell]
                    counts[channel, level, lower + 1] += copy[1, cell]
