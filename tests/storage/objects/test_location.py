import gc
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aura.errors import InvalidInputError, MissingFileError, StorageAccessError, StorageError
from storage.objects.location import Location, locate
from storage.objects.refusals import without_credentials
from tests.conftest import S3Server, run_s3_server


def test_an_object_is_written_read_and_listed(place: Location) -> None:
    item = place.join("a", "b.bin")
    assert not item.exists()
    assert place.names() == []
    item.write(b"0123456789")
    item.write(b"abcdefghij")
    assert item.exists()
    assert item.read() == b"abcdefghij"
    assert item.read(2, 5) == b"cde"
    assert place.join("a").names() == ["b.bin"]
    assert not place.join("a").exists()
    assert [(entry.uri.rsplit("/", 1)[1], entry.size) for entry in place.walk()] == [("b.bin", 10)]
    place.check_reachable()


def test_what_is_not_there_is_said(place: Location) -> None:
    with pytest.raises(MissingFileError, match="is not there"):
        place.join("none").read()
    with pytest.raises(MissingFileError):
        list(place.join("none").walk())


def test_only_one_of_many_creates(place: Location) -> None:
    item = place.join("claim")
    wins: list[int] = []
    gate = threading.Barrier(8)

    def claim(number: int) -> None:
        gate.wait()
        if item.create(str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert item.read() == str(wins[0]).encode()
    assert not item.create(b"late")
    assert item.read() == str(wins[0]).encode()


def test_a_location_may_be_pickled(place: Location) -> None:
    place.join("a").write(b"1")
    assert pickle.loads(pickle.dumps(place)).join("a").read() == b"1"  # noqa: S301  # our own bytes


def test_paths_become_absolute_and_urls_clean(tmp_path: Path) -> None:
    assert locate("x/../photos").url == str(Path.cwd() / "photos")
    assert locate("~/photos").url == str(Path.home() / "photos")
    assert locate((tmp_path / "a b é#?").as_uri()).url == str(tmp_path / "a b é#?")
    assert locate("s3://bucket/a/b//").url == "s3://bucket/a/b"


@pytest.mark.parametrize("url", ["", "  ", "gopher://x", "s3://", "s3://AKIA77:hush99@bucket/x"])
def test_a_wrong_url_is_refused_without_repeating_its_secrets(url: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        locate(url)
    assert "hush99" not in str(caught.value)
    assert "AKIA77" not in str(caught.value)


@pytest.mark.parametrize(
    ("written", "meant"), [("s3:/bucket/x", "s3://bucket/x"), ("s3:bucket", "s3://bucket"), ("http:/h/x", "http://h/x")]
)
def test_a_url_with_one_slash_is_not_taken_for_a_path(written: str, meant: str) -> None:
    with pytest.raises(InvalidInputError, match=f"did you mean {meant}[?]"):
        locate(written)
    assert locate(f"./{written}").is_local


def test_a_file_uri_with_one_slash_is_one() -> None:
    assert locate("file:/photos/a").url == "/photos/a"


@pytest.mark.parametrize("url", ["ftp://host/photos", "github://owner/photos"])
def test_a_scheme_that_asks_for_more_is_refused_in_one_sentence(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(InvalidInputError, match="cannot be used here: missing a required argument"):
        locate(url).exists()
    gc.collect()  # what the libraries say of a file system that was half made
    assert not ignored


def test_a_web_server_is_not_asked_for_a_listing() -> None:
    with pytest.raises(InvalidInputError, match="Give a list with a URI on each line"):
        next(locate("https://127.0.0.1:9/photos").stream())


def test_any_file_name_survives_a_listing(tmp_path: Path) -> None:
    name = os.fsdecode(b"not utf-8 \xff %41#?.jpg")
    (tmp_path / name).write_bytes(b"1")
    (entry,) = locate(tmp_path).walk()
    assert locate(entry.uri).read() == b"1"
    entry.uri.encode("ascii")


def test_hidden_and_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / ".x.123.part").write_bytes(b"1")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "y").write_bytes(b"1")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert list(locate(tmp_path).walk()) == []
    assert locate(tmp_path).names() == ["loop"]


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from storage.objects.location import locate\n"
        "from aura.errors import StorageError\n"
        "try: locate(sys.argv[1]).write(bytes(5000))\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "big")], capture_output=True, text=True, check=True
    )
    assert "no room left" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="part of the path is a file"):
        locate(tmp_path / "file" / "x").write(b"1")
    with pytest.raises(StorageError, match="part of the path is a file"):
        locate(tmp_path / "file" / "x").create(b"1")


@pytest.mark.parametrize("operation", ["check_reachable", "read", "exists", "names"])
def test_wrong_keys_are_said_without_repeating_them(
    operation: str, s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3_environment.environment(secret="a-wrong-secret-98765").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StorageAccessError, match="refused the credentials") as caught:
        getattr(locate(f"s3://{s3_environment.bucket}/x"), operation)()
    assert "a-wrong-secret-98765" not in str(caught.value)
    assert s3_environment.key not in str(caught.value)


def test_a_key_that_may_only_read_is_told_so(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    item = locate(f"s3://{s3_environment.bucket}/only-read")
    item.write(b"1")
    reader = s3_environment.environment(s3_environment.reader_key, s3_environment.reader_secret)
    for name, value in reader.items():
        monkeypatch.setenv(name, value)
    assert item.read() == b"1"
    for refused in (item.write, item.create):
        with pytest.raises(StorageAccessError, match="what they are allowed to do"):
            refused(b"2")
    assert item.read() == b"1"


def test_a_key_revoked_while_running_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with run_s3_server(tmp_path) as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        item = locate(f"s3://{server.bucket}/x")
        item.write(b"1")
        server.revoke()
        with pytest.raises(StorageAccessError, match="refused the credentials"):
            item.write(b"2")
        with pytest.raises(StorageAccessError, match="refused the credentials"):
            item.read()


def test_missing_keys_are_told_so(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StorageAccessError):
        locate(f"s3://{s3_environment.bucket}/x").check_reachable()


def test_a_missing_bucket_is_told_so(s3_environment: S3Server) -> None:  # noqa: ARG001  # sets the environment
    with pytest.raises(MissingFileError, match="s3://no-such-bucket: the bucket does not exist"):
        locate("s3://no-such-bucket/x").check_reachable()


def test_a_storage_that_does_not_answer_is_told_so(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StorageError, match="Check that it is up"):
        locate(f"s3://{s3_environment.bucket}/x").check_reachable()


@pytest.mark.parametrize(
    ("endpoint", "url", "said"),
    [
        ("127.0.0.1:8333", "s3://bucket/there", "AWS_ENDPOINT_URL is no URL"),
        ("http://127.0.0.1:8333", "smb://host/there", "smb:// cannot be used here"),
    ],
)
def test_what_cannot_be_opened_is_told_so(endpoint: str, url: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InvalidInputError, match=said):
        locate(url).read()


def test_credentials_are_blotted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    said = without_credentials("sent hush to https://user:pass@host/x?X-Amz-Signature=ab12&y=1.")
    assert said == "sent *** to https://***@host/x?X-Amz-Signature=***&y=1"


def test_new_folders_are_on_the_disk_too_when_a_file_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    place = locate(tmp_path / "new" / "raw" / "c" / "0")
    place.write(b"1")
    folders = [name for name in synced if Path(name).is_dir()]
    assert {str(folder) for folder in (tmp_path, *list(Path(place.url).parents)[:3])} == set(folders)
    synced.clear()
    place.write(b"2")
    assert [name for name in synced if Path(name).is_dir()] == [str(Path(place.url).parent)]
