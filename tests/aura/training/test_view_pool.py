"""The pool of summarised photographs: drawn once, the same for any number of workers, and read back whole."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

from aura.training.batches import Sources, view_pool
from aura.training.configuration import Stage, TrainConfig
from aura.training.pairs import VIEW_SITES, SummarisedViews
from aura.training.scenes import Scene
from aura.training.view_pool import draw_from, filled_pool


@pytest.fixture
def scenes() -> tuple[Scene, ...]:
    generator = torch.Generator().manual_seed(0)
    return tuple(Scene(str(number), "raw", torch.rand(3, 160, 200, generator=generator).half()) for number in range(3))


def equal(first: SummarisedViews, second: SummarisedViews) -> bool:
    return all(torch.equal(getattr(first, each.name), getattr(second, each.name)) for each in fields(SummarisedViews))


def test_workers_do_not_change_the_pool(scenes: tuple[Scene, ...], tmp_path: Path) -> None:
    alone = filled_pool(tmp_path / "a.safetensors", scenes, 60, 96, (1,), workers=0)
    shared = filled_pool(tmp_path / "b.safetensors", scenes, 60, 96, (1,), workers=2)
    assert equal(alone, shared)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_a_shared_folder_keeps_the_pools_of_other_scenes_apart(scenes: tuple[Scene, ...], tmp_path: Path) -> None:
    """Else a run would learn from another's pool, in which may be what judges it."""
    stage = Stage(name="global", steps=1, batch=1, size=96, learning_rate=1e-3, pool=24)
    config = TrainConfig(data=None, out=tmp_path, stages=(stage,), pool_folder=tmp_path / "pools", loader_workers=0)
    some, same, others = (
        view_pool(Sources(chosen), stage, config, None) for chosen in (scenes[:2], scenes[:2], scenes[1:])
    )
    assert equal(some, same)
    assert not equal(some, others)
    assert equal(others, view_pool(Sources(scenes[1:]), stage, config.model_copy(update={"pool_folder": None}), None))
    assert len(list((tmp_path / "pools").iterdir())) == 2


def test_a_pool_is_drawn_once(scenes: tuple[Scene, ...], tmp_path: Path) -> None:
    told: list[int] = []
    drawn = filled_pool(tmp_path / "pool.safetensors", scenes, 30, 96, (1,), workers=0, on_drawn=told.append)
    again = filled_pool(tmp_path / "pool.safetensors", (), 30, 96, (1,), workers=0, on_drawn=told.append)
    assert equal(drawn, again)
    assert told == [24, 30]
    assert drawn.thumbnail.shape == (30, 3, 48, 48)
    for light in (drawn.seen, drawn.camera):
        assert light.shape == (30, 3, VIEW_SITES)
        assert 0.0 <= float(light.min()) <= float(light.max()) <= 1.0


def test_draws_are_decided_by_the_seed_and_mirror_no_more_than_thumbnails(
    scenes: tuple[Scene, ...], tmp_path: Path
) -> None:
    pool = filled_pool(tmp_path / "pool.safetensors", scenes, 24, 96, (1,), workers=0)
    assert equal(draw_from(pool, 8, (0, 5)), draw_from(pool, 8, (0, 5)))
    drawn = draw_from(pool, 40, (0, 6))
    turned = 0
    for row in range(40):
        source = next(k for k in range(24) if torch.equal(pool.statistics[k].float(), drawn.statistics[row]))
        assert torch.equal(drawn.seen[row], pool.seen[source].float())
        assert torch.equal(drawn.camera[row], pool.camera[source].float())
        thumbnail = pool.thumbnail[source].float() / 255.0
        turned += torch.equal(drawn.thumbnail[row], thumbnail.flip(-1))
        assert torch.equal(drawn.thumbnail[row], thumbnail) or torch.equal(drawn.thumbnail[row], thumbnail.flip(-1))
    assert 5 < turned < 35
