"""Photographs inside Parquet files, read in place: a column of encoded bytes, or of structs with bytes and a path.

A photograph's name is ``column/row``. Rows are read page by page, a row group at a time; of a file that rows are asked
of in order, every page is read once. Memory holds one page and one photograph, whatever the file says of itself.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate, islice, repeat
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.types as pt

from aura.errors import AuraError, IntegrityError, InvalidInputError, MissingFileError, RejectedImageError
from storage.corpora.image_headers import sniff
from storage.corpora.licences import licence_text
from storage.corpora.page_limits import LARGEST_PAGE, PageLimitedFile
from storage.corpora.sources import Content, Item, Source
from storage.objects.location import Location, locate

_AHEAD: Final = 4 << 20
_PAGES_AHEAD: Final = 1 << 20
_OPEN_FILES: Final = 4
_TRIED_ROWS: Final = 64  # to tell whether a column holds images


def open_table(place: Location, size: int | None, page_bytes: int = LARGEST_PAGE) -> pq.ParquetFile:
    """Open a Parquet file where it lies; its footer is read, and of its columns what is asked for, page by page.

    Args:
        place: the file.
        size: its bytes; None asks for them.
        page_bytes: what a page may unpack to, see :class:`storage.corpora.page_limits.PageLimitedFile`.

    Raises:
        IntegrityError: it is no Parquet file.
        MissingFileError: it is gone.
        StorageError: the storage refused.
    """
    size = place.size() if size is None else size
    file = PageLimitedFile(place, size or 0, _AHEAD, page_bytes)
    try:
        table = pq.ParquetFile(pa.PythonFile(file, mode="r"), pre_buffer=False, buffer_size=_PAGES_AHEAD)
        file.limit(table.metadata)
    except AuraError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"{place.url} is not a whole Parquet file. Make it anew.") from error
    return table


def find_image_column(table: pq.ParquetFile, wanted: str | None, name: str) -> str | None:
    """Find the column that holds encoded images.

    Args:
        table: the file.
        wanted: the column that the recipe names, or None.
        name: what to call the file in an error.

    Returns:
        The column that is wanted, if it holds bytes; else the only one of bytes with an image among its first rows;
        else None.

    Raises:
        InvalidInputError: the wanted column holds neither bytes nor text, or several columns hold images and none is
            named.
        RejectedImageError: a page among its first rows unpacks to too much.
    """
    columns = {field.name: field.type for field in table.schema_arrow if _leaf(field.name, field.type)}
    if wanted is not None:
        kind = table.schema_arrow.field(wanted).type if wanted in table.schema_arrow.names else pa.null()
        if wanted not in columns and not (pt.is_null(kind) or is_text(kind)):  # a column of text is a list's
            raise InvalidInputError(
                f"Column {wanted!r} of {name} is of {kind}; expected bytes, structs with a field 'bytes', "
                "or (in a list) text."
            )
        return wanted if wanted in columns else None
    holding = [column for column in columns if _holds_images(table, column)]
    if len(holding) > 1:
        raise InvalidInputError(
            f"Several columns of {name} hold images: {', '.join(holding)}. Name one as the recipe's corpus_column "
            "(--column)."
        )
    return holding[0] if holding else None


def read_rows(
    item: Item, max_bytes: int, wanted: str | None, licence_column: str | None = None
) -> Iterator[tuple[Source, Content]]:
    """Yield each photograph of a Parquet file in the order of its rows; none if no column holds images.

    Args:
        item: the file.
        max_bytes: of a photograph.
        wanted: the column that the recipe names, or None to find it.
        licence_column: the column that names each photograph's licence, or None.

    Yields:
        Sources and their bytes, or the reason why they cannot be used; a damaged file gives what lies before the damage
        and then itself with the reason ``damaged_archive``, one without the column of licences itself with
        ``no_licence_column``.

    Raises:
        InvalidInputError: see :func:`find_image_column`.
        StorageError: the storage refused.
    """
    place = locate(item.uri)
    size = item.size if item.size is not None else place.size() or 0
    row = 0
    try:
        table = open_table(place, size, max_bytes)
        column = find_image_column(table, wanted, place.url)
        if column is None:
            return
        if licence_column is not None and licence_column not in table.schema_arrow.names:
            said = f"It has no column {licence_column!r}, which the recipe's licences.column names; name one it has."
            yield Source(item.uri, None, None, size, size), RejectedImageError("no_licence_column", said)
            return
        for group in range(table.num_row_groups):
            licences = repeat(None) if licence_column is None else _licences(table, group, licence_column)
            for data, licence in zip(_values(table, group, column), licences, strict=False):
                length = None if data is None else len(data)
                source = Source(item.uri, f"{column}/{row:08d}", None, length, size, licence)
                yield source, _judged(data, max_bytes)
                row += 1
    except RejectedImageError as error:
        yield Source(item.uri, None, None, size, size), error
    except IntegrityError as error:
        yield Source(item.uri, None, None, size, size), RejectedImageError("damaged_archive", str(error))
    except AuraError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        said = f"The Parquet file is damaged after {row} rows ({str(error).splitlines()[0]}); make it anew."
        yield Source(item.uri, None, None, size, size), RejectedImageError("damaged_archive", said)


def read_row(uri: str, member: str) -> bytes:
    """Read the bytes of one photograph.

    Args:
        uri: the Parquet file.
        member: ``column/row``.

    Raises:
        MissingFileError: the file is gone, or has no such column or row, or nothing in it.
        IntegrityError: the file is damaged.
        RejectedImageError: a page of it unpacks to too much.
        StorageError: the storage refused.
    """
    column, _, number = member.rpartition("/")
    place = locate(uri)
    gone = MissingFileError(f"{uri} has no photograph {member}. Put back the file that was listed.")
    try:
        # its length is part of the name, so that a file that was replaced is opened anew
        data = _opened(uri, column, place.size()).at(int(number))
    except (KeyError, IndexError) as error:
        raise gone from error
    except AuraError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"{uri} is not a whole Parquet file. Make it anew.") from error
    if data is None:
        raise gone
    return data


class _Rows:
    """The rows of a column, quick to read one after the other."""

    def __init__(self, table: pq.ParquetFile, column: str) -> None:
        self._table = table
        self._column = column
        counts = (table.metadata.row_group(group).num_rows for group in range(table.num_row_groups))
        self._starts = [0, *accumulate(counts)]
        self._group = -1
        self._next = 0
        self._coming: Iterator[bytes | None] = iter(())
        self._reading = threading.Lock()

    def at(self, row: int) -> bytes | None:
        if not 0 <= row < self._starts[-1]:
            raise IndexError(row)
        with self._reading:
            group = bisect_right(self._starts, row) - 1
            if group != self._group or self._next > row:
                self._coming = _values(self._table, group, self._column)
                self._group, self._next = group, self._starts[group]
            for data in self._coming:
                self._next += 1
                if self._next > row:
                    return data
        raise IndexError(row)


@lru_cache(maxsize=_OPEN_FILES)
def _opened(uri: str, column: str, size: int | None) -> _Rows:
    return _Rows(open_table(locate(uri), size), column)


def _values(table: pq.ParquetFile, group: int, column: str) -> Iterator[bytes | None]:
    """Yield the bytes of a row group's rows."""
    leaf = _leaf(column, table.schema_arrow.field(column).type)
    # one at a time: a dictionary may give a page's worth of bytes to each row
    for batch in table.iter_batches(batch_size=1, row_groups=[group], columns=[leaf], use_threads=False):
        values = batch.column(0)
        for value in values.field("bytes") if pt.is_struct(values.type) else values:
            yield value.as_py()


def _licences(table: pq.ParquetFile, group: int, column: str) -> Iterator[str | None]:
    for batch in table.iter_batches(batch_size=64, row_groups=[group], columns=[column], use_threads=False):
        yield from map(licence_text, batch.column(column).to_pylist())


def _leaf(name: str, kind: pa.DataType) -> str | None:
    """Return what Parquet calls the bytes of a column, or None if it holds none."""
    if _is_bytes(kind):
        return name
    if pt.is_struct(kind) and kind.get_field_index("bytes") >= 0 and _is_bytes(kind.field("bytes").type):
        return f"{name}.bytes"
    return None


def is_text(kind: Any) -> bool:
    """Tell whether a column is of text."""
    return bool(pt.is_string(kind) or pt.is_large_string(kind) or pt.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    return bool(pt.is_binary(kind) or pt.is_large_binary(kind) or pt.is_binary_view(kind))


def _holds_images(table: pq.ParquetFile, column: str) -> bool:
    values = (data for group in range(table.num_row_groups) for data in _values(table, group, column) if data)
    return any(sniff(data) for data in islice(values, _TRIED_ROWS))


def _judged(data: bytes | None, max_bytes: int) -> Content:
    if data is None:
        return RejectedImageError("missing", "The row holds no bytes.")
    if len(data) > max_bytes:
        return RejectedImageError("too_many_bytes", f"It has {len(data)} bytes; limits.max_bytes is {max_bytes}.")
    return data
