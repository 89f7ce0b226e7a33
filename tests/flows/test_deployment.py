import os
import subprocess
import sys
from pathlib import Path

import httpx

from flows.factory import factory
from flows.server import Server
from storage.recipe import load_recipe
from tests.conftest import REPOSITORY


def prefect(server: Server, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"PREFECT_API_URL": server.api_url},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_deployment_loads_and_its_schedule_waits_to_be_switched_on(server: Server) -> None:
    prefect(server, "work-pool", "create", "aura", "--type", "process")
    prefect(server, "deploy", "--all")
    deployment = httpx.get(f"{server.api_url}/deployments/name/factory/nightly").json()
    assert deployment["entrypoint"] == "flows/factory.py:factory"
    assert set(deployment["tags"]) == {"aura", "nightly"}
    assert [(each["schedule"]["cron"], each["active"]) for each in deployment["schedules"]] == [("0 2 * * *", False)]
    assert deployment["global_concurrency_limit"]["limit"] == 1
    factory.validate_parameters(deployment["parameters"])
    assert load_recipe(None, deployment["parameters"]["recipe"]).corpus == "s3://photographs/incoming"


def test_the_recipe_that_is_shown_as_an_example_is_one() -> None:
    recipe = load_recipe(REPOSITORY / "examples" / "recipe.yaml")
    assert Path(recipe.corpus).name == "photographs"
