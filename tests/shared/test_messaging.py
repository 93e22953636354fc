"""Connections to a real RabbitMQ that are lost in every way there is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aio_pika.abc import AbstractConnection

from shared.contracts import CancelRequested
from shared.errors import BrokerUnavailableError
from shared.ids import uuid7
from shared.messaging import (
    CONTROL,
    JOBS,
    Broker,
    Link,
    Listener,
    Publisher,
    failures_as_unavailable,
    journal_queue,
)
from tests.support.tcp import Line, proxied
from tests.support.waiting import wait_until


@pytest.fixture
async def line(rabbitmq_url: str) -> AsyncIterator[tuple[Broker, Line]]:
    """A broker behind a line, with a heartbeat that finds it stuck within seconds."""
    async with proxied(f"{rabbitmq_url}?heartbeat=1") as (url, line):
        yield Broker(url, "test", partition_count=1, publish_timeout_seconds=60), line


def a_message() -> CancelRequested:
    return CancelRequested(job_id=uuid7(), conversation_id=uuid7())


@asynccontextmanager
async def _publishing(broker: Broker) -> AsyncIterator[Publisher]:
    publisher = Publisher(broker)
    publisher.start()
    try:
        await publisher.wait_until_up(10)
        yield publisher
    finally:
        await publisher.stop()


async def test_what_waits_on_a_stuck_connection_fails_and_nobody_is_cancelled(line: tuple[Broker, Line]) -> None:
    broker, wire = line
    async with _publishing(broker) as publisher:
        wire.freeze()

        sends = [publisher.send(JOBS, a_message()) for _ in range(3)]
        asks, tells = publisher.queue_length(JOBS), publisher.tell(CONTROL, a_message())
        outcomes = await asyncio.wait_for(asyncio.gather(*sends, asks, tells, return_exceptions=True), 30)

        wire.mend()
        await wait_until(lambda: _can_send(publisher))

    assert [type(outcome) for outcome in outcomes] == [BrokerUnavailableError] * 4 + [type(None)]


async def test_a_publication_whose_task_is_cancelled_is_cancelled(line: tuple[Broker, Line]) -> None:
    broker, wire = line
    async with _publishing(broker) as publisher:
        wire.freeze()
        task = asyncio.create_task(publisher.send(JOBS, a_message()))
        await asyncio.sleep(0)
        task.cancel()

        with pytest.raises(asyncio.CancelledError):
            await task
        wire.mend()


async def test_what_no_queue_takes_is_not_confirmed_and_what_is_sent_beside_it_is(rabbitmq_url: str) -> None:
    queues = [journal_queue(0), journal_queue(1_000)] * 20
    async with _publishing(Broker(rabbitmq_url, "test", partition_count=1)) as publisher:
        sends = [publisher.send(queue, a_message()) for queue in queues]
        outcomes = await asyncio.gather(*sends, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes] == [type(None), BrokerUnavailableError] * 20


async def test_a_link_survives_whatever_a_session_raises(rabbitmq_url: str) -> None:
    failures: list[BaseException] = [Exception("plain"), asyncio.CancelledError(), OSError(), RuntimeError()]

    @asynccontextmanager
    async def session(_connection: AbstractConnection) -> AsyncIterator[None]:
        if failures:
            raise failures.pop()
        yield

    link = Link(Broker(rabbitmq_url, "test", partition_count=1), "link", session)
    link.start()
    await asyncio.wait_for(link.is_up.wait(), 20)
    await link.stop()

    assert not failures


async def test_a_link_survives_a_broker_that_hangs_up_at_every_moment(line: tuple[Broker, Line]) -> None:
    broker, wire = line
    async with _publishing(broker) as publisher:
        for turns in range(40):
            wire.cut()
            wire.mend()
            for _ in range(turns):  # a little further into connecting and declaring each time
                await asyncio.sleep(0.002)
        await wait_until(lambda: _can_send(publisher))


class ExposedListener(Listener):
    """A listener whose connection a test may use: no other one may touch its queue."""

    connection: AbstractConnection

    @asynccontextmanager
    async def _open(self, connection: AbstractConnection) -> AsyncIterator[None]:
        self.connection = connection
        async with super()._open(connection):
            yield


async def test_a_listener_whose_consumer_the_broker_cancels_hears_again(rabbitmq_url: str) -> None:
    broker = Broker(rabbitmq_url, "test", partition_count=1)
    heard: list[bytes] = []
    listener = ExposedListener(broker, CONTROL, heard.append, lambda: None)
    listener.start()
    await listener.wait_until_up(10)
    first = listener.queue
    assert first

    await (await listener.connection.channel()).queue_delete(first)

    await wait_until(lambda: _has_another_queue(listener, first))
    async with _publishing(broker) as publisher:
        await publisher.tell(CONTROL, a_message())
        await wait_until(lambda: _has_heard(heard))
    await listener.stop()


async def test_a_cancellation_from_below_is_an_error_and_one_from_above_is_not() -> None:
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    lost.cancel()
    with pytest.raises(BrokerUnavailableError), failures_as_unavailable():
        await lost

    async def wait() -> None:
        with failures_as_unavailable():
            await asyncio.Event().wait()

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _can_send(publisher: Publisher) -> bool:
    try:
        await publisher.send(JOBS, a_message())
    except BrokerUnavailableError:
        return False
    return True


async def _has_another_queue(listener: Listener, former: str | None) -> bool:
    return listener.queue not in (None, former)


async def _has_heard(heard: list[bytes]) -> bool:
    return bool(heard)
