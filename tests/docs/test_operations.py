"""`docs/operations.md` sends nobody to a command, a metric or an alert that does not exist."""

import re
from pathlib import Path

import pytest

from persistence import ops
from tests.support import promql

_PAGE = (Path(__file__).parents[2] / "docs/operations.md").read_text()
_ALERTS = _PAGE.partition("## Dashboard and alerts\n")[2]
_COMMANDS = sorted(set(re.findall(r"`ops ([^`|]+)`|\$ \./dev ops ([^#\n|]+)", _PAGE)))


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


def test_metrics_that_it_names_are_told() -> None:
    told = {name.removesuffix("_bucket") for name in promql.told()}
    page = _PAGE.partition("## Start and stop\n")[2]
    named = set(re.findall(r"`(parley_[a-z_]+)(?:\{[^}]*\})?`", page))

    assert {name for name in named if name not in told and not _is_role(name)} == set()


def _is_role(name: str) -> bool:
    return name in {"parley_gateway", "parley_worker", "parley_persistence", "parley_tools"}


def test_an_alert_that_is_no_more_has_no_section() -> None:
    rules = (Path(__file__).parents[2] / "deploy/prometheus/alerts.yml").read_text()
    sections = re.findall(r"^### (\w+)$", _ALERTS, re.MULTILINE)

    assert sections == re.findall(r"alert: (\w+)", rules)


def test_a_section_says_what_it_means_where_to_look_and_what_to_do() -> None:
    for section in _ALERTS.split("\n### ")[1:]:
        name, meaning, look, do = re.fullmatch(r"(\w+)\n\n(.+)\n\n- Look: (.+)\n- Do: (.+)\n*", section).groups()  # type: ignore[union-attr]

        assert all(text.endswith((".", "?")) for text in (meaning, look, do)), name
