"""Chat completions: OpenAI's client, through the gateway, to the demo model behind it."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from demo_model.app import create_app as create_demo_model
from demo_model.settings import Settings as DemoModelSettings
from gateway.app import create_app
from gateway.settings import GatewaySettings, ModelInput
from gateway.until import Signal
from shared.agents import AGENTS
from shared.db import Database
from shared.ids import uuid7
from tests.support.asgi import served
from tests.support.pictures import data_url, png
from tests.support.stack import token_of
from tests.support.waiting import wait_until

ADD_TASK: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "add_task",
        "description": "Add a task.",
        "parameters": {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]},
    },
}


class Endpoint:
    """The demo model, with a note of what it was asked and of how many answers are under way."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.headers: list[dict[str, str]] = []
        self.open_count = 0
        self._app: ASGIApp = create_demo_model(DemoModelSettings(delay_ms=0, directives=True))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(json.loads(body))
        self.headers.append({name.decode(): value.decode() for name, value in scope["headers"]})
        whole: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_whole() -> Message:
            return whole.pop() if whole else await receive()

        self.open_count += 1
        try:
            await self._app(scope, receive_whole, send)
        finally:
            self.open_count -= 1

    async def is_idle(self) -> bool:
        return not self.open_count


@dataclass
class Gateway:
    """A gateway on a real socket."""

    url: str
    endpoint: Endpoint
    stopping: Signal
    user_id: str = field(default_factory=lambda: f"user-{uuid7().hex}")

    def client(self) -> openai.AsyncOpenAI:
        """The unmodified client, which validates strictly what it gets."""
        return openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key=token_of(self.user_id),
            max_retries=0,
            timeout=20,
            _strict_response_validation=True,
        )

    def http(self) -> httpx2.AsyncClient:
        headers = {"authorization": f"Bearer {token_of(self.user_id)}"}
        return httpx2.AsyncClient(base_url=self.url, headers=headers, timeout=20)

    async def post(self, **body: Any) -> httpx2.Response:
        async with self.http() as http:
            return await http.post("/v1/chat/completions", json={"model": "chat", "messages": say("Hello"), **body})


Open = Callable[..., AbstractAsyncContextManager[Gateway]]


@pytest.fixture(scope="module")
async def endpoint() -> AsyncIterator[tuple[str, Endpoint]]:
    endpoint = Endpoint()
    async with served(endpoint) as url:
        yield f"{url}/v1", endpoint


@pytest.fixture(scope="module")
def opened(gateway_settings: GatewaySettings, endpoint: tuple[str, Endpoint]) -> Open:
    """`async with opened(completions_per_user_max=1) as gateway`: a gateway with settings of its own."""

    @asynccontextmanager
    async def opened(**changed: Any) -> AsyncIterator[Gateway]:
        url, model = endpoint
        secrets = {"openai_base_url": url, "openai_api_key": gateway_settings.openai_api_key, "model": "demo"}
        settings = gateway_settings.model_copy(update={**secrets, **changed})
        stopping = Signal()
        async with served(create_app(settings, stopping)) as address:
            yield Gateway(address, model, stopping)

    return opened


@pytest.fixture(scope="module")
async def shared_gateway(opened: Open) -> AsyncIterator[Gateway]:
    async with opened() as gateway:
        yield gateway


@pytest.fixture
async def gateway(shared_gateway: Gateway) -> AsyncIterator[Gateway]:
    """The gateway with the usual settings, for a user of the test's own; leaves nothing under way."""
    yield Gateway(shared_gateway.url, shared_gateway.endpoint, shared_gateway.stopping)
    await wait_until(shared_gateway.endpoint.is_idle)


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    database = await Database.connect(database_urls["parley_gateway"], application_name="test", pool_size=1)
    yield database
    await database.close()


def say(text: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


def code_of(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


async def used(database: Database, gateway: Gateway) -> tuple[int, int, int] | None:
    async with database.transaction(gateway.user_id) as connection:
        row = await connection.fetchrow(
            "select response_count, input_tokens, output_tokens from usage_by_day where user_id = $1", gateway.user_id
        )
    return row and tuple(row)


# --- answers ---------------------------------------------------------------------------------------------------------


async def test_a_completion_comes_back_under_the_name_of_the_agent(
    client: openai.AsyncOpenAI, gateway: Gateway, database: Database
) -> None:
    answer = await client.chat.completions.create(model="chat", messages=say("[[demo: echo]] Hello there"))

    assert answer.model == "chat"
    assert answer.choices[0].message.content == "Hello there"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert await used(database, gateway) == (1, answer.usage.prompt_tokens, answer.usage.completion_tokens)


async def test_the_endpoint_is_asked_as_the_operator_wants_it(client: openai.AsyncOpenAI, gateway: Gateway) -> None:
    await client.chat.completions.create(
        model="todo",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "Be kind."},
            {"role": "user", "content": "Hello"},
        ],
        temperature=0.5,
        max_completion_tokens=50,
        stop=["END"],
        seed=7,
        extra_body={"models": ["dear"], "plugins": []},
    )

    body, headers = gateway.endpoint.bodies[-1], gateway.endpoint.headers[-1]
    assert body["model"] == "demo"
    assert body["messages"] == [
        {"role": "system", "content": AGENTS["todo"].instructions},
        {"role": "system", "content": "Be brief."},
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hello"},
    ]
    assert {name: value for name, value in body.items() if name not in {"model", "messages"}} == {
        "temperature": 0.5,
        "max_completion_tokens": 50,
        "stop": ["END"],
        "seed": 7,
    }
    assert headers["authorization"] == "Bearer demo"
    assert not any(name.startswith("x-stainless") for name in headers)


async def test_a_stream_brings_the_same_text_chunk_by_chunk(
    client: openai.AsyncOpenAI, gateway: Gateway, database: Database
) -> None:
    stream = await client.chat.completions.create(model="chat", messages=say("[[demo: tokens=50]]"), stream=True)
    chunks = [chunk async for chunk in stream]

    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " ".join(f"w{i}" for i in range(50))
    assert {chunk.model for chunk in chunks} == {"chat"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert not any("usage" in chunk.model_fields_set for chunk in chunks)
    counted = await used(database, gateway)
    assert counted is not None
    assert counted[2] == 50


async def test_a_stream_ends_with_the_usage_for_who_asks(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="chat", messages=say("[[demo: tokens=5]]"), stream=True, stream_options={"include_usage": True}
    )
    chunks = [chunk async for chunk in stream]

    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_is_framed_as_the_wire_wants_it(gateway: Gateway) -> None:
    answer = await gateway.post(messages=say("[[demo: tokens=3]]"), stream=True)

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["x-accel-buffering"] == "no"
    assert answer.headers["x-request-id"]
    *frames, last = answer.content.split(b"\n\n")
    assert (b"\r" in answer.content, frames[-1], last) == (False, b"data: [DONE]", b"")
    assert all(frame.startswith(b"data: {") and b"\n" not in frame for frame in frames[:-1])


@pytest.mark.parametrize("is_stream", [False, True])
async def test_the_client_runs_its_own_tools(client: openai.AsyncOpenAI, is_stream: bool) -> None:  # noqa: FBT001
    asked: Any = {"model": "todo", "messages": say("add a task: buy milk"), "tools": [ADD_TASK]}
    if is_stream:
        async with client.chat.completions.stream(**asked) as stream:
            first = await stream.get_final_completion()
    else:
        first = await client.chat.completions.create(**asked)

    assert first.choices[0].finish_reason == "tool_calls"
    [call] = first.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments)["title"] == "buy milk"
    asked["messages"] += [
        {"role": "assistant", "tool_calls": [{"id": call.id, "type": "function", "function": call.function.to_dict()}]},
        {"role": "tool", "tool_call_id": call.id, "content": json.dumps({"title": "buy milk", "completed": False})},
    ]
    second = await client.chat.completions.create(**asked)
    assert second.choices[0].finish_reason == "stop"


async def test_a_body_may_be_larger_than_other_bodies(gateway: Gateway, gateway_settings: GatewaySettings) -> None:
    text = "word " * (gateway_settings.body_bytes_max // 4)

    answer = await gateway.post(messages=[*say(text), *say("[[demo: echo]] done")])
    over = await gateway.post(messages=say("[" * 400_000))

    assert (answer.status_code, answer.json()["choices"][0]["message"]["content"]) == (200, "done")
    assert code_of(over) == (400, "json_too_many_values")


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("store", True),
        ("metadata", {"a": "b"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "alloy", "format": "mp3"}),
        ("prediction", {"type": "content", "content": "x"}),
        ("web_search_options", {}),
        ("service_tier", "priority"),
        ("tools", [{"type": "web_search"}]),
        ("stream_options", {"include_usage": True}),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(gateway: Gateway, field: str, value: Any) -> None:
    answer = await gateway.post(**{field: value})

    assert code_of(answer) == (400, "unsupported_parameter")
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    ("changed", "code", "param"),
    [
        ({"model": "gpt-4o"}, "model_not_found", "model"),
        ({"model": None}, "missing_required_parameter", "model"),
        ({"messages": []}, "invalid_input", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, "invalid_input", "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "invalid_input", "messages[0].content"),
        ({"messages": say("x") * 1_001}, "too_many_messages", "messages"),
        ({"temperature": "hot"}, "invalid_input", "temperature"),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
            "unsupported_content",
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": data_url(png())}}]}]},
            "unsupported_content",
            "messages[0].content[0]",
        ),
    ],
)
async def test_a_wrong_request_is_refused_by_the_name_of_the_field(
    gateway: Gateway, changed: dict[str, Any], code: str, param: str
) -> None:
    answer = await gateway.post(**changed)

    assert code_of(answer) == (400, code)
    assert answer.json()["error"]["param"] == param


async def test_images_and_files_pass_where_the_model_takes_them(opened: Open) -> None:
    def content(kind: str, **facts: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": [{"type": "text", "text": "Look"}, {"type": kind, **facts}]}]}

    async with opened(model_inputs=frozenset(ModelInput)) as gateway:
        image = content("image_url", image_url={"url": data_url(png()), "detail": "low"})
        passed = await gateway.post(**image)
        asked = gateway.endpoint.bodies[-1]["messages"][1:]
        file = await gateway.post(**content("file", file={"filename": "a.csv", "file_data": data_url(b"a,b")}))
        remote = await gateway.post(**content("image_url", image_url={"url": "http://127.0.0.1/a.png"}))
        broken = await gateway.post(**content("image_url", image_url={"url": data_url(b"text")}))

    assert (passed.status_code, file.status_code) == (200, 200)
    assert asked == image["messages"]
    assert code_of(remote) == (400, "remote_url_not_supported")
    assert code_of(broken) == (400, "invalid_image")


async def test_nobody_without_a_token_is_answered(gateway: Gateway) -> None:
    gateway.user_id = ""
    asked = len(gateway.endpoint.bodies)

    async with httpx2.AsyncClient(base_url=gateway.url) as http:
        answer = await http.post("/v1/chat/completions", json={"model": "chat", "messages": say("Hello")})

    assert (code_of(answer), len(gateway.endpoint.bodies)) == ((401, "invalid_api_key"), asked)


async def test_it_can_be_switched_off(opened: Open) -> None:
    async with opened(completions_enabled=False) as gateway:
        assert code_of(await gateway.post()) == (404, "not_configured")


async def test_a_user_has_so_many_at_a_time(opened: Open) -> None:
    async with opened(completions_per_user_max=1) as gateway, gateway.http() as http:
        endless: Any = {"model": "chat", "messages": say("[[demo: fault=endless]]"), "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=endless) as first:
            assert first.status_code == 200
            refused = await gateway.post()

        async def has_room() -> bool:
            return (await gateway.post()).status_code == 200

        await wait_until(has_room)

    assert code_of(refused) == (429, "too_many_completions")


async def test_who_has_spent_the_tokens_of_the_day_is_refused(opened: Open) -> None:
    async with opened(tokens_per_day_max=3) as gateway:
        answers = [await gateway.post(messages=say("[[demo: tokens=5]]"), stream=stream) for stream in (True, False)]

    assert answers[0].status_code == 200
    assert code_of(answers[1]) == (429, "daily_token_quota_exceeded")
    assert int(answers[1].headers["retry-after"]) <= 86_400


# --- an endpoint that fails ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("400", 400, "model_request_refused"),
        ("413", 400, "context_length_exceeded"),
        ("401", 502, "model_misconfigured"),
        ("404", 502, "model_misconfigured"),
        ("408", 503, "model_failing"),
        ("500", 503, "model_failing"),
        ("503", 503, "model_failing"),
        ("html", 502, "model_bad_answer"),
    ],
)
async def test_an_error_of_the_endpoint_is_told_without_its_words(
    gateway: Gateway,
    fault: str,
    status: int,
    code: str,
    is_stream: bool,  # noqa: FBT001
) -> None:
    answer = await gateway.post(messages=say(f"[[demo: fault={fault}]]"), stream=is_stream)

    if fault == "html" and is_stream:
        assert answer.status_code == 200
        assert json.loads(answer.text.removeprefix("data: "))["error"]["code"] == code
    else:
        assert code_of(answer) == (status, code)
    assert "demo" not in answer.text


async def test_a_rate_limit_of_the_endpoint_comes_with_its_pause(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.RateLimitError) as limited:
        await client.chat.completions.create(model="chat", messages=say("[[demo: fault=429 retry_after=17]]"))

    assert (limited.value.code, limited.value.response.headers["retry-after"]) == ("model_rate_limited", "17")


@pytest.mark.parametrize(
    ("fault", "code"), [("garbage", "model_bad_answer"), ("cut", "model_cut_stream"), ("empty", None)]
)
async def test_a_broken_answer_in_one_piece_is_an_error(gateway: Gateway, fault: str, code: str | None) -> None:
    answer = await gateway.post(messages=say(f"[[demo: fault={fault} tokens=10]]"))

    assert answer.status_code == 200 if code is None else answer.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("500", "model_failing"),
        ("429", "model_rate_limited"),
        ("cut", "model_cut_stream"),
        ("garbage", "model_bad_answer"),
        ("no_finish", "model_cut_stream"),
    ],
)
async def test_what_fails_in_the_middle_is_told_within_the_stream(gateway: Gateway, fault: str, code: str) -> None:
    text, caught = "", None
    async with gateway.client() as client:
        messages = say(f"[[demo: fault={fault} fault_after=3 tokens=3]]")
        stream = await client.chat.completions.create(model="chat", messages=messages, stream=True)
        try:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        except openai.APIError as error:
            caught = error.code

    assert (text, caught) == ("w0 w1 w2", code)


async def test_an_endpoint_that_is_away_is_told(opened: Open) -> None:
    async with opened(openai_base_url="http://127.0.0.1:1/v1") as gateway:
        answers = [await gateway.post(stream=stream) for stream in (False, True)]

    assert [code_of(answer) for answer in answers] == [(503, "model_unreachable")] * 2
    assert answers[0].headers["retry-after"]


async def test_an_endpoint_that_hangs_is_given_up(opened: Open) -> None:
    async with opened(completion_seconds_max=0.3, completion_silence_seconds_max=0.2) as gateway:
        whole = await gateway.post(messages=say("[[demo: fault=hang]]"))
        silent = await gateway.post(messages=say("[[demo: fault=hang]]"), stream=True)
        midway = await gateway.post(messages=say("[[demo: fault=hang fault_after=2]]"), stream=True)
        endless = await gateway.post(messages=say("[[demo: fault=endless delay_ms=20]]"), stream=True)
        await wait_until(gateway.endpoint.is_idle)

    assert code_of(whole) == code_of(silent) == (503, "model_timeout")
    for stream in (midway, endless):
        *_, last, end = stream.text.split("\n\n")
        assert (json.loads(last.removeprefix("data: "))["error"]["code"], end) == ("model_timeout", "")


async def test_a_runaway_answer_is_cut(opened: Open) -> None:
    async with opened(completion_bytes_max=20_000) as gateway:
        stream = await gateway.post(messages=say("[[demo: fault=endless]]"), stream=True)
        whole = await gateway.post(messages=say("[[demo: tokens=20000]]"))
        await wait_until(gateway.endpoint.is_idle)

    assert "model_output_too_large" in stream.text[-400:]
    assert code_of(whole) == (502, "model_output_too_large")


# --- a client that leaves, a process that stops ----------------------------------------------------------------------


async def test_a_client_that_leaves_a_stream_ends_the_answer(gateway: Gateway, database: Database) -> None:
    async with gateway.client() as client:
        messages = say("[[demo: fault=endless delay_ms=1]]")
        stream = await client.chat.completions.create(model="chat", messages=messages, stream=True)
        async for chunk in stream:
            if chunk.choices[0].delta.content:
                break
        assert gateway.endpoint.open_count == 1
        await stream.close()
        await wait_until(gateway.endpoint.is_idle, seconds=5)

    async def is_noted() -> bool:
        counted = await used(database, gateway)
        return counted is not None and counted[0] == 1 and min(counted) > 0

    await wait_until(is_noted, seconds=5)


async def test_a_client_that_leaves_before_an_answer_ends_it(gateway: Gateway) -> None:
    for stream in (False, True):
        asking = asyncio.create_task(gateway.post(messages=say("[[demo: fault=hang]]"), stream=stream))

        async def is_asked() -> bool:
            return gateway.endpoint.open_count == 1

        await wait_until(is_asked)
        asking.cancel()
        await wait_until(gateway.endpoint.is_idle, seconds=5)


async def test_silence_is_bridged_by_comments_that_the_client_does_not_see(opened: Open) -> None:
    async with opened(heartbeat_seconds=0.05) as gateway, gateway.client() as client:
        raw = await gateway.post(messages=say("[[demo: first_delay_ms=300 tokens=2]]"), stream=True)
        messages = say("[[demo: first_delay_ms=300 tokens=2]]")
        stream = await client.chat.completions.create(model="chat", messages=messages, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    assert b": ping\n\n" in raw.content
    assert text == "w0 w1"


async def test_an_endpoint_that_thinks_before_its_first_byte_is_bridged_too(opened: Open, database: Database) -> None:
    async with opened(heartbeat_seconds=0.05, completion_silence_seconds_max=0.3) as gateway:
        silent = await gateway.post(messages=say("[[demo: fault=hang]]"), stream=True)
        await wait_until(gateway.endpoint.is_idle)
    async with opened(heartbeat_seconds=0.05, completion_silence_seconds_max=60) as gateway:
        failing = await gateway.post(messages=say("[[demo: fault=500 first_delay_ms=200]]"), stream=True)
        await wait_until(gateway.endpoint.is_idle)

    for stream, code in ((silent, "model_timeout"), (failing, "model_failing")):
        *pings, error, end = stream.text.split("\n\n")
        assert (set(pings), end) == ({": ping"}, "")
        assert json.loads(error.removeprefix("data: "))["error"]["code"] == code
    assert await used(database, gateway) is None


async def test_a_reader_that_does_not_read_is_let_go(opened: Open) -> None:
    async with opened(send_timeout_seconds=0.3) as gateway:
        body = json.dumps({"model": "chat", "messages": say("[[demo: fault=endless]]"), "stream": True})
        request = (
            "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\ncontent-type: application/json\r\n"
            f"authorization: Bearer {token_of(gateway.user_id)}\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        )
        with socket.create_connection(("127.0.0.1", httpx2.URL(gateway.url).port or 0)) as reader:
            reader.sendall(request.encode())

            async def is_asked() -> bool:
                return gateway.endpoint.open_count == 1

            await wait_until(is_asked)
            await wait_until(gateway.endpoint.is_idle, seconds=10)


async def test_a_gateway_that_stops_says_so_within_the_stream(opened: Open) -> None:
    async with opened(shutdown_seconds=1, heartbeat_seconds=0.05) as gateway, gateway.http() as http:
        endless: Any = {"model": "chat", "messages": say("[[demo: fault=hang fault_after=1]]"), "stream": True}
        async with http.stream("POST", "/v1/chat/completions", json=endless) as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("data: ")
            gateway.stopping.set()
            rest = [line async for line in lines if line.startswith("data: ")]

    assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "gateway_stopping"
