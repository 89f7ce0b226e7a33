"""Tags: names of published versions, each in an object of its own, that never move."""

from __future__ import annotations

import re
from typing import Final

from aura.errors import DatasetConflictError, InvalidInputError, MissingFileError
from storage.datasets.sealed import seal, unseal
from storage.datasets.versions import list_versions, read_version
from storage.objects.location import Location, locate

_TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def tag_version(dataset_url: str | Location, number: int, tag: str) -> None:
    """Give a published version a name; it may have several.

    Raises:
        InvalidInputError: the tag is no name.
        MissingFileError: there is no such version.
        DatasetConflictError: the tag names another version.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    _require_tag(tag)
    read_version(location, number)
    if not _tag_file(location, tag).create(seal({"tag": tag, "version": number})):
        other = _read_tag(location, tag)
        if other is not None and other != number:
            raise tag_taken(location, tag, other)


def list_tags(dataset_url: str | Location) -> dict[str, int]:
    """Return the number of the version that each tag names, by tag.

    Raises:
        IntegrityError: a tag is damaged.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    tags = {name: _read_tag(location, name) for name in _tag_names(location)}
    return {name: version for name, version in tags.items() if version is not None}


def resolve_version(dataset_url: str | Location, version: int | str | None) -> int:
    """Return the number of a version that is given by number or tag; of the newest for None.

    Raises:
        MissingFileError: there is no such version or tag, or no version at all.
        IntegrityError: the tag is damaged.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    if isinstance(version, str) and not (version.isascii() and version.isdecimal()):
        named = _read_tag(location, version) if _TAG.fullmatch(version) else None
        if named is None:
            known = ", ".join(_tag_names(location)) or "none"
            raise MissingFileError(f"{location.url} has no version tagged {version!r}; tags: {known}.")
        return named
    numbers = list_versions(location)
    if version is None and not numbers:
        raise MissingFileError(f"{location.url} has no published version. Publish one, or read version='unpublished'.")
    number = numbers[-1] if version is None else int(version)
    if number not in numbers:
        known = ", ".join(map(str, numbers)) or "none"
        raise MissingFileError(f"{location.url} has no version {number}; published: {known}.")
    return number


def check_tag(dataset_url: str | Location, tag: str) -> None:
    """Check, before any work, that a tag can be given to the latest version or to a next one.

    Raises:
        InvalidInputError: the tag is no name.
        DatasetConflictError: the tag names an older version.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    named = tagged(location, tag)
    if named is not None and named != max(list_versions(location)):
        raise tag_taken(location, tag, named)


def _require_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag) or tag.isdigit():
        raise InvalidInputError(
            f"{tag!r} is no tag; expected up to 64 letters, digits, dots, dashes and underscores, not digits alone."
        )


def tagged(location: Location, tag: str) -> int | None:
    """Return the version that a tag names, or None.

    Raises:
        InvalidInputError: the tag is no name.
        IntegrityError: a tag is damaged.
        StorageError: the storage refused.
    """
    _require_tag(tag)
    return _read_tag(location, tag)


def tag_taken(location: Location, tag: str, number: int) -> DatasetConflictError:
    """Say that a tag names a version already."""
    return DatasetConflictError(
        f"Tag {tag!r} of {location.url} names version {number} and never moves. Choose another tag."
    )


def _tag_file(dataset: Location, tag: str) -> Location:
    return dataset.join("tags", f"{tag}.json")


def _tag_names(location: Location) -> list[str]:
    """List the tags there are; others may put files of their own beside them."""
    names = (name.removesuffix(".json") for name in location.join("tags").names() if name.endswith(".json"))
    return sorted(name for name in names if _TAG.fullmatch(name))


def _read_tag(location: Location, tag: str) -> int | None:
    """Return the version that one tag names, whatever the others are like."""
    place = _tag_file(location, tag)
    try:
        return int(unseal(place.read(), f"Tag {tag}")["version"])
    except MissingFileError:
        return None
