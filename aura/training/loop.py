"""The training loop: three stages, exact resume, an averaged copy of the weights, curves as data and as a picture.

1. ``denoiser``: DnCNN learns white Gaussian noise on YCbCr, then is frozen.
2. ``global``: the context and the global map alone, on a pool of photographs seen from afar; then they are frozen.
3. ``joint``: the local network under the composite loss.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader

from aura.bayer import pack_rgb
from aura.color import rgb_to_ycbcr, srgb_to_linear
from aura.errors import InvalidInputError, WeightsError
from aura.losses import LossWeights, composite_loss
from aura.metrics import align_gains, psnr_aligned
from aura.nets.aura import Aura, AuraConfig
from aura.nets.context import Summary
from aura.nets.global_map import apply_global_inverse
from aura.perceptual import Lpips
from aura.sensor.simulate import canonical_to_camera
from aura.training.pairs import DistantViews, PairBatch, PairStream, draw_pairs
from aura.training.scenes import Scene, held_out, load_scenes
from aura.training.view_pool import draw_from, filled_pool

log = logging.getLogger(__name__)

StageName = Literal["denoiser", "global", "joint"]
_STAGE_CODE: Final = {"denoiser": 1, "global": 2, "joint": 3, "validation": 4, "views": 5}
_MSE_FLOOR: Final = 1e-6
_AS_IS_FLOOR: Final = 1e-5
_SITES: Final = 400
"""Sites of each view that a step of the global stage compares: a global map needs no neighbourhoods."""


class Stage(BaseModel):
    """One stage of training: how many steps of how many views of what size, at which peak learning rate.

    The global stage's views have the size of thumbnails, whatever ``size`` says; they come from a pool of ``pool``.
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
        data: folder with ``hdr/``, ``raw/`` and ``srgb/`` (see :func:`aura.training.scenes.load_scenes`).
        out: folder for checkpoint, weights and curves.
        unaligned_weight: share of the loss that sees absolute exposure and white balance, which a photograph hides.
        decibel_weight: weight of the aligned error in decibels beside the composite loss, so that dark photographs
            count as much as bright ones; the global stage's loss is in decibels throughout.
        global_shrinkage: what is left of the global map after its stage: the world's photographs differ from
            training's, and a map that is certain of itself there is too certain here.
        lpips_every: LPIPS enters the loss every so many joint steps (its weight is multiplied to make up for it).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    data: Path
    out: Path
    architecture: AuraConfig = AuraConfig()
    stages: tuple[Stage, ...] = (
        Stage(name="denoiser", steps=300, batch=8, size=128, learning_rate=2e-3),
        Stage(name="global", steps=5000, batch=48, size=96, learning_rate=2e-3),
        Stage(name="joint", steps=1500, batch=6, size=160, learning_rate=6e-4),
    )
    seed: int = 0
    ema_decay: float = Field(default=0.998, ge=0, lt=1)
    weight_decay: float = 1e-3
    gradient_clip: float = Field(default=1.0, gt=0)
    global_gradient_clip: float = Field(default=5.0, gt=0)
    warmup_steps: int = 100
    unaligned_weight: float = 0.5
    decibel_weight: float = 0.05
    global_shrinkage: float = Field(default=0.7, gt=0, le=1)
    lpips_every: int = Field(default=4, ge=1)
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


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run left its results."""

    weights: Path
    curves: Path
    validation_psnr_aligned: float
    seconds: float


@dataclass
class _State:
    """The live run: exactly what the checkpoint holds, plus the clock."""

    model: Aura
    average: Aura
    optimizer: torch.optim.Optimizer
    stage: int
    step: int
    seconds: float


def train(config: TrainConfig, on_progress: Callable[[Progress], None] | None = None) -> TrainResult:
    """Train AURA, or go on where the checkpoint in ``config.out`` stopped.

    The same configuration gives the same weights however often it was interrupted (on one machine and thread count).

    Raises:
        InvalidInputError: ``config.out`` holds a checkpoint of another configuration.
        MissingFileError: no training scenes.
    """
    config.out.mkdir(parents=True, exist_ok=True)
    scenes = load_scenes(config.data)
    train_scenes = tuple(scene for scene in scenes if not held_out(scene)) or scenes
    judge = _Judge(tuple(scene for scene in scenes if held_out(scene)) or scenes, config, len(train_scenes))
    state = _restore(config) or _begin(config)
    lpips = Lpips().to(config.device) if any(stage.name == "joint" for stage in config.stages) else None
    score = math.nan
    while state.stage < len(config.stages):
        score = _run_stage(state, config, train_scenes, judge, lpips, on_progress)
        if config.stages[state.stage].name == "global":
            state.average.global_map.shrink(config.global_shrinkage)
        state.stage, state.step = state.stage + 1, 0
        state.model.load_state_dict(state.average.state_dict())  # the next stage builds on the averaged weights
        if state.stage < len(config.stages):
            state.optimizer = _optimizer(state.model, config, config.stages[state.stage])
        _save_checkpoint(state, config)
    if math.isnan(score):
        score = judge.score(state.average)
    weights = config.out / "aura.safetensors"
    save_weights(state.average, weights)
    (config.out / "aura.json").write_text(json.dumps(_card(config, state, judge, score, weights), indent=2) + "\n")
    return TrainResult(weights, draw_curves(config.out), score, state.seconds)


def _card(config: TrainConfig, state: _State, judge: _Judge, score: float, weights: Path) -> dict[str, Any]:
    """What is to be known of weights: from what, how long, where, how good on scenes that training did not see."""
    return {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(parameter.numel() for parameter in state.average.parameters()),
        "training_scenes": judge.training_scenes,
        "stages": [stage.model_dump() for stage in config.stages],
        "seed": config.seed,
        "hours": round(state.seconds / 3600, 2),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {config.device}",
        "torch": torch.__version__,
        "held_out_scenes_psnr_aligned_db": {"aura": round(score, 2), "linearise": round(judge.linearise, 2)},
    }


def _begin(config: TrainConfig) -> _State:
    torch.manual_seed(config.seed)
    model = Aura(config.architecture).to(config.device)
    average = Aura(config.architecture).to(config.device).eval()  # it is only ever judged, never trained itself
    average.load_state_dict(model.state_dict())
    return _State(model, average, _optimizer(model, config, config.stages[0]), stage=0, step=0, seconds=0.0)


def _optimizer(model: Aura, config: TrainConfig, stage: Stage) -> torch.optim.Optimizer:
    """AdamW over what the stage trains."""
    global_part = [*model.context_encoder.parameters(), *model.global_map.parameters()]
    if stage.name == "global":
        trained = global_part
    elif stage.name == "denoiser":
        trained = list(_denoiser(model).parameters())
    else:
        frozen = [*global_part, *(_denoiser(model).parameters() if model.config.denoise else ())]
        known = {id(parameter) for parameter in frozen}
        trained = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return torch.optim.AdamW(trained, lr=stage.learning_rate, weight_decay=config.weight_decay)


def _denoiser(model: Aura) -> nn.Module:
    if not model.config.local or model.denoise_net is None:
        raise InvalidInputError(
            "The architecture has no Denoise Net; remove the stage 'denoiser' from the configuration."
        )
    return model.denoise_net.backbone


def _run_stage(
    state: _State,
    config: TrainConfig,
    scenes: tuple[Scene, ...],
    judge: _Judge,
    lpips: Lpips | None,
    on_progress: Callable[[Progress], None] | None,
) -> float:
    stage = config.stages[state.stage]
    batches = _batches(scenes, stage, config, state, on_progress)
    _prepare(state, stage)
    clip = config.global_gradient_clip if stage.name == "global" else config.gradient_clip
    score, began, first = math.nan, time.monotonic(), state.step
    spent = state.seconds
    with (config.out / "curves.jsonl").open("a") as curves:
        for batch in batches:
            _set_learning_rate(state, stage, config)
            loss = _LOSSES[stage.name](state, batch, config, lpips)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
            parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip)
            state.optimizer.step()
            state.step += 1
            _average(state, config)
            state.seconds = spent + time.monotonic() - began
            due = state.step % config.validate_every == 0 or state.step == stage.steps
            fresh = judge.score(state.average) if due and stage.name != "denoiser" else None
            score = score if fresh is None else fresh
            value = float(loss.detach())
            curves.write(_curve_row(stage, state, value, fresh))
            if due:
                curves.flush()
                _save_checkpoint(state, config)
            if on_progress is not None:
                pace = (time.monotonic() - began) / (state.step - first)
                left = pace * (stage.steps - state.step)
                on_progress(Progress(stage.name, state.step, stage.steps, value, left, fresh))
    return score


def _curve_row(stage: Stage, state: _State, loss: float, fresh: float | None) -> str:
    row = {"stage": stage.name, "step": state.step, "loss": loss, "seconds": round(state.seconds, 1)}
    return json.dumps(row if fresh is None else row | {"validation_psnr_aligned": fresh}) + "\n"


def _prepare(state: _State, stage: Stage) -> None:
    state.model.train()
    state.average.eval()
    if stage.name != "joint":
        return
    for part in (state.model.context_encoder, state.model.global_map):
        part.requires_grad_(requires_grad=False)
    if state.model.config.denoise and state.model.denoise_net is not None:
        state.model.denoise_net.freeze_backbone()


def _batches(
    scenes: tuple[Scene, ...],
    stage: Stage,
    config: TrainConfig,
    state: _State,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[PairBatch] | Iterator[DistantViews]:
    seed, workers = (config.seed, _STAGE_CODE[stage.name]), config.loader_workers
    if stage.name == "global":
        pool = _pool(scenes, stage, config, on_progress)
        if state.step == 0:
            for model in (state.model, state.average):
                model.context_encoder.standardise_by(pool.statistics.float().to(config.device))
        return (draw_from(pool, stage.batch, (*seed, step)) for step in range(state.step, stage.steps))
    stream = PairStream(scenes, stage.batch, stage.size, seed, range(state.step, stage.steps))
    return iter(
        DataLoader(
            stream,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread if workers else None,
        )
    )


def _pool(
    scenes: tuple[Scene, ...], stage: Stage, config: TrainConfig, on_progress: Callable[[Progress], None] | None
) -> DistantViews:
    began = time.monotonic()

    def tell(drawn: int) -> None:
        if on_progress is not None:
            left = (time.monotonic() - began) / drawn * (stage.pool - drawn)
            on_progress(Progress("views", drawn, stage.pool, math.nan, left, None))

    path = config.out / f"views-{config.seed}-{stage.pool}.safetensors"
    return filled_pool(path, scenes, stage.pool, (config.seed, _STAGE_CODE["views"]), config.loader_workers, tell)


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _set_learning_rate(state: _State, stage: Stage, config: TrainConfig) -> None:
    warm = min(1.0, (state.step + 1) / max(1, min(config.warmup_steps, stage.steps // 10)))
    cosine = 0.5 * (1 + math.cos(math.pi * state.step / stage.steps))
    for group in state.optimizer.param_groups:
        group["lr"] = stage.learning_rate * warm * (0.02 + 0.98 * cosine)


def _average(state: _State, config: TrainConfig) -> None:
    """Exponential moving average; shorter at the beginning of a stage, so that it forgets the start."""
    decay = min(config.ema_decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for mean, value in zip(state.average.state_dict().values(), state.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)


def _denoiser_loss(state: _State, batch: PairBatch, config: TrainConfig, _: Lpips | None) -> Tensor:
    image = batch.image.to(config.device)
    clean = F.pixel_unshuffle(rgb_to_ycbcr(image), 2)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
    sigma = 0.08 * torch.rand(len(clean), 1, 1, 1, generator=generator)
    noise = (sigma * torch.randn(clean.shape, generator=generator)).to(clean)
    estimate: Tensor = _denoiser(state.model)(clean + noise)
    return F.mse_loss(estimate, noise) * 100.0


def _global_loss(state: _State, views: DistantViews, config: TrainConfig, _: Lpips | None) -> Tensor:
    """Aligned error and, weighted, the error as is, in decibels over random sites of distant views."""
    device = torch.device(config.device)
    thumbnail, statistics = views.thumbnail.to(device), views.statistics.to(device)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + state.step)
    count, sites = len(thumbnail), thumbnail[0, 0].numel()
    chosen = torch.randint(sites, (count, 1, min(_SITES, sites)), generator=generator).expand(-1, 3, -1).to(device)
    seen, target = (light.flatten(2).gather(2, chosen)[..., None] for light in (thumbnail, views.camera.to(device)))
    inverse = state.model.global_map(state.model.context(Summary(thumbnail, statistics)).vector)
    canonical = apply_global_inverse(seen, inverse)
    camera = _leaky_clamp(canonical_to_camera(canonical, views.camera_to_srgb.to(device), views.wb_gains.to(device)))
    gain = (camera * target).sum((2, 3), keepdim=True) / (camera.square().sum((2, 3), keepdim=True) + 1e-9)
    aligned = ((gain * camera).clamp_max(1.0) - target).square().mean((1, 2, 3))
    as_is = (camera - target).square().mean((1, 2, 3))
    decibels = 10.0 * torch.log10(aligned + _MSE_FLOOR)
    return (decibels + config.unaligned_weight * 10.0 * torch.log10(as_is + _AS_IS_FLOOR)).mean()


def _joint_loss(state: _State, batch: PairBatch, config: TrainConfig, lpips: Lpips | None) -> Tensor:
    image = batch.image.to(config.device)
    return _raw_loss(state.model(image), batch, config, lpips=lpips, step=state.step)


_LOSSES: Final[dict[str, Callable[[_State, Any, TrainConfig, Lpips | None], Tensor]]] = {
    "denoiser": _denoiser_loss,
    "global": _global_loss,
    "joint": _joint_loss,
}


def predicted_raw(canonical: Tensor, batch: PairBatch) -> Tensor:
    """Put canonical light through the batch's cameras: ``(B, 3, S, S)`` -> packed ``(B, 4, S/2, S/2)``, not clipped."""
    gains, matrix = batch.wb_gains.to(canonical), batch.camera_to_srgb.to(canonical)
    return pack_rgb(canonical_to_camera(canonical, matrix, gains), batch.cfa_pattern)


def _raw_loss(canonical: Tensor, batch: PairBatch, config: TrainConfig, *, lpips: Lpips | None, step: int) -> Tensor:
    """Composite loss after one gain per colour channel, plus a smaller share of it without, plus aligned decibels."""
    target = batch.raw.to(canonical)
    predicted = _leaky_clamp(predicted_raw(canonical, batch))
    aligned = align_gains(predicted, target)
    perceive = lpips is not None and step % config.lpips_every == 0
    weights = LossWeights(lpips=LossWeights().lpips * config.lpips_every if perceive else 0.0)
    gains, matrix = batch.wb_gains.to(canonical), batch.camera_to_srgb.to(canonical)
    terms = composite_loss(
        aligned, target, wb_gains=gains, camera_to_srgb=matrix, lpips=lpips if perceive else None, weights=weights
    )
    plain = LossWeights(ssim=0.0, lpips=0.0)
    absolute = composite_loss(predicted, target, wb_gains=gains, camera_to_srgb=matrix, lpips=None, weights=plain)
    error = (aligned - target).square().mean((1, 2, 3))
    decibels = 10.0 * torch.log10(error + _MSE_FLOOR).mean()
    return terms.total + config.unaligned_weight * absolute.total + config.decibel_weight * decibels


def _leaky_clamp(raw: Tensor) -> Tensor:
    """Clip to [0, 1] as a sensor does, with a little slope beyond, so that over-exposure can be unlearned."""
    clipped = raw.clamp(0.0, 1.0)
    return clipped + 0.05 * (raw - clipped)


class _Judge:
    """The validation curve: fixed pairs from scenes that training never sees, scored by aligned PSNR."""

    def __init__(self, scenes: tuple[Scene, ...], config: TrainConfig, training_scenes: int) -> None:
        self.training_scenes = training_scenes
        seed = (config.seed, _STAGE_CODE["validation"])
        count = max(1, config.validation_pairs // 8)
        self._batches = [
            draw_pairs(scenes, min(8, config.validation_pairs), 192, (*seed, index)) for index in range(count)
        ]
        self._device = config.device
        self.linearise = self._mean(srgb_to_linear)
        log.info("validation: linearise only %.2f dB aligned", self.linearise)

    def score(self, model: Aura) -> float:
        """Mean aligned PSNR in dB of a model in evaluation mode."""
        return self._mean(model)

    def _mean(self, invert: Callable[[Tensor], Tensor]) -> float:
        with torch.inference_mode():
            scores = [
                psnr_aligned(
                    predicted_raw(invert(batch.image.to(self._device)), batch).clamp(0.0, 1.0),
                    batch.raw.to(self._device),
                )
                for batch in self._batches
            ]
        return float(torch.cat(scores).mean())


def save_weights(model: Aura, path: Path) -> None:
    """Write a network as safetensors, its architecture in the header."""
    from safetensors.torch import save_file  # noqa: PLC0415  # only needed here; keeps the import of the loop light

    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    # one entry only: safetensors writes several in any order, and equal weights shall be equal files
    save_file(tensors, path, metadata={"architecture": model.config.model_dump_json()})


def _save_checkpoint(state: _State, config: TrainConfig) -> None:
    """Write beside and rename: a kill at any moment leaves the old checkpoint or the new one."""
    path = config.out / "checkpoint.pt"
    content = {
        "config": config.model_dump_json(),
        "model": state.model.state_dict(),
        "average": state.average.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "stage": state.stage,
        "step": state.step,
        "seconds": state.seconds,
    }
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    temporary.replace(path)


def _restore(config: TrainConfig) -> _State | None:
    path = config.out / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location=config.device, weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} is not a readable checkpoint ({error}). Delete it to begin again.") from error
    _check_same_run(TrainConfig.model_validate_json(content["config"]), config, path)
    state = _begin(config)
    state.model.load_state_dict(content["model"])
    state.average.load_state_dict(content["average"])
    state.stage, state.step, state.seconds = content["stage"], content["step"], content["seconds"]
    if state.stage < len(config.stages):
        state.optimizer = _optimizer(state.model, config, config.stages[state.stage])
        state.optimizer.load_state_dict(content["optimizer"])
    _drop_curve_rows_after(state, config)
    log.info("going on from %s: stage %d, step %d", path, state.stage + 1, state.step)
    return state


def _check_same_run(stored: TrainConfig, wanted: TrainConfig, path: Path) -> None:
    """Places and worker counts may differ; whatever decides the weights may not."""
    free = {"data", "out", "loader_workers", "device", "validate_every"}
    old, new = stored.model_dump(exclude=free), wanted.model_dump(exclude=free)
    changed = sorted(key for key in new if old[key] != new[key])
    if changed:
        raise InvalidInputError(
            f"{path} belongs to a run with other {', '.join(changed)}; use another --out, or delete it to begin again."
        )


def _drop_curve_rows_after(state: _State, config: TrainConfig) -> None:
    """Rows written after the checkpoint will be written again."""
    path = config.out / "curves.jsonl"
    order = [stage.name for stage in config.stages]
    kept = []
    for line in path.read_text().splitlines() if path.exists() else []:
        row = json.loads(line)
        if (order.index(row["stage"]), row["step"]) <= (state.stage, state.step):
            kept.append(line + "\n")
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


def draw_curves(folder: Path) -> Path:
    """Plot loss and validation PSNR of ``curves.jsonl`` to ``curves.png``."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # heavy, and only needed at the end

    rows = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for name in dict.fromkeys(row["stage"] for row in rows):
        if name == "denoiser":
            continue
        of_stage = [row for row in rows if row["stage"] == name]
        left.plot([row["seconds"] / 60 for row in of_stage], _smooth([row["loss"] for row in of_stage]), label=name)
        judged = [row for row in of_stage if "validation_psnr_aligned" in row]
        right.plot(
            [row["seconds"] / 60 for row in judged], [row["validation_psnr_aligned"] for row in judged], label=name
        )
    left.set(xlabel="minutes", ylabel="training loss (running mean)")
    right.set(xlabel="minutes", ylabel="held-out scenes, aligned PSNR (dB)")
    if left.lines:
        left.legend()
    path = folder / "curves.png"
    figure.savefig(path, dpi=120)
    return path


def _smooth(values: list[float], decay: float = 0.98) -> list[float]:
    mean, out = values[0], []
    for value in values:
        mean = decay * mean + (1 - decay) * value
        out.append(mean)
    return out
