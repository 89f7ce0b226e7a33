"""Making what is missing of a dataset, with progress to look at, and a record of what had to be left out."""

from dataclasses import dataclass

from prefect import get_run_logger
from prefect.artifacts import create_table_artifact

from aura.errors import AuraError
from flows.cluster.dispatch import SetAside, ShardsFailedError, Work, make_shards
from flows.interruption import held_back
from flows.progress import report as report_progress
from flows.reports.artifacts import ProgressArtifact, artifact_key
from storage.datasets.lease import Lease


@dataclass(frozen=True)
class Synthesis:
    """What a run made.

    Attributes:
        shards: number of shards that were made; those that their worker found committed do not count.
        pixels: valid mosaic pixels of them.
        set_aside: shards that failed on several workers; the dataset lacks them.
    """

    shards: int = 0
    pixels: int = 0
    set_aside: tuple[SetAside, ...] = ()


def synthesize(work: Work, lease: Lease) -> Synthesis:
    """Make every shard that is missing, a bounded number at a time. Without any, no cluster is started.

    Raises:
        StorageError: the storage refuses.
        LeaseLostError: another run has taken over.
        AuraError: no shard could be made, or most failed; the message says why.
    """
    log = get_run_logger()
    url = work.dataset.location.url
    missing, total = work.dataset.missing_shards(), work.dataset.shard_count
    bar = ProgressArtifact.start(url, total, total - len(missing))
    report_progress("synthesize", total - len(missing), total)
    log.info("%d of %d shards are to be made", len(missing), total)
    known = made = pixels = 0  # counts alone: a run may have any number of shards
    aside: list[SetAside] = []
    for outcome in make_shards(work, missing):
        if lease.is_lost:
            lease.require()
        if isinstance(outcome, SetAside):
            log.error("Shard %d is set aside and the run goes on: %s\n%s", outcome.shard, outcome.reason, outcome.log)
            aside.append(outcome)
            continue
        known += 1
        made += not outcome.skipped
        pixels += outcome.pixels
        done = total - len(missing) + known
        with held_back():
            bar.move(done, outcome)
            report_progress("synthesize", done, total)
    if aside:
        _leave_set_aside(url, aside)
    if aside and len(aside) == total:
        raise _nothing_made(aside)
    return Synthesis(made, pixels, tuple(aside))


def _leave_set_aside(dataset_url: str, aside: list[SetAside]) -> None:
    create_table_artifact(
        table=[
            {"shard": each.shard, "tried by": ", ".join(each.workers), "reason": each.reason, "log": each.log}
            for each in aside
        ],
        key=artifact_key("set-aside", dataset_url),
        description=f"Shards of {dataset_url} that failed on several workers. The next run tries them again.",
    )


def _nothing_made(aside: list[SetAside]) -> AuraError:
    first = aside[0].error
    if isinstance(first, AuraError):
        return first
    return ShardsFailedError(
        f"{len(aside)} shards were not made; the first failed with {aside[0].reason}. "
        "What was made is kept: mend the cause and run again."
    )
