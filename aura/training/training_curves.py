"""A run's curves, as rows of JSON while it trains and as a picture at its end."""

from __future__ import annotations

import json
from pathlib import Path


def draw_curves(folder: Path) -> Path:
    """Plot loss and validation PSNR of ``curves.jsonl`` to ``curves.png``."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # heavy, and only needed at the end

    rows = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(row["stage"] for row in rows):
        if name == "denoiser":
            continue
        of_stage = [row for row in rows if row["stage"] == name]
        left.plot([row["seconds"] / 60 for row in of_stage], _smooth([row["loss"] for row in of_stage]), label=name)
        judged = [row for row in of_stage if "validation_psnr_aligned" in row]
        right.plot(
            [row["seconds"] / 60 for row in judged], [row["validation_psnr_aligned"] for row in judged], label=name
        )
    left.set(xlabel="minutes", ylabel="training loss (running mean)")
    right.set(xlabel="minutes", ylabel="held-out scenes, aligned PSNR (dB)")
    if left.lines:
        left.legend()
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _smooth(values: list[float], decay: float = 0.98) -> list[float]:
    mean, out = values[0], []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        out.append(mean)
    return out
