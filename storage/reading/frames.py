"""Decoded samples of one or several datasets: fetched in threads, decoded where they are needed."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aura.errors import InvalidInputError
from storage.datasets.dataset import Dataset
from storage.objects.refusals import refusals
from storage.objects.transport import Bytes, TransportName, open_transport
from storage.reading.chunks import SampleChunks
from storage.reading.crops import Frame
from storage.reading.frame_cache import FrameCache
from storage.reading.sample_columns import SampleColumns
from storage.recipe import canonical_json


@dataclass(frozen=True, slots=True)
class Caching:
    """A cache of decoded samples on a local disk.

    Attributes:
        folder: where it lies; processes and runs that read the same samples share it. It may be deleted at any time
            when nobody reads.
        gib: how much it may hold.
    """

    folder: str | os.PathLike[str]
    gib: float = 16.0


@dataclass(frozen=True, slots=True)
class Fetched:
    """The encoded samples of one shard, on their way: chunks of the RAW and, where wanted, of the source pixels."""

    chunks: Future[tuple[list[Bytes], list[Bytes] | None]]
    place: int


class FrameReader:
    """Reads samples through handles of its own; make one in each process."""

    def __init__(
        self,
        columns: SampleColumns,
        datasets: Sequence[Dataset],
        *,
        srgb: bool,
        transport: TransportName = "fsspec",
        caching: Caching | None = None,
    ) -> None:
        """Open the arrays of the datasets.

        Raises:
            MissingFileError: an array is not there.
            IntegrityError: its metadata are damaged.
            StorageError: the storage refused.
        """
        self._columns = columns
        self._urls = [dataset.location.url for dataset in datasets]
        self._made_by = [_made_by(each) for each in datasets]
        ways = [open_transport(dataset.location, transport) for dataset in datasets]
        self._raw = [SampleChunks(each.location, "raw", way) for each, way in zip(datasets, ways, strict=True)]
        self._srgb = [
            SampleChunks(each.location, "srgb", way) if srgb and each.recipe.keep_srgb else None
            for each, way in zip(datasets, ways, strict=True)
        ]
        self._caches = [] if caching is None else self._open_caches(caching)

    def fetch(self, rows: npt.NDArray[np.int64], pool: Executor) -> dict[int, Fetched]:
        """Begin to read samples: per shard one task, which reads neighbours at once.

        Returns:
            By row what :meth:`decode` takes; nothing for those in the cache.
        """
        columns = self._columns
        distinct = np.unique(rows)
        if self._caches:
            distinct = distinct[[not all(cache.has(row) for cache in self._caches) for row in distinct.tolist()]]
        groups: dict[tuple[int, int], list[int]] = {}
        for row, source, shard in zip(
            distinct.tolist(), columns.source[distinct].tolist(), columns.shard[distinct].tolist(), strict=True
        ):
            groups.setdefault((source, shard), []).append(row)
        # in the order in which they were asked for, so that what is needed first is read first
        first = {key: int(np.argmax(np.isin(rows, group))) for key, group in groups.items()}
        fetched: dict[int, Fetched] = {}
        for source, shard in sorted(groups, key=lambda key: first[key]):
            group = groups[source, shard]
            indexes = columns.numbers["index"][group]
            task = pool.submit(self._read, source, shard, indexes.tolist())
            fetched |= {row: Fetched(task, place) for place, row in enumerate(group)}
        return fetched

    def decode(self, row: int, fetched: Mapping[int, Fetched]) -> tuple[Frame, Frame | None]:
        """Wait for a sample and decode it: uint16 ``[4, h, w]``, and uint8 ``[3, 2h, 2w]`` where wanted and kept.

        Raises:
            MissingFileError: its shard has no object.
            IntegrityError: its chunk is damaged.
            StorageError: the storage refused.
        """
        if row not in fetched:
            kept = [cache.frame(row) for cache in self._caches]
            return kept[0], kept[1] if len(kept) > 1 else None
        source = int(self._columns.source[row])
        raw, srgb = fetched[row].chunks.result()
        place, pixels, index = fetched[row].place, self._srgb[source], int(self._columns.numbers["index"][row])
        frame: npt.NDArray[Any] = self._raw[source].decode(raw[place], index)
        source_pixels = None if srgb is None or pixels is None else pixels.decode(srgb[place], index)
        for cache, decoded in zip(self._caches, (frame, source_pixels), strict=False):
            if decoded is not None:
                cache.keep(row, decoded)
        return frame, source_pixels

    def _open_caches(self, caching: Caching) -> list[FrameCache]:
        """Open a cache of the RAW, and one of the source pixels where all sources give them."""
        pixels = [one for one in self._srgb if one is not None]
        arrays = {"raw": self._raw} | ({"srgb": pixels} if len(pixels) == len(self._raw) else {})
        uneven = any(one.shape != array[0].shape for array in arrays.values() for one in array)
        if uneven or 0 < len(pixels) < len(self._raw):
            raise InvalidInputError(
                "The sources' samples differ in size or kind, which a cache cannot hold. Leave it out."
            )
        whole = sum(_sample_bytes(array[0]) for array in arrays.values())
        # a sample's id is of its photograph and crop alone: what else decides its bytes is its dataset's
        identity = [
            *self._made_by,
            *(text for table in self._columns.tables for text in table["sample_id"].to_pylist()),
        ]
        return [
            FrameCache(
                Path(caching.folder),
                [name, *identity],
                array[0].shape,
                array[0].dtype,
                len(self._columns),
                int(caching.gib * 2**30 * _sample_bytes(array[0]) / whole),
            )
            for name, array in arrays.items()
        ]

    def _read(self, source: int, shard: int, indexes: Sequence[int]) -> tuple[list[Bytes], list[Bytes] | None]:
        raw, srgb = self._raw[source], self._srgb[source]
        slots = [index - shard * raw.shard_size for index in indexes]
        with refusals(self._urls[source], "read"):
            return raw.read(shard, slots), None if srgb is None else srgb.read(shard, slots)


def _made_by(dataset: Dataset) -> str:
    made_by = [dataset.recipe.deciding, dataset.model_digest, dict(dataset.profiles)]
    return hashlib.sha256(canonical_json(made_by)).hexdigest()


def _sample_bytes(array: SampleChunks) -> int:
    size: int = math.prod(array.shape) * array.dtype.itemsize
    return size
