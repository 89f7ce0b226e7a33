"""How DNG files made from photographs look in raw developers, against the photographs: mean CIEDE2000.

    make bench-dng

Photographs that come with scikit-image are made into DNG files, one camera each in turn, at ISO 100 with that camera's
noise. Every developer that is installed develops them with the file's white balance and matrix and nothing else:
no tone curve, no automatic exposure, no sharpening. What comes out is compared with the photograph, as is and after one
exposure factor for the whole picture (fitted in linear light), since the network's RAW keeps headroom for highlights.
``linearise`` shows the chain of DNG and developer alone: its RAW is the photograph's own light.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import tempfile
from importlib import resources
from pathlib import Path

import numpy as np
import rawpy
import torch
from PIL import Image
from record import write_result

from aura.color import linear_to_srgb, srgb_to_linear
from aura.metrics import ciede2000
from aura.negative import write_negative
from aura.reconstruct import Reconstructor
from aura.sensor.catalog import load_profile
from aura.sensor.simulate import draw_capture, simulate
from flows.commands.demo import PHOTOGRAPHS

CAMERAS = ("canon-eos-5d-mark-iv", "nikon-d850", "sony-ilce-7sm2", "canon-eos-70d")
METHODS = ("linearise", "aura")
DEVELOPERS = ("libraw", "dcraw", "darktable", "rawtherapee")
PROGRAMS = {"dcraw": "dcraw", "darktable": "darktable-cli", "rawtherapee": "rawtherapee-cli"}
BORDER = 16  # developers crop and extend borders differently


def main() -> None:
    """Measure, print, write."""
    options = _options()
    developers = [name for name in DEVELOPERS if name == "libraw" or shutil.which(PROGRAMS[name])]
    for name in sorted(set(DEVELOPERS) - set(developers)):
        print(f"{PROGRAMS[name]} is not installed and left out.")
    found: dict[tuple[str, str], list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for method in METHODS:
            inverse = Reconstructor.load(method)
            for index, name in enumerate(list(PHOTOGRAPHS)[: options.photographs]):
                photograph = _photograph(name)
                path = Path(folder) / f"{method}-{index}.dng"
                capture = draw_capture(load_profile(CAMERAS[index % len(CAMERAS)]), 100, index)
                raw = simulate(inverse.canonical(photograph)[0], capture)
                write_negative(path, raw.numpy().astype(np.uint16), capture, photograph=photograph)
                for developer in developers:
                    developed = develop(developer, path)
                    found.setdefault((developer, method), []).append(colour_difference(developed, photograph))
    figures = {}
    print(f"\n{'developer':<14}{'method':<12}{'as is':>8}{'exposure matched':>20}   mean CIEDE2000")
    for (developer, method), pairs in found.items():
        for kind, values in zip(("as_is", "exposure_matched"), zip(*pairs, strict=True), strict=True):
            mean, spread = round(float(np.mean(values)), 2), round(float(np.std(values)), 2)
            figures[f"{developer}/{method}/{kind}"] = {"value": mean, "unit": "CIEDE2000", "spread": spread}
        means = [float(np.mean(values)) for values in zip(*pairs, strict=True)]
        print(f"{developer:<14}{method:<12}{means[0]:>8.2f}{means[1]:>20.2f}")
    protocol = " ".join((__doc__ or "").split("\n\n", 2)[2].split())
    written = write_result("dng", protocol, figures, ("torch", "numpy", "rawpy"), photographs=options.photographs)
    print(f"\nWritten to {written}")


def develop(developer: str, path: Path) -> np.ndarray:
    """Develop plainly to uint8 sRGB ``(H, W, 3)``."""
    if developer == "libraw":
        with rawpy.imread(str(path)) as raw:
            return np.asarray(raw.postprocess(use_camera_wb=True, no_auto_bright=True, gamma=(2.4, 12.92)))
    target = path.with_name(f"{path.stem}-{developer}.tif")
    target.unlink(missing_ok=True)
    commands = {
        "dcraw": ["dcraw", "-w", "-W", "-o", "1", "-g", "2.4", "12.92", "-T", "-c", str(path)],
        "darktable": [
            *("darktable-cli", str(path), str(target), "--core", "--disable-opencl", "--library", ":memory:"),
            *("--configdir", str(path.parent / "config"), "--cachedir", str(path.parent / "cache")),
            *("--conf", "plugins/imageio/format/tiff/bpp=8", "--conf", "write_sidecar_files=never"),
            *("--conf", "plugins/darkroom/workflow=none", "--conf", "plugins/darkroom/chromatic-adaptation=legacy"),
        ],
        "rawtherapee": ["rawtherapee-cli", "-q", "-t", "-b8", "-Y", "-o", str(target), "-c", str(path)],
    }
    environment = os.environ | {"RT_SETTINGS": str(path.parent / "rt"), "RT_CACHE": str(path.parent / "rt-cache")}
    done = subprocess.run(commands[developer], env=environment, capture_output=True, check=True, timeout=600)  # noqa: S603  # fixed programs
    if developer == "dcraw":
        target.write_bytes(done.stdout)
    return np.asarray(Image.open(target).convert("RGB"))


def colour_difference(developed: np.ndarray, photograph: np.ndarray) -> tuple[float, float]:
    """Mean CIEDE2000 as is, and after one exposure factor fitted by least squares in linear light."""
    height, width = photograph.shape[:2]
    # what a developer crops, it crops by the same on both sides
    top, left = ((side - other) // 2 for side, other in zip((height, width), developed.shape, strict=False))
    seen = developed[max(-top, 0) :, max(-left, 0) :]
    rows, columns = min(seen.shape[0], height - top) - BORDER, min(seen.shape[1], width - left) - BORDER
    one, other = (
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None] / 255
        for image in (
            seen[BORDER:rows, BORDER:columns],
            photograph[max(top, 0) :, max(left, 0) :][BORDER:rows, BORDER:columns],
        )
    )
    light, target = srgb_to_linear(one), srgb_to_linear(other)
    open_ = (one < 0.98) & (other < 0.98)
    factor = (light * target)[open_].sum() / (light * light)[open_].sum()
    matched = linear_to_srgb(light * factor).clamp(0, 1)
    return float(ciede2000(one, other)), float(ciede2000(matched, other))


def _photograph(name: str) -> np.ndarray:
    with (resources.files("skimage") / "data" / name).open("rb") as file:
        image = np.array(Image.open(file).convert("RGB"))
    height, width = (side - side % 2 for side in image.shape[:2])
    return image[:height, :width].copy()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=int, default=len(PHOTOGRAPHS), help="how many; all by default")
    return parser.parse_args()


if __name__ == "__main__":
    main()
