"""The report says what was measured: medians, what is added to the model alone, ratios, and pictures that are XML."""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from bench import plots, report
from bench.plots import Bar
from bench.report import Medians


def _measurement(system: str, scenario: str, round_number: int, **more: Any) -> dict[str, Any]:
    return {"system": system, "scenario": scenario, "round": round_number, "turns": 10, "failed": 0, **more}


def _first(p50: float, p95: float) -> dict[str, float]:
    return {"p50": p50, "p95": p95}


def test_what_is_added_is_counted_from_the_model_s_own_median() -> None:
    medians = Medians.over(
        [
            *(_measurement("direct", "idle", n, first_token_ms=_first(at, 9)) for n, at in enumerate((1, 2, 3))),
            *(_measurement("parley", "idle", n, first_token_ms=_first(at, 30)) for n, at in enumerate((12, 90, 14))),
        ]
    )

    assert medians.alone("idle") == 2
    assert medians.added("idle", "parley", "p50") == 12
    assert medians.added("idle", "parley", "p95") == 28
    assert medians.added("idle", "floor", "p50") is None


@pytest.mark.parametrize(("ours", "reached"), [(61.0, "yes"), (59.0, "no")])
def test_a_bar_is_reached_or_not(tmp_path: Path, ours: float, reached: str) -> None:
    speeds = {"floor": 100.0, "parley": ours}
    measurements = [_measurement(name, "saturation", 1, turns_per_second=speed) for name, speed in speeds.items()]

    report.write(tmp_path, measurements, _AROUND)

    [line] = [line for line in (tmp_path / "report.md").read_text().splitlines() if "of the floor's | ≥ 0.6" in line]
    assert line.endswith(f"| {ours / 100:.2f} | - | {reached} |")


def test_how_far_the_rounds_are_apart_is_told_beside_the_median(tmp_path: Path) -> None:
    speeds = {"floor": (100.0, 50.0, 200.0), "parley": (70.0, 25.0, 160.0)}
    measurements = [
        _measurement(name, "saturation", number, turns_per_second=speed)
        for name, of_rounds in speeds.items()
        for number, speed in enumerate(of_rounds, start=1)
    ]

    report.write(tmp_path, measurements, _AROUND)

    [line] = [line for line in (tmp_path / "report.md").read_text().splitlines() if "of the floor's | ≥ 0.6" in line]
    assert line.endswith("| 0.70 | 0.50 to 0.80 | yes |")


def test_what_failed_is_told_beside_the_times(tmp_path: Path) -> None:
    measurements = [
        _measurement("direct", "stream-200", 1, first_token_ms=_first(1, 2)),
        _measurement("plain", "stream-200", 1, first_token_ms=_first(30, 40)) | {"failed": 5, "wrong_answers": 1},
    ]

    report.write(tmp_path, measurements, _AROUND)

    assert "29.0 / 39.0, 50 % failed, 10 % wrong" in (tmp_path / "report.md").read_text()


def test_what_only_one_of_the_rounds_had_is_told(tmp_path: Path) -> None:
    rounds = [("idle", 1), ("kill", 1), ("idle", 2)]
    measurements = [_measurement("parley", scenario, number, turns_per_second=1.0) for scenario, number in rounds]

    report.write(tmp_path, measurements, _AROUND)

    said = (tmp_path / "report.md").read_text()
    assert "Medians of 2 rounds" in said
    assert "One round had `kill`." in said


def test_pictures_are_well_formed_whatever_names_say() -> None:
    values = [Bar("a<b", 3.0, 7.0), Bar("parley", 0.0, 0.0)]

    for picture in (
        plots.bars("x & y", values),
        plots.stacks("x", {"a<b": {"p&q": 1.0}}),
        plots.ranges("x", {"one": values, "none": []}),
    ):
        assert ET.fromstring(picture).tag.endswith("svg")  # noqa: S314 - our own


_AROUND = {
    "cpu": "a",
    "cores": 2,
    "memory_gib": 1.0,
    "system": "Linux",
    "python": "3",
    "commit": "c",
    "busy_before": 0.01,
    "scale": 1,
    "burst": 10,
    "servers": {"postgres": "PostgreSQL"},
    "packages": {},
}
