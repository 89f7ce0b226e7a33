"""Runs whose machine died: nobody reports their end, and a queue with a limit would count them for ever."""

from typing import Final
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed

_HAS_A_PROCESS: Final = frozenset({StateType.PENDING, StateType.RUNNING, StateType.CANCELLING})
"""States of a run that a worker has begun with; one that waits for a retry, or for a person, needs no process."""


@flow(
    name="lost-runs",
    persist_result=False,
    retries=3,
    retry_delay_seconds=20,
    description="Mark a run as crashed whose process has given no sign of life for ten minutes.",
)
def mark_lost(run: UUID) -> bool:
    """Mark a run as crashed, or as cancelled if it was to be, unless it has ended meanwhile.

    What it had made is kept, and its dataset's lease runs out by itself; people are told as of any other crash.

    Args:
        run: id of the flow run, which an automation of prefect.yaml gives.

    Returns:
        Whether it was marked.
    """
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(run)
        if found.state is None or found.state.type not in _HAS_A_PROCESS:
            get_run_logger().info("%s is not running any more.", found.name)
            return False
        said = (
            "Its process has given no sign of life for ten minutes: it or its machine died. Run it again; it goes on "
            "where it was."
        )
        cancelling = found.state.type == StateType.CANCELLING
        end: State = Cancelled(message=said) if cancelling else Crashed(message=said)
        client.set_flow_run_state(run, end, force=True)
    get_run_logger().warning("%s was lost and is marked as %s.", found.name, end.type.value.lower())
    return True
