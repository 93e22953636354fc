"""The items that clients send: read, checked, and made our own, so that they can be stored and shown.

Whatever a client sends gets a new id and a status, which the wire's stored items must have. Fields that are not known
are left out; kinds and contents that are not are refused by name.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, StrictBool, StringConstraints

from gateway.content import is_file, parse_parts, store_file, text_of, text_part, unsupported_part
from gateway.given import Given, read
from gateway.limits import checked_message
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.errors import InvalidInputError
from shared.events import JsonObject
from shared.ids import Prefix, to_wire, uuid7

ITEM_REFERENCE = "item_reference"

_Id = Annotated[str, StringConstraints(min_length=1, max_length=256)]
_Name = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]


class Role(StrEnum):
    """Who said a message."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class InputItem:
    """An item of a client's, with an id of ours.

    A message (`kind` `message`) has `role`, `parts` as the wire knows them, and their text as `content`; in `item` it
    has its `phase`, if it has one. Every other kind has the whole item of the wire in `item`. An `item_reference` is
    not stored: `item` holds the id that it names, and `stored_items` puts what it means in its place. `param` is where
    it was found, for errors.
    """

    kind: str
    role: str | None = None
    content: str | None = None
    parts: list[JsonObject] | None = None
    item: JsonObject | None = None
    id: UUID = field(default_factory=uuid7)
    param: str = ""

    @property
    def is_blank(self) -> bool:
        """Whether it is a message without text and without files."""
        has_files = any(is_file(part) for part in self.parts or ())
        return self.kind == "message" and not has_files and not (self.content or "").strip()

    def to_row(self, ordinal: int) -> JsonObject:
        """As `accept_turn` takes it in `p_items`."""
        return {
            "id": str(self.id),
            "ordinal": ordinal,
            "kind": self.kind,
            "role": self.role,
            "content": self.content,
            "parts": self.parts,
            "item": self.item,
        }

    def to_wire(self) -> JsonObject:
        """As clients see it once it is stored."""
        if self.kind != "message":
            assert self.item is not None
            return self.item
        return {
            "id": to_wire(Prefix.MESSAGE, self.id),
            "type": "message",
            "status": "completed",
            "role": self.role,
            "content": self.parts,
            **(self.item or {}),
        }


def text_message(role: Role, text: str) -> InputItem:
    """A message of one text."""
    return InputItem("message", role=role, content=text, parts=[text_part(role, text)])


def parse_items(given: object, settings: GatewaySettings, *, param: str) -> list[InputItem]:
    """The items in `given`: a text, which is a message of the user's, or a list as the wire has it.

    `param` is the field's name for errors. Files that come with a message are still in it: `store_files` takes them
    out. Raises InvalidInputError, which names the item and the field at fault.
    """
    if isinstance(given, str):
        checked_message(given, settings.input_chars_max, param=param)
        return [text_message(Role.USER, given)]
    if not isinstance(given, list):
        raise InvalidInputError("invalid_input", f"{param}: expected a text or a list of items.", param=param)
    if not given:
        raise InvalidInputError("message_empty", f"'{param}' must hold at least one item.", param=param)
    if len(given) > settings.input_items_max:
        raise InvalidInputError(
            "too_many_items", f"'{param}' holds more than {settings.input_items_max} items.", param=param
        )
    _check_part_count(given, settings.input_parts_max, param)
    places = [f"{param}[{index}]" for index in range(len(given))]
    items = [replace(_parse_item(item, at, settings), param=at) for item, at in zip(given, places, strict=True)]
    _check_length(items, settings.input_chars_max, param)
    return _settle_approvals(given, items)


async def store_files(
    database: Database, user_id: str, items: Sequence[InputItem], settings: GatewaySettings
) -> list[InputItem]:
    """The same items with references in place of the files that came with them, which are stored now.

    Raises as `content.store_file` does.
    """
    return [await _store_files(database, user_id, item, settings) for item in items]


async def _store_files(database: Database, user_id: str, item: InputItem, settings: GatewaySettings) -> InputItem:
    if not any(is_file(part) for part in item.parts or ()):
        return item
    parts = []
    for index, part in enumerate(item.parts or ()):
        param = f"{item.param}.content[{index}]"
        parts.append(await store_file(database, user_id, part, settings, param=param) if is_file(part) else part)
    return replace(item, parts=parts)


def _check_part_count(given: Iterable[Any], count_max: int, param: str) -> None:
    """Each of them may be a file, to be looked up or stored."""
    contents = [item.get("content") for item in given if isinstance(item, dict)]
    if sum(len(content) for content in contents if isinstance(content, list)) > count_max:
        message = f"The items in '{param}' hold more than {count_max} content parts."
        raise InvalidInputError("too_many_parts", message, param=param)


def _check_length(items: Iterable[InputItem], chars_max: int, param: str) -> None:
    char_count = sum(_char_count(item) for item in items)
    if char_count > chars_max:
        raise InvalidInputError(
            "message_too_long", f"'{param}' has {char_count} characters; at most {chars_max} are allowed.", param=param
        )


def _char_count(item: InputItem) -> int:
    """Of the text that the model may be told. (Files have limits of their own.)"""
    return len(item.content or "") if item.kind == "message" else _text_length(item.item)


def _text_length(value: object) -> int:
    match value:
        case str():
            return len(value)
        case dict():
            return sum(len(key) + _text_length(inner) for key, inner in value.items())
        case list():
            return sum(map(_text_length, value))
        case _:
            return 8


def _settle_approvals(given: Sequence[Any], items: Sequence[InputItem]) -> list[InputItem]:
    """Let approvals name the requests by their new ids, and drop those that were obeyed long ago.

    Clients that keep the history themselves send it whole each time. An approval that is followed by something the
    assistant said or did was obeyed then: it must not be obeyed again.
    """
    requests = {old["id"]: item for old, item in zip(given, items, strict=True) if _asks_for_approval(old, item)}
    new_ids = {old_id: item.item["id"] for old_id, item in requests.items() if item.item}
    last_done = max((index for index, item in enumerate(items) if _is_of_assistant(item)), default=-1)
    obeyed = {request_id for item in items[: last_done + 1] if (request_id := _approved_by(item)) is not None}
    history = {id(requests[request_id]) for request_id in obeyed & requests.keys()}
    open_items = [
        item
        for index, item in enumerate(items)
        if not (id(item) in history or (index < last_done and _approved_by(item) is not None))
    ]
    return [renamed_request(item, new_ids) for item in open_items]


def renamed_request(item: InputItem, new_ids: Mapping[str, str]) -> InputItem:
    """The same item; where it names an approval request that has a new id, it names that one."""
    named = (item.item or {}).get("approval_request_id")
    new_id = None if named is None else new_ids.get(named)
    return replace(item, item={**(item.item or {}), "approval_request_id": new_id}) if new_id else item


def _asks_for_approval(given: JsonObject, item: InputItem) -> bool:
    """Whether it is a request, or a reference to one, which the client knows by an id."""
    if item.kind == ITEM_REFERENCE:
        return _names_request(item)
    return item.kind == "mcp_approval_request" and isinstance(given.get("id"), str)


def _names_request(reference: InputItem) -> bool:
    return reference.item is not None and reference.item["id"].startswith(f"{Prefix.APPROVAL_REQUEST.value}_")


def _approved_by(item: InputItem) -> str | None:
    """The id of the request that the item answers, if it is an answer."""
    if item.kind != "mcp_approval_response" or item.item is None:
        return None
    request_id: str = item.item["approval_request_id"]
    return request_id


def _is_of_assistant(item: InputItem) -> bool:
    """Whether it shows that the assistant went on. (An approval may come with a reference to its request.)"""
    if item.kind == ITEM_REFERENCE:
        return not _names_request(item)
    return item.role == Role.ASSISTANT or item.kind in {"mcp_call", "function_call", "reasoning"}


# --- one item -------------------------------------------------------------------------------------------------------


class _Message(Given):
    role: Literal["user", "assistant", "system", "developer"]
    content: Any
    phase: Literal["commentary", "final_answer"] | None = None


class _Reference(Given):
    id: _Id


class _FunctionCall(Given):
    call_id: _Id
    name: _Name
    arguments: str


class _FunctionCallOutput(Given):
    call_id: _Id
    output: Any


class _SummaryText(Given):
    type: Literal["summary_text"]
    text: str


class _ReasoningText(Given):
    type: Literal["reasoning_text"]
    text: str


class _Reasoning(Given):
    summary: Annotated[list[_SummaryText], Field(fail_fast=True)] = Field(default_factory=list)
    content: Annotated[list[_ReasoningText], Field(fail_fast=True)] | None = None


class _McpCall(Given):
    server_label: _Id
    name: _Name
    arguments: str
    output: str | None = None
    error: Any = None
    approval_request_id: _Id | None = None
    status: Literal["in_progress", "calling", "completed", "incomplete", "failed"] | None = None


class _ListedTool(Given):
    name: _Name
    input_schema: JsonObject
    description: str | None = None
    annotations: JsonObject | None = None


class _McpListTools(Given):
    server_label: _Id
    tools: Annotated[list[_ListedTool], Field(fail_fast=True)]
    error: str | None = None


class _ApprovalRequest(Given):
    server_label: _Id
    name: _Name
    arguments: str


class _ApprovalResponse(Given):
    approval_request_id: _Id
    approve: StrictBool
    reason: str | None = None


def _parse_item(given: Any, param: str, settings: GatewaySettings) -> InputItem:
    if not isinstance(given, dict):
        raise InvalidInputError("invalid_input", f"{param}: expected an item, which is an object.", param=param)
    kind = given.get("type")
    if kind is None:
        kind = ITEM_REFERENCE if given.keys() <= {"id", "type"} else "message"
    if kind == "message":
        return _parse_message(given, param, settings)
    parse = _PARSERS.get(kind) if isinstance(kind, str) else None
    if parse is None:
        known = ", ".join(["message", *_PARSERS])
        raise InvalidInputError(
            "unsupported_input_item", f"Items of this type are not supported; send one of: {known}.", param=param
        )
    return parse(given, param)


def _parse_message(given: JsonObject, param: str, settings: GatewaySettings) -> InputItem:
    message = read(_Message, given, param)
    # Text of the client ranks below the operator's instructions, whatever it calls itself.
    role = "system" if message.role == "developer" else message.role
    parts = parse_parts(message.content, role, settings, param=f"{param}.content")
    return InputItem(
        "message",
        role=role,
        content=text_of(parts),
        parts=parts,
        item={"phase": message.phase} if message.phase else None,
    )


def _parse_reference(given: JsonObject, param: str) -> InputItem:
    return InputItem(ITEM_REFERENCE, item={"id": read(_Reference, given, param).id})


def _stored(prefix: Prefix, kind: str, fields: JsonObject) -> InputItem:
    new_id = uuid7()
    return InputItem(kind, item={"id": to_wire(prefix, new_id), "type": kind, **fields}, id=new_id)


def _parse_function_call(given: JsonObject, param: str) -> InputItem:
    call = read(_FunctionCall, given, param)
    return _stored(Prefix.FUNCTION_CALL, "function_call", {**call.model_dump(), "status": "completed"})


def _parse_function_call_output(given: JsonObject, param: str) -> InputItem:
    answer = read(_FunctionCallOutput, given, param)
    output = answer.output
    if not isinstance(output, str):
        output = [_text_only(part, f"{param}.output[{index}]") for index, part in enumerate(_list(output, param))]
    fields = {"call_id": answer.call_id, "output": output, "status": "completed"}
    return _stored(Prefix.FUNCTION_CALL_OUTPUT, "function_call_output", fields)


def _list(output: Any, param: str) -> list[Any]:
    if isinstance(output, list):
        return output
    raise InvalidInputError(
        "invalid_input", f"{param}.output: expected a text or a list of parts.", param=f"{param}.output"
    )


def _text_only(part: Any, param: str) -> JsonObject:
    if isinstance(part, dict) and part.get("type") == "input_text" and isinstance(part.get("text"), str):
        return {"type": "input_text", "text": part["text"]}
    raise unsupported_part(part, "input_text", param)


def _parse_reasoning(given: JsonObject, param: str) -> InputItem:
    reasoning = read(_Reasoning, given, param)
    return _stored(Prefix.REASONING, "reasoning", {**reasoning.model_dump(exclude_none=True), "status": "completed"})


def _parse_mcp_call(given: JsonObject, param: str) -> InputItem:
    call = read(_McpCall, given, param)
    error = _call_error(call.error, f"{param}.error")
    fields = {**call.model_dump(), "error": error, "status": call.status or ("failed" if error else "completed")}
    return _stored(Prefix.MCP_CALL, "mcp_call", fields)


def _call_error(error: Any, param: str) -> JsonObject | None:
    """The typed error of an `mcp_call`. Older clients know it as a text."""
    match error:
        case None:
            return None
        case str():
            return {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": error}]}
        case {"type": "mcp_tool_execution_error", "content": [*content]} if all(map(_is_text_content, content)):
            texts = [{"type": "text", "text": part["text"]} for part in content]
            return {"type": "mcp_tool_execution_error", "content": texts}
        case {"type": "mcp_protocol_error" | "http_error" as kind, "code": int(code), "message": str(message)}:
            return {"type": kind, "code": code, "message": message}
        case _:
            raise InvalidInputError("invalid_input", f"{param}: expected an error of an mcp_call.", param=param)


def _is_text_content(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _parse_mcp_list_tools(given: JsonObject, param: str) -> InputItem:
    # Without nulls, which some clients reject.
    fields = read(_McpListTools, given, param).model_dump(exclude_none=True)
    return _stored(Prefix.TOOL_LIST, "mcp_list_tools", fields)


def _parse_approval_request(given: JsonObject, param: str) -> InputItem:
    fields = read(_ApprovalRequest, given, param).model_dump()
    return _stored(Prefix.APPROVAL_REQUEST, "mcp_approval_request", fields)


def _parse_approval_response(given: JsonObject, param: str) -> InputItem:
    fields = read(_ApprovalResponse, given, param).model_dump()
    return _stored(Prefix.APPROVAL_RESPONSE, "mcp_approval_response", fields)


_PARSERS: dict[str, Callable[[JsonObject, str], InputItem]] = {
    "function_call": _parse_function_call,
    "function_call_output": _parse_function_call_output,
    "reasoning": _parse_reasoning,
    ITEM_REFERENCE: _parse_reference,
    "mcp_call": _parse_mcp_call,
    "mcp_list_tools": _parse_mcp_list_tools,
    "mcp_approval_request": _parse_approval_request,
    "mcp_approval_response": _parse_approval_response,
}
