"""What was measured, for people: medians and ratios as Markdown, everything as JSON, pictures beside them."""

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from bench import plots
from bench.plots import Bar
from bench.scenarios import SCENARIOS
from bench.systems import SYSTEMS

Measurement = Mapping[str, Any]

_SPEEDS = ("idle", "stream-200", "stream-1000")
_HISTORIES = ("history-10", "history-30", "history-100", "history-1000")
_PEERS = ("plain", "celery", "langgraph")
_BUSY_SHARE_MAX = 0.15
_OURS = "parley"
_FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Medians:
    """The medians over the rounds of every number, by scenario and system, under dotted names."""

    of: Mapping[tuple[str, str], Mapping[str, float]]

    @classmethod
    def over(cls, measurements: Iterable[Measurement]) -> "Medians":
        values: dict[tuple[str, str], dict[str, list[float]]] = {}
        for one in measurements:
            numbers = values.setdefault((one["scenario"], one["system"]), {})
            for name, value in _numbers(one):
                numbers.setdefault(name, []).append(value)
        return cls({key: {name: median(all_) for name, all_ in numbers.items()} for key, numbers in values.items()})

    def get(self, scenario: str, system: str, name: str) -> float | None:
        return self.of.get((scenario, system), {}).get(name)

    def added(self, scenario: str, system: str, quantile: str) -> float | None:
        """What the system adds to the model's own median time to the first token."""
        value, alone = (self.get(scenario, system, f"first_token_ms.{quantile}"), self.alone(scenario))
        return None if value is None or alone is None else max(0.0, value - alone)

    def alone(self, scenario: str) -> float | None:
        return self.get(scenario, "direct", "first_token_ms.p50")


def _numbers(value: Measurement, prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, one in value.items():
        if isinstance(one, Mapping):
            yield from _numbers(one, f"{prefix}{name}.")
        elif isinstance(one, int | float):
            yield f"{prefix}{name}", float(one)


# --- What was measured on


def surroundings(servers: Mapping[str, str], scale: float, burst: int) -> dict[str, Any]:
    """The machine and the versions, and how busy it was with other things before the benches began."""
    names = ("uvicorn", "uvloop", "fastapi", "asyncpg", "aio-pika", "faststream", "openai")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "busy_before": _busy_share(),
        "scale": scale,
        "burst": burst,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "commit": _commit(),
        "servers": dict(servers),
        "packages": {name: version(name) for name in names},
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _busy_share(seconds: float = 3.0) -> float:
    """How much of all cores is used before anything is measured."""

    def read() -> tuple[int, int]:
        try:
            fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except OSError:
            return 0, 1
        return sum(fields) - fields[3] - fields[4], sum(fields)

    before = read()
    time.sleep(seconds)
    after = read()
    return round((after[0] - before[0]) / max(1, after[1] - before[1]), 3)


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip()


# --- The report


def write(folder: Path, measurements: Sequence[Measurement], around: Mapping[str, Any]) -> None:
    """Write report.md, results.json and the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join(json.dumps(one, separators=(",", ":")) for one in measurements)
    (folder / "results.json").write_text(f'{{"surroundings": {json.dumps(around)},\n"measurements": [\n{lines}\n]}}\n')
    medians = Medians.over(measurements)
    systems = [name for name in SYSTEMS if any(system == name for _, system in medians.of)]
    pictures = dict(_pictures(medians, systems))
    for name, picture in pictures.items():
        (folder / f"{name}.svg").write_text(picture)
    (folder / "report.md").write_text("\n".join(_report(medians, systems, around, measurements, list(pictures))))


def _report(
    medians: Medians,
    systems: Sequence[str],
    around: Mapping[str, Any],
    measurements: Sequence[Measurement],
    pictures: Sequence[str],
) -> Iterator[str]:
    runs = max((one["round"] for one in measurements), default=0)
    yield "# Measured side by side\n"
    rounds = "One round" if runs == 1 else f"Medians of {runs} rounds, each of them"
    yield f"{rounds} through all systems, one after another. {_machine(around)}\n"
    if runs > 1 and (once := _measured_once(measurements)):
        yield f"One round had {', '.join(f'`{name}`' for name in once)}.\n"
    for name in systems:
        kept = "; keeps jobs when a process dies" if SYSTEMS[name].is_durable else ""
        yield f"- **{name}**: {SYSTEMS[name].about}{kept}"
    yield ""
    yield from (f"![{name}]({name}.svg)" for name in pictures)
    yield ""
    rounds_alone = [Medians.over(one for one in measurements if one["round"] == number + 1) for number in range(runs)]
    for title, table in _tables(medians, systems, rounds_alone):
        if table:
            yield from (f"## {title}\n", *table, "")
    if failures := [one for one in measurements if "not_measured" in one]:
        yield "## What could not be measured\n"
        yield from (f"- {one['system']}, `{one['scenario']}`: {one['not_measured']}" for one in failures)
        yield ""
    yield "## What the scenarios are\n"
    yield f"Long streams come in deltas of {around['burst']} tokens.\n"
    present = {scenario for scenario, _ in medians.of}
    yield from (f"- `{name}`: {one.about}" for name, one in SCENARIOS.items() if name in present)
    yield ""


def _measured_once(measurements: Sequence[Measurement]) -> list[str]:
    """The scenarios that only one of several rounds had."""
    rounds: dict[str, set[int]] = {}
    for one in measurements:
        rounds.setdefault(one["scenario"], set()).add(one["round"])
    return [name for name, had in rounds.items() if len(had) == 1]


def _machine(around: Mapping[str, Any]) -> str:
    servers = ", ".join(around["servers"].values())
    hints = ""
    if around["busy_before"] > _BUSY_SHARE_MAX:
        hints += f" **The machine was {around['busy_before']:.0%} busy with other things**: times are no measure."
    if around["scale"] < 1:
        hints += f" A quick run: each scenario had {around['scale']:.0%} of its time."
    return (
        f"{around['cpu']}, {around['cores']} cores, {around['memory_gib']} GiB, {around['system']}, "
        f"Python {around['python']}; {servers}; commit {around['commit']}.{hints}"
    )


def _tables(medians: Medians, systems: Sequence[str], rounds: Sequence[Medians]) -> Iterator[tuple[str, list[str]]]:
    yield "Bars", _bars(medians, rounds)
    yield "Added time to the first token, p50 / p95 (ms)", _added_table(medians, systems)
    yield "Between two tokens, p50 / p95 / p99 (ms), and a whole turn", _gaps_table(medians, systems)
    yield "Saturated: 32 clients, a model without latency", _saturation_table(medians, systems)
    yield "CPU of one turn by process, saturated (ms)", _cpu_table(medians, systems)
    yield "CPU of a turn by the length of its history (ms)", _history_table(medians, systems)
    yield "Commits, messages and bytes of a turn", _counts_table(medians, systems)
    yield "100 posts at once on one conversation", _posts_table(medians, systems)
    yield "kill -9 of each process while answers stream", _kill_table(medians)
    yield "What only Parley is put through", _own_table(medians)
    yield "The load generator and the model", _generator_table(medians, systems)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    rows = list(rows)
    if not rows:
        return []
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def _number(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _ratio(value: float | None, other: float | None) -> str:
    return "-" if value is None or not other else f"{value / other:.2f}"


def _failures(medians: Medians, scenario: str, system: str) -> str:
    turns = medians.get(scenario, system, "turns")
    bad = {name: medians.get(scenario, system, key) for name, key in (("failed", "failed"), ("wrong", "wrong_answers"))}
    return "".join(f", {100 * count / turns:.0f} % {name}" for name, count in bad.items() if count and turns)


def _added_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    rows = []
    scenarios = [name for name in _SPEEDS if medians.alone(name) is not None]
    for system in systems:
        if system == "direct":
            cells = [f"(alone: {_number(medians.alone(name))})" for name in scenarios]
        else:
            cells = [
                f"{_number(medians.added(name, system, 'p50'))} / {_number(medians.added(name, system, 'p95'))}"
                f"{_failures(medians, name, system)}"
                for name in scenarios
            ]
        rows.append([system, *cells])
    return _table(["system", *scenarios], rows) if scenarios else []


def _gaps_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    scenarios = [name for name in _SPEEDS[1:] if any((name, system) in medians.of for system in systems)]
    head = ["system", *(f"{name}: {what}" for name in scenarios for what in ("between", "whole p50 (s)"))]
    rows = []
    for system in systems:
        cells = []
        for name in scenarios:
            gaps = [_number(medians.get(name, system, f"between_tokens_ms.{q}"), 0) for q in ("p50", "p95", "p99")]
            whole = medians.get(name, system, "whole_turn_ms.p50")
            cells += [" / ".join(gaps), _number(whole / 1000 if whole else None, 2)]
        rows.append([system, *cells])
    return _table(head, rows) if scenarios else []


def _saturation_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    head = ["system", "turns/s", "of the floor", "CPU per turn (ms)", "of the floor", "failed or wrong"]
    floor = {key: medians.get("saturation", _FLOOR, key) for key in ("turns_per_second", "cpu_ms_per_turn.all")}
    rows = []
    for system in systems:
        if ("saturation", system) not in medians.of:
            continue
        speed = medians.get("saturation", system, "turns_per_second")
        cpu = medians.get("saturation", system, "cpu_ms_per_turn.all")
        ratios = _ratio(speed, floor["turns_per_second"]), _ratio(cpu, floor["cpu_ms_per_turn.all"])
        bad = _failures(medians, "saturation", system).removeprefix(", ") or "0"
        rows.append([system, _number(speed), ratios[0], _number(cpu, 2), ratios[1], bad])
    return _table(head, rows)


def _cpu_of(medians: Medians, scenario: str, system: str) -> dict[str, float]:
    prefix = "cpu_ms_per_turn."
    numbers = medians.of.get((scenario, system), {})
    return {name.removeprefix(prefix): value for name, value in numbers.items() if name.startswith(prefix)}


def _cpu_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    rows = []
    for system in systems:
        cpu = _cpu_of(medians, "saturation", system)
        total = cpu.pop("all", None)
        if cpu:
            rows.append([system, ", ".join(f"{name} {value:.2f}" for name, value in cpu.items()), _number(total, 2)])
    return _table(["system", "by process", "all"], rows)


def _history_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    scenarios = [name for name in _HISTORIES if any((name, system) in medians.of for system in systems)]
    head = ["system", *(f"{name.partition('-')[2]} messages" for name in scenarios), "1000 against 30"]
    rows = []
    for system in systems:
        costs = {name: medians.get(name, system, "cpu_ms_per_turn.all") for name in scenarios}
        if any(costs.values()):
            ratio = _ratio(costs.get("history-1000"), costs.get("history-30"))
            rows.append([system, *(_number(cost) for cost in costs.values()), ratio])
    return _table(head, rows)


def _counts_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    head = ["system", "turn", "writing transactions", "messages published", "WAL bytes", "bytes to the client"]
    rows = []
    for scenario, what in (("counts", "at once"), ("counts-paced", "2 s"), ("saturation", "saturated")):
        for system in systems:
            keys = ("writes_per_turn", "messages_per_turn", "wal_bytes_per_turn", "bytes_per_turn")
            values = [medians.get(scenario, system, key) for key in keys]
            if values[0] or values[1]:
                cells = [_number(values[0], 2), _number(values[1], 2), _number(values[2], 0), _number(values[3], 0)]
                rows.append([system, what, *cells])
    return _table(head, rows)


def _posts_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    head = ["system", "answered", "failed", "answered with another's words", "overlapping", "seconds"]
    rows = []
    for system in systems:
        if ("posts", system) in medians.of:
            values = {
                key: medians.get("posts", system, key) or 0.0
                for key in ("turns", "failed", "wrong_answers", "overlapping", "seconds")
            }
            cells = [
                values["turns"] - values["failed"],
                values["failed"],
                values["wrong_answers"],
                values["overlapping"],
            ]
            rows.append([system, *(f"{cell:.0f}" for cell in cells), f"{values['seconds']:.1f}"])
    return _table(head, rows)


def _kill_table(medians: Medians) -> list[str]:
    numbers = medians.of.get(("kill", _OURS), {})
    names = sorted({name.split(".")[1] for name in numbers if name.startswith("processes.")})
    head = ["process", "turns", "failed", "wrong", "ready again (s)", "answer beyond that, p50 / max (s)"]
    rows = []
    for name in names:
        value = {
            key: numbers.get(f"processes.{name}.{key}", 0.0)
            for key in ("turns", "failed", "wrong_answers", "restart_ms")
        }
        beyond = [numbers.get(f"processes.{name}.beyond_ms.{key}", 0.0) / 1000 for key in ("p50", "max")]
        counts = [f"{value[key]:.0f}" for key in ("turns", "failed", "wrong_answers")]
        rows.append([name, *counts, f"{value['restart_ms'] / 1000:.1f}", f"{beyond[0]:.1f} / {beyond[1]:.1f}"])
    return _table(head, rows)


def _own_table(medians: Medians) -> list[str]:
    rows = []
    for name, key, unit in (
        ("tools", "whole_turn_ms.p50", "ms for a turn with a tool call"),
        ("tools", "cpu_ms_per_turn.all", "ms of CPU for it"),
        ("mix", "turns", "turns streamed, resumed, polled and cancelled"),
        ("mix", "failed", "of them failed"),
        ("mix", "wrong_answers", "of them with a wrong word"),
        ("idle-streams", "streams_alive", "idle streams open"),
        ("idle-streams", "kib_per_stream", "KiB of the gateway's memory for each"),
        ("idle-streams", "gateway_mib_after", "MiB in that process"),
    ):
        value = medians.get(name, _OURS, key)
        if value is not None:
            rows.append([f"`{name}`", f"{value:,.6g} {unit}"])
    return _table(["scenario", "measured"], rows)


def _generator_table(medians: Medians, systems: Sequence[str]) -> list[str]:
    head = ["scenario", "system", "CPU of the generator (share of a core)", "CPU of the model per turn (ms)"]
    rows = []
    for scenario in ("saturation", "stream-200", "stream-1000"):
        for system in systems:
            share = medians.get(scenario, system, "generator_cpu_share")
            if share is not None:
                model = medians.get(scenario, system, "model_cpu_ms_per_turn")
                rows.append([f"`{scenario}`", system, _number(share, 2), _number(model, 2)])
    return _table(head, rows)


# --- Bars: what is aimed at, as ratios within one run


def _bars(medians: Medians, rounds: Sequence[Medians]) -> list[str]:
    """A ratio is that of two medians; what it was in each round by itself says how firm that is."""
    rows = [
        [what, aim, _number(value, 2), _spread(alone), "-" if value is None else "yes" if is_reached else "no"]
        for (what, aim, value, is_reached), *alone in zip(_judged(medians), *map(_judged, rounds), strict=True)
    ]
    return _table(["what", "aim", "measured", "in each round", "reached"], rows)


def _spread(alone: Iterable[tuple[str, str, float | None, bool]]) -> str:
    """The least and the greatest."""
    values = [value for _, _, value, _ in alone if value is not None]
    return f"{_number(min(values), 2)} to {_number(max(values), 2)}" if len(values) > 1 else "-"


def _judged(medians: Medians) -> Iterator[tuple[str, str, float | None, bool]]:
    """What is aimed at, how far, what was measured, and whether that is enough."""
    for scenario, factors in (("idle", (1.8, 3.0)), ("stream-200", (1.8, 3.0)), ("stream-1000", (2.5, 2.5))):
        for quantile, factor in zip(("p50", "p95"), factors, strict=True):
            ours, floor = (medians.added(scenario, system, quantile) for system in (_OURS, _FLOOR))
            value = ours / floor if ours is not None and floor else None
            yield (
                f"added time to first token, {scenario}, {quantile}, of the floor's",
                f"≤ {factor}",
                value,
                _at_most(value, factor),
            )
        peers = [added for peer in _PEERS if (added := medians.added(scenario, peer, "p50")) is not None]
        ours = medians.added(scenario, _OURS, "p50")
        share = 1 / 20 if scenario == "stream-1000" else 1.0
        value = ours / min(peers) if ours is not None and peers and min(peers) else None
        yield f"the same, p50, of the best peer's, {scenario}", f"≤ {share:g}", value, _at_most(value, share)
    bad = [medians.get("stream-1000", _OURS, key) for key in ("failed", "wrong_answers")]
    total = None if None in bad else sum(filter(None, bad))
    yield "failed or wrong turns, stream-1000", "0", total, total == 0
    yield from _judged_saturation(medians)
    costs = [medians.get(name, _OURS, "cpu_ms_per_turn.all") for name in ("history-1000", "history-30")]
    value = costs[0] / costs[1] if costs[0] is not None and costs[1] else None
    yield "CPU of a turn at 1,000 messages of history, of that at 30", "≤ 2", value, _at_most(value, 2)
    for key, most in (("kib_per_stream", 20), ("gateway_mib_after", 250)):
        value = medians.get("idle-streams", _OURS, key)
        yield f"idle streams: {key.replace('_', ' ')}", f"≤ {most}", value, _at_most(value, most)
    value = medians.get("counts", _OURS, "writes_per_turn")
    yield "commits of a turn at once", "≤ 2", value, _at_most(value, 2)
    value = medians.get("counts-paced", _OURS, "messages_per_turn")
    most_messages = 3 + 2_000 / 20
    yield "broker messages of a turn of 2 s", f"≤ {most_messages:g}", value, _at_most(value, most_messages)
    for key in ("failed", "wrong_answers", "overlapping"):
        value = medians.get("posts", _OURS, key)
        yield f"100 posts at once: {key.replace('_', ' ')}", "0", value, value == 0


def _judged_saturation(medians: Medians) -> Iterator[tuple[str, str, float | None, bool]]:
    def of(system: str, key: str) -> float | None:
        return medians.get("saturation", system, key)

    speed, cpu = of(_OURS, "turns_per_second"), of(_OURS, "cpu_ms_per_turn.all")
    floor_speed, floor_cpu = of(_FLOOR, "turns_per_second"), of(_FLOOR, "cpu_ms_per_turn.all")
    value = speed / floor_speed if speed is not None and floor_speed else None
    yield "saturated turns/s, of the floor's", "≥ 0.6", value, value is not None and value >= 0.6
    for names, least in ((_PEERS, 1.5), (tuple(name for name in _PEERS if SYSTEMS[name].is_durable), 2.5)):
        speeds = [one for name in names if (one := of(name, "turns_per_second")) is not None]
        value = speed / max(speeds) if speed is not None and speeds and max(speeds) else None
        yield f"the same, of the best of {', '.join(names)}", f"≥ {least}", value, value is not None and value >= least
    value = cpu / floor_cpu if cpu is not None and floor_cpu else None
    yield "CPU per turn, saturated, of the floor's", "≤ 1.7", value, _at_most(value, 1.7)
    costs = [one for name in _PEERS if (one := of(name, "cpu_ms_per_turn.all")) is not None]
    value = cpu / min(costs) if cpu is not None and costs and min(costs) else None
    yield "the same, of the cheapest peer's", "< 1", value, value is not None and value < 1


def _at_most(value: float | None, most: float) -> bool:
    return value is not None and value <= most


# --- Pictures


def _pictures(medians: Medians, systems: Sequence[str]) -> Iterator[tuple[str, str]]:
    shown = [system for system in systems if system != "direct"]
    groups = {
        scenario: [
            Bar(system, medians.added(scenario, system, "p50"), medians.added(scenario, system, "p95"))
            for system in shown
            if medians.added(scenario, system, "p50") is not None
        ]
        for scenario in _SPEEDS
    }
    if any(groups.values()):
        yield "first-token", plots.ranges("Added time to the first token: p50 to p95, ms (logarithmic)", groups)
    speeds = [(name, medians.get("saturation", name, "turns_per_second")) for name in shown]
    if known := [Bar(name, speed) for name, speed in speeds if speed is not None]:
        yield "saturation", plots.bars("Saturated: turns per second, 32 clients", known)
    costs = {name: _cpu_of(medians, "saturation", name) for name in shown}
    parts = {name: {part: ms for part, ms in cpu.items() if part != "all"} for name, cpu in costs.items() if cpu}
    if parts:
        yield "cpu", plots.stacks("CPU of one turn, saturated, ms", parts)
