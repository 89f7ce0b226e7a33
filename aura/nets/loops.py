"""What the network does to single pixels, before and after its layers, as compiled loops for a CPU."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aura.compiled import compiled, float_of
from aura.nets.global_map import LUMA_OF_CODES

F32 = np.float32
Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

_LUMA_RED, _LUMA_GREEN, _LUMA_BLUE = LUMA_OF_CODES
_LOG2_E: Final = F32(1.0 / math.log(2.0))
_LN2_HIGH: Final = F32(0.693359375)
_LN2_LOW: Final = F32(-2.12194440e-4)
_SATURATED: Final = F32(9.0)  # tanh is 1 in float32


@compiled
def to_cells(codes: Codes, matrix: Floats, cells: Floats) -> None:
    """Convert a photograph's codes to another colour space and lay each 2x2 cell's pixels into one.

    Args:
        codes: ``(2h, 2w, 3)``, contiguous like all arrays here.
        matrix: ``(3, 3)``, from codes.
        cells: ``(h, w, 12)``, is written: channel c of the pixel (y, x) of a cell at 4c + 2y + x, as torch's
            pixel_unshuffle does.
    """
    height, width, _ = cells.shape
    for cell_y in range(height):
        for y in range(2):
            row, out = codes[2 * cell_y + y], cells[cell_y]
            for cell_x in range(width):
                for x in range(2):
                    site = np.uint64(2 * cell_x + x)
                    red, green, blue = F32(row[site, 0]), F32(row[site, 1]), F32(row[site, 2])
                    place = 2 * y + x
                    out[cell_x, place] = matrix[0, 0] * red + matrix[0, 1] * green + matrix[0, 2] * blue
                    out[cell_x, 4 + place] = matrix[1, 0] * red + matrix[1, 1] * green + matrix[1, 2] * blue
                    out[cell_x, 8 + place] = matrix[2, 0] * red + matrix[2, 1] * green + matrix[2, 2] * blue


@compiled
def _tanh(x: np.float32) -> np.float32:
    """Hyperbolic tangent within 2e-7, by Cephes' exponential (Moshier, 1989); libm's is not vectorised."""
    double = F32(2.0) * F32(min(max(x, -_SATURATED), _SATURATED))
    power = F32(np.rint(double * _LOG2_E))
    r = double - power * _LN2_HIGH - power * _LN2_LOW
    y = F32(1.9875691500e-4)
    y = y * r + F32(1.3981999507e-3)
    y = y * r + F32(8.3334519073e-3)
    y = y * r + F32(4.1665795894e-2)
    y = y * r + F32(1.6666665459e-1)
    y = y * r + F32(5.0000001201e-1)
    exponential = (y * (r * r) + r + F32(1.0)) * float_of(np.int32((np.int32(power) + np.int32(127)) << np.int32(23)))
    return F32(1.0) - F32(2.0) / (exponential + F32(1.0))


@compiled
def map_light(codes: Codes, own: Floats, luma: Floats, maximum: Floats, matrix: Floats, light: Floats) -> None:
    """Apply a global inverse to a photograph's codes, or to those of a part of it.

    Args:
        codes: ``(h, w, 3)``, contiguous like all arrays here.
        own: ``(3, 256)``, light of each channel's codes.
        luma: ``(65281,)``, gain over luma in 256ths of a code.
        maximum: ``(256,)``, gain over the largest code.
        matrix: ``(3, 3)``, applied after these.
        light: canonical linear ``(3, h, w)``, is written.
    """
    _, height, width = light.shape
    for y in range(height):
        row = codes[y]
        for x in range(width):
            red, green, blue = np.int32(row[x, 0]), np.int32(row[x, 1]), np.int32(row[x, 2])
            gain = luma[(_LUMA_RED * red + _LUMA_GREEN * green + _LUMA_BLUE * blue) >> 8]
            gain *= maximum[max(red, green, blue)]
            light[0, y, x] = own[0, red] * gain
            light[1, y, x] = own[1, green] * gain
            light[2, y, x] = own[2, blue] * gain
        reds, greens, blues = light[0, y], light[1, y], light[2, y]
        for x in range(width):
            red_light, green_light, blue_light = reds[x], greens[x], blues[x]
            reds[x] = matrix[0, 0] * red_light + matrix[0, 1] * green_light + matrix[0, 2] * blue_light
            greens[x] = matrix[1, 0] * red_light + matrix[1, 1] * green_light + matrix[1, 2] * blue_light
            blues[x] = matrix[2, 0] * red_light + matrix[2, 1] * green_light + matrix[2, 2] * blue_light


@compiled
def join_light(
    codes: Codes,
    own: Floats,
    luma: Floats,
    maximum: Floats,
    matrix: Floats,
    cells: Floats,
    reach: np.float32,
    floor: np.float32,
    light: Floats,
) -> None:
    """Apply a global inverse to a photograph's codes, and the local residual to its light.

    Args:
        codes: ``(2h, 2w, 3)``, contiguous like all arrays here.
        own: ``(3, 256)``, light of each channel's codes.
        luma: ``(65281,)``, gain over luma in 256ths of a code.
        maximum: ``(256,)``, gain over the largest code.
        matrix: ``(3, 3)``, applied after these.
        cells: ``(h, w, 12)``, the network's residual, laid out as by :func:`to_cells`.
        reach: largest residual, relative to light.
        floor: light that residuals are relative to at least.
        light: canonical linear ``(3, 2h, 2w)``, is written.
    """
    _, height, width = light.shape
    global_light = np.empty((3, width), np.float32)
    residual = np.empty((3, width), np.float32)
    for y in range(height):
        row = codes[y]
        for x in range(width):
            red, green, blue = np.int32(row[x, 0]), np.int32(row[x, 1]), np.int32(row[x, 2])
            gain = luma[(_LUMA_RED * red + _LUMA_GREEN * green + _LUMA_BLUE * blue) >> 8]
            gain *= maximum[max(red, green, blue)]
            global_light[0, x] = own[0, red] * gain
            global_light[1, x] = own[1, green] * gain
            global_light[2, x] = own[2, blue] * gain
        for channel in range(3):
            first = 4 * channel + 2 * (y % 2)
            for x in range(width // 2):
                residual[channel, 2 * x] = cells[y // 2, x, first]
                residual[channel, 2 * x + 1] = cells[y // 2, x, first + 1]
        for channel in range(3):
            to_red, to_green, to_blue = matrix[channel, 0], matrix[channel, 1], matrix[channel, 2]
            reds, greens, blues = global_light[0], global_light[1], global_light[2]
            change, out = residual[channel], light[channel, y]
            for x in range(width):
                value = to_red * reds[x] + to_green * greens[x] + to_blue * blues[x]
                out[x] = value + reach * _tanh(change[x]) * (abs(value) + floor)
