"""Write what waits as one transaction, acknowledge it, tell the gateways."""

import asyncio
import signal

import aio_pika
import asyncpg
import uvloop
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage

from bench.floor import wire

_PREFETCH = 64
_WRITE = """
with journal as (
    insert into journal (job_id, first_seq, frames)
    select * from unnest($1::uuid[], $2::integer[], $3::text[])
), ended as (
    update jobs set is_ended = true where id = any($4::uuid[])
)
insert into messages (conversation_id, role, content)
select conversation_id, 'assistant', content from unnest($5::uuid[], $6::text[]) as answers (conversation_id, content)
"""


class Partition:
    def __init__(self, pool: asyncpg.Pool, live: AbstractExchange) -> None:
        self._pool = pool
        self._live = live
        self._waiting: list[AbstractIncomingMessage] = []
        self._due = asyncio.Event()

    async def consume(self, channel: AbstractChannel, number: int) -> None:
        await channel.set_qos(_PREFETCH)
        await (await wire.queue(channel, wire.journal_queue(number))).consume(self._take)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._waiting.append(message)
        self._due.set()

    async def run(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            messages, self._waiting = self._waiting, []
            chunks = [chunk for message in messages for chunk in wire.decode_chunks(message.body)]
            ended = [chunk for chunk in chunks if chunk.answer is not None]
            await self._pool.execute(
                _WRITE,
                [chunk.job_id for chunk in chunks],
                [chunk.first_seq for chunk in chunks],
                [b"\n".join(map(bytes, chunk.events)).decode() for chunk in chunks],
                [chunk.job_id for chunk in ended],
                [chunk.conversation_id for chunk in ended],
                [chunk.answer for chunk in ended],
            )
            await messages[-1].ack(multiple=True)
            await self._live.publish(aio_pika.Message(wire.encode(wire.Live(chunks))), "", mandatory=False)


async def main() -> None:
    pool = await asyncpg.create_pool(wire.DATABASE_URL, min_size=wire.PARTITIONS, max_size=wire.PARTITIONS)
    consuming, publishing = [await aio_pika.connect(wire.RABBITMQ_URL) for _ in range(2)]
    live = await wire.declare(await publishing.channel(publisher_confirms=False))
    partitions = [Partition(pool, live) for _ in range(wire.PARTITIONS)]
    runs = [asyncio.create_task(partition.run()) for partition in partitions]
    for number, partition in enumerate(partitions):
        await partition.consume(await consuming.channel(), number)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    await stopped.wait()
    for run in runs:
        run.cancel()
    await consuming.close()
    await publishing.close()


if __name__ == "__main__":
    uvloop.run(main())
