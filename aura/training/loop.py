"""The training loop: stages, exact resume, an averaged copy of the weights, curves as data and as a picture.

1. ``denoiser``: DnCNN learns white Gaussian noise on YCbCr, then is frozen.
2. ``global``: the context and the global map alone, on a pool of summarised photographs; then they are frozen.
3. ``joint``: the local network under the composite loss.

Instead of all three, ``fine_tune`` goes on from finished weights with the photographs of one camera.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from aura.nets.aura import Aura
from aura.nets.context import ContextEncoder
from aura.perceptual import Lpips
from aura.reconstruct import choose_device
from aura.training.batches import STAGE_CODE, Sources, load_sources, pair_batches, validation_batches, view_pool
from aura.training.checkpoint import State, begin, optimizer, restore, save_checkpoint, save_weights
from aura.training.configuration import Progress, Stage, TrainConfig
from aura.training.held_out import Judge
from aura.training.network import freeze_for
from aura.training.pairs import PairBatch, SummarisedViews
from aura.training.stage_losses import LOSSES
from aura.training.training_curves import draw_curves
from aura.training.view_pool import draw_from


@dataclass(frozen=True)
class TrainResult:
    """Where a finished run left its results."""

    weights: Path
    curves: Path
    validation_psnr_aligned: float
    seconds: float


def train(config: TrainConfig, on_progress: Callable[[Progress], None] | None = None) -> TrainResult:
    """Train a network, or go on where the checkpoint in ``config.out`` stopped.

    The same configuration gives the same weights however often it was interrupted (on one machine and thread count).

    Raises:
        InvalidInputError: ``config.out`` holds a checkpoint of another configuration, the stages do not fit, or there
            is no such device.
        MissingFileError: nothing to train from.
    """
    config = config.model_copy(update={"device": str(choose_device(config.device))})
    config.out.mkdir(parents=True, exist_ok=True)
    sources, held_out = load_sources(config)
    judge = Judge(validation_batches(held_out, config), config.device)
    state = restore(config) or begin(config)
    perceives = any(stage.name in ("joint", "fine_tune") for stage in config.stages)
    lpips = Lpips().to(config.device) if perceives else None
    before = judge.score(begin(config).average) if config.initial_weights else None
    score = math.nan
    while state.stage < len(config.stages):
        score = _run_stage(state, config, sources, judge, lpips, on_progress)
        state.stage, state.step = state.stage + 1, 0
        state.model.load_state_dict(state.average.state_dict())  # the next stage builds on the averaged weights
        if state.stage < len(config.stages):
            state.optimizer = optimizer(state.model, config, config.stages[state.stage])
        save_checkpoint(state, config)
    if math.isnan(score):
        score = judge.score(state.average)
    weights = config.out / f"{config.network}.safetensors"
    save_weights(state.average, weights)
    scores = {config.network: score, "linearise": judge.linearise} | ({} if before is None else {"before": before})
    card = _card(config, state, len(sources), scores, weights)
    weights.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")
    return TrainResult(weights, draw_curves(config.out), score, state.seconds)


def _card(config: TrainConfig, state: State, files: int, scores: dict[str, float], weights: Path) -> dict[str, Any]:
    """What is to be known of weights: from what, how long, where, how good on scenes that training did not see."""
    return {
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "parameters": sum(parameter.numel() for parameter in state.average.parameters()),
        "training_scenes": files,
        "stages": [stage.model_dump() for stage in config.stages],
        "seed": config.seed,
        "hours": round(state.seconds / 3600, 2),
        "machine": f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {config.device}",
        "torch": torch.__version__,
        "held_out_scenes_psnr_aligned_db": {name: round(score, 2) for name, score in scores.items()},
    }


def _run_stage(
    state: State,
    config: TrainConfig,
    sources: Sources,
    judge: Judge,
    lpips: Lpips | None,
    on_progress: Callable[[Progress], None] | None,
) -> float:
    stage = config.stages[state.stage]
    spent, started = state.seconds, time.monotonic()  # with the time that drawing a pool takes
    batches = _batches(sources, stage, config, state, on_progress)
    freeze_for(state.model, stage.name)
    state.average.eval()
    clip = config.global_gradient_clip if stage.name == "global" else config.gradient_clip
    score, began, first = math.nan, time.monotonic(), state.step
    with (config.out / "curves.jsonl").open("a") as curves:
        for batch in batches:
            _set_learning_rate(state, stage, config)
            loss = LOSSES[stage.name](state.model, batch, config, lpips, state.step)
            state.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch leaves this method untyped
            parameters = [p for group in state.optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(parameters, clip)
            state.optimizer.step()
            state.step += 1
            _average(state, config)
            state.seconds = spent + time.monotonic() - started
            due = state.step % config.validate_every == 0 or state.step == stage.steps
            fresh = judge.score(state.average) if due and stage.name != "denoiser" else None
            score = score if fresh is None else fresh
            value = float(loss.detach())
            curves.write(_curve_row(stage, state, value, fresh))
            if due:
                curves.flush()
                save_checkpoint(state, config)
            if on_progress is not None:
                pace = (time.monotonic() - began) / (state.step - first)
                left = pace * (stage.steps - state.step)
                on_progress(Progress(stage.name, state.step, stage.steps, value, left, fresh))
    return score


def _curve_row(stage: Stage, state: State, loss: float, fresh: float | None) -> str:
    row = {"stage": stage.name, "step": state.step, "loss": loss, "seconds": round(state.seconds, 1)}
    return json.dumps(row if fresh is None else row | {"validation_psnr_aligned": fresh}) + "\n"


def _batches(
    sources: Sources,
    stage: Stage,
    config: TrainConfig,
    state: State,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[PairBatch] | Iterator[SummarisedViews]:
    if stage.name != "global":
        return pair_batches(sources, stage, config, state.step)
    pool = view_pool(sources, stage, config, on_progress)
    models = [model for model in (state.model, state.average) if isinstance(model, Aura)]
    if state.step == 0:
        for encoder in (encoder for model in models for encoder in model.context_encoders):
            cast("ContextEncoder", encoder).standardise_by(pool.statistics.float().to(config.device))
    seed, views = (config.seed, STAGE_CODE[stage.name]), stage.batch * max(len(model.global_maps) for model in models)
    return (draw_from(pool, views, (*seed, step)) for step in range(state.step, stage.steps))


def _set_learning_rate(state: State, stage: Stage, config: TrainConfig) -> None:
    warm = min(1.0, (state.step + 1) / max(1, min(config.warmup_steps, stage.steps // 10)))
    cosine = 0.5 * (1 + math.cos(math.pi * state.step / stage.steps))
    for group in state.optimizer.param_groups:
        group["lr"] = stage.learning_rate * warm * (0.02 + 0.98 * cosine)


def _average(state: State, config: TrainConfig) -> None:
    """Exponential moving average; shorter at the beginning of a stage, so that it forgets the start."""
    decay = min(config.ema_decay, (1 + state.step) / (10 + state.step))
    with torch.no_grad():
        for mean, value in zip(state.average.state_dict().values(), state.model.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - decay)
            else:
                mean.copy_(value)
