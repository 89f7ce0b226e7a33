"""Real developments lie inside the random ISP: LibRaw's tone and colour on the validation files are among its draws."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from aura.bayer import half_size_rgb
from aura.color import luminance, srgb_to_linear
from aura.isp import draw_isp
from aura.sensor.simulate import camera_to_canonical
from aura.tone_curves import curve_axis
from aura.training.development import DevelopedPair, DeveloperName, developed_pair
from aura.training.raw_files import list_raw_files

DRAWS = 600
LEAST_PIXELS = 200
TONE_TOLERANCE = 0.03


class Seen(NamedTuple):
    """A development: its name, canonical light and display values of the same sites, each ``(3, P)``."""

    name: str
    scene: torch.Tensor
    display: torch.Tensor


@pytest.fixture(scope="module")
def seen(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Seen]:
    """LibRaw's developments of all validation files, fixed and automatic brightness."""
    cache = tmp_path_factory.mktemp("developed")
    developers: tuple[DeveloperName, ...] = ("libraw_fixed", "libraw_auto")
    found = [
        developed_pair(file.path, file.description, developer, cache)
        for file in list_raw_files(data_dir / "raw" / "validation")
        for developer in developers
    ]
    # a file without white balance is balanced by guess, and LibRaw's guess is not ours
    return [
        Seen(f"{pair.frame.name} by {pair.developer}", *scene_and_display(pair))
        for pair in found
        if isinstance(pair, DevelopedPair) and pair.frame.wb_source != "daylight"
    ]


def scene_and_display(pair: DevelopedPair) -> tuple[torch.Tensor, torch.Tensor]:
    """Light and display values of 2x2 sites, averaged over 8x8 of them, where nothing is clipped."""
    camera = half_size_rgb(pair.frame.packed())
    light = camera_to_canonical(camera, pair.frame.camera_to_srgb, pair.frame.wb_gains)
    display = torch.nn.functional.avg_pool2d(torch.from_numpy(pair.image.copy()).permute(2, 0, 1).float() / 255.0, 2)
    pooled = [torch.nn.functional.avg_pool2d(each, 8).flatten(1) for each in (light, display, camera)]
    usable = (pooled[2].amax(0) < 0.9) & (pooled[1].amax(0) < 0.97) & (pooled[0].amin(0) > 1e-3)
    return pooled[0][:, usable].float(), pooled[1][:, usable]


def test_their_tone_is_one_of_the_drawn_curves(seen: list[Seen]) -> None:
    axis, isp = curve_axis().numpy(), draw_isp(DRAWS, np.random.default_rng(0))
    curves = isp.tone_curve[:, 0].numpy()
    judged = 0
    for name, scene, display in seen:
        if scene.shape[1] < 13 * LEAST_PIXELS:
            continue
        light, shown = luminance(scene[..., None]).flatten().numpy(), luminance(display[..., None]).flatten().numpy()
        edges = np.quantile(light, np.linspace(0.02, 0.98, 13))
        inside = [(light >= low) & (light < high) for low, high in pairwise(edges)]
        known = [where for where in inside if where.sum() >= LEAST_PIXELS]
        x, y = (np.array([np.median(values[where]) for where in known]) for values in (light, shown))
        judged += 1
        gains = np.exp2(np.linspace(-1.0, 4.0, 41))
        exposed = (gains[:, None] * x).ravel()
        drawn = np.stack([np.interp(exposed, axis, curve) for curve in curves]).reshape(DRAWS, len(gains), len(x))
        least = float(np.abs(drawn - y).max(2).min())
        assert least < TONE_TOLERANCE, (name, least)
    assert judged >= 8


def test_their_colourfulness_is_within_the_drawn_range(seen: list[Seen]) -> None:
    isp = draw_isp(DRAWS, np.random.default_rng(0))
    low, high = float(isp.saturation.min()), float((isp.saturation + isp.vibrance).max())
    for name, scene, display in seen:
        if scene.shape[1] >= LEAST_PIXELS:
            ratio = _colourfulness(srgb_to_linear(display)) / _colourfulness(scene)
            assert low / 1.3 < ratio < 1.3 * high, (name, ratio)


def _colourfulness(linear: torch.Tensor) -> float:
    """Median spread of the channels relative to luminance."""
    light = luminance(linear[..., None]).flatten().clamp_min(1e-4)
    return float(((linear.amax(0) - linear.amin(0)) / light).median())
