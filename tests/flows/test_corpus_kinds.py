"""Photographs out of tar and Parquet files and lists become the same RAW, and can be made again from there."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from flows.repair import repair
from storage.corpora.ingest import Part, PartReport, read_part
from storage.datasets.dataset import open_dataset
from storage.datasets.lease import hold
from storage.datasets.verification import verify
from tests.flows.conftest import Aura, Run, make_dataset, small_recipe, write_photograph
from tests.storage.conftest import make_table, make_tar


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    for number, (height, width) in enumerate([(96, 64), (64, 160), (64, 64)]):
        write_photograph(folder / f"{number}.png", height, width, seed=number)
    return folder


@pytest.fixture(scope="module")
def reference(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("reference") / "dataset"
    return arrays(make_dataset(small_recipe(photographs, lpips_share=0), folder))


def arrays(dataset: Path) -> dict[str, str]:
    files = (file for name in ("raw", "srgb") for file in (dataset / name).rglob("c/*/0/0/0"))
    return {str(file.relative_to(dataset)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def in_a_tar(folder: Path, place: Path) -> Path:
    (place / "shard.tar").write_bytes(make_tar([(file.name, file.read_bytes()) for file in sorted(folder.iterdir())]))
    return place / "shard.tar"


def in_a_table(folder: Path, place: Path) -> Path:
    rows = [(file.name, file.read_bytes()) for file in sorted(folder.iterdir())]
    (place / "part.parquet").write_bytes(make_table(rows, structs=True))
    return place / "part.parquet"


def in_a_list(folder: Path, place: Path) -> Path:
    (place / "list.txt").write_text("".join(f"{file}\n" for file in sorted(folder.iterdir())))
    return place / "list.txt"


def test_the_licence_of_each_photograph_goes_along(
    photographs: Path, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "list.csv").write_text(
        f"path,terms\n{photographs}/0.png,CC-BY-4.0\n{photographs}/1.png,\n{photographs}/2.png,secret\n"
    )
    licences = {"column": "terms", "default": "CC0-1.0", "allowed": ["CC-BY-4.0", "CC0-1.0"]}
    dataset = make_dataset(small_recipe(tmp_path / "list.csv", lpips_share=0, licences=licences), tmp_path / "dataset")
    kept = pa.concat_tables(open_dataset(dataset).samples(shard) for shard in (0, 1)).to_pylist()
    assert {(Path(row["source_uri"]).name, row["source_licence"]) for row in kept} == {
        ("0.png", "CC-BY-4.0"),
        ("1.png", "CC0-1.0"),
    }
    assert aura("inspect", str(dataset)) == 0
    said = re.sub(r"\W+", " ", capsys.readouterr().out)
    assert re.search(r"CC BY 4 0 \d .* Rejected sources of 3 .* licence 1 ", said)
    assert aura("export", "coco", str(dataset), str(tmp_path / "coco")) == 0
    document = json.loads((tmp_path / "coco/instances.json").read_text())
    names = {each["id"]: each["name"] for each in document["licenses"]}
    assert {names[image["license"]] for image in document["images"]} == {"CC-BY-4.0", "CC0-1.0"}
    assert aura("export", "dng", str(dataset), "--out", str(tmp_path / "dng"), "--limit", "1") == 0
    (negative,) = (tmp_path / "dng").glob("*.dng")
    assert b"sourceLicence>CC-BY-4.0<" in negative.read_bytes()


@pytest.mark.parametrize("kind", [in_a_tar, in_a_table, in_a_list])
def test_the_same_raw_is_made_and_made_again(
    kind: Callable[[Path, Path], Path], photographs: Path, reference: dict[str, str], tmp_path: Path
) -> None:
    corpus = kind(photographs, tmp_path)
    dataset = make_dataset(small_recipe(corpus, lpips_share=0), tmp_path / "dataset")
    assert arrays(dataset) == reference
    names = {row["source_uri"] for row in open_dataset(dataset).samples(0).to_pylist()}
    assert names == {(photographs / "0.png" if kind is in_a_list else corpus).as_uri()}
    damaged = dataset / "raw/c/1/0/0/0"
    damaged.write_bytes(b"damaged")
    with hold(dataset) as lease:
        done = repair(verify(dataset), lease)
    assert (done.shards, done.failures) == ((1,), {})
    assert arrays(dataset) == reference
    assert verify(dataset).problems == ()


def test_a_corpus_of_many_parts_is_read_on_the_workers(
    run: Run, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.corpora.ingest.PART_ITEMS", 1)

    def signed(url: str, part: Part, permit: Callable[[], None]) -> PartReport:
        (tmp_path / f"read by {os.getpid()}").touch()
        return read_part(url, part, permit)

    with monkeypatch.context() as patch:
        patch.setattr("flows.cluster.corpus_parts.read_part", signed)
        result = run(small_recipe(corpus, lpips_share=0), tmp_path / "spread")
    readers = [file.name for file in tmp_path.glob("read by *")]
    assert readers
    assert f"read by {os.getpid()}" not in readers
    assert (result.sources, dict(result.rejected_sources)) == (6, {"damaged": 1})
    alone = make_dataset(small_recipe(corpus, lpips_share=0), tmp_path / "alone")
    assert (tmp_path / "spread/index.parquet").read_bytes() == (alone / "index.parquet").read_bytes()
    assert arrays(tmp_path / "spread") == arrays(alone)
