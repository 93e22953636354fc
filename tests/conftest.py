"""What every test may ask for. Real services only: their addresses come from the environment, as `./dev test` sets it."""

import asyncio
import os
from collections.abc import Iterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from shared.db.migrate import ROLES, migrate
from shared.ids import uuid7

ROLE_PASSWORD = os.environ.get("PARLEY_TEST_ROLE_PASSWORD", "test")


@pytest.fixture(scope="session")
def database_urls() -> Iterator[dict[str, str]]:
    """URLs of a freshly migrated database: `owner`, and one per role (`parley_gateway` …)."""
    server = _required("DATABASE_URL")
    name = f"parley_test_{uuid7().hex}"
    asyncio.run(_execute(server, f'create database "{name}"'))
    try:
        urls = {"owner": _at(server, name), **{role: _at(server, name, role) for role in ROLES}}
        asyncio.run(migrate(urls["owner"], [urls[role] for role in ROLES]))
        yield urls
    finally:
        asyncio.run(_execute(server, f'drop database "{name}" with (force)'))


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    return _required("RABBITMQ_URL")


def _required(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        pytest.fail(f"{variable} is not set: run the tests with ./dev test", pytrace=False)
    return value


def _at(url: str, database: str, role: str | None = None) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    credentials = f"{role}:{ROLE_PASSWORD}" if role else parts.netloc.rpartition("@")[0]
    return parts._replace(scheme="postgresql", netloc=f"{credentials}@{host}", path=f"/{database}").geturl()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
