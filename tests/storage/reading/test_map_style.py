import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aura.errors import InvalidInputError, MissingFileError, StorageAccessError
from aura.sensor.catalog import load_profile
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.publishing import publish
from storage.datasets.shard import write_shard
from storage.objects.location import locate
from storage.reading.map_style import RawDataset
from tests.conftest import S3Server
from tests.storage.conftest import CAMERA, reject_row, shard_data, small_recipe

MakeDataset = Callable[..., Dataset]


@pytest.fixture
def published(make_dataset: MakeDataset) -> Dataset:
    dataset = make_dataset((0, 2))
    write_shard(dataset, 1, shard_data(dataset, 1, rejected=(2,)), [reject_row(2)])
    publish(dataset)
    return dataset


def test_an_item_is_what_was_written(published: Dataset) -> None:
    data = RawDataset(published.location)
    assert len(data) == 4
    item = data[1]
    written, row = shard_data(published, 0), shard_data(published, 0).rows[1]
    black, white = (np.array(level)[:, None, None] for level in (row.black_level_dn, row.white_level_dn))
    assert item["raw"].dtype == torch.float32
    assert np.allclose(item["raw"], (written.raw[1] - black) / (white - black), atol=1e-6)
    assert written.srgb is not None
    assert np.allclose(item["srgb"] * 255, written.srgb[1])
    assert item["valid"].tolist() == [32, 32]
    assert (item["camera"], item["cfa_pattern"], item["iso"], item["index"]) == (CAMERA, "RGGB", 200, 1)
    assert item["sample_id"] == "sample-1"
    assert item["wb_gains"].tolist() == [2.0, 1.0, 1.5]
    assert item["camera_to_srgb"].tolist() == [[1.5, -0.5, 0.0], [-0.25, 1.5, -0.25], [0.0, -0.5, 1.5]]
    assert item["noise_system_gain_dn_per_electron"] == 0.25
    assert item["noise_black_offset_dn"].tolist() == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert torch.isnan(item["noise_read_tukey_lambda"])


def test_rejected_samples_are_skipped_and_padding_is_zero(published: Dataset) -> None:
    data = RawDataset(published.location)
    assert [data[i]["index"] for i in range(4)] == [0, 1, 3, 4]
    last = data[-1]
    assert last["index"] == 4
    assert last["valid"].tolist() == [16, 32]
    assert not last["raw"][:, 16:].any()
    assert not last["srgb"][:, 32:].any()
    assert last["raw"][:, :16].any()


def test_a_batch_is_its_items(published: Dataset) -> None:
    data = RawDataset(published.location)
    batch = data.__getitems__([3, 0, 0, 2])
    for item, place in zip(batch, [3, 0, 0, 2], strict=True):
        assert same(item, data[place])


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(torch.as_tensor(value).nan_to_num(-1), torch.as_tensor(other[name]).nan_to_num(-1))
        if not isinstance(value, str)
        else value == other[name]
        for name, value in one.items()
    )


READ_BY_WORKERS = """
import sys, torch
from torch.utils.data import DataLoader
from storage.reading.map_style import RawDataset

if __name__ == "__main__":
    data = RawDataset(sys.argv[1])
    here = data.__getitems__(range(4))  # opens the storage before the workers begin
    batches = list(DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=sys.argv[2]))
    assert [batch["raw"].shape for batch in batches] == [(2, 4, 32, 32)] * 2
    assert torch.equal(torch.cat([batch["raw"] for batch in batches]), torch.stack([item["raw"] for item in here]))
    assert [name for batch in batches for name in batch["sample_id"]] == [item["sample_id"] for item in here]
    print("the same")
"""


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_read_the_same_as_their_process(published: Dataset, context: str, tmp_path: Path) -> None:
    # in a process of its own: a Dask cluster that another test ran here leaves exit handlers that no fork survives
    script = tmp_path / "read_by_workers.py"
    script.write_text(READ_BY_WORKERS)
    command = [sys.executable, str(script), published.location.url, context]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.stdout == "the same\n", done.stderr


def test_a_transform_runs_on_each_item(published: Dataset) -> None:
    data = RawDataset(published.location, transform=lambda item: item["raw"].mean())
    assert data[0] == RawDataset(published.location)[0]["raw"].mean()


def test_it_may_be_pickled_while_open(published: Dataset) -> None:
    data = RawDataset(published.location)
    item = data[0]
    assert same(pickle.loads(pickle.dumps(data))[0], item)  # noqa: S301  # our own bytes


def test_an_old_version_stays_as_it_was(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0,))
    first = publish(dataset)
    write_shard(dataset, 1, shard_data(dataset, 1))
    assert len(RawDataset(dataset.location)) == 2
    assert len(RawDataset(dataset.location, "unpublished")) == 4
    second = publish(dataset)
    lengths = [len(RawDataset(dataset.location, version)) for version in (first, second, None)]
    assert lengths == [2, 4, 4]
    assert RawDataset(dataset.location, first).dataset.version == first


def test_reading_costs_one_table_read_in_all(published: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    data = RawDataset(published.location)

    def refuse(*_: object) -> None:
        raise AssertionError("a table was read")

    monkeypatch.setattr("storage.datasets.dataset.read_table", refuse)
    assert [item["index"] for item in data] == [0, 1, 3, 4]


def test_a_dataset_without_srgb_has_none(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0,), changes={"keep_srgb": False})
    assert "srgb" not in RawDataset(dataset.location, "unpublished")[0]


def test_what_is_missing_is_said(make_dataset: MakeDataset, published: Dataset) -> None:
    with pytest.raises(IndexError, match="outside the dataset's 4"):
        RawDataset(published.location)[4]
    with pytest.raises(IndexError):
        RawDataset(published.location)[-5]
    with pytest.raises(MissingFileError, match="no version 7; published: 1"):
        RawDataset(published.location, 7)
    with pytest.raises(InvalidInputError, match="give a number"):
        RawDataset(published.location, 1.0)  # type: ignore[arg-type]
    with pytest.raises(MissingFileError, match="no version tagged 'latest'; tags: none"):
        RawDataset(published.location, "latest")
    with pytest.raises(MissingFileError, match="holds no dataset"):
        RawDataset(published.location.join("none"))
    assert make_dataset  # the same place


def test_without_a_version_the_reader_says_what_to_do(make_dataset: MakeDataset) -> None:
    with pytest.raises(MissingFileError, match="version='unpublished'"):
        RawDataset(make_dataset((0,)).location)
    assert len(RawDataset(make_dataset().location, "unpublished")) == 2


def test_nothing_finished_is_an_empty_dataset(make_dataset: MakeDataset) -> None:
    assert len(RawDataset(make_dataset().location, "unpublished")) == 0


def test_keys_that_are_refused_while_reading_are_told_so(
    s3_environment: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(f"s3://{s3_environment.bucket}/reading-keys")
    dataset = create_or_open(place, small_recipe(tmp_path), "m", [load_profile(CAMERA)], 5)
    write_shard(dataset, 0, shard_data(dataset, 0))
    data = RawDataset(place, "unpublished")
    monkeypatch.setitem(os.environ, "AWS_SECRET_ACCESS_KEY", "wrong-secret-3")
    with pytest.raises(StorageAccessError) as caught:
        data[0]
    assert "wrong-secret-3" not in str(caught.value)
