"""The demo: real photographs that come with scikit-image, through the whole factory."""

import json
from importlib import resources
from pathlib import Path
from typing import Any, Final

from PIL import Image

from flows.commands.run import RunSettings, run_factory, tell
from storage.recipe import Recipe, load_recipe

ANNOTATIONS: Final = "instances.json"
PHOTOGRAPHS: Final = {
    "astronaut.png": "Eileen Collins, NASA; public domain",
    "camera.png": "cameraman, Lav Varshney; CC0",
    "chelsea.png": "a cat, Stefan van der Walt; CC0",
    "coffee.png": "a cup of coffee, Rachel Michetti, courtesy of Pikolo Espresso Bar; CC0",
    "rocket.jpg": "a launch of Falcon 9, SpaceX; public domain",
}
"""Photographs inside scikit-image's wheel, and what its documentation says of their origin and licence."""

_BOXES: Final = {
    "astronaut.png": {"person": (20, 13, 350, 499), "helmet": (275, 345, 237, 167), "model rocket": (360, 0, 95, 280)},
    "chelsea.png": {"cat": (0, 0, 405, 300)},
    "coffee.png": {"cup": (172, 18, 242, 255), "spoon": (322, 65, 106, 262)},
    "camera.png": {},
}
"""Left, top, width and height of what is in some of the photographs, drawn by hand; nobody annotated the others."""

_CAMERAS: Final = ["canon-eos-5d-mark-iv", "nikon-d850", "sony-ilce-7sm2"]


def run_demo(folder: Path, method: str | None, settings: RunSettings) -> None:
    """Make, or find made, a dataset of :data:`PHOTOGRAPHS` under ``folder``, and say what was made.

    Args:
        folder: gets ``photographs/``, ``dataset/`` and a note on the licences.
        method: the inverse ISP; None for the recipe's default.
        settings: how to run.
    """
    corpus = folder / "photographs"
    lay_out_photographs(corpus)
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
        "lpips_share": 0.25,
        "gates.min_cycle_psnr_matched": 20.0,
        "gates.max_reject_fraction": 0.0,
        "annotations.source": str(corpus.parent / ANNOTATIONS),
    }
    return load_recipe(None, values | ({"method": method} if method else {}))


def lay_out_photographs(corpus: Path) -> None:
    """Put :data:`PHOTOGRAPHS` in a folder, and beside it a note on their licences and a COCO file of their boxes."""
    corpus.mkdir(parents=True, exist_ok=True)
    shipped = resources.files("skimage") / "data"
    for name in PHOTOGRAPHS:
        target = corpus / name
        if not target.exists():
            target.write_bytes((shipped / name).read_bytes())
    lines = [f"{name}: {origin}" for name, origin in PHOTOGRAPHS.items()]
    note = "Photographs that come with scikit-image:\n\n" + "\n".join(lines) + "\n"
    (corpus.parent / "PHOTOGRAPHS.txt").write_text(note, encoding="utf-8")
    (corpus.parent / ANNOTATIONS).write_text(json.dumps(_coco(corpus), indent=1), encoding="utf-8")


def _coco(corpus: Path) -> dict[str, Any]:
    """Write the boxes as COCO does (https://cocodataset.org/#format-data)."""
    names = sorted({category for boxes in _BOXES.values() for category in boxes})
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (name, boxes) in enumerate(_BOXES.items()):
        with Image.open(corpus / name) as photograph:
            width, height = photograph.size
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        for category, box in boxes.items():
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": names.index(category),
                    "bbox": box,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": name} for number, name in enumerate(names)]
    return {"images": images, "annotations": annotations, "categories": categories}
