"""Conversations that users show to others: links, what they show, and copies of it.

A link shows one branch as it was when the link was made, to whoever has its token, signed in or not. Who asks by a
token has no right to any row of another's: the database function `read_share` decides what is shown, and gives out
nothing else. Of the token only its digest is stored.
"""

import hashlib
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.branches import is_busy
from gateway.content import text_of, text_part
from gateway.queries import conversation_not_found, find_conversation
from gateway.settings import GatewaySettings
from gateway.views import ConversationView
from shared.db import Database, Row
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.events import JsonObject
from shared.ids import uuid7

_TOKEN_BYTES = 32  # nobody guesses 256 bits
_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")  # those bytes as `secrets.token_urlsafe` writes them
_COLUMNS = "id, user_id, conversation_id, head_job_id, created_at, expires_at"


# --- links, for the user whose conversation it is


async def create_share(
    database: Database, user_id: str, conversation_id: UUID, *, seconds: float | None, count_max: int
) -> tuple[Row, str]:
    """A link to the conversation's active branch, for `seconds` or until it is revoked; and its token, this once.

    Raises NotFoundError; ConflictError while a response is queued or running there, and where the user has `count_max`.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    async with database.transaction(user_id) as db:
        conversation = await _lock_conversation(db, user_id, conversation_id)
        if await is_busy(db, user_id, conversation_id):
            message = "A response of this conversation is still queued or running: cancel it, or wait for it."
            raise ConflictError("conversation_locked", message)
        await db.execute("delete from shares where user_id = $1 and expires_at <= clock_timestamp()", user_id)
        if await db.fetchval("select count(*) from shares where user_id = $1", user_id) >= count_max:
            message = f"There are {count_max} share links already, as many as allowed: delete one first."
            raise ConflictError("share_limit_reached", message)
        row = await db.fetchrow(
            f"""
            insert into shares (id, conversation_id, user_id, token_digest, title, head_job_id, last_turn, expires_at)
            values ($1, $2, $3, $4, $5, $6, $7, clock_timestamp() + make_interval(secs => $8))
            returning {_COLUMNS}
            """,  # noqa: S608 - constants
            uuid7(),
            conversation_id,
            user_id,
            _digest_of(token),
            conversation["title"],
            conversation["head_job_id"],
            conversation["last_turn"],
            seconds,
        )
    return _own(row, user_id), token


async def list_shares(database: Database, user_id: str, conversation_id: UUID) -> list[Row]:
    """The links to the conversation that still lead somewhere, newest first. Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        await find_conversation(db, user_id, conversation_id)
        rows = await db.fetch(
            f"""
            select {_COLUMNS} from shares
            where conversation_id = $1 and user_id = $2 and (expires_at is null or expires_at > clock_timestamp())
            order by id desc
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
        )
    return [_own(row, user_id) for row in rows]


async def revoke_share(database: Database, user_id: str, conversation_id: UUID, share_id: UUID) -> None:
    """From now on the link leads nowhere. Raises NotFoundError for the conversation or the link."""
    async with database.transaction(user_id) as db:
        await find_conversation(db, user_id, conversation_id)
        found = await db.fetchval(
            "delete from shares where id = $1 and conversation_id = $2 and user_id = $3 returning id",
            share_id,
            conversation_id,
            user_id,
        )
    if found is None:
        raise NotFoundError("not_found", "No such share link to this conversation.", param="share_id")


async def _lock_conversation(db: Any, user_id: str, conversation_id: UUID) -> Row:
    row = await db.fetchrow(
        """
        select title, head_job_id, last_turn from conversations
        where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral for no key update
        """,
        conversation_id,
        user_id,
    )
    if row is None:
        raise conversation_not_found()
    return row


def _own(row: Row, user_id: str) -> Row:
    assert row["user_id"] == user_id, "a row of another user"
    return row


# --- what a link shows, for anybody


@dataclass(frozen=True, slots=True)
class Shared:
    """What a link shows. `items` are as `read_share` makes them; `has_more`: others follow."""

    row: Row
    items: list[JsonObject]
    has_more: bool


async def read_shared(database: Database, token: str, *, after: int, limit: int) -> Shared:
    """The items behind the position `after`. Raises NotFoundError, the same for every token that leads nowhere."""
    if _TOKEN.fullmatch(token) is None:
        raise _leads_nowhere()
    async with database.transaction(None) as db:
        return await _read_shared(db, token, after, limit)


async def copy_shared(database: Database, user_id: str, token: str, settings: GatewaySettings) -> ConversationView:
    """A conversation of the user's own, with the texts that the link shows, each a turn without a response.

    Raises NotFoundError as `read_shared`; InvalidInputError where it shows more than may be copied.
    """
    if _TOKEN.fullmatch(token) is None:
        raise _leads_nowhere()
    async with database.transaction(user_id) as db:
        shared = await _read_shared(db, token, 0, settings.share_copy_items_max)
        messages = [_copied(item) for item in shared.items if item["type"] == "message" and item["content"]]
        if shared.has_more or sum(len(one["content"]) for one in messages) > settings.share_copy_chars_max:
            message = (
                f"This is too long to be copied: at most {settings.share_copy_items_max} items, "
                f"with {settings.share_copy_chars_max} characters, can be."
            )
            raise InvalidInputError("share_too_long", message)
        conversation_id = uuid7()
        await db.execute(
            "insert into conversations (id, user_id, title, metadata, last_turn) values ($1, $2, $3, '{}', $4)",
            conversation_id,
            user_id,
            shared.row["title"],
            len(messages),
        )
        await _insert_messages(db, user_id, conversation_id, messages)
        return await find_conversation(db, user_id, conversation_id)


async def _read_shared(db: Any, token: str, after: int, limit: int) -> Shared:
    row = await db.fetchrow("select * from read_share($1, $2, $3)", _digest_of(token), after, limit + 1)
    if row is None:
        raise _leads_nowhere()
    return Shared(row, row["items"][:limit], has_more=len(row["items"]) > limit)


def _leads_nowhere() -> NotFoundError:
    return NotFoundError("not_found", "This link leads nowhere: it was revoked, has expired, or there never was one.")


def _digest_of(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _copied(item: JsonObject) -> JsonObject:
    """A message of a link as a row, but for its place."""
    role = item["role"]
    parts = [text_part(role, part["text"]) if "text" in part else part for part in item["content"]]
    return {"id": str(uuid7()), "role": role, "content": text_of(parts), "parts": parts}


async def _insert_messages(db: Any, user_id: str, conversation_id: UUID, messages: Sequence[JsonObject]) -> None:
    await db.execute(
        """
        insert into messages (id, conversation_id, user_id, turn, ordinal, role, content, parts, status)
        select given.id, $1, $2, given.turn, 0, given.role, given.content, given.parts, 'completed'
        from jsonb_to_recordset($3) given (id uuid, turn integer, role text, content text, parts jsonb)
        """,
        conversation_id,
        user_id,
        [{**message, "turn": turn} for turn, message in enumerate(messages, start=1)],
    )
