"""Commands that take long end in order, and say that nothing is lost."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import typer

from flows.commands.console import refuse


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
