"""The read side: what clients may see of conversations, and of what was said and done in them.

Every statement names the user, though row level security would do it too; and every row is checked for its owner
after it was read, as a connection that gave us somebody else's answer would pass all else.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from gateway.limits import Page
from gateway.views import ConversationView, MessageView, ToolCallView
from shared.db import Database, Row
from shared.errors import NotFoundError
from shared.events import JsonObject
from shared.ids import Prefix, from_wire, to_wire

CONVERSATION_COLUMNS = "id, user_id, title, metadata, active_job_id, created_at, updated_at"
_MESSAGE_COLUMNS = "id, user_id, job_id, role, content, status, created_at"


class Order(StrEnum):
    """Of time: oldest first, or newest first."""

    ASC = "asc"
    DESC = "desc"


@dataclass(frozen=True, slots=True)
class ItemsAfter:
    """Which items of a conversation: `limit` of them that follow the item `after`; null: from the start."""

    after: UUID | None
    limit: int
    order: Order


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Some conversations of a list, and how many the whole list has."""

    conversations: list[ConversationView]
    total: int


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Some messages of a conversation, and how many the whole conversation has."""

    messages: list[MessageView]
    total: int


@dataclass(frozen=True, slots=True)
class ItemRun:
    """The items of the wire that follow a cursor."""

    items: list[JsonObject]
    has_more: bool


@dataclass(frozen=True, slots=True)
class ConversationRun:
    """The conversations that follow a cursor."""

    conversations: list[ConversationView]
    has_more: bool


def conversation_not_found() -> NotFoundError:
    return NotFoundError("not_found", "No such conversation.")


async def find_conversation(db: Any, user_id: str, conversation_id: UUID) -> ConversationView:
    """One conversation, read in the caller's transaction. Raises NotFoundError if it is deleted or not the user's."""
    row = await db.fetchrow(
        f"""
        select {CONVERSATION_COLUMNS} from conversations
        where id = $1 and user_id = $2 and deleted_at is null
        """,  # noqa: S608 - constants
        conversation_id,
        user_id,
    )
    return found_conversation(row, user_id)


def found_conversation(row: Row | None, user_id: str) -> ConversationView:
    """Raises NotFoundError where there is no row."""
    if row is None:
        raise conversation_not_found()
    return _conversation(row, user_id)


async def read_conversation(database: Database, user_id: str, conversation_id: UUID) -> ConversationView:
    """Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        return await find_conversation(db, user_id, conversation_id)


async def page_conversations(database: Database, user_id: str, page: Page) -> ConversationPage:
    """The user's conversations, the one that was active last first."""
    scope = "user_id = $1 and deleted_at is null"
    async with database.transaction(user_id) as db:
        total = await db.fetchval(f"select count(*) from conversations where {scope}", user_id)  # noqa: S608
        rows = await db.fetch(
            f"""
            select {CONVERSATION_COLUMNS} from conversations where {scope}
            order by updated_at desc, id limit $2 offset $3
            """,  # noqa: S608 - constants
            user_id,
            page.limit,
            page.offset,
        )
    return ConversationPage([_conversation(row, user_id) for row in rows], total)


async def list_conversations(database: Database, user_id: str, *, after: UUID | None, limit: int) -> ConversationRun:
    """The user's conversations that follow `after`, the one that was active last first.

    Raises NotFoundError where `after` is not one of them.
    """
    async with database.transaction(user_id) as db:
        cursor = await find_conversation(db, user_id, after) if after else None
        rows = await db.fetch(
            f"""
            select {CONVERSATION_COLUMNS} from conversations
            where user_id = $1 and deleted_at is null
              and ($2::timestamptz is null or updated_at < $2 or (updated_at = $2 and id > $3))
            order by updated_at desc, id limit $4
            """,  # noqa: S608 - constants
            user_id,
            cursor.updated_at if cursor else None,
            after,
            limit + 1,
        )
    return ConversationRun([_conversation(row, user_id) for row in rows[:limit]], has_more=len(rows) > limit)


async def page_messages(
    database: Database, user_id: str, conversation_id: UUID, page: Page, order: Order
) -> MessagePage:
    """Messages of a conversation in the order of its turns. Raises NotFoundError."""
    scope = "conversation_id = $1 and user_id = $2 and deleted_at is null"
    async with database.transaction(user_id) as db:
        await find_conversation(db, user_id, conversation_id)
        total = await db.fetchval(f"select count(*) from messages where {scope}", conversation_id, user_id)  # noqa: S608
        rows = await db.fetch(
            f"""
            select {_MESSAGE_COLUMNS} from messages where {scope}
            order by turn {order.value}, ordinal {order.value} limit $3 offset $4
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
            page.limit,
            page.offset,
        )
        calls = await _tool_calls(db, user_id, rows)
    return MessagePage([_message(row, user_id, calls) for row in rows], total)


async def turn_messages(database: Database, user_id: str, job_id: UUID) -> list[JsonObject]:
    """The messages of one turn as JSON, in order: what the user said, and what was answered so far."""
    async with database.transaction(user_id) as db:
        rows = await db.fetch(
            f"""
            select {_MESSAGE_COLUMNS} from messages
            where job_id = $1 and user_id = $2 and deleted_at is null order by ordinal
            """,  # noqa: S608 - constants
            job_id,
            user_id,
        )
        calls = await _tool_calls(db, user_id, rows)
    return [_message(row, user_id, calls).model_dump(mode="json") for row in rows]


async def _tool_calls(db: Any, user_id: str, messages: Iterable[Row]) -> dict[UUID, list[ToolCallView]]:
    """The tool calls that belong to `messages`, by message.

    A call belongs to the next message of its turn; to the last one where none follows.
    """
    rows = await db.fetch(
        """
        select id, user_id, server_label, tool_name, parameters, result, error, status, executed_at,
               coalesce(
                   (select m.id from messages m
                    where m.job_id = t.job_id and m.ordinal > t.ordinal and m.user_id = $2 and m.deleted_at is null
                    order by m.ordinal limit 1),
                   (select m.id from messages m
                    where m.job_id = t.job_id and m.ordinal < t.ordinal and m.user_id = $2 and m.deleted_at is null
                    order by m.ordinal desc limit 1)) as message_id
        from tool_calls t where job_id = any($1) and user_id = $2 order by turn, ordinal
        """,
        list({row["job_id"] for row in messages if row["job_id"]}),
        user_id,
    )
    calls = defaultdict(list)
    for row in rows:
        calls[row["message_id"]].append(_tool_call(row, user_id))
    return calls


# Messages and tool calls as one sequence: they share the ordinals of their turn.
_ITEMS = """
    select 'message' as kind, id, user_id, turn, ordinal, status, role, parts,
           null as server_label, null as tool_name, null as parameters, null as result, null::jsonb as error
    from messages where conversation_id = $1 and user_id = $2 and deleted_at is null
    union all
    select 'mcp_call', id, user_id, turn, ordinal, status, null, null,
           server_label, tool_name, parameters, result, error
    from tool_calls where conversation_id = $1 and user_id = $2
"""


async def list_items(database: Database, user_id: str, conversation_id: UUID, wanted: ItemsAfter) -> ItemRun:
    """Items of a conversation in the order of its turns.

    Raises NotFoundError for the conversation, or where `wanted.after` is not in it.
    """
    after, order = wanted.after, wanted.order
    beyond = "<" if order is Order.DESC else ">"
    async with database.transaction(user_id) as db:
        await find_conversation(db, user_id, conversation_id)
        cursor = await _find_item(db, user_id, conversation_id, after, "after") if after else None
        rows = await db.fetch(
            f"""
            select * from ({_ITEMS}) items
            where $3::integer is null or (turn, ordinal) {beyond} ($3, $4::integer)
            order by turn {order.value}, ordinal {order.value} limit $5
            """,  # noqa: S608 - constants
            conversation_id,
            user_id,
            cursor["turn"] if cursor else None,
            cursor["ordinal"] if cursor else None,
            wanted.limit + 1,
        )
    return ItemRun([_item(row, user_id) for row in rows[: wanted.limit]], has_more=len(rows) > wanted.limit)


async def read_item(database: Database, user_id: str, conversation_id: UUID, item_id: UUID) -> JsonObject:
    """Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        await find_conversation(db, user_id, conversation_id)
        return _item(await _find_item(db, user_id, conversation_id, item_id, "item_id"), user_id)


def item_id_of(text: str, param: str) -> UUID:
    """The id of a message or a tool call. Raises InvalidInputError when malformed."""
    is_call = text.startswith(f"{Prefix.MCP_CALL.value}_")
    return from_wire(Prefix.MCP_CALL if is_call else Prefix.MESSAGE, text, param=param)


async def _find_item(db: Any, user_id: str, conversation_id: UUID, item_id: UUID, param: str) -> Row:
    row = await db.fetchrow(
        f"select * from ({_ITEMS}) items where id = $3",  # noqa: S608 - constants
        conversation_id,
        user_id,
        item_id,
    )
    if row is None:
        raise NotFoundError("not_found", "No such item in this conversation.", param=param)
    return row


def _conversation(row: Row, user_id: str) -> ConversationView:
    _check_owner(row, user_id)
    return ConversationView.of(row)


def _message(row: Row, user_id: str, calls: dict[UUID, list[ToolCallView]]) -> MessageView:
    _check_owner(row, user_id)
    return MessageView.of(row, calls.get(row["id"], ()))


def _tool_call(row: Row, user_id: str) -> ToolCallView:
    _check_owner(row, user_id)
    return ToolCallView.of(row)


def _item(row: Row, user_id: str) -> JsonObject:
    """A row as the wire's item."""
    _check_owner(row, user_id)
    if row["kind"] == "message":
        return {
            "id": to_wire(Prefix.MESSAGE, row["id"]),
            "type": "message",
            "status": row["status"],
            "role": row["role"],
            "content": row["parts"],
        }
    return {
        "id": to_wire(Prefix.MCP_CALL, row["id"]),
        "type": "mcp_call",
        "server_label": row["server_label"],
        "name": row["tool_name"],
        "arguments": row["parameters"],
        "output": row["result"],
        "error": row["error"],
        "approval_request_id": None,
        "status": row["status"],
    }


def _check_owner(row: Row, user_id: str) -> None:
    assert row["user_id"] == user_id, "a row of another user"
