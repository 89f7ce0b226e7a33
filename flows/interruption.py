"""Signals that end a run: answered in order, and held back while a library call must not be cut in two."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Final

import typer

from flows.console import refuse

_ENDING: Final = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM when the block is left, not within it; outside the main thread, do nothing.

    An exception raised by a signal handler inside pydantic's serializer comes out as a serialization error, and a run
    that somebody stopped would pass for one that failed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.signal(number, note) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for first in received[:1]:
        signal.raise_signal(first)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """End in order on ctrl-C, a termination or a closed terminal, and say that nothing is lost."""
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except BaseException:
        # what comes out may be another error: some libraries wrap an interrupt that reaches them inside a call
        if not received:
            raise
        refuse("Stopped. What was finished is kept: run the same command again to go on.")
        raise typer.Exit(128 + received[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
