"""AURA: sRGB photographs to canonical linear light, by a global inverse and a local residual.

sRGB -> YCbCr (BT.2100) -> pixel-unshuffle -> Denoise Net -> CSP encoder of three blocks -> CSP decoder -> generator
head. The head's residual is added to the global map that is predicted from the photograph's thumbnail and histograms.
A physical layer (:mod:`aura.sensor.simulate`) makes the sum any camera's RAW.
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from aura.color import rgb_to_ycbcr, ycbcr_matrix
from aura.compiled import loops_take
from aura.errors import InvalidInputError
from aura.nets.context import Context, ContextEncoder, Summary, summarise
from aura.nets.csp import Branches, CspLayer
from aura.nets.denoise import DenoiseNet
from aura.nets.global_map import (
    CodeMap,
    GlobalInverse,
    GlobalMapHead,
    apply_global_inverse,
    code_maps,
    map_codes,
    mean_inverse,
)
from aura.nets.loops import join_light, map_light, to_cells

ALIGNMENT: Final = 16
"""Tiles must start at multiples of this many pixels, so that pooling cells fall alike in tile and whole image."""
_RESIDUAL_REACH: Final = 0.25
_RESIDUAL_FLOOR: Final = 0.02
_REACH_F32: Final = np.float32(_RESIDUAL_REACH)
_FLOOR_F32: Final = np.float32(_RESIDUAL_FLOOR)
_YCBCR_OF_CODES: Final = (ycbcr_matrix() / 255.0).numpy()


class AuraConfig(BaseModel):
    """Architecture of AURA; stored with the weights.

    Attributes:
        widths: channels of the three encoder blocks and of the bottleneck.
        head: ``canonical`` (camera-agnostic RGB) or ``packed`` (R, Gr, Gb, B of one camera, the published form).
        ycbcr: convert to YCbCr first; off only for ablation.
        denoise: use the Denoise Net; off only for ablation.
        channel: the CSP layers' channel branch.
        spatial: their spatial branch, on the coarse levels.
        position: their position branch, on the coarse levels.
        thumbnail: see the thumbnail and histograms; off only for ablation.
        local: add the CSP network's residual to the global map.
        members: of the committee that predicts the global map. Each is trained by itself and stopped early, and their
            maps are averaged: scenes to train on are few, and one network that fits them well is too certain about
            photographs unlike them (deep ensembles: Lakshminarayanan et al., NeurIPS 2017).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    widths: tuple[int, int, int, int] = (16, 32, 48, 64)
    head: Literal["canonical", "packed"] = "canonical"
    ycbcr: bool = True
    denoise: bool = True
    channel: bool = True
    spatial: bool = True
    position: bool = True
    thumbnail: bool = True
    local: bool = True
    members: int = Field(default=3, ge=1)


class _CspBlock(nn.Module):
    """Convolution, ReLU, CSP layer: the unit of encoder and decoder."""

    def __init__(self, inputs: int, outputs: int, branches: Branches, encoder: ContextEncoder) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.attend = CspLayer(outputs, branches, encoder.vector_size, encoder.token_size)

    def forward(self, features: Tensor, context: Context) -> Tensor:
        attended: Tensor = self.attend(F.relu(self.conv(features), inplace=True), context)
        return attended


class Aura(nn.Module):
    """The network. See :meth:`forward` for shapes and ranges."""

    def __init__(self, config: AuraConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AuraConfig()
        encoders = [ContextEncoder() for _ in range(config.members)]
        encoder = encoders[0]
        self.context_encoders = nn.ModuleList(encoders)
        self.global_maps = nn.ModuleList([GlobalMapHead(encoder.vector_size) for _ in encoders])
        if not config.local:
            return
        fine = Branches(channel=config.channel, spatial=False, position=False)  # half size: the cheap branch only
        coarse = Branches(channel=config.channel, spatial=config.spatial, position=config.position)
        first, second, third, bottom = config.widths
        self.denoise_net = DenoiseNet(12) if config.denoise else None
        self.encode = nn.ModuleList(
            [
                _CspBlock(12, first, fine, encoder),
                _CspBlock(first, second, coarse, encoder),
                _CspBlock(second, third, coarse, encoder),
            ]
        )
        self.bottleneck = _CspBlock(third, bottom, coarse, encoder)
        self.up = nn.ModuleList(
            [
                nn.ConvTranspose2d(deep, shallow, 2, stride=2)
                for deep, shallow in ((bottom, third), (third, second), (second, first))
            ]
        )
        self.decode = nn.ModuleList(
            [
                _CspBlock(2 * third, third, coarse, encoder),
                _CspBlock(2 * second, second, coarse, encoder),
                _CspBlock(2 * first, first, fine, encoder),
            ]
        )
        self.generator = nn.Sequential(
            nn.Conv2d(first, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        self.to_planes = nn.Conv2d(24, 12 if config.head == "canonical" else 4, 1)
        nn.init.zeros_(self.to_planes.weight)
        nn.init.zeros_(self.to_planes.bias)  # type: ignore[arg-type]  # a bias exists by construction

    def context(self, summary: Summary) -> Context:
        """Encode a photograph's summary."""
        views = [encode(self._seen(summary)) for encode in self.context_encoders]
        vector, tokens = views[0]
        return Context(vector, tokens, torch.stack([opinion for opinion, _ in views]))

    def member_inverse(self, member: int, summary: Summary) -> GlobalInverse:
        """Predict the global map of each photograph as one member of the committee sees it."""
        opinion, _ = self.context_encoders[member](self._seen(summary))
        inverse: GlobalInverse = self.global_maps[member](opinion)
        return inverse

    def _seen(self, summary: Summary) -> Summary:
        """Without the thumbnail (ablation), the same constant for all."""
        if self.config.thumbnail:
            return summary
        return Summary(torch.full_like(summary.thumbnail, 0.5), torch.zeros_like(summary.statistics))

    def forward(self, image: Tensor, context: Context | None = None) -> Tensor:
        """Invert the ISP of a photograph or of a tile of one.

        Args:
            image: sRGB ``(B, 3, H, W)`` in [0, 1]; H and W multiples of 16; tiles start at multiples of 16.
            context: of the whole photograph; None where ``image`` is the whole photograph.

        Returns:
            Head ``canonical``: canonical linear ``(B, 3, H, W)``, 1.0 = sensor saturation, not clipped.
            Head ``packed``: ``(B, 4, H/2, W/2)`` in the order R, Gr, Gb, B, clamped to [0, 1].

        Raises:
            InvalidInputError: a side is not a multiple of 16.
        """
        if image.shape[-1] % ALIGNMENT or image.shape[-2] % ALIGNMENT:
            raise InvalidInputError(
                f"Image is {tuple(image.shape[-2:])}; sides must be multiples of {ALIGNMENT}. Pad it."
            )
        if context is None:
            context = self.context(summarise(image))
        return self._add_local(self.global_only(image, context), image, context)

    def invert_codes(self, codes: Tensor, context: Context) -> Tensor:
        """Do what :meth:`forward` does to a photograph of 8 bits or a tile of one, faster and without gradients.

        Args:
            codes: sRGB ``(B, 3, H, W)`` uint8, sides as for :meth:`forward`.
            context: of the whole photograph.
        """
        if loops_take(codes) and self.config.local and self.config.ycbcr and self.config.head == "canonical":
            return self._invert_codes_by_loops(codes, context)
        canonical = torch.stack(
            [invert_globally(image, each) for image, each in zip(codes, self.code_maps(context), strict=True)]
        )
        return self._add_local(canonical, codes.float() / 255.0, context)

    def code_maps(self, context: Context) -> list[CodeMap]:
        """The global map of each photograph over 8-bit codes, for :func:`invert_globally`."""
        with torch.autocast(context.vector.device.type, enabled=False):
            return code_maps(self.mean_inverse(context))

    def _invert_codes_by_loops(self, codes: Tensor, context: Context) -> Tensor:
        """Do it with one pass over the pixels before the layers, and one after them."""
        pixels = codes.permute(0, 2, 3, 1).contiguous().numpy()
        batch, height, width, _ = pixels.shape
        cells = torch.empty(batch, height // 2, width // 2, 12)
        for image, out in zip(pixels, cells.numpy(), strict=True):
            to_cells(image, _YCBCR_OF_CODES, out)
        residual = self._from_cells(cells.permute(0, 3, 1, 2), context).permute(0, 2, 3, 1).contiguous().numpy()
        light = torch.empty(batch, 3, height, width)
        for image, tables, change, out in zip(pixels, self.code_maps(context), residual, light.numpy(), strict=True):
            own, luma, maximum, matrix = (table.numpy() for table in tables)
            join_light(image, own, luma, maximum, matrix, change, _REACH_F32, _FLOOR_F32, out)
        return light

    def _add_local(self, canonical: Tensor, image: Tensor, context: Context) -> Tensor:
        if not self.config.local:
            return canonical
        planes = self.local_planes(image, context).float()
        if self.config.head == "packed":
            return (F.pixel_unshuffle(canonical, 2)[:, (0, 5, 6, 11)] + planes).clamp(0.0, 1.0)
        residual = _RESIDUAL_REACH * torch.tanh(F.pixel_shuffle(planes, 2))
        return canonical + residual * (canonical.detach().abs() + _RESIDUAL_FLOOR)

    def mean_inverse(self, context: Context) -> GlobalInverse:
        """The global map of each photograph, averaged over the committee."""
        opinions = zip(self.global_maps, context.opinions.float(), strict=True)
        return mean_inverse([head(opinion) for head, opinion in opinions])

    def global_only(self, image: Tensor, context: Context | None = None) -> Tensor:
        """The global map alone; shapes as in :meth:`forward` with head ``canonical``, any image size."""
        if context is None:
            context = self.context(summarise(image))
        with torch.autocast(image.device.type, enabled=False):  # curves need float32: bfloat16 has 8 bits of mantissa
            return apply_global_inverse(image.float(), self.mean_inverse(context))

    def local_planes(self, image: Tensor, context: Context) -> Tensor:
        """The CSP network: sRGB ``(B, 3, H, W)`` -> 12 (or 4) planes at half size, zero at the start of training."""
        return self._from_cells(F.pixel_unshuffle(rgb_to_ycbcr(image) if self.config.ycbcr else image, 2), context)

    def _from_cells(self, planes: Tensor, context: Context) -> Tensor:
        if self.denoise_net is not None:
            planes = self.denoise_net(planes)
        skips = []
        for block in self.encode:
            planes = block(planes, context)
            skips.append(planes)
            planes = F.max_pool2d(planes, 2)
        planes = self.bottleneck(planes, context)
        for up, block, skip in zip(self.up, self.decode, reversed(skips), strict=True):
            planes = block(torch.cat([up(planes), skip], dim=1), context)
        out: Tensor = self.to_planes(self.generator(planes))
        return out


def invert_globally(codes: Tensor, code_map: CodeMap) -> Tensor:
    """Take a photograph of 8 bits, or a part of it, to canonical linear by its global map alone.

    Args:
        codes: sRGB ``(3, H, W)`` uint8, of any size.
        code_map: of the whole photograph.

    Returns:
        Canonical linear ``(3, H, W)`` float32, not clipped.
    """
    if not loops_take(codes):
        with torch.autocast(codes.device.type, enabled=False):
            return map_codes(codes, code_map)
    light = torch.empty(codes.shape)
    own, luma, maximum, matrix = (table.numpy() for table in code_map)
    map_light(codes.permute(1, 2, 0).contiguous().numpy(), own, luma, maximum, matrix, light.numpy())
    return light
