"""The network that AURA was published with: a U-Net on the full-size photograph, one camera's packed RAW out.

Kept as the baseline: 1,875,076 parameters; blocks of two 3x3 convolutions without bias, ReLU, squeeze-and-excitation.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aura.errors import InvalidInputError

PUBLISHED_ALIGNMENT: Final = 4
_WIDTHS: Final = (64, 128, 256)
_SQUEEZE: Final = 16


class PublishedUNet(nn.Module):
    """sRGB ``(B, 3, H, W)`` in [0, 1], sides multiples of 4 -> ``(B, planes, H/2, W/2)``.

    Args:
        planes: 4 for packed R, Gr, Gb, B as published; 3 for canonical RGB at each 2x2 site.
    """

    def __init__(self, planes: int = 4) -> None:
        super().__init__()
        first, second, third = _WIDTHS
        self.encode = nn.ModuleList([_Block(3, first), _Block(first, second)])
        self.bottleneck = _Block(second, third)
        self.up = nn.ModuleList(
            [nn.ConvTranspose2d(third, second, 2, stride=2), nn.ConvTranspose2d(second, first, 2, stride=2)]
        )
        self.decode = nn.ModuleList([_Block(2 * second, second), _Block(2 * first, first)])
        self.head = nn.Conv2d(first, planes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Invert the ISP; the output is not clamped.

        Raises:
            InvalidInputError: a side is not a multiple of 4.
        """
        if image.shape[-1] % PUBLISHED_ALIGNMENT or image.shape[-2] % PUBLISHED_ALIGNMENT:
            raise InvalidInputError(
                f"Image is {tuple(image.shape[-2:])}; sides must be multiples of {PUBLISHED_ALIGNMENT}. Pad it."
            )
        features, skips = image, []
        for block in self.encode:
            features = block(features)
            skips.append(features)
            features = F.max_pool2d(features, 2)
        features = self.bottleneck(features)
        for up, block, skip in zip(self.up, self.decode, reversed(skips), strict=True):
            features = block(torch.cat([up(features), skip], dim=1))
        return F.interpolate(self.head(features), scale_factor=0.5, mode="nearest")


class PublishedInverse(nn.Module):
    """The U-Net with the sensor layer behind it: canonical RGB, one colour for each 2x2 site of the mosaic."""

    def __init__(self) -> None:
        super().__init__()
        self.network = PublishedUNet(planes=3)

    def forward(self, image: Tensor) -> Tensor:
        """SRGB ``(B, 3, H, W)`` in [0, 1], sides multiples of 4 -> canonical linear of the same shape, not clipped."""
        return F.interpolate(self.network(image), scale_factor=2, mode="nearest")


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.squeeze = nn.Linear(outputs, outputs // _SQUEEZE, bias=False)
        self.excite = nn.Linear(outputs // _SQUEEZE, outputs, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        features = F.relu(self.second(F.relu(self.first(features))))
        weights = torch.sigmoid(self.excite(F.relu(self.squeeze(features.mean((2, 3))))))
        return features * weights[:, :, None, None]
