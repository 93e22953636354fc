"""Following a response: the journal after a cursor, then the live end, as one path.

First connect, reconnect and live differ in nothing: read the journal behind the cursor, go on with live events as long
as they continue it, and read the journal again where they do not (a gap, a lost live message, a silent or broken bus).
No database session is held between two reads.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass
from uuid import UUID

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.live import Live, Tail
from shared.contracts import LiveEvents
from shared.db import Database
from shared.errors import DatabaseUnavailableError, NotFoundError
from shared.events import FIRST_SEQUENCE_NUMBER, Event, is_terminal, type_of
from shared.observability import get_logger

log = get_logger()

BEFORE_FIRST = FIRST_SEQUENCE_NUMBER - 1

_HEARTBEAT = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"
_BUS_DOWN_POLL_SECONDS = 0.5
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


@dataclass(frozen=True, slots=True)
class Journal:
    """The stored events of one user's job."""

    database: Database
    user_id: str
    job_id: UUID

    async def after(self, cursor: int) -> "Stored":
        """What is stored behind `cursor`. Raises NotFoundError once the job or its conversation is gone."""
        async with self.database.transaction(self.user_id) as connection:
            rows = await connection.fetch(
                """
                select b.ended_at is not null as is_ended, j.first_seq, j.frames from jobs b
                join conversations c on c.id = b.conversation_id and c.deleted_at is null
                left join journal j on j.job_id = b.id and j.last_seq > $3
                where b.id = $1 and b.user_id = $2 order by j.first_seq
                """,
                self.job_id,
                self.user_id,
                cursor,
            )
        if not rows:
            raise NotFoundError("not_found", "No such response.")
        events: list[Event] = []
        for row in rows:
            if row["frames"] is not None:
                events.extend(_behind(cursor, row["first_seq"], row["frames"].encode().split(b"\n")))
        return Stored(events, is_ended=rows[0]["is_ended"])


@dataclass(frozen=True, slots=True)
class Stored:
    """Events behind a cursor; where the job `is_ended`, there will never be more."""

    events: Sequence[Event]
    is_ended: bool


class Follower:
    """Yields the events of a job behind `cursor` in order, each exactly once, and ends behind the terminal one.

    An empty batch means that nothing happened for `heartbeat_seconds`. `known` are events that the caller has just
    stored itself, which saves the first read; `on_listening` is called once nothing that happens can be missed.
    """

    def __init__(self, journal: Journal, live: Live, *, heartbeat_seconds: float) -> None:
        self._journal = journal
        self._live = live
        self._heartbeat_seconds = heartbeat_seconds

    async def follow(
        self, cursor: int = BEFORE_FIRST, known: Sequence[Event] = (), on_listening: Callable[[], None] | None = None
    ) -> AsyncGenerator[Sequence[Event], None]:
        with self._live.tail(self._journal.job_id) as tail:
            if on_listening is not None:
                on_listening()
            stored = Stored(known, is_ended=False) if known else await self._journal.after(cursor)
            while True:
                if stored.events:
                    cursor += len(stored.events)
                    yield stored.events
                if stored.is_ended or (stored.events and is_terminal(stored.events[-1])):
                    return
                stored = await self._next(tail, cursor)
                if not (stored.events or stored.is_ended):
                    yield ()

    async def final(self, known: Sequence[Event] = (), on_listening: Callable[[], None] | None = None) -> Event:
        """The terminal event, as soon as there is one."""
        last = b""
        async for events in self.follow(BEFORE_FIRST, known, on_listening):
            last = events[-1] if events else last
        return last

    async def _next(self, tail: Tail, cursor: int) -> Stored:
        """What comes right behind `cursor`; nothing after a heartbeat's time."""
        deadline = asyncio.get_running_loop().time() + self._heartbeat_seconds
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            arrived = await tail.next(left if self._live.is_up else min(left, _BUS_DOWN_POLL_SECONDS))
            if arrived:
                events = _continue(cursor, arrived)
                stored = await self._read_patiently(cursor) if events is None else Stored(events, is_ended=False)
            elif arrived is None or not self._live.is_up:
                stored = await self._read_patiently(cursor)
            else:
                continue
            if stored.events or stored.is_ended:
                return stored
        # The bus may have been silent because it lost something.
        return await self._read_patiently(cursor)

    async def _read_patiently(self, cursor: int) -> Stored:
        try:
            return await self._journal.after(cursor)
        except DatabaseUnavailableError:
            await asyncio.sleep(_BUS_DOWN_POLL_SECONDS)
            return Stored((), is_ended=False)


def _continue(cursor: int, arrived: Sequence[LiveEvents]) -> list[Event] | None:
    """The new events in `arrived`; None where they leave a gap behind `cursor`."""
    events: list[Event] = []
    for batch in arrived:
        if batch.first_seq > cursor + len(events) + 1:
            return None
        events.extend(_behind(cursor + len(events), batch.first_seq, [bytes(event) for event in batch.events]))
    return events


def _behind(cursor: int, first_seq: int, events: list[Event]) -> list[Event]:
    return events[max(0, cursor + 1 - first_seq) :]


def frame(event: Event) -> bytes:
    """One server-sent event. JSON holds no line break, so an event cannot break out of its frame."""
    return b"event: %b\ndata: %b\n\n" % (type_of(event).encode(), event)


@dataclass(frozen=True, slots=True)
class StreamLimits:
    send_timeout_seconds: float
    stream_seconds_max: float


class EventStream(Response):
    """Server-sent events of one response.

    Ends with `[DONE]` behind the terminal event. A gateway that stops, a stream that reaches its greatest age, a reader
    that does not read, a deleted response: the stream just closes, and the client resumes where it was.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        batches: AsyncGenerator[Sequence[Event], None],
        stopping: asyncio.Event,
        limits: StreamLimits,
        slot: AbstractContextManager[None],
    ) -> None:
        super().__init__()
        self._batches = batches
        self._stopping = stopping
        self._limits = limits
        self._slot = slot

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        with self._slot:
            await self._serve(receive, send)

    async def _serve(self, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        pump = asyncio.create_task(self._pump(send))
        gone = asyncio.create_task(_disconnected(receive))
        stopping = asyncio.create_task(self._stopping.wait())
        ends: tuple[asyncio.Task[object], ...] = (pump, gone, stopping)
        try:
            await asyncio.wait(ends, timeout=self._limits.stream_seconds_max, return_when=asyncio.FIRST_COMPLETED)
            can_write = not gone.done() and not (pump.done() and pump.exception())
        finally:
            for task in ends:
                task.cancel()
            outcomes = await asyncio.gather(*ends, return_exceptions=True)
        if can_write:
            await self._send_in_time(send, b"", more=False)
        elif isinstance(outcomes[0], TimeoutError):
            log.info("stream_closed", cause="slow reader")
        elif isinstance(outcomes[0], Exception):
            raise outcomes[0]

    async def _pump(self, send: Send) -> None:
        async with aclosing(self._batches) as batches:
            try:
                async for events in batches:
                    await self._send_in_time(send, b"".join(map(frame, events)) or _HEARTBEAT)
                await self._send_in_time(send, _DONE)
            except NotFoundError:
                log.info("stream_closed", cause="deleted")

    async def _send_in_time(self, send: Send, body: bytes, *, more: bool = True) -> None:
        async with asyncio.timeout(self._limits.send_timeout_seconds):
            await send({"type": "http.response.body", "body": body, "more_body": more})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
