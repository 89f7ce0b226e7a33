"""Runs whose machine died: nobody reports their end, and a queue with a limit would count them for ever."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.events.filters import EventFilter, EventNameFilter, EventOccurredFilter, EventResourceFilter
from prefect.states import Cancelled, Crashed
from pydantic import Field

TAG: Final = "aura"
"""Of the runs that are looked after: those of prefect.yaml's deployments that have it."""
_HAS_A_PROCESS: Final = frozenset({StateType.PENDING, StateType.RUNNING, StateType.CANCELLING})
"""States of a run that a worker has begun with; one that waits for a retry, or for a person, needs no process."""
_AT_ONCE: Final = 200


@flow(
    name="lost-runs",
    persist_result=False,
    retries=3,
    retry_delay_seconds=20,
    description="Mark runs as crashed whose process has given no sign of life for ten minutes.",
)
def mark_lost(run: UUID | None = None, silent_s: Annotated[float, Field(ge=0)] = 600) -> int:
    """Mark runs as crashed, or as cancelled if they were to be, unless they have ended meanwhile.

    What they had made is kept, and their datasets' leases run out by themselves; people are told as of any other crash.

    Args:
        run: id of the flow run that the automation of prefect.yaml has seen fall silent; None looks for all that are,
            for the automation forgets what it was watching when prefect.yaml is deployed again.
        silent_s: without that, how long a run has given no sign of life that is looked for.

    Returns:
        Number of runs that were marked.
    """
    with get_client(sync_client=True) as client:
        found = list(_silent(client, timedelta(seconds=silent_s))) if run is None else [client.read_flow_run(run)]
        return sum(_mark(client, each) for each in found)


def _silent(client: SyncPrefectClient, silence: timedelta) -> Iterator[FlowRun]:
    """Look for runs that began with a worker, and have sent no heartbeat since."""
    since = datetime.now(UTC) - silence
    wanted = {"tags": {"all_": [TAG]}, "state": {"type": {"any_": sorted(_HAS_A_PROCESS)}}}
    for each in client.read_flow_runs(flow_run_filter=FlowRunFilter.model_validate(wanted), limit=_AT_ONCE):
        if each.state is not None and each.state.timestamp < since and not _heartbeats(client, each.id, since):
            yield each


def _heartbeats(client: SyncPrefectClient, run: UUID, since: datetime) -> int:
    heard = EventFilter(
        occurred=EventOccurredFilter(since=since, until=datetime.max.replace(tzinfo=UTC)),
        event=EventNameFilter(name=["prefect.flow-run.heartbeat"]),
        resource=EventResourceFilter(id=[f"prefect.flow-run.{run}"]),
    )
    return client.read_events(heard, limit=1).total


def _mark(client: SyncPrefectClient, found: FlowRun) -> bool:
    if found.state is None or found.state.type not in _HAS_A_PROCESS:
        get_run_logger().info("%s is not running any more.", found.name)
        return False
    said = (
        "Its process has given no sign of life for ten minutes: it or its machine died. Run it again; it goes on "
        "where it was."
    )
    cancelling = found.state.type == StateType.CANCELLING
    end: State = Cancelled(message=said) if cancelling else Crashed(message=said)
    client.set_flow_run_state(found.id, end, force=True)
    get_run_logger().warning("%s was lost and is marked as %s.", found.name, end.type.value.lower())
    return True
