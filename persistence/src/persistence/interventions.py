"""What an operator may do to jobs and users. Jobs change only as the service itself changes them: by the writer."""

from dataclasses import dataclass, fields
from uuid import UUID

import asyncpg

from persistence.drafts import GivenUp, Undelivered
from persistence.lookup import no_such_job
from persistence.writer import Incoming, Written, write_batch
from shared.contracts import JobReleased
from shared.db import Database, Row
from shared.errors import ConflictError, NotFoundError
from shared.ids import Prefix, to_wire
from shared.states import JobStatus

_CONVERSATIONS_MAX = 20  # of one transaction, with everything under them
_ROWS_MAX = 1_000
_FILES_MAX = 50  # with their content


@dataclass(frozen=True, slots=True)
class Purged:
    """How many rows of a user went; what lies under a conversation or a job went with it."""

    conversations: int = 0
    jobs: int = 0
    dead_letters: int = 0
    tasks: int = 0
    tool_keys: int = 0
    files: int = 0
    webhook_endpoints: int = 0
    webhook_deliveries: int = 0

    def __add__(self, other: "Purged") -> "Purged":
        return Purged(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


async def requeue(connection: asyncpg.Connection, job_id: UUID) -> Written:
    """Hand the job to the next attempt, now; one that is to be cancelled ends instead.

    A worker that still has it finds its lease gone. Raises NotFoundError, or ConflictError where the job ended, waits
    for another one, or changes at this very moment.
    """
    job = await _open_job(connection, job_id)
    if job["status"] == JobStatus.QUEUED and job["active_job_id"] not in (None, job_id):
        other = to_wire(Prefix.RESPONSE, job["active_job_id"])
        raise ConflictError("job_waits", f"the job waits for {other} of its conversation: look at that one")
    return await _write(connection, job_id, _again(job))


async def fail(connection: asyncpg.Connection, job_id: UUID, reason: str) -> Written:
    """End the job as failed, whoever has it; `reason` is what its user reads. Raises as `requeue` does."""
    job = await _open_job(connection, job_id)
    return await _write(connection, job_id, GivenUp(job_id, job["conversation_id"], reason))


async def requeue_dead(connection: asyncpg.Connection, dead_letter_id: UUID) -> tuple[UUID, Written]:
    """Requeue the job that a dead letter is about, and forget the letter; returns the job's id.

    Raises as `requeue` does, and ConflictError where nobody knows the job.
    """
    rows = await connection.fetch("delete from dead_letters where id = $1 returning job_id", dead_letter_id)
    if not rows:
        raise NotFoundError("dead_letter_not_found", f"there is no dead letter {dead_letter_id}")
    job_id: UUID | None = rows[0]["job_id"]
    if job_id is None:
        raise ConflictError("dead_letter_without_job", "nobody could read which job this dead letter is about")
    return job_id, await requeue(connection, job_id)


async def purge_user(database: Database, user_id: str) -> Purged:
    """Delete everything that is the user's, for good, in small transactions; what is done stays done after a failure.

    Jobs that run end with it: their workers find their lease gone. A tool call under way may add a task afterwards,
    so purge again once the user is locked out and a minute has passed; it finds what is left, or nothing.
    """
    total = Purged()
    for part in (_purge_conversations, _purge_tasks, _purge_tool_keys, _purge_webhooks, _purge_files, _purge_usage):
        is_more = True
        while is_more:
            # Named by the transaction, the user's tasks are all that row level security shows of that table.
            async with database.transaction(user_id) as connection:
                purged, is_more = await part(connection, user_id)
            total += purged
    return total


async def _open_job(connection: asyncpg.Connection, job_id: UUID) -> Row:
    job = await connection.fetchrow(
        """
        select j.id, j.conversation_id, j.status, j.attempt, c.active_job_id
        from jobs j join conversations c on c.id = j.conversation_id where j.id = $1
        """,
        job_id,
    )
    if job is None:
        raise no_such_job(job_id)
    if JobStatus(job["status"]).is_terminal:
        raise ConflictError("job_ended", f"the job ended already: {job['status']}")
    return job


def _again(job: Row) -> JobReleased | Undelivered:
    if job["status"] == JobStatus.QUEUED:
        return Undelivered(job["id"], job["conversation_id"])
    return JobReleased(
        job_id=job["id"], conversation_id=job["conversation_id"], attempt=job["attempt"], delay_seconds=0.0
    )


async def _write(connection: asyncpg.Connection, job_id: UUID, message: JobReleased | Undelivered | GivenUp) -> Written:
    """The writer decides anew, under its locks; what it then finds changed it leaves alone."""
    written = await write_batch(connection, [Incoming(message)])
    if job_id not in {ready.job_id for ready in written.ready} | {ended.job_id for ended in written.ended}:
        raise ConflictError("job_changed", "the job changed at this moment: look at it again")
    return written


async def _purge_conversations(connection: asyncpg.Connection, user_id: str) -> tuple[Purged, bool]:
    conversations = await connection.fetch(
        "select id from conversations where user_id = $1 order by id limit $2 for update", user_id, _CONVERSATIONS_MAX
    )
    conversation_ids = [row["id"] for row in conversations]
    # Locked before they go with their conversations, in the order that everybody keeps.
    jobs = await connection.fetch(
        "select id from jobs where conversation_id = any($1::uuid[]) order by id for update", conversation_ids
    )
    dead_letters = await connection.execute(
        "delete from dead_letters where job_id = any($1::uuid[])", [row["id"] for row in jobs]
    )
    await connection.execute("delete from conversations where id = any($1::uuid[])", conversation_ids)
    purged = Purged(conversations=len(conversations), jobs=len(jobs), dead_letters=_count(dead_letters))
    return purged, len(conversations) == _CONVERSATIONS_MAX


async def _purge_tasks(connection: asyncpg.Connection, user_id: str) -> tuple[Purged, bool]:
    count = _count(
        await connection.execute(
            "delete from tasks where id in (select id from tasks where user_id = $1 limit $2)", user_id, _ROWS_MAX
        )
    )
    return Purged(tasks=count), count == _ROWS_MAX


async def _purge_tool_keys(connection: asyncpg.Connection, user_id: str) -> tuple[Purged, bool]:
    count = _count(
        await connection.execute(
            """
            delete from idempotency_keys
            where user_id = $1 and key in (select key from idempotency_keys where user_id = $1 limit $2)
            """,
            user_id,
            _ROWS_MAX,
        )
    )
    return Purged(tool_keys=count), count == _ROWS_MAX


async def _purge_webhooks(connection: asyncpg.Connection, user_id: str) -> tuple[Purged, bool]:
    """Behind the jobs, whose ends would add deliveries; also those to the deployment's endpoint."""
    endpoints = await connection.execute("delete from webhook_endpoints where user_id = $1", user_id)
    deliveries = await connection.execute(
        """
        delete from webhook_deliveries where (endpoint_id, event_id) in (
            select endpoint_id, event_id from webhook_deliveries where user_id = $1 limit $2)
        """,
        user_id,
        _ROWS_MAX,
    )
    purged = Purged(webhook_endpoints=_count(endpoints), webhook_deliveries=_count(deliveries))
    return purged, _count(deliveries) == _ROWS_MAX


async def _purge_files(connection: asyncpg.Connection, user_id: str) -> tuple[Purged, bool]:
    count = _count(
        await connection.execute(
            "delete from files where user_id = $1 and id in (select id from files where user_id = $1 limit $2)",
            user_id,
            _FILES_MAX,
        )
    )
    return Purged(files=count), count == _FILES_MAX


async def _purge_usage(connection: asyncpg.Connection, user_id: str) -> tuple[Purged, bool]:
    await connection.execute("delete from usage_by_day where user_id = $1", user_id)
    return Purged(), False


def _count(status: str) -> int:
    return int(status.removeprefix("DELETE "))
