"""What a JPEG 2000 file says before its pixels (ISO/IEC 15444-1): its size, its bits, and its ICC profile.

Pillow shows eight bits of it, and no profile.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from storage.corpora.boxes import boxes

_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_SIZ: Final = struct.Struct(">4x2xHIIIIIIIIH")  # SOC and SIZ, its length, then Rsiz to the number of components
_COMPONENT: Final = 3  # bytes: depth, and the sampling of columns and rows
_SIGNED: Final = 0x80
_ENUMERATED: Final = 1
SYCC: Final = 18
"""Number of the colour space of sRGB as luma and chroma."""

_ICC_METHODS: Final = {2, 3}  # restricted, any


@dataclass(frozen=True, slots=True)
class Jp2Header:
    """What is said of the image.

    Attributes:
        height: pixels of the codestream.
        width: likewise.
        bits: a channel; the most, where they differ.
        is_even: whether all channels have the same bits, sign and sampling.
        is_signed: whether numbers below 0 are meant.
        has_palette: whether the codestream holds places in a table of colours.
        colour_space: by number, as the first box that names one has it (table I.10 and, of JPX, M.25); or None.
        icc: embedded profile, or None.
        codestream: place of its first byte in the file.
    """

    height: int
    width: int
    bits: int
    is_even: bool
    is_signed: bool
    has_palette: bool
    colour_space: int | None
    icc: bytes | None
    codestream: int


def read_jp2_header(data: bytes) -> Jp2Header:
    """Read the boxes of a JP2 file, or a bare codestream.

    Raises:
        ValueError: it ends early, or has no codestream.
    """
    icc, space, has_palette = None, None, False
    start = 0 if data.startswith(_CODESTREAM) else None
    for kind, begin, end in boxes(data, 0, len(data)) if start is None else ():
        if kind == b"jp2h":
            for inner, first, last in boxes(data, begin, end):
                has_palette |= inner == b"pclr"
                if inner != b"colr" or last - first <= 3:
                    continue
                if data[first] in _ICC_METHODS and icc is None:
                    icc = data[first + 3 : last]
                elif data[first] == _ENUMERATED and space is None:
                    space = int.from_bytes(data[first + 3 : first + 7], "big")
        elif kind == b"jp2c":
            start = begin
            break
    if start is None or data[start : start + 4] != _CODESTREAM or len(data) < start + _SIZ.size:
        raise ValueError("it has no whole header of a codestream")
    _, right, bottom, left, top, *_, channels = _SIZ.unpack_from(data, start)
    first = start + _SIZ.size
    components = {data[at : at + _COMPONENT] for at in range(first, first + channels * _COMPONENT, _COMPONENT)}
    if not components or min(map(len, components)) < _COMPONENT:
        raise ValueError("its codestream names no whole components")
    depths = [component[0] for component in components]
    return Jp2Header(
        height=bottom - top,
        width=right - left,
        bits=max(depth & ~_SIGNED for depth in depths) + 1,
        is_even=len(components) == 1,
        is_signed=any(depth & _SIGNED for depth in depths),
        has_palette=has_palette,
        colour_space=space,
        icc=icc,
        codestream=start,
    )


def is_read_by_bits(header: Jp2Header) -> bool:
    """Tell whether the codestream has to be read without Pillow, which shows 8 bits and shifts fewer up to them."""
    is_plain = header.is_even and not (header.has_palette or header.is_signed or header.colour_space == SYCC)
    return header.bits > 8 or (header.bits < 8 and is_plain)
