"""The forward ISP: demosaicking, the reference renderer, and the random family."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from colour_demosaicing import demosaicing_CFA_Bayer_bilinear, demosaicing_CFA_Bayer_Malvar2004
from hypothesis import given, settings
from hypothesis import strategies as st

from aura.bayer import CFA_PATTERNS, CfaPattern, pack, pack_rgb, unpack
from aura.color import linear_to_srgb
from aura.demosaic import demosaic_bilinear, demosaic_malvar
from aura.errors import InvalidInputError
from aura.isp import develop, draw_isp, encode_jpeg, render, render_codes
from aura.sensor.catalog import load_profile
from aura.sensor.simulate import canonical_to_camera, color_under
from aura.tone_curves import TONE_FAMILIES, curve_axis, encode_curve_axis

GAINS = torch.tensor([2.0, 1.0, 1.5])
MATRIX = torch.eye(3)


def smooth_scene(size: int = 64) -> torch.Tensor:
    axis = torch.linspace(0, 1, size)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([0.2 + 0.3 * x, 0.3 + 0.2 * y, 0.25 + 0.1 * (x + y)])


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(demosaic_bilinear, demosaicing_CFA_Bayer_bilinear), (demosaic_malvar, demosaicing_CFA_Bayer_Malvar2004)],
)
def test_demosaicking_agrees_with_the_reference_library(pattern: CfaPattern, ours: object, theirs: object) -> None:
    packed = torch.rand(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    expected = theirs(unpack(packed, pattern)[0].double().numpy(), pattern)  # type: ignore[operator]
    found = ours(packed, pattern)[0].permute(1, 2, 0).numpy()  # type: ignore[operator]
    inner = slice(4, -4)  # borders are extended differently
    np.testing.assert_allclose(found[inner, inner], expected[inner, inner], atol=1e-5)


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_rendering_inverts_a_simple_capture(pattern: CfaPattern) -> None:
    canonical = smooth_scene()
    raw = pack_rgb(canonical / GAINS[:, None, None], pattern)
    rendered = render(raw, pattern, GAINS, MATRIX)
    assert rendered.shape == (3, 64, 64)
    difference = (rendered - linear_to_srgb(canonical))[:, 3:-3, 3:-3].abs()
    assert float(difference.max()) < 5e-3


@given(
    gains=st.tuples(*[st.floats(1.0, 4.0, width=32)] * 2),
    pattern=st.sampled_from(CFA_PATTERNS),
    seed=st.integers(0, 1 << 16),
)
def test_the_light_decides_how_it_is_rendered_not_the_gains_of_its_camera(
    gains: tuple[float, float], pattern: CfaPattern, seed: int
) -> None:
    """Gains that only came after demosaicking would tint every edge of a grey scene."""
    red, blue = gains
    light = torch.rand(1, 12, 12, generator=torch.Generator().manual_seed(seed)).expand(3, 12, 12)
    by_gains = torch.tensor([red, 1.0, blue])
    plain, seen = (
        render(pack_rgb(light / each[:, None, None], pattern), pattern, each, MATRIX)
        for each in (torch.ones(3), by_gains)
    )
    torch.testing.assert_close(seen, plain, atol=1e-4, rtol=0)


def test_rendering_clips_saturated_pixels_to_white() -> None:
    rendered = render(torch.ones(4, 8, 8), "RGGB", GAINS, MATRIX)
    torch.testing.assert_close(rendered, torch.ones(3, 16, 16))


@pytest.mark.parametrize("kelvin", [2000.0, 2400.0, 6504.0, 9000.0, 15000.0])
def test_saturation_and_every_grey_render_neutral_under_every_light(kelvin: float) -> None:
    for name in ("generic", "canon-eos-5d-mark-iv", "nikon-d700", "sony-ilce-7sm2"):
        profile = load_profile(name)
        gains, matrix = color_under(profile, kelvin)
        greys = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.85, 0.9, 1.0, 1.5]).repeat_interleave(8).expand(3, 8, 64)
        raw = pack_rgb(canonical_to_camera(greys, matrix, gains), profile.cfa_pattern).clamp(0.0, 1.0)
        rendered = render(raw, profile.cfa_pattern, torch.tensor(gains), torch.tensor(matrix))
        inner = rendered.view(3, 8, 8, 8)[:, 3:5, :, 3:5].mean(dim=(1, 3))
        assert float((inner.amax(0) - inner.amin(0)).max()) < 5e-3, name
        torch.testing.assert_close(inner[:, -2:], torch.ones(3, 2), atol=2e-3, rtol=0)
        below = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.85])
        torch.testing.assert_close(inner[1, :5], linear_to_srgb(below), atol=5e-3, rtol=0)


def test_a_gain_under_one_leaves_bright_colours_alone() -> None:
    gains = torch.tensor([0.6, 1.0, 1.8])
    colour = torch.tensor([0.9, 0.35, 0.2])[:, None, None].expand(3, 8, 8)  # red saturates at 0.6
    raw = pack_rgb(colour / gains[:, None, None], "RGGB").clamp(0.0, 1.0)
    seen = render(raw, "RGGB", gains, MATRIX)[:, 4, 4]
    torch.testing.assert_close(seen, linear_to_srgb(torch.tensor([0.6, 0.35, 0.2])), atol=1e-4, rtol=0)


def test_rendering_a_batch_equals_rendering_one_by_one() -> None:
    raw = torch.rand(3, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    gains = torch.tensor([[2.0, 1.0, 1.5], [1.0, 1.0, 1.0], [1.5, 1.0, 2.5]])
    together = render(raw, "GBRG", gains, MATRIX.expand(3, 3, 3))
    for row in range(3):
        torch.testing.assert_close(together[row], render(raw[row], "GBRG", gains[row], MATRIX))


def test_rendering_refuses_a_single_cell() -> None:
    with pytest.raises(InvalidInputError, match="2x2"):
        render(torch.zeros(4, 1, 1), "RGGB", GAINS, MATRIX)


def test_every_tone_curve_rises_from_dark_to_bright() -> None:
    isp = draw_isp(256, np.random.default_rng(0))
    assert set(isp.tone_family.tolist()) == set(range(len(TONE_FAMILIES)))
    curves = isp.tone_curve[:, 0]
    assert float(curves.min()) >= 0.0
    assert float(curves.max()) <= 1.0
    assert float(curves.diff(dim=1).min()) > -2e-3
    bright = encode_curve_axis(torch.tensor(16.0))
    assert float(bright) == pytest.approx(1.0)
    assert bool((curves[:, -1] > curves[:, 0] + 0.5).all())


def test_the_curve_axis_is_its_own_inverse() -> None:
    torch.testing.assert_close(encode_curve_axis(curve_axis()), torch.linspace(0, 1, 512), atol=1e-5, rtol=0)


def test_all_parameters_are_recorded_a_row_per_image() -> None:
    isp = draw_isp(5, np.random.default_rng(3))
    for field in fields(isp):
        assert len(getattr(isp, field.name)) == 5, field.name
    assert len(isp.select(slice(1, 3)).exposure) == 2


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_developing_is_deterministic_eight_bit_and_in_range(seed: int) -> None:
    raw = (smooth_scene(32)[None].expand(2, 3, 32, 32) / GAINS[:, None, None]).contiguous()
    packed = pack_rgb(raw, "GRBG")
    gains, matrix = GAINS.expand(2, 3), MATRIX.expand(2, 3, 3)
    first, second = (develop(packed, "GRBG", gains, matrix, draw_isp(2, np.random.default_rng(seed))) for _ in range(2))
    assert torch.equal(first, second)
    assert bool(torch.isfinite(first).all())
    codes = first * 255
    torch.testing.assert_close(codes, codes.round(), atol=1e-3, rtol=0)
    assert 0.0 <= float(first.min()) <= float(first.max()) <= 1.0 + 1e-6


def test_developing_is_differentiable_through_quantisation() -> None:
    packed = pack_rgb(smooth_scene(32)[None] * 0.5, "RGGB").requires_grad_()
    developed = develop(packed, "RGGB", GAINS[None], MATRIX[None], draw_isp(1, np.random.default_rng(7)))
    developed.mean().backward()
    assert packed.grad is not None
    assert bool(torch.isfinite(packed.grad).all())
    assert float(packed.grad.abs().sum()) > 0


def test_jpeg_changes_little_at_high_quality_and_nothing_when_off() -> None:
    image = (smooth_scene()[None] * 255).round() / 255
    off = encode_jpeg(image, torch.tensor([0]), torch.tensor([0]))
    torch.testing.assert_close(off, image, atol=1e-6, rtol=0)
    errors = [
        float((encode_jpeg(image, torch.tensor([q]), torch.tensor([2])) - image).square().mean()) for q in (98, 60)
    ]
    assert 0 < errors[0] < errors[1] < 1e-3


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_malvar_reflects_the_mosaic_about_its_border_pixels(pattern: CfaPattern) -> None:
    packed = torch.rand(1, 4, 5, 7, generator=torch.Generator().manual_seed(3))
    larger = F.pad(unpack(packed, pattern)[:, None], (4, 4, 4, 4), mode="reflect")[:, 0]
    expected = demosaic_malvar(pack(larger, pattern), pattern)[..., 4:-4, 4:-4]
    torch.testing.assert_close(demosaic_malvar(packed, pattern), expected)


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_codes_are_the_rendering_in_eight_bits(pattern: CfaPattern) -> None:
    raw = torch.rand(2, 4, 24, 20, generator=torch.Generator().manual_seed(4)) * 1.2 - 0.1
    codes = render_codes(raw, pattern, GAINS, MATRIX)
    assert codes.dtype == torch.uint8
    exact = render(raw, pattern, GAINS, MATRIX) * 255.0
    assert float((codes - exact).abs().max()) < 0.55  # rounding, and a step of the table
    assert bool((render_codes(torch.ones(4, 4, 4), pattern, GAINS, MATRIX) == 255).all())
    assert bool((render_codes(torch.zeros(4, 4, 4), pattern, GAINS, MATRIX) == 0).all())


@pytest.mark.parametrize(
    ("auto_exposure", "exposure", "bright", "expected_gain"),
    [
        (0, 4.0, 0.1, 4.0),  # as it was set
        (0, 50.0, 0.1, 12.0),  # until four fifths of the picture would be above 1.2
        (0, 0.5, 0.9, 0.5),
        (1, 1.0, 0.3, 0.18 / (0.9 * 0.3 + 0.1 * 0.02)),  # mean to middle grey
        (1, 1.0, 0.004, 12.0),  # but no more than twelvefold
        (1, 0.5, 0.3, 0.5 * 0.18 / (0.9 * 0.3 + 0.1 * 0.02)),
        (2, 1.0, 0.3, 0.95 / 0.3),  # the bright percentile to white
        (2, 1.0, 0.04, 12.0),
        (2, 2.0, 0.6, 2.0),  # 1.9 / 0.6, but 1.2 / 0.6 is the ceiling
    ],
)
def test_developing_exposes_as_its_parameters_say(
    auto_exposure: int, exposure: float, bright: float, expected_gain: float
) -> None:
    neutral = {"wb_error": 1.0, "denoise": 0.0, "wide_gamut": 0.0, "chroma_preserving": 0.0, "local_contrast": 1.0}
    neutral |= {"saturation": 1.0, "hue_degrees": 0.0, "vibrance": 0.0, "sharpen": 0.0, "jpeg_quality": 0}
    drawn = draw_isp(1, np.random.default_rng(0))
    changed = {name: torch.full_like(getattr(drawn, name), value) for name, value in neutral.items()}
    isp = replace(
        drawn,
        **changed,
        colour_error=torch.eye(3)[None],
        tone_curve=linear_to_srgb(curve_axis())[None, None],
        auto_exposure=torch.tensor([auto_exposure]),
        exposure=torch.tensor([exposure]),
    )
    light = torch.full((3, 110, 100), bright)
    light[:, :11] = 0.02
    raw = pack_rgb(light / GAINS[:, None, None], "RGGB")[None]
    seen = develop(raw, "RGGB", GAINS[None], torch.eye(3)[None], isp)[0]
    for row, level in ((4, 0.02), (60, bright)):
        expected = linear_to_srgb(torch.tensor(level * expected_gain)).clamp(0, 1)
        torch.testing.assert_close(seen[:, row, 50], expected.expand(3), atol=6e-3, rtol=0)
