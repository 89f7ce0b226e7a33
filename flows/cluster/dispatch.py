"""Handing shards to the workers, a bounded number at a time, and dealing with those that fail or take too long.

A shard that fails is made again last, on another worker; one that fails on several is set aside with its log, and the
rest is made. Of shards whose workers died nobody knows which was to blame: they are made again alone. A shard that is
long past what shards usually take is made elsewhere too: whichever attempt commits first is the shard, and the bytes
are the same. What the storage refuses, and a lease that is lost, end the run.
"""

import contextlib
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from typing import Final
from uuid import UUID

from distributed.scheduler import KilledWorker
from prefect import get_run_logger, task
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.states import Crashed

from aura.errors import AuraError, DatasetConflictError, StorageAccessError, StorageError
from flows.cluster.credentials import use_configured_block
from flows.cluster.retrying import ON_WORKERS
from flows.cluster.workforce import Workforce
from flows.interruption import held_back
from flows.shards.shard import ShardReport, synthesize_shard
from storage.datasets.dataset import Dataset
from storage.datasets.lease import LeaseToken

_ATTEMPTS: Final = 3
_FAILURES_BEFORE_STOP: Final = 8
_USUAL_TIMES: Final = 10  # a shard is late after so many times what shards usually take ...
_EARLIEST_DEADLINE_S: Final = 300.0  # ... but not before this
_FIRST_DEADLINE_S: Final = 3600.0  # while no shard has told yet what is usual
_REMEMBERED_TIMES: Final = 256
_LOG_LINES: Final = 30
_ENDS_THE_RUN: Final = (StorageError, StorageAccessError, DatasetConflictError)


class ShardsFailedError(AuraError, RuntimeError):
    """Most shards could not be made, for a reason that is not the storage's."""


@dataclass(frozen=True)
class SetAside:
    """A shard that failed on several workers and was left out, so that the others could be made.

    Attributes:
        shard: its number.
        workers: addresses of the workers that tried; one that is not known any more is left out.
        reason: the last failure, in one line.
        log: the end of the last failure's traceback.
        error: the last failure.
    """

    shard: int
    workers: tuple[str, ...]
    reason: str
    log: str
    error: Exception = field(repr=False, compare=False)


@dataclass(frozen=True)
class Work:
    """What all shards of a run have in common.

    Attributes:
        dataset: the dataset.
        weights: where the weights lie; None for the released ones.
        lease: on the dataset.
        in_flight: shards submitted at once; None for two per worker.
        deadline_s: seconds after which a shard is made elsewhere too; None judges by what shards usually take.
    """

    dataset: Dataset
    weights: str | None
    lease: LeaseToken
    in_flight: int | None = None
    deadline_s: float | None = None


def make_shards(work: Work, shards: Sequence[int]) -> Iterator[ShardReport | SetAside]:
    """Make shards on the workers of the flow that runs; give what became of each as soon as it is known.

    Raises:
        StorageError: the storage refuses.
        LeaseLostError: another run has taken over.
        ShardsFailedError: most of what was tried failed.
    """
    if shards:  # without any, no cluster is started
        yield from _Dispatch(work, Workforce.of_this_flow(), deque(shards)).outcomes()


def usual_deadline(times: Sequence[float]) -> float:
    """Seconds after which a shard is late, judged by those that the latest shards took from submission to end."""
    if not times:
        return _FIRST_DEADLINE_S
    return max(_EARLIEST_DEADLINE_S, _USUAL_TIMES * sorted(times)[len(times) // 2])


@task(
    name="shard",
    task_run_name="shard-{shard:08d}",
    **ON_WORKERS,
)
def make_shard(dataset_url: str, shard: int, weights: str | None, lease: LeaseToken | None = None) -> ShardReport:
    """Make and commit one shard on a worker."""
    use_configured_block()
    try:
        made = synthesize_shard(dataset_url, shard, weights, lease)
    except Exception as error:
        # an exception leaves its traceback behind when it goes to another process
        error.add_note("On the worker:\n" + "".join(traceback.format_tb(error.__traceback__)))
        raise
    if made.skipped:
        get_run_logger().info("Shard %d was committed already", shard)
    else:
        get_run_logger().info(
            "Shard %d: %d samples, %d rejects, %.1f s", shard, made.samples, made.rejects, made.seconds
        )
    return made


@dataclass(frozen=True)
class _Attempt:
    """A shard that is with the workers. ``late_at`` is on the monotonic clock."""

    shard: int
    future: PrefectFuture[ShardReport]
    submitted: float
    late_at: float


@dataclass
class _Trouble:
    """What went wrong with a shard so far; a suspect was in hand of workers that died."""

    count: int = 0
    workers: list[str] = field(default_factory=list)
    suspect: bool = False


class _Dispatch:
    """The shards that wait, those that are with the workers, and what went wrong; lives for one run."""

    def __init__(self, work: Work, workforce: Workforce, waiting: deque[int]) -> None:
        self._work = work
        self._workforce = workforce
        self._waiting = waiting
        self._suspects: deque[int] = deque()
        self._running: dict[UUID, _Attempt] = {}
        self._ended: SimpleQueue[PrefectFuture[ShardReport]] = SimpleQueue()
        self._troubles: dict[int, _Trouble] = {}
        self._times: deque[float] = deque(maxlen=_REMEMBERED_TIMES)
        self._stuck: set[str] = set()
        self._made = 0
        self._failures = 0
        self._log = get_run_logger()

    def outcomes(self) -> Iterator[ShardReport | SetAside]:
        """Give what became of each shard as soon as it is known."""
        self._warn_of_untuned_workers()
        limit = self._work.in_flight or self._workforce.places()
        while self._waiting or self._running or self._suspects:
            while self._waiting and len(self._running) < limit:
                self._submit(self._waiting.popleft())
            if not self._running:  # nor does anything else wait
                self._submit(self._suspects.popleft())
            known: list[ShardReport | SetAside | None] = []
            with contextlib.suppress(Empty):
                known.append(self._judge(self._ended.get(timeout=self._seconds_to_next_deadline())))
            known += self._make_late_elsewhere()
            yield from (outcome for outcome in known if outcome is not None)

    def _submit(self, shard: int) -> None:
        trouble = self._troubles.get(shard, _Trouble())
        avoid = self._stuck.union(trouble.workers)
        deadline_s = self._work.deadline_s or usual_deadline(self._times)
        # held back: an interrupt within would leave a task that nobody knows of
        with held_back(), self._workforce.placing(avoid):
            future = make_shard.submit(self._work.dataset.location.url, shard, self._work.weights, self._work.lease)
            now = time.monotonic()
            # each attempt has twice the time of the one before: it may be the shard that is big
            late_at = now + deadline_s * 2**trouble.count
            self._running[future.task_run_id] = _Attempt(shard, future, now, late_at)
            future.add_done_callback(self._ended.put)

    def _judge(self, future: PrefectFuture[ShardReport]) -> ShardReport | SetAside | None:
        attempt = self._running.pop(future.task_run_id, None)
        if attempt is None:  # given up before
            return None
        try:
            report = future.result()
        except Exception as error:  # noqa: BLE001 -- whatever a worker raised, or its loss
            return self._failed(attempt, error, self._worker_of_failure(future, error))
        self._made += 1
        self._times.append(time.monotonic() - attempt.submitted)
        if len(self._times) == 1 and not self._work.deadline_s:
            self._hasten()
        for other in self._attempts_at(attempt.shard):
            self._give_up(other, "Another attempt has committed the shard")
        return report

    def _failed(self, attempt: _Attempt, error: Exception, worker: str | None) -> SetAside | None:
        if isinstance(error, _ENDS_THE_RUN):
            raise error
        given_up = self._note(attempt.shard, error, worker)
        if self._attempts_at(attempt.shard):
            return None  # its copy is still at work
        if given_up is None:
            self._log.warning("Shard %d failed and will be made again, last (%s)", attempt.shard, _in_a_line(error))
            (self._suspects if isinstance(error, KilledWorker) else self._waiting).append(attempt.shard)
        return given_up

    def _make_late_elsewhere(self) -> list[SetAside | None]:
        found = []
        for key in [*self._running]:
            attempt = self._running.get(key)  # asked anew: what was done for another may have ended or begun it anew
            if attempt is not None and attempt.late_at <= time.monotonic():
                found.append(self._make_elsewhere(attempt))
        return found

    def _make_elsewhere(self, attempt: _Attempt) -> SetAside | None:
        """Deal with an attempt that is late: have another worker make the shard, and free its own if that is ours."""
        worker = self._workforce.holder(attempt.future)
        seconds = time.monotonic() - attempt.submitted
        if worker is None:  # no worker has taken it yet, so that none can be slow
            self._log.warning("Shard %d waits for a worker since %.0f s", attempt.shard, seconds)
            self._postpone(attempt)
            return None
        self._log.warning("Shard %d is late on %s after %.0f s", attempt.shard, worker, seconds)
        if self._workforce.own:
            self._give_up(attempt, f"Late on {worker}; the shard is made elsewhere")
            beside = self._workforce.held_by(worker, [each.future for each in self._running.values()])
            self._workforce.restart(worker)
            self._begin_anew(beside)
        else:  # somebody else's worker: it may still finish, and until then it gets no more of ours
            self._stuck.add(worker)
            self._postpone(attempt)
        late = TimeoutError(f"not finished {seconds:.0f} s after it was handed to {worker}")
        given_up = self._note(attempt.shard, late, worker)
        if given_up is not None:
            for each in self._attempts_at(attempt.shard):
                self._give_up(each, "Late on several workers; the shard is set aside")
        elif self._workforce.own or self._workforce.addresses() - self._stuck:
            self._submit(attempt.shard)
        return given_up

    def _note(self, shard: int, error: Exception, worker: str | None) -> SetAside | None:
        """Remember a failure; if it was the last that the shard is granted, say how it is set aside."""
        trouble = self._troubles.setdefault(shard, _Trouble())
        killed = isinstance(error, KilledWorker)
        # Dask has handed it to several workers before it says so: alone, the shard was to blame for all of them
        trouble.count += _ATTEMPTS - 1 if killed and trouble.suspect else 1
        trouble.suspect |= killed
        if worker is not None:
            trouble.workers.append(worker)
        self._failures += 1
        if self._failures >= _FAILURES_BEFORE_STOP and self._failures > self._made:
            raise _most_failed(error, self._made)
        if trouble.count < _ATTEMPTS:
            return None
        log = "".join(traceback.format_exception(error)).splitlines()[-_LOG_LINES:]
        return SetAside(shard, tuple(trouble.workers), _in_a_line(error), "\n".join(log), error)

    def _attempts_at(self, shard: int) -> list[_Attempt]:
        return [attempt for attempt in self._running.values() if attempt.shard == shard]

    def _postpone(self, attempt: _Attempt) -> None:
        """Look at an attempt again when it has taken twice as long."""
        now = time.monotonic()
        self._running[attempt.future.task_run_id] = replace(attempt, late_at=2 * now - attempt.submitted)

    def _begin_anew(self, futures: Sequence[PrefectFuture[ShardReport]]) -> None:
        """Give shards that were beside a late one their time again: Dask hands them out again by itself."""
        now, deadline_s = time.monotonic(), self._work.deadline_s or usual_deadline(self._times)
        for future in futures:
            if each := self._running.get(future.task_run_id):
                self._running[future.task_run_id] = replace(each, late_at=max(each.late_at, now + deadline_s))

    def _hasten(self) -> None:
        """Now that a shard has told what is usual, grant those that were submitted before no more than that."""
        now, usual = time.monotonic(), usual_deadline(self._times)
        for key, each in self._running.items():
            count = self._troubles.get(each.shard, _Trouble()).count
            self._running[key] = replace(each, late_at=min(each.late_at, now + usual * 2**count))

    def _give_up(self, attempt: _Attempt, why: str) -> None:
        """Wait no more for an attempt, and say so of its task run, which cannot any more itself."""
        self._running.pop(attempt.future.task_run_id, None)
        self._workforce.cancel(attempt.future)
        # the shard is safe without it: a server that does not answer just then must not end the run
        with contextlib.suppress(Exception), get_client(sync_client=True) as client:
            client.set_task_run_state(attempt.future.task_run_id, Crashed(message=f"{why}."), force=True)

    def _seconds_to_next_deadline(self) -> float:
        return max(0.0, min(each.late_at for each in self._running.values()) - time.monotonic())

    def _worker_of_failure(self, future: PrefectFuture[ShardReport], error: Exception) -> str | None:
        if isinstance(error, KilledWorker):
            return str(error.last_worker.address)
        return self._workforce.finisher(future)

    def _warn_of_untuned_workers(self) -> None:
        untuned = self._workforce.untuned()
        if untuned is None:
            self._log.warning("Some workers do not answer; the work begins without them")
        elif untuned:
            self._log.warning(
                "%d workers (%s) lack the thread and allocator settings and are several times slower; start them with "
                "'aura worker ADDRESS'",
                len(untuned),
                ", ".join(untuned[:3]) + (", ..." if len(untuned) > 3 else ""),
            )


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _most_failed(error: Exception, made: int) -> AuraError:
    if isinstance(error, AuraError):
        return error
    return ShardsFailedError(
        f"{made} shards were made and more failed, the last with {type(error).__name__}: {error}. "
        "What was made is kept: mend the cause and run again."
    )
