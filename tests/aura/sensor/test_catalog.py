"""The shipped cameras, and a user's own."""

import json
from pathlib import Path

import pytest
import yaml

from aura.bayer import CFA_PATTERNS
from aura.errors import InvalidInputError, MissingFileError, UnknownCameraError
from aura.sensor.catalog import load_profile, profile_names
from aura.sensor.profile import LogLinearNoise

CALIBRATED = ("canon-eos-5d-mark-iv", "canon-eos-700d", "canon-eos-70d", "nikon-d850", "sony-ilce-7sm2")


def test_every_shipped_profile_loads_and_carries_its_own_name_and_source():
    names = profile_names()
    assert len(names) == 27
    assert names == tuple(sorted(names))
    for name in names:
        profile = load_profile(name)
        assert profile.name == name
        assert profile.source
        assert profile.make.isascii()
        for gain in profile.daylight_gains:
            assert 0.9 < gain < 3.5
        for levels in profile.levels:
            assert 2 ** (profile.bit_depth - 1) <= max(levels.white_level) < 2**profile.bit_depth


def test_published_numbers_arrive_unchanged():
    profile = load_profile("canon-eos-5d-mark-iv")
    assert profile.model == "Canon EOS 5D Mark IV"
    assert profile.xyz_to_camera[0] == (0.6446, -0.0366, -0.0864)
    levels = {
        iso: (profile.levels_at(iso).black_level[0], profile.levels_at(iso).white_level[3]) for iso in (100, 320, 400)
    }
    assert levels == {100: (513.0, 14008.0), 320: (2048.0, 10838.0), 400: (2049.0, 14448.0)}


def test_patterns_are_those_of_the_cropped_frame():
    # the 5D Mark II's sensor starts with GBRG and its crop at row 51, which is odd
    patterns = {name: load_profile(name).cfa_pattern for name in profile_names()}
    assert patterns["canon-eos-5d-mark-ii"] == "RGGB"
    assert patterns["canon-eos-550d"] == "GBRG"
    assert patterns["pentax-k-5"] == "BGGR"
    assert patterns["samsung-nx500"] == "GRBG"
    assert set(patterns.values()) == set(CFA_PATTERNS)


@pytest.mark.parametrize("name", CALIBRATED)
def test_calibrated_cameras_have_the_published_range_of_gain(name):
    noise = load_profile(name).noise
    assert isinstance(noise, LogLinearNoise)
    assert (noise.iso_min, noise.iso_max) == (100, 6400)
    assert "ELD" in noise.source
    full_well = load_profile(name).levels_at(100).range_dn / noise.gain_dn_per_electron_at_iso_min
    assert 20_000 < full_well < 200_000


def test_shipped_numbers_are_those_of_the_data_folder(data_dir: Path):
    table = json.loads((data_dir / "cameras/cameras.json").read_text())["cameras"]
    matrices = {load_profile(name).xyz_to_camera for name in profile_names()}
    for camera in table:
        rows = camera["colour"]["xyz_to_camera_x10000"]
        assert tuple(tuple(value / 10000 for value in row) for row in rows) in matrices
    published = json.loads((data_dir / "noise/eld.json").read_text())["cameras"]
    sony = load_profile("sony-ilce-7sm2").noise
    assert sony.gain_dn_per_electron_at_iso_min == published["SonyA7S2"]["Kmin"]
    red, green_red, blue, green_blue = published["SonyA7S2"]["color_bias"][3]
    assert sony.black_offset_dn[3] == pytest.approx((red, green_red, green_blue, blue), rel=1e-5)
    for name, key in zip(
        CALIBRATED, ("CanonEOS5D4", "CanonEOS700D", "CanonEOS70D", "NikonD850", "SonyA7S2"), strict=True
    ):
        noise = load_profile(name).noise
        ends = published[key]
        assert noise.gain_dn_per_electron_at_iso_min * 64 == pytest.approx(ends["Kmax"], rel=1e-5)


def test_an_unknown_camera_suggests_close_ones():
    with pytest.raises(UnknownCameraError, match=r"'nikon-d80'.*nikon-d850"):
        load_profile("nikon-d80")
    with pytest.raises(UnknownCameraError, match="aura cameras"):
        load_profile("§§§")


def test_a_profile_comes_from_yaml_or_json(tmp_path: Path):
    fields = load_profile("nikon-z-6").model_dump(mode="json") | {"name": "my-camera"}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(fields))
    (tmp_path / "mine.json").write_text(json.dumps(fields))
    assert load_profile(tmp_path / "mine.yaml") == load_profile(str(tmp_path / "mine.json"))
    assert load_profile(tmp_path / "mine.yaml").name == "my-camera"


@pytest.mark.parametrize("name", ["generic", "nikon-d850"])
def test_a_profile_survives_json(name):
    profile = load_profile(name)
    assert type(profile).model_validate_json(profile.model_dump_json()) == profile


def test_a_bad_file_names_the_field(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    with pytest.raises(MissingFileError, match=r"mine\.yaml"):
        load_profile(path)
    fields = load_profile("generic").model_dump(mode="json")
    path.write_text(yaml.safe_dump(fields | {"bit_depth": 99, "whitelevel": 1}))
    with pytest.raises(InvalidInputError, match=r"bit_depth.*whitelevel"):
        load_profile(path)
    path.write_text("- [")
    with pytest.raises(InvalidInputError, match="is not valid YAML"):
        load_profile(path)
    path.write_text("just text")
    with pytest.raises(InvalidInputError, match="not a camera profile"):
        load_profile(path)
