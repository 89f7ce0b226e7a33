"""The plan: which piece of which photograph becomes which sample, with which camera, ISO and seed.

The plan is one small Parquet file per shard, ``plan/00000042.parquet``. One file per shard
rather than row groups of one file, because the footer of a single file grows with the number of shards and every task
would read all of it; here a task makes one request of a few kilobytes however large the dataset is.

Crops are in pixels of the decoded, upright photograph (:mod:`storage.corpora.photograph`) and even everywhere. A last
odd row or column of a photograph is dropped. What a worker needs of the photograph is cut by :func:`place`.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from aura.errors import EmptyCorpusError, RejectedImageError
from storage.objects.location import Location, locate
from storage.objects.tables import encode_table, read_table
from storage.recipe import Canvas, Recipe, canonical_json

PLAN_SCHEMA: Final = pa.schema(
    [
        pa.field("index", pa.int64(), nullable=False),
        pa.field("shard", pa.int64(), nullable=False),
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string(), nullable=False),
        pa.field("source_member", pa.string()),
        pa.field("source_offset_bytes", pa.int64()),
        pa.field("source_length_bytes", pa.int64(), nullable=False),
        pa.field("source_sha256", pa.string(), nullable=False),
        pa.field("source_height_px", pa.int32(), nullable=False),
        pa.field("source_width_px", pa.int32(), nullable=False),
        pa.field("crop_top_px", pa.int32(), nullable=False),
        pa.field("crop_left_px", pa.int32(), nullable=False),
        pa.field("crop_height_px", pa.int32(), nullable=False),
        pa.field("crop_width_px", pa.int32(), nullable=False),
        pa.field("valid_height_px", pa.int32(), nullable=False),
        pa.field("valid_width_px", pa.int32(), nullable=False),
        pa.field("camera", pa.string(), nullable=False),
        pa.field("iso", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
    ]
)
"""Columns of the plan; ``valid_*`` is the part of the canvas that holds pixels, smaller than the crop in fit mode.

Where the recipe asks for licences, ``source_licence`` is one more.
"""

_WRITERS: Final = 16


class Crop(NamedTuple):
    """A rectangle of a photograph and the size it takes on the canvas; pixels, all even.

    Attributes:
        top: first row.
        left: first column.
        height: rows of the photograph.
        width: columns of the photograph.
        valid_height: rows on the canvas.
        valid_width: columns on the canvas.
    """

    top: int
    left: int
    height: int
    width: int
    valid_height: int
    valid_width: int


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """What a finished plan amounts to.

    Attributes:
        samples: number of samples.
        shards: number of shards.
        sources: photographs that give at least one sample.
        objects: SHA-256 of each file of the plan, by name within the dataset.
    """

    samples: int
    shards: int
    sources: int
    objects: Mapping[str, str]


def plan_shards(
    index: Iterable[pa.Table | pa.RecordBatch], recipe: Recipe, first_shard: int = 0, made: Collection[str] = ()
) -> Iterator[pa.Table]:
    """Plan every sample of a corpus, or of what is new in it: a pure function, in the order of the index.

    Args:
        index: rows of the index, or of what is new, in as many pieces as one likes.
        recipe: canvas, cameras, ISO, shard size and seed.
        first_shard: where the samples begin; what is new in a corpus starts at a whole shard.
        made: ids of samples that are not planned, since the dataset has them.

    Yields:
        A table with :data:`PLAN_SCHEMA` for each shard; a row's seed, camera and ISO follow from the recipe's seed, the
        photograph's content and the crop alone, so they stay the same when other photographs come or go.

    Raises:
        EmptyCorpusError: no photograph of a whole corpus gives a sample.
    """
    schema = PLAN_SCHEMA if recipe.licences is None else PLAN_SCHEMA.append(pa.field("source_licence", pa.string()))
    rows: list[dict[str, Any]] = []
    files = 0
    next_index = first_shard * recipe.shard_size
    for piece in index:
        files += piece.num_rows
        for source in piece.to_pylist():
            if source["reject_reason"] is not None:
                continue
            for crop in crops_of(source["height_px"], source["width_px"], recipe.canvas):
                row = _plan_row(next_index, source, crop, recipe)
                if row["sample_id"] in made:
                    continue
                rows.append(row)
                next_index += 1
                if len(rows) == recipe.shard_size:
                    yield pa.Table.from_pylist(rows, schema=schema)
                    rows = []
    if rows:
        yield pa.Table.from_pylist(rows, schema=schema)
    if not next_index:
        raise EmptyCorpusError(
            f"None of the {files} files of {recipe.corpus} gives a sample of at least "
            f"{recipe.canvas.min_side} px a side. Check the corpus, or lower canvas.min_side and limits."
        )


def crops_of(height: int, width: int, canvas: Canvas) -> list[Crop]:
    """Cut a photograph for a canvas.

    In tile mode: a grid of canvas-sized tiles from the top left; the remainder at the right and the bottom becomes
    smaller tiles, padded on the canvas, unless shorter than ``canvas.min_side``, when it is left out. In fit mode: the
    whole photograph once, shrunk (never enlarged) to fit the canvas.

    Args:
        height: of the upright photograph in pixels; an odd last row is dropped.
        width: in pixels; an odd last column is dropped.
        canvas: mode and sizes.

    Returns:
        Crops in reading order; empty if the photograph is too small for ``canvas.min_side``.
    """
    height, width = height - height % 2, width - width % 2
    if canvas.mode == "fit":
        return list(_fit(height, width, canvas))
    return [
        Crop(top, left, tile_height, tile_width, tile_height, tile_width)
        for top, tile_height in _spans(height, canvas.height, canvas.min_side)
        for left, tile_width in _spans(width, canvas.width, canvas.min_side)
    ]


def place(image: npt.NDArray[np.uint8], row: dict[str, Any]) -> npt.NDArray[np.uint8]:
    """Cut the piece that a plan row names out of its photograph, shrunk if the canvas asks for it.

    Args:
        image: the decoded photograph, ``(H, W, 3)`` uint8 sRGB.
        row: a row of the plan.

    Returns:
        ``(valid_height_px, valid_width_px, 3)`` uint8 sRGB, shrunk by an antialiased Lanczos filter in fit mode.

    Raises:
        RejectedImageError: the photograph has another size than the index says (``changed``).
    """
    expected = (row["source_height_px"], row["source_width_px"])
    if image.shape[:2] != expected:
        raise RejectedImageError(
            "changed",
            f"{row['source_uri']} decodes to {image.shape[0]}x{image.shape[1]} px; its header said "
            f"{expected[0]}x{expected[1]}. Replace the file.",
        )
    top, left = row["crop_top_px"], row["crop_left_px"]
    piece = image[top : top + row["crop_height_px"], left : left + row["crop_width_px"]]
    size = (row["valid_height_px"], row["valid_width_px"])
    if piece.shape[:2] != size:
        piece = np.asarray(Image.fromarray(piece).resize(size[::-1], Image.Resampling.LANCZOS, reducing_gap=3.0))
    return np.ascontiguousarray(piece)


def write_plan(dataset_url: str | Location, shards: Iterable[pa.Table]) -> PlanSummary:
    """Write the plan, a file per shard; it counts from the moment that the dataset's group says so.

    Args:
        dataset_url: the dataset.
        shards: what :func:`plan_shards` yields; some are in memory at once.

    Raises:
        StorageError: the storage refused.
    """
    root = locate(dataset_url)
    samples = sources = 0
    last_source = None
    objects: dict[str, str] = {}
    writing: deque[Future[tuple[str, str]]] = deque()

    def write(shard: int, table: pa.Table) -> tuple[str, str]:
        name, data = f"plan/{shard_name(shard)}", encode_table(table)
        root.join(name).write(data)
        return name, hashlib.sha256(data).hexdigest()

    with ThreadPoolExecutor(_WRITERS) as pool:
        for table in shards:
            samples += table.num_rows
            for digest in table["source_sha256"].to_pylist():  # a photograph's samples follow each other
                sources += digest != last_source
                last_source = digest
            writing.append(pool.submit(write, table["shard"][0].as_py(), table))
            if len(writing) > 2 * _WRITERS:
                objects.update([writing.popleft().result()])
        objects.update(future.result() for future in writing)
    return PlanSummary(samples, len(objects), sources, objects)


def read_shard_plan(dataset_url: str | Location, shard: int) -> pa.Table:
    """Return the rows of one shard, and read nothing else.

    Raises:
        MissingFileError: the dataset has no such shard.
        IntegrityError: the file is damaged.
        StorageError: the storage refused.
    """
    return read_table(locate(dataset_url).join("plan", shard_name(shard)))


def shard_name(shard: int) -> str:
    """File name of a shard's table: ``00000042.parquet``."""
    return f"{shard:08d}.parquet"


def shard_of(name: str) -> int | None:
    """Return the shard whose table has a name, or None if that is none of :func:`shard_name`."""
    digits = name.removesuffix(".parquet")
    return int(digits) if digits.isdecimal() and digits.isascii() and name == shard_name(int(digits)) else None


def _spans(length: int, side: int, min_side: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, side):
        span = min(side, length - start)
        if span >= min_side:
            yield start, span


def _fit(height: int, width: int, canvas: Canvas) -> Iterator[Crop]:
    scale = min(1.0, canvas.height / height, canvas.width / width) if height and width else 0.0
    fitted = [
        min(side, 2 * math.floor(length * scale / 2 + 1e-9))
        for length, side in ((height, canvas.height), (width, canvas.width))
    ]
    if min(fitted) >= canvas.min_side:
        yield Crop(0, 0, height, width, *fitted)


def _plan_row(index: int, source: dict[str, Any], crop: Crop, recipe: Recipe) -> dict[str, Any]:
    identity = [recipe.seed, source["sha256"], list(crop)]
    draws = hashlib.sha256(canonical_json(identity)).digest()
    # three independent draws out of one digest: bytes 0-7 seed, 8-15 camera, 16-23 ISO
    seed = int.from_bytes(draws[:8], "big") >> 1
    camera = recipe.cameras[int.from_bytes(draws[8:16], "big") % len(recipe.cameras)]
    return {
        "index": index,
        "shard": index // recipe.shard_size,
        "sample_id": f"{source['sha256'][:16]}-{crop.top}-{crop.left}-{crop.height}x{crop.width}",
        "source_uri": source["uri"],
        "source_member": source["member"],
        "source_offset_bytes": source["offset_bytes"],
        "source_length_bytes": source["length_bytes"],
        "source_sha256": source["sha256"],
        "source_height_px": source["height_px"],
        "source_width_px": source["width_px"],
        "crop_top_px": crop.top,
        "crop_left_px": crop.left,
        "crop_height_px": crop.height,
        "crop_width_px": crop.width,
        "valid_height_px": crop.valid_height,
        "valid_width_px": crop.valid_width,
        "camera": camera,
        "iso": _draw_iso(recipe.iso, int.from_bytes(draws[16:24], "big") / 2**64),
        "seed": seed,
        "source_licence": source.get("licence"),
    }


def _draw_iso(iso: int | tuple[int, int], fraction: float) -> int:
    if isinstance(iso, int):
        return iso
    low, high = iso
    return min(high, max(low, round(low * math.exp(fraction * math.log(high / low)))))
