"""`/v1/responses`: create, retrieve, follow and cancel, as OpenAI's Responses API defines them."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.answers import Answers
from gateway.deps import CurrentServices, CurrentUser, ResponseId
from gateway.intake import UserRoute
from gateway.limits import Metadata, checked_message
from gateway.problems import V1_ERRORS
from gateway.settings import GatewaySettings
from gateway.turns import Accepted, InputMessage, MultitaskStrategy, Role, Submission, Turn
from shared.agents import AGENTS
from shared.errors import InvalidInputError, NotFoundError
from shared.events import JsonObject
from shared.ids import Prefix, from_wire

router = APIRouter(prefix="/v1/responses", tags=["responses"], route_class=UserRoute, responses=V1_ERRORS)

IDEMPOTENCY_KEY_CHARS_MAX = 255

Text = Annotated[str, StringConstraints(max_length=512)]


class TextPart(BaseModel):
    """A content part. Parts other than text are refused by name."""

    model_config = ConfigDict(extra="ignore")

    type: str
    text: str | None = None


class InputItem(BaseModel):
    """An item of the input; `{role, content}` without a type is a message."""

    model_config = ConfigDict(extra="ignore")

    type: str = "message"
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[TextPart] | None = None


class ConversationReference(BaseModel):
    id: str


class CreateResponse(BaseModel):
    """The body of a create. Unknown fields are ignored; known ones that cannot be honoured are refused by name."""

    model_config = ConfigDict(
        extra="ignore",
        json_schema_extra={"examples": [{"model": "todo", "input": "add a task: buy milk", "stream": True}]},
    )

    model: str | None = None
    input: str | list[InputItem]
    instructions: str | None = Field(None, max_length=100_000)
    conversation: str | ConversationReference | None = None
    previous_response_id: str | None = None
    stream: bool | None = None
    background: bool | None = None
    store: bool | None = None
    tools: list[JsonObject] | None = None
    tool_choice: Literal["auto", "none", "required"] | JsonObject | None = None
    parallel_tool_calls: bool | None = None
    max_output_tokens: int | None = Field(None, ge=1, le=1_000_000)
    max_tool_calls: int | None = Field(None, ge=1, le=1_000)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    text: JsonObject | None = None
    reasoning: JsonObject | None = None
    truncation: Literal["auto", "disabled"] | None = None
    metadata: Metadata | None = None
    user: Text | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None
    service_tier: Text | None = None
    multitask_strategy: MultitaskStrategy | None = None


_ECHOED = (
    "instructions",
    "max_output_tokens",
    "max_tool_calls",
    "metadata",
    "parallel_tool_calls",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    "temperature",
    "tool_choice",
    "top_p",
    "truncation",
    "user",
)


@router.post("", summary="Create a response", response_model=None)
async def create_response(
    request: Request,
    body: CreateResponse,
    user: CurrentUser,
    services: CurrentServices,
    idempotency_key: Annotated[str | None, Header(max_length=IDEMPOTENCY_KEY_CHARS_MAX, min_length=1)] = None,
) -> Response:
    """Accept a message. The answer comes with this request, as a stream, or later (`background`).

    After a 2xx the message is stored and will be answered, whatever happens to this connection. `multitask_strategy`
    says what to do while the conversation is busy: `enqueue` (default), `reject` with 409, or `interrupt` what runs.
    """
    _refuse_unsupported(body)
    turn = Turn(
        user_id=user.id,
        messages=_messages(body.input, services.settings),
        model=_agent(body.model),
        options={name: value for name in _ECHOED if (value := getattr(body, name)) is not None},
        background=bool(body.background),
        multitask_strategy=body.multitask_strategy or MultitaskStrategy.ENQUEUE,
        submission=await _submission(request, idempotency_key),
        **(await _place(body, user.id, services.answers)),
    )
    answers = services.answers
    if body.background and not body.stream:
        return await _answer_at_once(await answers.accept(turn), answers)
    # Room for the stream or the wait is taken before anything is stored, and given back if nothing is.
    with ExitStack() as held:
        slot = held.enter_context(answers.stream_slot(user.id) if body.stream else answers.wait_slot(user.id))
        accepted = await answers.accept(turn)
        if body.stream:
            stream = answers.stream_new(user, accepted, slot)
            held.pop_all()
            return stream
        seconds = services.settings.foreground_wait_seconds
        response = await answers.wait(accepted, request.receive, seconds=seconds)
    return _AnswerResponse(response, answers.answered(accepted))


@router.get("/{response_id}", summary="Retrieve a response, or follow its events", response_model=None)
async def retrieve_response(
    job_id: ResponseId,
    user: CurrentUser,
    services: CurrentServices,
    stream: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    starting_after: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
) -> Response:
    """The Response object as it stands; with `stream=true` the events behind `starting_after`, then live ones."""
    response = await services.answers.response(user.id, job_id)
    if stream:
        return services.answers.stream(user, job_id, starting_after, services.answers.stream_slot(user.id))
    return json_response(response)


@router.post("/{response_id}/cancel", summary="Cancel a response", response_model=None)
async def cancel_response(job_id: ResponseId, user: CurrentUser, services: CurrentServices) -> Response:
    """Stop a queued or running response. What was said until then is kept; an ended response stays as it is."""
    return json_response(await services.answers.cancel(user.id, job_id))


async def _answer_at_once(accepted: Accepted, answers: Answers) -> Response:
    answers.start(accepted)
    known = accepted.response if not accepted.is_repeat else None
    response = known or await answers.response(accepted.user_id, accepted.job_id)
    return _AnswerResponse(response, answers.answered(accepted))


class _AnswerResponse(Response):
    """A Response object on its way to the client; `on_sent` is called when it left for one that was still there."""

    def __init__(self, response: JsonObject, on_sent: Callable[[], None]) -> None:
        super().__init__(msgspec.json.encode(response), media_type="application/json")
        self._on_sent = on_sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_gone = await Request(scope, receive).is_disconnected()
        await super().__call__(scope, receive, send)
        if not is_gone:
            self._on_sent()


async def keyed_submission(request: Request, key: str | None) -> Submission:
    """What makes a request one, where only a key does."""
    return Submission() if key is None else await _submission(request, key)


async def _submission(request: Request, key: str | None) -> Submission:
    retry_count = request.headers.get("x-stainless-retry-count", "")
    is_retry = retry_count.isdecimal() and int(retry_count[:9]) > 0
    return Submission(key, hashlib.sha256(await request.body()).digest(), is_retry)


async def _place(body: CreateResponse, user_id: str, answers: Answers) -> dict[str, UUID]:
    """Where the turn goes: to a conversation's end, behind a given response, or nowhere yet."""
    if body.conversation is not None and body.previous_response_id is not None:
        raise InvalidInputError(
            "invalid_request",
            "'conversation' and 'previous_response_id' are mutually exclusive; send one of them.",
            param="previous_response_id",
        )
    if body.conversation is not None:
        given = body.conversation if isinstance(body.conversation, str) else body.conversation.id
        return {"conversation_id": from_wire(Prefix.CONVERSATION, given, param="conversation")}
    if body.previous_response_id is not None:
        parent = _parent_id(body.previous_response_id)
        return {"parent_job_id": parent, "conversation_id": await answers.conversation_of(user_id, parent)}
    return {}


def _parent_id(given: str) -> UUID:
    try:
        return from_wire(Prefix.RESPONSE, given)
    except InvalidInputError as error:
        raise NotFoundError(
            "previous_response_not_found", "No such previous response.", param="previous_response_id"
        ) from error


def _agent(model: str | None) -> str:
    if model is None:
        raise InvalidInputError("missing_required_parameter", "Missing required parameter: 'model'.", param="model")
    if model not in AGENTS:
        raise InvalidInputError(
            "model_not_found", f"No such model; choose one of: {', '.join(sorted(AGENTS))}.", param="model"
        )
    return model


def _messages(given: str | list[InputItem], settings: GatewaySettings) -> Sequence[InputMessage]:
    if isinstance(given, str):
        given_messages = [InputMessage.of_text(Role.USER, given)]
    else:
        given_messages = [_message(item, f"input[{index}]") for index, item in enumerate(given)]
    if len(given_messages) > settings.input_items_max:
        raise InvalidInputError(
            "too_many_items", f"'input' holds more than {settings.input_items_max} items.", param="input"
        )
    checked_message("\n".join(message.content for message in given_messages), settings.input_chars_max, param="input")
    if not any(message.role is Role.USER for message in given_messages):
        raise InvalidInputError("no_user_message", "The input holds no message of the user.", param="input")
    return given_messages


def _message(item: InputItem, param: str) -> InputMessage:
    if item.type != "message" or item.role is None or item.content is None:
        raise InvalidInputError(
            "unsupported_input_item", "Expected a message: an item with 'role' and 'content'.", param=param
        )
    # Text of the client ranks below the operator's instructions, whatever it calls itself.
    role = Role.SYSTEM if item.role == "developer" else Role(item.role)
    return InputMessage.of_text(role, _text(item.content, param))


def _text(content: str | list[TextPart], param: str) -> str:
    if isinstance(content, str):
        return content
    for index, part in enumerate(content):
        if part.type not in {"input_text", "output_text", "text"} or part.text is None:
            raise InvalidInputError(
                "unsupported_content",
                f"Content of type '{part.type[:40]}' is not supported; send 'input_text'.",
                param=f"{param}.content[{index}]",
            )
    return "\n".join(part.text for part in content if part.text)


def _refuse_unsupported(body: CreateResponse) -> None:
    refused: dict[str, Any] = {
        "tools": body.tools or None,
        "tool_choice": body.tool_choice if isinstance(body.tool_choice, dict) else None,
        "text.format": _unsupported_format(body.text),
    }
    for param, value in refused.items():
        if value is not None:
            raise InvalidInputError("unsupported_parameter", f"This value of '{param}' is not supported.", param=param)
    if body.store is False:
        message = (
            "background can only be used when `store` is true."
            if body.background
            else "Every response is stored here: leave out `store`, or send true."
        )
        raise InvalidInputError("unsupported_parameter", message, param="store")


def _unsupported_format(text: JsonObject | None) -> object:
    wanted = (text or {}).get("format")
    return None if wanted is None or wanted == {"type": "text"} else wanted


def json_response(body: JsonObject, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
