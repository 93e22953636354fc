"""The README's tour does what it says: its commands run, in its order, and print what it shows."""

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs.examples import output_of
from tests.support.backends import Backends, new_backends
from tests.support.stack import ServiceProcess, Stack, running_stack, token_of
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_TOUR = re.compile(r"^## A three-minute tour\n(?P<text>.*?)^## ", re.MULTILINE | re.DOTALL)
_BLOCK = re.compile(r"^```(?P<kind>sh|python|text)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\((?!https?:)(?P<path>[^)#]+)(?:#[^)]*)?\)")
_DOCUMENTS = [_ROOT / "README.md", _ROOT / "CHANGELOG.md", *sorted((_ROOT / "docs").rglob("*.md"))]
_SECONDS_MAX = 180
_PSQL = """
import asyncio, asyncpg, sys

async def main(url, query):
    connection = await asyncpg.connect(url)
    print(await connection.fetchval(query))
    await connection.close()

asyncio.run(main(*sys.argv[1:]))
"""  # as much of psql as the tour needs: the one value of one query


@dataclass(frozen=True)
class Tour:
    """`script`: its shell and Python blocks as one shell script; `shown`: the lines of output that a reader sees."""

    script: str
    shown: list[str]


def _tour() -> Tour:
    found = _TOUR.search((_ROOT / "README.md").read_text())
    assert found, "the README has no tour"
    commands = ["set -eu"]
    shown: list[str] = []
    for block in _BLOCK.finditer(found["text"]):
        match block["kind"]:
            case "sh":
                commands.append(block["body"])
            case "python":
                commands.append(f"{shlex.quote(sys.executable)} - <<'PYTHON'\n{block['body']}PYTHON")
            case "text":
                shown += block["body"].splitlines()
    return Tour("\n".join(commands), shown)


@pytest.fixture
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture
async def tour_stack(own_backends: Backends, tmp_path: Path) -> AsyncIterator[Stack]:
    """One process of each kind, on a database and a broker of its own, as `./dev up` runs them."""
    async with running_stack(own_backends, tmp_path) as stack:
        yield stack


@pytest.fixture
def checkout(tour_stack: Stack, own_backends: Backends, tmp_path: Path) -> Path:
    """A folder in which `./dev` speaks of the test's stack."""
    folder = tmp_path / "checkout"
    (folder / ".local").mkdir(parents=True)
    dev = folder / "dev"
    owner, python = shlex.quote(own_backends.database_urls["owner"]), shlex.quote(sys.executable)
    dev.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        f"url) echo {tour_stack.gateway().url} ;;\n"
        f"'token --user demo') echo {token_of('demo')} ;;\n"
        "'up --detach') ;;\n"
        f"'psql -Atc '*) exec {python} -c {shlex.quote(_PSQL)} {owner} \"$3\" ;;\n"
        "*) exit 2 ;;\n"
        "esac\n"
    )
    dev.chmod(0o755)
    return folder


async def test_the_tour_prints_what_it_shows(tour_stack: Stack, checkout: Path) -> None:
    tour = _tour()
    restarting = asyncio.create_task(_start_again_once_killed(tour_stack.processes["chat-worker-0"]))

    try:
        output = await output_of(["bash", "-c", tour.script], checkout, {}, seconds_max=_SECONDS_MAX)
    finally:
        restarting.cancel()

    assert tour.shown
    assert _missing(tour.shown, output.splitlines()) is None, output


def test_the_commands_of_dev_are_those_that_it_lists() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "deploy.local"], cwd=_ROOT, capture_output=True, text=True, check=True
    )
    text = (_ROOT / "README.md").read_text()
    table = text[text.index("`./dev` alone lists all commands") : text.index("## A three-minute tour")]
    rows = [row for row in table.splitlines() if row.startswith("|")]

    named = [name for row in rows for name in re.findall(r"`(\w+)`", row)]

    assert sorted(named) == sorted(re.findall(r"^    (\w+)  ", listed.stdout, re.MULTILINE))


def test_the_comparison_notices_a_line_that_is_not_there() -> None:
    assert _missing(["one", "…ends so", "three …"], ["zero", "one", "it ends so", "three and more"]) is None
    assert _missing(["one", "two"], ["two", "one"]) == "two"


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(_ROOT)))
def test_every_link_within_the_repository_leads_somewhere(document: Path) -> None:
    paths = [document.parent / link["path"] for link in _LINK.finditer(document.read_text())]

    assert [str(path) for path in paths if not path.exists()] == []


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: str(path.relative_to(_ROOT)))
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    names = re.findall(r"`([\w./-]+/[\w./-]+\.(?:py|md|yml|toml|json))(?::\w+)?`", document.read_text())

    assert [name for name in names if not (_ROOT / name).exists()] == []


async def _start_again_once_killed(worker: ServiceProcess) -> None:
    """What the local stack does after the reader of the tour has killed the worker."""

    async def is_killed() -> bool:
        return not worker.is_running

    await wait_until(is_killed, seconds=_SECONDS_MAX, what="the worker is killed")
    worker.start()


def _missing(shown: list[str], printed: list[str]) -> str | None:
    """The first of `shown` that is not `printed` behind the ones before it; `…` stands for anything."""
    left = iter(printed)
    for line in shown:
        pattern = re.compile(".*".join(re.escape(part) for part in line.split("…")))
        if not any(pattern.fullmatch(candidate) for candidate in left):
            return line
    return None
