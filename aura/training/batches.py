"""The batches of each stage: from random ISPs, a camera's own photographs, or the pool of summarised views."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from aura.errors import InvalidInputError
from aura.training.camera_pairs import (
    CameraPhotograph,
    draw_camera_pairs,
    is_published_format,
    load_camera_photographs,
)
from aura.training.configuration import Progress, Stage, TrainConfig
from aura.training.pairs import PairBatch, SummarisedViews, draw_pairs
from aura.training.scenes import Scene, held_out_names, load_scenes, scenes_digest
from aura.training.view_pool import filled_pool

STAGE_CODE: Final = {"denoiser": 1, "global": 2, "joint": 3, "validation": 4, "views": 5, "fine_tune": 6}
"""What keeps the random numbers of the stages apart."""
_VALIDATION_BATCH: Final = 8
_VALIDATION_SIZE: Final = 192


@dataclass(frozen=True)
class Sources:
    """What a run learns from, or is judged by.

    Attributes:
        scenes: light for random ISPs.
        photographs: of the camera to fine-tune to, with their RAW.
        own_cameras: scenes are seen by the cameras that took them.
    """

    scenes: tuple[Scene, ...]
    photographs: tuple[CameraPhotograph, ...] = ()
    own_cameras: bool = False

    def __len__(self) -> int:
        """Number of files."""
        return len({*(scene.name for scene in self.scenes), *(one.name for one in self.photographs)})

    def draw(self, batch: int, size: int, seed: Sequence[int]) -> PairBatch:
        """Draw a batch, of scenes and photographs in turns where there are both; a pure function of its arguments."""
        if self.photographs and (not self.scenes or seed[-1] % 2):
            return draw_camera_pairs(self.photographs, batch, size, seed)
        return draw_pairs(self.scenes, batch, size, seed, own_cameras=self.own_cameras)


def load_sources(config: TrainConfig) -> tuple[Sources, Sources]:
    """Load what to train from, and what only judges.

    Raises:
        MissingFileError: a folder is missing, or holds nothing to train from.
        InvalidInputError: fewer than two files, or a fault in the camera's folder.
    """
    if config.camera is None:
        return _parted(load_scenes(config.data, config.raw_folders), (), own_cameras=False)
    photographs = load_camera_photographs(config.camera)
    published = is_published_format(config.camera.folder)
    scenes = () if published else load_scenes(None, [config.camera.folder])
    return _parted(scenes, photographs, own_cameras=True)


def validation_batches(sources: Sources, config: TrainConfig) -> list[PairBatch]:
    """Draw the fixed pairs that a run is judged by."""
    seed = (config.seed, STAGE_CODE["validation"])
    count, batch = max(1, config.validation_pairs // _VALIDATION_BATCH), min(_VALIDATION_BATCH, config.validation_pairs)
    smallest = min((one.images.shape[-1] for one in sources.photographs), default=_VALIDATION_SIZE)
    size = min(_VALIDATION_SIZE, smallest // 16 * 16)
    return [sources.draw(batch, size, (*seed, index)) for index in range(count)]


def pair_batches(sources: Sources, stage: Stage, config: TrainConfig, first_step: int) -> Iterator[PairBatch]:
    """The stage's batches from a step on; a step's batch never depends on where the run began."""
    workers = config.loader_workers
    stream = PairStream(
        sources, stage.batch, stage.size, (config.seed, STAGE_CODE[stage.name]), range(first_step, stage.steps)
    )
    return iter(
        DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread if workers else None,
        )
    )


def view_pool(
    sources: Sources, stage: Stage, config: TrainConfig, on_progress: Callable[[Progress], None] | None
) -> SummarisedViews:
    """The pool of summarised views of the global stage, drawn if it is not there.

    Raises:
        InvalidInputError: there are no scenes, only photographs of one camera.
    """
    if not sources.scenes:
        raise InvalidInputError("The stage 'global' needs scenes; the camera's folder holds only pairs. Leave it out.")
    began = time.monotonic()

    def tell(drawn: int) -> None:
        if on_progress is not None:
            left = (time.monotonic() - began) / drawn * (stage.pool - drawn)
            on_progress(Progress("views", drawn, stage.pool, math.nan, left, None))

    folder = config.pool_folder or config.out
    folder.mkdir(parents=True, exist_ok=True)
    # by its scenes too: a shared folder may hold another run's pool, whose scenes may be what judges this one
    path = folder / f"views-{config.seed}-{stage.pool}x{stage.size}-{scenes_digest(sources.scenes)[:12]}.safetensors"
    return filled_pool(
        path, sources.scenes, stage.pool, stage.size, (config.seed, STAGE_CODE["views"]), config.loader_workers, tell
    )


class PairStream(IterableDataset[PairBatch]):
    """Batches of a stage from one step to another; the batch of a step never depends on where the stream began."""

    def __init__(self, sources: Sources, batch: int, size: int, seed: Sequence[int], steps: range) -> None:
        super().__init__()
        self._sources, self._batch, self._size, self._seed, self._steps = sources, batch, size, tuple(seed), steps

    def __iter__(self) -> Iterator[PairBatch]:
        """Yield the batches in order; several workers take turns (the loader restores the order)."""
        worker = get_worker_info()
        start, stride = (worker.id, worker.num_workers) if worker else (0, 1)
        for step in self._steps[start::stride]:
            yield self._sources.draw(self._batch, self._size, (*self._seed, step))


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _parted(
    scenes: tuple[Scene, ...], photographs: tuple[CameraPhotograph, ...], *, own_cameras: bool
) -> tuple[Sources, Sources]:
    """Part by file, so that no photograph trains what its own RAW judges."""
    held_out = held_out_names([*(scene.name for scene in scenes), *(one.name for one in photographs)])
    train, judge = (
        Sources(
            tuple(scene for scene in scenes if (scene.name in held_out) is judging),
            tuple(one for one in photographs if (one.name in held_out) is judging),
            own_cameras,
        )
        for judging in (False, True)
    )
    return train, judge
