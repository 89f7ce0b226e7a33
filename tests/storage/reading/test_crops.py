"""What is drawn for crops on reading: from which source, with which exposure; and that it can be traced back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aura.sensor.catalog import load_profile
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.publishing import publish
from storage.datasets.shard import ShardData, write_shard
from storage.objects.location import locate
from storage.reading.cutting import Cutting
from storage.reading.streaming import RawStream, Source
from tests.storage.conftest import CAMERA, sample_row, small_recipe

SAMPLES, BLACK, WHITE = 6, 512, 15000


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """Two datasets of clean RAW; the upper half of every sample is saturated, the lower a quarter of that."""
    return tuple(_make(tmp_path_factory.mktemp(name), name) for name in ("day", "night"))  # type: ignore[return-value]


def _make(folder: Path, name: str) -> Dataset:
    recipe = small_recipe(folder, shard_size=SAMPLES, noise="none", keep_srgb=False)
    made = create_or_open(locate(folder / name), recipe, "model-1", [load_profile(CAMERA)], SAMPLES)
    raw = np.full((SAMPLES, 4, 32, 32), WHITE, np.uint16)
    raw[:, :, 16:] = BLACK + (WHITE - BLACK) // 4
    levels = {"black_level_dn": [float(BLACK)] * 4, "white_level_dn": [float(WHITE)] * 4}
    rows = [
        sample_row(index, sample_id=f"{name}-{index}", source_uri=f"file:///{name}/{index}.jpg", **levels)
        for index in range(SAMPLES)
    ]
    write_shard(made, 0, ShardData(raw, None, rows))
    publish(made)
    return made


def test_what_is_saturated_stays_so_at_any_exposure(datasets: tuple[Dataset, Dataset]) -> None:
    cutting = Cutting(crop=32, exposure_ev=(-3.0, -1.0))
    (batch,) = RawStream(datasets[0].location, batch_size=SAMPLES, cutting=cutting)
    (bright,) = RawStream(datasets[0].location, batch_size=SAMPLES, cutting=Cutting(crop=32, exposure_ev=(3.0, 3.0)))
    assert np.allclose(batch["raw"][:, :, :16], 1, atol=1e-6)
    factor = batch["exposure"] / 0.75
    assert ((factor >= 2**-3) & (factor <= 2**-1)).all()
    assert len(set(factor.tolist())) == SAMPLES
    assert np.allclose(batch["raw"][:, :, 16:], 0.25 * factor[:, None, None, None], atol=1e-5)
    assert np.allclose(bright["raw"], 1, atol=1e-6)  # what goes beyond is clipped


def test_what_is_saturated_stays_so_under_noise(datasets: tuple[Dataset, Dataset]) -> None:
    cutting = Cutting(crop=32, iso=(6400, 6400), exposure_ev=(-3.0, -3.0), clean=True)
    (batch,) = RawStream(datasets[0].location, batch_size=SAMPLES, cutting=cutting)
    assert (batch["raw"][:, :, :16] == 1.0).all()
    noisy = batch["raw"][:, :, 16:] - batch["clean"][:, :, 16:]
    assert 1e-3 < float(noisy.std()) < 0.1


def test_a_mixture_is_drawn_by_its_seed_and_every_crop_is_traced(datasets: tuple[Dataset, Dataset]) -> None:
    def drawn(seed: int, **options: Any) -> list[tuple[str, int, int]]:
        sources = [Source(datasets[0].location, 1.0), Source(datasets[1].location, 4.0)]
        stream = RawStream(sources, seed=seed, cutting=Cutting(crop=8), samples_per_epoch=120, **options)
        found = []
        for batch in stream:
            for name, source, *place in zip(
                batch["sample_id"], batch["source"], batch["crop_top"], batch["crop_left"], strict=True
            ):
                (known,) = stream.trace(name)
                kind, number = name.split("-")
                assert known["source_uri"] == f"file:///{kind}/{number}.jpg"
                assert known["dataset"] == datasets[source].location.url
                found.append((name, *map(int, place)))
        return found

    first = drawn(1)
    assert drawn(1) == first
    assert sorted(drawn(1, batch_size=7)) == sorted(first)  # the batches do not decide what is drawn
    assert drawn(2) != first
    nights = sum(name.startswith("night") for name, *_ in first)
    assert 80 <= nights <= 112  # 96 are expected, with a standard deviation of 4.4
