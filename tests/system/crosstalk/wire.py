"""HTTP/1.1 as a careless proxy speaks it: few connections, and on each of them the requests of many tenants in turn."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

_PART_BYTES = 16 * 1024
_PATIENCE_SECONDS = 8.0


@dataclass(frozen=True)
class Request:
    """One request of a tenant. `names_sender`: its whole answer, with 200, has the tenant's name in it."""

    number: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    names_sender: bool = False
    seconds_max: float = _PATIENCE_SECONDS

    @property
    def what(self) -> str:
        return f"{self.method} {self.path}"

    def encoded(self) -> bytes:
        headers = {"host": "gateway", "content-length": str(len(self.body)), **self.headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"{self.method} {self.path} HTTP/1.1\r\n{head}\r\n".encode() + self.body


@dataclass
class Reply:
    """As much of an answer as was read."""

    head: bytes = b""
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1]) if self.head else 0

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def header(self, name: str) -> str:
        lines = (line.partition(":") for line in self.head.decode("latin-1").split("\r\n")[1:])
        return next((value.strip() for key, _, value in lines if key.lower() == name), "")


@dataclass(frozen=True)
class Leave:
    """When the reader goes away, which a patient one never does.

    After `seconds`, at whatever it is waiting for; after that many bytes of a body; with that part of its words said.
    """

    kind: str = "stays"
    seconds: float = _PATIENCE_SECONDS
    bytes_max: int | None = None
    said_part: float = 1.0


STAYS = Leave()


def any_leave(chance: random.Random) -> Leave:
    """A way to go away."""
    kinds = {
        "in the request": Leave("in the request", said_part=chance.random()),
        "right after the request": Leave("right after the request", seconds=0),
        "soon after the request": Leave("soon after the request", seconds=chance.random() ** 2 * 0.3),
        "while waiting": Leave("while waiting", seconds=chance.random() * 2),
        "after the head": Leave("after the head", bytes_max=0),
        "in the body": Leave("in the body", bytes_max=chance.randrange(1, 3_000)),
    }
    return chance.choice(list(kinds.values()))


class _LeftError(Exception):
    """The reader has read enough."""


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def read(self, reply: Reply, bytes_max: int | None) -> None:
        """Read the next answer into `reply`. Raises _LeftError where that would be more than `bytes_max` of a body."""
        reply.head = await self.reader.readuntil(b"\r\n\r\n")
        if bytes_max == 0:
            raise _LeftError
        if reply.header("transfer-encoding") == "chunked":
            while size := int(await self.reader.readuntil(b"\r\n"), 16):
                await self._read_part(reply, size, bytes_max)
                await self.reader.readexactly(2)
            await self.reader.readexactly(2)
        else:
            await self._read_part(reply, int(reply.header("content-length") or 0), bytes_max)
        reply.is_whole = True

    async def _read_part(self, reply: Reply, size: int, bytes_max: int | None) -> None:
        while size:
            part = await self.reader.read(min(size, _PART_BYTES))
            if not part:
                raise ConnectionResetError
            reply.body += part
            size -= len(part)
            if bytes_max is not None and len(reply.body) >= bytes_max:
                raise _LeftError


class Proxy:
    """Connections to the gateways, each for whoever comes next.

    `is_broken`: a connection whose reader left before its answer came is used again, as no proxy may do.
    """

    def __init__(self, gateways: Sequence[str], chance: random.Random, *, is_broken: bool = False) -> None:
        self._gateways = [(parts.hostname, parts.port) for parts in map(urlsplit, gateways)]
        self._chance = chance
        self._is_broken = is_broken
        self._idle: list[_Connection] = []
        self.counts: Counter[str] = Counter()

    async def carry(self, requests: Sequence[Request], leave: Leave = STAYS) -> list[Reply]:
        """Send the requests in one go, on one connection, and read their answers in turn; what came is what counts."""
        self.counts["requests"] += len(requests)
        self.counts["pipelined"] += len(requests) if len(requests) > 1 else 0
        replies = [Reply() for _ in requests]
        connection: _Connection | None = None
        said = b"".join(request.encoded() for request in requests)
        try:
            connection = await self._borrowed()
            connection.writer.write(said[: int(len(said) * leave.said_part)])
            seconds = min(leave.seconds, sum(request.seconds_max for request in requests))
            async with asyncio.timeout(seconds if leave.said_part == 1 else 0):
                await connection.writer.drain()
                for reply in replies:
                    await connection.read(reply, leave.bytes_max)
        except (TimeoutError, _LeftError):
            self.counts[f"left: {leave.kind}"] += 1
        except (OSError, asyncio.IncompleteReadError):
            self.counts["connections lost"] += 1
        finally:
            if connection is not None:
                self._take_back(connection, replies, is_said=leave.said_part == 1)
        self.counts["answers"] += sum(reply.is_whole for reply in replies)
        for reply in replies:
            self.counts[f"status {reply.status}"] += bool(reply.head)
        return replies

    async def close(self) -> None:
        for connection in self._idle:
            connection.writer.close()
        for connection in self._idle:
            with suppress(OSError):
                await connection.writer.wait_closed()

    async def _borrowed(self) -> _Connection:
        while self._idle:
            connection = self._idle.pop(self._chance.randrange(len(self._idle)))
            if not connection.reader.at_eof():
                self.counts["connections used again"] += 1
                return connection
            connection.writer.close()
        host, port = self._chance.choice(self._gateways)
        self.counts["connections"] += 1
        return _Connection(*await asyncio.open_connection(host, port))

    def _take_back(self, connection: _Connection, replies: Sequence[Reply], *, is_said: bool) -> None:
        is_read = all(reply.is_whole and reply.header("connection") != "close" for reply in replies)
        is_handed_over = self._is_broken and is_said and not any(reply.head for reply in replies)
        if is_read or is_handed_over:
            self._idle.append(connection)
        elif self._chance.random() < 0.5:
            connection.writer.close()
        else:
            connection.writer.transport.abort()
