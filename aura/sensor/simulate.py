"""A photograph's light through a camera: canonical linear RGB to the digital numbers its RAW file would hold.

Canonical linear has BT.709 primaries, is white-balanced to D65, and 1.0 is saturation. The camera sees it through its
colour matrix and the light of the scene; saturated pixels stay saturated in all channels, as a sensor's do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from aura.bayer import PLANE_CHANNEL, cfa_sites, pack_rgb, require_even
from aura.color import SRGB_TO_XYZ, apply_matrix
from aura.compiled import loops_take
from aura.errors import InvalidInputError
from aura.sensor.loops import expose
from aura.sensor.noise import NoiseModel, NoiseParameters, noise_at
from aura.sensor.noise_draws import NoiseBatch, add_noise_batch, digitise, seeded
from aura.sensor.profile import D65_XYZ, Matrix3, Row3, SensorProfile

HIGHLIGHT_START: Final = 0.9
"""Least balanced channel from which highlights are carried to saturation (Brooks et al. 2019, section 3.4)."""

DAYLIGHT_LEAST_KELVIN: Final = 4000.0
COLDEST_KELVIN: Final = 15000.0
WARMEST_KELVIN: Final = 2000.0
"""Candle light; below, a matrix calibrated for D65 asks for gains no camera has."""

_NO_NOISE: Final = NoiseParameters(0.0, 0.0)
_BISECTIONS: Final = 52  # halves an interval of 0.1 to the precision of float64
_CAPTURE_STREAM: Final = 0x63617074  # keeps these draws apart from others of the same seed

# Bradford cone responses, as DNG and ICC use them (Lam, thesis, University of Bradford, 1985)
_BRADFORD: Final = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])

MatrixLike = Tensor | np.ndarray | Sequence[Sequence[float]] | Sequence[Matrix3]
GainsLike = Tensor | np.ndarray | Sequence[float] | Sequence[Row3]


@dataclass(frozen=True, slots=True)
class Capture:
    """Everything that decides how a scene becomes digital numbers.

    Attributes:
        profile: the camera.
        iso: sensitivity; chooses levels and noise.
        wb_gains: what makes a grey surface neutral under this light, green 1.
        camera_to_srgb: 3x3, white-balanced camera RGB -> canonical linear; rows sum to 1.
        exposure: factor on the scene's light.
        noise: what is added, or None for clean RAW.
        seed: of the noise's realisation.
        illuminant_kelvin: correlated colour temperature of the light, or None for D65.
    """

    profile: SensorProfile
    iso: int
    wb_gains: Row3
    camera_to_srgb: Matrix3
    exposure: float
    noise: NoiseParameters | None
    seed: int
    illuminant_kelvin: float | None = None


def draw_capture(
    profile: SensorProfile,
    iso: int,
    seed: int,
    *,
    noise_model: Literal["none"] | NoiseModel = "calibrated",
    illuminant_kelvin: tuple[float, float] | None = None,
    exposure: float = 1.0,
) -> Capture:
    """Draw the circumstances of one exposure; the same arguments give the same capture.

    Args:
        profile: the camera.
        iso: sensitivity, within the camera's range.
        seed: chooses the light, the noise and its realisation.
        noise_model: ``none``, the camera's own calibration, or the generic one.
        illuminant_kelvin: correlated colour temperatures to draw from, evenly in mireds; None means D65. Under very
            warm or cold light a gain may fall below 1: that channel saturates before the others, and who develops the
            RAW must not take its saturation for a colour, as :func:`aura.isp.render` does not. From 2700 to 8000 K
            only ``generic`` does so.
        exposure: factor on the scene's light.

    Raises:
        InvalidInputError: the ISO or a temperature lies outside what the camera or the model of light covers.
        NoiseUnavailableError: the noise is not known for this camera or ISO.
    """
    low, high = profile.iso_range
    if not low <= iso <= high:
        raise InvalidInputError(f"ISO {iso} is outside the range of {profile.name}, {low} to {high}.")
    if not 0.0 < exposure < np.inf:
        raise InvalidInputError(f"Exposure is {exposure}; expected a positive factor.")
    kelvin = None if illuminant_kelvin is None else _draw_kelvin(illuminant_kelvin, seed)
    gains, matrix = color_under(profile, kelvin)
    return Capture(
        profile=profile,
        iso=iso,
        wb_gains=gains,
        camera_to_srgb=matrix,
        exposure=exposure,
        noise=None if noise_model == "none" else noise_at(profile, iso, seed, model=noise_model),
        seed=seed,
        illuminant_kelvin=kelvin,
    )


def _draw_kelvin(kelvin_range: tuple[float, float], seed: int) -> float:
    low, high = kelvin_range
    if not WARMEST_KELVIN <= low <= high <= COLDEST_KELVIN:
        raise InvalidInputError(
            f"Illuminant range is {low} to {high} K; expected an ascending pair within {WARMEST_KELVIN:.0f} to "
            f"{COLDEST_KELVIN:.0f} K."
        )
    mired = np.random.default_rng([seed, _CAPTURE_STREAM]).uniform(1e6 / high, 1e6 / low)
    return float(np.clip(1e6 / mired, low, high))


def color_under(profile: SensorProfile, kelvin: float | None) -> tuple[Row3, Matrix3]:
    """White-balance gains and the matrix from balanced camera RGB to canonical linear, under a light.

    The D65 matrix of the profile stands for all lights, as in a DNG file with one matrix; the canonical image is
    adapted to D65 by the Bradford transform. Grey is exactly neutral under every light.

    Args:
        profile: the camera.
        kelvin: correlated colour temperature, or None for D65.
    """
    white = D65_XYZ if kelvin is None else illuminant_xyz(kelvin)
    xyz_to_camera = np.array(profile.xyz_to_camera)
    neutral = xyz_to_camera @ white
    if neutral.min() <= 0.0:
        raise InvalidInputError(
            f"{profile.name} would not see light of {kelvin:.0f} K in one channel; use a less extreme illuminant."
        )
    camera_from_canonical = xyz_to_camera @ _adaptation(D65_XYZ, white) @ SRGB_TO_XYZ
    balanced = camera_from_canonical / camera_from_canonical.sum(axis=1, keepdims=True)
    red, green, blue = neutral.tolist()
    first, second, third = np.linalg.inv(balanced).tolist()
    return (green / red, 1.0, green / blue), (tuple(first), tuple(second), tuple(third))


def illuminant_xyz(kelvin: float) -> np.ndarray:
    """CIE XYZ, Y = 1, of daylight from 4000 K (CIE 015:2018, D series) and of a black body below.

    The Planckian locus is the approximation of Kim et al., US patent 7024034. At 4000 K there is a step of 0.007 in y:
    daylight is that much greener than a black body.

    Args:
        kelvin: correlated colour temperature, 2000 to 15000 K.

    Raises:
        InvalidInputError: the temperature is outside that range.
    """
    if not WARMEST_KELVIN <= kelvin <= COLDEST_KELVIN:
        raise InvalidInputError(
            f"Colour temperature is {kelvin} K; expected {WARMEST_KELVIN:.0f} to {COLDEST_KELVIN:.0f} K."
        )
    x, y = _daylight_xy(kelvin) if kelvin >= DAYLIGHT_LEAST_KELVIN else _planckian_xy(kelvin)
    return np.array([x / y, 1.0, (1.0 - x - y) / y])


def _daylight_xy(kelvin: float) -> tuple[float, float]:
    t = 1e3 / kelvin
    if kelvin <= 7000.0:
        x = 0.244063 + 0.09911 * t + 2.9678 * t**2 - 4.6070 * t**3
    else:
        x = 0.237040 + 0.24748 * t + 1.9018 * t**2 - 2.0064 * t**3
    return x, -3.0 * x**2 + 2.870 * x - 0.275


def _planckian_xy(kelvin: float) -> tuple[float, float]:
    t = 1e3 / kelvin
    x = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    if kelvin < 2222.0:
        return x, -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    return x, -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867


def _adaptation(source_white: np.ndarray, target_white: np.ndarray) -> np.ndarray:
    """Linear Bradford: XYZ seen under one white -> the corresponding XYZ under another."""
    scale = (_BRADFORD @ target_white) / (_BRADFORD @ source_white)
    return np.asarray(np.linalg.inv(_BRADFORD) @ (scale[:, None] * _BRADFORD))


def canonical_to_camera(canonical: Tensor, camera_to_srgb: MatrixLike, wb_gains: GainsLike) -> Tensor:
    """Take canonical light to what the sensor records.

    Gains are taken off by dividing, except near white: where the least balanced channel passes 0.9 the divisor falls
    smoothly to 1, so that white is saturation in every channel and not a coloured highlight. These are the safe inverse
    gains of Brooks et al., *Unprocessing Images for Learned Raw Denoising*, CVPR 2019, section 3.4, who go by the mean
    channel; the least one leaves bright saturated colours alone.

    Args:
        canonical: ``(*, 3, H, W)``, linear, 1.0 = saturation.
        camera_to_srgb: ``(3, 3)`` or ``(*, 3, 3)``, balanced camera RGB -> canonical.
        wb_gains: ``(3,)`` or ``(*, 3)``, positive.

    Returns:
        ``(*, 3, H, W)`` camera RGB, 1.0 = saturation; not clipped. Differentiable.

    Raises:
        InvalidInputError: not three channels.
    """
    _check_rgb(canonical)
    matrix = torch.linalg.inv(torch.as_tensor(camera_to_srgb, dtype=torch.float64))
    balanced = apply_matrix(canonical, matrix)
    inverse_gains = 1.0 / _gains(wb_gains, balanced)
    highlight = _highlight(balanced.amin(dim=-3, keepdim=True))
    return balanced * (inverse_gains + highlight * (1.0 - inverse_gains).clamp_min(0.0))


def camera_to_canonical(camera: Tensor, camera_to_srgb: MatrixLike, wb_gains: GainsLike) -> Tensor:
    """Take what a sensor recorded back to canonical light: the exact inverse of :func:`canonical_to_camera`.

    Below the highlights it is what any developer does, gains and then the matrix. In the highlights, where
    :func:`canonical_to_camera` eases the gains towards 1, the least balanced channel is found by solving for it; so a
    round trip is exact up to saturation. From saturation on light is not known, and what is returned is a bound.

    Args:
        camera: ``(*, 3, H, W)``, linear, 1.0 = saturation.
        camera_to_srgb: ``(3, 3)`` or ``(*, 3, 3)``, balanced camera RGB -> canonical.
        wb_gains: ``(3,)`` or ``(*, 3)``, positive.

    Returns:
        ``(*, 3, H, W)`` canonical linear, not clipped. Differentiable.

    Raises:
        InvalidInputError: not three channels.
    """
    _check_rgb(camera)
    inverse_gains = 1.0 / _gains(wb_gains, camera)
    least = _least_balanced(camera, inverse_gains)
    balanced = camera / (inverse_gains + _highlight(least) * (1.0 - inverse_gains).clamp_min(0.0))
    return apply_matrix(balanced, torch.as_tensor(camera_to_srgb, dtype=torch.float64))


def _highlight(least_balanced: Tensor) -> Tensor:
    """How far the gains are eased towards 1: a smooth step from 0 at 0.9 to 1 at 1."""
    x = ((least_balanced - HIGHLIGHT_START) / (1.0 - HIGHLIGHT_START)).clamp(0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _least_balanced(camera: Tensor, inverse_gains: Tensor) -> Tensor:
    """Solve ``least = min(balanced(least))`` by bisection: ``(*, 3, H, W)`` -> ``(*, 1, H, W)``.

    The right side falls as the left rises, so there is one solution. A last step of Newton carries the gradient.
    """
    room = (1.0 - inverse_gains).clamp_min(0.0)

    def excess(least: Tensor, of: Tensor) -> Tensor:
        return (of / (inverse_gains + _highlight(least) * room)).amin(dim=-3, keepdim=True) - least

    with torch.no_grad():
        low = torch.full_like(camera[..., :1, :, :], HIGHLIGHT_START)
        high = torch.ones_like(low)
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            above = excess(middle, camera) > 0.0
            low, high = torch.where(above, middle, low), torch.where(above, high, middle)
        least = 0.5 * (low + high)
        x = (least - HIGHLIGHT_START) / (1.0 - HIGHLIGHT_START)
        rise = 6.0 * x * (1.0 - x) / (1.0 - HIGHLIGHT_START)
        divisor = inverse_gains + _highlight(least) * room
        quotient = camera / divisor
        deciding = quotient.argmin(dim=-3, keepdim=True)
        slope = -(quotient * room / divisor).gather(-3, deciding) * rise - 1.0
    return least - excess(least, camera) / slope


def _check_rgb(image: Tensor) -> None:
    if image.ndim < 3 or image.shape[-3] != 3:
        raise InvalidInputError(f"Image has shape {tuple(image.shape)}; expected (*, 3, H, W).")


def _gains(wb_gains: GainsLike, like: Tensor) -> Tensor:
    return torch.as_tensor(wb_gains, dtype=like.dtype, device=like.device)[..., None, None]


def simulate(canonical: Tensor, capture: Capture) -> Tensor:
    """Make the digital numbers that a camera would store for a scene.

    Args:
        canonical: ``(3, H, W)`` float32 canonical linear, H and W even.
        capture: camera, light, exposure, noise and seed.

    Returns:
        ``(4, H/2, W/2)`` int32 in R, Gr, Gb, B: black level included, within 0 .. white level, so it fits uint16. Noise
        is added before clipping and rounding; saturated pixels, which stand for any amount of light, stay saturated.

    Raises:
        InvalidInputError: not three channels, or an odd side.
    """
    return simulate_batch([canonical], [capture])[0]


def simulate_batch(canonical: Sequence[Tensor], captures: Sequence[Capture]) -> list[Tensor]:
    """Do what :func:`simulate` does to several scenes; a GPU does them in one pass, each as it would be alone.

    Args:
        canonical: each ``(3, H, W)``, all of one shape and on one device; see :func:`simulate`.
        captures: one for each; cameras of one CFA pattern.

    Raises:
        InvalidInputError: as for :func:`simulate`, or the patterns differ.
    """
    for image in canonical:
        _check_rgb(image)
    if loops_take(*canonical):
        return [_simulate_by_loops(image, capture) for image, capture in zip(canonical, captures, strict=True)]
    return list(_simulate_in_torch(torch.stack(list(canonical)), captures).unbind(0))


def _simulate_in_torch(canonical: Tensor, captures: Sequence[Capture]) -> Tensor:
    """``(B, 3, H, W)`` and B captures -> ``(B, 4, H/2, W/2)``."""
    patterns = {capture.profile.cfa_pattern for capture in captures}
    if len(patterns) > 1:
        raise InvalidInputError(f"Cameras of a batch have CFA patterns {sorted(patterns)}; expected one. Sort them.")
    levels = [capture.profile.levels_at(capture.iso) for capture in captures]
    black, white = (torch.tensor([getattr(each, end) for each in levels]) for end in ("black_level", "white_level"))
    exposure = canonical.new_tensor([capture.exposure for capture in captures])[:, None, None, None]
    camera = canonical_to_camera(
        canonical * exposure,
        [capture.camera_to_srgb for capture in captures],
        [capture.wb_gains for capture in captures],
    )
    packed = pack_rgb(camera, patterns.pop())
    clean_dn = packed * (white - black).to(packed)[..., None, None]
    noisy_dn = clean_dn
    if any(capture.noise is not None for capture in captures):
        noise = NoiseBatch.of([capture.noise or _NO_NOISE for capture in captures])
        seeds = np.array([capture.seed for capture in captures], np.uint64).view(np.int64)
        noisy_dn = add_noise_batch(clean_dn, noise, torch.from_numpy(seeds))
    return digitise(clean_dn, noisy_dn, black, white)


def _simulate_by_loops(canonical: Tensor, capture: Capture) -> Tensor:
    """Do it in one compiled pass, which takes a third of the time."""
    height, width = canonical.shape[-2:]
    require_even(height, width)
    levels = capture.profile.levels_at(capture.iso)
    sites = zip(cfa_sites(capture.profile.cfa_pattern), PLANE_CHANNEL, strict=True)
    dn = torch.empty(4, height // 2, width // 2, dtype=torch.int32)
    expose(
        canonical.to(torch.float32).contiguous().numpy(),
        (np.linalg.inv(np.array(capture.camera_to_srgb)) * capture.exposure).astype(np.float32),
        1.0 / np.array(capture.wb_gains, np.float32),
        np.array([(row, column, channel) for (row, column), channel in sites]),
        np.array(levels.black_level, np.float32),
        np.array(levels.white_level, np.float32),
        capture.noise is not None,
        seeded(NoiseBatch.of([capture.noise or _NO_NOISE]), 0, capture.seed),
        dn.numpy(),
    )
    return dn


def normalise_raw(dn: Tensor, black_level: Sequence[float], white_level: Sequence[float]) -> Tensor:
    """Digital numbers to float RAW, (DN - black) / (white - black): 0 = black, 1 = saturation, not clipped.

    Args:
        dn: ``(*, 4, h, w)``, any dtype.
        black_level: R, Gr, Gb, B.
        white_level: R, Gr, Gb, B.
    """
    values = dn if dn.is_floating_point() else dn.float()
    return (values - _column(black_level, values)) / _column(_range(black_level, white_level), values)


def denormalise_raw(raw: Tensor, black_level: Sequence[float], white_level: Sequence[float]) -> Tensor:
    """Invert :func:`normalise_raw`: ``(*, 4, h, w)`` float RAW to float DN, neither clipped nor rounded."""
    return raw * _column(_range(black_level, white_level), raw) + _column(black_level, raw)


def _range(black_level: Sequence[float], white_level: Sequence[float]) -> tuple[float, ...]:
    return tuple(white - black for black, white in zip(black_level, white_level, strict=True))


def _column(level: Sequence[float], like: Tensor) -> Tensor:
    return like.new_tensor(level)[:, None, None]
