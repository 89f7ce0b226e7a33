"""Photographs taken again by other cameras at other ISOs, and their place in the report."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from aura.sensor.catalog import load_profile
from flows.reports.quality import measure_quality
from flows.reports.report import build_report
from flows.reports.retakes import ISOS, choose_cameras, retake, retakes
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.history import current_index
from storage.recipe import Gates
from tests.flows.conftest import make_dataset, small_recipe, write_photograph


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("retakes")
    (folder / "photographs").mkdir()
    write_photograph(folder / "photographs/<b>.png", 64, 128, seed=1)
    recipe = small_recipe(folder / "photographs", cameras=["gopro-hero7-black", "canon-eos-70d"], lpips_share=0.0)
    return open_dataset(make_dataset(recipe, folder / "dataset"))


def test_noise_grows_with_iso_and_colours_agree() -> None:
    canonical = torch.tensor([0.3, 0.2, 0.1])[:, None, None].expand(3, 64, 64)
    for camera in choose_cameras([]):
        frames = [retake(canonical, camera, iso, 3).astype(float)[8:-8, 8:-8] for iso in ISOS]
        spread = [frame.std(axis=(0, 1)).mean() for frame in frames]
        assert spread == sorted(spread)
        assert spread[-1] > 3 * spread[0]
        np.testing.assert_allclose(frames[0].mean(axis=(0, 1)), [148.9, 123.7, 89.2], atol=2)


def test_cameras_are_the_datasets_own_where_their_noise_is_known() -> None:
    own = [load_profile(name) for name in ("gopro-hero7-black", "nikon-d750", "canon-eos-70d")]
    chosen = [profile.name for profile in choose_cameras(own)]
    assert chosen == ["canon-eos-70d", "canon-eos-5d-mark-iv", "nikon-d850", "sony-ilce-7sm2"]


def test_the_report_shows_four_cameras_at_four_isos(dataset: Dataset) -> None:
    rows = dataset.samples(0).to_pylist()
    taken = retakes(dataset, rows[:1])
    assert len(taken[0].cameras) == len(taken[0].isos) == 4
    quality = measure_quality(dataset, current_index(dataset), dataset.committed_shards())
    page = build_report(dataset, 1, quality, current_index(dataset), Gates(), {}, taken)
    assert page.count("<img") == 1
    assert "Canon EOS 70D, Canon EOS 5D Mark IV" in page
    assert "ISO 100, 400, 1600, 6400" in page
    assert "<b>.png" not in page


def test_a_version_without_a_sample_has_a_report_too(dataset: Dataset) -> None:
    index = current_index(dataset)
    quality = measure_quality(dataset, index, dataset.committed_shards())
    nothing = replace(quality, samples=quality.samples.slice(0, 0), distributions=())
    page = build_report(dataset, 1, nothing, index, Gates(), {}, [])
    assert "<dd>0</dd>" in page
    assert "The samples carry no noise." in page
