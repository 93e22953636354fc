"""`/v1/conversations`: the Conversations API as OpenAI's clients know it; ours are the list, branches and events."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.responses import Response

from gateway import conversation_items, queries, writer
from gateway.branches import Branch, ResponsesAfter, Whole
from gateway.conversation_items import ends_of
from gateway.deps import ConversationId, CurrentServices, CurrentUser, Postgres, Services
from gateway.feedback import Rating
from gateway.intake import LargeBodyRoute, UserRoute
from gateway.items import InputItem, parse_items, store_files
from gateway.limits import PAGE_LENGTH_DEFAULT, Metadata, Objects, PageLength, Title
from gateway.problems import V1_ERRORS
from gateway.queries import Archived, ConversationsAfter, Found, ItemsAfter, Order
from gateway.stored_items import Place, settle
from gateway.views import ConversationView
from gateway.writer import Change
from shared.errors import InvalidInputError
from shared.events import JsonObject
from shared.ids import Prefix, from_wire, to_wire

router = APIRouter(
    prefix="/v1/conversations", tags=["conversations (OpenAI)"], route_class=LargeBodyRoute, responses=V1_ERRORS
)
events_router = APIRouter(
    prefix="/v1/events", tags=["conversations (OpenAI)"], route_class=UserRoute, responses=V1_ERRORS
)

_STREAM: dict[int | str, dict[str, Any]] = {200: {"description": "The events.", "content": {"text/event-stream": {}}}}

ITEMS_MAX = 20  # of one request: the wire's own limit
SEARCH_CHARS_MAX = 200

After = Annotated[str | None, Query(description="The `last_id` of the page before.")]
OrderWanted = Annotated[Order, Query(description="`desc`: newest first.")]
Search = Annotated[
    str | None,
    StringConstraints(max_length=SEARCH_CHARS_MAX),
    Query(
        description="Words that the title or one message must have; the last one may be a beginning. "
        'As in web searches: `"words in a row"`, `-without`, `or`.'
    ),
]
Include = Annotated[list[str] | None, Query(alias="include[]", description="Accepted; items are always whole.")]
BranchWanted = Annotated[
    str,
    Query(
        description="`active`: the branch that the next message follows; `all`; or the id of a response, for the "
        "branch through it, down to its newest descendant. Items without a response are in every branch."
    ),
]


async def _conversations_after(
    after: After = None,
    limit: PageLength = PAGE_LENGTH_DEFAULT,
    order: Annotated[Order, Query(description="Of last activity. `desc`: the latest first.")] = Order.DESC,
    archived: Annotated[Archived, Query(description="What is in the archive: none of it, nothing else, all.")] = (
        Archived.FALSE
    ),
    search: Search = None,
) -> ConversationsAfter:
    cursor = None if after is None else from_wire(Prefix.CONVERSATION, after, param="after")
    return ConversationsAfter(cursor, limit, order, archived, search if search and search.strip() else None)


async def _items_after(
    after: After = None,
    limit: PageLength = PAGE_LENGTH_DEFAULT,
    order: OrderWanted = Order.DESC,
    branch: BranchWanted = Whole.ACTIVE.value,
    _include: Include = None,
) -> ItemsAfter:
    cursor = None if after is None else queries.item_id_of(after, "after")
    return ItemsAfter(cursor, limit, order, _branch(branch))


def _branch(text: str) -> Branch:
    return Whole(text) if text in {"active", "all"} else from_wire(Prefix.RESPONSE, text, param="branch")


async def _responses_after(
    after: After = None, limit: PageLength = PAGE_LENGTH_DEFAULT, order: OrderWanted = Order.DESC
) -> ResponsesAfter:
    cursor = None if after is None else from_wire(Prefix.RESPONSE, after, param="after")
    return ResponsesAfter(cursor, limit, order is Order.ASC)


async def _item_id(item_id: Annotated[str, Path(examples=["msg_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return queries.item_id_of(item_id, "item_id")


ConversationsWanted = Annotated[ConversationsAfter, Depends(_conversations_after)]
ItemsWanted = Annotated[ItemsAfter, Depends(_items_after)]
ResponsesWanted = Annotated[ResponsesAfter, Depends(_responses_after)]
ItemId = Annotated[UUID, Depends(_item_id)]


class NewConversation(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"metadata": {"topic": "shopping"}}]})

    metadata: Metadata | None = None
    items: Objects | None = Field(None, description=f"At most {ITEMS_MAX}.")


class NewItems(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={"examples": [{"items": [{"type": "message", "role": "user", "content": "Hello"}]}]}
    )

    items: Objects = Field(description=f"At most {ITEMS_MAX}.")


class ConversationChange(BaseModel):
    """What to change; what is left out stays as it is. Metadata are replaced as a whole; `null` empties them.

    `active_response_id` makes the branch through that response the active one, down to its newest descendant.
    """

    model_config = ConfigDict(json_schema_extra={"examples": [{"title": "Groceries", "metadata": {"topic": "x"}}]})

    metadata: Metadata | None = None
    title: Title | None = None
    archived: bool | None = None
    active_response_id: str | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        ours = (self.title, self.archived, self.active_response_id)
        if "metadata" not in self.model_fields_set and all(value is None for value in ours):
            raise ValueError("give metadata, a title, archived, or active_response_id")
        return self


class Reading(BaseModel):
    """How far: up to the end of `response_id`, the last one that the user saw; without it, all there is by now."""

    response_id: str | None = Field(None, examples=["resp_0199c3f2a4d87b3f8e5d2c1b0a998877"])


class Conversation(BaseModel):
    """What OpenAI's clients do not know, they ignore.

    `active_response_id` is the last response of the active branch, which the next message follows;
    `running_response_id` the one that is being made. `last_sequence_number` is that of the last event so far:
    `GET …/events?starting_after=` goes on from there. `is_unread`: an answer ended after `PUT …/read` was asked last.
    """

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]
    title: str
    archived: bool
    active_response_id: str | None
    running_response_id: str | None
    last_sequence_number: int
    updated_at: int
    is_unread: bool

    @classmethod
    def of(cls, view: ConversationView) -> Self:
        return cls(
            id=view.id,
            created_at=int(view.created_at.timestamp()),
            metadata=view.metadata,
            title=view.title,
            archived=view.archived,
            active_response_id=view.active_response_id,
            running_response_id=view.running_response_id,
            last_sequence_number=view.last_sequence_number,
            updated_at=int(view.updated_at.timestamp()),
            is_unread=view.is_unread,
        )


class SnippetPiece(BaseModel):
    text: str
    is_match: bool = Field(description="Whether it is a word that was searched for.")


class Match(BaseModel):
    """The message that a search found, the latest of its conversation.

    `response_id` (null where it was added without one) names its branch; `snippet` is cut up, so that words that were
    searched for can be shown as such.
    """

    item_id: str
    response_id: str | None
    snippet: list[SnippetPiece]

    @classmethod
    def of(cls, found: Found) -> Self:
        pieces = [SnippetPiece(text=text, is_match=is_match) for text, is_match in found.pieces]
        return cls(item_id=found.item_id, response_id=found.response_id, snippet=pieces)


class ListedConversation(Conversation):
    """Where a search found words in a message, `snippet` is some of what was said around them; plain text.

    `match` says which message that is. Both are null where only the title has the words, or nothing was searched for.
    """

    snippet: str | None = None
    match: Match | None = None

    @classmethod
    def listed(cls, view: ConversationView, found: Found | None) -> Self:
        said = {"snippet": found.snippet, "match": Match.of(found)} if found else {}
        return cls(**dict(Conversation.of(view)), **said)


class ConversationDeleted(BaseModel):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: bool = True


class ConversationList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ListedConversation]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ItemList(BaseModel):
    object: Literal["list"] = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class GivenFeedback(BaseModel):
    """What its user thinks of a response."""

    rating: Rating
    reason: str | None


class ResponseInTree(BaseModel):
    """A response and its place: the one that it follows, and those that follow the same one, itself among them."""

    id: str
    previous_response_id: str | None
    status: str
    created_at: int
    is_active: bool = Field(description="Whether it is on the active branch.")
    sibling_ids: list[str] = Field(description="Oldest first.")
    feedback: GivenFeedback | None


class ResponseList(BaseModel):
    object: Literal["list"] = "list"
    data: list[ResponseInTree]
    first_id: str | None
    last_id: str | None
    has_more: bool


@router.post("", summary="Create a conversation")
async def create_conversation(
    user: CurrentUser, services: CurrentServices, new: NewConversation | None = None
) -> Conversation:
    """A conversation, empty or with first items. (A response that names none makes one by itself.)"""
    new = new or NewConversation()
    items = await _given_items(new.items, user.id, services, Place()) if new.items else []
    view = await writer.create_conversation(services.database, user.id, metadata=new.metadata or {}, items=items)
    services.feeds.touched(user.id, from_wire(Prefix.CONVERSATION, view.id), "conversation.created")
    return Conversation.of(view)


@router.get("", summary="List and search conversations")
async def list_conversations(user: CurrentUser, database: Postgres, wanted: ConversationsWanted) -> ConversationList:
    """Your conversations, the one that was active last first. (Not part of OpenAI's API.)"""
    run = await queries.list_conversations(database, user.id, wanted)
    data = [ListedConversation.listed(view, run.found.get(view.id)) for view in run.conversations]
    return ConversationList(data=data, **ends_of([one.id for one in data]), has_more=run.has_more)


@router.get("/{conversation_id}", summary="Retrieve a conversation")
async def retrieve_conversation(user: CurrentUser, database: Postgres, conversation_id: ConversationId) -> Conversation:
    return Conversation.of(await queries.read_conversation(database, user.id, conversation_id))


@router.post("/{conversation_id}", summary="Change a conversation")
async def update_conversation(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId, change: ConversationChange
) -> Conversation:
    """Its metadata; and what is ours: its title, whether it is in the archive, its active branch.

    The branch does not change while a response is queued or running (409): it would be in another one.
    """
    wanted = Change(
        title=change.title,
        metadata=(change.metadata or {}) if "metadata" in change.model_fields_set else None,
        is_archived=change.archived,
        branch_of=None
        if change.active_response_id is None
        else from_wire(Prefix.RESPONSE, change.active_response_id, param="active_response_id"),
    )
    view = await writer.change_conversation(services.database, user.id, conversation_id, wanted)
    services.feeds.touched(user.id, conversation_id, "conversation.updated")
    return Conversation.of(view)


@router.delete("/{conversation_id}", summary="Delete a conversation")
async def delete_conversation(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId
) -> ConversationDeleted:
    """It disappears with all it holds, and what is running in it is stopped.

    `POST …/restore` brings it back.
    """
    await services.answers.delete_conversation(user.id, conversation_id)
    services.feeds.touched(user.id, conversation_id, "conversation.deleted")
    return ConversationDeleted(id=to_wire(Prefix.CONVERSATION, conversation_id))


@router.put("/{conversation_id}/read", summary="Mark a conversation as read")
async def mark_read(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId, reading: Reading | None = None
) -> Conversation:
    """Its user has seen the answers: it is not unread any more, in any tab or device. (Not part of OpenAI's API.)"""
    last = None if reading is None else reading.response_id
    response_id = None if last is None else from_wire(Prefix.RESPONSE, last, param="response_id")
    view, is_news = await writer.mark_read(services.database, user.id, conversation_id, response_id)
    if is_news:
        services.feeds.touched(user.id, conversation_id, "conversation.read")
    return Conversation.of(view)


@router.post("/{conversation_id}/restore", summary="Restore a deleted conversation")
async def restore_conversation(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId
) -> Conversation:
    """It comes back; what was stopped by the deletion stays so. (Not part of OpenAI's API.)"""
    view = await writer.restore_conversation(services.database, user.id, conversation_id)
    services.feeds.touched(user.id, conversation_id, "conversation.restored")
    return Conversation.of(view)


@router.post("/{conversation_id}/items", summary="Add items to a conversation")
async def create_items(
    user: CurrentUser,
    services: CurrentServices,
    conversation_id: ConversationId,
    new: NewItems,
    _include: Include = None,
) -> ItemList:
    """They come behind what is there, in every branch; the model reads them with the next message."""
    given = await _given_items(new.items, user.id, services, Place(conversation_id))
    items = await writer.add_items(services.database, user.id, conversation_id, given)
    services.feeds.touched(user.id, conversation_id, "conversation.items.changed")
    return _item_list(items, has_more=False)


@router.get("/{conversation_id}/items", summary="List the items of a conversation")
async def list_items(
    user: CurrentUser, database: Postgres, conversation_id: ConversationId, wanted: ItemsWanted
) -> ItemList:
    """Messages, tool calls and all else, in the order of the conversation's turns.

    Each has the id of its response in `response_id` (null where it was added without one) and its `created_at`.
    """
    run = await conversation_items.list_items(database, user.id, conversation_id, wanted)
    return _item_list(run.items, has_more=run.has_more)


@router.get("/{conversation_id}/items/{item_id}", summary="Retrieve an item of a conversation")
async def retrieve_item(
    user: CurrentUser, database: Postgres, conversation_id: ConversationId, item_id: ItemId, _include: Include = None
) -> JsonObject:
    return await conversation_items.read_item(database, user.id, conversation_id, item_id)


@router.delete("/{conversation_id}/items/{item_id}", summary="Delete an item of a conversation")
async def delete_item(
    user: CurrentUser, services: CurrentServices, conversation_id: ConversationId, item_id: ItemId
) -> Conversation:
    """Neither clients nor the model see it any more. While its response is queued or running: 409."""
    view = await writer.delete_item(services.database, user.id, conversation_id, item_id)
    services.feeds.touched(user.id, conversation_id, "conversation.items.changed")
    return Conversation.of(view)


@router.get("/{conversation_id}/responses", summary="List the responses of a conversation")
async def list_responses(
    user: CurrentUser, database: Postgres, conversation_id: ConversationId, wanted: ResponsesWanted
) -> ResponseList:
    """The tree that its turns are, of all branches: what follows what, and what was answered in its place.

    (Not part of OpenAI's API.) A parent that was deleted is still named.
    """
    run = await queries.page_responses(database, user.id, conversation_id, wanted)
    ends = ends_of([response["id"] for response in run.responses])
    return ResponseList(data=[ResponseInTree(**one) for one in run.responses], **ends, has_more=run.has_more)


@router.get(
    "/{conversation_id}/events",
    summary="Follow a conversation",
    response_class=Response,
    response_model=None,
    responses=_STREAM,
)
async def follow_conversation(
    user: CurrentUser,
    services: CurrentServices,
    conversation_id: ConversationId,
    starting_after: Annotated[
        int | None, Query(ge=0, le=2**31 - 1, description="A `sequence_number`; the stream goes on behind it.")
    ] = None,
) -> Response:
    """What happens in it, as server-sent events without an end; once it is deleted, `[DONE]`.

    `conversation.response.created`, `conversation.response.ended`, `conversation.items.changed`,
    `conversation.updated`, `conversation.deleted`, `conversation.restored`. They are numbered from 1 without a gap.
    (Not part of OpenAI's API.)
    """
    return await services.feeds.of_conversation(user, conversation_id, starting_after)


@events_router.get(
    "", summary="Follow all conversations", response_class=Response, response_model=None, responses=_STREAM
)
async def follow_user(user: CurrentUser, services: CurrentServices) -> Response:
    """Which of your conversations are touched from now on: `conversation.touched`, with the `kind` of what happened.

    Nothing of it is stored: load the list whenever you connect. (Not part of OpenAI's API.)
    """
    return services.feeds.of_user(user)


async def _given_items(given: list[JsonObject], user_id: str, services: Services, place: Place) -> list[InputItem]:
    """As they are to be stored. Raises what `parse_items`, `settle` and `store_files` do."""
    if len(given) > ITEMS_MAX:
        message = f"'items' holds {len(given)} items; at most {ITEMS_MAX} are allowed in one request."
        raise InvalidInputError("too_many_items", message, param="items")
    items = parse_items(given, services.settings, param="items")
    settled = await settle(services.database, user_id, items, place)
    return await store_files(services.database, user_id, settled.items, services.settings)


def _item_list(items: Sequence[JsonObject], *, has_more: bool) -> ItemList:
    return ItemList(data=list(items), **ends_of([item["id"] for item in items]), has_more=has_more)
