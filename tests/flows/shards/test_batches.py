"""What goes through a device together: all of it, in order, in halves where memory does not do."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flows.shards.batches import batches, together
from storage.datasets.samples import RejectRow

REJECT = RejectRow(index=0, source_uri="a.jpg", source_sha256=None, reason="unreadable", detail="")
ITEMS = st.lists(st.one_of(st.integers(1, 50), st.just(REJECT)))


@given(items=ITEMS, most=st.integers(0, 100))
def test_every_item_goes_in_order_and_no_batch_is_too_large(items: list[int | RejectRow], most: int) -> None:
    made = list(batches(items, most, pixels=int, fit=lambda one, other: one % 2 == other % 2))
    assert [item for batch in made for item in batch] == items
    for batch in made:
        if len(batch) > 1:
            numbers = [item for item in batch if isinstance(item, int)]
            assert numbers == batch
            assert sum(numbers) <= most
            assert len({number % 2 for number in numbers}) == 1


@given(items=st.lists(st.integers(1, 50), min_size=1), room=st.integers(50, 400))
def test_memory_that_does_not_do_for_all_does_for_parts(items: list[int], room: int) -> None:
    def work(batch: list[int]) -> list[str]:
        if sum(batch) > room:
            raise torch.OutOfMemoryError
        return [str(number) for number in batch]

    assert together(work, items) == [str(number) for number in items]


def test_memory_that_does_not_do_for_one_is_told() -> None:
    def work(_: list[int]) -> list[int]:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    with pytest.raises(torch.OutOfMemoryError, match="2 GiB"):
        together(work, [1, 2, 3])


def test_a_reject_passes() -> None:
    assert together(lambda _: [], [REJECT]) == [REJECT]
