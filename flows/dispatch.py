"""Handing a dataset's missing shards to the workers, a bounded number at a time, and judging what comes back."""

import itertools
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, Final

from prefect import State, Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect.tasks import exponential_backoff

from aura.errors import AuraError, InvalidInputError, StorageError
from flows.artifacts import ProgressArtifact
from flows.interruption import held_back
from flows.progress import report as report_progress
from flows.runner import worker_count
from flows.shard import ShardReport, synthesize_shard
from storage.dataset import Dataset
from storage.lease import Lease, LeaseToken

_SHARDS_PER_WORKER: Final = 2  # one being made, one waiting: workers never idle, and a stop loses little
_RETRIES: Final = 4
_FIRST_RETRY_S: Final = 1.0
_FAILURES_BEFORE_STOP: Final = 3


class ShardsFailedError(AuraError, RuntimeError):
    """Some shards could not be made, for a reason that is not the storage's."""


def synthesize(dataset: Dataset, lease: Lease, weights: str | None, in_flight: int | None) -> list[ShardReport]:
    """Make every shard that is missing, a bounded number at a time. Without any, no cluster is started."""
    missing, total = dataset.missing_shards(), dataset.shard_count
    bar = ProgressArtifact.start(dataset.location.url, total, total - len(missing))
    report_progress("synthesize", total - len(missing), total)
    get_run_logger().info("%d of %d shards are to be made", len(missing), total)
    reports: list[ShardReport] = []
    failures: list[Exception] = []
    for outcome in _outcomes(dataset.location.url, missing, weights, in_flight, lease.token):
        if lease.is_lost:
            lease.require()
        if isinstance(outcome, Exception):
            failures.append(outcome)
            if isinstance(outcome, StorageError) or len(failures) == _FAILURES_BEFORE_STOP:
                break
            continue
        reports.append(outcome)
        done = total - len(missing) + len(reports)
        with held_back():
            bar.move(done, outcome)
            report_progress("synthesize", done, total)
    _raise_failures(failures, len(missing) - len(reports))
    return reports


def _worth_retrying(_task: Task[..., Any], _run: Any, state: State[Any]) -> bool:
    """Tell whether time may mend a failure: the storage's may, a wrong recipe or wrong weights stay so."""
    return isinstance(state.data, StorageError) or not isinstance(state.data, AuraError)


@task(
    name="shard",
    task_run_name="shard-{shard:08d}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=_RETRIES,
    retry_delay_seconds=exponential_backoff(_FIRST_RETRY_S),
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_retrying,
)
def make_shard(dataset_url: str, shard: int, weights: str | None, lease: LeaseToken | None = None) -> ShardReport:
    """Make and commit one shard on a worker."""
    made = synthesize_shard(dataset_url, shard, weights, lease)
    if made.skipped:
        get_run_logger().info("Shard %d was committed already", shard)
    else:
        get_run_logger().info(
            "Shard %d: %d samples, %d rejects, %.1f s", shard, made.samples, made.rejects, made.seconds
        )
    return made


def _outcomes(
    dataset_url: str, shards: list[int], weights: str | None, in_flight: int | None, lease: LeaseToken
) -> Iterator[ShardReport | Exception]:
    """Submit shards, and give what became of each as soon as it is known."""
    if not shards:
        return
    limit = in_flight or _SHARDS_PER_WORKER * worker_count(_task_runner())
    waiting = iter(shards)
    finished_futures: SimpleQueue[PrefectFuture[ShardReport]] = SimpleQueue()

    def submit(shard: int) -> None:
        with held_back():
            make_shard.submit(dataset_url, shard, weights, lease).add_done_callback(finished_futures.put)

    for shard in itertools.islice(waiting, limit):
        submit(shard)
    for _ in shards:
        future = finished_futures.get()
        try:
            outcome: ShardReport | Exception = future.result()
        except Exception as error:  # noqa: BLE001 -- whatever a worker raised, or its loss; it is judged by the caller
            outcome = error
        yield outcome
        for shard in itertools.islice(waiting, 1):
            submit(shard)


def _raise_failures(failures: list[Exception], unmade: int) -> None:
    for failure in failures:
        if isinstance(failure, AuraError):
            raise failure
    if failures:
        raise ShardsFailedError(
            f"{unmade} shards were not made; the first failed with {type(failures[0]).__name__}: {failures[0]}. "
            "What was made is kept: mend the cause and run again."
        ) from failures[0]


def _task_runner() -> TaskRunner[PrefectFuture[Any]]:
    context = FlowRunContext.get()
    if context is None:
        raise InvalidInputError("Shards are made inside the factory flow; call that.")
    return context.task_runner
