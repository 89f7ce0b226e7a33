"""What the first bytes of an image file say, read without decoding a pixel and without trusting the file's name.

Pillow reads most headers. Here is what it does not tell: the container itself, the colour code points (ITU-T H.273) of
PNG, AVIF and HEIF, and everything about JPEG XL (ISO/IEC 18181-1), which Pillow cannot open.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

JXL_ICC: Final = -1
"""Stands for "an embedded ICC profile" where a colour code point is expected."""

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
_JXL_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


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


@dataclass(frozen=True, slots=True)
class ColourCode:
    """Colour code points of ITU-T H.273.

    Attributes:
        primaries: 1 is BT.709, 9 BT.2020, 12 Display P3, 2 unspecified.
        transfer: 13 is sRGB, 8 linear, 16 PQ, 18 HLG, 2 unspecified.
    """

    primaries: int
    transfer: int


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
            colour = ColourCode(data[position + 8], data[position + 9])
        elif kind == b"eXIf":
            exif = data[position + 8 : position + 8 + length]
        position += 12 + length
    return PngHeader(width, height, bit_depth, colour, exif)


def read_nclx(data: bytes) -> ColourCode | None:
    """Read the colour code points of an AVIF or HEIF file from its first ``colr`` box of kind ``nclx``."""
    start = data.find(b"colrnclx")
    if start < 0 or len(data) < start + 12:
        return None
    return ColourCode(*struct.unpack(">HH", data[start + 8 : start + 12]))


@dataclass(frozen=True, slots=True)
class JxlHeader:
    """What a JPEG XL codestream says before its pixels.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        orientation: EXIF orientation, already undone by the decoder.
        bits: per channel; integer samples span 0 to 2^bits - 1.
        is_float: whether samples are floating point.
        colour: code points, ``JXL_ICC`` as primaries for an ICC profile, or None where it says nothing else than sRGB.
        gamma: encoding exponent (such as 0.45455) in place of a transfer function, or None.
        is_xyb: whether the decoder converts to the named colours itself.
        is_animated: whether more frames follow.
    """

    width: int
    height: int
    orientation: int
    bits: int
    is_float: bool
    colour: ColourCode | None
    gamma: float | None
    is_xyb: bool
    is_animated: bool


def read_jxl_header(data: bytes) -> JxlHeader:
    """Read the size and the image metadata of a JPEG XL file, bare or in a container (ISO/IEC 18181-1).

    Raises:
        ValueError: the file ends before its header does, or there is no codestream.
    """
    bits = _Bits(_jxl_codestream(data)[2:])
    height, width = _jxl_size(bits)
    orientation, animated = 1, False
    if bits.flag():  # everything default: 8 bits, XYB, sRGB
        return JxlHeader(width, height, 1, 8, is_float=False, colour=None, gamma=None, is_xyb=True, is_animated=False)
    if bits.flag():
        orientation = 1 + bits.take(3)
        if bits.flag():
            _jxl_size(bits)
        if bits.flag():
            _skip_jxl_preview(bits)
        animated = bits.flag()
        if animated:
            _skip_jxl_animation(bits)
    is_float, depth = _jxl_bit_depth(bits)
    bits.flag()  # whether 16-bit buffers suffice
    for _ in range(bits.choose((0, 0), (1, 0), (2, 4), (1, 12))):
        _skip_jxl_extra_channel(bits)
    is_xyb = bits.flag()
    colour, gamma = _jxl_colour(bits)
    if orientation >= 5:
        width, height = height, width
    return JxlHeader(width, height, orientation, depth, is_float, colour, gamma, is_xyb, animated)


class _Bits:
    """Bits of a byte string, least significant first."""

    def __init__(self, data: bytes) -> None:
        self._data = data[:65536]
        self._position = 0

    def take(self, count: int) -> int:
        value = 0
        for shift in range(count):
            byte, bit = divmod(self._position, 8)
            if byte >= len(self._data):
                raise ValueError("the header is cut short")
            value |= (self._data[byte] >> bit & 1) << shift
            self._position += 1
        return value

    def flag(self) -> bool:
        return bool(self.take(1))

    def choose(self, *distributions: tuple[int, int]) -> int:
        """Read U32: two bits choose a distribution (offset, extra bits)."""
        offset, extra = distributions[self.take(2)]
        return offset + self.take(extra)

    def enumeration(self) -> int:
        return self.choose((0, 0), (1, 0), (2, 4), (18, 6))


def _jxl_codestream(data: bytes) -> bytes:
    if data.startswith(b"\xff\x0a"):
        return data
    position = 0
    while position + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        header = 8
        if length == 1:
            length, header = struct.unpack(">Q", data[position + 8 : position + 16].ljust(8, b"\0"))[0], 16
        stop = position + length if length else len(data)
        if kind in {b"jxlc", b"jxlp"}:
            start = position + header + (4 if kind == b"jxlp" else 0)
            return data[start:stop]
        if length and length < header:
            break
        position = stop
    raise ValueError("the container holds no codestream")


def _jxl_size(bits: _Bits) -> tuple[int, int]:
    def side(small: bool) -> int:
        return 8 * (1 + bits.take(5)) if small else bits.choose((1, 9), (1, 13), (1, 18), (1, 30))

    small = bits.flag()
    height = side(small)
    return height, _jxl_width(bits, height) or side(small)


def _jxl_width(bits: _Bits, height: int) -> int | None:
    ratio = bits.take(3)
    if not ratio:
        return None
    numerator, denominator = _JXL_RATIOS[ratio - 1]
    return height * numerator // denominator


def _skip_jxl_preview(bits: _Bits) -> None:
    def side(small: bool) -> int:
        sizes = ((16, 0), (32, 0), (1, 5), (33, 9)) if small else ((1, 6), (65, 8), (321, 10), (1345, 12))
        return bits.choose(*sizes)

    small = bits.flag()
    height = side(small)
    if _jxl_width(bits, height) is None:
        side(small)


def _skip_jxl_animation(bits: _Bits) -> None:
    bits.choose((100, 0), (1000, 0), (1, 10), (1, 30))
    bits.choose((1, 0), (1001, 0), (1, 8), (1, 10))
    bits.choose((0, 0), (0, 3), (0, 16), (0, 32))
    bits.flag()


def _jxl_bit_depth(bits: _Bits) -> tuple[bool, int]:
    if bits.flag():
        depth = bits.choose((32, 0), (16, 0), (24, 0), (1, 6))
        bits.take(4)
        return True, depth
    return False, bits.choose((8, 0), (10, 0), (12, 0), (1, 6))


def _skip_jxl_extra_channel(bits: _Bits) -> None:
    if bits.flag():  # plain alpha
        return
    kind = bits.enumeration()
    _jxl_bit_depth(bits)
    bits.choose((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.choose((0, 0), (0, 4), (16, 5), (48, 10)))
    if kind == 0:  # alpha: whether it is associated
        bits.flag()
    elif kind == 2:  # spot colour
        bits.take(64)
    elif kind == 5:  # colour filter array
        bits.choose((1, 0), (0, 2), (3, 4), (19, 8))


def _jxl_colour(bits: _Bits) -> tuple[ColourCode | None, float | None]:
    if bits.flag():
        return None, None
    has_icc = bits.flag()
    space = bits.enumeration()
    if has_icc:
        return ColourCode(JXL_ICC, 2), None
    primaries = 1
    if space != 2:  # XYB has neither white point nor primaries of its own
        white = bits.enumeration()
        if white == 2:
            _skip_jxl_point(bits)
        if space != 1:
            primaries = bits.enumeration()
            if primaries == 2:
                for _ in range(3):
                    _skip_jxl_point(bits)
        primaries = {11: 12}.get(primaries, primaries)  # JPEG XL's "P3" with a D65 white is H.273's 12
    if bits.flag():
        return ColourCode(primaries, 2), bits.take(24) / 1e7
    return ColourCode(primaries, bits.enumeration()), None


def _skip_jxl_point(bits: _Bits) -> None:
    for _ in range(2):
        bits.choose((0, 19), (524288, 19), (1048576, 20), (2097152, 21))
