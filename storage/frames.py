"""Decoded samples of one or several datasets: fetched in threads, decoded where they are needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from storage.chunks import SampleChunks
from storage.crops import Frame
from storage.dataset import Dataset
from storage.location import refusals
from storage.sample_columns import SampleColumns
from storage.transport import Bytes, TransportName, open_transport


@dataclass(frozen=True, slots=True)
class Fetched:
    """The encoded samples of one shard, on their way: chunks of the RAW and, where wanted, of the source pixels."""

    chunks: Future[tuple[list[Bytes], list[Bytes] | None]]
    place: int


class FrameReader:
    """Reads samples through handles of its own; make one in each process."""

    def __init__(
        self, columns: SampleColumns, datasets: Sequence[Dataset], *, srgb: bool, transport: TransportName = "auto"
    ) -> None:
        """Open the arrays of the datasets.

        Raises:
            MissingFileError: an array is not there.
            IntegrityError: its metadata are damaged.
            StorageError: the storage refused.
        """
        self._columns = columns
        self._urls = [dataset.location.url for dataset in datasets]
        ways = [open_transport(dataset.location, transport) for dataset in datasets]
        self._raw = [SampleChunks(each.location, "raw", way) for each, way in zip(datasets, ways, strict=True)]
        self._srgb = [
            SampleChunks(each.location, "srgb", way) if srgb and each.recipe.keep_srgb else None
            for each, way in zip(datasets, ways, strict=True)
        ]

    def fetch(self, rows: npt.NDArray[np.int64], pool: Executor) -> dict[int, Fetched]:
        """Begin to read samples: per shard one task, which reads neighbours at once.

        Returns:
            By row what :meth:`decode` takes.
        """
        columns = self._columns
        distinct = np.unique(rows)
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
        source = int(self._columns.source[row])
        raw, srgb = fetched[row].chunks.result()
        place, pixels = fetched[row].place, self._srgb[source]
        frame: npt.NDArray[Any] = self._raw[source].decode(raw[place])
        return frame, None if srgb is None or pixels is None else pixels.decode(srgb[place])

    def _read(self, source: int, shard: int, indexes: Sequence[int]) -> tuple[list[Bytes], list[Bytes] | None]:
        raw, srgb = self._raw[source], self._srgb[source]
        slots = [index - shard * raw.shard_size for index in indexes]
        with refusals(self._urls[source], "read"):
            return raw.read(shard, slots), None if srgb is None else srgb.read(shard, slots)
