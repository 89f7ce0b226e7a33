"""What the first bytes of an image file say, read without decoding a pixel and without trusting the file's name.

Pillow reads most headers. Here is what it does not tell: the container itself, and the colour code points
(ITU-T H.273) of PNG. Those of AVIF and HEIF are read in :mod:`storage.corpora.heif_header`, and JPEG XL, which Pillow
cannot open, in :mod:`storage.corpora.jxl_header`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_MAGIC: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"BM", "BMP"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51", "JPEG2000"),
    (b"\xff\x0a", "JXL"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "JXL"),
    *((b"P" + digit, "PPM") for digit in (b"1", b"2", b"3", b"4", b"5", b"6")),
)
_KNOWN_BUT_UNSUPPORTED: Final = (
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"8BPS", "Photoshop"),
    (b"\x76\x2f\x31\x01", "OpenEXR"),
    (b"#?RADIANCE", "Radiance HDR"),
    (b"FUJIFILMCCD-RAW", "Fujifilm RAW"),
    (b"IIRS", "Olympus RAW"),
    (b"IIU\0", "Panasonic RAW"),
    (b"IIRO", "Olympus RAW"),
    (b"FOVb", "Sigma RAW"),
    (b"II\x1a\0\0\0HEAPCCDR", "Canon RAW"),
    (b"II\xbc\x01", "JPEG XR"),
    (b"DDS ", "DDS"),
    (b"\0\0\x01\0", "icon"),
    (b"<svg", "SVG"),
    (b"PK\x03\x04", "ZIP archive"),
)
_LONGEST_BRANDS: Final = 1024  # bytes; a hostile header says up to 4 GiB
_AVIF_BRANDS: Final = {b"avif", b"avis"}
_HEIF_BRANDS: Final = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"mif2"}


def sniff(data: bytes) -> str | None:
    """Name the container: a supported one by Pillow's name (or ``JXL``), None if it is none of them."""
    for magic, name in _MAGIC:
        if data.startswith(magic):
            return name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        stop = min(struct.unpack(">I", data[:4])[0], _LONGEST_BRANDS)
        brands = {data[8:12], *(data[start : start + 4] for start in range(16, stop, 4))}
        if brands & (_AVIF_BRANDS | _HEIF_BRANDS):
            return "AVIF" if data[8:12] in _AVIF_BRANDS else "HEIF"
    return None


def name_unsupported(data: bytes) -> str | None:
    """Name a file format that is recognised but not taken, or return None."""
    for magic, name in _KNOWN_BUT_UNSUPPORTED:
        if data.startswith(magic):
            return name
    if data[4:8] == b"ftyp":
        return "ISO media (video or camera RAW)"
    return None


HIGH_DYNAMIC_RANGE: Final = {16: "PQ", 18: "HLG"}
"""Names of the transfers of BT.2100, by their code points."""


@dataclass(frozen=True, slots=True)
class ColourCode:
    """Colour code points of ITU-T H.273.

    Attributes:
        primaries: 1 is BT.709, 9 BT.2020, 12 Display P3, 2 unspecified.
        transfer: 13 is sRGB, 8 linear, 16 PQ, 18 HLG, 2 unspecified.
        is_full_range: whether the decoded codes span all of their bits, or the narrow range of video.
    """

    primaries: int
    transfer: int
    is_full_range: bool = True

    @property
    def is_hdr(self) -> bool:
        """Whether the codes are for displays brighter than white."""
        return self.transfer in HIGH_DYNAMIC_RANGE


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What a PNG says before its pixels.

    Attributes:
        width: pixels, may be 0 in a broken file.
        height: pixels.
        bit_depth: bits per channel.
        colour: its cICP chunk, or None.
        exif: its eXIf chunk, or None.
    """

    width: int
    height: int
    bit_depth: int
    colour: ColourCode | None
    exif: bytes | None


def read_png_header(data: bytes) -> PngHeader | None:
    """Read a PNG's chunks without its pixels; None if there is no whole IHDR."""
    if len(data) < 33 or data[12:16] != b"IHDR":
        return None
    width, height, bit_depth = struct.unpack(">IIB", data[16:25])
    colour, exif = None, None
    position = 33
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        if kind == b"cICP" and length == 4:
            primaries, transfer, _, is_full_range = data[position + 8 : position + 12]
            colour = ColourCode(primaries, transfer, bool(is_full_range))
        elif kind == b"eXIf":
            exif = data[position + 8 : position + 8 + length]
        position += 12 + length
    return PngHeader(width, height, bit_depth, colour, exif)
