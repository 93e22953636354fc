"""The items of a conversation as the wire has them: messages, tool calls and every other kind, as one sequence.

They share the ordinals of their turn: order is (turn, ordinal). An item that no response brought is a turn of its own,
and in every branch.
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from gateway.branches import turns_of
from gateway.queries import ItemRun, ItemsAfter, Order, find_conversation_row
from shared.db import Database, Row
from shared.errors import NotFoundError
from shared.events import JsonObject
from shared.ids import Prefix, to_wire

_NO_TURN, _ANY_TURN = -1, 2**31 - 1  # below and above all there are

# What each table has of the columns of all.
_COLUMNS = {
    "messages": """
        'messages' as source, id, user_id, job_id, turn, ordinal, created_at, status, role, parts, metadata,
        null::jsonb as item, null as server_label, null as tool_name, null as parameters, null as result,
        null::jsonb as error, null as approval_request_id, null::integer as duration_ms""",
    "tool_calls": """
        'tool_calls', id, user_id, job_id, turn, ordinal, executed_at, status, null, null, null,
        null, server_label, tool_name, parameters, result,
        error, approval_request_id, duration_ms""",
    "items": """
        'items', id, user_id, job_id, turn, ordinal, created_at, null, null, null, null,
        item, null, null, null, null,
        null, null, null""",
}


async def list_items(database: Database, user_id: str, conversation_id: UUID, wanted: ItemsAfter) -> ItemRun:
    """Items of a conversation in the order of its turns.

    Raises NotFoundError for the conversation, the branch, or where `wanted.after` is not in the conversation.
    """
    async with database.transaction(user_id) as db:
        conversation = await find_conversation_row(db, user_id, conversation_id)
        turns = await turns_of(db, conversation, wanted.branch)
        start = _NO_TURN if wanted.order is Order.ASC else _ANY_TURN
        place = (start, start)
        if wanted.after is not None:
            cursor = await find_item(db, user_id, conversation_id, wanted.after, param="after")
            place = (cursor["turn"], cursor["ordinal"])
        rows = await db.fetch(
            _page(wanted.order, is_branch=turns is not None),
            conversation_id,
            user_id,
            *place,
            wanted.limit + 1,
            *([] if turns is None else [turns]),
        )
    return ItemRun([wire_item(row, user_id) for row in rows[: wanted.limit]], has_more=len(rows) > wanted.limit)


async def read_item(database: Database, user_id: str, conversation_id: UUID, item_id: UUID) -> JsonObject:
    """Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        await find_conversation_row(db, user_id, conversation_id)
        return wire_item(await find_item(db, user_id, conversation_id, item_id), user_id)


async def find_item(db: Any, user_id: str, conversation_id: UUID, item_id: UUID, *, param: str = "item_id") -> Row:
    """The row of an item; `source` is the table that has it. Raises NotFoundError."""
    rows = await db.fetch(_union("id = $3"), conversation_id, user_id, item_id)
    if not rows:
        raise NotFoundError("not_found", "No such item in this conversation.", param=param)
    return rows[0]


async def items_of_turn(db: Any, user_id: str, conversation_id: UUID, turn: int) -> list[JsonObject]:
    """In order."""
    rows = await db.fetch(f"{_union('turn = $3')} order by ordinal", conversation_id, user_id, turn)
    return [wire_item(row, user_id) for row in rows]


def _page(order: Order, *, is_branch: bool) -> str:
    """Each table gives no more rows than the page can hold, from an index that has them in this order."""
    beyond = "<" if order is Order.DESC else ">"
    where = f"(turn, ordinal) {beyond} ($3, $4)"
    if is_branch:
        where += " and (job_id is null or turn = any($6::integer[]))"
    in_order = f"order by turn {order.value}, ordinal {order.value} limit $5"
    return f"{_union(where, in_order)} {in_order}"


def _union(where: str, in_order: str = "") -> str:
    return " union all ".join(
        f"(select {columns} from {table}"  # noqa: S608 - constants
        f" where conversation_id = $1 and user_id = $2 and deleted_at is null and {where} {in_order})"
        for table, columns in _COLUMNS.items()
    )


def wire_item(row: Row, user_id: str) -> JsonObject:
    """A row as the wire's item. `response_id` and `created_at` are ours: which response it belongs to, and since when.

    `response_id` is null where the item was put there without one.
    """
    assert row["user_id"] == user_id, "a row of another user"
    ours = {
        "response_id": to_wire(Prefix.RESPONSE, row["job_id"]) if row["job_id"] else None,
        "created_at": int(row["created_at"].timestamp()),
    }
    match row["source"]:
        case "messages":
            return {**_message(row), **ours}
        case "tool_calls":
            return {**_tool_call(row), **ours}
        case _:
            return {**row["item"], **ours}


def _message(row: Row) -> JsonObject:
    message = {
        "id": to_wire(Prefix.MESSAGE, row["id"]),
        "type": "message",
        "status": row["status"],
        "role": row["role"],
        "content": row["parts"],
    }
    phase = row["metadata"].get("phase")
    return message if phase is None else {**message, "phase": phase}


def _tool_call(row: Row) -> JsonObject:
    return {
        "id": to_wire(Prefix.MCP_CALL, row["id"]),
        "type": "mcp_call",
        "server_label": row["server_label"],
        "name": row["tool_name"],
        "arguments": row["parameters"],
        "output": row["result"],
        "error": row["error"],
        "approval_request_id": row["approval_request_id"],
        "duration_ms": row["duration_ms"],
        "status": row["status"],
    }


def ends_of(ids: Sequence[str]) -> JsonObject:
    """The ends of a page of the wire, null where it is empty."""
    return {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
