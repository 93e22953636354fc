"""Share links: `/v1/conversations/{id}/shares` for who shows something, `/v1/shares/{token}` for who is shown it."""

from typing import Annotated, Any, Literal, Self, TypeAlias
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from gateway import shares
from gateway.conversation_items import ends_of
from gateway.deps import ConversationId, CurrentServices, CurrentUser, Postgres
from gateway.intake import UserRoute
from gateway.limits import PAGE_LENGTH_MAX, PageLength
from gateway.problems import V1_ERRORS, answer_headers_of
from gateway.rates import address_of
from gateway.routes.v1_conversations import Conversation
from gateway.settings import GatewaySettings
from shared.db import Row
from shared.errors import InvalidInputError
from shared.ids import Prefix, from_wire, to_wire

router = APIRouter(prefix="/v1", tags=["shares"], route_class=UserRoute, responses=V1_ERRORS)
public_router = APIRouter(prefix="/v1", tags=["shares"], responses=V1_ERRORS)

_SECONDS_MIN = 60
_SECONDS_MAX = 10 * 366 * 86_400
_POSITION_MAX = 2**31 - 1


async def _share_id(share_id: Annotated[str, Path(examples=["share_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.SHARE, share_id, param="share_id")


ShareId = Annotated[UUID, Depends(_share_id)]
Token: TypeAlias = Annotated[str, Path(description="Of the link; who knows it may read.")]


class NewShare(BaseModel):
    """For how long; without it, until it is deleted, or as long as the operator allows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"expires_in_seconds": 604800}]})

    expires_in_seconds: Annotated[int, Field(ge=_SECONDS_MIN, le=_SECONDS_MAX)] | None = None


class Share(BaseModel):
    """A link to a conversation. `head`: the last response that it shows; null where there was none."""

    id: str
    object: Literal["conversation.share"] = "conversation.share"
    conversation_id: str
    head: str | None
    created_at: int
    expires_at: int | None

    @classmethod
    def of(cls, row: Row, **more: Any) -> Self:
        return cls(
            id=to_wire(Prefix.SHARE, row["id"]),
            conversation_id=to_wire(Prefix.CONVERSATION, row["conversation_id"]),
            head=to_wire(Prefix.RESPONSE, row["head_job_id"]) if row["head_job_id"] else None,
            created_at=int(row["created_at"].timestamp()),
            expires_at=_seconds(row["expires_at"]),
            **more,
        )


class ShareWithToken(Share):
    """`token`, and `url` with it, are told this once: nobody can look them up later."""

    token: str
    url: Annotated[str, Field(description="Where people read it; the token is behind `#`, which browsers do not send.")]


class ShareList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Share]
    first_id: str | None
    last_id: str | None
    has_more: Literal[False] = False


class ShareDeleted(BaseModel):
    id: str
    object: Literal["conversation.share.deleted"] = "conversation.share.deleted"
    deleted: bool = True


class SharedPart(BaseModel):
    type: Literal["input_text", "output_text", "refusal"]
    text: str | None = None
    refusal: str | None = None


class SharedMessage(BaseModel):
    """What the user or the assistant said. Images and files are not shown, but counted."""

    position: int
    type: Literal["message"]
    role: Literal["user", "assistant"]
    content: list[SharedPart]
    omitted_file_count: int
    created_at: int


class SharedToolCall(BaseModel):
    """That a tool was called, and how it went; not with what, nor what came of it."""

    position: int
    type: Literal["tool_call"]
    name: str | None
    status: str | None
    created_at: int


class SharedConversation(BaseModel):
    """What a link shows. The next page is `after=` the last `position`, while `has_more`."""

    object: Literal["shared_conversation"] = "shared_conversation"
    title: str
    shared_at: int
    expires_at: int | None
    data: list[Annotated[SharedMessage | SharedToolCall, Field(discriminator="type")]]
    has_more: bool


@router.post("/conversations/{conversation_id}/shares", summary="Share a conversation")
async def create_share(
    request: Request,
    user: CurrentUser,
    services: CurrentServices,
    conversation_id: ConversationId,
    new: NewShare | None = None,
) -> ShareWithToken:
    """A link by which anybody may read the active branch as it is now; later turns are not shown.

    Note the `url`: it is never told again. 409 while a response is queued or running. (Not part of OpenAI's API.)
    """
    settings = services.settings
    row, token = await shares.create_share(
        services.database,
        user.id,
        conversation_id,
        seconds=_lifetime(new, settings),
        count_max=settings.shares_per_user_max,
    )
    base = (settings.public_url or str(request.base_url)).rstrip("/")
    return ShareWithToken.of(row, token=token, url=f"{base}/#/shared/{token}")


@router.get("/conversations/{conversation_id}/shares", summary="List the share links of a conversation")
async def list_shares(user: CurrentUser, database: Postgres, conversation_id: ConversationId) -> ShareList:
    """All that lead somewhere, newest first, without their tokens. (Not part of OpenAI's API.)"""
    data = [Share.of(row) for row in await shares.list_shares(database, user.id, conversation_id)]
    return ShareList(data=data, **ends_of([one.id for one in data]))


@router.delete("/conversations/{conversation_id}/shares/{share_id}", summary="Revoke a share link")
async def revoke_share(
    user: CurrentUser, database: Postgres, conversation_id: ConversationId, share_id: ShareId
) -> ShareDeleted:
    """From now on it leads nowhere. What was read or copied by it stays so. (Not part of OpenAI's API.)"""
    await shares.revoke_share(database, user.id, conversation_id, share_id)
    return ShareDeleted(id=to_wire(Prefix.SHARE, share_id))


@public_router.get("/shares/{token}", summary="Read a shared conversation", response_model_exclude_unset=True)
async def read_shared(
    request: Request,
    services: CurrentServices,
    token: Token,
    after: Annotated[int, Query(ge=0, le=_POSITION_MAX, description="The last `position` of the page before.")] = 0,
    limit: PageLength = PAGE_LENGTH_MAX,
) -> SharedConversation:
    """Without a token of one's own. 404, always the same, where the link leads nowhere. (Not part of OpenAI's API.)

    Texts of the user and the assistant, and names of tools that were called; nothing else of what is stored.
    """
    answer_headers_of(request.scope)["x-robots-tag"] = "noindex, nofollow"
    services.share_reads.spend(address_of(request.scope))
    shared = await shares.read_shared(services.database, token, after=after, limit=limit)
    return SharedConversation.model_validate(
        {
            "object": "shared_conversation",
            "title": shared.row["title"],
            "shared_at": int(shared.row["created_at"].timestamp()),
            "expires_at": _seconds(shared.row["expires_at"]),
            "data": shared.items,
            "has_more": shared.has_more,
        }
    )


@router.post("/shares/{token}/copy", summary="Copy a shared conversation")
async def copy_shared(user: CurrentUser, services: CurrentServices, token: Token) -> Conversation:
    """A conversation of your own, to go on in: with the texts, not the tool calls. (Not part of OpenAI's API.)"""
    view = await shares.copy_shared(services.database, user.id, token, services.settings)
    services.feeds.touched(user.id, from_wire(Prefix.CONVERSATION, view.id), "conversation.created")
    return Conversation.of(view)


def _lifetime(new: NewShare | None, settings: GatewaySettings) -> float | None:
    asked = None if new is None else new.expires_in_seconds
    seconds_max = settings.share_seconds_max
    if asked is not None and seconds_max is not None and asked > seconds_max:
        message = f"expires_in_seconds: a link may last at most {seconds_max:g} seconds here."
        raise InvalidInputError("invalid_input", message, param="expires_in_seconds")
    return seconds_max if asked is None else asked


def _seconds(time: Any) -> int | None:
    return None if time is None else int(time.timestamp())
