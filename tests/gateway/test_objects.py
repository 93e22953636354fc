"""Every id that a request can name, with every verb: own, another user's, nobody's, malformed, of another kind.

An id of another user is answered like one that does not exist: with the same bytes, after the same statements; and
nothing of the other user changes. The addresses come from the application, so that a new one without an entry fails.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import asyncpg
import httpx2
import pytest
from fastapi import FastAPI

import shared.db
from gateway.app import create_app
from gateway.settings import GatewaySettings, ModelInput
from shared.ids import Prefix, new_wire_id, to_wire, uuid7
from tests.gateway.conftest import Caller
from tests.support.stack import token_of
from tests.support.turns import Turns

Object: TypeAlias = dict[str, Any]

MALFORMED = [
    "x",
    "conv_",
    "conv_" + "g" * 32,
    "wh_%0d%0aset-cookie:a",
    "..%2fpasswd",
    "' or 1=1 --",
    "名前",
    "a" * 2_000,
]


# --- what there is


@dataclass(frozen=True)
class Operation:
    """What a path with ids takes. `own` is what the user gets for an own one; null: a feed, which has no end."""

    body: Object | None = None
    own: int | None = 200


# Each path with an id in it, in an order in which a user can ask for all of them: what deletes comes last.
OPERATIONS: Mapping[str, Operation] = {
    "GET /v1/responses/{response_id}": Operation(),
    "GET /v1/responses/{response_id}?stream=true": Operation(own=None),
    "GET /v1/responses/{response_id}/input_items": Operation(),
    "PUT /v1/responses/{response_id}/feedback": Operation({"rating": "positive"}),
    "GET /v1/responses/{response_id}/feedback": Operation(),
    "DELETE /v1/responses/{response_id}/feedback": Operation(),
    "POST /v1/responses/{response_id}/cancel": Operation(own=400),  # has ended, and was not in the background
    "GET /v1/conversations/{conversation_id}": Operation(),
    "POST /v1/conversations/{conversation_id}": Operation({"title": "Mine"}),
    "PUT /v1/conversations/{conversation_id}/read": Operation(),
    "POST /v1/conversations/{conversation_id}/shares": Operation(),
    "GET /v1/conversations/{conversation_id}/shares": Operation(),
    "DELETE /v1/conversations/{conversation_id}/shares/{share_id}": Operation(),
    "POST /v1/conversations/{conversation_id}/items": Operation({"items": [{"role": "user", "content": "Mine"}]}),
    "GET /v1/conversations/{conversation_id}/items": Operation(),
    "GET /v1/conversations/{conversation_id}/items/{item_id}": Operation(),
    "GET /v1/conversations/{conversation_id}/responses": Operation(),
    "GET /v1/conversations/{conversation_id}/events": Operation(own=None),
    "GET /v1/files/{file_id}": Operation(),
    "GET /v1/files/{file_id}/content": Operation(),
    "GET /v1/webhook_endpoints/{endpoint_id}": Operation(),
    "POST /v1/webhook_endpoints/{endpoint_id}": Operation({"name": "Mine"}),
    "POST /v1/webhook_endpoints/{endpoint_id}/rotate_secret": Operation(),
    "GET /v1/webhook_endpoints/{endpoint_id}/deliveries": Operation(),
    "GET /api/conversations/{conversation_id}": Operation(),
    "PATCH /api/conversations/{conversation_id}": Operation({"title": "Mine"}),
    "GET /api/conversations/{conversation_id}/messages": Operation(),
    "GET /api/{user_id}/tasks/{task_id}": Operation(),
    "PUT /api/{user_id}/tasks/{task_id}": Operation({"title": "Mine"}),
    "PATCH /api/{user_id}/tasks/{task_id}/complete": Operation(),
    "GET /api/{user_id}/purges/{purge_id}": Operation(),
    "DELETE /api/{user_id}/tasks/{task_id}": Operation(),
    "DELETE /v1/webhook_endpoints/{endpoint_id}": Operation(),
    "DELETE /v1/files/{file_id}": Operation(),
    "DELETE /v1/conversations/{conversation_id}/items/{item_id}": Operation(),
    "DELETE /v1/responses/{response_id}": Operation(),
    "DELETE /api/conversations/{conversation_id}": Operation(),
    "POST /api/conversations/{conversation_id}/restore": Operation(),
    "DELETE /v1/conversations/{conversation_id}": Operation(),
    "POST /v1/conversations/{conversation_id}/restore": Operation(),
}
# In paths: who asks (403 for another), the name of an agent, and a secret that is for everybody who knows it.
NO_IDS_OF_OBJECTS = {"user_id", "model", "token"}
OF_OPERATORS = "/api/admin/"

INPUT = "What about it?"
TEXT = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": INPUT}]}


@dataclass(frozen=True)
class Named:
    """An id outside of the path: `place` says where, `kind` of what. `unknown` is the status where there is none."""

    request: str
    place: str
    kind: str
    unknown: int = 404
    body: Object = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.request} {self.place} ({self.kind})"


def _input(item: Object) -> Object:
    return {"input": [item, TEXT]}


_REFERENCE = {"type": "item_reference", "id": "{}"}
_PICTURE = {"type": "message", "role": "user", "content": [{"type": "input_image", "file_id": "{}"}]}
_DOCUMENT = {"type": "message", "role": "user", "content": [{"type": "input_file", "file_id": "{}"}]}
_OUTPUT = {"type": "function_call_output", "call_id": "{}", "output": "sunny"}
_APPROVAL = {"type": "mcp_approval_response", "approval_request_id": "{}", "approve": True}
_TURN = "POST /v1/responses"
_COUNT = "POST /v1/responses/input_tokens"
_NEW = "POST /v1/conversations"
_ADD = "POST /v1/conversations/{conversation_id}/items"

IN_BODIES = [
    *(
        Named(request, place, kind, unknown, body)
        for request in (_TURN, _COUNT)
        for place, kind, unknown, body in (
            ("previous_response_id", "response_id", 404, {"input": INPUT, "previous_response_id": "{}"}),
            ("conversation", "conversation_id", 404, {"input": INPUT, "conversation": "{}"}),
            ("conversation.id", "conversation_id", 404, {"input": INPUT, "conversation": {"id": "{}"}}),
            ("input[0].id", "item_id", 404, _input(_REFERENCE)),
            ("input[0].id", "request_id", 404, _input(_REFERENCE)),
            ("input[0].call_id", "call_id", 400, _input(_OUTPUT)),
            ("input[0].approval_request_id", "request_id", 404, _input(_APPROVAL)),
        )
    ),
    Named(_TURN, "input[0].content[0].file_id", "file_id", 404, _input(_PICTURE)),
    Named(_TURN, "input[0].content[0].file_id", "file_id", 404, _input(_DOCUMENT)),
    Named(_NEW, "items[0].id", "item_id", 404, {"items": [_REFERENCE]}),
    Named(_NEW, "items[0].content[0].file_id", "file_id", 404, {"items": [_DOCUMENT]}),
    Named(_NEW, "items[0].call_id", "call_id", 400, {"items": [_OUTPUT]}),
    Named(_ADD, "items[0].id", "item_id", 404, {"items": [_REFERENCE]}),
    Named(_ADD, "items[0].content[0].file_id", "file_id", 404, {"items": [_DOCUMENT]}),
    Named(_ADD, "items[0].approval_request_id", "request_id", 404, {"items": [_APPROVAL]}),
    Named("PUT /v1/conversations/{conversation_id}/read", "response_id", "response_id", body={"response_id": "{}"}),
    Named(
        "POST /v1/conversations/{conversation_id}",
        "active_response_id",
        "response_id",
        404,
        {"active_response_id": "{}"},
    ),
    *(
        Named(request, place, "conversation_id", 404, {"message": INPUT, **body})
        for request in ("POST /api/chat", "POST /api/{user_id}/chat")
        for place, body in (
            ("conversation_id", {"conversation_id": "{}"}),
            ("conversation_context.conversation_id", {"conversation_context": {"conversation_id": "{}"}}),
        )
    ),
]
IN_QUERIES = [
    Named("GET /v1/conversations", "after", "conversation_id"),
    Named("GET /v1/conversations/{conversation_id}/items", "after", "item_id"),
    Named("GET /v1/conversations/{conversation_id}/items", "branch", "response_id"),
    Named("GET /v1/conversations/{conversation_id}/responses", "after", "response_id"),
    Named("GET /v1/responses/{response_id}/input_items", "after", "item_id"),
    Named("GET /v1/files", "after", "file_id", unknown=200),  # ids are in the order of time: any of them is a place
    Named("GET /v1/webhook_endpoints", "after", "endpoint_id"),
    Named("GET /v1/webhook_endpoints/{endpoint_id}/deliveries", "after", "event_id"),
]
NO_IDS_IN_BODIES = {"safety_identifier", "prompt_cache_key", "user"}
NO_IDS_IN_QUERIES = {"search", "include[]", "model"}


# --- who has what


@dataclass(frozen=True)
class Belongings:
    """What a user has, one of each kind; `ids` by the names that paths have for them."""

    caller: Caller
    ids: Mapping[str, str]


@dataclass(frozen=True)
class World:
    app: FastAPI
    turns: Turns
    owner: asyncpg.Connection
    tables: list[str]

    async def user(self, name: str) -> Belongings:
        user_id = f"{name}-{uuid7().hex}"
        caller = Caller(self.app, user_id, token_of(user_id))
        accepted = await self.turns.exchange(user_id, f"secret of {name}", f"answer to {name}")
        await self.owner.execute(
            "update jobs set ended_at = now() where id = $1", accepted.job_id
        )  # or its stream waits
        conversation = to_wire(Prefix.CONVERSATION, accepted.conversation_id)
        items = (await caller.get(f"/v1/conversations/{conversation}/items")).json()["data"]
        upload = {"file": ("secret.txt", f"of {name}".encode(), "text/plain")}
        stored = await caller.post("/v1/files", files=upload, data={"purpose": "user_data"})
        task = await caller.post(f"/api/{user_id}/tasks", json={"title": f"secret of {name}"})
        endpoint = await caller.post("/v1/webhook_endpoints", json={"url": "https://hooks.example.com/in"})
        share = await caller.post(f"/v1/conversations/{conversation}/shares")
        event_id, call_id, request_id, purge_id = uuid7(), f"call_{uuid7().hex}", uuid7(), uuid7()
        await self.owner.execute(
            "insert into webhook_deliveries (event_id, endpoint_id, user_id, job_id, type, body) "
            "values ($1, $2, $3, $4, 'response.completed', '{}')",
            event_id,
            endpoint.json()["id"].removeprefix("wh_"),
            user_id,
            accepted.job_id,
        )
        wire_request = to_wire(Prefix.APPROVAL_REQUEST, request_id)
        for ordinal, (item_id, item) in enumerate(
            (
                (uuid7(), {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}),
                (request_id, {"type": "mcp_approval_request", "server_label": "s", "name": "f", "arguments": "{}"}),
            ),
            start=10,
        ):
            prefix = Prefix.FUNCTION_CALL if item["type"] == "function_call" else Prefix.APPROVAL_REQUEST
            await self.owner.execute(
                "insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item) "
                "values ($1, $2, $3, $4, 1, $5, $6, $7)",
                item_id,
                accepted.conversation_id,
                accepted.job_id,
                user_id,
                ordinal,
                item["type"],
                json.dumps({"id": to_wire(prefix, item_id), **item}),
            )
        await self.owner.execute(
            "insert into purges (id, user_digest, requested_by, finished_at) "
            "values ($1, purge_digest($1, $2), 'user', now())",
            purge_id,
            user_id,
        )
        return Belongings(
            caller,
            {
                "user_id": user_id,
                "conversation_id": conversation,
                "response_id": accepted.response_id,
                "item_id": next(item["id"] for item in items if item["type"] == "message"),
                "file_id": stored.json()["id"],
                "task_id": task.json()["id"],
                "endpoint_id": endpoint.json()["id"],
                "share_id": share.json()["id"],
                "event_id": to_wire(Prefix.WEBHOOK_EVENT, event_id),
                "request_id": wire_request,
                "call_id": call_id,
                "purge_id": to_wire(Prefix.PURGE, purge_id),
            },
        )

    async def rows_of(self, user: Belongings) -> Mapping[str, str]:
        """Every row of the user's, by table."""
        rows = await self.owner.fetch(
            " union all ".join(
                f"select '{table}', jsonb_agg(to_jsonb(t) order by to_jsonb(t)::text)::text from {table} t "  # noqa: S608
                "where user_id = $1"
                for table in self.tables
            ),
            user.caller.user_id,
        )
        return dict(tuple(row) for row in rows)


_PREFIXES = {
    "conversation_id": Prefix.CONVERSATION,
    "response_id": Prefix.RESPONSE,
    "item_id": Prefix.MESSAGE,
    "file_id": Prefix.FILE,
    "task_id": Prefix.TASK,
    "endpoint_id": Prefix.WEBHOOK,
    "event_id": Prefix.WEBHOOK_EVENT,
    "request_id": Prefix.APPROVAL_REQUEST,
    "purge_id": Prefix.PURGE,
    "share_id": Prefix.SHARE,
}


def nobodys(kind: str) -> str:
    return f"call_{uuid7().hex}" if kind == "call_id" else new_wire_id(_PREFIXES[kind])


_statements: ContextVar[list[str] | None] = ContextVar("_statements", default=None)


@pytest.fixture(scope="module")
async def app(gateway_settings: GatewaySettings) -> AsyncIterator[FastAPI]:
    """A gateway that tells which statements a request made."""
    prepare = shared.db._init_connection  # noqa: SLF001 - the one place through which every connection comes

    def note(query: Any) -> None:
        statements = _statements.get()
        if statements is not None:
            statements.append(" ".join(query.query.split()))

    async def prepare_and_listen(connection: asyncpg.Connection) -> None:
        await prepare(connection)
        connection.add_query_logger(note)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared.db, "_init_connection", prepare_and_listen)
        inputs = frozenset({ModelInput.IMAGE, ModelInput.FILE})
        app = create_app(gateway_settings.model_copy(update={"model_inputs": inputs}))
        async with app.router.lifespan_context(app):
            yield app


@pytest.fixture(scope="module")
async def world(app: FastAPI, turns: Turns, database_urls: dict[str, str]) -> AsyncIterator[World]:
    owner = await asyncpg.connect(database_urls["owner"])
    tables = await owner.fetch(
        """
        select table_name from information_schema.columns where table_schema = 'public' and column_name = 'user_id'
        """
    )
    yield World(app, turns, owner, [row["table_name"] for row in tables])
    await owner.close()


@pytest.fixture(scope="module")
async def mallory(world: World) -> Belongings:
    """Who asks for what is another's."""
    return await world.user("mallory")


@pytest.fixture(scope="module")
async def victim(world: World) -> Belongings:
    return await world.user("victim")


# --- nothing is left out


def operations(app: FastAPI) -> Iterable[tuple[str, Object]]:
    for path, verbs in app.openapi()["paths"].items():
        for verb, operation in verbs.items():
            yield f"{verb.upper()} {path}", operation


def ids_in(path: str) -> set[str]:
    return set(re.findall(r"{(\w+)}", path)) - NO_IDS_OF_OBJECTS


def test_every_path_with_an_id_has_an_entry(app: FastAPI) -> None:
    there_are = {name for name, _ in operations(app) if ids_in(name) and OF_OPERATORS not in name}

    assert {name.partition("?")[0] for name in OPERATIONS} == there_are


def test_every_text_in_a_query_is_known_to_be_an_id_or_none(app: FastAPI) -> None:
    there_are = {
        f"{name} {parameter['name']}"
        for name, operation in operations(app)
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query" and _is_text(parameter["schema"]) and OF_OPERATORS not in name
    }

    entries = {f"{one.request} {one.place}" for one in IN_QUERIES}
    assert {name for name in there_are if name.split()[-1] not in NO_IDS_IN_QUERIES} == entries


def _is_text(schema: Object) -> bool:
    kinds = schema.get("anyOf", [schema])
    return any(kind.get("type") == "string" and "enum" not in kind for kind in kinds)


def test_every_id_in_a_body_has_an_entry(app: FastAPI) -> None:
    document = app.openapi()
    there_are = set()
    for name, operation in operations(app):
        schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        if OF_OPERATORS not in name:
            there_are |= {f"{name} {place}" for place in _ids_of(schema, document)}

    entries = {f"{one.request} {one.place}" for one in IN_BODIES if "[" not in one.place and one.place.endswith("_id")}
    assert there_are == entries


def _ids_of(schema: Object, document: Object) -> set[str]:
    """The fields of a body that are named like ids, with their places."""
    if "$ref" in schema:
        return _ids_of(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    found = set()
    for kind in schema.get("anyOf", ()):
        found |= _ids_of(kind, document)
    for name, inner in schema.get("properties", {}).items():
        found |= {f"{name}.{place}" for place in _ids_of(inner, document) if place.endswith("_id")}
        if name.endswith("_id") and name not in NO_IDS_IN_BODIES:
            found.add(name)
    return found


# --- the matrix


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    statements: list[str]


async def ask(user: Belongings, request: str, ids: Mapping[str, str], body: Object | None, **params: str) -> Answer:
    """What the user gets for `request` with these ids in its path; its text without them and the request's id."""
    verb, _, path = request.partition(" ")
    statements: list[str] = []
    token = _statements.set(statements)
    try:
        answer = await user.caller.request(verb, path.format(**ids), json=body, params=params or None)
    finally:
        _statements.reset(token)
    text = answer.text.replace(answer.headers.get("x-request-id", "-"), "…")
    for said in {*ids.values(), *params.values()}:
        text = text.replace(said, "…")
    return Answer(answer.status_code, text, [one for one in statements if _is_of_the_request(one)])


def _is_of_the_request(statement: str) -> bool:
    """Not so: what is counted for all requests of a second together, and what the driver asks of a new connection."""
    return not (statement in {"begin", "commit"} or re.search(r"open_jobs|'dispatch'|'jit'|pg_catalog", statement))


@pytest.mark.parametrize("request_", list(OPERATIONS))
async def test_another_users_id_in_a_path_is_one_that_nobody_has(
    world: World, mallory: Belongings, victim: Belongings, request_: str
) -> None:
    body, names = OPERATIONS[request_].body, ids_in(request_)
    before = await world.rows_of(victim)
    combinations = [
        {**mallory.ids, **{name: owner.ids[name] for name, owner in zip(sorted(names), owners, strict=True)}}
        for owners in _owners(mallory, victim, len(names))
    ]

    for theirs in combinations:
        unknown = {
            name: nobodys(name) if name in names and value != mallory.ids[name] else value
            for name, value in theirs.items()
        }
        foreign = await ask(mallory, request_, theirs, body)
        nothing = await ask(mallory, request_, unknown, body)

        assert (foreign.status, nothing.status) == (404, 404)
        assert foreign.text == nothing.text
        assert foreign.statements == nothing.statements != []
    assert await world.rows_of(victim) == before


def _owners(mallory: Belongings, victim: Belongings, count: int) -> list[tuple[Belongings, ...]]:
    """Who the ids of a path may be of, but all of them the asker's."""
    if count == 1:
        return [(victim,)]
    return [(victim, victim), (victim, mallory), (mallory, victim)]


@pytest.mark.parametrize("request_", list(OPERATIONS))
async def test_what_is_no_id_or_of_another_kind_is_refused(mallory: Belongings, request_: str) -> None:
    """In the place of each id of the path."""
    for name in ids_in(request_):
        wrong = [*MALFORMED, *(value for kind, value in mallory.ids.items() if kind not in _alike(name))]
        for value in wrong:
            answer = await ask(mallory, request_, {**mallory.ids, name: value}, OPERATIONS[request_].body)
            assert answer.status in {400, 404, 405}, (value, answer)
            assert "Traceback" not in answer.text


def _alike(name: str) -> set[str]:
    """Kinds of ids that have the same form: an approval request is an item."""
    items = {"item_id", "request_id"}
    return items if name in items else {name}


async def test_own_ids_are_found_with_every_verb(world: World) -> None:
    user = await world.user("owner")

    statuses = {
        request: (await ask(user, request, user.ids, operation.body)).status
        for request, operation in OPERATIONS.items()
        if operation.own is not None
    }

    assert statuses == {request: one.own for request, one in OPERATIONS.items() if one.own is not None}


@pytest.mark.parametrize("named", [*IN_BODIES, *IN_QUERIES], ids=lambda named: named.name)
async def test_another_users_id_elsewhere_is_one_that_nobody_has(
    world: World, mallory: Belongings, victim: Belongings, named: Named
) -> None:
    before, own = await world.rows_of(victim), await world.rows_of(mallory)

    foreign = await _ask_named(mallory, named, victim.ids[named.kind])
    nothing = await _ask_named(mallory, named, nobodys(named.kind))

    assert (foreign.status, nothing.status) == (named.unknown, named.unknown), foreign.text
    assert foreign.text == nothing.text or named.unknown == 200
    assert foreign.statements == nothing.statements
    assert await world.rows_of(victim) == before
    assert await world.rows_of(mallory) == own
    assert "victim" not in foreign.text


@pytest.mark.parametrize("named", [*IN_BODIES, *IN_QUERIES], ids=lambda named: named.name)
async def test_what_is_no_id_elsewhere_is_refused(world: World, mallory: Belongings, named: Named) -> None:
    own = await world.rows_of(mallory)
    others = (value for kind, value in mallory.ids.items() if kind not in {"user_id", *_alike(named.kind)})
    # Ids of calls are the client's own texts: any other one is unknown.
    values = (
        [nobodys("call_id"), "名前"] if named.kind == "call_id" else [*MALFORMED, *others, "a\r\nb: c", "x" * 10_000]
    )
    for value in values:
        answer = await _ask_named(mallory, named, value)
        assert answer.status in {400, 404}, (value, answer)
    assert await world.rows_of(mallory) == own


async def _ask_named(user: Belongings, named: Named, value: str) -> Answer:
    if named in IN_QUERIES:
        return await ask(user, named.request, user.ids, None, **{named.place: value})
    body = json.loads(json.dumps(named.body).replace('"{}"', json.dumps(value)))
    if named.request in {_TURN, _COUNT}:
        body |= {"model": "todo"}
    answer = await ask(user, named.request, user.ids, body)
    return Answer(answer.status, answer.text.replace(value, "…"), answer.statements)


async def test_a_named_file_that_is_another_users_is_not_in_the_list_behind_it(
    mallory: Belongings, victim: Belongings
) -> None:
    """The one cursor that need not exist."""
    answer = await mallory.caller.get("/v1/files", params={"after": victim.ids["file_id"], "order": "asc"})

    assert {one["id"] for one in answer.json()["data"]} <= {mallory.ids["file_id"]}


# --- what operators may


async def test_what_is_for_operators_is_for_nobody_else(app: FastAPI, mallory: Belongings, victim: Belongings) -> None:
    ids = {**victim.ids, "subject": victim.caller.user_id, "denial_id": new_wire_id(Prefix.DENIAL)}
    refused = {}
    for request, operation in operations(app):
        if OF_OPERATORS in request:
            body = {"subject": victim.caller.user_id} if "requestBody" in operation else None
            refused[request] = (await ask(mallory, request, ids, body)).status

    assert refused
    assert set(refused.values()) == {403}


async def test_another_users_name_in_a_path_is_refused(
    world: World, app: FastAPI, mallory: Belongings, victim: Belongings
) -> None:
    before = await world.rows_of(victim)
    named = [request for request, _ in operations(app) if "{user_id}" in request]

    answers = {request: await ask(mallory, request, victim.ids, {}) for request in named}

    assert {request: answer.status for request, answer in answers.items()} == dict.fromkeys(named, 403)
    assert await world.rows_of(victim) == before


# --- what a body cannot say


FORGED: Object = {
    "user_id": "victim",
    "owner": "victim",
    "status": "completed",
    "attempt": 7,
    "created_at": 1,
    "updated_at": 1,
    "deleted_at": 1,
    "ended_at": 1,
    "active_job_id": str(uuid7()),
    "head_job_id": str(uuid7()),
    "worker_id": "mine",
    "is_ephemeral": True,
    "event_count": 99,
    "last_turn": 99,
    "turn": 99,
}


@pytest.mark.parametrize(
    ("request_", "body", "table"),
    [
        ("POST /v1/responses", {"model": "todo", "input": INPUT, "background": True}, "jobs"),
        ("POST /v1/conversations", {"metadata": {}}, "conversations"),
        ("POST /v1/conversations/{conversation_id}", {"title": "Mine"}, "conversations"),
        ("PATCH /api/conversations/{conversation_id}", {"title": "Mine"}, "conversations"),
        ("POST /api/chat", {"message": INPUT}, "jobs"),
        ("POST /api/{user_id}/tasks", {"title": "Mine"}, "tasks"),
        ("PUT /api/{user_id}/tasks/{task_id}", {"title": "Mine"}, "tasks"),
        ("POST /v1/webhook_endpoints", {"url": "https://hooks.example.com/in"}, "webhook_endpoints"),
        ("POST /v1/webhook_endpoints/{endpoint_id}", {"name": "Mine"}, "webhook_endpoints"),
    ],
)
async def test_a_body_changes_no_more_than_it_may(world: World, request_: str, body: Object, table: str) -> None:
    """With the fields of the rows added to it, it does the same as without them, or is refused."""
    user = await world.user("forger")
    before = await _shapes(world, user, table)

    verb, _, path = request_.partition(" ")
    forged = {**FORGED, "id": new_wire_id(Prefix.TASK), **body}
    headers = {"prefer": "respond-async"}
    answer = await user.caller.request(verb, path.format(**user.ids), json=forged, headers=headers)
    after = await _shapes(world, user, table)

    assert answer.status_code in {200, 201, 202, 400}, answer.text
    honest = await world.user("honest")
    await honest.caller.request(verb, path.format(**honest.ids), json=body, headers=headers)
    assert after in (before, await _shapes(world, honest, table))
    assert await world.owner.fetchval(f"select count(*) from {table} where user_id = 'victim'") == 0  # noqa: S608


async def _shapes(world: World, user: Belongings, table: str) -> list[Object]:
    """The user's rows without what differs between any two: ids, times, tokens and texts that carry names."""
    rows = await world.owner.fetch(f"select to_jsonb(t) as row from {table} t where user_id = $1", user.caller.user_id)  # noqa: S608
    told = {*FORGED, "completed", "disabled_reason", "next_seq", "background", "store", "is_forked"}
    told -= {"user_id", "created_at", "updated_at", "ended_at", "active_job_id", "head_job_id"}
    shapes = [{name: value for name, value in json.loads(row["row"]).items() if name in told} for row in rows]
    return sorted(shapes, key=str)


# --- idempotency keys


async def test_another_users_idempotency_key_is_another_key(mallory: Belongings, victim: Belongings) -> None:
    headers, body = {"idempotency-key": f"key-{uuid7().hex}"}, {"model": "todo", "input": INPUT, "background": True}

    first = await victim.caller.post("/v1/responses", json=body, headers=headers)
    other = await mallory.caller.post("/v1/responses", json={**body, "input": "Else"}, headers=headers)
    again = await victim.caller.post("/v1/responses", json=body, headers=headers)

    assert (first.status_code, other.status_code, again.status_code) == (200, 200, 200)
    assert first.json()["id"] == again.json()["id"] != other.json()["id"]


@pytest.mark.parametrize("key", ["k" * 10_000, "", "nul\0", "line\r\nset-cookie: a=b", "k" * 256])
@pytest.mark.parametrize("request_", ["POST /v1/responses", "POST /api/chat"])
async def test_a_key_that_is_none_is_refused(world: World, mallory: Belongings, key: str, request_: str) -> None:
    accepted = await _job_count(world, mallory)
    verb, _, path = request_.partition(" ")
    body = {"model": "todo", "input": INPUT, "message": INPUT}

    answer = await mallory.caller.request(verb, path, json=body, headers={"idempotency-key": key})

    assert answer.status_code == 400, answer.text
    assert await _job_count(world, mallory) == accepted


async def _job_count(world: World, user: Belongings) -> int:
    count: int = await world.owner.fetchval("select count(*) from jobs where user_id = $1", user.caller.user_id)
    return count


# --- pages


PAGES = ["/v1/conversations", "/v1/files", "/v1/webhook_endpoints", "/api/conversations", "/api/{user_id}/tasks",
         "/v1/conversations/{conversation_id}/items", "/v1/conversations/{conversation_id}/responses",
         "/v1/responses/{response_id}/input_items", "/v1/webhook_endpoints/{endpoint_id}/deliveries",
         "/api/conversations/{conversation_id}/messages"]  # fmt: skip
NO_NUMBERS = ["-1", "0", "1000000000", str(2**63), str(2**70), "abc", "1e3", "1.5", "NaN", "", "1" * 10_000, "1\r\n2"]


@pytest.mark.parametrize("path", PAGES)
async def test_a_page_has_a_length_that_it_may_have(mallory: Belongings, path: str) -> None:
    address = path.format(**mallory.ids)

    statuses = {one: (await mallory.caller.get(address, params={"limit": one})).status_code for one in NO_NUMBERS}

    assert statuses == dict.fromkeys(NO_NUMBERS, 400)


@pytest.mark.parametrize("path", [path for path in PAGES if path.startswith("/api")])
async def test_a_page_begins_where_there_may_be_something(mallory: Belongings, path: str) -> None:
    address = path.format(**mallory.ids)
    wrong = [one for one in NO_NUMBERS if one != "0"]

    statuses = {one: (await mallory.caller.get(address, params={"offset": one})).status_code for one in wrong}

    assert statuses == dict.fromkeys(wrong, 400)
    assert (await mallory.caller.get(address, params={"offset": "1000000"})).json()["items"] == []


@pytest.mark.parametrize(
    "path", ["/v1/responses/{response_id}?stream=true", "/v1/conversations/{conversation_id}/events"]
)
async def test_a_stream_begins_where_it_may(mallory: Belongings, victim: Belongings, path: str) -> None:
    wrong = [one for one in NO_NUMBERS if one not in {"0", "1000000000"}]
    for value in [*wrong, victim.ids["response_id"], f"{mallory.ids['response_id']}:0", "0,1", "0x1"]:
        url = httpx2.URL(f"http://gateway{path.format(**mallory.ids)}").copy_merge_params({"starting_after": value})
        answer = await mallory.caller.get(url)
        assert answer.status_code == 400, (value, answer.text)


async def test_a_stream_that_begins_behind_its_end_says_nothing_of_anybody(
    mallory: Belongings, victim: Belongings
) -> None:
    params = {"stream": "true", "starting_after": "1000000000"}

    own = await asyncio.wait_for(mallory.caller.get(f"/v1/responses/{mallory.ids['response_id']}", params=params), 20)
    foreign = await mallory.caller.get(f"/v1/responses/{victim.ids['response_id']}", params=params)

    assert (own.status_code, foreign.status_code) == (200, 404)
    assert "event:" not in own.text
