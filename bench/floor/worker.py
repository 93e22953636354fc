"""Take jobs, read the history, stream the model, publish what it says in chunks that all jobs share.

The openai client is used in the cheap way: the history goes through `extra_body`, the stream is read as lines, over the
client's aiohttp transport.
"""

import asyncio
import signal
import uuid
from collections.abc import AsyncIterator
from typing import Any

import aio_pika
import asyncpg
import httpx2
import msgspec
import openai
import uvloop
from aio_pika.abc import AbstractExchange, AbstractIncomingMessage

from bench.floor import wire

_FLUSH_SECONDS = 0.025
_PREFETCH = 2_000
_CONNECTIONS_MAX = 4_000
_HISTORY = "select role, content from messages where conversation_id = $1 order by id"


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice]


_decode_chunk = msgspec.json.Decoder(_Chunk).decode


class Partition:
    """Events of all jobs of a partition: gathered for a moment, sent as one message, one in flight at a time."""

    def __init__(self, number: int, exchange: AbstractExchange) -> None:
        self._queue = wire.journal_queue(number)
        self._exchange = exchange
        self._waiting: dict[uuid.UUID, wire.Chunk] = {}
        self._due = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._sent = asyncio.Event()  # replaced for each message

    def put(self, chunk: wire.Chunk, *, urgent: bool) -> asyncio.Event:
        """Take a chunk; what is returned is set once it is confirmed."""
        known = self._waiting.get(chunk.job_id)
        if known is None:
            self._waiting[chunk.job_id] = chunk
        else:
            known.events += chunk.events
            known.answer = chunk.answer
        if urgent:
            self._due.set()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self._due.set)
        return self._sent

    async def run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            chunks, self._waiting = list(self._waiting.values()), {}
            sent, self._sent = self._sent, asyncio.Event()
            await self._exchange.publish(wire.persistent(wire.encode(chunks)), self._queue)
            sent.set()


class Worker:
    def __init__(self, pool: asyncpg.Pool, client: openai.AsyncOpenAI, partitions: list[Partition]) -> None:
        self._pool = pool
        self._client = client
        self._partitions = partitions

    async def run(self, message: AbstractIncomingMessage) -> None:
        job = wire.decode_job(message.body)
        partition = self._partitions[wire.partition_of(job.conversation_id)]
        rows = await self._pool.fetch(_HISTORY, job.conversation_id)
        history = [{"role": row["role"], "content": row["content"]} for row in rows]
        seq, pieces = 1, []
        begun = _event({"type": "response.created", "sequence_number": 0, "response": {"id": job.id.hex}})
        partition.put(wire.Chunk(job.id, job.conversation_id, 0, [begun]), urgent=False)
        async for text in self._texts(history):
            pieces.append(text)
            said = {
                "type": "response.output_text.delta",
                "sequence_number": seq,
                "item_id": f"msg_{job.id.hex}",
                "output_index": 0,
                "content_index": 0,
                "delta": text,
                "logprobs": [],
            }
            partition.put(wire.Chunk(job.id, job.conversation_id, seq, [_event(said)]), urgent=seq == 1)
            seq += 1
        answer = "".join(pieces)
        ended = {"type": "response.completed", "sequence_number": seq, "response": {"id": job.id.hex, "text": answer}}
        last = wire.Chunk(job.id, job.conversation_id, seq, [_event(ended)], answer)
        await partition.put(last, urgent=True).wait()
        await message.ack()

    async def _texts(self, history: list[dict[str, str]]) -> AsyncIterator[str]:
        create = self._client.chat.completions.with_streaming_response.create
        body = {"messages": history, "stream_options": {"include_usage": True}}
        async with create(model="bench", messages=[], stream=True, extra_body=body) as response:
            async for line in response.iter_lines():
                if line.startswith("data: {"):
                    for choice in _decode_chunk(line[6:]).choices:
                        if choice.delta.content:
                            yield choice.delta.content


def _event(said: dict[str, Any]) -> msgspec.Raw:
    return msgspec.Raw(wire.encode(said))


async def main() -> None:
    pool = await asyncpg.create_pool(wire.DATABASE_URL, min_size=10, max_size=10)
    consuming, publishing = [await aio_pika.connect(wire.RABBITMQ_URL) for _ in range(2)]
    channel = await publishing.channel(publisher_confirms=True)
    await wire.declare(channel)
    partitions = [Partition(number, channel.default_exchange) for number in range(wire.PARTITIONS)]
    limits = httpx2.Limits(max_connections=_CONNECTIONS_MAX, max_keepalive_connections=_CONNECTIONS_MAX)
    client = openai.AsyncOpenAI(max_retries=0, http_client=openai.DefaultAioHttpClient(limits=limits))
    worker = Worker(pool, client, partitions)
    senders = [asyncio.create_task(partition.run()) for partition in partitions]
    intake = await consuming.channel()
    await intake.set_qos(_PREFETCH)
    await (await wire.queue(intake, wire.JOBS)).consume(worker.run)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    for sender in senders:
        sender.cancel()
    await consuming.close()
    await publishing.close()


if __name__ == "__main__":
    uvloop.run(main())
