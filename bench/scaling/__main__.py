"""`python -m bench.scaling RESULTS.json [--write docs/scaling.md]`: what a results file of `./dev bench` comes to.

Prints the tables of docs/scaling.md, or puts them into the page between its marks.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.scaling.costs import PARTS, Cost, Measured, fitted, read
from bench.scaling.plan import FLUSHES, Need, need
from bench.scaling.simulation import Fleet, Simulation, calibrated

NAMES = ("costs", "curve", "beyond", "sizes")
_SIZES = (10_000, 100_000, 1_000_000)
# Of one machine that has everything, as ./dev bench runs it; and what the simulation tells beyond it.
_SECONDS, _WARM_UP = 20.0, 12.0


def tables(measured: Mapping[str, Measured], cores: int, names: Sequence[str] = NAMES) -> dict[str, str]:
    """Those of `names`, by the mark that each stands at."""
    costs = fitted(measured)
    made: dict[str, Callable[[], Iterator[str]]] = {
        "costs": lambda: _costs(costs),
        "curve": lambda: _curve(measured, costs, cores),
        "beyond": lambda: _beyond(measured, costs, cores),
        "sizes": lambda: _sizes(measured, costs),
    }
    return {name: "\n".join(made[name]()) for name in names}


def written(page: str, found: Mapping[str, str]) -> str:
    """`page` with the tables between `<!-- name -->` and `<!-- end -->`."""
    for name, table in found.items():
        before, mark, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not mark or not end:
            raise ValueError(f"the page has no place for {name}")
        page = f"{before}{mark}{table}\n{end}{after}"
    return page


def _costs(costs: Mapping[str, Cost]) -> Iterator[str]:
    yield "| part | a turn | each burst of text | each write-back |"
    yield "|---|---|---|---|"
    for part in PARTS:
        cost = costs[part]
        yield f"| {part} | {cost.turn_ms:.2f} ms | {cost.flush_ms:.3f} ms | {cost.batch_ms:.3f} ms |"


def _curve(measured: Mapping[str, Measured], costs: Mapping[str, Cost], cores: int) -> Iterator[str]:
    fleet = Fleet(cores=cores, postgres_cores=cores, rabbitmq_cores=cores)
    idle = measured["idle"]
    elsewhere = calibrated(fleet, costs, idle.shape, idle.first_token_ms / 1000)
    yield "| scenario | turns a second | first token, half | first token, 95 % | write-backs a turn | CPU a turn |"
    yield "|---|---|---|---|---|---|"
    for name, one in measured.items():
        told = Simulation(fleet, costs, one.shape, elsewhere_seconds=elsewhere).run(_SECONDS, _WARM_UP)
        cpu = sum(costs[part].of(one.shape.flushes, one.batches) for part in PARTS)
        pairs = (
            (f"{one.turns_per_second:.1f}", f"{told.turns_per_second:.1f}"),
            (f"{one.first_token_ms:.0f} ms", f"{told.first_token_p50 * 1000:.0f} ms"),
            (f"{one.first_token_p95_ms:.0f} ms", f"{told.first_token_p95 * 1000:.0f} ms"),
            (f"{one.commits:.1f}", f"{told.commits_per_turn:.1f}"),
            (f"{sum(one.cpu_ms.values()):.1f} ms", f"{cpu:.1f} ms"),
        )
        yield f"| {name} | " + " | ".join(f"{seen} / {said}" for seen, said in pairs) + " |"


def _beyond(measured: Mapping[str, Measured], costs: Mapping[str, Cost], cores: int) -> Iterator[str]:
    """One machine, then more of each process on machines of their own, until first tokens come late."""
    idle = measured["idle"]
    alone = Fleet(cores=cores, postgres_cores=cores, rabbitmq_cores=cores)
    elsewhere = calibrated(alone, costs, idle.shape, idle.first_token_ms / 1000)
    streaming = next(one.shape for one in measured.values() if one.shape.turns_per_second)
    yield "| fleet | answers streaming | first token, half | 95 % | the busiest part |"
    yield "|---|---|---|---|---|"
    fleets = {
        f"one machine of {cores} cores": alone,
        "a core for each process; 4 each for Postgres and RabbitMQ": Fleet(),
        "2 of each process": Fleet(gateways=2, workers=2, persistences=2),
        "4 of each process": Fleet(gateways=4, workers=4, persistences=4),
    }
    for name, fleet in fleets.items():
        for rate in _rates(fleet, costs, streaming.flushes):
            shape = replace(streaming, turns_per_second=rate)
            told = Simulation(fleet, costs, shape, elsewhere_seconds=elsewhere).run(10.0, _WARM_UP)
            part, busy = max(told.busy.items(), key=lambda item: item[1])
            yield (
                f"| {name} | {rate * streaming.flushes * streaming.pause_seconds:.0f} | "
                f"{told.first_token_p50 * 1000:.0f} ms | {told.first_token_p95 * 1000:.0f} ms | {part}, {busy:.0%} |"
            )


def _rates(fleet: Fleet, costs: Mapping[str, Cost], flushes: int) -> list[float]:
    """Half of what the scarcest part can do if nothing is written back together, and nearly all of it."""
    rooms = {
        "gateway": fleet.gateways,
        "chat-worker": fleet.workers,
        "persistence": fleet.persistences,
        "postgres": fleet.postgres_cores,
        "rabbitmq": fleet.rabbitmq_cores,
    }
    alone = min(rooms[part] * 1000 / costs[part].of(flushes, 0) for part in PARTS)
    together = fleet.cores * 1000 / sum(costs[part].of(flushes, 0) for part in PARTS) if fleet.cores else alone
    return [round(min(alone, together) * share, 1) for share in (0.5, 0.8)]


def _sizes(measured: Mapping[str, Measured], costs: Mapping[str, Cost]) -> Iterator[str]:
    busiest = max(
        (one for one in measured.values() if one.shape.flushes == FLUSHES), key=lambda one: one.turns_per_second
    )
    found = [need(size, costs, busiest.batches, busiest.wal_bytes) for size in _SIZES]

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
    parser.add_argument("--cores", type=int, default=2, help="of the machine that the results are of")
    parser.add_argument("--tables", default=",".join(NAMES), help="a comma list of those to make")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    asked = parser.parse_args()
    try:
        found = tables(read(asked.results), asked.cores, asked.tables.split(","))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"scaling: {error}")
    if asked.write:
        asked.write.write_text(written(asked.write.read_text(), found))
    else:
        sys.stdout.write("\n\n".join(found.values()) + "\n")


if __name__ == "__main__":
    main()
