"""The CSP layer of AURA: channel, spatial and position attention, added.

Channel gates and position tokens come from the photograph's context, never from the tile, so a tile and the whole image
agree. Spatial attention is the 7x7 convolution over channel mean and maximum of CBAM (Woo et al., ECCV 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from aura.nets.context import Context


@dataclass(frozen=True)
class Branches:
    """Which branches a CSP layer has; without any it passes its input on."""

    channel: bool = True
    spatial: bool = True
    position: bool = True


class CspLayer(nn.Module):
    """Sum of three attention branches over ``(B, C, h, w)`` features."""

    def __init__(
        self, channels: int, branches: Branches, vector_size: int, token_size: int, query_size: int = 16
    ) -> None:
        super().__init__()
        self.channel = nn.Linear(vector_size, channels) if branches.channel else None
        self.spatial = nn.Conv2d(2, 1, 7, padding=3) if branches.spatial else None
        self.position = _GridAttention(channels, token_size, query_size) if branches.position else None

    def forward(self, features: Tensor, context: Context) -> Tensor:
        """Attend; ``features`` ``(B, C, h, w)`` of any part of the photograph, ``context`` of the whole."""
        total = features
        if self.channel is not None:
            total = torch.addcmul(total, features, torch.sigmoid(self.channel(context.vector))[:, :, None, None])
        if self.spatial is not None:
            summary = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], dim=1)
            total = torch.addcmul(total, features, torch.sigmoid(self.spatial(summary)))
        if self.position is not None:
            total = total + self.position(features, context.tokens)
        return total


class _GridAttention(nn.Module):
    """Each pixel attends to the 6x6 grid of thumbnail features; the output layer starts at zero."""

    def __init__(self, channels: int, token_size: int, query_size: int) -> None:
        super().__init__()
        self.query = nn.Conv2d(channels, query_size, 1)
        self.key = nn.Linear(token_size, query_size)
        self.value = nn.Linear(token_size, query_size)
        self.out = nn.Conv2d(query_size, channels, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]  # a bias exists by construction

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        # tokens are few: folded into the layers about them, two products a pixel are left of four
        key, value = self.key(tokens), self.value(tokens)
        scale = key.shape[-1] ** -0.5
        to_scores = scale * (key @ self.query.weight.flatten(1))
        bias = scale * (key @ self.query.bias)
        pixels = features.flatten(2).transpose(1, 2)
        shares = torch.softmax(torch.baddbmm(bias[:, None], pixels, to_scores.transpose(1, 2)), dim=-1)
        # shares sum to 1, so the bias may be added to what is shared
        attended = shares @ (value @ self.out.weight.flatten(1).T + self.out.bias)
        placed: Tensor = attended.transpose(1, 2).reshape(features.shape)
        return placed
