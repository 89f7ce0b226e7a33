"""16-bit RGB to sRGB through profiles that are three curves and a matrix, as most are: by table, not pixel by pixel.

LittleCMS evaluates 16-bit pixels one by one; its shortcuts are inexact, as :mod:`storage.corpora.colour_profile` says.
Here it is asked for the light of each channel's 65,536 codes; sums of those are the light of every colour. Whether they
are, is tried on a lattice of colours first, so a profile with a table of colours is told apart by what it does.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

import imagecodecs
import numpy as np
import numpy.typing as npt

_RELATIVE_COLORIMETRIC: Final = 1
_UNOPTIMISED: Final = 0x0100
_CODES: Final = 65536
_LATTICE: Final = 17
_TOLERANCE: Final = 1e-5  # of white's light: a thirtieth of an 8-bit code where sRGB is steepest
_BLOCK: Final = 1 << 16  # pixels, so that intermediate numbers stay in the processor's cache


class MatrixProfile(NamedTuple):
    """Curves and a matrix.

    Attributes:
        curves: ``(3, 65536)`` float32, each channel's light by code, 0 to 1.
        srgb_from_light: ``(3, 3)`` float32, to linear sRGB.
    """

    curves: npt.NDArray[np.float32]
    srgb_from_light: npt.NDArray[np.float32]


@lru_cache(maxsize=16)
def as_matrix_profile(icc: bytes) -> MatrixProfile | None:
    """Bring an RGB profile to three curves and a matrix; None if it is more than that, or its black is not 0.

    Raises:
        imagecodecs.CmsError: LittleCMS cannot use the profile.
    """
    ramps = np.zeros((3, _CODES, 3), np.uint16)
    for channel in range(3):
        ramps[channel, :, channel] = np.arange(_CODES)
    light = _to_xyz(ramps, icc)
    full = light[:, -1]
    if np.abs(light[:, 0]).max() > _TOLERANCE or not (full * full).sum(axis=1).all():
        return None
    curves = np.einsum("cvx,cx->cv", light, full) / (full * full).sum(axis=1, keepdims=True)
    levels = np.linspace(0, _CODES - 1, _LATTICE).astype(np.uint16)
    lattice = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(1, -1, 3)
    predicted = sum(curves[channel][lattice[..., channel], None] * full[channel] for channel in range(3))
    if np.abs(_to_xyz(lattice, icc) - predicted).max() > _TOLERANCE:
        return None
    srgb_primaries = _to_xyz(np.eye(3, dtype=np.uint16)[None] * np.uint16(_CODES - 1), _srgb())[0]
    matrix = np.linalg.solve(srgb_primaries.T, full.T)
    return MatrixProfile(curves.astype(np.float32), matrix.astype(np.float32))


def matrix_to_srgb(pixels: npt.NDArray[np.uint16], profile: MatrixProfile) -> npt.NDArray[np.uint8]:
    """Convert ``(H, W, 3)`` uint16 over the full 16 bits to 8-bit sRGB, relative colorimetric; clipped to its gamut."""
    flat = pixels.reshape(-1, 3)
    srgb = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), _BLOCK):
        block = flat[start : start + _BLOCK]
        light = np.stack([profile.curves[channel][block[:, channel]] for channel in range(3)])
        linear = (profile.srgb_from_light @ light).clip(0.0, 1.0)
        steps = (linear * np.float32(_CODES - 1) + np.float32(0.5)).astype(np.uint16)
        srgb[start : start + _BLOCK] = _srgb_codes()[steps].T
    return srgb.reshape(pixels.shape)


@lru_cache(maxsize=1)
def _srgb_codes() -> npt.NDArray[np.uint8]:
    """The 8-bit sRGB code of each of 65,536 even steps of light (IEC 61966-2-1)."""
    light = np.arange(_CODES) / (_CODES - 1)
    display = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.round(255 * display).astype(np.uint8)


@lru_cache(maxsize=1)
def _srgb() -> bytes:
    return bytes(imagecodecs.cms_profile("srgb"))


@lru_cache(maxsize=1)
def _xyz() -> bytes:
    return bytes(imagecodecs.cms_profile("xyz"))


def _to_xyz(codes: npt.NDArray[np.uint16], icc: bytes) -> npt.NDArray[np.float64]:
    xyz: npt.NDArray[np.float64] = imagecodecs.cms_transform(
        codes,
        icc,
        _xyz(),
        colorspace="rgb",
        outcolorspace="xyz",
        outdtype="float64",
        intent=_RELATIVE_COLORIMETRIC,
        flags=_UNOPTIMISED,
    )
    return xyz
