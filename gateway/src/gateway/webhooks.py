"""Webhook endpoints of a user, and what was sent to them. (Sending is the business of persistence.)

The gateway may write a secret and not read it: it is told once, when it is made.
"""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.db import Database, Row
from shared.errors import ConflictError, NotFoundError
from shared.ids import uuid7

_SECRET_BYTES = 32
_SECRETS_OVERLAP_HOURS = 24
_ENDPOINT_COLUMNS = "id, user_id, name, url, event_types, failing_since, disabled_reason, created_at, updated_at"
_DELIVERY_COLUMNS = """
    event_id, user_id, job_id, type, attempts, next_attempt_at, delivered_at, last_status, last_error, created_at
"""


class EventType(StrEnum):
    """What an endpoint can be told: how a response ended."""

    COMPLETED = "response.completed"
    FAILED = "response.failed"
    INCOMPLETE = "response.incomplete"
    CANCELLED = "response.cancelled"


@dataclass(frozen=True, slots=True)
class Change:
    """What to change of an endpoint; None leaves it."""

    url: str | None = None
    name: str | None = None
    event_types: Sequence[EventType] | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class Run:
    """The rows that follow a cursor, newest first."""

    rows: list[Row]
    has_more: bool


def new_secret() -> str:
    """A secret as Standard Webhooks writes them."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()


async def create_endpoint(  # noqa: PLR0913 - a column each
    database: Database,
    user_id: str,
    *,
    url: str,
    name: str,
    event_types: Sequence[EventType],
    secret: str,
    count_max: int,
) -> Row:
    """Raises ConflictError (`webhook_limit_reached`) if the user has `count_max` endpoints.

    Adding several at the same instant may pass the limit by their number.
    """
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            insert into webhook_endpoints (id, user_id, url, name, event_types, secret)
            select $1, $2, $3, $4, $5, $6
            where (select count(*) from webhook_endpoints where user_id = $2) < $7
            returning {_ENDPOINT_COLUMNS}
            """,  # noqa: S608 - constants
            uuid7(),
            user_id,
            url,
            name,
            [kind.value for kind in event_types],
            secret,
            count_max,
        )
    if row is None:
        message = f"You have as many webhook endpoints as allowed: {count_max}. Delete one that you need no more."
        raise ConflictError("webhook_limit_reached", message)
    return row


async def list_endpoints(database: Database, user_id: str, *, after: UUID | None, limit: int) -> Run:
    """Raises NotFoundError where `after` is not one of them."""
    async with database.transaction(user_id) as db:
        if after:
            await _find_endpoint(db, user_id, after)
        rows = await db.fetch(
            f"""
            select {_ENDPOINT_COLUMNS} from webhook_endpoints
            where user_id = $1 and ($2::uuid is null or id < $2) order by id desc limit $3
            """,  # noqa: S608 - constants
            user_id,
            after,
            limit + 1,
        )
    return _run(rows, user_id, limit)


async def read_endpoint(database: Database, user_id: str, endpoint_id: UUID) -> Row:
    """Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        return await _find_endpoint(db, user_id, endpoint_id)


async def change_endpoint(database: Database, user_id: str, endpoint_id: UUID, change: Change) -> Row:
    """Another URL, and being enabled, forgive what failed before. Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            update webhook_endpoints
            set url = coalesce($3, url), name = coalesce($4, name), event_types = coalesce($5, event_types),
                failure_count = case when $3::text is not null or $6 then 0 else failure_count end,
                failing_since = case when $3::text is not null or $6 then null else failing_since end,
                disabled_at = case when $6 then null when not $6 then clock_timestamp() else disabled_at end,
                disabled_reason = case when $6 then null when not $6 then 'by_user' else disabled_reason end,
                updated_at = clock_timestamp()
            where user_id = $1 and id = $2
            returning {_ENDPOINT_COLUMNS}
            """,  # noqa: S608 - constants
            user_id,
            endpoint_id,
            change.url,
            change.name,
            None if change.event_types is None else [kind.value for kind in change.event_types],
            change.enabled,
        )
    return _found(row, user_id)


async def rotate_secret(
    database: Database, user_id: str, endpoint_id: UUID, *, secret: str, keeps_old_one: bool
) -> Row:
    """Sign with `secret` from now on; for a day with the old one as well, if that is kept. Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            update webhook_endpoints
            set secret = $3,
                previous_secret_until = case when $4 then clock_timestamp() + make_interval(hours => $5) end,
                updated_at = clock_timestamp()
            where user_id = $1 and id = $2
            returning {_ENDPOINT_COLUMNS}
            """,  # noqa: S608 - constants
            user_id,
            endpoint_id,
            secret,
            keeps_old_one,
            _SECRETS_OVERLAP_HOURS,
        )
    return _found(row, user_id)


async def delete_endpoint(database: Database, user_id: str, endpoint_id: UUID) -> None:
    """For good, with what it was to be told. Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        found = await db.fetchval(
            "delete from webhook_endpoints where user_id = $1 and id = $2 returning id", user_id, endpoint_id
        )
        if found is None:
            raise _not_found()
        await db.execute("delete from webhook_deliveries where user_id = $1 and endpoint_id = $2", user_id, endpoint_id)


async def list_deliveries(
    database: Database, user_id: str, endpoint_id: UUID, *, after: UUID | None, limit: int
) -> Run:
    """Raises NotFoundError for the endpoint, or where `after` is none of its deliveries."""
    async with database.transaction(user_id) as db:
        await _find_endpoint(db, user_id, endpoint_id)
        if after and not await db.fetchval(
            "select true from webhook_deliveries where user_id = $1 and endpoint_id = $2 and event_id = $3",
            user_id,
            endpoint_id,
            after,
        ):
            raise NotFoundError("not_found", "No such delivery at this webhook endpoint.", param="after")
        rows = await db.fetch(
            f"""
            select {_DELIVERY_COLUMNS} from webhook_deliveries
            where user_id = $1 and endpoint_id = $2 and ($3::uuid is null or event_id < $3)
            order by event_id desc limit $4
            """,  # noqa: S608 - constants
            user_id,
            endpoint_id,
            after,
            limit + 1,
        )
    return _run(rows, user_id, limit)


async def _find_endpoint(db: Any, user_id: str, endpoint_id: UUID) -> Row:
    row = await db.fetchrow(
        f"select {_ENDPOINT_COLUMNS} from webhook_endpoints where user_id = $1 and id = $2",  # noqa: S608 - constants
        user_id,
        endpoint_id,
    )
    return _found(row, user_id)


def _run(rows: Sequence[Row], user_id: str, limit: int) -> Run:
    return Run([_own(row, user_id) for row in rows[:limit]], has_more=len(rows) > limit)


def _found(row: Row | None, user_id: str) -> Row:
    if row is None:
        raise _not_found()
    return _own(row, user_id)


def _own(row: Row, user_id: str) -> Row:
    assert row["user_id"] == user_id, "a row of another user"
    return row


def _not_found() -> NotFoundError:
    return NotFoundError("not_found", "No such webhook endpoint.")
