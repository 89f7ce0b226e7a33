"""Several shards that are late at the same moment, on virtual workers and a virtual clock."""

import itertools
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest

from flows.cluster import dispatch
from flows.cluster.dispatch import SetAside, Work, make_shards
from flows.shards.shard import ShardReport


@dataclass
class Attempt:
    task_run_id: int
    shard: int
    worker: str | None
    callbacks: list[Any] = field(default_factory=list)

    def add_done_callback(self, callback: Any) -> None:
        self.callbacks.append(callback)

    def result(self) -> ShardReport:
        return ShardReport(self.shard, samples=1)


@dataclass
class Workers:
    """Workers that take two shards each, of which some hang; what a Workforce and its clock are to the dispatcher."""

    own: bool
    hanging: Collection[str]
    waits: Iterator[float]
    now: float = 0.0
    attempts: list[Attempt] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    avoided: Collection[str] = ()

    def submit(self, _url: str, shard: int, *_: Any) -> Attempt:
        worker = next(each for each in "abcdef" if each not in self.avoided and len(self.tasks_of(each)) < 2)
        self.attempts.append(Attempt(len(self.attempts), shard, worker))
        return self.attempts[-1]

    def get(self, timeout: float) -> Attempt:
        for attempt in self.attempts:
            if attempt.worker is not None and attempt.worker not in self.hanging:
                attempt.worker = None
                return attempt
        self.now += max(timeout, next(self.waits))
        raise Empty

    def tasks_of(self, worker: str) -> list[Attempt]:
        return [each for each in self.attempts if each.worker == worker]

    def restart(self, worker: str) -> None:
        self.killed.append(worker)
        for each in self.tasks_of(worker):
            each.worker = "f"  # Dask hands it to another

    @contextmanager
    def placing(self, avoid: Collection[str]) -> Iterator[None]:
        self.avoided = {*avoid, *self.killed}
        yield

    def cancel(self, attempt: Attempt) -> None:
        attempt.worker = None

    def holder(self, attempt: Attempt) -> str | None:
        return attempt.worker

    def held_by(self, worker: str, attempts: Collection[Attempt]) -> list[Attempt]:
        return [each for each in attempts if each.worker == worker]

    def places(self) -> int:
        return 4

    def addresses(self) -> set[str]:
        return set("abcdef")

    def untuned(self) -> list[str]:
        return []

    def put(self, _: Attempt) -> None: ...


def outcomes(workers: Workers, shards: int, monkeypatch: pytest.MonkeyPatch) -> list[ShardReport | SetAside]:
    stand_ins = {
        "time": SimpleNamespace(monotonic=lambda: workers.now),
        "SimpleQueue": lambda: workers,
        "make_shard": workers,
        "Workforce": SimpleNamespace(of_this_flow=lambda: workers),
        "get_run_logger": mock.MagicMock(),
        "get_client": mock.MagicMock(),
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(dispatch, name, stand_in)
    return list(make_shards(Work(mock.MagicMock(), None, mock.MagicMock(), deadline_s=10), range(shards)))


def test_of_two_shards_late_on_one_worker_the_second_does_not_cost_the_next_worker_its_life(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = Workers(own=True, hanging="a", waits=itertools.repeat(0))
    made = outcomes(workers, 2, monkeypatch)
    assert workers.killed == ["a"]
    assert sorted(made, key=lambda each: each.shard) == [ShardReport(0, samples=1), ShardReport(1, samples=1)]


def test_an_attempt_that_was_given_up_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    # the third wait ends when all three attempts are late, as after a server that did not answer for long
    workers = Workers(own=False, hanging="abcdef", waits=iter([0, 0, 1000]))
    (aside,) = outcomes(workers, 1, monkeypatch)
    assert isinstance(aside, SetAside)
    assert [each.worker for each in workers.attempts] == [None, None, None]
