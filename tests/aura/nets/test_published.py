"""The published network, kept as the baseline."""

from __future__ import annotations

import pytest
import torch

from aura.errors import InvalidInputError
from aura.nets.published import PublishedUNet


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in PublishedUNet().parameters()) == 1_875_076


@pytest.mark.parametrize("planes", [3, 4])
def test_planes_come_at_half_size(planes: int) -> None:
    assert PublishedUNet(planes)(torch.rand(2, 3, 32, 48)).shape == (2, planes, 16, 24)


def test_sides_that_do_not_fit_are_named() -> None:
    with pytest.raises(InvalidInputError, match="30, 32"):
        PublishedUNet()(torch.rand(1, 3, 30, 32))
