"""What each inverse leaves of a photograph's own noise: the table, and ``results/photograph_noise.json``.

Real RAW files, which are nearly without noise, get the calibrated noise of a camera, are developed to photographs, and
are taken back to RAW. A clean target, or the noise that is added next, is only as good as what is left of the old one.
Run it with ``make bench-noise``, or ``python benchmarks/photograph_noise.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import torch
from record import weights_sha256, write_result
from rich.console import Console
from rich.table import Column, Table

from aura.dng import write_dng
from aura.errors import AuraError
from aura.metrics import align_gains, fine_part, psnr
from aura.sensor.catalog import load_profile
from aura.sensor.noise import noise_at
from aura.sensor.noise_draws import add_noise, digitise
from aura.training.development import DevelopedPair, LeftOutPair, developed_pair
from aura.training.evaluation import Method, centre_slice, predicted_raw
from aura.training.judging import CLASSICAL, networks
from aura.training.raw_files import RawFile, RawFrame, list_raw_files, read_raw

ROOT: Final = Path(__file__).resolve().parents[1]
CAMERA: Final = "sony-ilce-7sm2"
ISOS: Final = (1600, 6400)
LEVELS_ISO: Final = 100
DEVELOPER: Final = "libraw_fixed"
FINE_SITES: Final = 9
"""Errors are looked at after the mean of so many sites a side is taken off, so that tone does not count."""
EXPOSED: Final = 0.9
Figures = dict[str, dict[str, object]]


def main() -> None:
    """Measure, print, write."""
    options = _options()
    console = Console()
    started = time.monotonic()
    methods = CLASSICAL | networks(options.weights)
    files = list_raw_files(options.data / "raw" / "validation")
    figures, left_out = measure(methods, files, options.crop, lambda name: console.print(f"{name}: done", style="dim"))
    console.print(as_table(methods, figures))
    target = write_result(
        "photograph_noise",
        protocol(options.crop),
        figures,
        ("torch", "rawpy", "pillow"),
        weights_sha256=weights_sha256(options.weights),
        left_out=left_out,
    )
    console.print(f"{time.monotonic() - started:.0f} s; written to {target.relative_to(ROOT)}")


def measure(
    methods: Mapping[str, Method], files: Sequence[RawFile], crop: int, on_file: Callable[[str], None]
) -> tuple[Figures, list[str]]:
    """Measure methods side by side on centre crops of ``crop`` pixels: figures, and what was left out and why."""
    shares: dict[tuple[str, int], list[float]] = defaultdict(list)
    errors: dict[tuple[str, int], list[float]] = defaultdict(list)
    left_out: list[str] = []
    for file in files:
        frame = _centre(read_raw(file.path, file.description), crop)
        shown = _photographs(frame)
        if isinstance(shown, LeftOutPair):
            left_out.append(f"{shown.name}: {shown.reason}")
            continue
        for name, invert in methods.items():
            for iso, (share, error) in _judge(invert, shown).items():
                errors[name, iso].append(error)
                if iso:
                    shares[name, iso].append(share)
        on_file(file.path.name)
    return _figures(methods, shares, errors), left_out


def _photographs(frame: RawFrame) -> dict[int, DevelopedPair] | LeftOutPair:
    """Develop a frame without further noise (ISO 0), and with the noise of each ISO."""
    pairs = {}
    with tempfile.TemporaryDirectory() as folder:
        for iso in (0, *ISOS):
            path = Path(folder) / f"iso{iso}.dng"
            _write_with_noise(path, frame, iso)
            pair = developed_pair(path, None, DEVELOPER)
            if isinstance(pair, LeftOutPair):
                return replace(pair, name=frame.name)
            pairs[iso] = pair
    return pairs


def _write_with_noise(path: Path, frame: RawFrame, iso: int) -> None:
    """Write the light of a frame in the numbers of a camera with calibrated noise."""
    profile = load_profile(CAMERA)
    levels = profile.levels_at(iso or LEVELS_ISO)
    black, white = torch.tensor(levels.black_level), torch.tensor(levels.white_level)
    clean = frame.packed().clamp(0.0, 1.0) * (white - black)[:, None, None]
    noisy = clean if not iso else add_noise(clean, noise_at(profile, iso, seed=0), seed=0)
    raw = digitise(clean, noisy, black, white).numpy().astype(np.uint16)
    neutral = [min(frame.wb_gains) / gain for gain in frame.wb_gains]
    write_dng(
        path,
        raw,
        cfa_pattern=frame.cfa_pattern,
        black_level=levels.black_level,
        white_level=levels.white_level,
        color_matrix=frame.color_matrix,
        as_shot_neutral=(neutral[0], neutral[1], neutral[2]),
        camera_model="light of another camera",
        compress=False,
    )


def _judge(invert: Method, shown: dict[int, DevelopedPair]) -> dict[int, tuple[float, float]]:
    """For each ISO the share of the noise that is left, and the aligned PSNR against the RAW without it, in dB."""
    quiet = shown[0]
    truth = quiet.frame.packed().clamp(0.0, 1.0)
    found = {}
    with torch.inference_mode():
        from_quiet = predicted_raw(invert(quiet.image), quiet.frame)
        where = (truth < EXPOSED) & (from_quiet < EXPOSED)
        for iso, pair in shown.items():
            raw = from_quiet if not iso else predicted_raw(invert(pair.image), pair.frame)
            kept = fine_part(align_gains(raw[None], from_quiet[None])[0] - from_quiet, FINE_SITES)[where]
            noise = fine_part(pair.frame.packed().clamp(0.0, 1.0) - truth, FINE_SITES)[where]
            share = float(kept.square().mean().sqrt() / noise.square().mean().sqrt()) if iso else 0.0
            error = psnr(align_gains(raw[None], truth[None]), truth[None])
            found[iso] = (share, float(error))
    return found


def _centre(frame: RawFrame, side: int) -> RawFrame:
    rows, columns = (centre_slice(length, side) for length in frame.mosaic.shape)
    return replace(frame, mosaic=np.ascontiguousarray(frame.mosaic[rows, columns]))


def _figures(
    methods: Mapping[str, Method],
    shares: dict[tuple[str, int], list[float]],
    errors: dict[tuple[str, int], list[float]],
) -> Figures:
    figures: Figures = {}
    for name in methods:
        for iso in ISOS:
            values = shares[name, iso]
            mean = float(np.exp(np.mean(np.log(values))))
            figures[f"{name}/noise_left_iso{iso}"] = {"value": mean, "unit": "1", "spread": [min(values), max(values)]}
        for iso in (0, *ISOS):
            values = errors[name, iso]
            key = f"{name}/psnr_aligned_iso{iso}" if iso else f"{name}/psnr_aligned_quiet"
            figures[key] = {"value": float(np.mean(values)), "unit": "dB", "spread": float(np.std(values))}
    return figures


def as_table(methods: Mapping[str, Method], figures: Figures) -> Table:
    """Lay the means out for a terminal, a row per method."""
    keys = (
        [f"noise_left_iso{iso}" for iso in ISOS] + ["psnr_aligned_quiet"] + [f"psnr_aligned_iso{iso}" for iso in ISOS]
    )
    table = Table(Column("method", no_wrap=True), *(key.replace("_", " ") for key in keys))
    for name in methods:
        table.add_row(name, *(f"{figures[f'{name}/{key}']['value']:.2f}" for key in keys))
    return table


def protocol(crop: int) -> str:
    """Say in words what is measured."""
    return (
        f"Centre crops of {crop} pixels of the RAW validation files of AURA_DATA, in the digital numbers of {CAMERA}, "
        f"without further noise and with its calibrated noise at ISO {' and '.join(map(str, ISOS))} (seed 0); written "
        "as DNG, developed by LibRaw's defaults without automatic brightness or noise reduction, JPEG quality 92. "
        "noise_left: RMS of what RAW made from the noisy photograph differs from RAW made from the quiet one, by the "
        "same method, after one gain per colour channel, divided by the RMS of the noise in the camera's RAW; of both "
        f"the mean over {FINE_SITES}x{FINE_SITES} sites of a plane is taken off, and only sites count where both RAWs "
        f"are under {EXPOSED}. What JPEG adds to a noisy picture counts, so it may exceed 1. Geometric mean over "
        "files; spread: least and most. psnr_aligned: against the RAW without further noise, as in fidelity.json; mean "
        "and standard deviation over files."
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default_data = Path(os.environ.get("AURA_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default_data, help="holds raw/validation and raw/manifest.json")
    parser.add_argument("--weights", type=Path, help="of another network than the released one")
    parser.add_argument("--crop", type=int, default=1024, help="side of a centre crop in pixels, even")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except AuraError as error:
        raise SystemExit(f"photograph_noise: {error}") from error
