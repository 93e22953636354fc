"""Statements without their guards, for the tests that must go red then, or stay green by the second line of defence.

`PARLEY_SABOTAGE` names what is taken out of the text of every statement; without it, connections are asyncpg's own. SQL
functions hold guards of their own, inside the database, which stay.
"""

import re
from typing import Any

import asyncpg

from shared.faults import Protection, sabotaged

# What a guard looks like, and what takes its place: always true, and of the same parameters.
_GUARDS: dict[Protection, tuple[re.Pattern[str], str]] = {
    "user_predicates": (re.compile(r"\b(?:\w+\.)?user_id = \$(\d+)"), r"$\1::text is not null"),
    "write_once": (re.compile(r"(?<=where j\.id = v\.id) and j\.status in \('queued', 'in_progress'\)"), ""),
}


def connection_class() -> type[asyncpg.Connection]:
    """What a pool's connections are to be made of: asyncpg's own, unless a guard of statements is switched off."""
    return UnguardedConnection if any(map(sabotaged, _GUARDS)) else asyncpg.Connection


def without_guards(statement: str) -> str:
    """The statement as it would be if nobody had thought of the guards that are switched off."""
    for protection, (guard, replacement) in _GUARDS.items():
        if sabotaged(protection):
            statement = guard.sub(replacement, statement)
    return statement


class UnguardedConnection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """Says everything without the guards that are switched off."""

    async def execute(self, query: str, *args: Any, **options: Any) -> str:
        status: str = await super().execute(without_guards(query), *args, **options)
        return status

    async def executemany(self, command: str, args: Any, **options: Any) -> None:
        await super().executemany(without_guards(command), args, **options)

    async def fetch(self, query: str, *args: Any, **options: Any) -> list[Any]:
        rows: list[Any] = await super().fetch(without_guards(query), *args, **options)
        return rows

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await super().fetchrow(without_guards(query), *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await super().fetchval(without_guards(query), *args, **options)

    def cursor(self, query: str, *args: Any, **options: Any) -> Any:
        return super().cursor(without_guards(query), *args, **options)

    async def prepare(self, query: str, **options: Any) -> Any:
        return await super().prepare(without_guards(query), **options)
