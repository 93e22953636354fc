"""The turns that lead to a job, as the prompt wants them.

A turn's parent is the turn it answers to, which need not be the one before it: editing and regenerating fork, and
`previous_response_id` may name any turn. Items that were put into a conversation without a response belong to all its
branches. Order is (turn, ordinal), never time; deleted items are left out.

A call and what became of it may lie turns apart: the client answers a `function_call`, or allows a call that it was
asked about, with the input of a later turn. `_Teller` puts them together again.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, TypeAlias
from uuid import UUID

from chat_worker.agent.prompt import Called, Entry, PastTurn, Said
from chat_worker.agent.values import (
    ApprovalAnswer,
    JsonObject,
    ToolCall,
    ToolError,
    ToolErrorKind,
    ToolResult,
    refused_by_user,
)
from shared.db import Database
from shared.db.files import FileContent, read_files
from shared.ids import Prefix, from_wire

_TEXT_TYPES = frozenset({"application/json", "application/xml", "application/yaml", "application/x-yaml"})


@dataclass(frozen=True, slots=True)
class Place:
    """Where a turn is: in which conversation, and whose response it has, if any."""

    conversation_id: UUID
    job_id: UUID | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a model made of the first `turn_count` turns."""

    text: str
    turn_count: int


@dataclass(frozen=True, slots=True)
class History:
    """`past` is oldest first, with the places of its turns; before them comes what `summary` tells of.

    `current` holds what the user says now, but for its answers to what it was asked: those are `approvals`. `is_cut`:
    there is more than the limits let be read. All that was read is of `conversation_ids`; `deleted_item_count` of
    their items were deleted then.
    """

    past: Sequence[PastTurn]
    current: PastTurn
    approvals: Sequence[ApprovalAnswer] = ()
    is_cut: bool = False
    places: Sequence[Place] = ()
    summary: Summary | None = None
    conversation_ids: frozenset[UUID] = frozenset()
    deleted_item_count: int = 0

    @property
    def summary_text(self) -> str | None:
        return self.summary.text if self.summary else None

    @property
    def question(self) -> str:
        """The text of what the user says now."""
        said = [entry.text for entry in self.current.entries if isinstance(entry, Said) and entry.role == "user"]
        return "\n".join(text for text in said if text)

    @property
    def is_first(self) -> bool:
        """Whether no response was made before."""
        return self.summary is None and not any(place.job_id for place in self.places)


@dataclass(frozen=True, slots=True)
class HistoryLimits:
    """How much of the past is read, newest first; items without a response have the same limits once more.

    `output_bytes_max` is what one tool result counts for, at most. Files do not count; of all of them together
    `file_bytes_max` are read.
    """

    turn_count_max: int
    bytes_max: int
    output_bytes_max: int
    loose_item_count_max: int = 1_000
    file_bytes_max: int = 16 * 2**20

    @property
    def of_chain(self) -> tuple[int, int, int]:
        """As `history_of` takes them."""
        return self.turn_count_max, self.bytes_max, self.output_bytes_max


async def read(
    database: Database, user_id: str, job_id: UUID, limits: HistoryLimits, *, with_summary: bool = True
) -> History:
    """The newest turns that lead to the job, whole and as many as the limits allow, and the job's own input.

    What was summarised is not read: the newest summary stands for it, unless the history is wanted without.
    """
    async with database.transaction(user_id) as connection:
        rows = await connection.fetch(_CHAIN, job_id, user_id, *limits.of_chain, with_summary)
    return await told(rows, database, user_id, job_id, limits)


async def told(rows: Sequence[Any], database: Database, user_id: str, job_id: UUID, limits: HistoryLimits) -> History:
    """The history that `rows` begin, which `history_of` gave; what they refer to is read now, if they do."""
    own = rows[-1]  # the job has items, or it would not have been accepted
    summarised = rows[0] if rows[0]["kind"] == "summary" else None
    chain = rows if summarised is None else rows[1:]
    loose: Sequence[Any] = ()
    if own["has_loose"]:
        loose = await _loose(database, user_id, own, limits, _last_turn_of(summarised, own["conversation_id"]))
    past, current = _turns_in_order(chain, [row for row in loose if row["fits"]])
    asked: Sequence[Any] = ()
    if unknown := _answered_in(current) - _asked_in([*past, current]):
        async with database.transaction(user_id) as connection:
            asked = await connection.fetch(_ASKED, job_id, user_id, limits.turn_count_max, list(unknown))
    files: Mapping[UUID, FileContent] = {}
    if file_ids := _file_ids([*past, current]):
        async with database.transaction(user_id) as connection:
            files = await read_files(connection, user_id, file_ids, limits.file_bytes_max)
    teller = _Teller(files, asked)
    for turn in past:
        teller.take(turn)
    teller.take(current, is_current=True)
    *before, now = teller.turns()
    is_cut = own["is_cut"] or len(loose) > limits.loose_item_count_max or not all(row["fits"] for row in loose)
    return History(
        past=before,
        current=now,
        approvals=teller.approvals,
        is_cut=is_cut,
        places=[_place_of(turn) for turn in past],
        summary=Summary(summarised["text"], summarised["item"]["turn_count"]) if summarised else None,
        conversation_ids=frozenset(own["conversation_ids"]),
        deleted_item_count=own["deleted_item_count"],
    )


async def _loose(database: Database, user_id: str, own: Any, limits: HistoryLimits, behind_turn: int) -> Sequence[Any]:
    """The items of the conversation that belong to no response, up to the job's turn."""
    async with database.transaction(user_id) as connection:
        rows: Sequence[Any] = await connection.fetch(
            _LOOSE,
            own["conversation_id"],
            user_id,
            own["turn"],
            limits.loose_item_count_max + 1,
            limits.bytes_max,
            behind_turn,
        )
    return rows


_CHAIN = "select * from history_of($1, $2, $3, $4, $5, $6)"

_LOOSE = """
with loose as (
    select id, turn, ordinal, octet_length(content) as size from messages
    where conversation_id = $1 and user_id = $2 and turn > $6 and turn <= $3 and job_id is null
      and deleted_at is null
    union all
    select id, turn, ordinal, octet_length(item::text) from items
    where conversation_id = $1 and user_id = $2 and turn > $6 and turn <= $3 and job_id is null
      and deleted_at is null
      and kind not in ('reasoning', 'mcp_list_tools')
), newest as (
    select id, turn, ordinal, sum(size) over (order by turn desc, ordinal desc, id) <= $5 or turn = $3 as fits
    from loose order by turn desc, ordinal desc limit $4
)
select newest.turn, newest.ordinal, newest.fits, null::uuid as job_id, $1 as conversation_id,
       coalesce(i.kind, 'message') as kind, m.role, m.content as text,
       case when m.parts @? '$[*].file_id' then m.parts end as parts, newest.id as call_id, i.item
from newest
left join messages m on m.id = newest.id and m.user_id = $2 and newest.fits
left join items i on i.id = newest.id and i.user_id = $2 and newest.fits
"""

# What the client was asked in turns that were not read, and what it answered before.
_ASKED = """
with recursive chain as (
    select id, parent_job_id, 0 as distance from jobs where id = $1 and user_id = $2
    union all
    select parent.id, parent.parent_job_id, chain.distance + 1
    from chain join jobs parent on parent.id = chain.parent_job_id and parent.user_id = $2
    where chain.distance < $3
)
select items.kind, items.item
from chain join items on items.job_id = chain.id and items.user_id = $2 and items.deleted_at is null
where (kind = 'function_call' and item ->> 'call_id' = any($4::text[]))
   or (kind = 'mcp_approval_request' and item ->> 'id' = any($4::text[]))
   or (kind = 'mcp_approval_response' and distance > 0 and item ->> 'approval_request_id' = any($4::text[]))
order by distance desc, ordinal
"""


def _turns_in_order(rows: Sequence[Any], loose: Sequence[Any]) -> tuple[list[list[Any]], list[Any]]:
    """The rows of each past turn, oldest first, and those of the job's own."""
    own = rows[-1]
    chain = [row for row in rows if row["ordinal"] is not None]
    # Turn numbers count within a conversation; what a chain brings from another one comes before all of this one.
    elsewhere = [row for row in chain if row["conversation_id"] != own["conversation_id"]]
    here = [row for row in chain if row["conversation_id"] == own["conversation_id"]]
    here = sorted([*here, *loose], key=lambda row: (row["turn"], row["ordinal"]))
    past = elsewhere + [row for row in here if row["turn"] < own["turn"]]
    turns = [list(group) for _, group in groupby(past, key=lambda row: (row["conversation_id"], row["turn"]))]
    return turns, [row for row in here if row["turn"] == own["turn"]]


def _last_turn_of(summarised: Any | None, conversation_id: UUID) -> int:
    """The turn of the conversation up to which items without a response are in the summary; -1: none are."""
    if summarised is None or summarised["conversation_id"] != conversation_id:
        return -1
    return int(summarised["turn"])


def _place_of(turn: Sequence[Any]) -> Place:
    job_ids = (row["job_id"] for row in turn if row["job_id"])
    return Place(turn[0]["conversation_id"], next(job_ids, None))


def _answered_in(turn: Sequence[Any]) -> set[str]:
    """What the client answers there: approval requests by their ids, calls by theirs."""
    names = {"mcp_approval_response": "approval_request_id", "function_call_output": "call_id"}
    return {row["item"][names[row["kind"]]] for row in turn if row["kind"] in names}


def _asked_in(turns: Sequence[Sequence[Any]]) -> set[str]:
    """What the client is asked there."""
    names = {"mcp_approval_request": "id", "function_call": "call_id"}
    return {row["item"][names[row["kind"]]] for turn in turns for row in turn if row["kind"] in names}


def _file_ids(turns: Sequence[Sequence[Any]]) -> list[UUID]:
    """The files in all messages, the newest first."""
    rows = [row for turn in turns for row in turn if row["parts"]]
    wire_ids = [part["file_id"] for row in reversed(rows) for part in row["parts"] if part.get("file_id")]
    return [from_wire(Prefix.FILE, wire_id) for wire_id in dict.fromkeys(wire_ids)]


@dataclass(eq=False, slots=True)
class _Round:
    """Calls that were asked for at once, with their results; `turn` is the one in which they are told."""

    turn: "list[_Told]"
    calls: list[ToolCall] = field(default_factory=list)
    results: list[ToolResult | None] = field(default_factory=list)


_Told: TypeAlias = Said | _Round

_NOT_ALLOWED_YET = ToolResult(
    None, ToolError(ToolErrorKind.EXECUTION, "the user has not allowed this call yet. It was not made.")
)
# It was stopped before, or the record was deleted: then it may well have been made.
_NOT_KNOWN = ToolResult(
    None, ToolError(ToolErrorKind.EXECUTION, "the user allowed this call. There is no record of it having been made.")
)


class _Teller:
    """Makes turns of rows, which come in order, and brings calls to where their answers are.

    The calls of one round that are answered in a later turn are told at its beginning, with the text before them: an
    endpoint wants calls and results next to each other, and a turn that is kept needs what it answers.
    `asked` are calls of functions, approval requests, and answers to these, from turns that are not told.
    """

    def __init__(self, files: Mapping[UUID, FileContent], asked: Sequence[Any] = ()) -> None:
        self.approvals: list[ApprovalAnswer] = []
        self._files = files
        self._turns: list[list[_Told]] = []
        self._brought_count = 0  # to the beginning of the last turn
        self._calls: dict[str, tuple[_Round, int]] = {}  # functions without an output yet, by call id
        self._requests: dict[str, tuple[_Round, str]] = {}  # with their server's label, by item id
        self._answered: set[str] = set()
        self._is_current = False
        self._functions: _Round | None = None  # that the last row was a call of
        for row in asked:
            match row["kind"]:
                case "function_call":
                    self._call(row["item"], _Round([]))
                case "mcp_approval_request":
                    self._ask(row["item"], [])
                case "mcp_approval_response":
                    self._answered.add(row["item"]["approval_request_id"])

    def take(self, rows: Sequence[Any], *, is_current: bool = False) -> None:
        """The next turn."""
        self._turns.append([])
        self._brought_count = 0
        self._is_current = is_current
        for row in rows:
            functions, self._functions = self._functions, None
            match row["kind"]:
                case "message":
                    self._turns[-1].append(self._said(row))
                case "tool_call":
                    self._take_tool_call(row)
                case "mcp_call":
                    self._add_round(row["call_id"].hex, row["item"], _result_of_item(row["item"]))
                case "function_call":
                    self._functions = self._take_function_call(row["item"], functions)
                case "function_call_output":
                    self._take_output(row["item"])
                case "mcp_approval_request":
                    self._turns[-1].append(self._ask(row["item"], self._turns[-1]))
                case "mcp_approval_response":
                    self._take_answer(row["item"])
        self._functions = None

    def turns(self) -> list[PastTurn]:
        return [PastTurn(_entries(turn)) for turn in self._turns]

    def _said(self, row: Any) -> Said:
        parts = _content_parts(row["parts"], self._files) if row["parts"] else ()
        return Said(row["role"], row["text"], parts)

    def _take_tool_call(self, row: Any) -> None:
        request = self._requests.get(row["approval_request_id"] or "")
        if request is not None:
            _take_back(request[0], with_text=False)
        result = ToolResult(row["text"], tool_error_from_wire(row["error"]))
        call = {"name": row["tool_name"], "arguments": row["parameters"]}
        # Which calls the model made at once is not kept; one after the other is true to whatever depended on what.
        self._add_round(row["call_id"].hex, call, result)

    def _take_function_call(self, item: JsonObject, neighbours: _Round | None) -> _Round:
        round_ = neighbours
        if round_ is None:
            round_ = _Round(self._turns[-1])
            self._turns[-1].append(round_)
        self._call(item, round_)
        return round_

    def _call(self, item: JsonObject, round_: _Round) -> None:
        round_.calls.append(ToolCall(item["call_id"], item["name"], item["arguments"]))
        round_.results.append(None)
        self._calls[item["call_id"]] = round_, len(round_.calls) - 1

    def _take_output(self, item: JsonObject) -> None:
        result = ToolResult(_output_text(item["output"]))
        asked = self._calls.pop(item["call_id"], None)
        if asked is None:  # its call was deleted, or lies too far back
            self._add_round(item["call_id"], {"name": "function", "arguments": ""}, result)
            return
        round_, index = asked
        round_.results[index] = result
        self._bring(round_)

    def _ask(self, item: JsonObject, turn: list[_Told]) -> _Round:
        call = ToolCall(item["id"], item["name"], item["arguments"])
        round_ = _Round(turn, [call], [_NOT_ALLOWED_YET])
        self._requests[item["id"]] = round_, item["server_label"]
        return round_

    def _take_answer(self, item: JsonObject) -> None:
        """One answer counts: the first. What the user says now, the agent loop tells the model."""
        request_id = item["approval_request_id"]
        if request_id not in self._requests or request_id in self._answered:
            return
        self._answered.add(request_id)
        round_, server_label = self._requests[request_id]
        is_approved, reason = item["approve"], item.get("reason")
        if self._is_current:
            _take_back(round_, with_text=False)
            self.approvals.append(ApprovalAnswer(request_id, server_label, round_.calls[0], is_approved, reason))
            return
        round_.results = [_NOT_KNOWN if is_approved else refused_by_user(reason)]
        self._bring(round_)

    def _add_round(self, call_id: str, call: JsonObject, result: ToolResult) -> None:
        turn = self._turns[-1]
        turn.append(_Round(turn, [ToolCall(call_id, call["name"], call["arguments"])], [result]))

    def _bring(self, round_: _Round) -> None:
        """Tell the round in the last turn, if it is told in an earlier one."""
        turn = self._turns[-1]
        if round_.turn is turn:
            return
        for told in _take_back(round_, with_text=True):
            turn.insert(self._brought_count, told)
            self._brought_count += 1
        round_.turn = turn


def _take_back(round_: _Round, *, with_text: bool) -> list[_Told]:
    """Take the round out of its turn, perhaps along with what the model said before it; returns what was taken."""
    if round_ not in round_.turn:
        return [round_]
    place = round_.turn.index(round_)
    before = round_.turn[place - 1] if place and with_text else None
    first = place - 1 if isinstance(before, Said) and before.role == "assistant" else place
    taken = round_.turn[first : place + 1]
    del round_.turn[first : place + 1]
    return taken


def _entries(turn: Sequence[_Told]) -> list[Entry]:
    entries: list[Entry] = []
    for step, told in enumerate(turn):
        if isinstance(told, Said):
            entries.append(told)
        else:
            entries += [Called(call, result, step) for call, result in zip(told.calls, told.results, strict=True)]
    return entries


def _content_parts(parts: Sequence[JsonObject], files: Mapping[UUID, FileContent]) -> tuple[JsonObject, ...]:
    """A message's parts as chat completions know them. A file that is gone, or one too many, is a short note."""
    return tuple(_content_part(part, files) for part in parts if part.get("file_id") or part.get("text"))


def _content_part(part: JsonObject, files: Mapping[UUID, FileContent]) -> JsonObject:
    if not part.get("file_id"):
        return {"type": "text", "text": part["text"]}
    file = files.get(from_wire(Prefix.FILE, part["file_id"]))
    if file is None:
        kind = "image" if part["type"] == "input_image" else "file"
        return {"type": "text", "text": f"[{kind} left out: it was deleted, or there are too many]"}
    if part["type"] == "input_image":
        image = {"url": _data_url(file), "detail": part.get("detail") or "auto"}
        return {"type": "image_url", "image_url": image}
    if (text := _text_of(file)) is not None:
        return {"type": "text", "text": f"File {file.filename}:\n{text}"}
    return {"type": "file", "file": {"filename": file.filename, "file_data": _data_url(file)}}


def _data_url(file: FileContent) -> str:
    return f"data:{file.media_type};base64,{base64.b64encode(file.content).decode()}"


def _text_of(file: FileContent) -> str | None:
    if not (file.media_type.startswith("text/") or file.media_type in _TEXT_TYPES):
        return None
    return file.content.decode(errors="replace").replace("\0", "")


def _output_text(output: str | Sequence[JsonObject]) -> str:
    if isinstance(output, str):
        return output
    return "\n".join(part.get("text") or f"[{part['type']} left out]" for part in output)


def _result_of_item(item: JsonObject) -> ToolResult:
    """What a client says that a tool call of its record came to."""
    error = item.get("error")
    if error is None:
        return ToolResult(item.get("output"))
    try:
        return ToolResult(None, tool_error_from_wire(error))
    except (KeyError, TypeError, ValueError):
        return ToolResult(None, ToolError(ToolErrorKind.EXECUTION, str(error)))


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
