"""What the end of a response leaves in the tables, read off its terminal event."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from shared.errors import InvalidInputError
from shared.events import Event, JsonObject, is_terminal, response_of
from shared.ids import Prefix, from_wire
from shared.states import JobStatus

_ITEM_PREFIXES = {
    "function_call": Prefix.FUNCTION_CALL,
    "reasoning": Prefix.REASONING,
    "mcp_list_tools": Prefix.TOOL_LIST,
    "mcp_approval_request": Prefix.APPROVAL_REQUEST,
}
_INTEGER_MAX = 2**31 - 1  # of Postgres


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message of the final output; `position` is its place there."""

    id: UUID
    position: int
    content: str
    parts: list[JsonObject]
    status: str


@dataclass(frozen=True, slots=True)
class ToolCallRow:
    """A tool call of the final output; `position` is its place there."""

    id: UUID
    position: int
    call_id: str
    server_label: str
    tool_name: str
    parameters: str
    result: str | None
    error: JsonObject | None
    status: str
    approval_request_id: str | None
    duration_ms: int | None


class Spent(msgspec.Struct, frozen=True):
    """Tokens of a response."""

    input_tokens: Annotated[int, msgspec.Meta(ge=0)]
    output_tokens: Annotated[int, msgspec.Meta(ge=0)]


@dataclass(frozen=True, slots=True)
class ItemRow:
    """An item of the final output that is of another kind; `position` is its place there."""

    id: UUID
    position: int
    kind: str
    item: JsonObject


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended; `response` is the final Response object. `spent` is null where no usage is known."""

    status: JobStatus
    response: JsonObject
    messages: list[MessageRow]
    tool_calls: list[ToolCallRow]
    items: list[ItemRow]
    spent: Spent | None


class _MessageItem(msgspec.Struct):
    id: str
    status: Literal["completed", "incomplete"]
    content: list[JsonObject]


class _McpCallItem(msgspec.Struct):
    id: str
    server_label: str
    name: str
    arguments: str
    status: Literal["completed", "failed", "incomplete"]
    output: str | None = None
    error: JsonObject | None = None
    approval_request_id: str | None = None
    duration_ms: Annotated[int, msgspec.Meta(ge=0, le=_INTEGER_MAX)] | None = None


def outcome_of(event: Event, status: JobStatus) -> Outcome:
    """The outcome that the terminal event `event` tells of.

    Raises InvalidInputError where it is none, says another status, or holds items that are not the wire's.
    """
    try:
        if not is_terminal(event):
            raise InvalidInputError("bad_event", "expected a terminal event")
        response = _without_nul(response_of(event)) if rb"\u0000" in event else response_of(event)
        if response["status"] != status or not status.is_terminal:
            raise InvalidInputError("bad_event", f"expected a response that is {status}")
        return _outcome(response, status)
    except (KeyError, TypeError, ValueError, AttributeError, msgspec.MsgspecError) as error:
        raise InvalidInputError("bad_event", f"not a terminal event: {type(error).__name__}") from error


def _outcome(response: JsonObject, status: JobStatus) -> Outcome:
    spent = msgspec.convert(response.get("usage"), Spent | None)
    outcome = Outcome(status, response, messages=[], tool_calls=[], items=[], spent=spent)
    for position, item in enumerate(response["output"]):
        match item["type"]:
            case "message":
                outcome.messages.append(_message(position, msgspec.convert(item, _MessageItem)))
            case "mcp_call":
                outcome.tool_calls.append(_tool_call(position, msgspec.convert(item, _McpCallItem)))
            case kind if kind in _ITEM_PREFIXES:
                item_id = from_wire(_ITEM_PREFIXES[kind], item["id"])
                outcome.items.append(ItemRow(item_id, position, kind, item))
    return outcome


def _message(position: int, item: _MessageItem) -> MessageRow:
    content = "".join(part["text"] for part in item.content if part["type"] == "output_text")
    return MessageRow(from_wire(Prefix.MESSAGE, item.id), position, content, item.content, item.status)


def _tool_call(position: int, item: _McpCallItem) -> ToolCallRow:
    return ToolCallRow(
        id=from_wire(Prefix.MCP_CALL, item.id),
        position=position,
        call_id=item.id,
        server_label=item.server_label,
        tool_name=item.name,
        parameters=item.arguments,
        result=item.output,
        error=item.error,
        status=item.status,
        approval_request_id=item.approval_request_id,
        duration_ms=item.duration_ms,
    )


def _without_nul(value: Any) -> Any:
    """`value` with U+0000, which Postgres cannot hold, replaced in every text."""
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case list():
            return [_without_nul(entry) for entry in value]
        case dict():
            return {_without_nul(key): _without_nul(entry) for key, entry in value.items()}
        case _:
            return value
