"""The sensor on a CPU: compiled loops that take light to digital numbers, a row of a plane at a time.

What :mod:`aura.sensor.simulate` and :mod:`aura.sensor.noise_draws` say in tensors, with the same seeds, counters, bits
and formulas; the quantile functions are approximated otherwise than torch does, to the precision of float32.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr

from aura.compiled import bits_of, compiled, float_of
from aura.sensor.noise import LOGISTIC_BELOW

F32 = np.float32
Floats = NDArray[np.float32]
Integers = NDArray[np.int32]

_GOLDEN_RATIO: Final = np.uint64(0x9E3779B97F4A7C15)
_FEW_ELECTRONS: Final = F32(10.0)
_MOST_OF_FEW: Final = 36
_LEAST_PROBABILITY: Final = F32(2.0**-25)
_FARTHEST: Final = F32(5.5)  # standard deviations; 24 bits reach 5.42
_TABLE_CELLS: Final = 4096
_SQRT_HALF_BITS: Final = 0x3F3504F3
_HIGHLIGHT_START: Final = F32(0.9)


class SeededNoise(NamedTuple):
    """Noise of one exposure, as loops take it.

    Attributes:
        seed: of the draws.
        gain_dn_per_electron: 0 for no photon noise.
        read_scale_dn: what unit read noise is multiplied with.
        read_quantiles: its distribution, of :func:`read_quantile_table`.
        row_sigma_dn: standard deviation of what a row has in common.
        black_offset_dn: ``(4,)``.
    """

    seed: np.uint64
    gain_dn_per_electron: np.float32
    read_scale_dn: np.float32
    read_quantiles: Floats
    row_sigma_dn: np.float32
    black_offset_dn: Floats


@compiled
def _mix(state: np.uint64) -> np.uint64:
    """SplitMix64's finalizer (Steele, Lea and Flood, OOPSLA 2014)."""
    state ^= state >> np.uint64(30)
    state *= np.uint64(0xBF58476D1CE4E5B9)
    state ^= state >> np.uint64(27)
    state *= np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@compiled
def _symmetric_uniform(bits: np.uint64, lowest_bit: np.uint64) -> np.float32:
    """Odd multiples of 2^-24 in (-1, 1), from 24 of the bits."""
    whole = np.int32((bits >> lowest_bit) & np.uint64(0xFFFFFF))
    return F32(whole * np.int32(2) - np.int32(0xFFFFFF)) * F32(2.0**-24)


@compiled
def _logarithm(x: np.float32) -> np.float32:
    """Natural logarithm of a positive number, by Cephes' polynomial (Moshier, 1989); libm's is not vectorised."""
    above = bits_of(x) - np.int32(_SQRT_HALF_BITS)
    exponent = F32(above >> np.int32(23))
    m = float_of((above & np.int32(0x7FFFFF)) + np.int32(_SQRT_HALF_BITS)) - F32(1.0)
    y = F32(7.0376836292e-2)
    y = y * m - F32(1.1514610310e-1)
    y = y * m + F32(1.1676998740e-1)
    y = y * m - F32(1.2420140846e-1)
    y = y * m + F32(1.4249322787e-1)
    y = y * m - F32(1.6668057665e-1)
    y = y * m + F32(2.0000714765e-1)
    y = y * m - F32(2.4999993993e-1)
    y = y * m + F32(3.3333331174e-1)
    square = m * m
    return m + (y * m * square - F32(0.5) * square) + exponent * F32(math.log(2.0))


@compiled
def _unit_normal(uniform: np.float32) -> np.float32:
    """Quantile of the standard normal distribution at (1 + uniform) / 2.

    Giles, *Approximating the erfinv function*, GPU Computing Gems Jade Edition, 2011, single precision.
    """
    w = -_logarithm((F32(1.0) - uniform) * (F32(1.0) + uniform))
    a = w - F32(2.5)
    central = F32(2.81022636e-08)
    central = central * a + F32(3.43273939e-07)
    central = central * a - F32(3.5233877e-06)
    central = central * a - F32(4.39150654e-06)
    central = central * a + F32(2.1858087e-04)
    central = central * a - F32(1.25372503e-03)
    central = central * a - F32(4.17768164e-03)
    central = central * a + F32(2.46640727e-01)
    central = central * a + F32(1.50140941)
    b = np.sqrt(w) - F32(3.0)
    tail = F32(-2.00214257e-04)
    tail = tail * b + F32(1.00950558e-04)
    tail = tail * b + F32(1.34934322e-03)
    tail = tail * b - F32(3.67342844e-03)
    tail = tail * b + F32(5.73950773e-03)
    tail = tail * b - F32(7.6224613e-03)
    tail = tail * b + F32(9.43887047e-03)
    tail = tail * b + F32(1.00167406)
    tail = tail * b + F32(2.83297682)
    return (central if w < F32(5.0) else tail) * uniform * F32(math.sqrt(2.0))


@compiled
def _many_electrons(rate: np.float32, w: np.float32) -> np.float32:
    """Q_N3 of Giles, ACM TOMS 42, 2016, as in :func:`aura.sensor.noise_draws.poisson_quantile`."""
    root = np.sqrt(rate)
    square = w * w
    last = ((square * F32(1.0 / 270.0) + F32(7.0 / 810.0)) * square - F32(8.0 / 405.0)) / root
    third = (square * F32(1.0 / 72.0) + F32(1.0 / 36.0)) * w
    second = (last - third) / root + square * F32(1.0 / 6.0) + F32(1.0 / 3.0)
    return max(F32(np.floor(second + root * w + rate)), F32(0.0))


@compiled
def _few_electrons(rate: np.float32, uniform: np.float32) -> np.float32:
    """Poisson quantile by adding up probabilities."""
    probability = F32(0.5) + F32(0.5) * uniform
    term = np.exp(-rate)
    cumulative = term
    count = 0
    for electrons in range(1, _MOST_OF_FEW + 1):
        if probability <= cumulative:
            break
        term *= rate / F32(electrons)
        if term <= _LEAST_PROBABILITY:  # past the mode: float32 cannot add any more
            break
        count += 1
        cumulative += term
    return F32(count)


@compiled
def _row_noise(counter: int, noise: SeededNoise) -> np.float32:
    """Draw what a row of the mosaic has in common."""
    bits = _mix(np.uint64(counter) * _GOLDEN_RATIO + _mix(noise.seed))
    return _unit_normal(_symmetric_uniform(bits, np.uint64(40))) * noise.row_sigma_dn


@compiled
def _look_up(normal: Floats, quantiles: Floats) -> None:
    """Standard normal numbers to those of the distribution that a table of :func:`read_quantile_table` describes."""
    for x in range(normal.size):
        position = (normal[x] + _FARTHEST) * F32(_TABLE_CELLS / (2.0 * _FARTHEST))
        cell = np.int32(position)
        low = quantiles[cell]
        normal[x] = low + (position - F32(cell)) * (quantiles[cell + 1] - low)


@compiled
def _count_photons(clean_dn: Floats, gain: np.float32, uniform: Floats, electrons: Floats) -> None:
    few = 0  # counted, since a least float would not be vectorised
    for x in range(clean_dn.size):
        rate = max(clean_dn[x], F32(0.0)) / gain
        few += rate < _FEW_ELECTRONS
        electrons[x] = _many_electrons(max(rate, _FEW_ELECTRONS), _unit_normal(uniform[x]))
    if few:
        for x in range(clean_dn.size):
            rate = max(clean_dn[x], F32(0.0)) / gain
            if rate < _FEW_ELECTRONS:
                electrons[x] = _few_electrons(rate, uniform[x])


@compiled
def _add_row(
    clean_dn: Floats, noisy_dn: Floats, counter: int, noise: SeededNoise, common_dn: np.float32, scratch: Floats
) -> None:
    """Add noise to a row ``(w,)`` of a plane; ``counter`` is its first pixel's, ``scratch`` is ``(3, w)``."""
    key, gain, read_scale = _mix(noise.seed), noise.gain_dn_per_electron, noise.read_scale_dn
    photons, electrons, read = scratch[0], scratch[1], scratch[2]
    for x in range(clean_dn.size):
        bits = _mix(np.uint64(counter + x) * _GOLDEN_RATIO + key)
        photons[x] = _symmetric_uniform(bits, np.uint64(40))
        read[x] = _symmetric_uniform(bits, np.uint64(16))
    for x in range(clean_dn.size):
        read[x] = _unit_normal(read[x])
    if noise.read_quantiles.size:
        _look_up(read, noise.read_quantiles)
    if gain == F32(0.0):
        for x in range(clean_dn.size):
            noisy_dn[x] = clean_dn[x] + read[x] * read_scale + common_dn
        return
    _count_photons(clean_dn, gain, photons, electrons)
    for x in range(clean_dn.size):
        light = electrons[x] * gain + min(clean_dn[x], F32(0.0))
        noisy_dn[x] = light + read[x] * read_scale + common_dn


@compiled
def add_noise_to_planes(clean_dn: Floats, noisy_dn: Floats, noise: SeededNoise) -> None:
    """Add the noise of one seed to mosaics.

    Args:
        clean_dn: ``(L, 4, h, w)``, black level taken off, contiguous like all arrays here.
        noisy_dn: the same shape, is written.
        noise: what to add.
    """
    mosaics, _, height, width = clean_dn.shape
    scratch = np.empty((3, width), np.float32)
    for mosaic in range(mosaics):
        for plane in range(4):
            for y in range(height):
                row = (mosaic * 2 + plane // 2) * height + y
                common_dn = _row_noise(clean_dn.size + row + 1, noise) + noise.black_offset_dn[plane]
                counter = ((mosaic * 4 + plane) * height + y) * width + 1
                _add_row(clean_dn[mosaic, plane, y], noisy_dn[mosaic, plane, y], counter, noise, common_dn, scratch)


@compiled
def _camera_row(
    light: Floats,
    y: int,
    first: int,
    camera_from_canonical: Floats,
    inverse_gains: Floats,
    channel: int,
    camera: Floats,
) -> None:
    """See a colour of row ``y``: canonical ``(3, H, 2w)``, each second pixel from ``first`` on, to camera ``(w,)``."""
    matrix, own = camera_from_canonical, inverse_gains[channel]
    room = max(F32(1.0) - own, F32(0.0))
    reds, greens, blues = light[0, y], light[1, y], light[2, y]
    for x in range(camera.size):
        site = np.uint64(2 * x + first)  # an index that may be negative is not vectorised
        red, green, blue = reds[site], greens[site], blues[site]
        balanced_red = matrix[0, 0] * red + matrix[0, 1] * green + matrix[0, 2] * blue
        balanced_green = matrix[1, 0] * red + matrix[1, 1] * green + matrix[1, 2] * blue
        balanced_blue = matrix[2, 0] * red + matrix[2, 1] * green + matrix[2, 2] * blue
        least = min(balanced_red, balanced_green, balanced_blue)
        step = min(max((least - _HIGHLIGHT_START) / (F32(1.0) - _HIGHLIGHT_START), F32(0.0)), F32(1.0))
        highlight = step * step * (F32(3.0) - F32(2.0) * step)
        balanced = balanced_red if channel == 0 else (balanced_green if channel == 1 else balanced_blue)
        camera[x] = balanced * (own + highlight * room)


@compiled
def _digitise_row(clean_dn: Floats, noisy_dn: Floats, black: np.float32, white: np.float32, dn: Integers) -> None:
    for x in range(dn.size):
        stored = min(max(np.rint(noisy_dn[x] + black), F32(0.0)), white)
        saturated = clean_dn[x] >= white - black - F32(0.5)
        dn[x] = np.int32(white if saturated else stored)


@compiled
def expose(
    light: Floats,
    camera_from_canonical: Floats,
    inverse_gains: Floats,
    sites: NDArray[np.int64],
    black_level: Floats,
    white_level: Floats,
    noisy: bool,
    noise: SeededNoise,
    dn: Integers,
) -> None:
    """Do what :func:`aura.sensor.simulate.simulate` does.

    Args:
        light: canonical linear ``(3, 2h, 2w)``, contiguous like all arrays here.
        camera_from_canonical: ``(3, 3)``, times the exposure.
        inverse_gains: ``(3,)``.
        sites: ``(4, 3)``: row and column of the planes R, Gr, Gb, B in a cell, and their colour.
        black_level: ``(4,)`` DN.
        white_level: ``(4,)`` DN.
        noisy: add noise.
        noise: which.
        dn: ``(4, h, w)`` int32, is written.
    """
    _, height, width = dn.shape
    scratch = np.empty((3, width), np.float32)
    clean_dn, noisy_dn = np.empty(width, np.float32), np.empty(width, np.float32)
    for plane in range(4):
        black, white = black_level[plane], white_level[plane]
        for y in range(height):
            row, first, channel = 2 * y + sites[plane, 0], sites[plane, 1], sites[plane, 2]
            _camera_row(light, row, first, camera_from_canonical, inverse_gains, channel, clean_dn)
            for x in range(width):
                clean_dn[x] *= white - black
            if noisy:
                common_dn = _row_noise(dn.size + plane // 2 * height + y + 1, noise) + noise.black_offset_dn[plane]
                counter = (plane * height + y) * width + 1
                _add_row(clean_dn, noisy_dn, counter, noise, common_dn, scratch)
                _digitise_row(clean_dn, noisy_dn, black, white, dn[plane, y])
            else:
                _digitise_row(clean_dn, clean_dn, black, white, dn[plane, y])


@lru_cache(maxsize=256)
def read_quantile_table(tukey_lambda: float | None) -> Floats:
    """Tukey-lambda quantiles, scale 1, where a standard normal number would lie: evenly spaced from -5.5 to 5.5.

    Taken so, the function is smooth everywhere, and straight lines between the entries are within 1e-5 of the value.

    Args:
        tukey_lambda: shape, above -0.5; None for Gaussian.

    Returns:
        ``(4097,)``; empty for Gaussian.
    """
    if tukey_lambda is None:
        return np.empty(0, np.float32)
    normal = np.linspace(-float(_FARTHEST), float(_FARTHEST), _TABLE_CELLS + 1)
    low, high = log_ndtr(normal), log_ndtr(-normal)
    if abs(tukey_lambda) < LOGISTIC_BELOW:
        return np.asarray(low - high, np.float32)
    quantiles = (np.expm1(tukey_lambda * low) - np.expm1(tukey_lambda * high)) / tukey_lambda
    return np.asarray(quantiles, np.float32)
