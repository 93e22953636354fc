"""The journal partitions come in, whatever waits goes into one transaction, and is acknowledged after its commit.

Each partition queue has one active consumer in the whole deployment, and a channel of its own here, so the chunks of a
job arrive in order. After a loss of the connection they arrive once more: the writer knows them.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import asyncpg
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue

from persistence import counts
from persistence.announce import Announcer
from persistence.maintenance import Maintenance
from persistence.writer import Incoming, Written, write
from shared import contracts, tracing
from shared.contracts import (
    CancelRequested,
    JobReady,
    JobReleased,
    JournalChunk,
    JournalChunks,
    LiveBatch,
    Refusal,
    RefusedMessageError,
    ResumeReply,
    ResumeRequest,
    ToPersistence,
)
from shared.db import Database
from shared.db.errors import described
from shared.errors import BrokerUnavailableError, DatabaseUnavailableError
from shared.faults import reach
from shared.ids import seconds_since
from shared.messaging import (
    Broker,
    Link,
    Permission,
    acknowledge,
    dead_letter,
    failures_as_unavailable,
    journal_queue,
    may_come_through,
    needing,
    refuse,
)
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

JOURNAL_PLACE = "chat.journal"  # of refused messages, whatever their partition

_RETRY_SECONDS_MIN = 0.1
_UUID_HEX_LENGTH = 32
# The message itself cannot be written.
_MESSAGE_AT_FAULT = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
# It may be the message's own size or content, where Postgres is well otherwise and it happens again and again. All
# other errors of Postgres pass, or need an operator, and the message waits.
_MESSAGE_SUSPECTED = (
    TimeoutError,
    asyncpg.QueryCanceledError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.OutOfMemoryError,
    asyncpg.InternalServerError,
)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it came; `incoming` is None where it is none of ours."""

    raw: AbstractIncomingMessage
    incoming: Incoming | None

    @property
    def chunk_count(self) -> int:
        message = self.incoming.message if self.incoming else None
        return len(message.chunks) if isinstance(message, JournalChunks) else 1

    def observe_age(self) -> None:
        """How long its chunks took; its id tells when it was sent."""
        message_id = self.raw.message_id or ""
        if self.incoming and isinstance(self.incoming.message, JournalChunks) and len(message_id) == _UUID_HEX_LENGTH:
            with contextlib.suppress(ValueError):
                counts.CHUNK_SECONDS.observe(seconds_since(UUID(hex=message_id)))


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How much one transaction takes on, and how long it pauses at most before it tries again.

    `tries_max` are those that fail though Postgres answers; then the messages are what is wrong.
    """

    chunks_max: int
    bytes_max: int
    retry_seconds_max: float
    tries_max: int


class UnwritableError(Exception):
    """A batch that Postgres does not take, though it takes others."""


class Intake:
    """Consumes all partitions on one supervised connection; hands out what waits, in order of arrival."""

    def __init__(self, broker: Broker, *, prefetch_count: int) -> None:
        self._partition_count = broker.partition_count
        self._prefetch_count = prefetch_count
        self._waiting: deque[AbstractIncomingMessage] = deque()
        self._arrived = asyncio.Event()
        self._consumers: list[tuple[AbstractQueue, str]] = []
        self._link = Link(broker, "journal consumer", self._open)

    def start(self) -> None:
        self._link.start()

    async def close_door(self) -> None:
        """Take nothing more; what was taken can still be settled until `stop`."""
        consumers, self._consumers = self._consumers, []
        for queue, tag in consumers:
            with contextlib.suppress(BrokerUnavailableError), failures_as_unavailable():
                await queue.cancel(tag, timeout=2)
        self._waiting.clear()

    async def stop(self) -> None:
        await self._link.stop()

    def start_over(self) -> None:
        """Have everything that is not settled delivered again."""
        self._link.start_over()
        self._waiting.clear()

    @property
    def is_up(self) -> bool:
        return self._link.is_up.is_set()

    async def take(self, limits: BatchLimits) -> list[Delivery]:
        """What waits now, within the limits but at least one message; waits until there is one."""
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        batch: list[Delivery] = []
        chunk_count = byte_count = 0
        while self._waiting and chunk_count < limits.chunks_max and byte_count < limits.bytes_max:
            delivery = _decoded(self._waiting.popleft())
            batch.append(delivery)
            chunk_count += delivery.chunk_count
            byte_count += delivery.raw.body_size or 0
        return batch

    @asynccontextmanager
    async def _open(self, connection: AbstractConnection) -> AsyncIterator[None]:
        try:
            for partition in range(self._partition_count):
                channel = await connection.channel(publisher_confirms=False)
                await self._link.depend_on(channel, Permission.READ)
                with needing(Permission.READ):
                    self._consumers.append(await self._consume(channel, partition))
            yield
        finally:
            # What waits unacknowledged is delivered again, by the next connection.
            self._consumers = []
            self._waiting.clear()

    async def _consume(self, channel: AbstractChannel, partition: int) -> tuple[AbstractQueue, str]:
        await channel.set_qos(self._prefetch_count)
        queue = await channel.get_queue(journal_queue(partition), ensure=False)
        return queue, await queue.consume(self._arrive)

    async def _arrive(self, message: AbstractIncomingMessage) -> None:
        # Nothing is awaited, so the order of arrival is kept.
        self._waiting.append(message)
        self._arrived.set()


class WriteBack:
    """The one loop from the queues to the tables: take what waits, write, commit, acknowledge, tell."""

    def __init__(
        self,
        intake: Intake,
        database: Database,
        announcer: Announcer,
        maintenance: Maintenance,
        limits: BatchLimits,
    ) -> None:
        self._intake = intake
        self._database = database
        self._announcer = announcer
        self._maintenance = maintenance
        self._limits = limits
        self._is_idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), "write back")

    async def stop(self, seconds: float) -> None:
        """Finish the batch in hand, within `seconds`; call it once nothing new comes in."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_idle.wait(), seconds)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def is_running(self) -> bool:
        return self._task is not None and not self._task.done()

    async def _run(self) -> None:
        while True:
            self._is_idle.set()
            batch = await self._intake.take(self._limits)
            self._is_idle.clear()
            try:
                await self._settle(batch)
            except Exception as error:  # noqa: BLE001
                log.error("write_back_failed", **described(error))  # noqa: TRY400 - a traceback may quote what rows hold
                self._intake.start_over()

    async def _settle(self, batch: list[Delivery]) -> None:
        """Write `batch` and acknowledge it, message by message where one of them spoils it for the others."""
        dead = [delivery for delivery in batch if delivery.incoming is None]
        good = [delivery for delivery in batch if delivery.incoming is not None]
        try:
            await self._write(good)
        except Exception as error:  # noqa: BLE001
            if len(good) == 1:
                log.error(  # noqa: TRY400 - a traceback may quote what rows hold
                    "message_unwritable", message_id=good[0].raw.message_id, **described(error)
                )
                await self._write_apart(good[0])
                dead, good = [*dead, *good], []
            else:
                log.warning("batch_split", message_count=len(good), **described(error))
                for delivery in batch:
                    await self._settle([delivery])
                return
        # First these: acknowledging the last of a channel would take along what comes before it.
        for delivery in dead:
            await dead_letter(delivery.raw)
        await _acknowledge(good)

    async def _write_apart(self, delivery: Delivery) -> None:
        """Write what can be written of a message that cannot as a whole; its dead letter tells the rest."""
        message = delivery.incoming.message if delivery.incoming else None
        if not isinstance(message, JournalChunks) or len(message.chunks) == 1:
            return
        for chunk in message.chunks:
            alone = Incoming(JournalChunks(chunks=[chunk]))
            try:
                await self._write([Delivery(delivery.raw, alone)])
            except Exception as error:  # noqa: BLE001
                log.warning("chunk_unwritable", job_id=str(chunk.job_id), **described(error))

    async def _write(self, deliveries: Sequence[Delivery]) -> None:
        """Write and tell; as long as the fault is not the messages' own, again and again.

        Raises what makes the messages unwritable.
        """
        if not deliveries:
            return
        batch: Sequence[Incoming] = [delivery.incoming for delivery in deliveries if delivery.incoming]
        began_ns = tracing.now_ns()
        pause = _RETRY_SECONDS_MIN
        suspicion_count = 0
        while batch:
            began_at = time.perf_counter()
            try:
                written, batch = await write(self._database, batch)
            except _MESSAGE_AT_FAULT:
                raise
            except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
                counts.BATCH_FAILURES.inc()
                log.warning("batch_unwritten", retry_seconds=pause, **described(error))
                if await self._is_suspicious(error):
                    suspicion_count += 1
                    if suspicion_count >= self._limits.tries_max:
                        raise UnwritableError from error
                await asyncio.sleep(pause)
                pause = min(pause * 2, self._limits.retry_seconds_max)
                continue
            counts.BATCH_SECONDS.observe(time.perf_counter() - began_at)
            reach("persistence.after_commit")
            self._tell(written)
        if tracing.is_on():
            _trace(deliveries, began_ns)
        _count(deliveries)

    async def _is_suspicious(self, error: Exception) -> bool:
        """Whether `error` may be the messages' own fault: others of its kind would have Postgres not answer at all."""
        if not isinstance(error.__cause__ or error, _MESSAGE_SUSPECTED):
            return False
        try:
            await self._database.ping()
        except DatabaseUnavailableError:
            return False
        return True

    def _tell(self, written: Written) -> None:
        for ended in written.ended:
            log.info(
                "job_ended",
                job_id=str(ended.job_id),
                conversation_id=str(ended.conversation_id),
                status=ended.status.value,
                attempt=ended.attempt,
                event_count=ended.event_count,
                message_count=ended.message_count,
                tool_call_count=ended.tool_call_count,
            )
        self._announcer.announce(written)
        if written.has_delayed_job:
            self._maintenance.wake()


def _count(deliveries: Sequence[Delivery]) -> None:
    chunk_count = sum(delivery.chunk_count for delivery in deliveries)
    counts.BATCH_MESSAGES.observe(len(deliveries))
    counts.BATCH_CHUNKS.observe(chunk_count)
    for delivery in deliveries:
        delivery.observe_age()
    log.debug("batch_written", message_count=len(deliveries), chunk_count=chunk_count)


def _trace(deliveries: Sequence[Delivery], began_ns: int) -> None:
    """Let the traces of the batch's jobs have spans of it, under the attempts whose chunks they are."""
    for delivery in deliveries:
        queue = delivery.raw.routing_key or ""
        for part in _parts_of(delivery):
            attributes: dict[str, str | int] = {
                "messaging.system": "rabbitmq",
                "messaging.operation.type": "process",
                "messaging.operation.name": "process",
                "messaging.destination.name": queue,
                "messaging.batch.message_count": len(deliveries),
                "parley.message": type(part).__name__,
            }
            if isinstance(part, JournalChunk):
                attributes |= {"parley.first_seq": part.first_seq, "parley.event_count": len(part.events)}
            number = getattr(part, "attempt", 0)
            above = tracing.attempt(part.job_id, number) if number else tracing.response(part.job_id)
            parent = tracing.sent_by(delivery.raw.headers, part.job_id) or above
            tracing.start(
                f"process {queue}", tracing.Kind.CONSUMER, attributes, parent=parent, started_ns=began_ns
            ).end()


def _parts_of(delivery: Delivery) -> Sequence[JournalChunk | ResumeRequest | JobReleased | CancelRequested]:
    """What a message tells of single jobs; of a conversation's summary and title nothing."""
    match delivery.incoming.message if delivery.incoming else None:
        case JournalChunks(chunks=chunks):
            return chunks
        case ResumeRequest() | JobReleased() | CancelRequested() as message:
            return [message]
        case _:
            return ()


def _decoded(raw: AbstractIncomingMessage) -> Delivery:
    try:
        return Delivery(raw, Incoming(_for_persistence(raw), raw.reply_to))
    except RefusedMessageError as error:
        refuse(JOURNAL_PLACE, error, len(raw.body), raw.message_id)
        return Delivery(raw, None)


def _for_persistence(raw: AbstractIncomingMessage) -> ToPersistence:
    message = contracts.decode(raw.body)
    if isinstance(message, JobReady | ResumeReply | LiveBatch) or not may_come_through(raw.exchange or "", message):
        raise RefusedMessageError(Refusal.MISPLACED, f"{type(message).__name__} through {raw.exchange!r}")
    return message


async def _acknowledge(deliveries: Iterable[Delivery]) -> None:
    """Acknowledge the last of each consumer with all before it: it has a channel of its own, and is taken in order."""
    last_of_consumer = {delivery.raw.consumer_tag: delivery.raw for delivery in deliveries}
    for raw in last_of_consumer.values():
        await acknowledge(raw, multiple=True)
