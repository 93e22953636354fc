"""Accept (one commit), publish with confirm, stream what is committed: as plain ASGI under uvicorn.

python -m bench.floor.gateway PORT
"""

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aio_pika
import asyncpg
import msgspec
import uvicorn
from aio_pika.abc import AbstractIncomingMessage

from bench.floor import wire

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_ACCEPT = """
with job as (insert into jobs (id, conversation_id) values ($1, $2))
insert into messages (conversation_id, role, content) values ($2, 'user', $3)
"""
_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class Post(msgspec.Struct):
    conversation: uuid.UUID
    input: str


_decode_post = msgspec.json.Decoder(Post).decode
_decode_live = msgspec.json.Decoder(wire.Live).decode


class Gateway:
    def __init__(self) -> None:
        self._streams: dict[uuid.UUID, asyncio.Queue[wire.Chunk]] = {}
        self._pool: asyncpg.Pool
        self._exchange: aio_pika.abc.AbstractExchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["method"] == "POST":
            await self._turn(receive, send)
        else:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        self._pool = await asyncpg.create_pool(wire.DATABASE_URL, min_size=10, max_size=10)
        publishing, listening = [await aio_pika.connect(wire.RABBITMQ_URL) for _ in range(2)]
        channel = await publishing.channel(publisher_confirms=True)
        await wire.declare(channel)
        self._exchange = channel.default_exchange
        hearing = await listening.channel(publisher_confirms=False)
        queue = await hearing.declare_queue("", exclusive=True, auto_delete=True)
        await queue.bind(wire.LIVE)
        await queue.consume(self._hear, no_ack=True)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await publishing.close()
        await listening.close()
        await self._pool.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _turn(self, receive: Receive, send: Send) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        post = _decode_post(body)
        job = wire.Job(uuid.uuid4(), post.conversation)
        events = self._streams[job.id] = asyncio.Queue()
        try:
            await self._pool.execute(_ACCEPT, job.id, job.conversation_id, post.input)
            await self._exchange.publish(wire.persistent(wire.encode(job)), wire.JOBS)
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
            is_ended = False
            while not is_ended:
                chunks = [await events.get()]
                while not events.empty():
                    chunks.append(events.get_nowait())
                is_ended = chunks[-1].answer is not None
                frames = [b"event: response\ndata: " + bytes(event) + b"\n\n" for one in chunks for event in one.events]
                if is_ended:
                    frames.append(b"data: [DONE]\n\n")
                await send({"type": "http.response.body", "body": b"".join(frames), "more_body": not is_ended})
        finally:
            del self._streams[job.id]

    async def _hear(self, message: AbstractIncomingMessage) -> None:
        for chunk in _decode_live(message.body).chunks:
            if (stream := self._streams.get(chunk.job_id)) is not None:
                stream.put_nowait(chunk)


if __name__ == "__main__":
    uvicorn.run(
        Gateway(),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_level="warning",
        backlog=4096,
    )
