"""A run whose process is gone is marked as crashed, once, and no run that has ended."""

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.states import AwaitingRetry, Completed, Pending, Running, State

from flows.lost_runs import mark_lost
from flows.servers.server import Server
from tests.flows.conftest import ask


@flow
def abandoned() -> None:
    """Of which there is a run that nobody carries out."""


def begun(state: State) -> str:
    with get_client(sync_client=True) as client:
        return str(client.create_flow_run(abandoned, state=state).id)


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


def test_a_run_that_has_ended_meanwhile_is_left_as_it_is(server: Server) -> None:
    run = begun(Completed())
    assert not mark_lost(run)
    assert ask(server, "GET", f"flow_runs/{run}").json()["state"]["type"] == "COMPLETED"
