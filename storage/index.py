"""The index of a corpus: a row per file, with what its header says, or the reason why it cannot be used."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from aura.errors import DatasetConflictError, EmptyCorpusError, MissingFileError, RejectedImageError, StorageAccessError
from storage.corpus import Source, check_corpus, list_sources, read_bytes
from storage.location import Location, locate
from storage.photograph import probe
from storage.plan import shard_name
from storage.recipe import Limits, Recipe, differing_fields
from storage.tables import encode_table, facts_of, read_table

INDEX_SCHEMA: Final = pa.schema(
    [
        pa.field("uri", pa.string(), nullable=False),
        pa.field("member", pa.string()),
        pa.field("offset_bytes", pa.int64()),
        pa.field("length_bytes", pa.int64(), nullable=False),
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
    ]
)
"""Columns of the index; sizes are upright, ``icc`` names the colours the file is in, null where a file was refused."""

Progress = Callable[[int], None]
"""Is called with the number of files read so far."""

SourceKey = tuple[str, str | None, int | None, int]
CHECKPOINT_ROWS: Final = 2048
_READERS: Final = 16
_AHEAD: Final = 64


def ingest(
    corpus_url: str | Location,
    limits: Limits,
    on_progress: Progress | None = None,
    resume_in: str | Location | None = None,
) -> pa.Table:
    """Read every file of a corpus once, in threads: its digest and its header, never its pixels.

    Args:
        corpus_url: folder, prefix or tar.
        limits: what is allowed.
        on_progress: is called after each file with the number of files so far, from this thread.
        resume_in: the dataset; what was read is kept there in ``index/`` every 2048 files, so that a run
            that is stopped and started again reads only the rest (the same name and length count as the same; a worker
            compares its digest). :func:`write_index` clears it away. None keeps nothing.

    Returns:
        A table with :data:`INDEX_SCHEMA`, in the order of :func:`storage.corpus.list_sources`. Of files with the same
        bytes the first is kept and the others are rejected as ``duplicate``.

    Raises:
        MissingFileError: the corpus does not exist.
        EmptyCorpusError: it holds no file, or none that can be used.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    location = check_corpus(corpus_url)
    checkpoints = None if resume_in is None else Checkpoints(locate(resume_in).join("index"), limits)
    known = {} if checkpoints is None else checkpoints.read()
    rows: list[dict[str, Any]] = []
    first_with: dict[str, str] = {}
    for row in index_sources(list_sources(location), limits, known):
        if checkpoints is not None:
            checkpoints.add(row)
        rows.append(without_duplicate(row, first_with))
        if on_progress is not None:
            on_progress(len(rows))
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    if table["reject_reason"].null_count == 0:
        counts = ", ".join(f"{count} {reason}" for reason, count in reject_counts(table).items())
        raise EmptyCorpusError(
            f"None of the {len(rows)} files of {location.url} can be used ({counts}). Check the corpus."
        )
    return table


def reject_counts(index: pa.Table) -> dict[str, int]:
    """Count the rejected files by reason, most frequent first."""
    counts = index["reject_reason"].drop_null().value_counts().to_pylist()
    return {
        item["values"]: item["counts"] for item in sorted(counts, key=lambda item: (-item["counts"], item["values"]))
    }


def write_index(dataset_url: str | Location, index: pa.Table, recipe: Recipe) -> None:
    """Keep the index in the dataset: the first thing written, it claims the place for the recipe.

    Args:
        dataset_url: the dataset.
        index: what :func:`ingest` returned.
        recipe: whose corpus it is.

    Raises:
        DatasetConflictError: another recipe's index is there already.
        StorageError: the storage refused.
    """
    facts = recipe_facts(recipe)
    if not locate(dataset_url).join("index.parquet").create(encode_table(index, facts)):
        read_index(dataset_url, recipe)
    clear_checkpoints(dataset_url)


def index_digest(dataset_url: str | Location) -> dict[str, str]:
    """Return the digest of the index that a dataset keeps, by its name."""
    return {"index.parquet": hashlib.sha256(locate(dataset_url).join("index.parquet").read()).hexdigest()}


def recipe_facts(recipe: Recipe) -> dict[str, str]:
    """Return what a table of the corpus says of the recipe that it belongs to."""
    return {"recipe": json.dumps(recipe.deciding, sort_keys=True)}


def read_index(dataset_url: str | Location, recipe: Recipe) -> pa.Table | None:
    """Return the index kept in a dataset, as the corpus was listed first, or None if there is none yet.

    Raises:
        DatasetConflictError: it belongs to another recipe; the message names the fields.
        IntegrityError: it is damaged.
        StorageError: the storage refused.
    """
    try:
        table = read_table(locate(dataset_url).join("index.parquet"))
    except MissingFileError:
        return None
    fields = differing_fields(json.loads(facts_of(table).get("recipe", "{}")), recipe.deciding)
    if fields:
        raise DatasetConflictError(
            f"{locate(dataset_url).url} was begun with another recipe (it differs in {', '.join(fields)}). "
            "Use that recipe, or choose another place."
        )
    return table


def clear_checkpoints(dataset_url: str | Location) -> None:
    """Remove what an ingest kept of its way, once its index is kept."""
    checkpoints = locate(dataset_url).join("index")
    for name in checkpoints.names():
        checkpoints.join(name).remove()


class Checkpoints:
    """What an ingest has read so far, kept in numbered Parquet files."""

    def __init__(self, folder: Location, limits: Limits) -> None:
        self._folder = folder
        self._facts = {"limits": limits.model_dump_json()}
        self._next = 0
        self._known: dict[SourceKey, dict[str, Any]] = {}
        self._new: list[dict[str, Any]] = []

    def read(self) -> dict[SourceKey, dict[str, Any]]:
        """Return the rows kept by an earlier run with the same limits."""
        for name in self._folder.names():
            self._next = int(name.split(".")[0]) + 1
            table = read_table(self._folder.join(name))
            if facts_of(table) == self._facts:
                self._known |= {_key(row): row for row in table.to_pylist()}
        return self._known

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, unless it came from here."""
        if _key(row) in self._known:
            return
        self._new.append(row)
        if len(self._new) == CHECKPOINT_ROWS:
            table = pa.Table.from_pylist(self._new, schema=INDEX_SCHEMA)
            self._folder.join(shard_name(self._next)).write(encode_table(table, self._facts))
            self._next += 1
            self._new = []


def _key(row: dict[str, Any]) -> SourceKey:
    return row["uri"], row["member"], row["offset_bytes"], row["length_bytes"]


def index_sources(
    sources: Iterable[Source], limits: Limits, known: dict[SourceKey, dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Index sources in their order while others are read; only a few are in memory at once.

    Args:
        sources: what to read.
        limits: what is allowed.
        known: rows that need not be read again, by source.

    Yields:
        Rows of :data:`INDEX_SCHEMA`, columns that are null left out.
    """
    waiting: deque[Future[dict[str, Any]]] = deque()
    remaining = iter(sources)
    with ThreadPoolExecutor(_READERS, thread_name_prefix="ingest") as pool:
        while True:
            for source in islice(remaining, _AHEAD - len(waiting)):
                waiting.append(pool.submit(index_source, source, limits, known))
            if not waiting:
                return
            yield waiting.popleft().result()


def index_source(source: Source, limits: Limits, known: dict[SourceKey, dict[str, Any]]) -> dict[str, Any]:
    """Read one file and describe it by a row of :data:`INDEX_SCHEMA`, columns that are null left out."""
    kept = known.get((source.uri, source.member, source.offset, source.length))
    if kept is not None:
        return kept
    row: dict[str, Any] = {
        "uri": source.uri,
        "member": source.member,
        "offset_bytes": source.offset,
        "length_bytes": source.length,
    }
    try:
        data = _read(source, limits)
        row["sha256"] = hashlib.sha256(data).hexdigest()
        facts = probe(data, limits)
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


def _read(source: Source, limits: Limits) -> bytes:
    if source.length > limits.max_bytes:
        raise RejectedImageError(
            "too_many_bytes", f"It has {source.length} bytes; limits.max_bytes is {limits.max_bytes}."
        )
    try:
        return read_bytes(source)
    except MissingFileError as error:
        raise RejectedImageError("missing", "It was listed but is gone.") from error
    except StorageAccessError as error:
        if "://" in locate(source.uri).url:  # a bucket's refusal is about the keys, not about one file
            raise
        raise RejectedImageError("unreadable", "Its permissions forbid reading it.") from error


def without_duplicate(row: dict[str, Any], first_with: dict[str, str]) -> dict[str, Any]:
    """Reject a row if another source had the same bytes; ``first_with`` keeps the first's name by digest."""
    if row.get("reject_reason") is not None:
        return row
    name = row["uri"] if row["member"] is None else f"{row['uri']}#{row['member']}"
    first = first_with.setdefault(row["sha256"], name)
    if first == name:
        return row
    return row | {"reject_reason": "duplicate", "reject_detail": f"It has the same bytes as {first}."}
