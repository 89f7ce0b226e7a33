"""Boxes, of which JPEG 2000, HEIF and AVIF files are made (ISO/IEC 14496-12, 4.2; ISO/IEC 15444-1, I.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterator


def boxes(data: bytes, start: int, stop: int) -> Iterator[tuple[bytes, int, int]]:
    """Walk the boxes that lie side by side.

    Args:
        data: the whole file.
        start: place of the first box.
        stop: end of what they lie in.

    Yields:
        Kind, and first byte and end of the content; a box of a senseless length is the end.
    """
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
