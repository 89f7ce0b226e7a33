"""The factory: corpus -> index -> plan -> shards -> quality -> version, as one Prefect flow.

Killing it at any moment loses at most work. Run again, it goes on: a dataset that was planned is not planned again,
and a committed shard is not made again. Run again over a finished dataset, it lists the corpus, makes what is new in it
and publishes the next version. A lease on the dataset keeps a second run out.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Final

import prefect.runtime
import pyarrow as pa
from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from pydantic import Field

from aura.errors import InvalidInputError
from aura.sensor.profile import SensorProfile
from flows.checks import Checked, check
from flows.cluster.corpus_parts import on_workers
from flows.cluster.credentials import use_configured_block
from flows.cluster.dispatch import Work
from flows.cluster.runner import build_runner, configured_cluster
from flows.progress import report as report_progress
from flows.reports.artifacts import (
    leave_contact_sheet,
    leave_gates,
    leave_quality,
    leave_rejects,
    leave_report,
    leave_summary,
    plain,
    web_address,
)
from flows.reports.facts import rejects_of
from flows.reports.pictures import candidates, choose_rows, triptychs
from flows.reports.quality import GateCheck, Missing, Quality, check_gates, figure, measure_quality, require_gates
from flows.reports.reading_code import reading_example
from flows.reports.report import report_path, write_report
from flows.run_parameters import Place, run_name
from flows.synthesis import Synthesis, synthesize
from storage.corpora.index import has_index, index_batches, index_digest
from storage.corpora.ingest import clear_parts, ingest
from storage.datasets.creation import complete_group, create_or_open, find_dataset, grow
from storage.datasets.dataset import Dataset
from storage.datasets.growth import (
    Listing,
    find_changes,
    listing_digest,
    pending_listing,
    plan_growth,
    read_changes,
    read_rejects,
    write_listing,
)
from storage.datasets.history import REMOVED, current_index, gone_sources
from storage.datasets.lease import Lease, hold
from storage.datasets.plan import PlanSummary, plan_shards, write_plan
from storage.datasets.publishing import publish
from storage.datasets.tags import check_tag
from storage.datasets.versions import Version, list_versions, read_version
from storage.labelling.annotating import annotate, are_kept, keep_annotations
from storage.recipe import AnnotationSource, Gates, Recipe

_PICTURED_SAMPLES: Final = 6


@dataclass(frozen=True)
class FactoryResult:
    """What a run came to.

    Attributes:
        dataset_url: where the dataset lies.
        version: the published version.
        report_url: its HTML report.
        samples: samples of the version.
        shards_made: shards that this run made.
        shards_found: shards that were committed before.
        rejected_sources: files that gave no sample, by reason.
        sources: files of the corpus.
        quality: mean of each measure, by column.
        pixels: valid mosaic pixels that this run made.
        seconds: wall time of the run.
        flow_run_id: the run in Prefect; None if there was nothing to run.
        changes: what a later listing of the corpus brought, in words; empty if there was none.
        set_aside: shards that failed on several workers and are not in the version.
    """

    dataset_url: str
    version: int
    report_url: str
    samples: int
    shards_made: int
    shards_found: int
    rejected_sources: Mapping[str, int]
    sources: int
    quality: Mapping[str, float]
    pixels: int = 0
    seconds: float = 0.0
    flow_run_id: str | None = None
    changes: str = ""
    set_aside: tuple[int, ...] = ()


def finished(checked: Checked) -> FactoryResult | None:
    """Tell what an earlier run came to, if it left nothing to do and the corpus is as it was; None otherwise.

    Raises:
        GateError: the dataset is whole, and the recipe's gates refuse it.
    """
    dataset = checked.dataset
    if dataset is None or dataset.missing_shards() or pending_listing(dataset) is not None:
        return None
    number = max(list_versions(dataset.location), default=0)
    report = dataset.location.join(*report_path(number).split("/"))
    if not number or not report.exists() or not _holds_all(dataset, read_version(dataset.location, number)):
        return None
    if find_changes(dataset):
        return None
    index, annotations = current_index(dataset), checked.recipe.annotations
    if annotations is not None and not are_kept(dataset, index, annotations):
        return None
    quality = measure_quality(dataset, index, dataset.committed_shards())
    require_gates(quality, checked.recipe.gates)
    return _result(dataset, quality, (number, report.url), Synthesis())


def _holds_all(dataset: Dataset, version: Version) -> bool:
    """Tell whether a version holds all that is made and in the corpus; what is new may have been duplicates only."""
    if len(version.shards) != dataset.shard_count:
        return False
    as_published = replace(dataset, listings=version.listing)
    return version.listing == dataset.listings or gone_sources(as_published) == gone_sources(dataset)


@flow(
    name="factory",
    flow_run_name=lambda: run_name("{corpus} -> {dataset}"),
    task_runner=build_runner(configured_cluster()),
    persist_result=False,
    description="Make a RAW dataset of a corpus of photographs: ingest, plan, synthesize, evaluate, publish.",
)
def factory(
    recipe: Recipe,
    dataset: Place,
    in_flight: Annotated[int, Field(ge=1)] | None = None,
    wait: bool = False,
    retry_rejects: bool = False,
    tag: str | None = None,
    shard_deadline_s: Annotated[float, Field(gt=0)] | None = None,
) -> FactoryResult:
    """Make a dataset, finish one that was begun, or add what is new in its corpus.

    Args:
        recipe: what to make.
        dataset: where to put it: a path or a URL. Credentials come from the environment, never from here.
        in_flight: shards submitted at once; None for two per worker.
        wait: wait until another run on the dataset has ended, instead of being refused.
        retry_rejects: try again what could not be used, and nothing else.
        tag: a name for the version.
        shard_deadline_s: seconds after which a shard is made on another worker too; None for ten times the usual.

    Raises:
        AuraError: refused before any work, or refused by the storage, or a gate failed; the message says which.
    """
    started = time.perf_counter()
    use_configured_block()
    checked = check(recipe, dataset)
    if tag is not None:
        check_tag(checked.dataset_url, tag)
    waiting = get_run_logger().info
    with hold(checked.dataset_url, wait=wait, on_wait=lambda holder: waiting("Waiting for %s", holder)) as lease:
        made, changes = prepare(checked, lease, retry_rejects=retry_rejects)
        work = synthesize(Work(made, recipe.weights, lease.token, in_flight, shard_deadline_s), lease)
        index = current_index(made)
        shards = made.committed_shards()  # what is judged is what is published: a late worker may commit one more
        quality = evaluate(made, index, recipe.gates, shards, {each.shard: each.reason for each in work.set_aside})
        lease.require()
        published = publish_dataset(made, quality, index, recipe, shards, tag)
    result = _result(made, quality, published, work, time.perf_counter() - started, changes)
    _summarise(result)
    return result


def prepare(checked: Checked, lease: Lease, *, retry_rejects: bool) -> tuple[Dataset, str]:
    """Plan the dataset, or find it planned, or plan what is new; what is new is also said in words.

    Raises:
        InvalidInputError: rejects shall be tried again, and the dataset is not finished.
    """
    # looked for again: another run may have ended while this one waited
    dataset = find_dataset(checked.dataset_url, checked.recipe, checked.model_digest)
    if dataset is None:
        ingest_corpus(checked, lease)
        return plan_dataset(checked, lease), ""
    lease.require()
    complete_group(dataset)
    missing = dataset.missing_shards()
    if not missing or _published_without(dataset, missing):
        return grow_dataset(checked, dataset, lease, retry_rejects)
    if retry_rejects:
        raise InvalidInputError(
            f"{dataset.location.url} is not finished yet; run without --retry-rejects first, then with it."
        )
    return dataset, ""


def _published_without(dataset: Dataset, missing: Sequence[int]) -> bool:
    """Tell whether the gates have let a version of this listing pass that lacks the very shards that are missing.

    These failed on several workers: they are tried again, and must not keep what is new in the corpus waiting.
    """
    number = max(list_versions(dataset.location), default=0)
    if not number:
        return False
    version = read_version(dataset.location, number)
    present = {shard.shard for shard in version.shards}
    return (
        version.listing == dataset.listings
        and present.isdisjoint(missing)
        and (len(present) + len(missing) == dataset.shard_count)
    )


@task(name="ingest", cache_policy=NO_CACHE, persist_result=False)
def ingest_corpus(checked: Checked, lease: Lease) -> None:
    """Read every file of the corpus once and keep the index, unless a stopped run has done so."""
    url = checked.dataset_url
    if has_index(url, checked.recipe):
        get_run_logger().info("The corpus was read by a run that was stopped")
        clear_parts(url)  # it may have been stopped just before it did
        return
    done = ingest(url, checked.recipe, on_workers(url, lease.token), lambda files: report_progress("ingest", files, 0))
    report_progress("ingest", done.files, done.files)
    get_run_logger().info("%d files listed, %d of them refused", done.files, sum(done.rejected.values()))


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def plan_dataset(checked: Checked, lease: Lease) -> Dataset:
    """Plan every sample and, when the plan is whole, make the dataset's group: from here on a run can go on."""
    url, recipe = checked.dataset_url, checked.recipe
    lease.require()
    plan = plan_shards(index_batches(url), recipe)
    summary = write_plan(url, (_with_profile_names(shard, checked.profiles) for shard in plan))
    get_run_logger().info("%d samples in %d shards planned", summary.samples, summary.shards)
    profiles = list(checked.profiles.values())
    objects = index_digest(url) | dict(summary.objects)
    lease.require()
    return create_or_open(url, recipe, checked.model_digest, profiles, summary.samples, objects)


@task(name="grow", cache_policy=NO_CACHE, persist_result=False)
def grow_dataset(checked: Checked, dataset: Dataset, lease: Lease, retry_rejects: bool) -> tuple[Dataset, str]:
    """List the corpus again, or try its rejects again, and plan what is new; gives the dataset and what changed."""
    listing = pending_listing(dataset)
    if listing is None and retry_rejects:
        listing = read_rejects(dataset, lambda done, total: report_progress("retry", done, total))
    elif listing is None and (changes := find_changes(dataset)):
        total = len(changes.fresh)
        listing = read_changes(
            dataset,
            changes,
            on_workers(dataset.location.url, lease.token),
            lambda done: report_progress("ingest", done, max(done, total)),
        )
    if listing is None or not listing.rows.num_rows:
        clear_parts(dataset.location)
        said = "no reject can be used now" if retry_rejects else "nothing is new in the corpus"
        get_run_logger().info("%s", said.capitalize())
        return dataset, said
    lease.require()
    write_listing(dataset, listing)
    plan = (_with_profile_names(shard, checked.profiles) for shard in plan_growth(dataset, listing))
    lease.require()
    summary = write_plan(dataset.location, plan)
    lease.require()
    objects = listing_digest(dataset, dataset.listings + 1) | dict(summary.objects)
    grown = grow(dataset, summary.samples, objects)
    said = _changes_in_words(listing, summary)
    get_run_logger().info("%s", said)
    return grown, said


@task(name="evaluate", cache_policy=NO_CACHE, persist_result=False)
def evaluate(
    dataset: Dataset, index: pa.Table, gates: Gates, shards: Sequence[int], set_aside: Mapping[int, str] | None = None
) -> Quality:
    """Gather the quality of committed shards, show it, and hold it against the gates of this run's recipe."""
    quality = measure_quality(dataset, index, shards)
    url = dataset.location.url
    missing = Missing(set_aside or {}, dataset.shard_count)
    checks = check_gates(quality, gates, missing)
    leave_quality(url, quality)
    leave_gates(url, checks)
    leave_rejects(url, rejects_of(quality, index), quality.sources)
    if quality.samples.num_rows:
        chosen = choose_rows(candidates(quality.samples), _PICTURED_SAMPLES)
        leave_contact_sheet(url, triptychs(dataset, chosen))
    _log_quality(quality, checks)
    require_gates(quality, gates, missing)
    return quality


def _log_quality(quality: Quality, checks: Sequence[GateCheck]) -> None:
    said, rejects = get_run_logger().info, quality.rejected_sources
    reasons = ", ".join(f"{reason} {count}" for reason, count in rejects.items()) or "none"
    said("%d of %d files rejected: %s", sum(rejects.values()), quality.sources, reasons)
    for each in quality.distributions:
        said("%s of %d samples: mean %s", each.measure.title, each.values.size, figure(each.mean, each.measure.unit))
    for gate in checks:
        said("Gate %s %s: %s (%s)", gate.gate, "holds" if gate.passed else "FAILS", gate.wanted, gate.found)


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish_dataset(
    dataset: Dataset, quality: Quality, index: pa.Table, recipe: Recipe, shards: Sequence[int], tag: str | None
) -> tuple[int, str]:
    """Publish a version unless the latest one holds the same, and write its report; number and report's place."""
    labels = None if recipe.annotations is None else _annotate(dataset, index, recipe.annotations)
    number = publish(dataset, tag, gone_sources(dataset), labels, shards)
    get_run_logger().info("Version %d published", number)
    report_url = write_report(dataset, number, quality, index, recipe.gates)
    leave_report(dataset.location.url, report_url, number)
    get_run_logger().info("Report: %s", report_url)
    return number, report_url


def _annotate(dataset: Dataset, index: pa.Table, source: AnnotationSource) -> str:
    """Make labels of the photographs' annotations and store them; gives the digest to publish them by."""
    said, found = get_run_logger().info, annotate(dataset, index, source)
    said("%d objects in samples of %d annotated photographs", found.objects, found.photographs)
    for reason, count in found.left_out.items():
        said("Annotations left out: %d, %s", count, reason)
    return keep_annotations(dataset, found.labels)


def _with_profile_names(plan: pa.Table, profiles: Mapping[str, SensorProfile]) -> pa.Table:
    """Replace a profile's file name, which only this machine may know, by the name the dataset keeps it under."""
    column = plan.schema.get_field_index("camera")
    names = [profiles[camera].name for camera in plan["camera"].to_pylist()]
    return plan.set_column(column, plan.schema.field("camera"), pa.array(names))


def _changes_in_words(listing: Listing, summary: PlanSummary) -> str:
    reasons = listing.rows["reject_reason"].to_pylist()
    gone, usable = reasons.count(REMOVED), reasons.count(None) - listing.known
    duplicates = reasons.count("duplicate")
    counts = {"new": usable, "new but known by their bytes": duplicates, "removed": gone}
    if listing.retry:
        counts = {"usable now": usable}
    counts["rejected"] = len(reasons) - gone - usable - duplicates - listing.known
    files = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"files of the corpus: {files}; {summary.samples} new samples"


def _result(
    dataset: Dataset,
    quality: Quality,
    published: tuple[int, str],
    work: Synthesis,
    seconds: float = 0.0,
    changes: str = "",
) -> FactoryResult:
    run_id = prefect.runtime.flow_run.id
    return FactoryResult(
        dataset_url=dataset.location.url,
        version=published[0],
        report_url=published[1],
        samples=quality.samples.num_rows,
        shards_made=work.shards,
        shards_found=dataset.shard_count - work.shards - len(work.set_aside),
        rejected_sources=dict(quality.rejected_sources),
        sources=quality.sources,
        quality=quality.means,
        pixels=work.pixels,
        seconds=seconds,
        flow_run_id=str(run_id) if run_id else None,
        changes=changes,
        set_aside=tuple(each.shard for each in work.set_aside),
    )


def _summarise(result: FactoryResult) -> None:
    rate = result.pixels / 1e6 / result.seconds if result.seconds else 0.0
    facts = {
        "Dataset": f"`{result.dataset_url}`",
        "Version": str(result.version),
        "Report": f"[{plain(result.report_url)}](<{web_address(result.report_url)}>)",
        "Samples": str(result.samples),
        "Sources": f"{result.sources}, of which {sum(result.rejected_sources.values())} rejected",
        "Shards": f"{result.shards_made} made, {result.shards_found} found made",
        "Throughput": f"{rate:.2f} megapixels of RAW a second, all steps included"
        if result.shards_made
        else "nothing was left to make",
        "Wall time": f"{result.seconds:.1f} s",
    }
    if result.changes:
        facts["Corpus"] = result.changes
    if result.set_aside:
        facts["Set aside"] = f"shards {', '.join(map(str, result.set_aside))}: made by the next run, if it can"
    reading = reading_example(result.dataset_url, result.version)
    leave_summary(result.dataset_url, facts, result.rejected_sources, reading)
