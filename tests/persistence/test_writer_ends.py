"""Most ends are stored by one statement, which has locked nothing before: as the longer way would, or by it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, NoReturn

import asyncpg
import pytest

from persistence import writer
from persistence.writer import Incoming, write, write_batch
from shared.contracts import JournalChunk, JournalChunks
from shared.events import Failure, Usage, type_of
from shared.ids import Prefix, new_wire_id, uuid7
from shared.states import JobStatus
from tests.persistence.support import Attempt, Services, incoming
from tests.support.owner import value_as_owner
from tests.support.waiting import wait_until

# What differs between two who said and heard the same.
_OWN = "{id,job_id,conversation_id,user_id,parent_job_id,active_job_id,head_job_id,call_id,event_id,endpoint_id}"
_TIMES = "{created_at,updated_at,read_at,executed_at,available_at,started_at,ended_at,lease_until,next_attempt_at}"
_WORDS = "{delivery_id,request,response,item,parts,data,frames,body,approval_request_id}"
_TABLES = (
    "jobs", "messages", "tool_calls", "items", "journal", "usage_by_day", "conversations", "conversation_events",
    "webhook_deliveries",
)  # fmt: skip

Ends = Callable[[Attempt], list[JournalChunk]]


def answers(attempt: Attempt) -> list[JournalChunk]:
    return [attempt.begins(), attempt.says("Hello"), attempt.ends(usage=Usage(3, 5))]


def thinks_calls_and_answers(attempt: Attempt) -> list[JournalChunk]:
    thought = attempt.chunk([*attempt.events.reasoning("Hm."), *attempt.events.close_message()])
    called = attempt.calls_tool("add_task")
    asked = attempt.chunk(attempt.events.approval_request(new_wire_id(Prefix.APPROVAL_REQUEST), "mail", "wipe", "{}"))
    return [thought, called, asked, attempt.says("Done."), attempt.ends(usage=Usage(30, 50))]


def fails_in_the_middle(attempt: Attempt) -> list[JournalChunk]:
    return [attempt.says("Hel"), attempt.ends(JobStatus.FAILED, Failure("model_unavailable", "away"))]


def says_nothing(attempt: Attempt) -> list[JournalChunk]:
    return [attempt.ends(JobStatus.CANCELLED)]


async def claimed(services: Services, user_id: str) -> Attempt:
    return await services.claim(await services.accept(user_id=user_id))


async def left_of(services: Services, user_id: str) -> dict[str, list[Any]]:
    """All that the user has, by table, without what is the user's own."""
    owner = await asyncpg.connect(services.owner_url)
    try:
        await owner.execute("select set_config('app.user_id', $1, false)", user_id)
        return {
            table: [
                row["row"]
                for row in await owner.fetch(
                    f"""
                    select to_jsonb(t) - '{_OWN}'::text[] - '{_TIMES}'::text[] - '{_WORDS}'::text[] as row
                    from {table} t where user_id = $1 order by to_jsonb(t) ->> 'ordinal', to_jsonb(t) ->> 'seq'
                    """,  # noqa: S608 - constants
                    user_id,
                )
            ]
            for table in _TABLES
        }
    finally:
        await owner.close()


@pytest.fixture
def without_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> NoReturn:
        raise AssertionError("the jobs were locked first")

    monkeypatch.setattr(writer, "write_batch", refuse)


@pytest.fixture
async def endpoint(services: Services) -> AsyncIterator[None]:
    """Somebody wants to hear of all ends."""
    statement = """
        insert into webhook_endpoints (id, url, secret, event_types)
        values ($1, 'https://hooks.example', 'secret', '{response.completed,response.failed,response.cancelled}')
    """
    endpoint_id = uuid7()
    await value_as_owner(services.owner_url, statement, endpoint_id)
    yield
    await value_as_owner(services.owner_url, "delete from webhook_endpoints where id = $1", endpoint_id)


@pytest.mark.usefixtures("without_a_look")
async def test_an_end_behind_which_nothing_waits_is_stored_without_a_look_before(services: Services) -> None:
    attempts = [await claimed(services, user_id) for user_id in ("short-1", "short-2", "short-3")]
    chunks = [chunk for attempt in attempts for chunk in answers(attempt)]

    written = await services.write(JournalChunks(chunks=chunks))

    assert [ended.job_id for ended in written.ended] == [attempt.job.id for attempt in attempts]
    assert [touched.user_id for touched in written.touched] == ["short-1", "short-2", "short-3"]
    for attempt in attempts:
        assert (await services.job_row(attempt.job))["status"] == "completed"
        assert await services.active_job(attempt.job) is None
        assert type_of((await services.journal(attempt.job))[-1]) == "response.completed"


@pytest.mark.parametrize("ends", [answers, thinks_calls_and_answers, fails_in_the_middle, says_nothing])
@pytest.mark.usefixtures("endpoint")
async def test_both_ways_leave_the_same(services: Services, ends: Ends) -> None:
    one, other = f"one-{ends.__name__}", f"other-{ends.__name__}"
    at_once, looked_at = await claimed(services, one), await claimed(services, other)

    written, left = await write(services.persistence, [Incoming(JournalChunks(chunks=ends(at_once)))])
    async with services.persistence.transaction(None) as connection:
        expected = await write_batch(connection, [Incoming(JournalChunks(chunks=ends(looked_at)))])

    assert not left
    assert written.has_webhooks
    assert (written.has_webhooks, written.ready) == (expected.has_webhooks, expected.ready)
    assert [(e.status, e.attempt, e.event_count, e.message_count, e.tool_call_count) for e in written.ended] == [
        (e.status, e.attempt, e.event_count, e.message_count, e.tool_call_count) for e in expected.ended
    ]
    assert [event for live in written.live for event in live.events] != []
    assert await left_of(services, one) == await left_of(services, other)


async def test_of_a_batch_each_end_takes_the_way_that_it_may(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, followed, speaking = [await claimed(services, user_id) for user_id in ("free", "followed", "speaking")]
    behind = await services.accept(conversation_id=followed.job.conversation_id, user_id="followed")

    chunks = [*answers(free), *answers(followed), speaking.says("I am not done")]
    written, left = await write(services.persistence, [Incoming(JournalChunks(chunks=chunks))])

    assert [ended.job_id for ended in written.ended] == [free.job.id]
    assert [message.message.chunks[0].job_id for message in left] == [followed.job.id]  # type: ignore[union-attr]
    monkeypatch.setattr(writer, "_finish", None)  # what it did not take, it is not asked for again
    last, nothing = await write(services.persistence, left)
    assert not nothing
    assert [ready.job_id for ready in last.ready] == [behind.id]
    assert await services.active_job(followed.job) == behind.id
    assert len(await services.journal(speaking.job)) > 1


async def test_a_message_that_is_accepted_while_an_end_waits_for_its_conversation_runs_next(services: Services) -> None:
    """Of what the end saw when it began, the message is no part."""
    attempt = await claimed(services, "meets")
    async with services.gateway.transaction("meets") as accepting:
        await accepting.execute(
            "select from conversations where id = $1 for no key update", attempt.job.conversation_id
        )
        ending = asyncio.ensure_future(services.write(*answers(attempt)))
        await wait_until(lambda: _is_awaited(services), what="the end waits for the conversation")
        job_id = uuid7()
        await accepting.fetchrow(
            """
            select * from accept_turn('meets', $1, $2, false, '', '{}', null, false, true, '{}', '[]', '{}', 1, null,
                                      null, 999)
            """,
            job_id,
            attempt.job.conversation_id,
        )

    written = await ending

    assert [ready.job_id for ready in written.ready] == [job_id]
    assert await services.active_job(attempt.job) == job_id
    assert (await services.job_row(attempt.job))["status"] == "completed"


async def test_an_end_that_waits_for_another_one_of_its_job_changes_nothing(services: Services) -> None:
    attempt = await claimed(services, "twice")
    chunks = answers(attempt)
    async with services.persistence.transaction(None) as connection:
        await connection.execute(
            "select from conversations where id = $1 for no key update", attempt.job.conversation_id
        )
        again = asyncio.ensure_future(services.write(*chunks))
        await wait_until(lambda: _is_awaited(services), what="the end waits for the conversation")
        await write_batch(connection, [incoming(chunk) for chunk in chunks])

    written = await again

    assert (written.ended, written.live) == ([], [])
    assert written.places["known"] > 0
    [usage] = await services.rows("select response_count from usage_by_day where user_id = 'twice'")
    assert usage["response_count"] == 1
    assert [type_of(event) for event in await services.journal(attempt.job)].count("response.completed") == 1


async def _is_awaited(services: Services) -> bool:
    statement = """
        select exists (select from pg_stat_activity
                       where datname = current_database() and wait_event_type = 'Lock' and query ~ 'wanted')
    """
    return bool(await value_as_owner(services.owner_url, statement))
