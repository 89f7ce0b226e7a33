"""Mending a dataset: exactly the damaged shards are made again by the recipe, and held against their digests."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from aura.errors import AuraError
from flows.shards.shard import make_samples
from storage.datasets.dataset import Dataset
from storage.datasets.layout import object_location
from storage.datasets.lease import Lease
from storage.datasets.shard import join_samples
from storage.datasets.survey import Problem
from storage.datasets.verification import Verification, restore
from storage.datasets.versions import list_versions, read_version


@dataclass(frozen=True)
class Repair:
    """What :func:`repair` did.

    Attributes:
        shards: shards that were made again.
        restored: metadata that were written again from their copy.
        failures: why a shard could not be mended, by its number.
    """

    shards: tuple[int, ...]
    restored: tuple[str, ...]
    failures: dict[int, str]


def repair(
    seen: Verification, lease: Lease, weights: str | None = None, on_progress: Callable[[int, int], None] | None = None
) -> Repair:
    """Make the damaged shards of a dataset again and write what was damaged of them.

    Args:
        seen: what verification found.
        lease: on the dataset.
        weights: where the weights lie now; None for the released ones.
        on_progress: is called with the number of shards done, and of those to do.

    Raises:
        LeaseLostError: another run has taken over.
        StorageError: the storage refused to take what was made.
    """
    lease.require()
    restored = restore(seen)
    damaged: dict[int, list[Problem]] = {}
    for problem in seen.problems:
        if problem.shard is not None:
            damaged.setdefault(problem.shard, []).append(problem)
    published = _published(seen.dataset) if damaged else {}
    made, failures = [], {}
    for done, (shard, problems) in enumerate(sorted(damaged.items()), 1):
        try:
            objects = join_samples(seen.dataset, shard, *make_samples(seen.dataset, shard, weights))
        except AuraError as error:
            failures[shard] = str(error)
        else:
            reason = _write(seen.dataset, shard, objects, problems, published.get(shard), lease)
            if reason is None:
                made.append(shard)
            else:
                failures[shard] = reason
        if on_progress is not None:
            on_progress(done, len(damaged))
    return Repair(tuple(made), tuple(restored), failures)


def _write(
    dataset: Dataset,
    shard: int,
    objects: dict[str, bytes],
    problems: list[Problem],
    published: dict[str, str] | None,
    lease: Lease,
) -> str | None:
    """Write what is damaged, if it is what was there before; or say why not."""
    digests = {kind: hashlib.sha256(data).hexdigest() for kind, data in objects.items()}
    if published is not None and digests != published:
        kinds = ", ".join(sorted(kind for kind in digests | published if digests.get(kind) != published.get(kind)))
        return (
            f"made again, its {kinds} differ from what was published; the photographs or the program have changed. "
            "Restore it from a copy"
        )
    damaged = {problem.name for problem in problems}
    for kind, data in objects.items():
        place = object_location(dataset.location, kind, shard)
        # a shard that is not published yet has no other witness, so it is written whole
        if published is None or place.url.removeprefix(f"{dataset.location.url}/") in damaged:
            lease.require()
            place.write(data)
    return None


def _published(dataset: Dataset) -> dict[int, dict[str, str]]:
    versions = [read_version(dataset.location, number) for number in list_versions(dataset.location)]
    return {shard.shard: shard.sha256 for version in versions for shard in version.shards}
