"""Runs whose machine died: nobody reports their end, and a queue with a limit would count them for ever."""

from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.states import Crashed


@flow(
    name="lost-runs",
    persist_result=False,
    retries=3,
    retry_delay_seconds=20,
    description="Mark a run as crashed whose process has given no sign of life for ten minutes.",
)
def mark_lost(run: UUID) -> bool:
    """Mark a run as crashed, unless it has ended meanwhile.

    What it had made is kept, and its dataset's lease runs out by itself; people are told as of any other crash.

    Args:
        run: id of the flow run, which an automation of prefect.yaml gives.

    Returns:
        Whether it was marked.
    """
    with get_client(sync_client=True) as client:
        found = client.read_flow_run(run)
        if found.state is None or not found.state.is_running():
            get_run_logger().info("%s is not running any more.", found.name)
            return False
        said = (
            "Its process has given no sign of life for ten minutes: it or its machine died. Run it again; it goes on "
            "where it was."
        )
        client.set_flow_run_state(run, Crashed(message=said), force=True)
    get_run_logger().warning("%s was lost and is marked as crashed.", found.name)
    return True
