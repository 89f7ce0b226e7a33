import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.timeout(600)
def test_a_short_campaign_of_kills_and_faults_loses_nothing(tmp_path: Path) -> None:
    """One kill of each kind, spoilt requests, a revoked key and a full disk; `make chaos` is the long form."""
    figures = tmp_path / "figures.json"
    # in a process of its own: it starts servers and a cluster, and sets the environment for them
    options = ("--runs", "4", "--fault-runs", "1", "--stall-s", "1", "--json", str(figures))
    command = [sys.executable, "-m", "benchmarks.chaos", *options]
    repository = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = {name: figure["value"] for name, figure in json.loads(figures.read_text()).items()}
    assert found["runs"] == 7
    assert found["kills"] >= 1
    for name in ("samples_lost", "samples_doubled", "runs_not_identical", "objects_made_again", "leaks_to_readers"):
        assert found[name] == 0, done.stdout
