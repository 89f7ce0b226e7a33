"""The product's own dispatcher on a virtual cluster: any number of workers, in virtual time.

What is simulated is the machine alone: workers that take a time for a shard, hang, or die and come back, a queue from
which whoever is free takes the next shard (as Dask's queue and stealing amount to), and a coordinator that does one
thing at a time. What decides - how many shards are submitted, when one is late, what is made again - is
:mod:`flows.cluster.dispatch` itself, which sees a clock, a queue of finished tasks and workers that are virtual.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Empty
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

from flows.cluster import dispatch
from flows.cluster.runner import SHARDS_IN_HAND
from flows.shards.shard import ShardReport


@dataclass(frozen=True)
class Machine:
    """What the workers and the coordinator are like.

    Attributes:
        shard_s: mean seconds of a worker for a shard.
        coordinator_s: seconds of the coordinator for a shard, half when it is submitted, half when it is done.
        jitter: standard deviation of the logarithm of a shard's time.
        hang_probability: of an attempt that it never ends.
        losses_per_hour: how often a worker dies.
        restart_s: how long it takes until another is in its place.
    """

    shard_s: float
    coordinator_s: float = 0.0
    jitter: float = 0.0
    hang_probability: float = 0.0
    losses_per_hour: float = 0.0
    restart_s: float = 30.0


@dataclass(frozen=True)
class Simulated:
    """What a run came to, in virtual seconds.

    Attributes:
        shards_per_second: in the middle of the run, without what is in flight at its beginning and at its end.
        makespan_s: from the first submission to the last shard.
        made: shards that were made.
        hung: attempts that hung.
        lost: shards whose worker died.
    """

    shards_per_second: float
    makespan_s: float
    made: int
    hung: int
    lost: int


def simulate(machine: Machine, workers: int, shards: int, seed: int = 0) -> Simulated:
    """Run shards through :mod:`flows.cluster.dispatch` on virtual workers."""
    cluster = _Cluster(machine, workers, Random(seed))  # noqa: S311  # no secret
    work = SimpleNamespace(dataset=_Anything(), weights=None, lease=None, in_flight=None, deadline_s=None)
    ends: list[float] = []
    with ExitStack() as patches:
        for name, stand_in in {
            "time": SimpleNamespace(monotonic=lambda: cluster.now),
            "SimpleQueue": lambda: cluster.ended,
            "make_shard": SimpleNamespace(submit=cluster.submit),
            "get_run_logger": _Anything,
            "get_client": mock.MagicMock(),
        }.items():
            patches.enter_context(mock.patch.object(dispatch, name, stand_in))
        outcomes = dispatch._Dispatch(work, cluster, deque(range(shards))).outcomes()  # type: ignore[arg-type]  # noqa: SLF001
        ends += [cluster.now for outcome in outcomes if isinstance(outcome, ShardReport)]
    margin = min(max(len(ends) // 20, 2 * workers), 2 * len(ends) // 5)
    first, last = margin, len(ends) - 1 - margin
    rate = (last - first) / (ends[last] - ends[first])
    return Simulated(rate, ends[-1], len(ends), cluster.hung, cluster.lost)


@dataclass
class _Task:
    """A task, and what the dispatcher holds of it as a future."""

    task_run_id: int
    shard: int
    callbacks: list[Callable[[Any], None]] = field(default_factory=list)
    worker: int | None = None
    cancelled: bool = False

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def result(self) -> ShardReport:
        return ShardReport(self.shard, samples=1)


class _Cluster:
    """Virtual workers, their scheduler, and the clock: the dispatcher's :class:`flows.cluster.workforce.Workforce`."""

    own = True

    def __init__(self, machine: Machine, workers: int, random: Random) -> None:
        self.now = 0.0
        self.hung = self.lost = 0
        self.ended = _Ended(self)
        self._machine, self._random, self._workers = machine, random, workers
        self._free = deque(range(workers))
        self._queue: deque[_Task] = deque()
        self._at_work: dict[int, _Task] = {}
        self._lives = [0] * workers  # an event of a worker's earlier life is void
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()
        for worker in range(workers):
            self._draw_loss(worker)

    def submit(self, _url: str, shard: int, *_: Any) -> _Task:
        self.spend(self._machine.coordinator_s / 2)
        task = _Task(next(self._count), shard)
        self._queue.append(task)
        self._assign()
        return task

    def spend(self, seconds: float) -> None:
        """Let the coordinator work, and everybody else meanwhile."""
        until = self.now + seconds
        while self._events and self._events[0][0] <= until:
            self.step()
        self.now = max(self.now, until)

    def judged(self) -> None:
        self.spend(self._machine.coordinator_s / 2)

    def next_event(self) -> float:
        return self._events[0][0] if self._events else math.inf

    def step(self) -> None:
        at, _, event = heapq.heappop(self._events)
        self.now = max(self.now, at)
        event()

    def places(self) -> int:
        # of the two shards in hand the younger waits while the older computes, here as if in the queue
        return SHARDS_IN_HAND * self._workers

    def untuned(self) -> list[str]:
        return []

    def addresses(self) -> set[str]:
        return {str(worker) for worker in range(self._workers)}

    @contextmanager
    def placing(self, _avoid: Collection[str]) -> Iterator[None]:
        yield

    def holder(self, task: _Task) -> str | None:
        return None if task.worker is None else str(task.worker)

    def held_by(self, address: str, tasks: Collection[_Task]) -> list[_Task]:
        return [task for task in tasks if self.holder(task) == address]

    def finisher(self, task: _Task) -> str | None:
        return self.holder(task)

    def cancel(self, task: _Task) -> None:
        task.cancelled = True

    def restart(self, address: str) -> None:
        self._die(int(address))
        self.spend(self._machine.restart_s)  # the coordinator waits for it

    def _at(self, seconds: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._count), event))

    def _assign(self) -> None:
        while self._free and self._queue:
            task = self._queue.popleft()
            if not task.cancelled:
                self._start(self._free.popleft(), task)

    def _start(self, worker: int, task: _Task) -> None:
        machine, life = self._machine, self._lives[worker]
        task.worker, self._at_work[worker] = worker, task
        if self._random.random() < machine.hang_probability:
            self.hung += 1
            return
        # a lognormal time whose mean is the machine's
        seconds = machine.shard_s * math.exp(self._random.gauss(-(machine.jitter**2) / 2, machine.jitter))
        self._at(seconds, lambda: self._finish(worker, life))

    def _finish(self, worker: int, life: int) -> None:
        if self._lives[worker] != life:
            return
        task = self._at_work.pop(worker)
        self._free.append(worker)
        self._assign()
        if not task.cancelled:
            for callback in task.callbacks:
                callback(task)

    def _draw_loss(self, worker: int) -> None:
        if self._machine.losses_per_hour:
            life = self._lives[worker]
            seconds = self._random.expovariate(self._machine.losses_per_hour / 3600)
            self._at(seconds, lambda: self._lose(worker, life))

    def _lose(self, worker: int, life: int) -> None:
        if self._lives[worker] == life:
            self.lost += worker in self._at_work
            self._die(worker)

    def _die(self, worker: int) -> None:
        """End a worker's life: its task goes to whoever is free, and another worker comes in its place."""
        self._lives[worker] += 1
        task = self._at_work.pop(worker, None)
        if task is not None:
            task.worker = None
            self._queue.appendleft(task)
        else:
            self._free.remove(worker)
        self._at(self._machine.restart_s, lambda: self._come(worker))
        self._assign()

    def _come(self, worker: int) -> None:
        if worker in self._at_work or worker in self._free:
            return
        self._free.append(worker)
        self._draw_loss(worker)
        self._assign()


class _Ended:
    """The queue of finished tasks that the dispatcher waits at; waiting is what lets virtual time pass."""

    def __init__(self, cluster: _Cluster) -> None:
        self._cluster = cluster
        self._tasks: deque[_Task] = deque()

    def put(self, task: _Task) -> None:
        self._tasks.append(task)

    def get(self, timeout: float) -> _Task:
        until = self._cluster.now + timeout
        while not self._tasks:
            if self._cluster.next_event() > until:
                self._cluster.now = until
                raise Empty
            self._cluster.step()
        self._cluster.judged()
        return self._tasks.popleft()


class _Anything:
    """Has every attribute and can be called: a log that nobody reads, a dataset of which only the name is asked."""

    def __getattr__(self, _: str) -> _Anything:
        return self

    def __call__(self, *_: Any, **__: Any) -> _Anything:
        return self
