"""The turns that lead to a job, as the prompt wants them.

A turn's parent is the turn it answers to, which need not be the one before it: editing and regenerating fork, and
`previous_response_id` may name any turn. Items that were put into a conversation without a response belong to all its
branches. Order is (turn, ordinal), never time; deleted items are left out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from chat_worker.agent.prompt import Called, Entry, PastTurn, Said
from chat_worker.agent.values import JsonObject, ToolCall, ToolError, ToolErrorKind, ToolResult
from shared.db import Database


@dataclass(frozen=True, slots=True)
class History:
    """`past` is oldest first; `current` holds what the user says now."""

    past: Sequence[PastTurn]
    current: PastTurn


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How much of the past is read, newest first; items without a response have the same limits once more.

    `output_bytes_max` is what one tool result counts for, at most.
    """

    turn_count_max: int
    bytes_max: int
    output_bytes_max: int
    loose_item_count_max: int = 1_000


async def read(database: Database, user_id: str, job_id: UUID, limits: HistoryLimits) -> History:
    """The newest turns that lead to the job, whole and as many as the limits allow, and the job's own input."""
    async with database.transaction(user_id) as connection:
        rows = await connection.fetch(
            _CHAIN, job_id, user_id, limits.turn_count_max, limits.bytes_max, limits.output_bytes_max
        )
        own = rows[-1]  # the job has items, or it would not have been accepted
        loose = await connection.fetch(
            _LOOSE, own["conversation_id"], user_id, own["turn"], limits.loose_item_count_max, limits.bytes_max
        )
    return _arranged(rows, loose)


# `size` is what the past turns from here to the job have together. Postgres knows a text's length without reading it.
_CHAIN = """
with recursive chain as (
    select id, conversation_id, parent_job_id, turn, 0 as distance, 0::bigint as size
    from jobs where id = $1 and user_id = $2
    union all
    select parent.id, parent.conversation_id, parent.parent_job_id, parent.turn, chain.distance + 1,
           chain.size + said.size + called.size
    from chain join jobs parent on parent.id = chain.parent_job_id and parent.user_id = $2
    cross join lateral (
        select coalesce(sum(octet_length(content)), 0)::bigint as size
        from messages where job_id = parent.id and user_id = $2 and deleted_at is null
    ) said
    cross join lateral (
        select coalesce(sum(octet_length(parameters)), 0)::bigint
               + coalesce(sum(least(octet_length(result), $5::integer)) filter (where result is not null), 0) as size
        from tool_calls where job_id = parent.id and user_id = $2
    ) called
    where chain.distance < $3 and chain.size <= $4::bigint
)
select chain.id as job_id, chain.conversation_id, chain.turn, item.*
from chain left join lateral (
    select ordinal, role, content as text, null::uuid as call_id, null as server_label, null as tool_name,
           null as parameters, null::jsonb as error
    from messages where job_id = chain.id and user_id = $2 and deleted_at is null
    union all
    select ordinal, null, result, id, server_label, tool_name, parameters, error
    from tool_calls where job_id = chain.id and user_id = $2
) item on true
where chain.size <= $4
order by chain.distance desc, item.ordinal
"""

_LOOSE = """
with newest as (
    select id, turn, ordinal, sum(octet_length(content)) over (order by turn desc, ordinal desc, id) as size
    from messages
    where conversation_id = $1 and user_id = $2 and turn <= $3 and job_id is null and deleted_at is null
    order by turn desc, ordinal desc limit $4
)
select null::uuid as job_id, conversation_id, messages.turn, messages.ordinal, role, content as text
from newest join messages using (id)
where newest.size <= $5 or newest.turn = $3
"""


def _arranged(rows: Sequence[Any], loose: Sequence[Any]) -> History:
    own = rows[-1]
    chain = [row for row in rows if row["ordinal"] is not None]
    # Turn numbers count within a conversation; what a chain brings from another one comes before all of this one.
    elsewhere = [row for row in chain if row["conversation_id"] != own["conversation_id"]]
    here = [row for row in chain if row["conversation_id"] == own["conversation_id"]]
    here = sorted([*here, *loose], key=lambda row: (row["turn"], row["ordinal"]))
    past = elsewhere + [row for row in here if row["turn"] < own["turn"]]
    current = [row for row in here if row["turn"] == own["turn"]]
    return History([_turn(turn) for turn in _turns(past)], _turn(current))


def _turns(rows: Sequence[Any]) -> list[list[Any]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: (row["conversation_id"], row["turn"]))]


def _turn(rows: Sequence[Any]) -> PastTurn:
    return PastTurn([_entry(step, row) for step, row in enumerate(rows)])


def _entry(step: int, row: Any) -> Entry:
    if row["role"] is not None:
        return Said(row["role"], row["text"])
    call = ToolCall(row["call_id"].hex, row["tool_name"], row["parameters"])
    # Which calls the model made at once is not kept; one after the other is true to whatever depended on what.
    return Called(call, ToolResult(row["text"], tool_error_from_wire(row["error"])), step)


def tool_error_to_wire(error: ToolError) -> JsonObject:
    """The typed `error` of an `mcp_call`."""
    if error.kind is ToolErrorKind.EXECUTION:
        return {"type": error.kind.value, "content": [{"type": "text", "text": error.message}]}
    return {"type": error.kind.value, "code": error.code, "message": error.message}


def tool_error_from_wire(error: JsonObject | None) -> ToolError | None:
    if error is None:
        return None
    kind = ToolErrorKind(error["type"])
    if kind is ToolErrorKind.EXECUTION:
        return ToolError(kind, "\n".join(part["text"] for part in error["content"]))
    return ToolError(kind, error["message"], error["code"])
