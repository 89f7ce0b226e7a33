"""What all tests share: the measuring data, and a real S3 server."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import boto3
import pytest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

REPOSITORY = Path(__file__).parent.parent

if "PYTEST_XDIST_WORKER" in os.environ:  # processes side by side must not fight for the cores with threads of their own
    os.environ.setdefault("OMP_NUM_THREADS", "1")


@dataclass(frozen=True)
class S3Server:
    """A running S3 server. ``key`` may do anything; ``reader_key`` may read and list, not write."""

    endpoint: str
    key: str
    secret: str
    reader_key: str
    reader_secret: str
    bucket: str
    folder: Path
    pid: int

    def environment(self, key: str | None = None, secret: str | None = None) -> dict[str, str]:
        """Return the variables by which any S3 client finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": key or self.key,
            "AWS_SECRET_ACCESS_KEY": secret or self.secret,
            "AWS_REGION": "us-east-1",
        }

    def client(self) -> BaseClient:
        """Return a client that shares no code with the project."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )

    def revoke(self) -> None:
        """Take ``key`` back while the server runs, as an administrator would; returns when it is refused."""
        _write_keys(replace(self, secret="another-secret-0123456789"))
        os.kill(self.pid, signal.SIGHUP)
        wait_until(self._refuses, "the key to be refused")

    def _refuses(self) -> bool:
        with closing(self.client()) as client:
            try:
                client.head_bucket(Bucket=self.bucket)
            except ClientError:
                return True
        return False


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> None:
    """Poll until a condition holds, or fail naming it."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {seconds:g} s in vain for {what}")
        time.sleep(pause)  # between two looks at the condition; what is waited for decides, not the clock
        pause = min(0.2, pause * 1.5)


def free_ports(count: int) -> list[int]:
    """Return different ports that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for candidate in sockets:
            candidate.bind(("127.0.0.1", 0))
        return [candidate.getsockname()[1] for candidate in sockets]


@contextmanager
def run_s3_server(folder: Path, *options: str) -> Iterator[S3Server]:
    """Run SeaweedFS on free ports with keys, until the block ends; it is stopped by its own process id."""
    names = ["s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
             "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc"]  # fmt: skip
    ports = free_ports(len(names))
    server = S3Server(
        endpoint=f"http://127.0.0.1:{ports[0]}",
        key="test-key",
        secret="test-secret-0123456789",
        reader_key="reader-key",
        reader_secret="reader-secret-0123456789",
        bucket="bucket",
        folder=folder,
        pid=0,
    )
    _write_keys(server)
    (folder / "data").mkdir()
    command = [
        shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed") or "weed",
        "mini", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.config={folder / 's3.json'}",
        "-webdav=false", "-admin.ui=false", "-s3.port.lance=0", "-s3.port.iceberg=0", "-master.telemetry=false",
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)), *options,
    ]  # fmt: skip
    log = (folder / "weed.log").open("wb")
    process = subprocess.Popen(
        command, stdout=log, stderr=log, cwd=folder, env=os.environ | {"GOMEMLIMIT": "400MiB", "GOGC": "50"}
    )
    try:
        wait_until(lambda: _answers(server, process), "the S3 server")
        yield replace(server, pid=process.pid)
    finally:
        process.kill()  # its data are thrown away
        process.wait()
        log.close()


def _write_keys(server: S3Server) -> None:
    identities = [
        {"name": "all", "credentials": [{"accessKey": server.key, "secretKey": server.secret}], "actions": ["Admin"]},
        {
            "name": "reader",
            "credentials": [{"accessKey": server.reader_key, "secretKey": server.reader_secret}],
            "actions": ["Read", "List"],
        },
    ]
    (server.folder / "s3.json").write_text(json.dumps({"identities": identities}))


def _answers(server: S3Server, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        log = (server.folder / "weed.log").read_text(errors="replace")
        pytest.fail(f"the S3 server ended: {log[-2000:]}")
    with closing(server.client()) as client:
        try:
            client.create_bucket(Bucket=server.bucket)
            client.put_object(Bucket=server.bucket, Key="ready", Body=b"")
        except ClientError as error:
            return error.response["Error"]["Code"] in {"BucketAlreadyOwnedByYou", "BucketAlreadyExists"}
        except BotoCoreError:
            return False
    return True


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A SeaweedFS of this test process (each xdist worker has its own), with one bucket."""
    with run_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3_environment(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, with this process's environment pointing to it."""
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The measuring data, which are no part of the project; tests that need them skip without."""
    folder = Path(os.environ.get("AURA_DATA", REPOSITORY / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"needs the measuring data, which are not at {folder}; set AURA_DATA")
    return folder
