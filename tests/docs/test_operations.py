"""`docs/operations.md` and `docs/alerts.md` name no command, metric, panel or alert that does not exist."""

import json
import re
from pathlib import Path

import pytest

from persistence import ops
from tests.support import promql

_ROOT = Path(__file__).parents[2]
_ALERTS = (_ROOT / "docs/alerts.md").read_text()
_PAGES = (_ROOT / "docs/operations.md").read_text() + _ALERTS
_COMMANDS = sorted(set(re.findall(r"`ops ([^`|]+)`|\$ \./dev ops ([^#\n|]+)", _PAGES)))
_USERS = {"parley_gateway", "parley_worker", "parley_persistence", "parley_tools", "parley_operator"}  # no metrics


@pytest.mark.parametrize("command", [first or second for first, second in _COMMANDS])
def test_a_command_is_one_that_ops_knows(command: str) -> None:
    words = [_EXAMPLES.get(word, word) for word in re.sub(r'"[^"]*"', "TEXT", command).split()]

    assert ops._parsed(words)  # noqa: SLF001 - exits where it does not understand


_EXAMPLES = {
    "ID": "01a206b6-6e71-727e-a578-4329cd457fd0",
    "STATE": "queued_due",
    "…": "TEXT",
    "NAME": "demo",
}


def test_metrics_that_they_name_are_told_with_the_labels_that_they_name() -> None:
    told = {name.removesuffix("_bucket"): labels for name, labels in promql.told().items()}
    named = {
        (name, label)
        for name, labels in re.findall(r"`(parley_[a-z_]+)(?:\{([^}]*)\})?`", _PAGES)
        for label in re.findall(r"[a-z]+(?==|,|$)", labels) or [None]
    }

    assert len(named) > len(_USERS)
    assert {
        (name, label)
        for name, label in named
        if name not in _USERS and (name not in told or (label and label not in told[name]))
    } == set()


def test_an_alert_that_is_no_more_has_no_section() -> None:
    rules = (_ROOT / "deploy/prometheus/alerts.yml").read_text()
    sections = re.findall(r"^## (\w+)$", _ALERTS, re.MULTILINE)

    assert sections == re.findall(r"alert: (\w+)", rules)


def test_a_section_says_what_it_means_where_to_look_and_what_to_do() -> None:
    for section in _ALERTS.split("\n## ")[1:]:
        name, meaning, look, do = re.fullmatch(r"(\w+)\n\n(.+)\n\n- Look: (.+)\n- Do: (.+)\n*", section).groups()  # type: ignore[union-attr]

        assert all(text.endswith((".", "?")) for text in (meaning, look, do)), name


def test_a_panel_that_a_section_names_is_on_the_dashboard() -> None:
    dashboard = json.loads((_ROOT / "deploy/grafana/dashboards/parley.json").read_text())
    panels = {panel["title"] for panel in dashboard["panels"]}
    looks = [line for line in re.findall(r"^- Look: .+$", _ALERTS, re.MULTILINE) if "management UI" not in line]
    named = {name for line in looks for name in re.findall(r"\*([^*`]+)\*", line)}

    assert named
    assert named - panels == set()
