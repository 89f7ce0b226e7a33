"""Families of tone curves, from the sRGB curve to filmic ones, drawn at random."""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

from aura.color import linear_to_srgb

MIDDLE_GREY: Final = 0.18
CURVE_SAMPLES: Final = 512
CURVE_MAX: Final = 16.0
_CURVE_SHAPE: Final = 500.0


def encode_curve_axis(linear: Tensor) -> Tensor:
    """Position on the axis of tone curves: linear light 0..16 -> 0..1, logarithmic above about 0.002."""
    return torch.log1p(_CURVE_SHAPE * linear.clamp(0.0, CURVE_MAX)) / float(np.log1p(_CURVE_SHAPE * CURVE_MAX))


def curve_axis() -> Tensor:
    """Linear light at each of the 512 samples of a tone curve, float32."""
    position = torch.linspace(0.0, 1.0, CURVE_SAMPLES)
    return torch.expm1(position * float(np.log1p(_CURVE_SHAPE * CURVE_MAX))) / _CURVE_SHAPE


def _srgb_encode(linear: np.ndarray) -> np.ndarray:
    return np.asarray(linear_to_srgb(torch.from_numpy(np.clip(linear, 0.0, 1.0)))).astype(np.float64)


def _bt709_encode(linear: np.ndarray) -> np.ndarray:
    """ITU-R BT.709-6, item 1.2: what many developers write where sRGB is meant."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear < 0.018, 4.5 * linear, 1.099 * linear**0.45 - 0.099)


def _s_curve(value: np.ndarray, rng: np.random.Generator, strength: float) -> np.ndarray:
    """Sigmoidal contrast about a random pivot, blended with the identity; fixes 0 and 1."""
    contrast = rng.uniform(2.0, 8.0)
    pivot = rng.uniform(0.3, 0.6)
    low, high = 1 / (1 + np.exp(contrast * pivot)), 1 / (1 + np.exp(contrast * (pivot - 1)))
    curved = (1 / (1 + np.exp(contrast * (pivot - value))) - low) / (high - low)
    return np.asarray((1 - strength) * value + strength * curved)


def _filmic(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-encoded scene light between a black and a white point, then an S-curve of given slope through grey."""
    white_ev, black_ev = rng.uniform(2.0, 6.5), -rng.uniform(5.0, 11.0)
    log = np.clip((np.log2(np.maximum(linear, 1e-9) / MIDDLE_GREY) - black_ev) / (white_ev - black_ev), 0.0, 1.0)
    grey_in = -black_ev / (white_ev - black_ev)
    grey_out = rng.uniform(0.40, 0.52)
    contrast = rng.uniform(1.0, 1.9)
    # a logistic through (grey_in, grey_out), rescaled so that the ends are exact
    slope = contrast * 4.0 * grey_out * (1 - grey_out) * rng.uniform(1.0, 1.6)
    offset = np.log(grey_out / (1 - grey_out))
    steep = slope / (grey_out * (1 - grey_out))
    curved = 1 / (1 + np.exp(-(steep * (log - grey_in) + offset)))
    ends = 1 / (1 + np.exp(-(steep * (np.array([0.0, 1.0]) - grey_in) + offset)))
    return np.asarray((curved - ends[0]) / (ends[1] - ends[0]))


def _sigmoid(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Log-logistic tone curve: display = x^c / (x^c + k), grey kept near grey, then the sRGB curve."""
    contrast, skew = rng.uniform(1.1, 2.0), rng.uniform(0.6, 1.6)
    grey_out = rng.uniform(0.15, 0.24)
    ratio = grey_out ** (1 / skew)
    scale = MIDDLE_GREY**contrast * (1 - ratio) / ratio
    powered = linear**contrast
    return _srgb_encode((powered / (powered + scale)) ** skew)


def _rational(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reinhard 2002, Hable 2010 and ACES-like rational curves with random constants, then the sRGB curve."""
    kind = rng.integers(3)
    if kind == 0:
        white = rng.uniform(1.2, 8.0)
        display = linear * (1 + linear / white**2) / (1 + linear)
        display = display / display[np.searchsorted(linear, min(white, CURVE_MAX)) - 1]
    elif kind == 1:
        a, b, c, d, e, f = 0.15, 0.50, 0.10, 0.20, 0.02, 0.30
        gain, white = rng.uniform(1.5, 4.0), rng.uniform(3.0, 12.0)

        def hable(x: np.ndarray) -> np.ndarray:
            return np.asarray((x * (a * x + c * b) + d * e) / (x * (a * x + b) + d * f) - e / f)

        display = hable(gain * linear) / hable(np.array(white))
    else:
        gain = rng.uniform(0.5, 1.2)
        x = gain * linear
        display = (x * (2.51 * x + 0.03)) / (x * (2.43 * x + 0.59) + 0.14)
    return _srgb_encode(display)


def _base_curve(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A camera-like curve: brighter mid-tones, a toe, a soft shoulder; smooth random log-gain over the sRGB curve."""
    mid_ev, toe_ev, knee = rng.uniform(0.0, 1.6), rng.uniform(-1.2, 0.4), rng.uniform(0.35, 0.95)
    stops = np.log2(np.maximum(linear, 1e-9))
    ev = mid_ev * np.exp(-(((stops + 2.5) / rng.uniform(1.5, 4.0)) ** 2)) + toe_ev / (1 + np.exp((stops + 6.5) * 1.2))
    lifted = linear * 2.0**ev
    above = np.maximum(lifted - knee, 0.0)
    room = 1.0 - knee
    shoulder = np.where(lifted > knee, knee + room * (1 - np.exp(-above / max(room, 1e-3))), lifted)
    top = shoulder[np.searchsorted(linear, 1.0)]
    return _srgb_encode(np.maximum.accumulate(shoulder) / top)


def _standard(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    kind = rng.choice(3, p=[0.6, 0.3, 0.1])
    if kind == 2:
        return np.asarray(np.clip(linear, 0.0, 1.0) ** (1 / rng.choice([1.8, 2.2])))
    return _srgb_encode(linear) if kind == 0 else _bt709_encode(linear)


def _gamma(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.asarray(np.clip(linear, 0, 1) ** (1 / rng.uniform(1.7, 2.7)))


def _contrast(linear: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _s_curve(_srgb_encode(linear), rng, rng.uniform(0.2, 1.0))


_FAMILY_CURVES: Final = {
    "srgb": _standard,
    "gamma": _gamma,
    "s_curve": _contrast,
    "filmic": _filmic,
    "sigmoid": _sigmoid,
    "rational": _rational,
    "base_curve": _base_curve,
}
TONE_FAMILIES: Final = tuple(_FAMILY_CURVES)


def draw_tone_curve(family: str, linear: np.ndarray, rng: np.random.Generator, *, graded: bool) -> np.ndarray:
    """Draw a curve of a family.

    Args:
        family: one of ``TONE_FAMILIES``.
        linear: light to sample it at, 1.0 = saturation.
        rng: decides its parameters.
        graded: as somebody with a taste uses it: contrast, a black point, a gamma on top.

    Returns:
        Display values in [0, 1], of the shape of ``linear``, float64.
    """
    display = _FAMILY_CURVES[family](linear, rng)
    if not graded:
        return np.asarray(display.clip(0.0, 1.0))
    if rng.random() < 0.35 and family != "s_curve":
        display = _s_curve(display.clip(0.0, 1.0), rng, rng.uniform(0.1, 0.6))
    if rng.random() < 0.3:  # a black point: crushed, or lifted as in a matte grade
        black = rng.uniform(-0.04, 0.05)
        display = black + (1 - black) * display
    if rng.random() < 0.15:
        display = display.clip(0.0, 1.0) ** rng.uniform(0.8, 1.25)
    return np.asarray(display.clip(0.0, 1.0))
