"""The samples tables of one or several datasets as arrays, row by row: what a reader looks up for each crop."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from aura.errors import InvalidInputError
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.samples import SAMPLE_SCHEMA
from storage.datasets.tags import resolve_version
from storage.datasets.versions import read_version
from storage.objects.location import Location
from storage.objects.tables import row_at

VersionName = int | str | None
"""A published version's number, its tag, None for the newest, or ``unpublished`` for whatever is finished by now."""

UNPUBLISHED: Final = "unpublished"
SCALARS: Final = (
    "noise_system_gain_dn_per_electron",
    "noise_read_sigma_dn",
    "noise_read_tukey_lambda",
    "noise_row_sigma_dn",
    "noise_quantisation_step_dn",
    "exposure",
)
VECTORS: Final = {
    "black_level_dn": 4,
    "white_level_dn": 4,
    "noise_black_offset_dn": 4,
    "wb_gains": 3,
    "camera_to_srgb": 9,
}
TEXTS: Final = ("camera", "cfa_pattern", "noise_model")
INTEGERS: Final = ("index", "iso", "valid_height_px", "valid_width_px")

_LOADERS: Final = 16


@dataclass(frozen=True, slots=True)
class SampleColumns:
    """The samples of one or several sources; row i of every array is the same sample.

    Attributes:
        source: int64, number of the row's source.
        shard: int64, the shard it lies in, within its source.
        numbers: the columns of :data:`INTEGERS` (int64), :data:`SCALARS` (float32) and :data:`VECTORS` (float32, two
            dimensions) by name.
        texts: the columns of :data:`TEXTS` by name; equal texts share one object.
        tables: the whole table of each source.
        starts: first row of each source, and the number of all rows.
    """

    source: npt.NDArray[np.int64]
    shard: npt.NDArray[np.int64]
    numbers: dict[str, npt.NDArray[Any]]
    texts: dict[str, npt.NDArray[np.object_]]
    tables: tuple[pa.Table, ...]
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return self.starts[-1]

    def shards_by_source(self) -> list[npt.NDArray[np.int64]]:
        """Return each source's part of :attr:`shard`."""
        return [self.shard[begin:end] for begin, end in zip(self.starts[:-1], self.starts[1:], strict=True)]

    def sample_ids(self, rows: npt.NDArray[np.int64]) -> list[str]:
        """Look up the ``sample_id`` of rows."""
        return [
            self.tables[source]["sample_id"][row - self.starts[source]].as_py()
            for source, row in zip(self.source[rows].tolist(), rows.tolist(), strict=True)
        ]

    def facts(self, row: int) -> dict[str, Any]:
        """Return everything the table says about a row, plain values by column name."""
        source = int(self.source[row])
        return row_at(self.tables[source], row - self.starts[source])


@dataclass(frozen=True, slots=True)
class ChosenVersion:
    """What of a dataset is read.

    Attributes:
        dataset: the handle, with the version's number.
        shards: ascending.
        removed: indexes of samples that lie in the shards and are not in the version.
    """

    dataset: Dataset
    shards: tuple[int, ...]
    removed: frozenset[int] = frozenset()


def choose_version(url: str | os.PathLike[str] | Location, version: VersionName) -> ChosenVersion:
    """Open a dataset and find what a version holds.

    Raises:
        MissingFileError: there is no dataset, no such version or tag, or no version at all.
        InvalidInputError: the version is neither a number nor a name.
        IntegrityError: the version's file is damaged.
        StorageError: the storage refused.
    """
    dataset = open_dataset(url)
    if version == UNPUBLISHED:
        return ChosenVersion(dataset, tuple(dataset.committed_shards()))
    if version is not None and not isinstance(version, int | str):
        raise InvalidInputError(
            f"version is {version!r}; give a number or a tag, None for the newest, or '{UNPUBLISHED}'."
        )
    number = resolve_version(dataset.location, version)
    chosen = read_version(dataset.location, number)
    shards = tuple(shard.shard for shard in chosen.shards)
    return ChosenVersion(replace(dataset, version=number), shards, chosen.removed)


def load_samples(chosen: ChosenVersion) -> pa.Table:
    """Read the samples tables of a version's shards, in their order, as one.

    Returns:
        A table with :data:`storage.datasets.samples.SAMPLE_SCHEMA`, without what was removed.

    Raises:
        MissingFileError: a shard is not committed.
        IntegrityError: a table is damaged.
        StorageError: the storage refused.
    """
    if not chosen.shards:
        return SAMPLE_SCHEMA.empty_table()
    with ThreadPoolExecutor(_LOADERS) as pool:
        tables = [table.replace_schema_metadata(None) for table in pool.map(chosen.dataset.samples, chosen.shards)]
    table = pa.concat_tables(tables).combine_chunks()
    if chosen.removed:
        table = table.filter(pc.invert(pc.is_in(table["index"], value_set=pa.array(sorted(chosen.removed)))))
    return table.combine_chunks()


def as_columns(tables: Sequence[pa.Table], shard_sizes: Sequence[int]) -> SampleColumns:
    """Make arrays of the sources' tables.

    Args:
        tables: one per source.
        shard_sizes: samples in a shard of each source.
    """
    lengths = [table.num_rows for table in tables]
    joined = pa.concat_tables([table.select(_needed()) for table in tables])
    numbers: dict[str, npt.NDArray[Any]] = {name: joined[name].to_numpy().astype(np.int64) for name in INTEGERS}
    for name in SCALARS:
        numbers[name] = joined[name].to_numpy().astype(np.float32)
    for name, length in VECTORS.items():
        flat = joined[name].combine_chunks().flatten() if joined.num_rows else pa.array([], pa.float32())
        numbers[name] = flat.to_numpy().astype(np.float32).reshape(-1, length)
    source = np.repeat(np.arange(len(tables)), lengths)
    return SampleColumns(
        source=source,
        shard=numbers["index"] // np.asarray(shard_sizes, np.int64)[source] if joined.num_rows else source,
        numbers=numbers,
        texts={name: _shared_texts(joined[name]) for name in TEXTS},
        tables=tuple(tables),
        starts=tuple(np.cumsum([0, *lengths]).tolist()),
    )


def _needed() -> list[str]:
    return [*INTEGERS, *SCALARS, *VECTORS, *TEXTS]


def _shared_texts(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    encoded = column.combine_chunks().dictionary_encode() if len(column) else pa.array([], pa.string())
    if not len(column):
        return np.zeros(0, np.object_)
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.unify_dictionaries().combine_chunks()
    words = np.array(encoded.dictionary.to_pylist(), np.object_)
    shared: npt.NDArray[np.object_] = words[encoded.indices.to_numpy()]
    return shared
