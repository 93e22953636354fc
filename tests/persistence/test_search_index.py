"""The words of messages: in the index soon after the messages are stored, and nobody's way."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from uuid import UUID

import asyncpg
import pytest

from persistence.search_index import LOCK, SearchIndex
from shared.db import _UNAVAILABLE_COUNT
from shared.errors import DatabaseUnavailableError
from shared.ids import uuid7
from tests.persistence.support import Services
from tests.support.owner import value_as_owner
from tests.support.turns import Turns
from tests.support.waiting import wait_until

USER = "ada"


@pytest.fixture
def turns(services: Services) -> Turns:
    return Turns(services.gateway, services.persistence, services.owner_url)


@pytest.fixture
async def other(database_urls: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    """A session of another process."""
    connection = await asyncpg.connect(database_urls["owner"])
    yield connection
    await connection.close()


def index_of(services: Services, *, round_seconds: float = 60.0, messages_max: int = 10) -> SearchIndex:
    return SearchIndex(services.persistence, round_seconds=round_seconds, messages_max=messages_max)


async def count_of(services: Services, table: str) -> int:
    count: int = await value_as_owner(services.owner_url, f"select count(*) from {table}")  # noqa: S608 - ours
    return count


async def test_the_oldest_messages_are_indexed_first_and_each_once(services: Services, turns: Turns) -> None:
    said = [await turns.exchange(USER, f"Question {number}", f"Answer {number}") for number in range(3)]
    index = index_of(services, messages_max=4)

    are_more = [await index.run_once() for _ in range(2)]

    assert are_more == [True, False]
    assert await count_of(services, "message_words") == 6
    assert await count_of(services, "unindexed_messages") == 0
    indexed: list[UUID] = await value_as_owner(
        services.owner_url,
        "select array_agg(m.job_id order by w.ctid) from message_words w join messages m on m.id = message_id",
    )
    assert indexed == [accepted.job_id for accepted in said for _ in range(2)]


async def test_what_has_its_words_already_is_left_as_it_is(services: Services, turns: Turns) -> None:
    """Messages may be noted once more, to be on the safe side after a restored backup for example."""
    await turns.ask(USER, "Once")
    index = index_of(services)
    await index.run_once()
    await turns.change("insert into unindexed_messages select id, user_id from messages")

    await index.run_once()

    assert await count_of(services, "message_words") == 1
    assert await count_of(services, "unindexed_messages") == 0


async def test_a_message_without_text_is_nothing_to_index(services: Services, turns: Turns) -> None:
    await turns.exchange(USER, "", "")

    await index_of(services).run_once()

    assert await count_of(services, "message_words") == 0


async def test_one_process_at_a_time_indexes(services: Services, turns: Turns, other: asyncpg.Connection) -> None:
    await turns.ask(USER, "Hello")
    index = index_of(services)
    async with other.transaction():
        await other.execute("select pg_advisory_xact_lock($1)", LOCK)
        await index.run_once()
        meanwhile = await count_of(services, "message_words")
    await index.run_once()

    assert (meanwhile, await count_of(services, "message_words")) == (0, 1)


async def test_a_few_large_messages_are_a_round_of_their_own(services: Services, turns: Turns) -> None:
    for _ in range(4):
        await turns.ask(USER, "word " * 20_000)
    index = index_of(services)

    assert [await index.run_once() for _ in range(2)] == [True, False]
    assert await count_of(services, "message_words") == 4


async def test_who_cannot_look_there_has_words_indexed_at_once(
    services: Services, turns: Turns, database_urls: dict[str, str]
) -> None:
    """Processes of the version before: they run beside new ones, or again where somebody goes back."""
    asked = await turns.ask(USER, "Hello")
    before = await asyncpg.connect(database_urls["parley_persistence"])
    try:
        await before.execute(
            """
            insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
            select $1, conversation_id, id, user_id, turn, 1, 'assistant', 'Hi!', '[]', 'completed'
            from jobs where id = $2
            """,
            uuid7(),
            asked.job_id,
        )
    finally:
        await before.close()

    assert await count_of(services, "message_words") == 1
    assert await count_of(services, "unindexed_messages") == 1


async def test_who_deletes_messages_is_not_held_up(services: Services, turns: Turns, other: asyncpg.Connection) -> None:
    """Each has locked what the other wants next: it is the index that lets go, not one of the two by lot."""
    await turns.ask(USER, "Hello")
    await turns.ask(USER, "Bye")
    index = index_of(services)
    async with other.transaction():
        await other.execute("delete from messages where content = 'Bye'")
        indexing = asyncio.create_task(index.run_once())
        await wait_until(partial(has_waiting_locks, services), seconds=10)
        async with asyncio.timeout(1):  # Postgres would look for the deadlock after that
            await other.execute("delete from messages where content = 'Hello'")
            with pytest.raises(DatabaseUnavailableError):
                await indexing
    await index.run_once()

    assert await count_of(services, "message_words") == await count_of(services, "unindexed_messages") == 0


async def test_a_message_that_is_deleted_while_it_is_indexed_spoils_nothing(
    services: Services, turns: Turns, other: asyncpg.Connection
) -> None:
    await turns.ask(USER, "Hello")
    await turns.ask(USER, "Bye")
    index = index_of(services)
    await other.execute("begin")
    await other.execute("delete from messages where content = 'Bye'")
    indexing = asyncio.create_task(index.run_once())
    await wait_until(partial(has_waiting_locks, services), seconds=10)
    await other.execute("commit")
    await indexing

    assert await count_of(services, "message_words") == 1
    assert await count_of(services, "unindexed_messages") == 0


async def has_waiting_locks(services: Services) -> bool:
    return bool(await count_of(services, "pg_locks where not granted"))


async def test_it_goes_on_by_itself_and_faster_where_more_is_waiting(services: Services, turns: Turns) -> None:
    """Its next look would be in a minute, were it not behind."""
    for number in range(3):
        await turns.ask(USER, f"Question {number}")
    index = index_of(services, messages_max=1)
    index.start()
    try:

        async def is_done() -> bool:
            return await count_of(services, "unindexed_messages") == 0

        await wait_until(is_done, seconds=10)
    finally:
        await asyncio.wait_for(index.stop(), 5)

    assert await count_of(services, "message_words") == 3


async def test_it_outlives_what_holds_it_up(services: Services, turns: Turns, other: asyncpg.Connection) -> None:
    await turns.ask(USER, "Hello")
    index = index_of(services, round_seconds=0.05)
    unavailable = _UNAVAILABLE_COUNT.labels()
    failed_before = unavailable.value
    async with other.transaction():
        await other.execute("lock table unindexed_messages")
        index.start()

        async def has_failed_twice() -> bool:
            return unavailable.value >= failed_before + 2

        await wait_until(has_failed_twice, seconds=10)
    try:

        async def is_done() -> bool:
            return await count_of(services, "unindexed_messages") == 0

        await wait_until(is_done, seconds=10)
    finally:
        await index.stop()
