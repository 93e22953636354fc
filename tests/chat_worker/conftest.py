"""The services' own connections to one real Postgres, and a worker on them."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from shared.db import Database
from tests.support.attempts import Bench


@dataclass(frozen=True)
class Connected:
    gateway: Database
    worker: Database
    persistence: Database
    owner_url: str


@pytest.fixture(scope="module")
async def connected(database_urls: Mapping[str, str]) -> AsyncIterator[Connected]:
    async with connected_to(database_urls) as connected:
        yield connected


@asynccontextmanager
async def connected_to(database_urls: Mapping[str, str]) -> AsyncIterator[Connected]:
    opened = [
        await Database.connect(
            database_urls[role], application_name="test", pool_size=4, plans_once=role == "parley_worker"
        )
        for role in ("parley_gateway", "parley_worker", "parley_persistence")
    ]
    gateway, worker, persistence = opened
    yield Connected(gateway, worker, persistence, database_urls["owner"])
    for database in opened:
        await database.close()


@pytest.fixture
async def bench(connected: Connected) -> AsyncIterator[Bench]:
    bench = Bench.open(connected.gateway, connected.worker, connected.persistence, connected.owner_url)
    yield bench
    await bench.close()
