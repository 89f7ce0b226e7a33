"""From a user's dark and flat RAW files to a camera's noise: reading, telling, and a profile."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from pydantic import ValidationError

from aura.bayer import pack
from aura.errors import InvalidInputError, MissingFileError
from aura.sensor.calibration import Calibration, calibrate
from aura.sensor.catalog import load_profile, profile_yaml
from aura.sensor.confidence import Estimate
from aura.sensor.dark_frames import DarkCalibration
from aura.sensor.importing import iso_of, profile_from_raw
from aura.sensor.profile import NoisePoint, SensorProfile, TabulatedNoise
from aura.training.raw_files import RawFile, RawFrame, list_raw_files, read_manifest, read_raw
from flows.commands.camera_plots import require_plot_name, transfer_figure, write_figure
from flows.commands.console import command, progress_bars, refuse, say, say_table

_MANIFEST: Final = "manifest.json"
_PLANES: Final = ("R", "Gr", "Gb", "B")


@dataclass(frozen=True)
class CalibrationOrder:
    """What a user wants calibrated.

    Attributes:
        flats: RAW files with light, or folders of them.
        darks: RAW files without, or folders of them.
        camera: profile to put the noise into; None makes one from the first file's own tags.
        iso: sensitivity; None takes the first file's own.
        out: profile (YAML) to write; None writes none.
        plot: picture to write; None writes none.
    """

    flats: tuple[Path, ...]
    darks: tuple[Path, ...]
    camera: str | None
    iso: int | None
    out: Path | None
    plot: Path | None


def calibrate_camera(order: CalibrationOrder) -> None:
    """Read the frames, estimate, print a table with confidence intervals, and write plot and profile.

    Raises:
        MissingFileError: a file is not there.
        InvalidInputError: frames that cannot tell, or a profile that lacks what only the user knows.
    """
    if order.plot is not None:
        require_plot_name(order.plot)
    flats, darks = ([file for path in paths for file in raw_files(path)] for paths in (order.flats, order.darks))
    if order.out is not None and not flats:
        raise InvalidInputError("A profile needs the gain, which only flat frames tell; add --flat, or leave --out.")
    with progress_bars() as listener:
        frames = []
        for done, file in enumerate([*flats, *darks]):
            listener("read", done, len(flats) + len(darks))
            frames.append(read_raw(file.path, file.description))
        listener("read", len(frames), len(frames))
    _require_one_iso([*flats, *darks])
    planes = [packed_dn(frame) for frame in frames]
    white = min(min(frame.white_level) for frame in frames)
    found = calibrate(planes[: len(flats)], planes[len(flats) :], white)
    _say_calibration(found, len(flats), len(darks))
    for warning in found.warnings:
        refuse(f"Note: {warning}")
    if order.plot is not None:
        title = order.camera or frames[0].camera or frames[0].name
        write_figure(transfer_figure(title, found), order.plot)
        say(f"Plot: {order.plot}")
    if order.out is not None:
        _write_profile(order, found, flats[0].path, len(flats), len(darks))


def _require_one_iso(files: Sequence[RawFile]) -> None:
    """Refuse frames of several sensitivities: their gains differ, and a line through them is none of theirs."""
    found = {file.path.name: told for file in files if (told := iso_of(file.path)) is not None}
    if len(set(found.values())) > 1:
        named = ", ".join(
            f"ISO {each} ({next(name for name, told in found.items() if told == each)})"
            for each in sorted(set(found.values()))
        )
        raise InvalidInputError(f"The frames were taken at {named}. Calibrate each ISO by itself, one after the other.")


def raw_files(path: Path) -> list[RawFile]:
    """List a RAW file, or those of a folder, each with its entry in a manifest.json beside it or one folder above."""
    if path.is_dir():
        return list(list_raw_files(path))
    if not path.is_file():
        raise MissingFileError(f"No RAW file at {path}. Check the path.")
    for folder in path.resolve().parents[:2]:
        if (folder / _MANIFEST).is_file():
            for entry in read_manifest(folder / _MANIFEST):
                if folder / entry.file == path.resolve():
                    return [RawFile(path, entry)]
    return [RawFile(path, None)]


def packed_dn(frame: RawFrame) -> np.ndarray:
    """Planes ``(4, h, w)`` int32 DN of a frame, R, Gr, Gb, B, black level included."""
    return pack(torch.from_numpy(frame.mosaic.astype(np.int32)), frame.cfa_pattern).numpy()


def merge_noise(profile: SensorProfile, found: Calibration, iso: int, described: str) -> SensorProfile:
    """Put a calibration at one ISO into a profile: beside those measured at other ISOs, in place of any other model.

    Raises:
        InvalidInputError: the calibration has no gain, the profile no such ISO, or its noise at others does not fit.
    """
    if found.gain is None:
        raise InvalidInputError("The calibration has no gain; add flat frames.")
    black = profile.levels_at(iso).black_level
    red, green_red, green_blue, blue = np.subtract(found.black_level_dn, black).tolist()
    point = NoisePoint(
        iso=iso,
        gain_dn_per_electron=found.gain.system_gain_dn_per_electron.value,
        read_sigma_dn=_read_sigma_of_profile(found.dark),
        read_tukey_lambda=found.dark.read_tukey_lambda,
        row_sigma_dn=found.dark.row_sigma_dn.value,
        black_offset_dn=(red, green_red, green_blue, blue),
    )
    measured = isinstance(profile.noise, TabulatedNoise) and "photon transfer" in profile.noise.source
    before = profile.noise.points if measured and isinstance(profile.noise, TabulatedNoise) else ()
    points = sorted([*(each for each in before if each.iso != iso), point], key=lambda each: each.iso)
    sources = [profile.noise.source] if before and profile.noise is not None else []
    low, high = profile.iso_range
    try:
        noise = TabulatedNoise(points=tuple(points), source="; ".join([*sources, described]))
        changes = {"noise": noise, "iso_range": (min(low, iso), max(high, iso))}
        return SensorProfile.model_validate(dict(profile) | changes)
    except ValidationError as error:
        faults = "; ".join(fault["msg"].removeprefix("Value error, ") for fault in error.errors())
        raise InvalidInputError(
            f"The calibration at ISO {iso} does not fit into {profile.name}: {faults}. Do the frames belong to this "
            "camera, and to this ISO?"
        ) from error


def _read_sigma_of_profile(dark: DarkCalibration) -> float:
    """Read noise with what rounding in steps adds beyond that to whole DN: profiles know no step but 1 DN."""
    return math.sqrt(dark.read_sigma_dn.value**2 + (dark.quantisation_step_dn**2 - 1.0) / 12.0)


def _write_profile(order: CalibrationOrder, found: Calibration, example: Path, flats: int, darks: int) -> None:
    if order.out is None:
        return
    iso = order.iso or iso_of(example)
    if iso is None:
        raise InvalidInputError(f"{example.name} does not tell its ISO; add --iso.")
    base = load_profile(order.camera) if order.camera is not None else profile_from_raw(example)
    described = f"ISO {iso} by photon transfer from {flats} flat and {darks} dark frames"
    order.out.parent.mkdir(parents=True, exist_ok=True)
    order.out.write_text(profile_yaml(merge_noise(base, found, iso, described)), encoding="utf-8")
    say(f"Profile: {order.out}, with the noise at ISO {iso}. Calibrate other ISOs into it with --camera {order.out}.")
    say(f"Use it: {command()} synthesize PHOTOGRAPHS DATASET --camera {order.out} --iso {iso}")


def _say_calibration(found: Calibration, flats: int, darks: int) -> None:
    dark, gain = found.dark, found.gain
    rows = [
        (f"black level {name}, DN", *_figures(level)) for name, level in zip(_PLANES, dark.black_level_dn, strict=True)
    ]
    rows.append(("read noise sigma, DN", *_figures(dark.read_sigma_dn)))
    rows.append(("its Tukey-lambda shape", f"{dark.read_tukey_lambda:.3f}", "0.14 is Gaussian"))
    rows.append(("row noise sigma, DN", *_figures(dark.row_sigma_dn)))
    rows.append(("quantisation step, DN", f"{dark.quantisation_step_dn:g}", ""))
    if gain is not None:
        value = gain.system_gain_dn_per_electron
        rows.append(("system gain K, DN per electron", *_figures(value)))
        rows += [
            (f"  of {name} alone", f"{each:.4g}", "")
            for name, each in zip(_PLANES, gain.plane_gain_dn_per_electron, strict=True)
        ]
        rows.append(("read noise sigma, electrons", f"{dark.read_sigma_dn.value / value.value:.4g}", ""))
    say_table(f"Photon transfer of {flats} flat and {darks} dark frames", ("", "estimate", "95 % interval"), rows)


def _figures(estimate: Estimate) -> tuple[str, str]:
    return f"{estimate.value:.4g}", f"{estimate.low:.4g} to {estimate.high:.4g}"
