import hashlib
import pickle
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aura.errors import (
    DatasetConflictError,
    EmptyCorpusError,
    IntegrityError,
    MissingFileError,
    RejectedImageError,
    StorageAccessError,
)
from storage.corpora.corpus import check_corpus, list_items, read_item, read_source
from storage.corpora.index import INDEX_NAME, has_index, index_batches, index_items, read_rows_of, reject_counts
from storage.corpora.ingest import Part, PartReport, ingest, read_part
from storage.corpora.photograph import decode
from storage.corpora.sources import Item
from storage.datasets.plan import plan_shards
from storage.objects.location import Location, locate
from storage.recipe import Limits
from tests.conftest import S3Server
from tests.storage.conftest import read_corpus, save_image, small_recipe

LIMITS = Limits()


def upload(folder: Path, place: Location) -> Location:
    """Copy a folder to a place, by other means than the project's where it is S3."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            place.join(*path.relative_to(folder).parts).write(path.read_bytes())
    return place


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    save_image(folder / "b.png", 100, 80, seed=1)
    save_image(folder / "a" / "deep" / "é (1).PNG", 64, 64, seed=2)
    save_image(folder / "c" / "same as b.png", 100, 80, seed=1)
    (folder / "notes.txt").write_text("labels, not a photograph")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (folder / "empty.png").write_bytes(b"")
    (folder / ".hidden.png").write_bytes(b"")
    return folder


def test_a_corpus_is_indexed_in_order_with_reasons(photos: Path, place: Location, tmp_path: Path) -> None:
    counts: list[int] = []
    recipe = small_recipe(tmp_path, corpus=upload(photos, place.join("photos")).url)
    done = ingest(tmp_path / "dataset", recipe, on_progress=counts.append)
    index = pa.Table.from_batches(index_batches(tmp_path / "dataset"))
    rows = index.to_pylist()
    assert [Path(locate(row["uri"]).url).name for row in rows] == [
        "é (1).PNG", "b.png", "broken.jpg", "same as b.png", "empty.png",
    ]  # fmt: skip
    assert [row["reject_reason"] for row in rows] == [None, None, "damaged", "duplicate", "empty_file"]
    assert rows[3]["reject_detail"].endswith("b.png.")
    assert rows[1]["sha256"] == hashlib.sha256((photos / "b.png").read_bytes()).hexdigest()
    assert (rows[1]["height_px"], rows[1]["width_px"], rows[1]["icc"]) == (100, 80, "sRGB (assumed)")
    assert (counts[-1], done.files) == (5, 5)
    assert reject_counts(index) == done.rejected == {"damaged": 1, "duplicate": 1, "empty_file": 1}


def test_indexing_again_gives_the_same_table_however_it_is_cut(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = read_corpus(photos, tmp_path / "1")
    monkeypatch.setattr("storage.corpora.ingest.PART_ITEMS", 1)
    assert read_corpus(photos, tmp_path / "2").equals(whole)
    assert (tmp_path / "1/index.parquet").read_bytes() == (tmp_path / "2/index.parquet").read_bytes()


def test_one_file_is_a_corpus(photos: Path, tmp_path: Path) -> None:
    assert read_corpus(photos / "b.png", tmp_path / "d").num_rows == 1


def test_an_empty_corpus_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        check_corpus(tmp_path / "none")
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(EmptyCorpusError, match="holds no photographs"):
        check_corpus(tmp_path)
    recipe = small_recipe(tmp_path, corpus=str(tmp_path / "corpus"))
    (tmp_path / "corpus").mkdir()
    with pytest.raises(EmptyCorpusError):
        ingest(tmp_path / "dataset", recipe)
    (tmp_path / "corpus/bad.jpg").write_bytes(b"?")
    with pytest.raises(EmptyCorpusError, match="1 not_an_image"):
        ingest(tmp_path / "dataset", recipe)
    assert list((tmp_path / "dataset").iterdir()) == []


def test_an_empty_prefix_is_no_missing_bucket(s3_environment: S3Server) -> None:
    with pytest.raises(EmptyCorpusError, match="nothing below"):
        check_corpus(f"s3://{s3_environment.bucket}/nothing-here")
    with pytest.raises(MissingFileError, match="bucket does not exist"):
        check_corpus("s3://no-such-bucket/photos")


def test_wrong_keys_stop_an_ingest(s3_environment: S3Server, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = upload(photos, locate(f"s3://{s3_environment.bucket}/keys"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-1")
    with pytest.raises(StorageAccessError):
        index_items(list_items(corpus), LIMITS)


def test_too_many_bytes_are_not_read(photos: Path) -> None:
    index = index_items(list_items(photos), Limits(max_bytes=100_000, max_pixels=70 * 70))
    assert index["reject_reason"].to_pylist()[:2] == [None, "too_many_pixels"]
    size = (photos / "b.png").stat().st_size
    rows = index_items(list_items(photos), Limits(max_bytes=size - 1)).to_pylist()
    assert rows[1]["reject_reason"] == "too_many_bytes"
    assert rows[1]["sha256"] is None


def test_a_source_that_changed_or_went_is_a_reject(photos: Path, tmp_path: Path) -> None:
    plan = plan_shards([read_corpus(photos, tmp_path / "d")], small_recipe(tmp_path))
    row: dict[str, Any] = next(
        row for shard in plan for row in shard.to_pylist() if row["source_uri"].endswith("b.png")
    )
    assert decode(read_source(row), LIMITS).image.shape == (100, 80, 3)
    save_image(photos / "b.png", 100, 80, seed=9)
    with pytest.raises(RejectedImageError) as caught:
        read_source(row)
    assert caught.value.reason == "changed"
    (photos / "b.png").unlink()
    with pytest.raises(RejectedImageError) as caught:
        read_source(row)
    assert caught.value.reason == "missing"


def test_the_index_is_kept_and_belongs_to_its_recipe(photos: Path, place: Location, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, corpus=str(photos))
    assert not has_index(place, recipe)
    ingest(place, recipe)
    assert has_index(place, recipe)
    kept = place.join(INDEX_NAME).read()
    assert pa.Table.from_batches(index_batches(place)).num_rows == read_corpus(photos, tmp_path / "again").num_rows
    ingest(place, recipe)
    assert place.join(INDEX_NAME).read() == kept
    other = small_recipe(tmp_path, corpus=str(photos), seed=5)
    for attempt in (lambda: has_index(place, other), lambda: ingest(place, other)):
        with pytest.raises(DatasetConflictError, match="made with seed 0; asked for seed 5"):
            attempt()
    assert place.join("index").names() == []


def test_a_stopped_ingest_reads_only_the_rest(
    photos: Path, place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.corpora.ingest.PART_ITEMS", 1)
    recipe = small_recipe(tmp_path, corpus=str(photos))
    whole = read_corpus(photos, tmp_path / "whole")

    def stop(count: int) -> None:
        if count == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(place, recipe, on_progress=stop)
    save_image(photos / "a0.png", 80, 80, seed=33)  # comes between the others by name
    read: list[str] = []

    def keep_account(item: Item, *more: Any) -> Any:
        read.append(item.uri.rsplit("/", 1)[1])
        return read_item(item, *more)

    with monkeypatch.context() as patch:
        patch.setattr("storage.corpora.index.read_item", keep_account)
        ingest(place, recipe)
    assert read == ["a0.png", "same%20as%20b.png", "empty.png"]
    index = pa.Table.from_batches(index_batches(place))
    assert set(whole["uri"].to_pylist()) < set(index["uri"].to_pylist())
    assert place.join("index").names() == []


def test_parts_may_be_read_in_any_order(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.corpora.ingest.PART_ITEMS", 1)
    recipe = small_recipe(tmp_path, corpus=str(photos))

    def backwards(parts: Iterator[Part]) -> Iterable[PartReport]:
        return [read_part(tmp_path / "d", pickle.loads(pickle.dumps(part))) for part in reversed(list(parts))]  # noqa: S301  # our own bytes

    ingest(tmp_path / "d", recipe, backwards)
    index = pa.Table.from_batches(index_batches(tmp_path / "d"))
    assert index.to_pylist() == read_corpus(photos, tmp_path / "e").to_pylist()


def test_the_index_is_plain_parquet(photos: Path, tmp_path: Path) -> None:
    read_corpus(photos, tmp_path / "d")
    assert pq.read_table(tmp_path / "d" / "index.parquet").column_names[:3] == ["uri", "member", "offset_bytes"]


def test_an_index_of_an_older_release_is_read(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, corpus=str(photos))
    ingest(tmp_path / "d", recipe)
    table = pq.read_table(tmp_path / "d/index.parquet")
    pq.write_table(table.drop_columns(["archive_bytes"]), tmp_path / "d/index.parquet")
    index = read_rows_of(locate(tmp_path / "d").join(INDEX_NAME))
    assert index.schema.names == table.schema.names


def test_every_odd_file_is_in_the_index(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "odd", tmp_path / "odd")
    rows = read_corpus(tmp_path / "odd", tmp_path / "d").to_pylist()
    assert len(rows) == len(list((tmp_path / "odd").iterdir())) - 1  # without index.json
    counts = {reason: sum(row["reject_reason"] == reason for row in rows) for reason in ("duplicate", "too_small")}
    assert counts == {"duplicate": 3, "too_small": 6}
    usable = [row for row in rows if row["reject_reason"] is None]
    assert all(row["height_px"] >= 32 and row["width_px"] >= 32 for row in usable)
    assert np.all([row["sha256"] for row in usable])


def test_an_index_with_a_spoilt_footer_is_told_as_damage(tmp_path: Path) -> None:
    save_image(tmp_path / "corpus/a.png", 64, 64)
    recipe, place = small_recipe(tmp_path), locate(tmp_path / "dataset")
    ingest(place, recipe)
    file = place.join(INDEX_NAME)
    written = file.read()
    footer = int.from_bytes(written[-8:-4], "little")
    rng = np.random.default_rng(0)
    for byte, bit in zip(rng.integers(footer, size=60), rng.integers(8, size=60), strict=True):
        spoilt = bytearray(written)
        spoilt[len(written) - 8 - footer + byte] ^= 1 << bit
        file.write(bytes(spoilt))
        with suppress(IntegrityError, DatasetConflictError):  # a bit may lie where nothing is read
            has_index(place, recipe)
