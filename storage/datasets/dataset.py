"""A dataset: a Zarr v3 group of sharded arrays beside Parquet tables, at one location.

Layout (format ``aura-raw``, version 1)::

    zarr.json                   group; attributes say format, recipe, model, profiles, packed order, canvas
    raw/                        uint16 [N, 4, h, w], one chunk per sample with its CRC-32C, one object per shard
    srgb/                       uint8 [N, 3, H, W], optional, aligned with raw
    samples/00000042.parquet    a row per sample of shard 42, written last: it is the commit
    rejects/00000042.parquet    what could not be made, and why
    index.parquet, plan/        how the corpus was read and cut
    listings/000002.parquet     what was new or gone when the corpus was listed again
    listings/000002.json        digests of everything that this listing wrote, and the metadata themselves
    versions/000001.json        immutable lists of shards with digests
    tags/NAME.json              a name for a version
    labels/DIGEST.parquet       labels by sample_id, named by versions
    lease/                      who is writing now

The last shard may be partly empty; a grown corpus starts at the next whole shard, so no shard object is ever written
with different content. N is the end of the last planned sample. A slot whose sample was rejected, or that was never
planned, holds zeros and has no row in ``samples``.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import zarr
from zarr.errors import ZarrUserWarning

from aura.errors import DatasetConflictError, IntegrityError, InvalidInputError, MissingFileError
from storage.datasets.plan import shard_name, shard_of
from storage.objects.location import Location, locate
from storage.objects.tables import read_table
from storage.recipe import Recipe

FORMAT: Final = "aura-raw"
FORMAT_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Dataset:
    """A handle on a dataset. Holds no open file, so it may be pickled and may cross a fork.

    Attributes:
        location: where it lies.
        recipe: what it is made by.
        model_digest: digest of the weights and method.
        spans: first planned sample and the one after the last, of the corpus and of each growth.
        profiles: the sensor profiles as JSON, by camera name.
        version: the published version this handle reads, or None for whatever is committed.
        listings: how often the corpus was listed with something new in it.
        checksums: whether each chunk ends in its CRC-32C, as the arrays' metadata say; those of datasets that were
            begun before chunks had one do not.
    """

    location: Location
    recipe: Recipe
    model_digest: str
    spans: tuple[tuple[int, int], ...]
    profiles: Mapping[str, Mapping[str, Any]]
    version: int | None = None
    listings: int = 1
    checksums: bool = True

    @property
    def n_samples(self) -> int:
        """Length of the arrays; more than the planned samples where a growth began at a whole shard."""
        return self.spans[-1][1]

    @property
    def planned_samples(self) -> int:
        """Number of planned samples."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def shard_count(self) -> int:
        """Number of planned shards."""
        return -(-self.n_samples // self.recipe.shard_size)

    def shard_bounds(self, shard: int) -> tuple[int, int]:
        """Return the first planned sample of a shard and the one after its last.

        Raises:
            InvalidInputError: the dataset has no such shard.
        """
        if not 0 <= shard < self.shard_count:
            raise InvalidInputError(f"Shard {shard} is outside the dataset's 0 to {self.shard_count - 1}.")
        start = shard * self.recipe.shard_size
        end = next(stop for first, stop in self.spans if first <= start < stop)
        return start, min(start + self.recipe.shard_size, end)

    def committed_shards(self) -> list[int]:
        """List the shards that readers may see, ascending: one listing, whatever the number of shards."""
        found = (shard_of(name) for name in self.location.join("samples").names())
        return sorted(shard for shard in found if shard is not None)

    def missing_shards(self) -> list[int]:
        """List the planned shards that are not committed, ascending."""
        return sorted(set(range(self.shard_count)) - set(self.committed_shards()))

    def samples(self, shard: int) -> pa.Table:
        """Read the rows of a committed shard (:data:`storage.datasets.samples.SAMPLE_SCHEMA`).

        Raises:
            MissingFileError: the shard is not committed.
            IntegrityError: the table is damaged.
        """
        return read_table(self.location.join("samples", shard_name(shard)))

    def rejects(self, shard: int) -> pa.Table:
        """Read what a committed shard could not make (:data:`storage.datasets.samples.REJECT_SCHEMA`).

        Raises:
            MissingFileError: the shard is not committed.
            IntegrityError: the table is damaged.
        """
        return read_table(self.location.join("rejects", shard_name(shard)))

    def open_raw(self) -> zarr.Array[Any]:
        """Open the RAW: uint16 DN ``[N, 4, h, w]``, planes R, Gr, Gb, B. Keep it within the process."""
        return self._open_array("raw")

    def open_srgb(self) -> zarr.Array[Any] | None:
        """Open the source pixels, uint8 ``[N, 3, H, W]``, or return None where the recipe does not keep them."""
        return self._open_array("srgb") if self.recipe.keep_srgb else None

    def _open_array(self, name: str) -> zarr.Array[Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ZarrUserWarning)  # pcodec is outside the Zarr specification, as documented
            array = zarr.open_group(self.location.zarr_store(), mode="r", zarr_format=3)[name]
        if not isinstance(array, zarr.Array):
            raise IntegrityError(f"{self.location.url}/{name} is not an array. Restore the dataset's zarr.json.")
        return array


def open_dataset(url: str | os.PathLike[str] | Location, version: int | None = None) -> Dataset:
    """Open a dataset that exists.

    Args:
        url: where it lies.
        version: a published version to read, or None for whatever is committed.

    Raises:
        MissingFileError: there is no dataset, or no such version.
        IntegrityError: what lies there is not a dataset of this format and version.
        StorageError: the storage refused.
    """
    location = locate(url)
    location.check_reachable()
    try:
        document = location.join("zarr.json").read()
    except MissingFileError as error:
        raise MissingFileError(
            f"{location.url} holds no dataset (no zarr.json). Check the path, or make one with `aura synthesize`."
        ) from error
    dataset = parse_group(location, document, version)
    if version is not None and not location.join("versions", f"{version:06d}.json").exists():
        raise MissingFileError(f"{location.url} has no version {version}. List its versions and choose one.")
    return dataset


def parse_group(location: Location, document: bytes, version: int | None = None) -> Dataset:
    """Read what a group's ``zarr.json`` says.

    Raises:
        DatasetConflictError: it is a Zarr group of another kind.
        IntegrityError: it is damaged, or of another version of the format.
    """
    try:
        group = json.loads(document)
        attributes = group.get("attributes", {})
    except (ValueError, AttributeError) as error:
        raise IntegrityError(f"{location.url}/zarr.json is damaged. Restore that file.") from error
    if attributes.get("format") != FORMAT:
        raise DatasetConflictError(f"{location.url} is a Zarr group but no {FORMAT} dataset. Choose another place.")
    if attributes.get("version") != FORMAT_VERSION:
        raise IntegrityError(
            f"{location.url} has {FORMAT} version {attributes.get('version')}; this program reads version "
            f"{FORMAT_VERSION}. Use the release that made it."
        )
    try:
        return Dataset(
            location=location,
            recipe=Recipe.model_validate(attributes["recipe"]),
            model_digest=attributes["model_digest"],
            spans=tuple((start, stop) for start, stop in attributes["spans"]),
            profiles=attributes["sensor_profiles"],
            version=version,
            listings=attributes["listings"],
            checksums=_has_checksums(group["consolidated_metadata"]["metadata"]["raw"]),
        )
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise IntegrityError(
            f"{location.url}/zarr.json lacks or spoils what version {FORMAT_VERSION} needs. Restore that file."
        ) from error


def _has_checksums(array: Mapping[str, Any]) -> bool:
    last: str = array["codecs"][0]["configuration"]["codecs"][-1]["name"]
    return last == "crc32c"
