"""Numbers drawn from what a thing is: the same in any process and in any order, for whole arrays at once.

The mixing function is SplitMix64's (Steele, Lea, Flood, *Fast splittable pseudorandom number generators*, OOPSLA 2014).
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt

_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_FIRST: Final = np.uint64(0xBF58476D1CE4E5B9)
_SECOND: Final = np.uint64(0x94D049BB133111EB)


def draw_bits(*keys: int | npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """Draw 64 bits for each element of the keys, which are whole numbers and broadcast against each other."""
    state = np.zeros(1, np.uint64)
    with np.errstate(over="ignore"):
        for key in keys:
            state = _mix(state ^ (np.asarray(key).astype(np.uint64) + _GOLDEN))
    return state


def draw_unit(*keys: int | npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Draw numbers from [0, 1) by :func:`draw_bits`."""
    return (draw_bits(*keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def draw_below(limit: int | npt.NDArray[Any], *keys: int | npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """Draw whole numbers from 0 to ``limit`` - 1 by :func:`draw_bits`."""
    return (draw_unit(*keys) * limit).astype(np.int64)


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    value = value + _GOLDEN
    value = (value ^ (value >> np.uint64(30))) * _FIRST
    value = (value ^ (value >> np.uint64(27))) * _SECOND
    return value ^ (value >> np.uint64(31))
