"""A simulated capture as a DNG file, with all that a raw developer needs to make the photograph of it again."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from typing import BinaryIO, Final

import numpy as np
from PIL import Image

from aura.dng import DngNoise, Orientation, write_dng
from aura.sensor.noise import NoiseParameters
from aura.sensor.profile import SensorLevels
from aura.sensor.simulate import Capture
from aura.xmp import provenance_xmp

MAKE: Final = "AURA"
"""Maker in the files. With the real one, RawTherapee takes its own table's black level and not the file's."""

PREVIEW_SIDE_PX: Final = 256
_LARGEST_BASELINE_EV: Final = 4.0
_CLIPPED_DISPLAY: Final = 250
_DARK_DISPLAY: Final = 8


def write_negative(
    target: str | os.PathLike[str] | BinaryIO,
    raw_dn: np.ndarray,
    capture: Capture,
    *,
    photograph: np.ndarray | None = None,
    baseline_exposure_ev: float | None = None,
    orientation: Orientation = 1,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Write what :func:`aura.sensor.simulate.simulate` made as a DNG file.

    The file's model is that of the camera; its maker, unique camera model, software and XMP say that no such camera
    took it, and keep developers from levels, curves and profiles of their own for it.

    Args:
        target: a path, or a binary file open for writing.
        raw_dn: ``(4, h, w)`` uint16 DN, planes R, Gr, Gb, B, black level included.
        capture: camera, light, exposure and noise of it.
        photograph: ``(H, W, 3)`` uint8 sRGB it was made from, shrunk into the preview.
        baseline_exposure_ev: stops a developer adds by default; if left out, what undoes the capture's exposure.
        orientation: EXIF orientation of the mosaic.
        provenance: names (XML names) and texts for XMP, besides camera, ISO, seed, light and noise.

    Raises:
        InvalidInputError: a shape, dtype or level that DNG cannot hold.
    """
    profile = capture.profile
    levels = profile.levels_at(capture.iso)
    title = profile.title
    software = f"aura-raw {installed_version('aura-raw')}"
    described = f"Synthesized from an sRGB photograph as if taken by {title} at ISO {capture.iso}; no camera took it."
    write_dng(
        target,
        raw_dn,
        cfa_pattern=profile.cfa_pattern,
        black_level=levels.black_level,
        white_level=levels.white_level,
        color_matrix=np.array(profile.xyz_to_camera),
        as_shot_neutral=_neutral(capture.wb_gains),
        camera_model=title,
        unique_camera_model=f"{MAKE} {title}",
        make=MAKE,
        software=software,
        iso=capture.iso,
        noise=None if capture.noise is None else noise_profile(capture.noise, levels),
        baseline_exposure_ev=-math.log2(capture.exposure) if baseline_exposure_ev is None else baseline_exposure_ev,
        orientation=orientation,
        preview=None if photograph is None else _shrunk(photograph),
        xmp=provenance_xmp(described, software, _facts(capture) | dict(provenance or {})),
    )


def noise_profile(noise: NoiseParameters, levels: SensorLevels) -> tuple[DngNoise, DngNoise, DngNoise]:
    """DNG's NoiseProfile for R, G, B: the variance over the normalised signal, row noise and rounding included.

    A DNG file has one white level for all, the smallest, so that is where its signal is 1.
    """
    red, green_red, green_blue, blue = (min(levels.white_level) - black for black in levels.black_level)
    first, second, third = (
        DngNoise(*noise.normalised(range_dn)) for range_dn in (red, 0.5 * (green_red + green_blue), blue)
    )
    return first, second, third


def baseline_exposure(photograph: np.ndarray, rendered: np.ndarray) -> float:
    """Stops that bring a plain rendering of RAW to the brightness of the photograph it was made from.

    Args:
        photograph: ``(H, W, 3)`` uint8 sRGB.
        rendered: likewise, by :func:`aura.isp.render`.

    Returns:
        The median difference in stops of pixels neither dark nor clipped in either, within 4 stops; 0 if none are left.
    """
    one, other = (image.reshape(-1, 3) for image in (photograph, rendered))
    usable = np.all([(each > _DARK_DISPLAY) & (each < _CLIPPED_DISPLAY) for each in (one, other)], axis=(0, 2))
    if not usable.any():
        return 0.0
    stops = np.median(np.log2(_light(one[usable])) - np.log2(_light(other[usable])))
    return float(np.clip(stops, -_LARGEST_BASELINE_EV, _LARGEST_BASELINE_EV))


def _light(display: np.ndarray) -> np.ndarray:
    """Green light of uint8 sRGB above the linear toe (IEC 61966-2-1)."""
    return np.asarray(((display[:, 1] / 255.0 + 0.055) / 1.055) ** 2.4)


def _neutral(wb_gains: tuple[float, float, float]) -> tuple[float, float, float]:
    """Camera RGB of grey, the brightest channel 1, as the DNG specification's examples have it."""
    red, green, blue = (1.0 / gain for gain in wb_gains)
    brightest = max(red, green, blue)
    return red / brightest, green / brightest, blue / brightest


def _shrunk(photograph: np.ndarray) -> np.ndarray:
    image = Image.fromarray(photograph)
    image.thumbnail((PREVIEW_SIDE_PX, PREVIEW_SIDE_PX), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _facts(capture: Capture) -> dict[str, str]:
    facts = {
        "camera": capture.profile.name,
        "iso": str(capture.iso),
        "seed": str(capture.seed),
        "exposure": f"{capture.exposure:g}",
        "illuminant": "D65" if capture.illuminant_kelvin is None else f"{capture.illuminant_kelvin:.0f} K",
    }
    noise = capture.noise
    if noise is None:
        return facts | {"noise": "none"}
    return facts | {
        "noiseSystemGainDnPerElectron": f"{noise.system_gain_dn_per_electron:g}",
        "noiseReadSigmaDn": f"{noise.read_sigma_dn:g}",
        "noiseReadTukeyLambda": "Gaussian" if noise.read_tukey_lambda is None else f"{noise.read_tukey_lambda:g}",
        "noiseRowSigmaDn": f"{noise.row_sigma_dn:g}",
        "noiseBlackOffsetDn": " ".join(f"{offset:g}" for offset in noise.black_offset_dn),
    }
