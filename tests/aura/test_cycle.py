"""What is measured on every sample: the same as the full metrics say, for a small part of their cost."""

import pytest
import torch
from torch import Tensor

from aura.cycle import CycleQuality, cycle_quality
from aura.errors import InvalidInputError
from aura.metrics import match_tone, psnr, ssim
from aura.perceptual import Lpips

LUMA = torch.tensor([0.2126, 0.7152, 0.0722]).view(1, 3, 1, 1)


def smooth_codes(height: int = 96, width: int = 120, seed: int = 0) -> Tensor:
    coarse = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0.02, 0.98)
    return (image[0] * 255.0).round().to(torch.uint8)


def darkened(codes: Tensor, factor: float = 0.7) -> Tensor:
    return (codes.float() * factor).round().to(torch.uint8)


def test_it_agrees_with_the_metrics_of_whole_images() -> None:
    source = smooth_codes(400, 500)
    spoilt = darkened(source).int() + torch.randint(-9, 10, source.shape, generator=torch.Generator().manual_seed(1))
    rendered = spoilt.clamp(0, 255).to(torch.uint8)
    found = cycle_quality(source, rendered, None)
    image, reference = rendered[None] / 255.0, source[None] / 255.0
    matched = match_tone(image, reference)
    assert found.psnr == pytest.approx(float(psnr(image, reference)), abs=1e-3)
    assert found.psnr_matched == pytest.approx(float(psnr(matched, reference)), abs=0.05)
    for value, other in ((found.ssim, image), (found.ssim_matched, matched)):
        whole = ssim((other * LUMA).sum(1, keepdim=True), (reference * LUMA).sum(1, keepdim=True))
        assert value == pytest.approx(float(whole), abs=5e-3)


def test_it_tells_exposure_from_damage(lpips: Lpips) -> None:
    source = smooth_codes()
    darker = cycle_quality(source, darkened(source), lpips)
    assert isinstance(darker, CycleQuality)
    assert darker.psnr < 25
    assert darker.psnr_matched > 45
    assert darker.ssim_matched > darker.ssim
    assert darker.lpips is not None
    assert 0 < darker.lpips < 0.5
    damaged = cycle_quality(source, source.roll(9, dims=-1), None)
    assert damaged.psnr_matched < 30
    assert damaged.lpips is None


def test_equal_images_are_perfect() -> None:
    source = smooth_codes(40, 40)
    found = cycle_quality(source, source, None)
    assert found.psnr == float("inf")
    assert found.ssim == pytest.approx(1.0, abs=1e-5)


def test_lpips_is_left_out_where_the_image_is_too_small(lpips: Lpips) -> None:
    source = smooth_codes(16, 40)
    assert cycle_quality(source, darkened(source), lpips).lpips is None


@pytest.mark.parametrize(
    ("source", "rendered", "said"),
    [
        (torch.zeros(3, 16, 16), torch.zeros(3, 16, 16, dtype=torch.uint8), "expected uint8"),
        (torch.zeros(3, 16, 16, dtype=torch.uint8), torch.zeros(3, 16, 18, dtype=torch.uint8), r"\(3, 16, 18\)"),
        (torch.zeros(3, 9, 16, dtype=torch.uint8), torch.zeros(3, 9, 16, dtype=torch.uint8), "at least 11"),
    ],
)
def test_it_names_what_it_refuses(source: Tensor, rendered: Tensor, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        cycle_quality(source, rendered, None)
