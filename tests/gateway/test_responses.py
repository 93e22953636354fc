"""The Responses API: what is echoed, what is refused by name, what is stored and what is not, deletion, usage."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx2
import msgspec
import openai
import pytest
from fastapi import FastAPI
from openai import AsyncOpenAI

from gateway.app import create_app
from gateway.settings import GatewaySettings, ModelInput
from gateway.tools_asked import TASK_TOOLS
from shared.events import ResponseEvents, Usage
from shared.ids import Prefix, from_wire, new_wire_id, to_wire
from shared.states import JobStatus
from task_tools.tools import TaskTools
from tests.gateway.conftest import Caller, Serve
from tests.support.openai_client import strict_client
from tests.support.pictures import data_url, png
from tests.support.turns import Turns
from tests.support.waiting import wait_until

Object = dict[str, Any]

WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "How it is outside.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": True,
}
TASKS: Object = {"type": "mcp", "server_label": "tasks"}
SCHEMA: Object = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


async def create(caller: Caller, said: str | list[Object] = "hi", **fields: Any) -> Object:
    """A background response; fails unless it is accepted."""
    answer = await caller.post("/v1/responses", json=_body(said, **fields))
    assert answer.status_code == 200, answer.text
    response: Object = answer.json()
    return response


def _body(said: str | list[Object] = "hi", **fields: Any) -> Object:
    background = {} if fields.get("store") is False else {"background": True}
    return {"model": "todo", "input": said, **background, **fields}


async def job_of(turns: Turns, response: Object) -> Any:
    async with turns.persistence.transaction(None) as db:
        return await db.fetchrow("select * from jobs where id = $1", from_wire(Prefix.RESPONSE, response["id"]))


async def finish(turns: Turns, response: Object, text: str = "hello") -> None:
    """As worker and persistence would: its journal, its Response object, its end."""
    job_id = from_wire(Prefix.RESPONSE, response["id"])
    async with turns.persistence.transaction(None) as db:
        job = await db.fetchrow("select request, next_seq, user_id from jobs where id = $1", job_id)
        writer = ResponseEvents(job["request"], next_seq=job["next_seq"])
        events = [writer.in_progress(), *writer.text(text), *writer.close_message()]
        events += writer.end(JobStatus.COMPLETED, ended_at=datetime.now(UTC), usage=Usage(3, 2))
        await db.execute(
            "insert into journal (job_id, first_seq, last_seq, user_id, frames) values ($1, $2, $3, $4, $5)",
            job_id,
            job["next_seq"],
            writer.next_seq - 1,
            job["user_id"],
            b"\n".join(events).decode(),
        )
        await db.execute(
            """
            update jobs set status = 'completed', response = $2, next_seq = $3, ended_at = clock_timestamp()
            where id = $1
            """,
            job_id,
            msgspec.json.decode(events[-1])["response"],
            writer.next_seq,
        )
        await db.execute("update conversations set active_job_id = null where active_job_id = $1", job_id)


@pytest.fixture
async def client(gateway: FastAPI, ada: Caller) -> AsyncIterator[AsyncOpenAI]:
    """OpenAI's own client, which checks all that it reads; its user is ada."""
    async with strict_client(httpx2.AsyncClient(transport=httpx2.ASGITransport(gateway)), ada.user_id) as client:
        yield client


Changed = Callable[..., Awaitable[Callable[[Caller], None]]]


@pytest.fixture
async def changed(gateway_settings: GatewaySettings) -> AsyncIterator[Changed]:
    """`move = await changed(default_model="chat")`; `move(ada)`: she talks to a gateway with other settings."""
    async with AsyncExitStack() as running:

        async def start(**settings: Any) -> Callable[[Caller], None]:
            app = create_app(gateway_settings.model_copy(update=settings))
            await running.enter_async_context(app.router.lifespan_context(app))

            def move(caller: Caller) -> None:
                caller._transport = httpx2.ASGITransport(app)  # noqa: SLF001 - the same user at another gateway

            return move

        yield start


# --- what is echoed -------------------------------------------------------------------------------------------------


async def test_the_response_object_has_every_field_that_a_client_of_any_kind_requires(ada: Caller) -> None:
    created = await create(ada)

    assert created == {
        "id": created["id"],
        "object": "response",
        "created_at": created["created_at"],
        "status": "queued",
        "background": True,
        "completed_at": None,
        "conversation": {"id": created["conversation"]["id"]},
        "error": None,
        "frequency_penalty": 0.0,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "metadata": {},
        "model": "todo",
        "output": [],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
    }


async def test_what_a_client_asks_for_is_echoed(client: AsyncOpenAI) -> None:
    asked: Object = {
        "instructions": "Be brief.",
        "tools": [WEATHER, {**TASKS, "allowed_tools": ["list_tasks"], "require_approval": "always"}],
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
        "max_output_tokens": 50,
        "max_tool_calls": 3,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_logprobs": 0,
        "text": {"format": {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True}},
        "reasoning": {"effort": "low", "summary": "auto"},
        "truncation": "auto",
        "metadata": {"topic": "weather"},
        "user": "u-1",
        "safety_identifier": "s-1",
        "prompt_cache_key": "p-1",
        "service_tier": "flex",
    }
    created = await client.responses.create(
        model="todo",
        input="hi",
        background=True,
        include=["file_search_call.results"],
        extra_body={"frequency_penalty": 0.5, "presence_penalty": -0.5, "not_known": {"at": "all"}},
        **asked,
    )

    shown = created.to_dict()
    for name in asked.keys() - {"tools", "text"}:
        assert shown[name] == asked[name], name
    assert shown["tools"] == [
        WEATHER,
        {
            **TASKS,
            "server_description": None,
            "server_url": None,
            "allowed_tools": ["list_tasks"],
            "require_approval": "always",
        },
    ]
    assert shown["text"] == {"format": {**asked["text"]["format"], "description": None}}
    assert (shown["frequency_penalty"], shown["presence_penalty"]) == (0.5, -0.5)
    assert "not_known" not in shown
    assert (await client.responses.retrieve(created.id)).to_dict() == shown


async def test_an_agent_without_tools_of_its_own_may_be_given_our_tasks_and_functions(ada: Caller) -> None:
    added = {**WEATHER, "name": "add_task"}

    assert len((await create(ada, model="chat", tools=[TASKS, WEATHER]))["tools"]) == 2
    assert len((await create(ada, model="chat", tools=[added], tool_choice="required"))["tools"]) == 1


async def test_a_function_is_echoed_with_all_its_fields(ada: Caller) -> None:
    created = await create(ada, tools=[{"type": "function", "name": "f"}])

    nothing = {"description": None, "parameters": None, "strict": None}
    assert created["tools"] == [{"type": "function", "name": "f", **nothing}]


@pytest.mark.parametrize(
    ("choice", "shown"),
    [
        ("none", "none"),
        ("required", "required"),
        ({"type": "mcp", "server_label": "tasks"}, {"type": "mcp", "server_label": "tasks"}),
        ({"type": "mcp", "server_label": "tasks", "name": "add_task"}, None),
        ({"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "weather"}]}, None),
    ],
)
async def test_a_choice_of_tools_is_echoed(client: AsyncOpenAI, choice: Any, shown: Any) -> None:
    created = await client.responses.create(
        model="todo", input="hi", background=True, tools=[WEATHER], tool_choice=choice
    )

    assert created.to_dict()["tool_choice"] == (shown or choice)


@pytest.mark.parametrize("wanted", ["always", "never", {"always": {"tool_names": ["delete_task"]}}])
async def test_what_a_client_wants_to_approve_is_echoed(ada: Caller, wanted: Any) -> None:
    tool = {**TASKS, "require_approval": wanted, "allowed_tools": {"tool_names": ["delete_task"]}}
    [shown] = (await create(ada, tools=[tool]))["tools"]

    assert (shown["require_approval"], shown["allowed_tools"]) == (wanted, ["delete_task"])


async def test_nulls_are_as_good_as_nothing(ada: Caller) -> None:
    names = (
        "instructions conversation previous_response_id stream tools tool_choice text reasoning include metadata user "
        "truncation temperature prompt moderation stream_options store"
    )

    nulls: Object = dict.fromkeys(names.split())

    await create(ada, **nulls)


# --- what is refused ------------------------------------------------------------------------------------------------

OUTPUT_OF_NOTHING = {"type": "function_call_output", "call_id": "call_1", "output": "x"}
SERVER_URL = {"type": "mcp", "server_label": "x", "server_url": "http://169.254.169.254/"}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"model": None}, "missing_required_parameter", "model"),
        ({"model": "gpt-9"}, "model_not_found", "model"),
        ({"prompt": {"id": "pmpt_1"}}, "unsupported_parameter", "prompt"),
        ({"moderation": {"model": "x"}}, "unsupported_parameter", "moderation"),
        ({"context_management": [{"type": "compaction"}]}, "unsupported_parameter", "context_management"),
        ({"background_options": {"completion_window": "8h"}}, "unsupported_parameter", "background_options"),
        ({"top_logprobs": 1}, "unsupported_parameter", "top_logprobs"),
        ({"top_logprobs": 21}, "invalid_input", "top_logprobs"),
        ({"include": ["message.output_text.logprobs"]}, "unsupported_parameter", "include"),
        ({"include": ["everything"]}, "invalid_input", "include[0]"),
        ({"store": False, "background": True}, "unsupported_parameter", "store"),
        ({"branch_at_start": True}, "invalid_request", "branch_at_start"),
        ({"max_output_tokens": 0}, "invalid_input", "max_output_tokens"),
        ({"max_tool_calls": 0}, "invalid_input", "max_tool_calls"),
        ({"temperature": 2.1}, "invalid_input", "temperature"),
        ({"top_p": 1.1}, "invalid_input", "top_p"),
        ({"frequency_penalty": 3}, "invalid_input", "frequency_penalty"),
        ({"truncation": "some"}, "invalid_input", "truncation"),
        ({"service_tier": "gold"}, "invalid_input", "service_tier"),
        ({"user": "x" * 513}, "invalid_input", "user"),
        ({"metadata": {"x" * 65: "y"}}, "invalid_input", None),
        ({"text": {"format": {"type": "xml"}}}, "invalid_input", "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "invalid_input", "text.format"),
        ({"text": {"verbosity": "chatty"}}, "invalid_input", "text.verbosity"),
        ({"reasoning": {"effort": "huge"}}, "invalid_input", "reasoning.effort"),
        ({"reasoning": {"context": "all_turns"}}, "invalid_input", "reasoning.context"),
        ({"tools": [{"type": "web_search"}]}, "unsupported_parameter", "tools[0].type"),
        ({"tools": [{"name": "f"}]}, "invalid_input", "tools[0].type"),
        ({"tools": [{"type": "function", "name": "no blanks"}]}, "invalid_input", "tools[0].name"),
        ({"tools": [{"type": "function", "name": "x" * 65}]}, "invalid_input", "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": []}]}, "invalid_input", "tools[0].parameters"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {"type": "array"}}]},
         "invalid_function_parameters", "tools[0].parameters"),
        ({"tools": [WEATHER, WEATHER]}, "duplicate_tool", "tools[1].name"),
        ({"tools": [{**WEATHER, "name": "add_task"}]}, "duplicate_tool", "tools[0].name"),
        ({"tools": [{**WEATHER, "name": "tasks__weather"}]}, "duplicate_tool", "tools[0].name"),
        ({"tools": [{**WEATHER, "name": f"f{number}"} for number in range(129)]}, "too_many_tools", "tools"),
        ({"tools": [SERVER_URL]}, "unsupported_parameter", "tools[0].server_url"),
        ({"tools": [{**TASKS, "connector_id": "connector_gmail"}]}, "unsupported_parameter", "tools[0].connector_id"),
        ({"tools": [{**TASKS, "authorization": "secret"}]}, "unsupported_parameter", "tools[0].authorization"),
        ({"tools": [{**TASKS, "headers": {"x": "y"}}]}, "unsupported_parameter", "tools[0].headers"),
        ({"tools": [{**TASKS, "tunnel_id": "t"}]}, "unsupported_parameter", "tools[0].tunnel_id"),
        ({"tools": [{**TASKS, "defer_loading": True}]}, "unsupported_parameter", "tools[0].defer_loading"),
        ({"tools": [{"type": "mcp"}]}, "invalid_input", "tools[0].server_label"),
        ({"tools": [{"type": "mcp", "server_label": "mail"}]}, "unknown_tool_server", "tools[0].server_label"),
        ({"tools": [TASKS, {**TASKS, "server_label": "Tasks"}]}, "unknown_tool_server", "tools[1].server_label"),
        ({"model": "chat", "tools": [TASKS, {**WEATHER, "name": "add_task"}]}, "duplicate_tool", "tools[1].name"),
        ({"tools": [{**TASKS, "allowed_tools": "all"}]}, "invalid_input", "tools[0].allowed_tools"),
        ({"tools": [{**TASKS, "allowed_tools": {"read_only": True}}]}, "unsupported_parameter",
         "tools[0].allowed_tools.read_only"),
        ({"tools": [{**TASKS, "require_approval": "sometimes"}]}, "invalid_input", "tools[0].require_approval"),
        ({"tool_choice": "any"}, "invalid_tool_choice", "tool_choice"),
        ({"tool_choice": {"type": "web_search_preview"}}, "invalid_tool_choice", "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "f"}}, "invalid_tool_choice", "tool_choice"),
        ({"tool_choice": {"type": "mcp", "server_label": "mail"}}, "invalid_tool_choice", "tool_choice"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "invalid_tool_choice",
         "tool_choice.tools"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}},
         "invalid_tool_choice", "tool_choice.tools[0]"),
        ({"model": "chat", "tool_choice": "required"}, "invalid_tool_choice", "tool_choice"),
        ({"conversation": "thread_1"}, "invalid_id", "conversation"),
        ({"conversation": f"conv_{'0' * 32}", "previous_response_id": f"resp_{'0' * 32}"}, "invalid_request",
         "previous_response_id"),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_by_name(
    ada: Caller, fields: Object, code: str, param: str | None
) -> None:
    answer = await ada.post("/v1/responses", json=_body(**fields))

    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error["code"] == code, error
    if param is not None:
        assert error["param"] == param


async def test_an_image_is_refused_where_the_model_takes_none(ada: Caller) -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AAAA"}
    answer = await ada.post("/v1/responses", json={"model": "todo", "input": [{"role": "user", "content": [image]}]})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "unsupported_content"
    assert "takes no content of type 'input_image'" in answer.json()["error"]["message"]


async def test_an_image_is_stored_and_referred_to_where_the_model_takes_one(ada: Caller, changed: Changed) -> None:
    (await changed(model_inputs=frozenset({ModelInput.TEXT, ModelInput.IMAGE})))(ada)
    image = {"type": "input_image", "image_url": data_url(png())}
    answer = await ada.post(
        "/v1/responses", json={"model": "todo", "background": True, "input": [{"role": "user", "content": [image]}]}
    )
    assert answer.status_code == 200, answer.text

    [item] = (await ada.get(f"/v1/responses/{answer.json()['id']}/input_items")).json()["data"]
    [part] = item["content"]

    assert part == {"type": "input_image", "file_id": part["file_id"], "image_url": None, "detail": "auto"}
    assert part["file_id"].startswith("file_")
    again = {"role": "user", "content": [{"type": "input_image", "file_id": part["file_id"], "detail": "low"}]}
    await create(ada, [again])


def test_the_names_of_our_own_tools_are_known_here() -> None:
    methods = {name for name in vars(TaskTools) if not name.startswith("_")}

    assert methods >= TASK_TOOLS
    assert {name for name in methods if name.endswith(("task", "tasks"))} == TASK_TOOLS


async def test_a_request_may_leave_out_the_model_where_the_operator_names_one(ada: Caller, changed: Changed) -> None:
    (await changed(default_model="chat"))(ada)

    answer = await ada.post("/v1/responses", json={"input": "hi", "background": True})

    assert answer.status_code == 200
    assert answer.json()["model"] == "chat"


async def test_a_configured_tool_server_may_be_named(ada: Caller, changed: Changed, tmp_path: Path) -> None:
    file = tmp_path / "servers.json"
    file.write_text('{"mcpServers": {"mail": {"url": "https://mail.example/mcp", "tools": {"send": {}}}}}')
    (await changed(tool_servers_file=file))(ada)

    created = await create(ada, tools=[{"type": "mcp", "server_label": "mail"}])
    refused = await ada.post("/v1/responses", json=_body(tools=[{**WEATHER, "name": "mail__send"}]))

    assert created["tools"][0]["server_label"] == "mail"
    assert refused.json()["error"]["code"] == "duplicate_tool"


# --- where a turn goes ----------------------------------------------------------------------------------------------


async def test_two_responses_may_follow_the_same_one(ada: Caller, turns: Turns) -> None:
    first = await create(ada)
    children = [await create(ada, text, previous_response_id=first["id"]) for text in ("one", "two")]

    parents = {(await job_of(turns, child))["parent_job_id"] for child in children}
    assert parents == {from_wire(Prefix.RESPONSE, first["id"])}
    assert {child["conversation"]["id"] for child in children} == {first["conversation"]["id"]}
    assert {child["previous_response_id"] for child in children} == {first["id"]}


async def test_a_branch_may_begin_at_the_start_of_a_conversation(ada: Caller, turns: Turns) -> None:
    first = await create(ada)

    edited = await create(ada, "hello", conversation=first["conversation"]["id"], branch_at_start=True)

    job = await job_of(turns, edited)
    assert (job["parent_job_id"], job["turn"]) == (None, 2)


@pytest.mark.parametrize("given", ["nonsense", f"resp_{'0' * 32}", f"conv_{'0' * 32}"])
async def test_a_response_cannot_follow_one_that_is_not_there(ada: Caller, given: str) -> None:
    answer = await ada.post("/v1/responses", json=_body(previous_response_id=given))

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "previous_response_not_found"


async def test_a_response_cannot_follow_another_user_s(ada: Caller, bob: Caller) -> None:
    created = await create(ada)

    answer = await bob.post("/v1/responses", json=_body(previous_response_id=created["id"]))

    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "previous_response_not_found"


# --- what is not stored ---------------------------------------------------------------------------------------------


async def finish_when_there(turns: Turns, user_id: str) -> Object:
    """Answer the only response of the user's, as soon as it is there."""

    async def only_job() -> Any:
        async with turns.persistence.transaction(None) as db:
            return await db.fetchval("select id from jobs where user_id = $1", user_id)

    job_id: UUID | None = await wait_until(only_job)
    assert job_id is not None
    response = {"id": to_wire(Prefix.RESPONSE, job_id)}
    await finish(turns, response)
    return response


@pytest.mark.parametrize("stream", [True, False])
async def test_a_response_that_is_not_stored_is_answered_and_then_nowhere(
    ada: Caller, client: AsyncOpenAI, turns: Turns, *, stream: bool
) -> None:
    finishing = asyncio.create_task(finish_when_there(turns, ada.user_id))
    if stream:
        events = await client.responses.create(model="chat", input="hi", store=False, stream=True)
        response = [event async for event in events][-1].response  # type: ignore[union-attr]
    else:
        response = await client.responses.create(model="chat", input="hi", store=False)
    await finishing

    assert response.output_text == "hello"
    assert (response.conversation, response.to_dict()["store"]) == (None, False)
    for path in (f"/v1/responses/{response.id}", f"/v1/responses/{response.id}/input_items"):
        assert (await ada.get(path)).status_code == 404
    assert (await ada.get(f"/v1/responses/{response.id}?stream=true")).status_code == 404
    assert (await ada.post(f"/v1/responses/{response.id}/cancel")).status_code == 404
    assert (await ada.delete(f"/v1/responses/{response.id}")).status_code == 404
    follow = await ada.post("/v1/responses", json=_body(previous_response_id=response.id))
    assert follow.json()["error"]["code"] == "previous_response_not_found"
    assert (await ada.get("/v1/conversations")).json()["data"] == []


async def test_a_response_that_is_not_stored_may_follow_one_that_is(ada: Caller, turns: Turns, serve: Serve) -> None:
    first = await create(ada)
    body = _body("more", store=False, previous_response_id=first["id"])
    async with serve(cancel_wait_seconds=0) as served, served.client(ada.user_id) as http:
        asking = asyncio.create_task(http.post("/v1/responses", json=body))

        async def unstored() -> Any:
            async with turns.persistence.transaction(None) as db:
                return await db.fetchrow("select * from jobs where user_id = $1 and not store", ada.user_id)

        job = await wait_until(unstored)
        assert job is not None
        running = to_wire(Prefix.RESPONSE, job["id"])
        follow = await http.post("/v1/responses", json=_body(previous_response_id=running))
        stopped = await http.post(f"/v1/responses/{running}/cancel")
        await finish(turns, {"id": running})
        answer = await asking

    assert job["parent_job_id"] == from_wire(Prefix.RESPONSE, first["id"])
    assert follow.json()["error"]["code"] == "previous_response_not_found"
    assert stopped.status_code == 200
    assert answer.json()["status"] == "completed"
    items = (await ada.get(f"/v1/conversations/{first['conversation']['id']}/items")).json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["hi"]


async def test_a_conversation_keeps_what_is_said_in_it(ada: Caller) -> None:
    conversation = (await ada.post("/v1/conversations", json={})).json()
    body = {"model": "chat", "input": "hi", "store": False, "conversation": conversation["id"]}

    refused = await ada.post("/v1/responses", json=body)

    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "store")


# --- reading and deleting -------------------------------------------------------------------------------------------


async def test_a_deleted_response_is_nowhere_but_its_words_stay(ada: Caller, client: AsyncOpenAI, turns: Turns) -> None:
    created = await create(ada)
    await finish(turns, created)

    await client.responses.delete(created["id"])

    path = f"/v1/responses/{created['id']}"
    for answer in (
        await ada.get(path),
        await ada.get(f"{path}?stream=true"),
        await ada.get(f"{path}/input_items"),
        await ada.post(f"{path}/cancel"),
        await ada.delete(path),
    ):
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "not_found"
    follow = await ada.post("/v1/responses", json=_body(previous_response_id=created["id"]))
    assert follow.json()["error"]["code"] == "previous_response_not_found"
    items = (await ada.get(f"/v1/conversations/{created['conversation']['id']}/items")).json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["hi"]


async def test_deleting_tells_what_was_deleted(ada: Caller) -> None:
    created = await create(ada)

    answer = await ada.delete(f"/v1/responses/{created['id']}", headers={"accept": "*/*"})

    assert answer.json() == {"id": created["id"], "object": "response", "deleted": True}


async def test_deleting_what_runs_stops_it_and_closes_its_streams(ada: Caller, turns: Turns, serve: Serve) -> None:
    created = await create(ada)
    path = f"/v1/responses/{created['id']}"
    async with (
        serve() as served,
        served.client(ada.user_id) as http,
        http.stream("GET", f"{path}?stream=true") as following,
    ):
        lines = following.aiter_lines()
        assert await anext(lines) == "event: response.created"

        await http.delete(path)
        rest = [line async for line in lines]

    assert "data: [DONE]" not in rest
    job = await job_of(turns, created)
    assert job["cancel_requested_at"] is not None
    assert job["deleted_at"] is not None


async def test_another_user_s_response_is_not_found_on_any_verb(ada: Caller, bob: Caller) -> None:
    path = f"/v1/responses/{(await create(ada))['id']}"
    unknown = f"/v1/responses/{new_wire_id(Prefix.RESPONSE)}"

    reads = [("GET", ""), ("GET", "?stream=true"), ("GET", "/input_items")]
    for method, end in (*reads, ("POST", "/cancel"), ("DELETE", "")):
        foreign = await bob.request(method, path + end)
        missing = await bob.request(method, unknown + end)
        assert (foreign.status_code, foreign.json()) == (missing.status_code, missing.json())
        assert foreign.status_code == 404
    assert (await ada.get(path)).json()["status"] == "queued"


async def test_reading_takes_what_clients_send_along(client: AsyncOpenAI, ada: Caller, turns: Turns) -> None:
    created = await create(ada)
    await finish(turns, created)

    read = await client.responses.retrieve(
        created["id"], include=["file_search_call.results"], include_obfuscation=False
    )
    events = await client.responses.retrieve(created["id"], stream=True, include_obfuscation=True)
    types = [event.type async for event in events]
    items = await client.responses.input_items.list(created["id"], include=["file_search_call.results"], order="asc")

    assert read.output_text == "hello"
    assert types[0] == "response.created"
    assert types[-1] == "response.completed"
    assert [item.type async for item in items] == ["message"]
    with pytest.raises(openai.BadRequestError):
        await client.responses.retrieve(created["id"], include=["everything"])  # type: ignore[list-item]


async def test_the_agents_are_models(client: AsyncOpenAI) -> None:
    models = [model.id async for model in await client.models.list()]

    assert "todo" in models
    assert (await client.models.retrieve("todo")).owned_by == "parley"


async def test_the_tokens_of_an_input_are_estimated_with_what_it_follows(client: AsyncOpenAI, ada: Caller) -> None:
    async def count(**fields: Any) -> int:
        return (await client.responses.input_tokens.count(model="chat", **fields)).input_tokens

    first = await create(ada, "x" * 4_000)
    nothing, said = await count(), await count(input="y" * 400)

    assert said == nothing + 100
    assert await count(input="y" * 400, previous_response_id=first["id"]) == said + 1_000
    assert await count(input="y" * 400, conversation=first["conversation"]["id"]) == said + 1_000
    assert await count(input=[{"role": "user", "content": "y" * 400}], instructions="z" * 40) == said + 10
    assert await count(tools=[WEATHER]) > nothing
    with pytest.raises(openai.NotFoundError):
        await count(previous_response_id=new_wire_id(Prefix.RESPONSE))


async def test_what_a_count_cannot_honour_is_refused_too(ada: Caller) -> None:
    for fields in ({"model": "gpt-9"}, {"tools": [SERVER_URL]}, {"input": [OUTPUT_OF_NOTHING]}):
        answer = await ada.post("/v1/responses/input_tokens", json={"model": "chat", **fields})
        assert answer.status_code == 400


# --- usage ----------------------------------------------------------------------------------------------------------


async def note_usage(turns: Turns, user_id: str, days_ago: int, tokens: int) -> None:
    async with turns.persistence.transaction(None) as db:
        await db.execute(
            """
            insert into usage_by_day (user_id, day, response_count, input_tokens, output_tokens)
            values ($1, (clock_timestamp() at time zone 'utc')::date - $2::integer, 1, $3, $3)
            """,
            user_id,
            days_ago,
            tokens,
        )


async def test_a_user_sees_the_usage_of_the_last_days(ada: Caller, bob: Caller, turns: Turns) -> None:
    for days_ago in (0, 29, 30):
        await note_usage(turns, ada.user_id, days_ago, 10)
    await note_usage(turns, bob.user_id, 1, 7)

    hers, his = (await ada.get("/v1/usage")).json(), (await bob.get("/v1/usage")).json()

    assert hers["today"]["total_tokens"] == 20
    assert [day["response_count"] for day in hers["days"]] == [1, 1]
    assert hers["tokens_per_day_max"] is None
    assert his["today"]["total_tokens"] == 0
    assert [day["input_tokens"] for day in his["days"]] == [7]


async def test_a_day_s_tokens_that_are_spent_are_told_with_the_time_to_wait(
    ada: Caller, turns: Turns, changed: Changed
) -> None:
    await note_usage(turns, ada.user_id, 1, 500)
    await note_usage(turns, ada.user_id, 0, 49)
    (await changed(tokens_per_day_max=100))(ada)

    await create(ada)
    async with turns.persistence.transaction(None) as db:
        await db.execute("update usage_by_day set input_tokens = 51 where user_id = $1", ada.user_id)
    refused = await ada.post("/v1/responses", json=_body())

    assert refused.status_code == 429
    assert refused.json()["error"]["code"] == "daily_token_quota_exceeded"
    assert 0 < int(refused.headers["retry-after"]) <= 24 * 60 * 60
    assert (await ada.get("/v1/usage")).json()["tokens_per_day_max"] == 100
