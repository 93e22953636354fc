"""The services' databases, empty at the start of each test."""

from collections.abc import AsyncIterator

import asyncpg
import pytest

from shared.db import Database
from tests.persistence.support import Services


@pytest.fixture(scope="module")
async def _databases(database_urls: dict[str, str]) -> AsyncIterator[Services]:
    roles = ("parley_persistence", "parley_gateway", "parley_worker")
    opened = [
        await Database.connect(
            database_urls[role], application_name="test", pool_size=8, plans_once=role != "parley_gateway"
        )
        for role in roles
    ]
    try:
        persistence, gateway, worker = opened
        yield Services(persistence, gateway, worker, database_urls["owner"])
    finally:
        for database in opened:
            await database.close()


@pytest.fixture
async def services(_databases: Services, database_urls: dict[str, str]) -> Services:
    owner = await asyncpg.connect(database_urls["owner"])
    try:
        await owner.execute(
            """
            truncate audit_log, conversations, dead_letters, files, idempotency_keys, purges, tasks, usage_by_day
            cascade
            """
        )
    finally:
        await owner.close()
    return _databases
