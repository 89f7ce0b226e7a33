"""How a corpus was listed: the index and every listing that was laid over it since."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aura.errors import IntegrityError
from storage.corpora.index import INDEX_NAME, INDEX_SCHEMA, TableFile, has_index
from storage.datasets.dataset import Dataset
from storage.objects.location import Location

REMOVED: Final = "removed"
"""Reason in a listing of a file that is no longer in the corpus."""

_COMPARED_AT_ONCE: Final = 4096
USABLE: Final = ("sha256", "reject_reason")
"""Columns that tell which photographs can be used."""

NAME: Final = ("uri", "member", "offset_bytes")
"""Columns that name a row."""

Keys = npt.NDArray[np.bytes_]
"""Digests of 16 bytes: a million of them take as many bytes of memory, where names would take hundreds."""


def current_index(dataset: Dataset, columns: Sequence[str] | None = None) -> pa.Table:
    """Return the corpus as it was listed last: the index with every listing laid over it, without what is gone.

    Args:
        dataset: the dataset.
        columns: those to return; None returns all.

    Raises:
        IntegrityError: a table is damaged, or the index is lost.
        StorageError: the storage refused.
    """
    wanted = pa.schema([INDEX_SCHEMA.field(name) for name in columns or INDEX_SCHEMA.names])
    return pa.concat_tables([wanted.empty_table(), *current_rows(dataset, columns)])


def current_rows(dataset: Dataset, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield what :func:`current_index` returns, some ten thousand rows at a time; of the rest, memory holds 16 bytes.

    Raises:
        IntegrityError: a table is damaged, or the index is lost.
        StorageError: the storage refused.
    """
    wanted = INDEX_SCHEMA.names if columns is None else list(columns)
    for rows, stays in History.read(dataset).rows(wanted):
        yield rows.filter(pa.array(stays)) if not stays.all() else rows


def present_sources(index: pa.Table) -> frozenset[str]:
    """Return the digests of the photographs that an index holds and that can be used."""
    return frozenset(usable(index).to_pylist())


def gone_sources(dataset: Dataset) -> frozenset[str]:
    """Return the digests of the photographs that were in the corpus once and are no more."""
    if dataset.listings == 1:
        return frozenset()
    history = History.read(dataset)
    gone: set[str] = set()
    for rows, stays in history.rows(USABLE):
        gone.update(usable(rows.filter(pa.array(~stays))).to_pylist())
    for rows, stays in history.rows(USABLE):
        present = usable(rows.filter(pa.array(stays)))
        gone.difference_update(present.filter(pc.is_in(present, texts(gone))).to_pylist())
    return frozenset(gone)


@dataclass(frozen=True, slots=True)
class History:
    """The index and all listings after it, as they are kept; decoded they take several times the memory.

    Attributes:
        files: the tables in order, encoded.
        last: of each row whether no later one has its name; None if there is but the index.
    """

    files: tuple[TableFile, ...]
    last: npt.NDArray[np.bool_] | None

    @classmethod
    def read(cls, dataset: Dataset) -> History:
        """Read the tables of a dataset.

        Raises:
            IntegrityError: a table is damaged, or the index is lost.
            StorageError: the storage refused.
        """
        if not has_index(dataset.location, dataset.recipe):
            raise IntegrityError(f"{dataset.location.url} has lost its index.parquet. Restore that file from a copy.")
        places = [listing_location(dataset.location, listing) for listing in range(2, dataset.listings + 1)]
        files = tuple(TableFile.read(place) for place in [dataset.location.join(INDEX_NAME), *places])
        if len(files) == 1:
            return cls(files, None)
        keys = np.concatenate([keys_of(rows, NAME) for file in files for rows in file.rows(NAME)])
        _, from_behind = np.unique(keys[::-1], return_index=True)
        last = np.zeros(len(keys), bool)
        last[len(keys) - 1 - from_behind] = True
        return cls(files, last)

    def rows(self, columns: Sequence[str]) -> Iterator[tuple[pa.Table, npt.NDArray[np.bool_]]]:
        """Yield some rows at a time, and which of them the corpus holds as it was listed last."""
        begin = 0
        for file in self.files:
            for rows in file.rows([*columns, *({"reject_reason"} - {*columns})]):
                stays = np.ones(rows.num_rows, bool)
                if self.last is not None:
                    stays = self.last[begin : begin + rows.num_rows].copy()
                    stays &= np.asarray(pc.not_equal(pc.fill_null(rows["reject_reason"], ""), REMOVED))
                begin += rows.num_rows
                yield rows.select(list(columns)), stays


def usable(index: pa.Table) -> pa.Array:
    """Digests of the photographs of an index that can be used."""
    usable = pc.is_in(index["reject_reason"], texts([None, "duplicate"]))
    return index["sha256"].filter(usable).unique()


def keys_of(table: pa.Table, columns: Sequence[str]) -> Keys:
    """Return a key of 16 bytes for each row, equal where all of these columns are."""
    pieces = table.select(columns).to_batches(_COMPARED_AT_ONCE)
    return digests_of(row for piece in pieces for row in zip(*(values.to_pylist() for values in piece), strict=True))


def digests_of(rows: Iterable[Iterable[Any]]) -> Keys:
    """Return a key for each row of values."""
    return np.fromiter((hashlib.blake2b(repr([*row]).encode(), digest_size=16).digest() for row in rows), "S16")


def texts(values: Iterable[str | None]) -> pa.Array:
    """Make an Arrow array of texts."""
    return pa.array(list(values), pa.string())


def listing_location(dataset: Location, listing: int) -> Location:
    """Return where a later listing of the corpus lies."""
    return dataset.join("listings", f"{listing:06d}.parquet")
