"""Datasets whose every value is known, to be read in every way."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aura.bayer import CFA_PATTERNS, pack_rgb
from aura.sensor.catalog import load_profile
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.publishing import publish
from storage.datasets.shard import ShardData, write_shard
from storage.objects.location import Location, locate
from tests.storage.conftest import CAMERA, sample_row, small_recipe

SAMPLES = 22
LEVELS = {"black_level_dn": [100.0] * 4, "white_level_dn": [16100.0] * 4}


def make(
    place: Location, folder: Path, *, noise: str = "on_read", name: str = "a", codec: str = "pcodec", draw: int = 0
) -> Dataset:
    """Twenty-two samples in six shards; a RAW value is 50 times the pixel of its colour, above a black of 100 DN."""
    recipe = small_recipe(folder, shard_size=4, noise=noise, codec=codec)
    dataset = create_or_open(place, recipe, "model-1", [load_profile(CAMERA)], SAMPLES)
    for shard in range(dataset.shard_count):
        start, stop = dataset.shard_bounds(shard)
        srgb = (
            np.random.default_rng([shard, len(name) + draw])
            .integers(0, 256, (stop - start, 3, 64, 64))
            .astype(np.uint8)
        )
        raw, rows = np.zeros((stop - start, 4, 32, 32), np.uint16), []
        for index in range(start, stop):
            pattern = CFA_PATTERNS[index % 4]
            raw[index - start] = 100 + 50 * pack_rgb(torch.from_numpy(srgb[index - start].astype(np.int32)), pattern)
            height = 40 if index % 5 == 0 else 64
            rows.append(
                sample_row(
                    index,
                    sample_id=f"{name}{index}",
                    cfa_pattern=pattern,
                    valid_height_px=height,
                    iso=800,
                    source_uri=f"file:///corpus/{name}/{index}.png",
                    noise_model="calibrated",
                    **LEVELS,
                )
            )
        write_shard(dataset, shard, ShardData(raw, srgb, rows))
    publish(dataset, tag=f"tag-{name}")
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("stream")
    return make(locate(folder / "a"), folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("other")
    return make(locate(folder / "bb"), folder, noise="none", name="bb", codec="lz4")


def crops(batches: Iterator[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [
        (int(index), int(top), int(left))
        for batch in batches
        for index, top, left in zip(batch["index"], batch["crop_top"], batch["crop_left"], strict=True)
    ]
