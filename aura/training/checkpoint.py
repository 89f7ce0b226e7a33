"""What a run leaves on disk: the checkpoint it goes on from, and its weights."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from aura.errors import InvalidInputError, WeightsError
from aura.nets.aura import Aura
from aura.training.configuration import Stage, TrainConfig
from aura.training.network import Network, new_network, trained_by

log = logging.getLogger(__name__)

_MAY_DIFFER = {"data", "out", "loader_workers", "device", "validate_every", "pool_folder"}
"""Places and worker counts; whatever decides the weights may not change under a checkpoint."""


@dataclass
class State:
    """The live run: exactly what the checkpoint holds, plus the clock."""

    model: Network
    average: Network
    optimizer: torch.optim.Optimizer
    stage: int
    step: int
    seconds: float


def begin(config: TrainConfig) -> State:
    """Start a run at its first step."""
    torch.manual_seed(config.seed)
    model, average = (new_network(config).to(config.device) for _ in range(2))
    average.load_state_dict(model.state_dict())
    average.eval()  # it is only ever judged, never trained itself
    return State(model, average, optimizer(model, config, config.stages[0]), stage=0, step=0, seconds=0.0)


def optimizer(model: Network, config: TrainConfig, stage: Stage) -> torch.optim.Optimizer:
    """AdamW over what the stage trains."""
    return torch.optim.AdamW(trained_by(model, stage.name), lr=stage.learning_rate, weight_decay=config.weight_decay)


def save_checkpoint(state: State, config: TrainConfig) -> None:
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


def restore(config: TrainConfig) -> State | None:
    """Return the run as its checkpoint left it; None if there is none.

    Raises:
        WeightsError: the checkpoint cannot be read.
        InvalidInputError: it belongs to a run of another configuration.
    """
    path = config.out / "checkpoint.pt"
    if not path.exists():
        return None
    try:
        content: dict[str, Any] = torch.load(path, map_location=config.device, weights_only=True)
    except Exception as error:
        raise WeightsError(f"{path} is not a readable checkpoint ({error}). Delete it to begin again.") from error
    _check_same_run(TrainConfig.model_validate_json(content["config"]), config, path)
    state = begin(config)
    state.model.load_state_dict(content["model"])
    state.average.load_state_dict(content["average"])
    state.stage, state.step, state.seconds = content["stage"], content["step"], content["seconds"]
    if state.stage < len(config.stages):
        state.optimizer = optimizer(state.model, config, config.stages[state.stage])
        state.optimizer.load_state_dict(content["optimizer"])
    _drop_curve_rows_after(state, config)
    log.info("going on from %s: stage %d, step %d", path, state.stage + 1, state.step)
    return state


def save_weights(model: nn.Module, path: Path) -> None:
    """Write a network as safetensors, AURA's architecture in the header."""
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    # one entry at most: safetensors writes several in any order, and equal weights shall be equal files
    metadata = {"architecture": model.config.model_dump_json()} if isinstance(model, Aura) else None
    save_file(tensors, path, metadata=metadata)


def _check_same_run(stored: TrainConfig, wanted: TrainConfig, path: Path) -> None:
    old, new = stored.model_dump(exclude=_MAY_DIFFER), wanted.model_dump(exclude=_MAY_DIFFER)
    changed = sorted(key for key in new if old[key] != new[key])
    if changed:
        raise InvalidInputError(
            f"{path} belongs to a run with other {', '.join(changed)}; use another --out, or delete it to begin again."
        )


def _drop_curve_rows_after(state: State, config: TrainConfig) -> None:
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
