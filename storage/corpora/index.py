"""The index of a corpus: a row per photograph, with what its header says, or the reason why it cannot be used."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from aura.errors import AuraError, DatasetConflictError, IntegrityError, MissingFileError, RejectedImageError
from storage.corpora.corpus import read_item
from storage.corpora.photograph import probe
from storage.corpora.sources import Content, Item, Source
from storage.objects.location import Location, locate
from storage.objects.range_file import RangeFile
from storage.objects.tables import decode_table, facts_of, read_schema
from storage.recipe import Licences, Limits, Recipe, difference

INDEX_SCHEMA: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("offset_bytes", pa.int64()),
        pa.field("length_bytes", pa.int64()),
        pa.field("archive_bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("container", pa.string()),
        pa.field("mode", pa.string()),
        pa.field("height_px", pa.int32()),
        pa.field("width_px", pa.int32()),
        pa.field("orientation", pa.int8()),
        pa.field("frames", pa.int32()),
        pa.field("has_alpha", pa.bool_()),
        pa.field("icc", pa.string()),
        pa.field("reject_reason", pa.string()),
        pa.field("reject_detail", pa.string()),
        pa.field("licence", pa.string()),
    ]
)
"""Columns of the index; sizes are upright, ``icc`` names the colours the file is in, null where a file was refused.

``archive_bytes`` is the length of the tar or Parquet file that holds a member, by which it is known again. ``licence``
is null where the recipe does not ask for any, or none is named.
"""

INDEX_NAME: Final = "index.parquet"
_READERS: Final = 16
_AHEAD: Final = 64
_BATCH_ROWS: Final = 2048
_STREAMED_ROWS: Final = 32768
_FOOTER_AHEAD: Final = 1 << 16


def index_items(
    items: Iterable[Item], limits: Limits, column: str | None = None, licences: Licences | None = None
) -> pa.Table:
    """Read every photograph of some items once, files in threads: its digest and its header, never its pixels.

    Args:
        items: what to read.
        limits: what is allowed.
        column: of images in Parquet files; None finds it.
        licences: where the licence of each is named, and which may be used; None looks for none.

    Returns:
        A table with :data:`INDEX_SCHEMA`, in the order of the items and of what they hold.

    Raises:
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    batches: list[pa.RecordBatch] = []
    rows: list[dict[str, Any]] = []
    for row in _index_rows(items, limits, column, licences):
        rows.append(row)
        if len(rows) == _BATCH_ROWS:
            batches.append(pa.RecordBatch.from_pylist(rows, schema=INDEX_SCHEMA))
            rows = []
    return pa.Table.from_batches([*batches, pa.RecordBatch.from_pylist(rows, schema=INDEX_SCHEMA)], INDEX_SCHEMA)


def describe(source: Source, content: Content, limits: Limits) -> dict[str, Any]:
    """Describe a photograph by a row of :data:`INDEX_SCHEMA`, columns that are null left out."""
    row: dict[str, Any] = {
        "uri": source.uri,
        "member": source.member,
        "offset_bytes": source.offset,
        "length_bytes": source.length,
        "archive_bytes": source.archive_bytes,
        "licence": source.licence,
    }
    try:
        if isinstance(content, RejectedImageError):
            raise content
        row["sha256"] = hashlib.sha256(content).hexdigest()
        facts = probe(content, limits)
    except RejectedImageError as error:
        return row | {"reject_reason": error.reason, "reject_detail": str(error)}
    return row | {
        "container": facts.container,
        "mode": facts.mode,
        "height_px": facts.height,
        "width_px": facts.width,
        "orientation": facts.orientation,
        "frames": facts.frames,
        "has_alpha": facts.has_alpha,
        "icc": facts.colours,
    }


def reject_counts(index: pa.Table) -> dict[str, int]:
    """Count the rejected files by reason, most frequent first."""
    counts = index["reject_reason"].drop_null().value_counts().to_pylist()
    return {
        item["values"]: item["counts"] for item in sorted(counts, key=lambda item: (-item["counts"], item["values"]))
    }


def index_digest(dataset_url: str | Location) -> dict[str, str]:
    """Return the digest of the index that a dataset keeps, by its name."""
    return {INDEX_NAME: hashlib.sha256(locate(dataset_url).join(INDEX_NAME).read()).hexdigest()}


def recipe_facts(recipe: Recipe) -> dict[str, str]:
    """Return what a table of the corpus says of the recipe that it belongs to."""
    return {"recipe": json.dumps(recipe.deciding, sort_keys=True)}


def has_index(dataset_url: str | Location, recipe: Recipe) -> bool:
    """Tell whether a dataset keeps an index of this recipe; only what the file says of itself is read.

    Raises:
        DatasetConflictError: it belongs to another recipe; the message names the fields.
        IntegrityError: it is damaged.
        StorageError: the storage refused.
    """
    place = locate(dataset_url).join(INDEX_NAME)
    try:
        size = place.size() or 0
    except MissingFileError:
        return False
    try:
        schema = pq.read_schema(pa.PythonFile(RangeFile(place, size, _FOOTER_AHEAD, size), mode="r"))
        _require_same_recipe(locate(dataset_url), facts_of(schema.empty_table()), recipe)
    except AuraError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _not_whole(place.url) from error
    return True


def index_batches(dataset_url: str | Location) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the index kept in a dataset, some thousand at a time.

    Raises:
        MissingFileError: there is none.
        IntegrityError: it is damaged.
        StorageError: the storage refused.
    """
    place = locate(dataset_url).join(INDEX_NAME)
    try:
        yield from pq.ParquetFile(pa.BufferReader(place.read())).iter_batches(_BATCH_ROWS)
    except AuraError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise _not_whole(place.url) from error


@dataclass(frozen=True, slots=True)
class TableFile:
    """A table of the corpus, an index or a listing, in memory as it is kept.

    Attributes:
        url: where it is kept.
        data: the encoded table.
    """

    url: str
    data: bytes = field(repr=False)

    @classmethod
    def read(cls, place: Location) -> TableFile:
        """Read the file.

        Raises:
            MissingFileError: there is no such table.
            StorageError: the storage refused.
        """
        return cls(place.url, place.read())

    def rows(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield some ten thousand rows at a time; columns that an older release did not write are null.

        Raises:
            IntegrityError: it is damaged.
        """
        try:
            file = pq.ParquetFile(pa.BufferReader(self.data))
            there = set(file.schema_arrow.names)
            for batch in file.iter_batches(_STREAMED_ROWS, columns=[name for name in columns if name in there]):
                yield _as_indexed(pa.Table.from_batches([batch]), columns)
        except (pa.ArrowException, OSError) as error:
            raise _not_whole(self.url) from error


def read_rows_of(place: Location, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table of the corpus; columns that it lacks, because an older release made it, are null.

    Args:
        place: an index or a listing.
        columns: those to return; None returns all of :data:`INDEX_SCHEMA`.

    Raises:
        MissingFileError: there is no such table.
        IntegrityError: it is damaged.
        StorageError: the storage refused.
    """
    data = place.read()
    wanted = INDEX_SCHEMA.names if columns is None else list(columns)
    there = set(read_schema(data, place.url).names)
    table = decode_table(data, place.url, [name for name in wanted if name in there])
    return _as_indexed(table, wanted).replace_schema_metadata(table.schema.metadata)


def _as_indexed(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Give columns the types of :data:`INDEX_SCHEMA`; those that are not there become null."""
    wanted, there = [INDEX_SCHEMA.field(name) for name in columns], set(table.schema.names)
    found = [
        table[each.name].cast(each.type) if each.name in there else pa.nulls(table.num_rows, each.type)
        for each in wanted
    ]
    return pa.table(found, schema=pa.schema(wanted))


def _not_whole(url: str) -> IntegrityError:
    return IntegrityError(f"{url} is not a whole Parquet file. Delete it, then run again to make it anew.")


def _require_same_recipe(location: Location, facts: dict[str, str], recipe: Recipe) -> None:
    differing = difference(json.loads(facts.get("recipe", "{}")), recipe.deciding)
    if differing:
        raise DatasetConflictError(
            f"{location.url} was begun with another recipe: {differing}. Use that recipe, or choose another place."
        )


def _index_rows(
    items: Iterable[Item], limits: Limits, column: str | None, licences: Licences | None
) -> Iterator[dict[str, Any]]:
    """Index items in their order while others are read; only a few files are in memory at once."""
    waiting: deque[Future[list[dict[str, Any]]]] = deque()

    def index_file(item: Item) -> list[dict[str, Any]]:
        return list(described(item))

    def described(item: Item) -> Iterator[dict[str, Any]]:
        return (describe(source, content, limits) for source, content in read_item(item, limits, column, licences))

    with ThreadPoolExecutor(_READERS, thread_name_prefix="ingest") as pool:
        for item in items:
            if item.is_tar or item.is_table:  # holds more than a list should
                while waiting:
                    yield from waiting.popleft().result()
                yield from described(item)
                continue
            waiting.append(pool.submit(index_file, item))
            if len(waiting) == _AHEAD:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
