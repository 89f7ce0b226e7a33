"""How near each inverse comes to real RAW: the table, ``results/fidelity.json``, and pictures in ``docs/``.

Run it with ``make bench-fidelity``, or ``python benchmarks/fidelity.py --help`` for the options.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from fidelity_pictures import draw_cases, draw_means, extreme_cases
from record import weights_sha256, write_result
from rich.console import Console

from aura.errors import AuraError
from aura.training.development import DEVELOPERS, available_developers, developer_version
from aura.training.evaluation import EvaluationRow, evaluate
from aura.training.fidelity_table import as_json, as_table
from aura.training.judging import CLASSICAL, networks
from aura.training.raw_files import list_raw_files

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "docs"


def main() -> None:
    """Measure, print, write."""
    options = _options()
    console = Console()
    methods = CLASSICAL | ({} if options.classical_only else networks(options.weights))
    files = list_raw_files(options.data / "raw" / "validation")
    started = time.monotonic()

    def tell(row: object) -> None:
        if isinstance(row, EvaluationRow):
            aligned = row.score.psnr_aligned
            console.print(f"{row.file}  {row.developer}  {row.method}  {aligned:.1f} dB aligned", style="dim")

    evaluation = evaluate(
        methods, files, options.developers, crop=options.crop, cache_folder=options.cache, on_row=tell
    )
    console.print(as_table(evaluation))
    content = as_json(evaluation)
    target = write_result(
        "fidelity",
        content["protocol"],
        content["figures"],
        ("torch", "rawpy", "flashraw", "pillow", "lpips"),
        developers={name: developer_version(name) for name in options.developers},
        weights_sha256=None if options.classical_only else weights_sha256(options.weights),
        left_out=content["left_out"],
        rows=content["rows"],
    )
    if "aura" in methods:
        PICTURES.mkdir(exist_ok=True)
        draw_means(evaluation, PICTURES / "fidelity.png")
        draw_cases(extreme_cases(evaluation), files, methods, options.cache, PICTURES / "fidelity-cases.jpg")
    console.print(f"{time.monotonic() - started:.0f} s; written to {target.relative_to(ROOT)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default_data = Path(os.environ.get("AURA_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default_data, help="holds raw/validation and raw/manifest.json")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "developed", help="developed photographs")
    parser.add_argument("--weights", type=Path, help="of another network than the released one")
    parser.add_argument("--classical-only", action="store_true", help="leave the network out")
    parser.add_argument("--crop", type=int, help="side of a centre crop; the whole image if left out")
    parser.add_argument(
        "--developers",
        nargs="+",
        choices=DEVELOPERS,
        default=available_developers(),
        help="by default all that are installed",
    )
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except AuraError as error:
        raise SystemExit(f"fidelity: {error}") from error
