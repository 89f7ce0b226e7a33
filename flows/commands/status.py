"""How far a dataset is, in words: for a person, for a script, and again and again."""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from rich.live import Live
from rich.text import Text

from flows.commands.console import command, out, say
from flows.progress import duration
from storage.datasets.status import RunStatus, Status, read_status

_WATCH_EVERY_S = 5.0
_REASONS = 6
_BAR_COLUMNS = 50
_TIMES = {"asked", "last_commit", "since", "heartbeat", "published"}


def show_status(dataset: str) -> None:
    """Print how far a dataset is.

    Raises:
        MissingFileError: there is neither a dataset nor the beginning of one.
        StorageError: the storage refused.
    """
    say(_page(read_status(dataset)))


def watch_status(dataset: str) -> None:
    """Show how far a dataset is, anew every few seconds, until no run is on.

    Raises:
        MissingFileError: there is neither a dataset nor the beginning of one.
        StorageError: the storage refused.
    """
    status = read_status(dataset)
    with Live(Text(_page(status)), console=out, auto_refresh=False) as live:
        while status.run is not None and status.run.alive:
            time.sleep(_WATCH_EVERY_S)  # the store tells nobody that it changed
            status = read_status(dataset)
            live.update(Text(_page(status)), refresh=True)


def status_json(dataset: str) -> str:
    """Return how far a dataset is as JSON: times in ISO 8601, durations in seconds.

    Raises:
        MissingFileError: there is neither a dataset nor the beginning of one.
        StorageError: the storage refused.
    """
    return json.dumps(_with_times(asdict(read_status(dataset))), indent=1)


def _with_times(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: _with_times(value)
        if name in {"run", "version"} and value is not None
        else datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
        if name in _TIMES and value is not None
        else value
        for name, value in values.items()
    }


def _page(status: Status) -> str:
    facts = _facts(status)
    width = max(map(len, facts))
    lines = [f"{status.dataset_url}: {_headline(status)}"]
    if status.shards:
        filled = _BAR_COLUMNS * status.shards_made // status.shards
        lines.append(f"  {'█' * filled}{'░' * (_BAR_COLUMNS - filled)} {status.shards_made / status.shards:.1%}")
    return "\n".join([*lines, *(f"  {title:<{width}}  {value}" for title, value in facts.items())])


def _headline(status: Status) -> str:
    alive = status.run is not None and status.run.alive
    if status.stage == "finished":
        return "finished"
    if alive:
        return f"{status.stage}"
    died = "the run died" if status.run else "no run is on"
    return f"not finished, {died} ({status.stage})"


def _facts(status: Status) -> dict[str, str]:
    facts = {"run": _run_in_words(status.run, status.asked)}
    if status.shards is None:
        facts["corpus"] = _reading_in_words(status)
    else:
        facts["shards"] = f"{status.shards_made} of {status.shards} made"
        made = "not counted" if status.samples_made is None else str(status.samples_made)
        facts["samples"] = f"{made} made of {status.samples} planned"
        facts["corpus"] = f"{status.files} photographs in {status.corpus}"
    if status.last_commit is not None:
        facts["last shard"] = f"{duration(status.asked - status.last_commit)} ago"
    if status.shards_per_hour is not None:
        facts["pace"] = f"{status.shards_per_hour:,.0f} shards an hour"
    if status.seconds_left is not None and status.stage == "making shards":
        facts["time left"] = duration(status.seconds_left)
    facts["rejected files"] = _reasons(status.rejected_files)
    if status.shards is not None:
        more = f"; {status.rejects_unread} more shards have some" if status.rejects_unread else ""
        facts["rejected samples"] = _reasons(status.rejected_samples) + more
    if status.version is not None:
        tags = f" ({', '.join(status.version.tags)})" if status.version.tags else ""
        when = duration(status.asked - status.version.published)
        facts["version"] = f"{status.version.number}{tags}, {status.version.samples} samples, published {when} ago"
    else:
        facts["version"] = "none published yet"
    facts["next"] = _next(status)
    return facts


def _reading_in_words(status: Status) -> str:
    if status.files is not None:
        return f"{status.files} photographs read; the samples are being planned"
    return f"being read, {status.parts_read} parts so far"


def _run_in_words(run: RunStatus | None, now: float) -> str:
    if run is None:
        return "none"
    since = datetime.fromtimestamp(run.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    heard = f"last heard of {duration(now - run.heartbeat)} ago"
    if run.alive:
        return f"process {run.process} on {run.host} since {since}, {heard}"
    return f"died: process {run.process} on {run.host}, begun {since}, {heard}"


def _next(status: Status) -> str:
    if status.stage == "finished":
        return f"{command()} inspect {status.dataset_url}"
    if status.run is not None and status.run.alive:
        return f"{command()} status {status.dataset_url} --watch"
    return "run the same synthesis again: it goes on where it was"


def _reasons(counts: Mapping[str, int]) -> str:
    if not counts:
        return "none"
    named = [f"{reason} {count}" for reason, count in list(counts.items())[:_REASONS]]
    more = f", {len(counts) - _REASONS} more reasons" if len(counts) > _REASONS else ""
    return f"{sum(counts.values())}: {', '.join(named)}{more}"
