"""The inversion of one photograph, part by part: what is computed in one pass, and from which surroundings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from aura.nets.aura import ALIGNMENT, Aura, invert_globally
from aura.nets.context import Context
from aura.nets.global_map import CodeMap

_TILE_PART: Final = 256
"""A window that lies on a grid of so many pixels inside a tile is inverted with the whole tile."""
HALO: Final = 48
"""Pixels of surroundings a tile is given, a multiple of 16; tiles then are within 1e-5 of saturation of the whole."""


class Window(NamedTuple):
    """A rectangle of a photograph, in pixels; all four even, so that the CFA keeps its phase."""

    top: int
    left: int
    height: int
    width: int


class WindowGroup(NamedTuple):
    """Windows of a photograph whose light is computed in one pass.

    Attributes:
        around: what the pass covers; contains all of them.
        windows: the parts that are wanted.
        members: their places among the windows that were grouped.
    """

    around: Window
    windows: list[Window]
    members: list[int]


class Inversion(Protocol):
    """A photograph whose ISP is being inverted."""

    def groups(self, windows: Sequence[Window]) -> list[WindowGroup]:
        """Put windows together that cost less so, in the order of the first of each; all even and inside."""
        ...

    def lights(self, group: WindowGroup) -> list[Tensor]:
        """Canonical linear ``(3, h, w)`` float32 of a group's windows, where the reconstructor computes.

        1.0 = sensor saturation, not clipped. They may be views of one tensor, which nobody else has. Each knows the
        whole photograph, and does not depend on which other parts are asked for.
        """
        ...


@dataclass(frozen=True)
class ClassicalInversion:
    """By a formula, which looks at no neighbour."""

    codes: Tensor
    formula: Callable[[Tensor], Tensor]

    def groups(self, windows: Sequence[Window]) -> list[WindowGroup]:
        """See :class:`Inversion`."""
        return _each_alone(windows)

    def lights(self, group: WindowGroup) -> list[Tensor]:
        """See :class:`Inversion`."""
        return [self.formula(_cut(self.codes, window) / 255.0)[0].float() for window in group.windows]


@dataclass(frozen=True)
class GlobalInversion:
    """By a photograph's own map alone, which looks at no neighbour either."""

    codes: Tensor
    code_map: CodeMap

    def groups(self, windows: Sequence[Window]) -> list[WindowGroup]:
        """See :class:`Inversion`."""
        return _each_alone(windows)

    def lights(self, group: WindowGroup) -> list[Tensor]:
        """See :class:`Inversion`."""
        with torch.inference_mode():
            return [invert_globally(_cut(self.codes, window), self.code_map) for window in group.windows]


@dataclass(frozen=True)
class NetworkInversion:
    """By AURA: from the whole photograph, if that was one pass, else by tiles with surroundings."""

    model: Aura
    codes: Tensor
    context: Context
    whole: Tensor | None
    tile: int

    def groups(self, windows: Sequence[Window]) -> list[WindowGroup]:
        """See :class:`Inversion`."""
        if self.whole is not None:
            return _each_alone(windows)
        together: dict[Window, WindowGroup] = {}
        for member, window in enumerate(windows):
            around = _tile_around(window, self.tile, self.codes.shape[-2], self.codes.shape[-1])
            group = together.setdefault(around, WindowGroup(around, [], []))
            group.windows.append(window)
            group.members.append(member)
        return list(together.values())

    def lights(self, group: WindowGroup) -> list[Tensor]:
        """See :class:`Inversion`."""
        with torch.inference_mode():
            if self.whole is not None:
                return [_cut(self.whole, window).clone() for window in group.windows]
            light = _run_tiled(self.model, self.codes, group.around, self.tile, self.context)
            top, left = group.around.top, group.around.left
            return [
                _cut(light, window._replace(top=window.top - top, left=window.left - left)) for window in group.windows
            ]


def _each_alone(windows: Sequence[Window]) -> list[WindowGroup]:
    return [WindowGroup(window, [window], [member]) for member, window in enumerate(windows)]


def _tile_around(window: Window, tile: int, height: int, width: int) -> Window:
    """What is inverted for a window: the tile of the photograph that it is a regular part of, or else itself.

    Tiles that a plan lays over a photograph so share the pixels around them; it follows from the window alone, so its
    light does too.
    """
    top, left = window.top // tile * tile, window.left // tile * tile
    bottom, right = min(top + tile, height), min(left + tile, width)
    inside = window.top + window.height <= bottom and window.left + window.width <= right
    if not inside or window.top % _TILE_PART or window.left % _TILE_PART:
        return window
    return Window(top, left, (bottom - top) // 2 * 2, (right - left) // 2 * 2)


def _cut(image: Tensor, window: Window) -> Tensor:
    return image[..., window.top : window.top + window.height, window.left : window.left + window.width]


def run_pass(model: Aura, codes: Tensor, window: Window, context: Context) -> Tensor:
    """One pass over a window that starts at a multiple of 16; padded by repeating its border to full cells.

    ``(B, 3, H, W)`` codes and the context of B photographs -> ``(B, 3, h, w)``.
    """
    tile = _cut(codes, window)
    for dimension, side in ((-2, window.height), (-1, window.width)):
        if side % ALIGNMENT:
            inside = torch.arange(side + -side % ALIGNMENT, device=codes.device).clamp_max(side - 1)
            tile = tile.index_select(dimension, inside)
    # a GPU has hardware for 16 bits; a CPU without it takes six times as long, and one with it would make other bytes
    with torch.autocast(codes.device.type, dtype=torch.float16, enabled=codes.device.type == "cuda"):
        light = model.invert_codes(tile, context)
    return light[..., : window.height, : window.width].float()


def _run_tiled(model: Aura, codes: Tensor, window: Window, tile: int, context: Context) -> Tensor:
    """Fill a window from tiles; each sees HALO pixels around itself, where the image has them."""
    out = torch.empty(3, window.height, window.width, device=codes.device)
    for core in _tiles(window, tile):
        around = _with_halo(core, codes.shape[-2], codes.shape[-1])
        result = run_pass(model, codes, around, context)[0]
        inner = Window(core.top - around.top, core.left - around.left, core.height, core.width)
        place = Window(core.top - window.top, core.left - window.left, core.height, core.width)
        _cut(out, place).copy_(_cut(result, inner))
    return out


def _tiles(window: Window, tile: int) -> Iterator[Window]:
    bottom, right = window.top + window.height, window.left + window.width
    for top in range(window.top, bottom, tile):
        for left in range(window.left, right, tile):
            yield Window(top, left, min(tile, bottom - top), min(tile, right - left))


def _with_halo(core: Window, height: int, width: int) -> Window:
    top = max(0, core.top - HALO) // ALIGNMENT * ALIGNMENT
    left = max(0, core.left - HALO) // ALIGNMENT * ALIGNMENT
    bottom = min(height, core.top + core.height + HALO)
    right = min(width, core.left + core.width + HALO)
    return Window(top, left, bottom - top, right - left)
