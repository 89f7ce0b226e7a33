import re
import shutil
from pathlib import Path

import pytest
import yaml

from aura.errors import InvalidInputError
from aura.training.configuration import TrainConfig
from flows.commands.console import err
from flows.reports.artifacts import artifact_key
from flows.servers.server import Server
from flows.training_run import train
from tests.flows.conftest import Aura, ask, write_photograph


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """A folder of training data that holds three small photographs."""
    folder = tmp_path / "data/srgb/kodak"
    folder.mkdir(parents=True)
    for number in range(3):
        write_photograph(folder / f"{number}.png", 192, 192, number)
    return tmp_path / "data"


def test_weights_are_trained_used_and_not_trained_again(
    aura: Aura, scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(err, "width", 20)  # a line of a log is one, however long
    config = tmp_path / "config.yaml"
    stage = {"name": "global", "steps": 2, "batch": 2, "size": 96, "learning_rate": 0.001, "pool": 24}
    config.write_text(yaml.safe_dump({"stages": [stage], "validation_pairs": 1, "loader_workers": 0}))
    out = tmp_path / "runs/small"
    order = ("train", "--out", str(out), "--data", str(scenes), "--config", str(config))
    assert aura(*order) == 0
    said, logged = capsys.readouterr()
    assert re.search(r"^global: 2 of 2, loss -?\d+\.\d{4}, held out \d+\.\d\d dB aligned$", logged, re.MULTILINE)
    weights = out / "aura.safetensors"
    assert f"aura evaluate --weights {weights}" in said
    assert "dB aligned on held-out scenes" in said
    before = weights.read_bytes()
    assert aura(*order) == 0
    assert weights.read_bytes() == before
    assert aura(*order, "--seed", "1") == 2
    assert "seed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("sead: 1\n", "sead"),
        ("- 1\n", "holds a list"),
        ("seed: [\n", "not YAML"),
        (None, "Check the path"),
    ],
)
def test_a_wrong_configuration_is_refused(
    config: str | None, said: str, aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    if config is not None:
        path.write_text(config)
    assert aura("train", "--out", str(tmp_path / "out"), "--config", str(path)) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_weights_are_set_beside_the_classical_inverses(
    aura: Aura, data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = sorted((data_dir / "raw/validation").glob("*.CRW"))
    if not files:
        pytest.skip(f"needs a CRW file in {data_dir}/raw/validation")
    folder = tmp_path / "raw/validation"
    folder.mkdir(parents=True)
    shutil.copy(files[0], folder)
    results = tmp_path / "results.json"
    options = ("--developer", "libraw_fixed", "--crop", "128", "--cache", str(tmp_path / "cache"))
    assert aura("evaluate", "--data", str(tmp_path), *options, "--results", str(results)) == 0
    said = capsys.readouterr().out
    for method in ("linearise", "upi", "aura", "ceiling"):
        assert method in said
    assert "all/aura/psnr_aligned" in results.read_text()


def test_evaluation_without_files_or_with_an_unknown_developer_is_refused(
    aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aura("evaluate", "--data", str(tmp_path)) == 2
    assert "RAW files" in capsys.readouterr().err
    assert aura("evaluate", "--data", str(tmp_path), "--developer", "lightroom") == 2
    assert "darktable" in capsys.readouterr().err


def test_training_as_a_flow_shows_its_progress_and_curves(scenes: Path, server: Server, tmp_path: Path) -> None:
    stage = {"name": "global", "steps": 2, "batch": 2, "size": 96, "learning_rate": 0.001, "pool": 24}
    out = tmp_path / "as-a-flow"
    config = TrainConfig.model_validate(
        {"data": scenes, "out": out, "stages": [stage], "validation_pairs": 1, "loader_workers": 0}
    )
    result = train(config=config)
    weights = Path(result.weights).read_bytes()
    body = {"artifacts": {"key": {"like_": "%-as-a-flow-%"}}}
    found = {each["key"]: each["data"] for each in ask(server, "POST", "artifacts/filter", body).json()}
    assert found[artifact_key("progress-views", str(out))] == found[artifact_key("progress-global", str(out))] == 100
    assert "](data:image/jpeg;base64," in found[artifact_key("curves", str(out))]
    assert "dB" in found[artifact_key("training", str(out))]
    assert Path(train(config=config).weights).read_bytes() == weights  # goes on at its end, which is no work
    with pytest.raises(InvalidInputError, match="seed"):
        train(config=config.model_copy(update={"seed": 1}))
