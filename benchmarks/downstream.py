"""What a denoiser is worth that was trained on each kind of RAW, judged on real RAW files that no training saw.

The same network takes the same steps with the same seeds on five sets, and is judged on the same patches with the same
noise. Run it with ``make bench-downstream``; it goes on after the last finished training when it is run again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from aura.errors import AuraError
from aura.reconstruct import Reconstructor
from aura.sensor.catalog import load_profile
from aura.training.raw_files import list_raw_files, read_raw
from benchmarks.record import write_result
from examples.denoise.evaluation import evaluate
from examples.denoise.network import Denoiser, noise_sigma
from examples.denoise.real_raw import CALIBRATED, LEVELS_ISO, write_real_raw
from examples.denoise.training import Example, Prepare, Schedule, as_recorded, load_denoiser, train
from flows.shards.shard import synthesize_shard
from storage.corpora.index import index_batches
from storage.corpora.ingest import ingest
from storage.datasets.creation import create_or_open
from storage.datasets.plan import plan_shards, write_plan
from storage.datasets.publishing import publish
from storage.datasets.versions import list_versions
from storage.objects.location import locate
from storage.reading.cutting import Cutting
from storage.reading.loading import RawLoader
from storage.reading.map_style import RawDataset
from storage.reading.streaming import RawStream, Source
from storage.recipe import Method, load_recipe

ROOT: Final = Path(__file__).resolve().parents[1]
SCHEDULE: Final = Schedule(steps=500, learning_rate=3e-3, width=16, checkpoint_every=200)
BATCH: Final = 8
CROP: Final = 64
CROPS_PER_SAMPLE: Final = 4
TRAINING_ISO: Final = (400, 6400)
TRAINING_EV: Final = (-3.0, 0.0)
SEEDS: Final = 3
METHODS: Final[tuple[Method, ...]] = ("linearise", "upi", "aura")
CONDITIONS: Final = {"iso800": (800, 0.0), "iso3200": (3200, 0.0), "iso6400": (6400, 0.0), "iso6400_ev-3": (6400, -3.0)}
"""ISO, and stops by which the light is weakened before the noise comes; the calibrations end at ISO 6400."""
PATCH: Final = 128
PATCHES_PER_FILE: Final = 12


def white_noise(seed: int) -> Prepare:
    """Replace a batch's noise by white Gaussian noise with the mean variance that the camera's has over the crop."""

    def prepare(batch: dict[str, Any], step: int) -> Example:
        clean = batch["clean"]
        variance = noise_sigma(clean, batch).square().mean(dim=(1, 2, 3), keepdim=True)
        sigma = variance.sqrt().expand_as(clean).contiguous()
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return clean + sigma * torch.randn(clean.shape, generator=generator), sigma, clean

    return prepare


ARMS: Final[dict[str, tuple[tuple[str, ...], Callable[[int], Prepare]]]] = {
    "linear_white": (("linearise",), white_noise),
    "upi": (("upi",), lambda _: as_recorded),
    "factory": (("aura",), lambda _: as_recorded),
    "real": (("train",), lambda _: as_recorded),
    "mixed": (("aura", "train"), lambda _: as_recorded),
}
"""Which sets each is trained on, in equal shares, and with which noise."""


def main() -> None:
    """Make the sets, train what is not trained yet, judge, print, write."""
    options = _options()
    torch.set_num_threads(1)
    console = Console()
    sets = make_sets(options.data, options.work, console)
    if options.sets_only:
        return
    patches = choose_patches(sets["validation"])
    dark = next(file for file in list_raw_files(options.data / "raw" / "dark"))
    dark_frame = read_raw(dark.path, dark.description).packed()
    runs: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    todo = [(arm, seed) for seed in range(options.seeds) for arm in ARMS]
    started = time.monotonic()
    fresh = 0
    for number, (arm, seed) in enumerate(todo):
        result = options.work / "runs" / f"{arm}-{seed}-{_protocol_digest()}.json"
        if not result.exists():
            fresh += 1
            network = _trained(arm, seed, sets, options.work)
            content = judge(network, sets["validation"], patches, dark_frame)
            result.parent.mkdir(parents=True, exist_ok=True)
            result.write_text(json.dumps(content))
        runs[arm].append(json.loads(result.read_text()))
        left = (time.monotonic() - started) / max(fresh, 1) * (len(todo) - number - 1)
        console.print(f"{arm}, seed {seed}: {overall(runs[arm][-1]):.2f} dB, {left / 60:.0f} min left", style="dim")
    figures = as_figures(runs)
    console.print(_table(figures))
    target = write_result("downstream", _protocol(options.seeds, patches), figures, ("torch", "numpy", "zarr"))
    console.print(f"{time.monotonic() - started:.0f} s; written to {target.relative_to(ROOT)}")


def make_sets(data: Path, work: Path, console: Console) -> dict[str, str]:
    """Make the datasets, or find them made: photographs by each method, real RAW to train on and to judge by."""
    sets = {name: str(work / "sets" / name) for name in (*METHODS, "train", "validation")}
    photographs = work / "photographs.txt"
    work.mkdir(parents=True, exist_ok=True)
    found = [*(data / "srgb" / "kodak").glob("*.png"), *(data / "srgb" / "photos").glob("*.[jp][pn]g")]
    photographs.write_text("".join(f"{path.resolve()}\n" for path in sorted(found)))
    for name, folder, canvas in (("train", "train", 512), ("validation", "validation", 2 * PATCH)):
        if not _is_published(sets[name]):
            console.print(f"writing the set of real RAW, {name} ...", style="dim")
            write_real_raw(data / "raw" / folder, sets[name], canvas=canvas)
    for method in METHODS:
        if not _is_published(sets[method]):
            console.print(f"making the set by {method} ...", style="dim")
            synthesize(photographs, method, sets[method], console)
    return sets


def synthesize(photographs: Path, method: Method, url: str, console: Console) -> None:
    """Make what ``aura synthesize --noise on_read`` makes, by its own tasks one after another, without a cluster."""
    recipe = load_recipe(
        None,
        {"corpus": str(photographs), "method": method, "cameras": list(CALIBRATED), "iso": LEVELS_ISO}
        | {"canvas.mode": "fit", "noise": "on_read", "keep_srgb": False, "shard_size": 16, "lpips_share": 0.0},
    )
    ingest(url, recipe)
    plan = write_plan(url, plan_shards(index_batches(url), recipe))
    profiles = [load_profile(camera) for camera in recipe.cameras]
    dataset = create_or_open(url, recipe, Reconstructor.load(method).digest, profiles, plan.samples, plan.objects)
    for shard in dataset.missing_shards():
        report = synthesize_shard(url, shard)
        console.print(f"{method}: shard {shard + 1} of {dataset.shard_count}, {report.seconds:.0f} s", style="dim")
    publish(dataset)


def _is_published(url: str) -> bool:
    return bool(list_versions(locate(url)))


def choose_patches(url: str) -> list[int]:
    """Choose the samples to judge by: as many of each file, by a seeded draw."""
    names = RawDataset(url).table["source_uri"].to_pylist()
    rng = np.random.default_rng(0)
    chosen: list[int] = []
    for name in sorted(set(names)):
        places = [place for place, other in enumerate(names) if other == name]
        chosen += sorted(rng.permutation(places)[:PATCHES_PER_FILE].tolist())
    return chosen


def _trained(arm: str, seed: int, sets: dict[str, str], work: Path) -> Denoiser:
    names, prepare = ARMS[arm]
    sources = [Source(sets[name], 1.0 if len(names) > 1 else None) for name in names]
    cutting = Cutting(crop=CROP, augment="rename_cfa", iso=TRAINING_ISO, exposure_ev=TRAINING_EV, clean=True)
    stream = RawStream(sources, batch_size=BATCH, cutting=cutting, crops_per_sample=CROPS_PER_SAMPLE, seed=seed)
    out = work / "trained" / f"{arm}-{seed}-{_protocol_digest()}"
    schedule = replace(SCHEDULE, seed=seed)
    return load_denoiser(train(RawLoader(stream, num_workers=0), out, schedule, prepare=prepare(seed)))


def judge(network: Denoiser, url: str, patches: Sequence[int], dark: Tensor) -> dict[str, Any]:
    """Measure a network: every patch under every condition, and what it leaves of a real dark frame's noise."""
    names = dict(zip(*(RawDataset(url).table[name].to_pylist() for name in ("sample_id", "source_uri")), strict=True))
    scores = {
        condition: [
            asdict(score) | {"file": names[score.sample_id]}
            for score in evaluate(network, url, iso, exposure_ev=exposure_ev, crop=PATCH, items=patches)
        ]
        for condition, (iso, exposure_ev) in CONDITIONS.items()
    }
    return {"scores": scores, "dark_noise_left": dark_noise_left(network, dark)}


def dark_noise_left(network: Denoiser, dark: Tensor) -> float:
    """Say what share of a dark frame's noise (root mean square, hot pixels aside) is left after denoising.

    There is no light in it, so that the truth is one number per plane; the frame's own deviation is told as its noise.
    """
    black = dark.flatten(1).median(dim=1).values.view(4, 1, 1)
    deviation = (dark - black).abs()
    usual = deviation <= deviation.flatten(1).quantile(0.99, dim=1).view(4, 1, 1)
    noise = torch.stack([plane[kept].square().mean().sqrt() for plane, kept in zip(dark - black, usual, strict=True)])
    sigma = noise.clamp_min(1e-5).view(1, 4, 1, 1).expand_as(dark[None])
    with torch.inference_mode():
        denoised = network((dark - black)[None], sigma)[0]
    return float((denoised[usual].square().mean() / (dark - black)[usual].square().mean()).sqrt())


def overall(run: dict[str, Any]) -> float:
    """Mean PSNR in dB over the conditions."""
    return float(np.mean([by_files(run["scores"][condition]) for condition in CONDITIONS]))


def by_files(scores: Sequence[dict[str, Any]], key: str = "psnr_db") -> float:
    """Mean over the files of each file's mean, so that none counts more because it is larger."""
    names = sorted({score["file"] for score in scores})
    return float(np.mean([np.mean([score[key] for score in scores if score["file"] == name]) for name in names]))


def as_figures(runs: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """Gather means and standard deviations over the seeds, and the differences seed by seed."""
    figures: dict[str, dict[str, Any]] = {}
    for key, one, other in (
        ("factory_minus_upi_db", "factory", "upi"),
        ("factory_minus_real_db", "factory", "real"),
        ("mixed_minus_real_db", "mixed", "real"),
        ("factory_minus_linear_white_db", "factory", "linear_white"),
    ):
        figures[key] = _figure([overall(a) - overall(b) for a, b in zip(runs[one], runs[other], strict=True)])
        for condition in CONDITIONS:
            pairs = zip(runs[one], runs[other], strict=True)
            differences = [by_files(a["scores"][condition]) - by_files(b["scores"][condition]) for a, b in pairs]
            figures[f"{key}/{condition}"] = _figure(differences)
    first = runs["factory"][0]["scores"]
    noisy = {condition: by_files(first[condition], "noisy_psnr_db") for condition in CONDITIONS}
    for condition, value in (noisy | {"all": float(np.mean(list(noisy.values())))}).items():
        figures[f"noisy/{condition}"] = _figure([value])
    for arm, seeds in runs.items():
        figures[f"{arm}/all"] = _figure([overall(run) for run in seeds])
        for condition in CONDITIONS:
            figures[f"{arm}/{condition}"] = _figure([by_files(run["scores"][condition]) for run in seeds])
        for group in ("camera", "file"):
            for name in sorted({score[group] for score in first["iso800"]}):
                figures[f"{arm}/{group}/{name}"] = _figure([_mean_of(run, group, name) for run in seeds])
        figures[f"{arm}/dark_noise_left"] = _figure([run["dark_noise_left"] for run in seeds], "share of the noise")
    return figures


def _mean_of(run: dict[str, Any], group: str, name: str) -> float:
    scores = [score for condition in CONDITIONS for score in run["scores"][condition]]
    return float(np.mean([score["psnr_db"] for score in scores if score[group] == name]))


def _figure(values: Sequence[float], unit: str = "dB") -> dict[str, Any]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    rounded = None if spread is None else round(spread, 3)
    return {"value": round(float(np.mean(values)), 3), "unit": unit, "spread": rounded, "seeds": len(values)}


def _table(figures: dict[str, dict[str, Any]]) -> Table:
    table = Table(title="PSNR, dB")
    for heading in ("trained on", *CONDITIONS, "all", "dark noise left"):
        table.add_column(heading, justify="left" if heading == "trained on" else "right")
    for arm in ARMS:
        found = [figures[f"{arm}/{condition}"] for condition in (*CONDITIONS, "all")]
        dark = figures[f"{arm}/dark_noise_left"]["value"]
        table.add_row(arm, *(f"{each['value']:.2f} ± {each['spread'] or 0:.2f}" for each in found), f"{dark:.0%}")
    return table


def _protocol_digest() -> str:
    """Tell trainings of this protocol from those of another, which are not taken up."""
    said = [
        "leaky, error in units of the noise",  # what examples/denoise does: say it otherwise when it does otherwise
        asdict(SCHEDULE),
        BATCH,
        CROP,
        CROPS_PER_SAMPLE,
        TRAINING_ISO,
        TRAINING_EV,
        CONDITIONS,
        PATCH,
    ]
    return hashlib.sha256(json.dumps([*said, PATCHES_PER_FILE]).encode()).hexdigest()[:8]


def _protocol(seeds: int, patches: Sequence[int]) -> str:
    low, high = TRAINING_EV
    return (
        f"One U-Net (examples/denoise, width {SCHEDULE.width}), {SCHEDULE.steps} steps of {BATCH} crops of "
        f"{CROP}x{CROP} packed pixels, L1 loss in units of each crop's noise, {seeds} seeds, the same for each set. "
        "Sets: the photographs of AURA_DATA/srgb/kodak and photos, shrunk to fit 512x512, by the tasks of `aura "
        "synthesize --noise on_read` with the method linearise (linear_white), upi or aura (factory), for the five "
        "cameras that ELD calibrated, the same camera for the same photograph; the 20 files of AURA_DATA/raw/train "
        "(real), their light in those cameras' numbers; crops drawn evenly from factory and real (mixed). "
        "The released AURA weights, which made factory, were trained on light of the same photographs and of "
        f"raw/train, too. Each crop has a fresh ISO from {TRAINING_ISO[0]} to {TRAINING_ISO[1]}, an exposure from "
        f"{low:g} to {high:g} stops, and its camera's calibrated noise; linear_white has white Gaussian noise of the "
        f"crop's mean variance instead. Judged on {len(patches)} patches of {PATCH}x{PATCH} packed pixels of the 7 "
        "files of AURA_DATA/raw/validation as they are, their own noise included, each with the noise of one of the "
        "five cameras, drawn for it, at ISO 800, 3200, 6400, and at 6400 with three stops less light, errors amplified "
        "back; every network is told the calibrated noise level of each pixel and sees the same noise. PSNR with "
        "saturation as the peak, mean of each file's mean; `all` is the mean of the four conditions; spread is the "
        "standard deviation over the seeds, of differences seed by seed. dark_noise_left is measured on the real dark "
        "frame of AURA_DATA/raw/dark, hot pixels aside: the only real noise here whose clean reference is known. "
        "Two earlier trials, stopped when trainings on several sets were found to have ended with dead units (an "
        "answer that was a constant), are not counted; the network has leaky units since, and nothing was chosen by "
        "how the sets compared."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default_data = Path(os.environ.get("AURA_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default_data, help="holds srgb/ and raw/")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "downstream", help="datasets and trained weights")
    parser.add_argument("--sets-only", action="store_true", help="make the datasets and stop")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="trainings of each kind")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except AuraError as error:
        raise SystemExit(f"downstream: {error}") from error
