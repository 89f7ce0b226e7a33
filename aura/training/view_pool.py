"""A pool of summarised photographs, drawn once and kept: the global stage goes over it many times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from aura.training.pairs import SummarisedViews, draw_summarised_views
from aura.training.scenes import Scene

_DRAW: Final = 24


def filled_pool(
    path: Path,
    scenes: Sequence[Scene],
    views: int,
    size: int,
    seed: Sequence[int],
    workers: int,
    on_drawn: Callable[[int], None] = lambda _drawn: None,
) -> SummarisedViews:
    """Read the pool at ``path``, or draw it and keep it there.

    Args:
        path: a safetensors file; it is written whole and renamed, so what is there is complete.
        scenes: sources of light.
        views: their number.
        size: side of the photographs in pixels.
        seed: integers; the same seed and scenes give the same views with any number of workers.
        workers: processes that draw.
        on_drawn: told how many views there are.
    """
    if path.exists():
        return SummarisedViews(**load_file(path))
    stream = DataLoader(
        _DrawStream(scenes, views, size, seed), batch_size=None, num_workers=workers, worker_init_fn=_one_thread
    )
    parts: list[SummarisedViews] = []
    for part in stream:
        parts.append(part)
        on_drawn(min(views, _DRAW * len(parts)))
    names = [field.name for field in fields(SummarisedViews)]
    tensors = {name: torch.cat([getattr(part, name) for part in parts])[:views].contiguous() for name in names}
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary)
    temporary.replace(path)
    return SummarisedViews(**tensors)


def draw_from(pool: SummarisedViews, count: int, seed: Sequence[int]) -> SummarisedViews:
    """Take some views of a pool at random as float32, half of the thumbnails mirrored; decided by the seed alone."""
    rng = np.random.default_rng(list(seed))
    index = torch.from_numpy(rng.integers(len(pool.thumbnail), size=count))
    mirrored = torch.from_numpy(rng.random(count) < 0.5)[:, None, None, None]
    thumbnail = pool.thumbnail[index].float() / 255.0
    return SummarisedViews(
        torch.where(mirrored, thumbnail.flip(-1), thumbnail),
        pool.statistics[index].float(),
        pool.seen[index].float(),
        pool.camera[index].float(),
        pool.wb_gains[index],
        pool.camera_to_srgb[index],
    )


class _DrawStream(IterableDataset[SummarisedViews]):
    def __init__(self, scenes: Sequence[Scene], views: int, size: int, seed: Sequence[int]) -> None:
        super().__init__()
        self._scenes, self._draws, self._size, self._seed = scenes, -(-views // _DRAW), size, tuple(seed)

    def __iter__(self) -> Iterator[SummarisedViews]:
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for number in range(start, self._draws, stride):
            yield draw_summarised_views(self._scenes, _DRAW, self._size, (*self._seed, number))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
