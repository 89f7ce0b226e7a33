"""What every storage must do for a dataset; a backend is tested by a subclass that gives it a place.

class TestSomewhere(StorageTests):
    @pytest.fixture
    def place(self) -> Location: ...
"""

from __future__ import annotations

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from aura.errors import InvalidInputError, LeaseHeldError, MissingFileError
from aura.sensor.catalog import load_profile
from storage.datasets.creation import complete_group, create_or_open, grow
from storage.datasets.dataset import Dataset, open_dataset
from storage.datasets.garbage import find_garbage
from storage.datasets.lease import hold
from storage.datasets.publishing import publish
from storage.datasets.shard import ShardData, write_shard
from storage.datasets.survey import survey
from storage.datasets.tags import resolve_version, tag_version
from storage.datasets.verification import verify
from storage.datasets.versions import list_versions, read_version
from storage.objects.location import Location, locate
from storage.reading.map_style import RawDataset
from tests.storage.conftest import CAMERA, reject_row, shard_data, small_recipe


class KilledError(Exception):
    """Stands for the end of a process in the middle of its work."""


class StorageTests(ABC):
    """The suite."""

    @pytest.fixture
    @abstractmethod
    def place(self) -> Location:
        """A fresh, empty place."""

    def test_an_object_is_what_was_written_last(self, place: Location) -> None:
        target = place.join("a", "b.bin")
        assert not target.exists()
        with pytest.raises(MissingFileError):
            target.read()
        target.write(b"first")
        target.write(b"0123456789")
        assert target.exists()
        assert (target.read(), target.read(2, 5), target.read(7)) == (b"0123456789", b"234", b"789")
        assert place.join("a").names() == ["b.bin"]
        assert [(entry.uri.rsplit("/", 2)[1:], entry.size) for entry in place.walk()] == [(["a", "b.bin"], 10)]
        assert locate(next(place.walk()).uri).read() == b"0123456789"
        target.remove()
        target.remove()
        assert not target.exists()
        assert place.join("a").names() == []

    def test_an_empty_object_is_an_object(self, place: Location) -> None:
        place.join("empty").write(b"")
        assert place.join("empty").exists()
        assert place.join("empty").read() == b""

    def test_of_many_creators_one_wins_and_its_bytes_stay(self, place: Location) -> None:
        gate = threading.Barrier(8)
        won: list[int] = []

        def create(number: int) -> None:
            gate.wait()
            if place.join("once").create(str(number).encode()):
                won.append(number)

        in_threads(create, 8)
        assert len(won) == 1
        assert place.join("once").read() == str(won[0]).encode()
        assert not place.join("once").create(b"late")
        place.join("once").remove()
        assert place.join("once").create(b"again")

    def test_plain_zarr_reads_what_was_written(self, place: Location) -> None:
        dataset = small_dataset(place)
        write_shard(dataset, 1, shard_data(dataset, 1))
        array = zarr.open_array(place.zarr_store(), path="raw", mode="r")
        assert np.array_equal(array[2:4], shard_data(dataset, 1).raw)
        assert not np.asarray(array[0:2]).any()

    def test_nothing_stays_of_a_killed_attempt_whose_samples_are_rejected_at_last(self, place: Location) -> None:
        dataset = create_or_open(place, small_recipe(Path("/")), "m", [load_profile(CAMERA)], 1)
        permits = iter([True, True])

        def permit() -> None:
            if not next(permits, False):
                raise KilledError

        with pytest.raises(KilledError):
            write_shard(dataset, 0, shard_data(dataset, 0), (), permit)
        write_shard(dataset, 0, shard_data(dataset, 0, (0,)), [reject_row(0)])
        assert verify(place).problems == ()

    def test_of_many_publishers_one_version_comes(self, place: Location) -> None:
        dataset = small_dataset(place)
        write_shard(dataset, 0, shard_data(dataset, 0))
        numbers: list[int] = []
        in_threads(lambda _: numbers.append(publish(dataset)), 4)
        assert numbers == [1] * 4
        tag_version(place, 1, "only")
        assert resolve_version(place, "only") == resolve_version(place, None) == 1

    def test_one_run_at_a_time_holds_the_lease(self, place: Location) -> None:
        with hold(place) as lease:
            with pytest.raises(LeaseHeldError), hold(place):
                pass
            lease.require()
        assert place.join("lease").names() == []

    def test_a_whole_dataset_verifies_and_a_spoilt_one_does_not(self, place: Location) -> None:
        dataset = small_dataset(place)
        for shard in range(3):
            write_shard(dataset, shard, shard_data(dataset, shard))
        publish(dataset)
        assert verify(place).problems == ()
        target = place.join("srgb", "c", "0", "0", "0", "0")
        data = target.read()
        target.write(data[:-1] + bytes([data[-1] ^ 128]))
        place.join("raw", "c", "7", "0", "0", "0").write(b"stray")
        assert [problem.name for problem in verify(place).problems] == ["raw/c/7/0/0/0", "srgb/c/0/0/0/0"]
        assert find_garbage(survey(place)) == ("raw/c/7/0/0/0",)

    def test_any_order_of_writing_crashing_growing_publishing_reading(self, place: Location) -> None:
        class OfThisPlace(DatasetMachine):
            root = place

        chosen = settings(
            max_examples=self.examples,
            stateful_step_count=12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        run_state_machine_as_test(OfThisPlace, settings=chosen)  # type: ignore[no-untyped-call]

    examples = 10
    """Runs of the state machine; a backend that is slow takes fewer."""


class DatasetMachine(RuleBasedStateMachine):
    """A dataset beside a model of it: which shards are committed, and what each version holds."""

    root: Location

    @initialize(samples=st.integers(1, 5), keep_srgb=st.booleans())
    def create(self, samples: int, keep_srgb: bool) -> None:
        place = self.root.join(uuid.uuid4().hex)
        recipe = small_recipe(Path("/"), keep_srgb=keep_srgb)
        self.dataset = create_or_open(place, recipe, "m", [load_profile(CAMERA)], samples)
        self.planned: dict[int, list[int]] = {index // 2: [] for index in range(samples)}
        for index in range(samples):
            self.planned[index // 2].append(index)
        self.made: dict[int, set[int]] = {}
        self.objects: dict[int, bytes] = {}
        self.gone: set[int] = set()
        self.published: list[tuple[set[int], bytes]] = []

    @rule(choice=st.randoms(use_true_random=False), reject=st.booleans())
    @precondition(lambda self: self.missing)
    def write(self, choice: Random, reject: bool) -> None:
        shard = choice.choice(self.missing)
        rejected = {choice.choice(self.planned[shard])} if reject else set()
        self._write(shard, rejected)
        self.made[shard] = set(self.planned[shard]) - rejected
        self.objects[shard] = self._table(shard)

    @rule(choice=st.randoms(use_true_random=False), objects=st.integers(0, 3))
    @precondition(lambda self: self.missing)
    def crash(self, choice: Random, objects: int) -> None:
        shard = choice.choice(self.missing)
        # the commit is the last object; a crash comes before it at the latest
        left = min(objects, 3 if self.dataset.recipe.keep_srgb else 2)

        def permit() -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KilledError

        with pytest.raises(KilledError):
            self._write(shard, set(), permit)

    @rule(choice=st.randoms(use_true_random=False))
    @precondition(lambda self: self.made)
    def write_again(self, choice: Random) -> None:
        shard = choice.choice(sorted(self.made))
        self._write(shard, set(self.planned[shard]) - self.made[shard])
        assert self._table(shard) == self.objects[shard]

    @rule()
    def resume(self) -> None:
        reopened = open_dataset(self.dataset.location)
        assert reopened == self.dataset
        complete_group(reopened)
        assert reopened.missing_shards() == self.missing

    @rule(samples=st.integers(0, 3))
    @precondition(lambda self: len(self.planned) < 8)
    def append(self, samples: int) -> None:
        start = len(self.planned) * 2
        self.dataset = grow(self.dataset, samples, {})
        for index in range(start, start + samples):
            self.planned.setdefault(index // 2, []).append(index)

    @rule(choice=st.randoms(use_true_random=False))
    @precondition(lambda self: self.made)
    def remove_or_bring_back(self, choice: Random) -> None:
        index = choice.choice(self.planned[choice.choice(sorted(self.made))])
        self.gone ^= {index}

    @rule()
    def publish(self) -> None:
        if not self.made:
            with pytest.raises(InvalidInputError):
                publish(self.dataset)
            return
        content = {index for made in self.made.values() for index in made} - self.gone
        shards = set(self.made)
        number = publish(self.dataset, gone={source(index) for index in self.gone})
        document = self.dataset.location.join("versions", f"{number:06d}.json").read()
        if number > len(self.published):
            assert number == len(self.published) + 1
            self.published.append((content, document))
        assert self.published[-1][0] == content
        assert {shard.shard for shard in read_version(self.dataset.location, number).shards} == shards

    @rule(choice=st.randoms(use_true_random=False))
    @precondition(lambda self: self.published)
    def read(self, choice: Random) -> None:
        number = choice.randint(1, len(self.published))
        wanted, document = self.published[number - 1]
        data = RawDataset(self.dataset.location, number)
        assert len(data) == len(wanted)
        assert set(data.table["index"].to_pylist()) == wanted
        assert self.dataset.location.join("versions", f"{number:06d}.json").read() == document
        if wanted:
            index = choice.choice(sorted(wanted))
            expected = shard_data(self.dataset, index // 2)
            row = next(row for row in expected.rows if row.index == index)
            height = row.valid_height_px // 2
            stored = np.asarray(self.dataset.open_raw()[index])
            assert np.array_equal(stored[:, :height], expected.raw[index - self.planned[index // 2][0]][:, :height])

    @invariant()
    def readers_see_what_is_committed_and_published(self) -> None:
        if hasattr(self, "dataset"):
            assert self.dataset.committed_shards() == sorted(self.made)
            assert list_versions(self.dataset.location) == list(range(1, len(self.published) + 1))

    def teardown(self) -> None:
        if hasattr(self, "dataset"):
            assert verify(self.dataset.location).problems == ()

    @property
    def missing(self) -> list[int]:
        return sorted(self.planned.keys() - self.made.keys())

    def _write(self, shard: int, rejected: set[int], permit: Callable[[], None] | None = None) -> None:
        data = shard_data(self.dataset, shard, tuple(rejected))
        rows = [replace(row, source_sha256=source(row.index)) for row in data.rows]
        rejects = [replace(reject_row(index), source_sha256=source(index)) for index in rejected]
        write_shard(self.dataset, shard, ShardData(data.raw, data.srgb, rows), rejects, permit)

    def _table(self, shard: int) -> bytes:
        return self.dataset.location.join("samples", f"{shard:08d}.parquet").read()


def source(index: int) -> str:
    return f"{index:064d}"


def small_dataset(place: Location) -> Dataset:
    return create_or_open(place, small_recipe(Path("/")), "m", [load_profile(CAMERA)], 5)


def in_threads(work: Callable[[int], None], count: int) -> None:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
