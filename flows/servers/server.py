"""The Prefect server a run reports to: the configured one, or a local one that lives as long as the run.

A local server keeps its database in the user's data folder, so the history of runs is there the next time.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    get_current_settings,
    temporary_settings,
)

from aura.errors import AuraError

_HOST = "127.0.0.1"
_START_TIMEOUT_S = 240.0  # a busy machine takes a minute to make the tables of a new database
_STOP_TIMEOUT_S = 15.0
_DRAIN_TIMEOUT_S = 5.0

# What the local server needs, and what it does not: nothing is reported home.
_SERVER_ENVIRONMENT = {
    "PREFECT_SERVER_UI_API_URL": "/api",  # otherwise the UI only finds an API on port 4200
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLOUD_ENABLE_ORCHESTRATION_TELEMETRY": "false",
    "DO_NOT_TRACK": "1",
}
_WITHOUT_SCHEDULES = {
    "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",
    "PREFECT_SERVER_SERVICES_TRIGGERS_ENABLED": "false",
}


class ServerError(AuraError, ConnectionError):
    """The Prefect server does not answer, or could not be started."""


@dataclass(frozen=True)
class Server:
    """A Prefect server that answers.

    Attributes:
        api_url: where the client talks to it.
        ui_url: where a browser looks at it, without a trailing slash.
        local: it is on this machine and was started by this project.
        pid: process that this object's maker started and has to stop; None if it was there before.
    """

    api_url: str
    ui_url: str
    local: bool
    pid: int | None = None

    def run_url(self, flow_run_id: object) -> str:
        """Address of a flow run in the UI."""
        return f"{self.ui_url}/runs/flow-run/{flow_run_id}"

    def wait(self) -> None:
        """Wait as long as the server lives that was started here.

        Raises:
            ServerError: it has ended by itself.
        """
        if self.pid is not None:
            has_ended(self.pid, None)
            raise ended_by_itself()


def data_folder() -> Path:
    """Folder of the local server's database and log: ``AURA_HOME``, or the user's data folder."""
    if home := os.environ.get("AURA_HOME"):
        return Path(home).expanduser().resolve()
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "aura"


def ended_by_itself() -> ServerError:
    """Say that the local server is gone, which nobody asked for."""
    return ServerError(f"The Prefect server has ended by itself; {_log_path()} may say why. Give the command again.")


def configured_api_url() -> str | None:
    """Prefect API address from the environment or the active profile; None if there is none."""
    return get_current_settings().api.url


@contextlib.contextmanager
def prefect_server(*, keep: bool = False, port: int | None = None, schedules: bool = False) -> Iterator[Server]:
    """Give the Prefect server to use, and make it the one that Prefect's client in this process uses.

    Args:
        keep: leave a server that was started here running; the next run finds and uses it.
        port: port of a server that has to be started; None takes a free one.
        schedules: one that has to be started shall also run schedules and automations.

    Yields:
        The configured server, a local one that was kept, or a new local one, stopped on leaving unless kept.

    Raises:
        ServerError: the configured server does not answer, or none could be started.
    """
    if api_url := configured_api_url():
        _require_answer(api_url)
        yield Server(api_url, ui_url_of(api_url), local=False)
        return
    server = _kept_server()
    if server is not None and schedules:
        raise ServerError(
            f"A local Prefect server runs already at {server.api_url}, and it runs no schedules; stop it first with "
            "'aura server --stop'."
        )
    server = server or _start(port, keep=keep, schedules=schedules)
    try:
        with _client_uses(server.api_url):
            yield server
    finally:
        if server.pid is not None and not keep:
            _send_what_is_queued()
            _stop(server.pid)


def stop_kept_server() -> bool:
    """Stop the local server that an earlier run left running; False if there is none."""
    record = _record_path()
    if _kept_server() is None:
        return False
    _stop(int(json.loads(record.read_text())["pid"]))
    record.unlink(missing_ok=True)
    return True


@contextlib.contextmanager
def _client_uses(api_url: str) -> Iterator[None]:
    """Point Prefect's client, here and in child processes, at an API."""
    before = os.environ.get("PREFECT_API_URL")
    os.environ["PREFECT_API_URL"] = api_url
    try:
        with temporary_settings({PREFECT_API_URL: api_url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
            yield
    finally:
        if before is None:
            del os.environ["PREFECT_API_URL"]
        else:
            os.environ["PREFECT_API_URL"] = before


def _send_what_is_queued() -> None:
    """Have Prefect's background threads send the last logs and events while there is a server to take them."""
    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=_DRAIN_TIMEOUT_S)


def _start(port: int | None, *, keep: bool, schedules: bool) -> Server:
    home = data_folder() / "prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)
        log = _log_path().open("wb")
    except OSError as error:
        raise ServerError(
            f"The local Prefect server cannot write in {home} ({error.strerror}); "
            "set AURA_HOME to a folder of yours, or PREFECT_API_URL to a running server."
        ) from None
    port = port or port_or_free(0)
    command = [sys.executable, "-m", "flows.servers.process", str(port), "keep" if keep else str(os.getpid())]
    environment = _SERVER_ENVIRONMENT | ({} if schedules else _WITHOUT_SCHEDULES)
    with log:
        # A session of its own: ctrl-C reaches the run, which ends in order and stops the server last.
        process = subprocess.Popen(  # noqa: S603 -- this interpreter and a number
            command,
            env=os.environ | environment | {"PREFECT_HOME": str(home)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    api_url = f"http://{_HOST}:{port}/api"
    try:
        _wait_until_healthy(process, api_url, _log_path())
    except BaseException:
        _stop(process.pid)
        process.wait()
        raise
    if keep:
        _record_path().write_text(json.dumps({"pid": process.pid, "api_url": api_url}))
    return Server(api_url, ui_url_of(api_url), local=True, pid=process.pid)


def _wait_until_healthy(process: "subprocess.Popen[bytes]", api_url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not _answers(api_url):
        if process.poll() is not None or time.monotonic() > deadline:
            last = (log.read_text(errors="replace").strip().splitlines() or ["nothing was logged"])[-1]
            ended = "stopped" if process.poll() is not None else f"did not answer in {_START_TIMEOUT_S:.0f} s"
            raise ServerError(
                f"The local Prefect server {ended}: {last} (log: {log}); "
                "set PREFECT_API_URL to use a server that runs already."
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)  # nothing tells that an HTTP server is ready but its answer: ask, unless it has ended


def _stop(pid: int) -> None:
    """Ask a server process to end, insist after a while, and return when it is gone."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal_number)
        if has_ended(pid, _STOP_TIMEOUT_S):
            return


def has_ended(pid: int, timeout_s: float | None) -> bool:
    """Wait until a process is gone, a child of this one or not; False if it is still there after the time."""
    try:
        psutil.Process(pid).wait(timeout_s)
    except psutil.NoSuchProcess:
        return True
    except psutil.TimeoutExpired:
        return False
    return True


def _log_path() -> Path:
    """Log of the local server that was started last."""
    return data_folder() / "prefect" / "server.log"


def _record_path() -> Path:
    return data_folder() / "prefect" / "kept-server.json"


def _kept_server() -> Server | None:
    """The local server that an earlier run was asked to leave running, if it still answers."""
    try:
        api_url = str(json.loads(_record_path().read_text())["api_url"])
    except (OSError, ValueError, KeyError):
        return None
    return Server(api_url, ui_url_of(api_url), local=True) if _answers(api_url) else None


def _require_answer(api_url: str) -> None:
    if not _answers(api_url, timeout_s=10):
        raise ServerError(
            f"The configured Prefect server at {api_url} does not answer; start it, or unset PREFECT_API_URL "
            "(and the profile's) to let this run start a local one."
        )


def _answers(api_url: str, timeout_s: float = 2) -> bool:
    key = os.environ.get("PREFECT_API_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(f"{api_url}/health", headers=headers, timeout=timeout_s)
    except (httpx.HTTPError, httpx.InvalidURL):
        return False
    return answer.status_code in {200, 401, 403, 404}  # also one behind a login, or a cloud workspace


def ui_url_of(api_url: str) -> str:
    """Address of the UI that belongs to an API, without a trailing slash; ``PREFECT_UI_URL`` if that is set."""
    return (get_current_settings().ui_url or api_url.removesuffix("/").removesuffix("/api")).rstrip("/")


def port_or_free(wanted: int) -> int:
    """Return ``wanted`` if nothing listens there, or else a free port of this machine."""
    with socket.socket() as probe:
        if os.name == "posix":  # as servers do: connections that ended lately keep nobody from it
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, wanted))
        except OSError:
            return port_or_free(0)
        return int(probe.getsockname()[1])
