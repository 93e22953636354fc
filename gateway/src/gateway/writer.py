"""What a user changes about conversations. (Turns are accepted in `turns.py`, tasks change in `shared.db.tasks`.)

What happened is noted for those who follow the conversation by the database itself, in the same transaction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.branches import is_busy, newest_descendant
from gateway.conversation_items import find_item, items_of_turn
from gateway.items import InputItem
from gateway.queries import CONVERSATION_COLUMNS, conversation_not_found, find_conversation, found_conversation
from gateway.turns import title_of
from gateway.views import ConversationView
from shared.db import Database, Row
from shared.errors import ConflictError, NotFoundError
from shared.events import JsonObject
from shared.ids import uuid7

_FIRST_TURN = 1


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be another about a conversation; None: it stays as it is.

    `branch_of` is a response of the branch that becomes the active one.
    """

    title: str | None = None
    metadata: dict[str, str] | None = None
    is_archived: bool | None = None
    branch_of: UUID | None = None


async def create_conversation(
    database: Database, user_id: str, *, metadata: dict[str, str], items: Sequence[InputItem] = ()
) -> ConversationView:
    """A conversation without turns. Its title comes from the first thing the user says, here or later."""
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            insert into conversations (id, user_id, title, metadata, last_turn) values ($1, $2, $3, $4, $5)
            returning {CONVERSATION_COLUMNS}
            """,  # noqa: S608 - constants
            uuid7(),
            user_id,
            title_of(items),
            metadata,
            _FIRST_TURN if items else 0,
        )
        view = found_conversation(row, user_id)
        if not items:
            return view
        await _insert_items(db, user_id, row["id"], _FIRST_TURN, items)
        return await find_conversation(db, user_id, row["id"])


async def change_conversation(
    database: Database, user_id: str, conversation_id: UUID, change: Change
) -> ConversationView:
    """Raises NotFoundError for the conversation, or a response that is not one of its own.

    Raises ConflictError where another branch is to become the active one while a response is queued or running.
    """
    async with database.transaction(user_id) as db:
        head = None
        if change.branch_of is not None:
            head = await _end_of_branch(db, user_id, conversation_id, change.branch_of)
        row = await db.fetchrow(
            f"""
            update conversations
            set title = coalesce($3, title), title_source = case when $3 is null then title_source else 'user' end,
                metadata = coalesce($4, metadata), head_job_id = coalesce($6, head_job_id),
                archived_at = case when $5::boolean is null then archived_at
                                   when $5 then coalesce(archived_at, clock_timestamp()) end,
                -- The archive is no activity, nor is a look at another branch.
                updated_at = case when $3 is null and $4::jsonb is null then updated_at else clock_timestamp() end
            where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral
            returning {CONVERSATION_COLUMNS}
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
            change.title,
            change.metadata,
            change.is_archived,
            head,
        )
    return found_conversation(row, user_id)


async def mark_read(
    database: Database, user_id: str, conversation_id: UUID, response_id: UUID | None
) -> tuple[ConversationView, bool]:
    """The conversation, whose user has seen what ended up to that response, or until now; and whether that is news.

    Raises NotFoundError for the conversation, or a response that is not one of its own.
    """
    async with database.transaction(user_id) as db:
        view = await find_conversation(db, user_id, conversation_id)
        if response_id is not None:
            await _check_response(db, user_id, conversation_id, response_id)
        if not view.is_unread:
            return view, False
        row = await db.fetchrow(
            f"""
            update conversations
            set read_at = greatest(read_at, case when $3::uuid is null then clock_timestamp()
                                                 else (select j.ended_at from jobs j
                                                       where j.id = $3 and j.user_id = $2) end)
            where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral
            returning {CONVERSATION_COLUMNS}
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
            response_id,
        )
    view = found_conversation(row, user_id)
    return view, not view.is_unread


async def add_items(
    database: Database, user_id: str, conversation_id: UUID, items: Sequence[InputItem]
) -> list[JsonObject]:
    """Put `items` behind the conversation's last turn, as a turn of their own. Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        turn = await db.fetchval(
            """
            update conversations
            set last_turn = last_turn + 1, updated_at = clock_timestamp(),
                title = case when title = '' then $3 else title end
            where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral returning last_turn
            """,
            conversation_id,
            user_id,
            title_of(items),
        )
        if turn is None:
            raise conversation_not_found()
        await _insert_items(db, user_id, conversation_id, turn, items)
        return await items_of_turn(db, user_id, conversation_id, turn)


async def delete_item(database: Database, user_id: str, conversation_id: UUID, item_id: UUID) -> ConversationView:
    """Hide an item, from clients and from the model; returns its conversation.

    Raises NotFoundError; ConflictError for an item of a response that is queued or running.
    """
    async with database.transaction(user_id) as db:
        await _lock(db, user_id, conversation_id)
        item = await find_item(db, user_id, conversation_id, item_id)
        if await _is_open(db, user_id, item):
            message = "The response that this item belongs to is still queued or running: cancel it, or wait for it."
            raise ConflictError("response_running", message, param="item_id")
        await db.execute(
            f"update {item['source']} set deleted_at = clock_timestamp() where id = $1 and user_id = $2",  # noqa: S608
            item_id,
            user_id,
        )
        return await find_conversation(db, user_id, conversation_id)


async def delete_conversation(database: Database, user_id: str, conversation_id: UUID) -> Sequence[UUID]:
    """Hide the conversation with all it holds until it is restored; the jobs that are to be stopped for it.

    Raises NotFoundError.
    """
    async with database.transaction(user_id) as db:
        found = await db.fetchval(
            """
            update conversations set deleted_at = clock_timestamp()
            where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral returning id
            """,
            conversation_id,
            user_id,
        )
        if found is None:
            raise conversation_not_found()
        rows = await db.fetch(
            """
            update jobs set cancel_requested_at = clock_timestamp()
            where id in (select id from jobs
                         where conversation_id = $1 and user_id = $2 and status in ('queued', 'in_progress')
                           and cancel_requested_at is null
                         order by id for no key update)
            returning id
            """,
            conversation_id,
            user_id,
        )
    return [row["id"] for row in rows]


async def restore_conversation(database: Database, user_id: str, conversation_id: UUID) -> ConversationView:
    """Bring a deleted conversation back; one that is not deleted stays as it is. Raises NotFoundError.

    What was queued or running when it was deleted was stopped then, and stays so.
    """
    async with database.transaction(user_id) as db:
        row = await db.fetchrow(
            f"""
            update conversations set deleted_at = null
            where id = $1 and user_id = $2 and not is_ephemeral returning {CONVERSATION_COLUMNS}
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
        )
    return found_conversation(row, user_id)


async def _lock(db: Any, user_id: str, conversation_id: UUID) -> None:
    found = await db.fetchval(
        """
        select true from conversations
        where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral for no key update
        """,
        conversation_id,
        user_id,
    )
    if found is None:
        raise conversation_not_found()


async def _check_response(db: Any, user_id: str, conversation_id: UUID, job_id: UUID) -> None:
    found = await db.fetchval(
        "select true from jobs where id = $1 and conversation_id = $2 and user_id = $3 and deleted_at is null",
        job_id,
        conversation_id,
        user_id,
    )
    if found is None:
        raise NotFoundError("not_found", "No such response in this conversation.", param="response_id")


async def _end_of_branch(db: Any, user_id: str, conversation_id: UUID, job_id: UUID) -> UUID:
    await _lock(db, user_id, conversation_id)
    if await is_busy(db, user_id, conversation_id):
        message = "A response of this conversation is still queued or running: cancel it, or wait for it."
        raise ConflictError("conversation_locked", message, param="active_response_id")
    newest = await newest_descendant(db, user_id, conversation_id, job_id)
    if newest is None:
        raise NotFoundError("not_found", "No such response in this conversation.", param="active_response_id")
    return newest


async def _is_open(db: Any, user_id: str, item: Row) -> bool:
    """Under the conversation's lock no job of it ends."""
    return item["job_id"] is not None and await db.fetchval(
        "select status in ('queued', 'in_progress') from jobs where id = $1 and user_id = $2", item["job_id"], user_id
    )


async def _insert_items(db: Any, user_id: str, conversation_id: UUID, turn: int, items: Sequence[InputItem]) -> None:
    await db.execute(
        """
        with given as (
            select * from jsonb_to_recordset($4) i(id uuid, ordinal integer, kind text, role text, content text,
                                                   parts jsonb, item jsonb)
        ), said as (
            insert into messages (id, conversation_id, user_id, turn, ordinal, role, content, parts, status, metadata)
            select id, $1, $2, $3, ordinal, role, content, parts, 'completed', coalesce(item, '{}')
            from given where kind = 'message'
        )
        insert into items (id, conversation_id, user_id, turn, ordinal, kind, item)
        select id, $1, $2, $3, ordinal, kind, item from given where kind <> 'message'
        """,
        conversation_id,
        user_id,
        turn,
        [item.to_row(ordinal) for ordinal, item in enumerate(items)],
    )
