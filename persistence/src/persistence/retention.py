"""What is old takes less room, or goes.

Long after its end a job's journal is packed into few compressed rows that replay to the same bytes, and its ledger,
which only a next attempt would read, is deleted. Keys of tool calls, hidden conversations, responses that were not to
be stored, dead letters, deliveries of webhooks, finished purges and the audit log are deleted when their time is over;
so are files that were deleted, or came within messages that are gone, and, where an operator wants that, conversations
in which nothing was said for long.
Everything is done in small transactions, by one process at a time, and may be done twice.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

import asyncpg

from persistence.purge import TODAY
from shared.db import Database, Row
from shared.db.errors import described
from shared.db.journal import events_of, packed
from shared.errors import DatabaseUnavailableError
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

LOCK = 7214003  # of Postgres; any number that nothing else in the database locks

_JOBS_MAX = 20  # of one transaction, which has their journals in memory one after the other
_CONVERSATIONS_MAX = 20  # with everything under them
_ROWS_MAX = 1_000
_DENIALS_KEPT_SECONDS = 86_400.0  # behind their end: much longer than a gateway can take to see it
_FILES_MAX = 50  # with their content
_CLOCKS_APART_SECONDS = 3_600.0  # of the processes that make ids, at most

# Does a part of what is to do; returns how much, 0 when there is nothing more.
_Part: TypeAlias = Callable[[asyncpg.Connection], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class Ages:
    """When something is old."""

    roll_up_after_seconds: float
    tool_keys_kept_seconds: float
    deleted_conversations_kept_seconds: float
    unstored_responses_kept_seconds: float
    dead_letters_kept_seconds: float
    unused_files_kept_seconds: float
    webhook_deliveries_kept_seconds: float
    conversations_kept_seconds: float | None
    purges_kept_seconds: float
    audit_log_kept_seconds: float


class Retention:
    """Looks for what is old, until stopped."""

    def __init__(self, database: Database, ages: Ages, *, round_seconds: float) -> None:
        self._database = database
        self._ages = ages
        self._round_seconds = round_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "retention")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self) -> None:
        """All that is old now."""
        parts: dict[str, _Part] = {
            "jobs_rolled_up": self._roll_up,
            "tool_keys_deleted": self._delete_tool_keys,
            "conversations_purged": self._purge_conversations,
            "silent_conversations_purged": self._purge_silent_conversations,
            "unstored_responses_purged": self._purge_unstored_responses,
            "dead_letters_deleted": self._delete_dead_letters,
            "files_deleted": self._delete_files,
            "inline_files_checked": self._check_inline_files,
            "webhook_deliveries_deleted": self._delete_webhook_deliveries,
            "denials_deleted": self._delete_denials,
            "purged_usage_deleted": self._delete_purged_usage,
            "purges_forgotten": self._delete_purges,
            "audit_entries_forgotten": self._delete_audit_entries,
        }
        for event, part in parts.items():
            if count := await self._repeat(part):
                log.info(event, count=count)

    async def _run(self) -> None:
        while True:
            try:
                await self.run_once()
            except DatabaseUnavailableError:
                pass  # said already; there is no hurry
            except Exception as error:  # noqa: BLE001
                log.error("retention_failed", **described(error))  # noqa: TRY400 - a traceback may quote what rows hold
            await asyncio.sleep(self._round_seconds)

    async def _repeat(self, part: _Part) -> int:
        """Do `part` until nothing is left to do, or another process is at it."""
        total = 0
        while True:
            async with self._database.transaction(None) as connection:
                is_free = await connection.fetchval("select pg_try_advisory_xact_lock($1)", LOCK)
                count = await part(connection) if is_free else 0
            if not count:
                return total
            total += count

    async def _roll_up(self, connection: asyncpg.Connection) -> int:
        jobs = await connection.fetch(
            """
            select id, user_id, next_seq from jobs
            where ended_at < now() - make_interval(secs => $1) and rolled_up_at is null
            order by ended_at limit $2 for no key update skip locked
            """,
            self._ages.roll_up_after_seconds,
            _JOBS_MAX,
        )
        for job in jobs:
            await _pack_journal(connection, job)
        job_ids = [job["id"] for job in jobs]
        await connection.execute("delete from steps where job_id = any($1::uuid[])", job_ids)
        await connection.execute("update jobs set rolled_up_at = clock_timestamp() where id = any($1::uuid[])", job_ids)
        return len(jobs)

    async def _delete_tool_keys(self, connection: asyncpg.Connection) -> int:
        return await _deleted(
            connection,
            """
            delete from idempotency_keys where (user_id, key) in (
                select user_id, key from idempotency_keys
                where created_at < now() - make_interval(secs => $1) order by created_at limit $2)
            """,
            self._ages.tool_keys_kept_seconds,
            _ROWS_MAX,
        )

    async def _purge_conversations(self, connection: asyncpg.Connection) -> int:
        """With everything under them, but not under the hands of a worker: an open job ends first."""
        return await _deleted(
            connection,
            """
            delete from conversations where id in (
                select c.id from conversations c
                where c.deleted_at < now() - make_interval(secs => $1)
                  and not exists (select from jobs j
                                  where j.conversation_id = c.id and j.status in ('queued', 'in_progress'))
                order by c.id limit $2 for update skip locked)
            """,
            self._ages.deleted_conversations_kept_seconds,
            _CONVERSATIONS_MAX,
        )

    async def _purge_silent_conversations(self, connection: asyncpg.Connection) -> int:
        """As hidden ones. Ids grow with time, so that younger conversations are not looked at."""
        kept_seconds = self._ages.conversations_kept_seconds
        if kept_seconds is None:
            return 0
        return await _deleted(
            connection,
            """
            delete from conversations where id in (
                select c.id from conversations c
                where c.id < $2 and c.updated_at < now() - make_interval(secs => $1)
                  and not exists (select from jobs j
                                  where j.conversation_id = c.id and j.status in ('queued', 'in_progress'))
                order by c.id limit $3 for update skip locked)
            """,
            kept_seconds,
            _first_id_of(time.time() - kept_seconds + _CLOCKS_APART_SECONDS),
            _CONVERSATIONS_MAX,
        )

    async def _purge_unstored_responses(self, connection: asyncpg.Connection) -> int:
        """Each with the conversation that it was alone in, a while after its end: its client may still be reading."""
        return await _deleted(
            connection,
            """
            delete from conversations where id in (
                select c.id from conversations c
                where c.is_ephemeral and c.updated_at < now() - make_interval(secs => $1)
                  and not exists (select from jobs j
                                  where j.conversation_id = c.id and j.status in ('queued', 'in_progress'))
                order by c.id limit $2 for update skip locked)
            """,
            self._ages.unstored_responses_kept_seconds,
            _CONVERSATIONS_MAX,
        )

    async def _delete_denials(self, connection: asyncpg.Connection) -> int:
        """A while after they are over, or lifted: gateways have to see that first."""
        return await _deleted(
            connection,
            """
            delete from denials where id in (
                select id from denials where until < now() - make_interval(secs => $1) order by until limit $2)
            """,
            _DENIALS_KEPT_SECONDS,
            _ROWS_MAX,
        )

    async def _delete_dead_letters(self, connection: asyncpg.Connection) -> int:
        return await _deleted(
            connection,
            """
            delete from dead_letters where id in (
                select id from dead_letters
                where received_at < now() - make_interval(secs => $1) order by received_at limit $2)
            """,
            self._ages.dead_letters_kept_seconds,
            _ROWS_MAX,
        )

    async def _delete_webhook_deliveries(self, connection: asyncpg.Connection) -> int:
        """Those of deleted endpoints as well, which nobody claims."""
        return await _deleted(
            connection,
            """
            delete from webhook_deliveries where (endpoint_id, event_id) in (
                select endpoint_id, event_id from webhook_deliveries
                where created_at < now() - make_interval(secs => $1)
                order by created_at limit $2 for update skip locked)
            """,
            self._ages.webhook_deliveries_kept_seconds,
            _ROWS_MAX,
        )

    async def _delete_purged_usage(self, connection: asyncpg.Connection) -> int:
        """What a purge had to leave until its day was over."""
        return await _deleted(
            connection,
            f"""
            delete from usage_by_day where (user_id, day) in (
                select user_id, day from usage_by_day where purged_at is not null and day < {TODAY} limit $1)
            """,  # noqa: S608 - our own text
            _ROWS_MAX,
        )

    async def _delete_purges(self, connection: asyncpg.Connection) -> int:
        return await _deleted(
            connection,
            """
            delete from purges where id in (
                select id from purges where finished_at < now() - make_interval(secs => $1) limit $2)
            """,
            self._ages.purges_kept_seconds,
            _ROWS_MAX,
        )

    async def _delete_audit_entries(self, connection: asyncpg.Connection) -> int:
        count: int = await connection.fetchval(
            "select forget_audit_log($1, $2)", self._ages.audit_log_kept_seconds, _ROWS_MAX
        )
        return count

    async def _delete_files(self, connection: asyncpg.Connection) -> int:
        """Those that their users deleted, or that expired."""
        return await _deleted(
            connection,
            """
            delete from files where id in (
                select id from files where deleted_at is not null
                union all
                select id from files where expires_at < now()
                limit $1)
            """,
            _FILES_MAX,
        )

    async def _check_inline_files(self, connection: asyncpg.Connection) -> int:
        """Delete those that no message refers to, and look at the others again after the same time.

        Sending such a file moves its `seen_at` as well, so that one whose message is just being accepted is left alone.
        """
        checked: int = await connection.fetchval(
            """
            with checked as (
                select f.id, f.user_id, 'file_' || replace(f.id::text, '-', '') as wire_id from files f
                where f.is_inline and f.seen_at < now() - make_interval(secs => $1)
                order by f.seen_at limit $2 for update skip locked),
            used as (
                select c.id from checked c
                where exists (select from messages m
                              where m.user_id = c.user_id and jsonb_path_exists(m.parts, '$[*].file_id')
                                and m.parts @> jsonb_build_array(jsonb_build_object('file_id', c.wire_id)))
                   or exists (select from items i
                              where i.user_id = c.user_id and i.kind = 'function_call_output'
                                and jsonb_path_exists(i.item, '$.output[*].file_id')
                                and i.item -> 'output' @> jsonb_build_array(jsonb_build_object('file_id', c.wire_id)))),
            kept as (update files set seen_at = clock_timestamp() where id in (select id from used)),
            gone as (delete from files where id in (select id from checked except select id from used))
            select count(*) from checked
            """,
            self._ages.unused_files_kept_seconds,
            _FILES_MAX,
        )
        return checked


async def _pack_journal(connection: asyncpg.Connection, job: Row) -> None:
    """Put packed rows in the place of the job's rows; who reads meanwhile sees the ones or the others."""
    rows = await connection.fetch(
        "select first_seq, frames, packed from journal where job_id = $1 order by first_seq", job["id"]
    )
    # In a thread: compressing a long answer would hold up everything else here.
    new = await asyncio.to_thread(lambda: list(packed(rows)))
    if not new or new[-1][1] + 1 != job["next_seq"] or not await asyncio.to_thread(_is_same, rows, new):
        log.error("journal_not_packed", job_id=str(job["id"]), next_seq=job["next_seq"])
        return
    await connection.execute("delete from journal where job_id = $1", job["id"])
    await connection.executemany(
        "insert into journal (job_id, first_seq, last_seq, user_id, packed) values ($1, $2, $3, $4, $5)",
        [(job["id"], first_seq, last_seq, job["user_id"], data) for first_seq, last_seq, data in new],
    )


def _is_same(rows: list[Row], new: list[tuple[int, int, bytes]]) -> bool:
    """Whether `new` replays to what `rows` do; what is deleted then cannot be looked up again."""
    replayed = [event for _, _, data in new for event in events_of({"frames": None, "packed": data})]
    return replayed == [event for row in rows for event in events_of(row)]


def _first_id_of(moment: float) -> UUID:
    """What UUIDv7s of `moment`, in seconds since the epoch, and later ones are not below."""
    return UUID(int=max(0, int(moment * 1000)) << 80)


async def _deleted(connection: asyncpg.Connection, statement: str, *arguments: float | UUID) -> int:
    status: str = await connection.execute(statement, *arguments)
    return int(status.removeprefix("DELETE "))
