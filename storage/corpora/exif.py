"""What the EXIF of a photograph says about its pixels: which way is up, and whether they are in Adobe RGB."""

from __future__ import annotations

import io
from typing import Final

from PIL import Image

from storage.corpora.image_headers import PngHeader

_ORIENTATION: Final = 0x0112
_EXIF_IFD: Final = 0x8769
_COLOUR_SPACE: Final = 0xA001
_NOT_SRGB: Final = {2, 0xFFFF}  # Exif 2.3: 0xFFFF, uncalibrated; 2 is what some cameras write for Adobe RGB
_INTEROPERABILITY_IFD: Final = 0xA005
_INTEROPERABILITY_INDEX: Final = 0x0001


def read_exif(image: Image.Image, png: PngHeader | None) -> Image.Exif | None:
    """Read an opened file's EXIF; None if it is damaged, which says nothing about the pixels."""
    try:
        if png is None:
            return image.getexif()
        exif = Image.Exif()  # Pillow would decode all the pixels to look for a chunk behind them
        exif.load(png.exif or b"")
    except Exception:  # noqa: BLE001  # hostile bytes raise anything
        return None
    return exif


def read_tiff_exif(data: bytes) -> Image.Exif | None:
    """Read the EXIF of a TIFF file that Pillow does not open; None if it is damaged."""
    exif = Image.Exif()
    try:
        exif.load_from_fp(io.BytesIO(data))
    except Exception:  # noqa: BLE001  # as above
        return None
    return exif


def orientation_of(exif: Image.Exif | None) -> int:
    """Return the orientation, 1 to 8; 1 where none or an invalid one is given."""
    value = 1 if exif is None else exif.get(_ORIENTATION, 1)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def says_adobe_rgb(exif: Image.Exif | None) -> bool:
    """Tell Adobe RGB as cameras name it: no calibrated space, and the interoperability of DCF's optional file (R03)."""
    try:
        if exif is None or exif.get_ifd(_EXIF_IFD).get(_COLOUR_SPACE) not in _NOT_SRGB:
            return False
        index = exif.get_ifd(_INTEROPERABILITY_IFD).get(_INTEROPERABILITY_INDEX, "")
    except Exception:  # noqa: BLE001  # as above
        return False
    name = index.decode("ascii", "replace") if isinstance(index, bytes) else str(index)
    return name.rstrip("\0 ") == "R03"
