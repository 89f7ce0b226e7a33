"""Colour spaces: the sRGB transfer function, YCbCr matrices, and camera <-> canonical colour.

Images are ``(*, 3, H, W)`` tensors. *Canonical linear* is BT.709 primaries, white-balanced to D65, linear light,
1.0 = sensor saturation (see the README's conventions).
"""

from __future__ import annotations

from typing import Final, Literal

import numpy as np
import torch
from torch import Tensor

from aura.errors import InvalidInputError

YcbcrStandard = Literal["bt2100", "bt709", "bt601"]

LUMA_COEFFICIENTS: Final[dict[str, tuple[float, float, float]]] = {
    "bt2100": (0.2627, 0.6780, 0.0593),  # ITU-R BT.2100-2, table 6 (the matrix AURA was published with)
    "bt709": (0.2126, 0.7152, 0.0722),  # ITU-R BT.709-6, item 3.2
    "bt601": (0.299, 0.587, 0.114),  # ITU-R BT.601-7, item 2.5.1
}

_WORST_CONDITION: Final = 1e6  # real cameras stay under 20

# IEC 61966-2-1:1999, linear BT.709 RGB -> CIE XYZ (D65)
SRGB_TO_XYZ: Final = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def srgb_to_linear(image: Tensor) -> Tensor:
    """Undo the sRGB transfer function (IEC 61966-2-1).

    Args:
        image: any shape, display values in [0, 1]; values outside are clamped to 0 below, extrapolated above.

    Returns:
        Linear light, same shape; 0 -> 0 and 1 -> 1.
    """
    image = image.clamp_min(0.0)
    return torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055).clamp_min(1e-8) ** 2.4)


def linear_to_srgb(image: Tensor) -> Tensor:
    """Apply the sRGB transfer function (IEC 61966-2-1).

    Args:
        image: any shape, linear light; clamped at 0 below, extrapolated above 1.

    Returns:
        Display values, same shape; 0 -> 0 and 1 -> 1.
    """
    image = image.clamp_min(0.0)
    return torch.where(image <= 0.0031308, image * 12.92, 1.055 * image.clamp_min(1e-8) ** (1 / 2.4) - 0.055)


def ycbcr_matrix(standard: YcbcrStandard = "bt2100") -> Tensor:
    """Return the 3x3 matrix that takes RGB to Y, Cb, Cr with Y in [0, 1] and Cb, Cr in [-0.5, 0.5].

    Raises:
        InvalidInputError: the standard is not one of the three.
    """
    if standard not in LUMA_COEFFICIENTS:
        raise InvalidInputError(f"YCbCr standard is {standard!r}; expected one of {', '.join(LUMA_COEFFICIENTS)}.")
    red, green, blue = LUMA_COEFFICIENTS[standard]
    cb = np.array([-red, -green, 1.0 - blue]) / (2.0 * (1.0 - blue))
    cr = np.array([1.0 - red, -green, -blue]) / (2.0 * (1.0 - red))
    return torch.tensor(np.stack([[red, green, blue], cb, cr]), dtype=torch.float32)


def apply_matrix(image: Tensor, matrix: Tensor) -> Tensor:
    """Multiply every pixel by a 3x3 matrix.

    Args:
        image: ``(*, 3, H, W)``.
        matrix: ``(3, 3)`` or ``(*, 3, 3)`` with the same leading dimensions.

    Returns:
        ``(*, 3, H, W)``; not clipped.

    Raises:
        InvalidInputError: not three channels.
    """
    if image.ndim < 3 or image.shape[-3] != 3:
        raise InvalidInputError(f"Image has shape {tuple(image.shape)}; expected (*, 3, H, W).")
    product = matrix.to(image) @ image.flatten(-2)
    return product.reshape(*product.shape[:-1], *image.shape[-2:])


def rgb_to_ycbcr(image: Tensor, standard: YcbcrStandard = "bt2100") -> Tensor:
    """Convert non-linear RGB in [0, 1] to YCbCr (Y in [0, 1], Cb and Cr in [-0.5, 0.5]); shape ``(*, 3, H, W)``."""
    return apply_matrix(image, ycbcr_matrix(standard))


def ycbcr_to_rgb(image: Tensor, standard: YcbcrStandard = "bt2100") -> Tensor:
    """Invert :func:`rgb_to_ycbcr`; shape ``(*, 3, H, W)``, not clipped."""
    return apply_matrix(image, torch.linalg.inv(ycbcr_matrix(standard).double()).float())


def luminance(image: Tensor) -> Tensor:
    """BT.709 luminance of linear RGB: ``(*, 3, H, W)`` -> ``(*, 1, H, W)``."""
    red, green, blue = LUMA_COEFFICIENTS["bt709"]
    return red * image[..., 0:1, :, :] + green * image[..., 1:2, :, :] + blue * image[..., 2:3, :, :]


def camera_to_srgb_matrix(xyz_to_camera: np.ndarray) -> np.ndarray:
    """Matrix from white-balanced camera RGB to canonical linear, from an Adobe-convention colour matrix.

    The camera rows are normalised so that camera (1, 1, 1) after white balance is canonical (1, 1, 1): grey stays grey
    (D. Coffin's dcraw, ``cam_xyz_coeff``).

    Args:
        xyz_to_camera: ``(3, 3)``, CIE XYZ (D65) to camera RGB, any scale.

    Returns:
        ``(3, 3)`` float64 whose rows sum to 1.

    Raises:
        InvalidInputError: not a 3x3 matrix that can be inverted and sees white in every channel.
    """
    matrix = np.asarray(xyz_to_camera, dtype=np.float64)
    if matrix.shape != (3, 3):
        raise InvalidInputError(f"XYZ to camera matrix has shape {matrix.shape}; expected (3, 3).")
    camera_from_srgb = matrix @ SRGB_TO_XYZ
    white = camera_from_srgb.sum(axis=1, keepdims=True)
    if not (white > 0.0).all():
        raise InvalidInputError(f"XYZ to camera matrix answers white with {white.ravel()}; expected positive numbers.")
    balanced = camera_from_srgb / white
    if np.linalg.cond(balanced) > _WORST_CONDITION:
        raise InvalidInputError(f"XYZ to camera matrix {matrix.tolist()} is singular; its channels must differ.")
    return np.asarray(np.linalg.inv(balanced))
