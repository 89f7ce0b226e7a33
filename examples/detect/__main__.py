"""Train a detector on an annotated dataset of packed RAW, and score it on photographs that it never saw.

    aura synthesize photographs DATASET --canvas 640 --noise on_read --annotations photographs/instances.json
    python -m examples.detect DATASET

DATASET is a folder or an s3:// URL. ISO, exposure and noise are drawn anew for each crop, bright to very dark. Stop it
at any moment: the same command goes on at the last checkpoint.
"""

from pathlib import Path
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from aura.errors import AuraError
from aura.reconstruct import choose_device
from examples.detect.detector import Detector
from examples.detect.scoring import LIGHTS, Scores, held_out, score_network
from examples.detect.training import HERE, Reading, Settings, train
from flows.commands.console import refuse
from flows.commands.stopping import resumable
from storage.reading import RawDataset
from storage.reading.crop_annotations import SampleAnnotations

command = typer.Typer(add_completion=False, pretty_exceptions_show_locals=False, rich_markup_mode=None)
console = Console()

DEFAULTS: Final = Settings(dataset="")
Steps = Annotated[int, typer.Option(min=1, help="Batches of 8 crops, about a second each on one core.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the split, the first weights and all that is drawn.")]


@command.command(help=(__doc__ or "").replace("\n\n    ", "\n\n\b\n    "))  # commands keep their lines
def main(
    dataset: Annotated[str, typer.Argument(help="Annotated dataset of clean RAW: a folder or s3:// URL.")],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint and weights.")] = Path("runs/detect"),
    steps: Steps = DEFAULTS.steps,
    held_out_share: Annotated[
        float, typer.Option("--held-out", min=0.01, max=0.99, help="Share of the photographs that are held out.")
    ] = DEFAULTS.held_out,
    seed: Seed = DEFAULTS.seed,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read; 0: the one that trains.")] = 0,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1; auto takes a GPU if there is one.")] = "auto",
) -> None:
    """Train, score, and say where the weights are."""
    reading = Reading(str(choose_device(device)), workers)
    settings = Settings(dataset, steps=steps, held_out=held_out_share, seed=seed)
    checkpoint = out / "detector.safetensors"
    tests = [(light, held_out(settings, light)) for light in LIGHTS]  # first, so that nothing is trained in vain
    names = categories(settings.dataset)
    labels = {number: label for label, number in enumerate(names)}
    with resumable():
        model = train_watched("training", settings, labels, checkpoint, reading)
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


def train_watched(
    title: str, settings: Settings, labels: dict[int, int], checkpoint: Path, reading: Reading = HERE
) -> Detector:
    """Train behind a progress bar, or lines where nobody watches."""
    bars = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*bars, console=console) as progress:
        bar = progress.add_task(title, total=settings.steps)

        def tell(done: int, loss: float) -> None:
            progress.update(bar, completed=done, description=f"{title}, loss {loss:.3f}")
            if done % 50 == 0 and not console.is_terminal:
                console.print(f"{title}: step {done} of {settings.steps}, loss {loss:.3f}")

        return train(settings, labels, checkpoint, tell, reading=reading)


def categories(dataset: str) -> dict[int, str]:
    """Return the names of a dataset's categories by number."""
    whole = RawDataset(dataset)
    return SampleAnnotations(whole.columns, [whole.dataset]).categories()


def _best(scores: Scores, names: dict[int, str]) -> str:
    ranked = sorted(scores.ap50_by_category.items(), key=lambda pair: -pair[1])[:3]
    return ", ".join(f"{names[number]} {value:.2f}" for number, value in ranked)


if __name__ == "__main__":
    try:
        command()
    except AuraError as error:
        refuse(str(error))
        raise SystemExit(2) from error
