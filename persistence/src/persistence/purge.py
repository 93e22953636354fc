"""Deletes everything of the users whose purge was requested, for good.

In small transactions, each of which also counts what it deleted: what is done stays done, and whoever comes next, this
process or another one, goes on from there. First the user's jobs are stopped, and those that run have a while to end.
A purge finishes when that while is over and nothing is left; until then every round looks again, as what was under way
when it began (a tool call, an upload) may still have written.

Messages about purged jobs that come later agree with no row, and are dropped as such.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import TypeAlias
from uuid import UUID

import asyncpg

from shared.db import Database
from shared.db.audit import Act, Actor, ActorKind, record
from shared.db.errors import described
from shared.db.purges import Purge, open_purges
from shared.errors import DatabaseUnavailableError
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

_CONVERSATIONS_MAX = 20  # whose rows go in one transaction
_ROWS_MAX = 1_000
_FILES_MAX = 50  # with their content
_PARTS_MAX = 1_000  # of one purge in a round: who goes on writing holds up no other's

TODAY = "(clock_timestamp() at time zone 'utc')::date"
_BY_CONVERSATION = "conversation_id = any($1::uuid[])"
_BY_JOB = "job_id in (select id from jobs where conversation_id = any($1::uuid[]))"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a table that go together, by their key; `$1` of the condition is whose they are."""

    table: str
    key: str
    condition: str
    count_max: int = _ROWS_MAX


# What lies under conversations, nothing before what refers to it. (`message_words`, `unindexed_messages` and the last
# `summaries` cascade.)
_UNDER_CONVERSATIONS = (
    Rows("dead_letters", "id", _BY_JOB),
    Rows("journal", "job_id, first_seq", _BY_JOB),
    Rows("steps", "job_id, step, kind, index", _BY_JOB),
    Rows("approval_answers", "user_id, approval_request_id", _BY_JOB),
    Rows("conversation_events", "conversation_id, seq", _BY_CONVERSATION),
    Rows("summaries", "job_id", _BY_CONVERSATION),
    Rows("feedback", "job_id", _BY_CONVERSATION),
    Rows("shares", "id", _BY_CONVERSATION),
    Rows("tool_calls", "id", _BY_CONVERSATION),
    Rows("items", "id", _BY_CONVERSATION),
    Rows("messages", "id", _BY_CONVERSATION),
    Rows("jobs", "id", _BY_CONVERSATION),
)
# What is found by its user. Webhooks behind the jobs, whose ends would add deliveries.
_OF_USER = (
    Rows("tasks", "id", "user_id = $1"),
    Rows("idempotency_keys", "user_id, key", "user_id = $1"),
    Rows("webhook_endpoints", "id", "user_id = $1"),
    Rows("webhook_deliveries", "endpoint_id, event_id", "user_id = $1"),
    Rows("files", "id", "user_id = $1", _FILES_MAX),
    # Today's is marked at the end, and goes tomorrow: a purge gives nobody a new day's quota of tokens.
    Rows("usage_by_day", "user_id, day", f"user_id = $1 and day < {TODAY}"),
)
TABLES = ("conversations", *(rows.table for rows in (*_UNDER_CONVERSATIONS, *_OF_USER)))

# From which table rows were deleted, and how many.
_Part: TypeAlias = tuple[str, int]


class State(Enum):
    """How far a purge is."""

    WAITING = auto()  # for jobs that run to end
    DELETING = auto()  # as much as goes in a round is gone; there may be more
    DELETED = auto()  # nothing is left; looked at again until it finishes
    FINISHED = auto()


class Purges:
    """Carries out purges, until stopped."""

    def __init__(self, database: Database, *, round_seconds: float, settle_seconds: float) -> None:
        """`settle_seconds` is how long what is under way when a purge begins may go on."""
        self._database = database
        self._round_seconds = round_seconds
        self._settle_seconds = settle_seconds
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "purges")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def run_once(self) -> None:
        """Take every open purge as far as it goes now; one that fails is no obstacle to the others."""
        async with self._database.transaction(None) as connection:
            purges = await open_purges(connection)
        for purge in purges:
            try:
                await self.carry_on(purge)
            except DatabaseUnavailableError:
                raise
            except Exception as error:  # noqa: BLE001
                log.error(  # noqa: TRY400 - a traceback may quote what rows hold
                    "purge_failed", purge_id=str(purge.id), **described(error)
                )

    async def carry_on(self, purge: Purge) -> State:
        """Take an open purge as far as it goes now."""
        assert purge.user_id is not None, "it is open"
        await self._stop_jobs(purge.user_id)
        if await self._is_awaited(purge):
            return State.WAITING
        for _ in range(_PARTS_MAX):
            if not await self.delete_some(purge):
                break
        else:
            return State.DELETING
        return State.FINISHED if await self._finish(purge) else State.DELETED

    async def delete_some(self, purge: Purge) -> bool:
        """Delete and count a bounded part, in a transaction; False where nothing is left, or another process is at it.

        Named by the transaction, the user's tasks are all that row level security shows of that table.
        """
        assert purge.user_id is not None
        async with self._database.transaction(purge.user_id) as connection:
            return await _lock(connection, purge.id) and await _delete_and_count(connection, purge.id, purge.user_id)

    async def _stop_jobs(self, user_id: str) -> None:
        """Ask for the cancel of what is open; workers see that when they renew their leases."""
        async with self._database.transaction(user_id) as connection:
            await connection.execute(
                """
                update jobs set cancel_requested_at = clock_timestamp()
                where id in (select id from jobs
                             where user_id = $1 and status in ('queued', 'in_progress') and cancel_requested_at is null
                             order by id for no key update)
                """,
                user_id,
            )

    async def _is_awaited(self, purge: Purge) -> bool:
        """Whether a worker has one of the user's jobs still, and the time for that is not over."""
        async with self._database.transaction(purge.user_id) as connection:
            return bool(
                await connection.fetchval(
                    """
                    select $2 > clock_timestamp() - make_interval(secs => $3)
                       and exists (select from jobs where user_id = $1 and status = 'in_progress'
                                                      and lease_until > clock_timestamp())
                    """,
                    purge.user_id,
                    purge.created_at,
                    self._settle_seconds,
                )
            )

    async def _finish(self, purge: Purge) -> bool:
        """Forget whose purge it was, unless something is left or may still come."""
        assert purge.user_id is not None
        async with self._database.transaction(purge.user_id) as connection:
            is_settled = await connection.fetchval(
                "select $1 <= clock_timestamp() - make_interval(secs => $2)", purge.created_at, self._settle_seconds
            )
            if not is_settled or not await _lock(connection, purge.id):
                return False
            if await _delete_and_count(connection, purge.id, purge.user_id):
                return False  # the user goes on writing
            await connection.execute(
                "update usage_by_day set purged_at = clock_timestamp() where user_id = $1 and purged_at is null",
                purge.user_id,
            )
            deleted = await connection.fetchval(
                "update purges set user_id = null, finished_at = clock_timestamp() where id = $1 returning deleted",
                purge.id,
            )
            service = Actor(ActorKind.SERVICE, "persistence")
            await record(connection, Act(service, "user.purged", target=str(purge.id), details=deleted))
        log.info("user_purged", purge_id=str(purge.id), row_count=sum(deleted.values()))
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self.run_once()
            except DatabaseUnavailableError:
                pass  # said already
            except Exception as error:  # noqa: BLE001
                log.error("purges_failed", **described(error))  # noqa: TRY400 - as above
            await asyncio.sleep(self._round_seconds)


async def _lock(connection: asyncpg.Connection, purge_id: UUID) -> bool:
    """Whether the purge is open, and this transaction's until it ends."""
    return bool(
        await connection.fetchval(
            "select true from purges where id = $1 and finished_at is null for update skip locked", purge_id
        )
    )


async def _delete_and_count(connection: asyncpg.Connection, purge_id: UUID, user_id: str) -> bool:
    part = await _delete_part(connection, user_id)
    if part is None:
        return False
    await connection.execute(
        """
        update purges
        set deleted = deleted || jsonb_build_object($2::text, coalesce((deleted ->> $2)::bigint, 0) + $3::bigint)
        where id = $1
        """,
        purge_id,
        *part,
    )
    return True


async def _delete_part(connection: asyncpg.Connection, user_id: str) -> _Part | None:
    return await _delete_of_conversations(connection, user_id) or await _delete_first(connection, _OF_USER, user_id)


async def _delete_of_conversations(connection: asyncpg.Connection, user_id: str) -> _Part | None:
    conversations = await connection.fetch(
        "select id from conversations where user_id = $1 order by id limit $2 for update", user_id, _CONVERSATIONS_MAX
    )
    if not conversations:
        return None
    conversation_ids = [row["id"] for row in conversations]
    # Locked before anything under them goes, in the order that everybody keeps.
    await connection.execute(
        "select from jobs where conversation_id = any($1::uuid[]) order by id for update", conversation_ids
    )
    part = await _delete_first(connection, _UNDER_CONVERSATIONS, conversation_ids)
    if part is not None:
        return part
    await connection.execute("delete from conversations where id = any($1::uuid[])", conversation_ids)
    return "conversations", len(conversation_ids)


async def _delete_first(
    connection: asyncpg.Connection, places: Sequence[Rows], whose: str | list[UUID]
) -> _Part | None:
    """Delete from the first of `places` that has any."""
    for rows in places:
        status = await connection.execute(
            f"""
            delete from {rows.table} where ({rows.key}) in (
                select {rows.key} from {rows.table} where {rows.condition} limit $2)
            """,  # noqa: S608 - our own text
            whose,
            rows.count_max,
        )
        if count := int(status.removeprefix("DELETE ")):
            return rows.table, count
    return None
