"""Pictures of the fidelity benchmark: means and pairs per developer, and the cases where AURA gains and loses most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from aura.isp import render
from aura.metrics import align_gains
from aura.training.development import DevelopedPair, developed_pair
from aura.training.evaluation import (
    CEILING,
    CLASSICAL_METHODS,
    Evaluation,
    EvaluationRow,
    Method,
    figures,
    group_sizes,
    method_names,
    predicted_raw,
    rows_by_group,
)
from aura.training.raw_files import RawFile, RawFrame

_CROP: Final = 384
"""Packed pixels a side of what a case shows."""
_SHOWN: Final = 256


class Case(NamedTuple):
    """A pair, and how many decibels AURA is ahead of the better classical inverse on it."""

    file: str
    developer: str
    gain_db: float


def draw_means(evaluation: Evaluation, target: Path) -> None:
    """Draw aligned and as-is PSNR: every pair as a dot, each method's mean per group, the ceiling's as a line."""
    means, sizes, groups = figures(evaluation), group_sizes(evaluation), rows_by_group(evaluation)
    methods = [name for name in method_names(evaluation) if name != CEILING]
    step = 0.8 / len(methods)
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, metric, title in zip(
        figure.subplots(1, 2, sharey=True), ("psnr_aligned", "psnr"), ("aligned", "as is"), strict=True
    ):
        for number, method in enumerate(methods):
            for at, group in enumerate(sizes):
                place = at + (number + 0.5) * step - 0.4
                pairs = [getattr(row.score, metric) for row in groups[group] if row.method == method]
                axes.scatter([place] * len(pairs), pairs, s=5, color=f"C{number}", alpha=0.35, linewidths=0)
                mean, label = means[f"{group}/{method}/{metric}"].value, method if at == 0 else None
                axes.hlines(mean, place - 0.45 * step, place + 0.45 * step, color=f"C{number}", lw=3, label=label)
        for at, group in enumerate(sizes):
            ceiling = means[f"{group}/{CEILING}/{metric}"].value
            label = "ceiling of a global inverse" if at == 0 else None
            axes.hlines(ceiling, at - 0.4, at + 0.4, colors="black", lw=1, label=label)
        axes.set_xticks(range(len(sizes)), [f"{group}\n({size})" for group, size in sizes.items()])
        axes.tick_params(axis="x", labelsize=7)
        axes.set(title=f"PSNR {title}")
        axes.grid(axis="y", alpha=0.3)
    figure.axes[0].set_ylabel("dB: each pair, and the mean of all")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", fontsize=8, ncols=5)
    figure.savefig(target, dpi=110)


def extreme_cases(evaluation: Evaluation) -> tuple[Case, Case]:
    """Find the pairs where AURA is furthest ahead of, and furthest behind, the better classical inverse."""
    pairs: dict[tuple[str, str], dict[str, EvaluationRow]] = {}
    for row in evaluation.rows:
        pairs.setdefault((row.file, row.developer), {})[row.method] = row
    cases = [
        Case(
            *pair,
            rows["aura"].score.psnr_aligned - max(rows[name].score.psnr_aligned for name in CLASSICAL_METHODS),
        )
        for pair, rows in pairs.items()
    ]
    return max(cases, key=lambda case: case.gain_db), min(cases, key=lambda case: case.gain_db)


def draw_cases(
    cases: Sequence[Case], files: Sequence[RawFile], methods: Mapping[str, Method], cache: Path, target: Path
) -> None:
    """Draw a row per case: the photograph, the true RAW, and each method's RAW with its error."""
    names = ("linearise", "aura")
    figure = Figure(figsize=(12, 2.4 * len(cases)), layout="constrained")
    grid = np.atleast_2d(figure.subplots(len(cases), 2 + 2 * len(names)))
    for axes, case in zip(grid, cases, strict=True):
        pair = _pair(case, files, cache)
        truth = pair.frame.packed().clamp(0.0, 1.0)
        rows, columns = (_centre(side) for side in truth.shape[1:])
        seen = pair.image[2 * rows.start : 2 * rows.stop, 2 * columns.start : 2 * columns.stop]
        panels: list[tuple[np.ndarray, str]] = [
            (seen, f"{case.developer}'s photograph"),
            (_shown(truth[:, rows, columns], pair.frame), "true RAW, rendered"),
        ]
        for name in names:
            with torch.inference_mode():
                aligned = align_gains(predicted_raw(methods[name](pair.image), pair.frame)[None], truth[None])[0]
            decibels = -10.0 * float(torch.log10((aligned - truth).square().mean()))
            error = (aligned - truth).abs().mean(0)[rows, columns].mul(10.0).clamp(0.0, 1.0)
            panels += [
                (_shown(aligned[:, rows, columns], pair.frame), f"{name}'s RAW, rendered"),
                (mpl.colormaps["inferno"](error.numpy())[..., :3], f"its error x 10: {decibels:.1f} dB"),
            ]
        for axis, (panel, title) in zip(axes, panels, strict=True):
            axis.imshow(panel[:: max(1, panel.shape[0] // _SHOWN), :: max(1, panel.shape[1] // _SHOWN)])
            axis.set_title(title, fontsize=8)
            axis.set_axis_off()
        axes[0].text(
            0, -0.06, f"{case.file}  ({case.gain_db:+.1f} dB)", fontsize=7, transform=axes[0].transAxes, in_layout=False
        )
    figure.savefig(target, dpi=100, pil_kwargs={"quality": 85})


def _pair(case: Case, files: Sequence[RawFile], cache: Path) -> DevelopedPair:
    file = next(file for file in files if file.path.name == case.file)
    pair = developed_pair(file.path, file.description, case.developer, cache)  # type: ignore[arg-type]  # from a row
    if not isinstance(pair, DevelopedPair):
        raise TypeError(f"{case} was judged, and cannot be developed again: {pair.reason}")
    return pair


def _shown(raw: Tensor, frame: RawFrame) -> np.ndarray:
    matrix = torch.from_numpy(frame.camera_to_srgb).float()
    image = render(raw, frame.cfa_pattern, torch.tensor(frame.wb_gains), matrix)
    return np.asarray((image.permute(1, 2, 0) * 255).round().to(torch.uint8))


def _centre(side: int) -> slice:
    length = min(side, _CROP)
    return slice((side - length) // 2, (side + length) // 2)
