"""Writing one shard: whole objects, the samples table last. A shard without that table does not exist for readers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aura.errors import InvalidInputError
from storage.datasets.arrays import encode_chunk, join_chunks, srgb_codec
from storage.datasets.dataset import Dataset
from storage.datasets.layout import object_location
from storage.datasets.plan import shard_name
from storage.datasets.samples import RejectRow, SampleRow, rejects_table, samples_table
from storage.objects.tables import encode_table, seal_table


@dataclass(frozen=True, slots=True)
class ShardData:
    """The samples of one shard.

    Attributes:
        raw: uint16 DN ``[n, 4, h, w]``, planes R, Gr, Gb, B, with a slot for every planned sample; what lies in a slot
            without a row is not kept.
        srgb: uint8 ``[n, 3, H, W]``, or None where the recipe does not keep it.
        rows: one for each sample that was made.
    """

    raw: npt.NDArray[np.uint16]
    srgb: npt.NDArray[np.uint8] | None
    rows: Sequence[SampleRow]


def is_committed(dataset: Dataset, shard: int) -> bool:
    """Tell whether a shard is finished; a task asks this first.

    Raises:
        StorageError: the storage refused.
    """
    return dataset.location.join("samples", shard_name(shard)).exists()


def write_shard(
    dataset: Dataset,
    shard: int,
    samples: ShardData,
    rejects: Sequence[RejectRow] = (),
    permit: Callable[[], None] | None = None,
) -> None:
    """Write a shard's objects and then, last, the table that commits it. Repeating it writes the same bytes.

    Outside the valid height and width of a sample, the stored values are set to 0.

    Args:
        dataset: the dataset, already created.
        shard: its number.
        samples: every sample that was made.
        rejects: every planned sample that was not.
        permit: is called before each object is written or removed and raises if this may not go on.

    Raises:
        InvalidInputError: shapes, types or indexes contradict the dataset; nothing is written.
        StorageError: the storage refused; the shard stays uncommitted.
    """
    write_objects(dataset, shard, shard_objects(dataset, shard, samples, rejects), permit)


def write_objects(
    dataset: Dataset, shard: int, objects: Mapping[str, bytes], permit: Callable[[], None] | None = None
) -> None:
    """Write what :func:`join_samples` made, in its order, the table that commits it last.

    Raises:
        StorageError: the storage refused; the shard stays uncommitted.
    """
    for name in ("raw", "srgb") if dataset.recipe.keep_srgb else ("raw",):
        if name not in objects:  # a killed attempt may have made samples of what is rejected now, and left its arrays
            if permit is not None:
                permit()
            object_location(dataset.location, name, shard).remove()
    for name, data in objects.items():
        if permit is not None:
            permit()
        object_location(dataset.location, name, shard).write(data)


def shard_objects(
    dataset: Dataset, shard: int, samples: ShardData, rejects: Sequence[RejectRow] = ()
) -> dict[str, bytes]:
    """Encode everything that a shard stores.

    Args:
        dataset: the dataset.
        shard: its number.
        samples: every sample that was made.
        rejects: every planned sample that was not.

    Returns:
        As :func:`join_samples`.

    Raises:
        InvalidInputError: shapes, types or indexes contradict the dataset.
    """
    _require_arrays(dataset, shard, samples)
    _require_rows(dataset, shard, samples.rows, rejects)
    start, _ = dataset.shard_bounds(shard)
    encoded = []
    for row in samples.rows:
        slot = row.index - start
        encoded.append(
            encode_sample(dataset, row, samples.raw[slot], None if samples.srgb is None else samples.srgb[slot])
        )
    return join_samples(dataset, shard, encoded, rejects)


@dataclass(frozen=True, slots=True)
class EncodedSample:
    """A sample as its shard will hold it.

    Attributes:
        row: what is known about it.
        raw: its chunk of the array ``raw``; empty if all of it is zero.
        srgb: its chunk of the array ``srgb``; empty likewise, or if the recipe does not keep it.
    """

    row: SampleRow
    raw: bytes
    srgb: bytes


def encode_sample(
    dataset: Dataset, row: SampleRow, raw: npt.NDArray[np.uint16], srgb: npt.NDArray[np.uint8] | None
) -> EncodedSample:
    """Encode a sample as soon as it is made, long before its shard is whole.

    Args:
        dataset: the dataset.
        row: what is known about it.
        raw: uint16 DN ``(4, h, w)``, planes R, Gr, Gb, B; at least the valid area, what lies outside is not kept.
        srgb: uint8 ``(3, 2h, 2w)``, or None where the recipe does not keep it.
    """
    codec = dataset.recipe.codec
    canvas = dataset.recipe.canvas
    height, width = row.valid_height_px, row.valid_width_px
    planes = np.zeros((4, canvas.height // 2, canvas.width // 2), np.uint16)
    planes[:, : height // 2, : width // 2] = raw[:, : height // 2, : width // 2]
    pixels = b""
    if srgb is not None:
        image = np.zeros((3, canvas.height, canvas.width), np.uint8)
        image[:, :height, :width] = srgb[:, :height, :width]
        pixels = encode_chunk(image, srgb_codec(codec), checksums=dataset.checksums)
    return EncodedSample(row, encode_chunk(planes, codec, checksums=dataset.checksums), pixels)


def join_samples(
    dataset: Dataset, shard: int, samples: Sequence[EncodedSample], rejects: Sequence[RejectRow] = ()
) -> dict[str, bytes]:
    """Lay a shard's samples into the objects that it stores.

    Args:
        dataset: the dataset.
        shard: its number.
        samples: every sample that was made.
        rejects: every planned sample that was not.

    Returns:
        Bytes by kind (``raw``, ``srgb``, ``rejects``, ``samples``) in the order of writing, the commit last. A shard
        without a single sample has no array objects.

    Raises:
        InvalidInputError: the samples and rejects are not those that are planned, or do not fit the canvas.
    """
    rows = [sample.row for sample in samples]
    _require_rows(dataset, shard, rows, rejects)
    start, stop = dataset.shard_bounds(shard)
    slots = {sample.row.index: sample for sample in samples}
    present = [slots.get(index) for index in range(start, stop)]
    objects = {
        "raw": join_chunks([sample.raw if sample else b"" for sample in present], dataset.recipe.shard_size),
        "srgb": join_chunks([sample.srgb if sample else b"" for sample in present], dataset.recipe.shard_size),
        "rejects": encode_table(rejects_table(rejects)),
    }
    objects = {name: data for name, data in objects.items() if data}
    facts = {f"{name}_sha256": _sha256(data) for name, data in objects.items()}
    facts |= {"shard": str(shard), "recipe_digest": dataset.recipe.digest, "rejects": str(len(rejects))}
    return objects | {"samples": seal_table(samples_table(rows, licensed=dataset.recipe.licences is not None), facts)}


def _require_arrays(dataset: Dataset, shard: int, samples: ShardData) -> None:
    start, stop = dataset.shard_bounds(shard)
    canvas = dataset.recipe.canvas
    _require_array("raw", samples.raw, (stop - start, 4, canvas.height // 2, canvas.width // 2), "uint16")
    if dataset.recipe.keep_srgb != (samples.srgb is not None):
        raise InvalidInputError(f"The recipe has keep_srgb={dataset.recipe.keep_srgb}; give srgb accordingly.")
    if samples.srgb is not None:
        _require_array("srgb", samples.srgb, (stop - start, 3, canvas.height, canvas.width), "uint8")


def _require_rows(dataset: Dataset, shard: int, rows: Sequence[SampleRow], rejects: Sequence[RejectRow]) -> None:
    start, stop = dataset.shard_bounds(shard)
    canvas = dataset.recipe.canvas
    indexes = sorted([row.index for row in rows] + [row.index for row in rejects])
    if indexes != list(range(start, stop)):
        raise InvalidInputError(
            f"Shard {shard} needs each of the samples {start} to {stop - 1} once, as a row or a reject; found "
            f"{len(rows)} rows and {len(rejects)} rejects that do not cover them."
        )
    for row in rows:
        sides = (row.valid_height_px, row.valid_width_px)
        if any(side % 2 or side <= 0 for side in sides) or sides[0] > canvas.height or sides[1] > canvas.width:
            raise InvalidInputError(
                f"Sample {row.index} has a valid area of {sides[0]}x{sides[1]} px; expected even sides within the "
                f"canvas of {canvas.height}x{canvas.width}."
            )


def _require_array(name: str, array: npt.NDArray[np.generic], shape: tuple[int, ...], dtype: str) -> None:
    if array.shape != shape or array.dtype != dtype:
        raise InvalidInputError(
            f"{name} of the shard is {array.dtype} {array.shape}; expected {dtype} {shape} (every planned sample)."
        )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
