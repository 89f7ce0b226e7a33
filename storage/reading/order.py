"""The order of an epoch: which samples, in which order, on which rank and worker, and what is left of it.

An epoch is a sequence of visits, one per sample: shards, or parts of few shards, of all sources in a seeded order, or
the sources of a mixture drawn by weight.
Ranks take consecutive parts of it. A rank's part is cut into blocks, which bound what a worker holds in memory; the
crops of a block are shuffled among each other and cut into batches. Workers take whole blocks in turn, so the same
batches are made whatever their number.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from aura.errors import InvalidInputError
from storage.reading.draws import draw_unit

Integers = npt.NDArray[np.int64]

_SHARD_STREAM: Final = 0x73686172
_BLOCK_STREAM: Final = 0x626C6F63
_MIXTURE_STREAM: Final = 0x6D697874
_LEAST_PIECES: Final = 64
"""Of what is shuffled: fewer shards are cut into parts, or a small dataset would come in nearly the order it has."""
_LEAST_RUN: Final = 8
"""Samples of a part: neighbours in a shard are fetched in one request."""
ORDER_RELEASE: Final = 2
"""Which way of ordering this is; 1 shuffled whole shards, and each unweighted source by itself."""


@dataclass(frozen=True, slots=True)
class Visits:
    """Samples in the order in which an epoch visits them.

    Attributes:
        row: int64, row of the sample in the table of all sources.
        turn: int64, how often its source had been gone through before in this epoch: 0 but in mixtures.
    """

    row: Integers
    turn: Integers

    def __len__(self) -> int:
        return self.row.size

    def part(self, start: int, stop: int) -> Visits:
        """Return the visits from ``start`` to ``stop``."""
        return Visits(self.row[start:stop], self.turn[start:stop])


@dataclass(frozen=True, slots=True)
class Batch:
    """Place of one batch in a rank's epoch.

    Attributes:
        worker: which worker makes it.
        block: number of its block.
        number: of the batch in its block.
        items: int64, the crops of it: visit within the block times crops per sample, plus the number of the crop.
    """

    worker: int
    block: int
    number: int
    items: Integers


@dataclass(frozen=True, slots=True)
class Shape:
    """How a rank's visits become batches.

    Attributes:
        visits: number of visits.
        block_visits: visits to a block.
        crops: crops of each sample.
        batch_size: crops to a batch.
        drop_last: leave out the one batch that is not full.
    """

    visits: int
    block_visits: int
    crops: int
    batch_size: int
    drop_last: bool

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return -(-self.visits // self.block_visits)

    def bounds(self, block: int) -> tuple[int, int]:
        """First visit of a block, and the one after its last."""
        start = block * self.block_visits
        return start, min(start + self.block_visits, self.visits)

    def batches_in(self, block: int) -> int:
        """Number of batches of a block; all blocks but the last hold whole batches only."""
        start, stop = self.bounds(block)
        items = (stop - start) * self.crops
        return items // self.batch_size if self.drop_last else -(-items // self.batch_size)

    @property
    def batches(self) -> int:
        """Number of batches of the epoch."""
        items = self.visits * self.crops
        return items // self.batch_size if self.drop_last else -(-items // self.batch_size)


@dataclass(slots=True)
class Progress:
    """What of a rank's epoch is done.

    Attributes:
        workers: how many workers made it.
        turn: the worker whose batch comes next.
        done: batches done by block, for blocks that are begun; blocks below ``through`` are done.
        through: see ``done``.
        shared_from: these workers took turns at the blocks from this one on ...
        shared_without: ... but for these, which were done when the number of workers changed.
    """

    workers: int = 1
    turn: int = 0
    through: int = 0
    done: dict[int, int] = field(default_factory=dict)
    shared_from: int = 0
    shared_without: list[int] = field(default_factory=list)

    def mark(self, worker: int, workers: int, block: int, number: int, shape: Shape) -> None:
        """Count a batch that was handed over."""
        if workers != self.workers:
            self.shared_from = self.through
            self.shared_without = sorted(each for each in self.done if not self._is_open(each, shape))
        self.workers, self.turn = workers, (worker + 1) % workers
        self.done[block] = number + 1
        while self.through < shape.blocks and self.batches_done(self.through) >= shape.batches_in(self.through):
            self.done.pop(self.through, None)
            self.through += 1

    @property
    def begun(self) -> bool:
        """Whether a batch is done."""
        return bool(self.through or self.done)

    def batches_done(self, block: int) -> int:
        """Batches of a block that are done, if it lies not below ``through``."""
        return self.done.get(block, 0)

    def blocks_of(self, worker: int, workers: int, shape: Shape) -> tuple[int, list[int]]:
        """Share out what is left.

        Returns:
            The part that worker ``worker`` of ``workers`` plays, and the blocks it makes, in order. With as many
            workers as made what is done last, every batch comes in the place in which it would have come.
        """
        left = [block for block in range(self.through, shape.blocks) if self._is_open(block, shape)]
        if workers != self.workers:
            return worker, left[worker::workers]
        role, still = (worker + self.turn) % workers, set(left)
        shared = sorted(set(range(self.shared_from, shape.blocks)).difference(self.shared_without))
        return role, [block for block in shared[role::workers] if block in still]

    def _is_open(self, block: int, shape: Shape) -> bool:
        return self.batches_done(block) < shape.batches_in(block)

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON types."""
        done = {str(block): count for block, count in self.done.items()}
        shared = {"shared_from": self.shared_from, "shared_without": list(self.shared_without)}
        return {"workers": self.workers, "turn": self.turn, "through": self.through, "done": done, **shared}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Progress:
        """Invert :meth:`as_dict`."""
        done = {int(block): int(count) for block, count in state["done"].items()}
        without = [int(block) for block in state.get("shared_without", [])]  # states of older releases lack it
        workers, turn, through = (int(state[name]) for name in ("workers", "turn", "through"))
        return cls(workers, turn, through, done, int(state.get("shared_from", 0)), without)


def whole_batches(visits: int, crops: int, batch_size: int) -> int:
    """Return the least number of visits, ``visits`` or more, whose crops fill whole batches."""
    step = batch_size // math.gcd(batch_size, crops)
    return max(1, -(-visits // step)) * step


def epoch_visits(
    shards: Sequence[Integers],
    weights: Sequence[float] | None,
    length: int | None,
    seed: int,
    epoch: int,
    *,
    shuffle: bool,
) -> Visits:
    """Order an epoch.

    Args:
        shards: for each source the shard of each of its rows, ascending; rows are numbered through all sources.
        weights: of the sources, None for one source or to take each sample once.
        length: visits of a mixture; None for as many as there are samples.
        seed: of the order.
        epoch: of the order.
        shuffle: whether shards, or parts of them where there are few, come in a seeded order; otherwise as stored.

    Returns:
        Without weights every row once. With weights each visit's source is drawn, and its next sample taken; no sample
        of a source comes again before all of it have come.

    Raises:
        InvalidInputError: weights that are no weights, or a source with a weight and no sample.
    """
    starts = np.cumsum([0] + [one.size for one in shards])
    if weights is None:
        # one source or several, all are shuffled among each other: a shard of the next source is another shard
        offsets = np.cumsum([0] + [int(one.max(initial=-1)) + 1 for one in shards])
        every = [one + offset for one, offset in zip(shards, offsets, strict=False)]
        rows = _order(np.concatenate([*every, np.zeros(0, np.int64)]), (seed, epoch, 0, 0), shuffle=shuffle)
        return Visits(rows, np.zeros_like(rows))
    shares = _shares(weights, shards)
    total = int(starts[-1]) if length is None else length
    drawn = np.searchsorted(
        np.cumsum(shares)[:-1], draw_unit(_MIXTURE_STREAM, seed, epoch, np.arange(total)), side="right"
    )
    rows, turns = np.zeros(total, np.int64), np.zeros(total, np.int64)
    for number, one in enumerate(shards):
        places = np.flatnonzero(drawn == number)
        if not places.size:
            continue
        needed = range(-(-places.size // one.size))
        orders = [_order(one, (seed, epoch, number, turn), shuffle=shuffle) for turn in needed]
        rows[places] = starts[number] + np.concatenate(orders)[: places.size]
        turns[places] = np.arange(places.size) // one.size
    return Visits(rows, turns)


def rank_part(visits: Visits, rank: int, ranks: int) -> Visits:
    """Return a rank's part: consecutive, of the same length for all ranks or one longer.

    Raises:
        InvalidInputError: the rank is none of the ranks.
    """
    if not 0 <= rank < ranks:
        raise InvalidInputError(f"Rank is {rank} of {ranks}; expected 0 to {ranks - 1}.")
    return visits.part(rank * len(visits) // ranks, (rank + 1) * len(visits) // ranks)


def batches_of(
    shape: Shape, block: int, worker: int, done: int, seed: int, epoch: int, *, shuffle: bool
) -> Iterator[Batch]:
    """Yield the batches of a block after the first ``done``."""
    start, stop = shape.bounds(block)
    items = np.arange((stop - start) * shape.crops)
    if shuffle:
        items = np.random.default_rng([_BLOCK_STREAM, seed, epoch, block]).permutation(items)
    for number in range(done, shape.batches_in(block)):
        yield Batch(worker, block, number, items[number * shape.batch_size : (number + 1) * shape.batch_size])


def _order(shards: Integers, keys: tuple[int, ...], *, shuffle: bool) -> Integers:
    """Order rows by shards or parts of them, which come in a seeded order; within one as stored, so reads are few."""
    if not shuffle or not shards.size:
        return np.arange(shards.size)
    _, begins = np.unique(shards, return_index=True)
    cuts = -(-_LEAST_PIECES // begins.size)
    pieces = [
        part
        for shard in np.split(np.arange(shards.size), begins[1:])
        for part in np.array_split(shard, max(1, min(cuts, shard.size // _LEAST_RUN)))
    ]
    order = np.random.default_rng([_SHARD_STREAM, *keys]).permutation(len(pieces))
    return np.concatenate([pieces[number] for number in order])


def _shares(weights: Sequence[float], shards: Sequence[Integers]) -> npt.NDArray[np.float64]:
    shares = np.asarray(weights, np.float64)
    if shares.shape != (len(shards),) or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
        raise InvalidInputError(
            f"Weights are {list(weights)}; expected {len(shards)} numbers of at least 0, not all of them 0."
        )
    for number, (share, one) in enumerate(zip(shares, shards, strict=True)):
        if share and not one.size:
            raise InvalidInputError(f"Source {number} has weight {share:g} and no sample. Leave it out.")
    normalised: npt.NDArray[np.float64] = shares / shares.sum()
    return normalised
