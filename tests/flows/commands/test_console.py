"""What commands print while they work, where no bar can move: in the log of a nightly run."""

import pytest
from rich.console import Console

from flows.commands import console
from flows.commands.console import progress_bars, progress_lines


class Clock:
    """Time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_a_log_has_a_line_every_half_minute_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    listen = progress_lines()
    for done in range(101):
        listen("synthesize", done, 100)
        clock.now += 1
    listen("synthesize", 100, 100)
    assert capsys.readouterr().err.splitlines() == [
        "Making shards: 30 of 100, about 70 s left",
        "Making shards: 60 of 100, about 40 s left",
        "Making shards: 90 of 100, about 10 s left",
        "Making shards: 100 of 100",
    ]


def test_steps_have_lines_of_their_own_and_unknown_totals_are_not_guessed(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    listen = progress_lines()
    listen("ingest", 10, 0)
    clock.now += 31
    listen("ingest", 2500, 0)
    listen("verify", 1, 1)
    assert capsys.readouterr().err.splitlines() == ["Looking at the corpus: 2,500", "Checking: 1 of 1"]


def test_a_step_that_goes_on_where_it_was_counts_from_there(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    listen = progress_lines()
    listen("synthesize", 900, 1000)
    clock.now += 40
    listen("synthesize", 920, 1000)
    assert capsys.readouterr().err == "Making shards: 920 of 1,000, about 3 min left\n"


def test_without_a_terminal_bars_are_lines(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as listen:
        listen("export", 1, 2)
        clock.now += 1
        listen("export", 2, 2)
    assert capsys.readouterr().err == "Exporting: 2 of 2\n"


def test_a_dumb_terminal_has_lines(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console, "err", Console(stderr=True, force_terminal=True, _environ={"TERM": "dumb"}))
    with progress_bars() as listen:
        listen("export", 1, 2)
        clock.now += 31
        listen("export", 1, 2)
    assert capsys.readouterr().err == "Exporting: 1 of 2\n"
