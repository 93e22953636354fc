"""Which statements lose which guard, where a test asks for it; and that nothing is in between where none does."""

from collections.abc import Iterator

import asyncpg
import pytest

from shared.db import Database
from shared.db.sabotage import UnguardedConnection, connection_class, without_guards
from shared.faults import configure_faults
from shared.settings import Profile, ServiceSettings


@pytest.fixture
def switched_off() -> Iterator[None]:
    configure_faults(ServiceSettings(profile=Profile.LOCAL, sabotage="user_predicates,write_once"))
    yield
    configure_faults(ServiceSettings(profile=Profile.LOCAL))


def test_connections_are_the_drivers_own_unless_a_guard_is_switched_off() -> None:
    assert connection_class() is asyncpg.Connection
    assert without_guards("select from jobs where user_id = $1") == "select from jobs where user_id = $1"


@pytest.mark.usefixtures("switched_off")
@pytest.mark.parametrize(
    ("statement", "rest"),
    [
        ("where id = $1 and user_id = $2", "where id = $1 and $2::text is not null"),
        ("join jobs p on p.user_id = $12 and p.turn = 1", "join jobs p on $12::text is not null and p.turn = 1"),
        ("where m.user_id = c.user_id", "where m.user_id = c.user_id"),
        ("insert into tasks (id, user_id) values ($1, $2)", "insert into tasks (id, user_id) values ($1, $2)"),
        ("where j.id = v.id and j.status in ('queued', 'in_progress')", "where j.id = v.id"),
        ("where status in ('queued', 'in_progress')", "where status in ('queued', 'in_progress')"),
    ],
)
def test_a_guard_is_taken_out_and_nothing_else(statement: str, rest: str) -> None:
    assert without_guards(statement) == rest


@pytest.mark.usefixtures("switched_off")
async def test_every_way_to_say_a_statement_loses_the_guard(database_urls: dict[str, str]) -> None:
    assert connection_class() is UnguardedConnection
    database = await Database.connect(database_urls["parley_gateway"], application_name="test", pool_size=1)
    statement = "select u.user_id from (values ('ada')) u(user_id) where u.user_id = $1"
    try:
        async with database.transaction("grace") as db:
            said = [
                (await db.fetch(statement, "grace"))[0]["user_id"],
                (await db.fetchrow(statement, "grace"))["user_id"],
                await db.fetchval(statement, "grace"),
                await (await db.prepare(statement)).fetchval("grace"),
                *[row["user_id"] async for row in db.cursor(statement, "grace")],
            ]
            status = await db.execute(statement, "grace")
            await db.executemany(f"select set_config('app.heard', 'yes', true) from ({statement}) found", [("grace",)])  # noqa: S608
            heard = await db.fetchval("select current_setting('app.heard', true)")
    finally:
        await database.close()

    assert said == ["ada"] * 5
    assert status == "SELECT 1"
    assert heard == "yes"
