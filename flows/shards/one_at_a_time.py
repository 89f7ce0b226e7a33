"""Calls from several threads one after the other, for what is loaded once and then kept."""

from collections.abc import Callable
from functools import wraps
from threading import Lock
from typing import ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def one_at_a_time(call: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Have callers wait for each other: a cache alone lets two threads that ask first load the same thing twice."""
    lock = Lock()

    @wraps(call)
    def waiting(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with lock:
            return call(*args, **kwargs)

    return waiting
