"""What time, a fault or an operator's hand does to rows, and no service may."""

from typing import Any

import asyncpg


async def value_as_owner(owner_url: str, statement: str, *arguments: object) -> Any:
    """The first value that `statement` gives when the owner of the database runs it."""
    connection = await asyncpg.connect(owner_url)
    try:
        return await connection.fetchval(statement, *arguments)
    finally:
        await connection.close()
