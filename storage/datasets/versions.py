"""Published versions: immutable lists of shards with the digest of every object, so that training can name its data.

What left the corpus is left out of the next version by its list of removed samples; no shard is rewritten. A tag is a
name for one version, in an object of its own, and never moves.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from aura.errors import DatasetConflictError, IntegrityError, InvalidInputError, MissingFileError
from storage.datasets.dataset import FORMAT, FORMAT_VERSION, Dataset, object_location
from storage.datasets.sealed import seal, unseal
from storage.objects.location import Location, locate
from storage.objects.tables import decode_table, facts_of, read_table

_READERS: Final = 16
_TAG: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class PublishedShard:
    """One shard of a version.

    Attributes:
        shard: its number.
        samples: how many of its samples are in the version.
        rejects: how many planned samples could not be made.
        sha256: digest by object: ``samples``, ``rejects``, and ``raw`` and ``srgb`` where there are any.
        removed: indexes of its samples that are not in the version, ascending.
    """

    shard: int
    samples: int
    rejects: int
    sha256: dict[str, str]
    removed: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Version:
    """A published version.

    Attributes:
        number: 1 for the first.
        recipe_digest: what it was made by.
        model_digest: the weights and method it was made with.
        complete: whether every planned shard is in it.
        shards: ascending.
        listing: which listing of the corpus it holds.
        labels: digest of its table of labels, or None; see :mod:`storage.datasets.labels`.
    """

    number: int
    recipe_digest: str
    model_digest: str
    complete: bool
    shards: tuple[PublishedShard, ...]
    listing: int
    labels: str | None = None

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)

    @property
    def removed(self) -> frozenset[int]:
        """Indexes of samples that lie in its shards and are not in it."""
        return frozenset(index for shard in self.shards for index in shard.removed)


@dataclass(frozen=True, slots=True)
class SampleName:
    """How a difference names a sample.

    Attributes:
        index: place along the arrays.
        sample_id: of its content and crop.
        source: URI of its photograph, with the member of a tar after ``#``.
    """

    index: int
    sample_id: str
    source: str


@dataclass(frozen=True, slots=True)
class VersionDiff:
    """How two versions differ.

    Attributes:
        added: samples of the second that the first has not.
        removed: samples of the first that the second has not.
        unchanged: number of samples in both.
        new_shards: shards of the second that the first has not.
        relabelled: whether their tables of labels differ.
    """

    added: tuple[SampleName, ...]
    removed: tuple[SampleName, ...]
    unchanged: int
    new_shards: int
    relabelled: bool


def publish(
    dataset: Dataset,
    tag: str | None = None,
    gone: Collection[str] = frozenset(),
    labels: str | None = None,
    shards: Sequence[int] | None = None,
) -> int:
    """Publish what is committed as the next version; what the latest version holds already is that version.

    Args:
        dataset: the dataset.
        tag: a name for the version, or None; a tag names one version for ever.
        gone: digests of photographs whose samples are left out.
        labels: digest of a table of labels; None keeps those of the latest version.
        shards: those that go into it, ascending; None for all that are committed.

    Returns:
        The version's number.

    Raises:
        InvalidInputError: no shard is committed, or the tag is no name.
        DatasetConflictError: the tag names another version.
        IntegrityError: a samples table is damaged.
        StorageError: the storage refused.
    """
    named = None if tag is None else _tagged(dataset.location, tag)
    described = _describe(dataset, dataset.committed_shards() if shards is None else shards, gone)
    if not described:
        raise InvalidInputError(
            f"{dataset.location.url} has no finished shard to publish. Run `aura synthesize` first."
        )
    while True:
        numbers = list_versions(dataset.location)
        number = max(numbers, default=0)
        latest = read_version(dataset.location, number) if numbers else None
        labels = labels or (latest.labels if latest else None)
        if latest is None or (latest.shards, latest.labels) != (described, labels):
            number += 1
            version = Version(
                number=number,
                recipe_digest=dataset.recipe.digest,
                model_digest=dataset.model_digest,
                complete=len(described) == dataset.shard_count,
                shards=described,
                listing=dataset.listings,
                labels=labels,
            )
            if named is not None:  # before anything is written
                raise _tag_taken(dataset.location, str(tag), named)
            # somebody else may have taken the number since; then look again
            if not _file(dataset.location, number).create(_encode(version)):
                continue
        if tag is not None:
            tag_version(dataset.location, number, tag)
        return number


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
            raise _tag_taken(location, tag, other)


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


def diff_versions(dataset: Dataset, first: int, second: int) -> VersionDiff:
    """Tell how two versions differ; only shards that are not the same in both are read.

    Raises:
        MissingFileError: there is no such version.
        IntegrityError: a table is damaged.
        StorageError: the storage refused.
    """
    versions = [read_version(dataset.location, number) for number in (first, second)]
    shards = [{shard.shard: shard for shard in version.shards} for version in versions]
    same = {number for number, shard in shards[0].items() if shards[1].get(number) == shard}
    names = [_sample_names(dataset, [each for number, each in of.items() if number not in same]) for of in shards]
    added = sorted(names[1].keys() - names[0].keys())
    removed = sorted(names[0].keys() - names[1].keys())
    kept = sum(shards[0][number].samples for number in same) + len(names[0].keys() & names[1].keys())
    return VersionDiff(
        added=tuple(names[1][index] for index in added),
        removed=tuple(names[0][index] for index in removed),
        unchanged=kept,
        new_shards=len(shards[1].keys() - shards[0].keys()),
        relabelled=versions[0].labels != versions[1].labels,
    )


def list_versions(dataset_url: str | Location) -> list[int]:
    """List the numbers of the published versions, ascending.

    Raises:
        StorageError: the storage refused.
    """
    names = locate(dataset_url).join("versions").names()
    return sorted(int(name.removesuffix(".json")) for name in names if name.removesuffix(".json").isdigit())


def read_version(dataset_url: str | Location, number: int) -> Version:
    """Read a published version.

    Raises:
        MissingFileError: there is no such version.
        IntegrityError: the file is damaged.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    try:
        document = _file(location, number).read()
    except MissingFileError as error:
        known = ", ".join(map(str, list_versions(location))) or "none"
        raise MissingFileError(f"{location.url} has no version {number}; published: {known}.") from error
    try:
        return _decode(unseal(document, _file(location, number).url), number)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{_file(location, number).url} is damaged. Restore it from a copy.") from error


def verify_version(dataset: Dataset, number: int) -> None:
    """Read every object of a version and compare it with its digest.

    Raises:
        IntegrityError: objects are missing or have other bytes; the message names the first ones.
        MissingFileError: there is no such version.
        StorageError: the storage refused.
    """
    version = read_version(dataset.location, number)
    objects = [(shard.shard, name, digest) for shard in version.shards for name, digest in shard.sha256.items()]

    def differs(item: tuple[int, str, str]) -> str | None:
        place = object_location(dataset.location, item[1], item[0])
        try:
            found = hashlib.sha256(place.read()).hexdigest()
        except MissingFileError:
            return place.url
        return None if found == item[2] else place.url

    with ThreadPoolExecutor(_READERS) as pool:
        wrong = [url for url in pool.map(differs, objects) if url is not None]
    if wrong:
        raise IntegrityError(
            f"{len(wrong)} of {len(objects)} objects of version {number} are gone or changed: {', '.join(wrong[:2])}. "
            "Restore them, or delete their samples tables and run again to make them anew."
        )


def describe_shard(dataset: Dataset, shard: int, gone: Collection[str] = frozenset()) -> PublishedShard:
    """Say what a version that is published now would say of a committed shard.

    Args:
        dataset: the dataset.
        shard: its number.
        gone: digests of photographs whose samples are left out.

    Raises:
        MissingFileError: the shard is not committed.
        IntegrityError: its table is damaged.
        StorageError: the storage refused.
    """
    place = object_location(dataset.location, "samples", shard)
    data = place.read()
    table = decode_table(data, place.url, ["index", "source_sha256"])
    facts = facts_of(table)
    digests = {name: facts.get(f"{name}_sha256", "") for name in ("raw", "srgb", "rejects")}
    rows = zip(table["index"].to_pylist(), table["source_sha256"].to_pylist(), strict=True)
    removed = tuple(index for index, digest in rows if digest in gone)
    return PublishedShard(
        shard=shard,
        samples=table.num_rows - len(removed),
        rejects=int(facts["rejects"]),
        sha256={"samples": hashlib.sha256(data).hexdigest()}
        | {name: value for name, value in digests.items() if value},
        removed=removed,
    )


def _describe(dataset: Dataset, shards: Sequence[int], gone: Collection[str]) -> tuple[PublishedShard, ...]:
    with ThreadPoolExecutor(_READERS) as pool:
        return tuple(pool.map(lambda shard: describe_shard(dataset, shard, gone), shards))


def check_tag(dataset_url: str | Location, tag: str) -> None:
    """Check, before any work, that a tag can be given to the latest version or to a next one.

    Raises:
        InvalidInputError: the tag is no name.
        DatasetConflictError: the tag names an older version.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    named = _tagged(location, tag)
    if named is not None and named != max(list_versions(location)):
        raise _tag_taken(location, tag, named)


def _sample_names(dataset: Dataset, shards: Sequence[PublishedShard]) -> dict[int, SampleName]:
    columns = ["index", "sample_id", "source_uri", "source_member"]

    def read(shard: PublishedShard) -> list[SampleName]:
        table = read_table(object_location(dataset.location, "samples", shard.shard), columns)
        return [
            SampleName(index, name, uri if member is None else f"{uri}#{member}")
            for index, name, uri, member in zip(*(table[column].to_pylist() for column in columns), strict=True)
            if index not in shard.removed
        ]

    with ThreadPoolExecutor(_READERS) as pool:
        return {sample.index: sample for samples in pool.map(read, shards) for sample in samples}


def _require_tag(tag: str) -> None:
    if not _TAG.fullmatch(tag) or tag.isdigit():
        raise InvalidInputError(
            f"{tag!r} is no tag; expected up to 64 letters, digits, dots, dashes and underscores, not digits alone."
        )


def _tagged(location: Location, tag: str) -> int | None:
    """Return the version that a tag names, or None."""
    _require_tag(tag)
    return list_tags(location).get(tag)


def _tag_taken(location: Location, tag: str, number: int) -> DatasetConflictError:
    return DatasetConflictError(
        f"Tag {tag!r} of {location.url} names version {number} and never moves. Choose another tag."
    )


def _file(dataset: Location, number: int) -> Location:
    return dataset.join("versions", f"{number:06d}.json")


def _tag_file(dataset: Location, tag: str) -> Location:
    return dataset.join("tags", f"{tag}.json")


def _encode(version: Version) -> bytes:
    return seal(
        {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "number": version.number,
            "listing": version.listing,
            "labels": version.labels,
            "recipe_digest": version.recipe_digest,
            "model_digest": version.model_digest,
            "complete": version.complete,
            "samples": version.samples,
            "shards": [asdict(shard) | {"removed": list(shard.removed)} for shard in version.shards],
        }
    )


def _decode(document: dict[str, Any], number: int) -> Version:
    if document["number"] != number:
        raise ValueError("it is the document of another version")
    shards = (PublishedShard(**(shard | {"removed": tuple(shard["removed"])})) for shard in document["shards"])
    return Version(
        number=document["number"],
        recipe_digest=document["recipe_digest"],
        model_digest=document["model_digest"],
        complete=document["complete"],
        shards=tuple(shards),
        listing=document["listing"],
        labels=document["labels"],
    )
