"""Ingest: a corpus is cut into parts, which may be read anywhere and in any order, and their rows become the index.

Each part's rows are kept in ``index/`` under a name that follows from what the part lists, so an ingest that is stopped
reads only the rest, also where files have come or gone meanwhile. When all parts are there, they are joined in order,
row group by row group; memory holds the digests of the photographs, and of the rows a few thousand.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import astuple, dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from aura.errors import EmptyCorpusError
from storage.corpora.corpus import check_corpus, list_items
from storage.corpora.index import INDEX_NAME, INDEX_SCHEMA, has_index, index_items, recipe_facts
from storage.corpora.sources import Item, source_name
from storage.objects.location import Location, locate
from storage.objects.tables import RowGroups, encode_table, read_table
from storage.recipe import Licences, Limits, Recipe, canonical_json

PART_ITEMS: Final = 1024
_LARGEST_PART: Final = 4
_FOLDER: Final = "index"
_READERS: Final = 8
_GROUP_ROWS: Final = 65536


@dataclass(frozen=True, slots=True)
class Part:
    """Some consecutive items of a corpus; it travels to a worker.

    Attributes:
        digest: of the items and of all that decides their rows; the name under which the rows are kept.
        listing: the items, as JSON.
        limits: what is allowed.
        column: of images in Parquet files; None finds it.
        licences: where the licence of each photograph is named, and which may be used, or None.
    """

    digest: str
    listing: bytes
    limits: Limits
    column: str | None
    licences: Licences | None

    @property
    def items(self) -> list[Item]:
        """What is to be read."""
        return [
            Item(uri, size, None if refusal is None else (refusal[0], refusal[1]), licence)
            for uri, size, refusal, licence in json.loads(self.listing)
        ]


@dataclass(frozen=True, slots=True)
class PartReport:
    """What became of a part.

    Attributes:
        digest: of the part.
        rows: photographs that it holds, those that cannot be used included.
    """

    digest: str
    rows: int


RunParts = Callable[[Iterator[Part]], Iterable[PartReport]]
"""Has parts read by :func:`read_part`, in any order and anywhere, and gives a report of each."""

Progress = Callable[[int], None]
"""Is called with the number of files read so far."""


@dataclass(frozen=True, slots=True)
class Ingested:
    """What an ingest came to.

    Attributes:
        files: rows of the index.
        rejected: how many of them cannot be used, by reason, most frequent first.
    """

    files: int
    rejected: dict[str, int]


def ingest(
    dataset_url: str | Location, recipe: Recipe, run: RunParts | None = None, on_progress: Progress | None = None
) -> Ingested:
    """Read every photograph of a corpus once and keep the index in the dataset, which claims the place for the recipe.

    Of photographs with the same bytes the first is kept and the others are rejected as ``duplicate``.

    Args:
        dataset_url: the dataset.
        recipe: names the corpus, and what is allowed.
        run: has the parts read; None reads them here.
        on_progress: is called after each part with the number of files so far, from this thread.

    Raises:
        MissingFileError: the corpus does not exist.
        EmptyCorpusError: it holds no file, or none that can be used.
        DatasetConflictError: another recipe's index is there already.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    dataset = locate(dataset_url)
    columns = recipe.corpus_column, recipe.licence_column
    corpus = check_corpus(recipe.corpus, *columns)
    digests = read_parts(dataset, list_items(corpus, *columns), recipe, run, on_progress)
    repeated = _Repeated.among(dataset, digests)
    sink = RowGroups(INDEX_SCHEMA, recipe_facts(recipe), _GROUP_ROWS)
    rejected: Counter[str] = Counter()
    for table in _tables(dataset, digests):
        table = repeated.reject(table)  # noqa: PLW2901
        rejected.update(table["reject_reason"].drop_null().to_pylist())
        sink.add(table)
    if sink.rows == sum(rejected.values()):
        counts = ", ".join(f"{count} {reason}" for reason, count in rejected.most_common())
        clear_parts(dataset)
        raise EmptyCorpusError(
            f"None of the {sink.rows} files of {corpus.url} can be used ({counts}). Check the corpus."
        )
    claimed = dataset.join(INDEX_NAME).create(sink.finish())
    clear_parts(dataset)
    if not claimed:
        has_index(dataset, recipe)  # or it is another recipe's
    return Ingested(sink.rows, dict(sorted(rejected.items(), key=lambda each: (-each[1], each[0]))))


def read_parts(
    dataset: Location,
    items: Iterable[Item],
    recipe: Recipe,
    run: RunParts | None = None,
    on_progress: Progress | None = None,
) -> list[str]:
    """Have every part of some items read and kept in the dataset, unless a stopped run has done so.

    Args:
        dataset: the dataset.
        items: what to read.
        recipe: what is allowed.
        run: has the parts read; None reads them here.
        on_progress: is called after each part with the number of files read so far.

    Returns:
        The digests of the parts, in order.

    Raises:
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    kept = {name.split(".")[0] for name in dataset.join(_FOLDER).names()}
    digests: list[str] = []

    def unread() -> Iterator[Part]:
        for part in cut_parts(items, recipe):
            digests.append(part.digest)
            if part.digest not in kept:
                yield part

    done = 0
    for report in (run or (lambda parts: (read_part(dataset, part) for part in parts)))(unread()):
        done += report.rows
        if on_progress is not None:
            on_progress(done)
    return digests


def read_part(dataset_url: str | Location, part: Part, permit: Callable[[], None] | None = None) -> PartReport:
    """Read the photographs of a part and keep their rows; repeating it writes the same bytes.

    Args:
        dataset_url: the dataset.
        part: what to read.
        permit: is called before the rows are written and raises if this may not go on.

    Raises:
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    table = index_items(part.items, part.limits, part.column, part.licences)
    if permit is not None:
        permit()
    _file(locate(dataset_url), part.digest).write(encode_table(table))
    return PartReport(part.digest, table.num_rows)


def cut_parts(items: Iterable[Item], recipe: Recipe) -> Iterator[Part]:
    """Cut a corpus into parts of about :data:`PART_ITEMS` files; a tar or Parquet file is a part of its own.

    Where a part ends follows from the names of its items, so that files that come or go change few parts.
    """
    chosen: list[Item] = []
    for item in items:
        alone = item.is_tar or item.is_table
        if alone and chosen:
            yield _part(chosen, recipe)
            chosen = []
        chosen.append(item)
        ends = zlib.crc32(item.uri.encode()) % PART_ITEMS == 0 or len(chosen) == _LARGEST_PART * PART_ITEMS
        if alone or ends:
            yield _part(chosen, recipe)
            chosen = []
    if chosen:
        yield _part(chosen, recipe)


def part_rows(dataset: Location, digests: Sequence[str]) -> pa.Table:
    """Return the rows of parts that were read, in order."""
    return pa.concat_tables([INDEX_SCHEMA.empty_table(), *_tables(dataset, digests)])


def clear_parts(dataset_url: str | Location) -> None:
    """Remove what an ingest kept of its way, once its index is kept."""
    folder = locate(dataset_url).join(_FOLDER)
    for name in folder.names():
        folder.join(name).remove()
    if folder.is_local:
        with suppress(OSError):
            Path(folder.url).rmdir()


def reject_repeated(table: pa.Table, first_names: dict[str, str]) -> pa.Table:
    """Reject the usable rows whose bytes another source had; ``first_names`` keeps the first's name by digest."""
    columns = ("uri", "member", "sha256", "reject_reason")
    repeated = {}
    for place, (uri, member, digest, reason) in enumerate(
        zip(*(table[column].to_pylist() for column in columns), strict=True)
    ):
        if reason is None:
            name = source_name(uri, member)
            first = first_names.setdefault(digest, name)
            if first != name:
                repeated[place] = first
    return _reject_duplicates(table, repeated)


class _Repeated:
    """Which rows repeat the bytes of an earlier one; told without holding their names."""

    def __init__(self, first: npt.NDArray[np.int64]) -> None:
        self._first = first  # of each row the first usable one with its bytes, -1 for itself
        self._wanted = set(first[first >= 0].tolist())
        self._names: dict[int, str] = {}
        self._at = 0

    @classmethod
    def among(cls, dataset: Location, digests: Sequence[str]) -> _Repeated:
        """Look through the digests of all photographs, 32 bytes of memory each."""
        columns = ["sha256", "reject_reason"]
        parts = [_usable_digests(table) for table in _tables(dataset, digests, columns)]
        usable = np.concatenate([np.zeros(0, "S32"), *parts])
        del parts
        order = np.argsort(usable, kind="stable")
        ordered = usable[order]
        begins = np.ones(len(ordered), bool)
        begins[1:] = ordered[1:] != ordered[:-1]
        # each run of equal digests begins with its first row, since the sort is stable
        leaders = order[np.flatnonzero(begins)[np.cumsum(begins) - 1]]
        first = np.full(len(usable), -1, np.int64)
        first[order] = np.where(begins | (ordered == b""), -1, leaders)
        return cls(first)

    def reject(self, table: pa.Table) -> pa.Table:
        """Reject what repeats earlier bytes, in the next rows of all."""
        start, stop = self._at, self._at + table.num_rows
        self._at = stop
        for row in self._wanted.intersection(range(start, stop)):
            names = table.slice(row - start, 1).select(["uri", "member"]).to_pylist()[0]
            self._names[row] = source_name(names["uri"], names["member"])
        first = self._first[start:stop]
        places = np.flatnonzero(first >= 0).tolist()
        return _reject_duplicates(table, {place: self._names[int(first[place])] for place in places})


def _reject_duplicates(table: pa.Table, firsts: Mapping[int, str]) -> pa.Table:
    """Reject rows, by their place, since they repeat the bytes of the source that is named."""
    if not firsts:
        return table
    said = {"reject_reason": "duplicate", "reject_detail": "It has the same bytes as {}."}
    for column, text in said.items():
        values = table[column].to_pylist()
        for place, first in firsts.items():
            values[place] = text.format(first)
        table = table.set_column(table.schema.get_field_index(column), INDEX_SCHEMA.field(column), [values])
    return table


def _usable_digests(table: pa.Table) -> npt.NDArray[np.bytes_]:
    """Return the digests of the usable rows, and nothing in the place of the others."""
    rows = zip(table["sha256"].to_pylist(), table["reject_reason"].to_pylist(), strict=True)
    return np.array([bytes.fromhex(digest) if reason is None else b"" for digest, reason in rows], "S32")


def _part(chosen: list[Item], recipe: Recipe) -> Part:
    facts = {"limits": recipe.limits.model_dump(mode="json"), "column": recipe.corpus_column}
    facts |= {"licences": recipe.licences.model_dump(mode="json")} if recipe.licences is not None else {}
    listing = json.dumps([astuple(item) for item in chosen]).encode()
    digest = hashlib.sha256(canonical_json(facts) + listing).hexdigest()[:32]
    return Part(digest, listing, recipe.limits, recipe.corpus_column, recipe.licences)


def _tables(dataset: Location, digests: Sequence[str], columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Read the rows of parts in order, a few parts ahead."""
    with ThreadPoolExecutor(_READERS) as pool:
        waiting = iter(digests)
        coming = [pool.submit(read_table, _file(dataset, digest), columns) for digest in islice(waiting, _READERS)]
        while coming:
            table = coming.pop(0).result()
            coming += [pool.submit(read_table, _file(dataset, digest), columns) for digest in islice(waiting, 1)]
            yield table


def _file(dataset: Location, digest: str) -> Location:
    return dataset.join(_FOLDER, f"{digest}.parquet")
