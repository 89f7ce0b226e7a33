"""What nothing in a dataset needs any more, and its removal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from aura.errors import IntegrityError
from storage.datasets.layout import is_own, is_part
from storage.datasets.survey import SHARD_KINDS, Survey, object_name
from storage.objects.location import Location, locate


def find_garbage(seen: Survey) -> tuple[str, ...]:
    """Name what may be removed: what a stopped run left, and objects of this program that no version needs.

    Whatever a committed shard, a version or a run that goes on needs is kept, and so is what this program never wrote.

    Raises:
        IntegrityError: a document is damaged or gone that would say what is needed, the plan or labels for example.
    """
    if seen.unreadable:
        raise IntegrityError(
            f"{seen.dataset.location.url}/{seen.unreadable[0]} is damaged or gone, so that nobody can tell what is not "
            "needed any more. Restore it from a copy first."
        )
    root, dataset = seen.dataset.location, seen.dataset
    shards = {object_name(root, kind, shard) for shard in dataset.committed_shards() for kind in SHARD_KINDS}
    published = (each.shard for version in seen.versions for each in version.shards)
    shards |= {object_name(root, kind, shard) for shard in published for kind in SHARD_KINDS}
    strays = seen.sizes.keys() - seen.digests.keys() - shards - seen.resumable
    return tuple(sorted(name for name in strays if is_own(name) or is_part(name)))


def remove_garbage(dataset_url: str | Location, names: Sequence[str], permit: Callable[[], None]) -> None:
    """Remove objects; only who holds the dataset's lease may.

    Args:
        dataset_url: where the dataset lies.
        names: what :func:`find_garbage` named.
        permit: is called before each removal and raises if this may not go on.

    Raises:
        StorageError: the storage refused.
    """
    for name in names:
        permit()
        locate(dataset_url).join(name).remove()
