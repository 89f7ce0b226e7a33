"""Shards that share computing threads: who goes first, and what becomes of work when one of them ends."""

import threading
from concurrent.futures import CancelledError
from contextlib import ExitStack

import pytest
import torch

from flows.shards.lanes import lanes
from flows.shards.turns import Turns


def test_what_the_older_has_ready_goes_first_and_the_younger_gets_what_is_left() -> None:
    order: list[str] = []
    held, release = threading.Event(), threading.Event()
    turns = Turns(1, lambda: None, "compute")
    with turns.turn() as older, turns.turn() as younger:
        blocking = younger.submit(lambda: (held.set(), release.wait(30)))  # the older has nothing: the younger may
        assert held.wait(30)
        late = [younger.submit(order.append, f"younger {each}") for each in range(2)]
        early = [older.submit(order.append, f"older {each}") for each in range(2)]
        release.set()
        for future in (blocking, *early, *late):
            future.result(30)
    turns.close()
    assert order == ["older 0", "older 1", "younger 0", "younger 1"]


def test_who_ends_half_way_takes_its_own_work_along_and_no_other() -> None:
    held, release = threading.Event(), threading.Event()
    turns = Turns(1, lambda: None, "compute")
    with turns.turn() as other:
        with ExitStack() as ending:
            turn = ending.enter_context(turns.turn())
            begun = turn.submit(lambda: (held.set(), release.wait(30)))
            assert held.wait(30)
            waiting, kept = turn.submit(pytest.fail, "begun after its shard had ended"), other.submit(lambda: 7)
            threading.Timer(0.05, release.set).start()
        assert begun.done()  # what was at work is waited for
        with pytest.raises(CancelledError):
            waiting.result(30)
        assert kept.result(30) == 7
    turns.close()


def test_failures_come_out_and_cost_no_thread() -> None:
    turns = Turns(1, lambda: None, "compute")
    with turns.turn() as turn:
        for _ in range(3):
            with pytest.raises(ZeroDivisionError):
                turn.submit(lambda: 1 // 0).result(30)
        assert turn.submit(lambda: 7).result(30) == 7
    turns.close()


def test_a_thread_that_cannot_begin_says_so_to_whoever_asks() -> None:
    def begin() -> None:
        raise MemoryError("no room for a stream")

    turns = Turns(2, begin, "compute")
    with turns.turn() as turn, pytest.raises(MemoryError, match="no room for a stream"):
        turn.submit(lambda: 7).result(30)
    turns.close()


def test_where_threads_cannot_start_none_is_left_running(monkeypatch: pytest.MonkeyPatch) -> None:
    before, start = threading.active_count(), threading.Thread.start

    def refuse_the_third(thread: threading.Thread) -> None:
        if thread.name == "compute_2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_the_third)
    with pytest.raises(RuntimeError, match="can't start"):
        Turns(4, lambda: None, "compute")
    assert threading.active_count() == before


def test_two_shards_in_hand_share_all_threads_and_leave_torch_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flows.shards.lanes._threads", lambda: 3)
    before, threads = torch.get_num_threads(), threading.active_count()
    cpu = torch.device("cpu")
    try:
        with lanes(cpu) as older:
            assert older.compute.submit(torch.get_num_threads).result(30) == 1
            with lanes(cpu) as younger:
                assert older.width == younger.width == 3
                names = {younger.compute.submit(lambda: threading.current_thread().name).result(30) for _ in range(20)}
                assert names <= {"compute_0", "compute_1", "compute_2"}
            assert older.compute.submit(lambda: 7).result(30) == 7
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert found == [3]  # a thread that uses torch for the first time
        assert threading.active_count() == threads
    finally:
        torch.set_num_threads(before)
