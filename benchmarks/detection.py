"""A detector trained on packed RAW of annotated photographs, and scored on photographs that it never saw.

    python -m benchmarks.detection [--data FOLDER] [--steps N]

The photographs become a dataset by `aura synthesize --annotations`. The same network is trained twice: with ISO and
exposure drawn while reading, bright to very dark, and on bright RAW of the lowest ISO alone; both are scored in normal
and in low light, beside the network before training and a constant answer. Run it again, and it goes on where it was.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aura.errors import AuraError
from benchmarks.record import write_result
from examples.detect.__main__ import categories
from examples.detect.detector import Detector
from examples.detect.scoring import LIGHTS, Scores, held_out, score_guesses, score_network
from examples.detect.training import Settings, train
from flows.commands.console import quiet
from storage.reading.map_style import RawDataset
from storage.reading.splits import Split
from storage.recipe import load_recipe

ROOT: Final = Path(__file__).resolve().parents[1]
CAMERAS: Final = ("canon-eos-5d-mark-iv", "nikon-d850")
BRIGHT: Final[dict[str, Any]] = {"iso": (100, 100), "exposure_ev": (0.0, 0.0)}
SOFTWARE: Final = ("torch", "pycocotools", "numpy", "zarr")
COMMONEST: Final = "person"

console = Console()


def main() -> None:
    """Make the dataset, train, score, print, write."""
    options = _options()
    dataset = _dataset(options)
    settings = Settings(str(dataset), steps=options.steps, seed=options.seed)
    names = categories(settings.dataset)
    labels = {number: label for label, number in enumerate(names)}
    person = next(number for number, name in names.items() if name == COMMONEST)
    began = time.process_time()
    networks: dict[str, Detector] = {
        "all_light": _trained("all_light", settings, labels, options.work),
        "bright_only": _trained("bright_only", replace(settings, **BRIGHT), labels, options.work),
    }
    torch.manual_seed(settings.seed)
    networks["untrained"] = Detector(len(labels)).eval()
    seen = RawDataset(settings.dataset, split=Split("train", settings.held_out, settings.seed))
    figures: dict[str, dict[str, Any]] = {"photographs": _figure(len(seen), "photographs")}
    table = Table("trained", "held-out photographs in", "AP", "AP50", f"AP50 {COMMONEST}", "loss")
    for light in LIGHTS:
        photographs = held_out(settings, light)
        figures["held_out_photographs"] = _figure(len(photographs), "photographs")
        rows = {name: score_network(network, photographs, labels) for name, network in networks.items()}
        rows["constant"] = score_guesses(photographs, seen, labels)
        for name, scores in rows.items():
            key = f"{name}/{light.name.replace(' ', '_')}"
            figures |= _figures(key, scores, person)
            loss = "-" if scores.loss is None else f"{scores.loss:.2f}"
            of_person = scores.ap50_by_category[person]
            table.add_row(name, light.name, f"{scores.ap:.3f}", f"{scores.ap50:.3f}", f"{of_person:.3f}", loss)
    console.print(table)
    objects = sum(len(photographs.annotations(item) or []) for item in range(len(photographs)))
    figures["held_out_objects"] = _figure(objects, "objects")
    target = write_result("detection", _protocol(settings), figures, SOFTWARE)
    console.print(f"{time.process_time() - began:.0f} s of processor; written to {target.relative_to(ROOT)}")


def _dataset(options: argparse.Namespace) -> Path:
    quiet(verbose=False)
    from flows.commands.run import RunSettings, run_factory  # noqa: PLC0415 - Prefect reads its settings when it is imported

    folder: Path = options.data / "srgb" / "coco"
    target: Path = options.work / "dataset"
    recipe = load_recipe(
        None,
        {
            "corpus": str(folder / "images"),
            "canvas.height": 640,  # no photograph is larger: each becomes one sample, whole
            "canvas.width": 640,
            "cameras": list(CAMERAS),
            "noise": "on_read",
            "shard_size": 16,
            "lpips_share": 0.0,
            "annotations.source": str(folder / "instances.json"),
        },
    )
    run_factory(recipe, str(target), RunSettings("local:1"))
    return target


def _trained(name: str, settings: Settings, labels: dict[int, int], work: Path) -> Detector:
    bars = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*bars, console=console) as progress:
        bar = progress.add_task(name, total=settings.steps)

        def tell(done: int, loss: float) -> None:
            progress.update(bar, completed=done, description=f"{name}, loss {loss:.3f}")
            if done % 50 == 0 and not console.is_terminal:
                console.print(f"{name}: step {done} of {settings.steps}, loss {loss:.3f}")

        return train(settings, labels, work / f"{name}.safetensors", tell)


def _figures(key: str, scores: Scores, person: int) -> dict[str, dict[str, Any]]:
    values = {"ap": scores.ap, "ap50": scores.ap50, f"ap50_{COMMONEST}": scores.ap50_by_category[person]}
    figures = {f"{key}/{name}": _figure(value, "share of 1") for name, value in values.items()}
    return figures if scores.loss is None else figures | {f"{key}/loss": _figure(scores.loss, "FCOS loss")}


def _figure(value: float, unit: str) -> dict[str, Any]:
    return {"value": round(value, 4), "unit": unit, "spread": None}


def _protocol(settings: Settings) -> str:
    lights = "; ".join(
        f"{light.name}: ISO {light.iso[0]} to {light.iso[1]}, exposure {light.exposure_ev[0]:g} to "
        f"{light.exposure_ev[1]:g} EV"
        for light in LIGHTS
    )
    iso, exposure = settings.iso, settings.exposure_ev
    return (
        "128 photographs of COCO val2017 with 898 boxes of 73 categories, made into packed RAW of "
        f"{' and '.join(CAMERAS)} by aura synthesize --annotations, one sample each; {settings.held_out:.0%} of the "
        "photographs (by the hash of their bytes and a seed) held out of training. FCOS head above AlexNet's "
        f"convolutions (trained on ImageNet), {settings.steps} steps of {settings.batch_size} crops of {settings.crop} "
        f"packed pixels, mirrored, enlarged 1 to 2 times. all_light draws ISO {iso[0]} to {iso[1]} and exposures "
        f"{exposure[0]:g} to {exposure[1]:g} EV, with the camera's calibrated noise; bright_only has ISO 100 and 0 EV. "
        f"Scored by pycocotools on whole held-out photographs, enlarged 1.5 times ({lights}). untrained: before the "
        "first step; constant: 100 boxes of training photographs, the same in every image. One seed; a hundred "
        "photographs teach a detector little: the figures compare these rows, not detectors."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default_data = Path(os.environ.get("AURA_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default_data, help="folder with srgb/coco")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "detection", help="dataset and checkpoints")
    parser.add_argument("--steps", type=int, default=600, help="of each of the two trainings")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and all that is drawn")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except AuraError as error:
        raise SystemExit(f"detection: {error}") from error
