import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aura.augment import ORIENTATIONS, orient, orient_packed, orient_packed_keeping_cfa, orient_pattern, trim_of
from aura.bayer import CFA_PATTERNS, CfaPattern, flip_pattern, pack, unpack
from aura.errors import InvalidInputError

CASES = [(pattern, orientation) for pattern in CFA_PATTERNS for orientation in range(ORIENTATIONS)]


def drawn(height: int, width: int) -> np.ndarray:
    """Packed planes in which every value is different."""
    return np.arange(4 * height * width, dtype=np.uint16).reshape(4, height, width)


def mosaic_of(packed: np.ndarray, pattern: CfaPattern) -> np.ndarray:
    return unpack(torch.from_numpy(packed.astype(np.int32)), pattern).numpy()


def packed_of(mosaic: np.ndarray, pattern: CfaPattern) -> np.ndarray:
    return pack(torch.from_numpy(mosaic.copy()), pattern).numpy()


@pytest.mark.parametrize(("pattern", "orientation"), CASES)
def test_turning_planes_is_turning_the_mosaic_and_naming_its_new_pattern(pattern: CfaPattern, orientation: int) -> None:
    packed = drawn(3, 5)
    turned = orient(mosaic_of(packed, pattern), orientation)
    assert np.array_equal(orient_packed(packed, orientation), packed_of(turned, orient_pattern(pattern, orientation)))


@pytest.mark.parametrize(("pattern", "orientation"), CASES)
def test_keeping_the_cfa_cuts_the_turned_mosaic(pattern: CfaPattern, orientation: int) -> None:
    packed = drawn(4, 6)
    turned = orient(mosaic_of(packed, pattern), orientation)
    rows, columns = trim_of(pattern, orientation)
    cut = turned[rows : turned.shape[0] - rows, columns : turned.shape[1] - columns]
    assert np.array_equal(orient_packed_keeping_cfa(packed, pattern, orientation), packed_of(cut, pattern))


@pytest.mark.parametrize(("pattern", "orientation"), CASES)
def test_colours_stay_what_they_are(pattern: CfaPattern, orientation: int) -> None:
    packed = np.broadcast_to(np.array([1, 2, 2, 3], np.uint16)[:, None, None], (4, 4, 4))
    assert np.array_equal(orient_packed_keeping_cfa(packed, pattern, orientation)[:, 0, 0], [1, 2, 2, 3])
    colours = {"R": 1, "G": 2, "B": 3}
    after = orient_pattern(pattern, orientation)
    cell = orient(mosaic_of(packed, pattern), orientation)[:2, :2].ravel()
    assert [colours[letter] for letter in after] == cell.tolist()


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_mirrors_agree_with_flip_pattern(pattern: CfaPattern) -> None:
    assert orient_pattern(pattern, 1) == flip_pattern(pattern, horizontal=True)
    assert orient_pattern(pattern, 2) == flip_pattern(pattern, vertical=True)
    assert orient_pattern(pattern, 3) == flip_pattern(pattern, horizontal=True, vertical=True)


@given(st.sampled_from(CFA_PATTERNS), st.integers(0, 3))
def test_a_mirror_twice_is_none(pattern: CfaPattern, orientation: int) -> None:
    packed = drawn(2, 3)
    assert np.array_equal(orient_packed(orient_packed(packed, orientation), orientation), packed)
    assert orient_pattern(orient_pattern(pattern, orientation), orientation) == pattern


def test_what_is_no_packed_raw_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"expected \(4, h, w\)"):
        orient_packed(np.zeros((3, 4, 4)), 1)
    with pytest.raises(InvalidInputError, match="expected 0 to 7"):
        orient_packed(drawn(2, 2), 8)
    with pytest.raises(InvalidInputError, match="too small"):
        orient_packed_keeping_cfa(drawn(1, 1), "RGGB", 1)
