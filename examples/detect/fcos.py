"""What FCOS is taught and how its answer is read (Z. Tian et al., ICCV 2019): targets, loss, boxes.

Boxes are left, top, right, bottom in pixels; sides are the distances from a cell's centre to the four of them.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from examples.detect.detector import Found

CENTRE: Final = 1.5  # a cell is taught a box if it lies within so many strides of the box's middle
FOCUS, POSITIVE_SHARE = 2.0, 0.25  # gamma and alpha of the focal loss (Lin et al., ICCV 2017)
CANDIDATES, KEPT, LEAST_SCORE, OVERLAP = 400, 100, 0.01, 0.6


def loss(found: Found, targets: list[dict[str, Tensor]]) -> Tensor:
    """Add the focal loss of the categories, the GIoU loss of the boxes, and the cross entropy of the centre-ness.

    Args:
        found: by the network, in ``n`` images.
        targets: in each image, from :func:`storage.reading.targets.detection_targets`. A crowd is no object, and within
            its box nothing is background of its category either, as COCO's protocol scores it.
    """
    taught = [_teach_single(found.cells, target) for target in targets]
    labels, sides = (torch.stack(part) for part in zip(*taught, strict=True))
    is_object = labels >= 0
    wanted = torch.zeros_like(found.classes)
    wanted[is_object] = F.one_hot(labels[is_object], wanted.shape[-1]).to(wanted)
    counts = torch.stack([_counts(found.cells, target, wanted.shape[-1]) for target in targets]) | (wanted > 0)
    of_classes = (_focal(found.classes, wanted) * counts).sum() / max(1, int(is_object.sum()))
    if not is_object.any():
        return of_classes
    true = sides[is_object]
    across, down = (true[:, axis::2].aminmax(dim=1) for axis in (0, 1))
    centreness = (across.min * down.min / (across.max * down.max)).sqrt()
    of_boxes = (centreness * (1 - _giou(found.sides[is_object], true))).sum() / centreness.sum()
    return of_classes + of_boxes + F.binary_cross_entropy_with_logits(found.centreness[is_object][:, 0], centreness)


def _teach_single(cells: Tensor, target: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    single = ~target["is_crowd"]
    return teach(cells, target["boxes"][single], target["labels"][single])


def _counts(cells: Tensor, target: dict[str, Tensor], categories: int) -> Tensor:
    """Tell of what each cell may be called background: bool ``[cells, categories]``."""
    boxes, labels = target["boxes"][target["is_crowd"]], target["labels"][target["is_crowd"]]
    points = cells[:, None, :2]
    within = ((points > boxes[:, :2]) & (points < boxes[:, 2:])).all(-1)
    return ~(within[..., None] & F.one_hot(labels, categories).bool()).any(1)


def teach(cells: Tensor, boxes: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Decide which box each cell is taught: the smallest of those around it whose middle is near, and of its level.

    Returns:
        The label of each cell, -1 for background, and the sides ``[cells, 4]``.
    """
    if not len(boxes):
        return labels.new_full((len(cells),), -1), cells.new_zeros(len(cells), 4)
    points, stride, smallest, largest = cells[:, None, :2], cells[:, 2:3], cells[:, 3:4], cells[:, 4:5]
    sides = torch.cat([points - boxes[:, :2], boxes[:, 2:] - points], dim=-1)
    near = (points - (boxes[:, :2] + boxes[:, 2:]) / 2).abs().amax(-1) < CENTRE * stride
    farthest = sides.amax(-1)
    fits = near & (sides.amin(-1) > 0) & (farthest >= smallest) & (farthest < largest)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1).expand_as(fits).masked_fill(~fits, torch.inf)
    least, chosen = area.min(-1)
    return labels[chosen].masked_fill(least == torch.inf, -1), sides[torch.arange(len(cells)), chosen]


def detections(found: Found, height: int, width: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Read the boxes, labels and scores in each image, best first, without those that lie upon better ones."""
    results = []
    scores = (found.classes.sigmoid() * found.centreness.sigmoid()).sqrt()
    points = found.cells[:, :2]
    for score, sides in zip(scores, found.sides, strict=True):
        best, place = score.flatten().topk(min(CANDIDATES, score.numel()))
        best, place = best[best > LEAST_SCORE], place[best > LEAST_SCORE]
        cell, label = place // score.shape[1], place % score.shape[1]
        boxes = torch.cat([points[cell] - sides[cell, :2], points[cell] + sides[cell, 2:]], dim=-1)
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        kept = _without_doubles(boxes, label)[:KEPT]
        results.append((boxes[kept], label[kept], best[kept]))
    return results


def _without_doubles(boxes: Tensor, labels: Tensor) -> Tensor:
    """Return the places of boxes, best first, that overlap no better one of their own category (greedy NMS)."""
    corner, far = torch.maximum(boxes[:, None, :2], boxes[:, :2]), torch.minimum(boxes[:, None, 2:], boxes[:, 2:])
    common = (far - corner).clamp(min=0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    doubles = (common > OVERLAP * (area[:, None] + area - common)) & (labels[:, None] == labels)
    alive = torch.ones(len(boxes), dtype=torch.bool, device=boxes.device)
    for place in range(len(boxes)):
        if alive[place]:
            alive[place + 1 :] &= ~doubles[place, place + 1 :]
    return alive.nonzero()[:, 0]


def _focal(logits: Tensor, wanted: Tensor) -> Tensor:
    right = torch.where(wanted > 0, logits.sigmoid(), 1 - logits.sigmoid())
    weight = torch.where(wanted > 0, POSITIVE_SHARE, 1 - POSITIVE_SHARE)
    entropy = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none")
    return weight * (1 - right) ** FOCUS * entropy


def _giou(guessed: Tensor, true: Tensor) -> Tensor:
    """Generalised IoU (Rezatofighi et al., CVPR 2019) of boxes around one point, given by their sides ``[n, 4]``."""
    inner, outer = torch.minimum(guessed, true), torch.maximum(guessed, true)
    common, hull, first, second = (_area(sides) for sides in (inner, outer, guessed, true))
    union = first + second - common
    return common / union - (hull - union) / hull


def _area(sides: Tensor) -> Tensor:
    return (sides[:, 0] + sides[:, 2]) * (sides[:, 1] + sides[:, 3])
