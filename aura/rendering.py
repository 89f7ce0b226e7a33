"""Stored RAW rendered straight to 8-bit sRGB, with what a sample's record says about its light.

The definition is torch's: :func:`aura.sensor.simulate.normalise_raw`, then :func:`aura.isp.render_codes`. A CPU does
the same in one pass over tiles that stay in its first cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aura.bayer import CfaPattern, cfa_sites
from aura.compiled import compiled, loops_take
from aura.errors import InvalidInputError
from aura.isp import NEAR_SATURATION, code_table, render_codes
from aura.sensor.simulate import Capture

Floats = npt.NDArray[np.float32]

# Cells of a tile: its lines then stay in the first cache. A lane holds one column of the cells, with a border.
_TILE_HEIGHT: Final = 8
_TILE_WIDTH: Final = 128
_LANE: Final = _TILE_WIDTH + 8
_LINE: Final = 2 * _LANE  # a row of the mosaic: its even columns, then its odd ones

_ZERO: Final = np.float32(0.0)
_HALF: Final = np.float32(0.5)
_ONE: Final = np.float32(1.0)
_EIGHTH: Final = np.float32(0.125)
_THREE_HALVES: Final = np.float32(1.5)
_TWO: Final = np.float32(2.0)
_THREE: Final = np.float32(3.0)
_FOUR: Final = np.float32(4.0)
_FIVE: Final = np.float32(5.0)
_SIX: Final = np.float32(6.0)
_STEPS: Final = np.float32(65535.0)
_NEAR: Final = np.float32(NEAR_SATURATION)
_ROOM: Final = np.float32(1.0 - NEAR_SATURATION)


@dataclass(frozen=True)
class FrameFacts:
    """What a camera notes beside a RAW frame, and a developer needs.

    Attributes:
        black_level: DN of R, Gr, Gb, B.
        white_level: likewise.
        cfa_pattern: of the unpacked mosaic.
        wb_gains: R, G, B.
        camera_to_srgb: 3x3, white-balanced camera RGB -> linear sRGB; rows sum to 1.
    """

    black_level: Sequence[float]
    white_level: Sequence[float]
    cfa_pattern: CfaPattern
    wb_gains: Sequence[float]
    camera_to_srgb: Sequence[Sequence[float]]

    @classmethod
    def of(cls, capture: Capture) -> FrameFacts:
        """What the camera of a simulated exposure would note."""
        levels = capture.profile.levels_at(capture.iso)
        return cls(
            levels.black_level,
            levels.white_level,
            capture.profile.cfa_pattern,
            capture.wb_gains,
            capture.camera_to_srgb,
        )


@dataclass(frozen=True)
class Rendition:
    """What is seen of a RAW frame.

    Attributes:
        codes: sRGB ``(3, 2h, 2w)`` uint8, on the RAW's device.
        clipped_fraction: of its pixels that are at the highest whole number within the white level, or above.
        channel_mean: of each plane, 0 = black level and 1 = white level.
    """

    codes: Tensor
    clipped_fraction: float
    channel_mean: list[float]


def render_raw(raw: Tensor, frame: FrameFacts) -> Rendition:
    """Render stored RAW as :func:`aura.isp.render` does, to 8 bits, and measure its light on the way.

    Args:
        raw: ``(4, h, w)`` DN in R, Gr, Gb, B within uint16, of any integer dtype and on any device.
        frame: what its camera would note beside it.

    Returns:
        The rendering; light within 2^-17 of the border between two codes may take either on another processor.

    Raises:
        InvalidInputError: not four planes, they are smaller than 2x2, or a white level is not above its black level.
    """
    return render_raw_batch([raw], [frame])[0]


def render_raw_batch(raw: Sequence[Tensor], frames: Sequence[FrameFacts]) -> list[Rendition]:
    """Do what :func:`render_raw` does to several frames; a GPU does them in one pass.

    Args:
        raw: each ``(4, h, w)``, all of one shape and on one device; see :func:`render_raw`.
        frames: one for each, of one CFA pattern.

    Raises:
        InvalidInputError: as for :func:`render_raw`, or the patterns differ.
    """
    for planes, frame in zip(raw, frames, strict=True):
        _require_frame(planes, frame)
    if loops_take(*raw):
        return [_render_by_loops(*each) for each in zip(raw, frames, strict=True)]
    return _render_in_torch(torch.stack(list(raw)), frames)


def _require_frame(raw: Tensor, frame: FrameFacts) -> None:
    if raw.ndim != 3 or raw.shape[0] != 4 or min(raw.shape[1:]) < 2:
        raise InvalidInputError(f"Packed RAW has shape {tuple(raw.shape)}; expected (4, h, w) of at least 2x2.")
    if not all(white > black for black, white in zip(frame.black_level, frame.white_level, strict=True)):
        raise InvalidInputError(
            f"Black levels are {tuple(frame.black_level)} and white levels {tuple(frame.white_level)}; "
            "each white must be above."
        )


def _render_in_torch(raw: Tensor, frames: Sequence[FrameFacts]) -> list[Rendition]:
    """``(B, 4, h, w)`` and what is known of B frames."""
    patterns = {frame.cfa_pattern for frame in frames}
    if len(patterns) > 1:
        raise InvalidInputError(f"Frames of a batch have CFA patterns {sorted(patterns)}; expected one. Sort them.")
    values = raw.float()
    black = values.new_tensor([frame.black_level for frame in frames])[..., None, None]
    white = values.new_tensor([frame.white_level for frame in frames])[..., None, None]
    normalised = (values - black) / (white - black)
    clipped = (values >= white.floor()).float().mean(dim=(1, 2, 3))
    measured = torch.cat([normalised.mean(dim=(2, 3)), clipped[:, None]], dim=1)
    gains = torch.tensor([frame.wb_gains for frame in frames])
    matrices = torch.tensor([frame.camera_to_srgb for frame in frames])
    codes = render_codes(normalised, patterns.pop(), gains, matrices)
    # told last, for it waits for the device
    return [Rendition(seen, clipped, means) for seen, (*means, clipped) in zip(codes, measured.tolist(), strict=True)]


def _render_by_loops(raw: Tensor, frame: FrameFacts) -> Rendition:
    planes = np.ascontiguousarray(raw.numpy(), dtype=np.uint16)
    black, white = np.array(frame.black_level, np.float64), np.array(frame.white_level, np.float64)
    sums, clipped = _tally(planes, np.array([math.floor(level) for level in frame.white_level], np.int64))
    codes = np.empty((3, 2 * planes.shape[1], 2 * planes.shape[2]), np.uint8)
    _render(
        planes,
        black.astype(np.float32),
        (white - black).astype(np.float32),
        np.argsort([2 * row + column for row, column in cfa_sites(frame.cfa_pattern)]),
        np.array(frame.wb_gains, np.float32),
        np.array(frame.camera_to_srgb, np.float32),
        _codes_of_light(),
        codes,
    )
    pixels = planes[0].size
    means = (sums / pixels - black) / (white - black)
    return Rendition(torch.from_numpy(codes), clipped / planes.size, means.tolist())


@lru_cache(maxsize=1)
def _codes_of_light() -> npt.NDArray[np.uint8]:
    return np.asarray(code_table(torch.device("cpu")).numpy())


@compiled
def _tally(planes: npt.NDArray[np.uint16], white: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], int]:
    """The sum of each plane, and how many pixels have reached the white level."""
    sums = np.zeros(4, np.int64)
    clipped = 0
    for plane in range(4):
        level = white[plane]
        for y in range(planes.shape[1]):
            row = planes[plane, y]
            for x in range(row.size):
                sums[plane] += np.int64(row[x])
                clipped += int(row[x] >= level)
    return sums, clipped


@compiled
def _render(
    planes: npt.NDArray[np.uint16],
    black: Floats,
    span: Floats,
    plane_at: npt.NDArray[np.int64],
    gains: Floats,
    matrix: Floats,
    table: npt.NDArray[np.uint8],
    codes: npt.NDArray[np.uint8],
) -> None:
    """Fill ``codes``, tile by tile; ``plane_at`` names the plane at sites (0,0), (0,1), (1,0), (1,1) of a cell."""
    height, width = planes.shape[1:]
    mosaic = np.zeros((2 * _TILE_HEIGHT + 4) * _LINE, np.float32)
    balanced = np.zeros(3 * _LANE, np.float32)
    steps = np.zeros(6 * _LANE, np.int32)
    early = gains[0] < _ONE or gains[1] < _ONE or gains[2] < _ONE
    plane_gains = np.array([gains[0], gains[1], gains[1], gains[2]], np.float32)
    for top in range(0, height, _TILE_HEIGHT):
        rows = min(_TILE_HEIGHT, height - top)
        for left in range(0, width, _TILE_WIDTH):
            cells = min(_TILE_WIDTH, width - left)
            _fill(planes, black, span, plane_gains, plane_at, top, left, rows, cells, mosaic)
            for row in range(2 * rows):
                lines = mosaic[row * _LINE :]
                site = 2 * (row & 1)
                phase = 0 if plane_at[site] == 0 or plane_at[site] == 3 else 1  # the column of red or blue
                red_first = plane_at[site + phase] == 0
                own, other = (0, 2) if red_first else (2, 0)
                for green in range(2):
                    column = phase if green == 0 else 1 - phase
                    centre = lines[column * _LANE :]
                    beside = lines[(1 - column) * _LANE + column :]
                    if green == 0:
                        _at_colour(centre, beside, cells, balanced)
                    else:
                        _at_green(centre, beside, cells, balanced)
                    if early:
                        _raise_saturated(gains[own], gains[1], gains[other], cells, balanced)
                    _to_steps(balanced, matrix, own, other, cells, steps[3 * column * _LANE :])
                for channel in range(3):
                    _look_up(steps[channel * _LANE :], table, cells, codes[channel, 2 * top + row, 2 * left :])


@compiled
def _fill(
    planes: npt.NDArray[np.uint16],
    black: Floats,
    span: Floats,
    plane_gains: Floats,
    plane_at: npt.NDArray[np.int64],
    top: int,
    left: int,
    rows: int,
    cells: int,
    mosaic: Floats,
) -> None:
    """Normalise and white-balance a tile and two pixels around it, reflected about the mosaic's border pixels."""
    height, width = planes.shape[1:]
    for line in range(2 * rows + 4):
        y = abs(2 * top - 2 + line)
        if y >= 2 * height:
            y = 4 * height - 2 - y
        for column in range(2):
            plane = plane_at[2 * (y & 1) + column]
            source = planes[plane, y >> 1]
            zero, one, gain = black[plane], span[plane], plane_gains[plane]
            lane = mosaic[line * _LINE + column * _LANE :]
            _normalise(source[left:], zero, one, gain, cells, lane[1:])
            before = left - 1 if left > 0 else 1 - column
            after = left + cells if left + cells < width else width - 1 - column
            lane[0] = min((np.float32(source[before]) - zero) / one * gain, _ONE)
            lane[cells + 1] = min((np.float32(source[after]) - zero) / one * gain, _ONE)


@compiled
def _normalise(
    source: npt.NDArray[np.uint16], zero: np.float32, one: np.float32, gain: np.float32, count: int, lane: Floats
) -> None:
    for x in range(count):
        lane[x] = min((np.float32(source[x]) - zero) / one * gain, _ONE)


@compiled
def _at_colour(centre: Floats, beside: Floats, cells: int, balanced: Floats) -> None:
    """Malvar's filters where red or blue is measured: that colour, green, the other one.

    Five lines of the mosaic from two above; a cell's own sample is ``centre[x + 1]``, its neighbours are ``beside[x]``
    and ``beside[x + 1]``.
    """
    for x in range(cells):
        here = centre[2 * _LINE + x + 1]
        far = centre[x + 1] + centre[4 * _LINE + x + 1] + centre[2 * _LINE + x] + centre[2 * _LINE + x + 2]
        near = centre[_LINE + x + 1] + centre[3 * _LINE + x + 1] + beside[2 * _LINE + x] + beside[2 * _LINE + x + 1]
        diagonal = beside[_LINE + x] + beside[_LINE + x + 1] + beside[3 * _LINE + x] + beside[3 * _LINE + x + 1]
        balanced[x] = here
        balanced[_LANE + x] = (_FOUR * here + _TWO * near - far) * _EIGHTH
        balanced[2 * _LANE + x] = (_SIX * here + _TWO * diagonal - _THREE_HALVES * far) * _EIGHTH


@compiled
def _at_green(centre: Floats, beside: Floats, cells: int, balanced: Floats) -> None:
    """Malvar's filters where green is measured: the colour of its row, green, the colour of its column."""
    for x in range(cells):
        here = _FIVE * centre[2 * _LINE + x + 1]
        diagonal = beside[_LINE + x] + beside[_LINE + x + 1] + beside[3 * _LINE + x] + beside[3 * _LINE + x + 1]
        above = centre[x + 1] + centre[4 * _LINE + x + 1]
        aside = centre[2 * _LINE + x] + centre[2 * _LINE + x + 2]
        in_row = beside[2 * _LINE + x] + beside[2 * _LINE + x + 1]
        in_column = centre[_LINE + x + 1] + centre[3 * _LINE + x + 1]
        balanced[x] = (here + _FOUR * in_row - aside - diagonal + _HALF * above) * _EIGHTH
        balanced[_LANE + x] = centre[2 * _LINE + x + 1]
        balanced[2 * _LANE + x] = (here + _FOUR * in_column - above - diagonal + _HALF * aside) * _EIGHTH


@compiled
def _raise_saturated(own: np.float32, green: np.float32, other: np.float32, cells: int, balanced: Floats) -> None:
    """Raise what a gain under 1 leaves below white, in place, as ``aura.isp`` does."""
    for x in range(cells):
        a, b, c = balanced[x], balanced[_LANE + x], balanced[2 * _LANE + x]
        known = _ONE
        known = known if own < _ONE else min(known, a)
        known = known if green < _ONE else min(known, b)
        known = known if other < _ONE else min(known, c)
        balanced[x] = _raised(a, own, known)
        balanced[_LANE + x] = _raised(b, green, known)
        balanced[2 * _LANE + x] = _raised(c, other, known)


@compiled
def _raised(balanced: np.float32, gain: np.float32, known: np.float32) -> np.float32:
    x = min(max((balanced / gain - _NEAR) / _ROOM, _ZERO), _ONE)
    raised = balanced + x * x * (_THREE - _TWO * x) * (max(balanced, known) - balanced)
    return raised if gain < _ONE else balanced


@compiled
def _to_steps(balanced: Floats, matrix: Floats, own: int, other: int, cells: int, steps: npt.NDArray[np.int32]) -> None:
    """Clamp, apply the matrix, clamp: the step of linear sRGB in the table of codes."""
    for channel in range(3):
        from_own, from_green, from_other = matrix[channel, own], matrix[channel, 1], matrix[channel, other]
        lane = steps[channel * _LANE :]
        for x in range(cells):
            a = min(max(balanced[x], _ZERO), _ONE)
            b = min(max(balanced[_LANE + x], _ZERO), _ONE)
            c = min(max(balanced[2 * _LANE + x], _ZERO), _ONE)
            light = from_own * a + from_green * b + from_other * c
            light = light if light > _ZERO else _ZERO  # noqa: FURB136 - NaN becomes 0: no step is beyond the table
            light = min(light, _ONE)
            lane[x] = np.int32(light * _STEPS + _HALF)


@compiled
def _look_up(
    steps: npt.NDArray[np.int32], table: npt.NDArray[np.uint8], cells: int, row: npt.NDArray[np.uint8]
) -> None:
    """Codes of a row of pixels, from the steps at its even columns and at its odd ones."""
    for x in range(cells):
        row[2 * x] = table[steps[x]]
        row[2 * x + 1] = table[steps[3 * _LANE + x]]
