"""Cutting crops out of samples and making of them what a network takes: normalised, augmented, with noise if wanted.

Everything that is drawn for a crop follows from the seed, the epoch, the sample and the number of the crop, so it
is the same whichever process makes it, and when.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from aura.augment import (
    is_transposed,
    orient,
    orient_packed,
    orient_packed_keeping_cfa,
    orient_pattern,
    trim_of,
)
from aura.bayer import CfaPattern
from aura.errors import InvalidInputError
from aura.sensor.noise import NoiseParameters, noise_at, noise_iso_range, scaled_noise
from aura.sensor.noise_draws import add_noise
from aura.sensor.profile import SensorProfile
from storage.datasets.dataset import Dataset
from storage.reading.crop_annotations import SampleAnnotations, Window, annotations_in_crop, require_annotations
from storage.reading.cutting import Cutting
from storage.reading.draws import draw_below, draw_bits, draw_unit
from storage.reading.sample_columns import SCALARS, VECTORS, SampleColumns

Frame = npt.NDArray[Any]
Frames = Callable[[int], tuple[Frame, Frame | None]]
"""Gives a row's decoded RAW, and its source pixels where the dataset keeps them and they are wanted."""

_TOP, _LEFT, _ORIENTATION, _ISO, _EXPOSURE, _NOISE, _PARAMETERS = range(1, 8)
_SATURATED_DN: Final = 0.5


@dataclass(frozen=True, slots=True)
class _Windows:
    """Where a batch's crops lie: arrays over its crops, in packed pixels; ``height`` and ``width`` are what is read."""

    top: npt.NDArray[np.int64]
    left: npt.NDArray[np.int64]
    height: npt.NDArray[np.int64]
    width: npt.NDArray[np.int64]
    orientation: npt.NDArray[np.int64]


class Cutter:
    """Makes batches of crops; holds nothing but what it was given."""

    def __init__(self, columns: SampleColumns, datasets: Sequence[Dataset], cutting: Cutting, seed: int) -> None:
        """Prepare for the samples of some datasets.

        Raises:
            InvalidInputError: a dataset cannot be read so, or whole canvases differ in size.
            StorageError: the storage refused its annotations.
        """
        for dataset in datasets:
            cutting.require_fit(dataset)
        self._columns, self._datasets, self._cutting, self._seed = columns, datasets, cutting, seed
        sides = {(dataset.recipe.canvas.height // 2, dataset.recipe.canvas.width // 2) for dataset in datasets}
        if cutting.sides is None and len(sides) != 1:
            raise InvalidInputError(f"The sources have canvases of {sorted(sides)} packed pixels; give a crop size.")
        self._profiles: dict[tuple[int, str], SensorProfile] = {}
        self._annotations = require_annotations(columns, datasets) if cutting.annotations else None
        self.size = cutting.sides or next(iter(sides))

    def cut(self, rows: npt.NDArray[np.int64], keys: tuple[Any, ...], frames: Frames) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows: the sample of each crop.
            keys: whole numbers or arrays over the crops, which tell apart what is drawn.
            frames: gives the samples.

        Returns:
            ``raw`` float32 tensor ``[n, 4, h, w]``, and over the n crops whatever :class:`storage.reading.RawDataset`
            describes, as numpy arrays and lists of texts.
        """
        columns, cutting = self._columns, self._cutting
        keys = (self._seed, columns.source[rows], columns.numbers["index"][rows], *keys)
        patterns: list[CfaPattern] = columns.texts["cfa_pattern"][rows].tolist()
        facts, factors = self._facts(rows, keys)
        windows = self._windows(rows, patterns, keys)
        images = {"raw": _shared_tensor((rows.size, 4, *self.size))}
        if cutting.clean:
            images["clean"] = _shared_tensor((rows.size, 4, *self.size))
        if cutting.srgb:
            images["srgb"] = _shared_tensor((rows.size, 3, 2 * self.size[0], 2 * self.size[1]))
        valid = np.zeros((rows.size, 2), np.int64)
        seeds = (draw_bits(_NOISE, *keys) >> np.uint64(1)).tolist()
        for place, row in enumerate(rows.tolist()):
            frame, pixels = frames(row)
            piece = self._turned(frame, windows, place, patterns[place])
            valid[place] = piece.shape[1:]
            factor = None if factors is None else float(factors[place])
            self._develop(piece, {name: image[place] for name, image in images.items()}, facts, place, factor, seeds)
            if pixels is not None:
                self._cut_pixels(images["srgb"][place].numpy(), pixels, windows, place, patterns[place])
        found: dict[str, Any] = {}
        if self._annotations is not None:
            found["annotations"] = self._objects(self._annotations, rows.tolist(), windows, patterns)
        if cutting.augment == "rename_cfa":
            turns = windows.orientation.tolist()
            patterns = [orient_pattern(name, turn) for name, turn in zip(patterns, turns, strict=True)]
        return {
            **images,
            **facts,
            **found,
            "camera_to_srgb": facts["camera_to_srgb"].reshape(-1, 3, 3),
            "valid": valid,
            "crop_top": windows.top,
            "crop_left": windows.left,
            "orientation": windows.orientation,
            "index": columns.numbers["index"][rows],
            "source": columns.source[rows],
            "sample_id": columns.sample_ids(rows),
            "cfa_pattern": list(patterns),
            "camera": columns.texts["camera"][rows].tolist(),
            "noise_model": columns.texts["noise_model"][rows].tolist(),
        }

    def _facts(
        self, rows: npt.NDArray[np.int64], keys: tuple[Any, ...]
    ) -> tuple[dict[str, npt.NDArray[Any]], npt.NDArray[np.float32] | None]:
        """Look up what is known of the samples, with what is drawn in its place, and draw the exposures."""
        numbers, cutting = self._columns.numbers, self._cutting
        facts = {name: numbers[name][rows] for name in (*SCALARS, *VECTORS, "iso")}
        if cutting.iso is not None:
            self._redraw_noise(facts, rows, keys)
        if cutting.exposure_ev is None:
            return facts, None
        low, high = cutting.exposure_ev
        factors = np.exp2(low + (high - low) * draw_unit(_EXPOSURE, *keys)).astype(np.float32)
        facts["exposure"] = facts["exposure"] * factors
        return facts, factors

    def _develop(
        self,
        piece: Frame,
        images: Mapping[str, torch.Tensor],
        facts: Mapping[str, npt.NDArray[Any]],
        place: int,
        factor: float | None,
        seeds: Sequence[int],
    ) -> None:
        """Write one crop: from digital numbers to float RAW, by way of exposure and noise."""
        _, height, width = piece.shape
        target = images["raw"].numpy()
        _blank(target, height, width)
        signal = target[:, :height, :width]
        black = facts["black_level_dn"][place][:, None, None]
        range_dn = facts["white_level_dn"][place][:, None, None] - black
        np.subtract(piece, black, out=signal, dtype=np.float32)
        if factor is not None:
            _expose(signal, factor, range_dn)
        if self._cutting.clean:
            torch.div(images["raw"], torch.from_numpy(range_dn), out=images["clean"])
        if self._cutting.noise or self._cutting.iso is not None:
            _add_noise(signal, black, range_dn, _noise_of(facts, place), seeds[place])
        signal /= range_dn  # not times its reciprocal, by which saturation would be a little under 1

    def _windows(self, rows: npt.NDArray[np.int64], patterns: list[CfaPattern], keys: tuple[Any, ...]) -> _Windows:
        cutting, numbers = self._cutting, self._columns.numbers
        valid_height, valid_width = numbers["valid_height_px"][rows] // 2, numbers["valid_width_px"][rows] // 2
        turns = np.zeros(rows.size, np.int64)
        height, width = np.full(rows.size, self.size[0]), np.full(rows.size, self.size[1])
        if cutting.augment != "none":
            turns = np.array(cutting.orientations)[draw_below(len(cutting.orientations), _ORIENTATION, *keys)]
            for place, (pattern, turn) in enumerate(zip(patterns, turns.tolist(), strict=True)):
                height[place], width[place] = self._side_read(pattern, turn)
            no_room = (height > valid_height) | (width > valid_width)
            turns[no_room], height[no_room], width[no_room] = 0, self.size[0], self.size[1]
        height, width = np.minimum(height, valid_height), np.minimum(width, valid_width)
        return _Windows(
            top=draw_below(valid_height - height + 1, _TOP, *keys),
            left=draw_below(valid_width - width + 1, _LEFT, *keys),
            height=height,
            width=width,
            orientation=turns,
        )

    def _side_read(self, pattern: CfaPattern, turn: int) -> tuple[int, int]:
        """Height and width to read so that, turned and cut, the crop has its size."""
        rows, columns = self._trim(pattern, turn)
        sides = self.size[0] + rows, self.size[1] + columns
        return sides[::-1] if is_transposed(turn) else sides

    def _trim(self, pattern: CfaPattern, turn: int) -> tuple[int, int]:
        """Rows and columns to cut off each side of the turned mosaic."""
        return trim_of(pattern, turn) if self._cutting.augment == "keep_cfa" else (0, 0)

    def _turned(self, frame: Frame, windows: _Windows, place: int, pattern: CfaPattern) -> Frame:
        top, left = int(windows.top[place]), int(windows.left[place])
        piece = frame[:, top : top + int(windows.height[place]), left : left + int(windows.width[place])]
        turn = int(windows.orientation[place])
        if not turn:
            return piece
        if self._cutting.augment == "keep_cfa":
            return orient_packed_keeping_cfa(piece, pattern, turn)
        return orient_packed(piece, turn)

    def _cut_pixels(
        self, target: npt.NDArray[np.float32], pixels: Frame, windows: _Windows, place: int, pattern: CfaPattern
    ) -> None:
        top, left = 2 * int(windows.top[place]), 2 * int(windows.left[place])
        height, width = 2 * int(windows.height[place]), 2 * int(windows.width[place])
        turn = int(windows.orientation[place])
        piece = orient(pixels[:, top : top + height, left : left + width], turn)
        rows, columns = self._trim(pattern, turn)
        piece = piece[:, rows : piece.shape[1] - rows, columns : piece.shape[2] - columns]
        target[:, : piece.shape[1], : piece.shape[2]] = piece
        _blank(target, piece.shape[1], piece.shape[2])
        target *= np.float32(1 / 255)

    def _objects(
        self, annotations: SampleAnnotations, rows: list[int], windows: _Windows, patterns: Sequence[CfaPattern]
    ) -> list[list[dict[str, Any]] | None]:
        """Bring the samples' annotations to the frames of the crops; whole samples keep theirs as they are."""
        found = [annotations.of(row) for row in rows]
        if self._cutting.sides is None:
            return found
        heights, widths = (self._columns.numbers[f"valid_{side}_px"] for side in ("height", "width"))
        for place, (row, objects) in enumerate(zip(rows, found, strict=True)):
            if objects is None:
                continue
            turn = int(windows.orientation[place])
            top, left, height, width = (
                2 * int(side[place]) for side in (windows.top, windows.left, windows.height, windows.width)
            )
            window = Window(top, left, height, width, turn, self._trim(patterns[place], turn))
            valid = int(heights[row]), int(widths[row])
            found[place] = annotations_in_crop(objects, window, valid, self._cutting.min_area)
        return found

    def _redraw_noise(
        self, facts: dict[str, npt.NDArray[Any]], rows: npt.NDArray[np.int64], keys: tuple[Any, ...]
    ) -> None:
        """Replace ISO and noise parameters by those of an ISO drawn for each crop."""
        units, seeds = draw_unit(_ISO, *keys), draw_bits(_PARAMETERS, *keys) >> np.uint64(1)
        cameras = self._columns.texts["camera"][rows]
        for place, source in enumerate(self._columns.source[rows].tolist()):
            dataset = self._datasets[source]
            profile = self._profile(source, cameras[place])
            low, high = _iso_range(self._cutting.iso or (1, 1), profile, dataset)
            iso = round(low * (high / low) ** units[place])
            noise = noise_at(profile, iso, int(seeds[place]), model=dataset.recipe.noise_model)
            # some cameras saturate elsewhere at another ISO; the sample keeps its levels, so the noise goes to them
            range_dn = float((facts["white_level_dn"][place] - facts["black_level_dn"][place]).mean())
            noise = scaled_noise(noise, range_dn / profile.levels_at(iso).range_dn)
            shape = np.nan if noise.read_tukey_lambda is None else noise.read_tukey_lambda
            facts["iso"][place] = iso
            facts["noise_system_gain_dn_per_electron"][place] = noise.system_gain_dn_per_electron
            facts["noise_read_sigma_dn"][place] = noise.read_sigma_dn
            facts["noise_read_tukey_lambda"][place] = shape
            facts["noise_row_sigma_dn"][place] = noise.row_sigma_dn
            facts["noise_quantisation_step_dn"][place] = noise.quantisation_step_dn
            facts["noise_black_offset_dn"][place] = noise.black_offset_dn

    def _profile(self, source: int, camera: str) -> SensorProfile:
        if (source, camera) not in self._profiles:
            self._profiles[source, camera] = SensorProfile.model_validate(self._datasets[source].profiles[camera])
        return self._profiles[source, camera]


def _iso_range(wanted: tuple[int, int], profile: SensorProfile, dataset: Dataset) -> tuple[int, int]:
    low, high = noise_iso_range(profile, dataset.recipe.noise_model)
    if wanted[0] > high or wanted[1] < low:
        raise InvalidInputError(
            f"iso is {wanted}; the {dataset.recipe.noise_model} noise of {profile.name} is known from {low} to {high}."
        )
    return max(low, wanted[0]), min(high, wanted[1])


def _expose(signal: npt.NDArray[np.float32], factor: float, range_dn: npt.NDArray[np.float32]) -> None:
    saturated = signal >= range_dn - _SATURATED_DN
    signal *= factor
    np.minimum(signal, range_dn, out=signal)
    np.copyto(signal, range_dn, where=saturated)


def _noise_of(facts: Mapping[str, npt.NDArray[Any]], place: int) -> NoiseParameters:
    shape = float(facts["noise_read_tukey_lambda"][place])
    red, green_red, green_blue, blue = facts["noise_black_offset_dn"][place].tolist()
    return NoiseParameters(
        system_gain_dn_per_electron=float(facts["noise_system_gain_dn_per_electron"][place]),
        read_sigma_dn=float(facts["noise_read_sigma_dn"][place]),
        read_tukey_lambda=None if np.isnan(shape) else shape,
        row_sigma_dn=float(facts["noise_row_sigma_dn"][place]),
        black_offset_dn=(red, green_red, green_blue, blue),
        quantisation_step_dn=float(facts["noise_quantisation_step_dn"][place]),
    )


def _add_noise(
    signal: npt.NDArray[np.float32],
    black: npt.NDArray[np.float32],
    range_dn: npt.NDArray[np.float32],
    noise: NoiseParameters,
    seed: int,
) -> None:
    """Add noise to a clean signal in DN above black, then round and clip as :func:`aura.sensor.simulate.simulate`."""
    saturated = signal >= range_dn - _SATURATED_DN
    noisy = add_noise(torch.from_numpy(np.ascontiguousarray(signal)), noise, seed).numpy()
    np.rint(noisy + black, out=noisy)
    noisy -= black
    np.clip(noisy, -black, range_dn, out=noisy)
    np.copyto(noisy, range_dn, where=saturated)
    signal[:] = noisy


def _blank(target: npt.NDArray[Any], height: int, width: int) -> None:
    target[:, height:] = 0
    target[:, :height, width:] = 0


def _shared_tensor(shape: tuple[int, ...]) -> torch.Tensor:
    """Make a tensor; in a worker of a DataLoader one that goes to the main process without being copied."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape)
    # as torch's own collate function does it
    storage = torch.empty(0).untyped_storage()._new_shared(4 * math.prod(shape), device="cpu")  # type: ignore[no-untyped-call]  # noqa: SLF001
    return torch.empty(0).set_(storage, 0, shape)  # type: ignore[call-overload,no-any-return]
