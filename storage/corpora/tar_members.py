"""Photographs inside tar files (WebDataset shards), read in place by byte ranges; nothing is ever unpacked.

A member's name is text for people and never a path. Links, devices and sparse members are refused with a reason;
folders, hidden members and companions of photographs are passed over.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from typing import Final

from aura.errors import AuraError, RejectedImageError
from storage.corpora.licences import licence_text
from storage.corpora.sources import Content, Item, Source, is_companion
from storage.objects.location import locate
from storage.objects.range_file import RangeFile

_AHEAD: Final = 4 << 20  # a member and the next header are mostly one request
_LARGEST_HEADER: Final = 1 << 20  # of an extended header, which holds a name
_LARGEST_JSON: Final = 1 << 20
_LONGEST_NAME: Final = 1024
_BLOCK: Final = 512


def read_members(item: Item, max_bytes: int, licence_key: str | None = None) -> Iterator[tuple[Source, Content]]:
    """Yield each photograph of a tar file in the order of the archive, in one pass over it.

    Args:
        item: the tar file.
        max_bytes: of a member; a larger one is not read.
        licence_key: names the licence in the ``.json`` member beside a photograph, one that has its name up to the
            first dot as WebDataset has it; None does not look.

    Yields:
        Sources and their bytes, or the reason why they cannot be used. An archive that is damaged gives what lies
        before the damage, and then itself with the reason ``damaged_archive``.

    Raises:
        StorageError: the storage refused.
    """
    place = locate(item.uri)
    size = item.size if item.size is not None else place.size() or 0
    file = RangeFile(place, size, _AHEAD, _LARGEST_HEADER)
    found = 0
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member, licence in _photographs(archive, file, size, licence_key):
                found += 1
                source = Source(item.uri, readable_name(member.name), member.offset_data, member.size, size, licence)
                yield source, _content(member, file, size, max_bytes)
            _require_end(file, archive.offset)
    except AuraError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, RecursionError, EOFError) as error:
        detail = f"The tar file is damaged after {found} photographs ({error}); make it anew."
        yield Source(item.uri, None, None, size, size), RejectedImageError("damaged_archive", detail)
        return
    if not found:
        detail = "The tar file holds no photograph."
        yield Source(item.uri, None, None, size, size), RejectedImageError("empty_archive", detail)


def readable_name(name: str) -> str:
    """Return a name of an archive as text that every table can hold: what is no Unicode is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()[:_LONGEST_NAME]


def _photographs(
    archive: tarfile.TarFile, file: RangeFile, size: int, licence_key: str | None
) -> Iterator[tuple[tarfile.TarInfo, str | None]]:
    """Yield the members that may be photographs, and the licence that is named beside each."""
    if licence_key is None:
        yield from ((member, None) for member in _members(archive) if not is_companion(member.name))
        return
    # only when all members of a name have passed is it known whether one of them names a licence
    waiting: list[tarfile.TarInfo] = []
    key, licence = "", None
    try:
        for member in _members(archive):
            if _key(member.name) != key:
                yield from ((photograph, licence) for photograph in waiting)
                waiting, key, licence = [], _key(member.name), None
            if member.name.lower().endswith(".json"):
                licence = _named_licence(_content(member, file, size, _LARGEST_JSON), licence_key)
            elif not is_companion(member.name):
                waiting.append(member)
    except tarfile.TarError:
        yield from ((photograph, licence) for photograph in waiting)
        raise
    yield from ((photograph, licence) for photograph in waiting)


def _members(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield all but folders."""
    while (member := archive.next()) is not None:
        archive.members.clear()  # type: ignore[attr-defined]  # it would keep every header
        if member.size < 0 or archive.offset <= member.offset:  # or it would go round for ever
            raise tarfile.ReadError(f"a member of {member.size} bytes")
        if not member.isdir():
            yield member


def _key(name: str) -> str:
    folder, _, base = name.rpartition("/")
    return f"{folder}/{base.split('.', 1)[0]}"


def _named_licence(content: Content, key: str) -> str | None:
    try:
        said = None if isinstance(content, RejectedImageError) else json.loads(content)
    except (ValueError, RecursionError):  # no JSON: it names nothing
        return None
    return licence_text(said.get(key)) if isinstance(said, dict) else None


def _content(member: tarfile.TarInfo, file: RangeFile, size: int, max_bytes: int) -> Content:
    if not member.isreg() or member.issparse():
        kind = "a link" if member.issym() or member.islnk() else "no plain file"
        return RejectedImageError("odd_member", f"The member of the tar file is {kind}; only plain files are read.")
    if member.size > max_bytes:
        return RejectedImageError("too_many_bytes", f"It has {member.size} bytes; limits.max_bytes is {max_bytes}.")
    if member.offset_data + member.size > size:
        return RejectedImageError("truncated", "The tar file ends before the member does.")
    return file.range(member.offset_data, member.offset_data + member.size)


def _require_end(file: RangeFile, offset: int) -> None:
    """Raise unless the archive ends where reading ended; the library takes a damaged header for the end."""
    if any(file.range(offset, offset + _BLOCK)):
        raise tarfile.ReadError(f"no header at byte {offset}")
