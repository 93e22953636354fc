"""The load generator sees what it must see: each wrong word, each failure, and waiting that was not its own."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import Any

import pytest

from bench.load.dialects import Direct
from bench.load.http import Connection, Frames, HttpError, Request
from bench.load.turns import Load
from bench.words import Verdict, Wanted, judged, wanted_in
from tests.bench.servers import Spoil, model_server
from tests.support.waiting import wait_until


async def _direct(spoil: Spoil | None, turns: int = 5) -> dict[str, Any]:
    async with model_server(spoil) as (url, _):
        return (await Load(url, Direct(), Wanted("", tokens=9)).counted(turns)).summary()


async def test_right_answers_are_right() -> None:
    summary = await _direct(None)

    assert (summary["turns"], summary["failed"], summary["wrong_answers"]) == (5, 0, 0)
    assert summary["first_token_ms"].count == 5
    assert summary["between_tokens_ms"].count == 5 * 8


def _without_third(pieces: list[str]) -> Sequence[str]:
    return pieces[:2] + pieces[3:]


def _third_twice(pieces: list[str]) -> Sequence[str]:
    return [*pieces[:3], *pieces[2:]]


def _with_another_s(pieces: list[str]) -> Sequence[str]:
    return [*pieces[:3], " 77-4.0", *pieces[3:]]


def _two_exchanged(pieces: list[str]) -> Sequence[str]:
    return [*pieces[:2], pieces[3], pieces[2], *pieces[4:]]


def _cut(pieces: list[str]) -> Sequence[str]:
    return pieces[:-1]


@pytest.mark.parametrize(
    ("spoil", "kind", "count"),
    [
        (_without_third, "lost_words", 5),
        (_third_twice, "doubled_words", 5),
        (_with_another_s, "foreign_words", 5),
        (_two_exchanged, "misplaced_words", 10),
        (_cut, "lost_words", 5),
    ],
)
async def test_a_server_that_spoils_words_is_found_out(spoil: Spoil, kind: str, count: int) -> None:
    summary = await _direct(spoil)

    assert summary["wrong_answers"] == 5
    assert summary[kind] == count
    others = {"lost_words", "doubled_words", "foreign_words", "misplaced_words"} - {kind}
    assert all(summary[other] == 0 for other in others)


async def test_a_stream_without_an_end_is_a_failure() -> None:
    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"]]")
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        summary = (await Load(url, Direct(), Wanted("", tokens=9)).counted(2)).summary()

    assert summary["failed"] == 2
    assert "without an end" in next(iter(summary["troubles"]))


async def test_a_turn_that_begins_late_has_waited() -> None:
    """Due at the rate, whatever the server does: one that stalls is charged for those that came meanwhile."""
    all_are_here = asyncio.Barrier(20)

    async def stalls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"]]")
        await all_are_here.wait()
        writer.write(b"HTTP/1.1 500 Broken\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(stalls, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        outcomes = (await Load(url, Direct(), Wanted("", tokens=9)).open_loop(rate=200, seconds=0.1)).outcomes

    assert len(outcomes) == 20
    dues = sorted(outcome.intended_at for outcome in outcomes)
    gaps = [later - earlier for earlier, later in itertools.pairwise(dues)]
    assert gaps == pytest.approx([0.005] * 19)


async def test_a_client_that_leaves_ends_the_model_s_answer() -> None:
    async with model_server() as (url, counts):
        body = b'{"stream": true, "messages": [{"content": "%b"}]}' % Wanted("k", pace=1.0).directive.encode()
        heard = asyncio.Event()
        request = Request("POST", "/v1/chat/completions", body=body)
        sending = asyncio.create_task(Connection(url).send(request, lambda *_: heard.set()))
        await heard.wait()
        sending.cancel()

        async def left() -> int:
            return counts.left

        assert await wait_until(left) == 1


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000])
async def test_bodies_are_read_whatever_pieces_they_come_in(size: int) -> None:
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;x=y\r\n, world\r\n0\r\n\r\n"

    async def dribbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for at in range(0, len(raw), size):
            writer.write(raw[at : at + size])
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read(1)
        writer.close()

    pieces: list[bytes] = []
    async with await asyncio.start_server(dribbles, "127.0.0.1", 0) as server:
        connection = Connection(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        status = await connection.send(Request("GET", "/"), lambda _, piece: pieces.append(piece))
        connection.close()

    assert (status, b"".join(pieces)) == (200, b"hello, world")


async def test_a_lost_connection_is_an_error() -> None:
    async def leaves(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhel")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(leaves, "127.0.0.1", 0) as server:
        connection = Connection(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        with pytest.raises(HttpError):
            await connection.send(Request("GET", "/"), lambda *_: None)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_frames_are_found_whatever_pieces_they_come_in(end: bytes) -> None:
    stream = b"data: a" + end + end + b"event: b" + end + b"data: c" + end + end

    for size in range(1, len(stream)):
        frames = Frames()
        found = [frame for at in range(0, len(stream), size) for frame in frames.feed(stream[at : at + size])]
        assert found == [b"data: a", b"event: b\ndata: c"]


def test_a_directive_says_all_that_is_wanted() -> None:
    wanted = Wanted("k-1", tokens=7, pace=30.0, burst=3, first_ms=12.5, tool="list_tasks")

    assert wanted_in(f"[[bench key=other]] then {wanted.directive}") == wanted
    assert wanted_in("nothing") is None


def test_a_right_answer_has_no_fault() -> None:
    wanted = Wanted("k", tokens=3)

    assert judged(wanted, "k.0 k.1 k.2") == Verdict()
    assert not judged(wanted, "").is_right
