"""Loops over pixels that are compiled to machine code when they are first called (numba).

What a GPU does in one fused pass, and torch on a CPU in twenty that each go through memory, such a loop does in one. It
computes in the order that it is written in, without contraction to fused multiply-adds, so its float32 results do not
depend on the width of the processor's vectors.

numba asks only a loop's own file whether kept machine code is stale. So whatever a loop calls lies in its file, even
where another has the like (two logarithms); what is imported is what never changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar, cast

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from torch import Tensor

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


def loops_take(*tensors: Tensor) -> bool:
    """Tell whether compiled loops do the work on these tensors; a GPU, and who wants gradients, take torch."""
    return all(tensor.device.type == "cpu" and not tensor.requires_grad for tensor in tensors)


def _bits_of(_context: Any, _value: Any) -> Any:
    return types.int32(types.float32), lambda _, builder, __, values: builder.bitcast(values[0], ir.IntType(32))


def _float_of(_context: Any, _value: Any) -> Any:
    return types.float32(types.int32), lambda _, builder, __, values: builder.bitcast(values[0], ir.FloatType())


bits_of: Final = cast("Callable[[np.float32], np.int32]", intrinsic(_bits_of))
"""The bits of a float32 as an int32; inside compiled loops only."""
float_of: Final = cast("Callable[[np.int32], np.float32]", intrinsic(_float_of))
"""The float32 that has these bits; inside compiled loops only."""
