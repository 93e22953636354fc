"""`python -m bench.scaling RESULTS.json [--against OTHER.json] [--write docs/scaling.md]`: what `./dev bench` comes to.

Costs are fitted to the first file. The second, of the same machine, is only compared with what the simulation tells.
Prints the tables of docs/scaling.md, or puts them into the page between its marks.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from bench.scaling.costs import PARTS, WRITING_BACK, Measured, read
from bench.scaling.fit import Fitted, fitted
from bench.scaling.plan import BURSTS, Need, need
from bench.scaling.simulation import Fleet, Outcome, Simulation

NAMES = ("costs", "curve", "parts", "beyond", "sizes")
_SIZES = (10_000, 100_000, 1_000_000)
_SECONDS, _WARM_UP = 10.0, 12.0  # of a fleet; answers take ten seconds


@dataclass(frozen=True)
class Findings:
    """`others` are held out: nothing is fitted to them."""

    measured: Mapping[str, Measured]
    others: Sequence[Measured]
    cores: int

    @cached_property
    def fit(self) -> Fitted:
        return fitted(self.measured, self.cores)

    @cached_property
    def compared(self) -> list[tuple[str, Measured, Outcome]]:
        """Each scenario by its name on the page, as it was measured and as it is told."""
        return [
            *((name, one, self.fit.told[name]) for name, one in self.measured.items()),
            *((f"{one.scenario}, {one.shape.bursts} bursts, held out", one, self.fit.tell(one)) for one in self.others),
        ]

    @property
    def streaming(self) -> Measured:
        """The busiest of those that stream long."""
        long = [one for one in self.measured.values() if one.shape.turns_per_second]
        return max(long, key=lambda one: one.shape.turns_per_second)

    def tables(self, names: Sequence[str] = NAMES) -> dict[str, str]:
        """Those of `names`, by the mark that each stands at."""
        made: dict[str, Callable[[Findings], Iterator[str]]] = {
            "costs": _costs,
            "curve": _curve,
            "parts": _parts,
            "beyond": _beyond,
            "sizes": _sizes,
        }
        return {name: "\n".join(made[name](self)) for name in names}


def found_in(results: Path, against: Path | None, cores: int) -> Findings:
    """Of `against`, the scenarios of another shape. Raises ValueError where there is too little to tell costs."""
    measured = read(results)
    others = [] if against is None else list(read(against).values())
    known = {one.shape for one in measured.values()}
    return Findings(measured, [one for one in others if one.shape not in known], cores)


def written(page: str, found: Mapping[str, str]) -> str:
    """`page` with the tables between `<!-- name -->` and `<!-- end -->`."""
    for name, table in found.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ValueError(f"the page has no place for {name}")
        page = f"{before}{mark}{table}\n{end}{after}"
    return page


def _costs(findings: Findings) -> Iterator[str]:
    yield "| part | a turn | each burst of text | each transaction | each waking |"
    yield "|---|---|---|---|---|"
    for part in PARTS:
        cost = findings.fit.costs[part]
        own = (f"{cost.commit_ms:.2f} ms", "") if part in WRITING_BACK else ("", f"{cost.waking_ms:.2f} ms")
        yield f"| {part} | {cost.turn_ms:.2f} ms | {cost.burst_ms:.3f} ms | {own[0]} | {own[1]} |"


def _curve(findings: Findings) -> Iterator[str]:
    yield "| scenario | turns a second | first token, half | first token, 95 % | commits a turn | CPU a turn |"
    yield "|---|---|---|---|---|---|"
    for name, one, told in findings.compared:
        pairs = (
            (f"{one.turns_per_second:.0f}", f"{told.turns_per_second:.0f}") if one.shape.clients else ("", ""),
            (f"{one.first_token_ms:.0f} ms", f"{told.first_token_p50 * 1000:.0f} ms"),
            (f"{one.first_token_p95_ms:.0f} ms", f"{told.first_token_p95 * 1000:.0f} ms"),
            (f"{one.commits:.1f}", f"{told.commits_per_turn:.1f}"),
            (f"{sum(one.cpu_ms.values()):.1f} ms", f"{sum(told.cpu_ms.values()):.1f} ms"),
        )
        yield f"| {name} | " + " | ".join(f"{seen} / {said}" if seen else "" for seen, said in pairs) + " |"


def _parts(findings: Findings) -> Iterator[str]:
    yield f"| scenario | {' | '.join(PARTS)} |"
    yield "|---|" + "---|" * len(PARTS)
    for name, one, told in findings.compared:
        yield f"| {name} | " + " | ".join(f"{one.cpu_ms[part]:.1f} / {told.cpu_ms[part]:.1f}" for part in PARTS) + " |"


def _beyond(findings: Findings) -> Iterator[str]:
    """One machine, then more of each process on machines of their own, until first tokens come late."""
    fit, streaming = findings.fit, findings.streaming
    cpu_ms = {part: fit.cpu_ms(part, streaming) for part in PARTS}
    bursts, pause = streaming.shape.bursts, streaming.shape.pause_seconds
    cores = findings.cores
    yield "| fleet | answers streaming | first token, half | 95 % | the busiest part |"
    yield "|---|---|---|---|---|"
    fleets = {
        f"one machine of {cores} cores": Fleet(cores=cores, postgres_cores=cores, rabbitmq_cores=cores),
        "a core for each process; 4 each for Postgres and RabbitMQ": Fleet(),
        "2 of each process": Fleet(gateways=2, workers=2, persistences=2),
        "4 of each process": Fleet(gateways=4, workers=4, persistences=4),
    }
    for name, fleet in fleets.items():
        for rate in _rates(fleet, cpu_ms):
            shape = replace(streaming.shape, turns_per_second=rate, is_even=False)
            simulation = Simulation(fleet, fit.costs, shape, elsewhere_seconds=fit.elsewhere_seconds)
            told = simulation.run(_SECONDS, _WARM_UP)
            part, busy = max(told.busy.items(), key=lambda item: item[1])
            yield (
                f"| {name} | {rate * bursts * pause:.0f} | "
                f"{told.first_token_p50 * 1000:.0f} ms | {told.first_token_p95 * 1000:.0f} ms | {part}, {busy:.0%} |"
            )


def _rates(fleet: Fleet, cpu_ms: Mapping[str, float]) -> list[float]:
    """Half and all of what the scarcest part can do at those costs of a turn, which are less the more it does."""
    rooms = {
        "gateway": fleet.gateways,
        "chat-worker": fleet.workers,
        "persistence": fleet.persistences,
        "postgres": fleet.postgres_cores,
        "rabbitmq": fleet.rabbitmq_cores,
    }
    alone = min(rooms[part] * 1000 / cpu_ms[part] for part in PARTS)
    together = fleet.cores * 1000 / sum(cpu_ms.values()) if fleet.cores else alone
    return [round(min(alone, together) * share, 1) for share in (0.5, 1.0)]


def _sizes(findings: Findings) -> Iterator[str]:
    streaming = findings.streaming
    if streaming.shape.bursts != BURSTS:
        raise ValueError(f"the arithmetic is for answers of {BURSTS} bursts: ./dev bench --burst 5")
    cpu_ms = {part: findings.fit.cpu_ms(part, streaming) for part in PARTS}
    found = [need(size, cpu_ms, streaming.commits, streaming.wal_bytes) for size in _SIZES]

    def row(name: str, *values: str) -> str:
        return f"| {name} | " + " | ".join(values) + " |"

    def each(name: str, form: str, value: "Mapping[str, float] | None" = None) -> str:
        return row(name, *(form.format(need=one, value=value) for one in found))

    yield row("conversations", *(f"{one.conversations:,}" for one in found))
    yield "|---|---|---|---|"
    yield each("turns a second", "{need.turns_per_second:,.0f}")
    yield each("answers streaming at a time", "{need.streaming:,.0f}")
    yield each("bursts of text stored a second", "{need.journal_events_per_second:,.0f}")
    yield each("transactions a second", "{need.commits_per_second:,.0f}")
    yield row("write-ahead log", *(f"{one.wal_bytes_per_second / 1e6:,.1f} MB/s" for one in found))
    for part in ("gateway", "chat-worker", "persistence"):
        yield row(f"{part} processes", *(f"{one.processes[part]:,}" for one in found))
    for part in ("postgres", "rabbitmq"):
        yield row(f"cores of {part}", *(_cores(one, part) for one in found))


def _cores(one: Need, part: str) -> str:
    return f"{one.cores[part]:,.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--against", type=Path, help="more results of that machine, to compare with alone")
    parser.add_argument("--cores", type=int, default=2, help="of the machine that the results are of")
    parser.add_argument("--tables", default=",".join(NAMES), help="a comma list of those to make")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    asked = parser.parse_args()
    try:
        found = found_in(asked.results, asked.against, asked.cores).tables(asked.tables.split(","))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"scaling: {error}")
    if asked.write:
        asked.write.write_text(written(asked.write.read_text(), found))
    else:
        sys.stdout.write("\n\n".join(found.values()) + "\n")


if __name__ == "__main__":
    main()
