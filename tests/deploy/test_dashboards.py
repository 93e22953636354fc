"""The Grafana dashboard: about metrics that exist, with units, and about nobody in particular."""

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import promql

_FOLDER = Path(__file__).parents[2] / "deploy/grafana"
_DASHBOARD: dict[str, Any] = json.loads((_FOLDER / "dashboards/parley.json").read_text())
_PANELS = {panel["title"]: panel for panel in _DASHBOARD["panels"] if panel["type"] != "row"}
_ROWS = ["Users feel", "Jobs", "Broker", "Journal and persistence", "Model and tools", "Processes"]
_ID = re.compile(r"\b(id|user|conversation|response|job_id|request)\b")


def test_what_users_feel_comes_first_and_then_what_it_comes_from() -> None:
    assert [panel["title"] for panel in _DASHBOARD["panels"] if panel["type"] == "row"] == _ROWS


def test_nothing_lies_on_anything_else() -> None:
    ids = [panel["id"] for panel in _DASHBOARD["panels"]]
    places = [panel["gridPos"] for panel in _DASHBOARD["panels"]]

    assert len(set(ids)) == len(ids)
    assert len(_PANELS) + len(_ROWS) == len(ids)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not [pair for pair in itertools.combinations(places, 2) if _overlap(*pair)]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


@pytest.mark.parametrize("title", _PANELS)
def test_a_panel_asks_for_what_is_told(title: str) -> None:
    for expression in _expressions(_PANELS[title]):
        assert list(promql.unknown(expression)) == []


@pytest.mark.parametrize("title", _PANELS)
def test_a_panel_has_a_unit_and_names_nobody(title: str) -> None:
    panel = _PANELS[title]

    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${source}"
    for target in panel["targets"]:
        shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        assert not _ID.search(" ".join(shown))
        assert target["legendFormat"]
        # A legend of a label that the expression does not keep would be empty.
        kept = promql.grouped(target["expr"].replace("$__rate_interval", "1m"))
        assert not kept or shown <= kept


def test_alerts_that_panels_name_exist() -> None:
    rules = yaml.safe_load((_FOLDER.parent / "prometheus/alerts.yml").read_text())["groups"]
    alerts = {rule["alert"] for group in rules for rule in group["rules"]}
    named = set(re.findall(r"\b(?:Parley|RabbitMQ)[A-Z]\w+", json.dumps(_DASHBOARD)))

    assert named
    assert named <= alerts


def test_every_histogram_and_counter_of_ours_is_on_it_or_left_out_knowingly() -> None:
    shown = {
        each.metric for panel in _PANELS.values() for text in _expressions(panel) for each in promql.selected(text)
    }
    left_out = {
        "parley_persistence_announcements_dropped_total",  # healed gaps show it
        "parley_persistence_dead_letters_total",  # those on record show it
        "parley_persistence_resumes_total",  # attempts show it
        "parley_tool_changes_total",  # tools that are not as accepted show it
    }
    own = {name for name in promql.told() if name.startswith("parley_") and name.endswith(("_total", "_bucket"))}

    missing = {name for name in own if name not in shown and not name.endswith("_bucket")}
    missing |= {
        name for name in own if name.endswith("_bucket") and not {name, f"{name.removesuffix('_bucket')}_sum"} & shown
    }
    assert missing == left_out


def test_grafana_finds_it() -> None:
    [provider] = yaml.safe_load((_FOLDER / "provisioning/dashboards/parley.yml").read_text())["providers"]
    [source] = yaml.safe_load((_FOLDER / "provisioning/datasources/prometheus.yml").read_text())["datasources"]
    [variable] = _DASHBOARD["templating"]["list"]

    assert provider["type"] == "file"
    assert variable["current"]["value"] == source["uid"]
    assert variable["query"] == source["type"]


def _expressions(panel: dict[str, Any]) -> Iterator[str]:
    """As they are asked, with Grafana's variables filled in."""
    for target in panel["targets"]:
        yield target["expr"].replace("$__rate_interval", "1m")
