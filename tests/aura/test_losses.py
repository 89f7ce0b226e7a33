import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from aura.errors import InvalidInputError
from aura.losses import HLOG_EPSILON, LossTerms, LossWeights, composite_loss, hlog
from aura.metrics import ssim
from aura.perceptual import Lpips

GAINS = torch.tensor([[2.0, 1.0, 1.6], [1.5, 1.0, 2.1]])
TO_SRGB = torch.tensor([[1.6, -0.5, -0.1], [-0.2, 1.5, -0.3], [0.0, -0.5, 1.5]]).expand(2, 3, 3)


def raw(seed: int, size: int = 40) -> Tensor:
    return torch.rand(2, 4, size, size, generator=torch.Generator().manual_seed(seed))


def compare(predicted: Tensor, target: Tensor, lpips: Lpips | None, weights: LossWeights | None = None) -> LossTerms:
    return composite_loss(
        predicted,
        target,
        wb_gains=GAINS,
        camera_to_srgb=TO_SRGB,
        lpips=lpips,
        weights=weights or LossWeights(),
    )


@given(st.floats(0, 1), st.floats(0, 1))
def test_hlog_rises_with_the_difference_and_bounds_the_l1_norm_from_above(first: float, second: float) -> None:
    low, high = sorted((first, second))
    zero = torch.zeros(3)
    small, large = (float(hlog(zero + difference, zero)) for difference in (low, high))
    assert small <= large + 1e-6
    assert small >= low - 2 * HLOG_EPSILON or low == 1
    assert math.isfinite(large)


@given(st.floats(-5, 5), st.floats(-5, 5))
def test_hlog_is_symmetric_and_finite_beyond_a_difference_of_one(first: float, second: float) -> None:
    x, y = torch.tensor([first]), torch.tensor([second])
    assert float(hlog(x, y)) == float(hlog(y, x))
    assert float(hlog(x, y)) <= -math.log(HLOG_EPSILON) + 1e-3


def test_hlog_at_a_difference_of_one_has_its_stated_value_and_a_finite_gradient() -> None:
    predicted = torch.zeros(4, requires_grad=True)
    value = hlog(predicted, torch.ones(4))
    value.backward()
    assert value.item() == pytest.approx(-math.log(HLOG_EPSILON), rel=1e-4)
    assert predicted.grad is not None
    assert bool(predicted.grad.isfinite().all())


def test_the_total_is_the_published_sum_of_its_terms(lpips: Lpips) -> None:
    predicted, target = raw(0), raw(1)
    terms = compare(predicted, target, lpips)
    torch.testing.assert_close(terms.total, terms.l1 + 0.05 * terms.hlog + 0.1 * terms.ssim + 0.1 * terms.lpips)
    torch.testing.assert_close(terms.l1, (predicted - target).abs().mean())
    torch.testing.assert_close(terms.ssim, 1 - ssim(predicted, target).mean())
    assert float(terms.lpips) > 0.01


def test_descending_the_loss_brings_the_prediction_to_the_truth(lpips: Lpips) -> None:
    target = raw(1, 32) * 0.8 + 0.1
    predicted = raw(0, 32).requires_grad_()
    optimiser = torch.optim.Adam([predicted], lr=0.08)
    first = compare(predicted, target, lpips)
    for _ in range(40):
        optimiser.zero_grad()
        compare(predicted, target, lpips).total.backward()
        optimiser.step()
    last = compare(predicted, target, lpips)
    assert last.total.item() < 0.1 * first.total.item()
    assert last.lpips.item() < 0.2 * first.lpips.item()


def test_bfloat16_and_autocast_cost_no_accuracy(lpips: Lpips) -> None:
    predicted, target = raw(0).bfloat16(), raw(1).bfloat16()
    expected = compare(predicted.float(), target.float(), lpips)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = compare(predicted, target, lpips)
    assert found.total.dtype == torch.float32
    torch.testing.assert_close(found.total, expected.total)


def test_gradients_are_finite_on_black_saturated_and_equal_frames(lpips: Lpips) -> None:
    for value, truth in ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (1.0, 1.0)):
        predicted = torch.full((2, 4, 32, 32), value, requires_grad=True)
        compare(predicted, torch.full((2, 4, 32, 32), truth), lpips).total.backward()
        assert predicted.grad is not None
        assert bool(predicted.grad.isfinite().all())


def test_a_weight_of_zero_leaves_its_term_out() -> None:
    terms = compare(raw(0, 12), raw(1, 12), None, LossWeights(hlog=0.0, ssim=0.0))
    assert float(terms.hlog) == float(terms.ssim) == float(terms.lpips) == 0
    torch.testing.assert_close(terms.total, terms.l1)


def test_a_wrong_shape_is_named() -> None:
    with pytest.raises(InvalidInputError, match=r"\(2, 3, 16, 16\)"):
        compare(torch.zeros(2, 3, 16, 16), torch.zeros(2, 4, 16, 16), None)
