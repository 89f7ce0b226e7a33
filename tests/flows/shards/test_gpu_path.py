"""What a GPU does, in the same torch calls on a CPU: the samples that loops make, with few calls for many of them."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from aura.reconstruct import ON_CPU, Method, Passes, Reconstructor
from aura.sensor.catalog import load_profile
from flows.shards import sample, shard
from flows.shards.shard import synthesize_shard
from storage.corpora.index import index_batches
from storage.corpora.ingest import ingest
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.plan import plan_shards, read_shard_plan, write_plan
from storage.recipe import load_recipe
from tests.storage.conftest import save_image

CAMERAS = ["canon-eos-700d", "nikon-d850", "pentax-k-5"]
METRICS = ("cycle_psnr_db", "cycle_psnr_matched_db", "cycle_ssim", "cycle_ssim_matched", "cycle_lpips")
ON_GPU = Passes(whole_pixels=20_000, tile=512, batch_pixels=60_000)
"""Small, so that small photographs take all the ways: in batches, whole, and in tiles."""


@pytest.fixture
def by_torch(monkeypatch: pytest.MonkeyPatch) -> Callable[[Method], None]:
    def switch(method: Method) -> None:
        for name, module in list(sys.modules.items()):
            if name.startswith(("aura.", "flows.")) and hasattr(module, "loops_take"):
                monkeypatch.setattr(module, "loops_take", lambda *_: False)
        inverse = replace(Reconstructor.load(method, device="cpu"), passes=ON_GPU)
        monkeypatch.setattr(shard, "reconstructor", lambda *_: inverse)

    return switch


def planned(corpus: Path, url: Path, lpips_share: float, method: Method = "aura") -> Dataset:
    values = {"corpus": str(corpus), "canvas.height": 96, "canvas.width": 96, "cameras": CAMERAS, "iso": 800}
    recipe = load_recipe(
        None,
        values
        | {"noise_model": "generic", "lpips_share": lpips_share, "illuminant_kelvin": [2700, 8000], "method": method},
    )
    ingest(url, recipe)
    plan = write_plan(url, plan_shards(index_batches(url), recipe))
    digest = Reconstructor.load(recipe.method).digest
    return create_or_open(url, recipe, digest, [load_profile(camera) for camera in CAMERAS], plan.samples)


@pytest.mark.parametrize("method", ["aura", "aura_global"])
def test_the_samples_are_those_of_the_loops(tmp_path: Path, by_torch: Callable[[Method], None], method: Method) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name, (height, width) in {"a": (96, 96), "b": (96, 96), "c": (130, 128), "d": (300, 310)}.items():
        save_image(corpus / f"{name}.png", height, width)
    (corpus / "e.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photograph")
    made: list[tuple[np.ndarray, list[dict[str, Any]]]] = []
    for turn in ("loops", "torch"):
        if turn == "torch":
            by_torch(method)
        dataset = planned(corpus, tmp_path / turn, lpips_share=0.5, method=method)
        synthesize_shard(dataset.location.url, 0)
        made.append((np.asarray(dataset.open_raw()[:], np.int32), dataset.samples(0).to_pylist()))
    (by_loops, rows), (with_torch, torch_rows) = made
    assert len(rows) == 11
    assert {row["camera"] for row in rows} == set(CAMERAS)
    for row, other, apart in zip(rows, torch_rows, np.abs(by_loops - with_torch), strict=True):
        electron = row["noise_system_gain_dn_per_electron"]
        assert apart.max() <= electron + 2  # light on the edge of the next electron, and rounding
        assert np.mean(apart > 0.5 * electron) < 0.25
        assert measured(other) == pytest.approx(measured(row), rel=5e-3, abs=5e-4, nan_ok=True)
        assert described(other) == described(row)


def measured(row: dict[str, Any]) -> list[float]:
    values = [row[name] for name in METRICS] + row["channel_mean"] + [row["clipped_fraction"]]
    return [math.nan if value is None else value for value in values]


def described(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in row if not name.startswith(("cycle_", "channel_", "clipped_"))}


class Calls(TorchDispatchMode):
    """Count calls that would start work on a GPU: all but views."""

    def __init__(self) -> None:
        super().__init__()
        self.started = 0

    def __torch_dispatch__(self, call: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.started += not call.is_view
        return call(*args, **(kwargs or {}))


def test_many_samples_take_few_more_calls_than_one(tmp_path: Path, by_torch: Callable[[Method], None]) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    save_image(corpus / "a.png", 288, 384)
    dataset = planned(corpus, tmp_path / "dataset", lpips_share=0.0)
    rows = [row | {"camera": CAMERAS[0]} for row in read_shard_plan(dataset.location, 0).to_pylist()]
    photograph = np.random.default_rng(0).integers(0, 256, (288, 384, 3), np.uint8)
    by_torch("aura")
    inverse = replace(Reconstructor.load(device="cpu"), passes=replace(ON_CPU, whole_pixels=2**20))
    started = []
    for wanted in (rows[:1], rows[:1], rows):  # the first time, tables are made that are kept
        pieces = sample.begin(sample.cut(wanted, photograph), inverse)
        with torch.inference_mode(), Calls() as calls:
            assert len(sample.make_pieces(pieces, dataset)) == len(wanted)
        started.append(calls.started)
    assert len(rows) == 12
    _, one, twelve = started
    assert twelve < 1.1 * one
