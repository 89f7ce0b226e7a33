"""Simulated training pairs: the RAW is what the pair's camera would have recorded of the scene."""

import numpy as np
import torch

from aura.sensor.simulate import camera_to_canonical
from aura.training.pairs import draw_pairs
from aura.training.scenes import Scene


def test_grey_light_is_grey_after_the_gains_and_the_matrix_of_its_own_camera() -> None:
    scene = Scene("grey", "srgb", torch.full((3, 64, 64), 0.2).half())
    for seed in range(4):
        pair = draw_pairs([scene], 3, 96, (seed,))
        camera = torch.stack([pair.raw[:, 0], pair.raw[:, 1:3].mean(1), pair.raw[:, 3]], dim=1)
        light = camera_to_canonical(camera, pair.camera_to_srgb, pair.wb_gains)
        np.testing.assert_allclose(light, light.mean(1, keepdim=True).expand_as(light), rtol=1e-4)
        assert 0.04 < float(light.min()) <= float(light.max()) < 0.6  # exposure is drawn, colour is not
