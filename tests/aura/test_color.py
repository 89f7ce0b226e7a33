"""Colour: values from the standards, round trips, gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aura.color import (
    LUMA_COEFFICIENTS,
    SRGB_TO_XYZ,
    apply_matrix,
    camera_to_srgb_matrix,
    linear_to_srgb,
    luminance,
    rgb_to_ycbcr,
    srgb_to_linear,
    ycbcr_matrix,
    ycbcr_to_rgb,
)
from aura.errors import InvalidInputError

STANDARDS = tuple(LUMA_COEFFICIENTS)
unit = st.floats(0, 1)
seeds = st.integers(0, 2**32 - 1)


def _image(seed: int, *lead: int) -> torch.Tensor:
    return torch.rand(*lead, 3, 4, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("display", "linear"),
    # ends, the joint, and middle values computed by hand from IEC 61966-2-1
    [(0.0, 0.0), (0.04045, 0.0031308), (0.2, 0.0331048), (0.5, 0.2140411), (0.735357, 0.5), (1.0, 1.0)],
)
def test_transfer_function_has_the_values_of_the_standard(display, linear):
    assert srgb_to_linear(torch.tensor(display)).item() == pytest.approx(linear, abs=2e-6)
    assert linear_to_srgb(torch.tensor(linear)).item() == pytest.approx(display, abs=2e-6)


@given(st.floats(0, 4))
def test_transfer_function_round_trips_and_extrapolates(value):
    tensor = torch.tensor(value, dtype=torch.float64)
    assert srgb_to_linear(linear_to_srgb(tensor)).item() == pytest.approx(value, abs=1e-6)
    assert linear_to_srgb(srgb_to_linear(tensor)).item() == pytest.approx(value, abs=1e-6)


@given(unit, unit)
def test_transfer_function_keeps_order(a, b):
    low, high = sorted((a, b))
    assert srgb_to_linear(torch.tensor(low)) <= srgb_to_linear(torch.tensor(high))
    assert linear_to_srgb(torch.tensor(low)) <= linear_to_srgb(torch.tensor(high))


@pytest.mark.parametrize("function", [srgb_to_linear, linear_to_srgb])
def test_transfer_function_has_finite_gradients_everywhere(function):
    values = torch.tensor([-1.0, 0.0, 1e-9, 0.0031308, 0.04045, 0.5, 1.0, 3.0], requires_grad=True)
    result = function(values)
    result.sum().backward()
    assert result[0] == 0.0
    assert torch.isfinite(values.grad).all()
    interior = torch.tensor([0.001, 0.02, 0.3, 0.9, 2.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(function, interior)


@pytest.mark.parametrize("standard", STANDARDS)
def test_ycbcr_of_primaries_follows_the_standard(standard):
    red, green, blue = LUMA_COEFFICIENTS[standard]
    assert red + green + blue == pytest.approx(1.0)
    primaries = torch.eye(3).reshape(3, 3, 1, 1)
    y, cb, cr = rgb_to_ycbcr(primaries, standard).squeeze(-1).squeeze(-1).T
    torch.testing.assert_close(y, torch.tensor([red, green, blue]))
    assert cb[2].item() == pytest.approx(0.5)
    assert cr[0].item() == pytest.approx(0.5)
    # Cb = (B - Y) / 1.8814 and Cr = (R - Y) / 1.4746 for BT.2100, likewise for the others
    torch.testing.assert_close(cb, (torch.tensor([0.0, 0.0, 1.0]) - y) / (2 * (1 - blue)))
    torch.testing.assert_close(cr, (torch.tensor([1.0, 0.0, 0.0]) - y) / (2 * (1 - red)))


@given(seeds, st.sampled_from(STANDARDS), st.sampled_from([(), (1,), (2, 3)]))
def test_ycbcr_round_trips_and_stays_in_range(seed, standard, lead):
    image = _image(seed, *lead)
    ycbcr = rgb_to_ycbcr(image, standard)
    assert ycbcr.shape == image.shape
    assert ycbcr[..., 0, :, :].min() >= -1e-6
    assert ycbcr[..., 1:, :, :].abs().max() <= 0.5 + 1e-6
    torch.testing.assert_close(ycbcr_to_rgb(ycbcr, standard), image, rtol=0, atol=2e-6)


@given(unit, st.sampled_from(STANDARDS))
def test_grey_has_no_chroma(value, standard):
    y, cb, cr = rgb_to_ycbcr(torch.full((3, 1, 1), value), standard).flatten().tolist()
    assert (y, cb, cr) == pytest.approx((value, 0.0, 0.0), abs=1e-6)


def test_an_unknown_ycbcr_standard_is_refused_by_name():
    with pytest.raises(InvalidInputError, match=r"'bt2020'; expected one of bt2100, bt709, bt601"):
        ycbcr_matrix("bt2020")


@given(seeds)
def test_luminance_is_the_y_of_xyz(seed):
    image = _image(seed, 2)
    xyz = apply_matrix(image, torch.from_numpy(SRGB_TO_XYZ))
    torch.testing.assert_close(luminance(image), xyz[:, 1:2], rtol=0, atol=1e-4)


@given(seeds)
def test_apply_matrix_is_one_product_a_pixel(seed):
    image = _image(seed, 2)
    rng = np.random.default_rng(seed)
    matrices = torch.from_numpy(rng.normal(size=(2, 3, 3)))
    expected = torch.einsum("bij,bjhw->bihw", matrices, image)
    torch.testing.assert_close(apply_matrix(image, matrices), expected)
    torch.testing.assert_close(apply_matrix(image[1], matrices[1]), expected[1])
    torch.testing.assert_close(apply_matrix(image[0], matrices), torch.einsum("bij,jhw->bihw", matrices, image[0]))


def test_apply_matrix_passes_gradients():
    image, matrix = _image(0, 2).requires_grad_(), torch.rand(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(apply_matrix, (image, matrix))


@pytest.mark.parametrize("shape", [(4, 2, 2), (3, 2), (2, 1, 4, 4)])
def test_apply_matrix_refuses_what_has_not_three_channels(shape):
    with pytest.raises(InvalidInputError, match=r"expected \(\*, 3, H, W\)"):
        apply_matrix(torch.zeros(shape), torch.eye(3))


@given(st.lists(st.floats(-0.3, 0.3), min_size=9, max_size=9), st.floats(0.01, 1e4))
def test_camera_matrix_keeps_grey_and_ignores_scale(noise, scale):
    xyz_to_camera = np.eye(3) + np.reshape(noise, (3, 3)) * 0.9
    matrix = camera_to_srgb_matrix(xyz_to_camera)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-9)
    np.testing.assert_allclose(camera_to_srgb_matrix(xyz_to_camera * scale), matrix, rtol=1e-6, atol=1e-9)


def test_a_camera_with_srgb_primaries_needs_no_matrix():
    np.testing.assert_allclose(camera_to_srgb_matrix(np.linalg.inv(SRGB_TO_XYZ)), np.eye(3), atol=1e-12)


@pytest.mark.parametrize("matrix", [np.zeros((3, 3)), np.ones((3, 3)), np.eye(4)])
def test_a_matrix_that_cannot_be_a_camera_is_refused(matrix):
    with pytest.raises(InvalidInputError, match="XYZ to camera matrix"):
        camera_to_srgb_matrix(matrix)
