"""An exchange with Postgres that is broken off costs its connection: the next user meets nothing of it.

That is why: a pool that hands such a connection on shows one user what another asked for. Behind our own precaution is
the driver's, which has the server cancel the statement, waits until it says so, and rolls back.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from shared.db import Database
from shared.faults import configure_faults
from shared.settings import Profile, ServiceSettings

_ROUNDS = 40
_STATEMENT_SECONDS = 0.005


@pytest.fixture
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    """One connection, so that each user gets the last one's."""
    database = await Database.connect(database_urls["parley_gateway"], application_name="test", pool_size=1)
    yield database
    await database.close()


@pytest.fixture
def sabotage() -> Iterator[Callable[[str | None], None]]:
    def switch_off(protection: str | None) -> None:
        configure_faults(ServiceSettings(profile=Profile.LOCAL, sabotage=protection))

    yield switch_off
    switch_off(None)


@pytest.mark.parametrize("protection", [None, "broken_off"])
async def test_the_next_user_is_answered_their_own_wherever_the_last_one_broke_off(
    database: Database, sabotage: Callable[[str | None], None], protection: str | None
) -> None:
    sabotage(protection)
    chance = random.Random(protection)  # noqa: S311 - no secret
    heard = []
    for _ in range(_ROUNDS):
        leaving = asyncio.create_task(_ask(database, "ada", seconds=_STATEMENT_SECONDS))
        await asyncio.sleep(chance.random() * 1.5 * _STATEMENT_SECONDS)
        leaving.cancel()
        asking = asyncio.create_task(_ask(database, "grace"))
        await asyncio.wait((leaving, asking))
        heard.append((await asking)[1])

    assert heard == ["grace, grace"] * _ROUNDS


@pytest.mark.parametrize(("protection", "is_kept"), [(None, False), ("broken_off", True)])
async def test_a_statement_that_is_broken_off_costs_its_connection_and_the_driver_would_keep_it(
    database: Database,
    sabotage: Callable[[str | None], None],
    protection: str | None,
    is_kept: bool,  # noqa: FBT001
) -> None:
    sabotage(protection)
    before, _ = await _ask(database, "ada")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await _ask(database, "ada", seconds=30)

    after, said = await _ask(database, "grace")

    assert (after == before) is is_kept
    assert said == "grace, grace"


async def test_a_cancelled_exchange_stays_cancelled_though_its_connection_is_gone(database: Database) -> None:
    async def lose_and_leave() -> None:
        async with database.connection() as connection:
            connection.terminate()  # as the driver does when the server ends it
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await lose_and_leave()

    assert await _ask(database, "grace")


async def _ask(database: Database, user_id: str, *, seconds: float = 0.0) -> tuple[int, str]:
    """The server's process, and what the connection says of the user beside what was asked on it."""
    async with database.transaction(user_id) as db:
        if seconds:
            await db.fetchval("select pg_sleep($1)", seconds)
        said: str = await db.fetchval("select current_setting('app.user_id') || ', ' || $1::text", user_id)
        return db.get_server_pid(), said
