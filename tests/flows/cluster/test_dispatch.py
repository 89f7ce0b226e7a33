"""Shards that hang, shards that fail everywhere, and workers that declare a GPU; on real Dask clusters."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dask
import distributed
import psutil
import pytest
from prefect import flow, task
from prefect.futures import PrefectFuture
from prefect.states import Failed
from prefect_dask.task_runners import DaskTaskRunner

from aura.errors import DatasetConflictError, GateError, IntegrityError, StorageAccessError, StorageError
from flows.cluster.dispatch import make_shard, usual_deadline
from flows.cluster.runner import GPU, local_cluster
from flows.cluster.workforce import Workforce
from flows.factory import FactoryResult, factory
from flows.ingest import ingest
from flows.reports.artifacts import artifact_key
from flows.servers.server import Server
from flows.shards.shard import reconstructor
from storage.datasets.dataset import open_dataset
from storage.datasets.versions import read_version
from tests.conftest import wait_until
from tests.flows.conftest import Run, ask, make_dataset, small_recipe, write_photograph


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(4):
        write_photograph(folder / f"{number}.png", 64, 64, number)
    return folder


def test_a_shard_is_late_by_what_shards_usually_take() -> None:
    assert usual_deadline([]) == 3600
    assert usual_deadline([1.0, 2.0, 900.0]) == 300
    assert usual_deadline([40.0, 50.0, 900.0]) == 500


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        (StorageError("no room left"), True),
        (StorageAccessError("wrong keys"), False),
        (MemoryError(), False),
        (IntegrityError("other weights"), False),
        (DatasetConflictError("another recipe"), False),
    ],
)
def test_only_what_the_storage_refused_is_tried_again_by_the_same_worker(failure: Exception, again: bool) -> None:
    condition = make_shard.retry_condition_fn
    assert condition is not None
    assert condition(make_shard, None, Failed(data=failure)) is again
    delays = make_shard.retry_delay_seconds
    assert isinstance(delays, list)
    assert delays == sorted(set(delays))
    assert make_shard.retries == len(delays) > 2


def test_a_shard_that_hangs_is_made_by_another_worker(photographs: Path, server: Server, tmp_path: Path) -> None:
    recipe = small_recipe(photographs, shard_size=1, lpips_share=0.0)
    dataset = str(tmp_path / "dataset")
    planned = ingest(recipe=recipe, dataset=dataset)
    assert (planned.sources, planned.planned_samples, planned.missing_shards) == (4, 4, 4)
    with (
        local_cluster(workers=2, threads=1) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        client.run(_warm_up)
        before = set(client.run(os.getpid).values())
        with _hanging_until_one_dies(photographs / "2.png", before):
            flow_here = factory.with_options(task_runner=_own(cluster))
            result = flow_here(
                recipe=recipe, dataset=dataset, shard_deadline_s=20
            )  # a sound one takes seconds, also on a busy machine
        after = client.run(os.getpid)
        loads = client.run(lambda: reconstructor.__wrapped__.cache_info().misses)  # type: ignore[attr-defined]  # of functools.wraps
    assert (result.version, result.samples, result.shards_made, result.set_aside) == (1, 4, 4, ())
    assert len(before - set(after.values())) == 1  # the worker that hung was killed, and no other
    assert max(loads.values()) == 1  # weights are loaded once in the life of a worker, however many shards it makes
    expected = make_dataset(recipe, tmp_path / "expected")
    assert read_version(dataset, 1).shards == read_version(str(expected), 1).shards
    assert "is made elsewhere" in " ".join(_states_of_tasks(server, result))


def test_a_shard_that_fails_everywhere_is_set_aside_with_its_log(
    photographs: Path, run: Run, server: Server, tmp_path: Path
) -> None:
    recipe, dataset = small_recipe(photographs, shard_size=1, lpips_share=0.0), tmp_path / "dataset"
    ingest(recipe=recipe, dataset=str(dataset))
    damaged = dataset / "plan/00000001.parquet"
    plan = damaged.read_bytes()
    damaged.write_bytes(plan[:-40])
    with pytest.raises(GateError, match=r"max_set_aside_fraction allows 0.0%: 1 of 4 .*shard 1: IntegrityError"):
        run(recipe, dataset)
    assert open_dataset(dataset).missing_shards() == [1]
    (artifact,) = _artifacts(server, artifact_key("set-aside", str(dataset)))
    assert "IntegrityError" in artifact["data"]
    assert "in synthesize_shard" in artifact["data"]
    lenient = recipe.model_copy(update={"gates": recipe.gates.model_copy(update={"max_set_aside_fraction": 0.25})})
    published = run(lenient, dataset)
    assert (published.version, published.samples, published.set_aside) == (1, 3, (1,))
    assert not read_version(str(dataset), 1).complete
    damaged.write_bytes(plan)
    write_photograph(photographs / "4.png", 64, 64, 4)
    mended = run(recipe, dataset)  # what is new did not have to wait for what failed
    assert (mended.version, mended.samples, mended.shards_made) == (2, 5, 2)
    assert read_version(str(dataset), 2).complete


def test_a_shard_that_kills_its_workers_is_set_aside_and_not_the_one_beside_it(
    photographs: Path, server: Server, tmp_path: Path
) -> None:
    assert server.local
    recipe = small_recipe(photographs, shard_size=1, lpips_share=0.0, gates__max_set_aside_fraction=0.25)
    dataset = str(tmp_path / "dataset")
    ingest(recipe=recipe, dataset=dataset)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        local_cluster(workers=1, threads=1) as cluster,
        _killing_who_reads(photographs / "0.png", cluster) as killed,
    ):
        result = factory.with_options(task_runner=_own(cluster))(recipe=recipe, dataset=dataset)
    assert (result.samples, result.set_aside) == (3, (0,))
    assert len(killed) == 2  # once beside another shard, which could have been to blame, and once alone


def test_where_workers_declare_a_gpu_two_shards_share_it(server: Server) -> None:
    assert server.local
    seen: list[tuple[int, int]] = []

    @task
    def hold_until_looked_at() -> int:
        distributed.Event("looked at").wait(60)
        return os.getpid()

    @flow
    def three_at_once() -> None:
        workforce = Workforce.of_this_flow()
        assert workforce.places() == 2  # though the worker has three threads
        with workforce.placing():
            futures: list[PrefectFuture[int]] = [hold_until_looked_at.submit() for _ in range(3)]
        wait_until(lambda: _at_work() == (2, 1), "two tasks at work and one waiting for the GPU")
        seen.append(_at_work())
        distributed.Event("looked at", client=workforce.client).set()
        for future in futures:
            future.result()

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=3, processes=False, dashboard_address=":0", resources={GPU: 1}
    ) as cluster:
        three_at_once.with_options(task_runner=_own(cluster))()
    assert seen == [(2, 1)]


_clusters: list[distributed.LocalCluster] = []


@contextmanager
def _last_cluster() -> Iterator[distributed.LocalCluster]:
    yield _clusters[-1]


def _own(cluster: distributed.LocalCluster) -> Any:
    """A task runner that takes a cluster which runs already for one of its own; itself, a cluster cannot be pickled."""
    _clusters.append(cluster)
    runner: Any = DaskTaskRunner(cluster_class=_last_cluster)
    return runner


def _at_work() -> tuple[int, int]:
    (worker,) = _clusters[-1].workers.values()
    return worker.state.executing_count, len(worker.state.constrained)


def _warm_up() -> None:
    import flows.cluster.dispatch  # noqa: PLC0415 -- on the worker: torch takes longer to import than the shard's deadline

    assert flows.cluster.dispatch


@contextmanager
def _hanging_until_one_dies(photograph: Path, processes: set[int]) -> Iterator[None]:
    """Make a photograph that blocks its readers for ever: a pipe, which gives way to it when a process has died."""
    real = photograph.with_name("kept")
    photograph.rename(real)
    os.mkfifo(photograph)
    over = threading.Event()

    def give_way() -> None:
        while all(psutil.pid_exists(process) for process in processes) and not over.wait(0.02):
            pass
        real.replace(photograph)

    thread = threading.Thread(target=give_way)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _killing_who_reads(photograph: Path, cluster: distributed.LocalCluster) -> Iterator[list[int]]:
    """Kill the cluster's only worker whenever it opens a photograph, which is made a pipe; give whom."""
    photograph.unlink()
    os.mkfifo(photograph)
    over, killed = threading.Event(), list[int]()

    def lie_in_wait() -> None:
        while not over.wait(0.02):
            with suppress(OSError, psutil.Error):  # nobody has opened it for reading; it is gone already
                pipe = os.open(photograph, os.O_WRONLY | os.O_NONBLOCK)
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[-1], signal.SIGKILL)
                os.close(pipe)
                psutil.Process(killed[-1]).wait(30)

    thread = threading.Thread(target=lie_in_wait)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def _states_of_tasks(server: Server, result: FactoryResult) -> list[str]:
    body = {"flow_runs": {"id": {"any_": [result.flow_run_id]}}}
    runs = ask(server, "POST", "task_runs/filter", body).json()
    return [run["state"]["message"] or "" for run in runs if run["state"]]


def _artifacts(server: Server, key: str) -> list[dict[str, Any]]:
    body = {"artifacts": {"key": {"any_": [key]}}}
    found: list[dict[str, Any]] = ask(server, "POST", "artifacts/filter", body).json()
    return found
