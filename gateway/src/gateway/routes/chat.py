"""`POST /api/chat`: one message in, one answer out, for clients that want no more than that."""

import re
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from gateway.deps import CurrentServices, CurrentUser, PathUser, Services
from gateway.intake import UserRoute
from gateway.items import Role, text_message
from gateway.limits import checked_message
from gateway.problems import API_ERRORS, AnswerFailedError
from gateway.queries import turn_messages
from gateway.routes.responses import IdempotencyKey, json_response, keyed_submission
from gateway.turns import Accepted, Turn
from shared.agents import DEFAULT_AGENT
from shared.events import JsonObject
from shared.ids import Prefix, from_wire, to_wire
from shared.states import JobStatus

router = APIRouter(tags=["chat"], route_class=UserRoute, responses=API_ERRORS)

_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,6})\"?\s*(?:,|;|$)", re.IGNORECASE)
_RESPOND_ASYNC = re.compile(r"(?:^|,)\s*respond-async\s*(?:,|;|$)", re.IGNORECASE)


class ConversationContext(BaseModel):
    conversation_id: str | None = None


class ChatMessage(BaseModel):
    """A message of the user. Without a conversation id it begins a new conversation."""

    model_config = ConfigDict(extra="ignore", json_schema_extra={"examples": [{"message": "add a task: buy milk"}]})

    message: str
    conversation_id: str | None = None
    conversation_context: ConversationContext | None = None

    @property
    def conversation(self) -> UUID | None:
        context = self.conversation_context.conversation_id if self.conversation_context else None
        given = self.conversation_id or context
        return from_wire(Prefix.CONVERSATION, given, param="conversation_id") if given else None


@router.post("/chat", summary="Send a message", response_model=None)
async def chat(  # noqa: PLR0913, PLR0917 - one argument for each part of the request
    request: Request,
    body: ChatMessage,
    user: CurrentUser,
    services: CurrentServices,
    prefer: Annotated[str, Header(max_length=200)] = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Send a message as the user of the token.

    200 with the answer; 202 where it takes longer than the wait (`Prefer: wait=N` seconds), or with
    `Prefer: respond-async`: `Location` is where to poll, `stream_url` where to follow.
    """
    settings = services.settings
    message = checked_message(body.message, settings.message_chars_max)
    turn = Turn(
        user_id=user.id,
        items=[text_message(Role.USER, message)],
        model=DEFAULT_AGENT,
        options={"truncation": "auto"},
        conversation_id=body.conversation,
        background=True,
        submission=await keyed_submission(request, idempotency_key),
    )
    seconds = _wait_seconds(prefer, settings.answer_wait_seconds, settings.foreground_wait_seconds)
    if not seconds:
        accepted = await services.answers.accept(turn)
        services.answers.start(accepted)
        return _accepted(accepted)
    with services.answers.wait_slot(user.id):
        accepted = await services.answers.accept(turn)
        response = await services.answers.wait(accepted, request.receive, seconds=seconds)
    if not JobStatus(response["status"]).is_terminal:
        return _accepted(accepted)
    return await _answered(accepted, response, services)


@router.post("/{user_id}/chat", summary="Send a message as a named user", response_model=None)
async def chat_as(  # noqa: PLR0913, PLR0917 - one argument for each part of the request
    request: Request,
    body: ChatMessage,
    user: PathUser,
    services: CurrentServices,
    prefer: Annotated[str, Header(max_length=200)] = "",
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """As `POST /api/chat`; `user_id` must be the user of the token."""
    return await chat(request, body, user, services, prefer, idempotency_key)


def _wait_seconds(prefer: str, usual: float, longest: float) -> float:
    """How long to hold the answer back for, by RFC 7240."""
    if _RESPOND_ASYNC.search(prefer):
        return 0
    wanted = _WAIT.search(prefer)
    return min(float(wanted.group(1)), longest) if wanted else usual


def _accepted(accepted: Accepted) -> Response:
    where = f"/v1/responses/{accepted.response_id}"
    body = {
        "status": "accepted",
        "conversation_id": to_wire(Prefix.CONVERSATION, accepted.conversation_id),
        "job_id": accepted.response_id,
        "poll_url": where,
        "stream_url": f"{where}?stream=true",
    }
    return json_response(body, 202, {"Location": where})


async def _answered(accepted: Accepted, response: JsonObject, services: Services) -> Response:
    if response["status"] == JobStatus.FAILED:
        raise _failure(accepted, response)
    messages = await turn_messages(services.database, accepted.user_id, accepted.job_id)
    calls = [call for message in messages for call in message["tool_calls"]]
    body = {
        "status": "success",
        "conversation_id": to_wire(Prefix.CONVERSATION, accepted.conversation_id),
        "response": "\n\n".join(message["content"] for message in messages if message["role"] == "assistant"),
        "tool_calls": calls,
        "messages": messages,
        "job_id": accepted.response_id,
    }
    return json_response(body)


def _failure(accepted: Accepted, response: JsonObject) -> AnswerFailedError:
    error = response["error"]
    kept = {
        "conversation_id": to_wire(Prefix.CONVERSATION, accepted.conversation_id),
        "job_id": accepted.response_id,
    }
    return AnswerFailedError(error.get("type") or error["code"], error["message"], details=kept)
