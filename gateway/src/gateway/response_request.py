"""The body of `POST /v1/responses`: what a client may ask for, and what of it the Response object echoes.

What is asked for is honoured, or refused by name. Fields that are not known are ignored: clients grow new ones.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gateway.limits import Metadata, Objects
from gateway.settings import GatewaySettings
from gateway.tools_asked import Offer, parse_tool_choice, parse_tools
from gateway.turns import MultitaskStrategy
from shared.agents import AGENTS, Agent
from shared.errors import InvalidInputError
from shared.events import JsonObject
from shared.tool_servers import ToolServers

Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
# The others are of items that no answer here has, or would be null: there is nothing to include.
_NOT_INCLUDED = {
    "message.input_image.image_url": "images are kept as files, and named by their 'file_id'",
    "message.output_text.logprobs": "there are no log probabilities",
}
# What OpenAI's API knows and this one has not. Anything else that is not known is ignored.
_NOT_SUPPORTED = ("access_programs", "background_options", "context_management", "image", "moderation", "prompt")

_Short = Annotated[str, StringConstraints(max_length=512)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", populate_by_name=True)


class ConversationReference(_Part):
    id: str


class TextFormat(_Part):
    """`json_schema` has a name and a schema."""

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")] | None = None
    json_schema: JsonObject | None = Field(None, alias="schema")
    description: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_a_schema(self) -> Self:
        if self.type == "json_schema" and (self.name is None or self.json_schema is None):
            raise ValueError("a format of type 'json_schema' needs 'name' and 'schema'")
        return self

    def to_wire(self) -> JsonObject:
        if self.type != "json_schema":
            return {"type": self.type}
        return {
            "type": "json_schema",
            "name": self.name,
            "schema": self.json_schema,
            "description": self.description,
            "strict": bool(self.strict),
        }


class Text(_Part):
    format: TextFormat | None = None
    verbosity: Literal["low", "medium", "high"] | None = None

    def to_wire(self) -> JsonObject:
        wanted = {"type": "text"} if self.format is None else self.format.to_wire()
        return {"format": wanted, "verbosity": self.verbosity} if self.verbosity else {"format": wanted}


class Reasoning(_Part):
    """`generate_summary` is the old name of `summary`."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None
    context: Literal["auto"] | None = None
    mode: Literal["standard"] | None = None

    def to_wire(self) -> JsonObject:
        return {"effort": self.effort, "summary": self.summary or self.generate_summary}


class StreamOptions(_Part):
    """`include_obfuscation` has no effect: padding would make two replays of a stream differ."""

    include_obfuscation: bool | None = None


class ResponseRequest(BaseModel):
    """What may be said of a response. `branch_at_start` and `multitask_strategy` are ours."""

    model_config = ConfigDict(extra="allow")

    model: str | None = None
    instructions: str | None = Field(None, max_length=100_000)
    conversation: str | ConversationReference | None = None
    previous_response_id: str | None = None
    branch_at_start: bool | None = Field(
        None, description="With `conversation`: the turn follows nothing, as another first message of it."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    background: bool | None = None
    store: bool | None = None
    tools: Objects | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_tool_calls: int | None = Field(None, ge=1, le=1_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    text: Text | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["auto", "disabled"] | None = None
    include: Annotated[list[Includable], Field(fail_fast=True)] | None = None
    metadata: Metadata | None = None
    user: _Short | None = None
    safety_identifier: _Short | None = None
    prompt_cache_key: _Short | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    multitask_strategy: MultitaskStrategy | None = None


class CreateResponse(ResponseRequest):
    """The body of a create."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "todo", "input": "add a task: buy milk", "stream": True}]}
    )

    input: str | Objects


class CountTokens(ResponseRequest):
    """The body of a count."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"model": "todo", "input": "hello"}]})

    input: str | Objects | None = None


# Of those that the Response object shows as they were sent.
_ECHOED = (
    "frequency_penalty",
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "presence_penalty",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "temperature",
    "top_p",
    "truncation",
    "user",
)


def agent_of(body: ResponseRequest, settings: GatewaySettings) -> Agent:
    """Whom the request is for. Raises InvalidInputError."""
    name = body.model or settings.default_model
    if name is None:
        raise InvalidInputError("missing_required_parameter", "Missing required parameter: 'model'.", param="model")
    if name not in AGENTS:
        raise InvalidInputError(
            "model_not_found", f"No such model; choose one of: {', '.join(sorted(AGENTS))}.", param="model"
        )
    return AGENTS[name]


def options_of(body: ResponseRequest, agent: Agent, servers: ToolServers, settings: GatewaySettings) -> JsonObject:
    """The fields of the Response object that the client chose. Raises InvalidInputError for what is not honoured."""
    _refuse_unsupported(body)
    offer = Offer(agent, servers, settings.tools_max)
    tools = parse_tools(body.tools, offer)
    chosen: dict[str, Any] = {name: value for name in _ECHOED if (value := getattr(body, name)) is not None}
    options = {
        **chosen,
        "tools": tools,
        "tool_choice": parse_tool_choice(body.tool_choice, tools, offer),
        "text": (body.text or Text()).to_wire(),
        "reasoning": (body.reasoning or Reasoning()).to_wire(),
    }
    _check_size(options, settings.options_bytes_max)
    return options


def _check_size(options: JsonObject, bytes_max: int) -> None:
    """All of it is in the Response object, and that in several events of each stream."""
    sizes = {name: len(msgspec.json.encode(value)) for name, value in options.items()}
    if sum(sizes.values()) > bytes_max:
        largest = max(sizes, key=lambda name: sizes[name])
        message = (
            f"What the request says beside its input has {sum(sizes.values())} bytes, most of them in '{largest}'; "
            f"at most {bytes_max} are allowed."
        )
        raise InvalidInputError("options_too_large", message, param=largest)


def _refuse_unsupported(body: ResponseRequest) -> None:
    for name in _NOT_SUPPORTED:
        if (body.model_extra or {}).get(name) is not None:
            raise _unsupported(name, "is not supported; leave it out.")
    if body.top_logprobs:
        raise _unsupported("top_logprobs", "must be 0: there are no log probabilities.")
    if body.background and body.store is False:
        raise _unsupported("store", "must not be false here: background can only be used when `store` is true.")
    if body.branch_at_start and body.conversation is None:
        raise InvalidInputError(
            "invalid_request", "'branch_at_start' needs a 'conversation' to be a branch of.", param="branch_at_start"
        )
    _check_included(body.include or ())


def _check_included(names: Iterable[str]) -> None:
    """Raises InvalidInputError for what cannot be included."""
    for name in names:
        if name in _NOT_INCLUDED:
            raise _unsupported("include", f"cannot have '{name}': {_NOT_INCLUDED[name]}.")


def _unsupported(param: str, reason: str) -> InvalidInputError:
    return InvalidInputError("unsupported_parameter", f"'{param}' {reason}", param=param)
