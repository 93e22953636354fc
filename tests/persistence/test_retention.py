"""What is old takes less room or goes, and what is not stays."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any
from uuid import UUID

import asyncpg

from persistence.retention import LOCK, Ages, Retention
from shared.db.audit import ActorKind
from shared.db.files import File, NewFile, Purpose, delete_file, store_file
from shared.db.journal import PACKED_BYTES_MAX, read_after
from shared.db.purges import request_purge
from shared.events import Event
from shared.ids import Prefix, to_wire, uuid7
from tests.persistence.support import Attempt, Job, Services
from tests.support.waiting import wait_until

_NEVER = 86_400.0
_HOUR = 3_600.0
_KEEP_ALL = Ages(**{field.name: _NEVER for field in fields(Ages)})
_REQUIRED = {
    "messages": ("role, content, status", "'user', '', 'completed'"),
    "items": ("kind", "'function_call_output'"),
}


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


async def test_a_response_that_was_not_to_be_stored_goes_after_its_end(
    services: Services, database_urls: dict[str, str]
) -> None:
    ended, stored = await _an_ended_attempt(services, words=1), await _an_ended_attempt(services, words=1)
    running = await services.claim(await services.accept())
    owner = await asyncpg.connect(database_urls["owner"])
    for attempt in (ended, running):
        await owner.execute("update conversations set is_ephemeral = true where id = $1", attempt.job.conversation_id)
    await owner.close()

    await a_retention(services, _KEEP_ALL).run_once()
    kept = await services.rows("select id from jobs")
    await a_retention(services, replace(_KEEP_ALL, unstored_responses_kept_seconds=0)).run_once()

    assert len(kept) == 3
    assert {row["id"] for row in await services.rows("select id from jobs")} == {stored.job.id, running.job.id}


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


async def test_denials_go_a_day_after_they_are_over(services: Services, database_urls: dict[str, str]) -> None:
    owner = await asyncpg.connect(database_urls["owner"])
    for until in ("now() - interval '2 days'", "now() - interval '1 hour'", "now() + interval '1 hour'", "'infinity'"):
        value, statement = until.strip("'"), "insert into denials (id, kind, value, created_by, until) values "
        await owner.execute(f"{statement} (gen_random_uuid(), 'subject', $1, 'retention', {until})", value)

    await a_retention(services, _KEEP_ALL).run_once()

    kept = [
        row["value"] for row in await owner.fetch("delete from denials where created_by = 'retention' returning value")
    ]
    await owner.close()
    assert sorted(kept) == ["infinity", "now() + interval '1 hour", "now() - interval '1 hour"]


async def test_what_a_purge_left_of_a_days_usage_goes_when_the_day_is_over(services: Services) -> None:
    async with services.persistence.transaction("alice") as connection:
        await connection.execute(
            """
            insert into usage_by_day (user_id, day, response_count, purged_at)
            select user_id, (now() at time zone 'utc')::date - age, 1, purged_at
            from (values ('alice', 0, now()), ('alice', 1, now()), ('bob', 1, null)) v (user_id, age, purged_at)
            """
        )

    await a_retention(services, _KEEP_ALL).run_once()

    left = await services.rows(
        "select user_id, day = (now() at time zone 'utc')::date as is_of_today from usage_by_day"
    )
    assert sorted(tuple(row) for row in left) == [("alice", True), ("bob", False)]


async def test_deleted_and_expired_files_go_and_others_stay(services: Services) -> None:
    uploaded, deleted, expiring = [await _a_file(services, is_inline=False) for _ in range(3)]
    async with services.gateway.transaction("alice") as connection:
        await delete_file(connection, "alice", deleted.id)
    expired = await _a_file(services, is_inline=False, lifetime_seconds=-1)

    await a_retention(services, replace(_KEEP_ALL, unused_files_kept_seconds=0)).run_once()

    assert await _file_ids(services) == {uploaded.id, expiring.id}
    assert expired.id not in await _file_ids(services)


async def test_a_file_that_came_within_a_message_goes_with_the_last_that_refers_to_it(services: Services) -> None:
    in_message, in_output, unused, uploaded = [
        await _a_file(services, is_inline=is_inline) for is_inline in (True, True, True, False)
    ]
    job = await services.accept()
    for table, column, value in (
        ("messages", "parts", [{"type": "input_image", "file_id": to_wire(Prefix.FILE, in_message.id)}]),
        ("items", "item", {"output": [{"type": "input_file", "file_id": to_wire(Prefix.FILE, in_output.id)}]}),
    ):
        await _refer(services, job, table, column, value)
    retention = a_retention(services, replace(_KEEP_ALL, unused_files_kept_seconds=0.2))

    await a_retention(services, _KEEP_ALL).run_once()
    before_its_time = await _file_ids(services)
    await _wait_until_seen_before(services, 0.2)
    await retention.run_once()
    while_referred_to = await _file_ids(services)
    await services.rows("delete from conversations")
    await _wait_until_seen_before(services, 0.2)
    await retention.run_once()

    assert before_its_time == {in_message.id, in_output.id, unused.id, uploaded.id}
    assert while_referred_to == {in_message.id, in_output.id, uploaded.id}
    assert await _file_ids(services) == {uploaded.id}


async def test_a_file_that_is_sent_again_is_not_taken_for_unused(services: Services) -> None:
    file = await _a_file(services, is_inline=True, content=b"same")
    await _wait_until_seen_before(services, 0.2)

    again = await _a_file(services, is_inline=True, content=b"same")
    await a_retention(services, replace(_KEEP_ALL, unused_files_kept_seconds=0.2)).run_once()

    assert again.id == file.id
    assert await _file_ids(services) == {file.id}


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


async def _a_file(
    services: Services, *, is_inline: bool, content: bytes | None = None, lifetime_seconds: float | None = None
) -> File:
    new = NewFile(
        filename="a.txt",
        media_type="text/plain",
        purpose=Purpose.USER_DATA,
        content=content or uuid7().bytes,
        is_inline=is_inline,
        lifetime_seconds=lifetime_seconds,
    )
    async with services.gateway.transaction("alice") as connection:
        return await store_file(connection, "alice", new, bytes_max=10_000, count_max=10)


async def _file_ids(services: Services) -> set[UUID]:
    return {row["id"] for row in await services.rows("select id from files")}


async def _refer(services: Services, job: Job, table: str, column: str, value: Any) -> None:
    names, values = _REQUIRED[table]
    await services.rows(
        f"""
        insert into {table} (id, conversation_id, job_id, user_id, turn, ordinal, {column}, {names})
        values ($1, $2, $3, $4, 1, 7, $5, {values})
        """,  # noqa: S608
        uuid7(),
        job.conversation_id,
        job.id,
        job.user_id,
        value,
    )


async def _wait_until_seen_before(services: Services, seconds: float) -> None:
    """Until every file was last seen more than so long ago."""

    async def all_seen_before() -> bool:
        late = "select from files where seen_at >= clock_timestamp() - make_interval(secs => $1)"
        return not await services.rows(late, seconds)

    await wait_until(all_seen_before)


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


async def test_conversations_in_which_nothing_is_said_go_only_where_that_is_wanted(services: Services) -> None:
    silent, running, lively = [await services.accept() for _ in range(3)]
    await services.write((await services.claim(silent)).ends(), (await services.claim(lively)).ends())
    await services.claim(running)
    async with services.gateway.transaction("alice") as connection:
        await connection.execute(
            "update conversations set updated_at = now() - interval '1 day' where id <> $1", lively.conversation_id
        )

    await a_retention(services, replace(_KEEP_ALL, conversations_kept_seconds=None)).run_once()
    kept = await services.rows("select from conversations")
    await a_retention(services, replace(_KEEP_ALL, conversations_kept_seconds=_HOUR)).run_once()

    left = {row["id"] for row in await services.rows("select id from conversations")}
    assert (len(kept), left) == (3, {running.conversation_id, lively.conversation_id})


async def test_finished_purges_are_forgotten_and_open_ones_are_not(services: Services) -> None:
    for user_id in ("alice", "bob"):
        async with services.gateway.transaction(user_id) as connection:
            await request_purge(connection, user_id, ActorKind.USER)
    async with services.persistence.transaction(None) as connection:
        await connection.execute("update purges set user_id = null, finished_at = now() where user_id = 'alice'")

    await a_retention(services, _KEEP_ALL).run_once()
    kept = await services.rows("select from purges")
    await a_retention(services, replace(_KEEP_ALL, purges_kept_seconds=0)).run_once()

    assert len(kept) == 2
    assert [row["user_id"] for row in await services.rows("select user_id from purges")] == ["bob"]


async def test_the_audit_log_is_kept_for_thirty_days_whatever_is_set(
    services: Services, database_urls: Mapping[str, str]
) -> None:
    owner = await asyncpg.connect(database_urls["owner"])
    try:
        for days in (29, 31):
            await owner.execute(
                """
                insert into audit_log (id, at, actor_kind, actor, action, outcome)
                values ($1, now() - make_interval(days => $2), 'ops', 'root', 'job.failed', $3)
                """,
                *(uuid7(), days, f"{days} days"),
            )
    finally:
        await owner.close()

    await a_retention(services, replace(_KEEP_ALL, audit_log_kept_seconds=40 * _NEVER)).run_once()
    kept = await services.rows("select from audit_log")
    await a_retention(services, replace(_KEEP_ALL, audit_log_kept_seconds=0)).run_once()

    assert len(kept) == 2
    assert [row["outcome"] for row in await services.rows("select outcome from audit_log")] == ["29 days"]
