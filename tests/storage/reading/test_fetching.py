"""How a stream gets its samples: ahead, from a cache, from S3, within its memory, or not at all."""

import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from aura.errors import IntegrityError, InvalidInputError, MissingFileError, StorageError
from storage.datasets.dataset import Dataset
from storage.objects import transport
from storage.objects.location import locate
from storage.reading import streaming
from storage.reading.chunks import SampleChunks
from storage.reading.cutting import Cutting
from storage.reading.frames import Caching, FrameReader
from storage.reading.streaming import RawStream
from tests.conftest import S3Server
from tests.storage.reading.conftest import SAMPLES, make


def test_the_next_block_is_on_its_way_and_no_third_is_held(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    fetch, begin = FrameReader.fetch, streaming._Block.__init__

    def counted(self: FrameReader, rows: Any, pool: Any) -> Any:
        fetched.append(len(rows))
        return fetch(self, rows, pool)

    def kept(self: Any, *arguments: Any) -> None:
        alive.add(self)
        begin(self, *arguments)

    monkeypatch.setattr(FrameReader, "fetch", counted)
    monkeypatch.setattr(streaming._Block, "__init__", kept)
    stream = RawStream(dataset.location, batch_size=2, cutting=Cutting(crop=8), crops_per_sample=2, memory_mib=1)
    stream._block_visits = 4
    running = iter(stream)
    next(running)
    assert fetched == [4, 4]
    for _ in running:
        assert len(alive) <= 2
        assert all(len(block._decoded) <= 4 for block in alive)
    assert fetched == [4, 4, 4, 4, 4, 2]


def test_a_cache_gives_the_same_without_reading_again(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def new(gib: float) -> RawStream:
        cutting, caching = Cutting(crop=8, srgb=True), Caching(tmp_path / "cache", gib)
        return RawStream(dataset.location, batch_size=4, cutting=cutting, crops_per_sample=2, caching=caching)

    plain = RawStream(dataset.location, batch_size=4, cutting=Cutting(crop=8, srgb=True), crops_per_sample=2)
    expected = [(batch["raw"], batch["srgb"]) for batch in plain]
    sample = (4 * 32 * 32 * 2) + (3 * 64 * 64)
    read: list[int] = []
    chunks = SampleChunks.read

    def counted(self: SampleChunks, shard: int, slots: Any) -> Any:
        read.append(len(slots))
        return chunks(self, shard, slots)

    monkeypatch.setattr(SampleChunks, "read", counted)
    for gib, first, later in ((10.5 * sample / 2**30, 2 * SAMPLES, 2 * (SAMPLES - 10)), (1.0, 2 * (SAMPLES - 10), 0)):
        for reads in (first, later):
            read.clear()
            found = [(batch["raw"], batch["srgb"]) for batch in new(gib)]
            assert sum(read) == reads
            assert all(torch.equal(one[k], two[k]) for one, two in zip(found, expected, strict=True) for k in (0, 1))


def test_datasets_of_the_same_photographs_have_caches_of_their_own(dataset: Dataset, tmp_path: Path) -> None:
    another = make(locate(tmp_path / "another"), tmp_path, noise="none", draw=9)  # the same crops by another recipe
    caching = Caching(tmp_path / "cache")
    for made in (dataset, another, dataset):
        found, expected = (
            torch.cat([batch["raw"] for batch in RawStream(made.location, shuffle=False, caching=each)])
            for each in (caching, None)
        )
        assert torch.equal(found, expected)


def test_a_cache_without_room_on_disk_says_so(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    stream = RawStream(dataset.location, batch_size=4, caching=Caching(tmp_path / "file"))
    with pytest.raises(StorageError, match="Cannot keep a cache"):
        next(iter(stream))


def test_memory_is_bounded_as_stated(dataset: Dataset) -> None:
    sample = 4 * 32 * 32 * 2
    stream = RawStream(dataset.location, batch_size=32, cutting=Cutting(crop=8), memory_mib=1)
    assert stream.memory_bytes == 3 * 32 * sample <= 2**20
    small = RawStream(dataset.location, batch_size=2, cutting=Cutting(crop=8))
    assert small.memory_bytes == 3 * 4 * sample  # several blocks, so that several workers have something to do
    larger = RawStream(dataset.location, batch_size=1024, cutting=Cutting(crop=8), memory_mib=1)
    assert larger.memory_bytes == 3 * 1024 * sample  # the samples of one batch are the least


@pytest.mark.parametrize("way", ["fsspec", "obstore"])
def test_it_streams_from_s3_by_either_transport(
    s3_environment: S3Server, dataset: Dataset, way: Any, tmp_path: Path
) -> None:
    place = locate(f"s3://{s3_environment.bucket}/stream-{way}")
    make(place, tmp_path)
    cutting = Cutting(crop=8, srgb=True)
    here = list(RawStream(dataset.location, batch_size=6, cutting=cutting))
    there = list(RawStream(place, batch_size=6, cutting=cutting, transport=way))
    assert all(torch.equal(one["raw"], two["raw"]) for one, two in zip(here, there, strict=True))
    assert all(torch.equal(one["srgb"], two["srgb"]) for one, two in zip(here, there, strict=True))
    place.join("raw", "c", "3", "0", "0", "0").remove()
    with pytest.raises(MissingFileError):
        list(RawStream(place, batch_size=6, cutting=cutting, transport=way))


def test_obstore_is_refused_where_it_would_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    place = locate("s3://bucket/anything")
    monkeypatch.setattr(transport, "_obstore_began_in", {"process": os.getpid() + 1})
    with pytest.raises(InvalidInputError, match="before this process was forked"):
        transport.open_transport(place, "obstore")
    with pytest.raises(InvalidInputError, match="cannot read memory://x"):
        transport.open_transport(locate("memory://x"), "obstore")


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    made = make(locate(tmp_path / "damaged"), tmp_path)
    target = Path(made.location.url, "raw/c/2/0/0/0")
    data = bytearray(target.read_bytes())
    data[-20] ^= 1
    for damaged in (bytes(data), b""):
        target.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="index of shard 2 in raw/ is damaged"):
            list(RawStream(made.location, batch_size=6))


def test_a_file_cut_short_and_a_server_without_ranges_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make(locate(tmp_path / "short"), tmp_path)

    def whole(self: Any, key: str, bounds: Any) -> list[bytes]:  # answers 200 and the whole object
        return [(self._folder / key).read_bytes() for _ in bounds]

    def nothing(_: Any, __: str, bounds: Any) -> list[bytes]:
        return [b"" for _ in bounds]

    for answers in (whole, nothing):
        monkeypatch.setattr(transport._MappedFiles, "ranges", answers)
        with pytest.raises(IntegrityError, match=r"bytes came where \d+ were asked for"):
            list(RawStream(made.location, batch_size=6))
