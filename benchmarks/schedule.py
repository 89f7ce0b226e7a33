"""Let cron start the nightly deployment twice, on a server and a worker of its own, with new photographs in between.

    python -m benchmarks.schedule [--every MINUTES]

Nothing is started by hand: the runs are the scheduler's. The second must add what is new in the corpus, and only that.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console

from benchmarks.record import write_result
from flows.commands.demo import PHOTOGRAPHS, demo_recipe, lay_out_photographs
from flows.servers.server import Server, prefect_server
from flows.servers.serving import deploy, make_pool, worker
from storage.datasets.versions import list_versions, read_version

_REPOSITORY: Final = Path(__file__).parent.parent
_FIRST_NIGHT: Final = 3  # photographs; the others come after it
_SOFTWARE: Final = ("prefect", "prefect-dask", "dask", "zarr")
_NIGHT_TIMEOUT_S: Final = 900.0
_ENDED: Final = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}

console = Console(stderr=True)


def main() -> int:
    """Run both nights, print what they made, and write the result; 1 if the second made anything that was not new."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--every", type=int, default=2, help="minutes from one run to the next")
    every = options.parse_args().every
    os.chdir(_REPOSITORY)
    with tempfile.TemporaryDirectory(prefix="schedule-") as folder:
        os.environ["AURA_HOME"] = f"{folder}/home"
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.setdefault("AURA_CLUSTER", "local")
        with prefect_server(schedules=True) as server:
            make_pool()
            deploy()
            with worker(server):
                nights = _two_nights(server, Path(folder), every)
    first, second = nights
    new_only = second["shards_rewritten"] == 0 and second["samples"] > first["samples"]
    figures = {
        "runs_started_by_cron": _figure(len(nights), "runs"),
        "photographs_first": _figure(first["photographs"], "photographs"),
        "photographs_second": _figure(second["photographs"], "photographs"),
        "samples_first": _figure(first["samples"], "samples"),
        "samples_second": _figure(second["samples"], "samples"),
        "shards_made_first": _figure(first["shards_made"], "shards"),
        "shards_made_second": _figure(second["shards_made"], "shards"),
        "shards_rewritten_by_second": _figure(second["shards_rewritten"], "shards"),
        "seconds_from_schedule_to_start": _figure(round(max(night["late_s"] for night in nights), 1), "s"),
    }
    protocol = (
        "A Prefect server with scheduler, the process work pool and a worker on one machine; prefect.yaml deployed; "
        f"the nightly deployment given a cron schedule of every {every} minutes and the demo's recipe. The first run "
        f"sees {_FIRST_NIGHT} photographs, the second all {len(PHOTOGRAPHS)}. Rewritten: shards of the first run whose "
        "modification times differ after the second."
    )
    written = write_result("schedule", protocol, figures, _SOFTWARE, runs=nights)
    for name, figure in figures.items():
        console.print(f"{name:34} {figure['value']} {figure['unit']}")
    console.print(f"Written: {written}")
    return 0 if new_only else 1


def _two_nights(server: Server, folder: Path, every: int) -> list[dict[str, Any]]:
    later, corpus, dataset = folder / "later", folder / "photographs", folder / "dataset"
    lay_out_photographs(later)
    corpus.mkdir()
    names = sorted(PHOTOGRAPHS)
    for name in names[:_FIRST_NIGHT]:
        shutil.move(later / name, corpus / name)
    parameters = {"recipe": demo_recipe(corpus, None).model_dump(mode="json"), "dataset": str(dataset)}
    _schedule(server, parameters, f"*/{every} * * * *")
    nights: list[dict[str, Any]] = []
    before: dict[Path, int] = {}
    for number in (1, 2):
        console.print(f"Waiting for cron to start run {number} ...")
        run = _wait_for_run(server, number)
        if run["state"]["type"] != "COMPLETED":
            raise SystemExit(f"run {number} ended as {run['state']['name']}: {run['state']['message']}")
        version = read_version(str(dataset), list_versions(str(dataset))[-1])
        shards = {file: file.stat().st_mtime_ns for file in (dataset / "raw/c").rglob("*") if file.is_file()}
        nights.append(
            {
                "name": run["name"],
                "started_by": "cron" if run["auto_scheduled"] else "hand",
                "scheduled": run["expected_start_time"],
                "late_s": run["estimated_start_time_delta"],
                "seconds": run["total_run_time"],
                "photographs": len(list(corpus.iterdir())),
                "version": version.number,
                "samples": version.samples,
                "shards_made": len(shards.keys() - before.keys()),
                "shards_rewritten": sum(shards.get(file) != changed for file, changed in before.items()),
            }
        )
        console.print(nights[-1])
        before = shards
        for name in names[_FIRST_NIGHT:] if number == 1 else ():
            shutil.move(later / name, corpus / name)
    return nights


def _schedule(server: Server, parameters: dict[str, Any], cron: str) -> None:
    with httpx.Client(base_url=server.api_url) as client:
        deployment = client.get("/deployments/name/factory/nightly").raise_for_status().json()
        address = f"/deployments/{deployment['id']}"
        client.patch(address, json={"parameters": parameters}).raise_for_status()
        for schedule in deployment["schedules"]:
            client.delete(f"{address}/schedules/{schedule['id']}").raise_for_status()
        each = {"active": True, "schedule": {"cron": cron, "timezone": "Europe/Berlin"}}
        client.post(f"{address}/schedules", json=[each]).raise_for_status()


def _ended_run(server: Server, number: int) -> dict[str, Any] | None:
    """The run of the deployment that ended as the given one in time, and was scheduled; None while there is none."""
    body = {"flows": {"name": {"any_": ["factory"]}}, "sort": "EXPECTED_START_TIME_ASC"}
    runs = httpx.post(f"{server.api_url}/flow_runs/filter", json=body).raise_for_status().json()
    ended = [run for run in runs if run["auto_scheduled"] and run["state"]["type"] in _ENDED]
    return ended[number - 1] if len(ended) >= number else None


def _wait_for_run(server: Server, number: int) -> dict[str, Any]:
    deadline = time.monotonic() + _NIGHT_TIMEOUT_S
    while (found := _ended_run(server, number)) is None:
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {_NIGHT_TIMEOUT_S:.0f} s in vain for run {number}")
        time.sleep(1)  # the server tells of a run's end by being asked only
    return found


def _figure(value: float, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "spread": None}


if __name__ == "__main__":
    sys.exit(main())
