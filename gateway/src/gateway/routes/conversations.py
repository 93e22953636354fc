"""`/api/conversations`: list, read, rename, archive, delete, restore; the messages of one."""

from typing import Annotated, Self

from fastapi import APIRouter, Query
from pydantic import BaseModel, model_validator

from gateway import queries, writer
from gateway.deps import ConversationId, CurrentServices, CurrentUser, Postgres
from gateway.intake import UserRoute
from gateway.limits import Metadata, PageWanted, Title
from gateway.problems import API_ERRORS
from gateway.queries import Archived, Order
from gateway.views import ConversationView, MessageView
from gateway.writer import Change
from shared.ids import Prefix, to_wire

router = APIRouter(prefix="/conversations", tags=["conversations"], route_class=UserRoute, responses=API_ERRORS)


class ConversationPage(BaseModel):
    """A page of conversations, the one that was active last first. `items` and `conversations` are the same list."""

    items: list[ConversationView]
    conversations: list[ConversationView]
    total: int
    limit: int
    offset: int


class ConversationChange(BaseModel):
    """What to change; what is left out stays as it is."""

    title: Title | None = None
    metadata: Metadata | None = None
    archived: bool | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if self.title is None and self.metadata is None and self.archived is None:
            raise ValueError("give a title, metadata, or archived")
        return self


class ConversationDeleted(BaseModel):
    """The conversation is hidden; `POST …/restore` brings it back."""

    id: str
    deleted: bool = True


class MessagePage(BaseModel):
    """A page of messages. `items` and `messages` are the same list."""

    conversation_id: str
    items: list[MessageView]
    messages: list[MessageView]
    total: int
    limit: int
    offset: int


@router.get("", summary="List conversations")
async def list_conversations(
    user: CurrentUser,
    database: Postgres,
    page: PageWanted,
    archived: Annotated[Archived, Query(description="What is in the archive: none of it, nothing else, all.")] = (
        Archived.FALSE
    ),
) -> ConversationPage:
    """Your conversations, the one that was active last first; deleted ones are left out."""
    found = await queries.page_conversations(database, user.id, page, archived)
    return ConversationPage(
        items=found.conversations,
        conversations=found.conversations,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
    )


@router.get("/{conversation_id}", summary="Read a conversation")
async def read_conversation(user: CurrentUser, database: Postgres, conversation_id: ConversationId) -> ConversationView:
    """Title, metadata and times of a conversation; its messages have an address of their own."""
    return await queries.read_conversation(database, user.id, conversation_id)


@router.patch("/{conversation_id}", summary="Rename or archive a conversation, or change its metadata")
async def change_conversation(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId, change: ConversationChange
) -> ConversationView:
    """Metadata are replaced as a whole. What is in the archive is left out of lists, and can be used as before."""
    wanted = Change(title=change.title, metadata=change.metadata, is_archived=change.archived)
    view = await writer.change_conversation(services.database, user.id, conversation_id, wanted)
    services.feeds.touched(user.id, conversation_id, "conversation.updated")
    return view


@router.delete("/{conversation_id}", summary="Delete a conversation")
async def delete_conversation(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId
) -> ConversationDeleted:
    """It disappears with all it holds, until it is restored; what is running in it is stopped."""
    await services.answers.delete_conversation(user.id, conversation_id)
    services.feeds.touched(user.id, conversation_id, "conversation.deleted")
    return ConversationDeleted(id=to_wire(Prefix.CONVERSATION, conversation_id))


@router.post("/{conversation_id}/restore", summary="Restore a deleted conversation")
async def restore_conversation(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId
) -> ConversationView:
    """It comes back; what was stopped by the deletion stays so. Restoring one that is not deleted changes nothing."""
    view = await writer.restore_conversation(services.database, user.id, conversation_id)
    services.feeds.touched(user.id, conversation_id, "conversation.restored")
    return view


@router.get("/{conversation_id}/messages", summary="List the messages of a conversation")
async def list_messages(
    user: CurrentUser,
    database: Postgres,
    conversation_id: ConversationId,
    page: PageWanted,
    order: Annotated[Order, Query(description="`desc`: newest first; `asc`: in reading order.")] = Order.DESC,
) -> MessagePage:
    """Newest first, so that the first page is the end of the conversation; `order=asc` begins at its beginning.

    Of a conversation that was branched (by `previous_response_id` under `/v1`), those of the active branch.
    """
    found = await queries.page_messages(database, user.id, conversation_id, page, order)
    return MessagePage(
        conversation_id=to_wire(Prefix.CONVERSATION, conversation_id),
        items=found.messages,
        messages=found.messages,
        total=found.total,
        limit=page.limit,
        offset=page.offset,
    )
