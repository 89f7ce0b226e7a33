"""How close two images, or two RAW frames, are: PSNR, SSIM, CIEDE2000, and tone-matched comparisons.

Every image is ``(B, C, H, W)`` with a data range of 1; a metric returns one float32 value per image. LPIPS
is in :mod:`aura.perceptual`; what a factory measures on every sample is in :mod:`aura.cycle`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression
from torch import Tensor

from aura.bayer import PLANE_CHANNEL
from aura.color import SRGB_TO_XYZ, srgb_to_linear
from aura.errors import InvalidInputError

OVEREXPOSED: Final = 0.99
"""Normalised RAW at or above this is over-exposed: it bounds the light from below and no more."""

SSIM_WINDOW: Final = 11

# rows at a time: what SSIM holds then stays in the processor's cache, and small on a 24-megapixel image
_SSIM_STRIP: Final = 128
_TONE_BINS: Final = 64
_TONE_LEVELS: Final = 1024
_TONE_TABLE: Final = 4096
_TONE_LEAST_PIXELS: Final = 16
_PIXELS_PER_BLOCK: Final = 1 << 20


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB for a peak of 1.

    Args:
        image: ``(B, C, H, W)``.
        reference: same shape.

    Returns:
        ``(B,)`` float32; infinite where the two are equal.

    Raises:
        InvalidInputError: shapes differ or have not four dimensions.
    """
    _require_pair(image, reference)
    error = (image.float() - reference.float()) ** 2
    return -10.0 * torch.log10(error.mean(dim=(1, 2, 3)))


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity, 11x11 Gaussian window of sigma 1.5, mean over channels and positions.

    Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image Quality Assessment: From Error Visibility to
    Structural Similarity", IEEE TIP 2004; K1 = 0.01, K2 = 0.03, data range 1. Differentiable. Only windows
    that lie inside the image count.

    Args:
        image: ``(B, C, H, W)``, sides of at least 11.
        reference: same shape.

    Returns:
        ``(B,)`` float32, at most 1; 1 only for equal images.

    Raises:
        InvalidInputError: shapes differ, have not four dimensions, or a side is under 11.
    """
    _require_pair(image, reference)
    if min(image.shape[-2:]) < SSIM_WINDOW:
        raise InvalidInputError(
            f"SSIM got {image.shape[-2]}x{image.shape[-1]} pixels; expected at least {SSIM_WINDOW} a side."
        )
    height = image.shape[-2]
    total = torch.zeros(image.shape[0], device=image.device)
    for top in range(0, height - SSIM_WINDOW + 1, _SSIM_STRIP):
        rows = slice(top, top + _SSIM_STRIP + SSIM_WINDOW - 1)
        total = total + _similarity_map(image[..., rows, :].float(), reference[..., rows, :].float()).sum((1, 2, 3))
    return total / (image.shape[1] * (height - SSIM_WINDOW + 1) * (image.shape[3] - SSIM_WINDOW + 1))


def psnr_aligned(predicted: Tensor, truth: Tensor) -> Tensor:
    """PSNR of packed RAW after one least-squares gain per colour channel: what a photograph can tell at all.

    Exposure and white balance cannot be seen in a photograph. Red, green (Gr and Gb together) and blue get
    the gain that fits the truth best over sites that are not over-exposed in the truth (below 0.99), 1 where
    there is none; values beyond saturation are clipped, and the PSNR counts every site.

    Args:
        predicted: ``(B, 4, h, w)`` normalised RAW in the order R, Gr, Gb, B.
        truth: same shape.

    Returns:
        ``(B,)`` float32 in dB.

    Raises:
        InvalidInputError: shapes differ or are not ``(B, 4, h, w)``.
    """
    return psnr(align_gains(predicted, truth), truth)


def align_gains(predicted: Tensor, truth: Tensor) -> Tensor:
    """Apply :func:`psnr_aligned`'s gains: ``(B, 4, h, w)`` float32, at most 1."""
    _require_pair(predicted, truth)
    if predicted.shape[1] != len(PLANE_CHANNEL):
        raise InvalidInputError(f"Packed RAW has shape {tuple(predicted.shape)}; expected (B, 4, h, w).")
    predicted, truth = predicted.float(), truth.float()
    exposed = (truth < OVEREXPOSED).double()
    cross = (exposed * predicted * truth).sum(dim=(2, 3))
    power = (exposed * predicted * predicted).sum(dim=(2, 3))
    channel = torch.tensor(PLANE_CHANNEL, device=predicted.device)
    cross, power = (
        torch.stack([part[:, channel == colour].sum(dim=1) for colour in range(3)], dim=1) for part in (cross, power)
    )
    gains = torch.where(power > 0.0, cross / power.clamp_min(1e-12), 1.0)
    return (predicted * gains[:, channel, None, None].float()).clamp_max(1.0)


def fine_part(planes: Tensor, sites: int) -> Tensor:
    """Take off the mean of ``sites`` x ``sites`` values around each: noise, sharpening and blocks stay, tone goes.

    Args:
        planes: ``(B, C, h, w)`` or ``(C, h, w)``, an image or a difference of two.
        sites: side of the square, odd; at the border it is cut off.
    """
    return planes - F.avg_pool2d(planes, sites, stride=1, padding=sites // 2, count_include_pad=False)


def match_tone(image: Tensor, reference: Tensor) -> Tensor:
    """Give an image the exposure and tone of a reference: one monotone curve per channel, fitted on the pair.

    In each of 64 bands of an image channel the curve aims at the median of the reference there (so outliers
    such as misplaced edges do not pull it), is made non-decreasing by isotonic regression weighted with the
    pixel counts, and runs through the bands' mean values as a monotone cubic (F. N. Fritsch, R. E. Carlson,
    1980). It corrects exposure, white balance and tone, and cannot correct anything spatial. Bands with
    fewer than 16 pixels are left out. Not differentiable.

    Args:
        image: ``(B, C, H, W)`` in [0, 1].
        reference: same shape.

    Returns:
        ``(B, C, H, W)`` float32, on the image's device.

    Raises:
        InvalidInputError: shapes differ or have not four dimensions.
    """
    _require_pair(image, reference)
    values = image.detach().float().cpu().numpy()
    targets = reference.detach().float().cpu().numpy()
    matched = np.empty_like(values)
    for index in np.ndindex(values.shape[:2]):
        matched[index] = _look_up(_monotone_curve(values[index], targets[index]), values[index])
    return torch.from_numpy(matched).to(image.device)


def ciede2000(image: Tensor, reference: Tensor) -> Tensor:
    """Mean colour difference dE00 between two display images.

    G. Sharma, W. Wu, E. N. Dalal, "The CIEDE2000 Color-Difference Formula", Color Res. Appl. 2005, with
    k_L = k_C = k_H = 1 and the D65 white. Not differentiable.

    Args:
        image: ``(B, 3, H, W)``, sRGB display values in [0, 1].
        reference: same shape.

    Returns:
        ``(B,)`` float32; about 1 is just noticeable.

    Raises:
        InvalidInputError: shapes differ or are not ``(B, 3, H, W)``.
    """
    _require_pair(image, reference)
    if image.shape[1] != 3:
        raise InvalidInputError(f"Images have shape {tuple(image.shape)}; expected (B, 3, H, W) sRGB.")
    return torch.stack([_mean_difference(*pair) for pair in zip(image.detach(), reference.detach(), strict=True)])


def _require_pair(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape or image.ndim != 4:
        raise InvalidInputError(
            f"Images have shapes {tuple(image.shape)} and {tuple(reference.shape)}; expected the same (B, C, H, W)."
        )


def _similarity_map(image: Tensor, reference: Tensor) -> Tensor:
    """SSIM at every full window: ``(B, C, H, W)`` -> ``(B, C, H - 10, W - 10)``."""
    moments = torch.stack([image, reference, image * image + reference * reference, image * reference])
    return similarity(*ssim_blur(moments).unbind(0))


def similarity(mean_1: Tensor, mean_2: Tensor, squares: Tensor, product: Tensor) -> Tensor:
    """SSIM of blurred moments: of two images, of the sum of their squares, and of their product; any one shape."""
    mean_squares, mean_product = mean_1 * mean_1 + mean_2 * mean_2, mean_1 * mean_2
    c1, c2 = 0.01**2, 0.03**2
    luminance_and_structure = (2 * mean_product + c1) * (2 * (product - mean_product) + c2)
    ratio: Tensor = luminance_and_structure / ((mean_squares + c1) * (squares - mean_squares + c2))
    return ratio


def ssim_blur(images: Tensor, stride: int = 1) -> Tensor:
    """Blur the last two dimensions with the SSIM window.

    Args:
        images: ``(*, H, W)`` float32, sides of at least 11.
        stride: 1 for every full window, which takes 10 off each side; n for every nth in each direction.
    """
    window = ssim_window().to(images.device)
    with torch.autocast(images.device.type, enabled=False):
        # all planes as the channels of one depthwise convolution: several times faster than a batch of one channel
        planes = images.flatten(0, -3)[None]
        count = planes.shape[1]
        rows = F.conv2d(planes, window.view(1, 1, -1, 1).repeat(count, 1, 1, 1), groups=count, stride=(stride, 1))
        blurred = F.conv2d(rows, window.view(1, 1, 1, -1).repeat(count, 1, 1, 1), groups=count, stride=(1, stride))
    return blurred.reshape(*images.shape[:-2], *blurred.shape[-2:])


def ssim_window() -> Tensor:
    """The SSIM window in one direction, a Gaussian of sigma 1.5: float32 ``(11,)`` on the CPU, sums to 1."""
    position = torch.arange(SSIM_WINDOW, dtype=torch.float32) - SSIM_WINDOW // 2
    window = torch.exp(-(position**2) / (2 * 1.5**2))
    return window / window.sum()


def _monotone_curve(values: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Fit targets as a non-decreasing function of values; a table over [0, 1] with ``_TONE_TABLE + 1`` entries."""
    band = np.clip(values * _TONE_BINS, 0, _TONE_BINS - 1).astype(np.int32).ravel()
    level = np.clip(targets * (_TONE_LEVELS - 1) + 0.5, 0, _TONE_LEVELS - 1).astype(np.int32).ravel()
    joint = np.bincount(band * _TONE_LEVELS + level, minlength=_TONE_BINS * _TONE_LEVELS)
    joint = joint.reshape(_TONE_BINS, _TONE_LEVELS)
    return fit_tone(joint, np.bincount(band, weights=values.ravel(), minlength=_TONE_BINS), _TONE_TABLE + 1)


def fit_tone(joint: np.ndarray, sums: np.ndarray, entries: int) -> np.ndarray:
    """Fit the curve of :func:`match_tone` to what was counted.

    Args:
        joint: int ``(bands, levels)``: pixels by band of the image and level of the reference, both even on [0, 1].
        sums: ``(bands,)``: of the image's values in each band.
        entries: of the table.

    Returns:
        float32 ``(entries,)``: the curve at even steps from 0 to 1, non-decreasing.
    """
    counts = joint.sum(axis=1)
    used = counts >= min(_TONE_LEAST_PIXELS, counts.max())
    knots = (sums / np.maximum(counts, 1))[used]
    medians = (joint[used].cumsum(axis=1) >= counts[used, None] / 2).argmax(axis=1) / (joint.shape[1] - 1)
    if len(knots) == 1:
        return np.full(entries, medians[0], dtype=np.float32)
    heights = isotonic_regression(medians, weights=counts[used].astype(np.float64)).x
    grid = np.linspace(0.0, 1.0, entries).clip(knots[0], knots[-1])
    return np.asarray(PchipInterpolator(knots, heights)(grid), dtype=np.float32)


def _look_up(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    position = values.clip(0.0, 1.0) * _TONE_TABLE
    below = np.minimum(position.astype(np.int32), _TONE_TABLE - 1)
    low = table[below]
    return np.asarray(low + (position - below) * (table[below + 1] - low))


def _mean_difference(image: Tensor, reference: Tensor) -> Tensor:
    """Average dE00 in blocks, so that a 24-megapixel image needs no gigabytes of float64."""
    pixels, reference_pixels = image.flatten(1), reference.flatten(1)
    total = torch.zeros((), dtype=torch.float64, device=image.device)
    for start in range(0, pixels.shape[1], _PIXELS_PER_BLOCK):
        block = slice(start, start + _PIXELS_PER_BLOCK)
        total += _delta_e00(_lab(pixels[:, block]), _lab(reference_pixels[:, block])).sum()
    return (total / pixels.shape[1]).float()


def _lab(srgb: Tensor) -> Tensor:
    """Convert sRGB ``(3, N)`` to CIE L*a*b* (D65), float64."""
    to_xyz = torch.from_numpy(SRGB_TO_XYZ).to(srgb.device)
    xyz = to_xyz @ srgb_to_linear(srgb.double())
    ratio = xyz / to_xyz.sum(dim=1, keepdim=True)
    delta = 6.0 / 29.0
    f = torch.where(ratio > delta**3, ratio.clamp_min(1e-12) ** (1 / 3), ratio / (3 * delta**2) + 4.0 / 29.0)
    return torch.stack([116.0 * f[1] - 16.0, 500.0 * (f[0] - f[1]), 200.0 * (f[1] - f[2])])


def _delta_e00(first: Tensor, second: Tensor) -> Tensor:
    """CIEDE2000 between two ``(3, N)`` L*a*b* lists; names follow Sharma et al., equations 2-22."""
    (L1, a1, b1), (L2, a2, b2) = first, second
    mean_C7 = (0.5 * (torch.hypot(a1, b1) + torch.hypot(a2, b2))) ** 7
    G = 0.5 * (1.0 - torch.sqrt(mean_C7 / (mean_C7 + 25.0**7)))
    a1, a2 = (1.0 + G) * a1, (1.0 + G) * a2
    C1, C2 = torch.hypot(a1, b1), torch.hypot(a2, b2)
    h1, h2 = torch.atan2(b1, a1) % (2 * math.pi), torch.atan2(b2, a2) % (2 * math.pi)

    chromatic = C1 * C2 > 0
    dh = h2 - h1
    dh = torch.where(dh > math.pi, dh - 2 * math.pi, torch.where(dh < -math.pi, dh + 2 * math.pi, dh))
    dH = torch.where(chromatic, 2.0 * torch.sqrt(C1 * C2) * torch.sin(dh / 2), torch.zeros_like(dh))
    dL, dC = L2 - L1, C2 - C1

    mean_L, mean_C = 0.5 * (L1 + L2), 0.5 * (C1 + C2)
    h_sum = h1 + h2
    turned = torch.where(h_sum < 2 * math.pi, h_sum + 2 * math.pi, h_sum - 2 * math.pi)
    mean_h = torch.where((h1 - h2).abs() <= math.pi, 0.5 * h_sum, 0.5 * turned)
    mean_h = torch.where(chromatic, mean_h, h_sum)

    T = (
        1.0
        - 0.17 * torch.cos(mean_h - math.radians(30))
        + 0.24 * torch.cos(2 * mean_h)
        + 0.32 * torch.cos(3 * mean_h + math.radians(6))
        - 0.20 * torch.cos(4 * mean_h - math.radians(63))
    )
    S_L = 1.0 + 0.015 * (mean_L - 50.0) ** 2 / torch.sqrt(20.0 + (mean_L - 50.0) ** 2)
    S_C = 1.0 + 0.045 * mean_C
    S_H = 1.0 + 0.015 * mean_C * T
    turn = math.radians(60) * torch.exp(-(((torch.rad2deg(mean_h) - 275.0) / 25.0) ** 2))
    R_T = -2.0 * torch.sqrt(mean_C**7 / (mean_C**7 + 25.0**7)) * torch.sin(turn)
    l_term, c_term, h_term = dL / S_L, dC / S_C, dH / S_H
    squared: Tensor = l_term**2 + c_term**2 + h_term**2 + R_T * c_term * h_term
    return squared.clamp_min(0.0).sqrt()
