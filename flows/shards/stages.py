"""Stages of a pipeline: work on threads, a bounded number of items ahead, results in the order of the items."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    pool: Executor,
    work: Callable[[Item], Result],
    items: Iterable[Item],
    ahead: int,
    weight: Callable[[Item], float] = lambda _: 1.0,
) -> Iterator[Result]:
    """Do work on a pool's threads and give the results in the order of the items.

    Items are taken, and results kept, only as far ahead of whoever asks as ``ahead`` allows: stages that feed each
    other hold a bounded amount. What is not begun when the asking stops is never begun.

    Args:
        pool: whose threads do it; may be shared by stages.
        work: what to do; its exceptions come out here, at the item's turn.
        items: may be another stage, which is then asked from here only.
        ahead: weight of the items that are at work or wait to be asked for; at least one item always is.
        weight: of an item; 1 unless told otherwise.
    """
    pending: deque[tuple[Future[Result], float]] = deque()
    heavy = 0.0
    try:
        for item in items:
            weighs = weight(item)
            while pending and heavy + weighs > ahead:
                oldest, weighed = pending.popleft()
                heavy -= weighed
                yield oldest.result()
            pending.append((pool.submit(work, item), weighs))
            heavy += weighs
        while pending:
            yield pending.popleft()[0].result()
    finally:
        for future, _ in pending:
            future.cancel()
