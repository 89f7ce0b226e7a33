import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image
from typer.main import get_command

from aura.reconstruct import RELEASED_WEIGHTS
from flows.cli import commands
from flows.commands.demo import PHOTOGRAPHS, run_demo
from flows.commands.run import RunSettings
from flows.servers.server import Server
from storage.datasets.status import read_status
from storage.datasets.versions import list_versions, read_version
from storage.recipe import Recipe
from tests.conftest import S3Server, wait_until
from tests.flows.conftest import Aura, Run, small_recipe, write_photograph

SMALL = ("--canvas", "64", "--method", "linearise", "--shard-size", "1", "--set", "canvas.min_side=32")


@pytest.mark.parametrize(
    "command", [(), ("synthesize",), ("reconstruct",), ("inspect",), ("cameras",), ("demo",), ("server",)]
)
def test_every_command_explains_itself(
    command: tuple[str, ...], aura: Aura, capsys: pytest.CaptureFixture[str]
) -> None:
    assert aura(*command, "--help") == 0
    assert "Usage: aura" in " ".join(capsys.readouterr().out.split())


def test_the_version_names_the_weights_that_ship(aura: Aura, capsys: pytest.CaptureFixture[str]) -> None:
    assert aura("--version") == 0
    said = capsys.readouterr().out
    assert said.startswith(f"aura-raw {installed_version('aura-raw')}, ")
    assert hashlib.sha256(RELEASED_WEIGHTS.read_bytes()).hexdigest()[:12] in said


def test_the_defaults_that_help_shows_are_the_recipes() -> None:
    options = {each.name: each.show_default for each in get_command(commands).commands["synthesize"].params}  # type: ignore[attr-defined]  # typer's own classes
    recipe = Recipe(corpus="photographs")
    assert (options["canvas"], options["mode"]) == (str(recipe.canvas.height), recipe.canvas.mode)
    assert (options["camera"], options["iso"]) == (" ".join(recipe.cameras), "-".join(map(str, recipe.iso)))  # type: ignore[arg-type]  # a range
    assert (options["noise"], options["noise_model"]) == (recipe.noise, recipe.noise_model)
    assert (options["method"], options["codec"], options["keep_srgb"]) == (recipe.method, recipe.codec, "keep-srgb")
    assert (options["shard_size"], options["seed"]) == (str(recipe.shard_size), str(recipe.seed))
    assert options["max_rejects"] == str(recipe.gates.max_reject_fraction)


def test_help_does_not_wait_for_heavy_imports() -> None:
    program = "import sys, flows.cli; print(sorted({'torch', 'prefect', 'dask', 'zarr', 'pyarrow'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"


def test_the_command_is_installed() -> None:
    command = Path(sys.executable).parent / "aura"
    done = subprocess.run([command, "inspect", "/nowhere/at/all"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "holds no dataset" in done.stderr
    assert done.stdout == ""


REFUSALS: dict[str, tuple[tuple[str, ...], str]] = {
    "an empty corpus": (("{tmp}/empty", "{tmp}/out"), "holds no"),
    "no corpus": (("{tmp}/nowhere", "{tmp}/out"), "not there|does not exist"),
    "an unknown recipe field": (("{corpus}", "{tmp}/out", "--recipe", "{tmp}/typo.yaml"), "did you mean 'shard_size'"),
    "no such recipe": (("{corpus}", "{tmp}/out", "--recipe", "{tmp}/none.yaml"), "Check the path"),
    "an unknown camera": (("{corpus}", "{tmp}/out", "--camera", "nikon-d85"), "nikon-d850"),
    "an ISO the camera has not": (("{corpus}", "{tmp}/out", "--iso", "50-100"), "ISO 50"),
    "an ISO that is none": (("{corpus}", "{tmp}/out", "--iso", "fast"), "expected a value or a range"),
    "an ISO of nothing": (("{corpus}", "{tmp}/out", "--iso", "0"), r"^Recipe: field 'iso' is 0: expected a positive"),
    "a tag that is none": (("{corpus}", "{tmp}/out", "--tag", "a b"), "is no tag"),
    "a canvas that is none": (("{corpus}", "{tmp}/out", "--canvas", "100x100"), "multiple of 16"),
    "no noise calibration": (("{corpus}", "{tmp}/out", "--camera", "nikon-d750"), "generic"),
    "weights that are not there": (("{corpus}", "{tmp}/out", "--method", "aura", "--weights", "{tmp}/w"), "No weights"),
    "a setting without a value": (("{corpus}", "{tmp}/out", "--set", "seed"), "FIELD=VALUE"),
    "an unknown cluster": (("{corpus}", "{tmp}/out", "--cluster", "cloud"), "local:N"),
    "a scheduler that is not there": (("{corpus}", "{tmp}/out", "--cluster", "tcp://127.0.0.1:9"), "does not answer"),
    "a dataset on the web": (("{corpus}", "https://127.0.0.1:9/out"), "cannot be written to https"),
    "credentials in a URL": (("{corpus}", "s3://key:hush@bucket/out"), "holds credentials"),
    "a bucket that is not there": (("{corpus}", "s3://no-such-bucket/out"), "bucket"),
    "a corpus bucket that is not there": (("s3://no-such-bucket/photos", "{tmp}/out"), "bucket"),
    "a folder of other files": (("{corpus}", "{corpus}/.."), "lie inside each other"),
    "somebody else's folder": (("{corpus}", "{tmp}/full"), "other files"),
    "a place that takes no writes": (("{corpus}", "/proc/raw/out"), "/proc/raw"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_cannot_work_is_refused_in_one_sentence_and_touches_nothing(
    case: str,
    aura: Aura,
    corpus: Path,
    tmp_path: Path,
    s3_environment: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AURA_HOME", str(tmp_path / "home"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("precious")
    (tmp_path / "typo.yaml").write_text("shard_sise: 8\n")
    before = sorted(tmp_path.rglob("*"))
    arguments, said = REFUSALS[case]
    filled = [argument.format(tmp=tmp_path, corpus=corpus) for argument in arguments]
    method = () if "--method" in filled else ("--method", "linearise")
    assert aura("synthesize", *filled, *method) == 2
    message = capsys.readouterr().err
    assert re.search(said, message)
    assert message.count("\n") == 1
    assert "Traceback" not in message
    assert "hush" not in message
    assert s3_environment.secret not in message
    assert sorted(tmp_path.rglob("*")) == before


def test_wrong_keys_are_refused_without_being_shown(
    aura: Aura,
    corpus: Path,
    s3_environment: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-right-one")
    assert aura("synthesize", str(corpus), f"s3://{s3_environment.bucket}/wrong", "--method", "linearise") == 2
    message = capsys.readouterr().err
    assert "AWS_SECRET_ACCESS_KEY" in message
    assert "not-the-right-one" not in message


def test_synthesize_inspect_and_synthesize_again(
    aura: Aura, corpus: Path, cluster: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.local
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("corpus: elsewhere\nshard_size: 4\ncameras: [nikon-d850]\niso: 100\n")
    dataset = tmp_path / "dataset"
    order = ("synthesize", str(corpus), str(dataset), "--recipe", str(recipe), "--cluster", cluster, "--iso", "200-400")
    options = ("--canvas", "64x96", "--method", "linearise", "--set", "canvas.min_side=32", "--max-rejects", "0.2")
    assert aura(*order, *options) == 0
    said = capsys.readouterr().out
    for part in (f"{dataset} (version 1,", "reports/000001.html", "damaged 1", "/runs/flow-run/", "aura inspect "):
        assert part in said
    sheet = tmp_path / "sheets/sheet.png"
    assert aura("inspect", str(dataset), "--version", "1", "--picture", str(sheet)) == 0
    said = capsys.readouterr().out
    for part in ("nikon-d850", "64 x 96, tile", "Cycle PSNR, tone matched", "damaged", "versions  1"):
        assert part in said
    with Image.open(sheet) as picture:
        assert picture.width > 2 * 64
    assert aura(*order, *options) == 0
    assert "nothing was left to do" in capsys.readouterr().out
    assert aura(*order, *options, "--seed", "5") == 2
    assert "seed" in capsys.readouterr().err
    assert aura("inspect", str(dataset), "--version", "7") == 2


def test_a_dataset_that_is_not_finished_can_be_looked_into(
    aura: Aura, corpus: Path, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = tmp_path / "dataset"
    run(small_recipe(corpus), dataset)
    for shard in (0, 1, 2):
        (dataset / f"samples/{shard:08d}.parquet").unlink()
    assert aura("inspect", str(dataset)) == 0
    assert re.search(r"8 made of 14 planned", capsys.readouterr().out)
    for file in (dataset / "samples").iterdir():
        file.unlink()
    assert aura("inspect", str(dataset)) == 0
    assert "Nothing is committed yet" in capsys.readouterr().out
    assert aura("inspect", str(dataset), "--picture", str(tmp_path / "sheet.png")) == 2


def test_gates_that_fail_are_one_sentence_too(
    aura: Aura, corpus: Path, cluster: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.local
    code = aura("synthesize", str(corpus), str(tmp_path / "out"), "--cluster", cluster, *SMALL, "--min-psnr", "90")
    assert code == 2
    assert "gate min_cycle_psnr_matched asks for 90 dB" in capsys.readouterr().err
    assert list_versions(tmp_path / "out") == []


def test_reconstruct_gives_packed_raw_of_any_size_with_its_bit_depth(
    aura: Aura, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs, output = tmp_path / "in", tmp_path / "out"
    photographs.mkdir()
    write_photograph(photographs / "one.png", 97, 131, seed=1)
    Image.fromarray(np.full((64, 48, 3), 255, np.uint8)).save(photographs / "white.jpg", quality=100)
    (photographs / "broken.jpg").write_bytes(b"nothing")
    write_photograph(photographs / "white.png", 64, 64, seed=2)
    options = ("--folder", str(photographs), "--output", str(output), "--bit-depth", "10", "--method", "linearise")
    assert aura("reconstruct", *options, "--device", "cpu") == 1
    captured = capsys.readouterr()
    assert re.search(r"broken\.jpg: .+", captured.err)
    assert re.search(r"white\.png: white\.jpg became white\.npy already", captured.err)
    assert "2 of 4 photographs" in captured.out
    assert "bit depth  10: 0 is black, 1023 is saturation" in captured.out
    one, white = np.load(output / "one.npy"), np.load(output / "white.npy")
    assert (one.dtype, one.shape) == (np.uint16, (48, 65, 4))
    assert 0 < one.mean() < one.max() <= 1023
    assert white.shape == (32, 24, 4)
    assert np.unique(white).tolist() == [1023]
    facts = json.loads((output / "reconstruct.json").read_text())
    assert (facts["bit_depth"], facts["white_level"], facts["packed_order"]) == (10, 1023, ["R", "Gr", "Gb", "B"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--folder", "{tmp}/none", "--output", "{tmp}/out"), "is not a folder"),
        (("--folder", "{tmp}", "--output", "{tmp}/out"), "holds no file"),
        (("--folder", "{corpus}", "--output", "{tmp}/out", "--bit-depth", "20"), "expected 8 to 16"),
        (("--folder", "{corpus}", "--output", "{tmp}/out", "--device", "abacus"), "abacus"),
    ],
)
def test_reconstruct_refuses_in_one_sentence(
    arguments: tuple[str, ...],
    said: str,
    aura: Aura,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [argument.format(tmp=tmp_path, corpus=corpus) for argument in arguments]
    assert aura("reconstruct", *filled, "--method", "linearise") == 2
    message = capsys.readouterr().err
    assert said in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_leaves_nothing_running_and_can_go_on(
    ending: signal.Signals, aura: Aura, cluster: str, home: Path, server: Server, tmp_path: Path
) -> None:
    photographs, dataset = tmp_path / "photographs", tmp_path / "dataset"
    photographs.mkdir()
    for number in range(40):
        write_photograph(photographs / f"{number:02d}.png", 64, 64, number)
    order = ("synthesize", str(photographs), str(dataset), *SMALL)
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"}
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", *order, "--cluster", "local:1"],
        env=environment | {"AURA_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_until(
            lambda: process.poll() is not None or any((dataset / "samples").glob("*.parquet")), "a shard", seconds=240
        )
        family = psutil.Process(process.pid).children(recursive=True)
        assert any("flows.servers.process" in " ".join(member.cmdline()) for member in family)
        running = read_status(dataset)
        assert running.run is not None
        assert (running.run.alive, running.run.process, running.stage) == (True, process.pid, "making shards")
        if ending == signal.SIGINT:
            os.killpg(process.pid, ending)  # as a terminal does, to the workers too
        else:
            process.send_signal(ending)
        out, said = process.communicate(timeout=120)
    assert process.returncode == 128 + ending, out + said
    assert "run the same command again to go on" in said
    assert not re.search("Traceback|WARNING|ERROR", said), said
    assert psutil.wait_procs(family, timeout=30)[1] == []
    committed = len(list((dataset / "samples").glob("*.parquet")))
    assert 0 < committed < 40
    stopped = read_status(dataset)
    assert (stopped.run, stopped.shards_made) == (None, committed)
    os.environ["PREFECT_API_URL"] = server.api_url
    assert aura(*order, "--cluster", cluster) == 0
    assert read_version(dataset, 1).samples == 40


def test_the_demo_makes_its_dataset_once(
    cluster: str, server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert server.local
    run_demo(tmp_path / "demo", "linearise", RunSettings(cluster))
    said = capsys.readouterr().out
    assert f"sources  {len(PHOTOGRAPHS)}, 0 rejected" in said
    for part in ("reports/000001.html", "/runs/flow-run/", f"aura inspect {tmp_path}/demo/dataset"):
        assert part in said
    for name in PHOTOGRAPHS:
        assert name in (tmp_path / "demo/PHOTOGRAPHS.txt").read_text()
    run_demo(tmp_path / "demo", "linearise", RunSettings("tcp://127.0.0.1:9"))
    assert "nothing was left to do" in capsys.readouterr().out
