"""Train a detector on an annotated dataset of packed RAW, and score it on photographs that it never saw.

    aura synthesize photographs DATASET --canvas 640 --noise on_read --annotations photographs/instances.json
    python -m examples.detect DATASET

DATASET is a folder or an s3:// URL. ISO, exposure and noise are drawn anew for each crop, bright to very dark. Stop it
at any moment: the same command goes on at the last checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aura.errors import AuraError
from examples.detect.scoring import LIGHTS, Scores, held_out, score_network
from examples.detect.training import Settings, train
from storage.reading import RawDataset
from storage.reading.crop_annotations import SampleAnnotations

console = Console()


def main() -> None:
    """Train, score, and say where the weights are."""
    options = _options()
    settings = Settings(options.dataset, steps=options.steps, held_out=options.held_out, seed=options.seed)
    checkpoint = options.out / "detector.safetensors"
    tests = [(light, held_out(settings, light)) for light in LIGHTS]  # first, so that nothing is trained in vain
    names = categories(settings.dataset)
    labels = {number: label for label, number in enumerate(names)}
    bars = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*bars, console=console) as progress:
        bar = progress.add_task("training", total=settings.steps)
        model = train(
            settings,
            labels,
            checkpoint,
            lambda done, loss: progress.update(bar, completed=done, description=f"training, loss {loss:.3f}"),
        )
    table = Table("held-out photographs in", "AP", "AP50", "best categories, AP50", "loss")
    for light, photographs in tests:
        scores = score_network(model, photographs, labels)
        table.add_row(
            light.name, f"{scores.ap:.3f}", f"{scores.ap50:.3f}", _best(scores, names), f"{scores.loss or 0:.2f}"
        )
    console.print(table)
    console.print(
        f"The weights are in {checkpoint}. To train longer: --steps {2 * settings.steps} --out another/folder"
    )


def categories(dataset: str) -> dict[int, str]:
    """Return the names of a dataset's categories by number."""
    whole = RawDataset(dataset)
    return SampleAnnotations(whole.columns, [whole.dataset]).categories()


def _best(scores: Scores, names: dict[int, str]) -> str:
    ranked = sorted(scores.ap50_by_category.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{names[number]} {value:.2f}" for number, value in ranked)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m examples.detect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="folder or s3:// URL of an annotated dataset of clean RAW")
    parser.add_argument("--out", type=Path, default=Path("runs/detect"), help="where checkpoint and weights go")
    parser.add_argument("--steps", type=int, default=600, help="batches of 8 crops, about a second each on one core")
    parser.add_argument("--held-out", type=float, default=0.22, help="share of the photographs that are held out")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the weights and all that is drawn")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except AuraError as error:
        print(f"detect: {error}", file=sys.stderr)
        sys.exit(2)
