"""`/v1/conversations`: the Conversations API as OpenAI's clients know it, and a list of ours."""

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict

from gateway import queries, writer
from gateway.deps import ConversationId, CurrentServices, CurrentUser, Postgres
from gateway.intake import UserRoute
from gateway.limits import PAGE_LENGTH_DEFAULT, Metadata, PageLength
from gateway.problems import V1_ERRORS
from gateway.queries import ItemsAfter, Order
from gateway.views import ConversationView
from shared.errors import InvalidInputError
from shared.events import JsonObject
from shared.ids import Prefix, from_wire, to_wire

router = APIRouter(
    prefix="/v1/conversations", tags=["conversations (OpenAI)"], route_class=UserRoute, responses=V1_ERRORS
)

After = Annotated[str | None, Query(description="The `last_id` of the page before.")]


def _after_conversation(after: After = None) -> UUID | None:
    return None if after is None else from_wire(Prefix.CONVERSATION, after, param="after")


def _items_after(
    after: After = None,
    limit: PageLength = PAGE_LENGTH_DEFAULT,
    order: Annotated[Order, Query(description="`desc`: newest first.")] = Order.DESC,
) -> ItemsAfter:
    return ItemsAfter(None if after is None else queries.item_id_of(after, "after"), limit, order)


def _item_id(item_id: Annotated[str, Path(examples=["msg_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return queries.item_id_of(item_id, "item_id")


AfterConversation = Annotated[UUID | None, Depends(_after_conversation)]
ItemsWanted = Annotated[ItemsAfter, Depends(_items_after)]
ItemId = Annotated[UUID, Depends(_item_id)]


class NewConversation(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"topic": "shopping"}}]})

    metadata: Metadata | None = None
    items: list[JsonObject] | None = None


class MetadataChange(BaseModel):
    """They are replaced as a whole; `null` empties them."""

    metadata: Metadata | None


class Conversation(BaseModel):
    """`title` and `updated_at` are ours; OpenAI's clients ignore them."""

    id: str
    object: str = "conversation"
    created_at: int
    metadata: dict[str, str]
    title: str
    updated_at: int


class ConversationDeleted(BaseModel):
    id: str
    object: str = "conversation.deleted"
    deleted: bool = True


class ConversationList(BaseModel):
    object: str = "list"
    data: list[Conversation]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ItemList(BaseModel):
    object: str = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", summary="Create a conversation")
async def create_conversation(
    user: CurrentUser, database: Postgres, new: NewConversation | None = None
) -> Conversation:
    """An empty conversation. (A response that names none makes one by itself.)"""
    new = new or NewConversation()
    if new.items:
        message = "A conversation begins empty: leave out 'items', and send them as the input of a response."
        raise InvalidInputError("unsupported_parameter", message, param="items")
    return _conversation(await writer.create_conversation(database, user.id, metadata=new.metadata or {}))


@router.get("", summary="List conversations")
async def list_conversations(
    user: CurrentUser, database: Postgres, after: AfterConversation, limit: PageLength = PAGE_LENGTH_DEFAULT
) -> ConversationList:
    """Your conversations, the one that was active last first. (Not part of OpenAI's API.)"""
    run = await queries.list_conversations(database, user.id, after=after, limit=limit)
    data = [_conversation(view) for view in run.conversations]
    return ConversationList(data=data, **_ends([one.id for one in data]), has_more=run.has_more)


@router.get("/{conversation_id}", summary="Retrieve a conversation")
async def retrieve_conversation(user: CurrentUser, database: Postgres, conversation_id: ConversationId) -> Conversation:
    return _conversation(await queries.read_conversation(database, user.id, conversation_id))


@router.post("/{conversation_id}", summary="Replace a conversation's metadata")
async def update_conversation(
    user: CurrentUser, database: Postgres, conversation_id: ConversationId, change: MetadataChange
) -> Conversation:
    return _conversation(
        await writer.change_conversation(database, user.id, conversation_id, metadata=change.metadata or {})
    )


@router.delete("/{conversation_id}", summary="Delete a conversation")
async def delete_conversation(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId
) -> ConversationDeleted:
    """It disappears with all it holds, and what is running in it is stopped.

    `POST /api/conversations/{id}/restore` brings it back.
    """
    await services.answers.delete_conversation(user.id, conversation_id)
    return ConversationDeleted(id=to_wire(Prefix.CONVERSATION, conversation_id))


@router.get("/{conversation_id}/items", summary="List the items of a conversation")
async def list_items(
    user: CurrentUser, database: Postgres, conversation_id: ConversationId, wanted: ItemsWanted
) -> ItemList:
    """Messages and tool calls, in the order of the conversation's turns."""
    run = await queries.list_items(database, user.id, conversation_id, wanted)
    return ItemList(data=run.items, **_ends([item["id"] for item in run.items]), has_more=run.has_more)


@router.get("/{conversation_id}/items/{item_id}", summary="Retrieve an item of a conversation")
async def retrieve_item(
    user: CurrentUser, database: Postgres, conversation_id: ConversationId, item_id: ItemId
) -> JsonObject:
    return await queries.read_item(database, user.id, conversation_id, item_id)


def _conversation(view: ConversationView) -> Conversation:
    return Conversation(
        id=view.id,
        created_at=int(view.created_at.timestamp()),
        metadata=view.metadata,
        title=view.title,
        updated_at=int(view.updated_at.timestamp()),
    )


def _ends(ids: Sequence[str]) -> dict[str, Any]:
    return {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}
