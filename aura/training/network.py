"""The networks that can be trained: AURA, and the one it was published with."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from aura.errors import InvalidInputError
from aura.nets.aura import Aura
from aura.nets.context import Context, Summary
from aura.nets.published import PublishedInverse
from aura.reconstruct import load_weights
from aura.training.configuration import StageName, TrainConfig
from aura.training.pairs import PairBatch

Network = Aura | PublishedInverse
_DARKEST: Final = 0.02
"""Of saturation; light below it is compared with it."""


def new_network(config: TrainConfig) -> Network:
    """Make the network a run begins with: fresh, or of its initial weights."""
    if config.network == "published":
        if config.initial_weights is not None:
            raise InvalidInputError("initial_weights are AURA's; the published network begins at random.")
        return PublishedInverse()
    model = load_weights(config.initial_weights) if config.initial_weights else Aura(config.architecture)
    if config.global_weights:
        finished = load_weights(config.global_weights)
        model.context_encoders.load_state_dict(finished.context_encoders.state_dict())
        model.global_maps.load_state_dict(finished.global_maps.state_dict())
    return model


def trained_by(model: Network, stage: StageName) -> list[nn.Parameter]:
    """Return the parameters that a stage trains.

    Raises:
        InvalidInputError: the network has no such part.
    """
    if isinstance(model, PublishedInverse):
        if stage != "joint":
            raise InvalidInputError(f"The published network has no stage {stage!r}; only 'joint'.")
        return list(model.parameters())
    global_part = [*model.context_encoders.parameters(), *model.global_maps.parameters()]
    if stage == "global":
        return global_part
    if stage == "denoiser":
        return list(denoiser(model).parameters())
    frozen = [] if stage == "fine_tune" else list(global_part)
    if model.config.local and model.denoise_net is not None:
        frozen += model.denoise_net.backbone.parameters()
    known = {id(parameter) for parameter in frozen}
    return [parameter for parameter in model.parameters() if id(parameter) not in known]


def denoiser(model: Network) -> nn.Module:
    """Return AURA's DnCNN.

    Raises:
        InvalidInputError: there is none.
    """
    if not isinstance(model, Aura) or not model.config.local or model.denoise_net is None:
        raise InvalidInputError("The network has no Denoise Net; remove the stage 'denoiser' from the configuration.")
    return model.denoise_net.backbone


def freeze_for(model: Network, stage: StageName) -> None:
    """Set the network to training, with what the stage leaves alone frozen."""
    model.train()
    if stage not in ("joint", "fine_tune") or isinstance(model, PublishedInverse):
        return
    for part in (model.context_encoders, model.global_maps):
        part.requires_grad_(requires_grad=stage == "fine_tune")
    if model.config.local and model.denoise_net is not None:
        model.denoise_net.freeze_backbone()


def canonical_of(model: Network, batch: PairBatch, device: str) -> Tensor:
    """Take a batch's photographs to canonical light, knowing of the whole photographs what their summary says."""
    image = batch.image.to(device)
    canonical: Tensor = model(image) if isinstance(model, PublishedInverse) else model(image, _context(model, batch))
    return canonical


def local_change(model: Network, batch: PairBatch, canonical: Tensor) -> Tensor | None:
    """Return what AURA's local network changed, relative to the light of the global map; None if there is neither."""
    if isinstance(model, PublishedInverse) or not model.config.local:
        return None
    with torch.no_grad():
        light = model.global_only(batch.image.to(canonical), _context(model, batch))
    return (canonical - light) / (light.abs() + _DARKEST)


def _context(model: Aura, batch: PairBatch) -> Context | None:
    if batch.summary is None:
        return None
    device = next(model.parameters()).device
    return model.context(Summary(batch.summary.thumbnail.to(device), batch.summary.statistics.to(device)))
