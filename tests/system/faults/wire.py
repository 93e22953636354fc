"""Messages that the broker brings twice, too late, or from nobody: what a test puts into the queues itself."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import msgspec
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from shared.contracts import JournalChunk, JournalChunks, Message, encode, raw_events
from shared.messaging import CONTROL, LIVE, journal_queue, partition_of
from shared.states import JobStatus
from tests.support.backends import Backends
from tests.support.waiting import wait_until
from tests.system.faults.snapshot import PARTITION_COUNT, Job


class Wire:
    """A channel to the broker, and copies of everything that was told to all."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel
        self.heard: dict[str, list[bytes]] = {LIVE: [], CONTROL: []}

    async def send(self, queue: str, message: Message) -> None:
        await self._channel.default_exchange.publish(aio_pika.Message(encode(message)), queue)

    async def send_to_persistence(self, conversation_id: UUID, message: Message) -> None:
        await self.send(journal_queue(partition_of(conversation_id, PARTITION_COUNT)), message)

    async def repeat(self, exchange: str) -> None:
        """Tell everyone again what was told, the newest first."""
        target = await self._channel.get_exchange(exchange)
        for body in reversed(list(self.heard[exchange])):
            await target.publish(aio_pika.Message(body), "")


@asynccontextmanager
async def wired(backends: Backends) -> AsyncIterator[Wire]:
    connection = await aio_pika.connect(backends.rabbitmq_url, timeout=5)
    async with connection:
        channel = await connection.channel()
        wire = Wire(channel)
        for exchange, heard in wire.heard.items():
            queue = await channel.declare_queue(exclusive=True, auto_delete=True)
            await queue.bind(exchange)
            await queue.consume(partial(_keep, heard), no_ack=True)
        yield wire


async def _keep(heard: list[bytes], message: AbstractIncomingMessage) -> None:
    heard.append(message.body)


def chunk_of(job: Job, *, attempt: int, first_seq: int = 0) -> JournalChunks:
    """The stored events of `job` from `first_seq` on, as the attempt's worker sent them."""
    return JournalChunks(
        chunks=[
            JournalChunk(
                job_id=job.id,
                conversation_id=job.conversation_id,
                attempt=attempt,
                first_seq=first_seq,
                events=raw_events(list(job.events[first_seq:])),
            )
        ]
    )


def late_chunk(job_id: UUID, conversation_id: UUID, *, attempt: int, first_seq: int, count: int) -> JournalChunks:
    """What an attempt had to say that is over: more of the text that it was in the middle of."""
    return JournalChunks(
        chunks=[
            JournalChunk(
                job_id=job_id,
                conversation_id=conversation_id,
                attempt=attempt,
                first_seq=first_seq,
                events=raw_events(_deltas(first_seq, count)),
            )
        ]
    )


def second_end(job: Job) -> JournalChunks:
    """Word from its last attempt that the job failed, when it has ended otherwise and told so."""
    failed = (job.response or {}) | {"status": "failed", "output": []}
    event = {"type": "response.failed", "sequence_number": len(job.events), "response": failed}
    return JournalChunks(
        chunks=[
            JournalChunk(
                job_id=job.id,
                conversation_id=job.conversation_id,
                attempt=job.attempt,
                first_seq=len(job.events),
                events=raw_events([msgspec.json.encode(event)]),
                ended_as=JobStatus.FAILED,
            )
        ]
    )


def _deltas(first_seq: int, count: int) -> list[bytes]:
    return [
        msgspec.json.encode(
            {
                "type": "response.output_text.delta",
                "sequence_number": number,
                "item_id": "msg_0",
                "output_index": 0,
                "delta": "late ",
                "content_index": 0,
                "logprobs": [],
            }
        )
        for number in range(first_seq, first_seq + count)
    ]


async def row_when(backends: Backends, job_id: UUID, condition: str, *, seconds: float = 20.0) -> Any:
    """The job's row as soon as `condition` holds for it."""
    owner = await asyncpg.connect(backends.database_urls["owner"])
    try:

        async def look() -> Any:
            return await owner.fetchrow(f"select * from jobs where id = $1 and {condition}", job_id)  # noqa: S608

        return await wait_until(look, seconds=seconds, what=condition)
    finally:
        await owner.close()
