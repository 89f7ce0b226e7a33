"""What the stages minimise: LPIPS seldom but as much over all, and light that no sensor could tell apart."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from aura.nets.aura import Aura, AuraConfig
from aura.perceptual import Lpips
from aura.training.configuration import TrainConfig
from aura.training.pairs import PairBatch, draw_pairs, draw_summarised_views
from aura.training.scenes import Scene
from aura.training.stage_losses import global_loss, joint_loss, raw_loss


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
def test_the_joint_stage_weighs_lpips_by_the_configuration(model: Aura, batch: PairBatch) -> None:
    lpips = Lpips()
    none, one, three = (
        float(joint_loss(model, batch, config(1).model_copy(update={"lpips_weight": weight}), lpips, 0))
        for weight in (0.0, 1.0, 3.0)
    )
    assert one > none + 1e-2
    assert three - none == pytest.approx(3 * (one - none), rel=1e-3)


@torch.no_grad()
def test_noise_counts_by_the_weight_of_the_fine_part_and_tone_does_not(model: Aura, batch: PairBatch) -> None:
    def fine(image: torch.Tensor) -> float:
        seen = replace(batch, image=image.clamp(0.0, 1.0), raw=smooth)
        with_it, without = (config(1).model_copy(update={"detail_weight": weight}) for weight in (1.0, 0.0))
        return float(joint_loss(model, seen, with_it, None, 0) - joint_loss(model, seen, without, None, 0))

    slope = torch.linspace(0.3, 0.6, 96)
    smooth = (slope[None, None, ::2].expand(2, 4, 48, 48)) ** 2.2
    picture = slope.expand(2, 3, 96, 96)
    noise = 0.02 * torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    assert fine(picture + noise) > fine(picture) + 10.0  # decibels
    assert fine(picture + 2 * noise) == pytest.approx(fine(picture + noise) + 6.0, abs=1.0)
    assert fine(picture**1.3) < fine(picture + noise) - 10.0


@torch.no_grad()
def test_the_local_network_pays_for_tone_in_the_joint_stage_alone(model: Aura, batch: PairBatch) -> None:
    def paid(bias: torch.Tensor) -> float:
        changed = deepcopy(model)
        changed.to_planes.bias.copy_(bias)
        blind = config(1).model_copy(update={"detail_weight": 0.0})
        return float(joint_loss(changed, batch, blind, None, 0) - raw_loss(changed, batch, blind, None, 0))

    assert paid(torch.zeros(12)) == 0.0
    everywhere = torch.full((12,), 0.2)
    assert paid(everywhere) == pytest.approx(config(1).tone_weight * 0.25 * math.tanh(0.2), rel=0.01)
    checkered = everywhere * torch.tensor([1.0, -1.0, -1.0, 1.0]).repeat(3)  # of the four pixels of a cell
    assert paid(checkered) < 0.15 * paid(everywhere)


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
