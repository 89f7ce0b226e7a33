import re
from pathlib import Path

import pytest

from aura.errors import InvalidInputError, LeaseHeldError, LeaseLostError
from flows.checks import check
from flows.factory import finished
from flows.shards.shard import synthesize_shard
from storage.datasets.dataset import open_dataset
from storage.datasets.lease import hold
from storage.datasets.verification import verify
from storage.datasets.versions import list_versions, read_version
from storage.reading.map_style import RawDataset
from tests.flows.conftest import Aura, Run, small_recipe, write_photograph


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(3):
        write_photograph(folder / f"{number}.png", 64, 64, number)
    return folder


def test_each_night_adds_only_what_is_new(photographs: Path, run: Run, tmp_path: Path) -> None:
    recipe, dataset = small_recipe(photographs), tmp_path / "dataset"
    first = run(recipe, dataset)
    assert (first.version, first.samples, first.shards_made) == (1, 3, 2)
    document = (dataset / "versions/000001.json").read_bytes()
    made = {file: file.stat().st_mtime_ns for file in (dataset / "raw/c").rglob("*") if file.is_file()}
    assert finished(check(recipe, str(dataset))) is not None
    write_photograph(photographs / "00.png", 64, 128, 9)
    (photographs / "1.png").unlink()
    (photographs / "bad.png").write_bytes(b"none")
    assert finished(check(recipe, str(dataset))) is None
    second = run(recipe, dataset)
    assert (second.version, second.samples, second.shards_made, second.sources) == (2, 4, 1, 4)
    assert second.changes == "files of the corpus: 1 new, 1 removed, 1 rejected; 2 new samples"
    assert dict(second.rejected_sources) == {"not_an_image": 1}
    assert (dataset / "versions/000001.json").read_bytes() == document
    assert {file: file.stat().st_mtime_ns for file in made} == made
    assert [len(RawDataset(dataset, version)) for version in (1, 2)] == [3, 4]
    assert finished(check(recipe, str(dataset))) is not None
    write_photograph(photographs / "bad.png", 64, 64, 10)
    assert verify(dataset).problems == ()


def test_growing_from_the_command_line(
    photographs: Path, aura: Aura, cluster: str, server: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server
    dataset = str(tmp_path / "dataset")
    order = ("synthesize", str(photographs), dataset, "--canvas", "64", "--method", "linearise", "--shard-size", "1")
    order += ("--cluster", cluster)
    (photographs / "3.png").write_bytes(b"late")
    assert aura(*order, "--tag", "monday") == 0
    write_photograph(photographs / "3.png", 64, 64, 3)
    write_photograph(photographs / "4.png", 64, 64, 4)
    assert aura(*order, "--retry-rejects") == 0
    assert "1 usable now; 1 new samples" in capsys.readouterr().out
    assert aura(*order, "--tag", "wednesday") == 0
    assert "1 new; 1 new samples" in capsys.readouterr().out
    assert [read_version(dataset, number).samples for number in list_versions(dataset)] == [3, 4, 5]
    assert aura(*order, "--retry-rejects") == 0
    assert "No reject can be used now" in capsys.readouterr().out
    assert aura("versions", dataset, "--tag", "tuesday", "--version", "2") == 0
    said = capsys.readouterr().out
    assert re.search(r"1\s+monday\s+3", said)
    assert re.search(r"2\s+tuesday\s+4", said)
    assert aura("diff", dataset, "monday", "3") == 0
    said = capsys.readouterr().out
    assert "added      2 samples in 2 new shards" in said
    assert (photographs / "4.png").as_uri() in said
    assert aura("diff", dataset, "monday", "friday") == 2
    assert "tags: monday, tuesday, wednesday" in capsys.readouterr().err
    assert aura("inspect", dataset, "--version", "monday") == 0
    assert "versions  1 (monday), 2 (tuesday), 3 (wednesday)" in capsys.readouterr().out

    raw, samples = tmp_path / "dataset/raw/c/1/0/0/0", tmp_path / "dataset/samples/00000003.parquet"
    before = {file: file.read_bytes() for file in (raw, samples)}
    times = {file: file.stat().st_mtime_ns for file in (tmp_path / "dataset").rglob("c/*/0/0/0") if file != raw}
    assert aura("verify", dataset) == 0
    assert "Every object is as it was written" in capsys.readouterr().out
    raw.write_bytes(before[raw][:-1] + bytes([before[raw][-1] ^ 1]))
    samples.unlink()
    assert aura("verify", dataset) == 1
    captured = capsys.readouterr()
    assert "raw/c/1/0/0/0 has other bytes than were written" in captured.err
    assert "samples/00000003.parquet is missing" in captured.err
    assert "--repair" in captured.out
    assert aura("verify", dataset, "--repair") == 0
    assert "2 shards made again" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in before} == before
    assert {file: file.stat().st_mtime_ns for file in times} == times
    write_photograph(photographs / "0.png", 64, 64, 77)
    raw.write_bytes(b"")
    (tmp_path / "dataset/raw/c/0/0/0/0").write_bytes(b"")
    assert aura("verify", dataset, "--repair") == 1  # its photograph has other bytes now
    assert "Shard 0: made again, its raw, rejects, samples, srgb differ" in " ".join(capsys.readouterr().err.split())
    assert raw.read_bytes() == before[raw]

    (tmp_path / "dataset/raw/.half.part").write_bytes(b"half")
    assert aura("gc", dataset) == 0
    assert "raw/.half.part" in capsys.readouterr().out
    with hold(dataset):
        assert aura("gc", dataset, "--delete") == 2
    assert aura("gc", dataset, "--delete") == 0
    assert aura("gc", dataset) == 0
    assert "Nothing is there that is not needed" in capsys.readouterr().out


def test_two_runs_on_one_dataset(
    photographs: Path, run: Run, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, dataset = small_recipe(photographs), tmp_path / "dataset"
    with hold(dataset):
        with pytest.raises(LeaseHeldError, match="being written by another run"):
            run(recipe, dataset)
        options = ("--canvas", "64", "--method", "linearise", "--cluster", "local:1")
        assert aura("synthesize", str(photographs), str(dataset), *options) == 2
        assert "--wait" in capsys.readouterr().err
    assert not dataset.exists()
    assert run(recipe, dataset).version == 1


def test_a_run_that_lost_its_lease_writes_no_shard(photographs: Path, run: Run, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    run(small_recipe(photographs), dataset)
    (dataset / "samples/00000001.parquet").unlink()
    (dataset / "raw/c/1/0/0/0").unlink()
    with hold(dataset) as lease:
        token = lease.token
    with pytest.raises(LeaseLostError):
        synthesize_shard(str(dataset), 1, None, token)
    assert open_dataset(dataset).missing_shards() == [1]
    assert not (dataset / "raw/c/1/0/0/0").exists()


def test_rejects_are_tried_again_only_when_the_rest_is_made(photographs: Path, run: Run, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    run(small_recipe(photographs), dataset)
    (dataset / "samples/00000001.parquet").unlink()
    with pytest.raises(InvalidInputError, match="is not finished yet"):
        run(small_recipe(photographs), dataset, retry_rejects=True)
