"""What each part of AURA is worth, and the network it was published with: the table, and ``results/ablation.json``.

Every network is trained here, on the same pairs, by a schedule far shorter than the released weights' so that all of
them can be; then all are judged side by side on real RAW files.
Run it with ``make bench-ablation``; run it again and it goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, Final

import numpy as np
import photograph_noise
import torch
import torch.nn.functional as F
from record import weights_sha256, write_result
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from aura.errors import AuraError
from aura.losses import LossWeights
from aura.nets.aura import AuraConfig
from aura.nets.published import PUBLISHED_ALIGNMENT, PublishedInverse
from aura.reconstruct import RELEASED_WEIGHTS
from aura.training.configuration import Progress, Stage, TrainConfig
from aura.training.development import available_developers, developer_version
from aura.training.evaluation import EvaluationRow, Method, evaluate
from aura.training.fidelity_table import as_json, as_table
from aura.training.judging import CLASSICAL, networks
from aura.training.loop import train
from aura.training.raw_files import list_raw_files

ROOT: Final = Path(__file__).resolve().parents[1]
DENOISER: Final = Stage(name="denoiser", steps=150, batch=8, size=128, learning_rate=2e-3)
GLOBAL: Final = Stage(name="global", steps=1600, batch=48, size=256, learning_rate=2e-3, pool=6000)
JOINT: Final = Stage(name="joint", steps=600, batch=4, size=128, learning_rate=1.2e-3)
LOCAL: Final[dict[str, Any]] = {"stages": (DENOISER, JOINT), "global_weights": RELEASED_WEIGHTS}
VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "aura": LOCAL,
    "aura_without_ycbcr": LOCAL | {"architecture": AuraConfig(ycbcr=False)},
    "aura_without_denoise": LOCAL | {"stages": (JOINT,), "architecture": AuraConfig(denoise=False)},
    "aura_without_channel": LOCAL | {"architecture": AuraConfig(channel=False)},
    "aura_without_spatial": LOCAL | {"architecture": AuraConfig(spatial=False)},
    "aura_without_position": LOCAL | {"architecture": AuraConfig(position=False)},
    "aura_without_hlog": LOCAL | {"hlog_weight": 0.0},
    "aura_without_detail_loss": LOCAL | {"detail_weight": 0.0},
    "aura_without_tone_price": LOCAL | {"tone_weight": 0.0},
    "aura_without_thumbnail": {
        "stages": (DENOISER, GLOBAL, JOINT),
        "architecture": AuraConfig(thumbnail=False, members=1),
    },
    "aura_one_member": {"stages": (DENOISER, GLOBAL, JOINT), "architecture": AuraConfig(members=1)},
    # at seed 0 it begins below black on these pairs, where clipping leaves it no slope, and learns nothing; by the loss
    # of the others, or more steps at such a rate, it stays at 24 dB
    "published": {
        "stages": (JOINT.model_copy(update={"steps": 300, "learning_rate": 6e-4}),),
        "network": "published",
        "seed": 1,
        "detail_weight": 0.0,
        "lpips_weight": LossWeights().lpips,
    },
}
"""Parts of the local network are left out above the released global map; what the map itself needs has its own."""
TRAINING: Final = (
    f"Trained by {DENOISER.steps} steps of the denoiser and {JOINT.steps} joint steps of {JOINT.batch} views of "
    f"{JOINT.size} pixels, far fewer than the released weights, above the released global map; one_member and "
    f"without_thumbnail train a map of one member of their own, {GLOBAL.steps} steps of {GLOBAL.batch} views. The "
    "published network has 300 joint steps on the same pairs, and no others, by the loss it was published with and "
    "half the learning rate: by more steps, or by the loss of the others, it learns nothing. without_local is the "
    "released global map alone."
)


def main() -> None:
    """Train what is not trained yet, judge, print, write."""
    options = _options()
    console = Console()
    methods = dict(CLASSICAL)
    for name in options.variants:
        methods[name] = _trained(name, options, console)
    released = networks(None)
    methods["aura_without_local"], methods["aura_released"] = released["aura_global"], released["aura"]
    started = time.monotonic()

    def tell(row: object) -> None:
        if isinstance(row, EvaluationRow):
            aligned = row.score.psnr_aligned
            console.print(f"{row.file}  {row.developer}  {row.method}  {aligned:.1f} dB aligned", style="dim")

    files = list_raw_files(options.data / "raw" / "validation")
    developers = available_developers()
    evaluation = evaluate(methods, files, developers, crop=options.crop, cache_folder=options.cache, on_row=tell)
    console.print(as_table(evaluation))
    noise, noise_left_out = photograph_noise.measure(
        methods, files, options.crop, lambda name: console.print(f"noise of {name}: done", style="dim")
    )
    console.print(photograph_noise.as_table(methods, noise))
    content = as_json(evaluation)
    target = write_result(
        "ablation",
        f"{content['protocol']} {TRAINING} Seed {options.seed} (published: 1), on the training scenes of AURA_DATA. "
        f"Figures that begin with noise/: {photograph_noise.protocol(options.crop)}",
        content["figures"] | {f"noise/{key}": figure for key, figure in noise.items()},
        ("torch", "rawpy", "flashraw", "pillow", "lpips"),
        developers={name: developer_version(name) for name in developers},
        left_out=content["left_out"],
        noise_left_out=noise_left_out,
        weights_sha256=weights_sha256(),
    )
    console.print(f"judged in {time.monotonic() - started:.0f} s; written to {target.relative_to(ROOT)}")


def _trained(name: str, options: argparse.Namespace, console: Console) -> Method:
    out = options.work / name
    config = TrainConfig(
        data=options.data,
        out=out,
        pool_folder=options.work,
        validate_every=150,
        **({"seed": options.seed} | VARIANTS[name]),
    )

    def tell(progress: Progress) -> None:
        if progress.validation_psnr_aligned is not None:
            score, left = progress.validation_psnr_aligned, progress.seconds_left / 60
            where = f"{progress.stage} {progress.step}/{progress.steps}"
            console.print(f"{name}  {where}  held out {score:.2f} dB, {left:.0f} min left", style="dim")

    weights = train(config, tell).weights
    return _published(weights) if config.network == "published" else networks(weights)["aura"]


def _display(image: np.ndarray) -> Tensor:
    return torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255.0


def _published(weights: Path) -> Method:
    network = PublishedInverse().eval()
    network.load_state_dict(load_file(weights))

    def invert(image: np.ndarray) -> Tensor:
        height, width = image.shape[:2]
        room = (0, -width % PUBLISHED_ALIGNMENT, 0, -height % PUBLISHED_ALIGNMENT)
        with torch.inference_mode():
            canonical: Tensor = network(F.pad(_display(image), room, mode="reflect"))
        return canonical[0, :, :height, :width]

    return invert


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    default_data = Path(os.environ.get("AURA_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default_data, help="training scenes and raw/validation")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "ablation", help="where networks are trained")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "developed", help="developed photographs")
    parser.add_argument("--crop", type=int, default=768, help="side of the centre crop that stands for the image")
    parser.add_argument("--seed", type=int, default=0, help="of every run")
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), help="all if left out")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except AuraError as error:
        raise SystemExit(f"ablation: {error}") from error
