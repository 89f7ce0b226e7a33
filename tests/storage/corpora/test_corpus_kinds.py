"""Folders, tar files, Parquet files and lists: the same photographs give the same samples, whatever they come in."""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from aura.errors import EmptyCorpusError, InvalidInputError, RejectedImageError, StorageError
from storage.corpora.corpus import check_corpus, list_items, read_bytes, read_item, read_source
from storage.corpora.image_tables import read_row
from storage.corpora.index import index_items
from storage.corpora.sources import Item, Source, source_name
from storage.datasets.plan import PLAN_SCHEMA, plan_shards
from storage.objects.location import Location, locate
from storage.recipe import Limits
from tests.conftest import S3Server
from tests.storage.conftest import Photographs, encoded, make_table, make_tar, read_corpus, save_image, small_recipe

LIMITS = Limits()
PROVENANCE = ["source_uri", "source_member", "source_offset_bytes"]


def as_folder(photographs: Photographs, place: Location) -> Location:
    for number, (name, data) in enumerate(photographs):
        place.join("folder", f"{number:04d}-{name}").write(data)
    return place.join("folder")


def as_tar(photographs: Photographs, place: Location) -> Location:
    place.join("tar", "shard-0003.tar").write(make_tar([("000.json", b"{}"), *photographs]))
    return place.join("tar")


def as_table(photographs: Photographs, place: Location) -> Location:
    place.join("table", "part-0.parquet").write(make_table(photographs))
    return place.join("table")


def as_structs(photographs: Photographs, place: Location) -> Location:
    place.join("structs.parquet").write(make_table(photographs, structs=True))
    return place.join("structs.parquet")


def as_list(photographs: Photographs, place: Location) -> Location:
    for name, data in photographs:
        place.join("listed", name).write(data)
    place.join("list.txt").write("\n".join(f"listed/{name}" for name, _ in photographs).encode())
    return place.join("list.txt")


def as_csv(photographs: Photographs, place: Location) -> Location:
    for name, data in photographs:
        place.join("named", name).write(data)
    uris = (place.join("named", name) for name, _ in photographs)
    rows = [f'{number},"{Path(uri.url).as_uri() if uri.is_local else uri.url}"' for number, uri in enumerate(uris)]
    place.join("list.csv").write("\r\n".join(["id,url", *rows]).encode())
    return place.join("list.csv")


KINDS: list[Callable[[Photographs, Location], Location]] = [as_folder, as_tar, as_table, as_structs, as_list, as_csv]

photograph = st.builds(
    encoded,
    st.integers(40, 140),
    st.integers(40, 140),
    st.tuples(*[st.integers(0, 255)] * 3),
    st.sampled_from(["PNG", "JPEG"]),
) | st.just(b"no image")
names = st.text("abcXYZ0123 é()&;,", min_size=1, max_size=12).map(lambda text: f"{text}.png")


def samples_of(corpus: Location, folder: Path) -> tuple[pa.Table, list[bytes], list[Any]]:
    """Return the plan without the names of sources, what a worker reads for it, and the reasons of what is refused."""
    recipe = small_recipe(folder, corpus=corpus.url)
    index = index_items(list_items(check_corpus(corpus)), recipe.limits)
    usable = index.filter(pa.array([reason is None for reason in index["reject_reason"].to_pylist()], pa.bool_()))
    plan = pa.concat_tables([PLAN_SCHEMA.empty_table(), *plan_shards([usable], recipe, first_shard=1)])
    data = [read_source(row) for row in plan.to_pylist()]
    return plan.drop_columns(PROVENANCE), data, index["reject_reason"].to_pylist()


@given(st.lists(st.tuples(names, photograph), min_size=1, max_size=5, unique_by=lambda pair: pair[0]))
def test_the_same_photographs_give_the_same_samples(
    tmp_path_factory: pytest.TempPathFactory, photographs: Photographs
) -> None:
    folder = tmp_path_factory.mktemp("kinds")
    if all(data == b"no image" for _, data in photographs):
        photographs = [*photographs, ("last.png", encoded(64, 64, (9, 9, 9)))]
    made = [samples_of(kind(photographs, locate(folder)), folder) for kind in KINDS]
    for plan, data, reasons in made[1:]:
        assert plan.equals(made[0][0])
        assert data == made[0][1]
        assert reasons == made[0][2]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_from_s3_and_named(
    kind: Callable[[Photographs, Location], Location], s3_environment: S3Server, tmp_path: Path
) -> None:
    place = locate(f"s3://{s3_environment.bucket}/kinds")
    photographs = [(f"{number}.png", encoded(64, 64, (number, 0, 0))) for number in range(3)]
    corpus = kind(photographs, place)
    rows = read_corpus(corpus, tmp_path / kind.__name__).to_pylist()
    assert [row["reject_reason"] for row in rows] == [None] * 3
    wanted = {
        as_folder: "folder/0002-2.png",
        as_tar: "tar/shard-0003.tar#2.png",
        as_table: "table/part-0.parquet#image/00000002",
        as_structs: "structs.parquet#image/00000002",
        as_list: "listed/2.png",
        as_csv: "named/2.png",
    }
    assert source_name(rows[2]["uri"], rows[2]["member"]) == f"{place.url}/{wanted[kind]}"
    source = Source(rows[2]["uri"], rows[2]["member"], rows[2]["offset_bytes"], rows[2]["length_bytes"])
    assert read_bytes(source) == photographs[2][1]


def test_a_tar_is_refused_by_the_member(tmp_path: Path) -> None:
    good = encoded(64, 64, (1, 2, 3))
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind, linked in [
            ("../../etc/passwd.png", tarfile.REGTYPE, ""),
            ("folder", tarfile.DIRTYPE, ""),
            ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("hard.png", tarfile.LNKTYPE, "../../etc/passwd.png"),
            ("device.png", tarfile.CHRTYPE, ""),
            ("._hidden.png", tarfile.REGTYPE, ""),
            ("labels.cls", tarfile.REGTYPE, ""),
            ("n" * 300 + ".png", tarfile.REGTYPE, ""),
            ("not utf-8 \udcff.png", tarfile.REGTYPE, ""),
            ("twice.png", tarfile.REGTYPE, ""),
            ("twice.png", tarfile.REGTYPE, ""),
        ]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, linked
            plain = kind == tarfile.REGTYPE
            entry.size = len(good) if plain else 0
            archive.addfile(entry, io.BytesIO(good) if plain else None)
    (tmp_path / "x.tar").write_bytes(sink.getvalue())
    rows = index_items(list_items(tmp_path), LIMITS).to_pylist()
    assert [(row["member"], row["reject_reason"]) for row in rows] == [
        ("../../etc/passwd.png", None),
        ("link.png", "odd_member"),
        ("hard.png", "odd_member"),
        ("device.png", "odd_member"),
        ("n" * 300 + ".png", None),
        ("not utf-8 \\udcff.png", None),
        ("twice.png", None),
        ("twice.png", None),
    ]
    assert "link" in rows[1]["reject_detail"]
    small = index_items(list_items(tmp_path), Limits(max_bytes=len(good) - 1)).to_pylist()
    assert small[0]["reject_reason"] == "too_many_bytes"


@pytest.mark.parametrize("spoil", ["cut", "header", "huge pax", "negative", "none", "empty"])
def test_a_damaged_tar_gives_what_lies_before_the_damage(spoil: str, tmp_path: Path) -> None:
    data = bytearray(make_tar([(f"{number}.png", encoded(64, 64, (number, 0, 0))) for number in range(3)]))
    with tarfile.open(fileobj=io.BytesIO(bytes(data))) as archive:
        third = archive.getmembers()[2].offset
    found = 2
    if spoil == "cut":
        data = data[: third + 600]
        found = 3  # the last is there by name, and truncated
    elif spoil == "header":
        data[third] ^= 1
    elif spoil in {"huge pax", "negative"}:
        entry = tarfile.TarInfo("x")
        entry.type = tarfile.XHDTYPE if spoil == "huge pax" else tarfile.REGTYPE
        entry.size = 2**33 if spoil == "huge pax" else -(2**20)
        data[third : third + 512] = entry.tobuf(tarfile.GNU_FORMAT)[:512]
        data += bytes(2 << 20)
    elif spoil == "none":
        data, found = bytearray(b"no tar" * 200), 0
    else:
        data, found = bytearray(make_tar([])), 0
    (tmp_path / "x.tar").write_bytes(data)
    rows = index_items(list_items(tmp_path), LIMITS).to_pylist()
    reasons = [row["reject_reason"] for row in rows]
    last = "empty_archive" if spoil == "empty" else "damaged_archive"
    assert reasons == [None] * min(found, 2) + ["truncated"] * (found - 2) + [last]
    assert rows[-1]["member"] is None


def test_a_table_is_refused_by_the_row_and_read_in_any_order(tmp_path: Path) -> None:
    photographs = [(str(number), encoded(64, 64, (number, 0, 0))) for number in range(7)]
    (tmp_path / "x.parquet").write_bytes(make_table(photographs, rows=3))
    uri = (tmp_path / "x.parquet").as_uri()
    for row in (6, 0, 2, 1, 5, 5):
        assert read_row(uri, f"image/{row:08d}") == photographs[row][1]
    images = [photographs[0][1], None, b"no image", photographs[1][1] + bytes(5000)]
    pq.write_table(pa.table({"image": pa.array(images, pa.large_binary())}), tmp_path / "x.parquet")
    rows = index_items(list_items(tmp_path), Limits(max_bytes=4000)).to_pylist()
    assert [row["reject_reason"] for row in rows] == [None, "missing", "not_an_image", "too_many_bytes"]
    planned = {"source_uri": uri, "source_offset_bytes": None, "source_length_bytes": 1, "source_sha256": "?"}
    for member in ("image/00000009", "image/00000001", "none/00000000"):
        with pytest.raises(RejectedImageError) as caught:
            read_source(planned | {"source_member": member})
        assert caught.value.reason == "missing"
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    rows = index_items(list_items(tmp_path), LIMITS).to_pylist()
    assert [(row["member"], row["reject_reason"]) for row in rows] == [(None, "damaged_archive")]


def test_a_column_is_found_or_named(tmp_path: Path) -> None:
    photographs = [("a", encoded(64, 64, (1, 0, 0))), ("b", encoded(64, 64, (2, 0, 0)))]
    thumbnails = [data for _, data in photographs[::-1]]
    (tmp_path / "x.parquet").write_bytes(make_table(photographs, embedding=[b"1", b"2"]))
    assert len(list(read_corpus(tmp_path, tmp_path / "a").to_pylist())) == 2
    (tmp_path / "x.parquet").write_bytes(make_table(photographs, thumbnail=thumbnails))
    with pytest.raises(InvalidInputError, match=r"image, thumbnail.*--column"):
        check_corpus(tmp_path)
    rows = read_corpus(tmp_path, tmp_path / "b", corpus_column="thumbnail").to_pylist()
    assert rows[0]["member"] == "thumbnail/00000000"
    (tmp_path / "x.parquet").write_bytes(make_table(photographs, size=[1, 2]))
    with pytest.raises(InvalidInputError, match=r"'size'.*expected bytes"):
        check_corpus(tmp_path, "size")
    (tmp_path / "x.parquet").unlink()
    pq.write_table(pa.table({"caption": ["x"]}), tmp_path / "labels.parquet")
    with pytest.raises(EmptyCorpusError):  # a table beside photographs is none
        check_corpus(tmp_path)


@pytest.fixture
def serve() -> Iterator[Callable[[Any], str]]:
    """Start a web server that answers by a handler; gives its address."""
    with ExitStack() as stack:

        def start(handler: Any) -> str:
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}"

        yield start


@pytest.fixture
def web(tmp_path: Path, serve: Callable[[Any], str]) -> str:
    """A web server of the test's folder, which cannot give ranges."""
    return serve(partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))


def test_lists_name_what_they_find_and_refuse_the_rest(tmp_path: Path, web: str) -> None:
    save_image(tmp_path / "a b.png", 64, 64, seed=1)
    save_image(tmp_path / "other.png", 64, 64, seed=2)
    (tmp_path / "shard.tar").write_bytes(make_tar([("c.png", encoded(64, 64, (5, 5, 5)))]))
    lines = [
        "# photographs",
        "a b.png",
        "",
        str(tmp_path / "a b.png"),
        "shard.tar",
        "gone.png",
        "gone.tar",
        "zip://x.png::https://example.org/a.zip",
        "https://bucket.example.org/a.png?X-Amz-Signature=hush99",
        "s3://AKIA77:hush99@bucket/a.png",
        f"{web}/a%20b.png",
        f"{web}/gone.png",
        f"{web}/other.png",
        "x" * 5000,
        "bell\a.png",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    rows = read_corpus(tmp_path / "list.txt", tmp_path / "d").to_pylist()
    assert [row["reject_reason"] for row in rows] == [
        None, "duplicate", None, "missing", "missing", "wrong_uri", "credentials_in_uri", "wrong_uri", "duplicate",
        "missing", None, "wrong_uri", "wrong_uri",
    ]  # fmt: skip
    assert "hush99" not in repr(rows)
    assert rows[2]["member"] == "c.png"
    pq.write_table(pa.table({"where": ["a b.png"], "who": ["me"]}), tmp_path / "list.parquet")
    with pytest.raises(InvalidInputError, match=r"where, who.*--column"):
        check_corpus(tmp_path / "list.parquet")
    assert read_corpus(tmp_path / "list.parquet", tmp_path / "e", corpus_column="where").num_rows == 1
    (tmp_path / "list.tsv").write_text("a b.png\n")  # one column without a title
    assert read_corpus(tmp_path / "list.tsv", tmp_path / "f").num_rows == 1


class _Endless(BaseHTTPRequestHandler):
    """Says that a file has a thousand bytes, and sends without end."""

    protocol_version = "HTTP/1.1"
    sent = 0

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with suppress(OSError):  # the reader has had enough
            while type(self).sent < 1 << 28:
                type(self).sent += self.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any) -> None: ...


def test_of_an_endless_file_no_more_is_read_than_is_allowed(serve: Callable[[Any], str]) -> None:
    item = Item(f"{serve(_Endless)}/a.png", None)
    ((_, content),) = read_item(item, Limits(max_bytes=1 << 20))
    assert isinstance(content, RejectedImageError)
    assert content.reason == "too_many_bytes"
    assert _Endless.sent < 1 << 26  # what lies in buffers on the way comes on top
    with pytest.raises(StorageError, match="sends whole files only"):
        locate(item.uri).read(10, 20)


class _Redirecting(BaseHTTPRequestHandler):
    """Sends whoever asks on to a cloud's metadata service."""

    def do_HEAD(self) -> None:
        self.send_response(302)
        self.send_header("Location", "http://169.254.169.254/latest/meta-data/iam/security-credentials/role.png")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()

    def log_message(self, *_: Any) -> None: ...


def test_metadata_services_are_not_asked_however_they_are_named(tmp_path: Path, serve: Callable[[Any], str]) -> None:
    save_image(tmp_path / "a.png", 64, 64)
    lines = [
        "a.png",
        "http://169.254.169.254/latest/meta-data/role.png",
        "http://169.254.7.7/shard.tar",
        "http://100.100.100.200/part.parquet",
        f"{serve(_Redirecting)}/b.png",
        f"{serve(_Redirecting)}/shard.tar",
    ]
    (tmp_path / "list.txt").write_text("\n".join(lines))
    rows = read_corpus(tmp_path / "list.txt", tmp_path / "d").to_pylist()
    assert [row["reject_reason"] for row in rows] == [None] + ["forbidden_host"] * 5
    assert all("metadata service" in row["reject_detail"] for row in rows[1:])


def test_an_archive_that_its_server_does_not_give_is_a_reject(tmp_path: Path) -> None:
    save_image(tmp_path / "a.png", 64, 64)
    (tmp_path / "list.txt").write_text("a.png\nhttp://127.0.0.1:9/shard.tar\nhttp://127.0.0.1:9/b.png")
    rows = read_corpus(tmp_path / "list.txt", tmp_path / "d").to_pylist()
    assert [row["reject_reason"] is None for row in rows] == [True, False, False]
    for name in ("gone.tar", "gone.parquet"):  # listed, and taken away before it was read
        ((source, content),) = read_item(Item((tmp_path / name).as_uri(), 1000), LIMITS)
        assert isinstance(content, RejectedImageError)
        assert (source.member, content.reason) == (None, "missing")


@pytest.mark.parametrize("kind", [as_tar, as_table])
def test_ranges_of_another_length_are_damage_and_never_photographs(
    kind: Callable[[Photographs, Location], Location], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    noise = [save_noise(rng) for _ in range(2)]
    corpus = kind([(f"{number}.png", data) for number, data in enumerate(noise)], locate(tmp_path))
    (entry,) = corpus.walk()
    item = Item(entry.uri, entry.size)
    assert [content for _, content in read_item(item, LIMITS)] == noise
    read = Location.read

    def shorter(place: Location, start: int | None = None, stop: int | None = None) -> bytes:
        return read(place, start, stop)[:-7]

    def whole(place: Location, start: int | None = None, stop: int | None = None) -> bytes:
        return read(place) if start else read(place, start, stop)

    for answers in (shorter, whole):
        monkeypatch.setattr(Location, "read", answers)
        found = [content for _, content in read_item(item, LIMITS)]
        assert all(content in noise or isinstance(content, RejectedImageError) for content in found)
        if answers is shorter:
            assert [content.reason for content in found if isinstance(content, RejectedImageError)] == [
                "damaged_archive"
            ]


def save_noise(rng: np.random.Generator) -> bytes:
    target = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(target, "PNG")
    return target.getvalue()


@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_a_text_list_without_a_column_of_paths_says_which_it_has(tmp_path: Path, ending: str) -> None:
    separator = "," if ending == "csv" else "\t"
    (tmp_path / f"list.{ending}").write_text(separator.join(["who", "when"]) + "\n" + separator.join(["me", "now"]))
    with pytest.raises(InvalidInputError, match=r"who, when.*--column"):
        check_corpus(tmp_path / f"list.{ending}")
