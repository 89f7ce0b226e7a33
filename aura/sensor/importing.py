"""A sensor profile from what a RAW file says about itself."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import flashraw
import numpy as np

from aura.errors import InvalidInputError
from aura.sensor.profile import Matrix3, NoisePoint, SensorLevels, SensorProfile, TabulatedNoise
from aura.training.raw_files import RawFrame, read_raw

_USUAL_ISO: Final = (100, 6400)


def profile_from_raw(path: Path, name: str | None = None) -> SensorProfile:
    """Make a profile from one RAW file: CFA, levels, colour matrix, and the noise at its ISO if it tells.

    Args:
        path: anything :func:`aura.training.raw_files.read_raw` reads by itself, such as DNG, NEF, CR2 or GPR.
        name: the profile's name; made of maker and model if left out.

    Returns:
        The profile. The colour matrix is that for D65: of a DNG's tags by :func:`aura.dng_color.xyz_to_camera_of`, of
        other files LibRaw's. The noise is that of the file's NoiseProfile tag (DNG 1.4, *NoiseProfile*) at the file's
        ISO, or None. A file does not tell which ISOs its camera has: 100 to 6400 is assumed, and its own is included.

    Raises:
        MissingFileError: there is no such file.
        InvalidInputError: no Bayer RAW file, one without a colour matrix, or a name that is none.
    """
    frame = read_raw(path)
    if frame.xyz_to_camera is None:
        raise InvalidInputError(
            f"{path.name} holds no colour matrix, and LibRaw knows none for its camera. Convert it to DNG with a "
            "program that knows the camera, or write the profile by hand after `aura cameras show NAME --yaml`."
        )
    tags = _tags(path)
    make, model = (tags.camera.make or "", tags.camera.model or "") if tags else ("", "")
    title = model if model.lower().startswith(make.lower()) else f"{make} {model}"
    chosen = name or _slug(title or path.stem)
    if _slug(chosen) != chosen:
        raise InvalidInputError(f"The name is {chosen!r}; expected small letters, digits and hyphens.")
    iso = tags.exposure.iso if tags else None
    first, second, third = np.asarray(frame.xyz_to_camera, dtype=np.float64).tolist()
    matrix: Matrix3 = (tuple(first), tuple(second), tuple(third))
    return SensorProfile(
        name=chosen,
        make=make or "unknown",
        model=model or path.stem,
        cfa_pattern=frame.cfa_pattern,
        bit_depth=max(8, int(np.ceil(np.log2(max(frame.white_level) + 1.0)))),
        levels=(SensorLevels(black_level=frame.black_level, white_level=frame.white_level),),
        xyz_to_camera=matrix,
        noise=_noise(tags, frame, iso),
        iso_range=(min(_USUAL_ISO[0], iso or _USUAL_ISO[0]), max(_USUAL_ISO[1], iso or _USUAL_ISO[1])),
        source=f"Tags of the file {path.name}"
        + (f" at ISO {iso}" if iso else "")
        + "; CFA is that of the visible frame; the ISO range is assumed.",
    )


def iso_of(path: Path) -> int | None:
    """ISO that a RAW file was taken at, or None if it does not tell."""
    tags = _tags(path)
    return None if tags is None or not tags.exposure.iso else int(tags.exposure.iso)


def _tags(path: Path) -> flashraw.Metadata | None:
    try:
        return flashraw.read_metadata(str(path))
    except flashraw.FlashRawError:
        return None


def _noise(tags: flashraw.Metadata | None, frame: RawFrame, iso: int | None) -> TabulatedNoise | None:
    """Take the planes' mean of the NoiseProfile: variance = scale · x + offset of the normalised signal."""
    if tags is None or tags.dng is None or not tags.dng.noise_profile or not iso:
        return None
    scale, offset = np.reshape(tags.dng.noise_profile, (-1, 2)).mean(axis=0).tolist()
    range_dn = float(np.mean(np.subtract(frame.white_level, frame.black_level)))
    if scale <= 0.0:
        return None
    read_variance = max(offset * range_dn**2 - 1.0 / 12.0, 0.0)  # rounding is modelled by itself
    point = NoisePoint(iso=iso, gain_dn_per_electron=scale * range_dn, read_sigma_dn=read_variance**0.5)
    return TabulatedNoise(
        points=(point,),
        source=f"NoiseProfile tag of {frame.name}: the maker's model, not a measurement; it knows no row noise.",
    )


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
