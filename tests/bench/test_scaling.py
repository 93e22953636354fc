"""The model of size: costs are found again, the simulation tells what was measured, arithmetic is arithmetic."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench import scenarios
from bench.scaling.__main__ import NAMES, Findings, found_in, written
from bench.scaling.costs import PARTS, WRITING_BACK, Cost, Measured, Shape, read, shape_of
from bench.scaling.fit import fitted
from bench.scaling.plan import BURSTS, need
from bench.scaling.simulation import _GATHER_SECONDS, Fleet, Simulation, calibrated

_ROOT = Path(__file__).parents[2]
_RESULTS = _ROOT / "bench" / "results"
_COSTS = {
    "gateway": Cost(2.0, 0.1, 0.0, 0.5),
    "chat-worker": Cost(3.0, 0.15, 0.0, 0.3),
    "persistence": Cost(1.0, 0.02, 1.4),
    "postgres": Cost(3.0, 0.03, 1.3),
    "rabbitmq": Cost(1.0, 0.04, 1.2),
}
_BURST = 5
_SCENARIOS = {name: shape_of(name, _BURST) for name in ("idle", "saturation", "stream-200")}
_AT_ONCE = _SCENARIOS["saturation"]
_ONE_MACHINE = Fleet(cores=2, postgres_cores=2, rabbitmq_cores=2)
_IN_TABLES_WITHOUT_FLEETS = [name for name in NAMES if name != "beyond"]


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Of the results that are in the repository, as the page is made of them."""
    return found_in(_RESULTS / "scaling.json", _RESULTS / "scaling-held-out.json", cores=2)


# --- What was measured is told again


@pytest.mark.parametrize("name", ["idle", "saturation"])
def test_the_simulation_tells_the_measured_throughput(findings: Findings, name: str) -> None:
    assert findings.fit.told[name].turns_per_second == pytest.approx(findings.measured[name].turns_per_second, rel=0.2)


def test_the_simulation_tells_the_measured_cpu_of_a_turn(findings: Findings) -> None:
    for name, one, told in findings.compared:
        assert sum(told.cpu_ms.values()) == pytest.approx(sum(one.cpu_ms.values()), rel=0.2), name
        for part in PARTS:
            assert told.cpu_ms[part] == pytest.approx(one.cpu_ms[part], rel=0.3), f"{part}, {name}"


def test_the_simulation_tells_when_the_first_token_comes(findings: Findings) -> None:
    for name, one, told in findings.compared:
        assert told.first_token_p50 * 1000 == pytest.approx(one.first_token_ms, rel=0.5), name
        assert 0.5 < told.first_token_p95 * 1000 / one.first_token_p95_ms < 2, name


def test_the_simulation_tells_how_many_share_a_write_back(findings: Findings) -> None:
    for name, one, told in findings.compared:
        assert told.commits_per_turn == pytest.approx(one.commits, rel=0.2), name


def test_one_of_those_that_it_tells_was_not_fitted(findings: Findings) -> None:
    (one,) = findings.others

    assert one.shape == shape_of("stream-200", 15)
    assert len(findings.compared) == len(findings.measured) + 1


def test_the_page_says_what_the_results_say(findings: Findings) -> None:
    """But for the fleets, whose simulation would take long here."""
    page = (_ROOT / "docs" / "scaling.md").read_text()

    assert written(page, findings.tables(_IN_TABLES_WITHOUT_FLEETS)) == page


# --- The fit


def test_the_costs_behind_the_measurements_are_found_again() -> None:
    found = fitted({name: _measured(name) for name in _SCENARIOS}, cores=2).costs

    for part in PARTS:
        assert found[part].turn_ms == pytest.approx(_COSTS[part].turn_ms, rel=0.05)
        assert found[part].burst_ms == pytest.approx(_COSTS[part].burst_ms, abs=0.02)
        if part in WRITING_BACK:
            assert found[part].commit_ms == pytest.approx(_COSTS[part].commit_ms, rel=0.01)
        else:
            assert found[part].waking_ms == pytest.approx(_COSTS[part].waking_ms, rel=0.05)


def test_no_cost_is_below_zero_whatever_was_measured() -> None:
    """Less CPU where there is more to do: measurements are never exact."""
    odd = {name: _measured(name) for name in _SCENARIOS}
    streaming = odd["stream-200"]
    cpu_ms = {**streaming.cpu_ms, "gateway": 1.0, "postgres": 2.0}
    odd["stream-200"] = replace(streaming, cpu_ms=cpu_ms)

    for cost in fitted(odd, cores=2).costs.values():
        assert min(cost.turn_ms, cost.burst_ms, cost.commit_ms, cost.waking_ms) >= 0


def _measured(name: str) -> Measured:
    """As a machine with those costs would show itself."""
    shape = _SCENARIOS[name]
    streams = {"seconds": 3.0, "warm_up_seconds": 10.0} if shape.turns_per_second else {}
    empty = Measured(name, shape, 0.0, 1.0, 1.0, 0.0, 20_000.0, {}, **streams)
    told = Simulation(_ONE_MACHINE, _COSTS, shape).run(empty.seconds, empty.warm_up_seconds)
    commits = dict.fromkeys(PARTS, told.write_backs_per_turn) | {"postgres": told.commits_per_turn}
    cpu_ms = {part: _COSTS[part].of(shape.bursts, commits[part], told.wakings[part]) for part in PARTS}
    return replace(empty, commits=told.commits_per_turn, cpu_ms=cpu_ms, turns_per_second=told.turns_per_second)


def test_answers_have_the_shape_that_the_benches_give_them() -> None:
    paced = scenarios._PACED  # noqa: SLF001
    shape = shape_of("stream-200", _BURST)

    assert shape.bursts == paced.tokens / _BURST == BURSTS
    assert shape.pause_seconds == pytest.approx(_BURST / paced.pace)
    assert _SCENARIOS.keys() <= scenarios.SCENARIOS.keys()


def test_results_with_too_little_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"measurements": [{"system": "parley", "scenario": "idle", "failed": 1}]}))

    with pytest.raises(ValueError, match="no scenario of parley"):
        read(file)
    with pytest.raises(ValueError, match="too few scenarios"):
        fitted({name: _measured(name) for name in ("idle", "saturation")}, cores=2)


# --- The simulation


def test_a_machine_does_no_more_than_its_cores_can() -> None:
    told = Simulation(replace(_ONE_MACHINE, beside_ms=2.0), _COSTS, _AT_ONCE).run(5, 1)

    assert told.busy["machine"] == pytest.approx(1, abs=0.1)
    assert told.turns_per_second == pytest.approx(2000 / (sum(told.cpu_ms.values()) + 2.0), rel=0.1)


def test_more_at_a_time_wait_longer() -> None:
    few, many = (Simulation(_ONE_MACHINE, _COSTS, replace(_AT_ONCE, clients=clients)).run(3, 1) for clients in (1, 64))

    assert many.first_token_p50 > 5 * few.first_token_p50


def test_who_is_busy_is_woken_less_often_and_costs_less() -> None:
    few, many = (Simulation(_ONE_MACHINE, _COSTS, replace(_AT_ONCE, clients=clients)).run(3, 1) for clients in (1, 32))

    assert many.wakings["chat-worker"] < few.wakings["chat-worker"] / 2
    assert many.cpu_ms["chat-worker"] < few.cpu_ms["chat-worker"]


def test_answers_at_the_same_time_share_their_write_backs() -> None:
    """What batches are for, and why a busy system costs less for each turn than an idle one."""
    few, many = (
        Simulation(Fleet(), _COSTS, Shape(bursts=30, pause_seconds=0.1, turns_per_second=rate)).run(6, 6)
        for rate in (1.0, 20.0)
    )

    assert many.commits_per_turn < 0.75 * few.commits_per_turn


def test_turns_that_come_together_are_accepted_and_claimed_together() -> None:
    few, many = (Simulation(_ONE_MACHINE, _COSTS, replace(_AT_ONCE, clients=clients)).run(3, 1) for clients in (1, 32))

    assert few.commits_per_turn - few.write_backs_per_turn == pytest.approx(2, rel=0.05)
    assert many.commits_per_turn - many.write_backs_per_turn < 1


def test_what_is_first_does_not_wait_for_what_can_be_put_off() -> None:
    """The bursts between wait until a worker's partitions leave together; the first ones of others leave at once."""
    costs = dict.fromkeys(PARTS, Cost(0.1, 0.01))
    shape = Shape(bursts=30, pause_seconds=0.1, turns_per_second=20.0, is_even=True)

    told = Simulation(Fleet(), costs, shape).run(5, 5)

    assert told.first_token_p95 < _GATHER_SECONDS / 4


def test_more_processes_do_more_until_a_server_is_full() -> None:
    shape = replace(_AT_ONCE, clients=128)
    one, four, many = (
        Simulation(Fleet(gateways=count, workers=count, persistences=count, postgres_cores=2), _COSTS, shape).run(
            3.0, 0.5
        )
        for count in (1, 4, 16)
    )

    assert four.turns_per_second > 1.5 * one.turns_per_second
    assert many.busy["postgres"] == pytest.approx(1, abs=0.1)
    assert many.turns_per_second < 2 * four.turns_per_second


def test_waiting_that_is_no_cpu_is_what_cpu_does_not_explain() -> None:
    idle = _SCENARIOS["idle"]
    waiting = calibrated(_ONE_MACHINE, _COSTS, idle, 0.1)
    told = Simulation(_ONE_MACHINE, _COSTS, idle, elsewhere_seconds=waiting).run(10, 1)

    assert told.first_token_p50 == pytest.approx(0.1, rel=0.1)


# --- The arithmetic, and the page


def test_ten_times_the_conversations_need_ten_times_the_cores() -> None:
    cpu_ms = dict.fromkeys(PARTS, 18.0)
    small, large = (need(size, cpu_ms, 10.0, 20_000.0) for size in (10_000, 100_000))

    assert small.turns_per_second == pytest.approx(10_000 / 60)
    assert small.cores["gateway"] == pytest.approx(10_000 / 60 * 18.0 / 600)
    assert small.commits_per_second == pytest.approx(10_000 / 60 * 10)
    assert large.cores["postgres"] == pytest.approx(10 * small.cores["postgres"])
    assert large.processes["persistence"] >= 9 * small.processes["persistence"]


def test_tables_go_to_their_marks_and_nowhere_else() -> None:
    page = "a\n<!-- costs -->\nold\n<!-- end -->\nb\n<!-- sizes -->\n<!-- end -->\n"

    assert written(page, {"costs": "new"}) == page.replace("old", "new")
    with pytest.raises(ValueError, match="no place for curve"):
        written(page, {"curve": "x"})
