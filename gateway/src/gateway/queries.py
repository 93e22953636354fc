"""The read side: what clients may see of conversations, and of what was said in them. (Items: `conversation_items.py`.)

Every statement names the user, though row level security would do it too; and every row is checked for its owner
after it was read, as a connection that gave us somebody else's answer would pass all else.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

from gateway.branches import Branch, ResponsesAfter, Whole, list_responses, turns_of
from gateway.limits import Page
from gateway.views import ConversationView, MessageView, ToolCallView
from shared.db import Database, Row
from shared.errors import InvalidInputError, NotFoundError
from shared.events import JsonObject
from shared.ids import Prefix, from_wire, to_wire

# Of the table by its name; unread is an end that came after what its user saw last.
CONVERSATION_COLUMNS = """
    id, user_id, title, metadata, active_job_id, head_job_id, is_forked, archived_at, event_count, created_at,
    updated_at,
    coalesce(read_at < (select j.ended_at from jobs j
                        where j.conversation_id = conversations.id and j.user_id = conversations.user_id
                          and j.ended_at is not null and j.deleted_at is null
                        order by j.turn desc limit 1), false) as is_unread
"""
# How much of a message is shown with the conversation that was found by it. What is marked is between these two, which
# no message has there: they are for private use, and left out.
_MATCH_BEGIN, _MATCH_END = "\ue000", "\ue001"
_SNIPPET = f'MaxFragments=1, ShortWord=0, MaxWords=24, MinWords=12, StartSel="{_MATCH_BEGIN}", StopSel="{_MATCH_END}"'
_QUERY_WORD = re.compile(r"'(?:[^'\\]|''|\\\\)*'(?::\*)?")  # as Postgres writes it in a query
_MESSAGE_COLUMNS = "id, user_id, job_id, role, content, status, created_at"

_PREFIXES = (
    Prefix.MESSAGE,
    Prefix.MCP_CALL,
    Prefix.FUNCTION_CALL,
    Prefix.FUNCTION_CALL_OUTPUT,
    Prefix.REASONING,
    Prefix.TOOL_LIST,
    Prefix.APPROVAL_REQUEST,
    Prefix.APPROVAL_RESPONSE,
)


class Order(StrEnum):
    """Of time: oldest first, or newest first."""

    ASC = "asc"
    DESC = "desc"


class Archived(StrEnum):
    """Whether a list shows what is in the archive."""

    FALSE = "false"  # what is not
    TRUE = "true"  # nothing else
    ALL = "all"

    @property
    def condition(self) -> str:
        return {"false": "archived_at is null", "true": "archived_at is not null", "all": "true"}[self.value]


@dataclass(frozen=True, slots=True)
class ConversationsAfter:
    """Which conversations of a user: `limit` of them that follow the conversation `after`; null: from the start.

    With `search`, those where the title or a message has all of its words; `order` is that of their last activity.
    """

    after: UUID | None
    limit: int
    order: Order = Order.DESC
    archived: Archived = Archived.FALSE
    search: str | None = None


@dataclass(frozen=True, slots=True)
class ItemsAfter:
    """Which items of a conversation: `limit` of the branch that follow the item `after`; null: from the start."""

    after: UUID | None
    limit: int
    order: Order
    branch: Branch = Whole.ACTIVE


@dataclass(frozen=True, slots=True)
class ItemRun:
    """The items of the wire that follow a cursor."""

    items: list[JsonObject]
    has_more: bool


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """Some conversations of a list, and how many the whole list has."""

    conversations: list[ConversationView]
    total: int


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Some messages of a conversation, and how many the whole conversation has."""

    messages: list[MessageView]
    total: int


@dataclass(frozen=True, slots=True)
class Found:
    """A message that a search found: which one, and a part of it, in pieces that are a word asked for, or are not."""

    item_id: str
    response_id: str | None
    pieces: list[tuple[str, bool]]

    @property
    def snippet(self) -> str:
        return "".join(text for text, _ in self.pieces)


@dataclass(frozen=True, slots=True)
class ConversationRun:
    """The conversations that follow a cursor; of what was said in them, what a search found last, by their ids."""

    conversations: list[ConversationView]
    found: dict[str, Found]
    has_more: bool


@dataclass(frozen=True, slots=True)
class ResponseRun:
    """The responses that follow a cursor."""

    responses: list[JsonObject]
    has_more: bool


def item_id_of(text: str, param: str) -> UUID:
    """The id of an item of any kind. Raises InvalidInputError when malformed."""
    prefix = next((prefix for prefix in _PREFIXES if text.startswith(f"{prefix.value}_")), None)
    if prefix is None:
        expected = ", ".join(f"'{prefix.value}_'" for prefix in _PREFIXES)
        message = f"Not a valid id: expected one of {expected} followed by 32 hexadecimal digits."
        raise InvalidInputError("invalid_id", message, param=param)
    return from_wire(prefix, text, param=param)


def conversation_not_found() -> NotFoundError:
    return NotFoundError("not_found", "No such conversation.")


async def find_conversation(db: Any, user_id: str, conversation_id: UUID) -> ConversationView:
    """One conversation, read in the caller's transaction. Raises NotFoundError if it is deleted or not the user's."""
    return _conversation(await find_conversation_row(db, user_id, conversation_id), user_id)


async def find_conversation_row(db: Any, user_id: str, conversation_id: UUID) -> Row:
    """As `find_conversation`."""
    row = await db.fetchrow(
        f"""
        select {CONVERSATION_COLUMNS} from conversations
        where id = $1 and user_id = $2 and deleted_at is null and not is_ephemeral
        """,  # noqa: S608 - constants
        conversation_id,
        user_id,
    )
    if row is None:
        raise conversation_not_found()
    return row


def found_conversation(row: Row | None, user_id: str) -> ConversationView:
    """Raises NotFoundError where there is no row."""
    if row is None:
        raise conversation_not_found()
    return _conversation(row, user_id)


async def read_conversation(database: Database, user_id: str, conversation_id: UUID) -> ConversationView:
    """Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        return await find_conversation(db, user_id, conversation_id)


async def page_conversations(database: Database, user_id: str, page: Page, archived: Archived) -> ConversationPage:
    """The user's conversations, the one that was active last first."""
    scope = f"user_id = $1 and deleted_at is null and not is_ephemeral and {archived.condition}"
    async with database.transaction(user_id) as db:
        total = await db.fetchval(f"select count(*) from conversations where {scope}", user_id)  # noqa: S608
        rows = await db.fetch(
            f"""
            select {CONVERSATION_COLUMNS} from conversations where {scope}
            order by updated_at desc, id limit $2 offset $3
            """,  # noqa: S608 - constants
            user_id,
            page.limit,
            page.offset,
        )
    return ConversationPage([_conversation(row, user_id) for row in rows], total)


async def list_conversations(database: Database, user_id: str, wanted: ConversationsAfter) -> ConversationRun:
    """The user's conversations that follow `wanted.after`, by when they were active last.

    Raises NotFoundError where `wanted.after` is not one of them.
    """
    async with database.transaction(user_id) as db:
        cursor = await find_conversation(db, user_id, wanted.after) if wanted.after else None
        query = None
        if wanted.search is not None:
            query = await db.fetchval("select begin_search($1, $2)", user_id, wanted.search)
            if query is None:  # nothing in it is a word
                return ConversationRun([], {}, has_more=False)
        rows = await db.fetch(*_conversations_after(user_id, wanted, cursor, query))
        found = await _found_in(db, user_id, rows, query) if query else {}
    views = [_conversation(row, user_id) for row in rows[: wanted.limit]]
    return ConversationRun(views, found, has_more=len(rows) > wanted.limit)


def _conversations_after(
    user_id: str, wanted: ConversationsAfter, cursor: ConversationView | None, query: str | None
) -> tuple[Any, ...]:
    """The statement, then its arguments."""
    arguments: list[Any] = [user_id, wanted.limit + 1]
    conditions = ["user_id = $1", "deleted_at is null", "not is_ephemeral", wanted.archived.condition]
    is_descending = wanted.order is Order.DESC
    if cursor is not None:
        beyond, beyond_of_same = ("<", ">") if is_descending else (">", "<")
        # The first half is what the index can begin at.
        conditions += [f"updated_at {beyond}= $3", f"(updated_at {beyond} $3 or id {beyond_of_same} $4)"]
        arguments += [cursor.updated_at, wanted.after]
    if query is not None:
        conditions.append(
            f"""
            (title_words @@ ${len(arguments) + 1}::text::tsquery
             or id in (select w.conversation_id from found_messages($1) w
                       join messages m on m.id = w.message_id and m.deleted_at is null))
            """  # noqa: S608 - constants
        )
        arguments.append(query)
    in_order = "updated_at desc, id" if is_descending else "updated_at, id desc"
    statement = f"""
        select {CONVERSATION_COLUMNS} from conversations where {" and ".join(conditions)} order by {in_order} limit $2
        """  # noqa: S608 - constants
    return (statement, *arguments)


async def _found_in(db: Any, user_id: str, conversations: Iterable[Row], query: str) -> dict[str, Found]:
    """Of each conversation the message that the search found last, as far as it says why; by the conversation's id.

    Any of the words is looked for there: all of them, or several in a row, can take Postgres a minute for one message.
    """
    rows = await db.fetch(
        """
        select conversation_id, id, job_id,
               ts_headline('simple', parsable(translate(left(content, 10000), $5, '')), $3::text::tsquery, $4)
                   as snippet
        from (select distinct on (m.conversation_id) m.conversation_id, m.id, m.job_id, m.content
              from found_messages($1) w join messages m on m.id = w.message_id and m.deleted_at is null
              where w.conversation_id = any($2)
              order by m.conversation_id, m.turn desc, m.ordinal desc) found
        """,
        user_id,
        [row["id"] for row in conversations],
        " | ".join(dict.fromkeys(_QUERY_WORD.findall(query))),
        _SNIPPET,
        _MATCH_BEGIN + _MATCH_END,
    )
    return {to_wire(Prefix.CONVERSATION, row["conversation_id"]): _found(row) for row in rows}


def _found(row: Row) -> Found:
    texts = re.split(f"[{_MATCH_BEGIN}{_MATCH_END}]", row["snippet"])
    return Found(
        to_wire(Prefix.MESSAGE, row["id"]),
        to_wire(Prefix.RESPONSE, row["job_id"]) if row["job_id"] else None,
        [(text, number % 2 == 1) for number, text in enumerate(texts) if text],
    )


async def page_responses(
    database: Database, user_id: str, conversation_id: UUID, wanted: ResponsesAfter
) -> ResponseRun:
    """The responses of a conversation, of all its branches. Raises NotFoundError."""
    async with database.transaction(user_id) as db:
        conversation = await find_conversation_row(db, user_id, conversation_id)
        responses = await list_responses(db, conversation, wanted)
    return ResponseRun(responses[: wanted.limit], has_more=len(responses) > wanted.limit)


async def page_messages(
    database: Database, user_id: str, conversation_id: UUID, page: Page, order: Order
) -> MessagePage:
    """Messages of a conversation's active branch in the order of its turns. Raises NotFoundError."""
    scope = "conversation_id = $1 and user_id = $2 and deleted_at is null"
    scoped: list[Any] = [conversation_id, user_id]
    async with database.transaction(user_id) as db:
        conversation = await find_conversation_row(db, user_id, conversation_id)
        turns = await turns_of(db, conversation, Whole.ACTIVE)
        if turns is not None:
            scope += " and (job_id is null or turn = any($3::integer[]))"
            scoped.append(turns)
        total = await db.fetchval(f"select count(*) from messages where {scope}", *scoped)  # noqa: S608
        rows = await db.fetch(
            f"""
            select {_MESSAGE_COLUMNS} from messages where {scope}
            order by turn {order.value}, ordinal {order.value} limit ${len(scoped) + 1} offset ${len(scoped) + 2}
            """,  # noqa: S608 - constants
            *scoped,
            page.limit,
            page.offset,
        )
        calls = await _tool_calls(db, user_id, rows)
    return MessagePage([_message(row, user_id, calls) for row in rows], total)


async def turn_messages(database: Database, user_id: str, job_id: UUID) -> list[JsonObject]:
    """The messages of one turn as JSON, in order: what the user said, and what was answered so far."""
    async with database.transaction(user_id) as db:
        rows = await db.fetch(
            f"""
            select {_MESSAGE_COLUMNS} from messages
            where job_id = $1 and user_id = $2 and deleted_at is null order by ordinal
            """,  # noqa: S608 - constants
            job_id,
            user_id,
        )
        calls = await _tool_calls(db, user_id, rows)
    return [_message(row, user_id, calls).model_dump(mode="json") for row in rows]


async def _tool_calls(db: Any, user_id: str, messages: Iterable[Row]) -> dict[UUID, list[ToolCallView]]:
    """The tool calls that belong to `messages`, by message.

    A call belongs to the next message of its turn; to the last one where none follows.
    """
    rows = await db.fetch(
        """
        select id, user_id, server_label, tool_name, parameters, result, error, status, duration_ms, executed_at,
               coalesce(
                   (select m.id from messages m
                    where m.job_id = t.job_id and m.ordinal > t.ordinal and m.user_id = $2 and m.deleted_at is null
                    order by m.ordinal limit 1),
                   (select m.id from messages m
                    where m.job_id = t.job_id and m.ordinal < t.ordinal and m.user_id = $2 and m.deleted_at is null
                    order by m.ordinal desc limit 1)) as message_id
        from tool_calls t where job_id = any($1) and user_id = $2 and deleted_at is null order by turn, ordinal
        """,
        list({row["job_id"] for row in messages if row["job_id"]}),
        user_id,
    )
    calls = defaultdict(list)
    for row in rows:
        calls[row["message_id"]].append(_tool_call(row, user_id))
    return calls


def _conversation(row: Row, user_id: str) -> ConversationView:
    _check_owner(row, user_id)
    return ConversationView.of(row)


def _message(row: Row, user_id: str, calls: dict[UUID, list[ToolCallView]]) -> MessageView:
    _check_owner(row, user_id)
    return MessageView.of(row, calls.get(row["id"], ()))


def _tool_call(row: Row, user_id: str) -> ToolCallView:
    _check_owner(row, user_id)
    return ToolCallView.of(row)


def _check_owner(row: Row, user_id: str) -> None:
    assert row["user_id"] == user_id, "a row of another user"
