"""The colour code points of the photograph in a HEIF or AVIF file (ISO/IEC 23008-12, 14496-12: 8.11, 12.1.5).

Such a file may hold other images: thumbnails, a depth map, a gain map and the HDR rendition made with it. Each has
properties of its own, so those of the primary item are looked up.
"""

from __future__ import annotations

import struct
from typing import Final

from storage.corpora.boxes import boxes
from storage.corpora.image_headers import ColourCode

_FULL_BOX: Final = 4  # bytes of version and flags
_WIDE_INDEX: Final = 1  # flag of ipma: 15 bits an index, not 7
_MOST_ITEMS: Final = 1 << 16
_NCLX: Final = struct.Struct(">4xHH")


def read_nclx(data: bytes) -> ColourCode | None:
    """Read the colour code points of the primary item; None if it has none, or the file ends before they are told."""
    found = {kind: (first, last) for kind, first, last in boxes(data, 0, len(data)) if kind == b"meta"}
    if b"meta" not in found:
        return None
    start, stop = found[b"meta"]
    inner = {kind: (first, last) for kind, first, last in boxes(data, start + _FULL_BOX, stop)}
    try:
        primary = _primary_item(data, *inner[b"pitm"])
        tables = list(boxes(data, *inner[b"iprp"]))
        properties = [one for kind, first, last in tables if kind == b"ipco" for one in boxes(data, first, last)]
        chosen = [each for kind, first, _ in tables if kind == b"ipma" for each in _properties_of(data, first, primary)]
        colours = [properties[index - 1] for index in chosen if 0 < index <= len(properties)]
        for kind, first, _ in colours:
            if kind == b"colr" and data[first : first + 4] == b"nclx":
                return ColourCode(*_NCLX.unpack_from(data, first))  # a narrow range is widened by the decoder
    except (KeyError, struct.error):
        return None
    return None


def _primary_item(data: bytes, start: int, stop: int) -> int:
    is_wide = data[start:stop][:1] > b"\0"
    (item,) = struct.unpack_from(">I" if is_wide else ">H", data, start + _FULL_BOX)
    return int(item)


def _properties_of(data: bytes, start: int, wanted: int) -> list[int]:
    """Places, from 1, of an item's properties in the list of all."""
    version_and_flags, entries = struct.unpack_from(">II", data, start)
    name, index = (">I" if version_and_flags >> 24 else ">H"), (">H" if version_and_flags & _WIDE_INDEX else ">B")
    position = start + 8
    for _ in range(min(entries, _MOST_ITEMS)):
        (item,) = struct.unpack_from(name, data, position)
        (count,) = struct.unpack_from(">B", data, position + struct.calcsize(name))
        position += struct.calcsize(name) + 1
        step = struct.calcsize(index)
        if item == wanted:
            essential = 1 << (8 * step - 1)
            return [struct.unpack_from(index, data, position + place * step)[0] & ~essential for place in range(count)]
        position += count * step
    return []
