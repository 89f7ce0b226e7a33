import hashlib
import json
import os
import re
import signal
import threading
from pathlib import Path
from typing import Any

import distributed
import pytest
import zarr

from aura.errors import (
    DatasetConflictError,
    EmptyCorpusError,
    GateError,
    InvalidInputError,
)
from flows.checks import check
from flows.cluster.runner import build_runner, local_cluster, parse_cluster
from flows.factory import factory, finished
from flows.progress import listening
from flows.reports.artifacts import artifact_key
from flows.servers.server import Server
from flows.shards.shard import synthesize_shard
from storage.corpora.ingest import ingest
from storage.datasets.dataset import open_dataset
from storage.datasets.versions import list_versions, read_version, verify_version
from storage.objects.location import locate
from storage.reading.map_style import RawDataset
from tests.conftest import S3Server, wait_until
from tests.flows.conftest import Run, ask, small_recipe, write_photograph


def shards_of(dataset: str | Path) -> Any:
    """What a published version says of its shards: the digest of every object."""
    return read_version(str(dataset), 1).shards


def asked(server: Server, what: str, **body: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(server, "POST", f"{what}/filter", body).json()
    return found


@pytest.fixture(scope="module")
def reference(
    corpus: Path, server: Server, cluster: str, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Any, list[tuple[str, int, int]]]:
    """A dataset made in one go, its result, and the progress that was told."""
    assert server.local
    dataset = tmp_path_factory.mktemp("reference") / "dataset"
    told: list[tuple[str, int, int]] = []
    with listening(lambda *step: told.append(step)):
        flow = factory.with_options(task_runner=build_runner(parse_cluster(cluster)))
        result = flow(recipe=small_recipe(corpus), dataset=str(dataset))
    return dataset, result, told


def test_a_corpus_becomes_a_published_dataset(reference: tuple[Path, Any, Any], corpus: Path) -> None:
    dataset, result, _ = reference
    assert result.version == 1
    assert result.sources == 6
    assert dict(result.rejected_sources) == {"damaged": 1}
    assert result.shards_found == 0
    assert result.shards_made == len(shards_of(dataset))
    assert result.samples == sum(shard.samples for shard in shards_of(dataset))
    assert {"cycle_psnr_db", "cycle_psnr_matched_db", "cycle_ssim", "cycle_lpips", "clipped_fraction"} <= set(
        result.quality
    )
    assert result.quality["cycle_psnr_matched_db"] > 20
    raw = zarr.open_group(str(dataset), mode="r")["raw"]
    assert raw.shape == (result.samples, 4, 32, 32)
    verify_version(open_dataset(dataset), 1)
    assert len(RawDataset(str(dataset), version=1)) == result.samples
    assert {row["source_uri"] for row in open_dataset(dataset).samples(0).to_pylist()} == {
        (corpus / "photo0.png").as_uri()
    }


def test_progress_is_told_from_nothing_to_all(reference: tuple[Path, Any, Any]) -> None:
    _, result, told = reference
    made = [step for step in told if step[0] == "synthesize"]
    assert made == [("synthesize", done, result.shards_made) for done in range(result.shards_made + 1)]
    assert ("ingest", 6, 6) in told


def test_the_run_tells_its_story_in_the_ui(reference: tuple[Path, Any, Any], server: Server) -> None:
    dataset, result, _ = reference
    run_filter = {"flow_runs": {"id": {"any_": [result.flow_run_id]}}}
    by_key = {artifact["key"]: artifact for artifact in asked(server, "artifacts", **run_filter)}
    kinds = ("progress", "quality", "gates", "rejects", "contact-sheet", "report", "summary")
    keys = {kind: artifact_key(kind, str(dataset)) for kind in kinds}
    assert set(by_key) == set(keys.values())
    found = {kind: by_key[key] for kind, key in keys.items()}
    assert found["progress"]["data"] == 100
    assert re.fullmatch(
        rf"(\d+) of \1 shards committed; this run: {result.samples} samples, 0 rejected, "
        r"\d+\.\d\d megapixels of RAW a second",
        found["progress"]["description"],
    )
    assert "Cycle PSNR, tone matched" in found["quality"]["data"]
    assert "](data:image/jpeg;base64," in found["contact-sheet"]["data"]
    assert "| damaged | 1 |" in found["rejects"]["data"]
    assert re.search(r"broken\.jpg\*\*: It cannot be decoded", found["rejects"]["data"])
    assert found["rejects"]["description"].startswith("1 of 6 files of the corpus gave no sample")
    gates = json.loads(found["gates"]["data"])
    assert {"gate": "max_reject_fraction", "holds": "yes"}.items() <= gates[0].items()
    assert f"](<{Path(result.report_url).as_uri()}>)" in found["report"]["data"]
    assert f"aura report {dataset} --version 1" in found["report"]["data"]
    summary = found["summary"]["data"]
    for said in (result.dataset_url, Path(result.report_url).as_uri(), "| damaged | 1 |", "megapixels of RAW a second"):
        assert said in summary
    (run,) = asked(server, "flow_runs", **run_filter)
    assert re.fullmatch(r"corpus\d* -> dataset", run["name"])
    wanted = [
        "6 files listed, 1 of them refused",
        f"{result.samples} samples in {result.shards_made} shards planned",
        "1 of 6 files rejected: damaged 1",
        "Cycle PSNR, tone matched of",
        "Version 1 published",
        f"Report: {dataset}/reports/000001.html",
    ]

    def all_logged() -> bool:
        logs = asked(server, "logs", logs={"flow_run_id": {"any_": [result.flow_run_id]}}, limit=200)
        lines = [log["message"] for log in logs]
        return all(any(said in line for line in lines) for said in wanted)

    wait_until(all_logged, "the run's log")


def test_each_shard_is_one_task_run(reference: tuple[Path, Any, Any], server: Server) -> None:
    _, result, _ = reference

    def names() -> set[str]:
        runs = asked(server, "task_runs", flow_runs={"id": {"any_": [result.flow_run_id]}})
        return {run["name"] for run in runs if run["name"].startswith("shard-")}

    wanted = {f"shard-{number:08d}" for number in range(result.shards_made)}
    wait_until(lambda: names() == wanted, "the server to record the task runs")


def test_run_again_it_finds_all_made_and_needs_no_cluster(
    reference: tuple[Path, Any, Any], corpus: Path, server: Server
) -> None:
    dataset, first, _ = reference
    assert server.local
    nowhere = parse_cluster("tcp://127.0.0.1:9")
    again = factory.with_options(task_runner=build_runner(nowhere))(recipe=small_recipe(corpus), dataset=str(dataset))
    assert (again.version, again.shards_made, again.shards_found) == (1, 0, first.shards_made)
    assert list_versions(dataset) == [1]
    found = finished(check(small_recipe(corpus), str(dataset)))
    assert found is not None
    assert (found.samples, found.report_url, dict(found.quality)) == (
        first.samples,
        first.report_url,
        dict(first.quality),
    )


def test_only_the_missing_shards_are_made_and_with_the_same_bytes(
    reference: tuple[Path, Any, Any], corpus: Path, run: Run, tmp_path: Path
) -> None:
    complete, _, _ = reference
    first = run(small_recipe(corpus), tmp_path / "dataset")
    folder = tmp_path / "dataset"
    for name in ("samples/00000001.parquet", "raw/c/1/0/0/0", "samples/00000003.parquet"):
        (folder / name).unlink()
    for name in ("versions", "reports"):
        for file in (folder / name).iterdir():
            file.unlink()
    kept = (folder / "raw/c/0/0/0/0").stat().st_mtime_ns
    resumed = run(small_recipe(corpus), folder)
    assert (resumed.shards_made, resumed.shards_found) == (2, first.shards_made - 2)
    assert (folder / "raw/c/0/0/0/0").stat().st_mtime_ns == kept
    assert shards_of(folder) == shards_of(complete)


def test_a_resumed_run_does_not_list_the_corpus_again(run: Run, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(3):
        write_photograph(photographs / f"{number}.png", 64, 64, number)
    recipe = small_recipe(photographs, shard_size=1)
    ingest(tmp_path / "dataset", recipe)
    left = tmp_path / "dataset/index/0123456789abcdef.parquet"  # stopped after the index, before its parts were removed
    locate(left).write(b"read so far")
    run(recipe, tmp_path / "dataset")
    assert not left.parent.exists()
    (tmp_path / "dataset/samples/00000002.parquet").unlink()
    write_photograph(photographs / "0-new.png", 64, 64, 9)
    resumed = run(recipe, tmp_path / "dataset")
    assert (resumed.sources, resumed.shards_made) == (3, 1)


def test_a_source_that_changed_since_it_was_listed_becomes_a_reject(run: Run, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for number in range(3):
        write_photograph(photographs / f"{number}.png", 64, 64, number)
    recipe = small_recipe(photographs, shard_size=3, gates__max_reject_fraction=1.0)
    run(recipe, tmp_path / "dataset")
    (tmp_path / "dataset/samples/00000000.parquet").unlink()
    write_photograph(photographs / "0.png", 64, 64, 9)
    (photographs / "1.png").unlink()
    resumed = run(recipe, tmp_path / "dataset")
    assert dict(resumed.rejected_sources) == {"changed": 1, "missing": 1}
    assert resumed.samples == 1


def test_a_committed_shard_is_skipped_inside_the_task_too(reference: tuple[Path, Any, Any]) -> None:
    dataset, _, _ = reference
    before = (dataset / "samples/00000000.parquet").stat().st_mtime_ns
    assert synthesize_shard(str(dataset), 0).skipped
    assert (dataset / "samples/00000000.parquet").stat().st_mtime_ns == before


def test_a_shard_made_here_has_the_bytes_of_one_made_on_a_worker(reference: tuple[Path, Any, Any]) -> None:
    dataset, _, _ = reference
    samples = dataset / "samples/00000002.parquet"
    raw = dataset / "raw/c/2/0/0/0"
    before = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (samples, raw)]
    samples.unlink()
    raw.unlink()
    assert not synthesize_shard(str(dataset), 2).skipped
    assert [hashlib.sha256(file.read_bytes()).hexdigest() for file in (samples, raw)] == before


def test_s3_holds_the_same_bytes_and_no_secret_leaks(
    reference: tuple[Path, Any, Any], corpus: Path, run: Run, s3_environment: S3Server, server: Server
) -> None:
    complete, _, _ = reference
    url = f"s3://{s3_environment.bucket}/datasets/small"
    result = run(small_recipe(corpus), url)
    assert shards_of(url) == shards_of(complete)
    run_filter = {"flow_runs": {"id": {"any_": [result.flow_run_id]}}}
    said = [asked(server, what, **run_filter) for what in ("flow_runs", "task_runs", "artifacts")]
    said.append(asked(server, "logs", logs={"flow_run_id": {"any_": [result.flow_run_id]}}))
    assert all(said)
    client = s3_environment.client()
    listed = client.list_objects_v2(Bucket=s3_environment.bucket, Prefix="datasets/small/")["Contents"]
    stored = [client.get_object(Bucket=s3_environment.bucket, Key=entry["Key"])["Body"].read() for entry in listed]
    assert any(entry["Key"].endswith("reports/000001.html") for entry in listed)
    for secret in (s3_environment.secret, s3_environment.key):
        assert secret not in repr(said)
        assert not any(secret.encode() in data for data in stored)


def test_a_corpus_on_s3_gives_the_same_pixels(
    reference: tuple[Path, Any, Any], corpus: Path, run: Run, s3_environment: S3Server, tmp_path: Path
) -> None:
    complete, first, _ = reference
    client = s3_environment.client()
    for file in corpus.iterdir():
        client.put_object(Bucket=s3_environment.bucket, Key=f"photographs/{file.name}", Body=file.read_bytes())
    result = run(small_recipe(f"s3://{s3_environment.bucket}/photographs"), tmp_path / "dataset")
    assert result.samples == first.samples
    ours, theirs = shards_of(tmp_path / "dataset"), shards_of(complete)
    assert [shard.sha256["raw"] for shard in ours] == [shard.sha256["raw"] for shard in theirs]


def test_a_worker_that_is_killed_loses_nothing(
    reference: tuple[Path, Any, Any], corpus: Path, server: Server, tmp_path: Path
) -> None:
    complete, _, _ = reference
    assert server.local
    dataset = tmp_path / "dataset"
    with (
        local_cluster(workers=2, threads=1) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        victim = next(iter(client.run(os.getpid).values()))
        stop = threading.Event()
        killer = threading.Thread(target=_kill_after_first_shard, args=(dataset, victim, stop))
        killer.start()
        try:
            flow = factory.with_options(task_runner=build_runner(parse_cluster(cluster.scheduler_address)))
            flow(recipe=small_recipe(corpus), dataset=str(dataset), in_flight=4)
        finally:
            stop.set()
            killer.join()
        assert victim not in client.run(os.getpid).values()
    assert shards_of(dataset) == shards_of(complete)


def _kill_after_first_shard(dataset: Path, pid: int, stop: threading.Event) -> None:
    while not list((dataset / "samples").glob("*.parquet")) and not stop.wait(0.01):
        pass
    os.kill(pid, signal.SIGKILL)


def test_gates_that_fail_say_which_and_by_how_much_and_nothing_is_published(
    corpus: Path, run: Run, server: Server, tmp_path: Path
) -> None:
    dataset = tmp_path / "gated"
    strict = small_recipe(corpus, gates__min_cycle_psnr_matched=99.0, gates__max_reject_fraction=0.1)
    with pytest.raises(GateError) as failure:
        run(strict, dataset)
    assert re.search(r"min_cycle_psnr_matched asks for 99 dB: mean \d+\.\d+ dB, \d+\.\d+ dB short", str(failure.value))
    assert "max_reject_fraction allows 10.0%: 1 of 6 sources were rejected, 16.7%, 6.7% over" in str(failure.value)
    assert list_versions(dataset) == []
    gates = asked(server, "artifacts", artifacts={"key": {"any_": [artifact_key("gates", str(dataset))]}})
    rows = json.loads(gates[-1]["data"])
    assert [(row["gate"], row["holds"]) for row in rows] == [
        ("min_cycle_psnr_matched", "NO"),
        ("max_reject_fraction", "NO"),
    ]
    assert gates[-1]["description"].startswith("2 of 2 gates fail; nothing is published")
    milder = run(small_recipe(corpus), dataset)
    assert (milder.version, milder.shards_made) == (1, 0)


def test_every_odd_file_is_used_or_rejected_with_a_reason(data_dir: Path, run: Run, tmp_path: Path) -> None:
    recipe = small_recipe(
        data_dir / "odd",
        canvas__mode="fit",
        canvas__min_side=16,
        limits__min_side=16,
        limits__max_pixels=4_000_000,
        shard_size=8,
        lpips_share=0.0,
        gates__max_reject_fraction=1.0,
    )
    result = run(recipe, tmp_path / "dataset")
    files = [file for file in (data_dir / "odd").rglob("*") if file.is_file()]
    assert result.version == 1
    assert result.samples > len(files) / 3
    assert 0 < result.sources <= len(files)
    assert all(reason for reason in result.rejected_sources)
    report = Path(result.report_url).read_text(encoding="utf-8")
    for reason in result.rejected_sources:
        assert reason in report


def test_a_corpus_without_a_photograph_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/notes.jpg").write_text("no photograph")
    with pytest.raises(EmptyCorpusError, match="can be used"):
        run(small_recipe(tmp_path / "corpus"), tmp_path / "dataset")
    assert not (tmp_path / "dataset").exists()


def test_another_recipe_is_refused_and_the_dataset_stays_as_it_is(
    reference: tuple[Path, Any, Any], corpus: Path, run: Run
) -> None:
    dataset, _, _ = reference
    before = {file: file.stat().st_mtime_ns for file in dataset.rglob("*")}
    with pytest.raises(DatasetConflictError, match="seed"):
        run(small_recipe(corpus, seed=1), dataset)
    assert {file: file.stat().st_mtime_ns for file in dataset.rglob("*")} == before


def test_a_dataset_inside_its_corpus_is_refused(corpus: Path) -> None:
    with pytest.raises(InvalidInputError, match="outside the corpus"):
        check(small_recipe(corpus), str(corpus / "dataset"))
