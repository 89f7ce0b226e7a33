"""The workers of a run's Dask cluster: how many shards they take, where a shard is at work, and who shall have it."""

import contextlib
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Final, cast

import dask
import distributed
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture
from prefect.task_runners import TaskRunner
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture

from aura.errors import InvalidInputError
from flows.cluster.runner import GPU, SHARDS_IN_HAND, worker_environment

_RESTART_TIMEOUT_S: Final = 120
_PATIENCE_S: Final = 20.0  # a worker that computes answers in milliseconds, one that starts in seconds


@dataclass(frozen=True)
class Workforce:
    """The workers that a flow's task runner reaches.

    Attributes:
        client: to the scheduler.
        own: the cluster was started for this run, so that its workers may be restarted.
        gpus: GPUs that the workers declare; if there are any, the shards in hand share one.
    """

    client: distributed.Client
    own: bool
    gpus: int

    @classmethod
    def of(cls, runner: TaskRunner[PrefectFuture[Any]]) -> "Workforce":
        """Reach the workers of a runner, starting its cluster if need be.

        Raises:
            InvalidInputError: it is not a runner of :func:`flows.cluster.runner.build_runner`.
        """
        if not isinstance(runner, DaskTaskRunner):
            raise InvalidInputError(f"The task runner is a {type(runner).__name__}; shards are made on Dask only.")
        declared = (worker["resources"].get(GPU, 0) for worker in _workers(runner.client).values())
        return cls(runner.client, own=runner.address is None, gpus=int(sum(declared)))

    @classmethod
    def of_this_flow(cls) -> "Workforce":
        """Reach the workers of the flow that runs.

        Raises:
            InvalidInputError: no flow runs.
        """
        context = FlowRunContext.get()
        if context is None:
            raise InvalidInputError("Shards are made inside the factory flow; call that.")
        return cls.of(context.task_runner)

    def addresses(self) -> set[str]:
        """Addresses of all workers."""
        return set(_workers(self.client))

    def places(self) -> int:
        """Count the shards to be with the workers at once: two for each GPU if workers declare any, else each worker.

        The second keeps a worker busy until the coordinator has sent the next. Workers that were started with more
        threads than that get a shard for each.
        """
        threads = (int(worker["nthreads"]) for worker in _workers(self.client).values())
        in_hand = SHARDS_IN_HAND * self.gpus or sum(max(SHARDS_IN_HAND, each) for each in threads)
        return max(1, in_hand)

    @contextlib.contextmanager
    def placing(self, avoid: Collection[str] = ()) -> Iterator[None]:
        """Have what is submitted within share GPUs where there are any, and shun some workers if others are left."""
        wishes: dict[str, Any] = {"resources": {GPU: 1 / SHARDS_IN_HAND}} if self.gpus else {}
        if avoid and (others := sorted(self.addresses().difference(avoid))):
            # a wish only: were all of them to die meanwhile, the shard would wait for ever
            wishes |= {"workers": others, "allow_other_workers": True}
        with dask.annotate(**wishes):  # type: ignore[attr-defined]  # exported, but not by name
            yield

    def holder(self, future: PrefectFuture[Any]) -> str | None:
        """Address of the worker that has a future's task, at work or waiting; None if none has."""
        wanted = _dask_future(future).key
        return next((address for address, keys in self._processing().items() if wanted in keys), None)

    def held_by(self, address: str, futures: Collection[PrefectFuture[Any]]) -> list[PrefectFuture[Any]]:
        """Say which futures' tasks a worker has, at work or waiting."""
        keys = self._processing().get(address, ())
        return [future for future in futures if _dask_future(future).key in keys]

    def finisher(self, future: PrefectFuture[Any]) -> str | None:
        """Address of the worker that has finished a future's task; None if it died, or the task never ended."""
        wanted = _dask_future(future)
        holders: dict[Any, Collection[str]] = self.client.who_has([wanted])  # type: ignore[no-untyped-call]  # no types
        return next(iter(holders.get(wanted.key, ())), None)

    def cancel(self, future: PrefectFuture[Any]) -> None:
        """Forget a task; one that is at work ends by itself, and nobody waits for it."""
        _dask_future(future).cancel(force=True)  # type: ignore[no-untyped-call]  # no types

    def restart(self, address: str) -> None:
        """Kill a worker of our own cluster and start another in its place; its tasks go to whoever is free."""
        with contextlib.suppress(TimeoutError):  # a busy machine: it comes back later
            self.client.restart_workers([address], timeout=_RESTART_TIMEOUT_S)

    def _processing(self) -> dict[str, Collection[str]]:
        processing: dict[str, Collection[str]] = self.client.processing()  # type: ignore[no-untyped-call]  # no types
        return processing

    def untuned(self, patience_s: float = _PATIENCE_S) -> list[str] | None:
        """Addresses of workers that were started without :func:`flows.cluster.runner.worker_environment`.

        None if some do not answer in time: one that is frozen must not hold up the work of the others.
        """
        answers: SimpleQueue[dict[str, bool]] = SimpleQueue()

        def ask() -> None:
            with contextlib.suppress(Exception):  # the scheduler will say so itself
                answers.put(self.client.run(_is_tuned, on_error="ignore"))

        threading.Thread(target=ask, name="ask workers", daemon=True).start()
        try:
            found = answers.get(timeout=patience_s)
        except Empty:
            return None
        return sorted(address for address, tuned in found.items() if not tuned)


def _workers(client: distributed.Client) -> dict[str, Any]:
    workers: dict[str, Any] = client.scheduler_info(n_workers=-1)["workers"]
    return workers


def _is_tuned() -> bool:
    import os  # noqa: PLC0415 -- runs on the worker

    return all(name in os.environ for name in worker_environment(1))


def _dask_future(future: PrefectFuture[Any]) -> "distributed.Future[Any]":
    return cast("PrefectDaskFuture[Any]", future).wrapped_future
