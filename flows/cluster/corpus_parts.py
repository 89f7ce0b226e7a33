"""Reading a corpus on the workers: each part of its listing is one task, a bounded number at a time."""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final, cast

from prefect import task
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from flows.cluster.credentials import use_configured_block
from flows.cluster.retrying import ON_WORKERS
from flows.cluster.workforce import Workforce
from flows.interruption import held_back
from storage.corpora.ingest import Part, PartReport, RunParts, read_part
from storage.datasets.lease import LeaseToken

_READ_HERE: Final = 1  # parts of a corpus that is read sooner than a cluster starts


def on_workers(dataset_url: str, lease: LeaseToken) -> RunParts:
    """Have the parts of a corpus read on the workers of the flow that runs; a small corpus is read here.

    Args:
        dataset_url: where the rows are kept.
        lease: of the run that this is done for; nothing is written once it is lost.
    """

    def run(parts: Iterator[Part]) -> Iterable[PartReport]:
        first = list(islice(parts, _READ_HERE + 1))
        runner = None if (context := FlowRunContext.get()) is None else context.task_runner
        if len(first) <= _READ_HERE or runner is None or not isinstance(runner, DaskTaskRunner):
            for part in (*first, *parts):
                yield read_part(dataset_url, part, lease.require)
            return
        limit = Workforce.of(cast("TaskRunner[PrefectFuture[Any]]", runner)).places()
        reading: deque[PrefectFuture[PartReport]] = deque()
        for part in (*first, *parts):
            with held_back():
                reading.append(read_corpus_part.submit(dataset_url, part, lease))
            if len(reading) == limit:
                yield reading.popleft().result()
        while reading:
            yield reading.popleft().result()

    return run


@task(
    name="read",
    task_run_name="read-{part.digest}",
    **ON_WORKERS,
)
def read_corpus_part(dataset_url: str, part: Part, lease: LeaseToken) -> PartReport:
    """Read the photographs of a part on a worker: digests and headers, no pixels."""
    use_configured_block()
    return read_part(dataset_url, part, lease.require)
