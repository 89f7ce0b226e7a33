"""Training at full speed: batches of shuffled crops from one dataset or a mixture, exactly resumable."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import IterableDataset, get_worker_info

from aura.errors import InvalidInputError
from storage.objects.location import Location
from storage.objects.transport import TransportName
from storage.reading.crops import Cutter, Frame
from storage.reading.cutting import Cutting
from storage.reading.frames import Caching, Fetched, FrameReader
from storage.reading.order import (
    ORDER_RELEASE,
    Batch,
    Progress,
    Shape,
    Visits,
    batches_of,
    epoch_visits,
    rank_part,
    whole_batches,
)
from storage.reading.sample_columns import VersionName, as_columns, choose_version, load_samples
from storage.reading.selection import select
from storage.reading.shared_epoch import SharedEpoch
from storage.reading.splits import Split
from storage.recipe import canonical_json

_FETCHERS: Final = 8
_LEAST_BLOCKS: Final = 8
"""Of a small dataset, so that several workers have something to do."""
_CUTTING_UP: Final = frozenset({"batch_size", "crops_per_sample", "block", "drop_last", "ranks", "order"})
"""What decides how an epoch is handed out, which matters to what is left of one that has begun."""
_HELD_AT_ONCE: Final = 3
"""A block is held decoded, beside it encoded, and the next one encoded; encoding never makes it larger."""


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset of a mixture.

    Attributes:
        url: where it lies.
        weight: share of the crops that come from it, relative to the other sources; None, for all sources, takes each
            sample once.
        version: as :class:`storage.reading.RawDataset` takes it.
    """

    url: str | os.PathLike[str] | Location
    weight: float | None = None
    version: VersionName = None


class RawStream(IterableDataset[dict[str, Any]]):
    """Batches of crops as an iterable torch dataset: shuffled, split over ranks and workers, resumable in mid-epoch.

    Give it to :class:`storage.reading.RawLoader`, or to a DataLoader with ``batch_size=None``. An epoch gives each
    sample's crops once, whatever the number of ranks and workers, and the batches are the same for any number of
    workers. A batch is a dict as :class:`storage.reading.RawDataset` describes for an item, with one more axis in
    front, lists of texts and of ``annotations``, and ``position``: worker, block and number of the batch.

    Shards, or parts of few large ones, come in a seeded order; a block of samples is read ahead while the one before is
    used; the crops of a block are shuffled among each other. A worker holds at most :attr:`memory_bytes` of samples.

    Attributes:
        columns: what is known of all samples of all sources (:class:`storage.reading.sample_columns.SampleColumns`).
    """

    def __init__(
        self,
        sources: str | os.PathLike[str] | Location | Sequence[Source],
        *,
        version: VersionName = None,
        batch_size: int = 32,
        cutting: Cutting | None = None,
        crops_per_sample: int = 1,
        samples_per_epoch: int | None = None,
        shuffle: bool = True,
        drop_last: bool = False,
        split: Split | None = None,
        where: pc.Expression | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        memory_mib: int = 256,
        transport: TransportName = "fsspec",
        caching: Caching | None = None,
    ) -> None:
        """Open the sources and read their tables of samples.

        Args:
            sources: a dataset's URL, or the sources of a mixture.
            version: of a single dataset, as :class:`storage.reading.RawDataset` takes it.
            batch_size: crops to a batch.
            cutting: crops, augmentation and noise on reading; None gives whole samples.
            crops_per_sample: crops of each sample in an epoch, which are cut from it after one decoding and spread over
                the block's batches.
            samples_per_epoch: length of an epoch of a mixture by weight; None for as many as there are samples.
            shuffle: seeded order; otherwise as stored.
            drop_last: leave out a rank's last batch if it is not full, and its last sample if others have one less; all
                take equally many steps, as training that averages gradients over them must.
            split: read only one part of the photographs, of all sources.
            where: read only samples of which this is true, of all sources; see
                :func:`storage.reading.selection.select`.
            seed: of the order and of all that is drawn.
            rank: of this process among those that train together.
            ranks: how many train together.
            memory_mib: how much a worker should hold; the least is what the samples of one batch need.
            transport: how S3 is read, see :func:`storage.objects.transport.open_transport`.
            caching: keep decoded samples on a local disk, so that later epochs neither fetch nor decode them.

        Raises:
            MissingFileError: there is no dataset, no such version, or no version at all.
            InvalidInputError: a number is out of range, or the datasets cannot be read so.
            IntegrityError: a table is damaged.
            StorageError: the storage refused.
        """
        _require_positive(batch_size=batch_size, crops_per_sample=crops_per_sample, ranks=ranks, memory_mib=memory_mib)
        wanted = [Source(sources, None, version)] if isinstance(sources, str | os.PathLike | Location) else [*sources]
        self._weights = _weights(wanted, version)
        opened = [choose_version(source.url, source.version) for source in wanted]
        self._datasets = [chosen.dataset for chosen in opened]
        tables = [select(chosen, load_samples(chosen), where) for chosen in opened]
        if split is not None:
            tables = [split.of(table) for table in tables]
        self.columns = as_columns(tables, [dataset.recipe.shard_size for dataset in self._datasets])
        self._cutting = cutting or Cutting()
        self._cutter = Cutter(self.columns, self._datasets, self._cutting, seed)
        self._crops, self._batch_size = crops_per_sample, batch_size
        self._length = samples_per_epoch
        self._shuffle, self._drop_last, self._seed = shuffle, drop_last, seed
        self._rank, self._ranks, self._transport = rank, ranks, transport
        self._split = split
        # an expression's words leave out the middle of a long list of values, so the samples chosen are told, too
        self._where = None if where is None else [str(where), *map(_digest_of_indexes, tables)]
        self._caching = caching
        self._sample_bytes = max(map(self._size_of, range(len(self._datasets))))
        self._epoch = SharedEpoch()
        self._progress, self._progress_of = Progress(), 0
        fitting = (memory_mib << 20) // (_HELD_AT_ONCE * self._sample_bytes)
        step = whole_batches(1, crops_per_sample, batch_size)
        shared = whole_batches(-(-len(self._visits()) // _LEAST_BLOCKS), crops_per_sample, batch_size)
        self._block_visits = max(step, min(fitting // step * step, shared))
        if len(self.columns) and not len(self):
            raise InvalidInputError(
                f"An epoch of {len(self.columns)} samples leaves each of {ranks} ranks no full batch of {batch_size}, "
                "and drop_last drops the rest. Use smaller batches, fewer ranks, more crops, or no drop_last."
            )

    @property
    def epoch(self) -> int:
        """The order, the crops and the noise follow from it and the seed."""
        return self._epoch.get()

    @property
    def memory_bytes(self) -> int:
        """The most that a worker holds of samples, read ahead or decoded; its batches come on top of it."""
        return _HELD_AT_ONCE * self._block_visits * self._sample_bytes

    @property
    def shape(self) -> Shape:
        """How this rank's epoch is cut into blocks and batches."""
        return Shape(len(self._visits()), self._block_visits, self._crops, self._batch_size, self._drop_last)

    def __len__(self) -> int:
        """Number of batches of this rank's whole epoch."""
        return self.shape.batches

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch; what was done of another is forgotten.

        Raises:
            InvalidInputError: the epoch is negative.
        """
        if epoch < 0:
            raise InvalidInputError(f"Epoch is {epoch}; expected 0 or more.")
        self._begin(epoch, Progress())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Yield the batches that are left of the epoch; in a DataLoader's worker this worker's.

        Without workers, the progress is kept, and the next epoch begins when this one ends. With workers,
        :class:`storage.reading.RawLoader` does that.

        Raises:
            StorageError: the storage refused.
            IntegrityError: a chunk is damaged.
        """
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        epoch, visits, shape = self.epoch, self._visits(), self.shape
        # a worker that lives through several epochs knows the progress of the one that it began with
        progress = self._progress if self._progress_of == epoch else Progress()
        role, blocks = progress.blocks_of(worker, workers, shape)
        done = dict(progress.done)
        pool = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="samples")
        try:
            for block, held in self._blocks(visits, shape, blocks, pool):
                for batch in batches_of(
                    shape, block, role, done.get(block, 0), self._seed, epoch, shuffle=self._shuffle
                ):
                    made = held.make(batch, self._cutter, epoch, self._crops)
                    if info is None:
                        self.mark(made["position"].tolist(), 1)
                    yield made
                del held  # or it would live until the next block but one is on its way
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        if info is None and self.epoch == epoch:
            self.set_epoch(epoch + 1)

    def mark(self, position: Sequence[int], workers: int) -> None:
        """Count a batch as done, by its ``position`` and the number of workers; loaders call it."""
        worker, block, number = position
        self._progress.mark(worker, workers, block, number, self.shape)

    def state_dict(self) -> dict[str, Any]:
        """Say where the epoch stands, as JSON types.

        Ranks that take their steps together stand alike, so the state of one is that of all.
        """
        return {"epoch": self.epoch, "progress": self._progress.as_dict(), "made_of": self._made_of()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken: the batches not done yet, each once.

        With as many workers as then they also come in the same order. A state of which no batch is done yet, as at an
        epoch's end, may be taken to other batches and another number of ranks.

        Raises:
            InvalidInputError: the state is of other data or another seed, or, within an epoch, of other batches or
                another number of ranks.
        """
        try:
            epoch, progress, made_of = int(state["epoch"]), Progress.from_dict(state["progress"]), state["made_of"]
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidInputError("This is not a state of a RawStream. Give what state_dict returned.") from error
        mine = self._made_of()
        matters = set(mine) if progress.begun else set(mine) - _CUTTING_UP
        differing = sorted(name for name in matters if mine[name] != made_of.get(name))
        if "order" in differing:
            raise InvalidInputError(
                "The state is from the middle of an epoch that another release ordered in another way, so what is left "
                "of it is not known. Go on from the next epoch: set_epoch."
            )
        if differing:
            raise InvalidInputError(
                f"The state is of another stream: {', '.join(differing)} differ. Make the stream as it was made then."
            )
        self._begin(epoch, progress)

    def trace(self, sample_id: str) -> list[dict[str, Any]]:
        """Return what is known of a sample by its id: source photograph, its hash, the crop of it, and the rest.

        Returns:
            A dict by column name (:class:`storage.datasets.samples.SampleRow`) with ``dataset``, for each source
            that has it.
        """
        found = []
        for dataset, table in zip(self._datasets, self.columns.tables, strict=True):
            place = table["sample_id"].index(sample_id).as_py()
            if place >= 0:
                found.append(table.slice(place, 1).to_pylist()[0] | {"dataset": dataset.location.url})
        return found

    def _begin(self, epoch: int, progress: Progress) -> None:
        self._epoch.set(epoch)
        self._progress, self._progress_of = progress, epoch

    def _visits(self) -> Visits:
        key = self.epoch
        if getattr(self, "_known_visits", (None, None))[0] != key:
            visits = epoch_visits(
                self.columns.shards_by_source(), self._weights, self._length, self._seed, key, shuffle=self._shuffle
            )
            mine = rank_part(visits, self._rank, self._ranks)
            self._known_visits = (key, mine.part(0, len(visits) // self._ranks) if self._drop_last else mine)
        return self._known_visits[1]

    def _blocks(
        self, visits: Visits, shape: Shape, blocks: Sequence[int], pool: Executor
    ) -> Iterator[tuple[int, _Block]]:
        """Yield blocks, the next of which is on its way while one is used."""
        reader = FrameReader(
            self.columns, self._datasets, srgb=self._cutting.srgb, transport=self._transport, caching=self._caching
        )
        coming: _Block | None = None
        for place, block in enumerate(blocks):
            current = coming or _Block(visits.part(*shape.bounds(block)), reader, pool)
            following = blocks[place + 1 : place + 2]
            coming = _Block(visits.part(*shape.bounds(following[0])), reader, pool) if following else None
            yield block, current

    def _size_of(self, source: int) -> int:
        canvas = self._datasets[source].recipe.canvas
        pixels = canvas.height * canvas.width
        return 2 * pixels + (3 * pixels if self._cutting.srgb else 0)

    def _made_of(self) -> dict[str, Any]:
        """What decides the order of an epoch."""
        content = [
            [dataset.version or _digest_of_indexes(table), dataset.recipe.digest, table.num_rows]
            for dataset, table in zip(self._datasets, self.columns.tables, strict=True)
        ]
        return {
            "data": hashlib.sha256(canonical_json(content)).hexdigest(),
            "weights": None if self._weights is None else list(self._weights),
            "split": None if self._split is None else [self._split.part, self._split.share, self._split.seed],
            "where": self._where,
            "samples_per_epoch": self._length,
            "batch_size": self._batch_size,
            "crops_per_sample": self._crops,
            "block": self._block_visits,
            "shuffle": self._shuffle,
            "drop_last": self._drop_last,
            "seed": self._seed,
            "ranks": self._ranks,
            "order": ORDER_RELEASE,
        }


def _digest_of_indexes(samples: pa.Table) -> str:
    return hashlib.sha256(samples["index"].to_numpy().tobytes()).hexdigest()


class _Block:
    """The samples of one block: on their way, then decoded from their first crop to their last."""

    def __init__(self, visits: Visits, reader: FrameReader, pool: Executor) -> None:
        self._visits, self._reader = visits, reader
        self._fetched: dict[int, Fetched] = reader.fetch(visits.row, pool)
        self._decoded: dict[int, tuple[Frame, Frame | None]] = {}
        rows, counts = np.unique(visits.row, return_counts=True)
        self._uses = dict(zip(rows.tolist(), counts.tolist(), strict=True))
        self._crops_left: dict[int, int] = {}

    def make(self, batch: Batch, cutter: Cutter, epoch: int, crops: int) -> dict[str, Any]:
        visits, number = np.divmod(batch.items, crops)
        rows, turns = self._visits.row[visits], self._visits.turn[visits]
        made = cutter.cut(rows, (epoch, turns, number), lambda row: self._frame(row, crops))
        made["position"] = np.array([batch.worker, batch.block, batch.number])
        return made

    def _frame(self, row: int, crops: int) -> tuple[Frame, Frame | None]:
        left = self._crops_left.get(row, self._uses[row] * crops) - 1
        self._crops_left[row] = left
        frame = self._decoded.pop(row, None) or self._reader.decode(row, self._fetched)
        if left:
            self._decoded[row] = frame
        return frame


def as_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """Turn a batch's arrays into tensors; texts stay lists."""
    return {name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in batch.items()}


def _weights(sources: Sequence[Source], version: VersionName) -> list[float] | None:
    if not sources:
        raise InvalidInputError("There is no source; give at least one dataset.")
    if version is not None and len(sources) > 1:
        raise InvalidInputError("version is of a single dataset; give each Source its own.")
    given = [source.weight for source in sources if source.weight is not None]
    if given and len(given) != len(sources):
        raise InvalidInputError(f"{len(given)} of {len(sources)} sources have a weight; give one to all or to none.")
    return given or None


def _require_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise InvalidInputError(f"{name} is {number}; expected 1 or more.")
