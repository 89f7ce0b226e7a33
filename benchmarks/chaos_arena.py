"""What the chaos campaign disturbs: an S3 server, a Dask cluster and a command, each a process that can be killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import boto3
import distributed
import numpy as np
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from PIL import Image

from benchmarks.fault_proxy import FaultProxy
from flows.cluster.runner import local_cluster
from flows.servers.server import prefect_server

_BUCKET: Final = "chaos"
KEYS: Final = {"AWS_ACCESS_KEY_ID": "chaos-key", "AWS_SECRET_ACCESS_KEY": "chaos-secret-0123456789"}
_RUN_TIMEOUT_S: Final = 600.0
PHOTOGRAPHS: Final = 6
SIDE_PX: Final = 128
_PRELOADED: Final = [
    "boto3",
    "distributed",
    "PIL.Image",
    "benchmarks.fault_proxy",
    "flows.cli",
    "flows.commands.run",
    "flows.shards.shard",
]


class S3Server:
    """A SeaweedFS that can be killed and started again over the same data."""

    def __init__(self, folder: Path) -> None:
        names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
                 "filer.port", "filer.port.grpc", "admin.port", "admin.port.grpc")  # fmt: skip
        self._folder = folder
        self._ports = dict(zip(names, _free_ports(len(names)), strict=True))
        (folder / "data").mkdir(parents=True)
        self.set_secret(KEYS["AWS_SECRET_ACCESS_KEY"], reload=False)
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def port(self) -> int:
        """Where it answers S3 requests."""
        return self._ports["s3.port"]

    def start(self) -> None:
        """Start it, unless it runs, and wait until it stores objects."""
        if self._process is None or self._process.poll() is not None:
            command = [
                shutil.which("weed", path=str(Path(sys.executable).parent)) or "weed",
                "mini", f"-dir={self._folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
                f"-s3.config={self._folder / 's3.json'}", "-webdav=false", "-admin.ui=false", "-s3.port.lance=0",
                "-s3.port.iceberg=0", "-master.telemetry=false",
                *(f"-{name}={port}" for name, port in self._ports.items()),
            ]  # fmt: skip
            with (self._folder / "weed.log").open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603 -- SeaweedFS and its ports
                    command, stdout=log, stderr=log, cwd=self._folder, env=os.environ | {"GOMEMLIMIT": "400MiB"}
                )
        wait_until(self._stores, "the S3 server")

    def kill(self) -> None:
        """End it as a power cut does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def set_secret(self, secret: str, *, reload: bool = True) -> None:
        """Change the secret that belongs to the key, as an administrator would."""
        credentials = [{"accessKey": KEYS["AWS_ACCESS_KEY_ID"], "secretKey": secret}]
        identities = [{"name": "all", "credentials": credentials, "actions": ["Admin"]}]
        (self._folder / "s3.json").write_text(json.dumps({"identities": identities}))
        if reload and self._process is not None:
            self._process.send_signal(signal.SIGHUP)

    def objects(self, prefix: str) -> dict[str, bytes]:
        """Read every object below a prefix, by the rest of its name."""
        with closing(self.client()) as client:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=_BUCKET, Prefix=f"{prefix}/")
            keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
            bodies = ((key, client.get_object(Bucket=_BUCKET, Key=key)["Body"]) for key in keys)
            return {key.removeprefix(f"{prefix}/"): body.read() for key, body in bodies}

    def client(self) -> Any:
        """Give a client that shares no code with what is tested."""
        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            aws_access_key_id=KEYS["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=KEYS["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
            config=Config(retries={"max_attempts": 2}, connect_timeout=2, read_timeout=20),
        )

    def _stores(self) -> bool:
        with closing(self.client()) as client, suppress(BotoCoreError):
            with suppress(ClientError):
                client.create_bucket(Bucket=_BUCKET)
            with suppress(ClientError):
                client.put_object(Bucket=_BUCKET, Key="ready", Body=b"yes")
                return bool(client.get_object(Bucket=_BUCKET, Key="ready")["Body"].read() == b"yes")
        return False


@dataclass
class Arena:
    """Everything that runs while the campaign goes on.

    Attributes:
        folder: where photographs and logs lie.
        s3: the S3 server.
        proxy: the way to it.
        cluster: address of the Dask scheduler.
        client: of that scheduler, to find the workers.
    """

    folder: Path
    s3: S3Server
    proxy: FaultProxy
    _node: ExitStack = field(default_factory=ExitStack)
    cluster: str = ""
    client: distributed.Client | None = None

    def start_node(self) -> None:
        """Start a scheduler with two workers, in the place of what is left of the last."""
        self._node.close()
        cluster = self._node.enter_context(local_cluster(workers=2, threads=1))
        self.client = self._node.enter_context(distributed.Client(cluster, set_as_default=False))  # type: ignore[no-untyped-call]
        self.cluster = cluster.scheduler_address

    def close(self) -> None:
        """Stop scheduler and workers."""
        self._node.close()

    def workers(self) -> list[int]:
        """Process ids of the workers that run now."""
        with suppress(Exception):  # one that dies while it is asked
            return sorted(self.client.run(os.getpid, on_error="ignore").values()) if self.client else []
        return []

    def heal(self) -> None:
        """Bring back what was killed."""
        self.s3.start()
        try:
            wait_until(lambda: len(self.workers()) == 2, "the workers", 120)
        except TimeoutError:  # Dask gives a worker up that takes long to start, as on a busy machine
            self.start_node()

    def synthesize(self, dataset: str, *, cluster: str | None = None, file_limit: int | None = None) -> Coordinator:
        """Begin the command in a process of its own."""
        order = [
            "synthesize", str(self.folder / "photographs"), dataset, "--canvas", str(SIDE_PX), "--method", "linearise",
            "--shard-size", "1", "--set", "lpips_share=0", "--set", "codec=zstd", "--cluster", cluster or self.cluster,
        ]  # fmt: skip
        return Coordinator(order, self.folder / "coordinator.log", file_limit)


class Coordinator:
    """One ``aura`` command in a process, forked from one that has imported everything, so that it starts at once."""

    def __init__(self, order: list[str], log: Path, file_limit: int | None) -> None:
        self._log = log
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=_run_command, args=(order, str(log), file_limit))
        self._process.start()

    @property
    def pid(self) -> int:
        """Its process."""
        return int(self._process.pid or 0)

    def wait(self) -> int:
        """Wait for its end; gives its exit code, negative if a signal ended it."""
        self._process.join(_RUN_TIMEOUT_S)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        return int(self._process.exitcode or 0)

    def said(self) -> str:
        """What it printed."""
        return self._log.read_text(errors="replace").strip()


@contextmanager
def arena(folder: Path) -> Iterator[Arena]:
    """Run the servers and the cluster while the block runs; nothing of them stays."""
    _draw_photographs(folder / "photographs")
    before = dict(os.environ)
    with ExitStack() as stack:
        stack.callback(_set_environment, before)
        os.environ["AURA_HOME"] = str(folder / "home")
        s3 = S3Server(folder / "s3")
        stack.callback(s3.kill)
        proxy = stack.enter_context(FaultProxy(s3.port))
        os.environ.update(KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{proxy.port}", "AWS_REGION": "us-east-1"})
        os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
        stack.enter_context(prefect_server())
        # begun here, since it keeps the environment that it finds
        multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
        running = Arena(folder, s3, proxy)
        stack.callback(running.close)
        running.start_node()
        yield running


def dataset_url(name: str) -> str:
    """Where a run makes its dataset."""
    return f"s3://{_BUCKET}/{name}"


def _draw_photographs(folder: Path) -> None:
    folder.mkdir(parents=True)
    for number in range(PHOTOGRAPHS):
        pixels = np.random.default_rng(number).normal(128, 40, (SIDE_PX, SIDE_PX, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def _run_command(order: list[str], log: str, file_limit: int | None) -> None:
    """Be the command: what it prints goes to a file, its exit code is the process's."""
    with Path(log).open("wb") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if file_limit is not None:
        os.environ["COLUMNS"] = "120"
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    sys.argv = ["aura", *order]
    from flows.cli import app  # noqa: PLC0415 -- in the new process

    app()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _set_environment(wanted: Mapping[str, str]) -> None:
    for name in os.environ.keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 900.0) -> None:
    """Poll until a condition holds: processes do not tell when they are ready."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for {what}")
        time.sleep(0.05)  # a pause between two looks, not a guess of how long it takes
