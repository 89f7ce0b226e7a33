"""Captures as DNG files: what raw developers make of them, and what they say of themselves."""

import io
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import rawpy
import tifffile
import torch
from PIL import Image

from aura.color import linear_to_srgb
from aura.isp import render
from aura.negative import baseline_exposure, noise_profile, write_negative
from aura.sensor.catalog import load_profile
from aura.sensor.noise import NoiseParameters
from aura.sensor.profile import SensorLevels
from aura.sensor.simulate import Capture, draw_capture, normalise_raw, simulate
from aura.xmp import PROVENANCE_NAMESPACE, provenance_xmp
from tests.requirements import needs

COLOURS = ((0.18, 0.18, 0.18), (0.4, 0.1, 0.1), (0.1, 0.3, 0.1), (0.08, 0.1, 0.4), (0.5, 0.45, 0.1), (1.0, 1.0, 1.0))
SIDE = 96


def scene() -> torch.Tensor:
    """Six canonical colours, grey first and white last, in squares."""
    return torch.tensor(COLOURS).T.repeat_interleave(SIDE, dim=1)[:, None].repeat(1, 2 * SIDE, 1)


def photograph() -> np.ndarray:
    return (linear_to_srgb(scene()).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def written(target: Path | io.BytesIO, camera: str = "canon-eos-5d-mark-iv", **fields: object) -> Capture:
    light = fields.pop("light", None)
    capture = draw_capture(load_profile(camera), 200, 1, illuminant_kelvin=light, exposure=fields.pop("exposure", 1.0))
    write_negative(target, simulate(scene(), capture).numpy().astype(np.uint16), capture, **fields)
    return capture


def patch_means(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    columns = [int((index + 0.5) * width / 6) for index in range(6)]
    return np.stack([image[height // 4 : -height // 4, at - 16 : at + 16].mean(axis=(0, 1)) for at in columns])


def develop(program: str, source: Path) -> np.ndarray:
    """Develop with the program's own defaults, as who opens a file does."""
    target = source.with_suffix(".tif")
    commands = {
        "dcraw": ["dcraw", "-w", "-W", "-T", str(source)],
        "rawtherapee-cli": ["rawtherapee-cli", "-q", "-d", "-t", "-b8", "-Y", "-o", str(target), "-c", str(source)],
        "darktable-cli": [
            *("darktable-cli", str(source), str(target), "--core", "--library", ":memory:"),
            *("--configdir", str(source.parent / "config"), "--conf", "plugins/imageio/format/tiff/bpp=8"),
        ],
    }
    subprocess.run(commands[program], capture_output=True, check=True, timeout=240, cwd=source.parent)
    if program == "dcraw":
        target = source.with_suffix(".tiff")
    return np.asarray(Image.open(target).convert("RGB"), dtype=np.float64)


@pytest.mark.parametrize(
    ("program", "kelvin"),
    [
        pytest.param("dcraw", None, marks=needs("dcraw")),
        pytest.param("dcraw", 2200.0, marks=needs("dcraw")),
        pytest.param("rawtherapee-cli", None, marks=needs("rawtherapee-cli")),
        pytest.param("rawtherapee-cli", 2200.0, marks=needs("rawtherapee-cli")),
        # under light where a gain is below 1, darktable 4.2's default white balance tints what is clipped
        pytest.param("darktable-cli", None, marks=needs("darktable-cli")),
        pytest.param("darktable-cli", 3200.0, marks=needs("darktable-cli")),
    ],
)
def test_raw_developers_show_the_colours_of_the_scene(program: str, kelvin: float | None, tmp_path: Path) -> None:
    path = tmp_path / "sample.dng"
    written(path, photograph=photograph(), light=None if kelvin is None else (kelvin, kelvin))
    image = develop(program, path)
    # RawTherapee leaves a border of four pixels out; turned or mirrored is wrong in any case
    assert np.allclose(image.shape[:2], (2 * SIDE, 6 * SIDE), atol=10)
    grey, red, green, blue, yellow, white = patch_means(image)
    assert np.ptp(grey) < 6
    assert np.ptp(white) < (24 if program == "darktable-cli" else 3)  # it rolls highlights off by its own curve
    assert white.min() > 200 > grey.max() > 60
    assert [int(np.argmax(patch)) for patch in (red, green, blue)] == [0, 1, 2]
    assert int(np.argmin(yellow)) == 2


@pytest.mark.parametrize("camera", ["canon-eos-5d-mark-iv", "sony-ilce-7sm2", "gopro-hero7-black", "nikon-d850"])
def test_libraw_renders_the_photograph(camera: str) -> None:
    file = io.BytesIO()
    written(file, camera)
    file.seek(0)
    with rawpy.imread(file) as raw:
        linear = raw.postprocess(use_camera_wb=True, no_auto_bright=True, gamma=(1, 1), output_bps=16) / 65535.0
    np.testing.assert_allclose(patch_means(linear), COLOURS, atol=0.012)


def test_the_file_says_that_no_camera_took_it() -> None:
    file = io.BytesIO()
    written(file, photograph=photograph(), provenance={"sourceUri": "s3://bucket/<&>\x00.jpg"})
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        tags = tiff.pages[0].tags
        assert tags["Model"].value == "Canon EOS 5D Mark IV"
        assert tags["UniqueCameraModel"].value == "AURA Canon EOS 5D Mark IV"
        assert tags["Software"].value.startswith("aura-raw ")
        assert tiff.pages[0].asarray().shape == (256 // 3, 256, 3)
        packet = ET.fromstring(bytes(tags["XMP"].value))  # noqa: S314  # our own
    said = {element.tag: element.text for element in packet.iter()}
    assert said[f"{{{PROVENANCE_NAMESPACE}}}sourceUri"] == "s3://bucket/<&>.jpg"
    assert said[f"{{{PROVENANCE_NAMESPACE}}}iso"] == "200"
    assert float(said[f"{{{PROVENANCE_NAMESPACE}}}noiseSystemGainDnPerElectron"]) == pytest.approx(0.43638)
    assert provenance_xmp("a", "b", {"c": "d"}) == provenance_xmp("a", "b", {"c": "d"})


def test_the_noise_profile_is_of_the_signal_that_the_file_has() -> None:
    levels = SensorLevels(black_level=(256, 240, 260, 900), white_level=(15000, 16000, 16200, 15900))
    noise = NoiseParameters(2.0, 3.0)
    for color, black in zip(noise_profile(noise, levels), (256, 250, 900), strict=True):
        range_dn = 15000 - black  # a file has one white level, and the smallest is written
        assert color.scale * 0.5 + color.offset == pytest.approx(noise.variance_dn2(0.5 * range_dn) / range_dn**2)


def test_baseline_exposure_undoes_the_exposure() -> None:
    file = io.BytesIO()
    capture = written(file, exposure=0.25)
    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        numerator, denominator = tiff.pages[0].tags["BaselineExposure"].value
    assert numerator / denominator == 2.0
    levels = capture.profile.levels_at(capture.iso)
    raw = normalise_raw(simulate(scene(), capture), levels.black_level, levels.white_level)
    gains, matrix = torch.tensor(capture.wb_gains), torch.tensor(capture.camera_to_srgb)
    rendered = render(raw, capture.profile.cfa_pattern, gains, matrix)
    shown = (rendered * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert baseline_exposure(photograph(), shown) == pytest.approx(2.0, abs=0.1)
    assert baseline_exposure(photograph(), np.zeros_like(shown)) == 0.0
