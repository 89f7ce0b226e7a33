"""The training loop: streaming crops in, weights out, and exactly on from the last checkpoint."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from aura.errors import InvalidInputError
from examples.detect.detector import Detector, visible
from examples.detect.fcos import loss
from storage.reading import Cutting, RawLoader, RawStream, Split
from storage.reading.targets import detection_targets

WARM_UP: Final = 50
TRUNK_RATE: Final = 0.1  # of the head's learning rate: what AlexNet knows shall not be lost
STEP_OF_SIDES: Final = 16

Told = Callable[[int, float], None]
"""Called with the steps done and the loss, a running mean."""


@dataclass(frozen=True)
class Settings:
    """What decides the weights.

    Attributes:
        dataset: URL of an annotated dataset of clean RAW (noise: on_read).
        steps: how many batches.
        batch_size: crops to a batch.
        crop: side of the crops in packed pixels.
        scales: crops are enlarged by a factor drawn from this range.
        iso: drawn for each crop, with the camera's noise at it.
        exposure_ev: drawn for each crop; -5 is a thirty-second part of the light.
        held_out: share of the photographs that training never sees.
        learning_rate: of the head at its highest.
        seed: of everything drawn.
    """

    dataset: str
    steps: int = 600
    batch_size: int = 8
    crop: int = 192
    scales: tuple[float, float] = (1.0, 2.0)
    iso: tuple[int, int] = (100, 6400)
    exposure_ev: tuple[float, float] = (-5.0, 0.0)
    held_out: float = 0.22
    learning_rate: float = 1e-3
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """What does not decide the weights: the device that learns, and how many processes read for it."""

    device: str = "cpu"
    workers: int = 0


HERE: Final = Reading()


def train(
    settings: Settings,
    labels: dict[int, int],
    checkpoint: Path,
    tell: Told,
    save_every: int = 50,
    reading: Reading = HERE,
) -> Detector:
    """Train a detector, or go on where its checkpoint stands.

    Args:
        settings: what decides the weights.
        labels: the network's number of each category.
        checkpoint: safetensors file, written every ``save_every`` steps and at the end.
        tell: is called after each step.
        save_every: steps from one checkpoint to the next.
        reading: where the network learns, and who reads for it; a checkpoint may go on with others.

    Raises:
        InvalidInputError: the dataset has no annotations, noise in its RAW, or too few samples for one batch.
        StorageError: the storage refused.
    """
    cutting = Cutting(
        crop=settings.crop,
        augment="keep_cfa",
        orientations=(0, 1),  # mirrored left to right: people stand upright
        iso=settings.iso,
        exposure_ev=settings.exposure_ev,
        annotations=True,
    )
    split = Split("train", settings.held_out, settings.seed)
    stream = RawStream(
        settings.dataset,
        batch_size=settings.batch_size,
        cutting=cutting,
        crops_per_sample=4,
        drop_last=True,
        split=split,
        seed=settings.seed,
    )
    if not len(stream):
        raise InvalidInputError(f"{settings.dataset} has no sample to train on. Hold fewer photographs out.")
    device = torch.device(reading.device)
    loader = RawLoader(stream, num_workers=reading.workers, pin_memory=device.type == "cuda")
    torch.manual_seed(settings.seed)
    model = Detector(len(labels)).train().to(device)
    late = list(model.late.parameters())
    head = [each for name, each in model.named_parameters() if each.requires_grad and not name.startswith("late.")]
    optimizer = torch.optim.AdamW([{"params": head}, {"params": late}], weight_decay=1e-4)
    done, mean = _restore(checkpoint, settings, model, optimizer, loader)
    while done < settings.steps:
        for batch in loader:
            rate = settings.learning_rate * _schedule(done, settings.steps)
            for group, factor in zip(optimizer.param_groups, (1.0, TRUNK_RATE), strict=True):
                group["lr"] = rate * factor
            image, targets = prepare(batch, labels, _draw_scale(settings, done), device)
            value = loss(model(image), targets)
            optimizer.zero_grad()
            torch.autograd.backward(value)
            torch.nn.utils.clip_grad_norm_(head + late, 5.0)
            optimizer.step()
            done += 1
            mean = value.item() if done == 1 else 0.95 * mean + 0.05 * value.item()
            tell(done, mean)
            if done % save_every == 0 or done == settings.steps:
                _save(checkpoint, settings, model, optimizer, loader, done, mean)
            if done == settings.steps:
                break
    return model.eval()


def prepare(
    batch: dict[str, Any], labels: dict[int, int], scale: float, device: torch.device
) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Make of a batch what the network takes and what it is taught, both enlarged by a factor and on its device."""
    image = visible(*(batch[name].to(device, non_blocking=True) for name in ("raw", "wb_gains", "camera_to_srgb")))
    sides = [round(side * scale / STEP_OF_SIDES) * STEP_OF_SIDES for side in image.shape[-2:]]
    by = torch.tensor([sides[1] / image.shape[-1], sides[0] / image.shape[-2]]).repeat(2)
    targets = detection_targets(batch["annotations"], labels)
    targets = [target | {"boxes": target["boxes"] * by} for target in targets]
    targets = [{name: value.to(device) for name, value in target.items()} for target in targets]
    return F.interpolate(image, size=sides, mode="bilinear", antialias=True), targets


def _draw_scale(settings: Settings, step: int) -> float:
    """Draw by step, so that a run that was resumed draws what it would have drawn."""
    return random.Random(f"{settings.seed} {step}").uniform(*settings.scales)  # noqa: S311 - no secret


def _schedule(step: int, steps: int) -> float:
    warm = min(1.0, (step + 1) / WARM_UP)
    return warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def _save(
    path: Path,
    settings: Settings,
    model: Detector,
    optimizer: torch.optim.Optimizer,
    loader: RawLoader,
    done: int,
    mean: float,
) -> None:
    """Write beside and rename: whenever it is killed, the old checkpoint is whole, or the new one."""
    tensors = {f"model/{name}": value.contiguous() for name, value in model.state_dict().items()}
    for number, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{number}/{name}": value for name, value in moments.items()}
    facts = {"settings": asdict(settings), "loader": loader.state_dict(), "done": done, "mean": mean}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    save_file(tensors, temporary, metadata={"run": json.dumps(facts)})
    temporary.replace(path)


def _restore(
    path: Path, settings: Settings, model: Detector, optimizer: torch.optim.Optimizer, loader: RawLoader
) -> tuple[int, float]:
    """Load a checkpoint, if there is one; gives the steps done and the running mean of the loss."""
    if not path.exists():
        return 0, 0.0
    with safe_open(path, "pt") as file:
        facts = json.loads(file.metadata()["run"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    if facts["settings"] != json.loads(json.dumps(asdict(settings))):
        raise SystemExit(f"{path} is of a run with other settings; choose another --out, or delete it to begin again.")
    model.load_state_dict(
        {name.removeprefix("model/"): value for name, value in tensors.items() if name[:6] == "model/"}
    )
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer/"):
            _, number, moment = name.split("/")
            state.setdefault(int(number), {})[moment] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    loader.load_state_dict(facts["loader"])
    return facts["done"], facts["mean"]
