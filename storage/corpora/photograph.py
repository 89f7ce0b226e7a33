"""A photograph from any file a corpus may hold: upright 8-bit sRGB, or a reason why not.

The content decides, never the file's name. Limits are checked on the header, before a pixel is decoded. What is done:

* EXIF orientation is applied. ICC profiles, colour code points (P3, BT.2020, linear), PNG's gAMA/cHRM, JPEG XL's own
  primaries and EXIF's Adobe RGB are converted to sRGB, relative colorimetric with black point compensation; 16-bit
  files in 16 bits, so linear ones do not band.
* Grey becomes three equal channels. CMYK without a profile is inverted naively. Palettes are expanded.
* Transparency is composited on white, in sRGB.
* Of animations, image sequences and stereo pairs the first frame is taken; the number of frames is in the facts.
* HDR (PQ, HLG) and logarithmic transfers, floating point, camera RAW and vector formats are refused: they are no sRGB
  photographs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from aura.errors import RejectedImageError
from storage.corpora.colour_profile import to_srgb
from storage.corpora.image_headers import name_unsupported, sniff
from storage.corpora.image_opening import ImageFacts, Opened, open_image
from storage.corpora.pixel_decoding import require_whole_jpeg
from storage.recipe import Limits


@dataclass(frozen=True, slots=True)
class Photograph:
    """A decoded photograph.

    Attributes:
        image: ``(H, W, 3)`` uint8 sRGB, upright.
        facts: what its header said.
    """

    image: npt.NDArray[np.uint8]
    facts: ImageFacts


def probe(data: bytes, limits: Limits) -> ImageFacts:
    """Read an encoded image's header and hold it against the limits; no pixel is decoded.

    Args:
        data: the whole file.
        limits: what is allowed.

    Raises:
        RejectedImageError: it cannot be used; ``reason`` is ``empty_file``, ``too_many_bytes``, ``not_an_image``,
            ``unsupported_format``, ``unsupported_pixels``, ``unsupported_colour``, ``too_many_pixels``, ``too_small``,
            ``damaged``, ``truncated``.
    """
    return _open(data, limits).facts


def decode(data: bytes, limits: Limits) -> Photograph:
    """Decode an image to upright sRGB; its header is checked first, as :func:`probe` does.

    Args:
        data: the whole file.
        limits: what is allowed.

    Raises:
        RejectedImageError: as for :func:`probe`; a file that ends early is ``truncated``, other decoding failures are
            ``damaged``.
    """
    opened = _open(data, limits)
    try:
        pixels, mode, alpha = opened.read_pixels()
        if opened.facts.container in {"JPEG", "MPO"}:
            require_whole_jpeg(data, pixels)
        image = to_srgb(pixels, opened.colours, mode)
    except RejectedImageError:
        raise
    except Exception as error:  # decoders raise anything on hostile bytes; none may stop a run
        raise _decoding_failure(error) from error
    if alpha is not None:
        image = _composite_on_white(image, alpha)
    image = _upright(image, opened.orientation_to_apply)
    if image.shape[:2] != (opened.facts.height, opened.facts.width):
        raise RejectedImageError(
            "damaged",
            f"Decodes to {image.shape[0]}x{image.shape[1]} px, but its header says "
            f"{opened.facts.height}x{opened.facts.width}.",
        )
    return Photograph(np.ascontiguousarray(image), opened.facts)


def _open(data: bytes, limits: Limits) -> Opened:
    container = _recognise(data, limits)
    try:
        opened = open_image(data, container, limits)
    except RejectedImageError:
        raise
    except Exception as error:  # as in decode
        raise _decoding_failure(error) from error
    _require_size(opened.facts, limits)
    return opened


def _recognise(data: bytes, limits: Limits) -> str:
    if not data:
        raise RejectedImageError("empty_file", "The file has no bytes.")
    if len(data) > limits.max_bytes:
        raise RejectedImageError(
            "too_many_bytes", f"The file has {len(data)} bytes; limits.max_bytes is {limits.max_bytes}."
        )
    container = sniff(data)
    if container is None:
        known = name_unsupported(data)
        if known is not None:
            raise RejectedImageError("unsupported_format", f"{known} files are not taken; convert it to JPEG or PNG.")
        raise RejectedImageError("not_an_image", f"The first bytes ({data[:8].hex(' ')}) are of no known image format.")
    return container


def _require_size(facts: ImageFacts, limits: Limits) -> None:
    size = f"{facts.height}x{facts.width} px"
    if facts.height * facts.width > limits.max_pixels:
        raise RejectedImageError("too_many_pixels", f"It has {size}; limits.max_pixels is {limits.max_pixels}.")
    if min(facts.height, facts.width) < limits.min_side:
        raise RejectedImageError("too_small", f"It has {size}; limits.min_side is {limits.min_side}.")


def _composite_on_white(image: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    cover = alpha[..., None].astype(np.uint32)
    return ((image * cover + 255 * (255 - cover) + 127) // 255).astype(np.uint8)


def _upright(image: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    if orientation in {5, 6, 7, 8}:
        image = image.transpose(1, 0, 2)
    if orientation in {2, 3, 6, 7}:
        image = image[:, ::-1]
    if orientation in {3, 4, 7, 8}:
        image = image[::-1]
    return image


def _decoding_failure(error: Exception) -> RejectedImageError:
    said = " ".join(str(error).split()) or type(error).__name__
    words = ("truncated", "too small", "NEED_MORE_INPUT", "end of", "not enough", "EOF")
    reason = "truncated" if any(word in said for word in words) else "damaged"
    return RejectedImageError(reason, f"It cannot be decoded: {said[:200]}.")
