"""The metadata of a dataset: the group's and the arrays' ``zarr.json``, and the manifests that keep a copy of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import zarr
from zarr.core.buffer import Buffer
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from aura.bayer import PACKED_ORDER
from storage.datasets.arrays import RAW_DIMENSIONS, SRGB_DIMENSIONS, create_array, srgb_codec
from storage.datasets.dataset import FORMAT, FORMAT_VERSION, Dataset
from storage.datasets.sealed import seal, unseal
from storage.objects.location import Location


def group_documents(dataset: Dataset) -> dict[str, bytes]:
    """Make the metadata of a dataset: the group's and each array's ``zarr.json``, by name."""
    recipe = dataset.recipe
    store: dict[str, Buffer] = {}
    memory = MemoryStore(store)
    height, width = recipe.canvas.height, recipe.canvas.width
    zarr.create_group(memory, zarr_format=3, attributes=_attributes(dataset))
    create_array(
        memory,
        "raw",
        (dataset.n_samples, 4, height // 2, width // 2),
        "uint16",
        recipe.shard_size,
        recipe.codec,
        RAW_DIMENSIONS,
        checksums=dataset.checksums,
    )
    if recipe.keep_srgb:
        shape = (dataset.n_samples, 3, height, width)
        create_array(
            memory,
            "srgb",
            shape,
            "uint8",
            recipe.shard_size,
            srgb_codec(recipe.codec),
            SRGB_DIMENSIONS,
            checksums=dataset.checksums,
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # consolidated metadata is a widely read extension
        zarr.consolidate_metadata(memory, zarr_format=3)
    return {name: buffer.to_bytes() for name, buffer in store.items()}


def _attributes(dataset: Dataset) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "recipe": dataset.recipe.model_dump(mode="json"),
        "recipe_digest": dataset.recipe.digest,
        "model_digest": dataset.model_digest,
        "sensor_profiles": dict(dataset.profiles),
        "packed_order": list(PACKED_ORDER),
        "canvas": dataset.recipe.canvas.model_dump(mode="json"),
        "planned_samples": dataset.planned_samples,
        "spans": [list(span) for span in dataset.spans],
        "listings": dataset.listings,
    }


def write_manifest(dataset: Dataset, documents: Mapping[str, bytes], objects: Mapping[str, str]) -> None:
    """Keep the digests of what a listing wrote, and a copy of the metadata, which are small and decide everything.

    Args:
        dataset: as the listing makes it.
        documents: the metadata, by name.
        objects: digests of other objects, by name.

    Raises:
        StorageError: the storage refused.
    """
    document = {
        "format": FORMAT,
        "listing": dataset.listings,
        "objects": dict(objects),
        "documents": {name: data.decode() for name, data in documents.items()},
    }
    dataset.location.join("listings", f"{dataset.listings:06d}.json").write(seal(document))


def read_manifest(location: Location, listing: int) -> dict[str, Any]:
    """Return what :func:`write_manifest` kept.

    Raises:
        MissingFileError: it is not there.
        IntegrityError: it is damaged.
        StorageError: the storage refused.
    """
    place = location.join("listings", f"{listing:06d}.json")
    return unseal(place.read(), place.url)
