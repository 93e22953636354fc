"""The costs that explain what was measured, and the simulation that goes with them.

What a part used in a scenario is known, and how many bursts and commits a turn had. How many of the commits were
write-backs is not, nor how often the part had to be woken: the simulation tells both, which wants the costs. So all
are found in turns, from a guess on.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.scaling.costs import PARTS, WRITING_BACK, Cost, Measured
from bench.scaling.simulation import Fleet, Outcome, Simulation, calibrated

_ROUNDS = 4  # by then nothing moves by more than chance
_NEEDED = frozenset({"idle", "saturation"})


@dataclass(frozen=True, slots=True)
class Fitted:
    """Costs, the waiting that is no CPU, and what both come to in the scenarios that they are fitted to."""

    costs: Mapping[str, Cost]
    elsewhere_seconds: float
    cores: int
    told: Mapping[str, Outcome]

    def tell(self, one: Measured) -> Outcome:
        """A scenario on the machine that was measured."""
        fleet = Fleet(cores=self.cores, beside_ms=one.beside_ms, postgres_cores=self.cores, rabbitmq_cores=self.cores)
        simulation = Simulation(fleet, self.costs, one.shape, elsewhere_seconds=self.elsewhere_seconds)
        return simulation.run(one.seconds, one.warm_up_seconds)

    def cpu_ms(self, part: str, one: Measured) -> float:
        """Of a turn of a scenario that it is fitted to, with the commits that were measured."""
        return self.costs[part].of(one.shape.bursts, *_counts(part, one, self.told[one.scenario]))


@dataclass(frozen=True, slots=True)
class _Guess:
    """What the simulation will tell."""

    commits_per_turn: float
    write_backs_per_turn: float
    wakings: Mapping[str, float]


def fitted(measured: Mapping[str, Measured], cores: int) -> Fitted:
    """The costs that come nearest to all scenarios; none is negative. Raises ValueError where these are too few."""
    if not measured.keys() >= _NEEDED or measured.keys() == _NEEDED:
        raise ValueError(f"{', '.join(sorted(measured)) or 'nothing'}: too few scenarios to tell costs")
    told: Mapping[str, Outcome | _Guess] = {name: _guess(one) for name, one in measured.items()}
    for _ in range(_ROUNDS):
        found = _simulated(measured, {part: _cost(part, measured, told) for part in PARTS}, cores)
        told = found.told
    return found


def _guess(one: Measured) -> _Guess:
    """Woken once for each way from part to part, and accepted and claimed alone, where nobody else makes it busy."""
    if one.scenario == "saturation":
        return _Guess(one.commits, one.commits / 3, dict.fromkeys(PARTS, 1.0))
    return _Guess(one.commits, max(1.0, one.commits - 2.0), dict.fromkeys(PARTS, 1.0 + one.commits))


def _counts(part: str, one: Measured, told: Outcome | _Guess) -> tuple[float, float]:
    """The commits of a turn that cost `part` something, and its wakings."""
    share = 1.0 if part == "postgres" else told.write_backs_per_turn / told.commits_per_turn
    return one.commits * share, told.wakings[part]


def _simulated(measured: Mapping[str, Measured], costs: Mapping[str, Cost], cores: int) -> Fitted:
    idle = measured["idle"]
    fleet = Fleet(cores=cores, beside_ms=idle.beside_ms, postgres_cores=cores, rabbitmq_cores=cores)
    elsewhere = calibrated(fleet, costs, idle.shape, idle.first_token_ms / 1000)
    bare = Fitted(costs, elsewhere, cores, {})
    return Fitted(costs, elsewhere, cores, {name: bare.tell(one) for name, one in measured.items()})


def _cost(part: str, measured: Mapping[str, Measured], told: Mapping[str, Outcome | _Guess]) -> Cost:
    """Least squares of the relative error, over every choice of costs that may be above zero: there are few."""
    rows = [(1.0, one.shape.bursts, *_counts(part, one, told[name])) for name, one in measured.items()]
    seen = [max(one.cpu_ms[part], 1e-6) for one in measured.values()]
    shares = [[value / total for value in row] for row, total in zip(rows, seen, strict=True)]
    kinds = (0, 1, 2) if part in WRITING_BACK else (0, 1, 3)
    best, best_error = [0.0] * 4, float("inf")
    for count in range(1, len(kinds) + 1):
        for chosen in itertools.combinations(kinds, count):
            solved = _solve([[share[i] for i in chosen] for share in shares])
            if solved is None or min(solved) < 0:
                continue
            costs = [0.0] * 4
            for i, value in zip(chosen, solved, strict=True):
                costs[i] = value
            error = sum((sum(c * x for c, x in zip(costs, share, strict=True)) - 1) ** 2 for share in shares)
            if error < best_error - 1e-12:
                best, best_error = costs, error
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
