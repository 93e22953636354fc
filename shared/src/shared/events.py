"""The events of one response, as the wire knows them: their JSON, their numbers, their order.

An event is built once, as bytes, and these bytes are what is stored, fanned out and streamed (promise G4). The rules
are those of OpenAI's Responses API; where a worker died, those of `docs/architecture.md` ("An attempt that dies").
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

import msgspec

from shared.ids import Prefix, new_wire_id
from shared.states import JobStatus

JsonObject = dict[str, Any]
Event = bytes

FIRST_SEQUENCE_NUMBER = 0
_TYPE_START = len(b'{"type":"')
_TERMINAL_TYPES = {
    JobStatus.COMPLETED: "response.completed",
    JobStatus.FAILED: "response.failed",
    JobStatus.INCOMPLETE: "response.incomplete",
    # The field's clients know no `response.cancelled`; `response.status` says what happened.
    JobStatus.CANCELLED: "response.incomplete",
}
TERMINAL_EVENT_TYPES = frozenset(_TERMINAL_TYPES.values())

OUTCOME_UNKNOWN_TEXT = (
    "outcome unknown: No answer arrived. The call may or may not have happened. Check the state before repeating it."
)
_OUTCOME_UNKNOWN: JsonObject = {
    "type": "mcp_tool_execution_error",
    "content": [{"type": "text", "text": OUTCOME_UNKNOWN_TEXT}],
}


def raw_type_of(event: Event) -> bytes:
    """The type of an event built here; every event begins with it, so nothing is decoded."""
    return event[_TYPE_START : event.index(b'"', _TYPE_START)]


def type_of(event: Event) -> str:
    return raw_type_of(event).decode()


def is_terminal(event: Event) -> bool:
    return type_of(event) in TERMINAL_EVENT_TYPES


def response_of(event: Event) -> JsonObject:
    """The Response object inside a created, in_progress or terminal event."""
    response: JsonObject = msgspec.json.decode(event)["response"]
    return response


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one response."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def to_wire(self) -> JsonObject:
        return {
            "input_tokens": self.input_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens, "cache_write_tokens": 0},
            "output_tokens": self.output_tokens,
            "output_tokens_details": {"reasoning_tokens": self.reasoning_tokens},
            "total_tokens": self.input_tokens + self.output_tokens,
        }


class Failure(msgspec.Struct, frozen=True):
    """Why a response failed. `code` is one of the wire's closed list, `type` our own stable slug."""

    type: str
    message: str
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"] = "server_error"


class _TextDelta(msgspec.Struct):
    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    content_index: int = 0
    logprobs: tuple[()] = ()


class _SummaryDelta(msgspec.Struct):
    type: str
    sequence_number: int
    item_id: str
    output_index: int
    delta: str
    summary_index: int = 0


@dataclass(slots=True)
class _OpenItem:
    item: JsonObject
    text: list[str] = field(default_factory=list)
    has_part: bool = False


class ResponseEvents:
    """Builds the events of one response in order; holds what the next one needs to know.

    `response` is the Response object as it was accepted; `output` are the items that are done and will be part of the
    final one. At most one item is open at a time.
    """

    def __init__(
        self,
        response: JsonObject,
        *,
        next_seq: int = FIRST_SEQUENCE_NUMBER,
        next_output_index: int = 0,
        output: Sequence[JsonObject] = (),
    ) -> None:
        self.next_seq = next_seq
        self.next_output_index = next_output_index
        self.output: list[JsonObject] = list(output)
        self._response = response
        self._open: _OpenItem | None = None

    @property
    def has_open_item(self) -> bool:
        return self._open is not None

    def created(self) -> Event:
        return self._with_response("response.created", JobStatus.QUEUED)

    def queued(self) -> Event:
        return self._with_response("response.queued", JobStatus.QUEUED)

    def in_progress(self) -> Event:
        return self._with_response("response.in_progress", JobStatus.IN_PROGRESS)

    def text(self, delta: str) -> list[Event]:
        """More of the answer's text; opens a message where none is open, and ends the reasoning that led to it."""
        events = [] if self._is_open("message") else [*self._close_reasoning("completed"), *self._open_message()]
        assert self._open is not None
        self._open.text.append(delta)
        number = self._take_number()
        index = self.next_output_index
        events.append(
            msgspec.json.encode(_TextDelta("response.output_text.delta", number, self._open.item["id"], index, delta))
        )
        return events

    def reasoning(self, delta: str) -> list[Event]:
        """More of what the model thinks before it says or does something. No message may be open."""
        events = [] if self._open else self._open_reasoning()
        assert self._open is not None
        assert self._is_open("reasoning")
        self._open.text.append(delta)
        number = self._take_number()
        index = self.next_output_index
        item_id = self._open.item["id"]
        events.append(
            msgspec.json.encode(_SummaryDelta("response.reasoning_summary_text.delta", number, item_id, index, delta))
        )
        return events

    def close_message(self, status: Literal["completed", "incomplete"] = "completed") -> list[Event]:
        """End what the model is saying or thinking, if it is: the open message, or the open reasoning."""
        if self._open is None:
            return []
        if self._is_open("reasoning"):
            return self._close_reasoning(status)
        assert self._open.item["type"] == "message"
        text, item = "".join(self._open.text), self._open.item
        where = {"item_id": item["id"], "output_index": self.next_output_index, "content_index": 0}
        part = _output_text(text)
        events = []
        if self._open.has_part:
            events.append(self._event("response.output_text.done", {**where, "text": text, "logprobs": []}))
            events.append(self._event("response.content_part.done", {**where, "part": part}))
            item = {**item, "content": [part]}
        events.append(self._close_item({**item, "status": status}))
        return events

    def open_mcp_call(
        self, item_id: str, server_label: str, name: str, arguments: str, approval_request_id: str | None = None
    ) -> list[Event]:
        """A tool call by our worker, announced before the tool runs. `approval_request_id` tells what allowed it."""
        item = {
            "id": item_id,
            "type": "mcp_call",
            "server_label": server_label,
            "name": name,
            "arguments": "",
            "output": None,
            "error": None,
            "approval_request_id": approval_request_id,
            "duration_ms": None,
            "status": "in_progress",
        }
        events = [self._open_item(item)]
        item["arguments"] = arguments
        where = {"item_id": item_id, "output_index": self.next_output_index}
        events.append(self._event("response.mcp_call.in_progress", where))
        events.append(self._event("response.mcp_call_arguments.done", {**where, "arguments": arguments}))
        return events

    def close_mcp_call(
        self, output: str | None, error: JsonObject | None, duration_ms: int | None = None
    ) -> list[Event]:
        """The result of the open tool call; `error` is a typed error of the wire.

        `duration_ms` is ours: how long the call took, as far as anybody knows.
        """
        assert self._open is not None
        item = self._open.item
        outcome = "completed" if error is None else "failed"
        where = {"item_id": item["id"], "output_index": self.next_output_index}
        result = {"output": output, "error": error, "duration_ms": duration_ms, "status": outcome}
        return [
            self._event(f"response.mcp_call.{outcome}", where),
            self._close_item({**item, **result}),
        ]

    def function_call(self, item_id: str, call_id: str, name: str, arguments: str) -> list[Event]:
        """A call that the client is to make."""
        item = {
            "id": item_id,
            "type": "function_call",
            "call_id": call_id,
            "name": name,
            "arguments": "",
            "status": "in_progress",
        }
        events = [self._open_item(item)]
        where = {"item_id": item_id, "output_index": self.next_output_index}
        if arguments:
            events.append(self._event("response.function_call_arguments.delta", {**where, "delta": arguments}))
        done = {**where, "name": name, "arguments": arguments}
        events.append(self._event("response.function_call_arguments.done", done))
        events.append(self._close_item({**item, "arguments": arguments, "status": "completed"}))
        return events

    def approval_request(self, item_id: str, server_label: str, name: str, arguments: str) -> list[Event]:
        """A tool call that our worker makes once the user has allowed it, in a later turn. It has no status."""
        item = {
            "id": item_id,
            "type": "mcp_approval_request",
            "server_label": server_label,
            "name": name,
            "arguments": arguments,
        }
        return [self._open_item(item), self._close_item(item)]

    def abandon(self) -> list[Event]:
        """Close the item that an attempt left open which another one follows; it is not part of the final output.

        What became of a tool call, the ledger knows: the next attempt tells of it, as a new item.
        """
        if self._open is None:
            return []
        kept = len(self.output)
        if self._open.item["type"] in {"message", "reasoning"}:
            events = self.close_message("incomplete")
        else:
            events = [self._close_item({**self._open.item, "status": "incomplete"})]
        del self.output[kept:]
        return events

    def cut_mcp_call(self) -> list[Event]:
        """Close the open tool call, if there is one. Nobody will know its outcome any more: it stays in the output."""
        if self._open is None or self._open.item["type"] != "mcp_call":
            return []
        return self.close_mcp_call(None, _OUTCOME_UNKNOWN)

    def end(
        self,
        status: JobStatus,
        *,
        ended_at: datetime,
        usage: Usage | None,
        failure: Failure | None = None,
        incomplete_reason: Literal["max_output_tokens", "content_filter"] | None = None,
    ) -> list[Event]:
        """The terminal event with the final Response object, after closing what is open.

        An open message of a stopped or cut response stays in the output as `incomplete`; that of a failed one does not,
        nor does reasoning that led to nothing.
        An open tool call may have had its effect: it stays, as one that failed with its outcome unknown.
        """
        events = self.cut_mcp_call()
        keeps_open_text = status in {JobStatus.CANCELLED, JobStatus.INCOMPLETE}
        keeps_open_text = keeps_open_text and self._is_open("message")
        events += self.close_message("incomplete") if keeps_open_text else self.abandon()
        # Two machines' clocks: nothing ends before it began.
        completed_at = max(int(ended_at.timestamp()), self._response["created_at"])
        final = {
            "completed_at": completed_at if status is JobStatus.COMPLETED else None,
            "output": self.output,
            "usage": usage.to_wire() if usage else None,
            "error": {"code": failure.code, "message": failure.message, "type": failure.type} if failure else None,
            "incomplete_details": {"reason": incomplete_reason} if incomplete_reason else None,
        }
        events.append(self._with_response(_TERMINAL_TYPES[status], status, final))
        return events

    def replay(self, events: Iterable[Event]) -> None:
        """Take over from the stored `events`, which continue what this object knows.

        Items closed as `incomplete` before the end were abandoned by a dead attempt.
        """
        for raw in events:
            event = msgspec.json.decode(raw)
            assert event["sequence_number"] == self.next_seq
            self.next_seq += 1
            self._replay_one(event)

    def _replay_one(self, event: JsonObject) -> None:
        match event["type"]:
            case "response.output_item.added":
                self._open = _OpenItem(event["item"])
            case "response.content_part.added" | "response.reasoning_summary_part.added":
                assert self._open is not None
                self._open.has_part = True
            case "response.output_text.delta" | "response.reasoning_summary_text.delta":
                assert self._open is not None
                self._open.text.append(event["delta"])
            case "response.mcp_call_arguments.done" | "response.function_call_arguments.done":
                assert self._open is not None
                self._open.item["arguments"] = event["arguments"]
            case "response.output_item.done":
                self._open = None
                self.next_output_index += 1
                if event["item"].get("status") != "incomplete":
                    self.output.append(event["item"])

    def _open_message(self) -> list[Event]:
        item = {
            "id": new_wire_id(Prefix.MESSAGE),
            "type": "message",
            "status": "in_progress",
            "role": "assistant",
            "content": [],
        }
        added = self._open_item(item)
        assert self._open is not None
        self._open.has_part = True
        where = {"item_id": item["id"], "output_index": self.next_output_index, "content_index": 0}
        return [added, self._event("response.content_part.added", {**where, "part": _output_text("")})]

    def _open_reasoning(self) -> list[Event]:
        item = {"id": new_wire_id(Prefix.REASONING), "type": "reasoning", "summary": [], "status": "in_progress"}
        added = self._open_item(item)
        assert self._open is not None
        self._open.has_part = True
        part = self._event("response.reasoning_summary_part.added", {**self._summary(), "part": _summary_text("")})
        return [added, part]

    def _close_reasoning(self, status: Literal["completed", "incomplete"]) -> list[Event]:
        if self._open is None or not self._is_open("reasoning"):
            return []
        text, item = "".join(self._open.text), self._open.item
        part = _summary_text(text)
        events = []
        if self._open.has_part:
            events.append(self._event("response.reasoning_summary_text.done", {**self._summary(), "text": text}))
            events.append(self._event("response.reasoning_summary_part.done", {**self._summary(), "part": part}))
            item = {**item, "summary": [part]}
        events.append(self._close_item({**item, "status": status}))
        if status == "incomplete":
            self.output.pop()  # it led to nothing
        return events

    def _summary(self) -> JsonObject:
        """Where the summary of the open reasoning is."""
        assert self._open is not None
        return {"item_id": self._open.item["id"], "output_index": self.next_output_index, "summary_index": 0}

    def _is_open(self, item_type: str) -> bool:
        return self._open is not None and self._open.item["type"] == item_type

    def _open_item(self, item: JsonObject) -> Event:
        assert self._open is None
        self._open = _OpenItem(item)
        return self._event("response.output_item.added", {"output_index": self.next_output_index, "item": item})

    def _close_item(self, item: JsonObject) -> Event:
        event = self._event("response.output_item.done", {"output_index": self.next_output_index, "item": item})
        self._open = None
        self.next_output_index += 1
        self.output.append(item)
        return event

    def _with_response(self, event_type: str, status: JobStatus, changes: JsonObject | None = None) -> Event:
        return self._event(event_type, {"response": {**self._response, "status": status, **(changes or {})}})

    def _event(self, event_type: str, fields: JsonObject) -> Event:
        return msgspec.json.encode({"type": event_type, "sequence_number": self._take_number(), **fields})

    def _take_number(self) -> int:
        number = self.next_seq
        self.next_seq += 1
        return number


def _output_text(text: str) -> JsonObject:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _summary_text(text: str) -> JsonObject:
    return {"type": "summary_text", "text": text}
