"""The model of cost against workers: its properties, and the dispatcher simulated beside it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scale_model import Assumptions, Machine, knee, makespan, throughput
from benchmarks.scale_simulation import simulate

ROOT = Path(__file__).resolve().parents[1]
ASSUMED = Assumptions()

machines = st.builds(
    Machine,
    shard_s=st.floats(0.5, 500),
    coordinator_s=st.floats(0.001, 1),
    hang_probability=st.floats(0, 0.01),
    losses_per_hour=st.floats(0, 1),
)


@settings(max_examples=50, deadline=None)
@given(machines, st.integers(1, 5000))
def test_more_workers_are_never_slower_and_the_coordinator_bounds_them(machine: Machine, workers: int) -> None:
    one, more = throughput(workers, machine, ASSUMED), throughput(workers + 1, machine, ASSUMED)
    rounding = 1 + 1e-9
    assert one <= more * rounding
    assert more <= rounding / machine.coordinator_s
    assert one <= rounding * workers / machine.shard_s
    assert makespan(workers, 1000, machine, ASSUMED) * rounding >= 1000 / one


def test_up_to_the_coordinators_bound_twice_the_workers_are_twice_as_fast() -> None:
    machine = Machine(shard_s=8.0, coordinator_s=0.08)
    assert knee(machine) == pytest.approx(100)
    assert throughput(80, machine, ASSUMED) == pytest.approx(2 * throughput(40, machine, ASSUMED))
    assert throughput(200, machine, ASSUMED) == pytest.approx(throughput(100, machine, ASSUMED))


@pytest.mark.parametrize("workers", [1, 8, 32])
def test_the_dispatcher_on_virtual_workers_agrees_with_the_closed_form(workers: int) -> None:
    machine = Machine(shard_s=5.0, coordinator_s=0.25, jitter=0.2)  # 20 workers are the coordinator's bound
    found = simulate(machine, workers, 600)
    assert found.made == 600
    assert found.shards_per_second == pytest.approx(throughput(workers, machine, ASSUMED), rel=0.05)
    assert found.makespan_s == pytest.approx(makespan(workers, 600, machine, ASSUMED), rel=0.1)


def test_shards_that_hang_and_workers_that_die_cost_what_the_closed_form_says_and_none_is_left_out() -> None:
    machine = Machine(40.0, hang_probability=0.02, losses_per_hour=2.0, restart_s=20.0)
    found = simulate(machine, 4, 1500)
    assert found.made == 1500
    assert found.hung > 10
    assert found.lost > 10
    assert found.shards_per_second == pytest.approx(throughput(4, machine, ASSUMED), rel=0.1)


def test_a_shard_that_hangs_before_any_is_done_is_late_as_soon_as_others_tell_what_is_usual() -> None:
    found = simulate(Machine(5.0, jitter=0.2, hang_probability=0.05), 20, 100)
    assert found.hung > 0
    assert found.makespan_s < 1000  # and not the hour that is granted while nothing is known


def test_every_figure_of_the_plan_is_the_models() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "scale_model.json").read_text())["figures"]
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .* \| `([\w/]+)` \| ([\d.,]+) \|$", page, re.MULTILINE)
    assert {key for key, _ in rows} >= {"plan/workers", "plan/dollars_per_million", "largest_difference"}
    for key, quoted in rows:
        decimals = len(quoted.partition(".")[2])
        assert quoted == f"{figures[key]['value']:,.{decimals}f}", key
