import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import structural_similarity
from torch import Tensor

from aura.errors import InvalidInputError
from aura.metrics import (
    align_gains,
    ciede2000,
    fine_part,
    match_tone,
    psnr,
    psnr_aligned,
    ssim,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def smooth_image(height: int = 96, width: int = 120, seed: int = 0) -> Tensor:
    coarse = noise(1, 3, 6, 7, seed=seed)
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0.02, 0.98)


def test_psnr_is_exact_for_a_known_error_and_kept_apart_per_image() -> None:
    reference = noise(2, 3, 20, 20) * 0.5
    image = reference + torch.tensor([0.1, 0.01]).view(2, 1, 1, 1)
    torch.testing.assert_close(psnr(image, reference), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0)


def test_psnr_of_equal_images_is_infinite() -> None:
    image = noise(1, 3, 8, 8)
    assert math.isinf(float(psnr(image, image)))


@pytest.mark.parametrize("size", [(11, 40), (64, 80), (300, 33)])
def test_ssim_equals_scikit_image(size: tuple[int, int]) -> None:
    reference = noise(2, 3, *size)
    image = (reference + 0.1 * (noise(2, 3, *size, seed=1) - 0.5)).clamp(0, 1)
    expected = [
        structural_similarity(
            first.permute(1, 2, 0).double().numpy(),
            second.permute(1, 2, 0).double().numpy(),
            channel_axis=2,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            data_range=1,
        )
        for first, second in zip(image, reference, strict=True)
    ]
    np.testing.assert_allclose(ssim(image, reference).numpy(), expected, atol=2e-5)


def test_ssim_of_equal_images_is_one_also_under_bfloat16_autocast() -> None:
    image = noise(1, 4, 150, 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        similarity = ssim(image, image)
    torch.testing.assert_close(similarity, torch.ones(1), atol=1e-4, rtol=0)


def test_ssim_has_the_gradient_that_finite_differences_find() -> None:
    reference, image, direction = (noise(1, 2, 16, 17, seed=seed) for seed in range(3))
    image.requires_grad_()
    (gradient,) = torch.autograd.grad(ssim(image, reference).sum(), image)
    step = 1e-2
    ahead, behind = (ssim(image.detach() + sign * step * direction, reference) for sign in (1, -1))
    torch.testing.assert_close((gradient * direction).sum(), ((ahead - behind) / (2 * step))[0], rtol=2e-2, atol=1e-4)


def test_ssim_says_what_is_too_small() -> None:
    with pytest.raises(InvalidInputError, match="10x40"):
        ssim(noise(1, 3, 10, 40), noise(1, 3, 10, 40))


@given(st.integers(0, 2**31 - 1))
@settings(max_examples=10, deadline=None)
def test_ciede2000_equals_scikit_image(seed: int) -> None:
    first, second = noise(1, 3, 12, 9, seed=seed), noise(1, 3, 12, 9, seed=seed ^ 1)
    second[..., :3] = first[..., :3] + 0.01  # near pairs too, where the hue terms matter
    second = second.clamp(0, 1)
    expected = deltaE_ciede2000(
        *(rgb2lab(image[0].permute(1, 2, 0).double().numpy()) for image in (first, second))
    ).mean()
    assert float(ciede2000(first, second)) == pytest.approx(expected, abs=2e-3)


def test_ciede2000_of_greys_and_of_equal_images() -> None:
    grey = torch.linspace(0, 1, 100).expand(1, 3, 2, 100)
    assert float(ciede2000(grey, grey)) == pytest.approx(0.0, abs=1e-6)
    assert 5 < float(ciede2000(grey, grey.flip(-1))) < 100


@given(st.tuples(*[st.floats(0.3, 3.0)] * 3))
@settings(max_examples=20, deadline=None)
def test_aligned_psnr_does_not_see_gains_per_colour(gains: tuple[float, float, float]) -> None:
    truth = noise(2, 4, 12, 14) * 0.9
    red, green, blue = gains
    predicted = truth / torch.tensor([red, green, green, blue]).view(1, 4, 1, 1)
    assert bool((psnr_aligned(predicted, truth) > 100).all())


def test_aligned_psnr_does_see_a_gain_between_the_greens() -> None:
    truth = noise(1, 4, 12, 14) * 0.9
    predicted = truth * torch.tensor([1.0, 1.0, 1.1, 1.0]).view(1, 4, 1, 1)
    assert float(psnr_aligned(predicted, truth)) < 40


def test_alignment_ignores_overexposed_sites_and_clips_at_saturation() -> None:
    truth = noise(1, 4, 16, 16) * 0.9
    truth[..., :4] = 1.0
    predicted = truth * 0.5
    predicted[..., :4] = 0.9  # not half of the truth: a fit that counted these sites would miss the gain of 2
    aligned = align_gains(predicted, truth)
    torch.testing.assert_close(aligned, truth, atol=1e-5, rtol=0)


def test_a_colour_that_is_overexposed_everywhere_stays_as_it_is() -> None:
    truth = noise(1, 4, 16, 16) * 0.9
    truth[:, 1:3] = 1.0
    predicted = (truth * torch.tensor([0.5, 0.97, 0.97, 2.0]).view(1, 4, 1, 1)).requires_grad_()
    aligned = align_gains(predicted, truth)
    torch.testing.assert_close(aligned[:, 1:3], predicted[:, 1:3])
    torch.testing.assert_close(aligned[:, [0, 3]], truth[:, [0, 3]])
    aligned.sum().backward()
    assert bool(predicted.grad.isfinite().all())


def test_match_tone_undoes_a_curve_per_channel() -> None:
    reference = smooth_image()
    exponents = torch.tensor([0.5, 0.8, 1.7]).view(1, 3, 1, 1)
    image = 0.9 * reference**exponents
    assert float(psnr(image, reference)) < 25
    assert float(psnr(match_tone(image, reference), reference)) > 45


def test_match_tone_is_monotone_and_not_pulled_by_outliers() -> None:
    reference = smooth_image()
    spoilt = reference.clone()
    spoilt[..., ::5, ::5] = 1.0 - spoilt[..., ::5, ::5]
    matched = match_tone(reference**0.7, spoilt)
    assert float(psnr(matched, reference)) > 30
    for channel in range(3):
        order = reference[0, channel].flatten().argsort()
        assert bool((matched[0, channel].flatten()[order].diff() >= -1e-6).all())


def test_match_tone_cannot_undo_a_spatial_error() -> None:
    reference = smooth_image()
    assert float(psnr(match_tone(reference.flip(-1), reference), reference)) < 30


def test_match_tone_of_a_constant_image_gives_the_median() -> None:
    reference = torch.full((1, 3, 16, 16), 0.25)
    torch.testing.assert_close(match_tone(torch.full_like(reference, 0.8), reference), reference, atol=1e-3, rtol=0)


@pytest.mark.parametrize("metric", [psnr, ssim, ciede2000, psnr_aligned, match_tone])
def test_every_metric_names_the_shapes_it_refuses(metric) -> None:  # type: ignore[no-untyped-def]  # five signatures
    with pytest.raises(InvalidInputError, match=r"\(1, 3, 16, 16\).*\(1, 3, 16, 18\)"):
        metric(noise(1, 3, 16, 16), noise(1, 3, 16, 18))


def test_the_fine_part_leaves_tone_out_and_keeps_what_alternates() -> None:
    flat = torch.full((2, 3, 16, 20), 0.4)
    torch.testing.assert_close(fine_part(flat, 5), torch.zeros_like(flat))
    slope = torch.linspace(0, 1, 20).expand(1, 1, 16, 20)
    assert float(fine_part(slope, 5)[..., 2:-2].abs().max()) < 1e-6
    checkered = (torch.arange(16)[:, None] + torch.arange(20)) % 2 * 2.0 - 1.0
    kept = fine_part(checkered[None], 5)[..., 2:-2, 2:-2]
    torch.testing.assert_close(kept, checkered[None, 2:-2, 2:-2] * (1 - 1 / 25))
