"""Where shards are made: a Dask cluster here, on CPUs or GPUs, or one that runs already. One setting says which."""

import contextlib
import functools
import importlib
import logging
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any, Final, Literal, cast

import dask
import distributed
import psutil
import torch
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner

from aura.errors import AuraError, InvalidInputError

_BYTES_PER_WORKER = 2 << 30  # torch, the networks, a 24 megapixel photograph with its tiles, and two shards in hand
_CONNECT_TIMEOUT_S = 5
_LOST_WORKER_TIMEOUT = "10 minutes"
_ON_THIS_MACHINE: Final[dict[str, Any]] = {
    "host": "127.0.0.1",
    "dashboard_address": "127.0.0.1:0",
    "memory_limit": 0,  # the recipe's limits bound memory; a worker that Dask pauses would never go on
}
_KEPT_MESSAGES = 50
_EXPECTED = (
    "'local', 'local:N' for N workers, 'cuda' for one worker on each GPU of this machine, or a scheduler's address "
    "such as tcp://host:8786"
)
_ADDRESS: Final = re.compile(r"(tcp|tls|ucx|ws|wss)://.+:\d+/?")
_OF_A_TERMINAL: Final = (signal.SIGINT, signal.SIGHUP)
GPU: Final = "GPU"
"""The Dask resource that stands for a whole GPU. Where workers declare it, the shards in hand share one of it."""
PRELOADS: Final = ["flows.cluster.calm_end", "flows.cluster.early_imports"]
"""Modules that every worker imports before it takes shards."""
SHARDS_IN_HAND: Final = 2
"""Of a worker: while one computes, the next is read, or the last is stored; see :mod:`flows.shards.turns`."""


# Dask keeps the last thousand messages of every connection for its developers; a message that hands a shard to a worker
# takes a tenth of a megabyte
dask.config.set({"distributed.admin.low-level-log-length": _KEPT_MESSAGES})


class SchedulerError(AuraError, ConnectionError):
    """The Dask scheduler does not answer."""


class CudaClusterError(AuraError, RuntimeError):
    """This machine or this installation cannot run a CUDA cluster."""


@dataclass(frozen=True)
class Cluster:
    """Where the work is done.

    Attributes:
        address: address of a running scheduler; None for a cluster of our own on this machine.
        workers: processes of the cluster of our own; 0 for as many as there are GPUs.
        kind: what the workers of a cluster of our own compute on.
    """

    address: str | None
    workers: int
    kind: Literal["cpu", "cuda"] = "cpu"

    @property
    def threads_per_worker(self) -> int:
        """Threads that torch may use in each local worker."""
        return max(1, usable_cpus() // max(1, self.workers))


def parse_cluster(setting: str) -> Cluster:
    """Read the cluster setting: ``local``, ``local:N``, ``cuda``, or a scheduler's address.

    Raises:
        InvalidInputError: it is none of these.
    """
    if "://" in setting:
        return Cluster(scheduler_address(setting), 0)
    if setting == "cuda":
        return Cluster(None, 0, "cuda")
    kind, _, count = setting.partition(":")
    if kind != "local" or (count and not (count.isdigit() and int(count) > 0)):
        raise InvalidInputError(f"The cluster setting is {setting!r}; expected {_EXPECTED}.")
    return Cluster(None, int(count) if count else _default_workers())


def scheduler_address(text: str) -> str:
    """Return the address of a scheduler if it is one; nothing is asked.

    Raises:
        InvalidInputError: it is none.
    """
    if not _ADDRESS.fullmatch(text):
        raise InvalidInputError(f"{text!r} is no Dask scheduler's address; expected one such as tcp://host:8786.")
    return text


def configured_cluster() -> Cluster:
    """Read the cluster setting of the environment, ``AURA_CLUSTER``; ``local`` if it is not set."""
    return parse_cluster(os.environ.get("AURA_CLUSTER", "local"))


def require_cluster(cluster: Cluster) -> None:
    """Check that an existing scheduler answers and has workers, or that a CUDA cluster can be started.

    Raises:
        SchedulerError: it does not answer, or has none.
        CudaClusterError: dask-cuda is not installed, or there is no GPU.
    """
    if cluster.kind == "cuda":
        _cuda_cluster_class()
    if cluster.address is None:
        return
    workers = workers_of(cluster.address, _CONNECT_TIMEOUT_S)
    if not workers:
        raise SchedulerError(
            f"The Dask scheduler at {cluster.address} has no workers; start some with 'aura worker {cluster.address}'."
        )


def workers_of(address: str, patience_s: float) -> Mapping[str, Any]:
    """Ask a scheduler for its workers.

    Args:
        address: of the scheduler.
        patience_s: how long it is given to answer.

    Returns:
        What the scheduler knows of each worker, by address.

    Raises:
        SchedulerError: it does not answer.
    """
    try:
        with distributed.Client(address, timeout=patience_s, set_as_default=False) as client:  # type: ignore[no-untyped-call]  # no types
            return cast("Mapping[str, Any]", client.scheduler_info(n_workers=-1)["workers"])
    except (OSError, TimeoutError) as error:
        raise SchedulerError(
            f"The Dask scheduler at {address} does not answer ({type(error).__name__}). Start one with "
            "'dask scheduler', or correct the address."
        ) from None


def build_runner(cluster: Cluster) -> TaskRunner[PrefectFuture[Any]]:
    """Build the task runner. Nothing starts and nothing is connected before the first task is submitted."""
    if cluster.address:
        runner = DaskTaskRunner(address=cluster.address)
    elif cluster.kind == "cuda":
        runner = DaskTaskRunner(cluster_class=cuda_cluster)  # type: ignore[arg-type]  # as below
    else:
        arguments = {"workers": cluster.workers, "threads": cluster.threads_per_worker}
        # it enters whatever it calls, with these arguments; the library types a class only
        runner = DaskTaskRunner(cluster_class=local_cluster, cluster_kwargs=arguments)  # type: ignore[arg-type]
    return cast("TaskRunner[PrefectFuture[Any]]", runner)


@contextlib.contextmanager
def local_cluster(
    workers: int, threads: int, resources: dict[str, float] | None = None
) -> Iterator[distributed.LocalCluster]:
    """Run a cluster of worker processes that have two tasks in hand each.

    Args:
        workers: number of processes.
        threads: threads torch may use in each.
        resources: what each worker declares to have, such as ``{GPU: 1}``.
    """
    start = functools.partial(
        distributed.LocalCluster,
        n_workers=workers,
        threads_per_worker=SHARDS_IN_HAND,
        processes=True,
        resources=resources,
        **_ON_THIS_MACHINE,
    )
    with _settings_for_workers(threads), _undisturbed(start) as cluster:
        yield cluster


@contextlib.contextmanager
def cuda_cluster() -> Iterator[distributed.LocalCluster]:
    """Run a cluster with one worker process for each GPU of this machine; each has two shards in hand.

    Raises:
        CudaClusterError: dask-cuda is not installed, or there is no GPU.
    """
    cluster_class = _cuda_cluster_class()
    threads = max(1, usable_cpus() // torch.cuda.device_count())
    start = functools.partial(cluster_class, threads_per_worker=SHARDS_IN_HAND, resources={GPU: 1}, **_ON_THIS_MACHINE)
    with _settings_for_workers(threads), _undisturbed(start) as cluster:
        yield cluster


@contextlib.contextmanager
def _undisturbed(start: Callable[[], distributed.LocalCluster]) -> Iterator[distributed.LocalCluster]:
    """Run a cluster whose workers are ended by us alone: a terminal sends its ctrl-C to every process that it runs."""
    nannies = logging.getLogger("distributed.nanny")
    nannies.setLevel(logging.NOTSET)
    with contextlib.ExitStack() as running:
        resource_tracker.ensure_running()  # it would let the signals through again, if a nanny were to start it
        # what a thread does not receive, the threads and processes that it starts do not either; nannies start workers
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_A_TERMINAL)
        try:
            cluster = running.enter_context(start())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            yield cluster
        finally:
            nannies.setLevel(logging.ERROR)  # that a worker is killed in the middle of a shard is what is wanted


def _cuda_cluster_class() -> Any:
    """Import dask-cuda's cluster, which only those who have GPUs need to install."""
    try:
        found = importlib.import_module("dask_cuda").LocalCUDACluster
    except ImportError as error:
        raise CudaClusterError(
            f"The cluster setting is 'cuda', which needs the package dask-cuda, and that does not import ({error}). "
            "Install the dask-cuda that fits the installed dask, or start a worker for each GPU by hand: "
            "'CUDA_VISIBLE_DEVICES=0 aura worker tcp://host:8786 --gpu'."
        ) from None
    if not torch.cuda.is_available():
        raise CudaClusterError("The cluster setting is 'cuda', but PyTorch finds no GPU here; use 'local'.")
    return found


@contextlib.contextmanager
def _settings_for_workers(threads: int) -> Iterator[None]:
    """Have the nannies that start within the block give their workers the environment that they need."""
    # malloc and OpenMP read their settings once, before Python starts: hence the pre-spawn environment.
    logging.getLogger("distributed").setLevel(logging.WARNING)  # Prefect's handlers would repeat all its chatter
    environment = worker_environment(threads)
    with (
        _environment_without([*environment, "PYTHONHASHSEED"]),
        dask.config.set(
            {
                "distributed.nanny.pre-spawn-environ": environment,
                "distributed.worker.preload": PRELOADS,
                # a killed worker starts again, but importing torch takes longer than the default on a busy machine;
                # then the cluster would give it up, and without any worker a run would wait for ever
                "distributed.deploy.lost-worker-timeout": _LOST_WORKER_TIMEOUT,
            }
        ),
    ):
        yield


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process, to be set before it starts.

    Large thresholds keep freed blocks in the process: without them each network layer asks the kernel for
    fresh, zeroed pages, and inference on a CPU is several times slower.

    Args:
        threads: threads torch may use.
    """
    allocator = {
        "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
        "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
        "MALLOC_TOP_PAD_": str(1 << 28),
        "MALLOC_ARENA_MAX": "1",  # an arena for each thread would keep the largest that each ever held
    }
    pools = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return allocator | dict.fromkeys(pools, str(threads))


def usable_cpus() -> int:
    """Count the CPUs that this process may use, which a container can make fewer than the machine's."""
    return max(1, dask.system.CPU_COUNT)


def _default_workers() -> int:
    fitting = psutil.virtual_memory().available // _BYTES_PER_WORKER
    return max(1, min(usable_cpus(), int(fitting)))


@contextlib.contextmanager
def _environment_without(names: Iterable[str]) -> Iterator[None]:
    """Take names out of the environment, where Dask prefers them to its settings, and in the end undo what it wrote."""
    before = {name: os.environ.pop(name, None) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
