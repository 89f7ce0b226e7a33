"""Training and judging weights as Prefect flows: bars that move, curves that grow, and a run that goes on by itself."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import prefect.runtime
from PIL import Image
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.tasks import Task
from pydantic import Field

from aura.errors import AuraError
from aura.training import loop
from aura.training.configuration import Progress as TrainProgress
from aura.training.configuration import TrainConfig
from aura.training.development import DeveloperName
from aura.training.evaluation import EvaluationRow
from aura.training.fidelity_table import as_markdown
from aura.training.judging import measure_weights
from flows.reports.artifacts import artifact_key
from flows.reports.pictures import data_uri
from flows.reports.step_progress import shown_in_the_ui

_CURVES_SIDE_PX: Final = 1200
_RETRIES: Final = 3
_RETRY_DELAY_S: Final = 60


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes:
        weights: file of the weights.
        validation_psnr_aligned_db: on scenes that training did not see.
        hours: spent computing, over all attempts.
    """

    weights: str
    validation_psnr_aligned_db: float
    hours: float


def _train_run_name() -> str:
    config: Any = prefect.runtime.flow_run.parameters["config"]
    return f"train {Path(config.out if isinstance(config, TrainConfig) else config['out']).name}"


def _evaluate_run_name() -> str:
    weights = prefect.runtime.flow_run.parameters.get("weights")
    return f"evaluate {Path(weights).name if weights else 'released weights'}"


def _worth_retrying(_task: Task[..., Any], _run: Any, state: State[Any]) -> bool:
    """Tell whether time may mend a failure: a full GPU's may, a wrong configuration stays so."""
    return not isinstance(state.data, AuraError)


@flow(
    name="train",
    flow_run_name=_train_run_name,
    persist_result=False,
    description="Train AURA's weights. A retry, and another run with the same folder, go on at the last checkpoint.",
)
def train(config: TrainConfig) -> TrainingResult:
    """Train AURA, or go on exactly where the checkpoint in the output folder stopped.

    Args:
        config: data, output folder, stages, architecture and the rest; only the two folders have to be given.

    Raises:
        InvalidInputError: the output folder holds a checkpoint of another configuration.
        MissingFileError: no training scenes.
    """
    result = train_to_the_end(config)
    get_run_logger().info("Weights are in %s; next: evaluate them on real RAW files", result.weights)
    return TrainingResult(str(result.weights), result.validation_psnr_aligned, round(result.seconds / 3600, 2))


@task(
    name="train",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=_RETRIES,
    retry_delay_seconds=_RETRY_DELAY_S,
    retry_condition_fn=_worth_retrying,
)
def train_to_the_end(config: TrainConfig) -> loop.TrainResult:
    """Train from the last checkpoint on, with a bar for each stage, and leave the curves."""
    name = str(config.out)
    with shown_in_the_ui(name) as show:
        result = loop.train(config, _tell(show, [], name))
    _leave_curves(result, name)
    return result


@flow(
    name="evaluate-weights",
    flow_run_name=_evaluate_run_name,
    persist_result=False,
    description="Set weights beside the classical inverses on real RAW files that no training saw.",
)
def evaluate_weights(
    raw_files: Path,
    weights: Path | None = None,
    developers: list[DeveloperName] | None = None,
    crop: Annotated[int, Field(ge=64, multiple_of=2)] | None = None,
) -> None:
    """Measure weights, linearise and UPI on pairs of RAW file and developed photograph, and leave the table.

    Args:
        raw_files: folder with RAW files.
        weights: safetensors; left out, the released ones.
        developers: who develops each file to a photograph; left out, all that are installed.
        crop: side of a centre crop in pixels; left out, whole images.

    Raises:
        AuraError: no RAW files, no such weights, or a developer that is not installed.
    """
    log = get_run_logger()

    def on_row(row: object) -> None:
        if isinstance(row, EvaluationRow):
            log.info("%s, %s, %s: %.1f dB aligned", row.file, row.developer, row.method, row.score.psnr_aligned)

    evaluation = measure_weights(weights, raw_files, developers or [], crop, None, on_row)
    create_markdown_artifact(
        markdown=as_markdown(evaluation),
        key=artifact_key("fidelity", str(weights or "released")),
        description="Fidelity on real RAW files, beside the classical inverses.",
    )


def _tell(
    show: Callable[[str, int, int], None], judged: list[dict[str, str]], name: str
) -> Callable[[TrainProgress], None]:
    def tell(now: TrainProgress) -> None:
        show(now.stage, now.step, now.steps)
        if now.validation_psnr_aligned is None:
            return
        scored = f"{now.validation_psnr_aligned:.2f} dB"
        judged.append({"stage": now.stage, "step": str(now.step), "loss": f"{now.loss:.4f}", "held out": scored})
        create_table_artifact(
            table=judged,
            key=artifact_key("training", name),
            description="Loss, and PSNR after one gain per colour channel on scenes that training does not see.",
        )
        get_run_logger().info("%s, step %d of %d: %s on held-out scenes", now.stage, now.step, now.steps, scored)

    return tell


def _leave_curves(result: loop.TrainResult, name: str) -> None:
    with Image.open(result.curves) as picture:
        curves = data_uri(np.asarray(picture.convert("RGB")), _CURVES_SIDE_PX)
    said = f"{result.validation_psnr_aligned:.2f} dB on held-out scenes after {result.seconds / 3600:.2f} h"
    create_markdown_artifact(
        markdown=f"![Loss and PSNR on held-out scenes over time; at the end {said}]({curves})\n\n"
        f"{said}.\n\nWeights: `{result.weights}`",
        key=artifact_key("curves", name),
        description=f"Training curves of {name}: {said}.",
    )
