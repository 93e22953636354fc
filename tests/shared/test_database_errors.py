"""What the log says of a database error: everything but what the rows hold."""

import asyncpg
import pytest

from shared.db import Database
from shared.db.errors import described
from shared.errors import DatabaseUnavailableError

_CONTENT = "my secret plan"


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        (
            "insert into tasks (id, user_id, title, priority) values (gen_random_uuid(), '', 'my secret plan', 'x')",
            {"sqlstate": "23514", "table": "tasks", "constraint": "tasks_priority_check"},
        ),
        ("select 'my secret plan'::integer", {"sqlstate": "22P02"}),
    ],
)
async def test_it_names_the_rule_and_not_the_content(
    database_urls: dict[str, str], statement: str, expected: dict[str, str]
) -> None:
    owner = await asyncpg.connect(database_urls["owner"])
    try:
        with pytest.raises(asyncpg.PostgresError) as caught:
            await owner.execute(statement)
    finally:
        await owner.close()

    fields = described(caught.value)

    assert _CONTENT in str(caught.value) + str(caught.value.detail)
    assert _CONTENT not in str(fields)
    assert expected.items() <= fields.items()
    assert fields["cause"] == type(caught.value).__name__
    assert __name__.rpartition(".")[2] in fields["at"]


async def test_it_looks_behind_what_the_database_wraps(database_urls: dict[str, str]) -> None:
    database = await Database.connect(database_urls["parley_tools"], application_name="test", pool_size=1)
    try:
        with pytest.raises(DatabaseUnavailableError) as caught:
            async with database.transaction(None) as connection:
                await connection.execute("set local statement_timeout = 1; select pg_sleep(5)")
    finally:
        await database.close()

    assert described(caught.value)["sqlstate"] == asyncpg.QueryCanceledError.sqlstate


async def test_an_error_that_was_never_raised_has_no_place() -> None:
    assert described(ValueError(_CONTENT)) == {"cause": "ValueError"}
