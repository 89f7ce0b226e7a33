"""Loops over pixels that are compiled to machine code when they are first called (numba).

What a GPU does in one fused pass, and torch on a CPU in twenty that each go through memory, such a loop does in one. It
computes in the order that it is written in, without contraction to fused multiply-adds, so its float32 results do not
depend on the width of the processor's vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Loop = TypeVar("Loop", bound=Callable[..., object])


def compiled(loop: Loop) -> Loop:
    """Compile a function of NumPy arrays and numbers at its first call; it then runs beside other threads.

    The machine code is kept beside the source or in the user's cache folder, so that the next process need not compile
    again; where neither can be written, each process compiles for itself.
    """
    # error_model: Python's would test each divisor for zero
    try:
        return cast("Loop", numba.njit(loop, nogil=True, error_model="numpy", cache=True))
    except RuntimeError:  # no folder for the cache
        return cast("Loop", numba.njit(loop, nogil=True, error_model="numpy"))
