"""The model of the benches: chat completions as a stream, made beforehand, at a pace, for next to no CPU.

    python -m bench.model PORT

It answers what the directive in the last user message asks for (see `bench.words`). A plain `asyncio.Protocol`: what
the stand-in spends is taken from the machine that is measured. `GET /health` answers 200, `GET /stats` tells counts.
"""

import asyncio
import re
import signal
import sys
from collections.abc import Sequence
from typing import cast

import msgspec
import uvloop

from bench.words import Wanted, wanted_in

BODY_BYTES_MAX = 64 * 2**20

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_TOOL_ANSWER = re.compile(rb'"role"\s*:\s*"tool"')
_STREAM = re.compile(rb'"stream"\s*:\s*true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
_CHUNK = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":"bench",'
    b'"service_tier":"default","system_fingerprint":"fp_bench","choices":[{"index":0,"delta":%b,"logprobs":null,'
    b'"finish_reason":%b}],"usage":null}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1767225600,"model":"bench",'
    b'"service_tier":"default","system_fingerprint":"fp_bench","choices":[],"usage":{"prompt_tokens":%d,'
    b'"completion_tokens":%d,"total_tokens":%d}}\n\n'
)
_DONE = b"data: [DONE]\n\n"
_ROLE = _CHUNK % (b'{"role":"assistant","content":"","refusal":null}', b"null")


class Counts(msgspec.Struct):
    """What was asked for and sent, for `GET /stats`."""

    requests: int = 0
    deltas: int = 0
    left: int = 0  # clients that left before the end


class Exchange(asyncio.Protocol):
    """One connection, one request at a time, kept alive."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._buffer = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses of it

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer is not None:
            self._counts.left += 1
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head_end = self._buffer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = bytes(self._buffer[: head_end + 2])
        length = _LENGTH.search(head)
        end = head_end + 4 + (int(length[1]) if length else 0)
        if end - head_end > BODY_BYTES_MAX:
            self._transport.abort()
        elif len(self._buffer) >= end:
            body = bytes(self._buffer[head_end + 4 : end])
            del self._buffer[:end]
            self._answer(head, body)

    def _answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST") and b"/chat/completions" in head.partition(b"\r\n")[0]:
            self._complete(body)
        elif head.startswith(b"GET /stats"):
            self._respond(msgspec.json.encode(self._counts))
        else:
            self._respond(b'{"status":"ok","object":"list","data":[{"id":"bench","object":"model"}]}')

    def pieces(self, wanted: Wanted) -> Sequence[str]:
        """What is sent, token by token."""
        return pieces_of(wanted)

    def _respond(self, body: bytes) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body)
        self._transport.write(head + body)

    def _complete(self, body: bytes) -> None:
        self._counts.requests += 1
        at = body.rfind(b"[[bench ")
        wanted = wanted_in(body[at : at + 400].decode()) if at >= 0 else None
        wanted = wanted or Wanted("ok", tokens=1)
        called = _called(wanted, body, at)
        pieces = _call_frames(called) if called else list(map(_frame, self.pieces(wanted)))
        self._counts.deltas += len(pieces)
        end = _CHUNK % (b"{}", b'"tool_calls"' if called else b'"stop"')
        prompt = len(body) // 4
        end += _USAGE % (prompt, wanted.tokens, prompt + wanted.tokens) + _DONE
        if not _STREAM.search(body):
            self._respond(_whole(wanted, prompt))
            return
        writes = _writes(pieces, end)
        if wanted.pace or wanted.first_ms:
            self._transport.write(_STREAM_HEAD)
            self._play(writes, 0, self._loop.time() + wanted.first_ms / 1000, _gap(wanted))
        else:
            self._transport.write(_STREAM_HEAD + b"".join(writes))

    def _play(self, writes: Sequence[bytes], number: int, due: float, gap: float) -> None:
        """Write what is due, and come again when the next is. A late write does not put off those after it."""
        now = self._loop.time()
        ready = []
        while number < len(writes) and due <= now:
            ready.append(writes[number])
            number += 1
            due += gap
        if ready:
            self._transport.write(b"".join(ready))
        self._timer = self._loop.call_at(due, self._play, writes, number, due, gap) if number < len(writes) else None


def pieces_of(wanted: Wanted) -> list[str]:
    """The deltas of the answer: joined, they are its words."""
    words = wanted.words()
    groups = [" ".join(words[at : at + wanted.burst]) for at in range(0, len(words), wanted.burst)]
    return [*groups[:1], *(f" {group}" for group in groups[1:])]


def _frame(piece: str) -> bytes:
    return _CHUNK % (b'{"content":"%b"}' % piece.encode(), b"null")


def _called(wanted: Wanted, body: bytes, at: int) -> bytes | None:
    """The name of the tool to be called now: the one that is wanted, unless it has answered."""
    if not wanted.tool or _TOOL_ANSWER.search(body, at):
        return None
    found = re.search(rb'"name"\s*:\s*"([^"]*%b)"' % re.escape(wanted.tool.encode()), body)
    return found[1] if found else None


def _call_frames(name: bytes) -> list[bytes]:
    call = b'{"tool_calls":[{"index":0,"id":"call_bench","type":"function","function":{"name":"%b","arguments":"{}"}}]}'
    return [_CHUNK % (call % name, b"null")]


def _writes(frames: Sequence[bytes], end: bytes) -> list[bytes]:
    """What is written at a time, a delta each, as HTTP chunks; the last one ends the response."""
    writes = [_ROLE + frames[0], *frames[1:]] if frames else [_ROLE]
    writes[-1] += end
    chunks = [b"%x\r\n%b\r\n" % (len(write), write) for write in writes]
    chunks[-1] += b"0\r\n\r\n"
    return chunks


def _gap(wanted: Wanted) -> float:
    return wanted.burst / wanted.pace if wanted.pace else 0.0


def _whole(wanted: Wanted, prompt: int) -> bytes:
    message = {"role": "assistant", "content": " ".join(wanted.words())}
    usage = {"prompt_tokens": prompt, "completion_tokens": wanted.tokens, "total_tokens": prompt + wanted.tokens}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    whole = {"id": "chatcmpl-bench", "object": "chat.completion", "created": 1_767_225_600, "model": "bench"}
    return msgspec.json.encode({**whole, "choices": [choice], "usage": usage})


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    counts = Counts()
    server = await loop.create_server(lambda: Exchange(counts), "127.0.0.1", port, backlog=4096)
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    await stopped.wait()
    server.close()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
