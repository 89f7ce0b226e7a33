"""The released network beside the published one: speed, what bfloat16 costs, and the memory of 24 megapixels.

Run it with ``make bench-model``; it prints a table and writes ``results/model.json``.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from record import own_peak_memory, write_result
from rich.console import Console
from rich.table import Table
from skimage import data

from aura.bayer import pack_rgb
from aura.nets.context import summarise
from aura.nets.published import PublishedUNet
from aura.reconstruct import RELEASED_WEIGHTS, Reconstructor, fold_batch_norms, load_weights
from aura.sensor.catalog import load_profile
from aura.sensor.simulate import canonical_to_camera, draw_capture
from flows.cluster.runner import worker_environment
from flows.shards.lanes import lanes
from flows.shards.stages import in_order

THREADS: Final = 2
SIDE: Final = 512  # bfloat16 without hardware for it is so slow that a larger photograph would take an hour
ROUNDS: Final = 3
PATH_SIDE: Final = 1024
PHOTOGRAPHS: Final = 4
ROOT: Final = Path(__file__).resolve().parents[1]
PROTOCOL: Final = (
    f"Default weights against the published U-Net (1,875,076 parameters, random weights) on one {SIDE}x{SIDE} "
    f"photograph, both under bfloat16 autocast (and, as f32, in float32), channels_last, {THREADS} threads, with the "
    f"environment of the product's workers; {ROUNDS} rounds in turns after a warm-up, medians, spreads half the "
    "interquartile range; AURA with its thumbnail and statistics. bfloat16 error: packed RAW of the camera nikon-d850 "
    "from three photographs of scikit-image, difference to float32 in 12-bit digital numbers. Memory: largest resident "
    "size of a process of its own that reconstructs 6000x4000 pixels in tiles, float32. megapixels_per_second is the "
    f"product's way, path/side_by_side: the photograph of {PATH_SIDE}x{PATH_SIDE} random pixels, 8 bits to canonical "
    f"light, float32, {PHOTOGRAPHS} of them on {THREADS} threads that take one each; path/all_threads_on_one gives "
    "each all threads. path/local_network_*: the local network alone, beside each other likewise, in torch's memory "
    "formats, and compiled by torch.compile."
)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="of another network than the released one")
    parser.add_argument("--memory-only", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    environment = worker_environment(THREADS)
    if any(os.environ.get(name) != value for name, value in environment.items()):
        # glibc and OpenMP read these before the first line of Python runs
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | environment)  # noqa: S606
    if options.memory_only:
        _reconstruct_24_megapixels(options.weights)
        return
    _measure(options.weights)


def _measure(weights: Path | None) -> None:

    torch.set_num_threads(THREADS)
    ours = load_weights(weights or RELEASED_WEIGHTS).to(memory_format=torch.channels_last).eval()
    published = PublishedUNet().to(memory_format=torch.channels_last).eval()
    image = torch.rand(1, 3, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
    networks: dict[str, Callable[[Any], Any]] = {"aura": ours, "published": published}
    seconds = {precision: _seconds_in_turns(networks, image, precision) for precision in ("bf16", "f32")}
    ratios = {
        precision: [slow / fast for fast, slow in zip(each["aura"], each["published"], strict=True)]
        for precision, each in seconds.items()
    }
    rates = {precision: [SIDE * SIDE / 1e6 / one for one in each["aura"]] for precision, each in seconds.items()}
    errors = _bfloat16_errors(ours)
    parameters = sum(parameter.numel() for parameter in ours.parameters())
    paths = _paths(weights or RELEASED_WEIGHTS)
    figures = {
        "speed_ratio_to_published_bf16": _figure(ratios["bf16"], "1"),
        "speed_ratio_to_published_f32": _figure(ratios["f32"], "1"),
        "megapixels_per_second": _figure(paths["side_by_side"], "MPix/s"),
        "megapixels_per_second_bf16": _figure(rates["bf16"], "MPix/s"),
        "megapixels_per_second_f32": _figure(rates["f32"], "MPix/s"),
        **{f"path/{name}": _figure(each, "MPix/s") for name, each in paths.items()},
        "bf16_error_dn12_mean": {"value": errors[0], "unit": "DN of 12 bits", "spread": 0.0},
        "bf16_error_dn12_p999": {"value": errors[1], "unit": "DN of 12 bits", "spread": 0.0},
        "peak_memory_24mp": {"value": _peak_memory(weights), "unit": "GiB", "spread": 0.0},
        "parameters": {"value": parameters, "unit": "1", "spread": 0.0},
    }
    target = write_result("model", PROTOCOL, figures, ("torch",))
    table = Table("figure", "value", "unit", "spread", title="The network")
    for name, figure in figures.items():
        table.add_row(name, f"{figure['value']:.3g}", str(figure["unit"]), f"{figure['spread']:.2g}")
    console = Console()
    console.print(table)
    console.print(f"Written to {target.relative_to(ROOT)}")


def _seconds_in_turns(
    networks: dict[str, Callable[[Any], Any]], image: torch.Tensor, precision: str
) -> dict[str, list[float]]:
    """Seconds of each network's passes, in turns, after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in networks}
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
        for turn in range(ROUNDS + 1):
            for name, network in networks.items():
                started = time.perf_counter()
                network(image)
                if turn:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def _paths(weights: Path) -> dict[str, list[float]]:
    """Megapixels per second of ways to run the product's network on this machine's processor, in turns."""
    image = np.random.default_rng(0).integers(0, 256, (PATH_SIDE, PATH_SIDE, 3), dtype=np.uint8)
    inverse = Reconstructor.load("aura", weights, device="cpu")
    network = fold_batch_norms(load_weights(weights).eval()).to(memory_format=torch.channels_last)
    codes = torch.from_numpy(image).permute(2, 0, 1)[None]
    planar, last = codes.contiguous(), codes.contiguous(memory_format=torch.channels_last)
    context = network.context(summarise(planar / 255.0))
    compiled = torch.compile(network.local_planes)

    def side_by_side(way: Callable[[], Any]) -> Callable[[], None]:
        def pass_over(_: int) -> None:
            with torch.inference_mode():  # is a thread's own
                way()

        def run() -> None:
            with lanes(inverse.device) as pools:
                for _ in in_order(pools.compute, pass_over, range(PHOTOGRAPHS), pools.width + 1):
                    pass

        return run

    ways: dict[str, Callable[[], Any]] = {
        "side_by_side": side_by_side(lambda: inverse.canonical(image)),
        "all_threads_on_one": lambda: [inverse.canonical(image) for _ in range(PHOTOGRAPHS)],
        "local_network_planar": side_by_side(lambda: network.local_planes(planar / 255.0, context)),
        "local_network_channels_last": side_by_side(lambda: network.local_planes(last / 255.0, context)),
        "local_network_compiled": side_by_side(lambda: compiled(last / 255.0, context)),
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    with torch.inference_mode():
        for turn in range(ROUNDS + 1):
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                if turn:
                    rates[name].append(PHOTOGRAPHS * PATH_SIDE**2 / 1e6 / (time.perf_counter() - started))
    return rates


def _figure(values: list[float], unit: str) -> dict[str, Any]:
    low, _, high = statistics.quantiles(values, n=4)
    return {"value": statistics.median(values), "unit": unit, "spread": (high - low) / 2}


def _bfloat16_errors(network: Any) -> tuple[float, float]:
    """Mean and 99.9th percentile of the difference in packed RAW over three photographs, 12-bit digital numbers."""
    capture = draw_capture(load_profile("nikon-d850"), 100, seed=0)
    differences = []
    for photograph in (data.astronaut(), data.coffee(), data.chelsea()):
        rows, columns = (side // 16 * 16 for side in photograph.shape[:2])
        image = torch.from_numpy(photograph[:rows, :columns].copy()).permute(2, 0, 1)[None].float() / 255.0
        raw = []
        for precise in (True, False):
            with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=not precise):
                canonical = network(image).float()
            camera = canonical_to_camera(canonical, capture.camera_to_srgb, capture.wb_gains)
            raw.append(pack_rgb(camera, "RGGB").clamp(0.0, 1.0) * 4095.0)
        differences.append((raw[0] - raw[1]).abs().flatten())
    everything = torch.cat(differences)
    return float(everything.mean()), float(everything.sort().values[int(0.999 * len(everything))])


def _peak_memory(weights: Path | None) -> float:
    """GiB that a process of its own takes at most; the benchmark's own memory stays out of it."""
    command = [sys.executable, __file__, "--memory-only", *(["--weights", str(weights)] if weights else [])]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
    return float(done.stdout)


def _reconstruct_24_megapixels(weights: Path | None) -> None:

    torch.set_num_threads(THREADS)
    image = np.random.default_rng(0).integers(256, size=(4000, 6000, 3), dtype=np.uint8)
    Reconstructor.load("aura", weights, device="cpu").canonical(image)
    sys.stdout.write(f"{own_peak_memory() / 2**20}\n")


if __name__ == "__main__":
    main()
