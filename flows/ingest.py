"""Ingest alone: the corpus is listed and every sample planned; a later synthesis has only to make them."""

from dataclasses import dataclass

import pyarrow.compute as pc
from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from flows.checks import check
from flows.cluster.credentials import use_configured_block
from flows.cluster.runner import build_runner, configured_cluster
from flows.factory import prepare
from flows.reports.artifacts import artifact_key
from flows.reports.step_progress import shown_in_the_ui
from flows.run_parameters import Place, run_name
from storage.datasets.dataset import Dataset
from storage.datasets.history import current_index
from storage.datasets.lease import hold
from storage.recipe import Recipe


@dataclass(frozen=True)
class IngestResult:
    """What an ingest came to.

    Attributes:
        dataset_url: where the dataset lies.
        sources: files of the corpus.
        rejected_sources: files that cannot be used, by reason.
        planned_samples: samples of the dataset, made or not.
        missing_shards: shards that a synthesis has to make.
        changes: what a later listing of the corpus brought, in words; empty for the first.
    """

    dataset_url: str
    sources: int
    rejected_sources: dict[str, int]
    planned_samples: int
    missing_shards: int
    changes: str


@flow(
    name="ingest",
    flow_run_name=lambda: run_name("ingest {corpus} for {dataset}"),
    task_runner=build_runner(configured_cluster()),
    persist_result=False,
    description="List a corpus, look at every file of it, and plan the samples of a dataset, without making any.",
)
def ingest(recipe: Recipe, dataset: Place, wait: bool = False) -> IngestResult:
    """List a corpus and plan a dataset, or what is new in the corpus of one that is finished.

    Args:
        recipe: what a synthesis shall make; give it the same recipe.
        dataset: where to put the dataset: a path or a URL. Credentials come from the environment, never from here.
        wait: wait until another run on the dataset has ended, instead of being refused.

    Raises:
        AuraError: refused before any work, or refused by the storage; the message says which.
    """
    use_configured_block()
    checked = check(recipe, dataset)
    waiting = get_run_logger().info
    with (
        shown_in_the_ui(dataset),
        hold(checked.dataset_url, wait=wait, on_wait=lambda holder: waiting("Waiting for %s", holder)) as lease,
    ):
        planned, changes = prepare(checked, lease, retry_rejects=False)
    result = _result(planned, changes)
    _leave(result)
    return result


def _result(dataset: Dataset, changes: str) -> IngestResult:
    index = current_index(dataset, ["reject_reason"])
    reasons = pc.value_counts(index["reject_reason"].drop_null()).to_pylist()
    return IngestResult(
        dataset_url=dataset.location.url,
        sources=index.num_rows,
        rejected_sources={each["values"]: each["counts"] for each in reasons},
        planned_samples=dataset.planned_samples,
        missing_shards=len(dataset.missing_shards()),
        changes=changes,
    )


def _leave(result: IngestResult) -> None:
    facts: dict[str, object] = {
        "files of the corpus": result.sources,
        **{f"rejected: {reason}": count for reason, count in result.rejected_sources.items()},
        "samples planned": result.planned_samples,
        "shards to make": result.missing_shards,
        **({"since the last listing": result.changes} if result.changes else {}),
    }
    create_table_artifact(
        table=[{"what": what, "count": count} for what, count in facts.items()],
        key=artifact_key("ingest", result.dataset_url),
        description=f"{result.dataset_url} is planned. Next: a synthesis with the same recipe makes its shards.",
    )
    get_run_logger().info(
        "%d samples planned, %d shards to make; run the synthesis of %s with the same recipe",
        result.planned_samples,
        result.missing_shards,
        result.dataset_url,
    )
