"""Pairs of one camera: the published format and RAW files with the camera's own JPEG."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import rawpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aura.errors import InvalidInputError, MissingFileError
from aura.nets.aura import Aura, AuraConfig
from aura.training.batches import load_sources
from aura.training.camera_pairs import CameraFolder, draw_camera_pairs, load_camera_photographs
from aura.training.checkpoint import save_weights
from aura.training.configuration import Stage, TrainConfig
from aura.training.loop import train
from aura.training.pairs import draw_pairs
from aura.training.scenes import held_out_names, load_scenes

WHITE, BLACK = 4095.0, 256.0


def write_pair(folder: Path, name: str, *, seed: int, side: int = 128, gamma: float = 1.0) -> np.ndarray:
    """Write a photograph whose RAW is its value to the power of ``gamma``, and return the digital numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    cells = np.random.default_rng(seed).integers(20, 236, (side // 8, side // 8, 3), dtype=np.uint8)
    image = np.kron(cells, np.ones((8, 8, 1), np.uint8))
    Image.fromarray(image).save(folder / f"{name}.png")
    light = (image / 255.0) ** gamma
    planes = [light[0::2, 0::2, 0], light[0::2, 1::2, 1], light[1::2, 0::2, 1], light[1::2, 1::2, 2]]
    raw = np.round(BLACK + np.stack(planes, axis=-1) * (WHITE - BLACK)).astype(np.uint16)
    np.save(folder / f"{name}.npy", raw)
    return raw


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed in range(3):
        write_pair(tmp_path / "pairs", f"one{seed}", seed=seed)
    return tmp_path / "pairs"


def described(folder: Path, **changes: object) -> CameraFolder:
    return CameraFolder.model_validate({"folder": folder, "white_level": WHITE, "black_level": BLACK} | changes)


def test_pairs_arrive_normalised_and_site_on_pixel(folder: Path) -> None:
    photographs = load_camera_photographs(described(folder))
    assert [photograph.name for photograph in photographs] == ["one0", "one1", "one2"]
    batch = draw_camera_pairs(photographs, 4, 64, (1,))
    assert batch.image.shape == (4, 3, 64, 64)
    seen = batch.image[:, (0, 1, 1, 2)]
    sites = torch.stack([seen[:, plane, row::2, col::2] for plane, (row, col) in enumerate(np.ndindex(2, 2))], dim=1)
    torch.testing.assert_close(batch.raw, sites, atol=1e-3, rtol=0)
    assert batch.summary is not None
    assert batch.summary.thumbnail.shape == (4, 3, 48, 48)
    assert torch.equal(batch.wb_gains[:, 1], torch.ones(4))


def test_gains_make_the_mean_of_what_is_not_clipped_grey(tmp_path: Path) -> None:
    raw = write_pair(tmp_path, "lamp", seed=0).astype(np.float64)
    raw[..., 0], raw[..., 3] = 0.5 * (raw[..., 0] - BLACK) + BLACK, 0.25 * (raw[..., 3] - BLACK) + BLACK
    raw[:32, :32] = WHITE  # a lamp says nothing of the light's colour
    np.save(tmp_path / "lamp.npy", np.round(raw).astype(np.uint16))
    write_pair(tmp_path, "other", seed=1)
    photograph = load_camera_photographs(described(tmp_path))[0]
    seen = raw[32:].reshape(-1, 4).mean(axis=0), raw[:32, 32:].reshape(-1, 4).mean(axis=0)
    red, green_red, green_blue, blue = (2 * seen[0] + seen[1]) / 3 - BLACK
    green = 0.5 * (green_red + green_blue)
    assert photograph.wb_gains.tolist() == pytest.approx([green / red, 1.0, green / blue], rel=2e-3)


def test_the_white_level_is_never_guessed(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"white level.*--white-level"):
        load_camera_photographs(CameraFolder(folder=folder))
    with pytest.raises(ValueError, match="not above black_level"):
        described(folder, white_level=BLACK)


def test_a_batch_depends_on_its_seed_alone(folder: Path) -> None:
    photographs = load_camera_photographs(described(folder))
    first, again, other = (draw_camera_pairs(photographs, 3, 32, (seed, 7)) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image)
    assert torch.equal(first.raw, again.raw)
    assert not torch.equal(first.image, other.image)


def test_a_bad_pair_is_named_and_the_others_are_used(folder: Path) -> None:
    raw = np.load(folder / "one0.npy")
    np.save(folder / "one0.npy", raw[:-1])
    (folder / "one1.npy").unlink()
    write_pair(folder, "two", seed=9)
    bright = np.load(folder / "one2.npy").astype(np.float32)
    bright[0, 0, 0] = 16383
    np.save(folder / "one2.npy", bright)
    left_out: dict[str, str] = {}
    photographs = load_camera_photographs(described(folder), left_out.__setitem__)
    assert [photograph.name for photograph in photographs] == ["two"]
    assert "expected (64, 64, 4)" in left_out["one0.png"]
    assert "no one1.npy" in left_out["one1.png"]
    assert "correct the white level" in left_out["one2.png"]


def test_a_photograph_in_other_colours_than_srgb_is_left_out_with_their_name(folder: Path) -> None:
    with Image.open(folder / "one0.png") as image:
        image.save(folder / "one0.png", icc_profile=bytes(imagecodecs.cms_profile("adobergb")))
    left_out: dict[str, str] = {}
    photographs = load_camera_photographs(described(folder), left_out.__setitem__)
    assert [photograph.name for photograph in photographs] == ["one1", "one2"]
    assert "Adobe RGB" in left_out["one0.png"]
    assert "expected sRGB" in left_out["one0.png"]


def test_arrays_of_objects_are_not_unpickled(tmp_path: Path) -> None:
    write_pair(tmp_path, "one", seed=1)
    np.save(tmp_path / "one.npy", np.full((64, 64, 4), None), allow_pickle=True)
    with pytest.raises(InvalidInputError, match="No pair"):
        load_camera_photographs(described(tmp_path))


@pytest.mark.parametrize(("kept", "missing"), [(".png", "one0.npy, its packed"), (".npy", "one0.png, its photograph")])
@pytest.mark.parametrize("white_level", [None, WHITE])
def test_pairs_without_their_other_half_say_which_file_is_missing(
    folder: Path, kept: str, missing: str, white_level: float | None
) -> None:
    for path in folder.iterdir():
        if path.suffix != kept:
            path.unlink()
    with pytest.raises(MissingFileError, match=f"holds one0{kept}, but not {missing}"):
        load_camera_photographs(described(folder, white_level=white_level))


def test_a_folder_that_is_not_there_or_holds_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"NAME\.npy"):
        load_camera_photographs(described(tmp_path / "none"))
    with pytest.raises(MissingFileError, match="No RAW file below"):
        load_camera_photographs(described(tmp_path))
    (tmp_path / "one.dng").touch()
    with pytest.raises(InvalidInputError, match="leave white_level out"):
        load_camera_photographs(described(tmp_path))


@settings(max_examples=30)
@given(st.sets(st.text(min_size=1, max_size=8), min_size=2, max_size=40))
def test_something_trains_and_something_else_judges(names: set[str]) -> None:
    held_out = held_out_names(names)
    assert held_out < names
    assert held_out
    assert held_out == held_out_names(sorted(names))


def test_fine_tuning_learns_the_cameras_own_curve_on_photographs_it_did_not_see(tmp_path: Path) -> None:
    for seed in range(6):
        write_pair(tmp_path / "pairs", f"one{seed}", seed=seed, gamma=1.2)
    save_weights(Aura(AuraConfig(widths=(8, 8, 8, 8))), tmp_path / "start.safetensors")
    config = TrainConfig(
        data=None,
        out=tmp_path / "out",
        camera=described(tmp_path / "pairs"),
        initial_weights=tmp_path / "start.safetensors",
        stages=(Stage(name="fine_tune", steps=40, batch=4, size=96, learning_rate=3e-3),),
        validation_pairs=4,
        loader_workers=0,
        lpips_every=40,
    )
    train(config)
    scores = json.loads((tmp_path / "out/aura.json").read_text())["held_out_scenes_psnr_aligned_db"]
    assert scores["aura"] > scores["before"] + 3.0


def test_a_cameras_own_jpeg_is_its_pair_and_its_light_is_seen_by_itself(data_dir: Path, tmp_path: Path) -> None:
    files = sorted((data_dir / "raw/train").glob("*.CRW"))[:2]
    if len(files) < 2:
        pytest.skip("needs two CRW files in the training data")
    for file in files:
        shutil.copy(file, tmp_path)
        with rawpy.imread(str(file)) as raw:
            Image.fromarray(raw.postprocess(use_camera_wb=True, user_flip=0)).save(tmp_path / f"{file.stem}.JPG")
    config = TrainConfig(data=None, out=tmp_path / "out", camera=CameraFolder(folder=tmp_path))
    sources, held_out = load_sources(config)
    names = [{*(scene.name for scene in each.scenes)} for each in (sources, held_out)]
    assert names[0].isdisjoint(names[1])
    assert names[0] | names[1] == {file.stem for file in files}
    assert len(sources.photographs) == len(held_out.photographs) == 1
    photograph = sources.photographs[0]
    assert photograph.images.shape[-1] == 2 * photograph.raws.shape[-1]
    scene = load_scenes(None, [tmp_path])[0]
    assert scene.camera is not None
    batch = draw_pairs([scene], 2, 64, (3,), own_cameras=True)
    torch.testing.assert_close(batch.wb_gains[0], torch.tensor(scene.camera.wb_gains))
    torch.testing.assert_close(batch.camera_to_srgb[1], torch.tensor(scene.camera.camera_to_srgb))
