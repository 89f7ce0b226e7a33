"""Boxes and masks of a photograph in the pixel frame of a sample that was cut out of it.

Frames, all with the origin at the outer corner of the top left pixel, x to the right, y down:

* *stored*: the photograph's pixels as its file holds them, before its EXIF orientation;
* *upright*: after it, which is what samples are cut from;
* *sample*: pixels of the sample's mosaic, which are those of its sRGB source too. In packed planes halve them;
* *crop*: the same of a crop that was cut out of a sample on reading, and turned.

The rule at the edge of a tile: a box is cut to the tile, and kept if at least ``min_area`` of its area within the
photograph is left, or if what is left fills at least that share of the tile: what fills a tile is no background. A mask
is cut alike; an object none of whose mask is left is dropped. It holds for crops on reading too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pycocotools.mask
from PIL import Image

from aura.augment import MIRROR, UPSIDE_DOWN, is_transposed, orient

Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

Mask = npt.NDArray[np.bool_]

_TRANSPOSED: Final = frozenset({5, 6, 7, 8})


@dataclass(frozen=True, slots=True)
class Outline:
    """An object's mask as COCO writes it, not yet drawn.

    Attributes:
        height: of the picture it is drawn on, in pixels.
        width: of the picture.
        polygons: x and y in turns, one list for each part; or
        run_lengths: COCO's run-length encoding, with ``size`` and ``counts``, numbers that sum to the picture's pixels.
    """

    height: int
    width: int
    polygons: tuple[tuple[float, ...], ...] = ()
    run_lengths: Mapping[str, Any] | None = None

    def draw(self) -> Mask:
        """Draw the mask, bool ``(height, width)``."""
        if self.run_lengths is not None:
            encoded = pycocotools.mask.frPyObjects(dict(self.run_lengths), self.height, self.width)
        else:
            parts = [list(polygon) for polygon in self.polygons]
            encoded = pycocotools.mask.merge(pycocotools.mask.frPyObjects(parts, self.height, self.width))
        return np.asarray(pycocotools.mask.decode(encoded), np.bool_)


@dataclass(frozen=True, slots=True)
class Annotation:
    """An object in a photograph or a sample.

    Attributes:
        category: its name.
        category_id: its number.
        box: in pixels of the frame that the context says.
        mask: in the same frame, or None.
        is_crowd: many objects in one box, in COCO's sense.
        annotation_id: the number its file gave it, or None.
        visible_fraction: share of the box within the photograph that is left.
    """

    category: str
    category_id: int
    box: Box
    mask: Outline | Mask | None = None
    is_crowd: bool = False
    annotation_id: int | None = None
    visible_fraction: float = 1.0


@dataclass(frozen=True, slots=True)
class Cut:
    """How a sample was made of an upright photograph: the crop, and the size it was brought to."""

    top: int
    left: int
    height: int
    width: int
    valid_height: int
    valid_width: int


def upright_box(box: Box, orientation: int, height: int, width: int) -> Box:
    """Turn a box from the stored to the upright frame.

    Args:
        box: in the stored frame.
        orientation: EXIF orientation, 1 to 8 (Exif 2.32, tag 0x0112).
        height: of the stored photograph in pixels.
        width: of the stored photograph in pixels.
    """
    left, top, right, bottom = box
    if orientation in {2, 3, 7, 8}:  # stored x runs against an upright axis
        left, right = width - right, width - left
    if orientation in {3, 4, 6, 7}:
        top, bottom = height - bottom, height - top
    return (top, left, bottom, right) if orientation in _TRANSPOSED else (left, top, right, bottom)


def upright_mask(mask: Mask, orientation: int) -> Mask:
    """Turn a mask from the stored to the upright frame, as a picture is by its EXIF orientation."""
    if orientation in {2, 3, 7, 8}:
        mask = mask[:, ::-1]
    if orientation in {3, 4, 6, 7}:
        mask = mask[::-1]
    return mask.T if orientation in _TRANSPOSED else mask


def upright(annotation: Annotation, orientation: int, height: int, width: int) -> Annotation:
    """Turn an annotation from the stored to the upright frame, its mask drawn; sizes are of the stored photograph."""
    mask = annotation.mask.draw() if isinstance(annotation.mask, Outline) else annotation.mask
    return replace(
        annotation,
        box=upright_box(annotation.box, orientation, height, width),
        mask=None if mask is None else upright_mask(mask, orientation),
    )


def cut_annotation(annotation: Annotation, height: int, width: int, cut: Cut, min_area: float) -> Annotation | None:
    """Bring an annotation from the upright to the sample's frame; None if too little of it is left.

    Args:
        annotation: in the upright frame, its mask drawn. One that was cut before, in the frame of that piece.
        height: of the upright photograph, or the piece, in pixels.
        width: likewise.
        cut: how the sample was made.
        min_area: least share, in (0, 1], of the box's area within the photograph or of the tile's.
    """
    whole = _within(annotation.box, (0.0, 0.0, width, height))
    piece = _within(whole, (cut.left, cut.top, cut.left + cut.width, cut.top + cut.height))
    in_photograph = _area(whole) / annotation.visible_fraction
    if _area(piece) <= 0 or _area(piece) < min_area * min(in_photograph, cut.height * cut.width):
        return None
    mask = None
    if annotation.mask is not None:
        mask = _cut_mask(np.asarray(annotation.mask), cut)
        if not mask.any():
            return None
    across, down = cut.valid_width / cut.width, cut.valid_height / cut.height
    left, right = ((x - cut.left) * across for x in piece[::2])
    top, bottom = ((y - cut.top) * down for y in piece[1::2])
    return replace(
        annotation,
        box=(left, top, right, bottom),
        mask=mask,
        visible_fraction=_area(piece) / in_photograph,
    )


def orient_annotation(annotation: Annotation, orientation: int, height: int, width: int) -> Annotation:
    """Turn an annotation as :func:`aura.augment.orient` turns its picture of ``height`` x ``width``, its mask drawn."""
    left, top, right, bottom = annotation.box
    if is_transposed(orientation):
        left, top, right, bottom, height, width = top, left, bottom, right, width, height
    if orientation & UPSIDE_DOWN:
        top, bottom = height - bottom, height - top
    if orientation & MIRROR:
        left, right = width - right, width - left
    mask = None if annotation.mask is None else orient(np.asarray(annotation.mask), orientation)
    return replace(annotation, box=(left, top, right, bottom), mask=mask)


def encode_mask(mask: Mask) -> dict[str, Any]:
    """Encode a mask in COCO's compressed run lengths, ``size`` and ``counts`` as text."""
    encoded = pycocotools.mask.encode(np.asfortranarray(mask, np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode("ascii")}


def decode_mask(encoded: Mapping[str, Any]) -> Mask:
    """Decode what :func:`encode_mask` made, bool ``(height, width)``."""
    return np.asarray(pycocotools.mask.decode(dict(encoded)), np.bool_)


def _cut_mask(mask: Mask, cut: Cut) -> Mask:
    piece = mask[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width]
    size = (cut.valid_height, cut.valid_width)
    if piece.shape == size:
        return piece
    # shrunk by area: a pixel belongs to the object if half of what it covers does
    shrunk = Image.fromarray(piece.astype(np.uint8) * 255).resize(size[::-1], Image.Resampling.BOX)
    return np.asarray(shrunk) >= 128


def _within(box: Box, frame: Box) -> Box:
    left, top = max(box[0], frame[0]), max(box[1], frame[1])
    return left, top, max(left, min(box[2], frame[2])), max(top, min(box[3], frame[3]))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
