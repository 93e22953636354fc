"""The log of what administrators did, and users to their account as a whole. Rows are only ever added.

An entry is written in the transaction of what it tells of: there is no act without its entry, and none of an act that
did not happen. It holds ids, numbers and codes, never what users said.
"""

import getpass
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg

from shared.db import Database
from shared.errors import RejectedError
from shared.ids import uuid7

DONE = "done"


class ActorKind(StrEnum):
    """By which way somebody acts: for themselves, with an admin's token, by the command line; or the system alone."""

    USER = "user"
    ADMIN = "admin"
    OPS = "ops"
    SERVICE = "service"


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, and in which request."""

    kind: ActorKind
    name: str
    request_id: str | None = None


def command_line() -> Actor:
    """Who runs this command, as the machine knows them; containers often do not."""
    try:
        return Actor(ActorKind.OPS, getpass.getuser())
    except (KeyError, OSError):
        return Actor(ActorKind.OPS, "unknown")


@dataclass(slots=True)
class Act:
    """What is done to what. `details` may be filled while it is being done; `is_on_record`: it turns out to be what was
    done before, and gets no entry again.
    """

    actor: Actor
    action: str
    target: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    is_on_record: bool = False


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the log. `outcome` is `done`, or the code of the error with which the act was refused."""

    id: UUID
    at: datetime
    actor_kind: ActorKind
    actor: str
    action: str
    target: str | None
    details: Mapping[str, Any]
    request_id: str | None
    outcome: str


async def record(connection: asyncpg.Connection, act: Act, outcome: str = DONE) -> None:
    """Add an entry, in the caller's transaction."""
    await connection.execute(
        """
        insert into audit_log (id, actor_kind, actor, action, target, details, request_id, outcome)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        uuid7(),
        act.actor.kind.value,
        act.actor.name,
        act.action,
        act.target,
        act.details,
        act.actor.request_id,
        outcome,
    )


@asynccontextmanager
async def audited(database: Database, act: Act, user_id: str | None = None) -> AsyncIterator[asyncpg.Connection]:
    """A transaction as `user_id` for `act`, whose entry is committed with it; one that is refused has an entry, too."""
    try:
        async with database.transaction(user_id) as connection:
            yield connection
            if not act.is_on_record:
                await record(connection, act)
    except RejectedError as error:
        async with database.transaction(None) as connection:
            await record(connection, act, error.code)
        raise


async def read_log(connection: asyncpg.Connection, *, before: UUID | None, limit: int) -> list[Entry]:
    """The latest `limit` entries, newest first; those before the entry `before`, where that is given.

    As the gateway, in a transaction whose `app.scope` is `administration`.
    """
    rows = await connection.fetch(
        """
        select id, at, actor_kind, actor, action, target, details, request_id, outcome from audit_log
        where $1::uuid is null or id < $1 order by id desc limit $2
        """,
        before,
        limit,
    )
    return [Entry(**{**row, "actor_kind": ActorKind(row["actor_kind"])}) for row in rows]
