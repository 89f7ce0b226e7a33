"""Parquet files of others, read so that no page unpacks to more than is allowed.

What a page unpacks to stands in its own header, which the footer may contradict, and it is what a reader allocates. So
headers are looked at as they pass, before the reader sees them
(https://parquet.apache.org/docs/file-format/data-pages, https://github.com/apache/thrift: compact protocol).
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import pairwise
from typing import Final, NamedTuple

import pyarrow.parquet as pq

from aura.errors import RejectedImageError
from storage.objects.location import Location
from storage.objects.range_file import RangeFile

LARGEST_PAGE: Final = 1 << 30
"""What a page may unpack to at most: 1024 photographs of a megabyte, which pyarrow puts into one page by default."""

_ALWAYS: Final = 16 << 20
_RATIO: Final = 4  # photographs are compressed already
_HEADER: Final = 1 << 16
_LARGEST_HEADER: Final = 1 << 24
_SIZES: Final = (2, 3)  # fields of a page header: bytes unpacked, bytes as they lie there
_I32: Final = 5


class PageHeader(NamedTuple):
    """What is needed of a page's header.

    Attributes:
        length: bytes of the header itself.
        unpacked: bytes that the page unpacks to.
        packed: bytes of the page behind its header.
    """

    length: int
    unpacked: int
    packed: int


class PageLimitedFile(RangeFile):
    """A Parquet file whose reader gets no page that unpacks to too much.

    Args:
        place: the object.
        size: its bytes.
        ahead: bytes of a block.
        page_bytes: what a page may unpack to; one that hardly shrank, or is small, may unpack to more, up to
            :data:`LARGEST_PAGE`.

    Raises:
        RejectedImageError: from ``read``: a page is too large (``too_many_bytes``).
        ValueError: from ``read``: a page's header is damaged.
    """

    def __init__(self, place: Location, size: int, ahead: int, page_bytes: int) -> None:
        super().__init__(place, size, ahead, size)
        self._page_bytes = page_bytes
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._headers: list[int] = []  # of each column chunk the next page's header

    def limit(self, metadata: pq.FileMetaData) -> None:
        """Look at pages from here on, where the footer says that they begin.

        Raises:
            ValueError: the footer is damaged.
        """
        chunks = sorted(
            {
                _bounds(metadata.row_group(group).column(column))
                for group in range(metadata.num_row_groups)
                for column in range(metadata.num_columns)
            }
        )
        if any(start < stop for (_, stop), (start, _) in pairwise(chunks)):
            raise ValueError("its footer has columns lie across each other")
        self._starts = [start for start, _ in chunks]
        self._stops = [stop for _, stop in chunks]
        self._headers = [*self._starts]

    def read(self, size: int | None = -1) -> bytes:
        """Return up to ``size`` bytes, fewer only at the end."""
        start = self.tell()
        found = super().read(size)
        chunk = bisect_right(self._starts, start) - 1
        if found and chunk >= 0 and start < self._stops[chunk]:
            self._look(chunk, start, min(start + len(found), self._stops[chunk]))
        return found

    def _look(self, chunk: int, start: int, stop: int) -> None:
        if start == self._starts[chunk]:  # it is read anew
            self._headers[chunk] = start
        while self._headers[chunk] < stop:
            header = self._header(self._headers[chunk])
            allowed = min(LARGEST_PAGE, max(self._page_bytes, _ALWAYS, _RATIO * header.packed))
            if header.unpacked > allowed:
                raise RejectedImageError(
                    "too_many_bytes",
                    f"A page of the Parquet file unpacks from {header.packed} to {header.unpacked} bytes; "
                    f"{allowed} are allowed. Write it with smaller pages (in pyarrow, write_batch_size=16).",
                )
            self._headers[chunk] += header.length + header.packed

    def _header(self, at: int) -> PageHeader:
        length = _HEADER
        while True:
            data = self.range(at, at + length)
            try:
                return parse_header(data)
            except IndexError:
                if len(data) < length or length >= _LARGEST_HEADER:
                    raise ValueError(f"the header of the page at byte {at} does not end") from None
                length *= 16


def parse_header(data: bytes) -> PageHeader:
    """Parse the header that a page begins with.

    Raises:
        IndexError: it goes on behind the end of the data.
        ValueError: it is no header.
    """
    sizes = dict.fromkeys(_SIZES, -1)
    at, field = 0, 0
    while (kind := data[at]) != 0:
        at, field = _field(data, at, field)
        if field in _SIZES and kind & 15 == _I32:
            value, at = _varint(data, at)
            sizes[field] = (value >> 1) ^ -(value & 1)
        else:
            at = _skip(data, at, kind & 15)
    if min(sizes.values()) < 0:
        raise ValueError("a page's header does not say how large the page is")
    return PageHeader(at + 1, *sizes.values())


def _field(data: bytes, at: int, last: int) -> tuple[int, int]:
    """Return where a field's value begins, and the field's number."""
    if data[at] >> 4:
        return at + 1, last + (data[at] >> 4)
    number, at = _varint(data, at + 1)
    return at, (number >> 1) ^ -(number & 1)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 127) << shift
        shift += 7
        at += 1
        if not data[at - 1] & 128:
            return value, at
        if shift > 63:
            raise ValueError("a page's header holds a number without end")


def _skip(data: bytes, at: int, kind: int, depth: int = 0) -> int:
    """Return the place behind a value that is not needed; a page's header holds no lists and no maps."""
    if kind in {1, 2}:  # booleans are in the kind
        return at
    if kind == 3:
        return at + 1
    if kind in {4, 5, 6}:
        return _varint(data, at)[1]
    if kind == 7:
        return at + 8
    if kind == 8:
        length, at = _varint(data, at)
        return at + length
    if kind != 12 or depth > 8:
        raise ValueError(f"a page's header holds a value of kind {kind}")
    field = 0
    while (inner := data[at]) != 0:
        at, field = _field(data, at, field)
        at = _skip(data, at, inner & 15, depth + 1)
    return at + 1


def _bounds(chunk: pq.ColumnChunkMetaData) -> tuple[int, int]:
    """Return where a column chunk's pages begin, as Arrow sees it, and where they end."""
    start = chunk.data_page_offset
    if chunk.has_dictionary_page and 0 < (chunk.dictionary_page_offset or 0) < start:
        start = chunk.dictionary_page_offset
    return start, start + chunk.total_compressed_size
