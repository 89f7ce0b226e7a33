"""What the command line prints: sentences, progress bars with a time of arrival, and figures in tables."""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from flows.progress import duration

_PIPED_COLUMNS = 120  # a file or pipe has no width of its own, and 80 columns would break the tables

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_COLUMNS)
err = Console(stderr=True, highlight=False)

_LINE_EVERY_S = 30.0

_TITLES = {
    "ingest": "Looking at the corpus",
    "synthesize": "Making shards",
    "verify": "Checking",
    "retry": "Trying rejects again",
    "reconstruct": "Reconstructing",
    "export": "Exporting",
    "read": "Reading",
}


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each step that reports progress, or in a log lines; gives the listener to report to."""
    if not shows_bars():
        yield progress_lines()
        return
    columns = (
        SpinnerColumn(finished_text="✓"),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err) as progress:
        bars = {}

        def listen(step: str, done: int, total: int) -> None:
            if step not in bars:
                bars[step] = progress.add_task(_TITLES.get(step, step), total=total or None)
            progress.update(bars[step], completed=done, total=total or None)

        yield listen


def shows_bars() -> bool:
    """Tell whether a bar can move: not in a log, nor on a terminal that says it is dumb."""
    return err.is_interactive


def progress_lines() -> Callable[[str, int, int], None]:
    """Give a listener for where no bar can move: it prints a line now and then, and one when a step has ended."""
    due = line_due()
    began: dict[str, tuple[float, int]] = {}

    def listen(step: str, done: int, total: int) -> None:
        now = time.monotonic()
        since, before = began.setdefault(step, (now, done))
        if not due(step, ended=0 < total <= done):
            return
        said = f"{_TITLES.get(step, step)}: {done:,}" + (f" of {total:,}" if total else "")
        if before < done < total:
            said += f", about {duration((total - done) * (now - since) / (done - before))} left"
        err.print(said, markup=False, soft_wrap=True)

    return listen


class LineDue(Protocol):
    """Whether a step's progress shall be printed now."""

    def __call__(self, step: str, *, ended: bool) -> bool:
        """Answer it, and count a line as printed."""


def line_due() -> LineDue:
    """Give a rule for logs: each step's end once, and before it a line every half minute."""
    last: dict[str, float] = {}
    over: set[str] = set()

    def due(step: str, *, ended: bool) -> bool:
        now = time.monotonic()
        if step in over or (not ended and now - last.setdefault(step, now) < _LINE_EVERY_S):
            return False
        last[step] = now
        if ended:
            over.add(step)
        return True

    return due


def quiet(*, verbose: bool) -> None:
    """Leave the console to the command's own words; runs' logs are in the Prefect UI. Comes before Prefect's import."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if not verbose:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def command() -> str:
    """Return how a person calls this program from where they are: by name if the shell finds it, else by its path."""
    if shutil.which("aura"):
        return "aura"
    path = Path(sys.executable).parent / "aura"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def say(text: str) -> None:
    """Print a line as it is: no markup, since paths and file names may hold brackets; no wrapping of addresses."""
    out.print(text, markup=False, soft_wrap=True)


def refuse(text: str) -> None:
    """Print one sentence of refusal on standard error."""
    err.print(text, markup=False, soft_wrap=True, style="red")


def say_pairs(pairs: Mapping[str, str]) -> None:
    """Print titles and values in two columns."""
    width = max(map(len, pairs), default=0)
    for title, value in pairs.items():
        say(f"  {title:<{width}}  {value}")


def say_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; all columns but the first are aligned right."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=not place)
    for row in rows:
        table.add_row(*row)
    out.print(table, markup=False)
