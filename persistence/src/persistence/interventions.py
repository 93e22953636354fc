"""What an operator may do to jobs. They change only as the service itself changes them: by the writer."""

from uuid import UUID

import asyncpg

from persistence.drafts import GivenUp, Undelivered
from persistence.lookup import no_such_job
from persistence.writer import Incoming, Written, write_batch
from shared.contracts import JobReleased
from shared.db import Row
from shared.errors import ConflictError, NotFoundError
from shared.ids import Prefix, to_wire
from shared.states import JobStatus


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
