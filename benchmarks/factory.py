"""What the factory makes of a real JPEG corpus on a local S3 server, beside its network alone and simpler ways.

Run it with ``make bench-factory``; it prints tables, writes ``results/factory.json`` and draws ``docs/factory.png``.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from factory_trace import draw_trace, stage_shares, traced
from PIL import Image
from record import own_peak_memory, write_result
from rich.console import Console
from rich.table import Table

from aura.bayer import pack_rgb
from aura.inversion import Window
from aura.nets.published import PublishedUNet
from aura.reconstruct import Reconstructor
from aura.sensor.catalog import load_profile
from flows.cluster.runner import SHARDS_IN_HAND, worker_environment
from flows.shards.lanes import lanes
from flows.shards.shard import reconstructor, synthesize_shard
from flows.shards.stages import in_order
from storage.corpora.index import index_batches
from storage.corpora.ingest import ingest
from storage.corpora.photograph import decode
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.plan import plan_shards, read_shard_plan, shard_name, write_plan
from storage.objects.location import locate
from storage.recipe import Limits, Method, load_recipe
from tests.conftest import run_s3_server

ROOT: Final = Path(__file__).resolve().parents[1]
THREADS: Final = 2
PUBLISHED_PHOTOGRAPHS: Final = 2  # it takes ten times as long
LIMITS: Final = Limits()


@dataclass(frozen=True)
class Corpus:
    """What every contender works on.

    Attributes:
        dataset: planned, on S3.
        uris: of its photographs.
        windows: of each, what its samples are of.
        pixels: mosaic pixels of all its samples.
    """

    dataset: Dataset
    uris: list[str]
    windows: list[list[Window]]
    pixels: int


def main() -> None:
    """Measure, print, write."""
    options = _options()
    environment = worker_environment(THREADS)
    if any(os.environ.get(name) != value for name, value in environment.items()):
        # glibc and OpenMP read these before the first line of Python runs
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)  # noqa: S606
    if options.make:
        _make(options.make)
        print(own_peak_memory())
        return
    console = Console()
    files = sorted(path for path in options.corpus.glob("*.jpg"))[: options.photographs]
    if not files:
        raise SystemExit(f"No .jpg in {options.corpus}; give a folder of photographs with --corpus, or set AURA_DATA.")
    with tempfile.TemporaryDirectory() as folder, run_s3_server(Path(folder)) as server:
        os.environ |= server.environment()
        corpus = _plan(files, f"s3://{server.bucket}")
        by_map = _plan(files, f"s3://{server.bucket}", "aura_global")
        console.print(
            f"{len(files)} JPEG files, {corpus.dataset.n_samples} samples, {corpus.pixels / 1e6:.1f} megapixels, "
            f"{corpus.dataset.shard_count} shards, {THREADS} threads"
        )
        contenders = _contenders(corpus) | {"factory_by_global_map": partial(_factory, by_map)}
        rates = _rates_in_turns(contenders, corpus.pixels, options.rounds, console)
        rates["published"] = [_published_rate(corpus)]
        with traced() as spans:
            started = time.perf_counter()
            contenders["factory"]()
            wall = time.perf_counter() - started
        shares = stage_shares(spans)
        draw_trace(spans, wall, ROOT / "docs" / "factory.png")
        memory = _peak_memory(corpus)
        stored = {name: _stored(corpus.dataset, name) for name in ("raw", "srgb", "samples")}
    figures = _figures(rates, shares, wall, memory, stored, corpus)
    table = Table("figure", "value", "unit", "lowest to highest", title="The factory")
    for name, figure in figures.items():
        spread = figure["spread"]
        table.add_row(
            name,
            f"{figure['value']:.4g}",
            figure["unit"],
            "" if spread is None else f"{spread[0]:.4g} to {spread[1]:.4g}",
        )
    console.print(table)
    target = write_result(
        "factory", _protocol(len(files), corpus, options.rounds), figures, ("torch", "zarr", "pcodec", "s3fs", "pillow")
    )
    console.print(f"Written to {target.relative_to(ROOT)}; the stages over time are in docs/factory.png")


def _options() -> argparse.Namespace:
    data = Path(os.environ.get("AURA_DATA", ROOT.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--corpus", type=Path, default=data / "srgb" / "photos", help="folder of JPEG files")
    parser.add_argument("--photographs", type=int, default=16, help="how many of them, by name")
    parser.add_argument("--rounds", type=int, default=5, help="readings of each contender, in turns")
    parser.add_argument("--make", help=argparse.SUPPRESS)
    return parser.parse_args()


def _protocol(files: int, corpus: Corpus, rounds: int) -> str:
    return (
        f"{files} JPEG files (AURA_DATA/srgb/photos) on a SeaweedFS server on the same machine, whose CPU time counts; "
        "default recipe: 512x512 tiles, camera and ISO drawn, calibrated noise, source pixels kept, LPIPS on "
        f"{100 * corpus.dataset.recipe.lpips_share:g} % of the samples, pcodec. Contenders in one process with "
        f"{THREADS} threads, float32, allocator settings of the product's workers, in turns, {rounds} rounds, another "
        "first in each, after one that does not count; values are medians. factory: each shard from plan to commit, by "
        f"the function that Dask calls, {SHARDS_IN_HAND} shards in hand as on a worker, the older one first. "
        "factory_by_global_map: the same with --method aura_global. network_alone: the network on the same "
        "photographs, decoded beforehand, nothing else; the fastest of network_on_tiles (the factory's "
        "own calls, tiles of the plan on each thread), network_side_by_side (a photograph on each thread) and "
        "network_together (all threads on one photograph). plain_loop: fetch, decode, "
        "infer, mosaic, write one .npy of uint16 to S3, file after file, without noise, metrics, compression or source "
        "pixels. published: the network AURA was published with in the same loop, on the first "
        f"{PUBLISHED_PHOTOGRAPHS} photographs. resize_and_store: fetch, decode, shrink to 512, JPEG quality 95, into "
        "one tar on S3, on as many "
        "threads: what moving pixels costs. Megapixels are always the samples' mosaic pixels (published: its "
        "photographs'). Stage shares are of thread CPU seconds of one more round. peak_memory is the highest resident "
        "size of a process that does nothing but make the dataset."
    )


def _plan(files: Sequence[Path], bucket: str, method: Method = "aura") -> Corpus:
    uris = []
    for file in files:
        uris.append(f"{bucket}/corpus/{file.name}")
        locate(uris[-1]).write(file.read_bytes())
    recipe = load_recipe(None, {"corpus": f"{bucket}/corpus", "shard_size": 64, "method": method})
    url = f"{bucket}/{method}"
    ingest(url, recipe)
    summary = write_plan(url, plan_shards(index_batches(url), recipe))
    digest = Reconstructor.load(recipe.method).digest
    profiles = [load_profile(camera) for camera in recipe.cameras]
    dataset = create_or_open(url, recipe, digest, profiles, summary.samples, summary.objects)
    plans = [
        row for shard in range(dataset.shard_count) for row in read_shard_plan(dataset.location, shard).to_pylist()
    ]
    windows: dict[str, list[Window]] = {uri: [] for uri in uris}
    for row in plans:
        crop = Window(row["crop_top_px"], row["crop_left_px"], row["crop_height_px"], row["crop_width_px"])
        windows[row["source_uri"]].append(crop)
    pixels = sum(row["valid_height_px"] * row["valid_width_px"] for row in plans)
    return Corpus(dataset, uris, list(windows.values()), pixels)


def _contenders(corpus: Corpus) -> dict[str, Callable[[], None]]:
    inverse = reconstructor(corpus.dataset.recipe.method, None, corpus.dataset.model_digest)
    photographs = [decode(locate(uri).read(), LIMITS).image for uri in corpus.uris]
    return {
        "factory": partial(_factory, corpus),
        "network_on_tiles": partial(_network_on_tiles, inverse, photographs, corpus.windows),
        "network_side_by_side": partial(_network_side_by_side, inverse, photographs),
        "network_together": partial(_network_together, inverse, photographs),
        "plain_loop": partial(_plain_loop, corpus, inverse),
        "resize_and_store": partial(_resize_and_store, corpus),
    }


def _factory(corpus: Corpus) -> None:
    _forget(corpus.dataset)
    _make(corpus.dataset.location.url)


def _network_on_tiles(inverse: Reconstructor, photographs: list[Any], windows: list[list[Window]]) -> None:
    """The factory's own calls of the network, on its tensors and threads."""
    with lanes(inverse.device) as pools:
        begun = zip(in_order(pools.compute, inverse.begin, photographs, pools.width), windows, strict=True)
        groups = ((inversion, group) for inversion, wanted in begun for group in inversion.groups(wanted))
        for _ in in_order(pools.compute, lambda work: work[0].lights(work[1]), groups, pools.width + 1):
            pass


def _network_side_by_side(inverse: Reconstructor, photographs: list[Any]) -> None:
    with lanes(inverse.device) as pools:
        for _ in in_order(pools.compute, inverse.canonical, photographs, pools.width + 1):
            pass


def _network_together(inverse: Reconstructor, photographs: list[Any]) -> None:
    for photograph in photographs:
        inverse.canonical(photograph)


def _plain_loop(corpus: Corpus, inverse: Reconstructor) -> None:
    profile = load_profile(corpus.dataset.recipe.cameras[0])
    levels = profile.levels_at(profile.iso_range[0])
    black, white = (torch.tensor(level)[:, None, None] for level in (levels.black_level, levels.white_level))
    for number, uri in enumerate(corpus.uris):
        canonical = inverse.canonical(_even(decode(locate(uri).read(), LIMITS).image))[0]
        packed = pack_rgb(canonical, profile.cfa_pattern) * (white - black) + black
        numbers = packed.round().clamp(0, 65535).numpy().astype(np.uint16)
        _write_npy(corpus.dataset.location.join("elsewhere", f"{number}.npy"), numbers)


def _resize_and_store(corpus: Corpus) -> None:
    buffer = io.BytesIO()
    with ThreadPoolExecutor(THREADS) as pool, tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, data in enumerate(in_order(pool, _shrunk, corpus.uris, 2 * THREADS)):
            entry = tarfile.TarInfo(f"{number:06d}.jpg")
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    corpus.dataset.location.join("elsewhere", "000000.tar").write(buffer.getvalue())


def _forget(dataset: Dataset) -> None:
    """Take the commits away, so that every shard has to be made."""
    for shard in dataset.committed_shards():
        dataset.location.join("samples", shard_name(shard)).remove()


def _make(url: str) -> None:
    """Make all shards as a worker does, which has several in hand."""
    with ThreadPoolExecutor(SHARDS_IN_HAND, "shard") as in_hand:
        for _ in in_hand.map(partial(synthesize_shard, url), range(open_dataset(url).shard_count)):
            pass


def _even(image: Any) -> Any:
    return np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])


def _write_npy(place: Any, array: Any) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    place.write(buffer.getvalue())


def _shrunk(uri: str) -> bytes:
    image = Image.fromarray(decode(locate(uri).read(), LIMITS).image)
    image.thumbnail((512, 512), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def _rates_in_turns(
    contenders: dict[str, Callable[[], None]], pixels: int, rounds: int, console: Console
) -> dict[str, list[float]]:
    """Megapixels per second of each contender in each round; the first round is not counted."""
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for turn in range(rounds + 1):
        first = turn % len(names)  # another in each round: what one leaves to do, the next has to pay for
        for name in names[first:] + names[:first]:
            work = contenders[name]
            started = time.perf_counter()
            work()
            rate = pixels / 1e6 / (time.perf_counter() - started)
            console.print(f"round {turn} of {rounds}: {name} {rate:.2f} MPix/s")
            if turn:
                rates[name].append(rate)
    return rates


def _published_rate(corpus: Corpus) -> float:
    """The published network in its own loop: one photograph at a time, read, infer, write."""
    network = PublishedUNet().to(memory_format=torch.channels_last).eval()
    started, pixels = time.perf_counter(), 0
    with torch.inference_mode():
        for number, uri in enumerate(corpus.uris[:PUBLISHED_PHOTOGRAPHS]):
            image = decode(locate(uri).read(), LIMITS).image
            image = image[: image.shape[0] // 4 * 4, : image.shape[1] // 4 * 4]
            batch = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255.0
            planes = network(batch)[0].clamp(0.0, 1.0)
            target = corpus.dataset.location.join("elsewhere", f"published-{number}.npy")
            _write_npy(target, (planes * 16383.0).round().numpy().astype(np.uint16))
            pixels += image.shape[0] * image.shape[1]
    return pixels / 1e6 / (time.perf_counter() - started)


def _peak_memory(corpus: Corpus) -> float:
    """GiB that a process of its own takes at most to make the dataset."""
    _forget(corpus.dataset)
    command = [sys.executable, __file__, "--make", corpus.dataset.location.url]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    told = subprocess.run(command, check=True, env=environment, stdout=subprocess.PIPE, text=True).stdout  # noqa: S603
    return int(told.splitlines()[-1]) / 2**20


def _stored(dataset: Dataset, name: str) -> int:
    return sum(entry.size for entry in dataset.location.join(name).walk() if not entry.uri.endswith(".json"))


def _figures(
    rates: dict[str, list[float]],
    shares: dict[str, float],
    wall: float,
    memory: float,
    stored: dict[str, int],
    corpus: Corpus,
) -> dict[str, dict[str, Any]]:
    network = max(
        (name for name in rates if name.startswith("network_")), key=lambda name: statistics.median(rates[name])
    )
    figures = {
        "ratio_to_network_alone": _figure(_ratios(rates, "factory", network), "1"),
        "ratio_to_network_on_tiles": _figure(_ratios(rates, "factory", "network_on_tiles"), "1"),
        "ratio_to_network_on_all_threads": _figure(_ratios(rates, "factory", "network_together"), "1"),
        "ratio_to_network_side_by_side": _figure(_ratios(rates, "factory", "network_side_by_side"), "1"),
        "ratio_of_global_map": _figure(_ratios(rates, "factory_by_global_map", "factory"), "1"),
        "megapixels_per_second": _figure(rates["factory"], "MPix/s"),
        "ratio_to_plain_loop": _figure(_ratios(rates, "factory", "plain_loop"), "1"),
        "ratio_to_published": _figure([rate / rates["published"][0] for rate in rates["factory"]], "1"),
        "ratio_to_resize_and_store": _figure(_ratios(rates, "factory", "resize_and_store"), "1"),
        "peak_memory": {"value": memory, "unit": "GiB", "spread": None},
        "bytes_per_pixel": {"value": stored["raw"] / corpus.pixels, "unit": "bytes of RAW", "spread": None},
        "bytes_per_sample": {"value": sum(stored.values()) / corpus.dataset.n_samples, "unit": "bytes", "spread": None},
        "traced_round": {"value": wall, "unit": "s", "spread": None},
    }
    figures |= {f"megapixels_per_second/{name}": _figure(each, "MPix/s") for name, each in rates.items()}
    return figures | {
        f"share/{stage}": {"value": share, "unit": "of CPU seconds", "spread": None} for stage, share in shares.items()
    }


def _ratios(rates: dict[str, list[float]], one: str, other: str) -> list[float]:
    return [first / second for first, second in zip(rates[one], rates[other], strict=True)]


def _figure(values: list[float], unit: str) -> dict[str, Any]:
    return {"value": statistics.median(values), "unit": unit, "spread": [min(values), max(values)]}


if __name__ == "__main__":
    main()
