"""Requests to delete everything of a user. Persistence carries them out (`persistence/src/persistence/purge.py`)."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from shared.db.audit import ActorKind
from shared.errors import ConflictError
from shared.ids import uuid7

_TRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class Purge:
    """A request. `deleted` counts rows by table so far; a finished one names no user. `is_new`: made just now."""

    id: UUID
    user_id: str | None
    deleted: dict[str, int]
    created_at: datetime
    finished_at: datetime | None
    is_new: bool = False


async def request_purge(connection: asyncpg.Connection, user_id: str, requested_by: ActorKind) -> Purge:
    """The open request for the user, made unless there is one; in a transaction as that user."""
    for _ in range(_TRIES_MAX):
        status = await connection.execute(
            """
            insert into purges (id, user_id, user_digest, requested_by)
            values ($1, $2, purge_digest($1, $2), $3)
            on conflict (user_id) where finished_at is null do nothing
            """,
            uuid7(),
            user_id,
            requested_by.value,
        )
        rows = await connection.fetch(f"{_SELECT} where user_id = $1 and finished_at is null", user_id)
        if rows:
            return replace(_purge(rows[0]), is_new=status == "INSERT 0 1")
    raise ConflictError("purge_changed", "A purge of this user ended at this very moment; please ask again.")


async def find_purge(connection: asyncpg.Connection, user_id: str, purge_id: UUID) -> Purge | None:
    """The user's request with that id, finished or not."""
    row = await connection.fetchrow(
        f"{_SELECT} where id = $1 and user_digest = purge_digest($1, $2)", purge_id, user_id
    )
    return _purge(row) if row else None


async def get_purge(connection: asyncpg.Connection, purge_id: UUID) -> Purge | None:
    """That one, whosever it is; as the gateway, in a transaction whose `app.scope` is `administration`."""
    row = await connection.fetchrow(f"{_SELECT} where id = $1", purge_id)
    return _purge(row) if row else None


async def open_purges(connection: asyncpg.Connection) -> list[Purge]:
    """All that are not finished, oldest first."""
    return [_purge(row) for row in await connection.fetch(f"{_SELECT} where finished_at is null order by id")]


_SELECT = "select id, user_id, deleted, created_at, finished_at from purges"


def _purge(row: Any) -> Purge:
    return Purge(**row)
