"""`./dev bench`: measures the systems beside each other, on servers that the environment names."""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench import redis, report
from bench.rounds import Measurement, Plan, measured, server_versions
from bench.scenarios import BURST, SCENARIOS, raise_file_limit
from bench.systems import FOLDER, SYSTEMS, System
from deploy.local import toolchain
from deploy.local.places import Places
from deploy.local.terminal import Failure, say


def main() -> None:
    asked = _parser().parse_args()
    raise_file_limit()
    systems = [SYSTEMS[name] for name in asked.systems or SYSTEMS]
    usual = [name for name, scenario in SCENARIOS.items() if scenario.is_usual]
    scenarios = [SCENARIOS[name] for name in asked.scenarios or usual]
    is_whole = asked.scale == 1 and not (asked.systems or asked.scenarios)
    folder = asked.output or (FOLDER / "results" if is_whole else Places.of().local / "bench" / "results")
    plan = Plan(systems, scenarios, asked.once, asked.runs, asked.scale, asked.burst, _environments(systems))
    around = report.surroundings(server_versions(), asked.scale, asked.burst)
    measurements: list[Measurement] = []
    try:
        measurements.extend(measured(plan))
    finally:  # what was measured before somebody lost patience is worth having
        if measurements:
            report.write(folder, measurements, around)
            say("bench", f"{folder / 'report.md'}")


def _environments(systems: Sequence[System]) -> Path:
    """Make those that are missing; returns the folder that they are in."""
    places = Places.of()
    folder = places.local / "bench"
    folder.mkdir(exist_ok=True)
    for system in systems:
        if system.packages is not None:
            say("bench", f"packages of {system.name}")
            toolchain.sync_apart(places, system.packages, folder / system.packages.name)
        if system.name == "celery":
            redis.provide()
    return folder


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="./dev bench", description="Measure Parley beside others.")
    parser.add_argument("--systems", type=_names_of(SYSTEMS), help=f"of {', '.join(SYSTEMS)}")
    parser.add_argument("--scenarios", type=_names_of(SCENARIOS), help=f"of {', '.join(SCENARIOS)}")
    parser.add_argument("--runs", type=int, default=5, help="rounds; the report has their medians")
    parser.add_argument(
        "--once", type=_names_of(SCENARIOS), default=[], help="scenarios that only the first of the rounds has"
    )
    parser.add_argument(
        "--burst", type=int, default=BURST, help=f"tokens in a delta of long streams (default: {BURST})"
    )
    where = "bench/results for all systems and scenarios, else .local/bench/results"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=f"for the report (default: {where})")
    parser.add_argument("--scale", type=float, default=1.0, help=argparse.SUPPRESS)
    parser.add_argument("--quick", dest="scale", action="store_const", const=0.2, help="a fifth of the time for each")
    return parser


def _names_of(known: Mapping[str, object]) -> Callable[[str], list[str]]:
    """Reads a comma list of names, each of them known."""

    def read(text: str) -> list[str]:
        names = text.split(",")
        if unknown := set(names) - set(known):
            raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}")
        return names

    return read


if __name__ == "__main__":
    try:
        main()
    except Failure as failure:
        sys.exit(f"bench: {failure}")
