"""The number of journal partitions is changed while the system talks, process by process, in the documented order."""

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

import aio_pika
import pytest

from shared.messaging import journal_queue
from tests.support.backends import PARTITION_COUNT, Backends, new_backends
from tests.support.stack import ServiceProcess, running_stack
from tests.system.faults.load import QUICK_REPAIRS, Arena

_READ = ("persistence",)
_WRITE = ("chat-worker", "gateway")


@pytest.fixture
def backends() -> Iterator[Backends]:
    with new_backends() as own:
        yield own


async def test_partitions_are_added_and_taken_away_while_it_talks(backends: Backends, tmp_path: Path) -> None:
    """More: who reads them first. Fewer: who writes to them first, so that nothing is sent where nobody reads."""
    counts = {"gateway": 2, "chat-worker": 2, "persistence": 2}
    async with running_stack(backends, tmp_path, counts=counts, variables=QUICK_REPAIRS) as stack:
        arena = Arena(stack, backends)
        try:
            await _change(arena, (*_READ, *_WRITE), PARTITION_COUNT + 2)
            await arena.talk()
            assert await arena.verdict(attempts_max=3) == []

            await _change(arena, (*_WRITE, *_READ), PARTITION_COUNT)
            await _delete_unused(backends.rabbitmq_url, range(PARTITION_COUNT, PARTITION_COUNT + 2))
            await arena.talk()
            assert await arena.verdict(attempts_max=3) == []
        finally:
            await arena.close()


async def _change(arena: Arena, kinds: tuple[str, ...], count: int) -> None:
    for kind in kinds:
        for process in arena.stack.of_kind(kind):
            await asyncio.gather(arena.talk(), _restart(process, count))


async def _restart(process: ServiceProcess, count: int) -> None:
    await asyncio.to_thread(process.stop)
    process.start({"JOURNAL_PARTITION_COUNT": str(count)})
    await process.ready()


async def _delete_unused(url: str, partitions: Iterable[int]) -> None:
    """As an operator does in the management UI, who sees there that a queue is empty and that nobody reads it."""
    connection = await aio_pika.connect(url)
    async with connection:
        channel = await connection.channel()
        for partition in partitions:
            queue = await channel.declare_queue(journal_queue(partition), passive=True)
            state = queue.declaration_result
            assert (state.message_count, state.consumer_count) == (0, 0)
            await queue.delete(if_unused=False, if_empty=False)
