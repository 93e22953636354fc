"""What a turn costs each part of the system, taken from the CPU that the benches saw each part use."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

# The parts of the system that use CPU, by the names that the benches give them.
PARTS = ("gateway", "chat-worker", "persistence", "postgres", "rabbitmq")
_WRITING_BACK = {"persistence", "postgres", "rabbitmq"}
COMMITS_BEFORE = 2  # of a turn, before anything is written back: it is accepted, and claimed


@dataclass(frozen=True, slots=True)
class Shape:
    """What a scenario asks for: `flushes` are the model's bursts of text in an answer, `pause_seconds` apart.

    Either `clients` each begin a turn when their last one has ended, or `turns_per_second` begin whatever happens.
    """

    flushes: int
    pause_seconds: float
    clients: int = 0
    turns_per_second: float = 0.0


# Tokens in a delta of the results that are fitted: `./dev bench --burst 5`.
BURST = 5
# As bench/scenarios.py has them, with that burst. An answer at once comes as 22 bursts without a pause.
SHAPES: Mapping[str, Shape] = {
    "idle": Shape(flushes=22, pause_seconds=0.0, clients=1),
    "saturation": Shape(flushes=22, pause_seconds=0.0, clients=32),
    "stream-200": Shape(flushes=60, pause_seconds=1 / 6, turns_per_second=20.0),
    "stream-1000": Shape(flushes=60, pause_seconds=1 / 6, turns_per_second=100.0),
}


@dataclass(frozen=True, slots=True)
class Measured:
    """One scenario, as the median of its rounds. `commits` and the CPU of each part are per turn."""

    scenario: str
    turns_per_second: float
    first_token_ms: float
    first_token_p95_ms: float
    commits: float
    wal_bytes: float
    cpu_ms: Mapping[str, float]

    @property
    def shape(self) -> Shape:
        return SHAPES[self.scenario]

    @property
    def batches(self) -> float:
        """Transactions that write back, as a part of one each: several turns share one."""
        return max(0.0, self.commits - COMMITS_BEFORE)


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU milliseconds: of a turn, of each burst of its text, and of each transaction that writes bursts back.

    The last is of who writes back alone: to gateways and workers it is nothing, what they do is told by bursts.
    """

    turn_ms: float
    flush_ms: float
    batch_ms: float

    def of(self, flushes: float, batches: float) -> float:
        return self.turn_ms + self.flush_ms * flushes + self.batch_ms * batches


def read(path: Path, system: str = "parley") -> dict[str, Measured]:
    """The scenarios of `system` in a results file of `./dev bench`. Raises ValueError where there are too few."""
    rows = json.loads(path.read_text())
    rows = rows["measurements"] if isinstance(rows, dict) else rows
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if row["system"] == system and row["scenario"] in SHAPES and not row["failed"]:
            found.setdefault(row["scenario"], []).append(row)
    if not {"idle", "saturation"} <= found.keys() or not any(SHAPES[name].turns_per_second for name in found):
        raise ValueError(
            f"{path} has {', '.join(sorted(found)) or 'nothing'} of {system}: too few scenarios to tell costs"
        )
    return {name: _median(name, found[name]) for name in SHAPES if name in found}


def _median(scenario: str, rows: Sequence[Mapping[str, Any]]) -> Measured:
    def middle(values: Sequence[float]) -> float:
        return float(median(values))

    return Measured(
        scenario=scenario,
        turns_per_second=middle([row["turns_per_second"] for row in rows]),
        first_token_ms=middle([row["first_token_ms"]["p50"] for row in rows]),
        first_token_p95_ms=middle([row["first_token_ms"]["p95"] for row in rows]),
        commits=middle([row["writes_per_turn"] for row in rows]),
        wal_bytes=middle([row["wal_bytes_per_turn"] for row in rows]),
        cpu_ms={part: middle([row["cpu_ms_per_turn"][part] for row in rows]) for part in PARTS},
    )


def fitted(measured: Mapping[str, Measured]) -> dict[str, Cost]:
    """The costs of each part that come nearest to all scenarios; none is negative."""
    return {part: _fit(part, list(measured.values())) for part in PARTS}


def _fit(part: str, scenarios: Sequence[Measured]) -> Cost:
    """Least squares of the relative error, over every choice of costs that may be above zero: there are few."""
    rows = [(1.0, float(each.shape.flushes), each.batches) for each in scenarios]
    seen = [each.cpu_ms[part] for each in scenarios]
    weights = [1.0 / max(value, 1e-6) for value in seen]
    best, best_error = (0.0, 0.0, 0.0), float("inf")
    kinds = range(3 if part in _WRITING_BACK else 2)
    for count in (1, 2, 3):
        for chosen in itertools.combinations(kinds, count):
            solved = _solve([[row[i] * w for i in chosen] for row, w in zip(rows, weights, strict=True)])
            if solved is None or min(solved) < 0:
                continue
            costs = [0.0, 0.0, 0.0]
            for i, value in zip(chosen, solved, strict=True):
                costs[i] = value
            told = [sum(c * x for c, x in zip(costs, row, strict=True)) for row in rows]
            error = sum(((a - b) * w) ** 2 for a, b, w in zip(told, seen, weights, strict=True))
            if error < best_error - 1e-12:
                best, best_error = (costs[0], costs[1], costs[2]), error
    return Cost(*best)


def _solve(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """The x for which all `rows` times x are nearest to 1, by the normal equations; None if there is no single one."""
    size = len(rows[0])
    matrix = [
        [sum(row[i] * row[j] for row in rows) for j in range(size)] + [sum(row[i] for row in rows)] for i in range(size)
    ]
    for column in range(size):
        pivot = max(range(column, size), key=lambda row: abs(matrix[row][column]))
        if abs(matrix[pivot][column]) < 1e-12:
            return None
        matrix[column], matrix[pivot] = matrix[pivot], matrix[column]
        for row in range(size):
            if row != column:
                factor = matrix[row][column] / matrix[column][column]
                matrix[row] = [a - factor * b for a, b in zip(matrix[row], matrix[column], strict=True)]
    return [matrix[i][size] / matrix[i][i] for i in range(size)]
