import json
from pathlib import Path

import numpy as np
import pytest

from aura.dng import write_dng
from aura.errors import InvalidInputError, MissingFileError
from aura.training.raw_files import RawDescription, RawFrame, read_manifest, read_raw

MATRIX = np.array([[0.9, -0.3, -0.1], [-0.4, 1.2, 0.2], [-0.1, 0.2, 0.6]])
ENTRY = {
    "file": "dump.raw",
    "reader": "headerless uint16 little-endian",
    "camera": "test",
    "cfa_pattern": "GBRG",
    "black_level": 64,
    "white_level": 1023,
    "shape": [6, 8],
}


def write_manifest(folder: Path, **changes: object) -> Path:
    path = folder / "manifest.json"
    path.write_text(json.dumps([ENTRY | changes]))
    return path


def grey_mosaic(rng: np.random.Generator) -> np.ndarray:
    """GBRG: greens of 464 DN, red half of green and blue a quarter of it above black, with texture."""
    mosaic = np.full((6, 8), 400.0)
    mosaic[0::2, 1::2] = 100.0
    mosaic[1::2, 0::2] = 200.0
    return np.round(mosaic * rng.uniform(0.9, 1.1, mosaic.shape) + 64).astype("<u2")


def test_a_headerless_dump_is_read_as_described(tmp_path: Path) -> None:
    mosaic = grey_mosaic(np.random.default_rng(0))
    (tmp_path / "dump.raw").write_bytes(mosaic.tobytes())
    (description,) = read_manifest(write_manifest(tmp_path))
    frame = read_raw(tmp_path / description.file, description)
    np.testing.assert_array_equal(frame.mosaic, mosaic)
    assert (frame.cfa_pattern, frame.black_level, frame.white_level) == ("GBRG", (64.0,) * 4, (1023.0,) * 4)
    assert frame.wb_source == "grey_world"
    assert frame.wb_gains == pytest.approx((2.0, 1.0, 4.0), rel=0.1)
    np.testing.assert_allclose(frame.camera_to_srgb, np.eye(3))
    packed = frame.packed()
    assert packed.shape == (4, 3, 4)
    np.testing.assert_allclose(packed[0], (mosaic[1::2, 0::2] - 64.0) / (1023 - 64), rtol=1e-6)


def test_odd_dumps_lose_their_last_row_and_column(tmp_path: Path) -> None:
    (tmp_path / "dump.raw").write_bytes(bytes(range(35)))
    (description,) = read_manifest(write_manifest(tmp_path, reader="headerless uint8", shape=[5, 7], black_level=None))
    frame = read_raw(tmp_path / "dump.raw", description)
    np.testing.assert_array_equal(frame.mosaic, np.arange(35, dtype=np.uint16).reshape(5, 7)[:4, :6])
    assert frame.black_level == (0.0,) * 4


def test_a_dump_of_another_size_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dump.raw").write_bytes(b"\0" * 94)
    (description,) = read_manifest(write_manifest(tmp_path))
    with pytest.raises(InvalidInputError, match=r"47 values.*6x8"):
        read_raw(tmp_path / "dump.raw", description)


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"cfa_pattern": "XTRANS"}, "cfa_pattern"), ({"colour": 1}, "colour"), ({"shape": [6]}, "shape")],
)
def test_a_wrong_manifest_names_its_field(tmp_path: Path, changes: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError, match=field):
        read_manifest(write_manifest(tmp_path, **changes))


def test_missing_and_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="nowhere"):
        read_raw(tmp_path / "nowhere.dng")
    with pytest.raises(MissingFileError, match="nowhere"):
        read_manifest(tmp_path / "nowhere.json")
    for name in ("foreign.crw", "foreign.GPR"):
        (tmp_path / name).write_bytes(b"not a photograph" * 100)
        with pytest.raises(InvalidInputError, match=name):
            read_raw(tmp_path / name)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(InvalidInputError, match="dict"):
        read_manifest(tmp_path / "manifest.json")


@pytest.mark.parametrize("pattern", ["RGGB", "GRBG", "GBRG", "BGGR"])
def test_a_dng_keeps_mosaic_levels_and_colour(tmp_path: Path, pattern: str) -> None:
    mosaic = np.random.default_rng(1).integers(200, 4000, (64, 80)).astype(np.uint16)
    path = tmp_path / "frame.dng"
    write_dng(
        path,
        mosaic,
        cfa_pattern=pattern,  # type: ignore[arg-type]  # parametrised
        black_level=(200, 210, 220, 230),
        white_level=4000,
        color_matrix=MATRIX,
        as_shot_neutral=(0.5, 1.0, 0.625),
        camera_model="test",
    )
    frame = read_raw(path)
    np.testing.assert_array_equal(frame.mosaic, mosaic)
    assert frame.cfa_pattern == pattern
    assert frame.black_level == pytest.approx((200, 210, 220, 230))
    assert frame.white_level == (4000.0,) * 4
    assert frame.wb_gains == pytest.approx((2.0, 1.0, 1.6), rel=1e-3)
    assert frame.wb_source == "camera"
    assert frame.xyz_to_camera is not None
    np.testing.assert_allclose(frame.xyz_to_camera, MATRIX, atol=1e-4)


def test_every_real_file_is_read_as_its_manifest_says(data_dir: Path) -> None:
    folder = data_dir / "raw"
    frames: dict[str, tuple[RawDescription, RawFrame]] = {
        entry.file: (entry, read_raw(folder / entry.file, entry)) for entry in read_manifest(folder / "manifest.json")
    }
    assert len(frames) == 28
    for entry, frame in frames.values():
        assert frame.cfa_pattern == entry.cfa_pattern
        assert frame.mosaic.shape == entry.shape
        assert frame.mosaic.dtype == np.uint16
        assert frame.black_level == pytest.approx((entry.black_level or 0.0,) * 4, abs=1)
        assert frame.white_level == (entry.white_level,) * 4
        assert min(frame.wb_gains) > 0.4
        np.testing.assert_allclose(frame.camera_to_srgb.sum(axis=1), 1.0)
        if entry.reader in ("rawpy", "flashraw"):
            assert frame.xyz_to_camera is not None
            assert frame.camera
            assert frame.wb_source == ("daylight" if "D30" in entry.file else "camera")
