"""Growth: what is new or gone in the corpus of a finished dataset, and what of it is to be made.

A corpus is listed again at each run. What differs from the last time is kept as ``listings/000002.parquet``: rows of
files that are new or have other bytes, and rows with the reason ``removed`` of files that are gone. The identity of a
photograph is the digest of its bytes: one that was renamed or copied is neither new nor gone. A file of the same name
and length is taken for the same file, and so is a tar or Parquet file with all that it holds; one that has another
length is read again. So is a line of a list that names another licence, so that what may not be used any more goes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aura.errors import IntegrityError, MissingFileError, RejectedImageError, StorageAccessError
from storage.corpora.corpus import check_corpus, holds_photographs, is_list, list_items, read_bytes, read_item
from storage.corpora.index import INDEX_SCHEMA, describe, read_rows_of, recipe_facts
from storage.corpora.ingest import Progress, RunParts, clear_parts, part_rows, read_parts, reject_repeated
from storage.corpora.licences import NOT_ALLOWED
from storage.corpora.photograph import decode
from storage.corpora.sources import Content, Item, Source, source_name
from storage.datasets.dataset import Dataset
from storage.datasets.history import (
    NAME,
    REMOVED,
    USABLE,
    History,
    Keys,
    current_rows,
    digests_of,
    keys_of,
    listing_location,
    texts,
    usable,
)
from storage.datasets.plan import plan_shards, read_shard_plan
from storage.objects.tables import encode_table, facts_of
from storage.recipe import Licences

_READERS: Final = 16
_DECODERS: Final = 2  # each may hold a whole photograph

_NOT_RETRIED: Final = (None, "duplicate", "wrong_uri", "credentials_in_uri", NOT_ALLOWED)
_COMPARED_AT_ONCE: Final = 4096
_PLANNED_AT_ONCE: Final = 4096


@dataclass(frozen=True, slots=True)
class Changes:
    """How the corpus differs from the last listing.

    Attributes:
        fresh: items that were not there, or have another length or licence.
        gone: rows of the index, by place, whose item is not there any more.
    """

    fresh: tuple[Item, ...]
    gone: tuple[int, ...]

    def __bool__(self) -> bool:
        return bool(self.fresh or self.gone)


@dataclass(frozen=True, slots=True)
class Listing:
    """A listing that is to be taken in.

    Attributes:
        rows: :data:`storage.corpora.index.INDEX_SCHEMA`, of what is new or gone.
        retry: whether photographs that were tried before are tried again.
        known: how many usable rows have bytes that were there before, in a tar or Parquet file that has changed.
    """

    rows: pa.Table
    retry: bool
    known: int = 0


def find_changes(dataset: Dataset) -> Changes:
    """List the corpus and compare it by names and lengths with the last time; no photograph is read.

    The lines of a list are compared by themselves alone, and by the licences that they name.

    Raises:
        MissingFileError: the corpus does not exist.
        EmptyCorpusError: it holds no file.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    column, licence_column = dataset.recipe.corpus_column, dataset.recipe.licence_column
    corpus = check_corpus(dataset.recipe.corpus, column, licence_column)
    by_line = is_list(corpus, column)
    licences = dataset.recipe.licences if by_line and licence_column is not None else None
    rows_of_uri, rows_of_size, rows_of_licence = ([np.zeros(0, "S16")] for _ in range(3))
    for rows in current_rows(dataset, ("uri", "member", "length_bytes", "archive_bytes", "licence")):
        lengths = rows["length_bytes"] if not by_line else pa.nulls(rows.num_rows, pa.int64())
        sizes = pc.coalesce(rows["archive_bytes"], pc.if_else(pc.is_null(rows["member"]), lengths, None))
        rows_of_uri.append(keys_of(rows, ("uri",)))
        rows_of_size.append(keys_of(pa.table({"uri": rows["uri"], "size": sizes}), ("uri", "size")))
        rows_of_licence += [keys_of(rows, ("uri", "licence"))] if licences is not None else []
    row_uris, known = np.concatenate(rows_of_uri), np.unique(np.concatenate(rows_of_size))
    licensed = np.unique(np.concatenate(rows_of_licence))
    del rows_of_uri, rows_of_size, rows_of_licence
    uris = np.unique(row_uris)
    listed = np.zeros(len(uris), bool)
    fresh: list[Item] = []
    restated: dict[str, Item] = {}
    items = list_items(corpus, column, licence_column)
    while some := list(islice(items, _COMPARED_AT_ONCE)):
        places = _find(uris, digests_of([item.uri] for item in some))
        listed[places[places >= 0]] = True
        unknown = _find(known, digests_of([item.uri, item.size] for item in some)) < 0
        fresh += [item for item, new in zip(some, unknown, strict=True) if new and holds_photographs(item, column)]
        if licences is not None:
            said = ([item.uri, _licence_of(item, licences)] for item in some)
            for item, new, same in zip(some, unknown, _find(licensed, digests_of(said)) >= 0, strict=True):
                if same or (licences.embedded and item.licence is None):
                    restated.pop(item.uri, None)  # of lines that contradict each other the last counts
                elif not new:
                    restated[item.uri] = item
    gone = np.flatnonzero(~listed[_find(uris, row_uris)]) if len(uris) else np.zeros(0, int)
    return Changes((*fresh, *restated.values()), tuple(gone.tolist()))


def read_changes(
    dataset: Dataset, changes: Changes, run: RunParts | None = None, on_progress: Progress | None = None
) -> Listing:
    """Read what is new in the corpus; a run that was stopped goes on where it was.

    Args:
        dataset: the dataset.
        changes: what :func:`find_changes` found.
        run: has the parts read; None reads them here.
        on_progress: is called with the number of files read so far.

    Raises:
        StorageError: the storage refused.
    """
    new = part_rows(dataset.location, read_parts(dataset.location, changes.fresh, dataset.recipe, run, on_progress))
    reread, digests = texts(item.uri for item in changes.fresh), new["sha256"].unique().drop_null()
    left, begin = np.array(changes.gone, np.int64), 0
    gone, before = [INDEX_SCHEMA.empty_table()], [INDEX_SCHEMA.empty_table()]
    first_names: dict[str, str] = {}
    for rows in current_rows(dataset):
        leaves = np.zeros(rows.num_rows, bool)
        leaves[left[(left >= begin) & (left < begin + rows.num_rows)] - begin] = True
        begin += rows.num_rows
        again = pc.is_in(rows["uri"], reread)
        kept = pc.and_(pc.invert(pc.or_(again, pa.array(leaves))), pc.is_null(rows["reject_reason"]))
        same_bytes = rows.select(["uri", "member", "sha256"]).filter(pc.and_(kept, pc.is_in(rows["sha256"], digests)))
        first_names |= {row["sha256"]: source_name(row["uri"], row["member"]) for row in same_bytes.to_pylist()}
        gone.append(rows.filter(pa.array(leaves)))
        before.append(rows.filter(again))
    new, old = reject_repeated(new, first_names), pa.concat_tables(before)
    lost = np.isin(keys_of(old, NAME), keys_of(new, NAME), invert=True)  # left a tar or Parquet file
    gone.append(old.filter(pa.array(lost, pa.bool_())))
    known = pc.and_(pc.is_null(new["reject_reason"]), pc.is_in(new["sha256"], usable(old)))
    return Listing(
        pa.concat_tables([_removed(pa.concat_tables(gone)), new]), retry=False, known=pc.sum(known).as_py() or 0
    )


def read_rejects(dataset: Dataset, on_progress: Callable[[int, int], None] | None = None) -> Listing:
    """Read again only what could not be used, to the last pixel, and keep what can be used now.

    Args:
        dataset: the dataset.
        on_progress: is called with the number of files read so far, and of those to read.

    Raises:
        StorageError: the storage refused.
    """
    unmade = texts(unmade_sources(dataset))
    rows: list[dict[str, Any]] = []
    for some in current_rows(dataset):
        # a list or an archive as a whole is mended by other lines or bytes, which a listing finds
        whole = pc.and_(pc.is_null(some["member"]), pc.is_valid(some["archive_bytes"]))
        refused = pc.invert(pc.or_(whole, pc.is_in(some["reject_reason"], texts(_NOT_RETRIED))))
        rows += some.filter(pc.or_(refused, pc.is_in(some["sha256"], unmade))).to_pylist()
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
    facts = recipe_facts(dataset.recipe) | {"retry": str(listing.retry), "known": str(listing.known)}
    listing_location(dataset.location, dataset.listings + 1).write(encode_table(listing.rows, facts))
    clear_parts(dataset.location)


def pending_listing(dataset: Dataset) -> Listing | None:
    """Return a listing that was kept and not yet taken in, or None.

    Raises:
        IntegrityError: it is damaged.
        StorageError: the storage refused.
    """
    try:
        table = read_rows_of(listing_location(dataset.location, dataset.listings + 1))
    except MissingFileError:
        return None
    facts = facts_of(table)
    return Listing(table.replace_schema_metadata(None), facts.get("retry") == "True", int(facts.get("known", "0")))


def listing_digest(dataset: Dataset, listing: int) -> dict[str, str]:
    """Return the digest of the table that a listing is kept in, by its name within the dataset."""
    place = listing_location(dataset.location, listing)
    name = place.url.removeprefix(f"{dataset.location.url}/")
    return {name: hashlib.sha256(place.read()).hexdigest()}


def plan_growth(dataset: Dataset, listing: Listing) -> Iterator[pa.Table]:
    """Plan what a listing brings: photographs that the dataset never had, or samples that it could not make.

    Args:
        dataset: as it is.
        listing: what is to be taken in.

    Returns:
        What :func:`storage.datasets.plan.plan_shards` does, maybe nothing.
    """
    rows = listing.rows
    if not listing.retry:
        ever = np.zeros(rows.num_rows, bool)
        for there, _ in History.read(dataset).rows(USABLE):
            ever |= np.asarray(pc.is_in(rows["sha256"], usable(there)))
        rows = rows.filter(pa.array(~ever))
    made = made_samples(dataset) if listing.retry else ()
    return plan_shards(rows.to_batches(_PLANNED_AT_ONCE), dataset.recipe, dataset.shard_count, made)


def _licence_of(item: Item, licences: Licences) -> str | None:
    """Return what the index says of the licence of a line."""
    return None if item.refusal is not None else item.licence or licences.default


def _find(ordered: Keys, wanted: Keys) -> npt.NDArray[np.int64]:
    """Return the place of each key among ascending ones, -1 where it is not."""
    if not len(ordered):
        return np.full(len(wanted), -1)
    places = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
    return np.where(ordered[places] == wanted, places, -1)


def _removed(rows: pa.Table) -> pa.Table:
    said = {"reject_reason": REMOVED, "reject_detail": "It was not there when the corpus was listed again."}
    for column, text in said.items():
        place = rows.schema.get_field_index(column)
        rows = rows.set_column(place, INDEX_SCHEMA.field(column), pa.array([text] * rows.num_rows, pa.string()))
    return rows


def _tried(row: dict[str, Any], dataset: Dataset) -> dict[str, Any] | None:
    """Read a photograph again, whatever its length is now; None if it still cannot be used."""
    source = Source(row["uri"], row["member"], row["offset_bytes"], row["length_bytes"], row["archive_bytes"])
    limits = dataset.recipe.limits
    content: Content
    try:
        if source.member is None:
            source, content = next(read_item(Item(source.uri, None), limits))
        elif (source.length or 0) > limits.max_bytes:
            return None
        else:
            content = read_bytes(source)
            source = replace(source, length=len(content))
        if isinstance(content, bytes):
            decode(content, limits)
    except (MissingFileError, RejectedImageError, StorageAccessError, IntegrityError):
        return None
    found = describe(source, content, limits) | {"licence": row["licence"]}
    return found if found.get("reject_reason") is None else None


def _in_order(dataset: Dataset, read: Callable[[int], pa.Table]) -> Iterable[tuple[int, pa.Table]]:
    shards = dataset.committed_shards()
    with ThreadPoolExecutor(_READERS) as pool:
        yield from zip(shards, pool.map(read, shards), strict=True)
