"""Publishing: what is committed becomes the next version."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from aura.errors import InvalidInputError
from storage.datasets.dataset import Dataset
from storage.datasets.layout import object_location
from storage.datasets.tags import tag_taken, tag_version, tagged
from storage.datasets.versions import (
    PublishedShard,
    Version,
    encode_version,
    list_versions,
    read_version,
    version_file,
)
from storage.objects.tables import decode_table, facts_of

_READERS: Final = 16


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
    named = None if tag is None else tagged(dataset.location, tag)
    described = _describe(dataset, dataset.committed_shards() if shards is None else shards, gone)
    if not described:
        raise InvalidInputError(
            f"{dataset.location.url} has no finished shard to publish. Run `aura synthesize` first."
        )

    def following(latest: Version | None) -> Version:
        return Version(
            number=1 if latest is None else latest.number + 1,
            recipe_digest=dataset.recipe.digest,
            model_digest=dataset.model_digest,
            complete=len(described) == dataset.shard_count,
            shards=described,
            listing=dataset.listings,
            labels=labels or (latest.labels if latest else None),
        )

    return _create(dataset, tag, named, following)


def publish_labels(dataset: Dataset, labels: str, tag: str | None = None) -> int:
    """Publish the latest version once more with other labels: its samples and no others.

    What was committed since is not in it: its quality is judged by the run that publishes it.

    Args:
        dataset: the dataset.
        labels: digest of a table of labels.
        tag: a name for the version, or None.

    Returns:
        The version's number.

    Raises:
        InvalidInputError: nothing is published yet, or the tag is no name.
        DatasetConflictError: the tag names another version.
        StorageError: the storage refused.
    """
    named = None if tag is None else tagged(dataset.location, tag)

    def following(latest: Version | None) -> Version:
        if latest is None:
            raise InvalidInputError(
                f"{dataset.location.url} has no published version that could be labelled. Finish it with "
                "`aura synthesize` first."
            )
        return replace(latest, number=latest.number + 1, labels=labels)

    return _create(dataset, tag, named, following)


def _create(
    dataset: Dataset, tag: str | None, named: int | None, following: Callable[[Version | None], Version]
) -> int:
    """Publish what shall follow the latest version, unless that holds the same already."""
    while True:
        numbers = list_versions(dataset.location)
        latest = read_version(dataset.location, numbers[-1]) if numbers else None
        version = following(latest)
        number = version.number
        if latest is not None and (latest.shards, latest.labels) == (version.shards, version.labels):
            number = latest.number
        elif named is not None:  # before anything is written
            raise tag_taken(dataset.location, str(tag), named)
        elif not version_file(dataset.location, number).create(encode_version(version)):
            continue  # somebody else has taken the number since; then look again
        if tag is not None:
            tag_version(dataset.location, number, tag)
        return number


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
