"""Telling people that a run failed: what an automation of prefect.yaml runs when a gate, or anything else, fails."""

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Final
from uuid import UUID

import httpx
from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.exceptions import PrefectException

from aura.errors import AuraError, InvalidInputError
from flows.servers.server import configured_api_url, ui_url_of

WEBHOOK_VARIABLE: Final = "AURA_WEBHOOK_URL"
"""Environment variable of the worker: where to post. The address is a secret in itself, so it is no parameter."""
_TIMEOUT_S: Final = 15.0


class NotificationError(AuraError, ConnectionError):
    """The webhook did not take the message."""


@flow(
    name="notify",
    persist_result=False,
    retries=3,
    retry_delay_seconds=20,
    description="Post what happened to the webhook that AURA_WEBHOOK_URL names: Slack, Mattermost, or anything else.",
)
def notify(subject: str, message: str, page: str = "") -> None:
    """Post ``{"text", "subject", "message", "link"}`` as JSON; without a webhook, leave it in the log of this run.

    Who cancels a run need not be told that it ended, which its process may yet report as a crash.

    Args:
        subject: which run it is about.
        message: what happened, and what to do.
        page: where to look: path of a page of the Prefect UI, such as ``runs/flow-run/...``.

    Raises:
        InvalidInputError: the webhook is no http address.
        NotificationError: it did not take the message.
    """
    if _was_cancelled(page):
        get_run_logger().info("%s was cancelled, so nobody is told that it ended.", subject)
        return
    link = f"{ui_url_of(configured_api_url() or '')}/{page}" if page else ""
    text = "\n".join(part for part in (f"*{subject}*", message, link) if part)
    address = os.environ.get(WEBHOOK_VARIABLE)
    if not address:
        get_run_logger().warning("%s is not set, so nobody is told: %s", WEBHOOK_VARIABLE, text)
        return
    if not address.startswith(("https://", "http://")):
        raise InvalidInputError(f"{WEBHOOK_VARIABLE} is no http or https address; its value is kept out of this log.")
    content = {"text": text, "subject": subject, "message": message, "link": link}
    try:
        with _unsaid("httpx"):
            answer = httpx.post(address, json=content, timeout=_TIMEOUT_S)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise NotificationError(f"The webhook does not answer ({type(error).__name__}).") from None
    if answer.is_error:  # not raise_for_status: that would put the address into the log
        raise NotificationError(f"The webhook refused the message with status {answer.status_code}.")
    get_run_logger().info("Told: %s", subject)


@contextlib.contextmanager
def _unsaid(library: str) -> Iterator[None]:
    """Keep a library from logging each address that it asks, where somebody has its log at INFO."""
    logger = logging.getLogger(library)
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _was_cancelled(page: str) -> bool:
    kind, _, run = page.removeprefix("runs/").partition("/")
    if kind != "flow-run":
        return False
    try:
        with get_client(sync_client=True) as client:
            states = client.read_flow_run_states(UUID(run))
    except (ValueError, httpx.HTTPError, PrefectException):  # rather tell once too often
        return False
    return any(state.type in {StateType.CANCELLING, StateType.CANCELLED} for state in states)
