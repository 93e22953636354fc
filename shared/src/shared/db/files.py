"""Files of users: every statement on `files`, for the gateway and for the chat-worker.

Each function runs in the caller's transaction, is scoped to its user in the statement itself (row level security backs
it), and knows no other user's file, nor one that was deleted or has expired: it answers as if there were none.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from shared.errors import ConflictError
from shared.ids import uuid7

_COLUMNS = "id, user_id, filename, media_type, purpose, byte_count, created_at, expires_at"  # one order
_IS_THERE = "user_id = $1 and deleted_at is null and (expires_at is null or expires_at > clock_timestamp())"


class Purpose(StrEnum):
    USER_DATA = "user_data"
    VISION = "vision"
    ASSISTANTS = "assistants"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewFile:
    """A file to store; all of it was checked. `is_inline`: it came within a message, and goes with the last of them."""

    filename: str
    media_type: str
    purpose: Purpose
    content: bytes
    is_inline: bool = False
    lifetime_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a stored file, without its content."""

    id: UUID
    user_id: str
    filename: str
    media_type: str
    purpose: Purpose
    byte_count: int
    created_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file as it is given to a model, or back to its user."""

    filename: str
    media_type: str
    content: bytes


@dataclass(frozen=True, slots=True)
class FilePage:
    files: tuple[File, ...]
    has_more: bool


async def store_file(db: Any, user_id: str, file: NewFile, *, bytes_max: int, count_max: int) -> File:
    """Store the file; an inline one whose content the user sent before is that one again.

    Raises ConflictError (`file_storage_full`) where the user's files would be more than `count_max`, or have more than
    `bytes_max`. Exact: a user's files are stored one after another.
    """
    await db.execute("select pg_advisory_xact_lock(hashtextextended('files' || $1, 0))", user_id)
    sha256 = hashlib.sha256(file.content).digest()
    row = await _inline_again(db, user_id, file, sha256) if file.is_inline else None
    if row is None:
        await _check_room(db, user_id, len(file.content), bytes_max=bytes_max, count_max=count_max)
        row = await db.fetchrow(
            f"""
            insert into files (id, user_id, filename, media_type, purpose, bytes, byte_count, sha256, is_inline,
                               expires_at)
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, clock_timestamp() + make_interval(secs => $10))
            returning {_COLUMNS}
            """,  # noqa: S608 - constants
            uuid7(),
            user_id,
            file.filename,
            file.media_type,
            file.purpose,
            file.content,
            len(file.content),
            sha256,
            file.is_inline,
            file.lifetime_seconds,
        )
    return _file(row, user_id)


async def find_files(db: Any, user_id: str, ids: Collection[UUID]) -> Mapping[UUID, File]:
    """Those of the files that the user has."""
    rows = await db.fetch(
        f"select {_COLUMNS} from files where {_IS_THERE} and id = any($2::uuid[])",  # noqa: S608 - constants
        user_id,
        list(ids),
    )
    return {row["id"]: _file(row, user_id) for row in rows}


async def list_files(  # noqa: PLR0913 - a filter each
    db: Any, user_id: str, *, purpose: Purpose | None, after: UUID | None, limit: int, is_descending: bool
) -> FilePage:
    """The user's files behind `after` in the order of their ids, which is that of time; `after` need not exist."""
    compare, order = ("<", "desc") if is_descending else (">", "asc")
    rows = await db.fetch(
        f"""
        select {_COLUMNS} from files
        where {_IS_THERE} and ($2::text is null or purpose = $2) and ($3::uuid is null or id {compare} $3)
        order by id {order} limit $4
        """,  # noqa: S608 - constants
        user_id,
        purpose,
        after,
        limit + 1,
    )
    return FilePage(tuple(_file(row, user_id) for row in rows[:limit]), len(rows) > limit)


async def read_files(db: Any, user_id: str, ids: Sequence[UUID], bytes_max: int) -> Mapping[UUID, FileContent]:
    """The content of those of the files that the user has, the first ones of `ids` first, as far as all of it together
    is no more than `bytes_max`. What is missing in the answer is gone, or did not fit.
    """
    rows = await db.fetch(
        f"""
        select id, user_id, filename, media_type, bytes from files
        where id in (
            select id from (
                select id, sum(byte_count) over (order by array_position($2::uuid[], id)) as bytes_so_far
                from files where {_IS_THERE} and id = any($2::uuid[])) in_turn
            where bytes_so_far <= $3)
        """,  # noqa: S608 - constants
        user_id,
        list(ids),
        bytes_max,
    )
    assert all(row["user_id"] == user_id for row in rows), "a row of another user"
    return {row["id"]: FileContent(row["filename"], row["media_type"], row["bytes"]) for row in rows}


async def delete_file(db: Any, user_id: str, file_id: UUID) -> bool:
    """Hide the file from everybody; retention deletes it for good. Returns whether there was one."""
    deleted: bool | None = await db.fetchval(
        f"update files set deleted_at = clock_timestamp() where {_IS_THERE} and id = $2 returning true",  # noqa: S608
        user_id,
        file_id,
    )
    return bool(deleted)


async def _inline_again(db: Any, user_id: str, file: NewFile, sha256: bytes) -> Any:
    # `seen_at` keeps retention away from a file that no message refers to yet.
    return await db.fetchrow(
        f"""
        update files set seen_at = clock_timestamp()
        where {_IS_THERE} and sha256 = $2 and media_type = $3 and is_inline returning {_COLUMNS}
        """,  # noqa: S608 - constants
        user_id,
        sha256,
        file.media_type,
    )


async def _check_room(db: Any, user_id: str, byte_count: int, *, bytes_max: int, count_max: int) -> None:
    row = await db.fetchrow(
        f"select count(*) as files, coalesce(sum(byte_count), 0) as bytes from files where {_IS_THERE}",  # noqa: S608
        user_id,
    )
    if row["files"] >= count_max or row["bytes"] + byte_count > bytes_max:
        raise ConflictError(
            "file_storage_full",
            f"Your files would be more than {count_max}, or have more than {bytes_max} bytes: delete some first.",
        )


def _file(row: Any, user_id: str) -> File:
    # A connection that gave us somebody else's answer would pass every check before this one.
    assert row["user_id"] == user_id, "a row of another user"
    values = dict(row.items())
    return File(**{**values, "purpose": Purpose(values["purpose"])})
