"""What leaves the worker: together, in order, and again until it is confirmed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from uuid import UUID

import pytest

from chat_worker.outgoing import Lane, Outgoing, OutgoingLimits
from shared.contracts import JobReleased, JournalChunk, JournalChunks, decode
from shared.errors import BrokerUnavailableError
from shared.ids import uuid7
from shared.states import JobStatus
from tests.support.waiting import wait_until

NEVER = 3_600.0
AT_ONCE = 0.0
LIMITS = OutgoingLimits(flush_seconds=NEVER, retry_seconds=0.001)
EVEN, ODD = UUID(int=2), UUID(int=1)  # conversations of the two partitions


@dataclass
class Wire:
    """A broker that takes messages while it is `open`, and refuses those it is told to."""

    messages: list[JournalChunks | JobReleased] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)  # refused ones too
    queues: list[str] = field(default_factory=list)
    refusals: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0

    async def send(self, queue: str, body: bytes) -> None:
        self.in_flight += 1
        assert self.in_flight == 1, "one message at a time"
        self.bodies.append(body)
        await self.open.wait()
        self.in_flight -= 1
        if self.refusals > 0:
            self.refusals -= 1
            raise BrokerUnavailableError("broker_unavailable", "away")
        message = decode(body)
        assert isinstance(message, JournalChunks | JobReleased)
        self.messages.append(message)
        self.queues.append(queue)

    def chunks(self) -> list[list[JournalChunk]]:
        return [message.chunks for message in self.messages if isinstance(message, JournalChunks)]

    def texts(self, job_id: UUID) -> str:
        """What the job's events say, all of them being one word each."""
        of_job = [chunk for chunks in self.chunks() for chunk in chunks if chunk.job_id == job_id]
        return " ".join(bytes(event).decode().strip('"') for chunk in of_job for event in chunk.events)


@asynccontextmanager
async def outgoing_on(wire: Wire, limits: OutgoingLimits = LIMITS) -> AsyncIterator[Outgoing]:
    outgoing = Outgoing(wire.send, 2, limits)
    sender = asyncio.create_task(outgoing.run())
    try:
        yield outgoing
    finally:
        sender.cancel()
        await asyncio.gather(sender, return_exceptions=True)


def an_open_wire() -> Wire:
    wire = Wire()
    wire.open.set()
    return wire


def a_lane(outgoing: Outgoing, conversation_id: UUID = EVEN) -> Lane:
    return outgoing.open_lane(uuid7(), conversation_id, attempt=1, first_seq=5)


def events(*words: str) -> list[bytes]:
    return [f'"{word}"'.encode() for word in words]


async def test_what_gathered_leaves_as_one_message_with_a_chunk_per_job() -> None:
    wire = an_open_wire()
    async with outgoing_on(wire) as outgoing:
        first, second = a_lane(outgoing), a_lane(outgoing)

        await first.put(events("a", "b"))
        await second.put(events("x"))
        await first.put(events("c"), urgent=True)
        await first.flushed()

    [[one, other]] = wire.chunks()
    assert (one.job_id, one.first_seq, one.next_seq, one.attempt) == (first.job_id, 5, 8, 1)
    assert (other.job_id, other.first_seq, other.next_seq) == (second.job_id, 5, 6)
    assert wire.texts(first.job_id) == "a b c"


async def test_ordinary_events_wait_for_company_but_not_for_ever() -> None:
    wire = an_open_wire()
    async with outgoing_on(wire, OutgoingLimits(flush_seconds=0.02)) as outgoing:
        lane = a_lane(outgoing)
        await lane.put(events("a"))
        await lane.put(events("b"))

        assert wire.messages == []
        await lane.flushed()

    assert len(wire.messages) == 1


async def test_what_is_not_urgent_leaves_all_partitions_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, tides = an_open_wire(), list[Callable[[], None]]()
    async with outgoing_on(wire) as outgoing:
        even, odd = a_lane(outgoing, EVEN), a_lane(outgoing, ODD)
        with monkeypatch.context() as patched:
            patched.setattr(asyncio.get_running_loop(), "call_later", lambda _seconds, go: tides.append(go))
            await even.put(events("a"))
            await odd.put(events("b"))
        (go,) = tides

        go()
        await even.flushed()
        await odd.flushed()

    assert sorted(wire.queues) == ["chat.journal.0", "chat.journal.1"]


async def test_partitions_do_not_wait_for_each_other() -> None:
    wire = an_open_wire()
    async with outgoing_on(wire) as outgoing:
        even, odd = a_lane(outgoing, EVEN), a_lane(outgoing, ODD)

        await even.put(events("a"))
        await odd.put(events("b"), urgent=True)
        await odd.flushed()

    assert wire.queues == ["chat.journal.1"]


async def test_order_survives_a_broker_that_refuses() -> None:
    wire = an_open_wire()
    wire.refusals = 3
    async with outgoing_on(wire) as outgoing:
        lane = a_lane(outgoing)
        for word in "abc":
            await lane.put(events(word), urgent=True)
            await asyncio.sleep(0)
        await lane.flushed()

    assert wire.texts(lane.job_id) == "a b c"
    assert wire.bodies[0] == wire.bodies[1] == wire.bodies[2] == wire.bodies[3]  # the very same, whatever came since


async def test_nothing_overtakes_a_message_in_flight() -> None:
    wire = Wire()
    async with outgoing_on(wire) as outgoing:
        lane = a_lane(outgoing)
        await lane.put(events("a"), urgent=True)
        await wait_until(_sees(lambda: len(wire.bodies) == 1))

        await lane.put(events("b"), urgent=True)
        await lane.put(events("c"), urgent=True)
        wire.open.set()
        await lane.flushed()

    assert [len(chunk.events) for [chunk] in wire.chunks()] == [1, 2]


async def test_flushed_means_confirmed() -> None:
    wire = Wire()
    async with outgoing_on(wire) as outgoing:
        lane = a_lane(outgoing)
        await lane.put(events("a"), urgent=True)
        flushed = asyncio.create_task(lane.flushed())
        await wait_until(_sees(lambda: len(wire.bodies) == 1))

        assert not flushed.done()
        wire.open.set()
        await flushed


async def test_a_full_buffer_makes_the_producer_wait() -> None:
    wire = Wire()
    async with outgoing_on(wire, OutgoingLimits(flush_seconds=AT_ONCE, buffer_bytes_max=10)) as outgoing:
        lane = a_lane(outgoing)
        await lane.put(events("a" * 20))

        waiting = asyncio.create_task(lane.put(events("b")))
        await wait_until(_sees(lambda: len(wire.bodies) == 1))
        assert not waiting.done()

        wire.open.set()
        await waiting
        await lane.flushed()

    assert wire.texts(lane.job_id) == "a" * 20 + " b"


async def test_events_that_were_cancelled_for_lack_of_room_are_not_lost() -> None:
    wire = Wire()
    async with outgoing_on(wire, OutgoingLimits(flush_seconds=AT_ONCE, buffer_bytes_max=10)) as outgoing:
        lane = a_lane(outgoing)
        await lane.put(events("a" * 20))
        stopped = asyncio.create_task(lane.put(events("b", "c")))
        await wait_until(_sees(lambda: len(wire.bodies) == 1))

        stopped.cancel()
        await asyncio.gather(stopped, return_exceptions=True)
        end = asyncio.create_task(lane.put(events("d"), urgent=True, ended_as=JobStatus.CANCELLED))
        wire.open.set()
        await end
        await lane.flushed()

    assert stopped.cancelled()
    chunks = [chunk for [chunk] in wire.chunks()]
    assert [chunk.first_seq for chunk in chunks] == [5, *(chunk.next_seq for chunk in chunks[:-1])]
    assert wire.texts(lane.job_id) == "a" * 20 + " b c d"


async def test_it_ends_when_one_sender_ends_however_that_ends() -> None:
    async def lose_the_connection(_queue: str, _body: bytes) -> None:
        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        lost.cancel()
        await lost

    outgoing = Outgoing(lose_the_connection, 2, LIMITS)
    running = asyncio.create_task(outgoing.run())
    await a_lane(outgoing).put(events("a"), urgent=True)

    await asyncio.wait_for(asyncio.wait([running]), 5)

    assert running.cancelled()
    assert not running.cancelling()


async def test_a_message_has_a_limit_and_what_was_put_together_stays_together() -> None:
    wire = an_open_wire()
    async with outgoing_on(wire, OutgoingLimits(flush_seconds=NEVER, message_bytes_max=8)) as outgoing:
        lane = a_lane(outgoing)
        await lane.put(events("a", "b"))  # six bytes
        await lane.put(events("c", "d", "e", "f"))  # twelve
        await lane.put(events("g"), urgent=True, ended_as=JobStatus.COMPLETED)
        await lane.flushed()

    chunks = [chunk for [chunk] in wire.chunks()]
    assert [len(chunk.events) for chunk in chunks] == [2, 4, 1]
    assert [chunk.first_seq for chunk in chunks] == [5, 7, 11]
    assert [chunk.ended_as for chunk in chunks] == [None, None, JobStatus.COMPLETED]


async def test_what_a_dead_attempt_left_is_not_sent() -> None:
    wire = Wire()
    async with outgoing_on(wire) as outgoing:
        dead, alive = a_lane(outgoing), a_lane(outgoing)
        await alive.put(events("a"), urgent=True)
        await wait_until(_sees(lambda: len(wire.bodies) == 1))
        await dead.put(events("x"))
        await alive.put(events("b"), urgent=True)

        dead.discard()
        wire.open.set()
        await alive.flushed()
        await dead.flushed()

    assert wire.texts(alive.job_id) == "a b"
    assert wire.texts(dead.job_id) == ""


async def test_a_message_that_nobody_wants_any_more_is_not_tried_again() -> None:
    wire = an_open_wire()
    wire.refusals = 1_000_000
    async with outgoing_on(wire) as outgoing:
        dead, alive = a_lane(outgoing), a_lane(outgoing)
        await dead.put(events("x"), urgent=True)
        await wait_until(_sees(lambda: len(wire.bodies) > 1))

        dead.discard()
        await dead.flushed()
        wire.refusals = 0
        await alive.put(events("a"), urgent=True)
        await alive.flushed()

    assert wire.texts(alive.job_id) == "a"


async def test_a_message_of_its_own_is_sent_until_it_is_confirmed() -> None:
    wire = an_open_wire()
    wire.refusals = 2
    released = JobReleased(job_id=uuid7(), conversation_id=ODD, attempt=1, delay_seconds=2.0)
    async with outgoing_on(wire) as outgoing:
        await outgoing.send(ODD, released)

    assert wire.messages == [released]
    assert wire.queues == ["chat.journal.1"]


async def test_no_events_are_no_message() -> None:
    wire = an_open_wire()
    async with outgoing_on(wire) as outgoing:
        lane = a_lane(outgoing)

        await lane.put([], urgent=True)
        await lane.flushed()

    assert wire.bodies == []


def _sees(level: Callable[[], bool]) -> Callable[[], Awaitable[bool]]:
    async def look() -> bool:
        return level()

    return look
