import hashlib
import io
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
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
from storage.corpus import check_corpus, list_sources, read_bytes, read_source
from storage.index import ingest, read_index, reject_counts, write_index
from storage.location import Location, locate
from storage.photograph import decode
from storage.plan import plan_samples
from storage.recipe import Limits, load_recipe
from tests.conftest import S3Server
from tests.storage.conftest import save_image, small_recipe

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


def test_a_corpus_is_indexed_in_order_with_reasons(photos: Path, place: Location) -> None:
    counts: list[int] = []
    index = ingest(upload(photos, place), LIMITS, counts.append)
    rows = index.to_pylist()
    assert [Path(locate(row["uri"]).url).name for row in rows] == [
        "é (1).PNG", "b.png", "broken.jpg", "same as b.png", "empty.png",
    ]  # fmt: skip
    assert [row["reject_reason"] for row in rows] == [None, None, "damaged", "duplicate", "empty_file"]
    assert rows[3]["reject_detail"].endswith("b.png.")
    assert rows[1]["sha256"] == hashlib.sha256((photos / "b.png").read_bytes()).hexdigest()
    assert (rows[1]["height_px"], rows[1]["width_px"], rows[1]["icc"]) == (100, 80, "sRGB (assumed)")
    assert counts == [1, 2, 3, 4, 5]
    assert reject_counts(index) == {"damaged": 1, "duplicate": 1, "empty_file": 1}


def test_indexing_again_gives_the_same_table(photos: Path) -> None:
    assert ingest(photos, LIMITS).equals(ingest(str(photos), LIMITS))


def test_one_file_is_a_corpus(photos: Path) -> None:
    assert ingest(photos / "b.png", LIMITS).num_rows == 1


def test_a_tar_is_read_by_byte_ranges(photos: Path, place: Location) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        archive.add(photos / "b.png", "x/b.png")
        archive.add(photos / "notes.txt", "notes.txt")
        archive.add(photos / "a", "a")
    place.join("photos.tar").write(sink.getvalue())
    index = ingest(place, LIMITS)
    rows = index.to_pylist()
    assert [row["member"] for row in rows] == ["x/b.png", "a/deep/é (1).PNG"]
    recipe = load_recipe(None, {"corpus": place.url, "canvas.height": 64, "canvas.width": 64})
    planned = plan_samples(index, recipe, "m").to_pylist()[0]
    assert read_source(planned) == (photos / "b.png").read_bytes()


def test_a_damaged_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(IntegrityError, match=r"x\.tar is damaged"):
        list(list_sources(tmp_path))


def test_an_empty_corpus_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        check_corpus(tmp_path / "none")
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(EmptyCorpusError, match="holds no photographs"):
        check_corpus(tmp_path)
    with pytest.raises(EmptyCorpusError):
        ingest(tmp_path, LIMITS)
    (tmp_path / "bad.jpg").write_bytes(b"?")
    with pytest.raises(EmptyCorpusError, match="1 not_an_image"):
        ingest(tmp_path, LIMITS)


def test_an_empty_prefix_is_no_missing_bucket(s3_environment: S3Server) -> None:
    with pytest.raises(EmptyCorpusError, match="nothing below"):
        check_corpus(f"s3://{s3_environment.bucket}/nothing-here")
    with pytest.raises(MissingFileError, match="bucket does not exist"):
        check_corpus("s3://no-such-bucket/photos")


def test_wrong_keys_stop_an_ingest(s3_environment: S3Server, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = upload(photos, locate(f"s3://{s3_environment.bucket}/keys"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret-1")
    with pytest.raises(StorageAccessError):
        ingest(corpus, LIMITS)


def test_too_many_bytes_are_not_read(photos: Path) -> None:
    index = ingest(photos, Limits(max_bytes=100_000, max_pixels=70 * 70))
    assert index["reject_reason"].to_pylist()[:2] == [None, "too_many_pixels"]
    size = (photos / "b.png").stat().st_size
    rows = ingest(photos, Limits(max_bytes=size - 1)).to_pylist()
    assert rows[1]["reject_reason"] == "too_many_bytes"
    assert rows[1]["sha256"] is None


def test_a_source_that_changed_or_went_is_a_reject(photos: Path, tmp_path: Path) -> None:
    planned = plan_samples(ingest(photos, LIMITS), small_recipe(tmp_path), "m").to_pylist()
    row: dict[str, Any] = next(row for row in planned if row["source_uri"].endswith("b.png"))
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
    index = ingest(photos, recipe.limits)
    assert read_index(place, recipe) is None
    write_index(place, index, recipe)
    kept = read_index(place, recipe)
    assert kept is not None
    assert kept.replace_schema_metadata(None).equals(index)
    write_index(place, index, recipe)
    other = small_recipe(tmp_path, corpus=str(photos), seed=5)
    for attempt in (lambda: read_index(place, other), lambda: write_index(place, index, other)):
        with pytest.raises(DatasetConflictError, match="differs in seed"):
            attempt()
    assert place.names() == ["index.parquet"]


def test_a_stopped_ingest_reads_only_the_rest(
    photos: Path, place: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.index.CHECKPOINT_ROWS", 2)
    recipe = small_recipe(tmp_path, corpus=str(photos))
    whole = ingest(photos, recipe.limits)

    def stop(count: int) -> None:
        if count == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(photos, recipe.limits, stop, resume_in=place)
    assert len(place.join("index").names()) == 2
    read: list[str] = []
    monkeypatch.setattr("storage.index.read_bytes", lambda source: read.append(source.uri) or read_bytes(source))
    assert ingest(photos, recipe.limits, resume_in=place).equals(whole)
    assert len(read) == 1
    assert ingest(photos, Limits(min_side=70), resume_in=place)["reject_reason"].to_pylist()[0] == "too_small"
    write_index(place, whole, recipe)
    assert place.join("index").names() == []


def test_the_index_is_plain_parquet(photos: Path, tmp_path: Path) -> None:
    recipe = small_recipe(tmp_path, corpus=str(photos))
    write_index(tmp_path / "d", ingest(photos, recipe.limits), recipe)
    assert pq.read_table(tmp_path / "d" / "index.parquet").column_names[:3] == ["uri", "member", "offset_bytes"]


def test_every_odd_file_is_in_the_index(data_dir: Path, tmp_path: Path) -> None:
    shutil.copytree(data_dir / "odd", tmp_path / "odd")
    rows = ingest(tmp_path / "odd", LIMITS).to_pylist()
    assert len(rows) == len(list((tmp_path / "odd").iterdir())) - 1  # without index.json
    counts = {reason: sum(row["reject_reason"] == reason for row in rows) for reason in ("duplicate", "too_small")}
    assert counts == {"duplicate": 3, "too_small": 6}
    usable = [row for row in rows if row["reject_reason"] is None]
    assert all(row["height_px"] >= 32 and row["width_px"] >= 32 for row in usable)
    assert np.all([row["sha256"] for row in usable])
