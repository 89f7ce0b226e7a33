"""What a JPEG 2000 file says before its pixels (ISO/IEC 15444-1): its size, its bits, and its ICC profile.

Pillow shows eight bits of it, and no profile.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_CODESTREAM: Final = b"\xff\x4f\xff\x51"
_SIZ: Final = struct.Struct(">4x2xHIIIIIIIIHB")  # SOC and SIZ, its length, then Rsiz to the first component's depth
_SIGNED: Final = 0x80
_ICC_METHODS: Final = {2, 3}  # restricted, any
_SYCC: Final = 18


@dataclass(frozen=True, slots=True)
class Jp2Header:
    """What is said of the image.

    Attributes:
        height: pixels of the codestream.
        width: likewise.
        bits: a channel; of the first one, where they differ.
        is_signed: whether numbers below 0 are meant.
        is_ycc: whether the channels are luma and chroma.
        icc: embedded profile, or None.
        codestream: place of its first byte in the file.
    """

    height: int
    width: int
    bits: int
    is_signed: bool
    is_ycc: bool
    icc: bytes | None
    codestream: int


def read_jp2_header(data: bytes) -> Jp2Header:
    """Read the boxes of a JP2 file, or a bare codestream.

    Raises:
        ValueError: it ends early, or has no codestream.
    """
    icc, is_ycc, start = None, False, 0 if data.startswith(_CODESTREAM) else None
    for kind, begin, end in _boxes(data, 0, len(data)) if start is None else ():
        if kind == b"jp2h":
            for inner, first, last in _boxes(data, begin, end):
                if inner == b"colr" and last - first > 3:
                    method = data[first]
                    if method in _ICC_METHODS and icc is None:
                        icc = data[first + 3 : last]
                    is_ycc |= method == 1 and data[first + 3 : first + 7] == _SYCC.to_bytes(4, "big")
        elif kind == b"jp2c":
            start = begin
            break
    if start is None or data[start : start + 4] != _CODESTREAM or len(data) < start + _SIZ.size:
        raise ValueError("it has no whole header of a codestream")
    _, right, bottom, left, top, *_, depth = _SIZ.unpack_from(data, start)
    return Jp2Header(bottom - top, right - left, (depth & ~_SIGNED) + 1, bool(depth & _SIGNED), is_ycc, icc, start)


def _boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and end of the content of each box; a box of a senseless length ends the search."""
    while start + 8 <= stop:
        length, kind = struct.unpack_from(">I4s", data, start)
        head = 8
        if length == 1 and start + 16 <= stop:
            (length,) = struct.unpack_from(">Q", data, start + 8)
            head = 16
        end = stop if length == 0 else start + length
        if length and length < head:
            return
        yield kind, start + head, min(end, stop)
        start = end
