"""The values that flow between the agent loop, the model, the tools and whoever runs the loop.

One turn is a series of steps, numbered from 0. A step is one model round and, where the model asked for tools, the
calls of that round, each with its index. The loop yields what happens:

    ReasoningDelta*  TextDelta*  ModelRound  (ToolStarted  ToolFinished)*  HandedOver?      once per step
    TextDelta?  TurnEnded                                                                   once, last

Calls that the client makes, or has to allow first, are handed over: nothing runs, and the turn ends. Where the turn
begins with the client's answers to such questions, its first step is made of the calls that were asked about.

The loop goes on only when its consumer asks for the next value, so a consumer that stores a value before asking has
stored it before the loop acts on it: a `ModelRound` with its calls is durable before the first of them starts, a
`ToolStarted` (the intent) before the tool runs, a `ToolFinished` (the result) before the model hears of it.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypeAlias

import msgspec

from shared.events import OUTCOME_UNKNOWN_TEXT

JsonObject: TypeAlias = dict[str, Any]


def storable(text: str) -> str:
    """`text` as UTF-8 and Postgres can hold it: without NUL, lone surrogates replaced by U+FFFD."""
    text = text.replace("\0", "")
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as its server describes it. The hints decide what may be run again after a crash."""

    server_label: str
    name: str
    description: str
    input_schema: JsonObject
    read_only: bool = False
    idempotent: bool = False
    destructive: bool = True
    requires_approval: bool = False  # the client is asked before a call is made

    @property
    def repeatable(self) -> bool:
        """Whether a call whose outcome is unknown may run once more with the same key."""
        return self.read_only or self.idempotent


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A tool of the client's own, which it runs itself. `parameters` is a JSON schema; null: none."""

    name: str
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None


@dataclass(frozen=True, slots=True)
class ToolRef:
    """Tools as a client names them: a function of its own (without `server_label`), one tool of a server, or all."""

    name: str | None
    server_label: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call the model asked for. `arguments` is the JSON text exactly as the model wrote it: it may be no JSON."""

    call_id: str
    name: str
    arguments: str

    def parsed_arguments(self) -> JsonObject | None:
        """The arguments, or None where they are no JSON object. No text at all is an object without fields."""
        if not self.arguments.strip():
            return {}
        try:
            return msgspec.json.decode(self.arguments, type=JsonObject)
        except (ValueError, RecursionError):
            return None


class ToolErrorKind(StrEnum):
    """The types of `mcp_call.error` on the wire."""

    EXECUTION = "mcp_tool_execution_error"
    PROTOCOL = "mcp_protocol_error"
    HTTP = "http_error"


@dataclass(frozen=True, slots=True)
class ToolError:
    kind: ToolErrorKind
    message: str
    code: int = 0


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What the model is told. `output` is text (JSON where the tool has structured output); null when `error` is set.

    `outcome_unknown` marks a call that may or may not have happened. The loop repeats it with its key, where the tool
    allows that; else the model is told. `duration_ms` is how long the call took that came to this: null where none was
    made, or its outcome is unknown. The model is not told, and results that say the same are equal.
    """

    output: str | None
    error: ToolError | None = None
    outcome_unknown: bool = False
    duration_ms: int | None = field(default=None, compare=False)


def as_unknown(error: ToolError) -> ToolResult:
    """The result of a call that ended with `error` and may have happened all the same; its message says so."""
    message = (
        f"outcome unknown: {error.message} The call may or may not have happened. Check the state before repeating it."
    )
    return ToolResult(None, ToolError(error.kind, message, error.code), outcome_unknown=True)


OUTCOME_UNKNOWN = ToolResult(None, ToolError(ToolErrorKind.EXECUTION, OUTCOME_UNKNOWN_TEXT), outcome_unknown=True)


@dataclass(frozen=True, slots=True)
class ApprovalAnswer:
    """The client's answer to the question whether `call` may be made. `request_id` is the question's item.

    The `call_id` is that of no other call which is answered.
    """

    request_id: str
    server_label: str
    call: ToolCall
    is_approved: bool
    reason: str | None = None


def refused_by_user(reason: str | None) -> ToolResult:
    """What the model is told of a call that the user did not allow."""
    message = f"refused by the user: {reason.rstrip('.')}." if reason else "refused by the user."
    return ToolResult(None, ToolError(ToolErrorKind.EXECUTION, f"{message} The call was not made."))


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, summed over rounds; zeros where the endpoint did not say."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
        )


class Finish(StrEnum):
    """The finish reasons of chat completions that end a round; any other, or none, is a broken round."""

    STOP = "stop"
    TOOL_CALLS = "tool_calls"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"


@dataclass(frozen=True, slots=True)
class TextDelta:
    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """What the model thinks before it says or asks for anything; of one round, before all of its text."""

    text: str


@dataclass(frozen=True, slots=True)
class ModelRound:
    """A whole model round: its text, the calls it asks for, why it ended, what it cost, what it thought before.

    There are calls if, and only if, `finish` is `TOOL_CALLS`: calls of a truncated round are dropped, never run.
    `is_of_client`: no model asked for these calls, they are those that the client gave answers to.
    """

    step: int
    text: str
    calls: tuple[ToolCall, ...]
    finish: Finish
    usage: Usage
    reasoning: str = ""
    is_of_client: bool = False


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """`approval_request_id` is the item of the question that the user answered with yes, where it was asked."""

    step: int
    index: int
    call: ToolCall
    server_label: str
    approval_request_id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolFinished:
    step: int
    index: int
    call: ToolCall
    server_label: str
    result: ToolResult


@dataclass(frozen=True, slots=True)
class HandedCall:
    """A call that is the client's: to make (no `server_label`), or to allow."""

    index: int
    call: ToolCall
    server_label: str | None = None


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The calls of a step that are the client's, after all others of the step were made."""

    step: int
    calls: tuple[HandedCall, ...]


class End(StrEnum):
    """Why a turn ended."""

    ANSWERED = "answered"
    HANDED_OVER = "handed_over"  # the client has calls to make, or to allow
    LENGTH = "length"  # the model's own limit, or the client's `max_output_tokens`
    CONTENT_FILTER = "content_filter"
    STEP_LIMIT = "step_limit"  # our own limits: said in the text, see `loop.CLOSING_TEXTS`
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - a limit of tokens, no secret
    TIME_LIMIT = "time_limit"  # never yielded by the loop, which has no clock: for the runner that stops it


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """`usage` is the whole turn's, steps of earlier attempts included."""

    end: End
    usage: Usage


Happening: TypeAlias = TextDelta | ReasoningDelta | ModelRound | ToolStarted | ToolFinished | HandedOver | TurnEnded


@dataclass(frozen=True, slots=True)
class PastStep:
    """A step that an earlier attempt recorded: its round; by index, which calls were started, finished, handed over."""

    round: ModelRound
    started: frozenset[int] = frozenset()
    results: Mapping[int, ToolResult] = field(default_factory=dict)
    handed: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One model round to ask for. `messages` are chat-completions messages, ready to send.

    `parameters` are further fields of the request, named as chat completions name them. `use` is what the answer is
    for: one of few words, to count by.
    """

    messages: Sequence[JsonObject]
    tools: Sequence[Tool | FunctionTool]
    tool_choice: str | JsonObject = "auto"
    temperature: float | None = None
    top_p: float | None = None
    output_token_count_max: int | None = None
    parallel_tool_calls: bool = True
    parameters: JsonObject = field(default_factory=dict)
    use: str = "answer"


class Model(Protocol):
    """A chat model.

    Yields `ReasoningDelta`s and `TextDelta`s as they arrive and then exactly one `ModelRound` (its `step` is 0; the
    loop numbers it).
    Raises `shared.errors.ModelUnavailableError` where another try may help (`.retry_after_seconds` if the endpoint
    said so), `shared.errors.ModelRefusedError` where it never will. Closing the generator closes the HTTP request.
    """

    def round(self, request: ModelRequest) -> AsyncGenerator[ReasoningDelta | TextDelta | ModelRound, None]: ...


class ToolSet(Protocol):
    """The tools of one job, run as its user. Never raises for what a tool or its server does: failures are results."""

    async def list(self) -> Sequence[Tool]:
        """The tools that can be reached now. Names are unique: of two with one name the loop offers the first."""
        ...

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult:
        """Run `tool` once. `key` is stable over repeats and attempts: a tool that honours it has its effect once."""
        ...
