import os
import signal
import threading
from collections.abc import Iterator

import pytest

from flows.interruption import held_back


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """A shell that starts the tests in the background has them ignore interrupts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupt_waits_until_the_block_is_left() -> None:
    done = []

    def block() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("whole")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_in_the_block_comes_out_as_it_is() -> None:
    def block() -> None:
        with held_back():
            os.kill(os.getpid(), signal.SIGINT)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()


def test_nothing_changes_without_a_signal_or_outside_the_main_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    inside: list[object] = []

    def block() -> None:
        with held_back():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    block()
    assert inside[0] is before
    assert inside[1] is not before
    assert signal.getsignal(signal.SIGTERM) is before
