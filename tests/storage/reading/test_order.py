from collections import Counter

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aura.errors import InvalidInputError
from storage.reading.draws import draw_below, draw_unit
from storage.reading.order import Batch, Progress, Shape, batches_of, epoch_visits, rank_part, whole_batches

counts = st.integers(0, 60)


def shards(sizes: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(sizes)) * 3, sizes)


def deliver(shape: Shape, progress: Progress, workers: int, limit: int | None = None) -> list[Batch]:
    """Do what a DataLoader does: take a batch of each worker in turn, passing over those that have ended."""
    roles = [progress.blocks_of(worker, workers, shape) for worker in range(workers)]
    done = dict(progress.done)
    queues = [
        [batch for block in blocks for batch in batches_of(shape, block, role, done.get(block, 0), 1, 2, shuffle=True)]
        for role, blocks in roles
    ]
    delivered: list[Batch] = []
    while any(queues):
        for queue in queues:
            if queue and (limit is None or len(delivered) < limit):
                batch = queue.pop(0)
                progress.mark(batch.worker, workers, batch.block, batch.number, shape)
                delivered.append(batch)
        if limit is not None and len(delivered) >= limit:
            break
    return delivered


def crops_of(batches: list[Batch], shape: Shape) -> list[int]:
    return [shape.bounds(batch.block)[0] * shape.crops + int(item) for batch in batches for item in batch.items]


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 7), min_size=0, max_size=8),
    ranks=st.integers(1, 5),
    workers=st.integers(1, 5),
    crops=st.integers(1, 4),
    batch_size=st.integers(1, 9),
    block=st.integers(1, 12),
    shuffle=st.booleans(),
)
def test_every_crop_comes_once_whatever_the_ranks_and_workers(
    sizes: list[int], ranks: int, workers: int, crops: int, batch_size: int, block: int, shuffle: bool
) -> None:
    visits = epoch_visits([shards(sizes)], None, None, 3, 4, shuffle=shuffle)
    assert sorted(visits.row) == list(range(sum(sizes)))
    seen: Counter[tuple[int, int]] = Counter()
    for rank in range(ranks):
        mine = rank_part(visits, rank, ranks)
        shape = Shape(len(mine), whole_batches(block, crops, batch_size), crops, batch_size, drop_last=False)
        batches = deliver(shape, Progress(), workers)
        assert len(batches) == shape.batches == -(-len(mine) * crops // batch_size)
        assert (
            all(len(batch.items) == batch_size for batch in batches)
            or sum(len(batch.items) < batch_size for batch in batches) == 1
        )
        for crop in crops_of(batches, shape):
            seen[int(mine.row[crop // crops]), crop % crops] += 1
    assert seen == Counter({(row, crop): 1 for row in range(sum(sizes)) for crop in range(crops)})
    lengths = {len(rank_part(visits, rank, ranks)) for rank in range(ranks)}
    assert max(lengths) - min(lengths) <= 1


@settings(max_examples=60, deadline=None)
@given(
    visits=counts,
    workers=st.integers(1, 5),
    later=st.integers(1, 5),
    crops=st.integers(1, 3),
    batch_size=st.integers(1, 5),
    stops=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    drop_last=st.booleans(),
)
@example(visits=30, workers=2, later=3, crops=1, batch_size=2, stops=[5], drop_last=False)
def test_what_is_left_comes_once_after_any_stops(
    visits: int, workers: int, later: int, crops: int, batch_size: int, stops: list[int], drop_last: bool
) -> None:
    shape = Shape(visits, whole_batches(3, crops, batch_size), crops, batch_size, drop_last)
    whole = crops_of(deliver(shape, Progress(), workers), shape)
    assert len(whole) == len(set(whole))
    progress, same, other = Progress(), [], []
    for stop in stops:
        same += deliver(shape, progress, workers, stop)
        progress = Progress.from_dict(progress.as_dict())
    changed = Progress.from_dict(progress.as_dict())
    straight = Progress.from_dict(progress.as_dict())
    again = deliver(shape, changed, later, stops[0])
    again += deliver(shape, Progress.from_dict(changed.as_dict()), later)
    assert crops_of(again, shape) == crops_of(deliver(shape, straight, later), shape)  # whoever had begun it
    other = same + again
    same += deliver(shape, progress, workers)
    assert crops_of(same, shape) == whole  # with as many workers even in the same order
    assert sorted(crops_of(other, shape)) == sorted(whole)


def test_shards_are_shuffled_and_stay_together() -> None:
    sizes = [4] * 20
    orders = [epoch_visits([shards(sizes)], None, None, 1, epoch, shuffle=True).row for epoch in (0, 0, 1)]
    assert np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    pieces = orders[0].reshape(20, 4)
    assert np.array_equal(pieces - pieces[:, :1], np.broadcast_to(np.arange(4), (20, 4)))
    assert not np.array_equal(np.sort(pieces[:, 0]), pieces[:, 0])


def test_few_shards_are_cut_so_that_there_is_something_to_shuffle() -> None:
    order = epoch_visits([shards([512, 512])], None, None, 1, 0, shuffle=True).row
    assert sorted(order) == list(range(1024))
    runs = np.split(order, np.flatnonzero(np.diff(order) != 1) + 1)
    assert 50 < len(runs) <= 64
    assert min(map(len, runs)) >= 16  # neighbours in a shard stay together, since they are read together
    halves = order[:512] < 512
    assert 100 < halves.sum() < 412  # half an epoch sees both


def test_sources_without_weights_are_shuffled_among_each_other() -> None:
    order = epoch_visits([shards([4] * 40), shards([4] * 40)], None, None, 1, 0, shuffle=True).row
    assert sorted(order) == list(range(320))
    assert 40 < (order[:160] < 160).sum() < 120
    assert np.array_equal(order.reshape(80, 4) % 4, np.broadcast_to(np.arange(4), (80, 4)))
    stored = epoch_visits([shards([4] * 4), shards([4] * 4)], None, None, 1, 0, shuffle=False).row
    assert np.array_equal(stored, np.arange(32))


def test_a_block_mixes_its_samples() -> None:
    shape = Shape(64, 64, 2, 16, drop_last=False)
    batches = list(batches_of(shape, 0, 0, 0, 1, 1, shuffle=True))
    assert all(np.ptp(batch.items) > 64 for batch in batches)


@settings(max_examples=30, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    seed=st.integers(0, 2**62),
    length=st.integers(0, 200),
)
def test_a_mixture_repeats_a_sample_only_when_all_of_its_source_came(sizes: list[int], seed: int, length: int) -> None:
    sources = [np.zeros(size, np.int64) for size in sizes]
    visits = epoch_visits(sources, [1.0 + number for number in range(len(sizes))], length, seed, 0, shuffle=True)
    assert len(visits) == length
    starts = np.cumsum([0, *sizes])
    for number, size in enumerate(sizes):
        inside = (visits.row >= starts[number]) & (visits.row < starts[number + 1])
        rows, turns = visits.row[inside], visits.turn[inside]
        assert np.array_equal(turns, np.arange(rows.size) // size)
        for turn in set(turns.tolist()):
            assert len(set(rows[turns == turn])) == (turns == turn).sum()


def test_a_mixture_has_the_shares_of_its_weights() -> None:
    sources = [np.zeros(10, np.int64), np.zeros(1000, np.int64), np.zeros(0, np.int64)]
    visits = epoch_visits(sources, [3.0, 1.0, 0.0], 20000, 5, 0, shuffle=True)
    share = (visits.row < 10).mean()
    assert abs(share - 0.75) < 4 * np.sqrt(0.75 * 0.25 / 20000)
    assert visits.row.max() < 1010


def test_wrong_weights_and_ranks_are_refused() -> None:
    some, none = np.zeros(2, np.int64), np.zeros(0, np.int64)
    for weights in ([1.0], [0.0, 0.0], [-1.0, 2.0], [float("nan"), 1.0]):
        with pytest.raises(InvalidInputError, match="expected 2 numbers"):
            epoch_visits([some, some], weights, None, 0, 0, shuffle=True)
    with pytest.raises(InvalidInputError, match="Source 1 has weight 1 and no sample"):
        epoch_visits([some, none], [1.0, 1.0], None, 0, 0, shuffle=True)
    with pytest.raises(InvalidInputError, match="Rank is 2 of 2"):
        rank_part(epoch_visits([some], None, None, 0, 0, shuffle=False), 2, 2)


def test_draws_are_even_and_independent_of_their_neighbours() -> None:
    drawn = draw_unit(1, 2, np.arange(100000))
    counts, _ = np.histogram(drawn, bins=20, range=(0, 1))
    assert ((counts - 5000) ** 2 / 5000).sum() < 50  # chi-squared of 19 degrees: once in 8000
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(drawn, draw_unit(1, 3, np.arange(100000)))[0, 1]) < 0.02
    assert set(draw_below(3, 7, np.arange(100)).tolist()) == {0, 1, 2}
    assert draw_unit(1, 2, 5) == drawn[5]
