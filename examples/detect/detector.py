"""A small detector on packed RAW: FCOS (Z. Tian et al., ICCV 2019) above AlexNet's convolutions.

It is written out because no library's fits in here: torchvision's do not import beside a CPU-only torch, and those of
transformers need their weights downloaded, or hundreds of epochs. With a GPU and their weights, take them: what they
want is what :func:`storage.reading.targets.detection_targets` gives.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aura.bayer import half_size_rgb
from aura.color import apply_matrix, linear_to_srgb, luminance
from aura.perceptual import Lpips

# stride of each level in packed pixels, centre of its first cell (AlexNet pads less than it reaches), and the boxes it
# is in charge of: from and to which farthest side of a box, as in the paper
LEVELS: Final = ((8, 7.5, 0.0, 64.0), (16, 15.5, 64.0, 128.0), (32, 15.5, 128.0, math.inf))
_CHANNELS: Final = 96
_GREY: Final = 0.2
_IMAGENET_MEAN: Final = (0.485, 0.456, 0.406)
_IMAGENET_STD: Final = (0.229, 0.224, 0.225)
_RARE: Final = 0.01  # what each cell says of each category at first: hardly ever


class Found(NamedTuple):
    """What the network says of each cell of all levels.

    Attributes:
        classes: logits ``[n, cells, categories]``.
        sides: distances to left, top, right and bottom of the box in pixels ``[n, cells, 4]``.
        centreness: logits ``[n, cells, 1]``.
        cells: x and y of the centre in pixels, stride, from and to of :data:`LEVELS`: ``[cells, 5]``.
    """

    classes: Tensor
    sides: Tensor
    centreness: Tensor
    cells: Tensor


def visible(raw: Tensor, wb_gains: Tensor, camera_to_srgb: Tensor) -> Tensor:
    """Make of packed RAW what a network trained on photographs expects: white-balanced sRGB of even brightness.

    Args:
        raw: ``[n, 4, h, w]``, 0 = black, 1 = saturation.
        wb_gains: ``[n, 3]``.
        camera_to_srgb: ``[n, 3, 3]``.

    Returns:
        ``[n, 3, h, w]`` around 0, as AlexNet was trained.
    """
    balanced = half_size_rgb(raw) * wb_gains[:, :, None, None]
    linear = apply_matrix(balanced, camera_to_srgb)
    light = luminance(linear)
    grey = light.sum((-2, -1)) / (light != 0).sum((-2, -1)).clamp(min=1)  # padding is exactly 0
    exposed = linear * (_GREY / grey.clamp(min=1e-5))[..., None, None]
    mean, std = (raw.new_tensor(each).view(3, 1, 1) for each in (_IMAGENET_MEAN, _IMAGENET_STD))
    return (linear_to_srgb(exposed.clamp(0, 1)) - mean) / std


class Detector(nn.Module):
    """AlexNet's convolutions, a small feature pyramid, and FCOS' head.

    The trunk is the one that the package ships for LPIPS, trained on ImageNet; its first two layers stay as they are.
    """

    def __init__(self, categories: int) -> None:
        super().__init__()
        trunk = Lpips().features
        self.early, self.late = trunk[:5], trunk[5:].requires_grad_(requires_grad=True)
        self.from_early = nn.Conv2d(192, _CHANNELS, 1)
        self.from_late = nn.Conv2d(256, _CHANNELS, 1)
        self.coarser = nn.Conv2d(_CHANNELS, _CHANNELS, 3, stride=2, padding=1)
        self.class_tower, self.box_tower = _tower(), _tower()
        self.classes = nn.Conv2d(_CHANNELS, categories, 3, padding=1)
        self.sides = nn.Conv2d(_CHANNELS, 4, 3, padding=1)
        self.centreness = nn.Conv2d(_CHANNELS, 1, 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(LEVELS)))
        nn.init.normal_(self.classes.weight, std=0.01)
        self.classes.bias = nn.Parameter(torch.full((categories,), -math.log((1 - _RARE) / _RARE)))

    def forward(self, image: Tensor) -> Found:
        """Look at images ``[n, 3, h, w]`` as :func:`visible` makes them; sides of 96 pixels or more."""
        early = self.early(image)
        late = self.from_late(self.late(early))
        fine = self.from_early(early) + F.interpolate(late, size=early.shape[-2:], mode="nearest")
        found = [self._head(level, place) for place, level in enumerate((fine, late, self.coarser(late)))]
        return Found(*(torch.cat(parts, dim=-2) for parts in zip(*found, strict=True)))

    def _head(self, level: Tensor, place: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        stride, first, smallest, largest = LEVELS[place]
        named, boxed = self.class_tower(level), self.box_tower(level)
        sides = stride * torch.exp((self.scales[place] * self.sides(boxed)).clamp(max=6.0))
        rows, columns = (first + stride * torch.arange(side, device=level.device) for side in level.shape[-2:])
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        cells = torch.stack([x, y, *(torch.full_like(x, value) for value in (stride, smallest, largest))], -1)
        maps = (self.classes(named), sides, self.centreness(boxed))
        classes, sides, centreness = (each.flatten(2).transpose(1, 2) for each in maps)
        return classes, sides, centreness, cells.reshape(-1, 5)


def _tower() -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(2):
        layers += [nn.Conv2d(_CHANNELS, _CHANNELS, 3, padding=1), nn.GroupNorm(16, _CHANNELS), nn.ReLU()]
    return nn.Sequential(*layers)
