"""Sensor profiles out of RAW files: what a file says of its noise comes back from it."""

from pathlib import Path

import numpy as np
import pytest

from aura.dng import DngNoise, write_dng
from aura.sensor.importing import profile_from_raw
from aura.sensor.noise import NoiseParameters, noise_at
from aura.sensor.profile import TabulatedNoise

BLACK, WHITE = 512.0, 16200.0


def dng(folder: Path, noise: DngNoise | list[DngNoise] | None, iso: int | None = 800) -> Path:
    path = folder / "frame.dng"
    write_dng(
        path,
        np.random.default_rng(0).integers(512, 16000, (64, 96)).astype(np.uint16),
        cfa_pattern="GRBG",
        black_level=BLACK,
        white_level=WHITE,
        color_matrix=np.array([[0.9, -0.3, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]]),
        as_shot_neutral=(0.5, 1.0, 0.6),
        camera_model="M1",
        make="Maker",
        iso=iso,
        noise=noise,
    )
    return path


@pytest.mark.parametrize("read_sigma_dn", [0.0, 0.5, 6.0])
def test_noise_that_was_written_is_read_again_rounding_not_twice(tmp_path: Path, read_sigma_dn: float) -> None:
    written = NoiseParameters(system_gain_dn_per_electron=1.7, read_sigma_dn=read_sigma_dn)
    profile = profile_from_raw(dng(tmp_path, DngNoise(*written.normalised(WHITE - BLACK))))
    assert (profile.name, profile.iso_range) == ("maker-m1", (100, 6400))
    found = noise_at(profile, 800, seed=0)
    assert found.system_gain_dn_per_electron == pytest.approx(1.7)
    assert found.read_sigma_dn == pytest.approx(read_sigma_dn, abs=1e-5)
    assert found.dark_variance_dn2 == pytest.approx(written.dark_variance_dn2)


def test_noise_of_three_colours_is_their_mean(tmp_path: Path) -> None:
    profile = profile_from_raw(dng(tmp_path, [DngNoise(1e-4, 1e-6), DngNoise(2e-4, 2e-6), DngNoise(3e-4, 3e-6)]))
    assert isinstance(profile.noise, TabulatedNoise)
    point = profile.noise.points[0]
    assert point.gain_dn_per_electron == pytest.approx(2e-4 * (WHITE - BLACK))
    assert point.read_sigma_dn**2 == pytest.approx(2e-6 * (WHITE - BLACK) ** 2 - 1 / 12)


@pytest.mark.parametrize(("noise", "iso"), [(None, 800), (DngNoise(1e-4, 1e-6), None), (DngNoise(0.0, 1e-6), 800)])
def test_without_iso_or_photon_noise_none_is_known(tmp_path: Path, noise: DngNoise | None, iso: int | None) -> None:
    assert profile_from_raw(dng(tmp_path, noise, iso)).noise is None
