import hashlib
import multiprocessing
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from aura.errors import (
    DatasetConflictError,
    IntegrityError,
    InvalidInputError,
    LeaseLostError,
    MissingFileError,
    StorageAccessError,
    StorageError,
)
from aura.sensor.catalog import load_profile
from aura.sensor.profile import SensorProfile
from storage.datasets.arrays import create_array, encode_shard
from storage.datasets.creation import create_or_open, find_dataset
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.samples import SAMPLE_SCHEMA
from storage.datasets.shard import ShardData, is_committed, write_shard
from storage.objects.file_systems import storage_options
from storage.objects.location import Location, locate
from storage.reading.map_style import RawDataset
from storage.recipe import Codec, Recipe
from tests.conftest import S3Server
from tests.storage.conftest import CAMERA, reject_row, sample_row, shard_data, small_recipe

MakeDataset = Callable[..., Dataset]


def content(place: Location) -> dict[str, str]:
    return {entry.uri: hashlib.sha256(locate(entry.uri).read()).hexdigest() for entry in place.walk()}


def plain_url(dataset: Dataset) -> tuple[str, dict[str, object] | None]:
    url = dataset.location.url
    return url, None if dataset.location.is_local else storage_options("s3")


def test_plain_zarr_opens_it_and_finds_everything_said(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 2))
    url, options = plain_url(dataset)
    group = zarr.open_group(url, mode="r", storage_options=options)
    said = dict(group.attrs)
    assert (said["format"], said["version"], said["packed_order"]) == ("aura-raw", 1, ["R", "Gr", "Gb", "B"])
    assert Recipe.model_validate(said["recipe"]) == dataset.recipe
    assert said["recipe_digest"] == dataset.recipe.digest
    assert SensorProfile.model_validate(said["sensor_profiles"][CAMERA]) == load_profile(CAMERA)
    assert said["canvas"]["height"] == 64
    assert group["raw"].shape == (5, 4, 32, 32)
    assert group["raw"].dtype == np.uint16
    assert (group["raw"].chunks, group["raw"].shards) == ((1, 4, 32, 32), (2, 4, 32, 32))
    assert group["srgb"].shape == (5, 3, 64, 64)
    assert np.array_equal(group["raw"][0:2], shard_data(dataset, 0).raw)
    assert not np.asarray(group["raw"][2:4]).any()


def test_xarray_opens_it_with_named_dimensions(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1, 2))
    url, options = plain_url(dataset)
    opened = xarray.open_zarr(url, storage_options=options)
    assert opened["raw"].dims == ("sample", "plane", "y", "x")
    assert opened["srgb"].dims == ("sample", "channel", "row", "column")
    assert opened["raw"].dtype == np.uint16
    assert np.array_equal(opened["raw"][2:4].values, shard_data(dataset, 1).raw)
    assert np.array_equal(opened["srgb"][0:2].values, shard_data(dataset, 0).srgb)


def test_samples_are_plain_parquet_with_units_in_names(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset((2,))
    copy = tmp_path / "samples.parquet"
    copy.write_bytes(dataset.location.join("samples", "00000002.parquet").read())
    table = pq.read_table(copy)
    assert table.schema.remove_metadata().equals(SAMPLE_SCHEMA)
    (row,) = table.to_pylist()
    assert row["black_level_dn"] == [512.0, 511.0, 510.0, 509.0]
    assert row["noise_read_tukey_lambda"] == pytest.approx(0.1)
    assert row["seed"] == 2**62 + 4
    assert row["cycle_lpips"] is None


@pytest.mark.parametrize("codec", ["zstd", "lz4", "pcodec"])
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_every_codec_is_lossless_and_one_object_a_shard(make_dataset: MakeDataset, codec: str) -> None:
    dataset = make_dataset((0, 1, 2), changes={"codec": codec})
    raw, srgb = dataset.open_raw(), dataset.open_srgb()
    assert srgb is not None
    for shard in range(3):
        start, stop = dataset.shard_bounds(shard)
        height = 16 if shard == 2 else 32  # the last sample is half valid
        expected = shard_data(dataset, shard)
        assert np.array_equal(raw[start:stop, :, :height], expected.raw[:, :, :height])
        assert np.array_equal(srgb[start:stop, :, : 2 * height], expected.srgb[:, :, : 2 * height])
    assert not np.asarray(raw[4, :, 16:]).any()
    assert not np.asarray(srgb[4, :, 32:]).any()
    for name in ("raw", "srgb"):
        objects = [entry for entry in dataset.location.join(name).walk() if "zarr.json" not in entry.uri]
        assert len(objects) == 3


def test_without_srgb_there_is_no_srgb(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0,), changes={"keep_srgb": False})
    assert dataset.open_srgb() is None
    assert "srgb" not in dataset.location.names()
    assert is_committed(dataset, 0)


def test_a_shard_is_the_same_bytes_however_often_it_is_made(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1, 2))
    before = content(dataset.location)
    for shard in (2, 0, 1, 1):
        write_shard(dataset, shard, shard_data(dataset, shard))
    assert content(dataset.location) == before


def test_a_rejected_sample_leaves_a_hole_and_a_reason(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    write_shard(dataset, 1, shard_data(dataset, 1, rejected=(3,)), [reject_row(3)])
    assert dataset.samples(1)["index"].to_pylist() == [2]
    assert dataset.rejects(1)["reason"].to_pylist() == ["truncated"]
    raw = dataset.open_raw()
    assert np.asarray(raw[2]).any()
    assert not np.asarray(raw[3]).any()


def test_a_shard_of_rejects_alone_is_committed(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    write_shard(dataset, 1, shard_data(dataset, 1, rejected=(2, 3)), [reject_row(2), reject_row(3)])
    assert dataset.committed_shards() == [1]
    assert dataset.samples(1).num_rows == 0
    assert not np.asarray(dataset.open_raw()[2:4]).any()


def test_a_run_that_lost_its_lease_removes_nothing(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1, 2))
    before = content(dataset.location)

    def forbid() -> None:
        raise LeaseLostError("another run has taken over")

    rejects = [reject_row(2), reject_row(3)]
    with pytest.raises(LeaseLostError):
        write_shard(dataset, 1, shard_data(dataset, 1, rejected=(2, 3)), rejects, permit=forbid)
    assert content(dataset.location) == before


def test_finished_and_missing_shards_are_told_apart(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((1,))
    assert (dataset.shard_count, dataset.committed_shards(), dataset.missing_shards()) == (3, [1], [0, 2])
    assert is_committed(dataset, 1)
    assert not is_committed(dataset, 0)
    with pytest.raises(MissingFileError):
        dataset.samples(0)
    with pytest.raises(InvalidInputError, match="outside the dataset's 0 to 2"):
        dataset.shard_bounds(3)


def with_row(dataset: Dataset, **changes: object) -> ShardData:
    data = shard_data(dataset, 0)
    return ShardData(data.raw, data.srgb, [sample_row(0, **changes), data.rows[1]])


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda dataset: ShardData(shard_data(dataset, 0).raw[:1], None, []), "raw of the shard is"),
        (lambda dataset: ShardData(shard_data(dataset, 0).raw.astype(np.int32), None, []), "expected uint16"),
        (lambda dataset: ShardData(shard_data(dataset, 0).raw, None, []), "keep_srgb=True"),
        (lambda dataset: shard_data(dataset, 0, rejected=(1,)), "needs each of the samples 0 to 1 once"),
        (lambda dataset: with_row(dataset, valid_height_px=65), "valid area of 65x64"),
        (lambda dataset: with_row(dataset, valid_width_px=128), "valid area of 64x128"),
        (lambda dataset: with_row(dataset, wb_gains=[1.0, 2.0]), "does not fit its table"),
        (lambda dataset: with_row(dataset, camera=None), "does not fit its table"),
    ],
)
def test_a_shard_that_contradicts_the_dataset_is_not_written(
    make_dataset: MakeDataset, spoil: Callable[[Dataset], ShardData], said: str
) -> None:
    dataset = make_dataset()
    before = content(dataset.location)
    with pytest.raises(InvalidInputError, match=said):
        write_shard(dataset, 0, spoil(dataset))
    assert content(dataset.location) == before


def test_reopening_with_the_same_recipe_touches_nothing(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0,))
    before = content(dataset.location)
    assert make_dataset() == dataset
    assert find_dataset(dataset.location, dataset.recipe, "model-1") == dataset
    assert open_dataset(dataset.location) == dataset
    assert content(dataset.location) == before


def test_another_recipe_is_refused_by_the_fields_that_differ(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0,))
    before = content(dataset.location)
    other = dataset.recipe.model_copy(update={"seed": 9, "codec": "lz4"})
    with pytest.raises(
        DatasetConflictError, match=r"made with codec \w+, seed 0, .*model-1; asked for codec lz4, seed 9, .*model-2"
    ):
        create_or_open(dataset.location, other, "model-2", [load_profile(CAMERA)], 5)
    with pytest.raises(DatasetConflictError, match=r"made with seed 0; asked for seed 9\."):
        find_dataset(dataset.location, dataset.recipe.model_copy(update={"seed": 9}), "model-1")
    with pytest.raises(DatasetConflictError, match="5 samples and now there are 6"):
        create_or_open(dataset.location, dataset.recipe, "model-1", [load_profile(CAMERA)], 6)
    assert content(dataset.location) == before


def test_other_gates_are_no_other_recipe(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    gates = dataset.recipe.gates.model_copy(update={"min_cycle_psnr": 1.0})
    assert find_dataset(dataset.location, dataset.recipe.model_copy(update={"gates": gates}), "model-1") == dataset


def test_a_place_with_other_files_is_refused(place: Location, recipe: Recipe) -> None:
    assert find_dataset(place.join("free"), recipe, "m") is None
    place.join("holiday.jpg").write(b"1")
    with pytest.raises(DatasetConflictError, match=r"holds other files \(holiday\.jpg\)"):
        create_or_open(place, recipe, "m", [load_profile(CAMERA)], 5)
    assert place.names() == ["holiday.jpg"]


def test_another_zarr_group_is_refused(place: Location, recipe: Recipe) -> None:
    place.join("zarr.json").write(b'{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(DatasetConflictError, match="no aura-raw dataset"):
        find_dataset(place, recipe, "m")
    place.join("zarr.json").write(b'{"attributes": {"format": "aura-raw", "version": 9}}')
    with pytest.raises(IntegrityError, match="version 9"):
        open_dataset(place)
    place.join("zarr.json").write(b"{")
    with pytest.raises(IntegrityError, match="damaged"):
        open_dataset(place)


def test_what_is_missing_is_said(place: Location, make_dataset: MakeDataset) -> None:
    with pytest.raises(MissingFileError, match="holds no dataset"):
        open_dataset(place.join("none"))
    with pytest.raises(MissingFileError, match="no version 3"):
        open_dataset(make_dataset().location, 3)


def test_a_missing_bucket_and_wrong_keys_are_refused_first(
    s3_environment: S3Server, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingFileError, match="bucket does not exist"):
        create_or_open("s3://no-such-bucket/d", recipe, "m", [load_profile(CAMERA)], 5)
    assert [bucket["Name"] for bucket in s3_environment.client().list_buckets()["Buckets"]] == [s3_environment.bucket]
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-2")
    with pytest.raises(StorageAccessError):
        create_or_open(f"s3://{s3_environment.bucket}/d", recipe, "m", [load_profile(CAMERA)], 5)


def test_a_key_that_may_not_write_leaves_the_shard_uncommitted(
    s3_environment: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(f"s3://{s3_environment.bucket}/only-read-dataset")
    dataset = create_or_open(place, small_recipe(tmp_path), "m", [load_profile(CAMERA)], 5)
    for name, value in s3_environment.environment(s3_environment.reader_key, s3_environment.reader_secret).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageAccessError):
        write_shard(dataset, 0, shard_data(dataset, 0))
    assert dataset.committed_shards() == []


def in_child(work: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    """Run something in a process of its own, forked, so that it starts at once."""
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def test_a_full_disk_leaves_the_shard_uncommitted(recipe: Recipe, tmp_path: Path) -> None:
    dataset = create_or_open(tmp_path / "dataset", recipe, "model-1", [load_profile(CAMERA)], 5)

    def write_on_a_full_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
        try:
            write_shard(dataset, 0, shard_data(dataset, 0))
        except StorageError as error:
            os._exit(7 if "no room left" in str(error) else 1)

    child = in_child(write_on_a_full_disk)
    child.join()
    assert child.exitcode == 7
    assert dataset.committed_shards() == []
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize(
    ("stage", "left_behind"),
    [
        ("raw", set()),
        ("srgb", {"raw/c/2/0/0/0"}),
        ("rejects", {"raw/c/2/0/0/0", "srgb/c/2/0/0/0"}),
        ("samples", {"raw/c/2/0/0/0", "srgb/c/2/0/0/0", "rejects/00000002.parquet"}),
    ],
)
def test_a_killed_writer_leaves_no_half_shard_and_resuming_gives_the_same_bytes(
    make_dataset: MakeDataset, stage: str, left_behind: set[str]
) -> None:
    dataset = make_dataset((0, 1))
    finished = content(dataset.location)
    here, told = multiprocessing.get_context("fork").Pipe(duplex=False)

    def write_up_to_the_stage() -> None:
        write = Location.write

        def stop_before(place: Location, data: bytes) -> None:
            if f"/{stage}/" in place.url:
                told.send("here")
                signal.pause()
            write(place, data)

        Location.write = stop_before  # type: ignore[method-assign]  # in the child alone
        write_shard(dataset, 2, shard_data(dataset, 2))

    child = in_child(write_up_to_the_stage)
    assert here.recv() == "here"
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert dataset.committed_shards() == [0, 1]
    assert {uri.split("/dataset/")[1] for uri in content(dataset.location).keys() - finished.keys()} == left_behind
    assert len(RawDataset(dataset.location, "unpublished")) == 4
    write_shard(dataset, 2, shard_data(dataset, 2))
    resumed = content(dataset.location)
    write_shard(dataset, 2, shard_data(dataset, 2))
    assert content(dataset.location) == resumed
    assert set(finished.items()) <= set(resumed.items())


@settings(max_examples=20)
@given(
    count=st.integers(1, 5),
    shard_size=st.integers(1, 5),
    codec=st.sampled_from(["zstd", "lz4", "pcodec"]),
    seed=st.integers(0, 2**32),
)
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_a_shard_object_is_a_function_of_its_pixels(count: int, shard_size: int, codec: str, seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 16384, (min(count, shard_size), 4, 8, 8)).astype(np.uint16)
    first = encode_shard(array, shard_size, codec, checksums=True)
    assert first == encode_shard(array.copy(order="F"), shard_size, codec, checksums=True)
    other = array.copy()
    other[-1, -1, -1, -1] ^= 1
    assert encode_shard(other, shard_size, codec, checksums=True) != first


@pytest.mark.parametrize(
    ("codec", "dtype"),
    [("zstd", "uint16"), ("zstd", "uint8"), ("lz4", "uint16"), ("lz4", "uint8"), ("pcodec", "uint16")],
)
@pytest.mark.parametrize("checksums", [True, False])
@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
def test_a_shard_object_is_what_zarr_itself_writes(codec: Codec, dtype: str, checksums: bool) -> None:
    array = np.random.default_rng(1).integers(0, 200, (5, 4, 32, 48)).astype(dtype)
    array[2] = 0  # without a chunk
    store: dict[str, Buffer] = {}
    dimensions = ("sample", "plane", "y", "x")
    made = create_array(MemoryStore(store), "shard", array.shape, dtype, 8, codec, dimensions, checksums=checksums)
    made[:] = array
    assert encode_shard(array, 8, codec, checksums=checksums) == store["shard/c/0/0/0/0"].to_bytes()
    assert encode_shard(np.zeros_like(array), 8, codec, checksums=checksums) == b""
