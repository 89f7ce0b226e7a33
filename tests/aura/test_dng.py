"""DNG files as LibRaw, darktable and exiftool see them."""

import io
import shutil
import subprocess

import imagecodecs
import numpy as np
import pytest
import rawpy
import tifffile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aura.bayer import CFA_PATTERNS, cfa_sites, pack
from aura.dng import DngNoise, write_dng
from aura.errors import InvalidInputError
from aura.lossless_jpeg import encode_lossless_jpeg
from aura.sensor.catalog import load_profile
from aura.sensor.simulate import draw_capture, simulate

PROFILE = load_profile("nikon-d850")
CAMERA = {
    "color_matrix": np.array(PROFILE.xyz_to_camera),
    "as_shot_neutral": tuple(1.0 / gain for gain in PROFILE.daylight_gains),
    "camera_model": PROFILE.model,
    "make": PROFILE.make,
}
LEVELS = {"black_level": 400, "white_level": 15520}


def _mosaic(height: int, width: int, bits: int = 14, seed: int = 0) -> np.ndarray:
    """Something like a photograph: smooth, with noise, and touching both ends."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    values = (2**bits) * (0.4 + 0.5 * np.sin(x / 17.0) * np.cos(y / 23.0)) + rng.normal(
        0, 2 ** (bits / 2), (height, width)
    )
    return np.clip(values, 0, 2**bits - 1).round().astype(np.uint16)


def _dng(raw: np.ndarray, **fields: object) -> bytes:
    file = io.BytesIO()
    write_dng(file, raw, **({"cfa_pattern": "RGGB"} | LEVELS | CAMERA | fields))
    return file.getvalue()


def _pattern_seen(image: rawpy.RawPy) -> str:
    return "".join(chr(image.color_desc[index]) for index in image.raw_pattern.ravel())


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_libraw_reads_every_pixel_and_every_cfa(pattern, compress):
    mosaic = _mosaic(300, 514)
    with rawpy.imread(io.BytesIO(_dng(mosaic, cfa_pattern=pattern, compress=compress))) as image:
        assert np.array_equal(image.raw_image, mosaic)
        assert _pattern_seen(image) == pattern


@pytest.mark.parametrize("height", [32, 64, 256, 512])
@pytest.mark.parametrize("width", [32, 48, 64, 96, 256, 480, 510, 512, 514, 544, 768, 1024])
def test_libraw_reads_the_sizes_of_datasets(height, width):
    mosaic = _mosaic(height, width)
    with rawpy.imread(io.BytesIO(_dng(mosaic))) as image:
        assert np.array_equal(image.raw_image, mosaic)


@pytest.mark.parametrize("bits", [8, 10, 11, 12, 13, 14, 16])
def test_libraw_reads_every_bit_depth_and_its_white_level(bits):
    mosaic = _mosaic(96, 130, bits)
    mosaic[0, :4] = 0, 2**bits - 1, 0, 2**bits - 1
    white = 2**bits - 7
    with rawpy.imread(io.BytesIO(_dng(mosaic, black_level=3, white_level=white))) as image:
        assert np.array_equal(image.raw_image, mosaic)
        assert image.white_level == white
        assert image.black_level_per_channel == [3, 3, 3, 3]


@pytest.mark.parametrize("black", [0.0, 511.987654, 4294.5, 8192.333333, 64999.000001])
def test_black_levels_between_numbers_are_kept_to_a_ten_thousandth(black):
    file = _dng(_mosaic(32, 32), black_level=black, white_level=65535)
    with tifffile.TiffFile(io.BytesIO(file)) as image:
        stored = np.reshape(image.pages[0].tags[50714].value, (4, 2))
    assert stored[:, 0] / stored[:, 1] == pytest.approx(black, abs=1e-4)


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
def test_black_levels_reach_the_colours_they_belong_to(pattern):
    black = {"R": 100, "Gr": 200, "Gb": 300, "B": 400}
    file = _dng(_mosaic(64, 64), cfa_pattern=pattern, black_level=tuple(black.values()))
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        rational = tiff.pages[0].tags["BlackLevel"].value
    cell = np.array(rational[0::2]).reshape(2, 2) / np.array(rational[1::2]).reshape(2, 2)
    assert [cell[site] for site in cfa_sites(pattern)] == list(black.values())
    with rawpy.imread(io.BytesIO(file)) as image:
        seen = np.array(image.black_level_per_channel)[image.raw_pattern]
    assert np.array_equal(seen, cell)


def test_the_smallest_white_level_is_written_and_packed_planes_are_taken():
    mosaic = _mosaic(64, 96)
    packed = pack(torch.from_numpy(mosaic.astype(np.int32)), "GBRG").numpy().astype(np.uint16)
    levels = (15000.0, 15520.0, 15520.0, 15100.0)
    with rawpy.imread(io.BytesIO(_dng(packed, cfa_pattern="GBRG", white_level=levels))) as image:
        assert np.array_equal(image.raw_image, mosaic)
        assert image.white_level == 15000


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 150), st.integers(0, 2**32 - 1), st.sampled_from([1, 9, 16]))
def test_any_even_size_of_any_values_is_exact(half_height, half_width, seed, bits):
    rng = np.random.default_rng(seed)
    mosaic = rng.integers(0, 2**bits, (2 * half_height, 2 * half_width), dtype=np.uint16)
    image = tifffile.imread(io.BytesIO(_dng(mosaic, black_level=0, white_level=65535)))
    assert np.array_equal(image, mosaic)


@given(st.integers(0, 2**32 - 1))
def test_lossless_jpeg_survives_the_rarest_difference_and_skewed_tables(seed):
    rng = np.random.default_rng(seed)
    scales = 2.0 ** rng.integers(0, 17, (32, 64))
    mosaic = (rng.random((32, 64)) * scales).clip(0, 65535).astype(np.uint16)
    mosaic[3, 2:8] = 0, 0, 32768, 0, 0, 32768  # differences of 2^15, which T.81 codes without further bits
    assert np.array_equal(imagecodecs.ljpeg_decode(encode_lossless_jpeg(mosaic)).reshape(32, 64), mosaic)


def test_compression_halves_a_photograph_with_little_noise():
    mosaic = _mosaic(512, 512, bits=12)
    assert len(_dng(mosaic)) < 0.6 * mosaic.nbytes


def test_bytes_are_a_function_of_the_arguments(tmp_path):
    fields = {"iso": 400, "noise": DngNoise(1e-4, 1e-7), "preview": np.zeros((16, 24, 3), np.uint8), "compress": True}
    mosaic = _mosaic(64, 64)
    path = tmp_path / "sample.dng"
    write_dng(path, mosaic, cfa_pattern="RGGB", **LEVELS, **CAMERA, **fields)
    assert path.read_bytes() == _dng(mosaic, **fields)
    assert path.read_bytes() != _dng(mosaic, **(fields | {"iso": 200}))


def test_tags_say_what_was_asked():
    preview = np.arange(16 * 24 * 3, dtype=np.uint8).reshape(16, 24, 3)
    noise = [DngNoise(1e-4, 1e-7), DngNoise(2e-4, 2e-7), DngNoise(3e-4, 3e-7)]
    file = _dng(_mosaic(64, 96), iso=3200, noise=noise, baseline_exposure_ev=-0.35, orientation=6, preview=preview)
    with tifffile.TiffFile(io.BytesIO(file)) as tiff:
        main = tiff.pages[0]
        assert np.array_equal(main.asarray(), preview)
        assert main.tags["Orientation"].value == 6
        assert main.tags["UniqueCameraModel"].value == main.tags["Model"].value == "D850"
        assert main.tags["CalibrationIlluminant1"].value == 21
        assert main.tags["ExifTag"].value["ISOSpeedRatings"] == 3200
        exposure = main.tags["BaselineExposure"].value
        assert exposure[0] / exposure[1] == -0.35
        matrix = np.array(main.tags["ColorMatrix1"].value).reshape(9, 2)
        np.testing.assert_allclose(matrix[:, 0] / matrix[:, 1], np.ravel(PROFILE.xyz_to_camera), atol=1e-6)
        neutral = np.array(main.tags["AsShotNeutral"].value).reshape(3, 2)
        np.testing.assert_allclose(neutral[:, 1] / neutral[:, 0], PROFILE.daylight_gains, rtol=1e-5)
        raw = main.pages[0]
        assert raw.tags["NoiseProfile"].value == tuple(np.ravel(noise))
        assert raw.shape == (64, 96)


def _patches() -> torch.Tensor:
    """Six canonical colours, grey first, in squares of 64."""
    colours = [(0.18, 0.18, 0.18), (0.4, 0.1, 0.1), (0.1, 0.3, 0.1), (0.08, 0.1, 0.4), (0.5, 0.45, 0.1), (1, 1, 1)]
    return torch.tensor(colours).T.repeat_interleave(64, dim=1)[:, None].repeat(1, 64, 1)


def _patch_means(image: np.ndarray) -> np.ndarray:
    return image.reshape(64, 6, 64, 3)[16:48, :, 16:48].mean(axis=(0, 2))


@pytest.mark.parametrize("pattern", CFA_PATTERNS)
@pytest.mark.parametrize("kelvin", [None, (3000.0, 3000.0)])
def test_libraw_develops_simulated_raw_back_to_its_colours(pattern, kelvin):
    profile = PROFILE.model_copy(update={"cfa_pattern": pattern})
    capture = draw_capture(profile, 100, 0, noise_model="none", illuminant_kelvin=kelvin)
    raw = simulate(_patches(), capture).numpy().astype(np.uint16)
    neutral = tuple(1.0 / gain for gain in capture.wb_gains)
    file = _dng(raw, cfa_pattern=pattern, as_shot_neutral=neutral)
    with rawpy.imread(io.BytesIO(file)) as image:
        linear = image.postprocess(use_camera_wb=True, no_auto_bright=True, gamma=(1, 1), output_bps=16, user_flip=0)
    seen = _patch_means(linear / 65535.0)
    np.testing.assert_allclose(seen[[0, 5]], _patch_means(_patches().permute(1, 2, 0).numpy())[[0, 5]], rtol=0.01)
    # LibRaw has one matrix for all lights, so colours are held to D65 only
    if kelvin is None:
        np.testing.assert_allclose(seen, _patch_means(_patches().permute(1, 2, 0).numpy()), atol=0.01)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="needs exiftool (Debian: libimage-exiftool-perl)")
@pytest.mark.parametrize("with_preview", [True, False])
@pytest.mark.parametrize("compress", [True, False])
def test_exiftool_finds_nothing_wrong(tmp_path, compress, with_preview):
    preview = np.zeros((16, 24, 3), np.uint8) if with_preview else None
    path = tmp_path / "sample.dng"
    path.write_bytes(_dng(_mosaic(300, 514), iso=100, noise=DngNoise(1e-4, 0), compress=compress, preview=preview))
    command = ["exiftool", "-validate", "-warning", "-error", "-a", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.split(":")[1].strip() == "OK", result.stdout


@pytest.mark.skipif(shutil.which("darktable-cli") is None, reason="needs darktable-cli (Debian: darktable)")
def test_darktable_sees_the_same_picture_compressed_or_not(tmp_path):
    capture = draw_capture(PROFILE, 100, 0, noise_model="none")
    raw = simulate(_patches(), capture).numpy().astype(np.uint16)
    pictures = []
    for compress in (True, False):
        source, target = tmp_path / f"{compress}.dng", tmp_path / f"{compress}.png"
        source.write_bytes(_dng(raw, compress=compress))
        options = ["--core", "--configdir", str(tmp_path / "config"), "--library", ":memory:"]
        subprocess.run(
            ["darktable-cli", str(source), str(target), *options], capture_output=True, check=True, timeout=120
        )
        pictures.append(np.asarray(Image.open(target).convert("RGB"), dtype=np.float64))
    assert np.array_equal(*pictures)
    grey, red, green, blue, *_ = _patch_means(pictures[0])
    assert np.ptp(grey) < 4
    assert [int(np.argmax(patch)) for patch in (red, green, blue)] == [0, 1, 2]


@pytest.mark.parametrize(
    ("raw", "fields", "message"),
    [
        (np.zeros((4, 4)), {}, "float64; expected uint16"),
        (np.zeros((5, 4), np.uint16), {}, "even sides"),
        (np.zeros((3, 4, 4), np.uint16), {}, r"\(4, h, w\)"),
        (np.zeros((0, 4), np.uint16), {}, "even sides"),
        (np.zeros((4, 4), np.uint16), {"cfa_pattern": "RGBG"}, "RGBG"),
        (np.zeros((4, 4), np.uint16), {"white_level": 400}, "White level 400 is not above"),
        (np.zeros((4, 4), np.uint16), {"black_level": -1}, "Black level"),
        (np.zeros((4, 4), np.uint16), {"black_level": (1, 2)}, "Black level"),
        (np.zeros((4, 4), np.uint16), {"color_matrix": np.eye(4)}, "3x3"),
        (np.zeros((4, 4), np.uint16), {"as_shot_neutral": (0.5, 1.0, 0.0)}, "AsShotNeutral"),
        (np.zeros((4, 4), np.uint16), {"camera_model": "Caméra"}, "ASCII"),
        (np.zeros((4, 4), np.uint16), {"camera_model": ""}, "ASCII"),
        (np.zeros((4, 4), np.uint16), {"orientation": 9}, "from 1 to 8"),
        (np.zeros((4, 4), np.uint16), {"noise": DngNoise(-1, 0)}, "at least 0"),
        (np.zeros((4, 4), np.uint16), {"preview": np.zeros((4, 4), np.uint8)}, r"\(h, w, 3\) uint8"),
    ],
)
def test_what_dng_cannot_hold_is_refused(raw, fields, message):
    with pytest.raises(InvalidInputError, match=message):
        _dng(raw, **fields)


def test_tags_are_those_of_the_specification():
    """Adobe, Digital Negative Specification 1.4, chapter 4: codes, types, counts, order and values."""
    colour = np.array([[0.7034004, -0.0804, -0.1014], [-0.442, 1.2564, 0.2058], [-0.0851, 0.1994, 0.5758123]])
    noise = [DngNoise(1.25e-4, 3.1e-8), DngNoise(1e-4, 2e-8), DngNoise(1.5e-4, 4e-8)]
    fields = {"color_matrix": colour, "as_shot_neutral": (0.4512345, 1.0, 0.6123457), "noise": noise}
    fields |= {"black_level": (512.25, 511.5, 513.0, 512.75), "white_level": (15000, 15520, 15100, 15520.9)}
    fields |= {"iso": 102400, "baseline_exposure_ev": -0.375, "cfa_pattern": "GBRG", "orientation": 6}
    data = _dng(_mosaic(96, 160), **fields, preview=np.zeros((16, 24, 3), np.uint8))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        main = file.pages.first
        raw = main.pages[0]
        exif = main.tags["ExifTag"].value

        def numbers(page, code, kind, count):
            tag = page.tags[code]
            assert (tag.dtype.name, tag.count) == (kind, count), code
            values = np.ravel(np.frombuffer(tag.value, np.uint8) if isinstance(tag.value, bytes) else tag.value)
            return values[0::2] / values[1::2] if kind.endswith("RATIONAL") else values

        assert list(numbers(main, 50706, "BYTE", 4)) == [1, 4, 0, 0]
        assert list(numbers(main, 50721, "SRATIONAL", 9)) == pytest.approx(colour.ravel().tolist(), abs=1e-6)
        assert list(numbers(main, 50728, "RATIONAL", 3)) == pytest.approx([0.4512345, 1.0, 0.6123457], abs=1e-6)
        assert list(numbers(main, 50730, "SRATIONAL", 1)) == [-0.375]
        assert list(numbers(main, 50778, "SHORT", 1)) == [21]  # D65
        assert list(numbers(main, 274, "SHORT", 1)) == [6]
        assert list(numbers(main, 254, "LONG", 1)) == [1]  # a preview
        assert list(numbers(raw, 254, "LONG", 1)) == [0]
        assert list(numbers(raw, 33421, "SHORT", 2)) == [2, 2]
        assert list(numbers(raw, 33422, "BYTE", 4)) == [1, 2, 0, 1]
        assert list(numbers(raw, 50713, "SHORT", 2)) == [2, 2]
        assert list(numbers(raw, 50717, "LONG", 1)) == [15000]
        assert list(numbers(raw, 50719, "LONG", 2)) == [0, 0]
        assert list(numbers(raw, 50720, "LONG", 2)) == [160, 96]  # width before height
        assert list(numbers(raw, 50829, "LONG", 4)) == [0, 0, 96, 160]  # top, left, bottom, right
        assert list(numbers(raw, 51041, "DOUBLE", 6)) == [part for pair in noise for part in pair]
        assert exif["ISOSpeedRatings"] == 65535  # or more
