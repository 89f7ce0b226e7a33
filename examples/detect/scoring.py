"""Scores on photographs that training never saw, by pycocotools, in bright and in low light."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor
from torch.utils.data import default_collate

from aura.errors import InvalidInputError
from examples.detect.detector import Detector
from examples.detect.fcos import detections, loss
from examples.detect.training import Settings, prepare
from storage.reading import Cutting, RawDataset, Split

SCALE: Final = 1.5
"""Whole photographs are enlarged by this: the middle of what training draws."""
Boxes = tuple[Tensor, Tensor, Tensor]
"""Boxes in packed pixels ``[n, 4]``, labels ``[n]``, scores ``[n]``, best first."""


@dataclass(frozen=True)
class Light:
    """A condition that held-out photographs are looked at in; ISO and exposure are drawn from these ranges."""

    name: str
    iso: tuple[int, int]
    exposure_ev: tuple[float, float]


LIGHTS: Final = (Light("normal light", (100, 800), (0.0, 0.0)), Light("low light", (3200, 6400), (-5.0, -4.0)))


@dataclass(frozen=True)
class Scores:
    """COCO's average precision in [0, 1].

    Attributes:
        ap: over IoU 0.5 to 0.95, and all categories that the held-out photographs show.
        ap50: at IoU 0.5.
        ap50_by_category: at IoU 0.5, of each such category by its number.
        loss: mean of the training loss, or None for what is no network.
    """

    ap: float
    ap50: float
    ap50_by_category: dict[int, float]
    loss: float | None = None


def held_out(settings: Settings, light: Light) -> RawDataset:
    """Open the photographs that a training run leaves out, whole, as they look in some light.

    Raises:
        InvalidInputError: there are none.
        StorageError: the storage refused.
    """
    photographs = RawDataset(
        settings.dataset,
        cutting=Cutting(iso=light.iso, exposure_ev=light.exposure_ev, annotations=True),
        split=Split("held_out", settings.held_out, settings.seed),
        seed=settings.seed,
    )
    if not len(photographs):
        raise InvalidInputError(
            f"No photograph of {settings.dataset} is held out at a share of {settings.held_out}; hold out more."
        )
    return photographs


def score_network(model: Detector, photographs: RawDataset, labels: dict[int, int]) -> Scores:
    """Let a network look at every photograph, and score what it finds."""
    losses: list[float] = []
    device = next(model.parameters()).device

    def look(item: dict[str, Any]) -> Boxes:
        height, width = item["valid"].tolist()
        batch = default_collate([{name: item[name] for name in ("wb_gains", "camera_to_srgb")}])
        batch |= {"raw": item["raw"][None, :, :height, :width], "annotations": [item["annotations"]]}
        image, targets = prepare(batch, labels, SCALE, device)
        with torch.inference_mode():
            found = model(image)
        losses.append(float(loss(found, targets)))
        ((boxes, numbers, scores),) = detections(found, *image.shape[-2:])
        back = boxes.new_tensor([width / image.shape[-1], height / image.shape[-2]]).repeat(2)
        return boxes * back, numbers, scores

    scores = score(look, photographs, labels)
    return Scores(scores.ap, scores.ap50, scores.ap50_by_category, float(np.mean(losses)))


def score_guesses(photographs: RawDataset, seen: RawDataset, labels: dict[int, int], count: int = 100) -> Scores:
    """Score the constant answer: boxes drawn from those of the training photographs, the same ones in each image.

    They lie where they lay, as shares of the image; those of frequent categories come first.
    """
    known = [
        (labels[each["category_id"]], *(each[name] / seen_side for name, seen_side in zip(_SIDES, sides, strict=True)))
        for sides, objects in _objects(seen)
        for each in objects
        if not each["is_crowd"]
    ]
    table = np.array(known)
    drawn = table[np.random.default_rng(0).permutation(len(table))[:count]]
    share = np.bincount(table[:, 0].astype(int)) / len(table)
    drawn = drawn[np.argsort(-share[drawn[:, 0].astype(int)], kind="stable")]

    def guess(item: dict[str, Any]) -> Boxes:
        height, width = item["valid"].tolist()
        boxes = drawn[:, 1:] * [width, height, width, height]
        boxes[:, 2:] += boxes[:, :2]
        return torch.tensor(boxes), torch.tensor(drawn[:, 0]).long(), torch.tensor(share[drawn[:, 0].astype(int)])

    return score(guess, photographs, labels)


_SIDES: Final = ("left_px", "top_px", "width_px", "height_px")


def _objects(photographs: RawDataset) -> Iterator[tuple[tuple[int, int, int, int], list[dict[str, Any]]]]:
    """Yield width and height twice, in pixels of the mosaic, and the objects of each sample."""
    for item, row in enumerate(photographs.table.to_pylist()):
        width, height = row["valid_width_px"], row["valid_height_px"]
        yield (width, height, width, height), photographs.annotations(item) or []


def score(look: Callable[[dict[str, Any]], Boxes], photographs: RawDataset, labels: dict[int, int]) -> Scores:
    """Score whatever finds boxes, by COCO's protocol, in pixels of the mosaic."""
    numbers = {label: category for category, label in labels.items()}
    images: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    found: list[list[float]] = []
    for image, (sides, objects) in enumerate(_objects(photographs), 1):
        images.append({"id": image, "width": sides[0], "height": sides[1]})
        for each in objects:
            box = [each[name] for name in _SIDES]
            entry = {"image_id": image, "category_id": each["category_id"], "bbox": box, "area": box[2] * box[3]}
            truth.append(entry | {"id": len(truth) + 1, "iscrowd": int(each["is_crowd"])})
        for (left, top, right, bottom), label, value in zip(*look(photographs[image - 1]), strict=True):
            box = [2 * float(each) for each in (left, top, right - left, bottom - top)]
            found.append([image, *box, float(value), numbers[int(label)]])
    return _by_coco(images, truth, found, sorted(labels))


def _by_coco(
    images: list[dict[str, Any]], truth: list[dict[str, Any]], found: list[list[float]], categories: list[int]
) -> Scores:
    if not found:
        return Scores(0.0, 0.0, {each["category_id"]: 0.0 for each in truth})
    with contextlib.redirect_stdout(io.StringIO()):  # it prints as it goes
        reference = COCO()
        reference.dataset = {
            "images": images,
            "annotations": truth,
            "categories": [{"id": number} for number in categories],
        }
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(np.array(found)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    at_half = evaluation.eval["precision"][0, :, :, 0, -1]  # IoU 0.5, by recall and category, any size, 100 boxes
    shown = {number: float(at_half[:, place].mean()) for place, number in enumerate(evaluation.params.catIds)}
    return Scores(
        ap=float(evaluation.stats[0]),
        ap50=float(evaluation.stats[1]),
        ap50_by_category={number: value for number, value in shown.items() if value >= 0},  # -1: not shown
    )
