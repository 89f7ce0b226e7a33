"""The colour matrix that a DNG file's tags add up to (Adobe, *Digital Negative Specification* 1.7, chapter 6)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import flashraw
import numpy as np
import tifffile

D65_KELVIN: Final = 6504.0
_CAMERA_CALIBRATION_SIGNATURE: Final = 50931
_PROFILE_CALIBRATION_SIGNATURE: Final = 50932


def xyz_to_camera_of(path: Path, metadata: flashraw.Metadata) -> np.ndarray | None:
    """CIE XYZ to camera RGB under D65: AnalogBalance · CameraCalibration · ColorMatrix.

    ColorMatrix and CameraCalibration are each interpolated between their illuminants, by inverse temperature, as the
    specification says; D65 beyond both takes the nearer. An illuminant that is not named is taken for D65.
    CameraCalibration counts only where the signatures of camera and profile agree. ForwardMatrix is not used: it
    speaks of developing under D50, and a sensor profile wants how the camera sees.

    Args:
        path: the DNG (or GPR) file.
        metadata: its tags.

    Returns:
        ``(3, 3)`` float64, or None if it has no colour matrix.
    """
    matrices = metadata.color_matrices
    if matrices is None or not matrices.color or not np.any(matrices.color[0].values):
        return None
    color = _at_d65(matrices.color)
    if matrices.calibration and _signatures_agree(path):
        color = _at_d65(matrices.calibration) @ color
    if len(matrices.analog_balance) == 3:
        color = np.diag(matrices.analog_balance) @ color
    return color


def _at_d65(matrices: Sequence[flashraw.ColorMatrix]) -> np.ndarray:
    known = sorted(matrices, key=lambda matrix: matrix.temperature or D65_KELVIN, reverse=True)
    mireds = [1e6 / (matrix.temperature or D65_KELVIN) for matrix in known]
    values = np.array([np.reshape(matrix.values, (-1, 3))[:3] for matrix in known], dtype=np.float64)
    after = int(np.clip(np.searchsorted(mireds, 1e6 / D65_KELVIN), 1, max(len(known) - 1, 1)))
    if len(known) == 1 or mireds[after] == mireds[after - 1]:
        return np.asarray(values[0])
    share = (1e6 / D65_KELVIN - mireds[after - 1]) / (mireds[after] - mireds[after - 1])
    share = min(max(share, 0.0), 1.0)
    return np.asarray((1.0 - share) * values[after - 1] + share * values[after])


def _signatures_agree(path: Path) -> bool:
    """Whether CameraCalibrationSignature is ProfileCalibrationSignature; both are empty where they are left out."""
    with tifffile.TiffFile(path) as file:
        tags = file.pages.first.tags
        camera, profile = (
            tags.valueof(code, default="") for code in (_CAMERA_CALIBRATION_SIGNATURE, _PROFILE_CALIBRATION_SIGNATURE)
        )
    return _text(camera) == _text(profile)


def _text(value: object) -> str:
    text = bytes(value).decode("utf-8", "replace") if isinstance(value, (bytes, tuple)) else str(value)
    return text.rstrip("\0")
