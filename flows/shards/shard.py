"""One shard of a dataset: a pure function of the recipe and the shard's slice of the plan.

The same shard gives the same bytes on any worker, in any order, however often it is made. It may be killed at any
moment: a shard without its samples table does not exist.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Final

import numpy as np

from aura.errors import IntegrityError, RejectedImageError
from aura.precompile import rehearse
from aura.reconstruct import Method, Reconstructor
from flows.shards.batches import batches, together
from flows.shards.lanes import Lanes, lanes
from flows.shards.one_at_a_time import one_at_a_time
from flows.shards.sample import Cut, Photograph, Piece, PlanRow, Sample, begin, cut, make_pieces
from flows.shards.stages import in_order
from storage.corpora.corpus import read_source
from storage.corpora.photograph import decode
from storage.corpora.sources import source_name
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.lease import LeaseToken
from storage.datasets.plan import read_shard_plan
from storage.datasets.samples import RejectRow
from storage.datasets.shard import EncodedSample, encode_sample, is_committed, join_samples, write_objects
from storage.recipe import Recipe

_SOURCE_KEY: Final = ("source_uri", "source_member", "source_offset_bytes")  # a tar may hold a name twice


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Attributes:
        shard: its number.
        samples: samples made.
        rejects: planned samples that could not be made.
        pixels: valid mosaic pixels made.
        seconds: wall time of the work.
        skipped: it was committed before, and nothing was done.
    """

    shard: int
    samples: int = 0
    rejects: int = 0
    pixels: int = 0
    seconds: float = 0.0
    skipped: bool = False


def synthesize_shard(
    dataset_url: str, shard: int, weights: str | None = None, lease: LeaseToken | None = None
) -> ShardReport:
    """Make one shard and commit it; do nothing if it is committed already.

    Args:
        dataset_url: a dataset that was created and planned.
        shard: its number.
        weights: where the weights lie now; None for the released ones. Their digest is what counts.
        lease: of the run that this is done for; nothing is written once it is lost.

    Raises:
        IntegrityError: this worker has other weights than the dataset was begun with.
        LeaseLostError: another run has taken over.
        StorageError: the storage refused; the shard stays uncommitted and may be made again.
    """
    started = time.perf_counter()
    dataset = open_dataset(dataset_url)
    if is_committed(dataset, shard):
        return ShardReport(shard, skipped=True)
    samples, rejects = make_samples(dataset, shard, weights)
    objects = join_samples(dataset, shard, samples, rejects)
    if is_committed(dataset, shard):  # by another attempt meanwhile, which may have found other photographs there
        return ShardReport(shard, skipped=True)
    write_objects(dataset, shard, objects, permit=lease.require if lease else None)
    pixels = sum(sample.row.valid_height_px * sample.row.valid_width_px for sample in samples)
    return ShardReport(shard, len(samples), len(rejects), pixels, time.perf_counter() - started)


def make_samples(
    dataset: Dataset, shard: int, weights: str | None = None
) -> tuple[list[EncodedSample], list[RejectRow]]:
    """Make the samples of a shard, and keep them to itself.

    Photographs are fetched and decoded ahead, samples are made beside each other, and encoded behind; the number of
    threads changes no byte.

    Args:
        dataset: a dataset that was created and planned.
        shard: its number.
        weights: where the weights lie now; None for the released ones.

    Returns:
        What is to be stored, and what could not be made, both in the order of the plan.

    Raises:
        IntegrityError: this worker has other weights than the dataset was begun with.
        StorageError: the storage refused to give a photograph.
    """
    inverse = reconstructor(dataset.recipe.method, weights, dataset.model_digest)
    samples: list[EncodedSample] = []
    rejects: list[RejectRow] = []
    with lanes(inverse.device) as pools:
        for made in _stages(dataset, read_shard_plan(dataset.location, shard).to_pylist(), inverse, pools):
            if isinstance(made, EncodedSample):
                samples.append(made)
            else:
                rejects.append(made)
    return samples, rejects


def _stages(
    dataset: Dataset, rows: Sequence[PlanRow], inverse: Reconstructor, pools: Lanes
) -> Iterator[EncodedSample | RejectRow]:
    """Take a shard's plan through its stages; each asks the one before, and none runs far ahead."""

    def read(source: list[PlanRow]) -> Sequence[Cut | RejectRow]:
        try:
            return cut(source, _read_photograph(source[0], dataset.recipe))
        except RejectedImageError as error:
            return [_reject(row, error) for row in source]

    def begun(batch: list[Cut | RejectRow]) -> Sequence[Piece | RejectRow]:
        return together(lambda cuts: begin(cuts, inverse), batch)

    def made(batch: list[Piece | RejectRow]) -> Sequence[Sample | RejectRow]:
        return together(lambda pieces: make_pieces(pieces, dataset), batch)

    def encoded(sample: Sample | RejectRow) -> EncodedSample | RejectRow:
        if isinstance(sample, RejectRow):
            return sample
        return encode_sample(dataset, sample.row, sample.raw, sample.srgb if dataset.recipe.keep_srgb else None)

    sources = [list(group) for _, group in groupby(rows, key=itemgetter(*_SOURCE_KEY))]
    photographs = chain.from_iterable(in_order(pools.readers, read, sources, pools.pixels_ahead, _pixels))
    alike = batches(photographs, inverse.passes.batch_pixels, _seen_pixels, _of_one_shape)
    pieces = chain.from_iterable(in_order(pools.compute, begun, alike, pools.width))
    making = batches(pieces, inverse.passes.batch_pixels, _made_pixels)
    samples = chain.from_iterable(in_order(pools.compute, made, making, pools.width + 1))
    return in_order(pools.encoders, encoded, samples, pools.width + pools.encoders_width)


def _of_one_shape(first: Cut, second: Cut) -> bool:
    return first.seen.shape == second.seen.shape


def _seen_pixels(photograph: Cut) -> int:
    return photograph.seen.size // 3


def _made_pixels(piece: Piece) -> int:
    return sum(window.height * window.width for window in piece.group.windows)


def _pixels(source: list[PlanRow]) -> float:
    return float(source[0]["source_height_px"]) * float(source[0]["source_width_px"])


@one_at_a_time
@lru_cache(maxsize=2)
def reconstructor(method: Method, weights: str | None, digest: str) -> Reconstructor:
    """Load a reconstructor, once in the life of a worker process, and rehearse with it before threads use it.

    Raises:
        IntegrityError: its digest is another one.
    """
    loaded = Reconstructor.load(method, Path(weights) if weights else None)
    if loaded.digest != digest:
        raise IntegrityError(
            f"This worker's {method} weights have digest {loaded.digest[:12]}, the dataset was begun with "
            f"{digest[:12]}; install the same release on every worker, or make a new dataset."
        )
    if loaded.device.type == "cpu":
        rehearse(loaded)  # the first shards of a worker begin side by side, and would compile the same loops at once
    return loaded


def _read_photograph(row: PlanRow, recipe: Recipe) -> Photograph:
    # torch takes arrays that may be written only; a decoder's may be a view of its file
    return np.require(decode(read_source(row), recipe.limits).image, requirements=["C", "W"])


def _reject(row: PlanRow, error: RejectedImageError) -> RejectRow:
    return RejectRow(
        index=row["index"],
        source_uri=source_name(row["source_uri"], row["source_member"]),
        source_sha256=row["source_sha256"],
        reason=error.reason,
        detail=str(error),
    )
