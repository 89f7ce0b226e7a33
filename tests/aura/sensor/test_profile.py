"""Sensor profiles: what they refuse, and what they answer."""

from math import inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from aura.errors import InvalidInputError
from aura.sensor.catalog import load_profile, profile_names
from aura.sensor.profile import D65_XYZ, SensorLevels, SensorProfile

GENERIC = load_profile("generic")
FOUR_BLACK, FOUR_WHITE = (256.0,) * 4, (4095.0,) * 4


LOG_LINEAR = load_profile("canon-eos-5d-mark-iv").noise.model_dump()


def _table(*points: tuple[int, float | None]) -> dict[str, object]:
    named = [{"iso": iso, "gain_dn_per_electron": gain, "read_sigma_dn": 1.0} for iso, gain in points]
    return {"kind": "tabulated", "points": named, "source": "measured"}


def test_gains_that_scatter_where_isos_share_an_analogue_gain_are_taken():
    assert _changed(noise=_table((50, 1.01), (100, 1.0), (200, 2.0))).noise.points[1].gain_dn_per_electron == 1.0


def _changed(**fields: object) -> SensorProfile:
    return SensorProfile.model_validate(GENERIC.model_dump() | fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "Canon EOS"}, "name"),
        ({"cfa_pattern": "XTRANS"}, "cfa_pattern"),
        ({"bit_depth": 11}, "does not fit into 11 bits"),
        ({"levels": ()}, "levels"),
        ({"iso_range": (800, 100)}, "from low to high"),
        ({"xyz_to_camera": ((1, 0, 0), (1, 0, 0), (0, 0, 1))}, "singular"),
        ({"xyz_to_camera": ((-1, 0, 0), (0, 1, 0), (0, 0, 1))}, "answers white"),
        ({"lens": "50 mm"}, "lens"),
        ({"levels": ({"black_level": FOUR_WHITE, "white_level": FOUR_BLACK},)}, "below white"),
        ({"levels": ({"black_level": FOUR_BLACK, "white_level": (4095.0, 4095.0, 4094.6, 4095.0)},)}, "whole DN"),
        ({"levels": ({"iso_min": 2, "iso_max": 1, "black_level": FOUR_BLACK, "white_level": FOUR_WHITE},)}, "above"),
        ({"noise": GENERIC.noise.model_dump() | {"read_variance_dn2": (-9.0, 0.01)}}, "at ISO 100 the gain"),
        ({"noise": GENERIC.noise.model_dump() | {"gain_dn_per_electron": (1.0, -0.001)}}, "at ISO 10.. the gain"),
        ({"levels": ({"black_level": (nan, 1, 1, 1), "white_level": FOUR_WHITE},)}, r"black_level\.0\s.*finite"),
        ({"noise": GENERIC.noise.model_dump() | {"gain_dn_per_electron": (nan, 1.0)}}, "gain_dn_per_electron"),
        ({"noise": GENERIC.noise.model_dump() | {"iso_min": 6400, "iso_max": 100}}, "iso_min 6400 is above"),
        ({"noise": LOG_LINEAR | {"iso_min": 6400, "iso_max": 100}}, "iso_min 6400 is above"),
        ({"noise": LOG_LINEAR | {"gain_dn_per_electron_at_iso_min": inf}}, "gain_dn_per_electron_at_iso_min"),
        ({"noise": LOG_LINEAR | {"row_sigma_dn": {"slope": nan, "bias": 0, "sigma": 0}}}, r"row_sigma_dn\.slope"),
        ({"noise": LOG_LINEAR | {"read_tukey_lambda": ()}}, "read_tukey_lambda"),
        ({"noise": LOG_LINEAR | {"read_tukey_lambda": (0.1, -0.5)}}, r"read_tukey_lambda\.1"),
        ({"noise": LOG_LINEAR | {"black_offset_dn": ()}}, "black_offset_dn"),
        ({"noise": _table((100, 1.0), (200, None))}, r"points\.1\.gain_dn_per_electron"),
        ({"noise": _table((100, 1.0), (200, inf))}, r"points\.1\.gain_dn_per_electron"),
        ({"noise": _table((200, 1.0), (100, 2.0))}, "must ascend"),
        ({"noise": _table((100, 2.0), (200, 1.0))}, "falls from 2 at ISO 100 to 1 at ISO 200"),
        ({"levels": ({"iso_max": 200, "black_level": FOUR_BLACK, "white_level": FOUR_WHITE},)}, "no levels for ISO"),
        (
            {
                "iso_range": (100, 6400),
                "levels": (
                    {"iso_max": 200, "black_level": FOUR_BLACK, "white_level": FOUR_WHITE},
                    {"iso_min": 400, "black_level": FOUR_BLACK, "white_level": FOUR_WHITE},
                ),
            },
            "no levels for ISO 201",
        ),
    ],
)
def test_what_is_no_camera_is_refused(fields, message):
    with pytest.raises(ValidationError, match=message):
        _changed(**fields)


def test_a_profile_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        GENERIC.name = "other"


@given(st.integers(1, 500_000))
def test_the_first_levels_that_hold_count(iso):
    special = SensorLevels(iso_min=100, iso_max=200, black_level=(1.0,) * 4, white_level=FOUR_WHITE)
    above = SensorLevels(iso_min=150, black_level=(2.0,) * 4, white_level=FOUR_WHITE)
    below = SensorLevels(iso_max=50, black_level=(3.0,) * 4, white_level=FOUR_WHITE)
    other = SensorLevels(black_level=(4.0,) * 4, white_level=FOUR_WHITE)
    profile = _changed(levels=(special, above, below, other))
    expected = 1.0 if 100 <= iso <= 200 else 2.0 if iso > 150 else 3.0 if iso <= 50 else 4.0
    assert profile.levels_at(iso).black_level[0] == expected
    assert profile.levels_at(iso).range_dn == 4095.0 - expected


def test_levels_that_end_say_so():
    profile = _changed(levels=(SensorLevels(iso_max=6400, black_level=FOUR_BLACK, white_level=FOUR_WHITE),))
    with pytest.raises(InvalidInputError, match="no levels for ISO 12800"):
        profile.levels_at(12800)


@pytest.mark.parametrize("name", profile_names())
def test_daylight_gains_make_daylight_neutral(name):
    profile = load_profile(name)
    camera = np.array(profile.xyz_to_camera) @ D65_XYZ * profile.daylight_gains
    np.testing.assert_allclose(camera / camera[1], 1.0, rtol=1e-12)
    assert profile.daylight_gains[1] == 1.0
    np.testing.assert_allclose(profile.camera_to_srgb.sum(axis=1), 1.0, atol=1e-12)


def test_the_generic_camera_sees_canonical_light():
    np.testing.assert_allclose(GENERIC.camera_to_srgb, np.eye(3), atol=1e-8)
    np.testing.assert_allclose(GENERIC.daylight_gains, 1.0, atol=1e-8)
