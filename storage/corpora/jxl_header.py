"""What a JPEG XL file says before its pixels (ISO/IEC 18181-1): no other library here tells it without decoding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from aura.errors import RejectedImageError
from storage.corpora.boxes import boxes
from storage.corpora.image_headers import ColourCode

JXL_ICC: Final = -1
"""Stands for "an embedded ICC profile" where a colour code point is expected."""

_WHITES: Final = {1: (0.3127, 0.3290), 10: (1 / 3, 1 / 3), 11: (0.314, 0.351)}  # D65, E, DCI
_PRIMARIES: Final = {
    1: (0.64, 0.33, 0.30, 0.60, 0.15, 0.06),  # sRGB, those of BT.709
    9: (0.708, 0.292, 0.170, 0.797, 0.131, 0.046),  # BT.2100
    11: (0.680, 0.320, 0.265, 0.690, 0.150, 0.060),  # P3
}
_PART_NUMBER: Final = 4  # bytes before each part of a codestream that lies in several boxes
_CUSTOM: Final = 2
_CODE_POINTS: Final = {(1, 1): 1, (9, 1): 9, (11, 11): 11, (11, 1): 12}  # JPEG XL's primaries and white -> H.273
_ALPHA, _SPOT_COLOUR, _COLOUR_FILTER_ARRAY = 0, 2, 5  # kinds of extra channels
_JXL_RATIOS: Final = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))


@dataclass(frozen=True, slots=True)
class JxlHeader:
    """What a JPEG XL codestream says before its pixels.

    Attributes:
        width: pixels, upright.
        height: pixels, upright.
        orientation: EXIF orientation, already undone by the decoder.
        bits: per channel; integer samples span 0 to 2^bits - 1.
        is_float: whether samples are floating point.
        colour: code points, ``JXL_ICC`` as primaries for an ICC profile, or None where it says nothing else than sRGB;
            primaries are 2, unspecified, where H.273 has no code for primaries and white point together.
        chromaticity: x and y of white, red, green and blue where H.273 has no code for them, else None.
        gamma: encoding exponent (such as 0.45455) in place of a transfer function, or None.
        is_xyb: whether the decoder converts to the named colours itself.
        is_animated: whether more frames follow.
        has_alpha: whether an extra channel is alpha.
        is_premultiplied: whether the colours are multiplied with it.
    """

    width: int
    height: int
    orientation: int
    bits: int
    is_float: bool
    colour: ColourCode | None
    chromaticity: tuple[float, ...] | None
    gamma: float | None
    is_xyb: bool
    is_animated: bool
    has_alpha: bool
    is_premultiplied: bool


def read_jxl_header(data: bytes) -> JxlHeader:
    """Read the size and the image metadata of a JPEG XL file, bare or in a container (ISO/IEC 18181-1).

    Raises:
        ValueError: the file ends before its header does, or there is no codestream.
        RejectedImageError: a white point or primaries that the standard does not define (``unsupported_colour``).
    """
    bits = _Bits(_jxl_codestream(data)[2:])
    height, width = _jxl_size(bits)
    orientation, animated = 1, False
    if bits.flag():  # everything default: 8 bits, XYB, sRGB
        return JxlHeader(
            width=width,
            height=height,
            orientation=1,
            bits=8,
            is_float=False,
            colour=None,
            chromaticity=None,
            gamma=None,
            is_xyb=True,
            is_animated=False,
            has_alpha=False,
            is_premultiplied=False,
        )
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
    extra_channels = [_jxl_extra_channel(bits) for _ in range(bits.choose((0, 0), (1, 0), (2, 4), (1, 12)))]
    alphas = [is_premultiplied for kind, is_premultiplied in extra_channels if kind == _ALPHA]
    is_xyb = bits.flag()
    colour, chromaticity, gamma = _jxl_colour(bits)
    if orientation >= 5:
        width, height = height, width
    return JxlHeader(
        width=width,
        height=height,
        orientation=orientation,
        bits=depth,
        is_float=is_float,
        colour=colour,
        chromaticity=chromaticity,
        gamma=gamma,
        is_xyb=is_xyb,
        is_animated=animated,
        has_alpha=bool(alphas),
        is_premultiplied=bool(alphas) and alphas[0],
    )


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
    for kind, start, stop in boxes(data, 0, len(data)):
        if kind in {b"jxlc", b"jxlp"}:
            return data[start + (_PART_NUMBER if kind == b"jxlp" else 0) : stop]
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


def _jxl_extra_channel(bits: _Bits) -> tuple[int, bool]:
    """Read an extra channel's kind, and for alpha whether colours are multiplied with it."""
    if bits.flag():  # plain alpha
        return _ALPHA, False
    kind = bits.enumeration()
    _jxl_bit_depth(bits)
    bits.choose((0, 0), (3, 0), (4, 0), (1, 3))
    bits.take(8 * bits.choose((0, 0), (0, 4), (16, 5), (48, 10)))
    if kind == _ALPHA:
        return kind, bits.flag()
    if kind == _SPOT_COLOUR:
        bits.take(64)
    elif kind == _COLOUR_FILTER_ARRAY:
        bits.choose((1, 0), (0, 2), (3, 4), (19, 8))
    return kind, False


def _jxl_colour(bits: _Bits) -> tuple[ColourCode | None, tuple[float, ...] | None, float | None]:
    """Read code points, chromaticities where no code point stands for them, and the gamma where it is one."""
    if bits.flag():
        return None, None, None
    has_icc = bits.flag()
    space = bits.enumeration()
    if has_icc:
        return ColourCode(JXL_ICC, 2), None, None
    primaries, chromaticity = 1, None
    if space != 2:  # XYB has neither white point nor primaries of its own
        white = bits.enumeration()
        white_xy = _jxl_points(bits, 1) if white == _CUSTOM else _WHITES.get(white)
        if space != 1:  # grey is neutral under any white
            chosen = bits.enumeration()
            primaries_xy = _jxl_points(bits, 3) if chosen == _CUSTOM else _PRIMARIES.get(chosen)
            if white_xy is None or primaries_xy is None:
                raise RejectedImageError(
                    "unsupported_colour",
                    f"JPEG XL's white point {white} or primaries {chosen} are not in the standard; convert it to sRGB.",
                )
            primaries = _CODE_POINTS.get((chosen, white), 2)
            chromaticity = None if primaries != 2 else (*white_xy, *primaries_xy)
    if bits.flag():
        return ColourCode(primaries, 2), chromaticity, bits.take(24) / 1e7
    return ColourCode(primaries, bits.enumeration()), chromaticity, None


def _jxl_points(bits: _Bits, count: int) -> tuple[float, ...]:
    """Read x, y of some points: signed millionths, the sign in the lowest bit."""
    coded = [bits.choose((0, 19), (524288, 19), (1048576, 20), (2097152, 21)) for _ in range(2 * count)]
    return tuple((value >> 1 if value % 2 == 0 else -(value >> 1) - 1) / 1e6 for value in coded)
