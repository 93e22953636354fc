"""RabbitMQ: the whole topology, and the three ways in which the services use it.

    chat.jobs           quorum queue            gateway, persistence → chat workers: a job may run
    chat.journal.<p>    quorum queues, single   chat workers → persistence: what attempts produced
                        active consumer
    chat.dead           quorum queue            what the fuses threw out → persistence
    chat.live           fanout exchange         persistence → every gateway: events that are stored now
    chat.control        fanout exchange         gateway → every chat worker: cancel

Any process may be the first after the broker was wiped, so each declares everything whenever it connects. Connections
are plain, not "robust": a `Link` makes a new one after a loss and starts from what is true then.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import cast
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.connection import make_url
from aiormq.abc import DeliveredMessage
from faststream.rabbit import QueueType, RabbitQueue
from faststream.rabbit.schemas.queue import QuorumQueueArgs
from pamqp.commands import Basic
from pamqp.common import FieldTable

from shared import contracts
from shared.errors import BrokerUnavailableError
from shared.ids import uuid7
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

JOBS = "chat.jobs"
DEAD = "chat.dead"
LIVE = "chat.live"
CONTROL = "chat.control"

_RETRY_SECONDS = 0.5
_HEARTBEAT_SECONDS = 10  # a silent peer is noticed after 20 to 33 s
_QUEUE_LENGTH_MAX = 100_000
_LISTENER_QUEUE_LENGTH_MAX = 10_000
_CLOSE_SECONDS = 2
_DEAD_LETTERS: FieldTable = {
    "x-dead-letter-exchange": "",
    "x-dead-letter-routing-key": DEAD,
    # At-least-once dead-lettering holds only together with reject-publish.
    "x-dead-letter-strategy": "at-least-once",
    "x-overflow": "reject-publish",
    "x-max-length": _QUEUE_LENGTH_MAX,
}
# Fuses, not policy: attempts are counted in Postgres. Set on purpose, because the default differs between versions.
_JOBS_ARGUMENTS: FieldTable = {"x-queue-type": "quorum", "x-delivery-limit": 100, **_DEAD_LETTERS}
_JOURNAL_ARGUMENTS: FieldTable = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-delivery-limit": 1000,
    **_DEAD_LETTERS,
}
# Full, because nobody reads it, it refuses; what was thrown out then stays with the queue that did so.
_DEAD_ARGUMENTS: FieldTable = {
    "x-queue-type": "quorum",
    "x-single-active-consumer": True,
    "x-overflow": "reject-publish",
    "x-max-length": _QUEUE_LENGTH_MAX,
}

jobs_queue = RabbitQueue(
    JOBS,
    queue_type=QueueType.QUORUM,
    arguments=cast("QuorumQueueArgs", {k: v for k, v in _JOBS_ARGUMENTS.items() if k != "x-queue-type"}),
)


def journal_queue(partition: int) -> str:
    return f"chat.journal.{partition}"


def partition_of(conversation_id: UUID, partition_count: int) -> int:
    """The journal partition of a conversation; the low bits of a UUIDv7 are random."""
    return conversation_id.int % partition_count


def with_heartbeat(url: str) -> str:
    """`url` with our heartbeat, unless it names one."""
    parts = urlsplit(url)
    if "heartbeat" in parse_qs(parts.query):
        return url
    query = f"{parts.query}&heartbeat={_HEARTBEAT_SECONDS}".lstrip("&")
    return parts._replace(query=query).geturl()


async def declare_topology(channel: AbstractChannel, partition_count: int) -> None:
    for name in (LIVE, CONTROL):
        await channel.declare_exchange(name, aio_pika.ExchangeType.FANOUT, durable=True)
    await channel.declare_queue(DEAD, durable=True, arguments=_DEAD_ARGUMENTS)
    await channel.declare_queue(JOBS, durable=True, arguments=_JOBS_ARGUMENTS)
    for partition in range(partition_count):
        await channel.declare_queue(journal_queue(partition), durable=True, arguments=_JOURNAL_ARGUMENTS)


@dataclass(frozen=True, slots=True)
class Broker:
    """How a process reaches the broker, and the name under which operators see its connections there."""

    url: str
    process: str
    partition_count: int = 4
    publish_timeout_seconds: float = 5.0


class Link:
    """A supervised connection: connect, declare the topology, run `session`, and again after a loss, until stopped.

    `session` is entered with the connection whenever it is up and left when it is lost.
    """

    def __init__(
        self,
        broker: Broker,
        purpose: str,
        session: Callable[[AbstractConnection], AbstractAsyncContextManager[None]],
    ) -> None:
        self.is_up = asyncio.Event()
        self._lost = asyncio.Event()
        self._url = with_heartbeat(broker.url)
        self._name = f"{broker.process} {purpose}"
        self._partition_count = broker.partition_count
        self._session = session
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = supervised(self._run(), f"link {self._name}")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def start_over(self) -> None:
        """Close the connection of now, and make a new one."""
        self._lost.set()

    async def depend_on(self, channel: AbstractChannel) -> None:
        """Start over when the broker closes `channel`, of the connection of now, or cancels a consumer on it.

        Neither is mended by itself: without this, a session would be up and deaf.
        """
        lost = self._lost
        channel.close_callbacks.add(lambda *_: lost.set())
        (await channel.get_underlay_channel()).on_consumer_cancel_callbacks.add(lambda *_: lost.set())

    async def _run(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        # The client library turns a cancellation while it connects into an error of its own; the task remembers it.
        while not task.cancelling():
            try:
                with failures_as_unavailable():
                    await self._run_once()
            except BrokerUnavailableError as error:
                log.warning("broker_link_lost", link=self._name, cause=type(error.__cause__).__name__)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _run_once(self) -> None:
        lost = self._lost = asyncio.Event()
        name = f"parley {self._name}"
        connection = aio_pika.Connection(make_url(self._url), client_properties={"connection_name": name})
        # Closed even if it never opened: it would do that by itself when it is collected, outside of any event loop.
        try:
            await connection.connect(timeout=5)
            connection.close_callbacks.add(lambda *_: lost.set())
            async with asyncio.timeout(30):
                channel = await connection.channel(publisher_confirms=False)
                await declare_topology(channel, self._partition_count)
                await channel.close()
            async with self._session(connection):
                self.is_up.set()
                log.info("broker_link_up", link=self._name)
                await lost.wait()
            log.warning("broker_link_lost", link=self._name, cause="closed")
        finally:
            self.is_up.clear()
            with suppress(BrokerUnavailableError), failures_as_unavailable():
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await connection.close()


@contextmanager
def failures_as_unavailable() -> Iterator[None]:
    """Turn whatever the client library raises into BrokerUnavailableError; put it around every use of the broker.

    Beside its own errors it raises plain `Exception`, and it cancels what waits for a connection that its heartbeat
    found stuck: to a task such a cancellation looks as if it were meant for it, but nobody asked the task to end.
    """
    task = asyncio.current_task()
    assert task is not None
    try:
        yield
    except asyncio.CancelledError as error:
        if task.cancelling():
            raise
        raise _broker_unavailable("the connection was lost") from error
    except Exception as error:
        raise _broker_unavailable(type(error).__name__) from error


@dataclass(frozen=True, slots=True)
class QueueState:
    """Messages that are ready, without those that a consumer holds unacknowledged; and consumers, active or waiting."""

    message_count: int
    consumer_count: int


@dataclass(frozen=True, slots=True)
class _Channels:
    confirmed: AbstractChannel
    transient: AbstractChannel


class Publisher:
    """Publishes on a connection of its own, so that a blocked one never holds back acknowledgements."""

    def __init__(self, broker: Broker) -> None:
        self.partition_count = broker.partition_count
        self._timeout_seconds = broker.publish_timeout_seconds
        self._channels: _Channels | None = None
        self._link = Link(broker, "publisher", self._open)

    def start(self) -> None:
        self._link.start()

    async def stop(self) -> None:
        await self._link.stop()

    async def wait_until_up(self, seconds: float) -> None:
        """Raises TimeoutError."""
        await asyncio.wait_for(self._link.is_up.wait(), seconds)

    @property
    def is_up(self) -> bool:
        return self._link.is_up.is_set()

    async def send(self, queue: str, message: contracts.Message, *, reply_to: str | None = None) -> None:
        """Publish persistently; returns once the broker has confirmed.

        Raises BrokerUnavailableError where that did not happen in time: the message may or may not be there.
        """
        await self.send_bytes(queue, contracts.encode(message), reply_to=reply_to)

    async def send_bytes(self, queue: str, body: bytes, *, reply_to: str | None = None) -> None:
        """As `send`, for a message that is encoded already."""
        if self._channels is None:
            raise _broker_unavailable("not connected")
        message = aio_pika.Message(
            body,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            message_id=uuid7().hex,  # keys the return of an unroutable message, so one per publish
            reply_to=reply_to,
        )
        with failures_as_unavailable():
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._channels.confirmed.default_exchange.publish(message, queue, mandatory=True)
        frame = answer.delivery if isinstance(answer, DeliveredMessage) else answer
        if not isinstance(frame, Basic.Ack):
            raise _broker_unavailable(type(frame).__name__)

    async def tell(self, exchange: str, message: contracts.Message) -> None:
        """Publish transiently to whoever listens now to chat.live or chat.control. A loss is only logged."""
        await self._send_transient(exchange, "", contracts.encode(message))

    async def reply(self, queue: str, message: contracts.Message) -> None:
        """Publish transiently to the queue that a request named. A loss is only logged: the asker asks again."""
        await self._send_transient("", queue, contracts.encode(message))

    async def queue_length(self, queue: str) -> int:
        """Messages ready in `queue`. Raises BrokerUnavailableError."""
        return (await self.queue_state(queue)).message_count

    async def queue_state(self, queue: str) -> QueueState:
        """Raises BrokerUnavailableError."""
        if self._channels is None:
            raise _broker_unavailable("not connected")
        with failures_as_unavailable():
            async with asyncio.timeout(self._timeout_seconds):
                found = await self._channels.transient.declare_queue(queue, passive=True)
        result = found.declaration_result
        return QueueState(result.message_count or 0, result.consumer_count or 0)

    async def _send_transient(self, exchange: str, routing_key: str, body: bytes) -> None:
        if self._channels is None:
            log.warning("transient_message_lost", exchange=exchange or "reply", cause="not connected")
            return
        message = aio_pika.Message(body, content_type="application/json")
        channel = self._channels.transient
        try:
            with failures_as_unavailable():
                async with asyncio.timeout(self._timeout_seconds):
                    found = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
                    await found.publish(message, routing_key, mandatory=False)
        except BrokerUnavailableError as error:
            log.warning("transient_message_lost", exchange=exchange or "reply", cause=error.message)

    @asynccontextmanager
    async def _open(self, connection: AbstractConnection) -> AsyncIterator[None]:
        self._channels = _Channels(
            confirmed=await connection.channel(publisher_confirms=True, on_return_raises=True),
            transient=await connection.channel(publisher_confirms=False),
        )
        try:
            for channel in (self._channels.confirmed, self._channels.transient):
                await self._link.depend_on(channel)
            yield
        finally:
            self._channels = None


class Listener:
    """Hears a fanout exchange through a bounded queue of its own, which is a new one after each connect.

    Messages can be missed (a loss, an overflow), so `on_up`, called after each connect, must catch up elsewhere.
    """

    def __init__(
        self,
        broker: Broker,
        exchange: str,
        on_message: Callable[[bytes], None],
        on_up: Callable[[], None],
    ) -> None:
        self.queue: str | None = None
        self._exchange = exchange
        self._process = broker.process
        self._on_message = on_message
        self._on_up = on_up
        self._link = Link(broker, "listener", self._open)

    def start(self) -> None:
        self._link.start()

    async def stop(self) -> None:
        await self._link.stop()

    async def wait_until_up(self, seconds: float) -> None:
        """Raises TimeoutError."""
        await asyncio.wait_for(self._link.is_up.wait(), seconds)

    @property
    def is_up(self) -> bool:
        return self._link.is_up.is_set()

    @asynccontextmanager
    async def _open(self, connection: AbstractConnection) -> AsyncIterator[None]:
        channel = await connection.channel(publisher_confirms=False)
        await self._link.depend_on(channel)
        queue = await channel.declare_queue(
            f"{self._exchange}.{self._process}.{uuid7().hex}",
            exclusive=True,
            auto_delete=True,
            arguments={"x-max-length": _LISTENER_QUEUE_LENGTH_MAX, "x-overflow": "drop-head"},
        )
        await queue.bind(self._exchange)
        await queue.consume(self._take, no_ack=True)
        self.queue = queue.name
        self._on_up()
        try:
            yield
        finally:
            self.queue = None

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self._on_message(message.body)


async def acknowledge(message: AbstractIncomingMessage, *, multiple: bool = False) -> None:
    """Acknowledge `message`, with `multiple` all before it on its channel. A lost channel brings them again."""
    with suppress(BrokerUnavailableError), failures_as_unavailable():
        await message.ack(multiple=multiple)


async def dead_letter(message: AbstractIncomingMessage) -> None:
    """Send `message` to chat.dead. A lost channel brings it again."""
    with suppress(BrokerUnavailableError), failures_as_unavailable():
        await message.reject(requeue=False)


def is_reply_queue(name: str) -> bool:
    """Whether `name`, taken from a message, may be answered to: the queue of a control listener."""
    return name.startswith(f"{CONTROL}.")


def _broker_unavailable(cause: str) -> BrokerUnavailableError:
    return BrokerUnavailableError("broker_unavailable", f"RabbitMQ did not confirm: {cause}", retry_after_seconds=2.0)
