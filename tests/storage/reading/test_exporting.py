import io
import json
import tarfile
from datetime import date

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from aura.bayer import unpack
from aura.errors import DatasetConflictError, MissingFileError
from storage.datasets.dataset import Dataset
from storage.datasets.labels import match_labels, write_labels
from storage.datasets.publishing import publish
from storage.datasets.shard import write_shard
from storage.objects.location import Location
from storage.reading.exporting import export_coco, export_webdataset
from tests.storage.conftest import MakeDataset, reject_row, shard_data


@pytest.fixture
def dataset(make_dataset: MakeDataset) -> Dataset:
    made = make_dataset((0, 2))
    write_shard(made, 1, shard_data(made, 1, rejected=(2,)), [reject_row(2)])
    publish(made, tag="first")
    return made


def members(place: Location) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(place.read())) as tar:
        return {entry.name: tar.extractfile(entry).read() for entry in tar}  # type: ignore[union-attr]


def test_webdataset_tars_hold_every_sample_as_stored(dataset: Dataset, place: Location) -> None:
    told: list[tuple[int, int]] = []
    made = export_webdataset(dataset.location, place.join("tars"), None, lambda *counts: told.append(counts))
    assert (made.samples, made.objects) == (4, 3)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert place.join("tars").names() == ["00000000.tar", "00000001.tar", "00000002.tar"]
    second = members(place.join("tars", "00000001.tar"))
    assert sorted(second) == ["00000003.json", "00000003.raw.npy", "00000003.srgb.npy"]
    assert np.array_equal(np.load(io.BytesIO(second["00000003.raw.npy"])), shard_data(dataset, 1).raw[1])
    assert np.array_equal(np.load(io.BytesIO(second["00000003.srgb.npy"])), shard_data(dataset, 1).srgb[1])
    row = json.loads(second["00000003.json"])
    assert (row["sample_id"], row["source_uri"], row["cfa_pattern"]) == ("sample-3", "file:///corpus/a.png", "RGGB")
    last = members(place.join("tars", "00000002.tar"))
    assert np.load(io.BytesIO(last["00000004.raw.npy"])).shape == (4, 16, 32)  # the valid half
    again = export_webdataset(dataset.location, place.join("again"), "first", lambda *_: None)
    assert again.samples == 4
    for name in place.join("tars").names():
        assert place.join("again", name).read() == place.join("tars", name).read()


@pytest.mark.parametrize("images", ["mosaic", "rendered"])
def test_coco_has_an_image_for_every_sample(dataset: Dataset, place: Location, images: str) -> None:
    made = export_coco(dataset.location, place.join("coco"), None, lambda *_: None, images)  # type: ignore[arg-type]
    assert (made.samples, made.objects) == (4, 5)
    document = json.loads(place.join("coco", "instances.json").read())
    assert [image["id"] for image in document["images"]] == [0, 1, 3, 4]
    assert (document["annotations"], document["categories"]) == ([], [])
    for entry in document["images"]:
        picture = np.asarray(Image.open(io.BytesIO(place.join("coco", "images", entry["file_name"]).read())))
        assert picture.shape[:2] == (entry["height"], entry["width"])
        if images == "rendered":
            assert picture.dtype == np.uint8
            assert picture.shape[2] == 3
            continue
        shard, slot = divmod(entry["id"], 2)
        raw = torch.from_numpy(shard_data(dataset, shard).raw[slot].astype(np.int32))
        expected = unpack(raw, entry["raw"]["cfa_pattern"]).numpy()
        assert np.array_equal(picture, expected[: entry["height"]])


def test_labels_of_the_version_go_along(dataset: Dataset, place: Location) -> None:
    taken = [date(2024, 5, 1), None]
    table = pa.table({"sample_id": ["sample-1", "sample-4"], "kind": ["street", "wood"], "taken": taken})
    publish(dataset, labels=write_labels(dataset, match_labels(dataset, table)))
    export_coco(dataset.location, place.join("coco"), None, lambda *_: None)
    document = json.loads(place.join("coco", "instances.json").read())
    found = {image["id"]: image["raw"].get("labels") for image in document["images"]}
    street, wood = {"kind": "street", "taken": "2024-05-01"}, {"kind": "wood", "taken": None}
    assert found == {0: None, 1: street, 3: None, 4: wood}
    export_webdataset(dataset.location, place.join("tars"), None, lambda *_: None)
    (row,) = (data for name, data in members(place.join("tars", "00000002.tar")).items() if name.endswith(".json"))
    assert json.loads(row)["labels"] == wood


def test_json_holds_no_number_that_json_has_not(dataset: Dataset, place: Location) -> None:
    table = pa.table({"sample_id": ["sample-3"], "sharpness": [float("inf")], "angles": [[1.5, float("nan")]]})
    publish(dataset, labels=write_labels(dataset, match_labels(dataset, table)))
    export_webdataset(dataset.location, place.join("tars"), None, lambda *_: None)
    text = members(place.join("tars", "00000001.tar"))["00000003.json"].decode()
    row = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert row["labels"] == {"sharpness": None, "angles": [1.5, None]}


def test_a_place_with_files_is_refused_and_nothing_is_touched(dataset: Dataset, place: Location) -> None:
    place.join("full", "note.txt").write(b"mine")
    for export in (export_webdataset, export_coco):
        with pytest.raises(DatasetConflictError, match=r"not empty \(it holds note.txt\)"):
            export(dataset.location, place.join("full"), None, lambda *_: None)
        with pytest.raises(MissingFileError, match="no version 9"):
            export(dataset.location, place.join("free"), 9, lambda *_: None)
    assert place.join("full").names() == ["note.txt"]
    assert place.join("free").names() == []
