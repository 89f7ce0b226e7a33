"""What goes through a device together: neighbours that fit, and half of them where its memory does not do."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import torch

from storage.datasets.samples import RejectRow

Item = TypeVar("Item")
Result = TypeVar("Result")


def batches(
    items: Iterable[Item | RejectRow],
    most_pixels: int,
    pixels: Callable[[Item], int],
    fit: Callable[[Item, Item], bool] = lambda _, __: True,
) -> Iterator[list[Item | RejectRow]]:
    """Put neighbours together; the order stays, and a reject goes alone.

    Args:
        items: what is to be put together.
        most_pixels: of a batch; an item that has more goes alone.
        pixels: of an item.
        fit: whether the first of a batch and another may go together.
    """
    batch: list[Item | RejectRow] = []
    held = 0
    for item in items:
        if batch and not _joins(batch[0], item, most_pixels - held, pixels, fit):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += 0 if isinstance(item, RejectRow) else pixels(item)
    if batch:
        yield batch


def _joins(
    first: Item | RejectRow,
    item: Item | RejectRow,
    room: int,
    pixels: Callable[[Item], int],
    fit: Callable[[Item, Item], bool],
) -> bool:
    if isinstance(first, RejectRow) or isinstance(item, RejectRow):
        return False
    return fit(first, item) and pixels(item) <= room


def together(
    work: Callable[[list[Item]], Sequence[Result]], batch: Sequence[Item | RejectRow]
) -> list[Result | RejectRow]:
    """Do work on a batch; a reject passes.

    Where the memory of a GPU does not do, for others may use it too, half of the batch is done after the other.

    Raises:
        torch.OutOfMemoryError: it does not do for a single item.
    """
    items = [item for item in batch if not isinstance(item, RejectRow)]
    return [*_by_halves(work, items)] if items else [item for item in batch if isinstance(item, RejectRow)]


def _by_halves(work: Callable[[list[Item]], Sequence[Result]], items: list[Item]) -> Sequence[Result]:
    try:
        return work(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    # not while the error is handled: it keeps what was allocated
    torch.cuda.empty_cache()
    middle = len(items) // 2
    return [*_by_halves(work, items[:middle]), *_by_halves(work, items[middle:])]
