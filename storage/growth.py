"""Growth: what is new or gone in the corpus of a finished dataset, and what of it is to be made.

A corpus is listed again at each run. What differs from the last time is kept as ``listings/000002.parquet``: rows of
files that are new or have other bytes, and rows with the reason ``removed`` of files that are gone. The identity of a
photograph is the digest of its bytes: one that was renamed or copied is neither new nor gone. A file of the same name
and length is taken for the same file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow as pa

from aura.errors import IntegrityError, MissingFileError, RejectedImageError, StorageAccessError
from storage.corpus import Source, check_corpus, list_sources, read_bytes
from storage.dataset import Dataset
from storage.index import (
    INDEX_SCHEMA,
    Checkpoints,
    Progress,
    clear_checkpoints,
    index_source,
    index_sources,
    read_index,
    recipe_facts,
    without_duplicate,
)
from storage.location import Location
from storage.photograph import decode
from storage.plan import plan_samples, read_shard_plan
from storage.tables import encode_table, facts_of, read_table

REMOVED: Final = "removed"
"""Reason in a listing of a file that is no longer in the corpus."""

_READERS: Final = 16
_DECODERS: Final = 2  # each may hold a whole photograph

Name = tuple[str, str | None]
"""URI and, inside a tar, the member."""


@dataclass(frozen=True, slots=True)
class Changes:
    """How the corpus differs from the last listing.

    Attributes:
        fresh: files that were not there, or have another length or place in their tar.
        gone: names of files that are not there any more.
    """

    fresh: tuple[Source, ...]
    gone: frozenset[Name]

    def __bool__(self) -> bool:
        return bool(self.fresh or self.gone)


@dataclass(frozen=True, slots=True)
class Listing:
    """A listing that is to be taken in.

    Attributes:
        rows: :data:`storage.index.INDEX_SCHEMA`, of what is new or gone.
        retry: whether photographs that were tried before are tried again.
    """

    rows: pa.Table
    retry: bool


def current_index(dataset: Dataset) -> pa.Table:
    """Return the corpus as it was listed last: the index with every listing laid over it, without what is gone.

    Raises:
        IntegrityError: a table is damaged, or the index is lost.
        StorageError: the storage refused.
    """
    tables = list(_history(dataset))
    if len(tables) == 1:
        return tables[0]
    table = pa.concat_tables(tables)
    last = {name: place for place, name in enumerate(_names(table))}
    table = table.take(pa.array(sorted(last.values()), pa.int64()))
    return table.filter(pa.array([reason != REMOVED for reason in table["reject_reason"].to_pylist()], pa.bool_()))


def present_sources(index: pa.Table) -> frozenset[str]:
    """Return the digests of the photographs that an index holds and that can be used."""
    rows = zip(index["sha256"].to_pylist(), index["reject_reason"].to_pylist(), strict=True)
    return frozenset(digest for digest, reason in rows if reason in {None, "duplicate"})


def gone_sources(dataset: Dataset) -> frozenset[str]:
    """Return the digests of the photographs that were in the corpus once and are no more."""
    if dataset.listings == 1:
        return frozenset()
    return _ever(dataset) - present_sources(current_index(dataset))


def find_changes(dataset: Dataset) -> Changes:
    """List the corpus and compare it by names and lengths with the last time; no file is read.

    Raises:
        MissingFileError: the corpus does not exist.
        EmptyCorpusError: it holds no file.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    index = current_index(dataset)
    places = zip(index["offset_bytes"].to_pylist(), index["length_bytes"].to_pylist(), strict=True)
    known = dict(zip(_names(index), places, strict=True))
    fresh = []
    listed: set[Name] = set()
    for source in list_sources(check_corpus(dataset.recipe.corpus)):
        name = (source.uri, source.member)
        listed.add(name)
        if known.get(name) != (source.offset, source.length):
            fresh.append(source)
    return Changes(tuple(fresh), frozenset(known.keys() - listed))


def read_changes(dataset: Dataset, changes: Changes, on_progress: Progress | None = None) -> Listing:
    """Read what is new in the corpus; a run that was stopped goes on where it was.

    Args:
        dataset: the dataset.
        changes: what :func:`find_changes` found.
        on_progress: is called with the number of files read so far.

    Raises:
        StorageError: the storage refused.
    """
    limits = dataset.recipe.limits
    checkpoints = Checkpoints(dataset.location.join("index"), limits)
    reread = {(source.uri, source.member) for source in changes.fresh}
    rows: list[dict[str, Any]] = []
    first_with: dict[str, str] = {}
    for row in current_index(dataset).to_pylist():
        name = (row["uri"], row["member"])
        if name in changes.gone:
            detail = "It was not there when the corpus was listed again."
            rows.append(row | {"reject_reason": REMOVED, "reject_detail": detail})
        elif name not in reread:
            without_duplicate(row, first_with)
    gone = len(rows)
    for row in index_sources(changes.fresh, limits, checkpoints.read()):
        checkpoints.add(row)
        rows.append(without_duplicate(row, first_with))
        if on_progress is not None:
            on_progress(len(rows) - gone)
    return Listing(pa.Table.from_pylist(rows, schema=INDEX_SCHEMA), retry=False)


def read_rejects(dataset: Dataset, on_progress: Callable[[int, int], None] | None = None) -> Listing:
    """Read again only what could not be used, to the last pixel, and keep what can be used now.

    Args:
        dataset: the dataset.
        on_progress: is called with the number of files read so far, and of those to read.

    Raises:
        StorageError: the storage refused.
    """
    unmade = unmade_sources(dataset)
    rows = [
        row
        for row in current_index(dataset).to_pylist()
        if row["reject_reason"] not in {None, "duplicate"} or row["sha256"] in unmade
    ]
    usable: list[dict[str, Any]] = []
    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="retry") as pool:
        for done, row in enumerate(pool.map(lambda row: _tried(row, dataset), rows), 1):
            usable += [row] if row is not None else []
            if on_progress is not None:
                on_progress(done, len(rows))
    return Listing(pa.Table.from_pylist(usable, schema=INDEX_SCHEMA), retry=True)


def unmade_sources(dataset: Dataset) -> frozenset[str]:
    """Return the digests of the photographs of which a committed shard rejected a sample that no other has made."""
    made = made_samples(dataset)
    found: set[str] = set()
    for shard, rejected in _in_order(dataset, dataset.rejects):
        if rejected.num_rows:
            plan = read_shard_plan(dataset.location, shard)
            names = dict(zip(plan["index"].to_pylist(), plan["sample_id"].to_pylist(), strict=True))
            rows = zip(rejected["index"].to_pylist(), rejected["source_sha256"].to_pylist(), strict=True)
            found |= {digest for index, digest in rows if names[index] not in made}
    return frozenset(found)


def made_samples(dataset: Dataset) -> frozenset[str]:
    """Return the ids of all samples that are committed."""
    return frozenset(
        name for _, table in _in_order(dataset, dataset.samples) for name in table["sample_id"].to_pylist()
    )


def write_listing(dataset: Dataset, listing: Listing) -> None:
    """Keep a listing; from here on a run that is stopped takes it in without listing the corpus again.

    Raises:
        StorageError: the storage refused.
    """
    facts = recipe_facts(dataset.recipe) | {"retry": str(listing.retry)}
    _file(dataset.location, dataset.listings + 1).write(encode_table(listing.rows, facts))
    clear_checkpoints(dataset.location)


def pending_listing(dataset: Dataset) -> Listing | None:
    """Return a listing that was kept and not yet taken in, or None.

    Raises:
        IntegrityError: it is damaged.
        StorageError: the storage refused.
    """
    try:
        table = read_table(_file(dataset.location, dataset.listings + 1))
    except MissingFileError:
        return None
    return Listing(table.replace_schema_metadata(None), facts_of(table).get("retry") == "True")


def listing_digest(dataset: Dataset, listing: int) -> dict[str, str]:
    """Return the digest of the table that a listing is kept in, by its name within the dataset."""
    place = _file(dataset.location, listing)
    name = place.url.removeprefix(f"{dataset.location.url}/")
    return {name: hashlib.sha256(place.read()).hexdigest()}


def plan_growth(dataset: Dataset, listing: Listing) -> pa.Table:
    """Plan what a listing brings: photographs that the dataset never had, or samples that it could not make.

    Args:
        dataset: as it is.
        listing: what is to be taken in.

    Returns:
        What :func:`storage.plan.plan_samples` does, maybe without a row.
    """
    had = _ever(dataset)
    wanted = [listing.retry or digest not in had for digest in listing.rows["sha256"].to_pylist()]
    rows = listing.rows.filter(pa.array(wanted, pa.bool_()))
    made = made_samples(dataset) if listing.retry else ()
    return plan_samples(rows, dataset.recipe, dataset.model_digest, dataset.shard_count, made)


def _history(dataset: Dataset) -> Iterator[pa.Table]:
    index = read_index(dataset.location, dataset.recipe)
    if index is None:
        raise IntegrityError(f"{dataset.location.url} has lost its index.parquet. Restore that file from a copy.")
    yield index.replace_schema_metadata(None)
    for listing in range(2, dataset.listings + 1):
        yield read_table(_file(dataset.location, listing)).replace_schema_metadata(None)


def _ever(dataset: Dataset) -> frozenset[str]:
    """Digests of every photograph that was in the corpus at some time and could be used."""
    return frozenset[str]().union(*map(present_sources, _history(dataset)))


def _names(table: pa.Table) -> Iterator[Name]:
    return zip(table["uri"].to_pylist(), table["member"].to_pylist(), strict=True)


def _tried(row: dict[str, Any], dataset: Dataset) -> dict[str, Any] | None:
    """Read a file again, whatever its length is now; None if it still cannot be used."""
    source = Source(row["uri"], row["member"], row["offset_bytes"], row["length_bytes"])
    limits = dataset.recipe.limits
    try:
        data = read_bytes(source)
        source = replace(source, length=len(data))
        decode(data, limits)
    except (MissingFileError, RejectedImageError, StorageAccessError):
        return None
    found = index_source(source, limits, {})
    return found if found.get("reject_reason") is None else None


def _in_order(dataset: Dataset, read: Callable[[int], pa.Table]) -> Iterable[tuple[int, pa.Table]]:
    shards = dataset.committed_shards()
    with ThreadPoolExecutor(_READERS) as pool:
        yield from zip(shards, pool.map(read, shards), strict=True)


def _file(dataset: Location, listing: int) -> Location:
    return dataset.join("listings", f"{listing:06d}.parquet")
