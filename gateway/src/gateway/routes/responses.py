"""`/v1/responses`: create, retrieve, follow, cancel and delete, as OpenAI's Responses API defines them."""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Annotated, Any
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.answers import Answers, previous_response_not_found
from gateway.conversation_items import ends_of
from gateway.deps import CurrentServices, CurrentUser, ResponseId, Services, services_of, user_of
from gateway.intake import Handler, LargeBodyRoute
from gateway.items import InputItem, parse_items, store_files
from gateway.limits import PAGE_LENGTH_DEFAULT, PageLength
from gateway.problems import V1_ERRORS
from gateway.queries import ItemsAfter, Order, item_id_of
from gateway.response_request import CountTokens, CreateResponse, Includable, ResponseRequest, agent_of, options_of
from gateway.stored_items import Place, history_bytes, list_input, settle
from gateway.token_count import estimated_tokens
from gateway.turns import Accepted, MultitaskStrategy, Submission, Turn
from shared.errors import InvalidInputError, NotFoundError, RejectedError
from shared.events import JsonObject
from shared.ids import Prefix, from_wire, to_wire

router = APIRouter(prefix="/v1/responses", tags=["responses"], route_class=LargeBodyRoute, responses=V1_ERRORS)

IDEMPOTENCY_KEY_CHARS_MAX = 255

IdempotencyKey = Annotated[
    str | None, Header(max_length=IDEMPOTENCY_KEY_CHARS_MAX, min_length=1, pattern=r"^[\x20-\x7e]*$")
]
_check_key = TypeAdapter(IdempotencyKey).validate_python
Include = Annotated[
    list[Includable] | None, Query(alias="include[]", description="Accepted; nothing more is there to include.")
]


class ResponseDeleted(BaseModel):
    id: str
    object: str = "response"
    deleted: bool = True


class InputTokens(BaseModel):
    object: str = "response.input_tokens"
    input_tokens: int


class InputItemList(BaseModel):
    object: str = "list"
    data: list[JsonObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


_JSON_OR_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The Response object; with `stream` its events, as server-sent events.",
        "content": {"application/json": {}, "text/event-stream": {}},
    }
}


async def create_response(
    request: Request,
    body: CreateResponse,
    user: CurrentUser,
    services: CurrentServices,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Accept a turn. The answer comes with this request, as a stream, or later (`background`).

    After a 2xx the turn is stored and will be answered, whatever happens to this connection. `multitask_strategy`
    says what to do while the conversation is busy: `enqueue` (default), `reject` with 409, or `interrupt` what runs.
    With `store: false` nobody finds the response once it has ended.
    """
    submission = await _submission(request, idempotency_key)
    asked = await _turn_or_repeated(body, user.id, submission, services)
    answers = services.answers
    if body.background and not body.stream:
        return await _answer_at_once(await _accepted(asked, answers), answers)
    # Room for the stream or the wait is taken before anything is stored, and given back if nothing is.
    with ExitStack() as held:
        slot = held.enter_context(answers.stream_slot(user.id) if body.stream else answers.wait_slot(user.id))
        accepted = await _accepted(asked, answers)
        if body.stream:
            stream = answers.stream_new(user, accepted, slot)
            held.pop_all()
            return stream
        seconds = services.settings.foreground_wait_seconds
        response = await answers.wait(accepted, request.receive, seconds=seconds)
    return _AnswerResponse(response, answers.answered(accepted))


class _CreateRoute(LargeBodyRoute):
    """The way to `create_response`, which is the one that is taken most.

    FastAPI gives its parameters as well, and describes them in the OpenAPI document; but to solve them anew for each
    request takes about as long as all that is done with them. So it is asked only where something does not fit, to
    say what.
    """

    def handler(self) -> Handler:
        handle = super().handler()

        async def create(request: Request) -> Response:
            try:
                body = CreateResponse.model_validate(await request.json())
                key = request.headers.get("idempotency-key")
                if key is not None:
                    _check_key(key)
            except ValidationError:
                return await handle(request)
            return await create_response(request, body, user_of(request), services_of(request), key)

        return create


router.add_api_route(
    "",
    create_response,
    methods=["POST"],
    summary="Create a response",
    response_model=None,
    responses=_JSON_OR_EVENTS,
    route_class_override=_CreateRoute,
)


@router.post("/input_tokens", summary="Estimate the tokens of an input")
async def count_input_tokens(body: CountTokens, user: CurrentUser, services: CurrentServices) -> InputTokens:
    """About how many tokens the model would read, with instructions, functions and what the turn would follow."""
    settings = services.settings
    agent = agent_of(body, settings)
    options = options_of(body, agent, services.tool_servers.current(), settings)
    place = await _place(body, user.id, services.answers)
    items: Sequence[InputItem] = ()
    if body.input:
        parsed = parse_items(body.input, settings, param="input")
        items = (await settle(services.database, user.id, parsed, place)).items
    said_before = await history_bytes(services.database, user.id, place)
    return InputTokens(input_tokens=estimated_tokens(agent, options, items, said_before))


@router.post("/compact", include_in_schema=False)
async def compact(_user: CurrentUser) -> None:
    """Part of the vendor's API, and of ours not: or the path would be taken for that of a response."""
    raise NotFoundError("not_found", "Compaction is not offered: long conversations are summarised by themselves.")


@router.get(
    "/{response_id}",
    summary="Retrieve a response, or follow its events",
    response_model=None,
    responses=_JSON_OR_EVENTS,
)
async def retrieve_response(
    job_id: ResponseId,
    user: CurrentUser,
    services: CurrentServices,
    stream: bool = False,  # noqa: FBT001, FBT002 - a query parameter
    starting_after: Annotated[int | None, Query(ge=0, le=2**31 - 1)] = None,
    _include: Include = None,
    _include_obfuscation: Annotated[
        bool | None, Query(alias="include_obfuscation", description="Accepted, without effect.")
    ] = None,
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


@router.delete("/{response_id}", summary="Delete a response")
async def delete_response(job_id: ResponseId, user: CurrentUser, services: CurrentServices) -> ResponseDeleted:
    """Nobody finds it any more; if it is queued or running, it is stopped. What was said stays in the conversation."""
    await services.answers.delete(user.id, job_id)
    return ResponseDeleted(id=to_wire(Prefix.RESPONSE, job_id))


async def _items_after(
    after: Annotated[str | None, Query(description="The id of the last item of the page before.")] = None,
    limit: PageLength = PAGE_LENGTH_DEFAULT,
    order: Annotated[Order, Query(description="`desc`: last first.")] = Order.DESC,
) -> ItemsAfter:
    return ItemsAfter(None if after is None else item_id_of(after, "after"), limit, order)


@router.get("/{response_id}/input_items", summary="List the input of a response")
async def list_input_items(
    job_id: ResponseId,
    user: CurrentUser,
    services: CurrentServices,
    wanted: Annotated[ItemsAfter, Depends(_items_after)],
    _include: Include = None,
) -> InputItemList:
    """What the client sent with it, with the ids that the items have here."""
    await services.answers.response(user.id, job_id)
    run = await list_input(services.database, user.id, job_id, wanted)
    return InputItemList(data=run.items, **ends_of([item["id"] for item in run.items]), has_more=run.has_more)


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


async def _turn_or_repeated(
    body: CreateResponse, user_id: str, submission: Submission, services: Services
) -> Turn | Accepted:
    """The turn that the body asks for; or the one that it asked for before, where what it names is gone meanwhile."""
    try:
        return await _turn(body, user_id, submission, services)
    except RejectedError:
        repeated = await services.answers.repeated(user_id, submission)
        if repeated is None:
            raise
        return repeated


async def _accepted(asked: Turn | Accepted, answers: Answers) -> Accepted:
    return asked if isinstance(asked, Accepted) else await answers.accept(asked)


async def _turn(body: CreateResponse, user_id: str, submission: Submission, services: Services) -> Turn:
    """The turn that the body asks for. Raises RejectedError; stores nothing but files that came with it."""
    settings = services.settings
    agent = agent_of(body, settings)
    options = options_of(body, agent, services.tool_servers.current(), settings)
    parsed = parse_items(body.input, settings, param="input")
    place = await _place(body, user_id, services.answers)
    settled = await settle(services.database, user_id, parsed, place)
    _check_asks_something(settled.items)
    return Turn(
        user_id=user_id,
        items=await store_files(services.database, user_id, settled.items, settings),
        answered_requests=settled.answered_requests,
        model=agent.name,
        options=options,
        conversation_id=place.conversation_id,
        parent_job_id=place.parent_job_id,
        is_at_start=place.is_at_start,
        background=bool(body.background),
        store=body.store is not False,
        multitask_strategy=body.multitask_strategy or MultitaskStrategy.ENQUEUE,
        submission=submission,
    )


def _check_asks_something(items: Sequence[InputItem]) -> None:
    """An input without a user's message may be a client's answer, or words for the assistant to go on from."""
    if all(item.is_blank for item in items):
        raise InvalidInputError("message_empty", "The input must not be empty.", param="input")


async def _place(body: ResponseRequest, user_id: str, answers: Answers) -> Place:
    """Where the turn goes. A response that is not stored leaves the conversation of the one before as it is."""
    if body.conversation is not None and body.previous_response_id is not None:
        raise InvalidInputError(
            "invalid_request",
            "'conversation' and 'previous_response_id' are mutually exclusive; send one of them.",
            param="previous_response_id",
        )
    if body.conversation is not None and body.store is False:
        message = "What is said in a conversation is kept there: leave out 'conversation', or 'store: false'."
        raise InvalidInputError("unsupported_parameter", message, param="store")
    if body.conversation is not None:
        given = body.conversation if isinstance(body.conversation, str) else body.conversation.id
        conversation_id = from_wire(Prefix.CONVERSATION, given, param="conversation")
        return Place(conversation_id, is_at_start=bool(body.branch_at_start))
    if body.previous_response_id is not None:
        parent = _parent_id(body.previous_response_id)
        conversation_id = await answers.conversation_of(user_id, parent)
        return Place(None if body.store is False else conversation_id, parent)
    return Place()


def _parent_id(given: str) -> UUID:
    try:
        return from_wire(Prefix.RESPONSE, given)
    except InvalidInputError as error:
        raise previous_response_not_found() from error


def json_response(body: JsonObject, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(body), status, headers, media_type="application/json")
