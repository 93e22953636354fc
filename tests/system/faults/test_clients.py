"""Clients that do not behave, and a deployment in the middle of the day."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from urllib.parse import urlsplit

import asyncpg
import httpx2
import pytest
from openai import AsyncOpenAI

from tests.support.stack import token_of
from tests.support.waiting import wait_until
from tests.system.faults.history import Read, Said, Talker, stream_request_id
from tests.system.faults.load import QUICK_REPAIRS, Arena

_STREAMS_MAX = int(QUICK_REPAIRS["GATEWAY_STREAMS_PER_USER_MAX"])


async def test_a_reader_that_does_not_read_is_let_go_and_goes_on_later(whole: Arena) -> None:
    user, other = whole.users
    said = await user.ask(tokens=20_000, delay_ms=0)
    taken = Read(-1)
    async with user.with_receive_buffer(65_536) as sleeper, sleeper.stream(said, -1) as events:
        async for event in events:
            assert event is not None, "the whole stream fits into the buffers"
            taken.events.append(event)
            if len(taken.events) == 1:
                await whole.read(other, await other.ask())
                # The gateway tells of a request when it is over.
                is_over = partial(_says, whole, f'"{stream_request_id(said, -1)}"')
                await wait_until(is_over, seconds=30, what="the reader is let go")

    await user.follow(said, starting_after=len(taken.events) - 1)
    said.readers[-1].insert(0, taken)

    assert await whole.verdict(attempts_max=1) == []


async def test_many_readers_that_do_not_read_take_little_and_hold_up_nobody(whole: Arena) -> None:
    """Each is let go when it took nothing for a while, and goes on behind what it has."""
    gateways = whole.stack.of_kind("gateway")
    talkers = list(whole.users)
    await asyncio.gather(*(_heard(whole, *talkers) for _ in gateways))
    before = {gateway.name: gateway.resident_bytes() for gateway in gateways}
    sleepers = [Talker.new(whole.history, [each.url for each in gateways], f"sleeper{n}") for n in range(7)]
    whole.users += sleepers
    async with AsyncExitStack() as stack:
        reads: list[tuple[Talker, Said, Read]] = []
        for sleeper in sleepers:
            said = await sleeper.ask(tokens=20_000, delay_ms=0)
            slow = await stack.enter_async_context(sleeper.with_receive_buffer(4_096))
            for _ in range(_STREAMS_MAX):
                events = await stack.enter_async_context(slow.stream(said, -1))
                reads.append((sleeper, said, await _first_of(events)))

        await _heard(whole, *talkers)
        grown = {gateway.name: gateway.resident_bytes() - before[gateway.name] for gateway in gateways}

        assert len(reads) >= 50
        assert all(size < 50 * 2**20 for size in grown.values()), grown
        for sleeper, said, read in reads[::_STREAMS_MAX]:
            await sleeper.follow(said, starting_after=len(read.events) - 1)
            said.readers[-1].insert(0, read)
    assert await whole.verdict(attempts_max=1) == []


async def test_hundreds_of_connections_to_one_answer_read_every_event_once(whole: Arena) -> None:
    """Each reads on where the one before broke off, at the other gateway, and is sent nothing from before that."""
    await whole.talk()
    await whole.rest()
    user = whole.users[0]
    said = await user.ask(tokens=1_000, delay_ms=5)
    reads: list[Read] = []
    while len(reads) < 300:
        cursor = len(reads) - 1
        with suppress(httpx2.TransportError):  # those that broke off may still count for a moment
            async with user.stream(said, cursor) as events:
                reads.append(await _first_of(events, cursor))

    await user.follow(said, starting_after=len(reads) - 1)
    said.readers[-1][:0] = reads
    assert await whole.verdict(attempts_max=1) == []


async def test_clients_that_vanish_leave_nothing_behind_and_their_answers_come(whole: Arena) -> None:
    await _visited_by_many_that_vanish(whole)
    await whole.rest()

    await _visited_by_many_that_vanish(whole)

    assert await whole.verdict(attempts_max=1) == []


async def test_openais_client_whose_gateway_dies_asks_again_and_is_answered_once(whole: Arena) -> None:
    """In the foreground and without a key: all that its next request says is that it is not the first."""
    user, gateway = whole.users[0], whole.stack.gateway()
    said = Said(user.user_id, f"[[demo: tokens=150 delay_ms=20]] {user.canary()}", "chat")
    whole.history.said.append(said)
    async with AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=token_of(user.user_id), max_retries=10) as client:
        asking = asyncio.create_task(client.responses.create(model=said.model, input=said.text))
        await _runs(whole, user.user_id)

        gateway.kill()
        gateway.start()
        response = await asking

    assert response.conversation is not None
    said.response_id, said.conversation_id, said.number = response.id, response.conversation.id, 1
    assert response.status == "completed"
    await whole.read(user, said)
    assert await whole.verdict(attempts_max=1) == []


@pytest.mark.parametrize("kind", ["gateway", "chat-worker", "persistence", "task-tools"])
async def test_every_process_of_a_kind_is_replaced_under_load(kind: str, whole: Arena) -> None:
    stop = asyncio.Event()

    async def keep_talking() -> None:
        while not stop.is_set():
            await whole.talk()
            await asyncio.sleep(0.2)

    talking = asyncio.create_task(keep_talking())
    for process in whole.stack.of_kind(kind):
        assert await asyncio.to_thread(process.stop) in {0, -15}
        process.start()
        await process.ready()
    stop.set()
    await talking

    assert await whole.verdict(attempts_max=3) == []


async def _first_of(events: AsyncIterator[bytes | None], cursor: int = -1) -> Read:
    """What a reader has who went to sleep behind the first event."""
    event = await anext(events)
    assert event is not None, "a stream does not begin with its end"
    return Read(cursor, [event])


async def _heard(arena: Arena, *users: Talker) -> None:
    """All of them ask, and read their answers to the end."""
    await asyncio.gather(*[arena.read(user, await user.ask()) for user in users])


async def _visited_by_many_that_vanish(arena: Arena) -> None:
    """More than may be open at once: those that vanished count no more."""
    talking = asyncio.create_task(arena.talk())
    said = await arena.users[0].ask(tokens=100, delay_ms=20)
    for _ in range(2 * _STREAMS_MAX):
        await asyncio.to_thread(_vanish, _opened_stream(arena, said))
    await asyncio.gather(talking, arena.read(arena.users[0], said))


def _opened_stream(arena: Arena, said: Said) -> socket.socket:
    """A stream that was asked for on a bare socket."""
    gateway = urlsplit(arena.stack.gateway().url)
    connection = socket.create_connection((gateway.hostname, gateway.port), timeout=10)
    connection.sendall(
        f"GET /v1/responses/{said.response_id}?stream=true HTTP/1.1\r\n"
        f"Host: {gateway.netloc}\r\nAuthorization: Bearer {token_of(said.user_id)}\r\n\r\n".encode()
    )
    return connection


def _vanish(connection: socket.socket) -> None:
    """Close with a reset, in the middle of whatever comes."""
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


async def _runs(arena: Arena, user_id: str) -> None:
    """Waits until a worker speaks for the user."""
    owner = await asyncpg.connect(arena.backends.database_urls["owner"])
    try:

        async def has_begun() -> bool:
            return bool(await owner.fetchval("select true from jobs where user_id = $1 and next_seq > 5", user_id))

        await wait_until(has_begun)
    finally:
        await owner.close()


async def _says(arena: Arena, word: str) -> bool:
    return word in arena.stack.logs("gateway")
