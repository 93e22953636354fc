"""What the queues threw out: it is recorded for operators, and the jobs that it was about go on.

A dead letter is a message that could not be read, could not be written, or was delivered too often. What it says is
lost, and treated like any other loss: the job is told to a worker again, or its attempt is fenced and it runs again.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import asyncpg
from aio_pika.abc import AbstractConnection, AbstractIncomingMessage

from persistence import counts, overview
from persistence.announce import Announcer
from persistence.drafts import AttemptsSpent, LostChunk, Undelivered
from persistence.writer import Incoming, Written, write_batch
from shared import contracts
from shared.contracts import (
    JobReady,
    JournalChunks,
    LiveBatch,
    RefusedMessageError,
    ResumeReply,
    TitleSuggested,
    ToPersistence,
)
from shared.db import Database
from shared.db.errors import described
from shared.errors import DatabaseUnavailableError
from shared.ids import uuid7
from shared.messaging import DEAD, Broker, Link, Permission, acknowledge, may_come_through, needing
from shared.metrics import OTHER
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

_PREFETCH_COUNT = 16
_RETRY_SECONDS_MIN = 0.1
_UNREADABLE = "unreadable"

_Queued = JobReady | ToPersistence


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that was thrown out of `queue`; `message` is None where nobody can read it."""

    message_id: str
    queue: str
    reason: str
    body: bytes
    message: _Queued | None

    @property
    def kind(self) -> str:
        return type(self.message).__name__ if self.message else _UNREADABLE

    @property
    def job_ids(self) -> list[UUID]:
        match self.message:
            case None | TitleSuggested():
                return []
            case JournalChunks(chunks=chunks):
                return list(dict.fromkeys(chunk.job_id for chunk in chunks))
            case message:
                return [message.job_id]


class DeadLetters:
    """Reads chat.dead, one message after the other, on a supervised connection; one process of all at a time."""

    def __init__(
        self,
        broker: Broker,
        database: Database,
        announcer: Announcer,
        *,
        attempts_max: int,
        retry_seconds_max: float,
    ) -> None:
        self._partition_count = broker.partition_count
        self._database = database
        self._announcer = announcer
        self._attempts_max = attempts_max
        self._retry_seconds_max = retry_seconds_max
        self._waiting: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue(_PREFETCH_COUNT)
        self._link = Link(broker, "dead letter consumer", self._open)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._link.start()
        self._task = supervised(self._run(), "dead letters")

    async def stop(self) -> None:
        """What is not acknowledged is delivered again, and known by its id."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._link.stop()

    @asynccontextmanager
    async def _open(self, connection: AbstractConnection) -> AsyncIterator[None]:
        channel = await connection.channel(publisher_confirms=False)
        await self._link.depend_on(channel, Permission.READ)
        await channel.set_qos(_PREFETCH_COUNT)
        queue = await channel.get_queue(DEAD, ensure=False)
        with needing(Permission.READ):
            await queue.consume(self._waiting.put)
        try:
            yield
        finally:
            while not self._waiting.empty():
                self._waiting.get_nowait()

    async def _run(self) -> None:
        while True:
            raw = await self._waiting.get()
            await self._settle(dead_letter_of(raw))
            await acknowledge(raw)

    async def _settle(self, letter: DeadLetter) -> None:
        """Record `letter` and let its jobs go on, however often it takes; one that resists is at least recorded."""
        pause = _RETRY_SECONDS_MIN
        while True:
            try:
                written = await self._record(letter)
                break
            except (DatabaseUnavailableError, asyncpg.InsufficientPrivilegeError) as error:
                log.warning("dead_letter_unrecorded", message_id=letter.message_id, **described(error))
            except Exception as error:  # noqa: BLE001
                log.error(  # noqa: TRY400 - a traceback may quote what rows hold
                    "dead_letter_resists", message_id=letter.message_id, **described(error)
                )
                letter = replace(letter, message=None)
            await asyncio.sleep(pause)
            pause = min(pause * 2, self._retry_seconds_max)
        self._announcer.announce(written)

    async def _record(self, letter: DeadLetter) -> Written:
        async with self._database.transaction(None) as connection:
            new_job_ids = await _insert(connection, letter)
            if not new_job_ids:
                return Written()
            known = letter.queue in overview.queue_names(self._partition_count)
            counts.DEAD_LETTERS.labels(letter.queue if known else OTHER).inc()
            log.error(
                "dead_letter",
                message_id=letter.message_id,
                queue=letter.queue,
                reason=letter.reason,
                message_kind=letter.kind,
                job_ids=[str(job_id) for job_id in letter.job_ids],
                body_bytes=len(letter.body),
            )
            return await write_batch(connection, await self._consequences(connection, letter))

    async def _consequences(self, connection: asyncpg.Connection, letter: DeadLetter) -> list[Incoming]:
        match letter.message:
            case JobReady(job_id=job_id, conversation_id=conversation_id):
                is_hopeless = await self._is_hopeless(connection, job_id)
                return [Incoming((AttemptsSpent if is_hopeless else Undelivered)(job_id, conversation_id))]
            case JournalChunks(chunks=chunks):
                return [Incoming(LostChunk(chunk)) for chunk in chunks]
            case _:
                # A worker asks again, a lease runs out, maintenance carries out the cancel, a summary is made again.
                return []

    async def _is_hopeless(self, connection: asyncpg.Connection, job_id: UUID) -> bool:
        """Whether the job was tried, or thrown out, too often to be told to a worker once more."""
        is_hopeless: bool = await connection.fetchval(
            """
            select coalesce((select attempt from jobs where id = $1), 0) >= $2
                or (select count(*) from dead_letters where job_id = $1 and message_kind = $3) >= $2
            """,
            job_id,
            self._attempts_max,
            JobReady.__name__,
        )
        return is_hopeless


def dead_letter_of(raw: AbstractIncomingMessage) -> DeadLetter:
    death = _death(raw.headers.get("x-death"))
    return DeadLetter(
        message_id=raw.message_id or uuid7().hex,
        queue=str(death.get("queue", "")),
        reason=str(death.get("reason", "")),
        body=raw.body,
        message=_message(raw.body, str(death.get("exchange", ""))),
    )


def _message(body: bytes, exchange: str) -> _Queued | None:
    """None too for what its sender was not allowed to send: it must not cost a job its attempt."""
    try:
        message = contracts.decode(body)
    except RefusedMessageError:
        return None
    if isinstance(message, ResumeReply | LiveBatch) or not may_come_through(exchange, message):
        return None
    return message


def _death(deaths: Any) -> dict[str, Any]:
    """The broker's own entry, in front: nothing dies twice here, so what is behind it the sender made up."""
    return deaths[0] if isinstance(deaths, list) and deaths and isinstance(deaths[0], dict) else {}


async def _insert(connection: asyncpg.Connection, letter: DeadLetter) -> Sequence[UUID | None]:
    """One row per job that the letter is about, or one without; returns those that are new."""
    job_ids: Sequence[UUID | None] = letter.job_ids or [None]
    rows = await connection.fetch(
        """
        insert into dead_letters (id, job_id, queue, reason, message_kind, body_bytes, body_hash)
        select v.id, v.job_id, $3, $4, $5, $6, $7 from unnest($1::uuid[], $2::uuid[]) v(id, job_id)
        on conflict do nothing returning job_id
        """,
        [uuid5(NAMESPACE_OID, f"{letter.message_id} {job_id}") for job_id in job_ids],
        job_ids,
        letter.queue,
        letter.reason,
        letter.kind,
        len(letter.body),
        hashlib.sha256(letter.body).digest(),
    )
    return [row["job_id"] for row in rows]
