"""Progress of a flow, for whoever runs it in the same process: the command line's bars; and how times are worded."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]
"""Called with a step's name, what is done, and what there is to do (0 while unknown)."""

_listener: ContextVar[Listener | None] = ContextVar("progress_listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have ``listener`` called with the progress of flows that run inside the block."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def current_listener() -> Listener | None:
    """Give the listener of the innermost block; None if there is none."""
    return _listener.get()


def duration(seconds: float) -> str:
    """Say a time as people do: ``40 s``, ``12 min``, ``3 h 05 min``; negative ones as 0."""
    if seconds < 90:
        return f"{max(0.0, seconds):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def report(step: str, done: int, total: int) -> None:
    """Tell the listener, if there is one."""
    if listener := _listener.get():
        listener(step, done, total)
