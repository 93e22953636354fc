"""Migrations: what several of them at once do to each other."""

import asyncio
from collections.abc import Mapping

from sqlalchemy.ext.asyncio import create_async_engine

from shared.db.migrate import ROLES, ensure_roles


async def test_two_databases_of_one_server_are_migrated_at_the_same_time(database_urls: Mapping[str, str]) -> None:
    """The roles are those of the server, so both change the same ones."""
    service_urls = [database_urls[role] for role in ROLES]
    engine = create_async_engine(database_urls["owner"].replace("postgresql://", "postgresql+asyncpg://"))

    async def ensure() -> None:
        async with engine.connect() as connection:
            for _ in range(5):
                await ensure_roles(connection, service_urls)

    try:
        await asyncio.gather(*(ensure() for _ in range(4)))
    finally:
        await engine.dispose()
