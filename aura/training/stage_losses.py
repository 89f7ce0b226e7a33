"""What each stage of training minimises."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from aura.bayer import pack_rgb
from aura.color import rgb_to_ycbcr
from aura.errors import InvalidInputError
from aura.losses import LossWeights, composite_loss
from aura.metrics import align_gains, fine_part
from aura.nets.aura import Aura
from aura.nets.context import Summary
from aura.nets.global_map import apply_global_inverse
from aura.perceptual import Lpips
from aura.sensor.simulate import canonical_to_camera
from aura.training.configuration import StageName, TrainConfig
from aura.training.network import Network, canonical_of, denoiser, local_change
from aura.training.pairs import PairBatch, SummarisedViews

_MSE_FLOOR: Final = 1e-6
_AS_IS_FLOOR: Final = 1e-5
_DETAIL_FLOOR: Final = 1e-7
_DETAIL_SITES: Final = 5
_TONE_PIXELS: Final = 16


StageLoss = Callable[[Network, Any, TrainConfig, Lpips | None, int], Tensor]
"""Network, batch, configuration, LPIPS or None, number of the step -> scalar."""


def denoiser_loss(model: Network, batch: PairBatch, config: TrainConfig, _: Lpips | None, step: int) -> Tensor:
    """Error of DnCNN's estimate of white Gaussian noise of random strength, on pixel-unshuffled YCbCr."""
    clean = F.pixel_unshuffle(rgb_to_ycbcr(batch.image.to(config.device)), 2)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    sigma = 0.08 * torch.rand(len(clean), 1, 1, 1, generator=generator)
    noise = (sigma * torch.randn(clean.shape, generator=generator)).to(clean)
    estimate: Tensor = denoiser(model)(clean + noise)
    return F.mse_loss(estimate, noise) * 100.0


def global_loss(model: Network, views: SummarisedViews, config: TrainConfig, _: Lpips | None, _step: int) -> Tensor:
    """Aligned error and, weighted, the error as is, in decibels over random sites of whole photographs.

    Each member of the committee has views of its own, so that they differ in what they have seen.
    """
    if not isinstance(model, Aura):
        raise InvalidInputError("The published network has no global map; remove the stage 'global'.")
    members = len(model.global_maps)
    shares = [_view_error(model, member, _every(views, member, members), config) for member in range(members)]
    return torch.cat(shares).mean()


def _every(views: SummarisedViews, first: int, stride: int) -> SummarisedViews:
    return SummarisedViews(**{field.name: getattr(views, field.name)[first::stride] for field in fields(views)})


def _view_error(model: Aura, member: int, views: SummarisedViews, config: TrainConfig) -> Tensor:
    """Error of one member's map on each of its views, in decibels."""
    device = torch.device(config.device)
    thumbnail, statistics = views.thumbnail.to(device), views.statistics.to(device)
    seen, target = (light.to(device)[..., None] for light in (views.seen, views.camera))
    canonical = apply_global_inverse(seen, model.member_inverse(member, Summary(thumbnail, statistics)))
    camera = _leaky_clamp(canonical_to_camera(canonical, views.camera_to_srgb.to(device), views.wb_gains.to(device)))
    gain = (camera * target).sum((2, 3), keepdim=True) / (camera.square().sum((2, 3), keepdim=True) + 1e-9)
    aligned = ((gain * camera).clamp_max(1.0) - target).square().mean((1, 2, 3))
    as_is = (camera - target).square().mean((1, 2, 3))
    decibels = 10.0 * torch.log10(aligned + _MSE_FLOOR)
    return decibels + config.unaligned_weight * 10.0 * torch.log10(as_is + _AS_IS_FLOOR)


def raw_loss(model: Network, batch: PairBatch, config: TrainConfig, lpips: Lpips | None, step: int) -> Tensor:
    """Composite loss after one gain per colour channel, plus a smaller share of it without, plus aligned decibels."""
    return _raw_error(canonical_of(model, batch, config.device), batch, config, lpips, step, LossWeights().lpips)


def joint_loss(model: Network, batch: PairBatch, config: TrainConfig, lpips: Lpips | None, step: int) -> Tensor:
    """As :func:`raw_loss`, and the fine part of the error in decibels, and what the local network changes of the tone.

    The error is mostly tone. Beside it a photograph's noise counts for nothing, and of tone the local network sees less
    than the global map does.
    """
    canonical = canonical_of(model, batch, config.device)
    error = _raw_error(canonical, batch, config, lpips, step, config.lpips_weight, config.detail_weight)
    if not config.tone_weight or (change := local_change(model, batch, canonical)) is None:
        return error
    tone = F.avg_pool2d(change, _TONE_PIXELS, stride=_TONE_PIXELS // 2)
    return error + config.tone_weight * tone.abs().mean()


def _raw_error(
    canonical: Tensor,
    batch: PairBatch,
    config: TrainConfig,
    lpips: Lpips | None,
    step: int,
    lpips_weight: float,
    detail_weight: float = 0.0,
) -> Tensor:
    target = batch.raw.to(canonical)
    predicted = _leaky_clamp(predicted_raw(canonical, batch))
    aligned = align_gains(predicted, target)
    perceive = lpips is not None and step % config.lpips_every == 0
    weights = LossWeights(hlog=config.hlog_weight, lpips=lpips_weight * config.lpips_every if perceive else 0.0)
    gains, matrix = batch.wb_gains.to(canonical), batch.camera_to_srgb.to(canonical)
    terms = composite_loss(
        aligned, target, wb_gains=gains, camera_to_srgb=matrix, lpips=lpips if perceive else None, weights=weights
    )
    plain = LossWeights(hlog=config.hlog_weight, ssim=0.0, lpips=0.0)
    absolute = composite_loss(predicted, target, wb_gains=gains, camera_to_srgb=matrix, lpips=None, weights=plain)
    error = (aligned - target).square().mean((1, 2, 3))
    decibels = 10.0 * torch.log10(error + _MSE_FLOOR).mean()
    in_decibels = config.decibel_weight * decibels
    if detail_weight:
        fine = fine_part(aligned - target, _DETAIL_SITES).square().mean((1, 2, 3))
        in_decibels = in_decibels + detail_weight * 10.0 * torch.log10(fine + _DETAIL_FLOOR).mean()
    return terms.total + config.unaligned_weight * absolute.total + in_decibels


LOSSES: Final[dict[StageName, StageLoss]] = {
    "denoiser": denoiser_loss,
    "global": global_loss,
    "joint": joint_loss,
    "fine_tune": raw_loss,
}


def predicted_raw(canonical: Tensor, batch: PairBatch) -> Tensor:
    """Put canonical light through the batch's cameras: ``(B, 3, S, S)`` -> packed ``(B, 4, S/2, S/2)``, not clipped."""
    gains, matrix = batch.wb_gains.to(canonical), batch.camera_to_srgb.to(canonical)
    return pack_rgb(canonical_to_camera(canonical, matrix, gains), batch.cfa_pattern)


def _leaky_clamp(raw: Tensor) -> Tensor:
    """Clip to [0, 1] as a sensor does, with a little slope beyond, so that over-exposure can be unlearned."""
    clipped = raw.clamp(0.0, 1.0)
    return clipped + 0.05 * (raw - clipped)
