"""A real Prefect server and a real Dask cluster for the whole session, and photographs small enough to be quick."""

import contextlib
import json
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from aura.reconstruct import Reconstructor
from aura.sensor.catalog import load_profile
from flows.cli import app
from flows.cluster.runner import build_runner, local_cluster, parse_cluster
from flows.factory import FactoryResult, factory
from flows.reports.report import fetch_report
from flows.servers.server import Server, data_folder, prefect_server
from flows.shards.shard import synthesize_shard
from storage.corpora.index import index_batches, index_digest
from storage.corpora.ingest import ingest
from storage.datasets.creation import create_or_open
from storage.datasets.dataset import open_dataset
from storage.datasets.history import current_index
from storage.datasets.plan import plan_shards, write_plan
from storage.datasets.publishing import publish
from storage.labelling.annotating import annotate, keep_annotations
from storage.recipe import Recipe, load_recipe
from tests.conftest import S3Server

Run = Callable[..., FactoryResult]
Aura = Callable[..., int]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One local Prefect server that every flow of the session reports to, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("PREFECT_API_URL", raising=False)
        with prefect_server() as running:
            yield running


def ask(server: Server, method: str, what: str, body: Any = None) -> httpx.Response:
    """Ask Prefect's API, whose SQLite may have others to serve first."""
    return httpx.request(method, f"{server.api_url}/{what}", json=body, timeout=120).raise_for_status()


@pytest.fixture
def home(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, no Prefect server configured.

    It holds a copy of the session's database, since making all its tables anew takes many seconds.
    """
    assert server.local
    folder = tmp_path / "home"
    (folder / "prefect").mkdir(parents=True)
    with (
        contextlib.closing(sqlite3.connect(data_folder() / "prefect" / "prefect.db")) as source,
        contextlib.closing(sqlite3.connect(folder / "prefect" / "prefect.db")) as copy,
    ):
        source.backup(copy)
    monkeypatch.setenv("AURA_HOME", str(folder))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return folder


@pytest.fixture(scope="session")
def cluster(s3_server: S3Server) -> Iterator[str]:
    """Address of a Dask scheduler with two workers, which know the way to the S3 server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in s3_server.environment().items():
            patch.setenv(name, value)
        with local_cluster(workers=2, threads=1) as running:
            yield running.scheduler_address


@pytest.fixture(scope="session")
def run(server: Server, cluster: str) -> Run:
    """Runs the factory flow on the session's server and cluster."""
    assert server.local

    def run_flow(recipe: Recipe, dataset: str | Path, **options: Any) -> FactoryResult:
        flow = factory.with_options(task_runner=build_runner(parse_cluster(cluster)))
        return flow(recipe=recipe, dataset=str(dataset), **options)

    return run_flow


@pytest.fixture
def aura(monkeypatch: pytest.MonkeyPatch) -> Aura:
    """Runs the command line in this process; returns the exit code."""

    def run_command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["aura", *arguments])
        with pytest.raises(SystemExit) as end:
            app()
        return int(end.value.code or 0)

    return run_command


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five photographs of different sizes, one of them odd, and a file that is none."""
    folder = tmp_path_factory.mktemp("corpus")
    for number, (height, width) in enumerate([(96, 128), (64, 64), (97, 131), (64, 192), (130, 64)]):
        write_photograph(folder / f"photo{number}.png", height, width, seed=number)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more than the beginning of a JPEG")
    return folder


NASTY = "<script>alert(1)<!--"
"""A name that wants to be markup."""


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of an annotated dataset whose files and categories have names that want to be markup."""
    folder = tmp_path_factory.mktemp("report")
    photographs = folder / "photographs"
    photographs.mkdir()
    names = [f"{number} {NASTY}.png" for number in range(4)]
    for number, name in enumerate(names):
        write_photograph(photographs / name, 64, 96, number)
    (photographs / f"broken {NASTY}.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    document = {
        "images": [{"id": number, "file_name": name, "height": 64, "width": 96} for number, name in enumerate(names)],
        "annotations": [
            {
                "id": number,
                "image_id": number,
                "category_id": 1,
                "bbox": [8 + number, 8, 24, 32],
                "segmentation": [[8 + number, 8, 32 + number, 8, 8 + number, 40]],
            }
            for number in range(4)
        ],
        "categories": [{"id": 1, "name": f"car {NASTY}"}],
    }
    (folder / "instances.json").write_text(json.dumps(document))
    recipe = small_recipe(
        photographs, keep_srgb=False, gates__max_reject_fraction=0.5, illuminant_kelvin=(3000, 7000),
        annotations__source=str(folder / "instances.json"),
    )  # fmt: skip
    dataset = open_dataset(make_dataset(recipe, folder / "dataset"))
    assert recipe.annotations is not None
    found = annotate(dataset, current_index(dataset), recipe.annotations)
    number = publish(dataset, labels=keep_annotations(dataset, found.labels))
    fetch_report(dataset, number)
    return folder / "dataset" / "reports" / f"{number:06d}.html"


def write_photograph(path: Path, height: int, width: int, seed: int) -> None:
    """Write a picture with slopes, edges and texture."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0:height, 0:width]
    slopes = np.stack([rows / height, columns / width, (rows + columns) / (height + width)], axis=-1)
    blocks = 0.3 * (((rows // 16 + columns // 16) % 2)[..., None])
    image = 0.15 + 0.5 * slopes + blocks + rng.normal(0, 0.02, slopes.shape)
    Image.fromarray((image.clip(0, 1) * 255).astype(np.uint8)).save(path)


def small_recipe(corpus: Path | str, **changes: Any) -> Recipe:
    """A recipe that is quick: small canvases, the simplest inverse; ``changes`` use ``__`` for a dot."""
    values: dict[str, Any] = {
        "corpus": str(corpus),
        "canvas.height": 64,
        "canvas.width": 64,
        "canvas.min_side": 32,
        "cameras": ["canon-eos-5d-mark-iv", "sony-ilce-7sm2"],
        "iso": (100, 1600),
        "method": "linearise",
        "shard_size": 2,
        "lpips_share": 0.5,
    }
    return load_recipe(None, values | {name.replace("__", "."): value for name, value in changes.items()})


def make_dataset(recipe: Recipe, folder: Path) -> Path:
    """Make and publish a dataset by the pure functions alone, which needs neither server nor cluster."""
    digest = Reconstructor.load(recipe.method).digest
    ingest(str(folder), recipe)
    summary = write_plan(str(folder), plan_shards(index_batches(str(folder)), recipe))
    profiles = [load_profile(camera) for camera in recipe.cameras]
    objects = index_digest(str(folder)) | dict(summary.objects)
    dataset = create_or_open(str(folder), recipe, digest, profiles, summary.samples, objects)
    for shard in range(dataset.shard_count):
        synthesize_shard(str(folder), shard)
    publish(dataset)
    return folder
