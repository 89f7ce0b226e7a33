"""From an image file's header to what it says, and to a way of reading its pixels; none is decoded here.

What is opened here was recognised in :mod:`storage.corpora.photograph`, which also holds its size against the limits.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, replace
from typing import Any, Final

import pillow_heif
import tifffile
from PIL import Image, UnidentifiedImageError

from aura.errors import RejectedImageError
from storage.corpora.colour_profile import (
    SRGB_ASSUMED,
    Colours,
    adobe_rgb,
    colours_from_chromaticity,
    colours_from_code,
    colours_from_icc,
)
from storage.corpora.exif import orientation_of, read_exif, read_tiff_exif, says_adobe_rgb
from storage.corpora.heif_header import read_nclx
from storage.corpora.image_headers import (
    ColourCode,
    PngHeader,
    read_png_header,
)
from storage.corpora.jp2_header import SYCC, Jp2Header, is_read_by_bits, read_jp2_header
from storage.corpora.jxl_header import JXL_ICC, JxlHeader, read_jxl_header
from storage.corpora.pixel_decoding import (
    MOST_TIFF_SAMPLES,
    PILLOW_MODES,
    READERS_OF_16_BITS,
    Layout,
    alpha_of_tiff,
    is_pnm16,
    is_tiff16,
    read_jxl,
    read_pillow,
)
from storage.recipe import Limits

pillow_heif.register_heif_opener(thumbnails=False)
# what Pillow warns of is either checked here (sizes) or harmless (damaged metadata)
warnings.filterwarnings("ignore", module=r"PIL\.")

_PROFILE_SPACES: Final = {"L": "GRAY", "1": "GRAY", "LA": "GRAY", "I;16": "GRAY", "I;16B": "GRAY", "CMYK": "CMYK"}
_SRGB_CHUNKS: Final = {"srgb", "gamma", "chromaticity"}  # as Pillow names them
_ADOBE_BY_EXIF: Final = "Adobe RGB (by EXIF)"
_DNG_VERSION: Final = 50706
_NEW_SUBFILE_TYPE: Final = 254
_PHOTOMETRIC: Final = 262
_RGB: Final = 2
_ORIENTATION: Final = 274
_ICC_PROFILE: Final = 34675
_JP2_CMYK: Final = 12
_JP2_COLOURS: Final = {16, 17, SYCC}  # sRGB, grey by sRGB's curve, and sRGB as luma and chroma
_OTHER_JP2_COLOURS: Final = {_JP2_CMYK: "CMYK", 14: "CIELab", 19: "CIEJab", 20: "e-sRGB", 21: "ROMM RGB", 24: "e-sYCC"}
_RAW_PHOTOMETRICS: Final = {32803, 34892}  # colour filter array, linear RAW


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What a header says about an image.

    Attributes:
        container: such as ``JPEG``, ``PNG``, ``HEIF``, ``JXL``.
        mode: pixel layout in the file: Pillow's name, or such as ``RGB;16``.
        height: pixels, after the orientation is applied.
        width: pixels, after the orientation is applied.
        orientation: EXIF orientation in the file, 1 to 8; 1 where none or an invalid one is given.
        frames: images in the file; only the first is used.
        has_alpha: whether there is transparency, which is composited on white.
        colours: name of the colours in the file, such as ``Display P3`` or ``sRGB (assumed)``.
    """

    container: str
    mode: str
    height: int
    width: int
    orientation: int
    frames: int
    has_alpha: bool
    colours: str


@dataclass(frozen=True, slots=True)
class Opened:
    """A file whose header was read.

    Attributes:
        data: the whole file.
        facts: what its header says.
        colours: that its numbers are in.
        orientation_to_apply: EXIF orientation that the decoder leaves to be applied.
        source: what reads it; None where :data:`READERS_OF_16_BITS` does.
    """

    data: bytes
    facts: ImageFacts
    colours: Colours
    orientation_to_apply: int
    source: Image.Image | JxlHeader | None

    def read_pixels(self) -> Layout:
        """Decode, in the file's own colours."""
        if isinstance(self.source, JxlHeader):
            return read_jxl(self.data, self.source)
        if self.facts.mode.endswith(";16"):
            return READERS_OF_16_BITS[self.facts.container](self.data)
        if self.source is None:
            raise TypeError(f"{self.facts.container} was opened without Pillow; it is read with 16 bits only.")
        return read_pillow(self.source)


def open_image(data: bytes, container: str, limits: Limits) -> Opened:
    """Read the header of a file.

    Args:
        data: the whole file.
        container: as :func:`storage.corpora.image_headers.sniff` names it.
        limits: what is allowed; a size over them is refused here only where opening alone would take too much.

    Raises:
        RejectedImageError: the pixels or colours are of a kind that is not taken, or the header is damaged.
    """
    return _open_jxl(data) if container == "JXL" else _open_pillow(data, container, limits)


def _open_pillow(data: bytes, container: str, limits: Limits) -> Opened:
    # PNG comes first, since Pillow refuses to say how large a bomb is
    png = _read_png(data) if container == "PNG" else None
    if container == "TIFF":
        sixteen = _open_tiff(data)
        if sixteen is not None:
            return sixteen
    if png is not None and png.height * png.width > limits.max_pixels:
        raise RejectedImageError(
            "too_many_pixels", f"It has {png.height}x{png.width} px; limits.max_pixels is {limits.max_pixels}."
        )
    try:
        image = Image.open(io.BytesIO(data), formats=_formats(container))
    except Image.DecompressionBombError as error:
        raise RejectedImageError(
            "too_many_pixels", f"Its header declares more pixels than limits.max_pixels, {limits.max_pixels}."
        ) from error
    except UnidentifiedImageError as error:
        if container == "TIFF":
            raise RejectedImageError(
                "unsupported_pixels", f"It is TIFF {_described(data)}; grey and RGB of 8 and 16 bits are taken."
            ) from error
        raise RejectedImageError("damaged", f"It begins like {container}, but its header cannot be read.") from error
    jp2 = _read_jp2(data, image) if container == "JPEG2000" else None
    if png is not None:
        _scale_transparent_grey(image, png)
    is_deep = (png is not None and png.bit_depth == 16) or (jp2 is not None and is_read_by_bits(jp2))
    mode = _mode(image, data, container, is_deep=is_deep)
    if not mode.endswith(";16") and mode not in PILLOW_MODES and mode != "P":
        raise RejectedImageError("unsupported_pixels", f"Pixels of mode {mode} are not taken; use 8 or 16 bits.")
    exif = read_exif(image, png)
    orientation = orientation_of(exif)
    # of TIFF, Pillow names the upright size, and turns the pixels that it decodes itself
    width, height = image.size if orientation < 5 or container == "TIFF" else image.size[::-1]
    to_apply = 1 if container == "TIFF" else orientation
    colours = _colours(image, data, container, png.colour if png else None, exif, jp2)
    facts = ImageFacts(
        container=image.format or container,
        mode=mode,
        height=height,
        width=width,
        orientation=_original_orientation(image, orientation),
        frames=getattr(image, "n_frames", 1),
        has_alpha=image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info,
        colours=colours.name,
    )
    return Opened(data, facts, colours, to_apply, image)


def _described(data: bytes) -> str:
    """Pixels of a TIFF file, in words."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages.first
        photometric = getattr(page.photometric, "name", str(page.photometric)).lower()
        return f"of {page.samplesperpixel} {page.dtype or 'odd'} samples of {page.bitspersample} bits ({photometric})"


def _formats(container: str) -> tuple[str, ...]:
    # both kinds of HEIF share their brands
    return {"AVIF": ("AVIF", "HEIF"), "HEIF": ("HEIF", "AVIF")}.get(container, (container,))


def _colours(
    image: Image.Image,
    data: bytes,
    container: str,
    cicp: ColourCode | None,
    exif: Image.Exif | None,
    jp2: Jp2Header | None,
) -> Colours:
    profile = jp2.icc if jp2 else image.info.get("icc_profile")
    code = cicp or (read_nclx(data) if container in {"AVIF", "HEIF"} else None)
    if code is not None and (cicp or not profile or code.is_hdr):  # a profile maps the light of a lamp to some paper
        return colours_from_code(code)
    if profile:
        kind = _PROFILE_SPACES.get(image.mode, "RGB")
        judged = colours_from_icc(profile, kind)
        # Pillow shows 16-bit grey with alpha as RGBA
        return colours_from_icc(profile, "GRAY") if judged.icc is None and container == "PNG" else judged
    if image.mode == "CMYK":
        return replace(SRGB_ASSUMED, name="CMYK (no profile)", is_srgb=False)
    return _colours_without_profile(image, container, exif)


def _colours_without_profile(image: Image.Image, container: str, exif: Image.Exif | None) -> Colours:
    if container == "PNG" and not _SRGB_CHUNKS.isdisjoint(image.info):  # its own word comes before a camera's
        if "srgb" in image.info:
            return SRGB_ASSUMED
        return colours_from_chromaticity(image.info.get("gamma"), image.info.get("chromaticity"))
    if _PROFILE_SPACES.get(image.mode) is None and says_adobe_rgb(exif):
        return adobe_rgb(_ADOBE_BY_EXIF)
    return SRGB_ASSUMED


def _read_png(data: bytes) -> PngHeader:
    header = read_png_header(data)
    if header is None or not header.width or not header.height:
        raise RejectedImageError("damaged", "It begins like PNG, but its header gives no size.")
    return header


def _mode(image: Image.Image, data: bytes, container: str, *, is_deep: bool) -> str:
    """Pillow's mode, or the channels and 16 where the file has other bits than Pillow shows."""
    if is_deep:
        return f"{image.mode.split(';')[0]};16".replace("I;", "L;")
    if container == "PPM" and (image.mode == "I" or is_pnm16(data)):
        return f"{'L' if image.mode == 'I' else image.mode};16"
    return image.mode


def _scale_transparent_grey(image: Image.Image, png: PngHeader) -> None:
    """Pillow brings greys of fewer bits to 8, and leaves the one that is transparent as it is."""
    if png.bit_depth < 8 and image.mode in {"L", "1"} and "transparency" in image.info:
        image.info["transparency"] = image.info["transparency"] * 255 // ((1 << png.bit_depth) - 1)


def _read_jp2(data: bytes, image: Image.Image) -> Jp2Header:
    try:
        header = read_jp2_header(data)
    except ValueError as error:
        raise RejectedImageError("truncated", f"The JPEG 2000 file cannot be read: {error}.") from error
    if (header.width, header.height) != image.size:  # the limits were held against what Pillow found
        raise RejectedImageError(
            "damaged",
            f"Its boxes say {image.height}x{image.width} px, and its codestream {header.height}x{header.width}.",
        )
    _require_known_jp2(header)
    return header


def _require_known_jp2(header: Jp2Header) -> None:
    is_cmyk = header.icc is not None and header.icc[16:20] == b"CMYK"
    named = _OTHER_JP2_COLOURS.get(header.colour_space or 0, f"of the colour space numbered {header.colour_space}")
    is_taken = header.colour_space in {None, *_JP2_COLOURS} or (header.colour_space == _JP2_CMYK and header.bits == 8)
    if is_cmyk or (header.icc is None and not is_taken):
        raise RejectedImageError(
            "unsupported_colour",
            f"JPEG 2000 of {header.bits} bits whose colours are {'CMYK, by a profile' if is_cmyk else named} is not "
            "taken; convert it to sRGB.",
        )
    kinds = {
        f"{header.bits} bits": header.bits > 16,
        "signed numbers": header.is_signed,
        "luma and chroma": header.colour_space == SYCC,
        "channels of unlike bits or sizes": not header.is_even,
        "a palette": header.has_palette,
    }
    found = [kind for kind, is_so in kinds.items() if is_so]
    if header.bits > 8 and found:
        raise RejectedImageError(
            "unsupported_pixels",
            f"JPEG 2000 of {header.bits} bits with {' and '.join(found)} is not taken; use RGB of 8 to 16 bits.",
        )


def _original_orientation(image: Image.Image, orientation: int) -> int:
    original = image.info.get("original_orientation")  # HEIF's decoder has applied it already
    return original if isinstance(original, int) and 1 <= original <= 8 else orientation


def _open_tiff(data: bytes) -> Opened | None:
    """Open a TIFF of 16 bits, of which Pillow shows eight or nothing; None for others, which Pillow opens.

    Refuses camera RAW, most of which is TIFF whose first image is a thumbnail.
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]  # the first page is never a bare frame
        tags = page.tags
        is_thumbnail = tags.valueof(_NEW_SUBFILE_TYPE, 0) & 1
        is_mosaic = tags.valueof(_PHOTOMETRIC, 1) in _RAW_PHOTOMETRICS
        is_dng = tags.valueof(_DNG_VERSION) is not None
        if data[8:10] == b"CR" or is_thumbnail or is_mosaic or is_dng:
            raise RejectedImageError("unsupported_format", "It is a camera RAW file; develop it to sRGB first.")
        if not is_tiff16(page):
            return None
        if page.samplesperpixel > MOST_TIFF_SAMPLES or page.imagedepth != 1:
            raise RejectedImageError(
                "unsupported_pixels",
                f"It has {page.samplesperpixel} samples a pixel and {page.imagedepth} layers; at most "
                f"{MOST_TIFF_SAMPLES} samples and 1 layer are taken. Keep its colours alone.",
            )
        orientation = tags.valueof(_ORIENTATION, 1)
        orientation = orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1
        profile = tags.valueof(_ICC_PROFILE)
        mode = "RGB" if page.photometric == _RGB else "L"
        if profile:
            colours = colours_from_icc(bytes(profile), _PROFILE_SPACES.get(mode, "RGB"))
        else:
            is_adobe = mode == "RGB" and says_adobe_rgb(read_tiff_exif(data))
            colours = adobe_rgb(_ADOBE_BY_EXIF) if is_adobe else SRGB_ASSUMED
        height, width = page.imagelength, page.imagewidth
        facts = ImageFacts(
            container="TIFF",
            mode=f"{mode};16",
            height=height if orientation < 5 else width,
            width=width if orientation < 5 else height,
            orientation=orientation,
            frames=len(file.pages),
            has_alpha=alpha_of_tiff(page) is not None,
            colours=colours.name,
        )
    return Opened(data, facts, colours, orientation, None)


def _open_jxl(data: bytes) -> Opened:
    try:
        header = read_jxl_header(data)
    except RejectedImageError:
        raise
    except ValueError as error:
        raise RejectedImageError("truncated", f"The JPEG XL file cannot be read: {error}.") from error
    if header.is_float or header.bits > 16:
        raise RejectedImageError("unsupported_pixels", "Floating-point JPEG XL is not taken; convert it to 16 bits.")
    facts = ImageFacts(
        container="JXL",
        mode="RGB" if header.bits == 8 else f"RGB;{header.bits}",
        height=header.height,
        width=header.width,
        orientation=header.orientation,
        frames=2 if header.is_animated else 1,
        has_alpha=header.has_alpha,
        colours="",
    )
    colours = _jxl_colours(header)
    return Opened(data, replace(facts, colours=colours.name), colours, 1, header)


def _jxl_colours(header: JxlHeader) -> Colours:
    if header.colour is None:
        return replace(SRGB_ASSUMED, name="sRGB")
    if header.colour.primaries == JXL_ICC:
        if header.is_xyb:  # the decoder itself converts to sRGB
            return replace(SRGB_ASSUMED, name="sRGB (by the decoder)")
        raise RejectedImageError(
            "unsupported_colour",
            "JPEG XL with an ICC profile is not taken; convert it to PNG with the profile.",
        )
    return colours_from_code(header.colour, gamma=header.gamma, chromaticity=header.chromaticity)
