"""Summaries and titles: what of them is stored, what is not, and what outdates a summary."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

import pytest

from gateway.writer import delete_item
from persistence.dead_letters import DeadLetter
from persistence.writer import Incoming, write_batch
from shared.contracts import ConversationSummarised, TitleSuggested, Touched
from shared.ids import uuid7
from tests.persistence.support import Job, Services
from tests.support.waiting import wait_until


async def test_a_summary_is_stored_once(services: Services) -> None:
    [job] = await turns(services, 1)

    await services.write(summary_of(job), summary_of(job, text="another"))
    await services.write(summary_of(job))

    [row] = await services.rows("select job_id, conversation_id, user_id, turn, conversation_ids from summaries")
    assert tuple(row) == (job.id, job.conversation_id, "alice", 1, [job.conversation_id])
    assert await text_as_seen_by(services, "alice") == ["In short."]


async def test_a_summary_of_what_is_not_there_or_not_theirs_is_left_out(services: Services) -> None:
    [job] = await turns(services, 1)
    [other] = await turns(services, 1)
    [theirs] = await turns(services, 1, user_id="bob")

    await services.write(
        summary_of(job, job_id=uuid7()),
        summary_of(job, job_id=other.id),
        summary_of(job, user_id="bob"),
        summary_of(job, job_id=theirs.id, conversation_id=theirs.conversation_id),
        summary_of(job, conversation_ids=[]),
        summary_of(job, conversation_ids=[other.conversation_id]),
        summary_of(job, conversation_ids=[job.conversation_id, theirs.conversation_id]),
        summary_of(job, conversation_ids=[job.conversation_id, uuid7()]),
    )

    assert await summarised(services) == set()


async def test_nobody_sees_the_summaries_of_another(services: Services) -> None:
    [job] = await turns(services, 1)
    await services.write(summary_of(job))

    assert await text_as_seen_by(services, "alice") == ["In short."]
    assert await text_as_seen_by(services, "bob") == []
    async with services.gateway.transaction("bob") as connection:
        assert await connection.fetch("select text from summaries") == []


async def test_deleting_an_item_outdates_the_summaries_that_tell_of_it(services: Services) -> None:
    jobs = await turns(services, 4)
    await services.write(summary_of(jobs[0]), summary_of(jobs[1]), summary_of(jobs[3]))

    await delete_message_of(services, jobs[1])

    assert await summarised(services) == {jobs[0].id}


@pytest.mark.parametrize("table", ["tool_calls", "items"])
async def test_deleting_an_item_of_any_kind_outdates_them(services: Services, table: str) -> None:
    [job] = await turns(services, 1)
    item_id = await insert(services, table, job)
    await services.write(summary_of(job))

    await delete_item(services.gateway, "alice", job.conversation_id, item_id)

    assert await summarised(services) == set()


async def test_deleting_an_item_outdates_summaries_in_conversations_that_went_on_from_there(services: Services) -> None:
    [elsewhere, later] = await turns(services, 2)
    [job] = await turns(services, 1)
    [unconcerned] = await turns(services, 1)
    ids = [elsewhere.conversation_id, job.conversation_id]
    await services.write(summary_of(job, conversation_ids=ids), summary_of(unconcerned))

    await delete_message_of(services, later)

    assert await summarised(services) == {unconcerned.id}


async def test_a_summary_that_was_made_before_an_item_was_deleted_is_not_stored_after(services: Services) -> None:
    [job, later] = await turns(services, 2)
    await delete_message_of(services, job)

    await services.write(summary_of(later))
    assert await summarised(services) == set()

    await services.write(summary_of(later, deleted_item_count=1))
    assert await summarised(services) == {later.id}


async def test_a_summary_that_is_being_stored_while_an_item_is_deleted_is_outdated_too(services: Services) -> None:
    [job] = await turns(services, 1)
    async with services.persistence.transaction(None) as connection:
        await write_batch(connection, [Incoming(summary_of(job))])
        deletion = asyncio.create_task(delete_message_of(services, job))
        await wait_until(lambda: _is_waiting(services), what="the deletion waits for the conversation")
    await deletion

    assert await summarised(services) == set()


async def test_a_purged_conversation_takes_along_what_tells_of_it(services: Services) -> None:
    [elsewhere] = await turns(services, 1)
    [job] = await turns(services, 1)
    await services.write(
        summary_of(elsewhere), summary_of(job, conversation_ids=[elsewhere.conversation_id, job.conversation_id])
    )

    async with services.persistence.transaction(None) as connection:
        await connection.execute("delete from conversations where id = $1", elsewhere.conversation_id)

    assert await summarised(services) == set()


async def test_a_suggested_title_takes_the_place_of_the_first_messages_words(services: Services) -> None:
    [job] = await turns(services, 1)

    written = await services.write(title_of(job))

    assert await title_now(services, job) == ("Groceries", "model")
    touched = Touched(conversation_id=job.conversation_id, user_id="alice", what="conversation.updated")
    assert touched in written.touched
    async with services.gateway.transaction("alice") as connection:
        [event] = await connection.fetch("select data from conversation_events where kind = 'conversation.updated'")
    assert event["data"]["title"] == "Groceries"


async def test_a_title_is_set_once_and_counts_once(services: Services) -> None:
    [job] = await turns(services, 1, user_id="carol")

    await services.write(title_of(job, user_id="carol"), title_of(job, user_id="carol", title="Something else"))
    written = await services.write(title_of(job, user_id="carol"))

    assert await title_now(services, job) == ("Groceries", "model")
    assert written.touched == []
    usage = await services.rows(
        "select response_count, input_tokens, output_tokens from usage_by_day where user_id = $1", "carol"
    )
    assert [tuple(row) for row in usage] == [(0, 40, 3)]


@pytest.mark.parametrize("change", ["title_source = 'user'", "deleted_at = now()"])
async def test_a_title_that_was_chosen_and_a_hidden_conversation_stay_as_they_are(
    services: Services, change: str
) -> None:
    [job] = await turns(services, 1)
    async with services.gateway.transaction("alice") as connection:
        await connection.execute(f"update conversations set {change} where id = $1", job.conversation_id)  # noqa: S608

    await services.write(title_of(job))

    assert (await title_now(services, job))[0] == "title"


async def test_nobody_gives_a_title_to_the_conversation_of_another(services: Services) -> None:
    [job] = await turns(services, 1)

    await services.write(title_of(job, user_id="bob"))

    assert await title_now(services, job) == ("title", "message")


async def test_dead_letters_of_them_are_known_by_their_kind(services: Services) -> None:
    [job] = await turns(services, 1)
    summary, title = (DeadLetter("1", "q", "rejected", b"", message) for message in (summary_of(job), title_of(job)))

    assert (summary.kind, summary.job_ids) == ("ConversationSummarised", [job.id])
    assert (title.kind, title.job_ids) == ("TitleSuggested", [])


def summary_of(  # noqa: PLR0913 - what a test varies
    job: Job,
    *,
    job_id: UUID | None = None,
    conversation_id: UUID | None = None,
    user_id: str | None = None,
    conversation_ids: Sequence[UUID] | None = None,
    deleted_item_count: int = 0,
    text: str = "In short.",
) -> ConversationSummarised:
    return ConversationSummarised(
        job_id=job_id or job.id,
        conversation_id=conversation_id or job.conversation_id,
        user_id=user_id or job.user_id,
        conversation_ids=[job.conversation_id] if conversation_ids is None else list(conversation_ids),
        deleted_item_count=deleted_item_count,
        text=text,
        token_count=3,
        covers_turn_count=1,
    )


def title_of(job: Job, *, user_id: str = "alice", title: str = "Groceries") -> TitleSuggested:
    return TitleSuggested(
        conversation_id=job.conversation_id, user_id=user_id, title=title, input_tokens=40, output_tokens=3
    )


async def turns(services: Services, count: int, *, user_id: str = "alice") -> list[Job]:
    """The turns of a new conversation, all ended."""
    jobs = [await services.accept(user_id=user_id)]
    jobs += [await services.accept(user_id=user_id, conversation_id=jobs[0].conversation_id) for _ in range(count - 1)]
    for job in jobs:
        await services.change(job, "status = 'completed'")
    return jobs


async def insert(services: Services, table: str, job: Job) -> UUID:
    """An item of the job, in `table`."""
    item_id = uuid7()
    columns, values = {
        "tool_calls": ("call_id, server_label, tool_name, parameters, status", "'c', 'tasks', 't', '{}', 'completed'"),
        "items": ("kind, item", """'function_call', '{"id":"fc_1"}'"""),
    }[table]
    async with services.persistence.transaction(None) as connection:
        await connection.execute(
            f"insert into {table} (id, conversation_id, job_id, user_id, turn, ordinal, {columns})"  # noqa: S608
            f" values ($1, $2, $3, $4, 1, 5, {values})",
            item_id,
            job.conversation_id,
            job.id,
            job.user_id,
        )
    return item_id


async def delete_message_of(services: Services, job: Job) -> None:
    [row] = await services.rows("select id from messages where job_id = $1", job.id)
    await delete_item(services.gateway, "alice", job.conversation_id, row["id"])


async def summarised(services: Services) -> set[UUID]:
    return {row["job_id"] for row in await services.rows("select job_id from summaries")}


async def text_as_seen_by(services: Services, user_id: str) -> list[str]:
    """By the worker, in the name of the user."""
    async with services.worker.transaction(user_id) as connection:
        return [row["text"] for row in await connection.fetch("select text from summaries")]


async def title_now(services: Services, job: Job) -> tuple[str, str]:
    [row] = await services.rows("select title, title_source from conversations where id = $1", job.conversation_id)
    return row["title"], row["title_source"]


async def _is_waiting(services: Services) -> bool:
    rows = await services.rows(
        """
        select from pg_locks join pg_stat_activity using (pid) where not granted and datname = current_database()
        """
    )
    return bool(rows)
