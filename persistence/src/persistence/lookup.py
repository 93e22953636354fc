"""What an operator may see of single jobs and dead letters: how far they are and what happened, never what was said."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from persistence.overview import STATE, OpenState
from shared.db import Row
from shared.errors import NotFoundError
from shared.ids import Prefix, to_wire
from shared.states import JobStatus

# What `jobs --state` takes: a status, or one of the finer states of jobs that did not end.
JOB_STATES = tuple(dict.fromkeys([*(status.value for status in JobStatus), *(state.value for state in OpenState)]))


@dataclass(frozen=True, slots=True)
class JobLine:
    """A job in a list; the age is from its acceptance."""

    id: str
    state: str
    age_seconds: float
    attempt: int
    worker: str | None


@dataclass(frozen=True, slots=True)
class StepLine:
    """A row of the worker's ledger; `index` counts the tool calls of a step."""

    step: int
    kind: str
    index: int
    attempt: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Journal:
    """What is stored of a job's events; `missing_count` is 0 unless something is very wrong."""

    row_count: int
    packed_row_count: int
    first_seq: int | None
    last_seq: int | None
    missing_count: int


@dataclass(frozen=True, slots=True)
class JobLife:
    """One job. `facts` are columns of its row, times as they stand there."""

    id: str
    state: str
    facts: dict[str, Any]
    journal: Journal
    steps: list[StepLine]
    message_count: int
    tool_call_count: int
    dead_letter_count: int


@dataclass(frozen=True, slots=True)
class DeadLetterLine:
    """A message that was thrown out; `job` is None where nobody could read which job it was about."""

    id: UUID
    age_seconds: float
    queue: str
    reason: str
    kind: str
    job: str | None
    job_status: str | None
    body_bytes: int


async def jobs(connection: asyncpg.Connection, state: str, limit: int) -> list[JobLine]:
    """Jobs in one of JOB_STATES: open ones oldest first, ended ones latest first."""
    is_fine = state not in set(JobStatus)
    statuses = [JobStatus.QUEUED, JobStatus.IN_PROGRESS] if is_fine else [JobStatus(state)]
    direction = "desc" if statuses[0].is_terminal else "asc"
    rows = await connection.fetch(
        f"""
        select * from (
            select j.id, {STATE} as state, j.attempt, j.worker_id,
                   extract(epoch from clock_timestamp() - j.created_at)::double precision as age_seconds
            from jobs j join conversations c on c.id = j.conversation_id
            where j.status = any($1::text[])) found
        where $2::text is null or state = $2
        order by id {direction} limit $3
        """,  # noqa: S608 - our own text
        statuses,
        state if is_fine else None,
        limit,
    )
    return [
        JobLine(to_wire(Prefix.RESPONSE, row["id"]), row["state"], row["age_seconds"], row["attempt"], row["worker_id"])
        for row in rows
    ]


async def job(connection: asyncpg.Connection, job_id: UUID) -> JobLife:
    """The life of one job. Raises NotFoundError."""
    row = await connection.fetchrow(
        f"""
        select {STATE} as state, j.user_id, j.conversation_id, j.turn, j.parent_job_id,
               c.active_job_id is not distinct from j.id as is_active, j.attempt, j.journal_attempt, j.next_seq,
               j.worker_id, j.lease_until, j.available_at, j.dispatched_at, j.cancel_requested_at, j.created_at,
               j.started_at, j.ended_at, j.rolled_up_at, j.error ->> 'type' as error_type,
               j.usage ->> 'input_tokens' as input_tokens, j.usage ->> 'output_tokens' as output_tokens,
               (select count(*) from messages m where m.job_id = j.id) as message_count,
               (select count(*) from tool_calls t where t.job_id = j.id) as tool_call_count,
               (select count(*) from dead_letters d where d.job_id = j.id) as dead_letter_count
        from jobs j join conversations c on c.id = j.conversation_id
        where j.id = $1
        """,  # noqa: S608 - our own text
        job_id,
    )
    if row is None:
        raise no_such_job(job_id)
    steps = await connection.fetch(
        "select step, kind, index, attempt, created_at from steps where job_id = $1 order by created_at, step, index",
        job_id,
    )
    facts = dict(row) | {
        "conversation_id": to_wire(Prefix.CONVERSATION, row["conversation_id"]),
        "parent_job_id": row["parent_job_id"] and to_wire(Prefix.RESPONSE, row["parent_job_id"]),
    }
    return JobLife(
        id=to_wire(Prefix.RESPONSE, job_id),
        state=facts.pop("state"),
        message_count=facts.pop("message_count"),
        tool_call_count=facts.pop("tool_call_count"),
        dead_letter_count=facts.pop("dead_letter_count"),
        facts=facts,
        journal=await _journal(connection, job_id),
        steps=[StepLine(**step) for step in steps],
    )


async def dead_letters(connection: asyncpg.Connection, limit: int) -> list[DeadLetterLine]:
    """The latest first."""
    rows = await connection.fetch(
        """
        select d.id, extract(epoch from clock_timestamp() - d.received_at)::double precision as age_seconds, d.queue,
               d.reason, d.message_kind, d.job_id, j.status, d.body_bytes
        from dead_letters d left join jobs j on j.id = d.job_id
        order by d.received_at desc, d.id limit $1
        """,
        limit,
    )
    return [_dead_letter_line(row) for row in rows]


def no_such_job(job_id: UUID) -> NotFoundError:
    return NotFoundError("job_not_found", f"there is no job {to_wire(Prefix.RESPONSE, job_id)}")


async def _journal(connection: asyncpg.Connection, job_id: UUID) -> Journal:
    row = await connection.fetchrow(
        """
        select count(*) as row_count, count(packed) as packed_row_count, min(first_seq) as first_seq,
               max(last_seq) as last_seq,
               coalesce(max(last_seq) + 1 - sum(last_seq - first_seq + 1), 0)::integer as missing_count
        from journal where job_id = $1
        """,
        job_id,
    )
    return Journal(**row)


def _dead_letter_line(row: Row) -> DeadLetterLine:
    return DeadLetterLine(
        id=row["id"],
        age_seconds=row["age_seconds"],
        queue=row["queue"],
        reason=row["reason"],
        kind=row["message_kind"],
        job=row["job_id"] and to_wire(Prefix.RESPONSE, row["job_id"]),
        job_status=row["status"],
        body_bytes=row["body_bytes"],
    )
