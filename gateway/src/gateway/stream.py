"""Following what is stored and goes on: what is there after a cursor, then the live end, as one path.

First connect, reconnect and live differ in nothing: read the journal behind the cursor, go on with live events as long
as they continue it, and read the journal again where they do not (a gap, a lost live message, a silent or broken bus).
No database session is held between two reads.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol, Self
from uuid import UUID

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.application import leave_rest
from gateway.auth import User
from gateway.limits import Slot
from gateway.live import Live, Tail
from gateway.metrics import STREAMS_CLOSED, SentEvents
from gateway.settings import GatewaySettings
from gateway.until import Ending, Gone, Until
from shared import tracing
from shared.contracts import LiveEvents
from shared.db import Database
from shared.db.journal import Page, read_after
from shared.errors import DatabaseUnavailableError, NotFoundError
from shared.events import FIRST_SEQUENCE_NUMBER, Event, is_terminal, raw_type_of
from shared.observability import get_logger

log = get_logger()

BEFORE_FIRST = FIRST_SEQUENCE_NUMBER - 1

_HEARTBEAT = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"
_PAGE_BYTES_MAX = 256 * 1024  # of one read of the journal
_SLICE_BYTES = 64 * 1024  # of one write to a client
_READ_TURN_SECONDS = 5.0
_POLL_SECONDS_MIN = 0.5
_POLL_SECONDS_MAX = 5.0
_EXPIRED_SECONDS_MAX = 3.0
_UNREAD = Page((), has_more=True, is_ended=False)
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache, no-transform"),
    (b"x-accel-buffering", b"no"),
]


class EventLog(Protocol):
    """The stored events of one subject, numbered without a gap."""

    @property
    def subject_id(self) -> UUID: ...

    async def after(self, cursor: int) -> Page:
        """What is stored behind `cursor`, a page of it.

        Raises NotFoundError once the subject is gone; DatabaseUnavailableError.
        """
        ...


@dataclass(frozen=True, slots=True)
class Journal:
    """The stored events of one user's job. `reads` bounds how many streams of this process read at the same time."""

    database: Database
    reads: asyncio.Semaphore
    user_id: str
    subject_id: UUID

    async def after(self, cursor: int) -> Page:
        """What is stored behind `cursor`, a page of it.

        Raises NotFoundError once the job or its conversation is gone; DatabaseUnavailableError, also where too many
        others are reading.
        """
        async with turn_to_read(self.reads), self.database.transaction(self.user_id) as connection:
            page = await read_after(
                connection,
                user_id=self.user_id,
                job_id=self.subject_id,
                cursor=cursor,
                bytes_max=_PAGE_BYTES_MAX,
            )
        if page is None:
            raise NotFoundError("not_found", "No such response.")
        return page


@asynccontextmanager
async def turn_to_read(reads: asyncio.Semaphore) -> AsyncIterator[None]:
    """Raises DatabaseUnavailableError where too many others are reading."""
    try:
        async with asyncio.timeout(_READ_TURN_SECONDS):
            await reads.acquire()
    except TimeoutError as error:
        raise DatabaseUnavailableError from error
    try:
        yield
    finally:
        reads.release()


class Polling:
    """Pauses between looks into the journal while nothing tells of news: longer and longer, none like the others."""

    def __init__(self) -> None:
        self._seconds = _POLL_SECONDS_MIN

    def next_pause(self) -> float:
        seconds, self._seconds = self._seconds, min(self._seconds * 1.5, _POLL_SECONDS_MAX)
        return seconds * random.uniform(0.7, 1.0)  # noqa: S311 - spreads load, guards nothing

    def reset(self) -> None:
        self._seconds = _POLL_SECONDS_MIN


class Follower:
    """Yields the events of a log behind `cursor` in order, each exactly once, and ends behind the terminal one.

    An empty batch means that nothing happened for `heartbeat_seconds`. `known` are events that the caller has just
    stored itself, which saves the first read; `on_listening` is called once nothing that happens can be missed.
    `on_gap` is told why, where events were found in the log that should have come by themselves.
    """

    def __init__(
        self,
        journal: EventLog,
        live: Live,
        *,
        heartbeat_seconds: float,
        on_gap: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._on_gap = on_gap
        self._journal = journal
        self._live = live
        self._heartbeat_seconds = heartbeat_seconds
        self._polling = Polling()

    async def follow(
        self, cursor: int = BEFORE_FIRST, known: Sequence[Event] = (), on_listening: Callable[[], None] | None = None
    ) -> AsyncGenerator[Sequence[Event], None]:
        with self._live.tail(self._journal.subject_id) as tail:
            if on_listening is not None:
                on_listening()
            page = _page_of(known) if known else await self._journal.after(cursor)
            del known
            while True:
                if page.events:
                    self._polling.reset()
                    cursor += len(page.events)
                    yield page.events
                if page.has_more:
                    page = await self._read_patiently(cursor)
                    if not (page.events or page.is_ended):
                        yield ()
                    continue
                if page.is_ended or (page.events and is_terminal(page.events[-1])):
                    return
                page = _UNREAD  # who waits holds nothing of what was sent
                page = await self._next(tail, cursor)
                if not (page.events or page.is_ended):
                    yield ()

    async def final(self, known: Sequence[Event] = (), on_listening: Callable[[], None] | None = None) -> Event:
        """The terminal event, as soon as there is one."""
        last = b""
        async for events in self.follow(BEFORE_FIRST, known, on_listening):
            last = events[-1] if events else last
        return last

    async def _next(self, tail: Tail[UUID, LiveEvents], cursor: int) -> Page:
        """What comes right behind `cursor`; nothing after a heartbeat's time."""
        deadline = asyncio.get_running_loop().time() + self._heartbeat_seconds
        while (left := deadline - asyncio.get_running_loop().time()) > 0:
            arrived = await tail.next(left if self._live.is_up else min(left, self._polling.next_pause()))
            if arrived:
                events = _continue(cursor, arrived)
                page = await self._read_over_gap(cursor, "gap") if events is None else _page_of(events)
            elif arrived is None:
                page = await self._read_over_gap(cursor, "missed")
            elif not self._live.is_up:
                page = await self._read_over_gap(cursor, "bus_down")
            else:
                continue
            if page.events or page.is_ended:
                return page
        # The bus may have been silent because it lost something.
        return await self._read_over_gap(cursor, "silence")

    async def _read_over_gap(self, cursor: int, cause: str) -> Page:
        page = await self._read_patiently(cursor)
        if page.events:
            self._on_gap(cause)
        return page

    async def _read_patiently(self, cursor: int) -> Page:
        try:
            return await self._journal.after(cursor)
        except DatabaseUnavailableError:
            await asyncio.sleep(self._polling.next_pause())
            return _UNREAD


def _page_of(events: Sequence[Event]) -> Page:
    """Events that did not come from the journal, so that it may hold others behind them."""
    return Page(events, has_more=False, is_ended=False)


def _continue(cursor: int, arrived: Sequence[LiveEvents]) -> list[Event] | None:
    """The new events in `arrived`; None where they leave a gap behind `cursor`, or end before it."""
    events: list[Event] = []
    for batch in arrived:
        if batch.first_seq > cursor + len(events) + 1:
            return None
        events.extend(_behind(cursor + len(events), batch.first_seq, [bytes(event) for event in batch.events]))
    if not events and any(is_terminal(bytes(batch.events[-1])) for batch in arrived if batch.events):
        return None  # the client asked for what follows a number that the response never reached
    return events


def _behind(cursor: int, first_seq: int, events: list[Event]) -> list[Event]:
    return events[max(0, cursor + 1 - first_seq) :]


def frame(event: Event) -> bytes:
    """One server-sent event. JSON holds no line break, so an event cannot break out of its frame."""
    return b"event: %b\ndata: %b\n\n" % (raw_type_of(event), event)


def _slices(events: Sequence[Event]) -> Iterator[bytes]:
    """Whole frames, in pieces that even a slow reader takes in time; a heartbeat where there are no events."""
    frames: list[bytes] = []
    size = 0
    for framed in map(frame, events):
        if frames and size + len(framed) > _SLICE_BYTES:
            yield b"".join(frames)
            frames, size = [], 0
        frames.append(framed)
        size += len(framed)
    if frames or not events:
        yield b"".join(frames) or _HEARTBEAT


@dataclass(frozen=True, slots=True)
class StreamLimits:
    send_timeout_seconds: float
    stream_seconds_max: float

    @classmethod
    def of(cls, settings: GatewaySettings, user: User) -> Self:
        """A stream does not outlive its token, or where that is taken behind its end, not by much."""
        seconds_left = max(user.expires_at - time.time(), _EXPIRED_SECONDS_MAX)
        return cls(settings.send_timeout_seconds, min(settings.stream_seconds_max, seconds_left))


class StreamClosedError(Exception):
    """Raised by a source of events to close its stream: it is not over, the client is to come again."""


class EventStream(Response):
    """Server-sent events of one subject.

    Ends with `[DONE]` behind the last event there will be. A gateway that stops, a stream that reaches its greatest
    age, a token that ends, a user who is shut out, a reader that does not read, a deleted response: the stream just
    closes, and the client resumes where it was, or is told why not.
    """

    media_type = "text/event-stream"

    def __init__(  # noqa: PLR0913, PLR0917 - what it sends, and all that ends it
        self,
        batches: AsyncGenerator[Sequence[Event], None],
        endings: Sequence[Ending],
        limits: StreamLimits,
        slot: Slot,
        sent: SentEvents,
        on_begun: Callable[[], None] | None = None,
    ) -> None:
        """`endings` close it; `slot` is given back at the end; `sent` counts; `on_begun` is called once the first
        events left.
        """
        super().__init__()
        self._events = _Events(batches, endings, limits, slot, sent, on_begun)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Begins. The events follow where nothing but the server is around them."""
        self._events.gone = Gone(scope, receive)
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
        except BaseException:
            self._events.give_up()
            raise
        leave_rest(scope, self._events)


class _Events:
    """What a stream consists of from its first event on. It may wait for long, so that it holds little."""

    __slots__ = ("_batches", "_endings", "_is_over", "_limits", "_on_begun", "_sent", "_slot", "gone")

    def __init__(  # noqa: PLR0913, PLR0917 - as the stream
        self,
        batches: AsyncGenerator[Sequence[Event], None],
        endings: Sequence[Ending],
        limits: StreamLimits,
        slot: Slot,
        sent: SentEvents,
        on_begun: Callable[[], None] | None,
    ) -> None:
        self.gone: Gone  # known once it begins
        self._batches = batches
        self._endings = endings
        self._limits = limits
        self._slot = slot
        self._sent = sent
        self._on_begun = on_begun
        self._is_over = False  # nothing more may be sent

    def give_up(self) -> None:
        self._slot.close()

    async def send_by(self, send: Send) -> None:
        with self._slot, tracing.start("stream events") as span:
            cause = await self._send(send)
            span.set("parley.stream.event_count", self._sent.count)
            span.set("parley.stream.closed_by", cause)
        STREAMS_CLOSED.labels(cause).inc()

    async def _send(self, send: Send) -> str:
        """Returns what ended it."""
        cause = "closed"
        try:
            async with Until(self.gone, *self._endings, seconds=self._limits.stream_seconds_max):
                cause = await self._pump(send)
            if self.gone.has_happened:
                return "client_gone"
            if not self._is_over:
                await self._send_in_time(send, b"", more=False)
        except TimeoutError:
            log.info("stream_closed", cause="slow reader")
            return "slow_reader"
        return cause

    async def _pump(self, send: Send) -> str:
        """Returns what ended it by itself."""
        async with aclosing(self._batches) as batches:
            try:
                async for events in batches:
                    await self._send_events(send, events)
                    del events  # while nothing happens, nothing is held
                    self._note_begun()
                if not self._is_over:
                    await self._send_in_time(send, _DONE, more=False)
            except NotFoundError:
                log.info("stream_closed", cause="deleted")
            except StreamClosedError as error:
                log.info("stream_closed", cause=str(error))
            else:
                return "ended"
        return "closed"

    def _note_begun(self) -> None:
        on_begun, self._on_begun = self._on_begun, None
        if on_begun is not None and not self.gone.has_happened:
            on_begun()

    async def _send_events(self, send: Send, events: Sequence[Event]) -> None:
        """Behind the last event of a response the end goes along with it."""
        is_end = bool(events) and is_terminal(events[-1])
        ready = b""
        for body in _slices(events):
            if ready:
                await self._send_in_time(send, ready)
            ready = body
        await self._send_in_time(send, ready + _DONE if is_end else ready, more=not is_end)
        self._sent.add(events)

    async def _send_in_time(self, send: Send, body: bytes, *, more: bool = True) -> None:
        self._is_over = not more
        async with asyncio.timeout(self._limits.send_timeout_seconds):
            await send({"type": "http.response.body", "body": body, "more_body": more})
