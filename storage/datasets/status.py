"""How far a dataset is, read from the store alone: while a run is on, after it ended, or after it died.

Counts come from listings, so a dataset of many thousand shards is told in seconds: a committed shard is a name, a shard
without rejects is known by the length of its table, and of the others some hundred are opened.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

import pyarrow as pa

from aura.errors import IntegrityError, MissingFileError
from storage.corpora.image_tables import open_table
from storage.corpora.index import INDEX_NAME, reject_counts
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.history import current_index
from storage.datasets.lease import CLOCK_MARGIN_S, LeaseRecord, last_holder
from storage.datasets.plan import shard_of
from storage.datasets.samples import rejects_table
from storage.datasets.tags import list_tags
from storage.datasets.versions import list_versions, read_version
from storage.objects.location import Dated, Location, locate
from storage.objects.tables import encode_table

Stage = Literal["reading the corpus", "planning", "making shards", "evaluating", "finished"]

_OPENED_TABLES: Final = 256
_READERS: Final = 16
_WINDOW_SHARDS: Final = 200


@dataclass(frozen=True, slots=True)
class RunStatus:
    """The run that holds the lease, or that died with it.

    Attributes:
        alive: whether it holds the lease now.
        host: name of its machine.
        process: its process id there.
        since: when it began, in seconds since 1970.
        heartbeat: when it was last heard of, in seconds since 1970.
    """

    alive: bool
    host: str
    process: int
    since: float
    heartbeat: float


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The latest published version.

    Attributes:
        number: its number.
        tags: its names.
        samples: how many it holds.
        shards: how many shards.
        published: when, in seconds since 1970.
    """

    number: int
    tags: tuple[str, ...]
    samples: int
    shards: int
    published: float


@dataclass(frozen=True, slots=True)
class Status:
    """How far a dataset is.

    Attributes:
        dataset_url: where it lies.
        asked: when this was found out, in seconds since 1970.
        stage: what is done next, or now.
        run: who writes it, or died while writing; None if the last run ended in order.
        corpus: what it is made of; None before it is planned.
        files: photographs of the corpus; None before they are all read.
        parts_read: parts of the corpus that are read, while that is under way.
        rejected_files: photographs that cannot be used, by reason, most frequent first.
        shards: planned shards; None before it is planned.
        shards_made: shards that are committed.
        samples: planned samples.
        samples_made: samples of the committed shards; None where some tables of rejects were not opened.
        rejected_samples: planned samples that could not be made, by reason, in the tables that were opened.
        rejects_unread: tables of rejects that were not opened, since there are too many.
        last_commit: when the last shard was committed, in seconds since 1970, or None.
        shards_per_hour: of the latest shards of this run, or of the last one; None while nothing tells.
        seconds_left: at that pace, while a run is on; None otherwise.
        version: the latest published version, or None.
    """

    dataset_url: str
    asked: float
    stage: Stage
    run: RunStatus | None
    corpus: str | None
    files: int | None
    parts_read: int
    rejected_files: Mapping[str, int]
    shards: int | None
    shards_made: int
    samples: int | None
    samples_made: int | None
    rejected_samples: Mapping[str, int]
    rejects_unread: int
    last_commit: float | None
    shards_per_hour: float | None
    seconds_left: float | None
    version: VersionStatus | None


def read_status(dataset_url: str | Location) -> Status:
    """Tell how far a dataset is.

    Raises:
        MissingFileError: there is neither a dataset nor the beginning of one.
        IntegrityError: its metadata are damaged.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    location.check_reachable()
    run = _run(last_holder(location))
    dataset = _opened(location)
    if dataset is None:
        return _before_the_plan(location, run)
    index = _index_rejects(dataset)
    commits = [each for each in location.join("samples").dated() if shard_of(each.name) is not None]
    times = sorted(each.modified for each in commits)
    rejected, rejected_count, unread = _rejected_samples(dataset, {each.name for each in commits})
    version = _version(location)
    missing = dataset.shard_count - len(commits)
    pace = _shards_per_second(times, run)
    planned = sum(stop - start for start, stop in map(dataset.shard_bounds, _shards(commits, dataset)))
    alive = run is not None and run.alive
    parts = len(location.join("index").names()) if alive else 0
    return Status(
        dataset_url=location.url,
        asked=time.time(),
        stage=_stage(missing, parts, finished=not alive and version is not None and version.shards == len(commits)),
        run=run,
        corpus=dataset.recipe.corpus,
        files=index.num_rows,
        parts_read=parts,
        rejected_files=reject_counts(index),
        shards=dataset.shard_count,
        shards_made=len(commits),
        samples=dataset.planned_samples,
        samples_made=None if unread else planned - rejected_count,
        rejected_samples=rejected,
        rejects_unread=unread,
        last_commit=times[-1] if times else None,
        shards_per_hour=None if pace is None else 3600 * pace,
        seconds_left=missing / pace if pace and alive else None,
        version=version,
    )


def _opened(location: Location) -> Dataset | None:
    try:
        return open_dataset(location)
    except MissingFileError:
        return None


def _before_the_plan(location: Location, run: RunStatus | None) -> Status:
    parts, index = location.join("index").names(), location.join(INDEX_NAME)
    begun = index.exists()
    if not (begun or parts or run):
        raise MissingFileError(
            f"{location.url} holds no dataset and no run has begun one. Check the path, or make one with "
            "`aura synthesize`."
        )
    reasons = _reject_column(index) if begun else None
    return Status(
        dataset_url=location.url,
        asked=time.time(),
        stage="planning" if begun else "reading the corpus",
        run=run,
        corpus=None,
        files=None if reasons is None else reasons.num_rows,
        parts_read=len(parts),
        rejected_files={} if reasons is None else reject_counts(reasons),
        shards=None,
        shards_made=0,
        samples=None,
        samples_made=None,
        rejected_samples={},
        rejects_unread=0,
        last_commit=None,
        shards_per_hour=None,
        seconds_left=None,
        version=None,
    )


def _stage(missing: int, parts: int, *, finished: bool) -> Stage:
    if missing:
        return "making shards"
    if parts:  # the corpus was listed again
        return "reading the corpus"
    return "finished" if finished else "evaluating"


def _run(record: LeaseRecord | None) -> RunStatus | None:
    if record is None:
        return None
    return RunStatus(record.is_live(), record.host, record.process, record.since, record.renewed)


def _index_rejects(dataset: Dataset) -> pa.Table:
    """Return the reject reasons of the corpus as it was listed last; of a first listing only that column is read."""
    if dataset.listings > 1:
        return current_index(dataset, ["reject_reason"])
    try:
        return _reject_column(dataset.location.join(INDEX_NAME))
    except MissingFileError as error:
        raise IntegrityError(f"{dataset.location.url} has lost its index.parquet. Restore that file.") from error


def _reject_column(index: Location) -> pa.Table:
    return open_table(index, None).read(columns=["reject_reason"])


def _shards(commits: Sequence[Dated], dataset: Dataset) -> list[int]:
    numbers = (shard_of(each.name) for each in commits)
    return [number for number in numbers if number is not None and number < dataset.shard_count]


def _rejected_samples(dataset: Dataset, committed: set[str]) -> tuple[dict[str, int], int, int]:
    """Count what committed shards could not make: by reason, in all, and in how many tables that was not looked up."""
    empty = len(encode_table(rejects_table([])))
    folder = dataset.location.join("rejects")
    tables = [each for each in folder.dated() if each.size != empty and each.name in committed]
    latest = sorted(tables, key=lambda each: each.modified)[-_OPENED_TABLES:]
    reasons: Counter[str] = Counter()
    with ThreadPoolExecutor(_READERS) as pool:
        for table in pool.map(lambda each: dataset.rejects(int(each.name.split(".")[0])), latest):
            reasons.update(table["reason"].to_pylist())
    return dict(reasons.most_common()), reasons.total(), len(tables) - len(latest)


def _shards_per_second(times: Sequence[float], run: RunStatus | None) -> float | None:
    """Judge the pace by the latest commits; while a run is on, the time since the last one counts too."""
    # the storage's clock is another one, and S3 tells whole seconds
    mine = times[bisect_left(times, run.since - CLOCK_MARGIN_S) :] if run is not None else times
    window = mine[-_WINDOW_SHARDS:]
    if run is not None and run.alive:
        start = run.since if len(window) == len(mine) else window[0]
        made = len(window) if len(window) == len(mine) else len(window) - 1
        return made / max(1e-3, time.time() - start) if made else None
    if len(window) < 2 or window[-1] <= window[0]:
        return None
    return (len(window) - 1) / (window[-1] - window[0])


def _version(location: Location) -> VersionStatus | None:
    numbers = list_versions(location)
    if not numbers:
        return None
    number = numbers[-1]
    tags = tuple(sorted(tag for tag, tagged in list_tags(location).items() if tagged == number))
    dates = {each.name: each.modified for each in location.join("versions").dated()}
    published = read_version(location, number)
    when = dates.get(f"{number:06d}.json", 0.0)
    return VersionStatus(number, tags, published.samples, len(published.shards), when)
