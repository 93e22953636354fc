"""A light HTTP/1.1 client: one connection, one request at a time, the body handed on as it comes.

It shares the machine with what it measures, so it does no more than that: no redirects, no compression, no pool.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import urlsplit

_HEAD_BYTES_MAX = 64 * 1024


class HttpError(Exception):
    """The connection broke, or what came is no HTTP that this client understands."""


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""

    def encoded(self, host: str) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", f"host: {host}"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body:
            lines += ["content-type: application/json", f"content-length: {len(self.body)}"]
        elif self.method == "POST":
            lines.append("content-length: 0")
        return "\r\n".join([*lines, "", ""]).encode() + self.body


Sink = Callable[[int, bytes], None]  # the status, and a piece of the body


class Connection(asyncio.Protocol):
    """Opened at the first request and again after a loss; `close` it at the end."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "127.0.0.1", parts.port or 80
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._sink: Sink | None = None
        self._ended: asyncio.Future[int] | None = None
        self._status = 0
        self._left: int | None = None  # bytes of the body; None: chunked
        self._chunk_left = 0
        self._in_body = False
        self._closes = False

    async def send(self, request: Request, sink: Sink) -> int:
        """Send, hand each piece of the body to `sink` with the status, and return the status at the end.

        Raises HttpError. A cancelled request closes the connection, as the rest of its answer would still come.
        """
        if self._transport is None or self._transport.is_closing():
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, self._host, self._port)
            except OSError as error:
                raise HttpError(str(error)) from error
        assert self._transport is not None
        self._sink, self._status, self._in_body = sink, 0, False
        self._buffer.clear()
        self._ended = asyncio.get_running_loop().create_future()
        self._transport.write(request.encoded(f"{self._host}:{self._port}"))
        try:
            return await self._ended
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._sink = self._ended = None

    def close(self) -> None:
        """Break the connection, also in the middle of an answer; the next request opens another."""
        if self._transport is not None:
            self._transport.abort()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses of it

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._in_body and self._closes:
            self._end()
        else:
            self._fail(f"the connection was lost: {error or 'closed by the server'}")

    def data_received(self, data: bytes) -> None:
        if self._ended is None:
            return  # nobody asked
        if not self._in_body:
            self._buffer += data
            if not self._take_head():
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        if self._left is None:
            self._take_chunks(data)
        else:
            self._take_plain(data)

    def _take_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _HEAD_BYTES_MAX:
                self._fail("a head without an end")
            return False
        first, *lines = bytes(self._buffer[:end]).split(b"\r\n")
        del self._buffer[: end + 4]
        headers = {
            name.strip().lower(): value.strip().lower() for name, _, value in (line.partition(b":") for line in lines)
        }
        self._status = int(first.split(b" ", 2)[1])
        chunked = headers.get(b"transfer-encoding") == b"chunked"
        self._closes = not chunked and b"content-length" not in headers and self._status != 204
        self._left = None if chunked else int(headers.get(b"content-length", b"0")) if not self._closes else 2**62
        self._chunk_left = 0
        self._in_body = True
        return True

    def _take_plain(self, data: bytes) -> None:
        assert self._left is not None
        self._left -= len(data)
        self._hand_on(data)
        if self._left <= 0:
            self._end()

    def _take_chunks(self, data: bytes) -> None:
        """Hand on what the chunks in `data` hold, in one piece; keep the beginning of a size line for later."""
        if self._buffer:
            data = bytes(self._buffer) + data
            self._buffer.clear()
        pieces: list[bytes] = []
        at, size = 0, len(data)
        ended = False
        while at < size:
            if self._chunk_left > 2:
                piece = data[at : at + self._chunk_left - 2]
                pieces.append(piece)
                at += len(piece)
                self._chunk_left -= len(piece)
                continue
            if self._chunk_left:
                skipped = min(self._chunk_left, size - at)
                at += skipped
                self._chunk_left -= skipped
                continue
            line_end = data.find(b"\r\n", at)
            if line_end < 0:
                self._buffer += data[at:]
                break
            length = int(data[at:line_end].partition(b";")[0], 16)
            if length == 0:
                if size < line_end + 4:
                    self._buffer += data[at:]
                    break
                ended = True
                break
            at = line_end + 2
            self._chunk_left = length + 2
        if pieces:
            self._hand_on(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if ended:
            self._end()

    def _hand_on(self, piece: bytes) -> None:
        if self._sink is not None and piece:
            self._sink(self._status, piece)

    def _end(self) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(self._status)
        self._in_body = False

    def _fail(self, why: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(HttpError(why))
        self._in_body = False


class Frames:
    """Cuts an event stream into its events, whose lines end with LF or CRLF."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[bytes]:
        data = self._rest + piece if self._rest else piece
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        *frames, self._rest = data.split(b"\n\n")
        return frames
