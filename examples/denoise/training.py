"""Training the denoiser: batches from a stream, a checkpoint to go on from, weights at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aura.errors import InvalidInputError
from examples.denoise.network import Denoiser, noise_sigma
from storage.reading import RawLoader

Example = tuple[Tensor, Tensor, Tensor]
"""Noisy RAW, standard deviation of its noise, and the clean RAW, each ``(B, 4, h, w)``."""
Prepare = Callable[[dict[str, Any], int], Example]
"""Makes an example of a stream's batch and the number of the step."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How long and how fast a network learns.

    Attributes:
        steps: batches.
        learning_rate: at its peak, which it reaches within the first twentieth; it then falls to 0 along a cosine.
        width: of :class:`examples.denoise.network.Denoiser`.
        seed: of the network's first weights.
        checkpoint_every: steps from one checkpoint to the next.
    """

    steps: int = 2000
    learning_rate: float = 2e-3
    width: int = 16
    seed: int = 0
    checkpoint_every: int = 100


def as_recorded(batch: dict[str, Any], step: int) -> Example:
    """Take a batch as the stream made it: the noise of its cameras, at the ISOs drawn."""
    del step
    return batch["raw"], noise_sigma(batch["raw"], batch), batch["clean"]


def train(
    loader: RawLoader,
    out: Path,
    schedule: Schedule,
    on_step: Callable[[int, float], None] | None = None,
    prepare: Prepare = as_recorded,
    device: str | torch.device = "cpu",
) -> Path:
    """Train, or go on from the last checkpoint in ``out`` exactly as if there had been no stop.

    Args:
        loader: of a stream whose ``Cutting`` gives ``clean`` and draws an ISO.
        out: folder for ``checkpoint.pt`` and ``denoiser.safetensors``.
        schedule: steps, learning rate and seed.
        on_step: is told the number of steps done and the loss of the last one: the mean error in units of the noise.
        prepare: makes examples of batches.
        device: where the network learns; a checkpoint may go on on another.

    Returns:
        Path of the weights.

    Raises:
        InvalidInputError: the checkpoint is of another schedule or other data.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(schedule.seed)
    network = Denoiser(schedule.width)
    # channels last is a fifth faster on a CPU
    network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=schedule.learning_rate, weight_decay=1e-4)
    step = _restore(out, schedule, network, optimizer, loader)
    batches = _endless(loader)
    while step < schedule.steps:
        noisy, sigma, clean = prepare(onto(next(batches), device), step)
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * _pace(step, schedule.steps)
        # in units of each crop's noise: PSNR is a logarithm, and dark or quiet crops would count for nothing
        loss = ((network(noisy, sigma) - clean).abs() / sigma.mean(dim=(1, 2, 3), keepdim=True)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        if step % schedule.checkpoint_every == 0 or step == schedule.steps:
            _save(out, schedule, network, optimizer, loader, step)
        if on_step is not None:
            on_step(step, loss.item())
    weights = out / "denoiser.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    return weights


def onto(batch: dict[str, Any], device: str | torch.device) -> dict[str, Any]:
    """Take the tensors of a batch to a device; from a loader with ``pin_memory`` they are copied in the background."""
    return {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in batch.items()
    }


def load_denoiser(weights: Path) -> Denoiser:
    """Load what :func:`train` wrote, ready to denoise."""
    tensors = load_file(weights)
    network = Denoiser(width=tensors["answer.weight"].shape[1])
    network.load_state_dict(tensors)
    return network.eval()


def _endless(loader: RawLoader) -> Iterator[dict[str, Any]]:
    """Epoch after epoch; the first one is what is left of it after a restart."""
    while True:
        yield from loader


def _pace(step: int, steps: int) -> float:
    warm = max(1, steps // 20)
    return min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * step / steps))


def _save(
    out: Path, schedule: Schedule, network: Denoiser, optimizer: torch.optim.Optimizer, loader: RawLoader, step: int
) -> None:
    """Write beside and rename: a kill at any moment leaves the old checkpoint or the new one."""
    content = {
        "schedule": asdict(schedule),
        "network": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "loader": loader.state_dict(),
        "step": step,
    }
    temporary = out / "checkpoint.tmp"
    torch.save(content, temporary)
    temporary.replace(out / "checkpoint.pt")


def _restore(
    out: Path, schedule: Schedule, network: Denoiser, optimizer: torch.optim.Optimizer, loader: RawLoader
) -> int:
    path = out / "checkpoint.pt"
    if not path.exists():
        return 0
    content = torch.load(path, map_location="cpu", weights_only=True)
    if content["schedule"] != asdict(schedule):
        raise InvalidInputError(
            f"{path} is of another schedule: {content['schedule']}. Train with that one, or into another folder."
        )
    loader.load_state_dict(content["loader"])
    network.load_state_dict(content["network"])
    optimizer.load_state_dict(content["optimizer"])
    return int(content["step"])
