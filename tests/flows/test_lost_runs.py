"""A run whose process is gone is marked as crashed, once, and no run that has ended."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events import emit_event
from prefect.states import AwaitingRetry, Completed, Pending, Running, State

from flows.lost_runs import TAG, mark_lost
from flows.servers.server import Server
from tests.conftest import wait_until
from tests.flows.conftest import ask

HEARTBEAT = "prefect.flow-run.heartbeat"


@flow
def abandoned() -> None:
    """Of which there is a run that nobody carries out."""


def begun(state: State, *tags: str) -> UUID:
    with get_client(sync_client=True) as client:
        return client.create_flow_run(abandoned, state=state, tags=tags).id


def test_a_lost_run_is_marked_as_crashed_with_what_to_do(server: Server) -> None:
    run = begun(Running())
    assert mark_lost(run)
    state = ask(server, "GET", f"flow_runs/{run}").json()["state"]
    assert state["type"] == "CRASHED"
    assert "Run it again" in state["message"]
    assert not mark_lost(run)


def test_a_run_that_was_lost_before_it_began_or_while_it_was_cancelled_ends(server: Server) -> None:
    """Else it would count in its queue for ever; of what a person cancelled nobody need be told."""
    for state, end in ((Pending(), "CRASHED"), (State(type=StateType.CANCELLING), "CANCELLED")):
        run = begun(state)
        assert mark_lost(run)
        assert ask(server, "GET", f"flow_runs/{run}").json()["state"]["type"] == end


def test_a_run_that_waits_for_its_next_attempt_has_no_process_to_lose(server: Server) -> None:
    run = begun(AwaitingRetry())
    assert not mark_lost(run)
    assert ask(server, "GET", f"flow_runs/{run}").json()["state"]["type"] == "SCHEDULED"


def test_silent_runs_are_found_and_living_ones_left_alone(server: Server) -> None:
    lost, living, of_others = begun(Running(), TAG), begun(Running(), TAG), begun(Running(), "another")
    resource = {"prefect.resource.id": f"prefect.flow-run.{living}"}
    emit_event(HEARTBEAT, resource, occurred=datetime.now(UTC) + timedelta(minutes=1))  # its clock is ahead
    heard = {"filter": {"event": {"name": [HEARTBEAT]}, "resource": {"id": list(resource.values())},
                        "occurred": {"until": "2999-01-01T00:00:00Z"}}}  # fmt: skip
    wait_until(lambda: ask(server, "POST", "events/filter", heard).json()["total"], "the heartbeat", 60)
    assert mark_lost(silent_s=3600) == 0
    assert mark_lost(silent_s=0) == 1
    states = [ask(server, "GET", f"flow_runs/{run}").json()["state"]["type"] for run in (lost, living, of_others)]
    assert states == ["CRASHED", "RUNNING", "RUNNING"]


def test_a_run_that_has_ended_meanwhile_is_left_as_it_is(server: Server) -> None:
    run = begun(Completed())
    assert not mark_lost(run)
    assert ask(server, "GET", f"flow_runs/{run}").json()["state"]["type"] == "COMPLETED"
