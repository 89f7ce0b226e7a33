"""A detector trained on packed RAW of annotated photographs, and scored on photographs that it never saw.

    python -m benchmarks.detection [--data FOLDER] [--steps N]

The photographs become a dataset by `aura synthesize --annotations`. The same network is trained twice: with ISO and
exposure drawn while reading, bright to very dark, and on bright RAW of the lowest ISO alone; both are scored in normal
and in low light, beside the network before training and a constant answer. Run it again, and it goes on where it was.
"""

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer
from rich.console import Console
from rich.table import Table

from aura.errors import AuraError
from benchmarks.record import write_result
from examples.detect.__main__ import DEFAULTS, Seed, Steps, categories, train_watched
from examples.detect.detector import Detector
from examples.detect.scoring import LIGHTS, Scores, held_out, score_guesses, score_network
from examples.detect.training import Settings
from flows.commands.console import quiet
from storage.reading.map_style import RawDataset
from storage.reading.splits import Split
from storage.recipe import load_recipe

ROOT: Final = Path(__file__).resolve().parents[1]
CAMERAS: Final = ("canon-eos-5d-mark-iv", "nikon-d850")
BRIGHT: Final[dict[str, Any]] = {"iso": (100, 100), "exposure_ev": (0.0, 0.0)}
SOFTWARE: Final = ("torch", "pycocotools", "numpy", "zarr")
COMMONEST: Final = "person"

command = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode=None)
console = Console()


@command.command(help=(__doc__ or "").replace("\n\n    ", "\n\n\b\n    "))  # commands keep their lines
def main(
    data: Annotated[Path, typer.Option(envvar="AURA_DATA", help="Folder with srgb/coco.")] = ROOT.parent
    / "shared"
    / "data",
    work: Annotated[Path, typer.Option(help="Folder for dataset and checkpoints.")] = ROOT / "build" / "detection",
    steps: Steps = DEFAULTS.steps,
    seed: Seed = DEFAULTS.seed,
) -> None:
    """Make the dataset, train, score, print, write."""
    settings = Settings(str(_dataset(data, work)), steps=steps, seed=seed)
    names = categories(settings.dataset)
    labels = {number: label for label, number in enumerate(names)}
    person = next(number for number, name in names.items() if name == COMMONEST)
    began = time.process_time()
    networks: dict[str, Detector] = {
        name: train_watched(name, each, labels, work / f"{name}.safetensors")
        for name, each in (("all_light", settings), ("bright_only", replace(settings, **BRIGHT)))
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


def _dataset(data: Path, work: Path) -> Path:
    quiet(verbose=False)
    from flows.commands.run import RunSettings, run_factory  # noqa: PLC0415 - Prefect reads its settings when it is imported

    folder = data / "srgb" / "coco"
    target = work / "dataset"
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


if __name__ == "__main__":
    try:
        command()
    except AuraError as error:
        raise SystemExit(f"detection: {error}") from error
