"""Lists of photographs: a text file with a path or URI on each line, or a column of a CSV or Parquet file.

A relative path starts at the folder of the list. What is listed may lie on disk, on S3 or on the web, and may be a tar
or Parquet file that holds photographs.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Final

import pyarrow as pa

from aura.errors import (
    AuraError,
    ForbiddenHostError,
    IntegrityError,
    InvalidInputError,
    MissingFileError,
    RejectedImageError,
    StorageAccessError,
    StorageError,
)
from storage.corpora.image_tables import is_text, open_table
from storage.corpora.licences import licence_text
from storage.corpora.sources import Item
from storage.objects.location import Location, locate
from storage.objects.range_file import RangeFile
from storage.objects.refusals import CREDENTIAL_IN_QUERY

ENDINGS: Final = frozenset({".txt", ".csv", ".tsv", ".parquet"})
"""Name endings of files that may be a list."""

SCHEMES: Final = frozenset({"file", "s3", "s3a", "gs", "gcs", "abfs", "az", "http", "https", "memory"})
"""Where a list may point to."""

_COLUMNS: Final = (
    *("uri", "url", "path", "file", "filename", "file_name", "file_path"),
    *("image", "image_path", "image_url", "image_uri"),
)
_AHEAD: Final = 4 << 20
_LONGEST_LINE: Final = 4096
_PAGE_BYTES: Final = 64 << 20
_LINES_AT_ONCE: Final = 64  # a dictionary may give a page's worth of text to each


def read_list(place: Location, wanted: str | None, licence_column: str | None = None) -> Iterator[Item]:
    """Yield what a list names, in its order; lines that name nothing usable carry their refusal.

    Args:
        place: the list.
        wanted: the column that the recipe names, or None to find it by its name.
        licence_column: the column that names each photograph's licence, or None.

    Raises:
        InvalidInputError: no column holds paths or URIs, or there is no such column of licences.
        IntegrityError: the list is no text, or a damaged Parquet file.
        StorageError: the storage refused.
    """
    folder = Location(place.url.rsplit("/", 1)[0])
    read = _table_lines if place.url.lower().endswith(".parquet") else _text_lines
    for line, licence in read(place, wanted, licence_column):
        if line.strip():
            yield replace(_item(line.strip(), folder), licence=licence_text(licence))


def _text_lines(place: Location, wanted: str | None, licence_column: str | None) -> Iterator[tuple[str, str | None]]:
    binary = io.BufferedReader(RangeFile(place, place.size() or 0, _AHEAD, _AHEAD))
    ending = PurePosixPath(place.url).suffix.lower()
    try:
        with io.TextIOWrapper(binary, encoding="utf-8-sig", newline="") as text:
            if ending == ".txt":
                _licence_place([], licence_column, place.url)
                yield from ((line, None) for line in text if not line.startswith("#"))
                return
            rows = csv.reader(text, delimiter="\t" if ending == ".tsv" else ",")
            first = next(rows, [])
            column = _column(first, wanted, place.url)
            beside = _licence_place(first, licence_column, place.url)
            if column is None:  # one column without a title
                yield from ((line, None) for line in first)
            for row in rows:
                if len(row) > (column or 0):
                    yield row[column or 0], None if beside is None or len(row) <= beside else row[beside]
    except AuraError:
        raise
    except (ValueError, csv.Error) as error:  # of text that is no UTF-8, too
        raise IntegrityError(f"The list {place.url} cannot be read ({error}). Give UTF-8 text.") from error


def _table_lines(place: Location, wanted: str | None, licence_column: str | None) -> Iterator[tuple[str, str | None]]:
    table = open_table(place, None, _PAGE_BYTES)
    names = [field.name for field in table.schema_arrow if is_text(field.type)]
    only = names[0] if len(names) == 1 and wanted is None else wanted
    place_of = _column(names, only, place.url)
    if place_of is None:
        place_of = 0
    beside = _licence_place(table.schema_arrow.names, licence_column, place.url)
    columns = [names[place_of]] if beside is None else list(dict.fromkeys([names[place_of], str(licence_column)]))
    try:
        for batch in table.iter_batches(_LINES_AT_ONCE, columns=columns):
            licences = [None] * batch.num_rows if beside is None else batch.column(licence_column).to_pylist()
            lines = (line or "" for line in batch.column(names[place_of]).to_pylist())
            yield from zip(lines, licences, strict=True)
    except RejectedImageError as error:
        raise IntegrityError(f"The list {place.url} cannot be read. {error}") from error
    except AuraError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise IntegrityError(f"The list {place.url} is not a whole Parquet file. Make it anew.") from error


def _column(titles: list[str], wanted: str | None, name: str) -> int | None:
    """Find the column of paths; None where there is one without a title."""
    if wanted is not None and wanted in titles:
        return titles.index(wanted)
    known = [place for place, title in enumerate(titles) if wanted is None and title.strip().lower() in _COLUMNS]
    if known:
        return known[0]
    if wanted is None and len(titles) == 1:
        return None
    expected = wanted or f"one of {', '.join(_COLUMNS)}"
    raise InvalidInputError(
        f"{name} has the columns {', '.join(titles) or 'none'}; expected {expected}. Name the one with paths or URIs "
        "as the recipe's corpus_column (--column)."
    )


def _licence_place(titles: list[str], wanted: str | None, name: str) -> int | None:
    """Find the column of licences, if one is wanted."""
    if wanted is None or wanted in titles:
        return None if wanted is None else titles.index(wanted)
    raise InvalidInputError(
        f"{name} has the columns {', '.join(titles) or 'none'}; expected {wanted!r}, which the recipe's "
        "licences.column (--licence-column) names. Name the one that says each photograph's licence."
    )


def _item(line: str, folder: Location) -> Item:
    refusal = _refusal(line)
    if refusal is not None:
        shown = re.sub(r"://[^/\s]*@", "://***@", line.split("?", 1)[0][:_LONGEST_LINE])
        return Item(shown if shown.isprintable() else ascii(shown), None, refusal)
    if "://" in line or line.startswith(("/", "~")):
        found = locate(line)
    else:
        found = locate(Path(folder.url, line)) if folder.is_local else folder.join(line)
    item = Item(Path(found.url).as_uri() if found.is_local else found.url, None)
    if not (item.is_tar or item.is_table):
        return item
    try:
        return Item(item.uri, found.size())  # it is known again by its length
    except MissingFileError:
        return Item(item.uri, None, ("missing", "It is listed but is not there."))
    except ForbiddenHostError as error:
        return Item(item.uri, None, ("forbidden_host", str(error)))
    except (StorageError, StorageAccessError) as error:
        if not found.is_web:  # a bucket's refusal is about the keys, not about one file
            raise
        return Item(item.uri, None, ("unreadable", str(error)))


def _refusal(line: str) -> tuple[str, str] | None:
    """Say why a line is not even asked for; no sentence holds a credential."""
    if len(line) > _LONGEST_LINE or not line.isprintable():
        return "wrong_uri", "It is no path and no URI."
    if CREDENTIAL_IN_QUERY.search(line):
        return "credentials_in_uri", (
            "It holds credentials, which would be kept with every sample; list it without, and give access otherwise."
        )
    scheme, separator, _ = line.partition("://")
    if separator and ("::" in line or scheme not in SCHEMES):
        return "wrong_uri", f"{scheme}:// is not read; expected a path, s3:// or https://."
    try:
        locate(line)
    except AuraError as error:
        return "wrong_uri", str(error)
    return None
