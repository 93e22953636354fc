"""A TCP proxy whose line can be cut and mended: a server that goes away and comes back, without touching the server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Flag, auto
from urllib.parse import urlsplit


class Way(Flag):
    """Directions of a line."""

    TO_SERVER = auto()
    TO_CLIENT = auto()
    BOTH = TO_SERVER | TO_CLIENT


class Line:
    """The proxy's switch.

    While it is cut, connections are closed as soon as they are made. While it is frozen, nothing passes (in one way, or
    in both), not even the end of a connection: who is not heard is believed to be silent.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._flows = {way: asyncio.Event() for way in (Way.TO_SERVER, Way.TO_CLIENT)}
        self._writers: set[asyncio.StreamWriter] = set()
        self._carrying: set[asyncio.Task[None]] = set()
        self.mend()

    def cut(self) -> None:
        self._is_cut = True
        for writer in self._writers:
            writer.transport.abort()

    def freeze(self, ways: Way = Way.BOTH) -> None:
        for way in ways:
            self._flows[way].clear()

    def mend(self) -> None:
        self._is_cut = False
        for flows in self._flows.values():
            flows.set()

    async def close(self) -> None:
        """End every connection."""
        self.mend()
        self.cut()
        if self._carrying:
            await asyncio.wait(self._carrying)

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._carry(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        await self._flows[Way.TO_SERVER].wait()
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, far_writer}
        await asyncio.gather(
            self._pump(reader, far_writer, self._flows[Way.TO_SERVER]),
            self._pump(far_reader, writer, self._flows[Way.TO_CLIENT]),
        )
        self._writers -= {writer, far_writer}

    @staticmethod
    async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flows: asyncio.Event) -> None:
        with suppress(ConnectionError):
            while part := await reader.read(65_536):
                await flows.wait()
                writer.write(part)
                await writer.drain()
        await flows.wait()
        with suppress(ConnectionError):
            writer.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[str, Line]]:
    """`url` as seen through a proxy, and the proxy's line."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    line = Line((parts.hostname, parts.port))
    server = await asyncio.start_server(line.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    credentials, at, _ = parts.netloc.rpartition("@")
    try:
        yield parts._replace(netloc=f"{credentials}{at}127.0.0.1:{port}").geturl(), line
    finally:
        server.close()
        await line.close()
