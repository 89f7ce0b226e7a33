"""A corpus: every file below a folder, an ``s3://`` prefix or another fsspec URL, and the members of tar files there.

The content of a file decides whether it is a photograph, so every file is listed, except those that by their name are
companions of photographs (labels, lists, tables) and hidden ones.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

import fsspec

from aura.errors import EmptyCorpusError, IntegrityError, MissingFileError, RejectedImageError
from storage.location import Entry, Location, locate, refusals, storage_options

COMPANIONS: Final = frozenset(
    {".txt", ".json", ".jsonl", ".yaml", ".yml", ".csv", ".tsv", ".xml", ".md", ".html", ".parquet", ".npy", ".npz",
     ".log", ".toml", ".ini", ".py", ".sha256", ".md5", ".license"}
)  # fmt: skip
"""Name endings that are not listed, because they lie beside photographs and are none."""


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a corpus.

    Attributes:
        uri: address of the file, or of the tar that holds it.
        member: name inside the tar, or None.
        offset: first byte inside the tar, or None.
        length: bytes of the file.
    """

    uri: str
    member: str | None
    offset: int | None
    length: int


def check_corpus(url: str | Location) -> Location:
    """Make sure, before any work, that a corpus is there and holds at least one file.

    Raises:
        MissingFileError: the folder or bucket does not exist.
        EmptyCorpusError: there is no file that could be a photograph.
        StorageAccessError: the credentials were refused.
        StorageError: the storage does not answer.
    """
    location = locate(url)
    location.check_reachable()
    try:
        first = next((entry for entry in location.stream() if _may_be_photograph(entry)), None)
    except MissingFileError as error:
        if not location.is_local and location.url.count("/") > 2:  # the bucket answers: a prefix is just empty
            raise EmptyCorpusError(f"There is nothing below {location.url}. Check the prefix.") from error
        raise MissingFileError(f"The corpus {location.url} is not there. Check the path.") from error
    if first is None:
        raise EmptyCorpusError(f"The corpus {location.url} holds no photographs. Give a folder or prefix with images.")
    return location


def list_sources(url: str | Location) -> Iterator[Source]:
    """Yield every file of a corpus, sorted by URI and then by place in the tar, so the order never changes by itself.

    Raises:
        MissingFileError: the folder or bucket does not exist.
        IntegrityError: a tar file is damaged.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    for entry in _entries(locate(url)):
        if entry.uri.endswith(".tar"):
            yield from _members(entry)
        else:
            yield Source(entry.uri, None, None, entry.size)


def read_source(row: Mapping[str, Any]) -> bytes:
    """Read the photograph that a row of the plan names, and make sure that it is the one that was planned.

    Args:
        row: has ``source_uri``, ``source_offset_bytes``, ``source_length_bytes`` and ``source_sha256``.

    Raises:
        RejectedImageError: it is gone (``missing``) or has other bytes than were indexed (``changed``).
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused; trying again may help.
    """
    source = Source(row["source_uri"], row["source_member"], row["source_offset_bytes"], row["source_length_bytes"])
    try:
        data = read_bytes(source)
    except MissingFileError as error:
        raise RejectedImageError("missing", f"{source.uri} was indexed but is gone. Put it back.") from error
    if hashlib.sha256(data).hexdigest() != row["source_sha256"]:
        raise RejectedImageError("changed", f"{source.uri} has other bytes than were indexed. Put the old ones back.")
    return data


def read_bytes(source: Source) -> bytes:
    """Read the bytes of a source.

    Raises:
        MissingFileError: it is gone.
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    start = source.offset
    return locate(source.uri).read(start, None if start is None else start + source.length)


def _entries(location: Location) -> Iterator[Entry]:
    return (entry for entry in location.walk() if _may_be_photograph(entry))


def _may_be_photograph(entry: Entry) -> bool:
    return PurePosixPath(entry.uri).suffix.lower() not in COMPANIONS


def _members(entry: Entry) -> Iterator[Source]:
    location = locate(entry.uri)
    with refusals(location.url, "read"):
        file = fsspec.open(entry.uri, **storage_options(location.scheme)).open()
    try:
        with file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                name = PurePosixPath(member.name)
                if member.isreg() and not name.name.startswith(".") and name.suffix.lower() not in COMPANIONS:
                    yield Source(entry.uri, member.name, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise IntegrityError(f"The tar file {location.url} is damaged ({error}). Make it anew.") from error
