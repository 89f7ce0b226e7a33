"""Two classical inverses of a camera's processing: the baselines that a learned inverse must beat.

Both are fixed point-wise maps from a display image to canonical linear. The step from canonical linear to a
camera (inverse colour matrix, inverse white balance) is :func:`aura.sensor.simulate.canonical_to_camera`.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from aura.color import srgb_to_linear
from aura.errors import InvalidInputError

UPI_GAMMA: Final = 2.2
"""Gamma of the display encoding that Brooks et al. undo (section 3.3)."""

UPI_DIGITAL_GAIN: Final = 0.8
"""Mean of the inverse digital gain, drawn from N(0.8, 0.1) in the paper (section 3.4)."""

_HIGHLIGHT_START: Final = 0.9


def linearise(srgb: Tensor) -> Tensor:
    """Undo nothing but the sRGB transfer function (IEC 61966-2-1).

    Args:
        srgb: ``(*, 3, H, W)``, display values in [0, 1], any floating dtype.

    Returns:
        Canonical linear, ``(*, 3, H, W)`` in [0, 1], same dtype.

    Raises:
        InvalidInputError: not a floating image of three channels.
    """
    _require_rgb(srgb)
    return srgb_to_linear(srgb.clamp(0.0, 1.0))


def upi(srgb: Tensor) -> Tensor:
    """Undo tone curve, gamma and digital gain as "Unprocessing Images" does, with the mean of each parameter.

    The paper draws its parameters at random to augment training data; an estimate wants their means, so the
    same photograph always gives the same result. T. Brooks, B. Mildenhall, T. Xue, J. Chen, D. Sharlet, J.
    T. Barron, "Unprocessing Images for Learned Raw Denoising", CVPR 2019, section 3.

    Args:
        srgb: ``(*, 3, H, W)``, display values in [0, 1], any floating dtype.

    Returns:
        Canonical linear, ``(*, 3, H, W)`` in [0, 1], same dtype; white stays 1.

    Raises:
        InvalidInputError: not a floating image of three channels.
    """
    _require_rgb(srgb)
    linear = _inverse_smoothstep(srgb.clamp(0.0, 1.0)).clamp_min(1e-8) ** UPI_GAMMA
    return linear * _safe_gain(linear, UPI_DIGITAL_GAIN)


def _inverse_smoothstep(image: Tensor) -> Tensor:
    """Invert the tone curve 3x^2 - 2x^3 on [0, 1] (section 3.2)."""
    return 0.5 - torch.sin(torch.asin(1.0 - 2.0 * image) / 3.0)


def _safe_gain(linear: Tensor, gain: float) -> Tensor:
    """Blend a darkening gain into 1 near white, so that clipped pixels stay clipped (section 3.4)."""
    grey = linear.mean(dim=-3, keepdim=True)
    near_white = ((grey - _HIGHLIGHT_START).clamp_min(0.0) / (1.0 - _HIGHLIGHT_START)) ** 2
    return near_white + (1.0 - near_white) * gain


def _require_rgb(image: Tensor) -> None:
    if image.ndim < 3 or image.shape[-3] != 3 or not image.is_floating_point():
        raise InvalidInputError(
            f"Image is {image.dtype} of shape {tuple(image.shape)}; expected floats (*, 3, H, W) in [0, 1]. "
            "Divide 8-bit values by 255 and move the channels before the rows."
        )
