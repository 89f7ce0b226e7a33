"""A run's curves, as rows of JSON while it trains and as a picture at its end."""

from __future__ import annotations

import json
from pathlib import Path


def draw_curves(folder: Path) -> Path:
    """Plot ``curves.jsonl`` to ``curves.png``: each stage's loss in a panel of its own, since each has another."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # heavy, and only needed at the end

    rows = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    figure = Figure(figsize=(3.2 * (len(stages) + 1), 3.2), layout="constrained")
    *losses, scores = figure.subplots(1, len(stages) + 1, squeeze=False)[0]
    for stage, panel in zip(stages, losses, strict=True):
        of_stage = [row for row in rows if row["stage"] == stage]
        panel.plot([row["step"] for row in of_stage], _smooth([row["loss"] for row in of_stage]))
        panel.set(title=stage, xlabel="step", ylabel="training loss (running mean)")
        judged = [row for row in of_stage if "validation_psnr_aligned" in row]
        if judged:
            minutes = [row["seconds"] / 60 for row in judged]
            scores.plot(minutes, [row["validation_psnr_aligned"] for row in judged], marker=".", label=stage)
    scores.set(title="held-out scenes", xlabel="minutes", ylabel="PSNR aligned, dB")
    if scores.lines:
        scores.legend()
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _smooth(values: list[float], decay: float = 0.98) -> list[float]:
    mean, out = values[0], []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        out.append(mean)
    return out
