"""What anybody can do to the server before it knows who it is: nothing without a limit."""

import asyncio

import httpx2
import pytest

from tests.gateway.conftest import Serve, Served
from tests.support.stack import token_of


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


async def test_a_flood_of_headers_is_refused(serve: Serve) -> None:
    async with serve(head_bytes_max=8_192) as served:
        flood = (b"x-filler: " + b"x" * 1_000 + b"\r\n" for _ in range(10_000))

        said = await until_closed(served, b"GET /health/live HTTP/1.1\r\n", *flood)

        assert not said or said.startswith(b"HTTP/1.1 431 ")
        assert served.connection_count == 0


@pytest.mark.parametrize("end", [b"\r\n", b""])
async def test_one_endless_header_is_refused(serve: Serve, end: bytes) -> None:
    async with serve(head_bytes_max=8_192) as served:
        said = await until_closed(served, b"GET /health/live HTTP/1.1\r\nx: ", *[b"x" * 4_096] * 1_000, end)

        assert not said or said.startswith(b"HTTP/1.1 431 ")


async def test_a_head_just_below_the_limit_is_read_and_so_is_the_next_on_its_connection(serve: Serve) -> None:
    async with serve(head_bytes_max=8_192) as served, served.client("ada") as client:
        for _ in range(3):
            body = {"metadata": {"k" * 60: "v" * 500}}
            answer = await client.post("/v1/conversations", json=body, headers={"x-filler": "x" * 7_000})
            assert answer.status_code == 200


async def test_a_large_body_that_comes_with_its_head_is_no_large_head(serve: Serve) -> None:
    async with serve(head_bytes_max=8_192) as served, served.client("ada") as client:
        for _ in range(2):
            answer = await client.post(
                "/v1/conversations", content=b"{}".ljust(200_000), headers={"content-type": "application/json"}
            )
            assert answer.status_code == 200


@pytest.mark.parametrize("beginning", [b"", b"GET /health/li", b"GET /health/live HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_that_does_not_arrive_ends_the_connection(serve: Serve, beginning: bytes) -> None:
    async with serve(head_seconds_max=0.2) as served:
        said = await until_closed(served, beginning)

        assert said.startswith(b"HTTP/1.1 408 ") if beginning else said == b""


async def test_a_second_head_that_does_not_arrive_ends_the_connection(serve: Serve) -> None:
    async with serve(head_seconds_max=0.2) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200" in await reader.readuntil(b'{"status":"ok"}')
        writer.write(b"GET ")

        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_a_body_that_does_not_arrive_is_answered_with_408(serve: Serve) -> None:
    head = (
        f"POST /v1/conversations HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token_of('ada')}\r\n"
        "content-type: application/json\r\ncontent-length: 100\r\n\r\n{"
    )
    async with serve(body_seconds_max=0.2) as served:
        said = await until_closed(served, head.encode())

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
