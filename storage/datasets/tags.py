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
        other = list_tags(location)[tag]
        if other != number:
            raise tag_taken(location, tag, other)


def list_tags(dataset_url: str | Location) -> dict[str, int]:
    """Return the number of the version that each tag names, by tag.

    Raises:
        IntegrityError: a tag is damaged.
        StorageError: the storage refused.
    """
    folder = locate(dataset_url).join("tags")
    names = [name.removesuffix(".json") for name in folder.names() if name.endswith(".json")]
    return {name: int(unseal(_tag_file(locate(dataset_url), name).read(), f"Tag {name}")["version"]) for name in names}


def resolve_version(dataset_url: str | Location, version: int | str | None) -> int:
    """Return the number of a version that is given by number or tag; of the newest for None.

    Raises:
        MissingFileError: there is no such version or tag, or no version at all.
        IntegrityError: the tag is damaged.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    if isinstance(version, str) and not version.isdigit():
        tags = list_tags(location)
        if version not in tags:
            known = ", ".join(sorted(tags)) or "none"
            raise MissingFileError(f"{location.url} has no version tagged {version!r}; tags: {known}.")
        return tags[version]
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
    return list_tags(location).get(tag)


def tag_taken(location: Location, tag: str, number: int) -> DatasetConflictError:
    """Say that a tag names a version already."""
    return DatasetConflictError(
        f"Tag {tag!r} of {location.url} names version {number} and never moves. Choose another tag."
    )


def _tag_file(dataset: Location, tag: str) -> Location:
    return dataset.join("tags", f"{tag}.json")
