import json
import threading
from collections.abc import Callable

import pytest

from aura.errors import DatasetConflictError, IntegrityError, InvalidInputError, MissingFileError
from storage.datasets.dataset import Dataset
from storage.datasets.publishing import publish
from storage.datasets.shard import write_shard
from storage.datasets.tags import list_tags, resolve_version, tag_version
from storage.datasets.versions import list_versions, read_version, verify_version
from tests.storage.conftest import reject_row, shard_data

MakeDataset = Callable[..., Dataset]


def test_a_version_lists_shards_with_digests(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1))
    write_shard(dataset, 2, shard_data(dataset, 2, rejected=(4,)), [reject_row(4)])
    assert publish(dataset, "first") == 1
    version = read_version(dataset.location, 1)
    assert (version.number, version.complete, version.samples) == (1, True, 4)
    assert list_tags(dataset.location) == {"first": 1}
    assert [(shard.shard, shard.samples, shard.rejects) for shard in version.shards] == [
        (0, 2, 0),
        (1, 2, 0),
        (2, 0, 1),
    ]
    assert set(version.shards[0].sha256) == {"raw", "srgb", "samples", "rejects"}
    assert set(version.shards[2].sha256) == {"samples", "rejects"}
    verify_version(dataset, 1)


def test_publishing_the_same_content_is_the_same_version(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1))
    assert publish(dataset) == publish(dataset) == 1
    assert list_versions(dataset.location) == [1]


def test_more_content_is_a_new_version_and_the_old_one_stays(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0,))
    publish(dataset, "small")
    document = dataset.location.join("versions", "000001.json").read()
    assert read_version(dataset.location, 1).complete is False
    write_shard(dataset, 1, shard_data(dataset, 1))
    assert publish(dataset, "large") == 2
    assert dataset.location.join("versions", "000001.json").read() == document
    assert [read_version(dataset.location, number).samples for number in list_versions(dataset.location)] == [2, 4]


def test_a_tag_names_one_version_for_ever(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0,))
    publish(dataset, "small")
    assert publish(dataset, "small") == 1
    assert publish(dataset, "other") == 1  # a version may have several
    write_shard(dataset, 1, shard_data(dataset, 1))
    with pytest.raises(DatasetConflictError, match="names version 1 and never moves"):
        publish(dataset, "small")
    assert list_versions(dataset.location) == [1]
    assert publish(dataset) == 2
    with pytest.raises(DatasetConflictError, match="names version 1 and never moves"):
        tag_version(dataset.location, 2, "small")
    tag_version(dataset.location, 2, "large")
    assert list_tags(dataset.location) == {"small": 1, "other": 1, "large": 2}
    assert [resolve_version(dataset.location, version) for version in (None, 1, "1", "small", "large")] == [
        2,
        1,
        1,
        1,
        2,
    ]
    for unknown in (3, "none"):
        with pytest.raises(MissingFileError, match="has no version"):
            resolve_version(dataset.location, unknown)
    for name in ("7", "", "../versions/000001", "a b"):
        with pytest.raises(InvalidInputError, match="is no tag"):
            tag_version(dataset.location, 1, name)


def test_two_publishers_at_once_make_one_version(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1, 2))
    numbers: list[int] = []
    gate = threading.Barrier(4)

    def run() -> None:
        gate.wait()
        numbers.append(publish(dataset))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers == [1, 1, 1, 1]
    assert list_versions(dataset.location) == [1]


def test_what_was_judged_is_what_is_published(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1, 2))
    assert publish(dataset, shards=[0, 2]) == 1  # the other was committed meanwhile
    first = read_version(dataset.location, 1)
    assert [shard.shard for shard in first.shards] == [0, 2]
    assert not first.complete
    assert publish(dataset) == 2
    assert read_version(dataset.location, 2).complete


def test_nothing_finished_is_nothing_to_publish(make_dataset: MakeDataset) -> None:
    dataset = make_dataset()
    with pytest.raises(InvalidInputError, match="no finished shard"):
        publish(dataset)
    assert list_versions(dataset.location) == []
    with pytest.raises(MissingFileError, match="no version 1; published: none"):
        read_version(dataset.location, 1)


def test_changed_objects_are_found(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1))
    publish(dataset)
    place = dataset.location.join("raw", "c", "1", "0", "0", "0")
    data = bytearray(place.read())
    data[10] ^= 1
    place.write(bytes(data))
    with pytest.raises(IntegrityError, match=r"1 of 8 objects of version 1 are gone or changed.*raw/c/1"):
        verify_version(dataset, 1)


def test_a_changed_version_is_found(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1))
    publish(dataset)
    place = dataset.location.join("versions", "000001.json")
    document = json.loads(place.read())
    document["shards"].pop()
    place.write(json.dumps(document).encode())
    with pytest.raises(IntegrityError, match="damaged"):
        read_version(dataset.location, 1)


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_files_of_others_beside_ours_stop_nobody(make_dataset: MakeDataset) -> None:
    dataset = make_dataset((0, 1, 2))
    publish(dataset, "mine")
    for name in (
        "samples/notes.parquet",
        "samples/7.parquet",
        "samples/²7.parquet",
        "versions/²2.json",
        "tags/a b.json",
    ):
        dataset.location.join(name).write(b"{}")
    dataset.location.join("versions/7.json").write(b"{}")
    assert dataset.committed_shards() == [0, 1, 2]
    assert list_versions(dataset.location) == [1]
    assert list_tags(dataset.location) == {"mine": 1}
    dataset.location.join("tags/other.json").write(b"damaged")
    assert resolve_version(dataset.location, "mine") == 1  # whatever other tags are like
    assert publish(dataset, "mine") == 1
    with pytest.raises(IntegrityError, match="Tag other is damaged"):
        list_tags(dataset.location)
    with pytest.raises(MissingFileError, match="no version tagged '²'; tags: mine, other"):
        resolve_version(dataset.location, "²")
