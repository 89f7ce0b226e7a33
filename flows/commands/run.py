"""Running the factory from the command line: checks first, then a Prefect server, a Dask cluster, and the flow."""

from collections.abc import Mapping
from dataclasses import dataclass

from flows.checks import check
from flows.cluster.credentials import use_configured_block
from flows.cluster.runner import build_runner, parse_cluster, require_cluster
from flows.commands.console import command, progress_bars, say, say_pairs
from flows.factory import FactoryResult, factory, finished
from flows.progress import listening
from flows.reports.quality import figure
from flows.servers.server import configured_api_url, prefect_server
from storage.datasets.lease import live_holder, require_writable
from storage.datasets.tags import check_tag, tag_version
from storage.recipe import Recipe


@dataclass(frozen=True)
class RunSettings:
    """How to run; none of it changes the bytes that are made.

    Attributes:
        cluster: ``local``, ``local:N``, ``cuda`` or a scheduler's address.
        in_flight: shards submitted at once; None for two per worker.
        keep_server: leave a Prefect server that was started running.
        wait: wait for another run on the dataset to end, instead of being refused.
        retry_rejects: try again what could not be used, and nothing else.
        tag: a name for the version that is published.
        shard_deadline_s: seconds after which a shard is made on another worker too; None for ten times the usual.
    """

    cluster: str
    in_flight: int | None = None
    keep_server: bool = False
    wait: bool = False
    retry_rejects: bool = False
    tag: str | None = None
    shard_deadline_s: float | None = None


@dataclass(frozen=True)
class FinishedRun:
    """What a run came to, and where a person sees it.

    Attributes:
        result: the factory's own account.
        ui: how to see the run in the Prefect UI, in words; None if nothing had to be run.
    """

    result: FactoryResult
    ui: str | None


def run_factory(recipe: Recipe, dataset_url: str, settings: RunSettings) -> FinishedRun:
    """Make a dataset, or find that it is made.

    Raises:
        AuraError: refused, in one sentence.
    """
    cluster = parse_cluster(settings.cluster)
    use_configured_block()
    checked = check(recipe, dataset_url)
    if settings.tag is not None:
        check_tag(checked.dataset_url, settings.tag)
    if not settings.retry_rejects and (done := finished(checked)):
        if settings.tag:
            tag_version(done.dataset_url, done.version, settings.tag)
        return FinishedRun(done, None)
    require_cluster(cluster)
    _require_turn(checked.dataset_url, wait=settings.wait)
    if configured_api_url() is None:
        say("Starting a local Prefect server ...")
    with prefect_server(keep=settings.keep_server) as server:
        say(f"Watch the run in the Prefect UI: {server.ui_url}")
        with progress_bars() as listener, listening(listener):
            flow = factory.with_options(task_runner=build_runner(cluster))
            result = flow(
                recipe=recipe,
                dataset=checked.dataset_url,
                in_flight=settings.in_flight,
                wait=settings.wait,
                retry_rejects=settings.retry_rejects,
                tag=settings.tag,
                shard_deadline_s=settings.shard_deadline_s,
            )
        stopped = server.pid is not None and not settings.keep_server
    page = f"/runs/flow-run/{result.flow_run_id}"
    ui = f"run '{command()} server', then open http://127.0.0.1:4200{page}" if stopped else server.ui_url + page
    return FinishedRun(result, ui)


def _require_turn(dataset_url: str, *, wait: bool) -> None:
    """Refuse what is another run's, or takes no writes, before a server is started; or say whom the run waits for."""
    if wait and (holder := live_holder(dataset_url)):
        say(f"Waiting for another run: {holder.words()}.")
        return
    require_writable(dataset_url, wait=wait)


def tell(run: FinishedRun) -> None:
    """Say what was made, how good it is, where it lies, and what to do next."""
    result = run.result
    rejected = sum(result.rejected_sources.values())
    reasons = ", ".join(f"{reason} {count}" for reason, count in result.rejected_sources.items())
    if run.ui is None:
        say(
            "Found finished: the corpus is as it was, and every sample of it is made and published; "
            "nothing was left to do."
        )
    else:
        rate = result.pixels / 1e6 / result.seconds if result.seconds else 0.0
        say(
            f"Done in {result.seconds:.0f} s: {result.shards_made} shard{'s' * (result.shards_made != 1)} made, "
            f"{result.shards_found} found made, {rate:.2f} megapixels of RAW a second."
        )
        if result.changes:
            say(f"{result.changes[0].upper()}{result.changes[1:]}.")
        if result.set_aside:
            shards = ", ".join(map(str, result.set_aside))
            say(f"Shards {shards} failed on several workers and are not in the version; the same command tries again.")
    report = result.report_url if "://" in result.report_url else f"file://{result.report_url}"
    pairs = {
        "dataset": f"{result.dataset_url} (version {result.version}, {result.samples} samples)",
        "sources": f"{result.sources}, {rejected} rejected" + (f": {reasons}" if reasons else ""),
        "quality": _psnr(result.quality),
        "report": report,
        "runs": run.ui or f"run '{command()} server', then open http://127.0.0.1:4200/runs",
        "next": f"{command()} inspect {result.dataset_url} --picture sheet.png",
    }
    say_pairs(pairs)


def _psnr(quality: Mapping[str, float]) -> str:
    matched, as_is = quality.get("cycle_psnr_matched_db"), quality.get("cycle_psnr_db")
    if matched is None or as_is is None:
        return "-"
    return f"cycle PSNR {figure(matched, 'dB')} tone matched, {figure(as_is, 'dB')} as is"
