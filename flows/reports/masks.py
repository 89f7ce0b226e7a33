"""Masks of annotated objects as a picture to lay over a sample's."""

import base64
import io
from collections.abc import Sequence
from typing import Final

import numpy as np
from PIL import Image
from scipy.ndimage import binary_dilation, binary_erosion

from storage.labelling.boxes import Mask

_CLEAR, _INSIDE, _EDGE, _AROUND = range(4)
_COLOURS: Final = ((0, 0, 0), (255, 212, 0), (255, 212, 0), (0, 0, 0))
_OPACITY: Final = bytes((0, 48, 255, 140))
_EDGE_PX: Final = 2


def mask_overlay(masks: Sequence[Mask], max_side: int) -> str:
    """Draw masks, each filled thinly within an edge of its own, on clear ground; a PNG in a ``data:`` URI.

    Args:
        masks: at least one, bool ``(height, width)``, all of one size.
        max_side: greatest side of the picture in pixels.
    """
    height, width = masks[0].shape
    shrinking = min(1.0, max_side / max(height, width))
    size = (max(1, round(width * shrinking)), max(1, round(height * shrinking)))
    drawn = np.full(size[::-1], _CLEAR, np.uint8)
    shrunk = [np.asarray(Image.fromarray(mask).resize(size)) for mask in masks]
    for mask in shrunk:
        drawn[mask & (drawn == _CLEAR)] = _INSIDE
    for mask in shrunk:  # edges last, or a neighbour would cover them
        drawn[binary_dilation(mask) & ~mask & (drawn == _CLEAR)] = _AROUND
        drawn[mask & ~binary_erosion(mask, iterations=_EDGE_PX, border_value=1)] = _EDGE
    picture = Image.fromarray(drawn, "P")
    picture.putpalette(bytes(value for colour in _COLOURS for value in colour))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG", optimize=True, transparency=_OPACITY)
    return "data:image/png;base64," + base64.b64encode(encoded.getvalue()).decode("ascii")
