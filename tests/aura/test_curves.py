"""Sampled curves: linear between samples, the ends beyond."""

import numpy as np
import torch

from aura.curves import apply_curve


def test_a_curve_is_interpolated_linearly_and_holds_its_ends() -> None:
    samples = np.array([0.3, 0.1, 0.9, 0.4])
    position = torch.linspace(-0.5, 1.5, 401, dtype=torch.float64).view(1, 1, 1, -1)
    found = apply_curve(position, torch.from_numpy(samples).view(1, 1, -1)).flatten()
    np.testing.assert_allclose(found, np.interp(position.flatten(), np.linspace(0, 1, 4), samples), atol=1e-12)
