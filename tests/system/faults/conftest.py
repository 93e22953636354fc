"""A system to attack, for all attacks that leave it whole; those on Postgres and RabbitMQ bring their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.local.rabbitmq import service_urls
from tests.support.backends import Backends, new_backends
from tests.support.stack import Stack, running_stack
from tests.support.tcp import Line, proxied
from tests.system.faults.load import HALF_OPEN_SECONDS, QUICK_REPAIRS, Arena
from tests.system.faults.snapshot import queue_lengths


@pytest.fixture(scope="package")
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture(scope="package")
async def broker_line(own_backends: Backends) -> AsyncIterator[tuple[str, Line]]:
    """The way of one worker and one gateway to the broker: its address, and its line."""
    async with proxied(own_backends.rabbitmq_url) as (url, line):
        yield f"{url}?heartbeat={HALF_OPEN_SECONDS}", line


@pytest.fixture(scope="package")
async def stack(
    own_backends: Backends, broker_line: tuple[str, Line], tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two of each; `chat-worker-1` and `gateway-1` reach the broker through `broker_line`."""
    folder: Path = tmp_path_factory.mktemp("faults")
    counts = {"gateway": 2, "chat-worker": 2, "persistence": 2}
    behind_line = service_urls(broker_line[0])
    variables_of = {"chat-worker-1": behind_line, "gateway-1": behind_line}
    async with running_stack(
        own_backends, folder, counts=counts, variables=QUICK_REPAIRS, variables_of=variables_of
    ) as running:
        yield running
    # What nobody had acknowledged when the last process stopped is in its queue again.
    assert not any((await queue_lengths(own_backends.rabbitmq_url)).values())


@pytest.fixture
async def arena(stack: Stack, own_backends: Backends) -> AsyncIterator[Arena]:
    """For attacks that start processes anew: they find others as an earlier attack left them until they do."""
    arena = Arena(stack, own_backends)
    yield arena
    await arena.close()


@pytest.fixture
async def whole(arena: Arena) -> Arena:
    """For attacks on a system that is whole."""
    await arena.stack.heal()
    return arena
