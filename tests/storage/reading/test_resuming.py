"""A stream goes on where it was stopped, with any number of workers."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from aura.errors import InvalidInputError
from storage.datasets.dataset import Dataset
from storage.reading.cutting import Cutting
from storage.reading.streaming import RawStream


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
    stream = RawStream(dataset.location, batch_size=4)
    next(iter(stream))
    state = stream.state_dict()
    with pytest.raises(InvalidInputError, match="batch_size, block, seed differ"):
        RawStream(dataset.location, batch_size=5, seed=1).load_state_dict(state)
    with pytest.raises(InvalidInputError, match="data differ"):
        RawStream(other.location, batch_size=4).load_state_dict(state)
    with pytest.raises(InvalidInputError, match="not a state"):
        RawStream(dataset.location).load_state_dict({})


def test_the_state_of_one_rank_is_that_of_all(dataset: Dataset) -> None:
    """As training saves it: the first rank writes the checkpoint, and every rank loads it."""

    def new(rank: int) -> RawStream:
        return RawStream(dataset.location, batch_size=2, rank=rank, ranks=2, drop_last=True, memory_mib=1)

    whole = [[batch["index"].tolist() for batch in new(rank)] for rank in (0, 1)]
    first, running = new(0), iter(stream := new(0))
    for _ in range(2):
        next(running)
    state = json.loads(json.dumps(stream.state_dict()))
    for rank, stream in ((0, first), (1, new(1))):
        stream.load_state_dict(state)
        assert [batch["index"].tolist() for batch in stream] == whole[rank][2:]
    assert len(whole[0]) > 2


def test_between_epochs_training_goes_on_with_other_batches_and_other_ranks(dataset: Dataset) -> None:
    stream = RawStream(dataset.location, batch_size=4)
    list(stream)
    state = stream.state_dict()
    other = RawStream(dataset.location, batch_size=3, rank=1, ranks=2)
    other.load_state_dict(state)
    assert other.epoch == 1
    fresh = RawStream(dataset.location, batch_size=3, rank=1, ranks=2)
    fresh.set_epoch(1)
    assert [one["index"].tolist() for one in other] == [one["index"].tolist() for one in fresh]
    with pytest.raises(InvalidInputError, match="seed differ"):
        RawStream(dataset.location, batch_size=4, seed=1).load_state_dict(state)


def test_the_middle_of_an_epoch_that_an_older_release_ordered_is_not_gone_on_with(dataset: Dataset) -> None:
    stream = RawStream(dataset.location, batch_size=4)
    next(iter(stream))
    state = stream.state_dict()
    del state["made_of"]["order"]
    with pytest.raises(InvalidInputError, match="set_epoch"):
        RawStream(dataset.location, batch_size=4).load_state_dict(state)


def test_a_state_knows_which_samples_were_there_before_they_were_published(dataset: Dataset, tmp_path: Path) -> None:
    """Shards end in any order: as many samples may be others."""
    copy = tmp_path / "growing"
    shutil.copytree(dataset.location.url, copy)
    tables = sorted((copy / "samples").glob("*.parquet"))
    states = []
    for missing in (tables[0], tables[1]):
        moved = missing.rename(copy / missing.name)
        stream = RawStream(copy, version="unpublished", batch_size=1)
        next(iter(stream))
        states.append(stream.state_dict())
        moved.rename(missing)
    assert states[0]["made_of"] != states[1]["made_of"]


BY_WORKERS = """
import json, sys
from collections import Counter
import torch
from torch.utils.data import DataLoader
from storage.reading.cutting import Cutting
from storage.reading.loading import RawLoader
from storage.reading.map_style import RawDataset
from storage.reading.streaming import RawStream

def new(workers, method=sys.argv[2]):
    cutting = Cutting(crop=8, noise=True, augment="keep_cfa")
    stream = RawStream(sys.argv[1], batch_size=4, cutting=cutting, crops_per_sample=3, memory_mib=1, seed=5)
    stream._block_visits = 4
    return RawLoader(stream, num_workers=workers, start_method=method)

def key(batch):
    return batch["raw"].numpy().tobytes()

def persistent_workers_hear_of_epochs():
    cutting = Cutting(crop=8)
    items, stream = RawDataset(sys.argv[1], cutting=cutting), RawStream(sys.argv[1], batch_size=4, cutting=cutting)
    for data, size in ((items, 4), (stream, None)):
        options = {"num_workers": 1, "persistent_workers": True, "multiprocessing_context": sys.argv[2]}
        loader, seen = DataLoader(data, batch_size=size, **options), []
        for epoch in (3, 4, 3):
            data.set_epoch(epoch)
            seen.append([key(batch) for batch in loader])
        assert seen[0] == seen[2] != seen[1]

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
    persistent_workers_hear_of_epochs()
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
