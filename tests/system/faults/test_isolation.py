"""One user looks for another's things on every route that reads, with one line of defence down, the other, and both.

The lines: each statement names the user whose rows it means (`PARLEY_SABOTAGE=user_predicates` takes that out of all of
them, SQL functions aside), and row level security admits that user's rows only (its owner can switch it off).
"""

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests.support.backends import Backends, new_backends
from tests.support.stack import Stack, running_stack
from tests.system.faults.load import QUICK_REPAIRS, Arena
from tests.system.faults.snooping import Belongings, is_of_a_user, settle_in, snoop

_REQUEST_ID = re.compile(rb"req_[0-9a-f]{32}")
_BLIND = {name: {"PARLEY_SABOTAGE": "user_predicates"} for name in ("gateway-0", "chat-worker-0", "task-tools-0")}


@pytest.fixture(scope="module")
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture(scope="module")
async def stack(own_backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("isolation")
    variables = QUICK_REPAIRS | {"GATEWAY_HEARTBEAT_SECONDS": "0.5"}  # a feed is read up to its first silence
    async with running_stack(own_backends, folder, variables=variables) as running:
        yield running


@pytest.fixture
async def belongings(arena: Arena) -> Belongings:
    """What the first user has; the second one has as much."""
    await _row_security(arena, "enable")
    owner, snooper = arena.users
    await settle_in(snooper)
    belongings = await settle_in(owner)
    assert {seen.status for seen in await snoop(owner, belongings) if is_of_a_user(seen)} == {200}
    return belongings


async def test_without_row_level_security_the_statements_show_nothing_foreign(
    arena: Arena, belongings: Belongings
) -> None:
    await _predicates(arena, are_on=True)
    await _row_security(arena, "disable")

    foreign, unknown = await _looks_around(arena, belongings)

    assert foreign == unknown
    assert await arena.verdict() == []


async def test_without_predicates_row_level_security_shows_nothing_foreign(
    arena: Arena, belongings: Belongings
) -> None:
    await _predicates(arena, are_on=False)

    foreign, unknown = await _looks_around(arena, belongings)

    assert foreign == unknown
    assert await arena.verdict() == []


async def test_without_both_one_user_is_shown_what_is_anothers(arena: Arena, belongings: Belongings) -> None:
    await _predicates(arena, are_on=False)
    await _row_security(arena, "disable")

    await _looks_around(arena, belongings)

    violations = await arena.verdict(seconds=20)
    for route in ("/v1/responses/", "/v1/conversations"):
        assert any("was shown something of ada" in violation and route in violation for violation in violations)


async def _looks_around(arena: Arena, goal: Belongings) -> list[list[tuple[int, bytes]]]:
    """What the second user is answered with the ids of another's things, and with ids of nothing."""
    snooper = arena.users[1]
    await arena.read(snooper, await snooper.say("show my tasks", model="todo"))
    foreign, unknown = await snoop(snooper, goal), await snoop(snooper, goal.unknown())
    by_id = [pair for pair in zip(foreign, unknown, strict=True) if pair[0].request != pair[1].request]
    return [[(seen.status, _REQUEST_ID.sub(b"", seen.body)) for seen in some] for some in zip(*by_id, strict=True)]


async def _predicates(arena: Arena, *, are_on: bool) -> None:
    if arena.stack.gateway().is_varied is are_on:
        await arena.stack.restart_with({} if are_on else _BLIND)


async def _row_security(arena: Arena, word: str) -> None:
    owner = await asyncpg.connect(arena.backends.database_urls["owner"])
    try:
        tables = await owner.fetch("select oid::regclass::text as name from pg_class where relforcerowsecurity")
        assert tables
        await owner.execute("".join(f"alter table {table['name']} {word} row level security;" for table in tables))
    finally:
        await owner.close()
