"""Cameras at the command line: listed, explained, imported, calibrated."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aura.dng import DngNoise, write_dng
from aura.sensor.catalog import load_profile
from aura.sensor.noise import NoiseParameters, noise_at
from aura.sensor.noise_draws import add_noise, digitise
from flows.commands.calibration import raw_files
from tests.flows.conftest import Aura

Said = pytest.CaptureFixture[str]
CAMERA = load_profile("nikon-d750")
NEUTRAL = (0.5, 1.0, 0.7)
TRUTH = NoiseParameters(1.8, 6.0, row_sigma_dn=1.0, black_offset_dn=(1.0, -1.0, 0.5, 0.0))


def write_frame(path: Path, light: float, seed: int, iso: int = 800) -> None:
    """Write a DNG of a constant light, share of saturation, with the noise :data:`TRUTH`."""
    clean = torch.full((4, 96, 96), light * 15000.0)
    levels = torch.full((4,), 600.0), torch.full((4,), 15600.0)
    raw = digitise(clean, add_noise(clean, TRUTH, seed), *levels).numpy().astype(np.uint16)
    write_dng(
        path, raw, cfa_pattern="GRBG", black_level=600, white_level=15600, make="Acme", camera_model="Acme One",
        color_matrix=np.array(CAMERA.xyz_to_camera), as_shot_neutral=NEUTRAL, iso=iso,
        noise=DngNoise(*TRUTH.normalised(15000)),
    )  # fmt: skip


def test_cameras_are_listed(aura: Aura, capsys: Said) -> None:
    assert aura("cameras") == 0
    listed = capsys.readouterr().out
    assert aura("cameras", "list") == 0
    assert capsys.readouterr().out == listed
    assert re.search(r"nikon-d850\s+NIKON D850\s+RGGB\s+14\s+64 to 25600\s+calibrated", listed, re.IGNORECASE)


def test_a_camera_is_explained_with_its_noise_against_signal(aura: Aura, tmp_path: Path, capsys: Said) -> None:
    plot = tmp_path / "plots/noise.png"
    assert aura("cameras", "show", "canon-eos-5d-mark-iv", "--plot", str(plot)) == 0
    said = capsys.readouterr().out
    for part in (
        "513 at ISO 100",
        "SNR at 18 % grey",
        "7 = ISO 6400",
        "noise (1 sigma) over signal",
        "ELD",
    ):
        assert part in said
    with Image.open(plot) as picture:
        assert picture.width > 600
    assert aura("cameras", "show", "nikon-d750") == 0
    assert "refused unless --noise-model generic" in capsys.readouterr().out
    assert aura("cameras", "show", "nikon-d750", "--plot", str(tmp_path / "noise.txt")) == 2
    captured = capsys.readouterr()
    assert "expected a name that ends in .png" in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("name", ["generic", "gopro-hero7-black", "canon-eos-5d"])
def test_every_kind_of_noise_is_explained(name: str, aura: Aura, capsys: Said) -> None:
    assert aura("cameras", "show", name) == 0
    assert "saturation, e-" in capsys.readouterr().out


def test_a_profile_is_printed_to_copy_and_change(aura: Aura, tmp_path: Path, capsys: Said) -> None:
    assert aura("cameras", "show", "nikon-d850", "--yaml") == 0
    profile = tmp_path / "mine.yaml"
    profile.write_text(capsys.readouterr().out.replace("name: nikon-d850", "name: mine"))
    assert aura("cameras", "show", str(profile)) == 0
    assert "(mine)" in capsys.readouterr().out
    assert aura("cameras", "show", "nikon-d85") == 2
    assert "nikon-d850" in capsys.readouterr().err


def test_a_raw_file_becomes_a_camera(aura: Aura, tmp_path: Path, capsys: Said) -> None:
    file, target = tmp_path / "one.dng", tmp_path / "one.yaml"
    write_frame(file, 0.3, 1)
    assert aura("cameras", "import", str(file), "--out", str(target)) == 0
    assert f"--camera {target}" in capsys.readouterr().out
    profile = load_profile(target)
    assert (profile.name, profile.cfa_pattern, profile.bit_depth) == ("acme-one", "GRBG", 14)
    assert profile.levels_at(800).black_level == (600.0,) * 4
    assert profile.levels_at(800).white_level == (15600.0,) * 4
    np.testing.assert_allclose(profile.xyz_to_camera, CAMERA.xyz_to_camera, atol=1e-5)
    noise = noise_at(profile, 800, 0)
    assert noise.system_gain_dn_per_electron == pytest.approx(1.8, rel=1e-4)
    assert noise.read_sigma_dn**2 == pytest.approx(37.0, rel=1e-3)  # the tag has row noise within
    assert aura("cameras", "import", str(file), "--out", str(target)) == 2
    assert "--force" in capsys.readouterr().err
    (tmp_path / "no.dng").write_bytes(b"nothing")
    assert aura("cameras", "import", str(tmp_path / "no.dng")) == 2
    assert "cannot be decoded" in capsys.readouterr().err


def test_frames_become_a_profile_with_their_noise(aura: Aura, tmp_path: Path, capsys: Said) -> None:
    for folder in ("flats", "darks"):
        (tmp_path / folder).mkdir()
    for index in range(10):
        write_frame(tmp_path / f"flats/{index}.dng", 0.1 + 0.18 * (index // 2), index)
    for index in range(2):
        write_frame(tmp_path / f"darks/{index}.dng", 0.0, 100 + index)
    out, plot = tmp_path / "mine.yaml", tmp_path / "transfer.svg"
    order = ("cameras", "calibrate", "--flat", str(tmp_path / "flats"), "--dark", str(tmp_path / "darks"))
    assert aura(*order, "--out", str(out), "--plot", str(plot)) == 0
    captured = capsys.readouterr()
    for part in ("system gain K, DN per electron", "95 % interval", "10 flat and 2 dark frames", f"--camera {out}"):
        assert part in captured.out
    assert "<svg" in plot.read_text(encoding="utf-8")
    noise = noise_at(load_profile(out), 800, 0)
    assert noise.system_gain_dn_per_electron == pytest.approx(1.8, rel=0.02)
    assert noise.read_sigma_dn == pytest.approx(6.0, rel=0.05)
    np.testing.assert_allclose(noise.black_offset_dn, TRUTH.black_offset_dn, atol=0.35)
    # the same frames called another ISO, into the profile that is there
    assert aura(*order, "--camera", str(out), "--iso", "1600", "--out", str(out)) == 0
    profile = load_profile(out)
    assert [point.iso for point in profile.noise.points] == [800, 1600]
    between = noise_at(profile, 1100, 0)
    assert between.system_gain_dn_per_electron == pytest.approx(noise.system_gain_dn_per_electron)
    write_frame(tmp_path / "darks/9.dng", 0.0, 109, iso=3200)
    capsys.readouterr()
    assert aura(*order) == 2
    assert re.search(r"taken at ISO 800 \(.*\), ISO 3200 \(9.dng\)\. Calibrate each", capsys.readouterr().err)
    assert aura("cameras", "calibrate", "--dark", str(tmp_path / "darks"), "--out", str(out)) == 2
    assert "add --flat" in capsys.readouterr().err


def test_the_real_dark_frame_is_calibrated(aura: Aura, data_dir: Path, capsys: Said) -> None:
    dark = next((data_dir / "raw/dark").glob("*.raw"))
    assert raw_files(dark)[0].description is not None
    assert aura("cameras", "calibrate", "--dark", str(dark)) == 0
    captured = capsys.readouterr()
    assert "0 flat and 1 dark frames" in captured.out
    assert "one dark frame" in captured.err


def test_real_photographs_are_no_flat_frames_but_are_read(
    aura: Aura, data_dir: Path, tmp_path: Path, capsys: Said
) -> None:
    names = json.loads((data_dir / "raw/manifest.json").read_text())
    files = [data_dir / "raw" / entry["file"] for entry in names if "PowerShot_S40" in entry["file"]]
    order = [part for file in files for part in ("--flat", str(file))]
    assert aura("cameras", "calibrate", *order, "--dark", str(files[0]), "--plot", str(tmp_path / "p.png")) in {0, 2}
    captured = capsys.readouterr()
    assert "have no partner" in captured.err or "flat frames" in captured.err
