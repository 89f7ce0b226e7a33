"""Server, work pool and worker on one machine, with every deployment of prefect.yaml registered."""

import contextlib
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.utilities.asyncutils import run_coro_as_sync
from prefect.workers.process import ProcessWorker

from aura.errors import AuraError, MissingFileError
from flows.servers.server import Server, ServerError, ended_by_itself, has_ended

POOL: Final = "aura"
_DEFINITION: Final = Path("prefect.yaml")
_STOP_TIMEOUT_S: Final = 60.0
_LOOK_EVERY_S: Final = 1.0
_MARK: Final = "AURA_WORKER"
"""Variable by which the runs of a worker are known as its own when it has died: each has a session of its own."""


@dataclass(frozen=True)
class Queue:
    """A work queue of the pool.

    Attributes:
        name: its name; deployments name it, too.
        priority: 1 is served first.
        limit: runs at once; None for any number.
    """

    name: str
    priority: int
    limit: int | None = None


QUEUES: Final = (Queue("nightly", 1), Queue("by-hand", 2), Queue("training", 3, limit=1))


class DeploymentError(AuraError, RuntimeError):
    """prefect.yaml could not be deployed."""


def require_definition() -> None:
    """Check that the current folder is one that can be deployed from.

    Raises:
        MissingFileError: there is no prefect.yaml.
    """
    if not _DEFINITION.is_file():
        raise MissingFileError(f"There is no {_DEFINITION} in {Path.cwd()}; run this in the repository's root.")


def make_pool() -> None:
    """Make the work pool and its queues on the server that is in use; what is there already stays as it is."""
    run_coro_as_sync(_make_pool())


def deploy() -> list[str]:
    """Register everything in prefect.yaml; gives the names of the deployments.

    Raises:
        DeploymentError: Prefect refused; the message is its own.
    """
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-1]
        raise DeploymentError(f"prefect.yaml could not be deployed: {last}")
    definition: dict[str, Any] = yaml.safe_load(_DEFINITION.read_text(encoding="utf-8"))
    return [str(deployment["name"]) for deployment in definition["deployments"]]


@contextlib.contextmanager
def worker(server: Server, *options: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a worker of the pool; on leaving, it is stopped together with every run that it has begun.

    Args:
        server: the server in use.
        options: further options of ``prefect worker start``.
    """
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process", *options]
    # A session of its own: ctrl-C reaches this process, which then stops the worker and the server in order
    mark = uuid.uuid4().hex
    environment = os.environ | {"PREFECT_API_URL": server.api_url, _MARK: mark}
    process = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603 -- words of our own
    try:
        yield process
    finally:
        _stop(process, mark)


def watch(server: Server, worker: "subprocess.Popen[bytes]") -> None:
    """Wait, as long as the server and the worker live.

    Raises:
        ServerError: one of them has ended by itself.
    """
    while not has_ended(worker.pid, _LOOK_EVERY_S):
        if server.pid is not None and has_ended(server.pid, 0):
            raise ended_by_itself()
    raise ServerError("The worker has ended by itself; what it said stands above. Give the command again: runs go on.")


async def _make_pool() -> None:
    async with get_client() as client:
        with contextlib.suppress(ObjectAlreadyExists):
            template = ProcessWorker.get_default_base_job_template()
            await client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))
        for queue in QUEUES:
            try:
                await client.read_work_queue_by_name(queue.name, work_pool_name=POOL)
            except ObjectNotFound:
                await client.create_work_queue(
                    queue.name, concurrency_limit=queue.limit, priority=queue.priority, work_pool_name=POOL
                )


def _stop(process: "subprocess.Popen[bytes]", mark: str) -> None:
    """End a worker and the runs that it began: each gets time to end in order, then it is killed."""
    family = _marked(mark)
    for each in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.send_signal(signal.SIGTERM)
    _, alive = psutil.wait_procs([each for each in family if each.pid != process.pid], timeout=_STOP_TIMEOUT_S)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _marked(mark: str) -> list[psutil.Process]:
    """List a worker and all that it has begun, whether it lives or not."""
    found = []
    for each in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # of other users' processes nobody is told
            if each.environ().get(_MARK) == mark:
                found.append(each)
    return found
