"""Laying a photograph over the mosaic it was developed from, by an integer offset; nothing is ever resized."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import scipy.fft
from scipy.ndimage import uniform_filter

from aura.bayer import cfa_sites
from aura.training.raw_files import RawFrame


class Registration(NamedTuple):
    """Where a photograph lies on a mosaic.

    Attributes:
        top: row of the mosaic under the photograph's first row; may be negative.
        left: column of the mosaic under the photograph's first column; may be negative.
        correlation: of the gradients of both, after 2x2 averaging, in [-1, 1].
    """

    top: int
    left: int
    correlation: float


def register(image: np.ndarray, frame: RawFrame, largest_offset: int = 128) -> Registration:
    """Find the integer offset of a photograph on a mosaic by the correlation of their gradients.

    Gradients keep their direction under any rising tone curve (V. Argyriou, T. Vlachos, "Estimation of
    sub-pixel motion using gradient cross-correlation", Electronics Letters 2003), so no knowledge of the
    tone is needed.

    Args:
        image: ``(H, W, 3)`` uint8 in the mosaic's orientation and scale.
        frame: the RAW.
        largest_offset: pixels either way that are searched.

    Returns:
        The best offset, and the correlation there.
    """
    photograph, light = _grey(image), _grey_of_mosaic(frame)
    surface = _cross_correlation(_gradient(light), _gradient(photograph))
    reach_y, reach_x = (min(largest_offset, side // 2) for side in photograph.shape)
    rows, columns = np.arange(-reach_y, reach_y + 1), np.arange(-reach_x, reach_x + 1)
    window = surface[np.ix_(rows, columns)]  # negative indices are negative offsets: the surface is periodic
    best_row, best_column = np.unravel_index(int(window.argmax()), window.shape)
    top, left = int(rows[best_row]), int(columns[best_column])
    return Registration(top, left, _gradient_correlation(photograph, light, top, left))


def overlap(image: np.ndarray, frame: RawFrame, registration: Registration) -> tuple[np.ndarray, RawFrame]:
    """Crop both to the largest common area that starts at an even site and has even sides."""
    rows = _even_overlap(registration.top, image.shape[0], frame.mosaic.shape[0])
    columns = _even_overlap(registration.left, image.shape[1], frame.mosaic.shape[1])
    mosaic = frame.mosaic[rows.start : rows.stop, columns.start : columns.stop]
    on_image = image[
        rows.start - registration.top : rows.stop - registration.top,
        columns.start - registration.left : columns.stop - registration.left,
    ]
    return np.ascontiguousarray(on_image), replace(frame, mosaic=np.ascontiguousarray(mosaic))


def _even_overlap(offset: int, image_side: int, mosaic_side: int) -> range:
    start = max(0, offset)
    start += start % 2
    stop = min(mosaic_side, offset + image_side)
    return range(start, stop - (stop - start) % 2)


def _grey(image: np.ndarray) -> np.ndarray:
    """Mean of the display channels in 2x2 boxes around each pixel corner, so that both sides are blurred alike."""
    return _box(image.astype(np.float32).mean(axis=2) / 255.0)


def _grey_of_mosaic(frame: RawFrame) -> np.ndarray:
    """White-balanced mosaic, each 2x2 box averaged (which removes the pattern), with a display-like root."""
    planes = frame.packed().numpy()
    red, _, blue = frame.wb_gains
    balanced = np.empty(frame.mosaic.shape, dtype=np.float32)
    for plane, gain, (row, column) in zip(planes, (red, 1.0, 1.0, blue), cfa_sites(frame.cfa_pattern), strict=True):
        balanced[row::2, column::2] = plane * gain
    return np.asarray(np.sqrt(_box(balanced).clip(0.0, 1.0)))


def _box(grey: np.ndarray) -> np.ndarray:
    return np.asarray(uniform_filter(grey, 2, mode="nearest"))


def _gradient(grey: np.ndarray) -> np.ndarray:
    """Central differences as one complex number a pixel: x + i y; the frame of two pixels is left out."""
    gradient: np.ndarray = np.zeros(grey.shape, dtype=np.complex64)
    inner = (slice(2, -2), slice(2, -2))
    gradient[inner].real = grey[2:-2, 3:-1] - grey[2:-2, 1:-3]
    gradient[inner].imag = grey[3:-1, 2:-2] - grey[1:-3, 2:-2]
    return gradient


def _cross_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Periodic surface whose value at (y, x) tells how well ``second`` shifted by (y, x) lies on ``first``."""
    shape = [scipy.fft.next_fast_len(a + b) for a, b in zip(first.shape, second.shape, strict=True)]
    product = scipy.fft.fft2(first, shape) * np.conj(scipy.fft.fft2(second, shape))
    return np.asarray(scipy.fft.ifft2(product).real)


def _gradient_correlation(photograph: np.ndarray, light: np.ndarray, top: int, left: int) -> float:
    rows = _even_overlap(top, photograph.shape[0], light.shape[0])
    columns = _even_overlap(left, photograph.shape[1], light.shape[1])
    on_light = light[rows.start : rows.stop, columns.start : columns.stop]
    on_photograph = photograph[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    first, second = (_gradient(_half(grey)) for grey in (on_photograph, on_light))
    energy = float(np.sqrt((np.abs(first) ** 2).sum() * (np.abs(second) ** 2).sum()))
    return float((first * np.conj(second)).real.sum()) / energy if energy > 0 else 0.0


def _half(grey: np.ndarray) -> np.ndarray:
    return np.asarray((grey[0::2, 0::2] + grey[1::2, 0::2] + grey[0::2, 1::2] + grey[1::2, 1::2]) / 4)
