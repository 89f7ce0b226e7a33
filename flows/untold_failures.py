"""Failures of which nobody was told: the server was restarted just then, or the webhook was down for hours."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from pydantic import Field

from flows.lost_runs import TAG

_NOTIFY: Final = "notify/on-failure"
_FAILED: Final = (StateType.FAILED, StateType.CRASHED)
_LOOK_BACK: Final = timedelta(days=1)
_AT_ONCE: Final = 200


@flow(
    name="untold-failures",
    persist_result=False,
    retries=3,
    retry_delay_seconds=20,
    description="Tell people of runs that failed in the last day, and of which no message came through.",
)
def tell_untold(patience_s: Annotated[float, Field(ge=0)] = 600) -> int:
    """Start the message again for each run that failed and of which nobody was told, or is about to be.

    An automation is told of a failure once, in the memory of Prefect's server; this looks at what came of it.

    Args:
        patience_s: how long ago a run has failed that is looked for; its automation is given that time.

    Returns:
        Number of messages that were started.
    """
    now = datetime.now(UTC)
    since, until = (now - _LOOK_BACK).isoformat(), (now - timedelta(seconds=patience_s)).isoformat()
    failed = {
        "tags": {"all_": [TAG]},
        "state": {"type": {"any_": _FAILED}},
        "end_time": {"after_": since, "before_": until},
    }
    with get_client(sync_client=True) as client:
        deployment = client.read_deployment_by_name(_NOTIFY)
        messages = {"deployment_id": {"any_": [deployment.id]}, "expected_start_time": {"after_": since}}
        told, in_vain = set(), Counter[str]()
        for message in _runs(client, messages):
            page = str(message.parameters.get("page"))
            if message.state_type in _FAILED:
                in_vain[page] += 1
            else:
                told.add(page)
        untold = [run for run in _runs(client, failed) if _page(run) not in told]
        for run in untold:
            client.create_flow_run_from_deployment(
                deployment.id,
                parameters={
                    "subject": run.name,
                    "message": (run.state and run.state.message) or "It failed, and did not say why.",
                    "page": _page(run),
                },
                idempotency_key=f"{_page(run)}, {in_vain[_page(run)]} in vain",  # whoever else looks just now
            )
            get_run_logger().warning("Nobody was told yet that %s failed.", run.name)
    return len(untold)


def _page(run: FlowRun) -> str:
    """Page of a run in the UI, as the automation of prefect.yaml has it."""
    return f"runs/flow-run/{run.id}"


def _runs(client: SyncPrefectClient, wanted: dict[str, Any]) -> Iterator[FlowRun]:
    chosen, offset = FlowRunFilter.model_validate(wanted), 0
    while found := client.read_flow_runs(
        flow_run_filter=chosen, sort=FlowRunSort.ID_DESC, limit=_AT_ONCE, offset=offset
    ):
        yield from found
        offset += len(found)
