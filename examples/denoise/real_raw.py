"""Real RAW files as a dataset of the same format, so that one stream mixes real and synthesized RAW by weight.

The light that a file recorded is expressed in the digital numbers of a camera whose noise is calibrated, as in ELD (Wei
et al., CVPR 2020); that camera's noise, at any ISO, is then added while reading. So the files should be well exposed at
a low ISO: their own noise stays in what is called clean. CFA pattern, white balance and colour matrix are the file's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from aura.errors import InvalidInputError
from aura.sensor.catalog import load_profile
from aura.sensor.profile import SensorProfile
from aura.training.raw_files import RawFrame, list_raw_files, read_raw
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.plan import Crop, crops_of
from storage.datasets.publishing import publish
from storage.datasets.samples import SampleRow
from storage.datasets.shard import ShardData, write_shard
from storage.recipe import Recipe, load_recipe

CALIBRATED: Final = (
    "canon-eos-5d-mark-iv",
    "canon-eos-700d",
    "canon-eos-70d",
    "nikon-d850",
    "sony-ilce-7sm2",
)
"""The cameras whose noise ELD calibrated."""

LEVELS_ISO: Final = 800
"""Black and white level are the camera's at this ISO."""

_NOTHING_INVERTED: Final = "real RAW files: nothing was inverted"


@dataclass(frozen=True, slots=True)
class _Tile:
    frame: RawFrame
    sha256: str
    crop: Crop
    raw: npt.NDArray[np.float32]


def write_real_raw(
    folder: Path,
    url: str,
    *,
    cameras: Sequence[str] = CALIBRATED,
    canvas: int = 512,
    seed: int = 0,
    on_file: Callable[[int, int], None] | None = None,
) -> Dataset:
    """Write the RAW files of a folder as a dataset, cut into tiles; it must fit into memory.

    Args:
        folder: RAW files, or headerless dumps beside a ``manifest.json`` (:mod:`aura.training.raw_files`).
        url: where the dataset goes: a folder or ``s3://``. Given again, it finds the same bytes there.
        cameras: profiles with a noise calibration; each tile draws one.
        canvas: side of the tiles in mosaic pixels, a multiple of 16; smaller remainders are left out.
        seed: of the draws.
        on_file: is told the number of files read, and of all.

    Raises:
        MissingFileError: there is no such folder, or no RAW file below it.
        InvalidInputError: a file cannot be read, or none gives a tile.
        DatasetConflictError: the place holds something else.
        StorageError: the storage refused.
    """
    sides = {"canvas.height": canvas, "canvas.width": canvas, "canvas.min_side": canvas}
    recipe = load_recipe(
        None,
        {"corpus": str(folder), "cameras": list(cameras), "iso": LEVELS_ISO, "noise": "none", "seed": seed}
        | {"method": "linearise", "keep_srgb": False, "shard_size": 16}
        | sides,
    )
    tiles = list(_tiles(folder, recipe, on_file))
    if not tiles:
        raise InvalidInputError(
            f"No RAW file of {folder} is as large as a tile of {canvas} pixels; take smaller tiles."
        )
    profiles = [load_profile(camera) for camera in cameras]
    dataset = create_or_open(url, recipe, _NOTHING_INVERTED, profiles, len(tiles))
    for shard in range(dataset.shard_count):
        start, stop = dataset.shard_bounds(shard)
        made = [_sample(index, tiles[index], profiles, seed) for index in range(start, stop)]
        raw, rows = zip(*made, strict=True)
        write_shard(dataset, shard, ShardData(np.stack(raw), None, rows))
    publish(dataset)
    return dataset


def _tiles(folder: Path, recipe: Recipe, on_file: Callable[[int, int], None] | None) -> Iterator[_Tile]:
    files = list_raw_files(folder)
    for done, file in enumerate(files):
        frame = read_raw(file.path, file.description)
        light = frame.packed().numpy()
        sha256 = hashlib.sha256(file.path.read_bytes()).hexdigest()
        height, width = frame.mosaic.shape
        for crop in crops_of(height, width, recipe.canvas):
            top, left, side = crop.top // 2, crop.left // 2, crop.height // 2
            yield _Tile(frame, sha256, crop, light[:, top : top + side, left : left + side].copy())
        if on_file is not None:
            on_file(done + 1, len(files))


def _sample(
    index: int, tile: _Tile, profiles: Sequence[SensorProfile], seed: int
) -> tuple[npt.NDArray[np.uint16], SampleRow]:
    """Express a tile in DN of a camera that follows from its content and place."""
    crop = tile.crop
    name = f"{tile.sha256[:16]}-{crop.top}-{crop.left}-{crop.height}x{crop.width}"
    draw = hashlib.sha256(f"{seed} {name}".encode()).digest()
    profile = profiles[int.from_bytes(draw[:8], "big") % len(profiles)]
    levels = profile.levels_at(LEVELS_ISO)
    black, white = (np.array(level, np.float32)[:, None, None] for level in (levels.black_level, levels.white_level))
    raw = np.clip(np.rint(black + tile.raw * (white - black)), 0, white).astype(np.uint16)
    row = SampleRow(
        index=index,
        sample_id=name,
        source_uri=tile.frame.name,
        source_sha256=tile.sha256,
        crop_top_px=crop.top,
        crop_left_px=crop.left,
        crop_height_px=crop.height,
        crop_width_px=crop.width,
        valid_height_px=crop.valid_height,
        valid_width_px=crop.valid_width,
        camera=profile.name,
        cfa_pattern=tile.frame.cfa_pattern,
        black_level_dn=levels.black_level,
        white_level_dn=levels.white_level,
        iso=LEVELS_ISO,
        noise_model="none",
        noise_system_gain_dn_per_electron=0.0,
        noise_read_sigma_dn=0.0,
        noise_read_tukey_lambda=None,
        noise_row_sigma_dn=0.0,
        noise_black_offset_dn=(0.0, 0.0, 0.0, 0.0),
        noise_quantisation_step_dn=1.0,
        exposure=1.0,
        wb_gains=tile.frame.wb_gains,
        camera_to_srgb=tile.frame.camera_to_srgb.ravel().tolist(),
        seed=int.from_bytes(draw[8:16], "big") >> 1,
        clipped_fraction=float((raw >= white).mean()),
        channel_mean=tile.raw.mean(axis=(1, 2)).tolist(),
    )
    return raw, row
