"""Published versions: immutable lists of shards with the digest of every object, so that training can name its data."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from aura.errors import DatasetConflictError, IntegrityError, InvalidInputError, MissingFileError
from storage.dataset import FORMAT, FORMAT_VERSION, Dataset
from storage.location import Location, locate
from storage.plan import shard_name
from storage.recipe import canonical_json
from storage.tables import decode_table, facts_of

_READERS: Final = 16


@dataclass(frozen=True, slots=True)
class PublishedShard:
    """One shard of a version.

    Attributes:
        shard: its number.
        samples: how many samples it holds.
        rejects: how many planned samples could not be made.
        sha256: digest by object: ``samples``, ``rejects``, and ``raw`` and ``srgb`` where there are any.
    """

    shard: int
    samples: int
    rejects: int
    sha256: dict[str, str]


@dataclass(frozen=True, slots=True)
class Version:
    """A published version.

    Attributes:
        number: 1 for the first.
        tag: a name given to it, or None.
        recipe_digest: what it was made by.
        model_digest: the weights and method it was made with.
        complete: whether every planned shard is in it.
        shards: ascending.
    """

    number: int
    tag: str | None
    recipe_digest: str
    model_digest: str
    complete: bool
    shards: tuple[PublishedShard, ...]

    @property
    def samples(self) -> int:
        """Number of samples in all shards."""
        return sum(shard.samples for shard in self.shards)


def publish(dataset: Dataset, tag: str | None = None) -> int:
    """Publish what is committed as the next version; the same content again is the version that it already is.

    Args:
        dataset: the dataset.
        tag: a name for the version, or None; a tag names one version only.

    Returns:
        The version's number.

    Raises:
        InvalidInputError: no shard is committed.
        DatasetConflictError: the tag names other content, or this content is published under another tag.
        IntegrityError: a samples table is damaged.
        StorageError: the storage refused.
    """
    shards = _collect(dataset)
    if not shards:
        raise InvalidInputError(
            f"{dataset.location.url} has no finished shard to publish. Run `aura synthesize` first."
        )
    while True:
        published = [read_version(dataset.location, number) for number in list_versions(dataset.location)]
        for version in published:
            if version.shards == shards and tag in {None, version.tag}:
                return version.number
            if version.shards == shards or (tag is not None and version.tag == tag):
                raise DatasetConflictError(
                    f"Version {version.number} of {dataset.location.url} is already tagged {version.tag!r} "
                    f"and {'is the same content' if version.shards == shards else 'has other content'}. "
                    f"Versions never change; {'read that one' if version.shards == shards else 'choose another tag'}."
                )
        version = Version(
            number=max((version.number for version in published), default=0) + 1,
            tag=tag,
            recipe_digest=dataset.recipe.digest,
            model_digest=dataset.model_digest,
            complete=len(shards) == dataset.shard_count,
            shards=shards,
        )
        # somebody else may have taken the number since; then look again
        if _file(dataset.location, version.number).create(_encode(version)):
            return version.number


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
        return _decode(json.loads(document), number)
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


def object_location(dataset: Location, name: str, shard: int) -> Location:
    """Return where a shard's object lies: ``raw``, ``srgb``, ``samples`` or ``rejects``."""
    if name in {"raw", "srgb"}:
        return dataset.join(name, "c", str(shard), "0", "0", "0")
    return dataset.join(name, shard_name(shard))


def _collect(dataset: Dataset) -> tuple[PublishedShard, ...]:
    with ThreadPoolExecutor(_READERS) as pool:
        return tuple(pool.map(lambda shard: _describe(dataset, shard), dataset.committed_shards()))


def _describe(dataset: Dataset, shard: int) -> PublishedShard:
    place = object_location(dataset.location, "samples", shard)
    data = place.read()
    table = decode_table(data, place.url, ["index"])
    facts = facts_of(table)
    digests = {name: facts.get(f"{name}_sha256", "") for name in ("raw", "srgb", "rejects")}
    return PublishedShard(
        shard=shard,
        samples=table.num_rows,
        rejects=int(facts["rejects"]),
        sha256={"samples": hashlib.sha256(data).hexdigest()}
        | {name: value for name, value in digests.items() if value},
    )


def _file(dataset: Location, number: int) -> Location:
    return dataset.join("versions", f"{number:06d}.json")


def _encode(version: Version) -> bytes:
    shards = [
        {"shard": shard.shard, "samples": shard.samples, "rejects": shard.rejects, "sha256": shard.sha256}
        for shard in version.shards
    ]
    document = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "number": version.number,
        "tag": version.tag,
        "recipe_digest": version.recipe_digest,
        "model_digest": version.model_digest,
        "complete": version.complete,
        "samples": version.samples,
        "content_sha256": _content_digest(shards),
        "shards": shards,
    }
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _decode(document: dict[str, Any], number: int) -> Version:
    if document["content_sha256"] != _content_digest(document["shards"]) or document["number"] != number:
        raise ValueError("the content does not match its digest")
    return Version(
        number=document["number"],
        tag=document["tag"],
        recipe_digest=document["recipe_digest"],
        model_digest=document["model_digest"],
        complete=document["complete"],
        shards=tuple(PublishedShard(**shard) for shard in document["shards"]),
    )


def _content_digest(shards: Sequence[dict[str, Any]]) -> str:
    return hashlib.sha256(canonical_json(shards)).hexdigest()
