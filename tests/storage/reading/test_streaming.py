"""What a stream gives: crops, epochs, ranks, turns, noise, mixtures."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aura.augment import ORIENTATIONS
from aura.bayer import CFA_PATTERNS, pack_rgb
from aura.errors import InvalidInputError, MissingFileError
from aura.sensor.catalog import load_profile
from aura.sensor.noise import noise_at
from storage.datasets.dataset import Dataset
from storage.objects.location import locate
from storage.reading.cutting import Cutting
from storage.reading.map_style import RawDataset
from storage.reading.streaming import RawStream, Source
from tests.storage.conftest import CAMERA
from tests.storage.reading.conftest import SAMPLES, crops, make


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


def test_wrong_numbers_are_refused(dataset: Dataset) -> None:
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"crops_per_sample": 0}, "crops_per_sample is 0"),
        ({"rank": 2, "ranks": 2}, "Rank is 2"),
        ({"ranks": SAMPLES + 1, "drop_last": True}, "no full batch of 32"),
        ({"batch_size": SAMPLES + 1, "drop_last": True}, f"An epoch of {SAMPLES} samples"),
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
