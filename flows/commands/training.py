"""Training and judging weights from the command line: what :mod:`aura.training` does, with progress and words."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from aura.errors import InvalidInputError, MissingFileError
from aura.reconstruct import RELEASED_WEIGHTS
from aura.training.configuration import Progress as TrainProgress
from aura.training.configuration import TrainConfig
from aura.training.development import DeveloperName, LeftOutPair
from aura.training.evaluation import EvaluationRow
from aura.training.fidelity_table import as_json, as_table
from aura.training.judging import measure_weights
from aura.training.loop import train
from flows.commands.console import command, err, line_due, out, say, say_pairs, shows_bars
from flows.progress import duration


def train_weights(path: Path | None, changes: Mapping[str, Any]) -> None:
    """Train, or go on where the checkpoint stopped, and say where the weights are.

    Args:
        path: configuration (YAML, fields of :class:`aura.training.configuration.TrainConfig`), or None.
        changes: values laid over it.

    Raises:
        InvalidInputError: a field is wrong, or the checkpoint is another configuration's.
        MissingFileError: the configuration or the data are not there.
    """
    config = _read_config(path, changes)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left {task.fields[left]}, loss {task.fields[loss]}, held out {task.fields[score]}"),
    )
    if shows_bars():
        with Progress(*columns, console=err) as progress:
            result = train(config, _stage_bars(progress))
    else:
        result = train(config, _stage_lines())
    say(
        f"Trained in {result.seconds / 3600:.2f} h; {result.validation_psnr_aligned:.2f} dB aligned on held-out scenes."
    )
    say_pairs(
        {
            "weights": str(result.weights),
            "card": str(config.out / "aura.json"),
            "curves": str(result.curves),
            "next": f"{command()} evaluate --weights {result.weights}",
        }
    )


def fine_tuning(
    folder: Path,
    out: Path,
    levels: Mapping[str, Any],
    weights: Path | None,
    steps: int,
    learning_rate: float,
    seed: int,
    device: str | None,
) -> dict[str, Any]:
    """Describe a run that goes on from finished weights with one camera's photographs, for :func:`train_weights`.

    Args:
        folder: RAW files, or ``NAME.png`` beside ``NAME.npy``.
        out: folder of the run.
        levels: further fields of :class:`aura.training.camera_pairs.CameraFolder`.
        weights: to begin with; None for the released ones.
        steps: of training.
        learning_rate: at its peak.
        seed: of the run.
        device: where to train; None for the CPU.
    """
    stage = {"name": "fine_tune", "steps": steps, "batch": 6, "size": 160, "learning_rate": learning_rate}
    return {
        "data": None,
        "out": out,
        "camera": {"folder": folder, **levels},
        "initial_weights": weights or RELEASED_WEIGHTS,
        "stages": [stage],
        "seed": seed,
        "validate_every": max(1, min(100, steps // 4)),
        "device": device or "cpu",
    }


def evaluate_weights(
    weights: Path | None,
    folder: Path,
    developers: Sequence[DeveloperName],
    crop: int | None,
    cache: Path | None,
    results: Path | None,
) -> None:
    """Set weights beside the classical inverses on real RAW files, and print the table.

    Args:
        weights: of AURA; None for the released ones.
        folder: RAW files.
        developers: who develops each file to a photograph; empty for all that are installed.
        crop: side of a centre crop in pixels; None for whole images.
        cache: folder for developed photographs, or None to develop them anew.
        results: file for all that was measured, as JSON.
    """
    evaluation = measure_weights(weights, folder, developers, crop, cache, _say_row)
    out.print(as_table(evaluation))
    if results is not None:
        results.parent.mkdir(parents=True, exist_ok=True)
        results.write_text(json.dumps(as_json(evaluation), indent=1) + "\n", encoding="utf-8")
        say(f"Every pair is in {results}.")


def _stage_bars(progress: Progress) -> Callable[[TrainProgress], None]:
    bars = {}

    def show(now: TrainProgress) -> None:
        if now.stage not in bars:
            bars[now.stage] = progress.add_task(now.stage, total=now.steps, left="-", loss="-", score="-")
        scored = now.validation_psnr_aligned
        told = {"left": duration(now.seconds_left), "loss": "-" if math.isnan(now.loss) else f"{now.loss:.4f}"}
        if scored is not None:
            told["score"] = f"{scored:.2f} dB"
        progress.update(bars[now.stage], completed=now.step, **told)  # type: ignore[arg-type]  # fields are free

    return show


def _stage_lines() -> Callable[[TrainProgress], None]:
    """For a log: a line of each stage now and then, and with every score."""
    due = line_due()

    def show(now: TrainProgress) -> None:
        scored = now.validation_psnr_aligned
        if due(now.stage, ended=now.step == now.steps) or scored is not None:
            held_out = "" if scored is None else f", held out {scored:.2f} dB aligned"
            loss = "" if math.isnan(now.loss) else f", loss {now.loss:.4f}"
            left = "" if now.step == now.steps else f", about {duration(now.seconds_left)} left"
            said = f"{now.stage}: {now.step:,} of {now.steps:,}{left}{loss}{held_out}"
            err.print(said, markup=False, soft_wrap=True)

    return show


def _say_row(row: EvaluationRow | LeftOutPair) -> None:
    if isinstance(row, EvaluationRow):
        said = f"{row.file}  {row.developer}  {row.method}  {row.score.psnr_aligned:.1f} dB aligned"
        err.print(said, markup=False, soft_wrap=True)


def _read_config(path: Path | None, changes: Mapping[str, Any]) -> TrainConfig:
    values: Any = {}
    if path is not None:
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            raise MissingFileError(f"No training configuration at {path}. Check the path.") from None
        except (yaml.YAMLError, UnicodeDecodeError):
            raise InvalidInputError(f"{path} is not YAML; expected fields such as 'seed: 1'.") from None
    if not isinstance(values, dict):
        raise InvalidInputError(f"{path} holds a {type(values).__name__}; expected fields such as 'seed: 1'.")
    try:
        return TrainConfig.model_validate(values | dict(changes))
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise InvalidInputError(f"The training configuration is wrong: {faults}.") from None
