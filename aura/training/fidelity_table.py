"""An evaluation as a table for the terminal, as Markdown for a README, and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Final

from rich.table import Table

from aura.training.evaluation import Evaluation, figures, group_sizes, method_names

_SHOWN: Final = {
    "psnr_aligned": ("PSNR", ".1f"),
    "psnr": ("as is", ".1f"),
    "ssim_aligned": ("SSIM", ".3f"),
    "lpips_aligned": ("LPIPS", ".3f"),
    "lpips_aligned_binned": ("binned", ".3f"),
    "ciede2000_aligned": ("dE00", ".1f"),
    "way_to_ceiling": ("way", ".0%"),
}

_LEGEND: Final = (
    'PSNR in dB, SSIM, LPIPS and dE00 (CIEDE2000) are aligned: after one gain per colour channel. "As is" is PSNR '
    'without. "Binned" is LPIPS where 2x2 sites are averaged, without the grain of RAW. "Way" is the share of the way '
    "from the better classical inverse to the ceiling."
)


def as_table(evaluation: Evaluation) -> Table:
    """Lay the means out for a terminal: a block per group, a row per method."""
    table = Table(title="Fidelity on real RAW files", caption=" ".join([_LEGEND, _left_out(evaluation)]))
    table.add_column("photographs by")
    table.add_column("method", no_wrap=True)  # the columns of figures give way first
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
    notes = [note for note in (_LEGEND, evaluation.protocol, _left_out(evaluation)) if note]
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
    """Name the pairs that were left out, those with the same reason together."""
    names: dict[tuple[str, str], list[str]] = {}
    for pair in evaluation.left_out:
        names.setdefault((pair.developer, pair.reason), []).append(pair.name)
    groups = [f"{developer} of {', '.join(files)} ({reason})" for (developer, reason), files in names.items()]
    return f"Left out: {'; '.join(groups)}." if groups else ""
