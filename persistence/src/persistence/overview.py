"""How the system is doing, in numbers: what `ops` prints and `/metrics` tells. Each is one cheap statement."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import asyncpg

from shared.messaging import DEAD, JOBS, Publisher, QueueState, journal_queue


class OpenState(StrEnum):
    """What a job that did not end is waiting for."""

    QUEUED_DUE = "queued_due"  # a worker: it may run now
    QUEUED_LATER = "queued_later"  # its time: it was released to be tried again
    QUEUED_BEHIND = "queued_behind"  # its turn: another job of its conversation is active
    RUNNING = "running"  # its end: a worker has it, under a lease that holds
    LEASE_EXPIRED = "lease_expired"  # maintenance: the worker that has it let its lease run out


@dataclass(frozen=True, slots=True)
class OpenJobs:
    """The jobs of one state; the age is that of the oldest, from its acceptance (a due one's: since it is due)."""

    state: OpenState
    count: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Queue:
    name: str
    message_count: int  # without those that a consumer holds unacknowledged
    consumer_count: int


# Of a row `j` of jobs joined with its conversation `c`; that of an ended job is its status.
STATE = """
case when j.status not in ('queued', 'in_progress') then j.status
     when j.status = 'in_progress' and j.lease_until < clock_timestamp() then 'lease_expired'
     when j.status = 'in_progress' then 'running'
     when c.active_job_id is distinct from j.id then 'queued_behind'
     when j.available_at > clock_timestamp() then 'queued_later'
     else 'queued_due' end
"""


async def open_jobs(connection: asyncpg.Connection) -> list[OpenJobs]:
    """Every state once, in the order of `OpenState`, also those of no job."""
    rows = await connection.fetch(
        f"""
        select state, count(*) as count,
               extract(epoch from clock_timestamp()
                       - min(case when state = 'queued_due' then available_at else created_at end)
               )::double precision as oldest_seconds
        from (select j.created_at, j.available_at, {STATE} as state
              from jobs j join conversations c on c.id = j.conversation_id
              where j.status in ('queued', 'in_progress')) open_jobs
        group by state
        """  # noqa: S608 - our own text
    )
    found = {row["state"]: OpenJobs(OpenState(row["state"]), row["count"], row["oldest_seconds"]) for row in rows}
    return [found.get(state) or OpenJobs(state, 0, 0.0) for state in OpenState]


async def unindexed_messages(connection: asyncpg.Connection) -> int:
    """How many messages the search's index does not have yet."""
    count: int = await connection.fetchval("select count(*) from unindexed_messages")
    return count


@dataclass(frozen=True, slots=True)
class DeadLetters:
    """Those on record of one queue, reason and kind of message; the age is that of the latest."""

    queue: str
    reason: str
    kind: str
    count: int
    latest_seconds: float


async def dead_letters(connection: asyncpg.Connection) -> list[DeadLetters]:
    rows = await connection.fetch(
        """
        select queue, reason, message_kind as kind, count(*) as count,
               extract(epoch from clock_timestamp() - max(received_at))::double precision as latest_seconds
        from dead_letters group by queue, reason, message_kind order by queue, reason, message_kind
        """
    )
    return [DeadLetters(**dict(row)) for row in rows]


@dataclass(frozen=True, slots=True)
class OpenPurges:
    """Users whose data are being deleted; the age is that of the oldest request."""

    count: int
    oldest_seconds: float


async def purges(connection: asyncpg.Connection) -> OpenPurges:
    row = await connection.fetchrow(
        """
        select count(*) as count,
               coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0.0)::double precision
                   as oldest_seconds
        from purges where finished_at is null
        """
    )
    return OpenPurges(**dict(row))


async def dead_letter_count(connection: asyncpg.Connection) -> int:
    count: int = await connection.fetchval("select count(*) from dead_letters")
    return count


@dataclass(frozen=True, slots=True)
class Webhooks:
    """Deliveries that wait, by how long the one that is due longest waits for a sender; endpoints that we disabled."""

    waiting_count: int
    overdue_seconds: float
    disabled_endpoint_count: int


async def webhooks(connection: asyncpg.Connection) -> Webhooks:
    row = await connection.fetchrow(
        """
        select count(*) as waiting_count,
               coalesce(greatest(extract(epoch from clock_timestamp() - min(d.next_attempt_at)), 0.0), 0.0)
                   ::double precision as overdue_seconds,
               (select count(*) from webhook_endpoints where disabled_reason <> 'by_user') as disabled_endpoint_count
        from webhook_deliveries d join webhook_endpoints e on e.id = d.endpoint_id
        where d.next_attempt_at is not null and e.disabled_at is null
        """
    )
    return Webhooks(**dict(row))


async def queues(publisher: Publisher) -> list[Queue]:
    """All durable queues. Raises BrokerUnavailableError."""
    states: list[tuple[str, QueueState]] = [
        (name, await publisher.queue_state(name)) for name in queue_names(publisher.partition_count)
    ]
    return [Queue(name, state.message_count, state.consumer_count) for name, state in states]


def queue_names(partition_count: int) -> Sequence[str]:
    return [JOBS, *(journal_queue(partition) for partition in range(partition_count)), DEAD]
