"""Bayer patterns: against an independent implementation, and as properties."""

import itertools

import numpy as np
import pytest
import torch
from colour_demosaicing.bayer import masks_CFA_Bayer, mosaicing_CFA_Bayer
from hypothesis import given
from hypothesis import strategies as st

from aura.bayer import (
    CFA_PATTERNS,
    PLANE_CHANNEL,
    cfa_sites,
    flip_pattern,
    half_size_rgb,
    mosaic,
    pack,
    pack_rgb,
    unpack,
)
from aura.errors import InvalidInputError

patterns = st.sampled_from(CFA_PATTERNS)
half_sides = st.tuples(st.integers(1, 6), st.integers(1, 6))
leading = st.sampled_from([(), (1,), (3,), (2, 2)])
dtypes = st.sampled_from([torch.float32, torch.float64, torch.uint8, torch.int32])


def _numbered(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Values that tell every site from every other (modulo 256 for bytes)."""
    return torch.arange(int(np.prod(shape))).reshape(shape).to(dtype)


@given(patterns, leading, half_sides, dtypes)
def test_pack_and_unpack_invert_each_other(pattern, lead, sides, dtype):
    values = _numbered((*lead, 2 * sides[0], 2 * sides[1]), dtype)
    packed = pack(values, pattern)
    assert packed.shape == (*lead, 4, *sides)
    assert packed.dtype == dtype
    assert torch.equal(unpack(packed, pattern), values)
    assert torch.equal(pack(unpack(packed, pattern), pattern), packed)


@given(patterns, leading, half_sides, st.booleans(), st.booleans())
def test_flipping_the_mosaic_flips_the_planes_under_the_flipped_pattern(pattern, lead, sides, horizontal, vertical):
    values = _numbered((*lead, 2 * sides[0], 2 * sides[1]), torch.float32)
    axes = [axis for axis, flipped in ((-1, horizontal), (-2, vertical)) if flipped]
    flipped = flip_pattern(pattern, horizontal=horizontal, vertical=vertical)
    assert flipped in CFA_PATTERNS
    assert torch.equal(pack(values.flip(axes), flipped), pack(values, pattern).flip(axes))
    assert flip_pattern(flipped, horizontal=horizontal, vertical=vertical) == pattern


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_mosaic_agrees_with_colour_demosaicing(pattern):
    image = torch.rand(3, 8, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = mosaicing_CFA_Bayer(image.permute(1, 2, 0).numpy(), pattern)
    np.testing.assert_allclose(mosaic(image, pattern).numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_planes_lie_on_their_colours_and_gr_shares_the_row_of_red(pattern):
    masks = masks_CFA_Bayer((2, 2), pattern)
    sites = cfa_sites(pattern)
    assert sorted(sites) == list(itertools.product((0, 1), (0, 1)))
    for plane, site in enumerate(sites):
        assert masks[PLANE_CHANNEL[plane]][site]
    red, green_red, green_blue, blue = sites
    assert green_red[0] == red[0]
    assert green_blue[0] == blue[0]


@given(patterns, leading, half_sides)
def test_pack_rgb_is_the_packed_mosaic(pattern, lead, sides):
    image = _numbered((*lead, 3, 2 * sides[0], 2 * sides[1]), torch.float32)
    assert torch.equal(pack_rgb(image, pattern), pack(mosaic(image, pattern), pattern))


@given(patterns, st.tuples(*[st.floats(0, 1, width=32)] * 3))
def test_a_flat_colour_survives_mosaic_and_half_size(pattern, colour):
    image = torch.tensor(colour).reshape(3, 1, 1).expand(3, 4, 6)
    torch.testing.assert_close(half_size_rgb(pack_rgb(image, pattern)), image[:, :2, :3])


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_gradients_pass_through_unchanged(pattern):
    image = torch.rand(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: half_size_rgb(pack_rgb(x, pattern)), image)
    assert torch.autograd.gradcheck(lambda x: unpack(pack(x, pattern), pattern), image)


@pytest.mark.parametrize("function", [pack, lambda m, p: pack_rgb(m.expand(3, *m.shape), p)])
@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 1)])
def test_odd_sides_are_refused_with_what_to_do(function, shape):
    with pytest.raises(InvalidInputError, match=rf"{shape[0]}x{shape[1]}.*Crop one row or column off"):
        function(torch.zeros(shape), "RGGB")


def test_wrong_channels_and_patterns_are_refused():
    with pytest.raises(InvalidInputError, match=r"expected \(\*, 3, H, W\)"):
        pack_rgb(torch.zeros(4, 2, 2), "RGGB")
    with pytest.raises(InvalidInputError, match=r"expected \(\*, 4, h, w\)"):
        unpack(torch.zeros(3, 2, 2), "RGGB")
    with pytest.raises(InvalidInputError, match=r"'RGBG'; expected one of RGGB, GRBG, GBRG, BGGR"):
        pack(torch.zeros(2, 2), "RGBG")
    with pytest.raises(InvalidInputError, match=r"'rggb'"):
        flip_pattern("rggb", horizontal=True)
    with pytest.raises(InvalidInputError, match=r"expected \(\*, 4, h, w\)"):
        half_size_rgb(torch.zeros(3, 2, 2))
    with pytest.raises(InvalidInputError, match=r"expected \(\*, H, W\)"):
        pack(torch.zeros(4), "RGGB")
