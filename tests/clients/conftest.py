"""One system that all clients use at the same time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from tests.clients.programs import Client, Report, report_of
from tests.support.backends import Backends, new_backends
from tests.support.stack import Stack, running_stack

_AT_ONCE = 4  # scripts


@pytest.fixture(scope="package")
def backends() -> Iterator[Backends]:
    with new_backends() as own:
        yield own


@pytest.fixture(scope="package")
async def stack(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("stack")
    variables = {"MODEL_INPUTS": "text,image,file"}
    async with running_stack(backends, folder, variables=variables) as running:
        yield running


@pytest.fixture(scope="package")
async def report(stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Callable[[Client], Awaitable[Report]]]:
    """Gives what a client's script said. The first who asks starts the scripts of all clients that are to be tested."""
    places = asyncio.Semaphore(_AT_ONCE)
    tasks: dict[str, asyncio.Task[Report]] = {}

    async def run(client: Client) -> Report:
        async with places:
            return await report_of(client, stack.gateway().url)

    for item in request.session.items:
        client = item.callspec.params.get("client") if hasattr(item, "callspec") else None
        if isinstance(client, Client) and client.name not in tasks:
            tasks[client.name] = asyncio.create_task(run(client))
    yield lambda client: tasks[client.name]
    for task in tasks.values():
        task.cancel()
    await asyncio.gather(*tasks.values(), return_exceptions=True)
