"""`/v1/chat/completions`: OpenAI's Chat Completions, for tools that know nothing else. A pass: nothing is stored.

The answer is the agent's, without its tools: the client brings its own. What is known here and cannot be honoured is
refused by name; fields that nobody here knows are ignored, as everywhere under `/v1`.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway.completions import Completion
from gateway.deps import CurrentServices, CurrentUser
from gateway.files import FileKind, check_inline
from gateway.intake import LargeBodyRoute
from gateway.limits import Objects, few
from gateway.problems import V1_ERRORS
from gateway.settings import GatewaySettings, ModelInput
from shared.agents import AGENTS, Agent
from shared.errors import InvalidInputError, NotFoundError
from shared.events import JsonObject

router = APIRouter(prefix="/v1/chat", tags=["chat completions"], route_class=LargeBodyRoute, responses=V1_ERRORS)

_ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
_LOGIT_BIASES_MAX = 1_024
_TOOL_KINDS = {"function", "custom"}


class StreamOptions(BaseModel):
    include_usage: bool | None = None


class _Passed(BaseModel):
    """What goes to the endpoint as it is."""

    model_config = ConfigDict(extra="ignore")

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    stop: str | Annotated[list[str], Field(fail_fast=True)] | None = None
    seed: int | None = None
    logit_bias: Annotated[dict[str, float], few(_LOGIT_BIASES_MAX)] | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: JsonObject | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    tools: Objects | None = None
    tool_choice: str | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    functions: Objects | None = None
    function_call: str | JsonObject | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None


class CreateCompletion(_Passed):
    """The body of a completion. `messages` come behind the agent's own instructions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "chat", "messages": [{"role": "user", "content": "Hello!"}], "stream": True}]
        }
    )

    model: str | None = None
    messages: Annotated[Objects, Field(min_length=1)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    store: bool | None = None
    metadata: JsonObject | None = None
    modalities: Annotated[list[str], Field(fail_fast=True)] | None = None
    audio: JsonObject | None = None
    prediction: JsonObject | None = None
    web_search_options: JsonObject | None = None
    moderation: JsonObject | None = None
    service_tier: str | None = None


@router.post(
    "/completions",
    summary="Create a chat completion",
    response_model=None,
    responses={
        200: {
            "description": "A `chat.completion`, or with `stream` its chunks.",
            "content": {"application/json": {}, "text/event-stream": {}},
        }
    },
)
async def create_completion(
    request: Request, body: CreateCompletion, user: CurrentUser, services: CurrentServices
) -> Response:
    """Ask the model, at once and without memory. A client that goes away ends the answer.

    Prefer `/v1/responses`, which keeps what was said, survives failures and resumes.
    """
    settings = services.settings
    if not settings.completions_enabled:
        raise NotFoundError("not_configured", "Chat completions are switched off here; use /v1/responses.")
    _refuse_unsupported(body)
    agent = _agent(body.model, settings)
    with ExitStack() as held:
        slot = held.enter_context(services.completions.slot(user.id))
        await services.completions.check_quota(user.id)
        completion = Completion(
            user_id=user.id,
            agent=agent.name,
            body={
                "messages": [
                    {"role": "system", "content": agent.instructions},
                    *await _checked_messages(body.messages, settings),
                ],
                **body.model_dump(include=set(_Passed.model_fields), exclude_none=True),
            },
            wants_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        if body.stream:
            stream = await services.completions.stream(user, completion, request.receive, slot)
            held.pop_all()
            return stream
        answer = await services.completions.whole(completion, request.receive)
    return Response(answer, media_type="application/json")


def _refuse_unsupported(body: CreateCompletion) -> None:
    refused: Mapping[str, tuple[object, str]] = {
        "n": (body.n not in (None, 1), "there is one choice; leave it out, or send 1"),
        "store": (body.store, "nothing is stored; use /v1/responses to keep what was said"),
        "metadata": (body.metadata, "it belongs to what is stored; use /v1/responses"),
        "modalities": (body.modalities not in (None, ["text"]), "answers are text"),
        "audio": (body.audio, "answers are text"),
        "prediction": (body.prediction, "it is not supported"),
        "web_search_options": (body.web_search_options is not None, "it is not supported"),
        "moderation": (body.moderation, "it is not supported"),
        "service_tier": (body.service_tier not in (None, "auto", "default"), "the operator chooses it"),
        "tools": (
            any(tool.get("type") not in _TOOL_KINDS for tool in body.tools or ()),
            "the client's own tools only: each with the type 'function' or 'custom'",
        ),
        "stream_options": (body.stream_options and not body.stream, "it is for streams: send 'stream': true with it"),
    }
    for param, (is_refused, reason) in refused.items():
        if is_refused:
            raise InvalidInputError("unsupported_parameter", f"'{param}': {reason}.", param=param)


def _agent(model: str | None, settings: GatewaySettings) -> Agent:
    name = model or settings.default_model
    if name is None:
        raise InvalidInputError("missing_required_parameter", "Missing required parameter: 'model'.", param="model")
    if name not in AGENTS:
        known = ", ".join(sorted(AGENTS))
        raise InvalidInputError("model_not_found", f"No such model; choose one of: {known}.", param="model")
    return AGENTS[name]


async def _checked_messages(messages: list[JsonObject], settings: GatewaySettings) -> list[JsonObject]:
    if len(messages) > settings.completion_messages_max:
        message = f"'messages' holds more than {settings.completion_messages_max} entries; send fewer."
        raise InvalidInputError("too_many_messages", message, param="messages")
    return [await _checked_message(message, f"messages[{index}]", settings) for index, message in enumerate(messages)]


async def _checked_message(message: JsonObject, param: str, settings: GatewaySettings) -> JsonObject:
    role, content = message.get("role"), message.get("content")
    if role not in _ROLES:
        expected = ", ".join(sorted(_ROLES))
        raise InvalidInputError("invalid_input", f"{param}.role: expected one of: {expected}.", param=f"{param}.role")
    if message.get("audio"):
        raise InvalidInputError("unsupported_content", f"{param}.audio: not supported.", param=f"{param}.audio")
    if isinstance(content, list):
        for index, part in enumerate(content):
            await _check_part(part, f"{param}.content[{index}]", settings)
    elif content is not None and not isinstance(content, str):
        where = f"{param}.content"
        raise InvalidInputError("invalid_input", f"{where}: expected a text or a list of parts.", param=where)
    # Not every endpoint knows developers, and both rank below the agent's instructions.
    return {**message, "role": "system"} if role == "developer" else message


async def _check_part(part: Any, param: str, settings: GatewaySettings) -> None:
    match part:
        case {"type": "text", "text": str()} | {"type": "refusal", "refusal": str()}:
            return
        case {"type": "image_url", "image_url": {"url": str(url)}} if ModelInput.IMAGE in settings.model_inputs:
            await check_inline(url, settings, kind=FileKind.IMAGE, param=f"{param}.image_url.url")
        case {"type": "file", "file": {"file_data": str(data)} as file} if (
            ModelInput.FILE in settings.model_inputs and "file_id" not in file
        ):
            await check_inline(data, settings, kind=FileKind.FILE, param=f"{param}.file.file_data")
        case _:
            taken = ["text"]
            taken += ["image_url"] if ModelInput.IMAGE in settings.model_inputs else []
            taken += ["file (with file_data)"] if ModelInput.FILE in settings.model_inputs else []
            message = f"{param}: this content is not supported; send: {', '.join(taken)}."
            raise InvalidInputError("unsupported_content", message, param=param)
