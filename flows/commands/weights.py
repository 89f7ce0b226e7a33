"""Commands about weights: training them, fine-tuning them to one camera, judging them."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

from pathlib import Path
from typing import Annotated

import typer

from aura.errors import InvalidInputError
from flows.commands.stopping import resumable

DEFAULT_DATA = Path("../shared/data")
Data = Annotated[
    Path, typer.Option(envvar="AURA_DATA", help="Folder with the measuring and training data.", show_default=True)
]
Weights = Annotated[Path | None, typer.Option(help="Weights (safetensors) instead of the released ones.")]
Device = Annotated[
    str | None, typer.Option(show_default="cpu", help="cpu, cuda, cuda:N, or auto for a GPU if there is one.")
]


def add_training_commands(commands: typer.Typer) -> None:
    """Register the commands of this file."""
    for name, each in (("train", train), ("fine-tune", fine_tune), ("evaluate", evaluate)):
        commands.command(name)(each)


def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, weights, card and curves.")],
    data: Data = DEFAULT_DATA,
    raw: Annotated[
        list[Path] | None, typer.Option(help="A further folder of RAW files to take light from; may be repeated.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Configuration (YAML): stages, architecture and the rest; the default ships.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Everything that is drawn follows from it.")] = None,
    device: Device = None,
) -> None:
    """Train AURA's weights; run the same command again and it goes on exactly where it was stopped.

    The data folder holds hdr/, raw/train and srgb/. The default schedule takes about half an hour on two cores.
    """
    from flows.commands.training import train_weights

    given = {"out": out, "data": data, "raw_folders": raw or None, "seed": seed, "device": device}
    with resumable():
        train_weights(config, {name: value for name, value in given.items() if value is not None})


def fine_tune(
    folder: Annotated[
        Path, typer.Argument(help="One camera's RAW files, or NAME.png beside NAME.npy (packed R, Gr, Gb, B).")
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, weights, card and curves.")],
    white_level: Annotated[
        float | None, typer.Option(help="DN at saturation of .npy files; they do not say it, so it must be given.")
    ] = None,
    black_level: Annotated[float, typer.Option(help="DN of black of .npy files.")] = 0.0,
    cfa_pattern: Annotated[str, typer.Option(help="Of the mosaic that .npy files were packed from.")] = "RGGB",
    camera: Annotated[
        str | None, typer.Option(help="Camera whose colour matrix .npy files have (see aura cameras).")
    ] = None,
    weights: Weights = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of 6 crops of 160 pixels.")] = 600,
    learning_rate: Annotated[float, typer.Option(help="At its peak.")] = 1e-4,
    seed: Annotated[int, typer.Option(help="Everything that is drawn follows from it.")] = 0,
    device: Device = None,
) -> None:
    """Fit weights to one camera; run the same command again and it goes on exactly where it was stopped.

    RAW files with the camera's own full-size JPEG, within or beside them, teach its own ISP; the light of all is put
    through random ISPs, seen by this camera. One file in eight, at least one, is not trained on: the card says how
    well the weights do on it before and after.
    """
    from flows.commands.training import fine_tuning, train_weights

    levels = {"white_level": white_level, "black_level": black_level, "cfa_pattern": cfa_pattern, "profile": camera}
    with resumable():
        train_weights(None, fine_tuning(folder, out, levels, weights, steps, learning_rate, seed, device))


def evaluate(
    weights: Weights = None,
    data: Data = DEFAULT_DATA,
    developer: Annotated[
        list[str] | None,
        typer.Option(
            show_default="all that are installed",
            help="Who develops the RAW files: libraw_fixed, libraw_auto, in_camera, darktable, rawtherapee; repeat it "
            "for several.",
        ),
    ] = None,
    crop: Annotated[int | None, typer.Option(help="Side of a centre crop in pixels; whole images if left out.")] = None,
    cache: Annotated[Path, typer.Option(help="Folder for developed photographs.")] = Path("build/developed"),
    results: Annotated[Path | None, typer.Option(help="Also write every pair to this JSON file.")] = None,
) -> None:
    """Set weights beside the classical inverses on real RAW files, and print the table.

    Each file of DATA/raw/validation is developed to a photograph by every developer that is installed, and each
    method takes that back to RAW.
    """
    from aura.training.development import DEVELOPERS
    from flows.commands.training import evaluate_weights

    wanted = [name for name in DEVELOPERS if name in (developer or ())]
    if unknown := sorted(set(developer or ()) - set(wanted)):
        raise InvalidInputError(f"No developer is named {unknown[0]!r}; there are {', '.join(DEVELOPERS)}.")
    evaluate_weights(weights, data / "raw" / "validation", wanted, crop, cache, results)
