"""The loops of :mod:`aura.cycle` on a CPU: pairs of codes counted, and SSIM of luma in one pass over the rows."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from aura.compiled import compiled
from aura.metrics import SSIM_WINDOW

Codes = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]

SSIM_STRIDE: Final = 4
"""Only every fourth window in both directions is measured; all pixels but the last three rows and columns are seen."""

_CODES: Final = 256
# Windows of a tile, whose rows then stay in the first cache. A lane holds every fourth column.
_TILE: Final = 128
_LANE: Final = _TILE + 8
_PLANES: Final = 7  # three lumas, and of each rendering its squares + the source's, and its product with the source
_ROW: Final = _PLANES * _LANE
_LIVE: Final = 3  # rows of windows that one row of pixels lies in

_ZERO: Final = np.float32(0.0)
_ONE: Final = np.float32(1.0)
_TWO: Final = np.float32(2.0)
_C1: Final = np.float32(0.01**2)
_C2: Final = np.float32(0.03**2)


@compiled
def count_pairs(rendered: Codes, source: Codes) -> Counts:
    """Count how often each code of the source meets each of the rendering: ``(3, H, W)`` twice -> ``(3, 256, 256)``."""
    joint = np.zeros((3, _CODES * _CODES), np.int32)
    # neighbours often are equal, and to count in one place waits for the count before
    apart = np.zeros(_CODES * _CODES, np.int32)
    for channel in range(3):
        counts = joint[channel]
        for y in range(source.shape[1]):
            one, other = rendered[channel, y], source[channel, y]
            pairs = one.size >> 1
            for x in range(pairs):
                counts[(np.uint32(one[2 * x]) << np.uint32(8)) | np.uint32(other[2 * x])] += 1
                apart[(np.uint32(one[2 * x + 1]) << np.uint32(8)) | np.uint32(other[2 * x + 1])] += 1
            for x in range(2 * pairs, one.size):
                counts[(np.uint32(one[x]) << np.uint32(8)) | np.uint32(other[x])] += 1
        for pair in range(counts.size):
            counts[pair] += apart[pair]
            apart[pair] = 0
    return joint.reshape(3, _CODES, _CODES)


@compiled
def squared_error(joint: Counts, tables: Floats) -> float:
    """The sum over all pairs of (table of the rendering's code - the source's code / 255) squared."""
    errors = np.zeros(_CODES, np.float64)
    codes = np.arange(_CODES).astype(np.float32) / np.float32(255.0)
    for channel in range(3):
        for code in range(_CODES):
            counts = joint[channel, code]
            value = np.float64(tables[channel, code])
            for other in range(_CODES):  # a sum for each code of the source, so that many are added at once
                error = value - np.float64(codes[other])
                errors[other] += np.float64(counts[other]) * error * error
    return float(errors.sum())


@compiled
def strided_ssim(source: Codes, rendered: Codes, plain: Floats, matched: Floats, window: Floats) -> tuple[float, float]:
    """Mean SSIM of the rendering's luma with the source's, as is and with a table per channel.

    Args:
        source: ``(3, H, W)``, sides of at least 11.
        rendered: likewise.
        plain: ``(3,)``, what a code of each channel adds to luma.
        matched: ``(3, 256)``, what it adds after matching.
        window: ``(11,)``, symmetric, sums to 1.
    """
    height, width = source.shape[1:]
    down = (height - SSIM_WINDOW) // SSIM_STRIDE + 1
    across = (width - SSIM_WINDOW) // SSIM_STRIDE + 1
    luma = np.zeros(4 * _LANE, np.float32)
    moments = np.zeros(_PLANES * 4 * _LANE, np.float32)
    blurred = np.zeros(_ROW, np.float32)
    sums = np.zeros(_LIVE * _ROW, np.float32)
    values = np.zeros(2 * _LANE, np.float32)
    totals = np.zeros(2, np.float64)
    for left in range(0, across, _TILE):
        count = min(_TILE, across - left)
        columns = SSIM_STRIDE * (count - 1) + SSIM_WINDOW
        start = SSIM_STRIDE * left
        for y in range(SSIM_STRIDE * (down - 1) + SSIM_WINDOW):
            r, g, b = rendered[0, y, start:], rendered[1, y, start:], rendered[2, y, start:]
            _luma(source[0, y, start:], source[1, y, start:], source[2, y, start:], plain, columns, luma)
            _deal(luma, count + 2, moments)
            _luma(r, g, b, plain, columns, luma)
            _deal(luma, count + 2, moments[4 * _LANE :])
            _look_up(r, g, b, matched, columns, luma)
            _deal(luma, count + 2, moments[8 * _LANE :])
            _multiply(moments)
            for plane in range(_PLANES):
                _blur(moments[4 * plane * _LANE :], window, count, blurred[plane * _LANE :])
            last = min(y // SSIM_STRIDE, down - 1)
            first = max(0, (y - SSIM_WINDOW + SSIM_STRIDE) // SSIM_STRIDE)
            for row in range(first, last + 1):
                offset = y - SSIM_STRIDE * row
                _add(blurred, window[offset], offset == 0, sums[(row % _LIVE) * _ROW :])
                if offset == SSIM_WINDOW - 1:
                    _similarity(sums[(row % _LIVE) * _ROW :], count, values)
                    for image in range(2):
                        for x in range(count):
                            totals[image] += np.float64(values[image * _LANE + x])
    return totals[0] / (down * across), totals[1] / (down * across)


@compiled
def _luma(red: Codes, green: Codes, blue: Codes, weights: Floats, columns: int, luma: Floats) -> None:
    a, b, c = weights
    for x in range(columns):
        luma[x] = np.float32(red[x]) * a + np.float32(green[x]) * b + np.float32(blue[x]) * c


@compiled
def _look_up(red: Codes, green: Codes, blue: Codes, tables: Floats, columns: int, luma: Floats) -> None:
    of_red, of_green, of_blue = tables
    for x in range(columns):
        luma[x] = of_red[red[x]] + of_green[green[x]] + of_blue[blue[x]]


@compiled
def _deal(luma: Floats, count: int, lanes: Floats) -> None:
    """Put every fourth column into a lane of its own."""
    for x in range(count):
        lanes[x] = luma[4 * x]
        lanes[_LANE + x] = luma[4 * x + 1]
        lanes[2 * _LANE + x] = luma[4 * x + 2]
        lanes[3 * _LANE + x] = luma[4 * x + 3]


@compiled
def _multiply(moments: Floats) -> None:
    """Make of the three lumas the rest of what SSIM blurs."""
    for x in range(4 * _LANE):
        own, plain, matched = moments[x], moments[4 * _LANE + x], moments[8 * _LANE + x]
        moments[12 * _LANE + x] = own * own + plain * plain
        moments[16 * _LANE + x] = own * plain
        moments[20 * _LANE + x] = own * own + matched * matched
        moments[24 * _LANE + x] = own * matched


@compiled
def _blur(lanes: Floats, window: Floats, count: int, blurred: Floats) -> None:
    """Blur along a row at every fourth column: pixel 4 x + n lies at ``lanes[(n % 4) * LANE + x + n // 4]``."""
    w0, w1, w2, w3, w4, w5 = window[0], window[1], window[2], window[3], window[4], window[5]
    for x in range(count):
        blurred[x] = (
            w0 * (lanes[x] + lanes[2 * _LANE + x + 2])
            + w1 * (lanes[_LANE + x] + lanes[_LANE + x + 2])
            + w2 * (lanes[2 * _LANE + x] + lanes[x + 2])
            + w3 * (lanes[3 * _LANE + x] + lanes[3 * _LANE + x + 1])
            + w4 * (lanes[x + 1] + lanes[2 * _LANE + x + 1])
            + w5 * lanes[_LANE + x + 1]
        )


@compiled
def _add(blurred: Floats, weight: np.float32, first: bool, sums: Floats) -> None:
    if first:
        for x in range(_ROW):
            sums[x] = weight * blurred[x]
    else:
        for x in range(_ROW):
            sums[x] += weight * blurred[x]


@compiled
def _similarity(sums: Floats, count: int, values: Floats) -> None:
    """SSIM of both renderings from a row of blurred moments: see :func:`aura.metrics.similarity`."""
    for image in range(2):
        own, other = sums, sums[(1 + image) * _LANE :]
        squares, product = sums[(3 + 2 * image) * _LANE :], sums[(4 + 2 * image) * _LANE :]
        found = values[image * _LANE :]
        for x in range(count):
            means, across = own[x] * own[x] + other[x] * other[x], own[x] * other[x]
            above = (_TWO * across + _C1) * (_TWO * (product[x] - across) + _C2)
            found[x] = above / ((means + _C1) * (squares[x] - means + _C2))
