"""What a turn costs each part of the system, as the benches saw it, scenario by scenario."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

# The parts of the system that use CPU, by the names that the benches give them.
PARTS = ("gateway", "chat-worker", "persistence", "postgres", "rabbitmq")
WRITING_BACK = frozenset({"persistence", "postgres", "rabbitmq"})

# As bench/scenarios.py has them.
_STREAMS = {"stream-200": 200, "stream-1000": 1_000}
_STREAM_TOKENS, _STREAM_PACE, _STREAM_SECONDS = 300, 30.0, 10.0
_CLOSED = {"idle": 1, "saturation": 32}
_CLOSED_SECONDS = 6.0  # of a simulation; the benches count turns, or a few seconds


@dataclass(frozen=True, slots=True)
class Shape:
    """What a scenario asks for. `bursts`: in how many pieces a worker gets the answer, `pause_seconds` apart.

    An answer that the model has at once is one burst, however many tokens it has: all of them are there when the worker
    looks. Either `clients` each begin a turn when their last one has ended, or `turns_per_second` begin whatever
    happens: by chance, or `is_even`.
    """

    bursts: int
    pause_seconds: float
    clients: int = 0
    turns_per_second: float = 0.0
    is_even: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """One scenario, as the median of its rounds. `commits`, `beside_ms` and the CPU of each part are per turn.

    `beside_ms` is the CPU of the model and of the load generator; `seconds` is how long it was looked at after
    `warm_up_seconds`.
    """

    scenario: str
    shape: Shape
    turns_per_second: float
    first_token_ms: float
    first_token_p95_ms: float
    commits: float
    wal_bytes: float
    cpu_ms: Mapping[str, float]
    beside_ms: float = 0.0
    seconds: float = _CLOSED_SECONDS
    warm_up_seconds: float = 1.0


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds: of a turn, of each burst of its text, of each transaction, of a waking.

    A transaction that writes bursts back costs those who write it, and any costs Postgres. What it comes to for
    gateways and workers is told by how often they had nothing to do and were woken: the busier they are, the less
    often.
    """

    turn_ms: float
    burst_ms: float
    commit_ms: float = 0.0
    waking_ms: float = 0.0

    def of(self, bursts: float, commits: float, wakings: float) -> float:
        return self.turn_ms + self.burst_ms * bursts + self.commit_ms * commits + self.waking_ms * wakings


def read(path: Path, system: str = "parley") -> dict[str, Measured]:
    """The scenarios of `system` in a results file of `./dev bench`. Raises ValueError where there are none."""
    content = json.loads(path.read_text())
    found: dict[str, list[dict[str, Any]]] = {}
    for row in content["measurements"]:
        if row["system"] == system and row["scenario"] in {*_CLOSED, *_STREAMS} and not row.get("failed", 1):
            found.setdefault(row["scenario"], []).append(row)
    if not found:
        raise ValueError(f"{path} has no scenario of {system} that is understood here")
    around = content["surroundings"]
    return {
        name: _median(name, found[name], around["burst"], around["scale"])
        for name in (*_CLOSED, *_STREAMS)
        if name in found
    }


def _median(scenario: str, rows: Sequence[Mapping[str, Any]], burst: int, scale: float) -> Measured:
    def middle(values: Sequence[float]) -> float:
        return float(median(values))

    return Measured(
        scenario=scenario,
        shape=shape_of(scenario, burst),
        turns_per_second=middle([row["turns_per_second"] for row in rows]),
        first_token_ms=middle([row["first_token_ms"]["p50"] for row in rows]),
        first_token_p95_ms=middle([row["first_token_ms"]["p95"] for row in rows]),
        commits=middle([row["writes_per_turn"] for row in rows]),
        wal_bytes=middle([row["wal_bytes_per_turn"] for row in rows]),
        cpu_ms={part: middle([row["cpu_ms_per_turn"][part] for row in rows]) for part in PARTS},
        beside_ms=middle([_beside_ms(row) for row in rows]),
        **({"seconds": max(3.0, 15 * scale), "warm_up_seconds": _STREAM_SECONDS} if scenario in _STREAMS else {}),
    )


def shape_of(scenario: str, burst: int) -> Shape:
    """With so many tokens in a delta of what streams long."""
    if scenario in _CLOSED:
        return Shape(bursts=1, pause_seconds=0.0, clients=_CLOSED[scenario])
    rate = _STREAMS[scenario] / _STREAM_SECONDS
    bursts = -(-_STREAM_TOKENS // burst)
    return Shape(bursts=bursts, pause_seconds=burst / _STREAM_PACE, turns_per_second=rate, is_even=True)


def _beside_ms(row: Mapping[str, Any]) -> float:
    turns = row["turns"] + row.get("turns_before", 0)
    return float(row["model_cpu_ms_per_turn"] + row["generator_cpu_seconds"] * 1000 / turns)
