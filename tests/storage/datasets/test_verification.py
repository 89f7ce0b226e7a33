from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aura.errors import IntegrityError, MissingFileError
from storage.datasets.creation import grow
from storage.datasets.dataset import Dataset
from storage.datasets.garbage import find_garbage, remove_garbage
from storage.datasets.growth import find_changes, read_changes, write_listing
from storage.datasets.lease import hold
from storage.datasets.publishing import publish
from storage.datasets.samples import samples_table
from storage.datasets.sealed import seal_page
from storage.datasets.shard import write_shard
from storage.datasets.survey import survey
from storage.datasets.tags import tag_version
from storage.datasets.verification import restore, verify
from storage.objects.location import Location
from storage.objects.tables import seal_table
from storage.recipe import Recipe
from tests.storage.conftest import reject_row, sample_row, save_image, shard_data
from tests.storage.datasets.test_growth import dataset, photographs, recipe, take_in, write_missing

__all__ = ["dataset", "photographs", "recipe"]  # fixtures
MakeDataset = Callable[..., Dataset]


@pytest.fixture
def whole(dataset: Dataset, photographs: Path) -> Dataset:
    """A dataset with an object of every kind: grown once, tagged, with a report, and one shard not yet published."""
    tag_version(dataset.location, 1, "first")
    dataset.location.join("reports", "000001.html").write(seal_page("<p>fine</p>"))
    (photographs / "a.png").unlink()
    (photographs / "d.png").write_bytes((photographs / "b.png").read_bytes() + b"\0")  # as Pillow reads it, an image
    larger = take_in(dataset)
    assert larger.shard_count == 3
    write_missing(larger)
    return larger


def named(whole: Dataset) -> dict[str, str]:
    return {problem.name: problem.what for problem in verify(whole.location).problems}


def test_a_whole_dataset_is_found_whole(whole: Dataset) -> None:
    told: list[tuple[int, int]] = []
    with hold(whole.location):  # a run that is on is no fault
        seen = verify(whole.location, lambda done, total: told.append((done, total)))
    assert (seen.problems, seen.leftovers, seen.missing_shards) == ((), (), 0)
    assert seen.dataset == whole
    assert told[-1] == (seen.objects, seen.objects)
    assert [done for done, _ in told] == list(range(1, seen.objects + 1))
    assert find_garbage(survey(whole.location)) == ()


def kinds(place: Location) -> list[str]:
    """One object of every kind."""
    found: dict[tuple[str, ...], str] = {}
    for name in survey(place).sizes:
        parts = name.split("/")
        key = (parts[0], parts[1] if len(parts) == 2 and parts[1] == "zarr.json" else parts[-1].rpartition(".")[2])
        found[key] = max(name, found.get(key, ""))
    return sorted(found.values())


def test_one_flipped_bit_is_found_in_every_kind_of_object(whole: Dataset) -> None:
    place = whole.location
    names = kinds(place)
    folders = (
        "index.parquet",
        "plan",
        "zarr.json",
        "raw",
        "srgb",
        "samples",
        "rejects",
        "listings",
        "versions",
        "tags",
    )
    assert {name.split("/")[0] for name in names} == {*folders, "reports"}
    # a published table of samples too, beside the newest, which no version names yet
    rng = np.random.default_rng(5)
    bits = 4 if place.is_local else 1  # each asks for every object of the dataset
    for name in [*names, "samples/00000000.parquet", "raw/c/0/0/0/0"][:: 1 if place.is_local else 5]:
        data = place.join(name).read()
        for bit in rng.integers(len(data) * 8, size=bits):
            spoilt = bytearray(data)
            spoilt[bit // 8] ^= 1 << (bit % 8)
            place.join(name).write(bytes(spoilt))
            assert name in named(whole), f"bit {bit} of {name}"
        place.join(name).write(data)
    assert named(whole) == {}


def test_what_is_missing_and_what_does_not_belong_is_found(whole: Dataset) -> None:
    place = whole.location
    for name in ("raw/c/0/0/0/0", "samples/00000001.parquet", "plan/00000002.parquet"):
        place.join(name).remove()
    for name in ("raw/c/9/0/0/0", "samples/00000009.parquet", "holiday.jpg"):
        place.join(name).write(b"?")
    found = named(whole)
    assert {name for name, what in found.items() if what == "is missing"} == {
        "raw/c/0/0/0/0",
        "samples/00000001.parquet",
        "plan/00000002.parquet",
    }
    assert found["holiday.jpg"] == found["raw/c/9/0/0/0"] == "belongs to nothing in the dataset"
    assert "samples/00000009.parquet" in found


def test_counts_that_contradict_the_plan_are_found(whole: Dataset) -> None:
    place = whole.location
    table = place.join("samples", "00000000.parquet").read()
    place.join("samples", "00000002.parquet").write(table)
    found = [problem for problem in verify(place).problems if problem.name == "samples/00000002.parquet"]
    assert found
    assert found[0].shard == 2


def test_metadata_are_restored_from_their_copy(whole: Dataset) -> None:
    place = whole.location
    before = {name: place.join(name).read() for name in ("zarr.json", "raw/zarr.json", "srgb/zarr.json")}
    place.join("zarr.json").write(before["zarr.json"].replace(b'"seed": 0', b'"seed": 1'))
    place.join("raw/zarr.json").remove()
    seen = verify(place)
    assert {problem.name for problem in seen.problems} == {"zarr.json", "raw/zarr.json"}
    assert sorted(restore(seen)) == ["raw/zarr.json", "zarr.json"]
    assert {name: place.join(name).read() for name in before} == before
    assert verify(place).problems == ()


def test_what_a_stopped_run_left_is_no_fault_and_is_collected(make_dataset: MakeDataset) -> None:
    made = make_dataset((0,))
    publish(made)
    write_shard(made, 1, shard_data(made, 1, rejected=(3,)), [reject_row(3)])  # finished, not published
    place = made.location
    write_shard(made, 2, shard_data(made, 2))
    place.join("samples", "00000002.parquet").remove()  # killed before the commit
    place.join("index", "00000000.parquet").write(b"read so far")
    mine = {"notes.txt", "reports/notes.txt", "raw/README.md", "labels/mine.csv", "samples/_delta_log"}
    for name in mine:
        place.join(name).write(b"mine")
    left = {"raw/c/2/0/0/0", "srgb/c/2/0/0/0", "rejects/00000002.parquet"}
    if place.is_local:
        part = Path(place.url) / "raw" / ".x.part"
        part.write_bytes(b"half")
        (Path(place.url) / ".index.parquet.0.part").write_bytes(b"half")
        left |= {"raw/.x.part", ".index.parquet.0.part"}
    seen = verify(place)
    assert set(seen.leftovers) == left
    assert {problem.name for problem in seen.problems} == mine
    garbage = find_garbage(survey(place))
    assert set(garbage) == left
    asked: list[None] = []
    remove_garbage(place, garbage, lambda: asked.append(None))
    assert len(asked) == len(garbage)
    assert set(survey(place).leftovers) == set()
    assert made.committed_shards() == [0, 1]
    assert place.join("index", "00000000.parquet").exists()
    assert all(place.join(name).exists() for name in mine)
    write_shard(made, 2, shard_data(made, 2))
    assert {problem.name for problem in verify(place).problems} == mine


@pytest.mark.parametrize("name", ["listings/000001.json", "versions/000001.json"])
@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_nothing_is_collected_while_nobody_can_tell_what_is_needed(whole: Dataset, name: str) -> None:
    publish(whole)
    document = whole.location.join(name)
    written = document.read()
    document.write(written[:-5] + b"xxxxx")
    with pytest.raises(IntegrityError, match=f"{name} is damaged or gone"):
        find_garbage(survey(whole.location))
    document.remove()
    with pytest.raises(IntegrityError, match=f"{name} is damaged or gone"):
        find_garbage(survey(whole.location))
    assert name in named(whole)
    document.write(written)
    assert find_garbage(survey(whole.location)) == ()


@pytest.mark.parametrize("place", ["local"], indirect=True)
@pytest.mark.parametrize("damage", [lambda place: place.remove(), lambda place: place.write(b"{}")])
def test_a_dataset_is_not_set_back_to_an_older_listing(whole: Dataset, damage: Callable[[Location], None]) -> None:
    place = whole.location
    group = place.join("zarr.json").read()
    damage(place.join("listings", "000002.json"))
    seen = verify(place)
    assert seen.dataset == whole
    assert "listings/000002.json" in {problem.name for problem in seen.problems}
    assert restore(seen) == []
    assert place.join("zarr.json").read() == group
    with pytest.raises(IntegrityError, match=r"listings/000002\.json is damaged or gone"):
        find_garbage(survey(place))


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_a_file_among_the_listings_is_found_and_stops_nothing(whole: Dataset) -> None:
    whole.location.join("listings", "notes.json").write(b"{}")
    assert named(whole) == {"listings/notes.json": "belongs to nothing in the dataset"}


def test_where_no_dataset_is_there_is_nothing_to_verify(place: Location) -> None:
    with pytest.raises(MissingFileError, match="holds no dataset"):
        verify(place)


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_a_stopped_growth_is_no_fault_and_nothing_of_it_is_collected(whole: Dataset, photographs: Path) -> None:
    publish(whole)
    save_image(photographs / "e.png", 64, 64, seed=8)
    write_listing(whole, read_changes(whole, find_changes(whole)))  # killed before its plan
    assert whole.location.join("listings", "000003.parquet").exists()
    assert verify(whole.location).problems == ()
    assert find_garbage(survey(whole.location)) == ()


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_a_published_shard_that_was_made_anew_otherwise_is_found(whole: Dataset) -> None:
    other = shard_data(whole, 0)
    other.raw[:] += 1
    write_shard(whole, 0, other)  # whole in itself, with other samples than version 1 says
    assert named(whole)["samples/00000000.parquet"] == "has other bytes than were written"
    assert "raw/c/0/0/0/0" in named(whole)


@pytest.mark.parametrize(
    ("indexes", "said"),
    [((6, 6), "has 2 samples and 0 rejects where 2 were planned"), ((5, 6), "has samples of other shards"),
     ((7, 8), "has samples of other shards"), ((6,), "has 1 samples and 0 rejects where 2 were planned")],
)  # fmt: skip
@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_a_table_with_samples_of_others_or_twice_is_found(
    make_dataset: MakeDataset, recipe: Recipe, indexes: tuple[int, ...], said: str
) -> None:
    made = make_dataset((0, 1))
    larger = grow(made, 3, {})  # shards 3 and 4, the first of which has the samples 6 and 7
    table = samples_table([sample_row(index) for index in indexes], licensed=False)
    facts = {"shard": "3", "recipe_digest": recipe.digest, "rejects": "0"}
    larger.location.join("samples", "00000003.parquet").write(seal_table(table, facts))
    assert named(larger)["samples/00000003.parquet"] == said
