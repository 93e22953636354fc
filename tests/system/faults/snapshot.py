"""What is left in Postgres and RabbitMQ once everything has come to rest."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import httpx2
from aiormq.exceptions import AMQPError

from shared.db.journal import events_of
from shared.ids import Prefix, to_wire
from shared.messaging import DEAD, JOBS, journal_queue
from tests.support.backends import Backends
from tests.support.stack import ServiceProcess

JsonObject = dict[str, Any]
PARTITION_COUNT = 4


@dataclass(frozen=True)
class Job:
    """A job with all that is stored under it. `events` are the journal's, `intents` the steps `(step, index)`."""

    id: UUID
    user_id: str
    conversation_id: UUID
    turn: int
    status: str
    attempt: int
    response: JsonObject | None
    started_at: float | None
    ended_at: float | None
    events: Sequence[bytes]
    asked: Sequence[str]
    answered: Sequence[str]
    tool_call_ids: Sequence[str]
    intents: frozenset[tuple[int, int]]

    @property
    def response_id(self) -> str:
        return to_wire(Prefix.RESPONSE, self.id)


@dataclass(frozen=True)
class Held:
    """What a process holds: files and connections, and tasks of its event loop."""

    open_files: int
    tasks: int


@dataclass(frozen=True)
class Snapshot:
    """`tasks` are (user, title), `keys` the idempotency keys of calls, `queues` messages by queue.

    `held_at_rest` is what processes held before the attack, when nothing was under way, and `held` what they hold now.
    """

    jobs: Sequence[Job]
    tasks: Sequence[tuple[str, str]]
    keys: Sequence[tuple[str, str]]
    active_count: int
    queues: Mapping[str, int]
    stuck_sessions: Sequence[str]
    held_at_rest: Mapping[str, Held] = field(default_factory=dict)
    held: Mapping[str, Held] = field(default_factory=dict)


async def settled(backends: Backends, *, seconds: float = 30.0) -> Snapshot:
    """The state as soon as nothing is left to do; the state after `seconds` if that does not come."""
    owner = await asyncpg.connect(backends.database_urls["owner"])
    try:
        deadline = asyncio.get_running_loop().time() + seconds
        queues = await queue_lengths(backends.rabbitmq_url)
        while (await _open_count(owner) or any(queues.values())) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)
            queues = await queue_lengths(backends.rabbitmq_url)
        return await _snapshot(owner, queues)
    finally:
        await owner.close()


async def _open_count(owner: asyncpg.Connection) -> int:
    count: int = await owner.fetchval(
        """
        select (select count(*) from jobs where status in ('queued', 'in_progress'))
             + (select count(*) from conversations where active_job_id is not null)
        """
    )
    return count


async def _snapshot(owner: asyncpg.Connection, queues: Mapping[str, int]) -> Snapshot:
    async with owner.transaction(isolation="repeatable_read", readonly=True):
        journal: dict[UUID, list[bytes]] = {}
        for row in await owner.fetch("select job_id, frames, packed from journal order by job_id, first_seq"):
            journal.setdefault(row["job_id"], []).extend(events_of(row))
        rows = await owner.fetch(
            """
            select j.id, j.user_id, j.conversation_id, j.turn, j.status, j.attempt, j.response,
                   extract(epoch from j.started_at)::float8 as started_at,
                   extract(epoch from j.ended_at)::float8 as ended_at,
                   array(select content from messages where job_id = j.id and role = 'user' order by ordinal) as asked,
                   array(select content from messages where job_id = j.id and role = 'assistant' order by ordinal)
                   as answered,
                   array(select call_id from tool_calls where job_id = j.id order by ordinal) as tool_call_ids,
                   array(select step || ':' || index from steps where job_id = j.id and kind = 'tool_intent') as intents
            from jobs j order by j.id
            """
        )
        return Snapshot(
            jobs=[_job(row, journal.get(row["id"], [])) for row in rows],
            tasks=[(row["user_id"], row["title"]) for row in await owner.fetch("select user_id, title from tasks")],
            keys=[(row["user_id"], row["key"]) for row in await owner.fetch("select * from idempotency_keys")],
            active_count=await owner.fetchval("select count(*) from conversations where active_job_id is not null"),
            queues=queues,
            stuck_sessions=await _stuck_sessions(owner),
        )


def _job(row: Any, events: Sequence[bytes]) -> Job:
    steps = (text.split(":") for text in row["intents"])
    return Job(
        id=row["id"],
        user_id=row["user_id"],
        conversation_id=row["conversation_id"],
        turn=row["turn"],
        status=row["status"],
        attempt=row["attempt"],
        response=row["response"] and json.loads(row["response"]),
        started_at=row["started_at"],
        ended_at=row["ended_at"],
        events=events,
        asked=row["asked"],
        answered=row["answered"],
        tool_call_ids=row["tool_call_ids"],
        intents=frozenset((int(step), int(index)) for step, index in steps),
    )


async def _stuck_sessions(owner: asyncpg.Connection) -> list[str]:
    """Sessions that hold a transaction open though nobody has anything to do."""
    rows = await owner.fetch(
        """
        select application_name || ': ' || state as what from pg_stat_activity
        where datname = current_database() and state like 'idle in transaction%'
          and state_change < clock_timestamp() - interval '1 second'
        """
    )
    return [row["what"] for row in rows]


async def held_by(processes: Sequence[ServiceProcess]) -> dict[str, Held]:
    async with httpx2.AsyncClient(timeout=5) as http:
        return {
            process.name: Held(process.open_file_count(), await _task_count(http, process)) for process in processes
        }


async def _task_count(http: httpx2.AsyncClient, process: ServiceProcess) -> int:
    metrics = (await http.get(f"{process.url}/metrics")).text
    [count] = [line.split()[1] for line in metrics.splitlines() if line.startswith("parley_process_tasks ")]
    return int(float(count))


async def queue_lengths(url: str) -> dict[str, int]:
    """Messages that wait, by queue; a broker that is away counts as one that holds something."""
    try:
        connection = await aio_pika.connect(url, timeout=5)
    except (AMQPError, OSError, TimeoutError):
        return {"unreachable": 1}
    async with connection:
        found = {}
        for name in (JOBS, DEAD, *(journal_queue(number) for number in range(PARTITION_COUNT))):
            channel = await connection.channel()
            try:
                queue = await channel.declare_queue(name, passive=True)
                found[name] = queue.declaration_result.message_count or 0
            except AMQPError:  # wiped a moment ago
                found[name] = 1
        return found
