"""Published versions: immutable lists of shards with the digest of every object, so that training can name its data.

What left the corpus is left out of the next version by its list of removed samples; no shard is rewritten.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final

from aura.errors import IntegrityError, MissingFileError
from storage.datasets.dataset import FORMAT, FORMAT_VERSION, Dataset
from storage.datasets.layout import object_location
from storage.datasets.sealed import seal, unseal
from storage.objects.location import Location, locate
from storage.objects.tables import read_table

_READERS: Final = 16
_NAME: Final = re.compile(r"([0-9]{6,})\.json")


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
    named = (_NAME.fullmatch(name) for name in locate(dataset_url).join("versions").names())
    return sorted(int(found[1]) for found in named if found)


def read_version(dataset_url: str | Location, number: int) -> Version:
    """Read a published version.

    Raises:
        MissingFileError: there is no such version.
        IntegrityError: the file is damaged.
        StorageError: the storage refused.
    """
    location = locate(dataset_url)
    try:
        document = version_file(location, number).read()
    except MissingFileError as error:
        known = ", ".join(map(str, list_versions(location))) or "none"
        raise MissingFileError(f"{location.url} has no version {number}; published: {known}.") from error
    try:
        return _decode(unseal(document, version_file(location, number).url), number)
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{version_file(location, number).url} is damaged. Restore it from a copy.") from error


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


def version_file(dataset: Location, number: int) -> Location:
    """Return where a version's document lies."""
    return dataset.join("versions", f"{number:06d}.json")


def encode_version(version: Version) -> bytes:
    """Encode the document of a version."""
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
