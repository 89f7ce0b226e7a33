"""Stages of a pipeline: order, bounds, and what becomes of failures."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.shards.stages import in_order


@settings(max_examples=20, deadline=None)
@given(items=st.lists(st.integers()), threads=st.integers(1, 4), ahead=st.integers(1, 5))
def test_two_stages_give_what_a_loop_gives(items: list[int], threads: int, ahead: int) -> None:
    with ThreadPoolExecutor(threads) as first, ThreadPoolExecutor(threads) as second:
        doubled = in_order(first, lambda item: 2 * item, items, ahead)
        assert list(in_order(second, lambda item: item + 1, doubled, ahead)) == [2 * item + 1 for item in items]


@settings(max_examples=20, deadline=None)
@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=12), ahead=st.integers(1, 12))
def test_items_are_taken_no_further_ahead_than_allowed(weights: list[int], ahead: int) -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for weight in weights:
            taken.append(weight)
            yield weight

    with ThreadPoolExecutor(2) as pool:
        given_back: list[int] = []
        for weight in in_order(pool, lambda item: item, items(), ahead, weight=float):
            held = taken[len(given_back) : -1]  # the last one is asked for before its weight is known
            assert sum(held) <= max(ahead, held[0] if held else 0)
            given_back.append(weight)
    assert given_back == weights


def test_a_failure_comes_out_at_its_turn_and_nothing_begins_after_it() -> None:
    begun: list[int] = []
    release = threading.Event()

    def work(item: int) -> int:
        begun.append(item)
        if item == 1:
            raise ValueError("the second")
        if item == 2:
            release.wait(30)
        return item

    with ThreadPoolExecutor(1) as pool:
        results = in_order(pool, work, range(100), ahead=8)
        assert next(results) == 0
        with pytest.raises(ValueError, match="the second"):
            next(results)
        release.set()
    assert len(begun) < 12
