import io
import shutil
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import rawpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image

from aura.bayer import CFA_PATTERNS, CfaPattern, mosaic
from aura.color import linear_to_srgb
from aura.dng import write_dng
from aura.errors import DevelopmentError
from aura.training import development
from aura.training.development import (
    DevelopedPair,
    LeftOutPair,
    available_developers,
    developed_pair,
)
from aura.training.raw_files import RawFrame, read_raw
from aura.training.registration import register

MATRIX = np.array([[0.9, -0.3, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]])


def scene(height: int, width: int, seed: int = 0) -> torch.Tensor:
    """Linear light with detail at several scales and mild colours, ``(3, height, width)`` in [0, 0.9]."""
    generator = torch.Generator().manual_seed(seed)
    light = torch.zeros(1, 3, height, width)
    for cells in (4, 12, 40):
        coarse = torch.rand(1, 1, cells, cells, generator=generator) + 0.1 * torch.rand(
            1, 3, cells, cells, generator=generator
        )
        light += torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear") / 3.3
    return (0.9 * light[0] ** 2).contiguous()


def frame_of(light: torch.Tensor, pattern: CfaPattern = "RGGB") -> RawFrame:
    gains = torch.tensor([2.0, 1.0, 1.5]).view(3, 1, 1)
    digital = (mosaic(light / gains, pattern) * 4000 + 64).round()
    return RawFrame(
        mosaic=digital.numpy().astype(np.uint16),
        cfa_pattern=pattern,
        black_level=(64.0,) * 4,
        white_level=(4064.0,) * 4,
        wb_gains=(2.0, 1.0, 1.5),
        wb_source="camera",
        xyz_to_camera=MATRIX,
        name="frame.dng",
        camera="test",
    )


def photograph_of(light: torch.Tensor) -> np.ndarray:
    """A photograph with a tone curve and a JPEG's damage."""
    display = (1.3 * linear_to_srgb(light)).clamp(0, 1) ** 1.2
    buffer = io.BytesIO()
    Image.fromarray((display * 255).round().byte().permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=85)
    return np.asarray(Image.open(buffer))


def write_frame(path: Path, frame: RawFrame, orientation: int = 1) -> Path:
    write_dng(
        path,
        frame.mosaic,
        cfa_pattern=frame.cfa_pattern,
        black_level=frame.black_level,
        white_level=frame.white_level,
        color_matrix=frame.color_matrix,
        as_shot_neutral=(0.5, 1.0, 1 / 1.5),
        camera_model="test",
        orientation=orientation,  # type: ignore[arg-type]  # one of eight
        compress=False,
    )
    return path


@given(
    st.sampled_from(CFA_PATTERNS),
    *[st.integers(0, 20) for _ in range(4)],
    st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_registration_finds_any_crop(
    pattern: CfaPattern, top: int, left: int, bottom: int, right: int, seed: int
) -> None:
    light = scene(120, 150, seed)
    cropped = light[:, top : 120 - bottom, left : 150 - right]
    found = register(photograph_of(cropped), frame_of(light, pattern))
    assert (found.top, found.left) == (top, left)
    assert found.correlation > 0.9


def test_registration_finds_a_photograph_that_is_larger_than_the_mosaic() -> None:
    light = scene(120, 150)
    found = register(photograph_of(light), frame_of(light[:, 6:110, 3:141]))
    assert (found.top, found.left) == (-6, -3)


def test_another_scene_and_a_resized_photograph_do_not_register() -> None:
    light = scene(120, 150)
    assert register(photograph_of(scene(120, 150, seed=9)), frame_of(light)).correlation < 0.5
    resized = torch.nn.functional.interpolate(light[None], (112, 140), mode="bilinear")[0]
    assert register(photograph_of(resized), frame_of(light)).correlation < 0.8


@pytest.mark.parametrize("developer", ["libraw_fixed", "libraw_auto"])
def test_libraw_pairs_lie_on_their_raw_and_come_from_the_cache_the_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, developer: str
) -> None:
    frame = frame_of(scene(128, 160), "GRBG")
    path = write_frame(tmp_path / "frame.dng", frame)
    first = developed_pair(path, None, developer, tmp_path / "cache")  # type: ignore[arg-type]  # parametrised
    assert isinstance(first, DevelopedPair)
    assert first.image.shape == (*first.frame.mosaic.shape, 3)
    assert (first.registration.top, first.registration.left) == (0, 0)
    np.testing.assert_array_equal(first.frame.mosaic, frame.mosaic)

    def refuse(*_arguments: object, **_options: object) -> None:
        raise AssertionError("developed again")

    monkeypatch.setattr(development, "_develop_with_libraw", refuse)
    second = developed_pair(path, None, developer, tmp_path / "cache")  # type: ignore[arg-type]  # parametrised
    assert isinstance(second, DevelopedPair)
    np.testing.assert_array_equal(first.image, second.image)
    assert first.registration == second.registration
    with pytest.raises(AssertionError, match="developed again"):
        developed_pair(path, None, developer, tmp_path / "other")  # type: ignore[arg-type]  # parametrised


def test_a_crop_at_odd_offsets_keeps_pattern_and_pixels_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    light = scene(128, 160)
    path = write_frame(tmp_path / "frame.dng", frame_of(light))
    monkeypatch.setattr(development, "_develop_with_libraw", lambda *_a, **_o: photograph_of(light[:, 3:121, 5:152]))
    pair = developed_pair(path, None, "libraw_fixed")
    assert isinstance(pair, DevelopedPair)
    assert (pair.registration.top, pair.registration.left) == (3, 5)
    assert pair.frame.mosaic.shape == (116, 146)  # rows 4..119, columns 6..151
    assert pair.frame.cfa_pattern == "RGGB"
    np.testing.assert_array_equal(pair.frame.mosaic, read_raw(path).mosaic[4:120, 6:152])
    np.testing.assert_allclose(pair.image.astype(float), photograph_of(light)[4:120, 6:152].astype(float), atol=40)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photograph_is_turned_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orientation: int) -> None:
    path = write_frame(tmp_path / "frame.dng", frame_of(scene(96, 128)), orientation)

    def upright(source: Path) -> np.ndarray:
        with rawpy.imread(str(source)) as raw:
            image: np.ndarray = raw.postprocess(use_camera_wb=True)  # LibRaw turns it, as every developer does
        return image

    monkeypatch.setattr(development, "_run_darktable", upright)
    pair = developed_pair(path, None, "darktable")
    assert isinstance(pair, DevelopedPair)
    assert pair.registration.correlation > 0.9


def test_what_does_not_register_is_left_out_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_frame(tmp_path / "frame.dng", frame_of(scene(96, 128)))
    monkeypatch.setattr(development, "_develop_with_libraw", lambda *_a, **_o: photograph_of(scene(96, 128, seed=5)))
    left_out = developed_pair(path, None, "libraw_fixed")
    assert isinstance(left_out, LeftOutPair)
    assert left_out.name == "frame.dng"
    assert "does not register" in left_out.reason
    no_picture = developed_pair(path, None, "in_camera", tmp_path / "cache")
    assert isinstance(no_picture, LeftOutPair)
    assert "no photograph" in no_picture.reason
    assert developed_pair(path, None, "in_camera", tmp_path / "cache") == no_picture


@pytest.mark.parametrize("said", ["nothing", "sRGB", "option file", "profile"])
def test_a_photograph_beside_its_raw_is_left_out_if_it_is_not_in_srgb(tmp_path: Path, said: str) -> None:
    light = scene(96, 128)
    path = write_frame(tmp_path / "frame.dng", frame_of(light))
    exif = Image.Exif()
    if said == "option file":  # DCF 2.0: cameras set to Adobe RGB say it so, without a profile
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ColorSpace] = 65535
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.IFD.Interop] = {1: "R03"}
    profile = {"sRGB": "srgb", "profile": "adobergb"}.get(said)
    icc = None if profile is None else bytes(imagecodecs.cms_profile(profile))
    Image.fromarray(photograph_of(light)).save(tmp_path / "frame.JPG", quality=95, exif=exif, icc_profile=icc)
    pair = developed_pair(path, None, "in_camera")
    if said in ("nothing", "sRGB"):
        assert isinstance(pair, DevelopedPair)
    else:
        assert isinstance(pair, LeftOutPair)
        assert "Adobe RGB" in pair.reason


def test_a_program_that_is_missing_or_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_frame(tmp_path / "frame.dng", frame_of(scene(96, 128)))
    programs = tmp_path / "programs"
    programs.mkdir()
    failing = programs / "rawtherapee-cli"
    failing.write_text("#!/bin/sh\necho cannot read this >&2\nexit 3\n")
    failing.chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert available_developers() == ("libraw_fixed", "libraw_auto", "rawtherapee", "in_camera")
    with pytest.raises(DevelopmentError, match=r"rawtherapee-cli ended with 3.*cannot read this"):
        developed_pair(path, None, "rawtherapee")
    with pytest.raises(DevelopmentError, match="darktable-cli is not installed"):
        developed_pair(path, None, "darktable")


@pytest.mark.parametrize(("developer", "program"), [("darktable", "darktable-cli"), ("rawtherapee", "rawtherapee-cli")])
def test_the_other_developers_really_develop(tmp_path: Path, developer: str, program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"needs {program} (a Debian package)")
    path = write_frame(tmp_path / "frame.dng", frame_of(scene(256, 320)))
    pair = developed_pair(path, None, developer)  # type: ignore[arg-type]  # parametrised
    assert isinstance(pair, DevelopedPair)
    assert pair.registration.correlation > 0.9
    assert float(pair.image.std()) > 10
