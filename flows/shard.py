"""One shard of a dataset: a pure function of the recipe and the shard's slice of the plan.

The same shard gives the same bytes on any worker, in any order, however often it is made. It may be killed at any
moment: a shard without its samples table does not exist.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aura.errors import IntegrityError, RejectedImageError
from aura.isp import render
from aura.metrics import CycleQuality, cycle_quality
from aura.perceptual import Lpips
from aura.reconstruct import Method, Reconstructor, Window
from aura.sensor.profile import SensorProfile
from aura.sensor.simulate import Capture, draw_capture, normalise_raw, simulate
from storage.corpus import read_source
from storage.dataset import Dataset, open_dataset
from storage.lease import LeaseToken
from storage.photograph import decode
from storage.plan import place, read_shard_plan
from storage.recipe import Recipe
from storage.samples import RejectRow, SampleRow
from storage.shard import ShardData, is_committed, write_shard
from storage.sources import source_name

PlanRow = dict[str, Any]
_SOURCE_KEY: Final = ("source_uri", "source_member", "source_offset_bytes")  # a tar may hold a name twice
Photograph = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ShardReport:
    """What became of a shard.

    Attributes:
        shard: its number.
        samples: samples made.
        rejects: planned samples that could not be made.
        pixels: valid mosaic pixels made.
        seconds: wall time of the work.
        skipped: it was committed before, and nothing was done.
    """

    shard: int
    samples: int = 0
    rejects: int = 0
    pixels: int = 0
    seconds: float = 0.0
    skipped: bool = False


@dataclass(frozen=True)
class Sample:
    """A finished sample, without padding.

    Attributes:
        raw: uint16 DN ``(4, h, w)``, planes R, Gr, Gb, B.
        srgb: the pixels it was made from, uint8 ``(3, 2h, 2w)``.
        row: what is known about it.
    """

    raw: npt.NDArray[np.uint16]
    srgb: npt.NDArray[np.uint8]
    row: SampleRow


def synthesize_shard(
    dataset_url: str, shard: int, weights: str | None = None, lease: LeaseToken | None = None
) -> ShardReport:
    """Make one shard and commit it; do nothing if it is committed already.

    Args:
        dataset_url: a dataset that was created and planned.
        shard: its number.
        weights: where the weights lie now; None for the released ones. Their digest is what counts.
        lease: of the run that this is done for; nothing is written once it is lost.

    Raises:
        IntegrityError: this worker has other weights than the dataset was begun with.
        LeaseLostError: another run has taken over.
        StorageError: the storage refused; the shard stays uncommitted and may be made again.
    """
    started = time.perf_counter()
    dataset = open_dataset(dataset_url)
    if is_committed(dataset, shard):
        return ShardReport(shard, skipped=True)
    data, rejects = make_samples(dataset, shard, weights)
    write_shard(dataset, shard, data, rejects, permit=lease.require if lease else None)
    pixels = sum(row.valid_height_px * row.valid_width_px for row in data.rows)
    return ShardReport(shard, len(data.rows), len(rejects), pixels, time.perf_counter() - started)


def make_samples(dataset: Dataset, shard: int, weights: str | None = None) -> tuple[ShardData, list[RejectRow]]:
    """Make the samples of a shard, and keep them to itself.

    Args:
        dataset: a dataset that was created and planned.
        shard: its number.
        weights: where the weights lie now; None for the released ones.

    Returns:
        What is to be stored, and what could not be made.

    Raises:
        IntegrityError: this worker has other weights than the dataset was begun with.
        StorageError: the storage refused to give a photograph.
    """
    recipe = dataset.recipe
    inverse = reconstructor(recipe.method, weights, dataset.model_digest)
    samples: list[Sample] = []
    rejects: list[RejectRow] = []
    for rows, photograph in _photographs(read_shard_plan(dataset.location, shard).to_pylist(), recipe):
        try:
            samples += _make_samples(rows, photograph.result(), dataset, inverse)
        except RejectedImageError as error:
            rejects += [_reject(row, error) for row in rows]
    return _stack(samples, dataset, shard), rejects


def needs_lpips(sample_id: str, share: float) -> bool:
    """Tell whether a sample is one of the share on which LPIPS is measured; it follows from the sample alone."""
    return int(hashlib.sha256(sample_id.encode()).hexdigest()[:8], 16) < share * 2**32


@lru_cache(maxsize=2)
def reconstructor(method: Method, weights: str | None, digest: str) -> Reconstructor:
    """Load a reconstructor, once in the life of a worker process.

    Raises:
        IntegrityError: its digest is another one.
    """
    loaded = Reconstructor.load(method, Path(weights) if weights else None)
    if loaded.digest != digest:
        raise IntegrityError(
            f"This worker's {method} weights have digest {loaded.digest[:12]}, the dataset was begun with "
            f"{digest[:12]}; install the same release on every worker, or make a new dataset."
        )
    return loaded


@lru_cache(maxsize=1)
def perceptual_metric() -> Lpips:
    """Load LPIPS, once in the life of a worker process."""
    return Lpips()


def _photographs(rows: Sequence[PlanRow], recipe: Recipe) -> Iterator[tuple[list[PlanRow], "Future[Photograph]"]]:
    """Yield each source's rows with its photograph, while the next one is read and decoded on another thread."""
    sources = [list(group) for _, group in groupby(rows, key=itemgetter(*_SOURCE_KEY))]
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as reader:
        coming = reader.submit(_read_photograph, sources[0][0], recipe)
        for position, source in enumerate(sources):
            photograph = coming
            if position + 1 < len(sources):
                coming = reader.submit(_read_photograph, sources[position + 1][0], recipe)
            yield source, photograph


def _read_photograph(row: PlanRow, recipe: Recipe) -> Photograph:
    # torch takes arrays that may be written only; a decoder's may be a view of its file
    return np.require(decode(read_source(row), recipe.limits).image, requirements=["C", "W"])


def _make_samples(
    rows: list[PlanRow], photograph: Photograph, dataset: Dataset, inverse: Reconstructor
) -> list[Sample]:
    pieces = [place(photograph, row) for row in rows]
    canonicals = _canonicals(rows, photograph, pieces, inverse)
    return [
        _make_sample(row, piece, canonical, dataset)
        for row, piece, canonical in zip(rows, pieces, canonicals, strict=True)
    ]


def _canonicals(
    rows: list[PlanRow], photograph: Photograph, pieces: list[Photograph], inverse: Reconstructor
) -> list[Tensor]:
    """Invert each piece: as a window of its photograph, or by itself if it is the whole photograph shrunk."""
    windows = [
        Window(row["crop_top_px"], row["crop_left_px"], row["crop_height_px"], row["crop_width_px"]) for row in rows
    ]
    if all(piece.shape[:2] == window[2:] for piece, window in zip(pieces, windows, strict=True)):
        return inverse.canonical(photograph, windows)
    return [inverse.canonical(piece)[0] for piece in pieces]


def _make_sample(row: PlanRow, piece: Photograph, canonical: Tensor, dataset: Dataset) -> Sample:
    recipe = dataset.recipe
    profile = SensorProfile.model_validate(dataset.profiles[row["camera"]])
    model = "none" if recipe.noise == "none" else recipe.noise_model
    capture = draw_capture(
        profile, row["iso"], row["seed"], noise_model=model, illuminant_kelvin=recipe.illuminant_kelvin
    )
    raw = simulate(canonical, replace(capture, noise=None) if recipe.noise == "on_read" else capture)
    levels = profile.levels_at(row["iso"])
    normalised = normalise_raw(raw, levels.black_level, levels.white_level)
    source = torch.from_numpy(piece).permute(2, 0, 1)
    metric = perceptual_metric() if needs_lpips(row["sample_id"], recipe.lpips_share) else None
    quality = cycle_quality(source / 255, _rendered(normalised, capture), metric)
    clipped = (raw >= torch.tensor(levels.white_level)[:, None, None]).float().mean().item()
    return Sample(
        raw=raw.numpy().astype(np.uint16),
        srgb=np.ascontiguousarray(source.numpy()),
        row=_sample_row(row, capture, model, quality, clipped, normalised.mean(dim=(1, 2)).tolist()),
    )


def _rendered(normalised: Tensor, capture: Capture) -> Tensor:
    gains, matrix = torch.tensor(capture.wb_gains), torch.tensor(capture.camera_to_srgb)
    return render(normalised, capture.profile.cfa_pattern, gains, matrix)


def _sample_row(
    row: PlanRow, capture: Capture, noise_model: str, quality: CycleQuality, clipped: float, channel_mean: list[float]
) -> SampleRow:
    levels = capture.profile.levels_at(capture.iso)
    noise = capture.noise
    planned = (
        *("index", "sample_id", "source_uri", "source_member", "source_sha256"),
        *("crop_top_px", "crop_left_px", "crop_height_px", "crop_width_px", "valid_height_px", "valid_width_px"),
        *("camera", "iso", "seed"),
    )
    return SampleRow(
        **{name: row[name] for name in planned},
        cfa_pattern=capture.profile.cfa_pattern,
        black_level_dn=levels.black_level,
        white_level_dn=levels.white_level,
        noise_model=noise_model,
        noise_system_gain_dn_per_electron=noise.system_gain_dn_per_electron if noise else 0.0,
        noise_read_sigma_dn=noise.read_sigma_dn if noise else 0.0,
        noise_read_tukey_lambda=noise.read_tukey_lambda if noise else None,
        noise_row_sigma_dn=noise.row_sigma_dn if noise else 0.0,
        noise_black_offset_dn=noise.black_offset_dn if noise else (0.0, 0.0, 0.0, 0.0),
        noise_quantisation_step_dn=noise.quantisation_step_dn if noise else 1.0,
        exposure=capture.exposure,
        wb_gains=capture.wb_gains,
        camera_to_srgb=list(chain.from_iterable(capture.camera_to_srgb)),
        cycle_psnr_db=quality.psnr,
        cycle_psnr_matched_db=quality.psnr_matched,
        cycle_ssim=quality.ssim,
        cycle_ssim_matched=quality.ssim_matched,
        cycle_lpips=quality.lpips,
        cycle_lpips_matched=quality.lpips_matched,
        clipped_fraction=clipped,
        channel_mean=channel_mean,
    )


def _reject(row: PlanRow, error: RejectedImageError) -> RejectRow:
    return RejectRow(
        index=row["index"],
        source_uri=source_name(row["source_uri"], row["source_member"]),
        source_sha256=row["source_sha256"],
        reason=error.reason,
        detail=str(error),
    )


def _stack(samples: list[Sample], dataset: Dataset, shard: int) -> ShardData:
    """Lay the samples on their canvases, each in its slot of the shard."""
    start, stop = dataset.shard_bounds(shard)
    canvas = dataset.recipe.canvas
    raw = np.zeros((stop - start, 4, canvas.height // 2, canvas.width // 2), np.uint16)
    srgb = np.zeros((stop - start, 3, canvas.height, canvas.width), np.uint8) if dataset.recipe.keep_srgb else None
    for sample in samples:
        slot = sample.row.index - start
        _, height, width = sample.raw.shape
        raw[slot, :, :height, :width] = sample.raw
        if srgb is not None:
            srgb[slot, :, : 2 * height, : 2 * width] = sample.srgb
    return ShardData(raw=raw, srgb=srgb, rows=[sample.row for sample in samples])
