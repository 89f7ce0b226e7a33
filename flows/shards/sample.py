"""One sample of a photograph: its light through the drawn camera, and what is known about it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aura.compiled import loops_take
from aura.cycle import CycleQuality, cycle_quality_batch
from aura.inversion import Inversion, Window, WindowGroup
from aura.perceptual import Lpips
from aura.reconstruct import Reconstructor
from aura.rendering import FrameFacts, Rendition, render_raw_batch
from aura.sensor.noise import NoiseModel
from aura.sensor.profile import SensorProfile
from aura.sensor.simulate import Capture, draw_capture, simulate_batch
from flows.shards.one_at_a_time import one_at_a_time
from storage.datasets.dataset import Dataset
from storage.datasets.plan import place
from storage.datasets.samples import SampleRow
from storage.recipe import Recipe

PlanRow = dict[str, Any]
Photograph = npt.NDArray[np.uint8]
_PLANNED: Final = (
    *("index", "sample_id", "source_uri", "source_member", "source_sha256"),
    *("crop_top_px", "crop_left_px", "crop_height_px", "crop_width_px", "valid_height_px", "valid_width_px"),
    *("camera", "iso", "seed"),
)


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


@dataclass(frozen=True)
class Piece:
    """Samples of a photograph whose light is computed in one pass.

    Attributes:
        inversion: of what they are windows of: their photograph, or the one sample itself if it was shrunk.
        group: the windows.
        rows: of the plan, one for each window.
        pixels: sRGB ``(H, W, 3)`` uint8 of each, cut out or shrunk as the plan says.
    """

    inversion: Inversion
    group: WindowGroup
    rows: list[PlanRow]
    pixels: list[Photograph]


class Exposure(NamedTuple):
    """A sample's light, and the camera that it is to go through.

    Attributes:
        row: of the plan.
        pixels: sRGB ``(2h, 2w, 3)`` uint8.
        light: canonical linear ``(3, 2h, 2w)`` float32, where the inverse computes.
        capture: drawn as the recipe says.
    """

    row: PlanRow
    pixels: Photograph
    light: Tensor
    capture: Capture


@dataclass(frozen=True)
class Cut:
    """A photograph with what the plan wants of it.

    Attributes:
        seen: what the inverse looks at, sRGB ``(H, W, 3)`` uint8: all of it, or the piece that it was shrunk to.
        rows: of the plan.
        pieces: sRGB pixels of each row.
        windows: where each lies in what is seen.
    """

    seen: Photograph
    rows: list[PlanRow]
    pieces: list[Photograph]
    windows: list[Window]


def cut(rows: list[PlanRow], photograph: Photograph) -> list[Cut]:
    """Cut a photograph as the plan says.

    Raises:
        RejectedImageError: the photograph is not the one that was planned for.
    """
    # torch takes arrays that may be written only; Pillow's are views of its own memory
    pieces = [np.require(place(photograph, row), requirements=["C", "W"]) for row in rows]
    windows = [
        Window(row["crop_top_px"], row["crop_left_px"], row["crop_height_px"], row["crop_width_px"]) for row in rows
    ]
    if all(piece.shape[:2] == window[2:] for piece, window in zip(pieces, windows, strict=True)):
        return [Cut(photograph, rows, pieces, windows)]
    return [
        Cut(piece, [row], [piece], [Window(0, 0, *piece.shape[:2])]) for row, piece in zip(rows, pieces, strict=True)
    ]


def begin(cuts: Sequence[Cut], inverse: Reconstructor) -> list[Piece]:
    """Look at photographs of one shape, and say what is to be inverted of them."""
    inversions = inverse.begin_batch([each.seen for each in cuts])
    return [
        Piece(
            inversion,
            group,
            rows=[each.rows[member] for member in group.members],
            pixels=[each.pieces[member] for member in group.members],
        )
        for each, inversion in zip(cuts, inversions, strict=True)
        for group in inversion.groups(each.windows)
    ]


def make_pieces(pieces: Sequence[Piece], dataset: Dataset) -> list[Sample]:
    """Make the samples of pieces and measure them: all of it where the inverse computes, a CPU or a GPU.

    On a GPU samples of one size and CFA pattern go through it together, since to start its work takes longer than to
    do it for one.
    """
    exposures = [
        Exposure(row, pixels, light, _capture(row, dataset))
        for piece in pieces
        for row, pixels, light in zip(piece.rows, piece.pixels, piece.inversion.lights(piece.group), strict=True)
    ]
    made: dict[int, Sample] = {}
    for members in _alike(exposures):
        made |= zip(members, _make_alike([exposures[member] for member in members], dataset), strict=True)
    return [made[member] for member in range(len(exposures))]


def _alike(exposures: Sequence[Exposure]) -> list[list[int]]:
    """Places of the exposures that a GPU makes together; on a CPU each alone, whose sample then stays in the cache."""
    together: dict[object, list[int]] = {}
    for member, (_, _, light, capture) in enumerate(exposures):
        alone = member if loops_take(light) else None
        together.setdefault((light.shape, capture.profile.cfa_pattern, alone), []).append(member)
    return list(together.values())


def _make_alike(exposures: Sequence[Exposure], dataset: Dataset) -> list[Sample]:
    """Make the RAW of exposures of one shape and CFA pattern, and measure each against its pixels."""
    recipe, device = dataset.recipe, exposures[0].light.device
    with torch.inference_mode():
        captures = [_stored(exposure.capture, recipe) for exposure in exposures]
        raws = simulate_batch([exposure.light for exposure in exposures], captures)
        seen = render_raw_batch(raws, [FrameFacts.of(capture) for capture in captures])
        sources = [torch.from_numpy(exposure.pixels).permute(2, 0, 1).contiguous() for exposure in exposures]
        metrics = [
            perceptual_metric(device) if needs_lpips(exposure.row["sample_id"], recipe.lpips_share) else None
            for exposure in exposures
        ]
        codes = [each.codes for each in seen]
        qualities = cycle_quality_batch(_upload(sources, device), codes, metrics)
        stored = _in_16_bits(raws)
    return [
        Sample(raw, source.numpy(), _sample_row(exposure, dataset, quality, rendition))
        for exposure, raw, source, quality, rendition in zip(exposures, stored, sources, qualities, seen, strict=True)
    ]


def _upload(sources: Sequence[Tensor], device: torch.device) -> Sequence[Tensor]:
    """All at once, from pinned memory: a copy that does not hold up this thread."""
    if device.type == "cpu":
        return sources
    return torch.stack(list(sources)).pin_memory().to(device, non_blocking=True).unbind(0)


def _in_16_bits(raws: Sequence[Tensor]) -> npt.NDArray[np.uint16]:
    """``(n, 4, h, w)``, fetched at once, and narrowed where they lie, so that half as much is."""
    return torch.stack([raw.to(torch.int16) for raw in raws]).cpu().numpy().view(np.uint16)  # wraps as uint16 does


def _capture(row: PlanRow, dataset: Dataset) -> Capture:
    profile = SensorProfile.model_validate(dataset.profiles[row["camera"]])
    return draw_capture(
        profile,
        row["iso"],
        row["seed"],
        noise_model=_noise_model(dataset.recipe),
        illuminant_kelvin=dataset.recipe.illuminant_kelvin,
    )


def _noise_model(recipe: Recipe) -> Literal["none"] | NoiseModel:
    return "none" if recipe.noise == "none" else recipe.noise_model


def _stored(capture: Capture, recipe: Recipe) -> Capture:
    """The capture as it is stored: without its noise, if that is added when the dataset is read."""
    return replace(capture, noise=None) if recipe.noise == "on_read" else capture


def needs_lpips(sample_id: str, share: float) -> bool:
    """Tell whether a sample is one of the share on which LPIPS is measured; it follows from the sample alone."""
    return int(hashlib.sha256(sample_id.encode()).hexdigest()[:8], 16) < share * 2**32


@one_at_a_time
@lru_cache(maxsize=1)
def perceptual_metric(device: torch.device) -> Lpips:
    """Load LPIPS, once in the life of a worker process."""
    return Lpips().to(device)


def _sample_row(exposure: Exposure, dataset: Dataset, quality: CycleQuality, rendition: Rendition) -> SampleRow:
    capture = exposure.capture
    levels = capture.profile.levels_at(capture.iso)
    noise = capture.noise
    return SampleRow(
        **{name: exposure.row[name] for name in _PLANNED},
        cfa_pattern=capture.profile.cfa_pattern,
        black_level_dn=levels.black_level,
        white_level_dn=levels.white_level,
        noise_model=_noise_model(dataset.recipe),
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
        clipped_fraction=rendition.clipped_fraction,
        channel_mean=rendition.channel_mean,
        source_licence=exposure.row.get("source_licence"),
    )
