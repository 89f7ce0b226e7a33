"""From whatever colours a file is in to sRGB: by its ICC profile, by its colour code points, or as they are."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NoReturn

import imagecodecs
import numpy as np
import numpy.typing as npt
from PIL import ImageCms

from aura.errors import RejectedImageError
from storage.corpora.image_headers import HIGH_DYNAMIC_RANGE, ColourCode
from storage.corpora.matrix_profile import as_matrix_profile, matrix_to_srgb

Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_D65: Final = (0.3127, 0.3290)
_WHITE_C: Final = (0.310, 0.316)
_PRIMARIES: Final = {  # ITU-T H.273, table 2: white, red, green, blue
    4: (*_WHITE_C, 0.67, 0.33, 0.21, 0.71, 0.14, 0.08),  # BT.470 M
    8: (*_WHITE_C, 0.681, 0.319, 0.243, 0.692, 0.145, 0.049),  # film
    9: (*_D65, 0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2020
    10: (1 / 3, 1 / 3, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0),  # CIE XYZ
    11: (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # DCI-P3
    12: (*_D65, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # Display P3
    22: (*_D65, 0.630, 0.340, 0.295, 0.605, 0.155, 0.077),  # EBU 3213
}
_ADOBE_RGB_PRIMARIES: Final = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06)
_ADOBE_RGB_GAMMA: Final = 563 / 256
_SRGB_PRIMARIES: Final = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
_NEAR_SRGB: Final = {1, 2, 5, 6, 7}  # BT.601's primaries differ less than cameras do
_LOGARITHMIC: Final = {9: "100:1", 10: "316:1"}
_TRANSFER_GAMMA: Final = {4: 2.2, 5: 2.8, 8: 1.0, 17: 2.6}
_REFERENCE_WHITE: Final = {17: 48 / 52.37}  # SMPTE ST 428-1: the light of white, 1 being that of the highest code
_NEAR_SRGB_TRANSFER: Final = {1, 2, 6, 7, 11, 12, 13, 14, 15}  # display curves close to sRGB's, or nothing said
_RELATIVE_COLORIMETRIC: Final = 1
_BLACK_POINT: Final = 0x2000
_EXACT: Final = 0x0100  # no optimisation
_ICC_HEADER: Final = 128  # bytes
_ICC_SPACE: Final = slice(16, 20)  # of the header: the colour space of the pixels (ICC.1:2022, 7.2.6)


@dataclass(frozen=True, slots=True)
class Colours:
    """The colours a file's numbers are in.

    Attributes:
        icc: profile bytes, or None.
        name: for the record, such as ``sRGB (assumed)`` or ``Display P3``.
        is_srgb: whether the numbers are sRGB already.
    """

    icc: bytes | None
    name: str
    is_srgb: bool


SRGB_ASSUMED: Final = Colours(None, "sRGB (assumed)", is_srgb=True)


def colours_from_icc(profile: bytes, mode: str) -> Colours:
    """Judge an embedded profile.

    Args:
        profile: the profile's bytes.
        mode: ``GRAY``, ``RGB`` or ``CMYK``, as the pixels are.

    Returns:
        The profile, or sRGB assumed (with the cause in the name) if it is unreadable or of another kind than the
        pixels.

    Raises:
        RejectedImageError: the profile names a high dynamic range transfer (``unsupported_colour``).
    """
    try:
        described = ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile
        space = str(described.xcolor_space).strip()
        name = " ".join((described.profile_description or "unnamed profile").split())
    except (OSError, ValueError, TypeError):
        return Colours(None, "sRGB (assumed: unreadable ICC profile)", is_srgb=True)
    if space != mode:
        return Colours(None, f"sRGB (assumed: {space} profile on {mode} pixels)", is_srgb=True)
    code = _code_of_icc(profile)
    if code is not None and code.is_hdr:
        _require_display_code(code)
    return Colours(profile, name, is_srgb=False)


def _code_of_icc(profile: bytes) -> ColourCode | None:
    """The code points that a profile may name beside its tables (ICC.1:2022, 9.2.17)."""
    count = int.from_bytes(profile[_ICC_HEADER : _ICC_HEADER + 4], "big")
    for place in range(_ICC_HEADER + 4, min(_ICC_HEADER + 4 + 12 * count, len(profile) - 11), 12):
        if profile[place : place + 4] == b"cicp":
            start = int.from_bytes(profile[place + 4 : place + 8], "big")
            told = profile[start : start + 12]
            return ColourCode(told[8], told[9]) if len(told) == 12 else None
    return None


def colours_from_code(
    code: ColourCode, *, gamma: float | None = None, chromaticity: tuple[float, ...] | None = None
) -> Colours:
    """Judge colour code points (ITU-T H.273).

    Args:
        code: primaries and transfer.
        gamma: encoding exponent that stands in place of the transfer, or None.
        chromaticity: x and y of white, red, green and blue that stand in place of the primaries, or None.

    Raises:
        RejectedImageError: a high dynamic range or logarithmic transfer, a narrow range of codes, or a code that the
            standard does not define (``unsupported_colour``).
    """
    _require_display_code(code)
    where = chromaticity or (None if code.primaries in _NEAR_SRGB else _PRIMARIES[code.primaries])
    exponent = 1 / gamma if gamma else _TRANSFER_GAMMA.get(code.transfer)
    if where is None and exponent is None:
        return Colours(None, "sRGB", is_srgb=True)
    space = f"code points {code.primaries}/{code.transfer}" if chromaticity is None else "chromaticities of its own"
    name = space + (f", gamma {exponent:.3g}" if exponent else "")
    white, primaries = (_D65, _SRGB_PRIMARIES) if where is None else (where[:2], where[2:])
    brightest = 1.0 if gamma else 1 / _REFERENCE_WHITE.get(code.transfer, 1.0)
    return Colours(_profile(primaries, exponent, white, brightest), name, is_srgb=False)


def _require_display_code(code: ColourCode) -> None:
    def refuse(found: str) -> NoReturn:
        raise RejectedImageError("unsupported_colour", f"{found}; convert the image to sRGB first.")

    if code.is_hdr:
        refuse(f"The colours are HDR ({HIGH_DYNAMIC_RANGE[code.transfer]})")
    if code.transfer in _LOGARITHMIC:  # shadows under the range are not in the file
        refuse(f"The transfer is logarithmic ({_LOGARITHMIC[code.transfer]}, H.273 code {code.transfer})")
    if code.transfer not in _NEAR_SRGB_TRANSFER and code.transfer not in _TRANSFER_GAMMA:
        refuse(f"Transfer characteristics {code.transfer} are not known")
    if code.primaries not in _NEAR_SRGB and code.primaries not in _PRIMARIES:
        refuse(f"Colour primaries {code.primaries} are not known")
    if not code.is_full_range:
        refuse("The codes span the narrow range of video")


def adobe_rgb(name: str) -> Colours:
    """Adobe RGB (1998), of a file that says so without a profile.

    Args:
        name: for the record.
    """
    return Colours(_profile(_ADOBE_RGB_PRIMARIES, _ADOBE_RGB_GAMMA), name, is_srgb=False)


def colours_from_chromaticity(gamma: float | None, chromaticity: Sequence[float] | None) -> Colours:
    """Judge the gAMA and cHRM chunks of a PNG (white x, y, then red, green, blue).

    Returns:
        sRGB where they say so within rounding, as most do.
    """
    primaries = tuple(chromaticity[2:]) if chromaticity else _SRGB_PRIMARIES
    white = tuple(chromaticity[:2]) if chromaticity else _D65
    same_gamma = gamma is None or abs(gamma - 0.45455) < 0.02
    same_primaries = np.allclose([*white, *primaries], [*_D65, *_SRGB_PRIMARIES], atol=0.005)
    sane = gamma is None or 0.1 <= gamma <= 1.5
    if (same_gamma and same_primaries) or not sane or min(primaries) <= 0 or min(white) <= 0:
        return SRGB_ASSUMED
    exponent = None if same_gamma else 1 / (gamma or 1.0)
    return Colours(_profile(primaries, exponent, white), "gAMA and cHRM chunks", is_srgb=False)


def to_srgb(pixels: Pixels, colours: Colours, mode: str) -> npt.NDArray[np.uint8]:
    """Convert pixels to 8-bit sRGB, relative colorimetric with black point compensation.

    Args:
        pixels: ``(H, W)`` for GRAY, ``(H, W, 3)`` for RGB, ``(H, W, 4)`` for CMYK (full scale = full ink); uint8, or
            uint16 over the full 16 bits.
        colours: what the numbers mean; is ignored for CMYK without a profile, which is inverted naively.
        mode: ``GRAY``, ``RGB`` or ``CMYK``.

    Returns:
        ``(H, W, 3)`` uint8 sRGB.

    Raises:
        RejectedImageError: the profile cannot be applied (``unsupported_colour``).
    """
    if colours.icc is not None:
        if mode != "GRAY":
            return _transformed(pixels, colours.icc, mode, colours.name)
        greys: Any = np.arange(np.iinfo(pixels.dtype).max + 1).astype(pixels.dtype)[None]
        if colours.icc[_ICC_SPACE] == b"RGB ":  # chunks and code points speak of RGB, of grey too
            greys, mode = np.repeat(greys[..., None], 3, axis=-1), "RGB"
        table: npt.NDArray[np.uint8] = _transformed(greys, colours.icc, mode, colours.name)[0]
        return table[pixels]
    eight = _to_eight_bits(pixels)
    if mode == "CMYK":
        light = 255 - eight.astype(np.uint16)
        return ((light[..., :3] * light[..., 3:] + 127) // 255).astype(np.uint8)
    return np.repeat(eight[..., None], 3, axis=-1) if mode == "GRAY" else eight


def _transformed(pixels: Pixels, icc: bytes, mode: str, name: str) -> npt.NDArray[np.uint8]:
    # but for 8-bit colours, LittleCMS interpolates between 33 values a channel, up to 30 codes beside a matrix profile
    exact = _EXACT if pixels.dtype == np.uint16 or mode == "GRAY" else 0
    try:
        matrix = as_matrix_profile(icc) if pixels.dtype == np.uint16 and mode == "RGB" else None
        if matrix is not None:
            return matrix_to_srgb(pixels.astype(np.uint16, copy=False), matrix)
        converted: npt.NDArray[np.uint8] = imagecodecs.cms_transform(
            np.ascontiguousarray(pixels),
            icc,
            _srgb(),
            colorspace=mode.lower(),
            outcolorspace="rgb",
            outdtype="uint8",
            intent=_RELATIVE_COLORIMETRIC,
            flags=_BLACK_POINT | exact,
        )
    except (imagecodecs.CmsError, ValueError) as error:
        raise RejectedImageError(
            "unsupported_colour", f"The ICC profile {name!r} cannot be applied ({error})."
        ) from error
    return converted


def _to_eight_bits(pixels: Pixels) -> npt.NDArray[np.uint8]:
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint8, copy=False)
    return ((pixels.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)


@lru_cache(maxsize=1)
def _srgb() -> bytes:
    return bytes(imagecodecs.cms_profile("srgb"))


@lru_cache(maxsize=32)
def _profile(
    primaries: tuple[float, ...],
    exponent: float | None,
    white: tuple[float, ...] = _D65,
    brightest: float = 1.0,
) -> bytes:
    """Make an RGB profile: a power law or sRGB's curve, times the light of the highest code; clipped at white."""
    if exponent is not None and brightest == 1.0:
        return bytes(imagecodecs.cms_profile("rgb", whitepoint=white, primaries=primaries, gamma=exponent))
    display = np.linspace(0, 1, 4096)
    linear = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    if exponent is not None:
        linear = np.minimum(display**exponent * brightest, 1.0)
    return bytes(
        imagecodecs.cms_profile(
            "rgb", whitepoint=white, primaries=primaries, transferfunction=linear.astype(np.float32)
        )
    )
