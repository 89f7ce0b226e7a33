"""A storage that fails now and then changes nothing but the time."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

from aura.sensor.catalog import load_profile
from benchmarks import fault_proxy
from benchmarks.fault_proxy import FAULTS, FaultProxy
from storage.datasets.creation import create_or_open
from storage.datasets.lease import hold
from storage.datasets.publishing import publish
from storage.datasets.shard import write_shard
from storage.datasets.verification import verify
from storage.objects.location import Location, locate
from tests.conftest import S3Server
from tests.storage.conftest import CAMERA, shard_data, small_recipe


@pytest.fixture
def proxy(s3_environment: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setattr(fault_proxy, "STALL_S", 0.2)
    with FaultProxy(int(urlsplit(s3_environment.endpoint).port or 0)) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        yield running


def make(place: Location, folder: Path) -> dict[str, str]:
    """Make a dataset and read it in every way; returns the digest of each object."""
    with hold(place) as lease:
        dataset = create_or_open(place, small_recipe(folder), "m", [load_profile(CAMERA)], 5)
        for shard in range(3):
            write_shard(dataset, shard, shard_data(dataset, shard), permit=lease.token.require)
        publish(dataset, "fine")
        lease.require()
    assert verify(place).problems == ()
    assert np.array_equal(dataset.open_raw()[0:2], shard_data(dataset, 0).raw)
    names = (entry.uri.removeprefix(f"{place.url}/") for entry in place.walk())
    return {name: hashlib.sha256(place.join(name).read()).hexdigest() for name in names}


def test_spoilt_requests_change_nothing(proxy: FaultProxy, s3_environment: S3Server, tmp_path: Path) -> None:
    bucket = s3_environment.bucket
    expected = make(locate(f"s3://{bucket}/undisturbed"), tmp_path)
    assert proxy.faults.total() == 0
    for seed in range(2):
        proxy.start_run(seed, fault_rate=0.1)
        assert make(locate(f"s3://{bucket}/spoilt-{seed}"), tmp_path) == expected
    assert len(proxy.faults.keys() & set(FAULTS)) >= 4  # which ones is drawn by the order of the requests
