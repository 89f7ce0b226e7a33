"""A forward ISP: RAW to sRGB, with random parameters for training, and the fixed reference renderer.

:func:`render` is the reference: demosaic, white balance, colour matrix, sRGB curve, nothing else. :func:`draw_isp` and
:func:`develop` are the wide family of ISPs that training must learn to take off again; every parameter is a tensor with
a batch dimension and is recorded in :class:`IspParameters`. All of it is differentiable (quantisation and JPEG pass
gradients straight through).
"""

from __future__ import annotations

import io
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from aura.bayer import PLANE_CHANNEL, CfaPattern
from aura.color import apply_matrix, linear_to_srgb, luminance, srgb_to_linear
from aura.curves import apply_curve
from aura.demosaic import demosaic_bilinear, demosaic_malvar, join_sites, malvar_planes
from aura.errors import InvalidInputError
from aura.tone_curves import MIDDLE_GREY, TONE_FAMILIES, curve_axis, draw_tone_curve, encode_curve_axis

_CODE_STEPS: Final = 65535
NEAR_SATURATION: Final = 0.9  # of the sensor; from here on a channel's measurement is doubted


def render(raw: Tensor, cfa_pattern: CfaPattern, wb_gains: Tensor, camera_to_srgb: Tensor) -> Tensor:
    """Render RAW the plainest way: the reference every cycle metric uses.

    White balance and clipping at saturation, Malvar demosaicking, colour matrix, sRGB curve, in the order of every
    common developer. No denoising, no tone curve.
    Saturated pixels are white under every light: where a gain under 1 (very warm or cold light) would leave a saturated
    channel below the others, and so tint highlights, it is raised to them.

    Args:
        raw: ``(*, 4, h, w)`` float, 0 = black level, 1 = saturation, order R, Gr, Gb, B.
        cfa_pattern: the pattern of the unpacked mosaic.
        wb_gains: ``(3,)`` or ``(*, 3)``, positive, green = 1.
        camera_to_srgb: ``(3, 3)`` or ``(*, 3, 3)``, rows sum to 1.

    Returns:
        sRGB ``(*, 3, 2h, 2w)`` float32 in [0, 1].

    Raises:
        InvalidInputError: the planes are smaller than 2x2.
    """
    linear = _render_linear(raw, cfa_pattern, wb_gains, camera_to_srgb)
    return join_sites(linear_to_srgb(linear).clamp(0.0, 1.0))


def render_codes(raw: Tensor, cfa_pattern: CfaPattern, wb_gains: Tensor, camera_to_srgb: Tensor) -> Tensor:
    """Do what :func:`render` does, and round to 8 bits as a file would hold it; several times faster.

    Args:
        raw: as for :func:`render`.
        cfa_pattern: likewise.
        wb_gains: likewise.
        camera_to_srgb: likewise.

    Returns:
        sRGB ``(*, 3, 2h, 2w)`` uint8. Light within 2^-17 of the border between two codes may take either.

    Raises:
        InvalidInputError: the planes are smaller than 2x2.
    """
    linear = _render_linear(raw, cfa_pattern, wb_gains, camera_to_srgb)
    position = linear.mul_(_CODE_STEPS).add_(0.5).to(torch.int32)
    codes = code_table(linear.device).index_select(0, position.flatten()).view(linear.shape)
    return join_sites(codes)


@lru_cache(maxsize=2)
def code_table(device: torch.device) -> Tensor:
    """The 8-bit sRGB code of each of 65,536 even steps of linear light from 0 to 1: uint8 ``(65536,)``."""
    light = torch.arange(_CODE_STEPS + 1, dtype=torch.float64) / _CODE_STEPS
    return (linear_to_srgb(light) * 255.0).round().to(torch.uint8).to(device)


def _render_linear(raw: Tensor, cfa_pattern: CfaPattern, wb_gains: Tensor, camera_to_srgb: Tensor) -> Tensor:
    """Linear sRGB at the four sites of each cell: ``(*, 4, h, w)`` -> ``(*, 3, 4, h, w)`` in [0, 1]."""
    if min(raw.shape[-2:]) < 2:
        raise InvalidInputError(f"Packed RAW planes are {tuple(raw.shape[-2:])}; at least 2x2 is needed to demosaic.")
    gains = wb_gains.to(raw.device, torch.float32)
    mosaic = _balance(raw.float(), gains)
    planes = malvar_planes(mosaic.reshape(-1, *mosaic.shape[-3:]), cfa_pattern)
    balanced = planes.view(*mosaic.shape[:-3], *planes.shape[1:3], -1)  # a row of pixels for each site
    balanced = _raise_saturated(balanced, gains[..., None, None]).clamp(0.0, 1.0)
    linear = apply_matrix(balanced, camera_to_srgb.float()).clamp(0.0, 1.0)
    return linear.view(*linear.shape[:-1], *raw.shape[-2:])


def _balance(raw: Tensor, gains: Tensor) -> Tensor:
    """White-balance packed RAW ``(*, 4, h, w)`` by ``(*, 3)`` and clip at saturation, before any of it is interpolated.

    Filters that take one colour's detail from another's are right on grey only where grey has equal values.
    """
    return (raw * gains[..., list(PLANE_CHANNEL), None, None]).clamp_max(1.0)


def _raise_saturated(balanced: Tensor, gains: Tensor) -> Tensor:
    """Raise what gains under 1 leave below white: camera RGB ``(*, 3, H, W)``, white-balanced by ``(*, 3, 1, 1)``.

    What a channel with a gain under 1 measured is a lower bound once it nears saturation. It is then raised to the
    least of the channels that are known up to white, which makes every grey exact and leaves brighter reds alone.
    """
    early = gains < 1.0
    if gains.device.type == "cpu" and not bool(early.any()):  # asking would make a GPU wait
        return balanced
    known = torch.where(early, 1.0, balanced).amin(dim=-3, keepdim=True).clamp_max(1.0)
    x = ((balanced / gains - NEAR_SATURATION) / (1.0 - NEAR_SATURATION)).clamp(0.0, 1.0)
    raised = torch.lerp(balanced, torch.maximum(balanced, known.expand_as(balanced)), x * x * (3.0 - 2.0 * x))
    return torch.where(early, raised, balanced)


# ---------------------------------------------------------------------------------------------------------------------
# The random ISP
# ---------------------------------------------------------------------------------------------------------------------

DEMOSAIC_METHODS: Final = ("bilinear", "malvar")

# Linear BT.709 -> BT.2020 (ITU-R BT.2087-0); tone curves of raw developers often run per channel in such a wide space.
_BT709_TO_BT2020 = torch.tensor([[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]])


@dataclass(frozen=True)
class IspParameters:
    """All parameters of a batch of B random ISPs, one row each.

    Attributes:
        demosaic: index into ``DEMOSAIC_METHODS``; ``(B,)`` int64.
        wb_error: gains on R, G, B left over after white balance; ``(B, 3)``.
        colour_error: colour matrix of the ISP's own mistakes and taste, near the identity; ``(B, 3, 3)``.
        exposure: linear gain before the tone curve; ``(B,)``.
        auto_exposure: 0 = fixed, 1 = mean to middle grey, 2 = bright percentile to white; ``(B,)`` int64.
        denoise: strength 0..1 of denoising before the curve; ``(B,)``.
        tone_family: index into ``TONE_FAMILIES``; ``(B,)`` int64.
        tone_curve: linear light -> display value, sampled on :func:`curve_axis`; ``(B, 1, 512)``.
        wide_gamut: 1 where the curve runs in BT.2020 primaries; ``(B,)``.
        chroma_preserving: 0 = per channel .. 1 = one gain from the norm; ``(B,)``.
        norm_is_max: 1 where that norm is max(R, G, B), 0 where it is luminance; ``(B,)``.
        local_contrast: exponent on the large-scale luminance, 1 = none; ``(B,)``.
        saturation: 1 = unchanged; ``(B,)``.
        hue_degrees: rotation about grey; ``(B,)``.
        vibrance: extra saturation for dull colours; ``(B,)``.
        sharpen: amount of unsharp mask; ``(B,)``.
        sharpen_radius: its sigma in pixels; ``(B,)``.
        jpeg_quality: 0 = no JPEG; ``(B,)`` int64.
        jpeg_subsampling: 0 = 4:4:4, 2 = 4:2:0 (Pillow's codes); ``(B,)`` int64.
    """

    demosaic: Tensor
    wb_error: Tensor
    colour_error: Tensor
    exposure: Tensor
    auto_exposure: Tensor
    denoise: Tensor
    tone_family: Tensor
    tone_curve: Tensor
    wide_gamut: Tensor
    chroma_preserving: Tensor
    norm_is_max: Tensor
    local_contrast: Tensor
    saturation: Tensor
    hue_degrees: Tensor
    vibrance: Tensor
    sharpen: Tensor
    sharpen_radius: Tensor
    jpeg_quality: Tensor
    jpeg_subsampling: Tensor

    def select(self, index: slice | Tensor) -> IspParameters:
        """Keep some rows of the batch."""
        return IspParameters(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def draw_isp(batch: int, rng: np.random.Generator) -> IspParameters:
    """Draw the parameters of ``batch`` random ISPs; deterministic in the generator's state."""
    axis = curve_axis().double().numpy()
    plain = rng.random(batch) < 0.5  # a developer at its most neutral: no taste, no mistakes
    family = rng.choice(len(TONE_FAMILIES), size=batch, p=[0.10, 0.06, 0.12, 0.24, 0.18, 0.10, 0.20])
    family = np.where(plain, 0, family)
    curves = [
        draw_tone_curve(TONE_FAMILIES[index], axis, rng, graded=not flat)
        for index, flat in zip(family, plain, strict=True)
    ]
    auto = rng.choice(3, size=batch, p=[0.7, 0.1, 0.2])
    # Fixed exposure: developers lift RAW by up to two stops, since cameras protect highlights.
    stops = np.where(auto == 0, rng.normal(0.45, 0.55, batch).clip(-1.0, 2.2), rng.normal(0.0, 0.4, batch))
    mild = rng.random(batch) < 0.7
    colour_error = rng.normal(0.0, 1.0, (batch, 3, 3)) * np.where(plain, 0.0, np.where(mild, 0.02, 0.07))[:, None, None]
    colour_error += np.eye(3)
    colour_error /= colour_error.sum(axis=2, keepdims=True)

    def sometimes(
        probability: float, low: float, high: float, otherwise: float, *, if_plain: float = 0.0
    ) -> np.ndarray:
        happens = rng.random(batch) < np.where(plain, if_plain, probability)
        return np.where(happens, rng.uniform(low, high, batch), otherwise)

    parameters: dict[str, np.ndarray] = {
        "demosaic": rng.integers(len(DEMOSAIC_METHODS), size=batch),
        "wb_error": np.exp(rng.normal(0.0, 0.05, (batch, 3)) * np.array([1.0, 0.3, 1.0]) * ~plain[:, None]),
        "colour_error": colour_error,
        "exposure": np.where(plain, 1.0, 2.0**stops),
        "auto_exposure": auto,
        "denoise": sometimes(0.7, 0.1, 1.0, 0.0, if_plain=0.2),
        "tone_family": family,
        "tone_curve": np.stack(curves)[:, None],
        "wide_gamut": sometimes(0.5, 1.0, 1.0, 0.0),
        "chroma_preserving": sometimes(0.5, 0.0, 1.0, 0.0),
        "norm_is_max": sometimes(0.4, 1.0, 1.0, 0.0),
        "local_contrast": sometimes(0.3, 0.6, 1.1, 1.0),
        "saturation": sometimes(0.8, 0.75, 1.55, 1.0),
        "hue_degrees": sometimes(0.3, -6.0, 6.0, 0.0),
        "vibrance": sometimes(0.25, 0.0, 0.4, 0.0),
        "sharpen": sometimes(0.75, 0.1, 1.2, 0.0, if_plain=0.5),
        "sharpen_radius": rng.uniform(0.5, 1.6, batch),
        "jpeg_quality": np.where(rng.random(batch) < 0.85, rng.integers(60, 99, batch), 0),
        "jpeg_subsampling": np.where(rng.random(batch) < 0.55, 2, 0),
    }
    return IspParameters(
        **{
            name: torch.from_numpy(value.astype(np.int64 if value.dtype.kind == "i" else np.float32))
            for name, value in parameters.items()
        }
    )


def develop(
    raw: Tensor, cfa_pattern: CfaPattern, wb_gains: Tensor, camera_to_srgb: Tensor, isp: IspParameters
) -> Tensor:
    """Develop noisy RAW to sRGB by a batch of random ISPs.

    Args:
        raw: ``(B, 4, h, w)`` float, 0 = black, 1 = saturation; noise below 0 is welcome.
        cfa_pattern: pattern of the whole batch.
        wb_gains: ``(B, 3)``, the camera's own, green = 1.
        camera_to_srgb: ``(B, 3, 3)``.
        isp: B rows of parameters.

    Returns:
        sRGB ``(B, 3, 2h, 2w)`` float32, a multiple of 1/255 in [0, 1].
    """
    # gains after demosaicking: before it, as developers have them, they taught (at one seed) a map worse on real files
    rgb = _demosaic_mixed(raw, cfa_pattern, isp.demosaic)
    linear = apply_matrix((rgb * wb_gains[..., None, None]).clamp_max(1.0), camera_to_srgb)
    linear = apply_matrix(linear * isp.wb_error[..., None, None], isp.colour_error)
    linear = _denoise(linear, isp.denoise)
    linear = _expose(linear, isp)
    linear = _local_tone(linear, isp.local_contrast)
    display = _tone(linear, isp)
    display = _colour_taste(display, isp)
    display = _unsharp(display, isp)
    return encode_jpeg(display, isp.jpeg_quality, isp.jpeg_subsampling)


def _column(value: Tensor) -> Tensor:
    return value[:, None, None, None]


def _demosaic_mixed(raw: Tensor, pattern: CfaPattern, method: Tensor) -> Tensor:
    plain = method == DEMOSAIC_METHODS.index("bilinear")
    rgb = raw.new_empty(len(raw), 3, 2 * raw.shape[-2], 2 * raw.shape[-1])
    for rows, interpolate in ((plain, demosaic_bilinear), (~plain, demosaic_malvar)):
        if bool(rows.any()):
            rgb = rgb.index_put((rows,), interpolate(raw[rows], pattern))
    return rgb


def _blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur with one sigma per image (radius 4, so sigma is at most about 2)."""
    batch, channels = image.shape[:2]
    offsets = torch.arange(-4, 5, dtype=image.dtype, device=image.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None].clamp_min(1e-3)) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
    flat = F.pad(image.reshape(1, batch * channels, *image.shape[-2:]), (4, 4, 4, 4), mode="reflect")
    flat = F.conv2d(flat, kernel[:, None, :, None], groups=batch * channels)
    return F.conv2d(flat, kernel[:, None, None, :], groups=batch * channels).view_as(image)


def _denoise(linear: Tensor, strength: Tensor) -> Tensor:
    """Smooth where the local contrast is small (a guided filter in miniature), colour more than luminance."""
    if not bool((strength > 0).any()):
        return linear
    amount = _column(strength)
    smooth = _blur(linear, 0.5 + 1.0 * strength)
    light = luminance(linear)
    light_smooth = luminance(smooth)
    edge = (light - light_smooth).abs() / (light_smooth.clamp_min(0.0) + 0.02)
    keep = (edge * 8.0).clamp(0.0, 1.0)
    light_out = light + amount * (1.0 - keep) * (light_smooth - light)
    return linear + amount * ((smooth - light_smooth) - (linear - light)) + (light_out - light)


def _expose(linear: Tensor, isp: IspParameters) -> Tensor:
    light = luminance(linear).flatten(1)[:, ::11]
    to_grey = (MIDDLE_GREY / light.mean(1).clamp_min(1e-3)).clamp_max(12.0)
    to_white = (0.95 / torch.quantile(light, 0.99, dim=1).clamp_min(1e-2)).clamp_max(12.0)
    gain = (
        torch.where(isp.auto_exposure == 1, to_grey, torch.where(isp.auto_exposure == 2, to_white, 1.0)) * isp.exposure
    )
    # nobody publishes a photograph that is mostly white
    ceiling = 1.2 / torch.quantile(light, 0.8, dim=1).clamp_min(1e-3)
    return linear * _column(torch.minimum(gain, ceiling))


def _local_tone(linear: Tensor, exponent: Tensor) -> Tensor:
    """Compress the large scales of luminance about its geometric mean, as shadow and highlight tools do."""
    if bool((exponent == 1.0).all()):
        return linear
    log_light = luminance(linear).clamp_min(1e-3).log()
    coarse = F.adaptive_avg_pool2d(log_light, (12, 12))
    base = F.interpolate(coarse, size=linear.shape[-2:], mode="bicubic", align_corners=False)
    return linear * torch.exp((_column(exponent) - 1.0) * (base - base.mean((2, 3), keepdim=True)))


def _tone(linear: Tensor, isp: IspParameters) -> Tensor:
    wide = _BT709_TO_BT2020.to(linear)
    identity = torch.eye(3, device=linear.device)
    into = torch.where(isp.wide_gamut[:, None, None] > 0.5, wide, identity)
    linear = apply_matrix(linear, into).clamp_min(0.0)
    per_channel = _display_light(linear, isp.tone_curve)
    norm = torch.where(_column(isp.norm_is_max) > 0.5, linear.amax(1, keepdim=True), luminance(linear)).clamp_min(1e-6)
    preserving = linear * (_display_light(norm, isp.tone_curve) / norm)
    light = torch.lerp(per_channel, preserving, _column(isp.chroma_preserving))
    out_of = torch.linalg.inv(into)
    return linear_to_srgb(apply_matrix(light, out_of)).clamp(0.0, 1.0)


def _display_light(linear: Tensor, curve: Tensor) -> Tensor:
    """The curve's display value as linear display light, so that gamut conversion after it is physical."""
    return apply_curve(encode_curve_axis(linear), srgb_to_linear(curve))


def _colour_taste(display: Tensor, isp: IspParameters) -> Tensor:
    light = luminance(display)
    colour = display - light
    angle = torch.deg2rad(isp.hue_degrees)
    turned = apply_matrix(colour, _hue_rotation(angle))
    spread = display.amax(1, keepdim=True) - display.amin(1, keepdim=True)
    factor = _column(isp.saturation) + _column(isp.vibrance) * (1.0 - spread)
    return (light + factor * turned).clamp(0.0, 1.0)


def _hue_rotation(angle: Tensor) -> Tensor:
    """Rotation about the grey axis (Rodrigues' formula): ``(B,)`` radians -> ``(B, 3, 3)``."""
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=angle.device) / 3**0.5
    grey = torch.full((3, 3), 1.0 / 3.0, device=angle.device)
    eye = torch.eye(3, device=angle.device)
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cosine * eye + sine * cross + (1 - cosine) * grey


def _unsharp(display: Tensor, isp: IspParameters) -> Tensor:
    if not bool((isp.sharpen > 0).any()):
        return display
    detail = display - _blur(display, isp.sharpen_radius)
    return (display + _column(isp.sharpen) * detail).clamp(0.0, 1.0)


def encode_jpeg(display: Tensor, quality: Tensor, subsampling: Tensor) -> Tensor:
    """Quantise to 8 bits and, where quality > 0, pass through a real JPEG encoder; gradients pass straight through.

    Args:
        display: ``(B, 3, H, W)`` in [0, 1].
        quality: ``(B,)`` int, 0 (none) or 1-100.
        subsampling: ``(B,)`` int, Pillow's code: 0 = 4:4:4, 2 = 4:2:0.

    Returns:
        ``(B, 3, H, W)`` float32, multiples of 1/255.
    """
    codes = (
        (display.detach().clamp(0.0, 1.0) * 255.0)
        .round()
        .to(torch.uint8)
        .permute(0, 2, 3, 1)
        .contiguous()
        .cpu()
        .numpy()
    )
    rows = [
        _through_jpeg(image, int(q), int(s)) if q else image
        for image, q, s in zip(codes, quality, subsampling, strict=True)
    ]
    coded = torch.from_numpy(np.stack(rows)).permute(0, 3, 1, 2).to(display) / 255.0
    return display + (coded - display).detach()


def _through_jpeg(image: np.ndarray, quality: int, subsampling: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(buffer).convert("RGB"))
