"""JPEG XL whose colours only its header tells: headers are written here bit by bit before a real encoder's frame."""

import imagecodecs
import numpy as np
import pytest

from aura.errors import RejectedImageError
from storage.corpora.jxl_header import read_jxl_header
from storage.corpora.photograph import decode, probe
from storage.recipe import Limits

LIMITS = Limits()
SRGB = (0.3127, 0.3290, 0.64, 0.33, 0.30, 0.60, 0.15, 0.06)
PROPHOTO = (0.3457, 0.3585, 0.7347, 0.2653, 0.1596, 0.8404, 0.0366, 0.0001)


def bits(value: int, count: int) -> str:
    return "".join(str(value >> shift & 1) for shift in range(count))


def enumeration(value: int) -> str:
    return bits(value, 2) if value < 2 else bits(2, 2) + bits(value - 2, 4)


def point(x: float, y: float) -> str:
    coded = ""
    for value in (round(x * 1e6), round(y * 1e6)):
        folded = 2 * value if value >= 0 else -2 * value - 1
        low, size = next((low, size) for low, size in ((0, 19), (524288, 19), (1048576, 20)) if folded < low + 2**size)
        coded += bits({0: 0, 524288: 1, 1048576: 2}[low], 2) + bits(folded - low, size)
    return coded


def colours(white: int | None = 1, primaries: int | None = 1, transfer: int = 13, at: tuple[float, ...] = SRGB) -> str:
    """A ColourEncoding that is not all default; None for numbers of its own."""
    coded = "0" + "0" + enumeration(0)
    coded += enumeration(2 if white is None else white) + (point(*at[:2]) if white is None else "")
    coded += enumeration(2 if primaries is None else primaries)
    coded += "".join(point(*at[i : i + 2]) for i in (2, 4, 6)) if primaries is None else ""
    return coded + "0" + enumeration(transfer) + enumeration(1)


def jxl(image: np.ndarray, encoding: str, extra_channels: str = bits(0, 2)) -> bytes:
    """Put a header of one's own before the frame of libjxl's lossless file."""
    data = bytes(imagecodecs.jpegxl_encode(image, lossless=True))
    default = "1" if image.shape[-1] == 3 else ""
    own = "1" + bits(image.shape[0] // 8 - 1, 5) + "000" + bits(image.shape[1] // 8 - 1, 5)  # the size, in eights

    def header(colour: str, extra: str) -> bytes:
        # not all default, no extra fields, 8 bits, 16-bit buffers suffice; then no extensions, default transform
        text = own + "00" + "0" + "00" + "1" + extra + "0" + colour + "00" + "1"
        text += "0" * (-len(text) % 8)
        return bytes(int(text[i : i + 8][::-1], 2) for i in range(0, len(text), 8))

    plain = b"\xff\x0a" + header("1", bits(0, 2) if default else bits(1, 2) + "1")
    assert data.startswith(plain)
    return b"\xff\x0a" + header(encoding, extra_channels) + data[len(plain) :]


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)


def profile(at: tuple[float, ...], transfer: np.ndarray | None = None) -> bytes:
    display = np.linspace(0, 1, 4096)
    srgb = np.where(display <= 0.04045, display / 12.92, ((display + 0.055) / 1.055) ** 2.4)
    curve = (srgb if transfer is None else transfer).astype(np.float32)
    return bytes(imagecodecs.cms_profile("rgb", whitepoint=at[:2], primaries=at[2:], transferfunction=curve))


def by_profile(image: np.ndarray, icc: bytes) -> np.ndarray:
    srgb = imagecodecs.cms_profile("srgb")
    return imagecodecs.cms_transform(image, icc, srgb, colorspace="rgb", outcolorspace="rgb", intent=1).astype(int)


def test_a_header_written_here_is_one_that_libjxl_reads() -> None:
    data = jxl(picture(), colours())
    assert np.array_equal(imagecodecs.jpegxl_decode(data, 0), picture())
    assert np.array_equal(decode(data, LIMITS).image, picture())


@pytest.mark.parametrize(
    ("encoding", "at"),
    [
        (colours(None, None, at=PROPHOTO), PROPHOTO),
        (colours(1, None, at=PROPHOTO), (*SRGB[:2], *PROPHOTO[2:])),
        (colours(None, 1, at=PROPHOTO), (*PROPHOTO[:2], *SRGB[2:])),
        (colours(10, 1), (1 / 3, 1 / 3, *SRGB[2:])),
        (colours(1, 11), (*SRGB[:2], 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
        (colours(11, 11), (0.314, 0.351, 0.680, 0.320, 0.265, 0.690, 0.150, 0.060)),
        (colours(1, 9), (*SRGB[:2], 0.708, 0.292, 0.170, 0.797, 0.131, 0.046)),
    ],
)
def test_primaries_and_white_point_of_its_own_are_converted(encoding: str, at: tuple[float, ...]) -> None:
    data = jxl(picture(), encoding)
    assert imagecodecs.jpegxl_decode(data, 0).shape == picture().shape
    shown = decode(data, LIMITS).image.astype(int)
    assert np.abs(shown - by_profile(picture(), profile(at))).max() <= 1
    assert probe(data, LIMITS).colours != "sRGB"


def test_custom_numbers_that_are_srgbs_change_nothing() -> None:
    shown = decode(jxl(picture(), colours(None, None, at=SRGB)), LIMITS).image.astype(int)
    assert np.abs(shown - picture()).max() <= 1


def test_primaries_that_are_not_in_the_standard_are_refused() -> None:
    with pytest.raises(RejectedImageError, match="not in the standard") as caught:
        decode(jxl(picture(), colours(1, 12)), LIMITS)
    assert caught.value.reason == "unsupported_colour"


def test_transparency_is_on_record_and_composited() -> None:
    cover = np.linspace(0, 255, 56).astype(np.uint8)[None, :, None].repeat(40, 0)
    image = np.concatenate([picture(), cover], axis=2)
    shown = decode(bytes(imagecodecs.jpegxl_encode(image, lossless=True)), LIMITS)
    assert shown.facts.has_alpha
    assert np.abs(shown.image - (picture() * (cover / 255) + 255 - cover)).max() <= 1


def test_colours_that_are_multiplied_with_alpha_are_divided_by_it() -> None:
    cover = np.linspace(8, 255, 56).astype(np.uint8)[None, :, None].repeat(40, 0)
    stored = np.concatenate([np.round(picture() * (cover / 255)).astype(np.uint8), cover], axis=2)
    # one extra channel, not plain: alpha, 8 bits, no shift, no name, associated
    data = jxl(stored, "1", bits(1, 2) + "0" + "00" + "0" + "00" + "00" + "00" + "1")
    assert read_jxl_header(data).is_premultiplied
    shown = decode(data, LIMITS).image
    assert np.abs(shown - (stored[..., :3] + 255.0 - cover)).max() <= 2
