"""Everything that prefect.yaml deploys, on a real server with its schedules and automations, and with a real worker."""

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4
from zoneinfo import ZoneInfo

import psutil
import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings
from prefect.states import Failed, Running

from flows.examination import evaluate_dataset, verify_dataset
from flows.factory import factory
from flows.ingest import ingest
from flows.lost_runs import mark_lost
from flows.notification import notify
from flows.servers.server import Server, prefect_server
from flows.servers.serving import QUEUES, deploy, make_pool, worker
from flows.training_run import evaluate_weights, train
from flows.untold_failures import tell_untold
from storage.datasets.dataset import open_dataset
from storage.datasets.lease import live_holder
from storage.recipe import load_recipe
from tests.conftest import REPOSITORY, wait_until
from tests.flows.conftest import ask, small_recipe, write_photograph

FLOWS = {
    "factory/nightly": factory,
    "ingest/ingest": ingest,
    "evaluate/evaluate": evaluate_dataset,
    "verify/verify": verify_dataset,
    "train/train": train,
    "evaluate-weights/evaluate-weights": evaluate_weights,
    "notify/on-failure": notify,
    "lost-runs/lost-runs": mark_lost,
    "untold-failures/untold-failures": tell_untold,
}
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}


@dataclass
class Webhook:
    """Somebody who wants to be told; ``told`` are the messages, as they came."""

    address: str = ""
    told: list[dict[str, Any]] = field(default_factory=list)


@pytest.fixture(scope="module")
def webhook() -> Iterator[Webhook]:
    hook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hook.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        hook.address = f"http://127.0.0.1:{server.server_port}/a-secret-path"
        yield hook
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def served(webhook: Webhook, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """What `make serve` brings up: server with schedules, work pool, deployments, worker."""
    with pytest.MonkeyPatch.context() as patch, temporary_settings(restore_defaults={PREFECT_API_URL}):
        patch.chdir(REPOSITORY)
        patch.delenv("PREFECT_API_URL", raising=False)
        patch.setenv("AURA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("AURA_CLUSTER", "local:1")
        patch.setenv("AURA_WEBHOOK_URL", webhook.address)
        patch.setenv("PREFECT_WORKER_QUERY_SECONDS", "1")
        with prefect_server(schedules=True) as server:
            make_pool()
            make_pool()  # what is there already stays as it is
            assert len(deploy()) == len(FLOWS)
            with worker(server):
                yield server


def test_every_deployment_has_its_queue_its_words_and_a_form(served: Server) -> None:
    pools = ask(served, "POST", "work_pools/aura/queues/filter", {}).json()
    limits = {queue["name"]: queue["concurrency_limit"] for queue in pools}
    assert limits == {"default": None} | {queue.name: queue.limit for queue in QUEUES}
    for name, flow in FLOWS.items():
        deployment = _get(served, f"deployments/name/{name}")
        assert deployment["work_pool_name"] == "aura"
        assert deployment["work_queue_name"] in limits
        assert deployment["description"]
        assert deployment["tags"]
        assert deployment["enforce_parameter_schema"]
        if flow not in (notify, mark_lost, tell_untold):
            flow.validate_parameters(deployment["parameters"])
        schema = deployment["parameter_openapi_schema"]
        for field_schema in schema["properties"].values():
            assert field_schema["title"]
            assert field_schema["description"]
    nightly = _get(served, "deployments/name/factory/nightly")
    # a slot of Prefect's is kept by a run whose machine died; the dataset's lease is not
    assert nightly["global_concurrency_limit"] is None
    assert nightly["parameters"]["wait"]
    (schedule,) = nightly["schedules"]
    assert (schedule["schedule"]["cron"], schedule["schedule"]["timezone"]) == ("0 2 * * *", "Europe/Berlin")
    assert not schedule["active"]  # it names a corpus that is nobody's yet
    assert load_recipe(None, nightly["parameters"]["recipe"]).corpus == "s3://photographs/incoming"
    for part in ("Recipe", "Canvas", "Gates", "Limits"):
        properties = nightly["parameter_openapi_schema"]["definitions"][part]["properties"]
        assert all(each["description"] for each in properties.values())


def test_a_schedule_that_is_switched_on_puts_the_next_nights_on_the_list(served: Server) -> None:
    deployment = _get(served, "deployments/name/factory/nightly")
    (schedule,) = deployment["schedules"]
    address = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
    ask(served, "PATCH", address, {"active": True})
    body = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}}

    def nights() -> list[str]:
        found = ask(served, "POST", "flow_runs/filter", body).json()
        return [run["expected_start_time"] for run in found if run["auto_scheduled"]]

    wait_until(lambda: bool(nights()), "the scheduler", 120)
    hours = {datetime.fromisoformat(night).astimezone(ZoneInfo("Europe/Berlin")).hour for night in nights()}
    assert hours == {2}
    ask(served, "PATCH", address, {"active": False})
    assert not nights()  # a schedule that is switched off takes its nights off the list


def test_runs_whose_heart_stops_are_looked_for(served: Server) -> None:
    (found,) = [
        each for each in ask(served, "POST", "automations/filter", {}).json() if each["name"] == "aura run lost"
    ]
    trigger, (action,) = found["trigger"], found["actions"]
    assert found["enabled"]
    assert (trigger["posture"], trigger["within"], trigger["threshold"]) == ("Proactive", 600.0, 1)
    assert set(trigger["after"]) == {"prefect.flow-run.Pending", "prefect.flow-run.heartbeat"}
    assert {f"prefect.flow-run.{state.title()}" for state in ENDED} < set(trigger["expect"])
    assert 2 * get_current_settings().flows.heartbeat_frequency < 600  # type: ignore[operator]  # it has a default
    assert action["deployment_id"] == _get(served, "deployments/name/lost-runs/lost-runs")["id"]


@pytest.mark.timeout(900)  # three flow runs, each a process that imports torch and starts a cluster
def test_a_run_is_cancelled_goes_on_the_next_time_and_people_are_told_when_a_gate_fails(
    served: Server, webhook: Webhook, tmp_path: Path
) -> None:
    photographs, dataset = tmp_path / "photographs", str(tmp_path / "dataset")
    photographs.mkdir()
    for number in range(3):
        write_photograph(photographs / f"{number}.png", 64, 64, number)
    recipe = small_recipe(photographs, shard_size=1, lpips_share=0.0, gates__min_cycle_psnr=99.0)
    ingest(recipe=recipe, dataset=dataset)
    (photographs / "1.png").rename(tmp_path / "kept")
    os.mkfifo(photographs / "1.png")  # a photograph that takes for ever, in the middle of the run
    parameters = {"recipe": recipe.model_dump(mode="json"), "dataset": dataset}
    cancelled = _run(served, "factory/nightly", parameters)
    wait_until(lambda: 0 in open_dataset(dataset).committed_shards(), "the first shard", 240)
    holder = live_holder(dataset)
    assert holder is not None
    family = [psutil.Process(holder.process), *psutil.Process(holder.process).children(recursive=True)]
    cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    ask(served, "POST", f"flow_runs/{cancelled}/set_state", cancelling)
    wait_until(lambda: _state(served, cancelled)["type"] == "CANCELLED", "the run to be cancelled", 60)
    wait_until(lambda: not any(each.is_running() for each in family), "its processes to end", 60)
    assert live_holder(dataset) is None
    assert set(open_dataset(dataset).missing_shards()) >= {1}

    (tmp_path / "kept").replace(photographs / "1.png")
    run = _run(served, "factory/nightly", parameters)
    wait_until(lambda: _state(served, run)["type"] in ENDED, "the run to end", 300)
    state = _state(served, run)
    assert state["type"] == "FAILED"
    assert "gate min_cycle_psnr asks for 99 dB" in state["message"]
    assert open_dataset(dataset).missing_shards() == []
    wait_until(lambda: bool(webhook.told), "people to be told", 180)
    (told,) = webhook.told  # a person who cancels need not be told
    assert told["subject"] == "photographs -> dataset"
    assert "gate min_cycle_psnr asks for 99 dB" in told["message"]
    assert told["link"] == f"{served.ui_url}/runs/flow-run/{run}"


def test_a_run_whose_heart_stops_is_marked_and_people_are_told(served: Server, webhook: Webhook) -> None:
    """With the deployed automation, whose patience alone is made shorter."""
    (automation,) = [
        each for each in ask(served, "POST", "automations/filter", {}).json() if each["name"] == "aura run lost"
    ]
    changed = {name: automation[name] for name in ("name", "description", "enabled", "actions")}
    changed["trigger"] = automation["trigger"] | {"within": 10}
    ask(served, "PUT", f"automations/{automation['id']}", changed)
    with get_client(sync_client=True) as client:
        run = str(client.create_flow_run(mark_lost, state=Running(), tags=["aura"], name="lost at night").id)
    # not by emit_event, whose thread sends to the server that it met first
    heartbeat = {
        "id": str(uuid4()),
        "occurred": datetime.now(UTC).isoformat(),
        "event": "prefect.flow-run.heartbeat",
        "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
        "related": [{"prefect.resource.id": "prefect.tag.aura", "prefect.resource.role": "tag"}],
    }
    ask(served, "POST", "events", [heartbeat])
    wait_until(lambda: _state(served, run)["type"] == "CRASHED", "the lost run to be marked", 180)
    wait_until(lambda: "lost at night" in _subjects(webhook), "people to be told", 180)
    told = webhook.told[_subjects(webhook).index("lost at night")]
    assert "no sign of life" in told["message"]
    assert told["link"] == f"{served.ui_url}/runs/flow-run/{run}"


def test_a_failure_of_which_nobody_was_told_is_told_within_the_hour_until_the_message_comes_through(
    served: Server, webhook: Webhook
) -> None:
    (automation,) = [
        each for each in ask(served, "POST", "automations/filter", {}).json() if each["name"] == "aura run failed"
    ]
    ask(served, "PATCH", f"automations/{automation['id']}", {"enabled": False})  # as if its server had been restarted
    with get_client(sync_client=True) as client:
        failing = Failed(message="the disk is full")
        run = client.create_flow_run(mark_lost, state=failing, tags=["aura"], name="untold").id

    def messages() -> list[dict[str, Any]]:
        deployment = _get(served, "deployments/name/notify/on-failure")["id"]
        body = {"flow_runs": {"deployment_id": {"any_": [deployment]}}}
        found = ask(served, "POST", "flow_runs/filter", body).json()
        return [each for each in found if each["parameters"]["page"] == f"runs/flow-run/{run}"]

    def look() -> None:
        looking = _run(served, "untold-failures/untold-failures", {"patience_s": 0})
        wait_until(lambda: _state(served, looking)["type"] == "COMPLETED", "the look for untold failures", 120)

    look()
    wait_until(lambda: "untold" in _subjects(webhook), "people to be told", 120)
    assert webhook.told[_subjects(webhook).index("untold")]["message"] == "the disk is full"
    look()
    (message,) = messages()
    wait_until(lambda: _state(served, message["id"])["type"] in ENDED, "the message to end", 60)
    in_vain = {"state": {"type": "FAILED"}, "force": True}
    ask(served, "POST", f"flow_runs/{message['id']}/set_state", in_vain)  # as one whose webhook was down ends
    look()
    wait_until(lambda: _subjects(webhook).count("untold") == 2, "people to be told again", 120)
    assert len(messages()) == 2


def test_the_recipe_that_is_shown_as_an_example_is_one() -> None:
    recipe = load_recipe(REPOSITORY / "examples" / "recipe.yaml")
    assert Path(recipe.corpus).name == "photographs"


def _subjects(webhook: Webhook) -> list[str]:
    return [each["subject"] for each in webhook.told]


def _get(server: Server, what: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(server, "GET", what).json()
    return found


def _run(server: Server, deployment: str, parameters: dict[str, Any]) -> str:
    deployment_id = _get(server, f"deployments/name/{deployment}")["id"]
    body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    return str(ask(server, "POST", f"deployments/{deployment_id}/create_flow_run", body).json()["id"])


def _state(server: Server, run: str) -> dict[str, Any]:
    found: dict[str, Any] = _get(server, f"flow_runs/{run}")["state"]
    return found
