"""Making a dataset's group and arrays, and making room in them: the coordinator's job alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from pydantic import BaseModel

from aura.errors import DatasetConflictError
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.layout import OWN_NAMES
from storage.datasets.metadata import group_documents, read_manifest, write_manifest
from storage.objects.location import Location, locate
from storage.recipe import Recipe, difference


def find_dataset(url: str | Location, recipe: Recipe, model_digest: str) -> Dataset | None:
    """Look for the dataset of a recipe before any work, touching nothing.

    Returns:
        The dataset if this recipe and model made it (finished or not), None if the place is free.

    Raises:
        DatasetConflictError: another recipe or model made it, or the place holds other files.
        MissingFileError: the bucket does not exist.
        StorageAccessError: the credentials were refused.
        StorageError: the storage does not answer.
    """
    location = locate(url)
    location.check_reachable()
    if location.join("zarr.json").exists():
        dataset = open_dataset(location)
        _require_same(dataset, recipe, model_digest)
        return dataset
    foreign = [name for name in location.names() if name not in OWN_NAMES]
    if foreign:
        raise DatasetConflictError(
            f"{location.url} is not a dataset and holds other files ({', '.join(foreign[:3])}"
            f"{', ...' if len(foreign) > 3 else ''}). Choose an empty place."
        )
    return None


def create_or_open(
    url: str | Location,
    recipe: Recipe,
    model_digest: str,
    profiles: Sequence[BaseModel],
    n_samples: int,
    objects: Mapping[str, str] | None = None,
) -> Dataset:
    """Make the group and its empty arrays, or open them if the same recipe made them; the coordinator's job alone.

    Args:
        url: where the dataset lies or shall lie.
        recipe: what it is made by.
        model_digest: digest of the weights and method.
        profiles: the sensor profiles of the recipe's cameras; each has a ``name``.
        n_samples: planned samples.
        objects: digests of the index and the plan, by name within the dataset.

    Raises:
        DatasetConflictError: another recipe or model made it (the message names the fields), or it has another number
            of samples, or the place holds other files. Nothing is touched.
        StorageError: the storage refused.
    """
    location = locate(url)
    dataset = find_dataset(location, recipe, model_digest)
    if dataset is None:
        dumped = {profile["name"]: profile for profile in (each.model_dump(mode="json") for each in profiles)}
        planned = Dataset(location, recipe, model_digest, ((0, n_samples),), dumped)
        documents = group_documents(planned)
        if not location.join("zarr.json").exists():
            write_manifest(planned, documents, objects or {})
        # the root holds the metadata of everything, so creating it is the one step that claims the place
        location.join("zarr.json").create(documents["zarr.json"])
        dataset = find_dataset(location, recipe, model_digest) or open_dataset(location)
    if dataset.spans[0] != (0, n_samples):
        raise DatasetConflictError(
            f"{location.url} was planned with {dataset.spans[0][1]} samples and now there are {n_samples}: the corpus "
            "has changed. Make a new dataset, or give back the corpus as it was."
        )
    complete_group(dataset)
    return dataset


def grow(dataset: Dataset, samples: int, objects: Mapping[str, str]) -> Dataset:
    """Take another listing of the corpus in, and make room for its samples; the coordinator's job alone.

    Nothing that is there changes but the metadata: the arrays become longer, from the next whole shard on.

    Args:
        dataset: as it is.
        samples: planned samples to make room for; may be 0.
        objects: digests of what the listing wrote, by name within the dataset.

    Returns:
        The grown dataset.

    Raises:
        StorageError: the storage refused; the dataset is as before.
    """
    start = dataset.shard_count * dataset.recipe.shard_size
    spans = (*dataset.spans, (start, start + samples)) if samples else dataset.spans
    grown = replace(dataset, spans=spans, listings=dataset.listings + 1)
    documents = group_documents(grown)
    write_manifest(grown, documents, objects)
    grown.location.join("zarr.json").write(documents["zarr.json"])
    complete_group(grown)
    return grown


def complete_group(dataset: Dataset) -> None:
    """Write the arrays' own metadata where a coordinator was stopped before it did, or while it grew the dataset."""
    for name, document in read_manifest(dataset.location, dataset.listings)["documents"].items():
        place = dataset.location.join(name)
        if name != "zarr.json" and (not place.exists() or place.read() != document.encode()):
            place.write(document.encode())


def _require_same(dataset: Dataset, recipe: Recipe, model_digest: str) -> None:
    made = dataset.recipe.deciding | {"weights": f"of SHA-256 {dataset.model_digest[:12]}"}
    asked = recipe.deciding | {"weights": f"of SHA-256 {model_digest[:12]}"}
    if differing := difference(made, asked):
        raise DatasetConflictError(
            f"{dataset.location.url} was made by another recipe: {differing}. Use the recipe it was made by, or choose "
            "another place."
        )
