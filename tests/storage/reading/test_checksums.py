"""A chunk ends in its own CRC-32C: what is spoilt is refused by every reader, and older datasets are as they were."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorstore
import zarr

from aura.errors import IntegrityError, MissingFileError
from aura.sensor.catalog import load_profile
from storage.datasets.creation import create_or_open, grow
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.metadata import group_documents, write_manifest
from storage.datasets.publishing import publish
from storage.datasets.shard import ShardData, write_shard
from storage.datasets.verification import verify
from storage.objects.location import locate
from storage.reading.chunks import open_samples
from storage.reading.map_style import RawDataset
from tests.storage.conftest import CAMERA, sample_row, shard_data, small_recipe

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")

Make = Callable[..., Dataset]

_WITHOUT_CHECKSUMS = {  # as datasets were made before chunks had a checksum
    ("pcodec", "raw/zarr.json"): "e5828ce67a486333",
    ("pcodec", "srgb/zarr.json"): "dfbd9636d9a8dc79",
    ("pcodec", "raw/c/0/0/0/0"): "ff66efbdc4b3faa9",
    ("pcodec", "srgb/c/0/0/0/0"): "5746b01dd8024305",
    ("zstd", "raw/zarr.json"): "5e3326a6a798c92a",
    ("zstd", "raw/c/0/0/0/0"): "2b4f12f86ce74ff2",
}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make_one(codec: str = "pcodec", *, checksums: bool = True) -> Dataset:
        recipe = small_recipe(tmp_path, codec=codec)
        made = create_or_open(tmp_path / codec, recipe, "model-1", [load_profile(CAMERA)], 5)
        if not checksums:  # as a program wrote it that knew of none
            old = replace(made, checksums=False)
            write_manifest(old, group_documents(old), {})
            for name, document in group_documents(old).items():
                old.location.join(name).write(document)
            made = open_dataset(old.location)
        for shard in range(3):
            write_shard(made, shard, shard_data(made, shard))
        publish(made)
        return made

    return make_one


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("codec", ["pcodec", "zstd", "lz4"])
def test_any_flipped_bit_of_a_chunk_is_refused_by_zarr_and_by_the_reader(make: Make, codec: str) -> None:
    dataset = make(codec)
    index = 16 * dataset.recipe.shard_size + 4
    for name in ("raw", "srgb"):
        path = Path(dataset.location.url, name, "c/1/0/0/0")
        whole = path.read_bytes()
        for bit in np.random.default_rng(3).integers(8 * (len(whole) - index), size=40).tolist():
            flip(path, bit)
            with pytest.raises(ValueError, match="checksum"):
                np.asarray(zarr.open_group(dataset.location.url, mode="r")[name][2:4])
            with pytest.raises(IntegrityError) as told:
                RawDataset(dataset.location)[2], RawDataset(dataset.location)[3]
            for said in (dataset.location.url, "sample ", "shard 1", f"{name}/", "--repair"):
                assert said in str(told.value)
            path.write_bytes(whole)
    assert verify(dataset.location).problems == ()


def test_the_damaged_sample_is_named_and_the_others_are_read(make: Make) -> None:
    dataset = make()
    flip(Path(dataset.location.url, "raw/c/1/0/0/0"), 800)  # in the first chunk of the second shard
    with pytest.raises(IntegrityError, match=r"sample 2 of shard 1 in raw/ is damaged"):
        RawDataset(dataset.location)[2]
    assert RawDataset(dataset.location)[3]["index"] == 3
    with pytest.raises(IntegrityError, match="sample 2 of shard 1"):
        open_samples(dataset, "raw").sample(2)
    assert np.array_equal(open_samples(dataset, "raw").sample(3), shard_data(dataset, 1).raw[1])


def test_tensorstore_checks_them_too(make: Make) -> None:
    dataset = make("zstd")
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{dataset.location.url}/raw"}}
    assert np.array_equal(tensorstore.open(spec, read=True).result()[0:2].read().result(), shard_data(dataset, 0).raw)
    flip(Path(dataset.location.url, "raw/c/0/0/0/0"), 8000)
    with pytest.raises(ValueError, match="Digest mismatch"):
        tensorstore.open(spec, read=True).result()[0:2].read().result()


def test_it_is_the_last_of_the_inner_codecs_and_the_metadata_say_so(make: Make) -> None:
    dataset = make()
    for name in ("raw", "srgb"):
        codecs = json.loads(dataset.location.join(name, "zarr.json").read())["codecs"][0]["configuration"]["codecs"]
        assert [codec["name"] for codec in codecs][-1] == "crc32c"
    assert open_dataset(dataset.location).checksums


@pytest.mark.parametrize("codec", ["pcodec", "zstd"])
def test_a_dataset_without_checksums_stays_as_it_was_and_grows_so(make: Make, codec: str) -> None:
    old = make(codec, checksums=False)
    assert not old.checksums
    for (kind, name), digest in _WITHOUT_CHECKSUMS.items():
        if kind == codec:
            assert hashlib.sha256(old.location.join(name).read()).hexdigest()[:16] == digest, name
    grown = grow(old, 2, {})
    assert not open_dataset(old.location).checksums
    write_shard(grown, 3, ShardData(*(getattr(shard_data(old, 0), kind) for kind in ("raw", "srgb")), rows_of(3, 2)))
    publish(grown)
    assert verify(grown.location).problems == ()
    assert np.array_equal(open_samples(grown, "raw").sample(6), shard_data(old, 0).raw[0])
    assert np.array_equal(grown.open_raw()[6:8], shard_data(old, 0).raw)
    assert [RawDataset(grown.location)[item]["index"] for item in range(7)] == [0, 1, 2, 3, 4, 6, 7]
    # made again, a shard has the bytes that were published
    before = grown.location.join("raw/c/0/0/0/0").read()
    write_shard(open_dataset(grown.location), 0, shard_data(old, 0))
    assert grown.location.join("raw/c/0/0/0/0").read() == before


def rows_of(shard: int, count: int) -> list[object]:
    return [sample_row(2 * shard + place) for place in range(count)]


def test_a_shard_of_black_photographs_has_no_object_and_is_read(make: Make) -> None:
    dataset = make()
    data = shard_data(dataset, 1)
    black = ShardData(data.raw, np.zeros_like(data.srgb), data.rows)
    write_shard(dataset, 1, black)
    assert not dataset.location.join("srgb/c/1/0/0/0").exists()
    read = RawDataset(dataset.location, "unpublished")[2]
    assert not read["srgb"].any()
    assert read["raw"].any()
    dataset.location.join("raw/c/1/0/0/0").remove()  # which the shard's commit does name
    with pytest.raises(MissingFileError, match="raw/c/1"):
        RawDataset(locate(dataset.location.url), "unpublished")[2]
