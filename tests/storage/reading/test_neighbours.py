"""Programs that know nothing of this project open its datasets."""

import duckdb
import numpy as np
import pytest
import tensorstore
import xarray
import zarr

from storage.datasets.dataset import Dataset
from storage.objects.location import Location
from tests.storage.conftest import MakeDataset, shard_data


@pytest.fixture
def dataset(make_dataset: MakeDataset, place: Location) -> Dataset:
    if not place.is_local:
        pytest.skip("these libraries are told where S3 is in ways of their own; zarr and xarray are tested on it")
    return make_dataset((0, 1, 2), changes={"codec": "zstd"})


def test_tensorstore_reads_raw_and_source_pixels(dataset: Dataset) -> None:
    for name in ("raw", "srgb"):
        spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{dataset.location.url}/{name}"}}
        opened = tensorstore.open(spec, open=True, read=True).result()
        assert opened.domain.labels == (
            ("sample", "plane", "y", "x") if name == "raw" else ("sample", "channel", "row", "column")
        )
        expected = getattr(shard_data(dataset, 1), name)
        assert np.array_equal(opened[2:4].read().result(), expected)


def test_tensorstore_says_that_it_lacks_pcodec(make_dataset: MakeDataset, place: Location) -> None:
    if not place.is_local:
        pytest.skip("the same on S3")
    url = make_dataset((0,), changes={"codec": "pcodec"}).location.url
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": f"{url}/raw"}}
    with pytest.raises(ValueError, match="pcodec"):
        tensorstore.open(spec, open=True, read=True).result()


def test_duckdb_asks_the_samples(dataset: Dataset) -> None:
    samples = duckdb.read_parquet(f"{dataset.location.url}/samples/*.parquet")
    found = samples.filter("iso >= 300").order("iso").project("sample_id, iso, wb_gains[1]").fetchall()
    assert found == [("sample-2", 300, 2.0), ("sample-3", 400, 2.0), ("sample-4", 500, 2.0)]


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3")
@pytest.mark.parametrize("codec", ["pcodec", "zstd", "lz4"])
def test_zarr_and_xarray_read_every_codec(make_dataset: MakeDataset, place: Location, codec: str) -> None:
    if not place.is_local:
        pytest.skip("tested with the dataset")
    url = make_dataset((0, 1, 2), changes={"codec": codec}).location.url
    expected = shard_data(make_dataset(changes={"codec": codec}), 1).raw
    assert np.array_equal(zarr.open_group(url, mode="r")["raw"][2:4], expected)
    assert np.array_equal(xarray.open_zarr(url)["raw"][2:4].values, expected)
