"""Progress of a flow's steps as bars in the Prefect UI."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact

from flows.interruption import held_back
from flows.progress import Listener, current_listener, listening
from flows.reports.artifacts import artifact_key

_UPDATE_EVERY_S: Final = 1.0


@contextmanager
def shown_in_the_ui(name: str) -> Iterator[Listener]:
    """Show what is reported within the block as a bar for each step, beside telling whoever listens already.

    Args:
        name: what the run is about: a dataset's URL, or a folder; the bars are named after it.

    Yields:
        A listener, for steps that do not report by :func:`flows.progress.report`.
    """
    bars: dict[str, tuple[UUID, float]] = {}
    also = current_listener()

    def show(step: str, done: int, total: int) -> None:
        if also is not None:
            also(step, done, total)
        percent = 100.0 * done / total if total else 0.0
        said = f"{step}: {done} of {total}" if total else f"{step}: {done}"
        with held_back():
            if step not in bars:
                artifact = create_progress_artifact(
                    percent, key=artifact_key(f"progress-{step}", name), description=said
                )
                bars[step] = (artifact, time.monotonic())  # type: ignore[assignment]  # synchronous here: gives the id
            elif done == total or time.monotonic() - bars[step][1] > _UPDATE_EVERY_S:
                bars[step] = (bars[step][0], time.monotonic())
                update_progress_artifact(bars[step][0], progress=percent, description=said)

    with listening(show):
        yield show
