"""One worker and two, for real: the same small dataset made by the flow on this machine. Part of bench-scale-model."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final
from unittest import mock

_PHOTOGRAPHS: Final = 16
_SAMPLES: Final = 8
_WARM: Final = 4
"""Shards that are not counted: the workers start and load their weights."""


def measure_workers(corpus: Path) -> dict[str, dict[str, Any]]:
    """Make a dataset of a folder's first JPEG files with one worker of one thread, two such, and one of two, twice."""
    rates: dict[tuple[int, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ |= {"AURA_HOME": str(folder / "home"), "PREFECT_LOGGING_LEVEL": "WARNING", "DO_NOT_TRACK": "1"}
        os.environ.pop("PREFECT_API_URL", None)
        from flows.servers.server import prefect_server  # noqa: PLC0415

        photographs = folder / "photographs"
        photographs.mkdir()
        for file in sorted(corpus.glob("*.jpg"))[:_PHOTOGRAPHS]:
            shutil.copy(file, photographs)
        with prefect_server():
            for turn in range(2):
                for workers, threads in ((1, 1), (2, 1), (1, 2)):
                    made = folder / f"{turn}-{workers}-{threads}"
                    rate = _megapixels_per_second(photographs, made, workers, threads)
                    shutil.rmtree(made)
                    rates.setdefault((workers, threads), []).append(rate)
                    print(f"{workers} workers of {threads} threads: {rate:.2f} MPix/s", flush=True)
    mean = {key: sum(values) / len(values) for key, values in rates.items()}
    spread = {key: (max(values) - min(values)) / 2 for key, values in rates.items()}

    def ratio(of: tuple[int, int], to: tuple[int, int]) -> dict[str, Any]:
        error = mean[of] / mean[to] * (spread[of] / mean[of] + spread[to] / mean[to])
        return {"value": round(mean[of] / mean[to], 3), "unit": "1", "spread": round(error, 3)}

    return {
        "real/two_workers_to_one": ratio((2, 1), (1, 1)),
        "real/two_workers_to_one_of_two_threads": ratio((2, 1), (1, 2)),
        "real/megapixels_per_second_of_two": {
            "value": round(mean[2, 1], 3),
            "unit": "MPix/s",
            "spread": round(spread[2, 1], 3),
        },
        "real/machine_load": {"value": round(os.getloadavg()[1], 3), "unit": "processes", "spread": None},
    }


def _megapixels_per_second(photographs: Path, folder: Path, workers: int, threads: int) -> float:
    """Make the dataset; megapixels a second from the end of the first shards to the end of the last."""
    from prefect_dask.task_runners import DaskTaskRunner  # noqa: PLC0415

    from flows.cluster.runner import local_cluster  # noqa: PLC0415
    from flows.factory import factory  # noqa: PLC0415
    from flows.progress import listening  # noqa: PLC0415
    from storage.recipe import load_recipe  # noqa: PLC0415

    values = {"corpus": str(photographs), "shard_size": _SAMPLES, "gates": {"min_cycle_psnr_matched": None}}
    told: list[float] = []

    def listen(step: str, done: int, _total: int) -> None:
        if step == "synthesize" and done:
            told.append(time.perf_counter())

    runner: Any = DaskTaskRunner(cluster_class=local_cluster, cluster_kwargs={"workers": workers, "threads": threads})  # type: ignore[arg-type]
    with listening(listen), mock.patch.dict(os.environ):
        result = factory.with_options(task_runner=runner)(recipe=load_recipe(None, values), dataset=str(folder))
    return result.pixels / 1e6 * (len(told) - 1 - _WARM) / len(told) / (told[-1] - told[_WARM])
