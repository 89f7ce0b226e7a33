"""Samples as DNG files: bit for bit, with what a raw developer and a historian need."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rawpy
import torch
from PIL import Image

from aura.bayer import unpack
from aura.training.raw_files import read_raw
from storage.datasets.dataset import open_dataset
from storage.datasets.publishing import publish
from storage.reading.sample_columns import choose_version, load_samples
from tests.flows.conftest import Aura, make_dataset, small_recipe, write_photograph
from tests.requirements import needs


@pytest.fixture(scope="module")
def dataset(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = small_recipe(corpus, illuminant_kelvin=(2200.0, 9000.0), lpips_share=0.0)
    return make_dataset(recipe, tmp_path_factory.mktemp("export") / "dataset")


def test_every_sample_becomes_a_file_that_libraw_reads_bit_for_bit(
    dataset: Path, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "negatives"
    assert aura("export", "dng", str(dataset), "--out", str(out)) == 0
    opened = open_dataset(dataset)
    rows = [row for shard in opened.committed_shards() for row in opened.samples(shard).to_pylist()]
    assert f"{len(rows)} samples as DNG" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == [f"{row['index']:08d}.dng" for row in rows]
    for row in rows:
        path = out / f"{row['index']:08d}.dng"
        height, width = row["valid_height_px"] // 2, row["valid_width_px"] // 2
        planes = np.asarray(opened.open_raw()[row["index"], :, :height, :width]).astype(np.int32)
        with rawpy.imread(str(path)) as image:
            assert np.array_equal(image.raw_image, unpack(torch.from_numpy(planes), row["cfa_pattern"]).numpy())
        frame = read_raw(path)
        assert frame.cfa_pattern == row["cfa_pattern"]
        assert frame.black_level == tuple(row["black_level_dn"])
        assert frame.white_level == tuple(row["white_level_dn"])
        np.testing.assert_allclose(frame.wb_gains, row["wb_gains"], rtol=1e-4)
        matrix = opened.profiles[row["camera"]]["xyz_to_camera"]
        np.testing.assert_allclose(frame.xyz_to_camera, matrix, atol=1e-5)


def test_an_export_goes_on_where_it_was_stopped(
    dataset: Path, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    order = ("export", "dng", str(dataset), "--out", str(tmp_path))
    assert aura(*order, "--limit", "3") == 0
    first = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(first) == 3
    capsys.readouterr()
    assert aura(*order) == 0
    assert "3 of them there already" in capsys.readouterr().out
    assert all(path.stat().st_mtime_ns == time for path, time in first.items())


def test_files_of_another_dataset_are_not_taken_for_this_ones(
    dataset: Path, corpus: Path, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_dataset(small_recipe(corpus, seed=1, lpips_share=0.0), tmp_path / "other")
    out = tmp_path / "negatives"
    assert aura("export", "dng", str(other), "--out", str(out), "--limit", "1") == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert aura("export", "dng", str(dataset), "--out", str(out)) == 2
    assert f"00000000.dng is not sample 0 of {dataset}" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_what_a_version_leaves_out_is_not_exported(corpus: Path, aura: Aura, tmp_path: Path) -> None:
    made = make_dataset(small_recipe(corpus, lpips_share=0.0), tmp_path / "dataset")
    opened = open_dataset(made)
    gone, *others = load_samples(choose_version(made, None)).to_pylist()
    number = publish(opened, gone={gone["source_sha256"]})
    assert aura("export", "dng", str(made), "--out", str(tmp_path / "out"), "--version", str(number)) == 0
    left = [row["index"] for row in others if row["source_sha256"] != gone["source_sha256"]]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{index:08d}.dng" for index in left]


def test_what_cannot_be_exported_is_refused(
    dataset: Path, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aura("export", "dng", str(tmp_path), "--out", str(tmp_path / "out")) == 2
    assert "holds no dataset" in capsys.readouterr().err
    assert aura("export", "dng", str(dataset), "--out", str(tmp_path / "out"), "--version", "9") == 2
    assert "no version 9" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@needs("exiftool")
def test_provenance_is_in_the_file(dataset: Path, aura: Aura, tmp_path: Path) -> None:
    assert aura("export", "dng", str(dataset), "--out", str(tmp_path), "--limit", "1") == 0
    path = next(tmp_path.iterdir())
    opened = open_dataset(dataset)
    row = next(
        row
        for shard in opened.committed_shards()
        for row in opened.samples(shard).to_pylist()
        if f"{row['index']:08d}" == path.stem
    )
    said = subprocess.run(["exiftool", "-json", "-G1", str(path)], capture_output=True, check=True, timeout=60).stdout
    tags = json.loads(said)[0]
    assert tags["XMP-aura:SourceUri"] == row["source_uri"]
    assert tags["XMP-aura:SourceSha256"] == row["source_sha256"]
    assert str(tags["XMP-aura:Seed"]) == str(row["seed"])
    assert tags["XMP-aura:RecipeDigest"] == opened.recipe.digest
    assert "no camera took it" in tags["XMP-dc:Description"]
    assert tags["IFD0:UniqueCameraModel"].startswith("AURA ")
    assert tags["ExifIFD:ISO"] == row["iso"]
    scale, offset = (float(number) for number in tags["SubIFD:NoiseProfile"].split()[:2])
    range_dn = row["white_level_dn"][0] - row["black_level_dn"][0]
    assert scale * range_dn == pytest.approx(row["noise_system_gain_dn_per_electron"], rel=1e-4)
    assert offset * range_dn**2 == pytest.approx(
        row["noise_read_sigma_dn"] ** 2 + row["noise_row_sigma_dn"] ** 2 + 1 / 12, rel=1e-4
    )


def test_reconstruct_writes_negatives_of_any_camera_and_iso(
    aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = tmp_path / "in"
    photographs.mkdir()
    write_photograph(photographs / "one.png", 97, 131, seed=1)
    Image.fromarray(np.full((64, 80, 3), 128, np.uint8)).save(photographs / "grey.png")
    order = ("reconstruct", "--folder", str(photographs), "--method", "linearise", "--device", "cpu", "--dng")
    options = ("--camera", "sony-ilce-7sm2", "--iso", "1600", "--output")
    assert aura(*order, *options, str(tmp_path / "out")) == 0
    assert "NAME.dng, ISO 1600" in capsys.readouterr().out
    one, grey = (read_raw(tmp_path / f"out/{name}.dng") for name in ("one", "grey"))
    assert one.mosaic.shape == (96, 130)
    assert one.camera == "AURA Sony ILCE-7SM2"
    balanced = grey.packed().mean(dim=(1, 2))[[0, 1, 3]] * torch.tensor(grey.wb_gains)
    np.testing.assert_allclose(balanced, 0.216, rtol=0.02)  # sRGB 128
    assert float(grey.packed()[1].std()) > 0.004
    assert aura(*order, *options, str(tmp_path / "again")) == 0
    assert (tmp_path / "again/one.dng").read_bytes() == (tmp_path / "out/one.dng").read_bytes()
    capsys.readouterr()
    assert aura(*order, "--camera", "nikon-d750", "--output", str(tmp_path / "none")) == 2
    assert "generic" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
