"""What a dataset costs and how long it takes with any number of workers, up to a billion photographs.

    make bench-scale-model

The constants are measured: the coordinator's CPU time for a shard (``bench-scale``), megapixels a second of a worker on
two cores (``bench-factory``; as long as that has not been run, of the network alone, ``bench-model``, which a worker
stays below), bytes a pixel (``bench-factory``, or ``bench-reader``), bytes of metadata (a stand-in dataset written
here), and how much two workers are faster than one (a small real run here, ``--real``). The *closed form* is the least
of workers x rate, the coordinator's shards a second and the store's PUT rate, with hung shards, lost workers and the
straggler's tail. The *simulation* runs the product's own dispatcher in virtual time on as many virtual workers; the
figures say by how much the two differ. Prices and fault rates are assumptions, named in the figures; change them by the
options.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from benchmarks.record import RESULTS, write_result
from benchmarks.scale_simulation import Machine, simulate

PICTURE: Final = Path(__file__).parents[1] / "docs" / "scale.png"
SHARD_SIZES: Final = (64, 512)
SWEEP: Final = (1, 8, 64, 256, 512, 1024)
IMAGES: Final = 1_000_000_000
DATASET_IMAGES: Final = 10_000_000
DISTRIBUTIONS: Final = ("prefect", "prefect-dask", "dask", "distributed", "torch", "pyarrow", "numpy")
Figures = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Assumptions:
    """What is not measured here; each is an option of the command.

    Prices are list prices, on demand, of Amazon's us-east-1 in 2025, written from memory and not looked up: put in
    those of your contract.

    Attributes:
        megapixels_per_image: of the RAW that a photograph becomes; one canvas of 512 x 512.
        hang_probability: of a shard that it never ends on its worker.
        losses_per_hour: how often a worker is lost, as spot instances are.
        restart_s: until a lost worker is replaced.
        puts_per_second: of one prefix, by S3's documentation ("at least 3,500 PUT and 5,500 GET").
        gets_per_second: likewise.
        puts_per_shard: RAW, rejects and samples; one more where sRGB is kept.
        gets_per_image: once by ingest, once by synthesis; photographs in tar files need fewer.
        gets_per_shard: the group, the commit that is looked for, the plan, and the lease before each write.
        cpu_dollars_per_hour: of two virtual cores (c7i.large).
        gpu_dollars_per_hour: of one L4 with four virtual cores (g6.xlarge).
        put_dollars: for a thousand.
        get_dollars: for a thousand.
        month_dollars: for a gigabyte kept a month in S3 Standard.
        days: in which a billion shall be made.
    """

    megapixels_per_image: float = 512 * 512 / 1e6
    hang_probability: float = 1e-4
    losses_per_hour: float = 0.02
    restart_s: float = 30.0
    puts_per_second: float = 3500.0
    gets_per_second: float = 5500.0
    puts_per_shard: float = 3.0
    gets_per_image: float = 2.0
    gets_per_shard: float = 6.0
    cpu_dollars_per_hour: float = 0.0893
    gpu_dollars_per_hour: float = 0.8048
    put_dollars: float = 0.005
    get_dollars: float = 0.0004
    month_dollars: float = 0.023
    days: float = 7.0


@dataclass(frozen=True)
class Constants:
    """What was measured.

    Attributes:
        coordinator_s: CPU seconds of the coordinator for a shard.
        megapixels_per_second: of a worker on two cores.
        rate_of: what that rate is of: the whole worker, or the network alone.
        bytes_per_pixel: of the RAW, as it is stored.
        global_map_ratio: how many times as fast a worker is with ``--method aura_global``; None while not measured.
    """

    coordinator_s: float
    megapixels_per_second: float
    bytes_per_pixel: float
    rate_of: str = "given by hand"
    global_map_ratio: float | None = None

    def shard_s(self, samples: int, assumed: Assumptions) -> float:
        """Seconds of a worker for a shard."""
        return samples * assumed.megapixels_per_image / self.megapixels_per_second


def throughput(workers: int, machine: Machine, assumed: Assumptions) -> float:
    """Shards a second of so many workers: the least of what workers, coordinator and store can do.

    A hung shard keeps its worker until the deadline, counted from submission, when the shard has waited its turn; the
    coordinator waits until another worker is in its place. A lost worker costs half a shard, and its replacement.
    """
    lost = machine.losses_per_hour / 3600 * machine.shard_s * (machine.shard_s / 2 + machine.restart_s)
    deadline = _deadline(machine, workers)
    waited = max(0.0, usual_s(machine, workers) - machine.shard_s)
    hung = machine.hang_probability * (deadline - waited + machine.restart_s)
    coordinator = machine.coordinator_s + machine.hang_probability * machine.restart_s
    return min(
        workers / (machine.shard_s + lost + hung),
        1 / coordinator if coordinator else math.inf,
        assumed.puts_per_second / assumed.puts_per_shard,
    )


def makespan(workers: int, shards: int, machine: Machine, assumed: Assumptions) -> float:
    """Seconds until the last shard is there: the throughput, a last shard, and the tail of one that hangs late."""
    rate = throughput(workers, machine, assumed)
    hangs, deadline = machine.hang_probability * rate, _deadline(machine, workers)
    # the latest hang before the end comes after an exponential time; what its deadline reaches beyond the end is waited
    tail = deadline - (1 - math.exp(-hangs * deadline)) / hangs if hangs else 0.0
    return shards / rate + machine.shard_s + tail


def usual_s(machine: Machine, workers: int) -> float:
    """Seconds from a shard's submission to its end, where two are in flight for each worker (Little's law)."""
    return max(2 * machine.shard_s, 2 * workers * machine.coordinator_s)


def _deadline(machine: Machine, workers: int) -> float:
    from flows.cluster.dispatch import usual_deadline  # noqa: PLC0415

    return usual_deadline([usual_s(machine, workers)])


def knee(machine: Machine) -> float:
    """Workers beyond which the coordinator is the bound."""
    return machine.shard_s / machine.coordinator_s


def read_constants(rate: float | None = None, results: Path = RESULTS) -> Constants:
    """Take the constants from the benchmarks' files, but a rate that is given."""
    scale, model, reader = (_values(results / f"{name}.json") for name in ("plan_scale", "model", "reader"))
    factory = _values(results / "factory.json")
    rates = {"given by hand": rate, "the whole worker": factory.get("megapixels_per_second")}
    rates["the network alone"] = model["megapixels_per_second_f32"]
    rate_of, chosen = next((of, each) for of, each in rates.items() if each)
    return Constants(
        coordinator_s=scale["shards/coordinator_cpu_per_shard"] / 1e3,
        megapixels_per_second=chosen,
        bytes_per_pixel=factory.get("bytes_per_pixel") or reader["bits_per_pixel"] / 8,
        rate_of=rate_of,
        global_map_ratio=factory.get("ratio_of_global_map"),
    )


def machine_of(constants: Constants, samples: int, assumed: Assumptions, jitter: float = 0.2) -> Machine:
    """Describe workers that make shards of so many samples."""
    return Machine(
        constants.shard_s(samples, assumed),
        constants.coordinator_s,
        jitter,
        assumed.hang_probability,
        assumed.losses_per_hour,
        assumed.restart_s,
    )


def compare(constants: Constants, assumed: Assumptions, sweep: tuple[int, ...] = SWEEP) -> Figures:
    """Set the closed form beside the simulation, for each number of workers and each size of shard."""
    figures: Figures = {}
    worst = 0.0
    for samples in SHARD_SIZES:
        machine = machine_of(constants, samples, assumed)
        figures[f"shard_{samples}/seconds"] = _figure(machine.shard_s, "s of a worker on two cores")
        figures[f"shard_{samples}/workers_of_a_coordinator"] = _figure(knee(machine), "workers")
        for workers in sweep:
            shards = max(2000, 5 * workers)
            found, said = simulate(machine, workers, shards, seed=workers), throughput(workers, machine, assumed)
            images = samples * 3600 / 1e6
            key = f"shard_{samples}/workers_{workers}"
            figures[f"{key}/closed_form"] = _figure(said * images, "million images an hour")
            figures[f"{key}/simulated"] = _figure(found.shards_per_second * images, "million images an hour")
            worst = max(worst, abs(found.shards_per_second / said - 1))
            print(f"{key}: {said:.3f} shards/s said, {found.shards_per_second:.3f} simulated", flush=True)
    # a shard that hangs while no other has told what is usual: everything is submitted before the first is done
    machine = Machine(machine_of(constants, SHARD_SIZES[0], assumed).shard_s, hang_probability=0.02)
    figures["hang_in_the_first_wave"] = _figure(simulate(machine, 64, 256).makespan_s, "s for four waves")
    figures["largest_difference"] = _figure(100 * worst, "% of the closed form")
    return figures


def plan(constants: Constants, assumed: Assumptions, metadata: Mapping[str, float]) -> Figures:
    """Plan a billion images in datasets of ten million, shards of 512."""
    samples = SHARD_SIZES[-1]
    machine = machine_of(constants, samples, assumed)
    datasets, shards = IMAGES // DATASET_IMAGES, math.ceil(DATASET_IMAGES / samples)
    rate_of_one, workers, compute = _compute(constants, assumed)
    stored = assumed.megapixels_per_image * 1e6 * constants.bytes_per_pixel  # bytes of an image
    requests = 1e6 * assumed.gets_per_image + 1e6 / samples * assumed.gets_per_shard
    dollars = {
        "compute": compute,
        "put": 1e6 / samples * assumed.puts_per_shard / 1000 * assumed.put_dollars,
        "get": requests / 1000 * assumed.get_dollars,
    }
    break_even = assumed.gpu_dollars_per_hour / assumed.cpu_dollars_per_hour * constants.megapixels_per_second
    rows = _values(RESULTS / "plan_scale.json")
    memory_of_row = (rows["rows/ingest_peak_memory"] - rows["rows/memory_before"]) / rows["rows"]  # MB
    values: dict[str, tuple[float, str]] = {
        "images": (IMAGES, "images"),
        "datasets": (datasets, "datasets"),
        "shards_per_dataset": (shards, "shards"),
        "shards": (datasets * shards, "shards"),
        "seconds_per_shard": (machine.shard_s, "s of a worker on two cores"),
        "workers_of_a_coordinator": (knee(machine), "workers"),
        "days": (assumed.days, "days"),
        "workers": (workers, "workers of two cores"),
        "coordinators_at_once": (math.ceil(workers / knee(machine)), "datasets made at once, at least"),
        "stored": (IMAGES * stored / 1e12, "TB"),
        "bytes_per_shard": (samples * stored / 1e6, "MB"),
        "puts": (datasets * shards * assumed.puts_per_shard / 1e6, "million requests"),
        "gets": (IMAGES / 1e6 * requests / 1e6, "million requests"),
        "gets_per_second": (workers * rate_of_one * assumed.gets_per_image / 2, "GET a second while synthesizing"),
        "index_per_dataset": (DATASET_IMAGES * metadata["index_bytes_per_row"] / 1e6, "MB"),
        "ingest_memory_per_dataset": (DATASET_IMAGES * memory_of_row / 1e3, "GB of memory"),
        "plan_per_dataset": (shards * metadata["plan_bytes_per_shard"] / 1e6, "MB"),
        "samples_per_dataset": (shards * metadata["samples_bytes_per_shard"] / 1e6, "MB"),
        "version_per_dataset": (shards * metadata["version_bytes_per_shard"] / 1e6, "MB"),
        "quality_memory_per_dataset": (DATASET_IMAGES * metadata["samples_memory_per_row"] / 1e9, "GB of memory"),
        "dollars_compute_per_million": (dollars["compute"], "$"),
        "dollars_requests_per_million": (dollars["put"] + dollars["get"], "$"),
        "dollars_per_million": (sum(dollars.values()), "$"),
        "dollars": (sum(dollars.values()) * IMAGES / 1e6, "$"),
        "dollars_a_month_kept": (IMAGES * stored / 1e9 * assumed.month_dollars, "$ a month"),
        "gpu_break_even": (break_even, "MPix/s of a GPU worker"),
    }
    if constants.global_map_ratio is not None:
        faster = replace(constants, megapixels_per_second=constants.megapixels_per_second * constants.global_map_ratio)
        _, few, cheap = _compute(faster, assumed)
        values["global_map/workers"] = (few, "workers of two cores, --method aura_global")
        values["global_map/dollars_compute_per_million"] = (cheap, "$")
        values["global_map/dollars_per_million"] = (cheap + dollars["put"] + dollars["get"], "$")
    return {f"plan/{name}": _figure(value, unit) for name, (value, unit) in values.items()}


def _compute(constants: Constants, assumed: Assumptions) -> tuple[float, int, float]:
    """Images a second of a worker, workers for the plan, and dollars a million images."""
    samples = SHARD_SIZES[-1]
    rate = throughput(1, machine_of(constants, samples, assumed), assumed) * samples
    workers = math.ceil(IMAGES / rate / (assumed.days * 86400))
    return rate, workers, 1e6 / rate / 3600 * assumed.cpu_dollars_per_hour


def measure_metadata(folder: Path) -> dict[str, float]:
    """Write a dataset of stand-in shards of 512 samples, and see what its tables take."""
    from unittest import mock  # noqa: PLC0415

    from benchmarks.plan_scale import _distinct_rows_for, _recipe, _write_list, make_stand_in  # noqa: PLC0415
    from storage.corpora.index import index_batches, index_digest  # noqa: PLC0415
    from storage.corpora.ingest import ingest  # noqa: PLC0415
    from storage.datasets.creation import create_or_open  # noqa: PLC0415
    from storage.datasets.plan import plan_shards, write_plan  # noqa: PLC0415
    from storage.datasets.publishing import publish  # noqa: PLC0415

    samples, shards = SHARD_SIZES[-1], 8
    corpus, url = folder / "list.txt", folder / "dataset"
    _write_list(corpus, samples * shards)
    recipe = _recipe(corpus, canvas=32, shard_size=samples)
    with mock.patch("storage.corpora.ingest.index_items", _distinct_rows_for):
        ingest(url, recipe)
    summary = write_plan(url, plan_shards(index_batches(url), recipe))
    made = create_or_open(url, recipe, "stand-in", [], summary.samples, index_digest(url) | dict(summary.objects))
    for shard in range(shards):
        make_stand_in(str(url), shard)
    publish(made)

    def size(pattern: str) -> float:
        return sum(path.stat().st_size for path in url.glob(pattern))

    return {
        "index_bytes_per_row": size("index.parquet") / (samples * shards),
        "plan_bytes_per_shard": size("plan/*") / shards,
        "samples_bytes_per_shard": size("samples/*") / shards,
        "version_bytes_per_shard": (size("versions/*") + size("listings/*")) / shards,
        "samples_memory_per_row": made.samples(0).nbytes / samples,
    }


def draw(figures: Figures, target: Path = PICTURE) -> None:
    """Draw images an hour against workers: the closed form as a line, the simulation as dots."""
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for number, samples in enumerate(SHARD_SIZES):
        said, found = (
            [figures[f"shard_{samples}/workers_{workers}/{kind}"]["value"] for workers in SWEEP]
            for kind in ("closed_form", "simulated")
        )
        axes.plot(SWEEP, said, color=f"C{number}", label=f"closed form, {samples} samples a shard")
        axes.plot(SWEEP, found, "o", color=f"C{number}", label=f"simulated dispatcher, {samples} samples a shard")
    axes.set(
        xscale="log", yscale="log", xlabel="workers of two cores, one coordinator", ylabel="million images an hour"
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(target, dpi=110)


def main() -> None:
    """Compare, plan, print, draw, write."""
    options = _options()
    assumed = Assumptions(**{name: getattr(options, name) for name in Assumptions.__dataclass_fields__})
    constants = read_constants(options.rate)
    figures: Figures = {
        "coordinator_cpu_per_shard": _figure(constants.coordinator_s * 1e3, "ms"),
        "megapixels_per_second": _figure(constants.megapixels_per_second, f"MPix/s on two cores: {constants.rate_of}"),
        "bytes_per_pixel": _figure(constants.bytes_per_pixel, "bytes"),
    }
    figures |= {
        f"assumed/{name}": _figure(getattr(assumed, name), "assumed", digits=6)
        for name in Assumptions.__dataclass_fields__
    }
    with tempfile.TemporaryDirectory() as folder:
        metadata = measure_metadata(Path(folder))
    figures |= {f"metadata/{name}": _figure(value, "bytes") for name, value in metadata.items()}
    figures |= plan(constants, assumed, metadata)
    figures |= compare(constants, assumed)
    kept = _file_figures(RESULTS / "scale_model.json")
    if options.real:
        from benchmarks.scale_workers import measure_workers  # noqa: PLC0415

        kept |= measure_workers(options.real)
    figures |= {key: value for key, value in kept.items() if key.startswith("real/")}
    for key, figure in figures.items():
        print(f"{key:50} {figure['value']:>14,.3f} {figure['unit']}")
    draw(figures)
    protocol = " ".join((__doc__ or "").split("\n\n", 2)[2].split())
    print(write_result("scale_model", protocol, figures, DISTRIBUTIONS))


def _values(path: Path) -> dict[str, float]:
    return {key: figure["value"] for key, figure in _file_figures(path).items()}


def _file_figures(path: Path) -> Figures:
    figures: Figures = json.loads(path.read_text())["figures"] if path.exists() else {}
    return figures


def _figure(value: float, unit: str, digits: int = 4) -> dict[str, Any]:
    return {"value": round(float(value), digits), "unit": unit, "spread": None}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rate", type=float, default=None, help="megapixels a second of a worker; None: as measured")
    parser.add_argument(
        "--real", type=Path, metavar="FOLDER", help="also run the flow here on JPEG files, with one and two workers"
    )
    for name, each in Assumptions.__dataclass_fields__.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=float, default=each.default, help="(%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
