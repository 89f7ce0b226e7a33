"""The flows that look at a dataset which is there: its quality, and every byte of it."""

from pathlib import Path
from typing import Any

import pytest

from aura.errors import GateError, IntegrityError
from flows.examination import evaluate_dataset, verify_dataset
from flows.reports.artifacts import artifact_key
from flows.servers.server import Server
from storage.recipe import Gates
from tests.flows.conftest import ask, make_dataset, small_recipe, write_photograph


@pytest.fixture
def dataset(tmp_path: Path, server: Server) -> Path:
    assert server.local
    (tmp_path / "photographs").mkdir()
    for number in range(2):
        write_photograph(tmp_path / f"photographs/{number}.png", 64, 64, number)
    recipe = small_recipe(tmp_path / "photographs", shard_size=1, lpips_share=0.0)
    return make_dataset(recipe, tmp_path / f"examined-{tmp_path.name}")


def artifact(server: Server, key: str) -> dict[str, Any]:
    body = {"artifacts": {"key": {"any_": [key]}}, "sort": "CREATED_DESC"}
    found: dict[str, Any] = ask(server, "POST", "artifacts/filter", body).json()[0]
    return found


def test_quality_is_shown_and_held_against_gates(dataset: Path, server: Server) -> None:
    assert evaluate_dataset(dataset=str(dataset))["cycle_psnr_matched_db"] > 20
    assert "Cycle PSNR" in artifact(server, artifact_key("quality", str(dataset)))["data"]
    assert "data:image/jpeg" in artifact(server, artifact_key("contact-sheet", str(dataset)))["data"]
    with pytest.raises(GateError, match="min_cycle_psnr asks for 99 dB"):
        evaluate_dataset(dataset=str(dataset), gates=Gates(min_cycle_psnr=99))


def test_every_byte_is_checked_and_mended_on_demand(dataset: Path, server: Server) -> None:
    assert verify_dataset(dataset=str(dataset)) > 5
    assert artifact(server, artifact_key("progress-verify", str(dataset)))["data"] == 100
    raw = dataset / "raw/c/1/0/0/0"
    before = raw.read_bytes()
    raw.write_bytes(before[:-1] + b"?")
    with pytest.raises(IntegrityError, match=r"raw/c/1/0/0/0 has other bytes .*; run again with repair"):
        verify_dataset(dataset=str(dataset))
    assert "raw/c/1/0/0/0" in artifact(server, artifact_key("verify", str(dataset)))["data"]
    assert verify_dataset(dataset=str(dataset), repair=True) > 5
    assert raw.read_bytes() == before
