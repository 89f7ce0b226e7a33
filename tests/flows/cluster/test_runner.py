import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import distributed
import psutil
import pytest

from aura.errors import InvalidInputError
from flows.cluster.runner import (
    GPU,
    Cluster,
    CudaClusterError,
    SchedulerError,
    build_runner,
    local_cluster,
    parse_cluster,
    require_cluster,
    usable_cpus,
    worker_environment,
)
from flows.cluster.workforce import Workforce
from tests.flows.conftest import Aura


def test_one_setting_says_where_the_work_is_done() -> None:
    assert parse_cluster("tcp://10.0.0.1:8786").address == "tcp://10.0.0.1:8786"
    assert parse_cluster("local:3") == Cluster(None, 3)
    assert 1 <= parse_cluster("local").workers <= usable_cpus()


def test_gpus_need_a_package_that_only_their_owners_install(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parse_cluster("cuda") == Cluster(None, 0, "cuda")
    monkeypatch.setitem(sys.modules, "dask_cuda", None)  # as where it is not installed
    with pytest.raises(CudaClusterError, match=r"dask-cuda.*aura worker tcp://host:8786 --gpu"):
        require_cluster(parse_cluster("cuda"))


def test_a_worker_for_a_scheduler_has_its_settings_declares_its_gpu_and_ends_calmly(tmp_path: Path) -> None:
    with (
        distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        address = cluster.scheduler_address
        # a cluster that runs in this process has put its workers' settings into the environment
        plain = {name: value for name, value in os.environ.items() if name not in worker_environment(1)}
        without = subprocess.Popen([sys.executable, "-m", "dask", "worker", address, "--nthreads", "1"], env=plain)
        log = (tmp_path / "log").open("w+")
        order = [sys.executable, "-m", "flows.cli", "worker", address, "--gpu"]
        tuned = subprocess.Popen(order, stderr=log, start_new_session=True)
        try:
            client.wait_for_workers(2, timeout=120)
            workers = client.scheduler_info(n_workers=-1)["workers"]
            (ours,) = [name for name, worker in workers.items() if worker["resources"].get(GPU) == 1]
            with build_runner(parse_cluster(address)) as runner:
                workforce = Workforce.of(runner)
                assert workforce.places() == 2  # the other worker has no GPU, so that no shard may go there
                assert workers[ours]["nthreads"] == 2
                assert workforce.untuned() == [name for name in workers if name != ours]
                with frozen(tuned):
                    assert workforce.untuned(patience_s=1.0) is None
            os.killpg(tuned.pid, signal.SIGINT)  # as a terminal does, to the worker that it started too
            tuned.wait(60)
            log.seek(0)
            assert "End worker" in (said := log.read())
            assert "Traceback" not in said
        finally:
            log.close()
            for process in (without, tuned):
                process.terminate()
                process.wait()


@contextlib.contextmanager
def frozen(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Stop a worker, and the process that its nanny started, until the block is left."""
    nanny = psutil.Process(process.pid)
    stopped = [nanny, *nanny.children(recursive=True)]
    for each in stopped:
        each.suspend()
    try:
        yield
    finally:
        for each in stopped:
            each.resume()


def test_a_worker_without_a_scheduler_says_so(
    aura: Aura, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.commands.server._SCHEDULER_STARTS_WITHIN_S", 1)
    assert aura("worker", "tcp://127.0.0.1:9") == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"The Dask scheduler at tcp://127.0.0.1:9 does not answer .*'dask scheduler'.*\n", said)


@pytest.mark.parametrize("address", ["ftp://127.0.0.1:8786", "tcp://127.0.0.1"])
def test_an_address_that_is_none_is_refused_unasked(address: str) -> None:
    with pytest.raises(InvalidInputError, match="expected one such as tcp://host:8786"):
        parse_cluster(address)


@pytest.mark.parametrize("setting", ["", "remote", "local:0", "local:two", "local:-1"])
def test_a_setting_that_means_nothing_says_what_it_may_be(setting: str) -> None:
    with pytest.raises(InvalidInputError, match=r"local:N"):
        parse_cluster(setting)


def test_threads_share_the_processors_out() -> None:
    assert Cluster(None, usable_cpus()).threads_per_worker == 1
    assert Cluster(None, 1).threads_per_worker == usable_cpus()
    assert Cluster(None, 10 * usable_cpus()).threads_per_worker == 1


def test_workers_have_the_allocator_settings_before_they_start_and_the_shards_code_before_any_shard() -> None:
    def initial_environment() -> bytes:
        return Path("/proc/self/environ").read_bytes()

    def has_the_code() -> bool:
        return "flows.shards.shard" in sys.modules

    before = dict(os.environ)
    with (
        local_cluster(workers=1, threads=2) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        assert client.submit(has_the_code, pure=False).result(timeout=60)
        found = client.submit(initial_environment, pure=False).result(timeout=60)
    pairs = dict(pair.split(b"=", 1) for pair in found.split(b"\0") if b"=" in pair)
    for name, value in worker_environment(2).items():
        assert pairs[name.encode()] == value.encode()
    changed = {name for name in worker_environment(2) if os.environ.get(name) != before.get(name)}
    assert not changed


def test_an_existing_scheduler_is_used_and_left_running() -> None:
    with local_cluster(workers=1, threads=1) as cluster:
        setting = parse_cluster(cluster.scheduler_address)
        require_cluster(setting)
        with build_runner(setting) as runner:
            assert Workforce.of(runner).places() == 2  # one computes, the other is read or stored
        require_cluster(setting)


def test_a_scheduler_that_is_not_there_is_refused() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(SchedulerError, match=re.escape(address)):
            require_cluster(parse_cluster(address))


def test_a_scheduler_without_workers_is_refused() -> None:
    with (
        distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster,
        pytest.raises(SchedulerError, match="has no workers"),
    ):
        require_cluster(parse_cluster(cluster.scheduler_address))
