"""Small servers for tests of the load generator."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from bench.model import Counts, Exchange, pieces_of
from bench.words import Wanted

Spoil = Callable[[list[str]], Sequence[str]]


@asynccontextmanager
async def model_server(spoil: Spoil | None = None) -> AsyncIterator[tuple[str, Counts]]:
    """The model of the benches in this process, with its pieces spoiled if so wanted; its address and its counts."""
    counts = Counts()

    class Spoiling(Exchange):
        def pieces(self, wanted: Wanted) -> Sequence[str]:
            return spoil(pieces_of(wanted)) if spoil else super().pieces(wanted)

    server = await asyncio.get_running_loop().create_server(lambda: Spoiling(counts), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", counts
    finally:
        server.close()
