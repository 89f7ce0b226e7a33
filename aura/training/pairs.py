"""Training pairs: scene light through a random camera gives RAW, and that through a random ISP gives the photograph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from aura.bayer import CFA_PATTERNS, CfaPattern, half_size_rgb, pack_rgb
from aura.color import apply_matrix, camera_to_srgb_matrix
from aura.isp import develop, draw_isp
from aura.nets.context import Summary, summarise
from aura.sensor.catalog import load_profile, profile_names
from aura.training.scenes import Scene, draw_view

KIND_WEIGHTS: Final = {"hdr": 0.5, "raw": 0.15, "srgb": 0.35}
VIEW_SITES: Final = 384
"""Sites that are kept of a photograph for the global map, which needs no neighbourhoods."""


@dataclass(frozen=True)
class PairBatch:
    """B photographs and the RAW they were made from.

    Attributes:
        image: sRGB ``(B, 3, S, S)``, multiples of 1/255 in [0, 1].
        raw: clean packed RAW ``(B, 4, S/2, S/2)``, 0 = black, 1 = saturation, clipped to [0, 1].
        wb_gains: ``(B, 3)``, green = 1.
        camera_to_srgb: ``(B, 3, 3)``.
        cfa_pattern: of the whole batch.
        summary: of the whole photographs that ``image`` is cut from; None where ``image`` is the whole photograph.
    """

    image: Tensor
    raw: Tensor
    wb_gains: Tensor
    camera_to_srgb: Tensor
    cfa_pattern: CfaPattern
    summary: Summary | None = None


def draw_pairs(
    scenes: Sequence[Scene], batch: int, size: int, seed: Sequence[int], *, own_cameras: bool = False
) -> PairBatch:
    """Make one batch of pairs, a pure function of its arguments.

    Args:
        scenes: sources of light; each kind is drawn by ``KIND_WEIGHTS``.
        batch: number of pairs.
        size: side of the photographs in pixels, even.
        seed: integers, such as (run seed, stage, step).
        own_cameras: see every scene by the camera that took it, not by a random one; only scenes that name theirs.
    """
    rng = np.random.default_rng(list(seed))
    raw, wb_gains, camera_to_srgb, pattern = _draw_captures(scenes, batch, size, rng, own_cameras=own_cameras)
    isp = draw_isp(batch, rng)
    image = develop(_add_noise(raw, rng), pattern, wb_gains, camera_to_srgb, isp)
    return PairBatch(image, raw, wb_gains, camera_to_srgb, pattern)


def _draw_captures(
    scenes: Sequence[Scene], batch: int, size: int, rng: np.random.Generator, *, own_cameras: bool = False
) -> tuple[Tensor, Tensor, Tensor, CfaPattern]:
    """Clean packed RAW of random views by random cameras, with their gains, matrices and one pattern for all."""
    chosen = _draw_scenes(scenes, batch, rng)
    views = torch.stack([draw_view(scene, size, rng) for scene in chosen])
    camera_to_srgb, wb_gains = _cameras_of(chosen) if own_cameras else _draw_cameras(batch, rng)
    pattern = CFA_PATTERNS[int(rng.integers(4))]
    # Physical, not the safe inverse: the light is known beyond saturation, so each channel clips where a sensor's does.
    camera = apply_matrix(views, torch.linalg.inv(camera_to_srgb)) / wb_gains[..., None, None]
    return pack_rgb(camera, pattern).clamp(0.0, 1.0), wb_gains, camera_to_srgb, pattern


@dataclass(frozen=True)
class SummarisedViews:
    """N whole photographs by their summaries, and at some sites of each what it shows and the light it was made from.

    Attributes:
        thumbnail: sRGB ``(N, 3, 48, 48)`` uint8; see :class:`aura.nets.context.Summary`.
        statistics: ``(N, 1940)`` float16; likewise.
        seen: sRGB ``(N, 3, 384)`` float16 in [0, 1], 2x2 pixels averaged at random sites.
        camera: clean camera RGB ``(N, 3, 384)`` float16 at the same sites, 0 = black, 1 = saturation.
        wb_gains: ``(N, 3)``, green = 1.
        camera_to_srgb: ``(N, 3, 3)``.
    """

    thumbnail: Tensor
    statistics: Tensor
    seen: Tensor
    camera: Tensor
    wb_gains: Tensor
    camera_to_srgb: Tensor


def draw_summarised_views(scenes: Sequence[Scene], count: int, size: int, seed: Sequence[int]) -> SummarisedViews:
    """Make photographs of ``size`` pixels a side, and keep of them what a global map learns from.

    They are developed and summarised as any other photograph is, so that what the map reads in training is what it
    reads later: noise, sharpening and JPEG change the statistics that tell one tone curve from another.
    A pure function of its arguments.
    """
    rng = np.random.default_rng(list(seed))
    raw, wb_gains, camera_to_srgb, pattern = _draw_captures(scenes, count, size, rng)
    image = develop(_add_noise(raw, rng), pattern, wb_gains, camera_to_srgb, draw_isp(count, rng))
    summary = summarise(image)
    sites = torch.from_numpy(rng.integers(size**2 // 4, size=(count, 1, VIEW_SITES))).expand(-1, 3, -1)
    seen, camera = (light.flatten(2).gather(2, sites) for light in (F.avg_pool2d(image, 2), half_size_rgb(raw)))
    return SummarisedViews(
        (summary.thumbnail * 255.0).round().to(torch.uint8),
        summary.statistics.half(),
        seen.half(),
        camera.half(),
        wb_gains,
        camera_to_srgb,
    )


def _draw_scenes(scenes: Sequence[Scene], count: int, rng: np.random.Generator) -> list[Scene]:
    of_kind = Counter(scene.kind for scene in scenes)
    weight = np.array([KIND_WEIGHTS[scene.kind] / of_kind[scene.kind] for scene in scenes])
    return [scenes[index] for index in rng.choice(len(scenes), size=count, p=weight / weight.sum())]


def _cameras_of(scenes: Sequence[Scene]) -> tuple[Tensor, Tensor]:
    cameras = [scene.camera for scene in scenes if scene.camera is not None]
    matrices = torch.tensor([camera.camera_to_srgb for camera in cameras], dtype=torch.float32)
    return matrices, torch.tensor([camera.wb_gains for camera in cameras], dtype=torch.float32)


def _draw_cameras(batch: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Random cameras: blends of two catalogued colour matrices, shaken, under a random illuminant."""
    matrices = [np.array(load_profile(name).xyz_to_camera) for name in profile_names()]
    to_srgb, gains = [], []
    for _ in range(batch):
        first, second = rng.integers(len(matrices), size=2)
        blend = rng.random()
        matrix = (
            blend * matrices[first] / matrices[first].sum() + (1 - blend) * matrices[second] / matrices[second].sum()
        )
        to_srgb.append(camera_to_srgb_matrix(matrix * (1 + rng.normal(0.0, 0.03, (3, 3)))))
        warmth = rng.normal(0.0, 0.3)
        gains.append([2.0 * np.exp(warmth + rng.normal(0, 0.12)), 1.0, 1.6 * np.exp(-warmth + rng.normal(0, 0.12))])
    clipped = np.clip(np.array(gains), 1.0, 4.0)
    return torch.tensor(np.array(to_srgb), dtype=torch.float32), torch.tensor(clipped, dtype=torch.float32)


def _add_noise(raw: Tensor, rng: np.random.Generator) -> Tensor:
    """Signal-dependent Gaussian noise, from a large sensor in good light to a small one at night; the ISP sees it."""
    batch = raw.shape[0]
    shot = 10.0 ** rng.normal(-4.3, 0.8, batch).clip(-6.0, -2.6)
    read = shot * 10.0 ** rng.uniform(-3.5, -0.7, batch)
    variance = torch.from_numpy(shot).float().view(-1, 1, 1, 1) * raw + torch.from_numpy(read).float().view(-1, 1, 1, 1)
    noise = torch.from_numpy(rng.standard_normal(raw.shape, dtype=np.float32))
    return raw + variance.sqrt() * noise
