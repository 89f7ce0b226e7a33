import subprocess
import sys
from pathlib import Path

import pytest

from aura.errors import MissingFileError
from aura.sensor.catalog import load_profile
from storage.corpora.index import index_batches, index_digest
from storage.corpora.ingest import ingest, read_parts
from storage.corpora.sources import Item
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import Dataset
from storage.datasets.lease import hold, last_holder
from storage.datasets.plan import plan_shards, write_plan
from storage.datasets.publishing import publish
from storage.datasets.shard import write_shard
from storage.datasets.status import read_status
from storage.objects.location import Location
from storage.recipe import Recipe
from tests.storage.conftest import CAMERA, reject_row, save_image, shard_data, small_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    """Five photographs of one sample each, and a file that is none: three shards."""
    for number in range(5):
        save_image(tmp_path / f"corpus/{number}.png", 64, 64, seed=number)
    (tmp_path / "corpus/bad.png").write_bytes(b"none")
    return small_recipe(tmp_path, cameras=[CAMERA])


def planned(place: Location, recipe: Recipe) -> Dataset:
    ingest(place, recipe)
    summary = write_plan(place, plan_shards(index_batches(place), recipe))
    objects = index_digest(place) | dict(summary.objects)
    return create_or_open(place, recipe, "m", [load_profile(CAMERA)], summary.samples, objects)


def test_a_dataset_is_followed_from_its_first_file_to_its_version(
    place: Location, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingFileError, match="no run has begun one"):
        read_status(place)
    with hold(place):
        part_of_the_corpus = [Item((Path(recipe.corpus) / "0.png").as_uri(), 1)]
        read_parts(place, part_of_the_corpus, recipe)
        begun = read_status(place)
        assert (begun.stage, begun.parts_read, begun.shards, begun.run and begun.run.alive) == (
            "reading the corpus",
            1,
            None,
            True,
        )
        dataset = planned(place, recipe)
        write_shard(dataset, 0, shard_data(dataset, 0))
        write_shard(dataset, 1, shard_data(dataset, 1, rejected=(3,)), [reject_row(3)])
        opened: list[int] = []
        whole = Dataset.rejects
        with monkeypatch.context() as patch:
            patch.setattr(Dataset, "rejects", lambda self, shard: opened.append(shard) or whole(self, shard))
            patch.setattr(Dataset, "samples", lambda *_: pytest.fail("a table of samples was opened"))
            running = read_status(place)
        assert opened == [1]
        assert running.stage == "making shards"
        assert (running.shards_made, running.shards, running.samples_made, running.samples) == (2, 3, 3, 5)
        assert (running.files, running.rejected_files) == (6, {"not_an_image": 1})
        assert (running.rejected_samples, running.rejects_unread) == ({"truncated": 1}, 0)
        assert running.run is not None
        assert running.run.alive
        assert running.run.since - 1 <= running.run.heartbeat <= running.asked + 1
        assert running.last_commit is not None
        assert running.version is None
    idle = read_status(place)
    assert (idle.stage, idle.run, idle.seconds_left) == ("making shards", None, None)
    write_shard(dataset, 2, shard_data(dataset, 2))
    assert read_status(place).stage == "evaluating"
    publish(dataset, "first")
    done = read_status(place)
    assert done.stage == "finished"
    assert done.version is not None
    assert (done.version.number, done.version.tags, done.version.samples) == (1, ("first",), 4)


def test_a_killed_run_is_told_from_one_that_ended(place: Location, recipe: Recipe) -> None:
    dataset = planned(place, recipe)
    write_shard(dataset, 0, shard_data(dataset, 0))
    script = (
        "import os, signal, sys; from storage.datasets.lease import hold\n"
        "with hold(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, place.url], check=False)
    assert ended.returncode == -9
    status = read_status(place)
    assert status.run is not None
    assert not status.run.alive
    record = last_holder(place)
    assert record is not None
    assert status.run.process == record.process
    assert (status.stage, status.shards_made, status.seconds_left) == ("making shards", 1, None)


def test_pace_and_time_left_follow_from_the_commits(
    place: Location, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = planned(place, recipe)
    with hold(place):
        assert read_status(place).shards_per_hour is None
        write_shard(dataset, 0, shard_data(dataset, 0))
        write_shard(dataset, 1, shard_data(dataset, 1))
        first = read_status(place)
        assert first.run is not None
        later = first.run.since + 7200
        monkeypatch.setattr("storage.datasets.status.time.time", lambda: later)
        monkeypatch.setattr("storage.datasets.lease.LeaseRecord.is_live", lambda _: True)
        status = read_status(place)
        assert status.shards_per_hour == pytest.approx(1.0)
        assert status.seconds_left == pytest.approx(3600)


def test_of_very_many_rejects_some_are_opened_and_the_rest_is_counted(
    place: Location, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = planned(place, recipe)
    write_shard(dataset, 0, shard_data(dataset, 0, rejected=(1,)), [reject_row(1)])
    write_shard(dataset, 1, shard_data(dataset, 1, rejected=(2, 3)), [reject_row(2), reject_row(3)])
    monkeypatch.setattr("storage.datasets.status._OPENED_TABLES", 1)
    status = read_status(place)
    assert (status.samples_made, status.rejects_unread) == (None, 1)
    assert sum(status.rejected_samples.values()) in {1, 2}
