"""RabbitMQ: the whole topology, and the three ways in which the services use it.

    chat.ready          direct exchange         gateway, persistence → chat.jobs
    chat.attempts       direct exchange         chat workers → chat.journal.<p>
    chat.cancels        direct exchange         gateway → chat.journal.<p>
    chat.jobs           quorum queue            → chat workers: a job may run
    chat.journal.<p>    quorum queues, single   → persistence: what attempts produced; cancels
                        active consumer
    chat.dead           quorum queue            what the fuses threw out → persistence
    chat.live           fanout exchange         persistence, gateway → every gateway: what is stored now
    chat.control        fanout exchange         gateway → every chat worker: cancel

Who may send what is the broker's to enforce: an exchange per sender and kind, and a user per service that may write to
its own (`deploy/rabbitmq/definitions.json`). The default exchange, which reaches every queue, is for persistence alone.
So is making the topology, as the right to make a queue is the right to delete it: persistence declares everything
whenever it connects, and the others wait until it has (`docs/decisions/0007-broker-users.md`).

Connections are plain, not "robust": a `Link` makes a new one after a loss and starts from what is true then.
"""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import product
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import UUID

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage
from aio_pika.connection import make_url
from aiormq.abc import AbstractChannel as UnderlayChannel
from aiormq.abc import DeliveredMessage
from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ConnectionNotAllowed,
    ProbableAuthenticationError,
)
from faststream.rabbit import QueueType, RabbitQueue
from pamqp.commands import Basic
from pamqp.common import FieldTable

from shared import contracts, tracing
from shared.errors import BrokerUnavailableError
from shared.ids import uuid7
from shared.metrics import FAST_SECONDS, Counter, Gauge, Histogram, count_refused_message
from shared.observability import get_logger
from shared.supervision import supervised

log = get_logger()

JOBS = "chat.jobs"
DEAD = "chat.dead"
READY = "chat.ready"
ATTEMPTS = "chat.attempts"
CANCELS = "chat.cancels"
LIVE = "chat.live"
CONTROL = "chat.control"

HOW_TO_GRANT = "docs/operations.md, The broker's users"

_RETRY_SECONDS = 0.5
_HEARTBEAT_SECONDS = 10  # a silent peer is noticed after 20 to 33 s
_QUEUE_LENGTH_MAX = 100_000
_LISTENER_QUEUE_LENGTH_MAX = 10_000
_CLOSE_SECONDS = 2
_TRANSIENT, _PERSISTENT = 1, 2  # delivery modes of AMQP
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

_SENT_THROUGH: Mapping[str, tuple[type[contracts.Message], ...]] = {
    READY: (contracts.JobReady,),
    CANCELS: (contracts.CancelRequested,),
    ATTEMPTS: (
        contracts.JournalChunks,
        contracts.ResumeRequest,
        contracts.JobReleased,
        contracts.ConversationSummarised,
        contracts.TitleSuggested,
    ),
}
# Exchanges and queues, of gateways and of workers, each by its way to the journal; see the rights of their users.
_USED: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    CANCELS: ((READY, CANCELS, LIVE, CONTROL), ()),
    ATTEMPTS: ((ATTEMPTS, CONTROL), (JOBS,)),
}
_REPLY_QUEUE = re.compile(rf"{re.escape(CONTROL)}\.[\x21-\x7e ]{{1,200}}")

_LINK_UP = Gauge("parley_broker_link_up", "Connections that are up, by what they are for.", ["link"])
_LINKS_LOST = Counter("parley_broker_links_lost", "Connections that were lost, or could not be made.", ["link"])
_PUBLISH_SECONDS = Histogram(
    "parley_broker_publish_seconds", "Until RabbitMQ confirmed a message.", ["exchange"], bounds=FAST_SECONDS
)
_PUBLISH_FAILURES = Counter("parley_broker_publish_failures", "Messages that it did not confirm.", ["exchange"])
_TRANSIENT_LOST = Counter("parley_broker_transient_lost", "Lost messages that may be lost.", ["exchange"])

jobs_queue = RabbitQueue(JOBS, queue_type=QueueType.QUORUM, durable=True, declare=False)


class Permission(StrEnum):
    """RabbitMQ's three."""

    CONFIGURE = "configure"
    WRITE = "write"
    READ = "read"


class BrokerRefusedError(Exception):
    """RabbitMQ does not let this process do what it must: its user lacks a right, or the password is wrong.

    Trying again does not help; an operator must. The message names user, resource and permission. `is_at_login`: the
    process may not connect at all, which is so too of a broker that forgot its users, until it has them again.
    """

    def __init__(self, message: str, *, is_at_login: bool = False) -> None:
        super().__init__(message)
        self.is_at_login = is_at_login


def journal_queue(partition: int) -> str:
    return f"chat.journal.{partition}"


def partition_of(conversation_id: UUID, partition_count: int) -> int:
    """The journal partition of a conversation; the low bits of a UUIDv7 are random."""
    return conversation_id.int % partition_count


def may_come_through(exchange: str, message: contracts.Message) -> bool:
    """Whether whoever may write to `exchange` may send such a message. The default exchange is persistence's own."""
    return not exchange or isinstance(message, _SENT_THROUGH.get(exchange, ()))


@dataclass(frozen=True, slots=True)
class Broker:
    """How a process reaches the broker, and the name under which operators see its connections there.

    With amqps://, `ca_file` alone is trusted, unless the URL names a `cafile`. `declares`: the process makes the
    topology, others wait for it. `journal_exchange` is the way of its messages to the journal.
    """

    url: str = field(repr=False)
    process: str
    partition_count: int = 4
    publish_timeout_seconds: float = 5.0
    ca_file: str | None = None
    declares: bool = True
    journal_exchange: str = ATTEMPTS

    @property
    def connection_url(self) -> str:
        """`url` with our heartbeat, unless it names one, and with `ca_file` where it is of use."""
        parts = urlsplit(self.url)
        given = parse_qs(parts.query)
        added = [] if "heartbeat" in given else [f"heartbeat={_HEARTBEAT_SECONDS}"]
        if self.ca_file and parts.scheme == "amqps" and "cafile" not in given:
            added.append(f"cafile={quote(self.ca_file)}")
        return parts._replace(query="&".join(filter(None, [parts.query, *added]))).geturl()


async def declare_topology(channel: AbstractChannel, partition_count: int) -> None:
    """Make everything. Raises BrokerRefusedError for what may not be made."""
    journal = [journal_queue(partition) for partition in range(partition_count)]
    exchange_types = {
        **dict.fromkeys((LIVE, CONTROL), aio_pika.ExchangeType.FANOUT),
        **dict.fromkeys((READY, ATTEMPTS, CANCELS), aio_pika.ExchangeType.DIRECT),
    }
    queue_arguments = {DEAD: _DEAD_ARGUMENTS, JOBS: _JOBS_ARGUMENTS, **dict.fromkeys(journal, _JOURNAL_ARGUMENTS)}
    with needing(Permission.CONFIGURE):
        # First the queues, which others cannot see: they wait for the exchanges that lead there.
        for name, arguments in queue_arguments.items():
            await channel.declare_queue(name, durable=True, arguments=arguments)
        for name, exchange_type in exchange_types.items():
            await channel.declare_exchange(name, exchange_type, durable=True)
    with needing(Permission.WRITE):
        for exchange, name in [(READY, JOBS), *product((ATTEMPTS, CANCELS), journal)]:
            queue = await channel.get_queue(name, ensure=False)
            await queue.bind(exchange, name)


async def see_topology(channel: AbstractChannel, journal_exchange: str) -> None:
    """See that all is there that a process with this way to the journal uses.

    From RabbitMQ 4.3 on, one may look for what one may use and for nothing else. Raises ChannelNotFoundEntity for what
    is missing.
    """
    exchanges, queues = _USED[journal_exchange]
    for name in exchanges:
        await channel.declare_exchange(name, passive=True)
    for name in queues:
        await channel.declare_queue(name, passive=True)


async def see_queue(broker: Broker, queue: str) -> None:
    """Connect and look whether `queue` is there. Raises what the client library raises; see `refusal_of`."""
    connection = aio_pika.Connection(make_url(broker.connection_url))
    try:
        await connection.connect(timeout=5)
        channel = await connection.channel(publisher_confirms=False)
        await channel.declare_queue(queue, passive=True)
    finally:
        await connection.close()


@contextmanager
def needing(permission: Permission) -> Iterator[None]:
    """Say of a refusal which permission was asked for: not every version of RabbitMQ does."""
    try:
        yield
    except ChannelAccessRefused as error:
        raise _refused(error, permission) from error


def refusal_of(error: BaseException | None) -> BrokerRefusedError | None:
    """What an operator has to mend, if `error` of a connection, or of a channel, is of that kind."""
    seen: list[BaseException] = []  # what is raised again while it is handled may come to stand behind itself
    while error is not None and error not in seen:
        seen.append(error)
        match error:
            case BrokerRefusedError():
                return error
            case ProbableAuthenticationError() | AuthenticationError():
                return BrokerRefusedError(f"wrong user or password: {error}", is_at_login=True)
            case ConnectionNotAllowed() if "refused" in str(error):
                return BrokerRefusedError(str(error), is_at_login=True)
            case ChannelAccessRefused():
                return _refused(error)
            case ssl.SSLCertVerificationError():
                return BrokerRefusedError(f"its certificate is not trusted: {error.verify_message}", is_at_login=True)
        error = error.__cause__ or error.__context__
    return None


def _refused(error: ChannelAccessRefused, permission: Permission | None = None) -> BrokerRefusedError:
    return BrokerRefusedError(f"{error}; needs {permission.value}" if permission else str(error))


class Link:
    """A supervised connection: connect, declare the topology, run `session`, and again after a loss, until stopped.

    `session` is entered with the connection whenever it is up and left when it is lost. Who was up once is patient with
    a broker that does not let it in any more: as with one that is away, there is work that goes on without it.
    """

    def __init__(
        self,
        broker: Broker,
        purpose: str,
        session: Callable[[AbstractConnection], AbstractAsyncContextManager[None]],
    ) -> None:
        self.is_up = asyncio.Event()
        self._lost = asyncio.Event()
        self._broker = broker
        self._refusal: BrokerRefusedError | None = None
        self._was_up = False
        self._name = f"{broker.process} {purpose}"
        self._connections_up = _LINK_UP.labels(purpose)
        self._losses = _LINKS_LOST.labels(purpose)
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

    async def depend_on(self, channel: AbstractChannel, needs: Permission) -> None:
        """Start over when the broker closes `channel`, of the connection of now, or cancels a consumer on it.

        Neither is mended by itself: without this, a session would be up and deaf. `needs` is what the user lacks if the
        broker closes the channel because it may not do this.
        """
        lost = self._lost

        def closed(_channel: object, error: BaseException | None = None) -> None:
            if isinstance(error, ChannelAccessRefused):
                self._refusal = _refused(error, needs)
            lost.set()

        channel.close_callbacks.add(closed)
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
                self._losses.inc()
                self._end_if_refused(error)
                log.warning("broker_link_lost", link=self._name, cause=type(error.__cause__).__name__)
            await asyncio.sleep(_RETRY_SECONDS)

    def _end_if_refused(self, error: BrokerUnavailableError) -> None:
        """Raises BrokerRefusedError, which ends the link and with it the process, unless it may pass."""
        refusal = refusal_of(error)
        if refusal is not None:
            log.error("broker_access_refused", link=self._name, cause=str(refusal), see=HOW_TO_GRANT)
            if not (self._was_up and refusal.is_at_login):
                raise refusal

    async def _run_once(self) -> None:
        lost = self._lost = asyncio.Event()
        self._refusal = None
        name = f"parley {self._name}"
        connection = aio_pika.Connection(
            make_url(self._broker.connection_url), client_properties={"connection_name": name}
        )
        # Closed even if it never opened: it would do that by itself when it is collected, outside of any event loop.
        try:
            await connection.connect(timeout=5)
            connection.close_callbacks.add(lambda *_: lost.set())
            async with asyncio.timeout(30):
                channel = await connection.channel(publisher_confirms=False)
                if self._broker.declares:
                    await declare_topology(channel, self._broker.partition_count)
                else:
                    await see_topology(channel, self._broker.journal_exchange)
                await channel.close()
            async with self._session(connection):
                self.is_up.set()
                self._connections_up.set(1)
                self._was_up = True
                log.info("broker_link_up", link=self._name)
                await lost.wait()
            if self._refusal is not None:
                raise self._refusal
            self._losses.inc()
            log.warning("broker_link_lost", link=self._name, cause="closed")
        finally:
            self.is_up.clear()
            self._connections_up.set(0)
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
    """Those below aio_pika's, whose messages and exchanges cost more to make than a message costs to send."""

    confirmed: UnderlayChannel
    transient: UnderlayChannel


class Publisher:
    """Publishes on a connection of its own, so that a blocked one never holds back acknowledgements."""

    def __init__(self, broker: Broker) -> None:
        self.partition_count = broker.partition_count
        self._journal_exchange = broker.journal_exchange
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
        """Publish persistently to chat.jobs or a journal's queue; returns once the broker has confirmed.

        Raises BrokerUnavailableError where that did not happen in time: the message may or may not be there.
        """
        with _sending(queue, message) as span:
            body = contracts.encode(message)
            await self._send_confirmed(queue, _persistent(reply_to=reply_to, headers=span.headers), body)

    async def send_bytes(self, queue: str, body: bytes) -> None:
        """As `send`, for a message that is encoded already."""
        await self._send_confirmed(queue, _persistent(), body)

    async def _send_confirmed(self, queue: str, properties: Basic.Properties, body: bytes) -> None:
        exchange = READY if queue == JOBS else self._journal_exchange
        began_at = time.perf_counter()
        try:
            await self._publish(exchange, queue, properties, body)
        except BrokerUnavailableError:
            _PUBLISH_FAILURES.labels(exchange).inc()
            raise
        _PUBLISH_SECONDS.labels(exchange).observe(time.perf_counter() - began_at)

    async def _publish(self, exchange: str, queue: str, properties: Basic.Properties, body: bytes) -> None:
        channels = self._open_channels()
        with failures_as_unavailable():
            answer = await channels.confirmed.basic_publish(
                body,
                exchange=exchange,
                routing_key=queue,
                properties=properties,
                mandatory=True,
                timeout=self._timeout_seconds,
            )
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
        channels = self._open_channels()
        with failures_as_unavailable():
            async with asyncio.timeout(self._timeout_seconds):
                found = await channels.transient.queue_declare(queue, passive=True)
        return QueueState(found.message_count or 0, found.consumer_count or 0)

    async def _send_transient(self, exchange: str, routing_key: str, body: bytes) -> None:
        properties = Basic.Properties(content_type="application/json", delivery_mode=_TRANSIENT)
        try:
            channels = self._open_channels()
            with failures_as_unavailable():
                await channels.transient.basic_publish(
                    body,
                    exchange=exchange,
                    routing_key=routing_key,
                    properties=properties,
                    timeout=self._timeout_seconds,
                )
        except BrokerUnavailableError as error:
            _TRANSIENT_LOST.labels(exchange or "reply").inc()
            log.warning("transient_message_lost", exchange=exchange or "reply", cause=error.message)

    def _open_channels(self) -> "_Channels":
        if self._channels is None or self._channels.confirmed.is_closed or self._channels.transient.is_closed:
            raise _broker_unavailable("not connected")
        return self._channels

    @asynccontextmanager
    async def _open(self, connection: AbstractConnection) -> AsyncIterator[None]:
        confirmed = await connection.channel(publisher_confirms=True, on_return_raises=True)
        transient = await connection.channel(publisher_confirms=False)
        self._channels = _Channels(await confirmed.get_underlay_channel(), await transient.get_underlay_channel())
        try:
            for channel in (confirmed, transient):
                await self._link.depend_on(channel, Permission.WRITE)
            yield
        finally:
            self._channels = None


def _persistent(*, reply_to: str | None = None, headers: dict[str, Any] | None = None) -> Basic.Properties:
    return Basic.Properties(
        headers=headers,
        content_type="application/json",
        delivery_mode=_PERSISTENT,
        message_id=uuid7().hex,  # keys the return of an unroutable message, so one per publish
        reply_to=reply_to,
    )


def _sending(queue: str, message: contracts.Message) -> tracing.Span:
    """What a message about one job adds to its trace."""
    job_id = getattr(message, "job_id", None)
    if job_id is None or not tracing.is_on():
        return tracing.NOBODYS
    attributes = {
        "messaging.system": "rabbitmq",
        "messaging.operation.type": "send",
        "messaging.operation.name": "publish",
        "messaging.destination.name": queue,
        "parley.message": type(message).__name__,
    }
    return tracing.start(f"publish {queue}", tracing.Kind.PRODUCER, attributes, parent=tracing.response(job_id))


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
        await self._link.depend_on(channel, Permission.READ)
        with needing(Permission.CONFIGURE):
            queue = await channel.declare_queue(
                f"{self._exchange}.{self._process}.{uuid7().hex}",
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": _LISTENER_QUEUE_LENGTH_MAX, "x-overflow": "drop-head"},
            )
        with needing(Permission.READ):
            await queue.bind(self._exchange)
            # Not by `queue.consume`, which makes a message that could be acknowledged of each, and a second task.
            heard_by = await channel.get_underlay_channel()
            await heard_by.basic_consume(queue.name, self._take, no_ack=True)
        self.queue = queue.name
        self._on_up()
        try:
            yield
        finally:
            self.queue = None

    async def _take(self, message: DeliveredMessage) -> None:
        self._on_message(message.body)


def tell_refusals_at(*places: str) -> None:
    """Tell how many messages are refused there, none as yet: an alert looks at what rises."""
    for place in places:
        for refusal in contracts.Refusal:
            count_refused_message(place, refusal.value, 0)


def refuse(place: str, error: contracts.RefusedMessageError, byte_count: int, message_id: str | None = None) -> None:
    """Count and log a message that came to `place` and is refused; never what it says."""
    count_refused_message(place, error.refusal.value)
    log.warning(
        "message_refused",
        place=place,
        reason=error.refusal.value,
        cause=error.message,
        byte_count=byte_count,
        message_id=message_id,
    )


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
    return _REPLY_QUEUE.fullmatch(name) is not None


def _broker_unavailable(cause: str) -> BrokerUnavailableError:
    return BrokerUnavailableError("broker_unavailable", f"RabbitMQ did not confirm: {cause}", retry_after_seconds=2.0)
