"""The demo: real photographs that come with scikit-image, through the whole factory."""

from importlib import resources
from pathlib import Path
from typing import Final

from flows.run import RunSettings, run_factory, tell
from storage.recipe import Recipe, load_recipe

PHOTOGRAPHS: Final = {
    "astronaut.png": "Eileen Collins, NASA; public domain",
    "camera.png": "cameraman, Lav Varshney; CC0",
    "chelsea.png": "a cat, Stefan van der Walt; CC0",
    "coffee.png": "a cup of coffee, Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0",
    "rocket.jpg": "a launch of Falcon 9, SpaceX; public domain",
}
"""Photographs inside scikit-image's wheel, and what its documentation says of their origin and licence."""

_CAMERAS: Final = ["canon-eos-5d-mark-iv", "nikon-d850", "sony-ilce-7sm2"]


def run_demo(folder: Path, method: str | None, settings: RunSettings) -> None:
    """Make, or find made, a dataset of :data:`PHOTOGRAPHS` under ``folder``, and say what was made.

    Args:
        folder: gets ``photographs/``, ``dataset/`` and a note on the licences.
        method: the inverse ISP; None for the recipe's default.
        settings: how to run.
    """
    corpus = folder / "photographs"
    _lay_out_photographs(corpus)
    tell(run_factory(demo_recipe(corpus, method), str(folder / "dataset"), settings))


def demo_recipe(corpus: Path, method: str | None) -> Recipe:
    """Return the demo's recipe: small canvases, three cameras with calibrated noise."""
    values = {
        "corpus": str(corpus),
        "canvas.height": 192,
        "canvas.width": 192,
        "canvas.min_side": 96,
        "cameras": _CAMERAS,
        "iso": (100, 3200),
        "shard_size": 8,
        "gates.min_cycle_psnr_matched": 20.0,
        "gates.max_reject_fraction": 0.0,
    }
    return load_recipe(None, values | ({"method": method} if method else {}))


def _lay_out_photographs(corpus: Path) -> None:
    corpus.mkdir(parents=True, exist_ok=True)
    shipped = resources.files("skimage") / "data"
    for name in PHOTOGRAPHS:
        target = corpus / name
        if not target.exists():
            target.write_bytes((shipped / name).read_bytes())
    lines = [f"{name}: {origin}" for name, origin in PHOTOGRAPHS.items()]
    note = "Photographs that come with scikit-image:\n\n" + "\n".join(lines) + "\n"
    (corpus.parent / "PHOTOGRAPHS.txt").write_text(note, encoding="utf-8")
