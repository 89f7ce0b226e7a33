from pathlib import Path

import numpy as np
import pytest

from aura.reconstruct import Reconstructor
from aura.sensor.catalog import load_profile
from flows.shard import synthesize_shard
from storage.dataset import Dataset, create_or_open
from storage.index import index_batches
from storage.ingest import ingest
from storage.plan import plan_shards, write_plan
from storage.recipe import load_recipe
from tests.storage.conftest import CAMERA, save_image


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    save_image(folder / "a.png", 64, 96)
    return folder


def synthesized(corpus: Path, folder: Path, noise: str) -> Dataset:
    values = {"corpus": str(corpus), "canvas.height": 64, "canvas.width": 96, "cameras": [CAMERA], "iso": 1600}
    recipe = load_recipe(None, values | {"noise": noise, "lpips_share": 0.0, "method": "linearise"})
    digest = Reconstructor.load("linearise").digest
    url = folder / noise
    ingest(url, recipe)
    plan = write_plan(url, plan_shards(index_batches(url), recipe))
    dataset = create_or_open(url, recipe, digest, [load_profile(CAMERA)], plan.samples)
    synthesize_shard(dataset.location.url, 0)
    return dataset


def test_noise_left_to_the_reader_is_stored_as_parameters_beside_clean_raw(corpus: Path, tmp_path: Path) -> None:
    made = {noise: synthesized(corpus, tmp_path, noise) for noise in ("none", "on_read", "stored")}
    raw = {noise: np.asarray(dataset.open_raw()[:]) for noise, dataset in made.items()}
    rows = {noise: dataset.samples(0).to_pylist()[0] for noise, dataset in made.items()}
    assert np.array_equal(raw["none"], raw["on_read"])
    assert not np.array_equal(raw["stored"], raw["on_read"])
    assert rows["none"]["noise_model"] == "none"
    noise = {name: value for name, value in rows["on_read"].items() if name.startswith("noise_")}
    assert noise == {name: rows["stored"][name] for name in noise}
    assert noise["noise_system_gain_dn_per_electron"] > 0
