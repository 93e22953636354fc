"""`/v1/responses/{id}/feedback`: thumbs up, thumbs down, and why."""

from typing import Annotated, Literal, Self

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from gateway import feedback
from gateway.deps import CurrentServices, CurrentUser, Postgres, ResponseId
from gateway.feedback import Rating
from gateway.intake import UserRoute
from gateway.problems import V1_ERRORS
from gateway.settings import GatewaySettings
from shared.db import Row
from shared.errors import InvalidInputError
from shared.ids import Prefix, to_wire

router = APIRouter(
    prefix="/v1/responses/{response_id}/feedback", tags=["responses"], route_class=UserRoute, responses=V1_ERRORS
)

_CHANGED = "conversation.feedback.changed"


class NewFeedback(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"rating": "negative", "reason": "The list is missing."}]}
    )

    rating: Rating
    reason: Annotated[str, StringConstraints(strip_whitespace=True), Field(description="In the user's words.")] = ""


class Feedback(BaseModel):
    """What the user thinks of a response."""

    object: Literal["response.feedback"] = "response.feedback"
    response_id: str
    rating: Rating
    reason: str | None
    created_at: int
    updated_at: int

    @classmethod
    def of(cls, row: Row) -> Self:
        return cls(
            response_id=to_wire(Prefix.RESPONSE, row["job_id"]),
            rating=row["rating"],
            reason=row["reason"],
            created_at=int(row["created_at"].timestamp()),
            updated_at=int(row["updated_at"].timestamp()),
        )


class FeedbackDeleted(BaseModel):
    response_id: str
    object: Literal["response.feedback.deleted"] = "response.feedback.deleted"
    deleted: bool = True


@router.put("", summary="Give feedback on a response")
async def give_feedback(
    user: CurrentUser, services: CurrentServices, response_id: ResponseId, new: NewFeedback
) -> Feedback:
    """In the place of any that you gave before. (Not part of OpenAI's API.)"""
    reason = _checked(new.reason, services.settings)
    row = await feedback.give_feedback(services.database, user.id, response_id, new.rating, reason)
    services.feeds.touched(user.id, row["conversation_id"], _CHANGED)
    return Feedback.of(row)


@router.get("", summary="Retrieve the feedback on a response")
async def retrieve_feedback(user: CurrentUser, database: Postgres, response_id: ResponseId) -> Feedback:
    """404 where you gave none. The responses of a conversation have theirs with them. (Not part of OpenAI's API.)"""
    return Feedback.of(await feedback.read_feedback(database, user.id, response_id))


@router.delete("", summary="Take feedback on a response back")
async def take_back_feedback(user: CurrentUser, services: CurrentServices, response_id: ResponseId) -> FeedbackDeleted:
    """For good; where you gave none, nothing changes. (Not part of OpenAI's API.)"""
    conversation_id = await feedback.take_back_feedback(services.database, user.id, response_id)
    services.feeds.touched(user.id, conversation_id, _CHANGED)
    return FeedbackDeleted(response_id=to_wire(Prefix.RESPONSE, response_id))


def _checked(reason: str, settings: GatewaySettings) -> str | None:
    if len(reason) > settings.feedback_chars_max:
        message = f"The reason has {len(reason)} characters; at most {settings.feedback_chars_max} are allowed."
        raise InvalidInputError("reason_too_long", message, param="reason")
    return reason or None
