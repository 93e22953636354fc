"""One system for the stories that do not break it: two gateways, two workers. Those that do start their own."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backends, new_backends
from tests.support.client import Client
from tests.support.stack import Stack, running_stack


@pytest.fixture(scope="package")
def backends() -> Iterator[Backends]:
    """Its own, so that these processes take nothing that another test sends."""
    with new_backends() as own:
        yield own


@pytest.fixture(scope="package")
async def stack(backends: Backends, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stack]:
    folder: Path = tmp_path_factory.mktemp("stack")
    counts, variables = {"gateway": 2, "chat-worker": 2}, {"LOG_LEVEL": "DEBUG"}
    async with running_stack(backends, folder, counts=counts, variables=variables) as running:
        yield running


@pytest.fixture
async def client_of(stack: Stack) -> AsyncIterator[Callable[..., Client]]:
    """Makes clients: `client_of("ada")`, `client_of("ada", gateway=1)`."""
    clients: list[Client] = []

    def make(user_id: str, *, gateway: int = 0) -> Client:
        clients.append(Client(stack.gateway(gateway).url, user_id))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()
