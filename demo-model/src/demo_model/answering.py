"""From a request to its reply: the knobs first, then what `tool_choice` allows, then the dialogue."""

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec

from demo_model import dialogue
from demo_model.completions import Reply, calls_reply, numbered_reply, text_reply
from demo_model.dialogue import Call, Say
from demo_model.knobs import Knobs
from demo_model.wire import ChatRequest, Message, RequestError, Tool

_TODAY = re.compile(r"\btoday(?:'s\s+date)?\s+is\s+(?:[a-z]+,?\s+)?(\d{4}-\d{2}-\d{2})\b", re.IGNORECASE)
_BAD_JSON = '{"title": "buy mil'


def answer(request: ChatRequest, knobs: Knobs, today: date) -> Reply:
    """The reply to a request without directives. Raises `RequestError` for a `tool_choice` that cannot be."""
    tools, required = _allowed_tools(request)
    if knobs.tokens is not None:
        return numbered_reply(knobs.tokens)
    if knobs.echo:
        return text_reply(last_user_text(request.messages))
    today = stated_day(request.messages) or today
    if required and len(tools) == 1:
        move: dialogue.Move = dialogue.forced_move(request.messages, tools[0], today)
    else:
        move = dialogue.next_move(request.messages, tools, today)
        if required and isinstance(move, Say):
            listing = next((tool for tool in tools if tool.function.name == "list_tasks"), tools[0])
            move = dialogue.forced_move(request.messages, listing, today)
    if isinstance(move, Say):
        return text_reply(move.text)
    calls = move.calls[:1] if request.parallel_tool_calls is False else move.calls
    return calls_reply((call.name, _arguments(call)) for call in calls)


def spoiled(reply: Reply, fault: str, request: ChatRequest) -> Reply:
    """The reply as a fault of content makes it; other faults leave it alone."""
    match fault:
        case "empty":
            return Reply()
        case "endless":
            return numbered_reply(None)
        case "unknown_tool":
            return calls_reply([("no_such_tool", "{}")])
        case "bad_tool_json":
            offered = request.tools[0].function.name if request.tools else "add_task"
            return calls_reply([(reply.calls[0].name if reply.calls else offered, _BAD_JSON)])
        case _:
            return reply


def last_user_text(messages: Sequence[Message]) -> str:
    return next((message.text for message in reversed(messages) if message.role == "user"), "")


def stated_day(messages: Sequence[Message]) -> date | None:
    """The day that a system message states ("Today is 2026-11-22"), the last one if there are several."""
    for message in reversed(messages):
        if message.role in {"system", "developer"} and (found := _TODAY.findall(message.text)):
            try:
                return date.fromisoformat(found[-1])
            except ValueError:
                continue
    return None


def _arguments(call: Call) -> str:
    """JSON with a space after each comma and colon, as models write it (and so that it has several tokens)."""
    if isinstance(call.arguments, str):
        return call.arguments
    return msgspec.json.format(msgspec.json.encode(call.arguments), indent=0).decode()


def _allowed_tools(request: ChatRequest) -> tuple[list[Tool], bool]:
    """The tools that may be called, and whether one of them must be."""
    tools = [tool for tool in request.tools or () if tool.type == "function"]
    choice: str | dict[str, Any] | None = request.tool_choice
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        allowed = choice.get("allowed_tools") or {}
        names = {_name(one) for one in allowed.get("tools", [])}
        tools = [tool for tool in tools if tool.function.name in names]
        choice = allowed.get("mode", "auto")
    if choice in (None, "auto"):
        return tools, False
    if choice == "none":
        return [], False
    if choice == "required":
        named = tools
    elif isinstance(choice, dict):
        named = [tool for tool in tools if tool.function.name == _name(choice)][:1]
    else:
        raise RequestError(
            f"Invalid value: '{choice}'. Supported values are: 'none', 'auto', and 'required'.", "tool_choice"
        )
    if not named:
        raise RequestError("Invalid value for 'tool_choice': no such tool is among 'tools'.", "tool_choice")
    return named, True


def _name(choice: Any) -> str:
    function = choice.get("function") if isinstance(choice, dict) else None
    return str(function.get("name", "")) if isinstance(function, dict) else ""
