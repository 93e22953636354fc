"""Conversations, messages and tool calls as `/api` shows them, built from their rows."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field
from pydantic.config import JsonDict

from shared.db import Row
from shared.ids import Prefix, to_wire

_CONVERSATION_EXAMPLE: JsonDict = {
    "id": "conv_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "title": "Groceries",
    "metadata": {},
    "archived": False,
    "active_response_id": "resp_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "running_response_id": None,
    "last_sequence_number": 2,
    "is_unread": False,
    "created_at": "2026-03-01T09:00:00Z",
    "updated_at": "2026-03-01T09:00:04Z",
}
_TOOL_CALL_EXAMPLE: JsonDict = {
    "id": "mcp_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "server": "tasks",
    "name": "add_task",
    "arguments": {"title": "buy milk"},
    "result": {"id": "task_0199c3f2a4d87b3f8e5d2c1b0a998877", "title": "buy milk"},
    "error": None,
    "status": "completed",
    "duration_ms": 42,
    "executed_at": "2026-03-01T09:00:03Z",
}
_MESSAGE_EXAMPLE: JsonDict = {
    "id": "msg_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "role": "assistant",
    "content": "I added “buy milk” to your list.",
    "created_at": "2026-03-01T09:00:04Z",
    "status": "completed",
    "tool_calls": [_TOOL_CALL_EXAMPLE],
}


class ConversationView(BaseModel):
    """A conversation. `active_response_id` is the last response of the active branch, which the next message follows.

    `running_response_id` is the one that is being made, to be followed as a stream. `last_sequence_number` is that of
    the conversation's last event: `GET /v1/conversations/{id}/events?starting_after=…` goes on from there. `is_unread`
    while an answer ended after `PUT /v1/conversations/{id}/read` was asked last.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [_CONVERSATION_EXAMPLE]})

    id: str
    title: str
    metadata: dict[str, str]
    archived: bool
    active_response_id: str | None
    running_response_id: str | None
    last_sequence_number: int
    is_unread: bool
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, row: Row) -> Self:
        head, running = row["head_job_id"], row["active_job_id"]
        return cls(
            id=to_wire(Prefix.CONVERSATION, row["id"]),
            title=row["title"],
            metadata=row["metadata"],
            archived=row["archived_at"] is not None,
            active_response_id=to_wire(Prefix.RESPONSE, head) if head else None,
            running_response_id=to_wire(Prefix.RESPONSE, running) if running else None,
            last_sequence_number=row["event_count"],
            is_unread=row["is_unread"],
            created_at=row["created_at"],
            updated_at=row["updated_at"],
        )


class ToolCallView(BaseModel):
    """A tool call. `arguments` and `result` are JSON where they are that, else text."""

    id: str
    server: str
    name: str
    arguments: Any
    result: Any
    error: dict[str, Any] | None
    status: Annotated[str, Field(description="`completed`, `failed` or `incomplete`")]
    duration_ms: Annotated[
        int | None, Field(description="how long it took; null where it was not made, or its outcome is unknown")
    ]
    executed_at: datetime

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(
            id=to_wire(Prefix.MCP_CALL, row["id"]),
            server=row["server_label"],
            name=row["tool_name"],
            arguments=_json_or_text(row["parameters"]),
            result=_json_or_text(row["result"]),
            error=row["error"],
            status=row["status"],
            duration_ms=row["duration_ms"],
            executed_at=row["executed_at"],
        )


class MessageView(BaseModel):
    """A message, with the tool calls that led to it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_MESSAGE_EXAMPLE]})

    id: str
    role: Annotated[str, Field(description="`user`, `assistant` or `system`")]
    content: str
    created_at: datetime
    status: Annotated[str, Field(description="`completed`, or `incomplete` where an answer was cut or stopped")]
    tool_calls: list[ToolCallView]

    @classmethod
    def of(cls, row: Row, calls: Sequence[ToolCallView]) -> Self:
        return cls(
            id=to_wire(Prefix.MESSAGE, row["id"]),
            role=row["role"],
            content=row["content"],
            created_at=row["created_at"],
            status=row["status"],
            tool_calls=list(calls),
        )


def _json_or_text(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return text
