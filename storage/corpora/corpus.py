"""A corpus: photographs below a folder, an ``s3://`` prefix or another fsspec URL, or those that a list names.

Tar and Parquet files hold photographs of their own, which are read where they lie. The content of a file decides
whether it is a photograph, so every file is listed, except those that by their name are companions of photographs
(labels, lists) and hidden ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from aura.errors import (
    AuraError,
    EmptyCorpusError,
    ForbiddenHostError,
    IntegrityError,
    MissingFileError,
    RejectedImageError,
    StorageAccessError,
    StorageError,
)
from storage.corpora.image_tables import find_image_column, open_table, read_row, read_rows
from storage.corpora.licences import judge, refusal
from storage.corpora.sources import Content, Item, Source, is_companion, source_name
from storage.corpora.tar_members import read_members
from storage.corpora.uri_lists import ENDINGS, read_list
from storage.objects.location import Location, locate
from storage.recipe import Licences, Limits


def check_corpus(url: str | Location, column: str | None = None, licence_column: str | None = None) -> Location:
    """Make sure, before any work, that a corpus is there and holds at least one file.

    Args:
        url: folder, prefix, list, tar or Parquet file.
        column: of images or URIs in Parquet and CSV files; None finds it.
        licence_column: of licences in a list; None looks for none.

    Raises:
        MissingFileError: the folder, file or bucket does not exist.
        EmptyCorpusError: there is no file that could be a photograph.
        InvalidInputError: a list or table has no column of URIs or images, or several, or none of licences.
        StorageAccessError: the credentials were refused.
        StorageError: the storage does not answer.
    """
    location = locate(url)
    location.check_reachable()
    try:
        named = is_list(location, column)
        listed = list_items(location, column, licence_column) if named else _stream(location)
        first = next((item for item in listed if holds_photographs(item, column)), None)
    except MissingFileError as error:
        if not location.is_local and location.url.count("/") > 2:  # the bucket answers: a prefix is just empty
            raise EmptyCorpusError(f"There is nothing below {location.url}. Check the prefix.") from error
        raise MissingFileError(f"The corpus {location.url} is not there. Check the path.") from error
    if first is None:
        raise EmptyCorpusError(f"The corpus {location.url} holds no photographs. Give a folder or prefix with images.")
    return location


def is_list(location: Location, column: str | None = None) -> bool:
    """Tell whether a corpus is a list of photographs: one text, CSV or Parquet file without images.

    Raises:
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    ending = PurePosixPath(location.url).suffix.lower()
    if ending not in ENDINGS or not location.exists():
        return False
    return ending != ".parquet" or find_image_column(open_table(location, None), column, location.url) is None


def list_items(url: str | Location, column: str | None = None, licence_column: str | None = None) -> Iterator[Item]:
    """Yield what a corpus consists of: files sorted by URI, or the lines of a list in its own order.

    Tar and Parquet files are not opened; see :func:`read_item`.

    Raises:
        MissingFileError: the folder, file or bucket does not exist.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    location = locate(url)
    if is_list(location, column):
        yield from read_list(location, column, licence_column)
    else:
        yield from (Item(entry.uri, entry.size) for entry in location.walk() if not is_companion(entry.uri))


def holds_photographs(item: Item, column: str | None) -> bool:
    """Tell whether an item is worth reading; tables that lie beside photographs are not.

    Raises:
        InvalidInputError: the column that is wanted holds no bytes, or several columns hold images.
        StorageError: the storage refused.
    """
    if not item.is_table or item.refusal is not None:
        return True
    place = locate(item.uri)
    try:
        return find_image_column(open_table(place, item.size), column, place.url) is not None
    except (IntegrityError, RejectedImageError):
        return True  # it becomes a reject with its reason


def read_item(
    item: Item, limits: Limits, column: str | None = None, licences: Licences | None = None
) -> Iterator[tuple[Source, Content]]:
    """Read the photograph that an item is, or those that it holds, in one pass and in their order.

    Args:
        item: one of :func:`list_items`.
        limits: what is allowed; a photograph of more bytes is not read.
        column: of images in Parquet files; None finds it.
        licences: where the licence of each is named, and which may be used; None looks for none.

    Yields:
        Each source with its bytes, or with the reason why it cannot be used. A Parquet file without images gives none.

    Raises:
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    named = licences.column if licences is not None else None
    if item.refusal is not None:
        yield Source(item.uri, None, None, item.size), RejectedImageError(*item.refusal)
        return
    found: Iterator[tuple[Source, Content]]
    if item.is_tar:
        found = _read_archive(item, read_members(item, limits.max_bytes, named))
    elif item.is_table:
        found = _read_archive(item, read_rows(item, limits.max_bytes, column, named))
    else:
        found = _read_file(item, limits, licences)
    yield from judge(found, licences)


def read_source(row: Mapping[str, Any]) -> bytes:
    """Read the photograph that a row of the plan names, and make sure that it is the one that was planned.

    Args:
        row: has ``source_uri``, ``source_member``, ``source_offset_bytes``, ``source_length_bytes`` and
            ``source_sha256``.

    Raises:
        RejectedImageError: it is gone (``missing``) or has other bytes than were indexed (``changed``).
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused; trying again may help.
    """
    source = Source(row["source_uri"], row["source_member"], row["source_offset_bytes"], row["source_length_bytes"])
    name = source_name(source.uri, source.member)
    try:
        data = read_bytes(source)
    except MissingFileError as error:
        raise RejectedImageError("missing", f"{name} was indexed but is gone. Put it back.") from error
    except IntegrityError as error:
        raise RejectedImageError("changed", f"{name} was indexed, but {error}") from error
    if hashlib.sha256(data).hexdigest() != row["source_sha256"]:
        raise RejectedImageError("changed", f"{name} has other bytes than were indexed. Put the old ones back.")
    return data


def read_bytes(source: Source) -> bytes:
    """Read the bytes of a source.

    Raises:
        MissingFileError: it is gone.
        IntegrityError: the Parquet file that held it is damaged.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    if source.offset is not None:
        return locate(source.uri).read(source.offset, source.offset + (source.length or 0))
    if source.member is not None:
        return read_row(source.uri, source.member)
    place = locate(source.uri)
    return place.read(0, source.length + 1) if place.is_web and source.length is not None else place.read()


def _stream(location: Location) -> Iterator[Item]:
    return (Item(entry.uri, entry.size) for entry in location.stream() if not is_companion(entry.uri))


def _read_file(item: Item, limits: Limits, licences: Licences | None) -> Iterator[tuple[Source, Content]]:
    within = licences is not None and licences.embedded and item.licence is None  # who wants to know must read it
    unwanted = licences and not within and refusal(item.licence or licences.default, licences)
    source, content = (Source(item.uri, None, None, item.size), unwanted) if unwanted else _read_bytes(item, limits)
    yield replace(source, licence=item.licence), content


def _read_bytes(item: Item, limits: Limits) -> tuple[Source, Content]:
    place = locate(item.uri)
    size = item.size
    try:
        size = place.size() if size is None else size
        if size is not None and size > limits.max_bytes:
            raise _too_large(size, limits)
        data = place.read(0, limits.max_bytes + 1) if place.is_web else place.read()
        if len(data) > limits.max_bytes:
            raise _too_large(len(data), limits)
    except RejectedImageError as error:
        return Source(item.uri, None, None, size), error
    except (MissingFileError, StorageAccessError, StorageError) as error:
        return Source(item.uri, None, None, size), _refusal_of(place, error)
    return Source(item.uri, None, None, len(data)), data


def _read_archive(item: Item, found: Iterator[tuple[Source, Content]]) -> Iterator[tuple[Source, Content]]:
    """Yield what a tar or Parquet file holds, as far as it can be read, and why no further."""
    try:
        yield from found
    except (MissingFileError, StorageAccessError, StorageError) as error:
        yield Source(item.uri, None, None, item.size, item.size), _refusal_of(locate(item.uri), error)


def _refusal_of(place: Location, error: AuraError) -> RejectedImageError:
    """Say why one file cannot be read; raise what is not about this file alone."""
    if isinstance(error, MissingFileError):
        return RejectedImageError("missing", "It was listed but is gone.")
    if isinstance(error, ForbiddenHostError):
        return RejectedImageError("forbidden_host", str(error))
    if place.is_web:
        return RejectedImageError("unreadable", str(error))
    if isinstance(error, StorageAccessError) and place.is_local:  # a bucket's refusal is about the keys
        return RejectedImageError("unreadable", "Its permissions forbid reading it.")
    raise error


def _too_large(size: int, limits: Limits) -> RejectedImageError:
    return RejectedImageError("too_many_bytes", f"It has {size} bytes; limits.max_bytes is {limits.max_bytes}.")
