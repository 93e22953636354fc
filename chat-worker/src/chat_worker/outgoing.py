"""Events on their way to persistence: gathered for a moment, sent in order, known to be safe or not.

All jobs of the worker share one buffer per journal partition. What gathered there in `flush_seconds` leaves as one
message, sooner where somebody waits for it. All partitions leave at the same time: persistence then commits what they
brought together, instead of each by itself. A partition has one message in flight: only when the broker has confirmed
it, the next may follow, so order survives every retry. Whether an unconfirmed message arrived is unknown, so the same
bytes are sent again; persistence knows by the numbers what it has.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias
from uuid import UUID

from chat_worker.metrics import MESSAGE_EVENTS, OUTGOING_BYTES
from shared import contracts
from shared.errors import BrokerUnavailableError
from shared.events import Event
from shared.faults import sabotaged
from shared.messaging import journal_queue, partition_of
from shared.observability import get_logger
from shared.states import JobStatus

log = get_logger()

_WAITING_BYTES = OUTGOING_BYTES.labels()

Send: TypeAlias = Callable[[str, bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class OutgoingLimits:
    flush_seconds: float = 0.04
    buffer_bytes_max: int = 8 * 2**20  # of one partition, with what is in flight; who comes then waits
    message_bytes_max: int = 128 * 2**10  # of events; more only where events that were put together have more
    retry_seconds: float = 0.05  # after the first failure, then twice as long each time
    retry_seconds_max: float = 2.0


class Outgoing:
    """`send` publishes to a queue and returns when that is confirmed, or raises BrokerUnavailableError."""

    def __init__(self, send: Send, partition_count: int, limits: OutgoingLimits) -> None:
        self._send = send
        self._limits = limits
        tide = _Tide(limits.flush_seconds)
        self._partitions = [_Partition(journal_queue(number), send, limits, tide) for number in range(partition_count)]

    async def run(self) -> None:
        """Send what is put, until cancelled. Ends as soon as one partition's sender does, whatever ended it."""
        senders = [
            asyncio.create_task(partition.run(), name=f"sender {partition.queue}") for partition in self._partitions
        ]
        try:
            ended, _ = await asyncio.wait(senders, return_when=asyncio.FIRST_COMPLETED)
            for sender in ended:
                sender.result()
        finally:
            for sender in senders:
                sender.cancel()
            await asyncio.gather(*senders, return_exceptions=True)

    def open_lane(self, job_id: UUID, conversation_id: UUID, attempt: int, first_seq: int) -> "Lane":
        partition = self._partitions[partition_of(conversation_id, len(self._partitions))]
        return Lane(partition, job_id, conversation_id, attempt, first_seq)

    async def send(self, conversation_id: UUID, message: contracts.ToPersistence) -> None:
        """Send a message of its own, again and again until it is confirmed. It passes by what waits in lanes."""
        queue = journal_queue(partition_of(conversation_id, len(self._partitions)))
        await _send_until_confirmed(self._send, queue, contracts.encode(message), self._limits, lambda: True)


class Lane:
    """The events of one attempt; to be used by one task."""

    def __init__(
        self, partition: "_Partition", job_id: UUID, conversation_id: UUID, attempt: int, first_seq: int
    ) -> None:
        self.job_id = job_id
        self.conversation_id = conversation_id
        self.attempt = attempt
        self.is_discarded = False
        self._partition = partition
        self._next_seq = first_seq
        self._unconfirmed_count = 0
        self._is_flushed = asyncio.Event()
        self._is_flushed.set()

    async def put(self, events: Sequence[Event], *, urgent: bool = False, ended_as: JobStatus | None = None) -> None:
        """Hand over the attempt's next events; waits while the buffer is full.

        They stay together: persistence stores all of them or none. `urgent` ones, and what is before them, leave at
        once. `ended_as` goes with the terminal event. Cancelled while it waits, it hands them over all the same: they
        have their numbers, and what the attempt still has to say comes after them.
        """
        if not events:
            return
        batch = _Batch(self, self._next_seq, events, sum(map(len, events)), ended_as)
        self._next_seq += len(events)
        self._unconfirmed_count += 1
        self._is_flushed.clear()
        await self._partition.put(batch, urgent=urgent)

    async def flushed(self) -> None:
        """Wait until all that was put is confirmed."""
        await self._is_flushed.wait()

    def discard(self) -> None:
        """Send nothing more of this attempt, if it can be helped; do nothing where all is confirmed."""
        self.is_discarded = True

    def settle_one(self) -> None:
        self._unconfirmed_count -= 1
        if self._unconfirmed_count == 0:
            self._is_flushed.set()


@dataclass(frozen=True, slots=True, eq=False)
class _Batch:
    lane: Lane
    first_seq: int
    events: Sequence[Event]
    byte_count: int
    ended_as: JobStatus | None


class _Tide:
    """Takes along, `seconds` after the first one asked, all who asked meanwhile."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: set[asyncio.Event] = set()

    def take(self, is_due: asyncio.Event) -> None:
        if not self._waiting:
            asyncio.get_running_loop().call_later(self._seconds, self._go)
        self._waiting.add(is_due)

    def _go(self) -> None:
        for is_due in self._waiting:
            is_due.set()
        self._waiting.clear()


class _Partition:
    """One queue's buffer and sender. Where something waits, `_is_due` is set or the tide will set it."""

    def __init__(self, queue: str, send: Send, limits: OutgoingLimits, tide: _Tide) -> None:
        self.queue = queue
        self._send = send
        self._limits = limits
        self._waiting: deque[_Batch] = deque()
        self._byte_count = 0
        self._has_room = asyncio.Event()
        self._is_due = asyncio.Event()
        self._tide = tide

    async def put(self, batch: _Batch, *, urgent: bool) -> None:
        try:
            while self._byte_count >= self._limits.buffer_bytes_max:
                self._has_room.clear()
                await self._has_room.wait()
        finally:
            self._append(batch, urgent=urgent)

    def _append(self, batch: _Batch, *, urgent: bool) -> None:
        self._byte_count += batch.byte_count
        _WAITING_BYTES.value += batch.byte_count
        self._waiting.append(batch)
        if urgent:
            self._is_due.set()
        else:
            self._tide.take(self._is_due)

    async def run(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            batches = self._take()
            if self._waiting:
                self._is_due.set()
            if batches:
                MESSAGE_EVENTS.observe(sum(len(batch.events) for batch in batches))
                body = contracts.encode(contracts.JournalChunks(chunks=_chunks(batches)))
                is_wanted = partial(_any_is_wanted, batches)
                await _send_until_confirmed(self._send, self.queue, body, self._limits, is_wanted)
            self._settle(batches)

    def _take(self) -> list[_Batch]:
        """What waits, up to one message's size; what nobody wants any more is dropped."""
        taken: list[_Batch] = []
        byte_count = 0
        while self._waiting:
            batch = self._waiting[0]
            if taken and byte_count + batch.byte_count > self._limits.message_bytes_max:
                break
            self._waiting.popleft()
            if batch.lane.is_discarded:
                self._settle([batch])
            else:
                taken.append(batch)
                byte_count += batch.byte_count
        return taken

    def _settle(self, batches: Sequence[_Batch]) -> None:
        for batch in batches:
            self._byte_count -= batch.byte_count
            _WAITING_BYTES.value -= batch.byte_count
            batch.lane.settle_one()
        self._has_room.set()


def _chunks(batches: Sequence[_Batch]) -> list[contracts.JournalChunk]:
    """One chunk per lane; the batches of a lane follow each other."""
    by_lane: dict[Lane, list[_Batch]] = {}
    for batch in batches:
        by_lane.setdefault(batch.lane, []).append(batch)
    return [
        contracts.JournalChunk(
            job_id=lane.job_id,
            conversation_id=lane.conversation_id,
            attempt=lane.attempt,
            first_seq=own[0].first_seq,
            events=contracts.raw_events([event for batch in own for event in batch.events]),
            ended_as=own[-1].ended_as,
        )
        for lane, own in by_lane.items()
    ]


def _any_is_wanted(batches: Sequence[_Batch]) -> bool:
    return not all(batch.lane.is_discarded for batch in batches)


async def _send_until_confirmed(
    send: Send, queue: str, body: bytes, limits: OutgoingLimits, is_wanted: Callable[[], bool]
) -> None:
    """Send the same bytes again until they are confirmed, or nobody wants them sent any more."""
    delay = limits.retry_seconds
    while True:
        try:
            await send(queue, body)
        except BrokerUnavailableError:
            if not is_wanted() or sabotaged("confirm"):
                return
            log.warning("message_unconfirmed", queue=queue, byte_count=len(body))
            await asyncio.sleep(delay)
            delay = min(2 * delay, limits.retry_seconds_max)
        else:
            return
