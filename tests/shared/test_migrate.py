"""Migrations: what several of them at once do to each other, and what they do to what is there."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import create_async_engine

from shared.db import Database
from shared.db.migrate import ROLES, ensure_roles, migrate
from shared.ids import uuid7
from tests.support.backends import at, execute
from tests.support.waiting import wait_until


async def test_two_databases_of_one_server_are_migrated_at_the_same_time(database_urls: Mapping[str, str]) -> None:
    """The roles are those of the server, so both change the same ones."""
    service_urls = [database_urls[role] for role in ROLES]
    engine = create_async_engine(database_urls["owner"].replace("postgresql://", "postgresql+asyncpg://"))

    async def ensure() -> None:
        async with engine.connect() as connection:
            for _ in range(5):
                await ensure_roles(connection, service_urls)

    try:
        await asyncio.gather(*(ensure() for _ in range(4)))
    finally:
        await engine.dispose()


async def test_an_owner_needs_to_be_no_superuser() -> None:
    """One that may make roles and sees all rows is enough: managed servers give nobody more."""
    server, name = os.environ["DATABASE_URL"], f"owner_{uuid7().hex}"
    await execute(server, f"create role {name} login createrole bypassrls password 'owner'")
    try:
        async with _new_database() as urls:
            async with _connected(urls[None]) as superuser:
                await superuser.execute(f'alter database "{urlsplit(urls[None]).path[1:]}" owner to {name}')
                for role in ROLES:  # of other tests on this server; those that it makes itself are its own to change
                    await superuser.execute(f"grant {role} to {name} with admin option")

            await migrate(_as_user(urls[None], name, "owner"), [urls[role] for role in ROLES])

            gateway = await Database.connect(urls["parley_gateway"], application_name="test", pool_size=1)
            await gateway.ping()
            await gateway.close()
    finally:
        await execute(server, f"drop role {name}")


async def test_a_database_of_the_first_version_goes_on_where_it_was() -> None:
    """What was accepted before is input still; and gateways of that version may go on accepting for a while."""
    async with _new_database() as urls:
        await _upgrade(urls, "0001")
        async with _connected(urls["parley_gateway"]) as gateway, _connected(urls["parley_persistence"]) as persistence:
            ended = await _accept_as_before(gateway, message_count=2)
            await persistence.execute("update jobs set status = 'completed', started_at = now() where id = $1", ended)
            await persistence.execute(_ANSWER, uuid7(), ended)
            waiting = await _accept_as_before(gateway, message_count=1)

            await _upgrade(urls, "head")
            new = await _accept_as_before(gateway, message_count=1)

            jobs = await persistence.fetch(_JOBS)
            assert {job["id"]: (job["input_item_count"], job["message_count"]) for job in jobs} == {
                ended: (2, 3),
                waiting: (1, 1),
                new: (1, 1),
            }
        async with _connected(urls[None]) as owner:
            assert await owner.fetchval("select count(*) from message_words") == 5
            assert await owner.fetchval("select count(*) from unindexed_messages") == 0


async def test_a_migration_that_waits_for_a_table_lets_everybody_else_use_it() -> None:
    """One long transaction, a backup for example, would else stop the whole system until it ends."""
    async with _new_database() as urls:
        await _upgrade(urls, "0007")
        async with _connected(urls[None]) as backup, _connected(urls["parley_gateway"]) as gateway:
            await backup.execute("begin")
            await backup.fetch("select from jobs")
            migration = asyncio.create_task(migrate(urls[None], [urls[role] for role in ROLES], lock_seconds=0.2))
            await wait_until(partial(_has_waiting_locks, backup), seconds=10)
            await asyncio.wait_for(_accept_as_before(gateway, message_count=1), 5)

            await backup.execute("rollback")
            await asyncio.wait_for(migration, 30)
            await _accept_as_before(gateway, message_count=1)


async def test_tool_calls_go_on_being_stored_without_a_duration() -> None:
    """By persistence of the version before, whose rows and those from before the column are alike."""
    async with _new_database() as urls:
        await _upgrade(urls, "0012")
        async with _connected(urls["parley_gateway"]) as gateway, _connected(urls["parley_persistence"]) as persistence:
            job_id = await _accept_as_before(gateway, 1)
            await persistence.execute(_CALL, uuid7(), job_id, 1)
            await _upgrade(urls, "head")
            await persistence.execute(_CALL, uuid7(), job_id, 2)
            stored = await persistence.fetch("select ordinal, duration_ms from tool_calls order by ordinal")

    assert [tuple(row) for row in stored] == [(1, None), (2, None)]


async def test_a_gateway_of_the_version_before_goes_on_accepting(database_urls: Mapping[str, str]) -> None:
    """With the arguments that it knows, of which one means nothing any more."""
    async with _connected(database_urls["parley_gateway"]) as gateway:
        await _accept_as_before(gateway, 1, False, "{}", None, [])  # noqa: FBT003 - arguments of SQL


_ANSWER = """
    insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
    select $1, conversation_id, id, user_id, turn, 2, 'assistant', 'Hello!', '[]', 'completed' from jobs where id = $2
"""
_CALL = """
    insert into tool_calls (id, conversation_id, job_id, user_id, turn, ordinal, call_id, server_label, tool_name,
                            parameters, status)
    select $1, conversation_id, id, user_id, turn, $3, 'call', 'tasks', 'add_task', '{}', 'completed'
    from jobs where id = $2
"""
_JOBS = """
    select id, input_item_count, (select count(*) from messages where job_id = jobs.id) as message_count from jobs
"""


async def _accept_as_before(gateway: asyncpg.Connection, message_count: int, *later: object) -> UUID:
    """As the gateways of the first version accepted: with fewer arguments, and items that have no kind.

    `later` are arguments that versions after it added.
    """
    job_id = uuid7()
    items = [
        {"id": str(uuid7()), "ordinal": ordinal, "role": "user", "content": "Hi!", "parts": []}
        for ordinal in range(message_count)
    ]
    arguments = ("ada", job_id, uuid7(), True, "", "{}", None, True, True, "{}", json.dumps(items), "{}", 1)
    more = (None, None, 50, "enqueue", None, *later)
    places = ", ".join(f"${number}" for number in range(1, len(arguments + more) + 1))
    outcome = await gateway.fetchval(f"select outcome from accept_turn({places})", *arguments, *more)  # noqa: S608
    assert outcome == "accepted"
    return job_id


async def _has_waiting_locks(connection: asyncpg.Connection) -> bool:
    """Whether somebody waits for a table of this database, right now."""
    return bool(
        await connection.fetchval(
            """
            select exists (select from pg_locks where not granted and locktype = 'relation' and database = (
                select oid from pg_database where datname = current_database()))
            """
        )
    )


def _as_user(url: str, user: str, password: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:{password}@{parts.hostname}:{parts.port}").geturl()


@asynccontextmanager
async def _new_database() -> AsyncIterator[dict[str | None, str]]:
    """The URLs of an empty one, by role; None is its owner."""
    server = os.environ["DATABASE_URL"]
    name = f"parley_test_{uuid7().hex}"
    await execute(server, f'create database "{name}"')
    try:
        yield {role: at(server, name, role) for role in (None, *ROLES)}
    finally:
        await execute(server, f'drop database "{name}" with (force)')


async def _upgrade(urls: Mapping[str | None, str], revision: str) -> None:
    engine = create_async_engine(urls[None].replace("postgresql://", "postgresql+asyncpg://"))
    config = Config()
    config.set_main_option("script_location", "shared.db:migrations")

    def upgrade(connection: Connection) -> None:
        config.attributes["connection"] = connection
        command.upgrade(config, revision)

    try:
        async with engine.connect() as connection:
            await ensure_roles(connection, [urls[role] for role in ROLES])
            await connection.run_sync(upgrade)
            await connection.commit()
    finally:
        await engine.dispose()


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
