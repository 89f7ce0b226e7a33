"""Annotations of crops as detectors take them: tensors of boxes and labels for each crop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import default_collate

from aura.errors import InvalidInputError


def collate(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a batch of items with ``annotations``: these stay a list, all else goes the way of torch's own function.

    Give it to a DataLoader of a :class:`storage.reading.RawDataset`; a :class:`storage.reading.RawStream` makes such
    batches by itself.
    """
    rest = [{name: value for name, value in item.items() if name != "annotations"} for item in items]
    batch: dict[str, Any] = default_collate(rest)
    return batch | {"annotations": [item["annotations"] for item in items]}


def detection_targets(
    annotations: Sequence[Sequence[Mapping[str, Any]] | None], labels: Mapping[int, int] | None = None
) -> list[dict[str, Tensor]]:
    """Turn a batch's ``annotations`` into what torchvision's and most other detectors take.

    Args:
        annotations: of each crop, in pixels of its mosaic.
        labels: the network's number of each category; categories that are not in it are left out. None keeps theirs.

    Returns:
        For each crop ``boxes`` float32 ``[n, 4]``: left, top, right, bottom in pixels of ``raw``, the packed planes,
        which are half as large as the mosaic; ``labels`` int64 ``[n]``; ``is_crowd`` bool ``[n]``.

    Raises:
        InvalidInputError: a crop is of a photograph that nobody annotated, which would be taught as empty.
    """
    targets = []
    for objects in annotations:
        if objects is None:
            raise InvalidInputError(
                "A crop is of a photograph that nobody annotated; leave it out, or annotate the photograph."
            )
        known = [each for each in objects if labels is None or each["category_id"] in labels]
        corners = [
            (each["left_px"], each["top_px"], each["left_px"] + each["width_px"], each["top_px"] + each["height_px"])
            for each in known
        ]
        numbers = [each["category_id"] if labels is None else labels[each["category_id"]] for each in known]
        targets.append(
            {
                "boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4) / 2,
                "labels": torch.tensor(numbers, dtype=torch.int64),
                "is_crowd": torch.tensor([each["is_crowd"] for each in known], dtype=torch.bool),
            }
        )
    return targets
