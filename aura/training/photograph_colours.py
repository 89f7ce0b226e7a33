"""Whether a photograph to train on is in sRGB, as the network takes it to be."""

from __future__ import annotations

import io
import struct

from PIL import ExifTags, Image, ImageCms


def other_colours(image: Image.Image) -> str | None:
    """Name the colours of a photograph that says it is not in sRGB: by its ICC profile, or as cameras do by DCF 2.0."""
    try:
        if (profile := image.info.get("icc_profile")) is not None:
            named = (ImageCms.ImageCmsProfile(io.BytesIO(profile)).profile.profile_description or "").strip()
            return None if "srgb" in named.lower() else named or "an ICC profile without a name"
        option = image.getexif().get_ifd(ExifTags.IFD.Interop).get(ExifTags.Interop.InteropIndex)
    except (OSError, ValueError, TypeError, SyntaxError, struct.error):  # damaged metadata; Pillow raises many kinds
        return None
    return "Adobe RGB" if str(option).startswith("R03") else None
