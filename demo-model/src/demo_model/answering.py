"""From a request to its reply: the knobs first, then what `tool_choice` allows, then the dialogue."""

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec

from demo_model import attachments, chores, dialogue, functions
from demo_model.completions import Reply, calls_reply, numbered_reply, text_reply, thought_over
from demo_model.conversation import Done, turns_of
from demo_model.dialogue import Call, Calls, Say
from demo_model.knobs import Knobs
from demo_model.schemas import least_value
from demo_model.wire import ChatRequest, Message, RequestError, Tool

_TODAY = re.compile(r"\btoday(?:'s\s+date)?\s+is\s+(?:[a-z]+,?\s+)?(\d{4}-\d{2}-\d{2})\b", re.IGNORECASE)
_WORDS_THOUGHT = {"low": 8, "medium": 16, "high": 32}
_BAD_JSON = '{"title": "buy mil'


def answer(request: ChatRequest, knobs: Knobs, today: date) -> Reply:
    """The reply to a request without directives. Raises `RequestError` for a `tool_choice` that cannot be."""
    reply = _answer(request, knobs, today)
    if knobs.reasoning is not None:
        return thought_over(reply, knobs.reasoning)
    return thought_over(reply, _WORDS_THOUGHT.get(request.reasoning_effort or "", 0))


def _answer(request: ChatRequest, knobs: Knobs, today: date) -> Reply:
    tools, required = _allowed_tools(request)
    if knobs.tokens is not None:
        return numbered_reply(knobs.tokens)
    if knobs.echo:
        return text_reply(last_user_text(request.messages))
    if (done := chores.answer(request.messages)) is not None:
        return text_reply(done)
    move = _move(request, knobs, tools, required=required, today=stated_day(request.messages) or today)
    if isinstance(move, Say):
        return text_reply(_formatted(move.text, request.response_format))
    calls = move.calls[:1] if request.parallel_tool_calls is False else move.calls
    return calls_reply((call.name, _arguments(call)) for call in calls)


def _move(request: ChatRequest, knobs: Knobs, tools: list[Tool], *, required: bool, today: date) -> dialogue.Move:
    made = _made_in_turn(request.messages)
    if knobs.call:
        asked = tuple(Call(name, knobs.args) for name in knobs.call.split(","))
        return Say(functions.answer_from(made)) if made else Calls(asked)
    if required and len(tools) == 1:
        return dialogue.forced_move(request.messages, tools[0], today)
    move = _free_move(request.messages, made, tools, today)
    if required and isinstance(move, Say):
        listing = next((tool for tool in tools if tool.function.name == "list_tasks"), tools[0])
        return dialogue.forced_move(request.messages, listing, today)
    return move


def _free_move(messages: Sequence[Message], made: Sequence[Done], tools: list[Tool], today: date) -> dialogue.Move:
    if results := functions.results_of_others(made):
        return Say(functions.answer_from(results))
    move = dialogue.next_move(messages, tools, today)
    if not isinstance(move, Say):
        return move
    if calls := functions.calls_for(last_user_text(messages), tools):
        return Calls(calls)
    seen = attachments.described(messages)
    return move if seen is None else Say(seen)


def _made_in_turn(messages: Sequence[Message]) -> list[Done]:
    turns = turns_of(messages)
    return turns[-1].done if turns else []


def _formatted(text: str, response_format: dict[str, Any] | None) -> str:
    """The text as the format wants it: the least value of a schema, or an object around the text."""
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": schema}}:
            return msgspec.json.encode(least_value(schema)).decode()
        case {"type": "json_object"}:
            return msgspec.json.encode({"answer": text}).decode()
        case _:
            return text


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
