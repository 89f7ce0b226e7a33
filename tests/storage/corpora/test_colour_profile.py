"""From a file's colours to sRGB: ITU-T H.273 code points, and profiles on pixels of 16 bits."""

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from aura.errors import RejectedImageError
from storage.corpora.colour_profile import SRGB_ASSUMED, Colours, colours_from_code, to_srgb
from storage.corpora.image_headers import ColourCode
from storage.corpora.matrix_profile import as_matrix_profile

SRGB = imagecodecs.cms_profile("srgb")
RELATIVE, COMPENSATED, UNOPTIMISED = 1, 0x2000, 0x0100


def encoded(linear: np.ndarray) -> np.ndarray:
    linear = np.clip(linear, 0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("code", [4, 8, 9, 10, 11, 12, 22])
def test_white_stays_white_under_every_primaries(code: int) -> None:
    white = np.full((2, 2, 3), 65535, np.uint16)
    assert (to_srgb(white, colours_from_code(ColourCode(code, 13)), "RGB") == 255).all()


def test_dci_p3_has_its_own_white() -> None:
    at = {"whitepoint": (0.314, 0.351), "primaries": (0.680, 0.320, 0.265, 0.690, 0.150, 0.060), "gamma": 1.0}
    image = np.random.default_rng(0).integers(0, 65536, (40, 40, 3)).astype(np.uint16)
    options = {"colorspace": "rgb", "outcolorspace": "rgb", "outdtype": "uint8", "intent": RELATIVE}
    expected = imagecodecs.cms_transform(
        image, imagecodecs.cms_profile("rgb", **at), SRGB, flags=UNOPTIMISED, **options
    )
    found = to_srgb(image, colours_from_code(ColourCode(11, 8)), "RGB")
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_cinema_light_is_that_of_smpte_st_428() -> None:
    codes = np.arange(0, 65536, 17).astype(np.uint16)[:, None, None].repeat(3, 2)
    light = 52.37 / 48 * (codes / 65535) ** 2.6  # SMPTE ST 428-1, white is 48 cd/m2
    found = to_srgb(codes, colours_from_code(ColourCode(1, 17)), "RGB")
    assert np.abs(found - encoded(light)).max() < 1


@pytest.mark.parametrize(("transfer", "words"), [(9, "logarithmic"), (10, "logarithmic"), (16, "PQ"), (18, "HLG")])
def test_transfers_that_are_no_display_curves_are_refused(transfer: int, words: str) -> None:
    with pytest.raises(RejectedImageError, match=words) as caught:
        colours_from_code(ColourCode(1, transfer))
    assert caught.value.reason == "unsupported_colour"


@pytest.mark.parametrize("code", [ColourCode(1, 3), ColourCode(1, 19), ColourCode(1, 0), ColourCode(3, 13)])
def test_codes_that_h273_reserves_are_refused(code: ColourCode) -> None:
    with pytest.raises(RejectedImageError, match="not known"):
        colours_from_code(code)


def test_a_narrow_range_of_codes_is_refused() -> None:
    with pytest.raises(RejectedImageError, match="narrow range"):
        colours_from_code(ColourCode(1, 13, is_full_range=False))


PROPHOTO = {
    "whitepoint": (0.3457, 0.3585),
    "primaries": (0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001),
    "gamma": 1.8,
}


@pytest.mark.parametrize("name", ["prophoto", "adobergb", "srgb"])
def test_16_bits_through_a_matrix_profile_are_what_littlecms_makes_of_them_unoptimised(name: str) -> None:
    icc = bytes(imagecodecs.cms_profile("rgb", **PROPHOTO) if name == "prophoto" else imagecodecs.cms_profile(name))
    image = np.random.default_rng(0).integers(0, 65536, (200, 200, 3)).astype(np.uint16)
    image[:100] >>= 4  # shadows, where sRGB is steep
    assert as_matrix_profile(icc) is not None
    options = {"colorspace": "rgb", "outcolorspace": "rgb", "intent": RELATIVE, "flags": COMPENSATED | UNOPTIMISED}
    exact = imagecodecs.cms_transform(image, icc, SRGB, outdtype="uint16", **options) / 257
    found = to_srgb(image, Colours(icc, name, is_srgb=False), "RGB")
    assert np.abs(found - exact).max() < 0.54  # half a code, and a step of light in the shadows


def test_a_profile_with_a_table_of_colours_is_left_to_littlecms(data_dir: Path) -> None:
    with Image.open(data_dir / "odd" / "xyb_icc.jpg") as opened:
        icc = opened.info["icc_profile"]
    assert as_matrix_profile(icc) is None


def test_a_profile_whose_black_is_not_dark_is_left_to_littlecms() -> None:
    raised = np.linspace(0.1, 1, 4096).astype(np.float32)
    at = {"whitepoint": PROPHOTO["whitepoint"], "primaries": PROPHOTO["primaries"], "transferfunction": raised}
    icc = bytes(imagecodecs.cms_profile("rgb", **at))
    assert as_matrix_profile(icc) is None
    black = np.zeros((2, 2, 3), np.uint16)
    assert (to_srgb(black, Colours(icc, "raised", is_srgb=False), "RGB") == 0).all()  # black point compensation


def test_every_number_of_16_bits_becomes_the_nearest_of_8() -> None:
    codes = np.arange(65536).astype(np.uint16).reshape(256, 256)
    expected = np.round(codes / 257).astype(np.uint8)
    grey = to_srgb(codes, SRGB_ASSUMED, "GRAY")
    assert np.array_equal(grey, np.repeat(expected[..., None], 3, axis=2))
