import json
import os
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aura.augment import ORIENTATIONS
from aura.bayer import CFA_PATTERNS, pack_rgb
from aura.errors import IntegrityError, InvalidInputError, MissingFileError, StorageError
from aura.sensor.catalog import load_profile
from aura.sensor.noise import noise_at
from storage.datasets.dataset import Dataset, create_or_open
from storage.datasets.shard import ShardData, write_shard
from storage.datasets.versions import publish
from storage.objects import transport
from storage.objects.location import Location, locate
from storage.reading import streaming
from storage.reading.chunks import SampleChunks
from storage.reading.crops import Cutting
from storage.reading.frames import Caching, FrameReader
from storage.reading.map_style import RawDataset
from storage.reading.streaming import RawStream, Source
from tests.conftest import S3Server
from tests.storage.conftest import CAMERA, sample_row, small_recipe

SAMPLES = 22
LEVELS = {"black_level_dn": [100.0] * 4, "white_level_dn": [16100.0] * 4}


def make(
    place: Location, folder: Path, *, noise: str = "on_read", name: str = "a", codec: str = "pcodec", draw: int = 0
) -> Dataset:
    """Twenty-two samples in six shards; a RAW value is 50 times the pixel of its colour, above a black of 100 DN."""
    recipe = small_recipe(folder, shard_size=4, noise=noise, codec=codec)
    dataset = create_or_open(place, recipe, "model-1", [load_profile(CAMERA)], SAMPLES)
    for shard in range(dataset.shard_count):
        start, stop = dataset.shard_bounds(shard)
        srgb = (
            np.random.default_rng([shard, len(name) + draw])
            .integers(0, 256, (stop - start, 3, 64, 64))
            .astype(np.uint8)
        )
        raw, rows = np.zeros((stop - start, 4, 32, 32), np.uint16), []
        for index in range(start, stop):
            pattern = CFA_PATTERNS[index % 4]
            raw[index - start] = 100 + 50 * pack_rgb(torch.from_numpy(srgb[index - start].astype(np.int32)), pattern)
            height = 40 if index % 5 == 0 else 64
            rows.append(
                sample_row(
                    index,
                    sample_id=f"{name}{index}",
                    cfa_pattern=pattern,
                    valid_height_px=height,
                    iso=800,
                    source_uri=f"file:///corpus/{name}/{index}.png",
                    noise_model="calibrated",
                    **LEVELS,
                )
            )
        write_shard(dataset, shard, ShardData(raw, srgb, rows))
    publish(dataset, tag=f"tag-{name}")
    return dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("stream")
    return make(locate(folder / "a"), folder)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("other")
    return make(locate(folder / "bb"), folder, noise="none", name="bb", codec="lz4")


def crops(batches: Iterator[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [
        (int(index), int(top), int(left))
        for batch in batches
        for index, top, left in zip(batch["index"], batch["crop_top"], batch["crop_left"], strict=True)
    ]


def test_a_crop_is_what_is_stored_where_it_says(dataset: Dataset) -> None:
    stored = np.asarray(dataset.open_raw()[:]).astype(np.float32)
    seen = []
    for batch in RawStream(dataset.location, batch_size=4, cutting=Cutting(crop=(8, 12)), crops_per_sample=3):
        assert batch["raw"].shape[1:] == (4, 8, 12)
        for place, index in enumerate(batch["index"]):
            top, left = batch["crop_top"][place], batch["crop_left"][place]
            expected = (stored[index, :, top : top + 8, left : left + 12] - 100) / 16000
            assert np.allclose(batch["raw"][place], expected, atol=1e-6)
            assert top + 8 <= (20 if index % 5 == 0 else 32)
            assert batch["sample_id"][place] == f"a{index}"
            seen.append(int(index))
    assert Counter(seen) == dict.fromkeys(range(SAMPLES), 3)


def test_an_epoch_is_the_same_again_and_the_next_is_not(dataset: Dataset) -> None:
    stream = RawStream(dataset.location, batch_size=5, cutting=Cutting(crop=8), seed=3)
    first, second = crops(iter(stream)), crops(iter(stream))
    assert stream.epoch == 2
    stream.set_epoch(0)
    assert crops(iter(stream)) == first
    assert [index for index, *_ in first] != [index for index, *_ in second]
    assert set(first) != set(second)
    assert len(stream) == 5


def test_without_shuffling_samples_come_as_stored(dataset: Dataset) -> None:
    stream = RawStream(dataset.location, batch_size=5, shuffle=False, drop_last=True)
    batches = list(stream)
    assert [index for batch in batches for index in batch["index"]] == list(range(20))
    assert len(stream) == len(batches) == 4
    whole = next(batch for batch in batches if 5 in batch["index"])
    assert whole["raw"].shape == (5, 4, 32, 32)
    place = whole["index"].tolist().index(5)
    assert whole["valid"][place].tolist() == [20, 32]
    assert not whole["raw"][place, :, 20:].any()


def test_smaller_samples_give_what_there_is(dataset: Dataset) -> None:
    for batch in RawStream(dataset.location, batch_size=4, cutting=Cutting(crop=24, augment="keep_cfa")):
        for place, index in enumerate(batch["index"]):
            expected = [20, 24] if index % 5 == 0 else [24, 24]
            assert batch["valid"][place].tolist() == expected
            assert not batch["raw"][place, :, expected[0] :].any()


def test_ranks_share_an_epoch(dataset: Dataset) -> None:
    ranks = [RawStream(dataset.location, batch_size=3, cutting=Cutting(crop=8), rank=i, ranks=3) for i in range(3)]
    whole = RawStream(dataset.location, batch_size=3, cutting=Cutting(crop=8))
    shared = [crop for rank in ranks for crop in crops(iter(rank))]
    assert sorted(shared) == sorted(crops(iter(whole)))


@pytest.mark.parametrize("ranks", [2, 3, 4, 5])
def test_ranks_take_equally_many_whole_batches(dataset: Dataset, ranks: int) -> None:
    options: dict[str, Any] = {"batch_size": 2, "crops_per_sample": 3, "cutting": Cutting(crop=8), "drop_last": True}
    streams = [RawStream(dataset.location, rank=rank, ranks=ranks, **options) for rank in range(ranks)]
    counts = {len(list(stream)) for stream in streams}
    assert counts == {len(stream) for stream in streams} == {SAMPLES // ranks * 3 // 2}


@pytest.mark.parametrize("mode", ["keep_cfa", "rename_cfa"])
def test_turned_crops_are_a_mosaic_of_their_pixels_by_the_pattern_they_name(dataset: Dataset, mode: Any) -> None:
    stream = RawStream(
        dataset.location, batch_size=8, cutting=Cutting(crop=(6, 10), augment=mode, srgb=True), crops_per_sample=12
    )
    met = set()
    for batch in stream:
        for place, pattern in enumerate(batch["cfa_pattern"]):
            own = CFA_PATTERNS[batch["index"][place] % 4]
            pixels = (batch["srgb"][place] * 255).round()
            expected = pack_rgb(pixels, pattern) * 50 / 16000
            assert torch.allclose(batch["raw"][place], expected, atol=1e-5)
            assert mode == "rename_cfa" or pattern == own
            met.add((own, int(batch["orientation"][place])))
    assert met == {(pattern, orientation) for pattern in CFA_PATTERNS for orientation in range(ORIENTATIONS)}


def test_noise_on_reading_has_the_stored_parameters_and_is_fresh_in_every_epoch(dataset: Dataset) -> None:
    stream = RawStream(dataset.location, batch_size=22, cutting=Cutting(crop=16, noise=True, clean=True), seed=1)
    (first,), (second,) = list(stream), list(stream)
    stream.set_epoch(0)
    (again,) = list(stream)
    assert torch.equal(again["raw"], first["raw"])
    assert not torch.equal(second["raw"], first["raw"])
    noise = ((first["raw"] - first["clean"]) * 16000).numpy()
    offsets = first["noise_black_offset_dn"][:, :, None, None]
    expected = 0.25 * 16000 * first["clean"].numpy() + 2.5**2 + 0.5**2 + 1 / 12
    usual = first["clean"].numpy() < 0.7  # far from clipping
    assert abs(((noise - offsets) / np.sqrt(expected))[usual].std() - 1) < 0.05
    assert np.allclose(first["raw"] * 16000 + 100, (first["raw"] * 16000 + 100).round(), atol=2e-3)


def test_clean_raw_is_read_without_noise_unless_asked(dataset: Dataset) -> None:
    (batch,) = RawStream(dataset.location, batch_size=SAMPLES, cutting=Cutting(crop=8, clean=True))
    assert torch.allclose(batch["raw"], batch["clean"], atol=1e-6)


def test_iso_and_exposure_are_drawn_on_reading(other: Dataset) -> None:
    cutting = Cutting(crop=8, iso=(100, 50000), exposure_ev=(-2.0, -1.0), clean=True)
    (batch,) = RawStream(other.location, batch_size=SAMPLES, cutting=cutting)
    (plain,) = RawStream(other.location, batch_size=SAMPLES, cutting=Cutting(crop=8, clean=True))
    assert len(set(batch["iso"].tolist())) > 15
    assert batch["iso"].max() <= 6400  # as far as the calibration goes
    camera = load_profile(CAMERA)  # its range from black to white is another at some ISOs than at others
    assert len({camera.levels_at(iso).range_dn for iso in (100, 800)}) == 2
    for place, iso in enumerate(batch["iso"].tolist()):
        found = float(batch["noise_system_gain_dn_per_electron"][place]) / 16000
        taken = noise_at(camera, iso, 0).system_gain_dn_per_electron / camera.levels_at(iso).range_dn
        assert found == pytest.approx(taken, rel=1e-4)
    factor = batch["exposure"] / plain["exposure"]
    assert ((factor >= 0.25) & (factor <= 0.5)).all()
    assert np.allclose(batch["clean"], plain["clean"].numpy() * factor[:, None, None, None], atol=1e-6)
    assert not torch.equal(batch["raw"], batch["clean"])


def test_noise_upon_noise_is_refused(other: Dataset, tmp_path: Path) -> None:
    noisy = make(locate(tmp_path / "noisy"), tmp_path, noise="stored")
    with pytest.raises(InvalidInputError, match="Make the dataset with noise: on_read"):
        RawStream(noisy.location, cutting=Cutting(crop=8, noise=True))
    with pytest.raises(InvalidInputError, match="holds no noise parameters"):
        RawDataset(other.location, cutting=Cutting(noise=True))
    with pytest.raises(InvalidInputError, match="need a crop size"):
        Cutting(augment="keep_cfa")


def test_a_mixture_says_where_each_crop_comes_from(dataset: Dataset, other: Dataset) -> None:
    sources = [Source(dataset.location, 3.0), Source(other.location, 1.0, version="tag-bb")]
    stream = RawStream(sources, batch_size=10, cutting=Cutting(crop=8), samples_per_epoch=200)
    batches = list(stream)
    origin = np.concatenate([batch["source"] for batch in batches])
    assert len(origin) == 200
    assert 120 <= (origin == 0).sum() <= 178
    stored = [np.asarray(each.open_raw()[:]).astype(np.float32) for each in (dataset, other)]
    for batch in batches:
        for place, (source, index) in enumerate(zip(batch["source"], batch["index"], strict=True)):
            top, left = batch["crop_top"][place], batch["crop_left"][place]
            expected = (stored[source][index, :, top : top + 8, left : left + 8] - 100) / 16000
            assert np.allclose(batch["raw"][place], expected, atol=1e-6)
            name = "bb" if source else "a"
            assert batch["sample_id"][place] == f"{name}{index}"
    (known,) = stream.trace("bb7")
    assert (known["source_uri"], known["dataset"]) == ("file:///corpus/bb/7.png", other.location.url)
    assert stream.trace("c7") == []
    repeated = Counter((origin[i], *crop) for i, crop in enumerate(crops(iter(batches))))
    assert max(repeated.values()) <= 3  # a sample that comes again is cut anew


def test_a_mixture_without_weights_takes_each_sample_once(dataset: Dataset, other: Dataset) -> None:
    stream = RawStream([Source(dataset.location), Source(other.location)], batch_size=7, cutting=Cutting(crop=8))
    seen = Counter(name for batch in stream for name in batch["sample_id"])
    assert seen == {f"{name}{index}": 1 for name in ("a", "bb") for index in range(SAMPLES)}


def test_it_resumes_in_mid_epoch(dataset: Dataset) -> None:
    def new() -> RawStream:
        return RawStream(dataset.location, batch_size=4, cutting=Cutting(crop=8), crops_per_sample=2, memory_mib=1)

    whole = [batch["raw"] for batch in new()] + [batch["raw"] for batch in _second_epoch(new())]
    stream = new()
    running = iter(stream)
    before = [next(running)["raw"] for _ in range(3)]
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = new()
    resumed.load_state_dict(state)
    after = [batch["raw"] for batch in resumed] + [batch["raw"] for batch in resumed]
    assert len(before + after) == len(whole) == 22
    assert all(torch.equal(one, again) for one, again in zip(before + after, whole, strict=True))


def _second_epoch(stream: RawStream) -> RawStream:
    stream.set_epoch(1)
    return stream


def test_a_state_of_another_stream_is_refused(dataset: Dataset, other: Dataset) -> None:
    state = RawStream(dataset.location, batch_size=4).state_dict()
    with pytest.raises(InvalidInputError, match="batch_size, block, seed differ"):
        RawStream(dataset.location, batch_size=5, seed=1).load_state_dict(state)
    with pytest.raises(InvalidInputError, match="data differ"):
        RawStream(other.location, batch_size=4).load_state_dict(state)
    with pytest.raises(InvalidInputError, match="not a state"):
        RawStream(dataset.location).load_state_dict({})


BY_WORKERS = """
import json, sys
from collections import Counter
import torch
from storage.reading.crops import Cutting
from storage.reading.loading import RawLoader
from storage.reading.streaming import RawStream

def new(workers, method=sys.argv[2]):
    cutting = Cutting(crop=8, noise=True, augment="keep_cfa")
    stream = RawStream(sys.argv[1], batch_size=4, cutting=cutting, crops_per_sample=3, memory_mib=1, seed=5)
    stream._block_visits = 4
    return RawLoader(stream, num_workers=workers, start_method=method)

def key(batch):
    return batch["raw"].numpy().tobytes()

if __name__ == "__main__":
    loader = new(2)
    whole = [key(batch) for batch in loader]
    assert len(whole) == len(loader) == 17
    assert loader.stream.epoch == 1
    if sys.argv[2] == "fork":
        here = new(0, None)
        assert Counter(key(batch) for batch in here) == Counter(whole)
    for stop in (1, 7) if sys.argv[2] == "fork" else (7,):
        running, begun = iter(loader := new(2)), []
        begun = [key(next(running)) for _ in range(stop)]
        state = json.loads(json.dumps(loader.state_dict()))
        del running
        again = new(2)
        again.load_state_dict(state)
        assert begun + [key(batch) for batch in again] == whole
        if sys.argv[2] == "fork":
            fewer = new(3)
            fewer.load_state_dict(state)
            assert Counter(begun + [key(batch) for batch in fewer]) == Counter(whole)
    print("the same")
"""


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_give_the_same_batches_and_resume_exactly(dataset: Dataset, method: str, tmp_path: Path) -> None:
    # in a process of its own: a Dask cluster that another test ran here leaves exit handlers that no fork survives
    script = tmp_path / "by_workers.py"
    script.write_text(BY_WORKERS)
    command = [sys.executable, str(script), dataset.location.url, method]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert done.stdout == "the same\n", done.stderr


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


def test_wrong_numbers_are_refused(dataset: Dataset) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"crops_per_sample": 0}, "crops_per_sample is 0"),
        ({"rank": 2, "ranks": 2}, "Rank is 2"),
    ]
    for options, said in wrong:
        with pytest.raises(InvalidInputError, match=said):
            RawStream(dataset.location, **options)
    with pytest.raises(InvalidInputError, match="no source"):
        RawStream([])
    with pytest.raises(InvalidInputError, match="one to all or to none"):
        RawStream([Source(dataset.location, 1.0), Source(dataset.location)])
    with pytest.raises(MissingFileError, match="no version tagged 'b'; tags: tag-a"):
        RawStream(dataset.location, version="b")


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    made = make(locate(tmp_path / "damaged"), tmp_path)
    target = Path(made.location.url, "raw/c/2/0/0/0")
    data = bytearray(target.read_bytes())
    data[-20] ^= 1
    for damaged in (bytes(data), b""):
        target.write_bytes(damaged)
        with pytest.raises(IntegrityError, match="index of shard 2 is damaged"):
            list(RawStream(made.location, batch_size=6))
