"""Scenes to train on: which way is up, how bright they are, and that what is clipped is never called dark."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch

from aura.color import luminance
from aura.errors import InvalidInputError, MissingFileError
from aura.training.scenes import Scene, draw_view, held_out_names, load_scenes, scenes_digest


def panorama() -> Scene:
    """Red falls from zenith to nadir, green and blue go once around the horizon."""
    elevation, azimuth = np.meshgrid(np.linspace(1, 0, 128), np.linspace(-np.pi, np.pi, 256), indexing="ij")
    light = np.stack([0.05 + elevation, 1.2 + np.cos(azimuth), 1.2 + np.sin(azimuth)])
    return Scene("room", "hdr", torch.from_numpy(light).half(), panorama=True)


def test_views_of_a_panorama_have_the_sky_above_and_the_east_to_the_right_or_are_mirrored() -> None:
    mirrored = 0
    for seed in range(24):
        view = draw_view(panorama(), 48, np.random.default_rng(seed))
        assert view.shape == (3, 48, 48)
        middle = view[:, :, 20:28].mean(2)
        rising = float((middle[0] / middle[1:].sum(0)).diff().max())
        assert rising < 1e-3, "red must fall from the top row to the bottom"
        row = view[:, 24]
        # the gain is unknown: of g (1.2 + cos), g (1.2 + sin) the change of angle tells the direction
        gain = (row[1] + row[2]).mean() / 2.4
        angle = np.unwrap(torch.atan2(row[2] / gain - 1.2, row[1] / gain - 1.2).numpy())
        mirrored += angle[-1] < angle[0]
    assert 4 < mirrored < 20


def test_high_dynamic_range_is_exposed_by_its_median() -> None:
    light = torch.rand(3, 80, 90, generator=torch.Generator().manual_seed(0)) * 2
    light[:, :4, :4] = 3000.0
    scene = Scene("lamp", "hdr", light.half())
    medians = []
    for seed in range(60):
        view = draw_view(scene, 48, np.random.default_rng(seed))
        medians.append(float(luminance(view).median()))
    assert 0.9 * 2**-6.5 < max(medians) <= 1.1 * 2**-1.3
    assert 0.03 < np.median(medians) < 0.2  # a ninth of saturation, where no lamp is spared
    assert min(medians) < 0.03


@pytest.mark.parametrize("kind", ["raw", "srgb"])
def test_what_is_clipped_is_never_darkened(kind: str) -> None:
    clipped = Scene("clipped", kind, torch.full((3, 64, 64), 1.0).half())  # type: ignore[arg-type]  # parametrised
    whole = Scene("whole", kind, torch.full((3, 64, 64), 0.5).half())  # type: ignore[arg-type]
    views = [
        [float(draw_view(scene, 32, np.random.default_rng(seed)).mean()) for seed in range(60)]
        for scene in (clipped, whole)
    ]
    assert min(views[0]) >= 0.999
    assert min(views[1]) < 0.25
    assert max(views[1]) > 0.8
    assert min(views[1]) >= 0.5 * 2**-2 and max(views[1]) <= 0.5 * 2**1.5 * 1.001  # noqa: PT018  # one range


def test_hdr_files_are_brought_to_a_median_of_one(tmp_path: Path) -> None:
    (tmp_path / "hdr").mkdir()
    light = np.random.default_rng(0).uniform(20, 60, (32, 64, 3)).astype(np.float32)
    (tmp_path / "hdr" / "one.hdr").write_bytes(imagecodecs.rgbe_encode(light, header=True))
    (tmp_path / "hdr" / "night.hdr").write_bytes(imagecodecs.rgbe_encode(0 * light, header=True))
    (scene,) = load_scenes(tmp_path)  # one without light is left out
    assert (scene.name, scene.kind, scene.panorama) == ("one", "hdr", True)
    assert float(luminance(scene.light.float()).median()) == pytest.approx(1.0, rel=0.01)


def test_validation_files_are_no_scenes(tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    entry = {"reader": "headerless uint16 little-endian", "camera": "t", "cfa_pattern": "RGGB", "shape": [64, 64]}
    entry |= {"black_level": 0, "white_level": 1023}
    for place in ("train", "validation"):
        (folder / place).mkdir(parents=True)
        (folder / place / f"{place}.raw").write_bytes(np.full((64, 64), 500, "<u2").tobytes())
    entries = [entry | {"file": f"{place}/{place}.raw"} for place in ("validation", "train")]
    (folder / "manifest.json").write_text(json.dumps(entries))
    assert [scene.name for scene in load_scenes(tmp_path)] == ["train"]
    (folder / "manifest.json").write_text(json.dumps(entries[:1]))
    with pytest.raises(MissingFileError, match="No training scenes"):
        load_scenes(tmp_path)


def test_what_judges_is_decided_by_its_name_alone() -> None:
    names = [f"scene-{number}" for number in range(400)]
    chosen = held_out_names(names)
    assert 25 < len(chosen) < 80
    assert held_out_names([*reversed(names), "another"]) - {"another"} == chosen
    assert len(held_out_names(["one", "two"])) == 1
    with pytest.raises(InvalidInputError, match="at least 2"):
        held_out_names(["one", "one"])


def test_scenes_are_told_apart_by_their_light() -> None:
    scene = panorama()
    darker = Scene(scene.name, scene.kind, scene.light / 2, scene.panorama)
    assert scenes_digest([scene]) == scenes_digest([panorama()])
    assert len({scenes_digest(each) for each in ([scene], [darker], [scene, darker], [darker, scene], [])}) == 5
