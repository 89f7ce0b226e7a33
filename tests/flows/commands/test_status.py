"""``aura status``: how far a dataset is, for people and for scripts."""

import json
from pathlib import Path

import pytest

from tests.flows.conftest import Aura, make_dataset, small_recipe, write_photograph


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("status")
    (folder / "photographs").mkdir()
    for number in range(3):
        write_photograph(folder / f"photographs/{number}.png", 64, 64, seed=number)
    return make_dataset(small_recipe(folder / "photographs", shard_size=1, lpips_share=0), folder / "dataset")


def test_status_is_told_to_people_and_to_scripts(
    dataset: Path, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aura("status", str(dataset)) == 0
    said = capsys.readouterr().out
    assert f"{dataset}: finished" in said
    assert "version" in said
    assert aura("status", str(dataset), "--watch") == 0  # ends, since no run is on
    assert "finished" in capsys.readouterr().out
    (dataset / "samples/00000000.parquet").rename(tmp_path / "taken away")
    assert aura("status", str(dataset), "--json") == 0
    told = json.loads(capsys.readouterr().out)
    (tmp_path / "taken away").rename(dataset / "samples/00000000.parquet")
    assert (told["stage"], told["run"], told["shards_made"]) == ("making shards", None, told["shards"] - 1)
    assert told["version"]["published"].endswith("+00:00")
    assert aura("status", str(tmp_path / "nothing")) == 2
    assert "holds no dataset" in " ".join(capsys.readouterr().err.split())
