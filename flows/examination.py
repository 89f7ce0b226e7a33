"""Looking at a dataset that is there: its quality against gates, and whether every byte is as it was written."""

import prefect.runtime
from prefect import flow, get_run_logger
from prefect.artifacts import create_table_artifact

from aura.errors import EmptyCorpusError, IntegrityError
from flows.cluster.credentials import use_configured_block
from flows.factory import evaluate
from flows.repair import repair as make_again
from flows.reports.artifacts import artifact_key
from flows.reports.step_progress import shown_in_the_ui
from flows.run_parameters import Place
from storage.datasets.dataset import open_dataset
from storage.datasets.history import current_index
from storage.datasets.lease import hold
from storage.datasets.survey import Problem
from storage.datasets.verification import Verification
from storage.datasets.verification import verify as verify_objects
from storage.objects.location import locate
from storage.recipe import Gates

_NAMED_PROBLEMS = 5


def _run_name() -> str:
    return f"{prefect.runtime.flow_run.flow_name} {locate(prefect.runtime.flow_run.parameters['dataset']).name}"


@flow(
    name="evaluate",
    flow_run_name=_run_name,
    persist_result=False,
    description="Measure what is made of a dataset, show it, and hold it against gates. Writes nothing.",
)
def evaluate_dataset(dataset: Place, gates: Gates | None = None) -> dict[str, float]:
    """Show the quality of a dataset, finished or not, and fail if a gate does.

    Args:
        dataset: a path or a URL. Credentials come from the environment, never from here.
        gates: what the dataset must reach; left out, those of the recipe that it was begun with.

    Returns:
        The mean of each measure, by its column.

    Raises:
        GateError: at least one gate failed; the message says which, and by how much.
        EmptyCorpusError: nothing is made yet.
        AuraError: there is no dataset, or the storage refuses.
    """
    use_configured_block()
    opened = open_dataset(dataset)
    shards = opened.committed_shards()
    if not shards:
        raise EmptyCorpusError(f"Nothing of {opened.location.url} is made yet; run its synthesis first.")
    get_run_logger().info("%d of %d shards are made", len(shards), opened.shard_count)
    quality = evaluate(opened, current_index(opened), gates or opened.recipe.gates, shards)
    return quality.means


@flow(
    name="verify",
    flow_run_name=_run_name,
    persist_result=False,
    description="Read every byte of a dataset and compare it with what was written; on demand, mend what is damaged.",
)
def verify_dataset(dataset: Place, repair: bool = False, weights: str | None = None) -> int:
    """Check every byte of a dataset: digests, counts, and objects that belong to nothing.

    Args:
        dataset: a path or a URL. Credentials come from the environment, never from here.
        repair: make exactly the damaged shards again, by the recipe, and check again.
        weights: where the weights of the dataset lie, if they are not the released ones.

    Returns:
        How many objects were read.

    Raises:
        IntegrityError: something is wrong, or could not be mended; the artifact names everything.
        AuraError: there is no dataset, or the storage refuses.
    """
    use_configured_block()
    with shown_in_the_ui(dataset) as show:
        seen = verify_objects(dataset, lambda done, total: show("verify", done, total))
        if repair and seen.problems:
            _mend(seen, weights)
            seen = verify_objects(dataset, lambda done, total: show("check-again", done, total))
    _leave(seen)
    if seen.problems:
        raise IntegrityError(_said(seen, repaired=repair))
    return seen.objects


def _mend(seen: Verification, weights: str | None) -> None:
    log = get_run_logger()
    with hold(seen.dataset.location) as lease:
        done = make_again(seen, lease, weights)
    log.info("%d shards made again, %d metadata objects restored", len(done.shards), len(done.restored))
    for shard, reason in done.failures.items():
        log.error("Shard %d: %s", shard, reason)


def _leave(seen: Verification) -> None:
    url = seen.dataset.location.url
    rows = [{"object": problem.name, "problem": problem.what, "mends": _cure(problem)} for problem in seen.problems]
    rows += [{"object": name, "problem": "left by a stopped run", "mends": "aura gc"} for name in seen.leftovers]
    create_table_artifact(
        table=rows or [{"object": "all", "problem": "none", "mends": "-"}],
        key=artifact_key("verify", url),
        description=f"{seen.objects} objects of {url} read, {seen.size_bytes / 1e6:,.1f} MB: {len(seen.problems)} are "
        f"not as they should be; {seen.missing_shards} planned shards are not made yet.",
    )
    get_run_logger().info("%d objects read, %d problems", seen.objects, len(seen.problems))


def _cure(problem: Problem) -> str:
    return "repair" if problem.shard is not None or problem.restorable else "a copy, or its removal"


def _said(seen: Verification, *, repaired: bool) -> str:
    named = "; ".join(f"{problem.name} {problem.what}" for problem in seen.problems[:_NAMED_PROBLEMS])
    advice = "restore these from a copy" if repaired else "run again with repair"
    return (
        f"{len(seen.problems)} of {seen.objects} objects of {seen.dataset.location.url} are not as they should be "
        f"({named}{'; ...' if len(seen.problems) > _NAMED_PROBLEMS else ''}); {advice}."
    )
