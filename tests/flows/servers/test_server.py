import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.servers.server import (
    Server,
    ServerError,
    configured_api_url,
    port_or_free,
    prefect_server,
    stop_kept_server,
)
from flows.servers.serving import watch, worker
from tests.conftest import wait_until
from tests.flows.conftest import ask


@flow(name="nothing-much")
def small_flow() -> int:
    return 42


def test_a_flow_reports_to_the_local_server(server: Server) -> None:
    assert small_flow() == 42
    assert _finished_runs(server)


def test_the_user_interface_of_the_local_server_finds_its_api(server: Server) -> None:
    settings = httpx.get(f"{server.ui_url}/ui-settings").json()
    assert settings["api_url"] == "/api"


def test_the_local_server_takes_what_many_write_at_once(server: Server) -> None:
    """SQLite has one writer at a time: the others wait for their turn, and nobody is turned away."""
    flow_id = ask(server, "POST", "flows/", {"name": "nothing-much"}).json()["id"]

    def write(_: int) -> set[int]:
        with httpx.Client(base_url=f"{server.api_url}/", timeout=120) as client:
            answers = [client.post("flow_runs/", json={"flow_id": flow_id, "state": {"type": "PENDING"}})]
            address = f"flow_runs/{answers[0].json().get('id')}/set_state"
            answers += [client.post(address, json={"state": {"type": state}}) for state in ("RUNNING", "COMPLETED")]
        return {answer.status_code for answer in answers}

    with ThreadPoolExecutor(8) as people:
        assert set.union(*people.map(write, range(24))) == {httpx.codes.CREATED}


def test_a_server_that_is_configured_is_used_and_left_alone(server: Server) -> None:
    assert configured_api_url() == server.api_url
    with prefect_server() as again:
        assert again.pid is None
        assert not again.local
    assert httpx.get(f"{server.api_url}/health").status_code == 200


def test_a_configured_server_that_does_not_answer_is_named() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/api"
        with (
            temporary_settings({PREFECT_API_URL: url}),
            pytest.raises(ServerError, match=r"does not answer; start it, or unset PREFECT_API_URL"),
            prefect_server(),
        ):
            pass


def test_history_is_there_the_next_time_and_nothing_is_left_running(home: Path) -> None:
    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        with prefect_server(keep=True) as first:
            assert first.pid is not None
            small_flow()
            before = _finished_runs(first)
        assert psutil.pid_exists(first.pid)
        with prefect_server() as kept:
            assert kept.api_url == first.api_url
            assert kept.pid is None
        assert stop_kept_server()
        assert not _serving(first.pid)
        assert not stop_kept_server()
        with prefect_server() as second:
            assert second.pid is not None
            assert _finished_runs(second) == before
        assert not _serving(second.pid)
    assert (home / "prefect").is_dir()


def test_a_server_that_is_started_again_has_the_port_it_had() -> None:
    """Connections that it has ended are kept for a minute by the system; its address stands in people's settings."""
    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        port: int = listening.getsockname()[1]
        assert port_or_free(port) != port
        with socket.create_connection(("127.0.0.1", port)) as client:
            listening.accept()[0].close()
            assert client.recv(1) == b""
    assert port_or_free(port) == port


def test_a_folder_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("AURA_HOME", str(tmp_path / "file"))
    with (
        temporary_settings(restore_defaults={PREFECT_API_URL}),
        pytest.raises(ServerError, match="set AURA_HOME"),
        prefect_server(),
    ):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal is Linux's")
def test_the_server_ends_with_a_parent_that_is_killed(home: Path) -> None:
    program = (
        "from flows.servers.server import prefect_server\n"
        "with prefect_server() as server:\n"
        "    print(server.pid, flush=True)\n"
        "    input()\n"
    )
    environment = os.environ | {"AURA_HOME": str(home)}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert _serving(pid)
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=30)
    assert not _serving(pid)


@pytest.mark.parametrize("dead", ["server", "worker"])
def test_a_server_or_worker_that_dies_is_noticed(dead: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nobody would know, until a morning without a dataset."""
    monkeypatch.setenv("AURA_HOME", str(tmp_path))
    with subprocess.Popen(["sleep", "600"]) as server, subprocess.Popen(["sleep", "600"]) as worker:
        {"server": server, "worker": worker}[dead].kill()
        running = Server("http://127.0.0.1:1/api", "http://127.0.0.1:1", local=True, pid=server.pid)
        try:
            with pytest.raises(ServerError, match=f"The (Prefect )?{dead} has ended by itself"):
                watch(running, worker)
        finally:
            server.kill()
            worker.kill()
    with pytest.raises(ServerError, match="ended by itself"):
        running.wait()


def test_what_a_worker_has_begun_ends_with_it_even_if_it_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its runs have sessions of their own, and would go on without a server to report to."""
    begun = tmp_path / "begun"
    program = (
        "import pathlib, subprocess, time\n"
        "run = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        f"pathlib.Path({str(begun)!r}).write_text(str(run.pid))\n"
        "time.sleep(600)\n"
    )
    (tmp_path / "python").write_text(f"#!{sys.executable}\n{program}")
    (tmp_path / "python").chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))  # instead of Prefect's worker
    with worker(Server("http://127.0.0.1:1/api", "http://127.0.0.1:1", local=True)) as process:
        wait_until(lambda: begun.exists() and begun.read_text() != "", "the run", 60)
        run = psutil.Process(int(begun.read_text()))
        process.kill()
        process.wait()
    assert not run.is_running() or run.status() == psutil.STATUS_ZOMBIE


def _finished_runs(server: Server) -> set[str]:
    completed = {"flow_runs": {"state": {"name": {"any_": ["Completed"]}}}}
    runs = ask(server, "POST", "flow_runs/filter", completed).json()
    assert runs
    return {run["id"] for run in runs}


def _serving(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
