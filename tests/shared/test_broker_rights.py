"""Each service's user on RabbitMQ can do what its service does, and is refused everything else by RabbitMQ itself."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import aio_pika
import httpx2
import pytest
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelAccessRefused, ChannelLockedResource

from deploy.local.rabbitmq import service_urls, user_password
from shared.contracts import CancelRequested, JobReady, JournalChunk, JournalChunks, LiveBatch, Message, encode
from shared.ids import uuid7
from shared.messaging import (
    ATTEMPTS,
    CANCELS,
    CONTROL,
    DEAD,
    JOBS,
    LIVE,
    READY,
    Broker,
    Listener,
    Publisher,
    is_reply_queue,
    journal_queue,
    may_come_through,
)
from tests.support.waiting import wait_until

GATEWAY, WORKER, PERSISTENCE = service_urls("amqp://x@y/")
_JOURNAL = journal_queue(0)
_EVERYTHING = (JOBS, DEAD, _JOURNAL)

Deed = Callable[[AbstractChannel], Awaitable[Any]]


def publish(exchange: str, routing_key: str = "") -> Deed:
    async def deed(channel: AbstractChannel) -> None:
        target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
        await target.publish(aio_pika.Message(b"{}"), routing_key, mandatory=False)

    return deed


def consume(queue: str) -> Deed:
    async def ignore(_message: aio_pika.abc.AbstractIncomingMessage) -> None:
        """Never called: the broker refuses."""

    async def deed(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).consume(ignore)

    return deed


def get(queue: str) -> Deed:
    async def deed(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).get(fail=False)

    return deed


def declare(queue: str) -> Deed:
    return lambda channel: channel.declare_queue(queue, durable=True)


def declare_exchange(exchange: str) -> Deed:
    return lambda channel: channel.declare_exchange(exchange, aio_pika.ExchangeType.FANOUT, durable=True)


def delete(queue: str) -> Deed:
    return lambda channel: channel.queue_delete(queue, if_unused=False, if_empty=False)


def delete_exchange(exchange: str) -> Deed:
    return lambda channel: channel.exchange_delete(exchange)


def purge(queue: str) -> Deed:
    async def deed(channel: AbstractChannel) -> None:
        await (await channel.get_queue(queue, ensure=False)).purge()

    return deed


def listen_to(exchange: str, queue: str) -> Deed:
    """Bind a queue that the user may make to `exchange`."""

    async def deed(channel: AbstractChannel) -> None:
        own = await channel.declare_queue(queue, exclusive=True)
        await own.bind(exchange)

    return deed


_OWN_OF_GATEWAY, _OWN_OF_WORKER = f"{LIVE}.gateway-1.x", f"{CONTROL}.chat-worker x.1.x.y"
# By user: what it must not do, with what may be learnt from the names.
_FORBIDDEN: Mapping[str, Mapping[str, Deed]] = {
    GATEWAY: {
        "take jobs": consume(JOBS),
        "look at a job": get(JOBS),
        "take what attempts produced": consume(_JOURNAL),
        "read dead letters": get(DEAD),
        "say what a model answered": publish(ATTEMPTS, _JOURNAL),
        "reach any queue": publish("", _JOURNAL),
        "hear the workers' control": listen_to(CONTROL, _OWN_OF_GATEWAY),
        "make itself a worker's queue": declare(_OWN_OF_WORKER),
        "make a queue of another name": declare("chat.other"),
        "make an exchange": declare_exchange("chat.other"),
        "make one of the topology's": declare(JOBS),
        **{f"delete {queue}": delete(queue) for queue in _EVERYTHING},
        **{f"purge {queue}": purge(queue) for queue in _EVERYTHING},
        "delete the exchange of the gateways": delete_exchange(LIVE),
    },
    WORKER: {
        "start a job": publish(READY, JOBS),
        "start a job past the exchange": publish("", JOBS),
        "tell gateways what is stored": publish(LIVE),
        "cancel other workers' jobs": publish(CONTROL),
        "cancel through the journal": publish(CANCELS, _JOURNAL),
        "answer other workers": publish("", _OWN_OF_WORKER),
        "take what attempts produced": consume(_JOURNAL),
        "read dead letters": get(DEAD),
        "hear what gateways hear": listen_to(LIVE, _OWN_OF_WORKER),
        "make itself a gateway's queue": declare(_OWN_OF_GATEWAY),
        "make a queue of another name": declare("chat.other"),
        "make one of the topology's": declare(_JOURNAL),
        **{f"delete {queue}": delete(queue) for queue in _EVERYTHING},
        "purge the journal": purge(_JOURNAL),
        "delete the exchange of the workers": delete_exchange(CONTROL),
    },
    PERSISTENCE: {
        "cancel jobs": publish(CONTROL),
        "speak as a worker": publish(ATTEMPTS, _JOURNAL),
        "speak as a gateway": publish(CANCELS, _JOURNAL),
        "read what gateways hear": get(_OWN_OF_GATEWAY),
        "make a queue of another name": declare("chat.other"),
        "make a listener's queue": declare(_OWN_OF_WORKER),
        "delete RabbitMQ's own exchange": delete_exchange("amq.fanout"),
    },
}
_CASES = [(user, what) for user, deeds in _FORBIDDEN.items() for what in deeds]


@pytest.fixture(scope="module")
def urls(rabbitmq_url: str) -> dict[str, str]:
    return service_urls(rabbitmq_url)


@pytest.fixture(scope="module")
async def connections(urls: dict[str, str]) -> AsyncIterator[Mapping[str, aio_pika.abc.AbstractConnection]]:
    found = {user: await aio_pika.connect(url) for user, url in urls.items()}
    yield found
    for connection in found.values():
        await connection.close()


@pytest.mark.parametrize(("user", "what"), _CASES)
async def test_a_user_must_not(
    connections: Mapping[str, aio_pika.abc.AbstractConnection], user: str, what: str
) -> None:
    channel = await connections[user].channel()
    closed: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

    def note(_channel: object, error: BaseException | None = None) -> None:
        if not closed.done():
            closed.set_result(error)

    channel.close_callbacks.add(note)

    with contextlib.suppress(ChannelAccessRefused):
        await _FORBIDDEN[user][what](channel)

    assert isinstance(await asyncio.wait_for(closed, 5), ChannelAccessRefused)


async def test_another_gateways_queue_is_closed_to_a_gateway(urls: dict[str, str]) -> None:
    listener = Listener(Broker(urls[GATEWAY], "gateway-2", declares=False), LIVE, lambda _body: None, lambda: None)
    listener.start()
    await listener.wait_until_up(10)
    assert listener.queue
    async with await aio_pika.connect(urls[GATEWAY]) as connection:
        for deed in (consume, get, purge, delete):
            with pytest.raises(ChannelLockedResource):
                await deed(listener.queue)(await connection.channel())
    await listener.stop()


@pytest.mark.parametrize(
    ("user", "process", "exchange", "sends"),
    [
        (
            GATEWAY,
            "gateway-1",
            LIVE,
            {JOBS: JobReady(job_id=uuid7(), conversation_id=uuid7(), user_id="ada")}
            | {_JOURNAL: CancelRequested(job_id=uuid7(), conversation_id=uuid7())},
        ),
        (WORKER, "chat-worker host.1.x", CONTROL, {_JOURNAL: JournalChunks(chunks=[])}),
        (PERSISTENCE, "persistence-1", None, {JOBS: JobReady(job_id=uuid7(), conversation_id=uuid7(), user_id="ada")}),
    ],
)
async def test_a_user_can_do_what_its_service_does(
    urls: dict[str, str], user: str, process: str, exchange: str | None, sends: dict[str, Message]
) -> None:
    broker = Broker(
        urls[user],
        process,
        partition_count=1,
        declares=user == PERSISTENCE,
        journal_exchange=CANCELS if user == GATEWAY else ATTEMPTS,
    )
    heard: list[bytes] = []
    async with _publishing(broker) as publisher:
        for queue, message in sends.items():
            await publisher.send(queue, message)
        if exchange:
            listener = Listener(broker, exchange, heard.append, lambda: None)
            listener.start()
            await listener.wait_until_up(10)
            assert listener.queue
            assert exchange == LIVE or is_reply_queue(listener.queue)
            if user == GATEWAY:
                await publisher.tell(LIVE, LiveBatch(jobs=[]))
                await wait_until(lambda: _is_there(heard))
            await listener.stop()
        assert publisher.is_up


def test_no_service_can_look_into_the_broker(rabbitmq_url: str) -> None:
    """The management API is for the operator's user; that one sees, and changes nothing."""
    management = os.environ.get("RABBITMQ_MANAGEMENT_URL")
    if management is None:
        pytest.skip("no management API")
    place, vhost = urlsplit(management).netloc.rpartition("@")[2], urlsplit(rabbitmq_url).path[1:]

    def ask(user: str, method: str, path: str) -> int:
        password = user_password(user, rabbitmq_url)
        return httpx2.request(method, f"http://{place}/api{path}", auth=(user, password), timeout=30).status_code

    for user in ("parley_gateway", "parley_worker", "parley_persistence"):
        assert ask(user, "GET", "/overview") == httpx2.codes.UNAUTHORIZED
    assert ask("parley_operator", "GET", f"/queues/{quote(vhost)}") == httpx2.codes.OK
    assert ask("parley_operator", "DELETE", f"/queues/{quote(vhost)}/{JOBS}") != httpx2.codes.NO_CONTENT
    assert ask("parley_operator", "GET", "/users") == httpx2.codes.UNAUTHORIZED


@pytest.mark.parametrize(
    ("module", "prefix", "wrong", "expected"),
    [
        ("gateway", "GATEWAY", WORKER, ["parley_worker"]),
        ("chat_worker", "CHAT_WORKER", GATEWAY, ["parley_gateway"]),
        ("persistence", "PERSISTENCE", GATEWAY, ["configure", "chat.dead", "parley_gateway"]),
        ("persistence", "PERSISTENCE", None, ["wrong user or password"]),
    ],
)
def test_a_service_with_wrong_rights_says_what_it_lacks_and_ends(  # noqa: PLR0913, PLR0917 - a case's parts
    urls: dict[str, str],
    database_urls: dict[str, str],
    tmp_path: Path,
    module: str,
    prefix: str,
    wrong: str | None,
    expected: list[str],
) -> None:
    url = urls[wrong] if wrong else urls[PERSISTENCE].replace("parley_persistence:", "parley_persistence:planted-")
    environment = {
        "PATH": os.environ["PATH"],
        "PARLEY_PROFILE": "local",
        f"{prefix}_PORT": "0",
        f"{prefix}_RABBITMQ_URL": url,
        f"{prefix}_DATABASE_URL": database_urls[{"chat_worker": "parley_worker"}.get(module, f"parley_{module}")],
        "JWT_SECRET": "x" * 32,
        "TOOL_TOKEN_SECRET": "x" * 32,
        "CHAT_WORKER_GRACE_SECONDS": "0",
    }

    done = subprocess.run(
        [sys.executable, "-m", module],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "broker_access_refused" in done.stderr, done.stderr
    told = next(line for line in done.stderr.splitlines() if "broker_access_refused" in line)
    assert [word for word in expected if word not in told] == []
    assert "planted-" not in done.stderr
    assert urlsplit(urls[wrong or PERSISTENCE]).password not in done.stderr  # type: ignore[operator]


def test_what_comes_through_an_exchange_is_what_its_sender_may_send() -> None:
    chunks, cancel = JournalChunks(chunks=[_a_chunk()]), CancelRequested(job_id=uuid7(), conversation_id=uuid7())

    assert may_come_through(ATTEMPTS, chunks)
    assert may_come_through(CANCELS, cancel)
    assert not may_come_through(CANCELS, chunks)
    assert not may_come_through(READY, chunks)
    assert not may_come_through(ATTEMPTS, cancel)
    assert not may_come_through("amq.direct", cancel)


def test_an_answer_goes_to_a_workers_listener_and_nowhere_else() -> None:
    assert is_reply_queue(f"{CONTROL}.chat-worker host.1.x.y")
    for name in (
        JOBS,
        DEAD,
        LIVE,
        CONTROL,
        "",
        f"{CONTROL}.",
        f"x{CONTROL}.y",
        f"{CONTROL}.a\nb",
        f"{CONTROL}.{'x' * 300}",
    ):
        assert not is_reply_queue(name)


def test_a_broker_shows_no_password() -> None:
    assert "planted" not in repr(Broker("amqp://user:planted@host/", "test"))


def _a_chunk() -> JournalChunk:
    return JournalChunk(job_id=uuid7(), conversation_id=uuid7(), attempt=1, first_seq=0, events=[])


@asynccontextmanager
async def _publishing(broker: Broker) -> AsyncIterator[Publisher]:
    publisher = Publisher(broker)
    publisher.start()
    try:
        await publisher.wait_until_up(10)
        yield publisher
    finally:
        await publisher.stop()


async def _is_there(heard: list[bytes]) -> bool:
    return encode(LiveBatch(jobs=[])) in heard
