"""An evaluation as a table for the terminal, as Markdown for a README, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from aura.training.evaluation import Evaluation, figures, group_sizes, method_names

_SHOWN: Final = {
    "psnr_aligned": ("PSNR aligned, dB", ".1f"),
    "psnr": ("PSNR as is, dB", ".1f"),
    "ssim_aligned": ("SSIM aligned", ".3f"),
    "lpips_aligned": ("LPIPS aligned", ".3f"),
    "ciede2000_aligned": ("CIEDE2000 aligned", ".1f"),
    "way_to_ceiling": ("way to the ceiling", ".0%"),
}


def as_table(evaluation: Evaluation) -> Table:
    """Lay the means out for a terminal: a block per group, a row per method."""
    table = Table(title="Fidelity on real RAW files", caption=_left_out(evaluation) or None)
    table.add_column("photographs by")
    table.add_column("method")
    for heading, _ in _SHOWN.values():
        table.add_column(heading, justify="right")
    for group, lines in _cells(evaluation).items():
        for index, line in enumerate(lines):
            table.add_row(group if index == 0 else "", *line, end_section=index == len(lines) - 1)
    return table


def as_markdown(evaluation: Evaluation) -> str:
    """Lay the means out as a Markdown table, with the protocol and what was left out under it."""
    headings = ["photographs by", "method", *(heading for heading, _ in _SHOWN.values())]
    lines = ["| " + " | ".join(headings) + " |", "|---|---|" + "---:|" * len(_SHOWN)]
    for group, rows in _cells(evaluation).items():
        lines += ["| " + " | ".join([group, *row]) + " |" for row in rows]
    notes = [note for note in (evaluation.protocol, _left_out(evaluation)) if note]
    return "\n".join(lines) + "\n\n" + "\n\n".join(notes) + "\n"


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Return everything that was measured: means under ``figures``, every pair under ``rows``."""
    return {
        "protocol": evaluation.protocol,
        "figures": {key: figure._asdict() for key, figure in figures(evaluation).items()},
        "rows": [asdict(row) for row in evaluation.rows],
        "left_out": [asdict(pair) for pair in evaluation.left_out],
    }


def _cells(evaluation: Evaluation) -> dict[str, list[list[str]]]:
    means = figures(evaluation)
    cells: dict[str, list[list[str]]] = {}
    for group, size in group_sizes(evaluation).items():
        cells[f"{group} ({size})"] = [
            [
                method,
                *(
                    format(means[key].value, spec) if (key := f"{group}/{method}/{metric}") in means else "-"
                    for metric, (_, spec) in _SHOWN.items()
                ),
            ]
            for method in method_names(evaluation)
        ]
    return cells


def _left_out(evaluation: Evaluation) -> str:
    pairs = [f"{pair.name} by {pair.developer} ({pair.reason})" for pair in evaluation.left_out]
    return f"Left out: {'; '.join(pairs)}." if pairs else ""
