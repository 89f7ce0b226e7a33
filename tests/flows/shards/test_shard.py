import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flows.shards.shard
from aura.reconstruct import ON_CPU, Passes, Reconstructor
from aura.sensor.catalog import load_profile
from flows.shards.shard import synthesize_shard
from storage.corpora.index import index_batches
from storage.corpora.ingest import ingest
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.plan import plan_shards, write_plan
from storage.datasets.publishing import publish
from storage.datasets.versions import verify_version
from storage.objects.location import Entry, locate
from storage.recipe import load_recipe
from tests.storage.conftest import CAMERA, save_image


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    save_image(folder / "a.png", 64, 96)
    return folder


def synthesized(corpus: Path, folder: Path, noise: str) -> Dataset:
    changes = {"canvas.width": 96, "noise": noise, "method": "linearise"}
    dataset = planned(corpus, folder / noise, changes)
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


@pytest.mark.parametrize("whole_image_pixels", [2_100_000, 0], ids=["in one pass", "in windows"])
def test_the_number_of_threads_changes_no_byte(
    whole_image_pixels: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invert_with(monkeypatch, replace(ON_CPU, whole_pixels=whole_image_pixels))
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, (height, width) in {"a": (96, 150), "b": (64, 64), "c": (130, 70)}.items():
        save_image(folder / f"{name}.png", height, width)
    (folder / "d.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    made = []
    for threads in (1, 2, 5):
        monkeypatch.setattr("flows.shards.lanes._threads", partial(int, threads))
        dataset = planned(
            folder, tmp_path / str(threads), {"canvas.min_side": 32, "lpips_share": 0.5, "iso": (100, 3200)}
        )
        report = synthesize_shard(dataset.location.url, 0)
        assert report.samples > 5
        made.append({entry.uri.rpartition("/")[2]: locate(entry.uri).read() for entry in shard_objects(dataset)})
    assert made[0].keys() >= {"00000000.parquet"}
    assert made[0] == made[1] == made[2]


def test_shards_made_at_once_have_the_bytes_that_each_has_alone(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, (height, width) in {"a": (96, 150), "b": (64, 64), "c": (130, 70), "d": (64, 128)}.items():
        save_image(folder / f"{name}.png", height, width)
    (folder / "e.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    changes = {"canvas.min_side": 32, "lpips_share": 0.5, "iso": (100, 3200), "shard_size": 2}
    made = []
    for in_hand in (1, 3):
        dataset = planned(folder, tmp_path / str(in_hand), changes)
        assert dataset.shard_count > 3
        with ThreadPoolExecutor(in_hand) as pool:
            reports = list(pool.map(partial(synthesize_shard, dataset.location.url), range(dataset.shard_count)))
        assert sum(report.samples for report in reports) == dataset.n_samples
        made.append({entry.uri.rpartition("/")[2]: locate(entry.uri).read() for entry in shard_objects(dataset)})
    assert made[0] == made[1]


def test_what_is_compiled_is_there_before_several_threads_ask_for_it(tmp_path: Path) -> None:
    """Two shards begin side by side in a new worker; a new process tells what its loops have been compiled for."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, (height, width) in {"a": (96, 150), "b": (64, 64)}.items():
        save_image(folder / f"{name}.png", height, width)
    dataset = planned(folder, tmp_path / "dataset", {"canvas.min_side": 32, "lpips_share": 0.5, "iso": (100, 3200)})
    program = """
import sys
from numba.core.dispatcher import Dispatcher
from flows.shards.shard import reconstructor, synthesize_shard
from storage.datasets.dataset import open_dataset

def compiled():
    ours = [module for name, module in sys.modules.items() if name.startswith("aura.")]
    loops = {id(each): each for module in ours for each in vars(module).values() if isinstance(each, Dispatcher)}
    return {f"{each.__name__}{signature}" for each in loops.values() for signature in each.signatures}

dataset = open_dataset(sys.argv[1])
reconstructor(dataset.recipe.method, None, dataset.model_digest)
before = compiled()
assert before
assert synthesize_shard(sys.argv[1], 0).samples
print(sorted(compiled() - before))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, dataset.location.url], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def shard_objects(dataset: Dataset) -> list[Entry]:
    return [entry for name in ("raw", "srgb", "samples") for entry in dataset.location.join(name).walk()]


def test_a_photograph_that_changed_since_it_was_planned_is_a_reject_among_samples(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name in "abc":
        save_image(folder / f"{name}.png", 64, 64 + 32 * ord(name) % 3)
    dataset = planned(folder, tmp_path / "dataset", {"method": "linearise"})
    save_image(folder / "b.png", 96, 96)
    report = synthesize_shard(dataset.location.url, 0)
    assert report.rejects >= 1
    rejected = dataset.rejects(0).to_pylist()
    assert {row["source_uri"].rpartition("/")[2] for row in rejected} == {"b.png"}
    assert report.samples + report.rejects == dataset.n_samples


def test_a_late_attempt_leaves_alone_what_another_has_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "corpus"
    photograph = save_image(folder / "a.png", 64, 64)
    dataset = planned(folder, tmp_path / "dataset", {"method": "linearise"})
    make = flows.shards.shard.make_samples

    def make_late(dataset: Dataset, shard: int, weights: str | None) -> Any:
        kept = photograph.rename(folder / "kept")  # so that this attempt makes another shard of it
        made = make(dataset, shard, weights)
        kept.rename(photograph)
        monkeypatch.setattr("flows.shards.shard.make_samples", make)
        assert synthesize_shard(dataset.location.url, shard).samples == 1
        publish(dataset)
        return made

    monkeypatch.setattr("flows.shards.shard.make_samples", make_late)
    assert synthesize_shard(dataset.location.url, 0).skipped
    verify_version(dataset, 1)


def invert_with(monkeypatch: pytest.MonkeyPatch, passes: Passes) -> None:
    inverse = replace(Reconstructor.load(device="cpu"), passes=passes)
    monkeypatch.setattr("flows.shards.shard.reconstructor", lambda *_: inverse)


def planned(corpus: Path, url: Path, changes: dict[str, Any]) -> Dataset:
    values = {"corpus": str(corpus), "canvas.height": 64, "canvas.width": 64, "cameras": [CAMERA], "iso": 1600}
    recipe = load_recipe(None, values | {"lpips_share": 0.0} | changes)
    ingest(url, recipe)
    plan = write_plan(url, plan_shards(index_batches(url), recipe))
    return create_or_open(url, recipe, Reconstructor.load(recipe.method).digest, [load_profile(CAMERA)], plan.samples)


def test_batches_of_one_shape_make_the_same_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, side in {"a": 96, "b": 96, "c": 64, "d": 96, "e": 96}.items():
        save_image(folder / f"{name}.png", side, 96)
    rows = []
    for batch_pixels in (0, 30_000):
        invert_with(monkeypatch, replace(ON_CPU, batch_pixels=batch_pixels))
        dataset = planned(folder, tmp_path / str(batch_pixels), {"canvas.min_side": 32, "noise": "none"})
        synthesize_shard(dataset.location.url, 0)
        rows.append(dataset.samples(0).to_pylist())
    for alone, together in zip(*rows, strict=True):
        assert alone["sample_id"] == together["sample_id"]
        assert alone["channel_mean"] == pytest.approx(together["channel_mean"], rel=1e-3)
