import hashlib
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zarr
from PIL import Image

from aura.errors import EmptyCorpusError, MissingFileError
from aura.sensor.catalog import load_profile
from storage.corpora.index import index_batches, index_digest
from storage.corpora.ingest import ingest
from storage.datasets import growth
from storage.datasets.creation import complete_group, create_or_open, grow
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.growth import (
    find_changes,
    listing_digest,
    pending_listing,
    plan_growth,
    read_changes,
    read_rejects,
    write_listing,
)
from storage.datasets.history import current_index, gone_sources
from storage.datasets.metadata import read_manifest
from storage.datasets.plan import plan_shards, read_shard_plan, write_plan
from storage.datasets.publishing import publish
from storage.datasets.samples import RejectRow
from storage.datasets.shard import ShardData, write_shard
from storage.datasets.versions import diff_versions, read_version, verify_version
from storage.objects.location import Location, locate
from storage.reading.map_style import RawDataset
from storage.recipe import Recipe
from tests.storage.conftest import CAMERA, encoded, make_table, make_tar, save_image, shard_data, small_recipe


@pytest.fixture(autouse=True)
def few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A corpus of a handful of files is streamed as one of a million is: in several pieces."""
    monkeypatch.setattr("storage.corpora.index._STREAMED_ROWS", 2)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    for number, name in enumerate("abc"):
        save_image(folder / f"{name}.png", 64, 64, seed=number)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return small_recipe(tmp_path, cameras=[CAMERA])


@pytest.fixture
def dataset(photographs: Path, place: Location, recipe: Recipe) -> Dataset:
    """Three photographs of one sample each, in two shards, published as version 1."""
    assert photographs.is_dir()
    return begun(place.join("dataset"), recipe)


def begun(url: Location, recipe: Recipe) -> Dataset:
    """Make and publish version 1, with made-up pixels."""
    ingest(url, recipe)
    summary = write_plan(url, plan_shards(index_batches(url), recipe))
    objects = index_digest(url) | dict(summary.objects)
    made = create_or_open(url, recipe, "m", [load_profile(CAMERA)], summary.samples, objects)
    write_missing(made)
    publish(made)
    return made


def write_missing(dataset: Dataset, rejected: tuple[int, ...] = ()) -> None:
    """Make every missing shard as the plan says, with made-up pixels."""
    for shard in dataset.missing_shards():
        plan = {row["index"]: row for row in read_shard_plan(dataset.location, shard).to_pylist()}
        data = shard_data(dataset, shard, rejected)
        names = ("sample_id", "source_uri", "source_sha256")
        rows = [replace(row, **{name: plan[row.index][name] for name in names}) for row in data.rows]
        rejects = [
            RejectRow(
                index=index,
                source_uri=plan[index]["source_uri"],
                source_sha256=plan[index]["source_sha256"],
                reason="missing",
                detail="gone",
            )
            for index in rejected
            if index in plan
        ]
        write_shard(dataset, shard, ShardData(data.raw, data.srgb, rows), rejects)


def take_in(dataset: Dataset, *, retry: bool = False) -> Dataset:
    listing = read_rejects(dataset) if retry else read_changes(dataset, find_changes(dataset))
    write_listing(dataset, listing)
    summary = write_plan(dataset.location, plan_growth(dataset, listing))
    objects = listing_digest(dataset, dataset.listings + 1) | dict(summary.objects)
    return grow(dataset, summary.samples, objects)


def grown(dataset: Dataset) -> Dataset:
    """List the corpus again, make what is new, publish."""
    dataset = take_in(dataset)
    write_missing(dataset)
    publish(dataset, gone=gone_sources(dataset))
    return dataset


def content(place: Location) -> dict[str, str]:
    return {entry.uri: hashlib.sha256(locate(entry.uri).read()).hexdigest() for entry in place.walk()}


def read_all(place: Location, version: int) -> list[tuple[str, Any]]:
    data = RawDataset(place, version)
    return [(item["sample_id"], item["raw"].numpy().tobytes()) for item in (data[i] for i in range(len(data)))]


def test_nothing_new_is_found_without_reading_a_file(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.datasets.growth.read_parts", lambda *_: pytest.fail("a file was read"))
    assert not find_changes(dataset)


def test_new_sources_append_shards_and_the_old_version_stays_as_it_is(dataset: Dataset, photographs: Path) -> None:
    before, first = content(dataset.location), read_all(dataset.location, 1)
    save_image(photographs / "aa.png", 64, 128, seed=7)  # comes between the others by name
    larger = grown(dataset)
    assert (larger.spans, larger.shard_count, larger.n_samples, larger.planned_samples) == (((0, 3), (4, 6)), 3, 6, 5)
    assert open_dataset(dataset.location) == larger
    assert larger.shard_bounds(1) == (2, 3)
    assert larger.shard_bounds(2) == (4, 6)
    after = content(dataset.location)
    changed = {uri.split("/dataset/")[1] for uri, digest in before.items() if after[uri] != digest}
    assert changed == {"zarr.json", "raw/zarr.json", "srgb/zarr.json"}
    assert read_all(dataset.location, 1) == first
    assert read_all(dataset.location, 2)[:3] == first
    assert len(RawDataset(dataset.location)) == 5
    assert zarr.open_array(dataset.location.zarr_store(), path="raw", mode="r").shape[0] == 6
    for number in (1, 2):
        verify_version(larger, number)
    found = diff_versions(larger, 1, 2)
    assert (len(found.added), len(found.removed), found.unchanged, found.new_shards) == (2, 0, 3, 1)
    assert {sample.source for sample in found.added} == {(photographs / "aa.png").as_uri()}
    assert not find_changes(larger)


def test_known_content_is_skipped_whatever_it_is_called(dataset: Dataset, photographs: Path) -> None:
    shutil.copy(photographs / "a.png", photographs / "copy.png")
    (photographs / "b.png").rename(photographs / "renamed.png")
    larger = grown(dataset)
    assert (larger.spans, larger.listings) == (dataset.spans, 2)
    assert publish(larger, gone=gone_sources(larger)) == 1
    assert gone_sources(larger) == frozenset()
    rows = {row["uri"].rsplit("/", 1)[1]: row["reject_reason"] for row in current_index(larger).to_pylist()}
    assert rows == {"a.png": None, "c.png": None, "copy.png": "duplicate", "renamed.png": None}
    (photographs / "a.png").unlink()  # its copy is still there
    assert gone_sources(grown(larger)) == frozenset()


def test_removed_sources_are_a_new_version_and_no_rewrite(dataset: Dataset, photographs: Path) -> None:
    kept = (photographs / "b.png").read_bytes()
    first = read_all(dataset.location, 1)
    objects = {uri: digest for uri, digest in content(dataset.location).items() if "zarr.json" not in uri}
    (photographs / "b.png").unlink()
    smaller = grown(dataset)
    assert objects.items() <= content(dataset.location).items()
    assert [read_version(dataset.location, number).samples for number in (1, 2)] == [3, 2]
    assert read_version(dataset.location, 2).removed == {1}
    assert read_all(dataset.location, 1) == first
    assert read_all(dataset.location, 2) == [first[0], first[2]]
    assert [sample.index for sample in diff_versions(smaller, 1, 2).removed] == [1]
    (photographs / "b.png").write_bytes(kept)
    again = grown(smaller)
    assert again.spans == dataset.spans
    assert read_all(dataset.location, 3) == first


def test_a_photograph_with_other_bytes_is_new_and_the_old_one_gone(dataset: Dataset, photographs: Path) -> None:
    save_image(photographs / "c.png", 128, 64, seed=11)
    larger = grown(dataset)
    found = diff_versions(larger, 1, 2)
    assert (len(found.added), len(found.removed), found.unchanged) == (2, 1, 2)


def test_a_licence_that_a_list_names_anew_is_judged_anew(photographs: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "list.csv"

    def write_list(*licences: str) -> None:
        lines = [f"{photographs / name}.png,{licence}" for name, licence in zip("aabc", licences, strict=True)]
        corpus.write_text("\n".join(["path,terms", *lines, "ftp://wrong,CC0-1.0"]))

    def version(number: int) -> list[str]:
        return [Path(uri).stem for uri in RawDataset(url, number).table["source_uri"].to_pylist()]

    write_list(
        "CC0-1.0", "CC-BY-4.0", "CC-BY-4.0", "proprietary"
    )  # the first says two things, of which the last counts
    licences = {"licences.column": "terms", "licences.allowed": ["CC-BY-4.0", "CC0-1.0"], "cameras": [CAMERA]}
    url = locate(tmp_path / "dataset")
    dataset = begun(url, small_recipe(tmp_path, corpus=str(corpus), **licences))
    assert not find_changes(dataset)
    write_list("CC0-1.0", "CC-BY-4.0", "proprietary", "CC-BY-4.0")  # one is withdrawn, one may be used now
    dataset = grown(dataset)
    assert not find_changes(dataset)
    assert [version(number) for number in (1, 2)] == [["a", "b"], ["a", "c"]]
    write_list("CC-BY-4.0", "CC0-1.0", "CC0-1.0", "CC-BY-4.0")
    dataset = grown(dataset)
    assert not find_changes(dataset)
    assert version(3) == ["a", "b", "c"]
    said = {row["uri"].rsplit("/", 1)[1]: row["licence"] for row in current_index(dataset).to_pylist()}
    assert said == {"a.png": "CC0-1.0", "b.png": "CC0-1.0", "c.png": "CC-BY-4.0", "wrong": None}


def test_a_list_that_leaves_licences_to_the_photographs_is_not_new_each_night(
    photographs: Path, tmp_path: Path
) -> None:
    said = '<cc:license rdf:resource="https://creativecommons.org/licenses/by/4.0/"/>'
    xmp = (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:cc="http://creativecommons.org/ns#">'
        f"<rdf:Description>{said}</rdf:Description></rdf:RDF>"
    )
    with Image.open(photographs / "a.png") as image:
        image.convert("RGB").save(photographs / "free.jpg", xmp=xmp.encode())
    corpus = tmp_path / "list.csv"

    def write_list(licence: str) -> None:
        corpus.write_text(f"path,terms\n{photographs / 'free.jpg'},\n{photographs / 'b.png'},{licence}\n")

    write_list("CC0-1.0")
    licences = {"column": "terms", "embedded": True, "allowed": ["CC-BY-4.0", "CC0-1.0"]}
    recipe = small_recipe(tmp_path, corpus=str(corpus), licences=licences, cameras=[CAMERA])
    dataset = begun(locate(tmp_path / "dataset"), recipe)
    found = {row["uri"].rsplit("/", 1)[1]: row["licence"] for row in current_index(dataset).to_pylist()}
    assert found == {"free.jpg": "CC-BY-4.0", "b.png": "CC0-1.0"}
    assert not find_changes(dataset)
    write_list("proprietary")
    assert [item.uri.rsplit("/", 1)[1] for item in find_changes(dataset).fresh] == ["b.png"]


def test_only_rejects_are_tried_again(dataset: Dataset, photographs: Path) -> None:
    (photographs / "bad.png").write_bytes(b"no image")
    save_image(photographs / "late.png", 64, 64, seed=21)
    larger = take_in(dataset)
    write_missing(larger, rejected=(4,))  # it could not be read when its shard was made
    publish(larger)
    assert read_rejects(larger).rows["uri"].to_pylist() == [(photographs / "late.png").as_uri()]
    save_image(photographs / "bad.png", 64, 64, seed=22)
    save_image(photographs / "unseen.png", 64, 64, seed=23)
    mended = take_in(larger, retry=True)
    assert mended.spans == ((0, 3), (4, 5), (6, 8))
    write_missing(mended)
    publish(mended, gone=gone_sources(mended))
    assert {sample.source.rsplit("/", 1)[1] for sample in diff_versions(mended, 2, 3).added} == {"bad.png", "late.png"}
    assert read_rejects(mended).rows.num_rows == 0
    changes = find_changes(mended)
    assert [source.uri.rsplit("/", 1)[1] for source in changes.fresh] == ["unseen.png"]


def test_a_growth_that_was_stopped_goes_on_without_listing_again(
    dataset: Dataset, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_image(photographs / "d.png", 64, 64, seed=9)
    write_listing(dataset, read_changes(dataset, find_changes(dataset)))
    monkeypatch.setattr("storage.datasets.growth.list_items", lambda _: pytest.fail("the corpus was listed"))
    reopened = open_dataset(dataset.location)
    listing = pending_listing(reopened)
    assert listing is not None
    summary = write_plan(reopened.location, plan_growth(reopened, listing))
    objects = listing_digest(reopened, 2) | dict(summary.objects)

    def stop(_: Dataset) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("storage.datasets.creation.complete_group", stop)  # killed after the root was written
        with pytest.raises(KeyboardInterrupt):
            grow(reopened, summary.samples, objects)
    larger = open_dataset(dataset.location)
    assert (larger.n_samples, pending_listing(larger)) == (5, None)
    assert len(RawDataset(dataset.location)) == 3
    complete_group(larger)
    assert zarr.open_array(dataset.location.zarr_store(), path="raw", mode="r").shape[0] == 5
    assert read_manifest(dataset.location, 2)["objects"].keys() == objects.keys()


def test_a_corpus_that_is_gone_is_an_error_and_not_an_empty_version(dataset: Dataset, photographs: Path) -> None:
    for file in photographs.iterdir():
        file.unlink()
    with pytest.raises(EmptyCorpusError):
        find_changes(dataset)
    photographs.rmdir()
    with pytest.raises(MissingFileError):
        find_changes(dataset)


@pytest.mark.parametrize("ending", ["tar", "parquet"])
def test_a_file_of_photographs_grows_by_what_is_new_in_it(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photographs = [(f"{number}.png", encoded(64, 64, (number, 0, 0), "BMP")) for number in range(5)]
    encode = make_tar if ending == "tar" else make_table
    corpus, place = tmp_path / "corpus", locate(tmp_path / "dataset")
    corpus.mkdir()
    (corpus / f"same.{ending}").write_bytes(encode(photographs[:1]))
    (corpus / f"more.{ending}").write_bytes(encode([*photographs[1:3], ("bad.png", b"none")]))
    recipe = small_recipe(tmp_path, cameras=[CAMERA])
    ingest(place, recipe)
    summary = write_plan(place, plan_shards(index_batches(place), recipe))
    dataset = create_or_open(place, recipe, "m", [load_profile(CAMERA)], summary.samples)
    write_missing(dataset)
    publish(dataset)
    assert not find_changes(dataset)

    (corpus / f"more.{ending}").write_bytes(encode([*photographs[2:], ("bad.png", b"none")]))
    changes = find_changes(dataset)
    assert [item.uri.rsplit("/", 1)[1] for item in changes.fresh] == [f"more.{ending}"]
    listing = read_changes(dataset, changes)
    reasons = listing.rows["reject_reason"].to_pylist()
    assert reasons.count(None) - listing.known == 2
    larger = grown(dataset)
    assert larger.planned_samples == 5
    assert gone_sources(larger) == {hashlib.sha256(photographs[1][1]).hexdigest()}
    assert read_version(place, 2).samples == 4
    with monkeypatch.context() as patch:
        patch.setattr("storage.datasets.growth.read_parts", lambda *_: pytest.fail("a file was read"))
        assert not find_changes(larger)
    assert read_rejects(larger).rows.num_rows == 0

    (corpus / f"same.{ending}").unlink()
    smaller = grown(larger)
    assert gone_sources(smaller) == {hashlib.sha256(photographs[number][1]).hexdigest() for number in (0, 1)}


def test_a_list_grows_by_its_lines(tmp_path: Path) -> None:
    for number in range(3):
        save_image(tmp_path / f"{number}.png", 64, 64, seed=number)
    (tmp_path / "list.txt").write_text("2.png\n0.png\nlate.png\n")
    place, recipe = (
        locate(tmp_path / "dataset"),
        small_recipe(tmp_path, cameras=[CAMERA], corpus=str(tmp_path / "list.txt")),
    )
    ingest(place, recipe)
    summary = write_plan(place, plan_shards(index_batches(place), recipe))
    dataset = create_or_open(place, recipe, "m", [load_profile(CAMERA)], summary.samples)
    write_missing(dataset)
    publish(dataset)
    assert not find_changes(dataset)
    save_image(tmp_path / "late.png", 64, 64, seed=9)
    mended = take_in(dataset, retry=True)
    assert mended.planned_samples == 3
    write_missing(mended)
    (tmp_path / "list.txt").write_text("1.png\n2.png\nlate.png\n")
    larger = grown(mended)
    assert larger.planned_samples == 4
    assert gone_sources(larger) == {hashlib.sha256((tmp_path / "0.png").read_bytes()).hexdigest()}


@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_what_kind_a_corpus_is_is_asked_once(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    tell = growth.is_list
    monkeypatch.setattr(growth, "is_list", lambda corpus, column: asked.append(corpus.url) or tell(corpus, column))
    assert not find_changes(dataset)  # of an index of several pieces
    assert len(asked) == 1
