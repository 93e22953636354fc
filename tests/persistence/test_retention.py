"""What is old takes less room or goes, and what is not stays."""

import random
from collections.abc import Sequence
from dataclasses import replace

import asyncpg

from persistence.retention import LOCK, Ages, Retention
from shared.db.journal import PACKED_BYTES_MAX, read_after
from shared.events import Event
from tests.persistence.support import Attempt, Job, Services

_NEVER = 86_400.0
_KEEP_ALL = Ages(_NEVER, _NEVER, _NEVER, _NEVER)


def a_retention(services: Services, ages: Ages) -> Retention:
    return Retention(services.persistence, ages, round_seconds=60)


async def test_a_packed_journal_replays_the_same_bytes(services: Services) -> None:
    attempt = await _an_ended_attempt(services, words=200)
    before = await _replay(services, attempt.job)

    await a_retention(services, replace(_KEEP_ALL, roll_up_after_seconds=0)).run_once()

    rows = await services.rows("select first_seq, last_seq, frames from journal where job_id = $1", attempt.job.id)
    assert [tuple(row) for row in rows] == [(0, len(before) - 1, None)]
    assert await _replay(services, attempt.job) == before


async def test_a_packed_journal_can_be_read_from_anywhere_page_by_page(services: Services) -> None:
    attempt = await _an_ended_attempt(services, words=3, word_bytes=PACKED_BYTES_MAX * 2 // 3)
    before = await _replay(services, attempt.job)

    await a_retention(services, replace(_KEEP_ALL, roll_up_after_seconds=0)).run_once()

    rows = await services.rows("select packed from journal where job_id = $1", attempt.job.id)
    assert len(rows) > 1
    for cursor in range(-1, len(before)):
        assert await _replay(services, attempt.job, cursor) == before[cursor + 1 :]


async def test_what_ended_lately_or_runs_is_not_packed(services: Services) -> None:
    attempt = await _an_ended_attempt(services, words=2)
    running = await services.claim(await services.accept())
    await services.change(running.job, "ended_at = null")

    await a_retention(services, _KEEP_ALL).run_once()

    assert not await services.rows("select from journal where packed is not null")
    assert (await services.job_row(attempt.job))["rolled_up_at"] is None


async def test_a_journal_with_a_hole_is_left_as_it_is(services: Services) -> None:
    attempt = await _an_ended_attempt(services, words=2)
    await services.change(attempt.job, "next_seq = next_seq + 1")
    before = await services.journal(attempt.job)

    await a_retention(services, replace(_KEEP_ALL, roll_up_after_seconds=0)).run_once()

    assert await services.journal(attempt.job) == before


async def test_the_ledger_of_an_ended_job_goes_and_that_of_a_running_one_stays(services: Services) -> None:
    ended, running = await _an_ended_attempt(services, words=1), await services.claim(await services.accept())
    for job in (ended.job, running.job):
        async with services.worker.transaction("alice") as connection:
            await connection.execute(
                """
                insert into steps (job_id, step, kind, user_id, attempt, data) values ($1, 0, 'model', 'alice', 1, '1')
                """,
                job.id,
            )

    await a_retention(services, replace(_KEEP_ALL, roll_up_after_seconds=0)).run_once()

    assert [row["job_id"] for row in await services.rows("select job_id from steps")] == [running.job.id]


async def test_more_jobs_than_one_transaction_takes_are_packed_in_one_round(services: Services) -> None:
    for _ in range(25):
        await _an_ended_attempt(services, words=1)

    await a_retention(services, replace(_KEEP_ALL, roll_up_after_seconds=0)).run_once()

    assert not await services.rows("select from jobs where rolled_up_at is null")


async def test_a_hidden_conversation_goes_with_everything_under_it_after_its_time(services: Services) -> None:
    hidden, shown = await _an_ended_attempt(services, words=1), await _an_ended_attempt(services, words=1)
    await _hide(services, hidden.job)

    await a_retention(services, _KEEP_ALL).run_once()
    kept = await services.rows("select from conversations")
    await a_retention(services, replace(_KEEP_ALL, deleted_conversations_kept_seconds=0)).run_once()

    assert len(kept) == 2
    for table in ("conversations", "jobs", "messages", "journal"):
        column = "id" if table == "conversations" else "conversation_id" if table != "journal" else "job_id"
        found = await services.rows(f"select distinct {column} as key from {table}")  # noqa: S608
        assert [row["key"] for row in found] == [shown.job.id if table == "journal" else shown.job.conversation_id]


async def test_a_hidden_conversation_whose_job_runs_waits_for_its_end(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    await _hide(services, attempt.job)

    await a_retention(services, replace(_KEEP_ALL, deleted_conversations_kept_seconds=0)).run_once()

    assert await services.rows("select from conversations")


async def test_old_keys_of_tool_calls_and_dead_letters_go(services: Services, database_urls: dict[str, str]) -> None:
    owner = await asyncpg.connect(database_urls["owner"])
    for age in ("1 minute", "2 days"):
        await owner.execute(
            f"""
            insert into idempotency_keys values ('alice', '{age}', 'add_task', '', '{{}}', now() - interval '{age}');
            insert into dead_letters values (gen_random_uuid(), null, 'q', '{age}', '', 0, '', now() - interval '{age}')
            """  # noqa: S608
        )

    await a_retention(services, _KEEP_ALL).run_once()

    kept = [await owner.fetch("select key from idempotency_keys"), await owner.fetch("select reason from dead_letters")]
    await owner.close()
    assert [[row[0] for row in rows] for rows in kept] == [["1 minute"], ["1 minute"]]


async def test_while_one_process_looks_for_what_is_old_the_others_do_not(services: Services) -> None:
    attempt = await _an_ended_attempt(services, words=1)
    async with services.persistence.transaction(None) as connection:
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)

        await a_retention(services, replace(_KEEP_ALL, roll_up_after_seconds=0)).run_once()

    assert (await services.job_row(attempt.job))["rolled_up_at"] is None


async def _an_ended_attempt(services: Services, *, words: int, word_bytes: int = 8) -> Attempt:
    attempt = await services.claim(await services.accept())
    for _ in range(words):
        await services.write(attempt.says(random.randbytes(word_bytes // 2).hex()))  # noqa: S311 - any text
    await services.write(attempt.ends())
    return attempt


async def _hide(services: Services, job: Job) -> None:
    async with services.gateway.transaction(job.user_id) as connection:
        await connection.execute(
            "update conversations set deleted_at = clock_timestamp() where id = $1", job.conversation_id
        )


async def _replay(services: Services, job: Job, cursor: int = -1) -> Sequence[Event]:
    """What a stream reads behind `cursor`, in pages of one row each."""
    events: list[Event] = []
    while True:
        async with services.gateway.transaction(job.user_id) as connection:
            page = await read_after(
                connection, user_id=job.user_id, job_id=job.id, cursor=cursor + len(events), bytes_max=1
            )
        assert page
        assert page.is_ended
        events.extend(page.events)
        if not page.has_more:
            return events
