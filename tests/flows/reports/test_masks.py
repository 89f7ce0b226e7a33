import base64
import io

import numpy as np
from PIL import Image

from flows.reports.masks import mask_overlay


def drawn(uri: str) -> np.ndarray:
    head, _, data = uri.partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))


def test_a_mask_is_filled_thinly_within_an_opaque_edge_on_clear_ground() -> None:
    mask = np.zeros((60, 80), bool)
    mask[10:50, 20:60] = True
    alpha = drawn(mask_overlay([mask], 384))[..., 3]
    assert alpha.shape == (60, 80)
    assert (alpha[10:12, 20:60] == 255).all()
    assert (alpha[14:46, 24:56] > 0).all()
    assert (alpha[14:46, 24:56] < 128).all()
    outside = np.ones_like(mask)
    outside[9:51, 19:61] = False
    assert not alpha[outside].any()


def test_objects_that_overlap_keep_their_edges_and_large_masks_become_small() -> None:
    masks = [np.zeros((1000, 500), bool) for _ in range(2)]
    masks[0][200:600, 100:400] = True
    masks[1][400:800, 100:400] = True
    alpha = drawn(mask_overlay(masks, 100))[..., 3]
    assert alpha.shape == (100, 50)
    middle = alpha[:, 25]
    assert (middle[[20, 40, 59, 79]] == 255).all()  # both tops and both bottoms
