"""Quote the benchmarks' figures anew in the pages that quote them: rows of ``| what | `figure` | value |``.

The README's tables of fidelity and of trained denoisers, too. Run it with ``make figures`` after a benchmark; each
value keeps its number of decimals. What pages say in sentences is for their author to read again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results"
PAGES: Final = {ROOT / "docs" / "scale.md": "scale_model"}
"""Pages all of whose rows are of one benchmark; in the README a block names it: ``<!-- factory -->``."""
BLOCKS: Final = {
    "factory": "factory",
    "model": "model",
    "scale": "plan_scale",
    "chaos": "chaos",
    "reader": "reader",
    "photograph_noise": "photograph_noise",
}
FIDELITY: Final = {
    "psnr_aligned": ".1f",
    "psnr": ".1f",
    "ssim_aligned": ".3f",
    "lpips_aligned": ".3f",
    "lpips_aligned_binned": ".3f",
    "ciede2000_aligned": ".1f",
    "way_to_ceiling": ".0%",
}
"""Columns of the table of fidelity, as they are written."""
CONDITIONS: Final = ("iso800", "iso3200", "iso6400", "iso6400_ev-3", "all")
"""Columns of the table of trained denoisers."""
_DENOISER_ROW: Final = re.compile(r"^(\| .* \| `(\w+)` \| )(?:[\d.]+ \| ){4}[\d.]+ \|$", re.MULTILINE)
_DIFFERENCE_ROW: Final = re.compile(r"^(\| .* \| `(\w+_db)` \| )-?[\d.]+ \| [\d.]+ \|", re.MULTILINE)
_FIDELITY_ROW: Final = re.compile(r"^\| (\w+) \((\d+)\) \| (\w+) \|.*\|$", re.MULTILINE)
_ROW: Final = re.compile(r"^(\| .* \| `([^`]+)` \| )([\d.,]+)( \|)$", re.MULTILINE)


def quoted(text: str, figures: dict[str, Any]) -> str:
    """Put the figures into the rows of a text."""

    def row(match: re.Match[str]) -> str:
        decimals = len(match[3].partition(".")[2])
        return f"{match[1]}{figures[match[2]]['value']:,.{decimals}f}{match[4]}"

    return _ROW.sub(row, text)


def quoted_fidelity(text: str, figures: dict[str, Any]) -> str:
    """Put the figures into the rows of the table of fidelity, ``| developer (pairs) | method | ... |``."""

    def row(match: re.Match[str]) -> str:
        group, count, method = match.groups()
        means = (figures[f"{group}/{method}/{metric}"]["value"] for metric in FIDELITY)
        cells = " | ".join(format(mean, spec) for mean, spec in zip(means, FIDELITY.values(), strict=True))
        return f"| {group} ({count}) | {method} | {cells} |"

    return _FIDELITY_ROW.sub(row, text)


def quoted_downstream(text: str, figures: dict[str, Any]) -> str:
    """Put the figures into the rows of the trained denoisers, and of the differences between them."""

    def denoiser(match: re.Match[str]) -> str:
        means = (figures[f"{match[2]}/{condition}"]["value"] for condition in CONDITIONS)
        return f"{match[1]}{' | '.join(f'{mean:.2f}' for mean in means)} |"

    def difference(match: re.Match[str]) -> str:
        found = figures[match[2]]
        return f"{match[1]}{found['value']:.2f} | {found['spread']:.2f} |"

    return _DIFFERENCE_ROW.sub(difference, _DENOISER_ROW.sub(denoiser, text))


def _figures(benchmark: str) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads((RESULTS / f"{benchmark}.json").read_text(encoding="utf-8"))["figures"]
    return figures


def main() -> None:
    """Rewrite the pages."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for block, benchmark in BLOCKS.items():
        before, mark, rest = text.partition(f"<!-- {block} -->")
        inside, end, after = rest.partition(f"<!-- /{block} -->")
        text = before + mark + quoted(inside, _figures(benchmark)) + end + after
    text = quoted_downstream(quoted_fidelity(text, _figures("fidelity")), _figures("downstream"))
    readme.write_text(text, encoding="utf-8")
    for page, benchmark in PAGES.items():
        page.write_text(quoted(page.read_text(encoding="utf-8"), _figures(benchmark)), encoding="utf-8")


if __name__ == "__main__":
    main()
