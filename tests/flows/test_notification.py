"""What telling people must not tell: the webhook's address is a secret in itself."""

import logging
import socket
from collections.abc import Iterator

import pytest
from prefect.client.orchestration import get_client
from prefect.states import Cancelling, Crashed

from aura.errors import InvalidInputError
from flows.notification import WEBHOOK_VARIABLE, NotificationError, notify
from flows.servers.server import Server
from tests.flows.conftest import ask

SECRET = "hooks/T0-secret"


@pytest.fixture
def told(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What flows log; libraries that ran before may have raised the handlers' level."""
    with caplog.at_level(logging.INFO):
        yield caplog


def test_a_webhook_that_fails_is_not_named(
    server: Server, monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    once = notify.with_options(retries=0)
    message = {"subject": "a run", "message": "a gate failed"}
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    once(**message)
    assert "nobody is told" in told.text
    monkeypatch.setenv(WEBHOOK_VARIABLE, f"{server.api_url}/{SECRET}")
    with pytest.raises(NotificationError, match="status 404"):
        once(**message)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv(WEBHOOK_VARIABLE, f"http://127.0.0.1:{unused.getsockname()[1]}/{SECRET}")
        with pytest.raises(NotificationError, match="does not answer"):
            once(**message)
    monkeypatch.setenv(WEBHOOK_VARIABLE, f"{SECRET}:no-address")
    with pytest.raises(InvalidInputError, match=WEBHOOK_VARIABLE):
        once(**message)
    said = [ask(server, "POST", f"{what}/filter", {}).text for what in ("flow_runs", "logs")]
    assert not [text for text in (*said, told.text) if SECRET in text]


@pytest.mark.usefixtures("server")
def test_who_cancelled_a_run_is_not_told_that_its_process_was_ended(
    monkeypatch: pytest.MonkeyPatch, told: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv(WEBHOOK_VARIABLE, raising=False)
    with get_client(sync_client=True) as client:
        for states, expected in (((Cancelling, Crashed), False), ((Crashed,), True)):
            run = client.create_flow_run(notify, parameters={"subject": "a", "message": "b"}).id
            for state in states:
                client.set_flow_run_state(run, state(), force=True)
            told.clear()
            notify("night", "Execution was aborted by a termination signal.", f"runs/flow-run/{run}")
            assert ("nobody is told: *night*" in told.text) == expected
            assert ("night was cancelled" in told.text) == (not expected)
