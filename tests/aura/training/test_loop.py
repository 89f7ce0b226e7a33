"""The training loop: exact resume, learning something, and refusing to mix runs; on drawn scenes, no data needed."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from aura.errors import InvalidInputError, MissingFileError
from aura.nets.aura import AuraConfig
from aura.training.batches import PairStream, Sources
from aura.training.configuration import Stage, TrainConfig
from aura.training.loop import train
from aura.training.pairs import draw_pairs
from aura.training.scenes import draw_view, load_scenes

STAGES = (
    Stage(name="denoiser", steps=4, batch=2, size=96, learning_rate=1e-3),
    Stage(name="global", steps=6, batch=2, size=96, learning_rate=2e-3, pool=4),
    Stage(name="joint", steps=4, batch=2, size=96, learning_rate=1e-3),
)


@pytest.fixture(scope="module")
def scenes_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small HDR panoramas of smooth light with a bright sun."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "hdr").mkdir()
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        light = np.kron(rng.uniform(0.05, 1.0, (8, 16, 3)), np.ones((16, 16, 1))).astype(np.float32)
        light[44:52, 40:48] = 300.0
        (folder / "hdr" / f"{name}.hdr").write_bytes(imagecodecs.rgbe_encode(light, header=True))
    return folder


def config(data: Path, out: Path, stages: tuple[Stage, ...] = STAGES) -> TrainConfig:
    return TrainConfig(
        data=data,
        out=out,
        stages=stages,
        architecture=AuraConfig(widths=(8, 8, 8, 8)),
        validate_every=2,
        validation_pairs=2,
        loader_workers=0,
    )


def test_an_interrupted_run_ends_with_the_same_bytes(scenes_folder: Path, tmp_path: Path) -> None:
    straight = train(config(scenes_folder, tmp_path / "straight"))

    class Killed(Exception):  # noqa: N818  # stands for a power cut, not for an error of ours
        pass

    def kill(stage: str, step: int) -> None:
        def on_progress(progress: object) -> None:
            if (progress.stage, progress.step) == (stage, step):  # type: ignore[attr-defined]
                raise Killed

        with pytest.raises(Killed):
            train(config(scenes_folder, tmp_path / "broken"), on_progress)

    kill("denoiser", 3)
    kill("views", 4)
    kill("global", 5)
    kill("joint", 2)
    resumed = train(config(scenes_folder, tmp_path / "broken"))
    assert resumed.weights.read_bytes() == straight.weights.read_bytes()
    rows = [
        [(row["stage"], row["step"], row["loss"]) for row in map(json.loads, (folder / "curves.jsonl").open())]
        for folder in (tmp_path / "straight", tmp_path / "broken")
    ]
    assert rows[0] == rows[1]
    assert straight.curves.stat().st_size > 1000


def test_a_checkpoint_of_another_run_is_refused_by_name(scenes_folder: Path, tmp_path: Path) -> None:
    train(config(scenes_folder, tmp_path, STAGES[1:2]))
    other = config(scenes_folder, tmp_path, STAGES[1:2]).model_copy(update={"seed": 1})
    with pytest.raises(InvalidInputError, match="other seed"):
        train(other)


def test_the_denoiser_learns_to_see_noise(scenes_folder: Path, tmp_path: Path) -> None:
    stage = Stage(name="denoiser", steps=50, batch=4, size=96, learning_rate=3e-3)
    train(config(scenes_folder, tmp_path, (stage,)))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "curves.jsonl").open()]
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:5])


def test_the_backbone_stays_frozen_in_the_joint_stage(scenes_folder: Path, tmp_path: Path) -> None:
    first = load_file(train(config(scenes_folder, tmp_path / "a", STAGES[:1])).weights)
    last = load_file(train(config(scenes_folder, tmp_path / "b", (STAGES[0], STAGES[2]))).weights)
    frozen = [name for name in first if "denoise_net.backbone" in name]
    assert frozen
    assert all(torch.equal(first[name], last[name]) for name in frozen)
    assert any(not torch.equal(first[name], last[name]) for name in first)


def test_an_empty_data_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"hdr/\*\.hdr"):
        train(config(tmp_path, tmp_path / "out"))


def test_a_batch_depends_on_its_step_alone(scenes_folder: Path) -> None:
    scenes = load_scenes(scenes_folder)
    whole = list(PairStream(Sources(scenes), 2, 64, (0, 2), range(4)))
    late = list(PairStream(Sources(scenes), 2, 64, (0, 2), range(2, 4)))
    assert torch.equal(whole[2].image, late[0].image)
    assert torch.equal(whole[3].raw, late[1].raw)
    assert not torch.equal(whole[0].image, whole[1].image)


def test_pairs_are_clean_raw_in_range_beside_an_eight_bit_photograph(scenes_folder: Path) -> None:
    pairs = draw_pairs(load_scenes(scenes_folder), 3, 64, (5,))
    assert pairs.image.shape == (3, 3, 64, 64)
    assert pairs.raw.shape == (3, 4, 32, 32)
    assert 0.0 <= float(pairs.raw.min()) <= float(pairs.raw.max()) <= 1.0
    torch.testing.assert_close(pairs.image * 255, (pairs.image * 255).round(), atol=1e-3, rtol=0)
    assert torch.equal(pairs.wb_gains[:, 1], torch.ones(3))
    torch.testing.assert_close(pairs.camera_to_srgb.sum(2), torch.ones(3, 3), atol=1e-4, rtol=0)


def test_views_of_a_panorama_hold_light_beyond_saturation(scenes_folder: Path) -> None:
    scene = load_scenes(scenes_folder)[0]
    assert scene.panorama
    views = [draw_view(scene, 64, np.random.default_rng(seed)) for seed in range(12)]
    assert all(view.shape == (3, 64, 64) for view in views)
    assert max(float(view.max()) for view in views) > 1.0
    assert min(float(view.min()) for view in views) >= 0.0


def test_real_scenes_load_without_the_validation_files(data_dir: Path) -> None:
    names = {path.stem for path in (data_dir / "raw" / "validation").iterdir()}
    scenes = load_scenes(data_dir)
    assert {scene.kind for scene in scenes} == {"hdr", "raw", "srgb"}
    assert not names & {scene.name for scene in scenes}
