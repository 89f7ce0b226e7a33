"""The denoiser: a small U-Net on packed RAW that is told how much noise there is at each pixel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SIDES = 4
"""Two poolings: sides are filled up to multiples of this."""
_LEAK = 0.1
"""Slope below 0: units that are 0 for ever would leave the answer to its bias, and some trainings ended so."""
_SMOOTHING = 5
"""Side of the window whose mean stands for the light around a noisy pixel."""


class Denoiser(nn.Module):
    """Takes noise out of packed RAW of any camera, ISO and exposure.

    It sees how far each pixel lies off its neighbourhood in units of the noise's standard deviation, and answers how
    much of that to keep, and what else to take off in the same unit; so one network serves any strength of noise. Light
    and noise are divided by the image's own mean, so a dark image is a noisier one and nothing else.
    """

    def __init__(self, width: int = 16) -> None:
        """Make an untrained network, which is half a blur.

        Args:
            width: channels at full size; twice and four times as many below. 16 makes 0.12 million parameters.
        """
        super().__init__()
        self.first = _convolutions(12, width)
        self.second = _convolutions(width, 2 * width)
        self.bottom = _convolutions(2 * width, 4 * width)
        self.widen_second = nn.ConvTranspose2d(4 * width, 2 * width, 2, stride=2)
        self.back_second = _convolutions(4 * width, 2 * width)
        self.widen_first = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.back_first = _convolutions(2 * width, width)
        self.answer = nn.Conv2d(width, 8, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, _LEAK)
        nn.init.zeros_(self.answer.weight)

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Denoise.

        Args:
            noisy: ``(B, 4, h, w)`` float32, planes R, Gr, Gb, B; 0 = black level, 1 = saturation, not clipped.
            sigma: the same shape, standard deviation of the noise in the same unit; see :func:`noise_sigma`.

        Returns:
            The same shape.
        """
        scale = noisy.mean(dim=(1, 2, 3), keepdim=True).maximum(sigma.mean(dim=(1, 2, 3), keepdim=True))
        height, width = noisy.shape[-2:]
        light = _neighbourhood(noisy)
        detail = noisy - light
        image = torch.cat([torch.asinh(detail / sigma), light / scale, sigma / scale], dim=1)
        image = F.pad(image, (0, -width % _SIDES, 0, -height % _SIDES), mode="replicate")
        full = self.first(image)
        half = self.second(F.avg_pool2d(full, 2))
        quarter = self.bottom(F.avg_pool2d(half, 2))
        half = self.back_second(torch.cat([half, self.widen_second(quarter)], dim=1))
        full = self.back_first(torch.cat([full, self.widen_first(half)], dim=1))
        keep, noise = self.answer(full)[..., :height, :width].chunk(2, dim=1)
        denoised: Tensor = light + keep.sigmoid() * detail - sigma * noise
        return denoised


def noise_sigma(raw: Tensor, facts: Mapping[str, Any]) -> Tensor:
    """Say how strong the noise is at each pixel, by the camera's own calibration.

    Args:
        raw: ``(B, 4, h, w)`` float32, noisy or clean, 0 = black level, 1 = saturation.
        facts: what a batch of :class:`storage.reading.RawStream` tells of its samples: ``(B,)`` gain K in DN per
            electron, read and row noise in DN; ``(B, 4)`` black and white level in DN.

    Returns:
        Standard deviation in the unit of ``raw``, the same shape: photon noise of the light around a pixel, read noise,
        row noise and rounding.
    """

    def column(name: str) -> Tensor:
        return torch.as_tensor(facts[name], dtype=raw.dtype, device=raw.device).reshape(len(raw), -1, 1, 1)

    range_dn = column("white_level_dn") - column("black_level_dn")
    dark_dn2 = (
        column("noise_read_sigma_dn") ** 2
        + column("noise_row_sigma_dn") ** 2
        + column("noise_quantisation_step_dn") ** 2 / 12
    )
    light_dn = _neighbourhood(raw).clamp_min(0) * range_dn
    variance_dn2 = column("noise_system_gain_dn_per_electron") * light_dn + dark_dn2
    return variance_dn2.sqrt() / range_dn


def _neighbourhood(raw: Tensor) -> Tensor:
    return F.avg_pool2d(raw, _SMOOTHING, stride=1, padding=_SMOOTHING // 2, count_include_pad=False)


def _convolutions(channels_in: int, channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, 3, padding=1, padding_mode="replicate"),
        nn.LeakyReLU(_LEAK),
        nn.Conv2d(channels, channels, 3, padding=1, padding_mode="replicate"),
        nn.LeakyReLU(_LEAK),
    )
