"""From the figures of one machine to fleets: costs are found again, and the simulation does what queues do."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import scenarios
from bench.scaling.__main__ import tables, written
from bench.scaling.costs import BURST, PARTS, SHAPES, Cost, Measured, Shape, fitted, read
from bench.scaling.plan import FLUSHES, need
from bench.scaling.simulation import Fleet, Simulation, calibrated

_ROOT = Path(__file__).parents[2]
_COSTS = {
    "gateway": Cost(3.0, 0.1, 0.0),
    "chat-worker": Cost(5.0, 0.15, 0.0),
    "persistence": Cost(2.0, 0.1, 0.4),
    "postgres": Cost(3.0, 0.05, 0.3),
    "rabbitmq": Cost(1.0, 0.1, 0.2),
}
_ONE_MACHINE = Fleet(cores=2, postgres_cores=2, rabbitmq_cores=2)


def _measured(scenario: str, commits: float) -> Measured:
    cpu = {part: _COSTS[part].of(SHAPES[scenario].flushes, commits - 2) for part in PARTS}
    return Measured(scenario, 20.0, 30.0, 60.0, commits, 20_000.0, cpu)


def test_the_costs_behind_the_measurements_are_found_again() -> None:
    scenarios = {
        name: _measured(name, commits) for name, commits in (("idle", 6), ("saturation", 3), ("stream-200", 40))
    }

    found = fitted(scenarios)

    for part in PARTS:
        assert found[part].turn_ms == pytest.approx(_COSTS[part].turn_ms)
        assert found[part].flush_ms == pytest.approx(_COSTS[part].flush_ms)
        assert found[part].batch_ms == pytest.approx(_COSTS[part].batch_ms)


def test_no_cost_is_below_zero_whatever_was_measured() -> None:
    """More write-backs and less CPU: measurements are never exact."""
    odd = {
        "idle": _measured("idle", 3),
        "saturation": _measured("saturation", 6),
        "stream-200": _measured("stream-200", 1),
    }
    saturated = odd["saturation"]
    cpu_ms = {**saturated.cpu_ms, "gateway": saturated.cpu_ms["gateway"] / 3}
    odd["saturation"] = replace(saturated, cpu_ms=cpu_ms)

    for cost in fitted(odd).values():
        assert min(cost.turn_ms, cost.flush_ms, cost.batch_ms) >= 0


def test_answers_have_the_shape_that_the_benches_give_them() -> None:
    paced = scenarios._PACED  # noqa: SLF001
    shape = SHAPES["stream-200"]

    assert shape.flushes == paced.tokens / BURST == FLUSHES
    assert shape.pause_seconds == pytest.approx(BURST / paced.pace)
    assert SHAPES.keys() <= scenarios.SCENARIOS.keys()


def test_a_file_with_too_little_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps([{"system": "parley", "scenario": "idle", "failed": 1}]))

    with pytest.raises(ValueError, match="too few scenarios"):
        read(file)


def test_a_machine_does_no_more_than_its_cores_can() -> None:
    shape = SHAPES["saturation"]
    told = Simulation(_ONE_MACHINE, _COSTS, shape).run(5, 1)

    cpu_ms = sum(cost.of(shape.flushes, told.commits_per_turn - 2) for cost in _COSTS.values())
    assert told.busy["machine"] == pytest.approx(1, abs=0.1)
    assert told.turns_per_second == pytest.approx(2000 / cpu_ms, rel=0.15)


def test_more_at_a_time_wait_longer() -> None:
    few, many = (
        Simulation(_ONE_MACHINE, _COSTS, Shape(flushes=22, pause_seconds=0.0, clients=clients)).run(3, 1)
        for clients in (1, 64)
    )

    assert many.first_token_p50 > 5 * few.first_token_p50


def test_answers_at_the_same_time_share_their_write_backs() -> None:
    """What batches are for, and why a busy system costs less for each turn than an idle one."""
    few, many = (
        Simulation(Fleet(), _COSTS, Shape(flushes=30, pause_seconds=0.1, turns_per_second=rate)).run(6, 6)
        for rate in (1.0, 20.0)
    )

    assert many.commits_per_turn < 0.75 * few.commits_per_turn


def test_more_processes_do_more_until_a_server_is_full() -> None:
    shape = Shape(flushes=22, pause_seconds=0.0, clients=64)
    one, four, many = (
        Simulation(Fleet(gateways=count, workers=count, persistences=count, postgres_cores=1), _COSTS, shape).run(
            1.5, 0.5
        )
        for count in (1, 4, 16)
    )

    assert four.turns_per_second > 1.5 * one.turns_per_second
    assert many.busy["postgres"] == pytest.approx(1, abs=0.1)
    assert many.turns_per_second < 2 * four.turns_per_second


def test_waiting_that_is_no_cpu_is_what_cpu_does_not_explain() -> None:
    waiting = calibrated(_ONE_MACHINE, _COSTS, SHAPES["idle"], 0.1)
    told = Simulation(_ONE_MACHINE, _COSTS, SHAPES["idle"], elsewhere_seconds=waiting).run(10, 1)

    assert told.first_token_p50 == pytest.approx(0.1, rel=0.1)


def test_ten_times_the_conversations_need_ten_times_the_cores() -> None:
    small, large = (need(size, _COSTS, 60.0, 20_000.0) for size in (10_000, 100_000))

    assert small.turns_per_second == pytest.approx(10_000 / 60)
    assert small.cores["gateway"] == pytest.approx(small.turns_per_second * _COSTS["gateway"].of(FLUSHES, 60) / 600)
    assert large.cores["postgres"] == pytest.approx(10 * small.cores["postgres"])
    assert large.processes["persistence"] >= 9 * small.processes["persistence"]


def test_the_page_says_what_the_results_say() -> None:
    """The tables that need no simulation, which would take long here."""
    page = (_ROOT / "docs/scaling.md").read_text()

    assert written(page, tables(read(_ROOT / "bench/results/scaling.json"), 2, ["costs", "sizes"])) == page


def test_tables_go_to_their_marks_and_nowhere_else() -> None:
    page = "a\n<!-- costs -->\nold\n<!-- end -->\nb\n<!-- sizes -->\n<!-- end -->\n"

    assert written(page, {"costs": "new"}) == page.replace("old", "new")
    with pytest.raises(ValueError, match="no place for curve"):
        written(page, {"curve": "x"})
