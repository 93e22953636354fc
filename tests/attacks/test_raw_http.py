"""Bytes that no client sends: what could be read in two ways is refused, and what hides behind it is never heard.

(What is simply no HTTP, and what comes too slowly or is too large, is in `tests/gateway/test_http_server.py`.)
"""

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.settings import GatewaySettings
from shared.ids import uuid7
from tests.attacks.effort import SECONDS
from tests.gateway.conftest import Serve, Served, serving
from tests.support.stack import token_of
from tests.support.waiting import wait_until

USER = f"smuggler-{uuid7().hex}"
TOKEN = f"authorization: Bearer {token_of(USER)}\r\n".encode()
JSON = b"content-type: application/json\r\n"
POST = b"POST /v1/conversations HTTP/1.1\r\nhost: x\r\n" + TOKEN + JSON
HIDDEN = POST + b"content-length: 2\r\n\r\n{}"
CHUNKED = b"transfer-encoding: chunked\r\n"
LAST = b"0\r\n\r\n"
MEGABYTE = 1_048_576


@pytest.fixture(scope="module")
async def served(gateway_settings: GatewaySettings) -> AsyncIterator[Served]:
    limits = {"head_seconds_max": 1.0, "body_seconds_max": 1.0, "head_bytes_max": 8_192}
    async with serving(gateway_settings.model_copy(update=limits)) as served:
        yield served


async def said_to(served: Served, *parts: bytes, ends: bool = True) -> bytes:
    """What the gateway says to these bytes, until it closes or, where the client `ends`, has no more to say."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    said = b""
    try:
        async with asyncio.timeout(15):
            for part in parts:
                writer.write(part)
                await writer.drain()
            if ends:
                writer.write_eof()
            while received := await reader.read(65_536):
                said += received
    except ConnectionError:
        pass  # it closed with something of ours unread
    finally:
        writer.close()
    return said


async def conversation_count(served: Served, user: str = USER) -> int:
    async with served.client(user) as client:
        return len((await client.get("/v1/conversations", params={"limit": 100})).json()["data"])


AMBIGUOUS = {
    "a length, and chunks": POST + b"content-length: 5\r\n" + CHUNKED + b"\r\n" + LAST + HIDDEN,
    "chunks, and a length": POST + CHUNKED + b"content-length: 5\r\n\r\n" + LAST + HIDDEN,
    "two lengths": POST + b"content-length: 2\r\ncontent-length: 90\r\n\r\n{}" + HIDDEN,
    "two lengths in one": POST + b"content-length: 2, 90\r\n\r\n{}" + HIDDEN,
    "a length with a sign": POST + b"content-length: +2\r\n\r\n{}" + HIDDEN,
    "a length in hexadecimal": POST + b"content-length: 0x2\r\n\r\n{}" + HIDDEN,
    "a blank before the colon": POST + b"transfer-encoding : chunked\r\n\r\n" + LAST + HIDDEN,
    "chunks, then something else": POST + b"transfer-encoding: chunked, identity\r\n\r\n" + LAST + HIDDEN,
    "an encoding that there is not": POST + b"transfer-encoding: xchunked\r\n\r\n" + LAST + HIDDEN,
    "a folded header": POST + b"x: y\r\n transfer-encoding: chunked\r\ntransfer-encoding:\r\n chunked\r\n\r\n" + LAST,
    "a chunk of a negative length": POST + CHUNKED + b"\r\n-2\r\n{}\r\n" + LAST + HIDDEN,
    "a chunk beyond all lengths": POST + CHUNKED + b"\r\n1ffffffffffffffff\r\n{}\r\n" + LAST + HIDDEN,
    "a chunk whose end is not there": POST + CHUNKED + b"\r\n2\r\n{}XX" + LAST + HIDDEN,
    "line feeds alone": POST.replace(b"\r\n", b"\n") + b"content-length: 5\n" + CHUNKED + b"\n" + LAST + HIDDEN,
    "a carriage return alone": POST + b"x: a\rcontent-length: 2\r\n\r\n" + HIDDEN,
    "NUL in a header's name": POST + b"content\0-length: 2\r\n\r\n{}" + HIDDEN,
    "a header without a name": POST + b": chunked\r\n\r\n" + HIDDEN,
    "HTTP/0.9": b"GET /v1/conversations\r\n" + HIDDEN,
    "a version of its own": POST.replace(b"1.1", b"1.1x") + b"content-length: 2\r\n\r\n{}",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "an authority as target": b"CONNECT 169.254.169.254:80 HTTP/1.1\r\nhost: x\r\n\r\n" + HIDDEN,
}


@pytest.mark.parametrize("form", AMBIGUOUS)
async def test_what_can_be_read_in_two_ways_is_refused_and_nothing_behind_it_is_heard(
    served: Served, form: str
) -> None:
    said = await said_to(served, AMBIGUOUS[form])

    assert said.count(b"HTTP/1.1 ") == 1
    assert said.startswith(b"HTTP/1.1 400 "), said
    assert await conversation_count(served) == 0


@pytest.mark.parametrize(
    "target", [b"http://169.254.169.254/health/live", b"https://user@evil.example/", b"*", b"//x/y"]
)
async def test_a_target_elsewhere_leads_nowhere_else(served: Served, target: bytes) -> None:
    said = await said_to(served, b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")

    assert said[:13] in {b"HTTP/1.1 200 ", b"HTTP/1.1 400 ", b"HTTP/1.1 404 "}
    assert not any(word in said.lower() for word in (b"\r\nlocation:", b"evil", b"169.254"))


@pytest.mark.parametrize("count", [0, 2])
async def test_a_host_that_is_missing_or_named_twice_changes_nothing(served: Served, count: int) -> None:
    said = await said_to(served, b"GET /nowhere HTTP/1.1\r\n" + b"host: evil.example\r\n" * count + b"\r\n")

    assert said[:13] in {b"HTTP/1.1 404 ", b"HTTP/1.1 400 "}
    assert b"evil" not in said


async def test_heads_and_bodies_that_drip_are_ended_and_others_are_served_meanwhile(served: Served) -> None:
    heads = (b"GET /health/live HTTP/1.1\r\nhost: x\r\nx: ", POST + b"content-length: 1000\r\n\r\n")

    async def drip(head: bytes) -> bytes:
        async def parts() -> AsyncIterator[bytes]:
            yield head
            while True:
                await asyncio.sleep(0.1)  # the attack: one byte now and then
                yield b" "

        return await _dripped(served, parts())

    dripping = [asyncio.create_task(drip(head)) for head in heads * 25]
    assert await conversation_count(served) == 0
    for said in await asyncio.gather(*dripping):
        assert not said or said.startswith(b"HTTP/1.1 408 ")
    await _is_left(served)


async def _dripped(served: Served, parts: AsyncIterator[bytes]) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    reading = asyncio.create_task(reader.read())
    with suppress(ConnectionError):
        async with asyncio.timeout(15):
            async for part in parts:
                if reading.done():
                    break
                writer.write(part)
                await writer.drain()
    with suppress(ConnectionError):
        said = await reading
        writer.close()
        return said
    return b""


async def _is_left(served: Served) -> None:
    async def has_none() -> bool:
        return served.connection_count == 0

    await wait_until(has_none)


async def test_connections_that_are_left_half_open_or_reset_leave_nothing_behind(served: Served) -> None:
    beginnings = (b"", POST, POST + b"content-length: 9\r\n\r\n{", POST + CHUNKED + b"\r\n1\r\n", HIDDEN[:-1])
    writers = []
    for number in range(50):
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(beginnings[number % len(beginnings)])
        writers.append(writer)
    for number, writer in enumerate(writers):
        if number % 2:
            writer.transport.abort()
        else:
            writer.write_eof()

    await _is_left(served)
    for writer in writers:
        writer.close()
    assert await conversation_count(served) == 0


async def test_bytes_at_random_end_in_a_refusal_and_take_no_memory(served: Served) -> None:
    chosen = random.Random(20260424)  # noqa: S311 - the same ones each time
    parts = [*AMBIGUOUS.values(), HIDDEN.replace(TOKEN, b""), b"\r\n", b"\0", b"\xff" * 9, CHUNKED, b" HTTP/1.1\r\n"]
    before = _resident_bytes()
    for _ in range(20 * SECONDS):
        bytes_ = b"".join(_changed(chosen, chosen.choice(parts)) for _ in range(3)).replace(TOKEN, b"")
        for answer in (await said_to(served, bytes_)).split(b"HTTP/1.1 ")[1:]:
            assert answer[:3] in {b"200", b"400", b"401", b"404", b"405", b"408", b"413", b"415", b"431"}, answer
    await _is_left(served)

    assert await conversation_count(served) == 0
    assert _resident_bytes() - before < 64 * MEGABYTE


def _changed(chosen: random.Random, part: bytes) -> bytes:
    start = chosen.randrange(len(part) + 1)
    return part[:start] + chosen.randbytes(chosen.randrange(4)) + part[start + chosen.randrange(4) :]


async def test_a_flood_of_large_requests_takes_no_more_memory_than_the_limits_allow(serve: Serve) -> None:
    body = b"x" * MEGABYTE
    async with serve(body_bytes_max=65_536) as served:
        before = _resident_bytes()
        for _ in range(5):
            flood = (said_to(served, POST + b"content-length: 999999999\r\n\r\n", body, body) for _ in range(20))
            for said in await asyncio.gather(*flood):
                assert not said or said.startswith(b"HTTP/1.1 413 ")
        await _is_left(served)

        assert _resident_bytes() - before < 64 * MEGABYTE


def _resident_bytes() -> int:
    """What this process has in memory; the gateway runs in it."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
