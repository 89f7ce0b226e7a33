"""What a training run depends on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from aura.losses import LossWeights
from aura.nets.aura import AuraConfig
from aura.training.camera_pairs import CameraFolder

StageName = Literal["denoiser", "global", "joint", "fine_tune"]
NetworkName = Literal["aura", "published"]


class Stage(BaseModel):
    """One stage of training: how many steps of how many views of what size, at which peak learning rate.

    The global stage's views come from a pool of ``pool``, ``batch`` for each member of the committee.
    The stage ``fine_tune`` trains all but the pretrained denoiser, and is where photographs of ``camera`` are seen.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: StageName
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    size: int = Field(ge=96, multiple_of=16)
    learning_rate: float = Field(gt=0)
    pool: int = Field(default=24_000, ge=2)


class TrainConfig(BaseModel):
    """Everything a training run depends on; stored in its checkpoint and on the card.

    Attributes:
        data: folder with ``hdr/``, ``raw/`` and ``srgb/`` (see :func:`aura.training.scenes.load_scenes`); None if all
            light comes from ``raw_folders`` or ``camera``.
        out: folder for checkpoint, weights and curves.
        raw_folders: further folders of RAW files to take light from, each with a ``manifest.json`` if it needs one.
        camera: photographs and RAW of the one camera to fine-tune to.
        network: AURA, or the network it was published with, for comparison; that has a joint stage only.
        initial_weights: begin with these; their architecture counts, not ``architecture``.
        global_weights: take the finished global map from these, with as many members; the stage ``global`` is left out.
        pool_folder: where pools of summarised views are kept, shared by runs of equal seed and scenes; ``out`` if None.
        hlog_weight: of the loss term that is steep at large errors; 0 only for ablation.
        unaligned_weight: share of the loss that sees absolute exposure and white balance, which a photograph hides.
        decibel_weight: weight of the aligned error in decibels beside the composite loss, so that dark photographs
            count as much as bright ones; the global stage's loss is in decibels throughout.
        detail_weight: of the fine part of the aligned error in decibels, in the stage ``joint``: noise, sharpening,
            blocks of JPEG.
        lpips_weight: of LPIPS in the stage ``joint``, which keeps texture that the fine part alone would blur as noise.
        tone_weight: of what the local network changes over 16 pixels and more, relative to the light, in the stage
            ``joint``: tone is left to the global map, which knows the whole photograph.
        lpips_every: LPIPS enters the loss every so many joint steps (its weight is multiplied to make up for it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path | None
    out: Path
    raw_folders: tuple[Path, ...] = ()
    camera: CameraFolder | None = None
    network: NetworkName = "aura"
    initial_weights: Path | None = None
    global_weights: Path | None = None
    pool_folder: Path | None = None
    architecture: AuraConfig = AuraConfig()
    stages: tuple[Stage, ...] = (
        Stage(name="denoiser", steps=300, batch=8, size=128, learning_rate=2e-3),
        Stage(name="global", steps=1600, batch=48, size=256, learning_rate=2e-3),
        Stage(name="joint", steps=3000, batch=6, size=160, learning_rate=1.2e-3),
    )
    seed: int = 0
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    weight_decay: float = 1e-3
    gradient_clip: float = Field(default=1.0, gt=0)
    global_gradient_clip: float = Field(default=5.0, gt=0)
    warmup_steps: int = 100
    hlog_weight: float = Field(default=LossWeights().hlog, ge=0)
    unaligned_weight: float = 0.5
    decibel_weight: float = 0.05
    detail_weight: float = Field(default=0.5, ge=0)
    lpips_weight: float = Field(default=5.0, ge=0)
    tone_weight: float = Field(default=3.0, ge=0)
    lpips_every: int = Field(default=2, ge=1)
    validate_every: int = Field(default=250, ge=1)
    validation_pairs: int = 64
    loader_workers: int = Field(default=1, ge=0)
    device: str = "cpu"


@dataclass(frozen=True)
class Progress:
    """What a caller is told now and then; ``views`` are drawn before the global stage, without a loss."""

    stage: StageName | Literal["views"]
    step: int
    steps: int
    loss: float
    seconds_left: float
    validation_psnr_aligned: float | None
