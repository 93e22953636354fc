"""What anybody can do to the server before it knows who it is: nothing without a limit."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import suppress
from typing import Any

import httpx2
import pytest

from gateway.settings import GatewaySettings
from tests.gateway.conftest import Serve, Served, serving
from tests.support.stack import token_of
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
async def served(gateway_settings: GatewaySettings) -> AsyncIterator[Served]:
    """A gateway with small limits, for all tests that need no limits of their own."""
    limits = {"head_bytes_max": 8_192, "pipelined_requests_max": 4}
    async with serving(gateway_settings.model_copy(update=limits)) as served:
        yield served


@pytest.fixture(scope="module")
async def impatient(gateway_settings: GatewaySettings) -> AsyncIterator[Served]:
    """A gateway that waits for nobody."""
    limits = {"head_seconds_max": 0.2, "body_seconds_max": 0.2}
    async with serving(gateway_settings.model_copy(update=limits)) as served:
        yield served


async def is_left(served: Served) -> None:
    """Returns as soon as the gateway has no connection any more."""

    async def has_none() -> bool:
        return served.connection_count == 0

    await wait_until(has_none)


async def until_closed(served: Served, *parts: bytes, seconds: float = 10.0) -> bytes:
    """What the gateway says to a connection that brings `parts`, until it closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    said = b""
    try:
        async with asyncio.timeout(seconds):
            for part in parts:
                writer.write(part)
                await writer.drain()
            while received := await reader.read(65_536):
                said += received
    except ConnectionError:
        pass  # it closed with something of ours unread
    finally:
        writer.close()
    return said


async def test_a_flood_of_headers_is_refused(served: Served) -> None:
    flood = (b"x-filler: " + b"x" * 1_000 + b"\r\n" for _ in range(10_000))

    said = await until_closed(served, b"GET /health/live HTTP/1.1\r\n", *flood)

    assert not said or said.startswith(b"HTTP/1.1 431 ")
    await is_left(served)


@pytest.mark.parametrize("end", [b"\r\n", b""])
async def test_one_endless_header_is_refused(served: Served, end: bytes) -> None:
    said = await until_closed(served, b"GET /health/live HTTP/1.1\r\nx: ", *[b"x" * 4_096] * 1_000, end)

    assert not said or said.startswith(b"HTTP/1.1 431 ")


async def test_a_head_just_below_the_limit_is_read_and_so_is_the_next_on_its_connection(served: Served) -> None:
    async with served.client("ada") as client:
        for _ in range(3):
            body = {"metadata": {"k" * 60: "v" * 500}}
            answer = await client.post("/v1/conversations", json=body, headers={"x-filler": "x" * 7_000})
            assert answer.status_code == 200


async def test_a_large_body_that_comes_with_its_head_is_no_large_head(served: Served) -> None:
    async with served.client("ada") as client:
        for _ in range(2):
            answer = await client.post(
                "/v1/conversations", content=b"{}".ljust(200_000), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200


@pytest.mark.parametrize("beginning", [b"", b"GET /health/li", b"GET /health/live HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_that_does_not_arrive_ends_the_connection(impatient: Served, beginning: bytes) -> None:
    said = await until_closed(impatient, beginning)

    assert said.startswith(b"HTTP/1.1 408 ") if beginning else said == b""


async def test_a_second_head_that_does_not_arrive_ends_the_connection(impatient: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
    assert b"200" in await reader.readuntil(b'{"status":"ok"}')
    writer.write(b"GET ")

    assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_a_body_that_does_not_arrive_is_answered_with_408(impatient: Served) -> None:
    head = (
        f"POST /v1/conversations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token_of('ada')}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    said = await until_closed(impatient, head.encode())

    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"body_too_slow" in said


async def test_connections_beyond_the_limit_are_answered_with_503(serve: Serve) -> None:
    async with serve(connections_max=3) as served:
        others = [await asyncio.open_connection("127.0.0.1", served.port) for _ in range(3)]
        async with served.client("ada") as client:
            answer = await client.get("/health/live")
        for _, writer in others:
            writer.close()

    assert answer.status_code == httpx2.codes.SERVICE_UNAVAILABLE


def error_of(said: bytes) -> dict[str, Any]:
    """The one answer that was said, as an error."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"\r\nx-content-type-options: nosniff\r\n" in head
    assert b"\r\nconnection: close\r\n" in head
    assert f"\r\ncontent-length: {len(body)}\r\n".encode() in head
    error: dict[str, Any] = json.loads(body)["error"]
    return error


MALFORMED = {
    "not HTTP": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "an unknown method": b"FETCH /api/x HTTP/1.1\r\nhost: x\r\n\r\n",
    "an unknown version": b"GET /api/x HTTP/9.9\r\nhost: x\r\n\r\n",
    "the preface of HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": b"CONNECT example.com:443 HTTP/1.1\r\nhost: x\r\n\r\n",
    "NUL in a header": b"GET /api/x HTTP/1.1\r\nhost: x\r\na: b\0c\r\n\r\n",
    "a blank in a header's name": b"GET /api/x HTTP/1.1\r\nhost: x\r\na b: c\r\n\r\n",
    "two lengths": b"POST /api/x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    "a negative length": b"POST /api/x HTTP/1.1\r\nhost: x\r\ncontent-length: -5\r\n\r\nhello",
    "a length beyond all": b"POST /api/x HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\nhello",
    "a length and chunks": (
        b"POST /api/x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    ),
    "chunks in two disguises": (
        b"POST /api/x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n"
    ),
}


@pytest.mark.parametrize("fault", MALFORMED)
async def test_what_is_no_http_is_answered_in_our_form_without_internals(served: Served, fault: str) -> None:
    said = await until_closed(served, MALFORMED[fault])

    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert error_of(said)["error_code"] == "malformed_request"
    await is_left(served)


async def test_openais_clients_are_told_in_the_form_they_know(served: Served) -> None:
    malformed = await until_closed(served, b"GET /v1/models HTTP/1.1\r\na b: c\r\n\r\n")
    too_large = await until_closed(served, b"GET /v1/models HTTP/1.1\r\nx: " + b"x" * 9_000)

    assert error_of(malformed)["code"] == "malformed_request"
    assert error_of(too_large)["code"] == "head_too_large"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "TRACE", "PUT", "PROPFIND", "QUERY"])
async def test_a_method_that_is_not_there_is_answered_with_those_that_are(served: Served, method: str) -> None:
    async with served.client("ada") as client:
        answer = await client.request(method, "/v1/conversations")
        after = await client.get("/health/live")

    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, POST"
    assert after.status_code == 200


async def test_who_asks_for_another_protocol_is_answered_in_this_one(served: Served) -> None:
    said = await until_closed(served, head("/health/live", "connection: close, upgrade", "upgrade: h2c", method="GET"))

    assert said.startswith(b"HTTP/1.1 200 ")


GET = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_requests_that_are_sent_ahead_are_answered_in_their_order(served: Served) -> None:
    said = await until_closed(served, GET * 2, b"GET /nowhere HTTP/1.1\r\nconnection: close\r\n\r\n")

    assert said.count(b"HTTP/1.1 200 OK") == 2
    assert said.index(b"HTTP/1.1 404") > said.rindex(b"HTTP/1.1 200 OK")


async def test_no_more_requests_wait_on_a_connection_than_may(served: Served) -> None:
    said = await until_closed(served, *[GET * 1_000] * 20)

    assert said.count(b"HTTP/1.1 200 OK") <= 5
    await is_left(served)


def head(path: str, *lines: str, method: str = "POST") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: x", *lines, "", ""]).encode()


AUTHORIZED = (f"authorization: Bearer {token_of('ada')}", "content-type: application/json")
CHUNKED = "transfer-encoding: chunked"


async def test_a_body_in_chunks_over_the_limit_is_refused_long_before_its_end(served: Served) -> None:
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    said = await until_closed(served, head("/v1/conversations", *AUTHORIZED, CHUNKED), *[chunk] * 2_000)

    assert not said or said.startswith(b"HTTP/1.1 413 ")


async def test_a_body_in_the_smallest_chunks_is_read(served: Served) -> None:
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b"{}".ljust(20_000))
    request = head("/v1/conversations", *AUTHORIZED, CHUNKED, "connection: close")
    said = await until_closed(served, request, chunks, b"0\r\n\r\n")

    assert said.startswith(b"HTTP/1.1 200 ")


def endless(part: bytes) -> Iterable[bytes]:
    return (part for _ in range(3_000))


@pytest.mark.parametrize(
    ("beginning", "part"),
    [
        pytest.param(b"0\r\n", b"x-filler: " + b"x" * 4_000 + b"\r\n", id="trailers"),
        pytest.param(b"0\r\nx-filler: ", b"x" * 4_000, id="one trailer"),
        pytest.param(b"1;a=", b"x" * 4_000, id="the extension of a chunk"),
    ],
)
async def test_what_comes_with_a_body_has_a_limit_too(served: Served, beginning: bytes, part: bytes) -> None:
    request = head("/v1/conversations", *AUTHORIZED, CHUNKED)
    said = await until_closed(served, request, beginning, *endless(part))

    assert not said or error_of(said)["code"] == "head_too_large"
    await is_left(served)


@pytest.mark.parametrize(
    "request_head",
    [
        pytest.param(head("/v1/conversations", "content-length: 1000000"), id="of a stranger"),
        pytest.param(head("/health/live", "content-length: 1000000", method="GET"), id="that nobody reads"),
    ],
)
async def test_a_body_that_drips_in_after_the_answer_ends_the_connection(
    impatient: Served, request_head: bytes
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", impatient.port)

    async def drip() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.02)

    writer.write(request_head)
    dripping = asyncio.create_task(drip())
    with suppress(ConnectionError):  # it closed with something of ours unread
        async with asyncio.timeout(10):
            await reader.read()
    dripping.cancel()
    writer.close()
    await is_left(impatient)


async def test_who_hangs_up_in_the_middle_of_a_body_leaves_nothing_behind(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head("/v1/conversations", *AUTHORIZED, "content-length: 100") + b"{")
    writer.write_eof()

    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    await is_left(served)


async def test_a_stream_ends_with_its_connection_though_another_request_waits_behind_it(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head("/v1/events", *AUTHORIZED, method="GET") + head("/health/live", method="GET"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")

    writer.transport.abort()

    async def is_over() -> bool:
        return not served.server.server_state.tasks

    await wait_until(is_over, seconds=5)


async def test_a_body_that_nobody_reads_is_dropped_while_its_stream_goes_on(served: Served) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(head("/v1/events", *AUTHORIZED, "content-length: 100000000", method="GET"))
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")

    async with asyncio.timeout(20):
        for _ in range(40):
            writer.write(bytes(1_000_000))  # more than all buffers on the way hold
            await writer.drain()
    (task,) = served.server.server_state.tasks
    connection: Any = next(iter(served.server.server_state.connections))
    held = len(connection.cycle.body)
    writer.close()

    async def is_over() -> bool:
        return not served.server.server_state.tasks

    await wait_until(is_over, seconds=5)
    assert held == 0
    assert task.exception() is None


@pytest.mark.parametrize(("proxies", "are_believed"), [(["192.0.2.0/24"], False), (["127.0.0.0/8"], True)])
async def test_whom_a_request_came_from_is_told_by_trusted_proxies_only(
    serve: Serve,
    proxies: list[str],
    are_believed: bool,  # noqa: FBT001
) -> None:
    limits = {"anonymous_requests_per_second_max": 0.001, "anonymous_requests_burst_max": 1, "read_request_cost": 1.0}
    async with serve(trusted_proxies=frozenset(proxies), **limits) as served, httpx2.AsyncClient() as client:
        statuses = [
            (
                await client.get(
                    f"http://127.0.0.1:{served.port}/nowhere", headers={"x-forwarded-for": f"10.9.9.9, 203.0.113.{n}"}
                )
            ).status_code
            for n in range(3)
        ]

    assert statuses == ([404, 404, 404] if are_believed else [404, 429, 429])
