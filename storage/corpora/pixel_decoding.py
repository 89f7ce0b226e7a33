"""From an encoded file to the pixels in it, in the file's own colours: 8 bits, or 16 where the file has more.

What is opened here was recognised, and held against the limits, in :mod:`storage.corpora.photograph`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, Final

import imagecodecs
import numpy as np
import numpy.typing as npt
import tifffile
from PIL import Image

from aura.errors import RejectedImageError
from storage.corpora.colour_profile import Pixels
from storage.corpora.jp2_header import read_jp2_header
from storage.corpora.jxl_header import JxlHeader

Layout = tuple[Pixels, str, npt.NDArray[np.uint8] | None]
"""Pixels, their mode (``GRAY``, ``RGB``, ``CMYK``) and 8-bit alpha or None."""


_CHANNEL_MODES: Final = {1: ("GRAY", False), 2: ("GRAY", True), 3: ("RGB", False), 4: ("RGB", True)}
PILLOW_MODES: Final = {"L": "L", "1": "L", "RGB": "RGB", "CMYK": "CMYK", "RGBA": "RGBA", "LA": "LA", "RGBX": "RGB",
                        "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "YCbCr": "RGB"}  # fmt: skip
_PREMULTIPLIED, _STRAIGHT = 1, 2  # TIFF 6.0, ExtraSamples; others are no alpha
MOST_TIFF_SAMPLES: Final = 8
"""Samples a pixel, since limits count pixels: colours, alpha, and a few masks beside them."""
_WHITE_IS_ZERO: Final = 0
_UNSIGNED: Final = 1  # TIFF 6.0, SampleFormat
_PNM_HEADER: Final = re.compile(rb"P([56])" + rb"(?:\s|#[^\r\n]*[\r\n])+(\d+)" * 3 + rb"(?:#[^\r\n]*)?\s")


def read_pillow(image: Image.Image) -> Layout:
    """Read what Pillow opened, in 8 bits."""
    if image.mode == "P":
        target = "RGBA" if "transparency" in image.info else "RGB"
    elif "transparency" in image.info and image.mode in {"L", "RGB", "1"}:
        target = "RGBA" if image.mode == "RGB" else "LA"
    else:
        target = PILLOW_MODES[image.mode]
    pixels = np.asarray(image if image.mode == target else image.convert(target))
    if target == "CMYK":
        return pixels, "CMYK", None
    return _split(pixels, 8)


def _read_png16(data: bytes) -> Layout:
    return _split(imagecodecs.png_decode(data), 16)


def is_tiff16(page: Any) -> bool:
    """Tell whether a page of tifffile's holds grey or RGB of 16 unsigned bits, with or without further samples."""
    depths = np.ravel(page.tags.valueof(258, 1))
    formats = np.ravel(page.tags.valueof(339, _UNSIGNED))
    return set(depths.tolist()) == {16} and set(formats.tolist()) == {_UNSIGNED} and page.photometric in {0, 1, 2}


def alpha_of_tiff(page: Any) -> int | None:
    """Which of a page's samples is alpha, or None: of the extra samples, the first that says so."""
    kinds = [int(kind) for kind in page.extrasamples]
    known = [index for index, kind in enumerate(kinds) if kind in {_PREMULTIPLIED, _STRAIGHT}]
    return page.samplesperpixel - len(kinds) + known[0] if known else None


def _read_tiff16(data: bytes) -> Layout:
    """Read the first page; extra samples that are no alpha are left out."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page: Any = file.pages[0]
        pixels = page.asarray()
        if page.planarconfig == 2 and pixels.ndim == 3:
            pixels = np.moveaxis(pixels, 0, -1)
        pixels = pixels[..., None] if pixels.ndim == 2 else pixels
        alpha, is_inverted = alpha_of_tiff(page), page.photometric == _WHITE_IS_ZERO
        colours = page.samplesperpixel - len(page.extrasamples)
        is_premultiplied = alpha is not None and int(page.extrasamples[alpha - colours]) == _PREMULTIPLIED
    chosen = [*range(colours)] if alpha is None else [*range(colours), alpha]
    pixels = pixels[..., chosen]
    if is_inverted:
        pixels[..., :colours] = 65535 - pixels[..., :colours]
    return _split(_straight(pixels) if is_premultiplied else pixels, 16)


def _straight(pixels: Pixels) -> Pixels:
    """Divide colours by the alpha that they are multiplied with, which is the last channel."""
    top = np.iinfo(pixels.dtype).max
    cover = np.maximum(pixels[..., -1:], 1).astype(np.uint32)
    colours = np.minimum(pixels[..., :-1] * np.uint32(top) // cover, top).astype(pixels.dtype)
    return np.concatenate([colours, pixels[..., -1:]], axis=-1)


def is_pnm16(data: bytes) -> bool:
    """Tell whether a PGM or PPM file is binary, and of more than 8 bits."""
    header = _PNM_HEADER.match(data)
    return header is not None and int(header[4]) > 255


def _read_pnm16(data: bytes) -> Layout:
    """Read PGM or PPM of more than 8 bits (netpbm's format pages: big-endian, full scale is maxval)."""
    header = _PNM_HEADER.match(data)
    if header is None:  # grey in decimal digits, which Pillow brings to 16 bits
        with Image.open(io.BytesIO(data), formats=("PPM",)) as image:
            return _split(np.asarray(image).astype(np.uint16), 16)
    kind, width, height, largest = (int(field) for field in header.groups())
    channels = {5: 1, 6: 3}[kind]
    count = width * height * channels
    if len(data) < header.end() + 2 * count:
        raise RejectedImageError("truncated", f"It has fewer than the {2 * count} bytes of pixels that it declares.")
    full = ((np.minimum(np.arange(65536), largest) * 65535 + largest // 2) // largest).astype(np.uint16)
    rows = np.frombuffer(data, ">u2", count, header.end()).reshape(height, width * channels)
    pixels = np.empty(rows.shape, np.uint16)
    for row, codes in zip(pixels, rows, strict=True):  # numpy looks up by a copy of the codes in 64 bits
        row[:] = full[codes]
    return _split(pixels.reshape(height, width, channels), 16)


def read_jxl(data: bytes, header: JxlHeader) -> Layout:
    """Read JPEG XL, in 8 bits or, if it has more, in 16; animations show their first frame."""
    pixels = imagecodecs.jpegxl_decode(data, 0)
    if pixels.dtype == np.uint16:
        pixels = _spanning(pixels, header.bits)
    if header.is_premultiplied:
        pixels = _straight(pixels)
    return _split(pixels, 16 if pixels.dtype == np.uint16 else 8)


def _read_jp2(data: bytes) -> Layout:
    """Read JPEG 2000 of up to 16 bits, without its boxes: the decoder would apply their profile by its own lights."""
    header = read_jp2_header(data)
    return _split(_spanning(imagecodecs.jpeg2k_decode(data[header.codestream :]), header.bits), 16)


def _spanning(pixels: Pixels, bits: int) -> Pixels:
    """Scale numbers of some bits to the full 16."""
    if bits == 16:
        return pixels
    top = (1 << bits) - 1
    return ((pixels.astype(np.uint32) * 65535 + top // 2) // top).astype(np.uint16)


READERS_OF_16_BITS: Final[dict[str, Callable[[bytes], Layout]]] = {
    "JPEG2000": _read_jp2,
    "PNG": _read_png16,
    "PPM": _read_pnm16,
    "TIFF": _read_tiff16,
}
"""How files whose mode ends in ``;16`` are read, by container."""


def require_whole_jpeg(data: bytes, pixels: Pixels) -> None:
    """Find a JPEG that was cut and closed by an end marker: libjpeg fills what is missing with middle grey."""
    if not np.all(pixels[-8:, -8:] == 128):
        return
    end = data.rfind(b"\xff\xd9")
    # noise before the end marker is skipped after a whole image, but becomes pixels where some were missing
    stuffed = data[:end] + b"\x5a\xa5" * 512 + data[end:]
    with Image.open(io.BytesIO(stuffed), formats=("JPEG", "MPO")) as image:
        whole = np.array_equal(pixels, np.asarray(image))
    if not whole:
        raise RejectedImageError("truncated", "The JPEG data end early, though an end marker was added.")


def _split(pixels: Pixels, bits: int) -> Layout:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    mode, has_alpha = _CHANNEL_MODES[pixels.shape[-1]]
    channels = 1 if mode == "GRAY" else 3
    alpha = None
    if has_alpha:
        alpha = (pixels[..., -1] >> (bits - 8)).astype(np.uint8)
    colour = pixels[..., 0] if channels == 1 else pixels[..., :3]
    return colour, mode, alpha
