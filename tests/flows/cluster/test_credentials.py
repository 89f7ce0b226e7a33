"""Where keys come from, and that they go nowhere: a run that fails for wrong keys tells nobody what they are."""

import io
import logging
import os
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from prefect_aws import AwsCredentials
from prefect_aws.client_parameters import AwsClientParameters

from aura.errors import InvalidInputError, StorageAccessError
from flows.cluster.credentials import BLOCK_VARIABLE, use_configured_block
from flows.cluster.runner import build_runner, local_cluster, parse_cluster
from flows.factory import factory
from flows.ingest import ingest
from flows.servers.server import Server
from storage.objects.location import locate
from tests.conftest import S3Server
from tests.flows.conftest import ask, small_recipe, write_photograph

WRONG_KEY, WRONG_SECRET = "wrong-key-5e1f0c", "wrong-secret-7a93d2"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    write_photograph(folder / "0.png", 64, 64, 0)
    return folder


@pytest.fixture
def without_keys(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An environment that knows no key and no server; what a test puts into it is gone afterwards."""
    before = dict(os.environ)
    for name in s3_server.environment():
        monkeypatch.delenv(name, raising=False)
    yield s3_server
    for name in os.environ.keys() - before.keys():
        del os.environ[name]


def test_a_worker_with_wrong_keys_fails_the_run_and_nobody_learns_a_key(
    photographs: Path,
    server: Server,
    s3_environment: S3Server,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe, dataset = small_recipe(photographs, lpips_share=0.0), f"s3://{s3_environment.bucket}/wrong-keys/dataset"
    ingest(recipe=recipe, dataset=dataset)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_environment.environment(WRONG_KEY, WRONG_SECRET).items():
            patch.setenv(name, value)
        with caplog.at_level(logging.INFO), local_cluster(workers=1, threads=1) as cluster:
            patch.undo()  # this process has the right keys, the worker has not
            flow = factory.with_options(task_runner=build_runner(parse_cluster(cluster.scheduler_address)))
            with pytest.raises(StorageAccessError) as on_the_worker:
                flow(recipe=recipe, dataset=dataset)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", WRONG_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", WRONG_SECRET)
    with caplog.at_level(logging.INFO), pytest.raises(StorageAccessError) as at_once:
        factory(recipe=recipe, dataset=dataset)
    written = capsys.readouterr()
    said = [written.out, written.err, caplog.text]
    said += ["".join(traceback.format_exception(failure.value)) for failure in (on_the_worker, at_once)]
    said += [repr(_everything_of(server, what)) for what in ("flow_runs", "task_runs", "logs", "artifacts", "events")]
    said += list(_objects(s3_environment, "wrong-keys/dataset/"))
    assert any("Shard" in text or "shard" in text for text in said)
    assert any("aura-raw" in text for text in said)  # the group's attributes were read, too
    for key in (WRONG_KEY, WRONG_SECRET, s3_environment.key, s3_environment.secret):
        assert not [text[max(0, text.index(key) - 200) :][:400] for text in said if key in text]


def test_keys_may_lie_in_a_block_of_the_server(
    without_keys: S3Server, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = locate(f"s3://{without_keys.bucket}/ready")
    block = AwsCredentials(
        aws_access_key_id=without_keys.key,
        aws_secret_access_key=without_keys.secret,
        region_name="us-east-1",
        aws_client_parameters=AwsClientParameters(endpoint_url=without_keys.endpoint),
    )
    block.save("store", overwrite=True)
    monkeypatch.setenv(BLOCK_VARIABLE, "store")
    use_configured_block()
    assert place.exists()
    stored = ask(server, "POST", "block_documents/filter", {}).text
    assert "store" in stored
    assert without_keys.secret not in stored


def test_a_block_that_is_not_there_is_named(
    without_keys: S3Server, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert server.local
    assert without_keys
    monkeypatch.setenv(BLOCK_VARIABLE, "nobodys")
    with pytest.raises(InvalidInputError, match="'nobodys'"):
        use_configured_block()


def test_keys_may_lie_in_a_profile(without_keys: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "credentials").write_text(
        f"[nightly]\naws_access_key_id = {without_keys.key}\naws_secret_access_key = {without_keys.secret}\n"
    )
    (tmp_path / "config").write_text(f"[profile nightly]\nregion = us-east-1\nendpoint_url = {without_keys.endpoint}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "nightly")
    assert locate(f"s3://{without_keys.bucket}/ready").exists()


def _everything_of(server: Server, what: str) -> Any:
    return ask(server, "POST", f"{what}/filter", {}).json()


def _objects(server: S3Server, prefix: str) -> Iterator[str]:
    """Every object as text; tables are unpacked, with their metadata."""
    client = server.client()
    for entry in client.list_objects_v2(Bucket=server.bucket, Prefix=prefix)["Contents"]:
        data = client.get_object(Bucket=server.bucket, Key=entry["Key"])["Body"].read()
        if entry["Key"].endswith(".parquet"):
            table = pq.read_table(io.BytesIO(data))
            yield f"{table.schema.metadata} {table.to_pylist()}"
        else:
            yield data.decode("utf-8", errors="replace")
