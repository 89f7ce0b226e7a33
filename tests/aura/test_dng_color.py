"""The colour of DNG files, against the formulas of chapter 6 of the specification."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from aura.sensor.importing import profile_from_raw

WARM = np.array([[1.0, -0.2, -0.1], [-0.3, 1.1, 0.1], [0.0, 0.1, 0.5]])
COLD = np.array([[0.8, -0.3, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.7]])
UNIT_WARM, UNIT_COLD = np.diag([1.1, 1.0, 0.9]), np.array([[1.2, 0.01, 0.0], [0.0, 1.0, 0.0], [0.0, 0.02, 0.8]])
STANDARD_A, D55, D65, D75, D50 = 17, 20, 21, 22, 23  # EXIF 2.3, LightSource


def rationals(values: object) -> tuple[int, ...]:
    return tuple(part for value in np.ravel(values).tolist() for part in (round(value * 10000), 10000))


def dng(
    folder: Path,
    colors: dict[int, np.ndarray],
    units: tuple[np.ndarray, ...] = (),
    analog_balance: tuple[float, ...] | None = None,
    signatures: tuple[str, str] = ("", ""),
) -> Path:
    tags: list[tuple[int, str, int, object, bool]] = [
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, bytes([0, 1, 1, 2]), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),
        (50708, "s", 0, "Maker Model", True),
        (50714, "H", 1, 256, True),
        (50717, "H", 1, 4095, True),
        (50728, "2I", 3, rationals((0.5, 1.0, 0.6)), True),
    ]
    for index, (illuminant, color) in enumerate(colors.items()):
        tags += [(50721 + index, "2i", 9, rationals(color), True), (50778 + index, "H", 1, illuminant, True)]
    tags += [(50723 + index, "2i", 9, rationals(unit), True) for index, unit in enumerate(units)]
    tags += [(50727, "2I", 3, rationals(analog_balance), True)] if analog_balance else []
    tags += [(50931 + index, "s", 0, text, True) for index, text in enumerate(signatures) if text]
    path = folder / "camera.dng"
    mosaic = np.random.default_rng(0).integers(300, 4000, (64, 96)).astype(np.uint16)
    tifffile.imwrite(path, mosaic, photometric="cfa", extratags=tags)
    return path


def matrix_of(path: Path) -> np.ndarray:
    return np.array(profile_from_raw(path).xyz_to_camera)


@pytest.mark.parametrize("warm_first", [True, False])
def test_of_two_illuminants_d65_is_taken(tmp_path: Path, warm_first: bool) -> None:
    colors = {STANDARD_A: WARM, D65: COLD}
    found = matrix_of(dng(tmp_path, colors if warm_first else dict(reversed(colors.items()))))
    np.testing.assert_allclose(found, COLD, atol=1e-3)


def test_between_two_illuminants_matrices_are_interpolated_by_inverse_temperature(tmp_path: Path) -> None:
    share = (1 / 6504 - 1 / 7500) / (1 / 5000 - 1 / 7500)
    found = matrix_of(dng(tmp_path, {D50: WARM, D75: COLD}))
    np.testing.assert_allclose(found, share * WARM + (1 - share) * COLD, atol=2e-3)


def test_where_both_illuminants_are_warmer_the_nearer_is_taken(tmp_path: Path) -> None:
    np.testing.assert_allclose(matrix_of(dng(tmp_path, {STANDARD_A: WARM, D55: COLD})), COLD, atol=1e-4)


def test_analog_balance_and_the_unit_s_calibration_multiply_the_matrix(tmp_path: Path) -> None:
    balance = (1.5, 1.0, 1.25)
    path = dng(tmp_path, {STANDARD_A: WARM, D65: COLD}, (UNIT_WARM, UNIT_COLD), balance)
    np.testing.assert_allclose(matrix_of(path), np.diag(balance) @ UNIT_COLD @ COLD, atol=2e-3)
    alone = dng(tmp_path, {D65: COLD}, analog_balance=balance)
    np.testing.assert_allclose(matrix_of(alone), np.diag(balance) @ COLD, atol=2e-3)


@pytest.mark.parametrize(("signatures", "counts"), [(("x", "x"), True), (("x", "y"), False), (("x", ""), False)])
def test_a_calibration_counts_where_its_signatures_agree(
    tmp_path: Path, signatures: tuple[str, str], counts: bool
) -> None:
    path = dng(tmp_path, {D65: COLD}, (UNIT_COLD,), signatures=signatures)
    np.testing.assert_allclose(matrix_of(path), (UNIT_COLD if counts else np.eye(3)) @ COLD, atol=1e-4)
