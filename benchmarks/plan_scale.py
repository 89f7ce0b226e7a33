"""What a very large corpus and a very long run cost the coordinator: memory, and scheduling per shard.

    make bench-scale

*rows*: a list of photographs (a million unless told otherwise; the figures say how many) is ingested, planned, and
grown by a thousand. The photographs are not there: a stand-in makes a row for each name where a worker would read and
measure its bytes, one in a hundred a duplicate and one in a thousand refused. Listing, parts, joining, planning and
growth are the product's own, in one process that has imported the whole flow. Peak is the highest resident memory of
that process.

*shards*: shards of one small sample (twenty thousand unless told otherwise) go through the real flow, on a real Prefect
server and a real Dask cluster on this machine. A stand-in writes each shard as a finished one is written, without the
network's work. The coordinator's memory is taken at every shard. What a shard costs beyond the stand-in's own time is
the scheduling: the coordinator, the worker's side of Prefect and the server, all on the cores of this machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.record import RESULTS, write_result

FRESH = 1000
DISTRIBUTIONS = ("prefect", "prefect-dask", "dask", "distributed", "pyarrow", "numpy")
Figures = dict[str, dict[str, Any]]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    figures: Figures = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.rows:
            figures |= _apart(measure_rows, Path(folder), options.rows)
        if options.shards:
            figures |= _apart(measure_shards, Path(folder), options.shards, options.workers)
    for key, figure in figures.items():
        print(f"{key:40} {figure['value']:>12,.1f} {figure['unit']}")
    if options.write:
        before = json.loads((RESULTS / "plan_scale.json").read_text()) if (RESULTS / "plan_scale.json").exists() else {}
        figures = before.get("figures", {}) | figures  # of a part that was left out, the last figures stay
        protocol = " ".join((__doc__ or "").split("\n\n", 2)[2].split())
        print(write_result("plan_scale", protocol, figures, DISTRIBUTIONS))


def measure_rows(folder: Path, rows: int) -> Figures:
    """Ingest, plan and grow a list of photographs that are not there."""
    from flows import factory  # noqa: F401, PLC0415  # what a coordinator has in memory
    from storage.corpora.index import index_batches  # noqa: PLC0415
    from storage.corpora.ingest import ingest  # noqa: PLC0415
    from storage.datasets.creation import create_or_open  # noqa: PLC0415
    from storage.datasets.growth import find_changes, plan_growth, read_changes  # noqa: PLC0415
    from storage.datasets.plan import plan_shards, write_plan  # noqa: PLC0415

    corpus, dataset = folder / "corpus.txt", folder / "rows"
    _write_list(corpus, rows)
    recipe = _recipe(corpus, canvas=512, shard_size=64)
    figures: Figures = {"rows": _figure(rows, "rows"), "rows/memory_before": _figure(_peak_mb(), "MB")}
    with mock.patch("storage.corpora.ingest.index_items", _rows_for):
        _timed(figures, "rows/ingest", lambda: ingest(dataset, recipe))
        summary = _timed(figures, "rows/plan", lambda: write_plan(dataset, plan_shards(index_batches(dataset), recipe)))
        made = create_or_open(dataset, recipe, "stand-in", [], summary.samples, summary.objects)
        _write_list(corpus, rows + FRESH)
        changes = _timed(figures, "rows/find_changes", lambda: find_changes(made))
        listing = _timed(figures, "rows/read_changes", lambda: read_changes(made, changes))
        planned = sum(shard.num_rows for shard in plan_growth(made, listing))
    if len(changes.fresh) != FRESH or not 0 < planned <= FRESH:
        raise SystemExit(f"{len(changes.fresh)} new files were found and {planned} planned; expected {FRESH}")
    return figures | {
        "rows/samples_planned": _figure(summary.samples, "samples"),
        "rows/shards_planned": _figure(summary.shards, "shards"),
        "rows/peak_memory": _figure(_peak_mb(), "MB"),
        "rows/machine_load": _figure(os.getloadavg()[1], "processes, mean of the last five minutes"),
    }


def measure_shards(folder: Path, shards: int, workers: int) -> Figures:
    """Run the flow over a planned dataset, with a stand-in for the work on a shard."""
    os.environ |= {"AURA_HOME": str(folder / "home"), "PREFECT_LOGGING_LEVEL": "WARNING", "DO_NOT_TRACK": "1"}
    os.environ.pop("PREFECT_API_URL", None)
    from aura.reconstruct import Reconstructor  # noqa: PLC0415
    from aura.sensor.catalog import load_profile  # noqa: PLC0415
    from flows.cluster.runner import build_runner, parse_cluster  # noqa: PLC0415
    from flows.factory import factory  # noqa: PLC0415
    from flows.progress import listening  # noqa: PLC0415
    from flows.servers.server import prefect_server  # noqa: PLC0415
    from storage.corpora.index import index_batches, index_digest  # noqa: PLC0415
    from storage.corpora.ingest import ingest  # noqa: PLC0415
    from storage.datasets.creation import create_or_open  # noqa: PLC0415
    from storage.datasets.plan import plan_shards, write_plan  # noqa: PLC0415

    corpus, url = folder / "shards.txt", str(folder / "shards")
    _write_list(corpus, shards)
    recipe = _recipe(corpus, canvas=32, shard_size=1)
    with mock.patch("storage.corpora.ingest.index_items", _distinct_rows_for):
        ingest(url, recipe)
    summary = write_plan(url, plan_shards(index_batches(url), recipe))
    profiles = [load_profile(camera) for camera in recipe.cameras]
    digest = Reconstructor.load(recipe.method).digest
    objects = index_digest(url) | dict(summary.objects)
    create_or_open(url, recipe, digest, profiles, summary.samples, objects)

    process = psutil.Process()
    told: list[tuple[float, float, float]] = []  # time, resident MB, CPU seconds

    def listen(step: str, done: int, total: int) -> None:
        if step == "synthesize":
            told.append((time.perf_counter(), process.memory_info().rss / 1e6, sum(process.cpu_times()[:2])))
            if done % max(1, total // 20) == 0:
                print(f"{done} of {total} shards, {told[-1][1]:.0f} MB", flush=True)

    with (
        prefect_server() as server,
        mock.patch("flows.cluster.dispatch.synthesize_shard", make_stand_in),
        listening(listen),
    ):
        flow = factory.with_options(task_runner=build_runner(parse_cluster(f"local:{workers}")))
        flow(recipe=recipe, dataset=url)
        server_mb = psutil.Process(server.pid).memory_info().rss / 1e6 if server.pid else 0.0
    first = len(told) // 10  # the workers have started and imported by then
    (start, _, cpu_start), (stop, _, cpu_stop) = told[first], told[-1]
    each = 1e3 * (stop - start) / (len(told) - 1 - first)
    stand_in = 1e3 * statistics.median(_stand_in_seconds(Path(url)))
    tenth = max(1, len(told) // 10)
    early = statistics.median(memory for _, memory, _ in told[tenth : 2 * tenth])
    late = statistics.median(memory for _, memory, _ in told[-tenth:])
    return {
        "shards": _figure(shards, "shards"),
        "shards/workers": _figure(workers, "workers"),
        "shards/wall_per_shard": _figure(each, "ms"),
        "shards/stand_in_per_shard": _figure(stand_in, "ms"),
        "shards/scheduling_per_shard": _figure(max(0.0, each - stand_in / workers), "ms"),
        "shards/coordinator_cpu_per_shard": _figure(1e3 * (cpu_stop - cpu_start) / (len(told) - 1 - first), "ms"),
        "shards/memory_second_tenth": _figure(early, "MB"),
        "shards/memory_last_tenth": _figure(late, "MB"),
        "shards/memory_growth_per_1000": _figure((late - early) / (0.8 * shards / 1000), "MB"),
        "shards/memory_peak_with_report": _figure(_peak_mb(), "MB"),
        "shards/server_memory_at_end": _figure(server_mb, "MB"),
        "shards/machine_load": _figure(os.getloadavg()[1], "processes, mean of the last five minutes"),
    }


def make_stand_in(dataset_url: str, shard: int, _weights: str | None = None, lease: Any = None) -> Any:
    """Write a shard as a finished one is written: what the plan says, and pixels of no meaning."""
    from flows.shards.shard import ShardReport  # noqa: PLC0415
    from storage.datasets.dataset import open_dataset  # noqa: PLC0415
    from storage.datasets.plan import read_shard_plan  # noqa: PLC0415
    from storage.datasets.samples import SampleRow  # noqa: PLC0415
    from storage.datasets.shard import ShardData, write_shard  # noqa: PLC0415

    started = time.perf_counter()
    dataset = open_dataset(dataset_url)
    plan = read_shard_plan(dataset.location, shard).to_pylist()
    side = dataset.recipe.canvas.height // 2
    names = [name for name in plan[0] if name in SampleRow.__dataclass_fields__]
    made_up = {
        "cfa_pattern": "RGGB",
        "black_level_dn": [512.0] * 4,
        "white_level_dn": [15000.0] * 4,
        "noise_model": "none",
        "noise_system_gain_dn_per_electron": 0.0,
        "noise_read_sigma_dn": 0.0,
        "noise_read_tukey_lambda": None,
        "noise_row_sigma_dn": 0.0,
        "noise_black_offset_dn": [0.0] * 4,
        "noise_quantisation_step_dn": 1.0,
        "exposure": 1.0,
        "wb_gains": [1.0] * 3,
        "camera_to_srgb": [1.0, 0, 0, 0, 1, 0, 0, 0, 1],
        "cycle_psnr_matched_db": 40.0,
        "cycle_psnr_db": 40.0,
        "clipped_fraction": 0.0,
        "channel_mean": [0.1] * 4,
    }
    rows = [SampleRow(**{name: row[name] for name in names}, **made_up) for row in plan]
    raw = np.full((len(rows), 4, side, side), 600 + shard % 1000, np.uint16)
    write_shard(dataset, shard, ShardData(raw, None, rows), permit=lease.require if lease else None)
    seconds = time.perf_counter() - started
    with Path(dataset_url).with_name(f"stand-in-{os.getpid()}.txt").open("a") as file:
        file.write(f"{seconds}\n")
    return ShardReport(shard, len(rows), 0, raw.size, seconds)


def _stand_in_seconds(dataset: Path) -> list[float]:
    files = dataset.parent.glob("stand-in-*.txt")
    return [float(line) for file in files for line in file.read_text().splitlines()]


def _apart(measure: Callable[..., Figures], *arguments: Any) -> Figures:
    """Measure in a process of its own, whose memory is that of the measured thing alone."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def _timed(figures: Figures, key: str, work: Callable[[], Any]) -> Any:
    started = time.perf_counter()
    done = work()
    figures[f"{key}_seconds"] = _figure(time.perf_counter() - started, "s")
    figures[f"{key}_peak_memory"] = _figure(_peak_mb(), "MB")
    print(f"{key}: {figures[f'{key}_seconds']['value']:.1f} s, peak {_peak_mb():.0f} MB", flush=True)
    return done


def _figure(value: float, unit: str) -> dict[str, Any]:
    return {"value": round(float(value), 3), "unit": unit, "spread": None}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def _recipe(corpus: Path, *, canvas: int, shard_size: int) -> Any:
    from storage.recipe import load_recipe  # noqa: PLC0415

    values = {
        "corpus": str(corpus),
        "canvas": {"height": canvas, "width": canvas, "min_side": 32},
        "shard_size": shard_size,
        "method": "linearise",
        "keep_srgb": False,
        "gates": {"max_reject_fraction": None},
        "lpips_share": 0.0,
    }
    return load_recipe(None, values)


def _write_list(path: Path, lines: int) -> None:
    with path.open("w") as file:
        file.writelines(f"/photographs/of/somebody/{number // 1000:05d}/{number:09d}.jpg\n" for number in range(lines))


def _rows_for(items: Iterable[Any], *_: Any) -> pa.Table:
    return _made_up_rows(items, duplicates=100, side=512)


def _distinct_rows_for(items: Iterable[Any], *_: Any) -> pa.Table:
    return _made_up_rows(items, duplicates=0, side=32)


def _made_up_rows(items: Iterable[Any], duplicates: int, side: int) -> pa.Table:
    from storage.corpora.index import INDEX_SCHEMA  # noqa: PLC0415

    rows = []
    for item in items:
        number = int(item.uri[-13:-4])
        content = number // 2 if duplicates and number % duplicates == 0 else number
        row = {"uri": item.uri, "length_bytes": 300_000, "sha256": hashlib.sha256(b"%d" % content).hexdigest()}
        if duplicates and number % 1000 == 7:
            rows.append(row | {"reject_reason": "truncated", "reject_detail": "It ends early."})
            continue
        facts = {"container": "JPEG", "mode": "RGB", "height_px": side, "width_px": side, "orientation": 1, "frames": 1}
        rows.append(row | facts | {"has_alpha": False, "icc": "sRGB (assumed)"})
    return pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000, help="photographs that are listed; 0 leaves it out")
    parser.add_argument("--shards", type=int, default=20_000, help="shards that are run; 0 leaves it out")
    parser.add_argument("--workers", type=int, default=1, help="worker processes")
    parser.add_argument("--folder", type=Path, default=None, help="where to work; a temporary folder if left out")
    parser.add_argument("--write", action=argparse.BooleanOptionalAction, default=True, help="write the JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
