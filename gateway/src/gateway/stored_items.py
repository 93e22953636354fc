"""What an input has to do with what is stored: items that it refers to, calls and requests that it answers."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from gateway.items import ITEM_REFERENCE, InputItem, renamed_request
from gateway.queries import ItemRun, ItemsAfter
from shared.db import Database, Row
from shared.errors import InvalidInputError, NotFoundError
from shared.events import JsonObject
from shared.ids import Prefix, from_wire, to_wire, uuid7

_PREFIXES = {
    "message": Prefix.MESSAGE,
    "mcp_call": Prefix.MCP_CALL,
    "function_call": Prefix.FUNCTION_CALL,
    "function_call_output": Prefix.FUNCTION_CALL_OUTPUT,
    "reasoning": Prefix.REASONING,
    "mcp_list_tools": Prefix.TOOL_LIST,
    "mcp_approval_request": Prefix.APPROVAL_REQUEST,
    "mcp_approval_response": Prefix.APPROVAL_RESPONSE,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn goes: to the end of a conversation or to its start, behind a given turn, or nowhere yet."""

    conversation_id: UUID | None = None
    parent_job_id: UUID | None = None
    is_at_start: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """Input as it is to be stored, and the ids of the stored approval requests that it answers."""

    items: Sequence[InputItem]
    answered_requests: Sequence[str] = ()


async def settle(database: Database, user_id: str, items: Sequence[InputItem], place: Place) -> Settled:
    """`items` as they are to be stored: references replaced by what they name, answers known to answer something.

    What is part of the turn's history already is not repeated. Raises NotFoundError for a conversation, an item or an
    approval request that the user does not have there; InvalidInputError for the output of a call that nobody made, and
    for a request that was answered before.
    """
    named = {item.item["id"]: item.param for item in items if item.kind == ITEM_REFERENCE and item.item}
    made = {item.item["call_id"] for item in items if item.kind == "function_call" and item.item}
    outputs = _answers(items, "function_call_output", "call_id", known=made)
    asked = {item.item["id"] for item in items if item.kind == "mcp_approval_request" and item.item}
    approvals = _answers(items, "mcp_approval_response", "approval_request_id", known=asked)
    if not (named or outputs or approvals):
        return Settled(items)
    async with database.transaction(user_id) as db:
        chain = await _Chain.of(db, user_id, place)
        found = await _find_named(chain, named)
        made_before = {row["item"]["call_id"] for row in found.values() if row["kind"] == "function_call"}
        await _check_calls(chain, {call: param for call, param in outputs.items() if call not in made_before})
        settled, new_ids = _resolved(items, found, user_id)
        asked_before = {request: param for request, param in approvals.items() if request not in new_ids}
        await _check_requests(chain, asked_before)
    return Settled([renamed_request(item, new_ids) for item in settled], list(approvals))


def _resolved(
    items: Iterable[InputItem], found: Mapping[str, Row], user_id: str
) -> tuple[list[InputItem], dict[str, str]]:
    """The items with copies in place of references; and the new ids of approval requests that were copied."""
    resolved: list[InputItem] = []
    new_ids: dict[str, str] = {}
    for item in items:
        if item.kind != ITEM_REFERENCE or item.item is None:
            resolved.append(item)
            continue
        row = found[item.item["id"]]
        if row["is_in_chain"]:
            continue
        copy = _copy(row, user_id, item.param)
        if copy.kind == "mcp_approval_request" and copy.item is not None:
            new_ids[item.item["id"]] = copy.item["id"]
        resolved.append(copy)
    return resolved, new_ids


def _answers(items: Iterable[InputItem], kind: str, field: str, *, known: set[str]) -> dict[str, str]:
    """What items of `kind` answer that is not `known`, and where. Raises InvalidInputError where two answer one."""
    answered: dict[str, str] = {}
    for item in items:
        if item.kind == kind and item.item:
            what = item.item[field]
            if what in answered:
                message = f"{item.param}.{field}: another item answers this one already."
                raise InvalidInputError("answered_twice", message, param=f"{item.param}.{field}")
            answered[what] = f"{item.param}.{field}"
    return {what: param for what, param in answered.items() if what not in known}


@dataclass(frozen=True, slots=True)
class _Chain:
    """The turns that a new one follows, by their parents; and what lies in their conversation without a turn."""

    db: Any
    user_id: str
    last_job_id: UUID | None
    conversation_id: UUID | None

    @classmethod
    async def of(cls, db: Any, user_id: str, place: Place) -> "_Chain":
        """Raises NotFoundError for a conversation that the user does not have."""
        head = None
        if place.conversation_id is not None:
            row = await db.fetchrow(
                """
                select head_job_id from conversations
                where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral
                """,
                place.conversation_id,
                user_id,
            )
            if row is None:
                raise NotFoundError("not_found", "No such conversation.", param="conversation")
            head = None if place.is_at_start else row["head_job_id"]
        return cls(db, user_id, place.parent_job_id or head, place.conversation_id)

    async def rows(self, statement: str, *arguments: object) -> Sequence[Row]:
        """What `statement` selects from `chain` (jobs), `others` (their items but messages and calls of ours) and more.

        `$1` is the user, `$3` the conversation; `arguments` begin with `$4`.
        """
        rows: Sequence[Row] = await self.db.fetch(
            _CHAIN + statement, self.user_id, self.last_job_id, self.conversation_id, *arguments
        )
        return rows


_CHAIN = """
    with recursive chain as (
        select id, parent_job_id from jobs where id = $2::uuid and user_id = $1
        union all
        select parent.id, parent.parent_job_id
        from chain join jobs parent on parent.id = chain.parent_job_id and parent.user_id = $1
    ), others as (
        select i.job_id, i.kind, i.item from chain join items i on i.job_id = chain.id
        where i.user_id = $1 and i.deleted_at is null
        union all
        select i.job_id, i.kind, i.item from items i
        where i.conversation_id = $3::uuid and i.job_id is null and i.user_id = $1 and i.deleted_at is null
    )
"""
_IS_IN_CHAIN = "(i.job_id in (select id from chain) or (i.job_id is null and i.conversation_id = $3::uuid))"
# What a user sees of what was said and done, in one form: messages by their columns, all else as the wire has it.
_ITEMS = """
    select m.id, m.user_id, m.conversation_id, m.job_id, m.ordinal, 'message' as kind, m.role, m.content, m.parts,
           m.status, m.metadata, null::jsonb as item
    from messages m where m.user_id = $1 and m.deleted_at is null
    union all
    select o.id, o.user_id, o.conversation_id, o.job_id, o.ordinal, o.kind, null, null, null, null, null, o.item
    from items o where o.user_id = $1 and o.deleted_at is null
    union all
    select t.id, t.user_id, t.conversation_id, t.job_id, t.ordinal, 'mcp_call', null, null, null, null, null,
           jsonb_build_object('type', 'mcp_call', 'server_label', t.server_label, 'name', t.tool_name,
                              'arguments', t.parameters, 'output', t.result, 'error', t.error,
                              'approval_request_id', t.approval_request_id, 'duration_ms', t.duration_ms,
                              'status', t.status)
    from tool_calls t where t.user_id = $1 and t.deleted_at is null
"""


async def _find_named(chain: _Chain, named: Mapping[str, str]) -> dict[str, Row]:
    """The items with these wire ids; `is_in_chain`: part of the history anyway. `named` says where each is named."""
    if not named:
        return {}
    rows = await chain.rows(
        f"""
        select i.*, {_IS_IN_CHAIN} as is_in_chain
        from ({_ITEMS}) i
        join conversations c on c.id = i.conversation_id and c.deleted_at is null and not c.is_ephemeral
        where i.id = any($4)
        """,  # noqa: S608 - constants
        [item_id for text in named if (item_id := _item_id(text)) is not None],
    )
    by_id = {to_wire(_PREFIXES[row["kind"]], row["id"]): row for row in rows}
    for text, param in named.items():
        if text not in by_id:
            raise NotFoundError("item_not_found", f"Item with id '{text}' not found.", param=f"{param}.id")
    return by_id


def _item_id(text: str) -> UUID | None:
    for prefix in _PREFIXES.values():
        if text.startswith(f"{prefix.value}_"):
            try:
                return from_wire(prefix, text)
            except InvalidInputError:
                return None
    return None


def _copy(row: Row, user_id: str, param: str) -> InputItem:
    assert row["user_id"] == user_id, "a row of another user"
    new_id = uuid7()
    if row["kind"] == "message":
        phase = _phase(row) or None
        return InputItem("message", row["role"], row["content"], row["parts"], phase, id=new_id, param=param)
    item = {**row["item"], "id": to_wire(_PREFIXES[row["kind"]], new_id)}
    return InputItem(row["kind"], item=item, id=new_id, param=param)


async def _check_calls(chain: _Chain, outputs: Mapping[str, str]) -> None:
    if not outputs:
        return
    rows = await chain.rows(
        """
        select o.item ->> 'call_id' as call_id, count(*) filter (where o.kind = 'function_call') as made_count,
               count(*) filter (where o.kind = 'function_call_output') as answered_count
        from others o
        where o.kind in ('function_call', 'function_call_output') and o.item ->> 'call_id' = any($4) group by 1
        """,
        list(outputs),
    )
    known = {row["call_id"]: row for row in rows}
    for call_id, param in outputs.items():
        call = known.get(call_id)
        if call is None or not call["made_count"]:
            message = f"No tool call found for function call output with call_id {call_id}."
            raise InvalidInputError("unknown_call", message, param=param)
        # Some models give each turn's first call the same id.
        if call["answered_count"] >= call["made_count"]:
            message = f"The function call with call_id {call_id} was answered before."
            raise InvalidInputError("already_answered", message, param=param)


async def _check_requests(chain: _Chain, approvals: Mapping[str, str]) -> None:
    if not approvals:
        return
    rows = await chain.rows(
        """
        select o.kind, coalesce(o.item ->> 'approval_request_id', o.item ->> 'id') as request_id from others o
        where o.kind in ('mcp_approval_request', 'mcp_approval_response')
          and coalesce(o.item ->> 'approval_request_id', o.item ->> 'id') = any($4)
        """,
        list(approvals),
    )
    asked = {row["request_id"] for row in rows if row["kind"] == "mcp_approval_request"}
    answered = {row["request_id"] for row in rows if row["kind"] == "mcp_approval_response"}
    for request_id, param in approvals.items():
        if request_id not in asked:
            message = f"No approval request with id '{request_id}' in what this turn follows."
            raise NotFoundError("approval_request_not_found", message, param=param)
        if request_id in answered:
            message = f"The approval request '{request_id}' was answered before."
            raise InvalidInputError("already_answered", message, param=param)


async def history_bytes(database: Database, user_id: str, place: Place) -> int:
    """How much text a turn at `place` follows. Raises NotFoundError for a conversation that the user does not have."""
    async with database.transaction(user_id) as db:
        chain = await _Chain.of(db, user_id, place)
        [row] = await chain.rows(
            """
            select coalesce(sum(size), 0)::bigint as size from (
                select octet_length(m.content) as size from chain join messages m on m.job_id = chain.id
                where m.user_id = $1 and m.deleted_at is null
                union all
                select octet_length(m.content) from messages m
                where m.conversation_id = $3 and m.job_id is null and m.user_id = $1 and m.deleted_at is null
                union all
                select octet_length(t.parameters) + coalesce(octet_length(t.result), 0)
                from chain join tool_calls t on t.job_id = chain.id where t.user_id = $1 and t.deleted_at is null
                union all
                select octet_length(o.item::text) from others o
            ) said
            """
        )
    size: int = row["size"]
    return size


async def list_input(database: Database, user_id: str, job_id: UUID, wanted: ItemsAfter) -> ItemRun:
    """The items that the client sent with a response. Raises NotFoundError where `wanted.after` is none of them."""
    async with database.transaction(user_id) as db:
        rows = await db.fetch(
            f"""
            select i.* from ({_ITEMS}) i
            join jobs j on j.id = i.job_id and j.user_id = $1
            where i.job_id = $2 and i.ordinal < j.input_item_count
            order by i.ordinal {wanted.order.value}
            """,  # noqa: S608 - constants
            user_id,
            job_id,
        )
    items = [_to_wire(row, user_id) for row in rows]
    if wanted.after is not None:
        ids = [row["id"] for row in rows]
        if wanted.after not in ids:
            raise NotFoundError("not_found", "No such item in this response's input.", param="after")
        items = items[ids.index(wanted.after) + 1 :]
    return ItemRun(items[: wanted.limit], has_more=len(items) > wanted.limit)


def _to_wire(row: Row, user_id: str) -> JsonObject:
    assert row["user_id"] == user_id, "a row of another user"
    if row["kind"] != "message":
        return {**row["item"], "id": to_wire(_PREFIXES[row["kind"]], row["id"])}
    return {
        "id": to_wire(Prefix.MESSAGE, row["id"]),
        "type": "message",
        "status": row["status"],
        "role": row["role"],
        "content": row["parts"],
        **_phase(row),
    }


def _phase(message: Row) -> JsonObject:
    phase = message["metadata"].get("phase")
    return {} if phase is None else {"phase": phase}
