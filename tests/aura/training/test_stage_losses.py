"""What the stages minimise: LPIPS seldom but as much over all, and light that no sensor could tell apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from aura.nets.aura import Aura, AuraConfig
from aura.perceptual import Lpips
from aura.training.configuration import TrainConfig
from aura.training.pairs import PairBatch, draw_pairs, draw_summarised_views
from aura.training.scenes import Scene
from aura.training.stage_losses import global_loss, raw_loss


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    generator = torch.Generator().manual_seed(0)
    return [Scene("drawn", "raw", torch.rand(3, 200, 200, generator=generator).half())]


@pytest.fixture(scope="module")
def batch(scenes: list[Scene]) -> PairBatch:
    return draw_pairs(scenes, 2, 96, (0,))


@pytest.fixture(scope="module")
def model() -> Aura:
    torch.manual_seed(0)
    return Aura(AuraConfig(widths=(8, 8, 8, 8))).eval()


def config(lpips_every: int) -> TrainConfig:
    return TrainConfig(data=None, out=Path("unused"), lpips_every=lpips_every)


@torch.no_grad()
def test_lpips_weighs_as_much_over_all_steps_however_seldom_it_is_computed(model: Aura, batch: PairBatch) -> None:
    lpips = Lpips()
    without = float(raw_loss(model, batch, config(1), None, 0))
    always, seldom = (
        [float(raw_loss(model, batch, config(every), lpips, step)) - without for step in range(4)] for every in (1, 4)
    )
    assert always[0] > 1e-3
    assert seldom[1:] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)
    assert sum(seldom) == pytest.approx(sum(always), rel=1e-3)


@torch.no_grad()
def test_the_global_stage_sees_exposure_by_the_share_that_the_configuration_gives(
    model: Aura, scenes: list[Scene]
) -> None:
    """A view of half the light beside the same photograph costs no aligned decibel, and as is it does."""
    views = draw_summarised_views(scenes, 3, 96, (0,))
    darker = type(views)(**(vars(views) | {"camera": views.camera / 2}))
    blind, seeing = (config(4).model_copy(update={"unaligned_weight": weight}) for weight in (0.0, 1.0))
    errors = {
        (name, kind): float(global_loss(model, seen, chosen, None, 0))
        for name, seen in (("bright", views), ("dark", darker))
        for kind, chosen in (("blind", blind), ("seeing", seeing))
    }
    assert errors["dark", "blind"] < errors["bright", "blind"]  # half of the light, a quarter of the error
    as_is = {name: errors[name, "seeing"] - errors[name, "blind"] for name in ("bright", "dark")}
    assert as_is["dark"] - errors["dark", "blind"] > as_is["bright"] - errors["bright", "blind"] + 1.0
