"""All that is stored of a user, as one JSON document, written piece by piece; and as a command for operators.

The document is made of many short reads, one page or one slice of a file at a time, so that it may be as large as it
wants: it is no snapshot, and what changes meanwhile is in it as it was before, or after. Lists have the names of their
tables, objects those of their columns. One that breaks off is no valid JSON, so that nobody takes it for whole.

`python -m gateway.export USER` writes the same with the gateway's environment, as its database role.
"""

import argparse
import asyncio
import sys
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO
from uuid import UUID

import asyncpg
import msgspec

from gateway.settings import GatewaySettings
from shared.db import Database, Row, UnsafeRoleError
from shared.db.audit import Act, Actor, audited, command_line
from shared.db.journal import events_of
from shared.errors import UnavailableError
from shared.observability import configure_logging
from shared.settings import settings_or_exit

_ROWS_MAX = 50
_LARGE_ROWS_MAX = 10  # of what may have hundreds of kilobytes each
_SLICE_BYTES = 3 * 256 * 1_024  # of a file; threes, as base64 has no remainder then


@dataclass(frozen=True, slots=True)
class _List:
    """Rows of a table, by a key that is unique among them. In `fields` and `whose`, `t` is the table."""

    table: str
    key: Sequence[str]
    fields: str
    whose: str = "t.user_id = $1"
    rows_max: int = _ROWS_MAX

    def statement(self, argument_count: int, *, is_first_page: bool) -> str:
        """Rows with `json`, their fields, and `key`, for the next page; that is the arguments behind the others."""
        key = ", ".join(f"t.{column}" for column in self.key)
        cursor = ", ".join(f"${argument_count + number}" for number in range(1, len(self.key) + 1))
        behind = "" if is_first_page else f"and ({key}) > ({cursor})"
        return f"""
            select {key}, (select row_to_json(f)::text from (select {self.fields}) f) as json
            from {self.table} t where {self.whose} {behind} order by {key} limit {self.rows_max}
        """  # noqa: S608 - our own text


_OF_THE_CONVERSATION = "t.user_id = $1 and t.conversation_id = $2"
_CONVERSATIONS = _List(
    "conversations",
    ["id"],
    """
    wire_id('conv', t.id) as id, t.title, t.title_source, t.metadata, wire_id('resp', t.head_job_id) as
    active_response_id, t.is_ephemeral, t.created_at, t.updated_at, t.read_at, t.archived_at, t.deleted_at
    """,
)
_IN_CONVERSATIONS = (
    _List(
        "jobs",
        ["turn"],
        """
        wire_id('resp', t.id) as id, wire_id('resp', t.parent_job_id) as previous_response_id, t.turn, t.status,
        t.background, t.store, t.idempotency_key, t.created_at, t.ended_at, t.deleted_at, t.request, t.response
        """,
        _OF_THE_CONVERSATION,
        _LARGE_ROWS_MAX,
    ),
    _List(
        "messages",
        ["turn", "ordinal", "id"],
        """
        wire_id('msg', t.id) as id, wire_id('resp', t.job_id) as response_id, t.turn, t.ordinal, t.role, t.content,
        t.parts, t.status, t.metadata, t.created_at, t.deleted_at
        """,
        _OF_THE_CONVERSATION,
    ),
    _List(
        "tool_calls",
        ["turn", "ordinal", "id"],
        """
        wire_id('mcp', t.id) as id, wire_id('resp', t.job_id) as response_id, t.turn, t.ordinal, t.server_label,
        t.tool_name, t.parameters, t.result, t.error, t.status, t.approval_request_id, t.duration_ms, t.executed_at,
        t.deleted_at
        """,
        _OF_THE_CONVERSATION,
    ),
    _List(
        "items",
        ["turn", "ordinal", "id"],
        "wire_id('resp', t.job_id) as response_id, t.turn, t.ordinal, t.item, t.created_at, t.deleted_at",
        _OF_THE_CONVERSATION,
    ),
    _List(
        "summaries",
        ["turn", "job_id"],
        "wire_id('resp', t.job_id) as response_id, t.turn, t.covers_turn_count, t.text, t.created_at",
        _OF_THE_CONVERSATION,
    ),
    _List(
        "feedback",
        ["job_id"],
        "wire_id('resp', t.job_id) as response_id, t.rating, t.reason, t.created_at, t.updated_at",
        _OF_THE_CONVERSATION,
    ),
    _List(
        "shares",
        ["id"],
        """
        wire_id('share', t.id) as id, t.title, wire_id('resp', t.head_job_id) as head, t.last_turn, t.created_at,
        t.expires_at
        """,
        _OF_THE_CONVERSATION,
    ),
    _List("conversation_events", ["seq"], "t.seq, t.kind, t.data, t.created_at", _OF_THE_CONVERSATION),
    _List(
        "journal",
        ["job_id", "first_seq"],
        "wire_id('resp', t.job_id) as response_id",
        "t.user_id = $1 and t.job_id in (select j.id from jobs j where j.user_id = $1 and j.conversation_id = $2)",
        _LARGE_ROWS_MAX,
    ),
)
_FILES = _List(
    "files",
    ["id"],
    """
    wire_id('file', t.id) as id, t.filename, t.media_type, t.purpose, t.byte_count, t.is_inline, t.created_at,
    t.expires_at, t.deleted_at
    """,
)
_OF_USER = (
    _List("approval_answers", ["approval_request_id"], "t.approval_request_id"),
    _List(
        "tasks",
        ["id"],
        """
        wire_id('task', t.id) as id, t.title, t.description, t.completed, t.due, t.priority, t.created_at, t.updated_at,
        t.completed_at
        """,
    ),
    _List(
        "webhook_endpoints",
        ["id"],
        """
        wire_id('wh', t.id) as id, t.name, t.url, t.event_types, t.failure_count, t.failing_since, t.disabled_at,
        t.disabled_reason, t.created_at, t.updated_at
        """,
    ),
    _List(
        "webhook_deliveries",
        ["endpoint_id", "event_id"],
        """
        wire_id('evt', t.event_id) as event_id, wire_id('wh', t.endpoint_id) as endpoint_id,
        wire_id('resp', t.job_id) as response_id, t.type, t.attempts, t.next_attempt_at, t.delivered_at, t.last_status,
        t.last_error, t.created_at
        """,
    ),
    _List("usage_by_day", ["day"], "t.day, t.response_count, t.input_tokens, t.output_tokens"),
)
EXPORTED = frozenset(part.table for part in (_CONVERSATIONS, *_IN_CONVERSATIONS, _FILES, *_OF_USER))
# What nobody could want: the words of messages as an index, and what workers and tools keep for a while to repeat
# nothing, which is in the responses as well.
LEFT_OUT = frozenset({"message_words", "unindexed_messages", "steps", "idempotency_keys"})


async def export(database: Database, user_id: str) -> AsyncGenerator[bytes, None]:
    """The document, in pieces of at most some megabytes. Raises DatabaseUnavailableError, at any of them."""
    head = {"object": "export", "user_id": user_id, "exported_at": datetime.now(UTC)}
    yield msgspec.json.encode(head)[:-1]
    yield b',"conversations":['
    separator = b""
    async for row in _rows(database, _CONVERSATIONS, user_id):
        yield separator + _open_object(row)
        for part in _IN_CONVERSATIONS:
            async for piece in _list(database, part, user_id, row["id"]):
                yield piece
        yield b"}"
        separator = b","
    yield b"]"
    for part in _OF_USER:
        async for piece in _list(database, part, user_id):
            yield piece
    yield b',"files":['
    separator = b""
    async for row in _rows(database, _FILES, user_id):
        yield separator + _open_object(row) + b',"content":"'
        async for slice_ in _content(database, user_id, row["id"]):
            yield b64encode(slice_)
        yield b'"}'
        separator = b","
    yield b"]}\n"


def started(actor: Actor, user_id: str) -> Act:
    """What the audit log says of an export, when it begins."""
    return Act(actor, "user.exported", target=user_id)


async def _list(database: Database, part: _List, *whose: str | UUID) -> AsyncIterator[bytes]:
    yield f',"{part.table}":['.encode()
    separator = b""
    async for row in _rows(database, part, *whose):
        yield separator + (
            await _with_events(database, row, *whose) if part.table == "journal" else row["json"].encode()
        )
        separator = b","
    yield b"]"


async def _rows(database: Database, part: _List, *whose: Any) -> AsyncIterator[Row]:
    """A page at a time, each in a transaction of its own: none is open while its reader takes what is there."""
    statement = part.statement(len(whose), is_first_page=True)
    cursor: list[Any] = []
    while True:
        async with database.transaction(whose[0]) as db:
            page = await db.fetch(statement, *whose, *cursor)
        for row in page:
            yield row
        if len(page) < part.rows_max:
            return
        cursor = [page[-1][column] for column in part.key]
        statement = part.statement(len(whose), is_first_page=False)


async def _with_events(database: Database, row: Row, user_id: Any, *_: Any) -> bytes:
    """A row of the journal, whichever form it has. It is read now: it may have been packed since."""
    async with database.transaction(user_id) as db:
        stored = await db.fetchrow(
            "select frames, packed from journal where user_id = $1 and job_id = $2 and first_seq = $3",
            user_id,
            row["job_id"],
            row["first_seq"],
        )
    events = b",".join(events_of(stored)) if stored else b""
    return _open_object(row) + b',"events":[' + events + b"]}"


async def _content(database: Database, user_id: str, file_id: UUID) -> AsyncIterator[bytes]:
    """A file's bytes; none from where it was deleted meanwhile."""
    start = 1
    while True:
        async with database.transaction(user_id) as db:
            found: bytes | None = await db.fetchval(
                "select substring(bytes from $3 for $4) from files where user_id = $1 and id = $2",
                *(user_id, file_id, start, _SLICE_BYTES),
            )
        if found:
            yield found
        if not found or len(found) < _SLICE_BYTES:
            return
        start += _SLICE_BYTES


def _open_object(row: Row) -> bytes:
    """The fields of a row, where more are to follow."""
    json: str = row["json"]
    return json.removesuffix("}").encode()


# --- The command


def main(arguments: Sequence[str] | None = None) -> int:
    """Write a user's export to a file, or to standard output; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.export", description="Export all that is stored of a user."
    )
    parser.add_argument("user", metavar="USER", help="the subject of the user's tokens")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a file that does not exist yet")
    asked = parser.parse_args(arguments)
    settings = settings_or_exit(GatewaySettings, "export")
    configure_logging("export", settings.model_copy(update={"log_level": "CRITICAL"}))
    try:
        if asked.output is None:
            asyncio.run(_write(settings, asked.user, sys.stdout.buffer))
        else:
            with asked.output.open("xb") as output:
                asyncio.run(_write(settings, asked.user, output))
    except (UnavailableError, UnsafeRoleError, asyncpg.PostgresError, OSError) as error:
        sys.stderr.write(f"export: {error}\n")
        return 1
    return 0


async def _write(settings: GatewaySettings, user_id: str, output: BinaryIO) -> None:
    database = await Database.connect(
        settings.database_url.get_secret_value(), application_name="export", pool_size=1, wait_seconds=0
    )
    try:
        async with audited(database, started(command_line(), user_id)):
            pass
        async with aclosing(export(database, user_id)) as pieces:
            async for piece in pieces:
                output.write(piece)
    finally:
        await database.close()


if __name__ == "__main__":
    sys.exit(main())
