"""A place to keep datasets, on disk and on S3, and small datasets to keep there."""

import io
import tarfile
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from PIL import Image

from aura.sensor.catalog import load_profile
from storage.corpora.index import index_batches
from storage.corpora.ingest import ingest
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.samples import RejectRow, SampleRow
from storage.datasets.shard import ShardData, write_shard
from storage.objects.location import Location, locate
from storage.recipe import Recipe, load_recipe

settings.register_profile("storage", deadline=None)  # a loaded machine is not a wrong result
settings.load_profile("storage")

CAMERA = "canon-eos-5d-mark-iv"
MakeDataset = Callable[..., Dataset]
Photographs = Sequence[tuple[str, bytes]]
"""Names and encoded bytes."""


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A fresh, empty place: every test that takes it runs on disk and on S3."""
    if request.param == "local":
        return locate(tmp_path / "place")
    server = request.getfixturevalue("s3_environment")
    return locate(f"s3://{server.bucket}/{uuid.uuid4().hex}")


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """A small recipe: tiles of 64x64, two samples to a shard."""
    return small_recipe(tmp_path)


def small_recipe(folder: Path, **overrides: Any) -> Recipe:
    values = {"corpus": str(folder / "corpus"), "canvas.height": 64, "canvas.width": 64, "shard_size": 2}
    return load_recipe(None, values | overrides)


@pytest.fixture
def make_dataset(place: Location, recipe: Recipe) -> Callable[..., Dataset]:
    """Make a dataset of five samples in three shards, with the shards asked for written."""

    def make(shards: tuple[int, ...] = (), *, changes: dict[str, Any] | None = None) -> Dataset:
        chosen = recipe.model_copy(update=changes or {})
        dataset = create_or_open(place.join("dataset"), chosen, "model-1", [load_profile(CAMERA)], 5)
        for shard in shards:
            write_shard(dataset, shard, shard_data(dataset, shard))
        return dataset

    return make


def shard_data(dataset: Dataset, shard: int, rejected: tuple[int, ...] = ()) -> ShardData:
    """Fill a shard with numbers that follow from each sample's index; the last sample is only half valid."""
    start, stop = dataset.shard_bounds(shard)
    canvas = dataset.recipe.canvas
    raw = np.zeros((stop - start, 4, canvas.height // 2, canvas.width // 2), np.uint16)
    srgb = np.zeros((stop - start, 3, canvas.height, canvas.width), np.uint8)
    rows = []
    for index in range(start, stop):
        noise = np.random.default_rng(index)
        raw[index - start] = noise.integers(500, 15000, raw.shape[1:])
        srgb[index - start] = noise.integers(0, 256, srgb.shape[1:])
        if index not in rejected:
            rows.append(sample_row(index, valid_height_px=canvas.height // (2 if index == 4 else 1)))
    return ShardData(raw, srgb if dataset.recipe.keep_srgb else None, rows)


def sample_row(index: int, **changes: Any) -> SampleRow:
    values: dict[str, Any] = {
        "index": index,
        "sample_id": f"sample-{index}",
        "source_uri": "file:///corpus/a.png",
        "source_sha256": "0" * 64,
        "crop_top_px": 0,
        "crop_left_px": 64 * index,
        "crop_height_px": 64,
        "crop_width_px": 64,
        "valid_height_px": 64,
        "valid_width_px": 64,
        "camera": CAMERA,
        "cfa_pattern": "RGGB",
        "black_level_dn": [512.0, 511.0, 510.0, 509.0],
        "white_level_dn": [15000.0, 15100.0, 15200.0, 15300.0],
        "iso": 100 * (index + 1),
        "noise_model": "calibrated",
        "noise_system_gain_dn_per_electron": 0.25,
        "noise_read_sigma_dn": 2.5,
        "noise_read_tukey_lambda": None if index % 2 else 0.1,
        "noise_row_sigma_dn": 0.5,
        "noise_black_offset_dn": [0.1, 0.2, 0.3, 0.4],
        "noise_quantisation_step_dn": 1.0,
        "exposure": 0.75,
        "wb_gains": [2.0, 1.0, 1.5],
        "camera_to_srgb": [1.5, -0.5, 0.0, -0.25, 1.5, -0.25, 0.0, -0.5, 1.5],
        "seed": 2**62 + index,
        "cycle_psnr_db": 30.0,
        "clipped_fraction": 0.0,
        "channel_mean": [0.1, 0.2, 0.2, 0.1],
    }
    return SampleRow(**(values | changes))


def reject_row(index: int) -> RejectRow:
    return RejectRow(
        index=index,
        source_uri="file:///corpus/a.png",
        source_sha256="0" * 64,
        reason="truncated",
        detail="It ends early.",
    )


def read_corpus(corpus: str | Path | Location, kept_in: str | Path | Location, **changes: Any) -> pa.Table:
    """Ingest a corpus and return its index."""
    recipe = small_recipe(Path(), corpus=locate(corpus).url, **changes)
    ingest(kept_in, recipe)
    return pa.Table.from_batches(index_batches(kept_in)).replace_schema_metadata(None)


def save_image(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """Save a smooth colour picture that is different for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = np.mgrid[0:height, 0:width]
    planes = [127 + 120 * np.sin(seed + rows / 17 + k) * np.cos(columns / (13 + k)) for k in range(3)]
    Image.fromarray(np.stack(planes, -1).astype(np.uint8)).save(path)
    return path


def encoded(height: int, width: int, colour: tuple[int, int, int], kind: str = "PNG") -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(target, kind)
    return target.getvalue()


def make_tar(photographs: Photographs) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in photographs:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return sink.getvalue()


def make_table(photographs: Photographs, *, structs: bool = False, rows: int = 2, **more: list[Any]) -> bytes:
    data = [content for _, content in photographs]
    paths = [name for name, _ in photographs]
    values = [{"bytes": each, "path": path} for each, path in zip(data, paths, strict=True)] if structs else data
    sink = io.BytesIO()
    pq.write_table(pa.table({"caption": paths, "image": values, **more}), sink, row_group_size=rows)
    return sink.getvalue()
