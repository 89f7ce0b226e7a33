"""The same photograph taken again by several cameras at several ISOs, as one picture to look at."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from aura.errors import AuraError
from aura.isp import render
from aura.sensor.catalog import load_profile
from aura.sensor.noise import noise_iso_range
from aura.sensor.profile import SensorProfile
from aura.sensor.simulate import draw_capture, normalise_raw, simulate
from flows.reports.pictures import Pixels, Row, display_pixels, source_pixels
from flows.shards.shard import reconstructor
from storage.datasets.dataset import Dataset

ISOS: Final = (100, 400, 1600, 6400)
CAMERA_COUNT: Final = 4
_USUAL_CAMERAS: Final = ("canon-eos-5d-mark-iv", "nikon-d850", "sony-ilce-7sm2", "canon-eos-700d")
_SIDE_PX: Final = 160
_GAP_PX: Final = 4
_TITLE_PX: Final = 18
_GREY: Final = (118, 118, 118)


@dataclass(frozen=True)
class Retakes:
    """A sample's photograph as several cameras at several ISOs would have taken it.

    Attributes:
        row: its row of the samples table.
        cameras: from top to bottom.
        isos: from left to right.
        sheet: uint8 ``(H, W, 3)``: the middle of each frame, pixel for pixel, rendered plainly, with titles.
    """

    row: Row
    cameras: tuple[str, ...]
    isos: tuple[int, ...]
    sheet: Pixels


def retakes(dataset: Dataset, rows: Iterable[Row]) -> list[Retakes]:
    """Take samples again; one whose source is not there is left out, and all are where this place lacks the weights."""
    try:
        inverse = reconstructor(dataset.recipe.method, dataset.recipe.weights, dataset.model_digest)
    except AuraError:
        return []
    cameras = choose_cameras(SensorProfile.model_validate(profile) for profile in dataset.profiles.values())
    taken = []
    for row in rows:
        source = source_pixels(dataset, row)
        if source is None:
            continue
        canonical = _middle(inverse.canonical(source)[0])
        frames = [[retake(canonical, camera, iso, row["seed"]) for iso in ISOS] for camera in cameras]
        titles = tuple(camera.title for camera in cameras)
        taken.append(Retakes(row, titles, ISOS, _sheet(frames, titles)))
    return taken


def choose_cameras(own: Iterable[SensorProfile]) -> list[SensorProfile]:
    """Choose the dataset's own cameras whose noise is known at all of :data:`ISOS`, filled up with usual ones."""
    known = {profile.name: profile for profile in own if profile.noise is not None and _covers(profile)}
    for name in _USUAL_CAMERAS:
        known.setdefault(name, load_profile(name))
    return list(known.values())[:CAMERA_COUNT]


def retake(canonical: Tensor, camera: SensorProfile, iso: int, seed: int) -> Pixels:
    """Take canonical light ``(3, H, W)`` by a camera at an ISO and render it plainly, uint8 ``(H, W, 3)``."""
    capture = draw_capture(camera, iso, seed)
    levels = camera.levels_at(iso)
    raw = normalise_raw(simulate(canonical, capture), levels.black_level, levels.white_level)
    gains, matrix = torch.tensor(capture.wb_gains), torch.tensor(capture.camera_to_srgb)
    return display_pixels(render(raw, camera.cfa_pattern, gains, matrix))


def _covers(profile: SensorProfile) -> bool:
    low, high = noise_iso_range(profile)
    return low <= ISOS[0] and ISOS[-1] <= high


def _middle(canonical: Tensor) -> Tensor:
    top, left = (max(0, (side - _SIDE_PX) // 2) for side in canonical.shape[-2:])
    return canonical[:, top : top + _SIDE_PX, left : left + _SIDE_PX]


def _sheet(frames: Sequence[Sequence[Pixels]], titles: Sequence[str]) -> Pixels:
    height, width = frames[0][0].shape[:2]
    font = ImageFont.load_default(_TITLE_PX - 6)
    longest = max(font.getlength(f"{title}, ISO {ISOS[0]}") for title in titles)
    step_x, step_y = max(width, math.ceil(longest) + 4) + _GAP_PX, height + _GAP_PX + _TITLE_PX
    sheet = Image.new("RGB", (len(frames[0]) * step_x - _GAP_PX, len(frames) * step_y - _GAP_PX), _GREY)
    drawing = ImageDraw.Draw(sheet)
    for line, (pictures, title) in enumerate(zip(frames, titles, strict=True)):
        for column, (picture, iso) in enumerate(zip(pictures, ISOS, strict=True)):
            left, top = column * step_x, line * step_y
            text = f"{title}, ISO {iso}" if column == 0 else f"ISO {iso}"
            drawing.text((left + 2, top + 1), text, fill="white", font=font)
            sheet.paste(Image.fromarray(picture), (left, top + _TITLE_PX))
    return np.asarray(sheet)
