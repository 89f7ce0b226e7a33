"""Pixels of more than eight bits, and samples beside the colours, through the public door: decode and probe."""

import io

import numpy as np
import pytest
import tifffile

from aura.errors import RejectedImageError
from storage.corpora.photograph import decode, probe
from storage.recipe import Limits

LIMITS = Limits()


def codes(channels: int, largest: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, largest + 1, (40, 50, channels))


def pnm(image: np.ndarray, largest: int, *, plain: bool = False) -> bytes:
    kind = {(1, False): "P5", (3, False): "P6", (1, True): "P2", (3, True): "P3"}[image.shape[-1], plain]
    header = f"{kind}\n# a comment 9 9\n{image.shape[1]} {image.shape[0]}\n{largest}\n".encode()
    body = " ".join(map(str, image.ravel())).encode() if plain else image.astype(">u2" if largest > 255 else "u1")
    return header + bytes(body)


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("largest", [15, 255, 1023, 4095, 65535])
def test_pgm_and_ppm_span_from_0_to_their_maxval(channels: int, largest: int, plain: bool) -> None:
    image = codes(channels, largest)
    photograph = decode(pnm(image, largest, plain=plain), LIMITS)
    assert photograph.image.shape == (40, 50, 3)
    assert np.abs(photograph.image - image / largest * 255).max() <= 0.51


@pytest.mark.parametrize("channels", [1, 3])
def test_a_cut_pgm_or_ppm_of_16_bits_is_truncated(channels: int) -> None:
    with pytest.raises(RejectedImageError) as caught:
        decode(pnm(codes(channels, 65535), 65535)[:-1], LIMITS)
    assert caught.value.reason == "truncated"


def tiff(image: np.ndarray, **options: object) -> bytes:
    sink = io.BytesIO()
    tifffile.imwrite(sink, image, **{"photometric": "rgb", **options})
    return sink.getvalue()


@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize(
    ("extras", "alpha"), [(("unspecified", "unspecified"), None), (("unspecified", "unassalpha"), 4)]
)
def test_a_tiff_of_16_bits_may_have_samples_beside_its_colours(
    extras: tuple[str, ...], alpha: int | None, planar: bool
) -> None:
    image = codes(5, 65535).astype(np.uint16)
    stored = np.moveaxis(image, -1, 0) if planar else image
    data = tiff(stored, extrasamples=extras, planarconfig="separate" if planar else "contig")
    cover = 1.0 if alpha is None else image[..., alpha : alpha + 1] / 65535
    shown = decode(data, LIMITS)
    assert shown.facts == probe(data, LIMITS)
    assert shown.facts.has_alpha == (alpha is not None)
    assert np.abs(shown.image - (image[..., :3] / 257 * cover + 255 * (1 - cover))).max() < 1.6


def test_a_tiff_of_many_samples_is_refused_before_they_are_decoded() -> None:
    image = np.zeros((40, 50, 40), np.uint16)
    data = tiff(image, extrasamples=["unspecified"] * 37, compression="zlib", planarconfig="contig")
    with pytest.raises(RejectedImageError, match="40 samples a pixel") as caught:
        probe(data, LIMITS)
    assert caught.value.reason == "unsupported_pixels"


def test_where_white_is_zero_alpha_is_not_turned_over() -> None:
    image = codes(2, 65535).astype(np.uint16)
    cover = image[..., 1] / 65535
    shown = decode(tiff(image, photometric="miniswhite", extrasamples=["unassalpha"]), LIMITS).image
    assert np.abs(shown[..., 0] - ((65535 - image[..., 0]) / 257 * cover + 255 * (1 - cover))).max() < 1.6
