from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aura.errors import DatasetConflictError, InvalidInputError, MissingFileError
from storage.datasets.dataset import Dataset
from storage.datasets.labels import match_labels, read_label_table, read_labels, write_labels
from storage.datasets.publishing import publish, publish_labels
from storage.datasets.shard import write_shard
from storage.datasets.survey import Problem
from storage.datasets.verification import verify
from storage.datasets.versions import diff_versions, read_version
from tests.storage.conftest import shard_data

MakeDataset = Callable[..., Dataset]


def test_labels_are_a_new_version_and_no_rewrite(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1))
    publish(dataset)
    first = pa.table({"sample_id": ["sample-2", "sample-0"], "scene": ["street", "wood"], "boxes": [[1, 2], []]})
    before = dataset.location.join("samples", "00000000.parquet").read()
    assert publish(dataset, labels=write_labels(dataset, match_labels(dataset, first))) == 2
    assert publish(dataset, labels=write_labels(dataset, match_labels(dataset, first))) == 2
    second = pa.table({"sample_id": ["sample-2"], "scene": ["tunnel"]})
    assert publish(dataset, labels=write_labels(dataset, match_labels(dataset, second))) == 3
    read = [read_labels(dataset, read_version(dataset.location, number)) for number in (1, 2, 3)]
    assert read[0] is None
    assert read[1].to_pylist() == [
        {"sample_id": "sample-0", "scene": "wood", "boxes": []},
        {"sample_id": "sample-2", "scene": "street", "boxes": [1, 2]},
    ]
    assert read[2].to_pylist() == second.to_pylist()
    assert dataset.location.join("samples", "00000000.parquet").read() == before
    found = diff_versions(dataset, 1, 2)
    assert (found.relabelled, len(found.added), len(found.removed), found.unchanged) == (True, 0, 0, 4)
    write_shard(dataset, 2, shard_data(dataset, 2))
    assert publish(dataset) == 4
    assert read_version(dataset.location, 4).labels == read_version(dataset.location, 3).labels
    assert verify(dataset.location).problems == ()
    (name,) = [problem.name for problem in spoilt(dataset)]
    assert name.startswith("labels/")


def spoilt(dataset: Dataset) -> tuple[Problem, ...]:
    folder = dataset.location.join("labels")
    place = folder.join(folder.names()[0])
    place.write(place.read()[:-1] + b"?")
    return verify(dataset.location).problems


def test_labels_of_a_photograph_go_to_each_of_its_samples(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1))
    labels = match_labels(dataset, pa.table({"source_uri": ["file:///corpus/a.png"], "night": [True]}))
    assert labels.to_pylist() == [{"sample_id": f"sample-{index}", "night": True} for index in range(4)]


def test_labels_of_nothing_or_twice_are_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset((0,))
    with pytest.raises(InvalidInputError, match=r"1 of 2 labels are of nothing in .*'sample-9'"):
        match_labels(dataset, pa.table({"sample_id": ["sample-0", "sample-9"], "scene": ["a", "b"]}))
    with pytest.raises(InvalidInputError, match="'sample-0' more than once"):
        match_labels(dataset, pa.table({"sample_id": ["sample-0", "sample-0"], "scene": ["a", "b"]}))
    with pytest.raises(MissingFileError):
        read_label_table(tmp_path / "none.csv")
    (tmp_path / "no.csv").write_text("name,scene\na,b\n")
    with pytest.raises(InvalidInputError, match="columns name, scene; expected one of sample_id and source_uri"):
        read_label_table(tmp_path / "no.csv")


def test_photographs_in_a_tar_are_labelled_by_their_names_in_it(make_dataset: MakeDataset) -> None:
    """By the tar's name alone, labels of one would be those of all."""
    dataset = make_dataset()
    data = shard_data(dataset, 0)
    tar = "file:///corpus/shard.tar"
    rows = [replace(row, source_uri=tar, source_member=f"{number}.jpg") for number, row in enumerate(data.rows)]
    write_shard(dataset, 0, replace(data, rows=rows))
    assert len(rows) == 2
    scenes = pa.table({"source_uri": [f"{tar}#1.jpg", tar], "scene": ["street", "any"]})
    assert [row["scene"] for row in match_labels(dataset, scenes).to_pylist()] == ["any", "street"]
    only = match_labels(dataset, scenes.slice(0, 1))
    assert only.to_pylist() == [{"sample_id": "sample-1", "scene": "street"}]
    with pytest.raises(InvalidInputError, match=r"'shard\.tar#1\.jpg'; it has names such as '.*/shard\.tar#1\.jpg'"):
        match_labels(dataset, pa.table({"source_uri": ["shard.tar#1.jpg"], "scene": ["street"]}))


def test_labels_that_name_nothing_clearly_are_refused(make_dataset: MakeDataset, tmp_path: Path) -> None:
    dataset = make_dataset((0,))
    with pytest.raises(InvalidInputError, match="1 of 2 labels have no sample_id, the first in row 2"):
        match_labels(dataset, pa.table({"sample_id": ["sample-0", None], "scene": ["a", "b"]}))
    with pytest.raises(InvalidInputError, match=r"sample_id is of type list<.*; expected texts"):
        match_labels(dataset, pa.table({"sample_id": [["sample-0"]], "scene": ["a"]}))
    (tmp_path / "twice.csv").write_text("sample_id,scene,scene\na,b,c\n")
    with pytest.raises(InvalidInputError, match="expected each name once"):
        read_label_table(tmp_path / "twice.csv")


def test_names_of_digits_are_names(tmp_path: Path) -> None:
    """Taken for numbers, these would be 12 and 3 million."""
    (tmp_path / "labels.csv").write_text("sample_id,scene\n0012,1\n30e5,2\n")
    assert read_label_table(tmp_path / "labels.csv").to_pylist() == [
        {"sample_id": "0012", "scene": 1},
        {"sample_id": "30e5", "scene": 2},
    ]


def test_labels_come_in_three_forms(tmp_path: Path) -> None:
    table = pa.table({"sample_id": ["a", "b"], "scene": ["x", "y"]})
    pq.write_table(table, tmp_path / "labels.parquet")
    (tmp_path / "labels.csv").write_text("sample_id,scene\na,x\nb,y\n")
    (tmp_path / "labels.jsonl").write_text('{"sample_id": "a", "scene": "x"}\n{"sample_id": "b", "scene": "y"}\n')
    for form in ("parquet", "csv", "jsonl"):
        assert read_label_table(tmp_path / f"labels.{form}").to_pylist() == table.to_pylist()


def test_labels_publish_the_samples_of_the_latest_version_and_no_others(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1))
    digest = write_labels(dataset, match_labels(dataset, pa.table({"sample_id": ["sample-0"], "scene": ["a"]})))
    with pytest.raises(InvalidInputError, match="no published version that could be labelled"):
        publish_labels(dataset, digest)  # no gate has judged it
    publish(dataset, gone={"0" * 64}, shards=[0])
    assert publish_labels(dataset, digest, "labelled") == 2  # the other shard was committed since
    first, second = (read_version(dataset.location, number) for number in (1, 2))
    assert second == replace(first, number=2, labels=digest)
    assert publish_labels(dataset, digest, "labelled") == 2
    with pytest.raises(DatasetConflictError, match="names version 2"):
        publish_labels(dataset, write_labels(dataset, pa.table({"sample_id": ["sample-1"]})), "labelled")
