"""Pace and faults on demand, as a client of the model meets them."""

import asyncio
import json
import time
from typing import Any

import httpx2
import pytest
from openai import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    AsyncOpenAI,
    InternalServerError,
    RateLimitError,
)
from openai.types.chat import ChatCompletionChunk


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


async def streamed(client: AsyncOpenAI, model: str, text: str = "go", **more: Any) -> list[ChatCompletionChunk]:
    stream = await client.chat.completions.create(model=model, messages=said(text), stream=True, **more)
    return [chunk async for chunk in stream]


async def collect(client: AsyncOpenAI, model: str, into: list[str], **more: Any) -> None:
    """The text deltas, kept also when the stream breaks."""
    stream = await client.chat.completions.create(model=model, messages=said("go"), stream=True, **more)
    async for chunk in stream:
        into += [choice.delta.content for choice in chunk.choices if choice.delta.content]


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def finish_of(chunks: list[ChatCompletionChunk]) -> str | None:
    return next((chunk.choices[0].finish_reason for chunk in reversed(chunks) if chunk.choices), None)


async def test_numbered_words_come_each_once_and_in_order(openai: AsyncOpenAI) -> None:
    chunks = await streamed(openai, "demo?tokens=300")

    assert text_of(chunks).split() == [f"w{number}" for number in range(300)]
    assert len(chunks) == 302  # the role, the words, the reason


async def test_echo_repeats_the_last_user_message(openai: AsyncOpenAI) -> None:
    assert text_of(await streamed(openai, "demo?echo", "  two\n\n words ")) == "  two\n\n words "


async def test_knobs_come_from_headers_too(openai: AsyncOpenAI) -> None:
    assert text_of(await streamed(openai, "demo", extra_headers={"x-demo-tokens": "2"})) == "w0 w1"


async def test_knobs_come_from_a_directive_that_is_not_part_of_the_message(openai: AsyncOpenAI) -> None:
    assert text_of(await streamed(openai, "demo", "repeat me [[demo: echo delay_ms=0]]")) == "repeat me"


async def test_only_the_directive_of_the_last_message_counts(openai: AsyncOpenAI) -> None:
    messages: Any = [
        *said("[[demo: tokens=9]] hi"),
        {"role": "assistant", "content": "w0"},
        *said("what did I say first?"),
    ]

    completion = await openai.chat.completions.create(model="demo", messages=messages)

    assert completion.choices[0].message.content == "Your first message was: \u201chi\u201d"


async def test_directives_are_plain_text_where_they_are_off(strict_address: str) -> None:
    async with AsyncOpenAI(base_url=f"{strict_address}/v1", api_key="any", max_retries=0) as client:
        completion = await client.chat.completions.create(model="demo?echo", messages=said("[[demo: fault=500]]"))
    async with httpx2.AsyncClient(base_url=strict_address) as http:
        requests = await http.get("/demo/requests")

    assert completion.choices[0].message.content == "[[demo: fault=500]]"
    assert requests.status_code == 404


async def test_delays_hold_back_the_first_word_and_each_next_one(openai: AsyncOpenAI) -> None:
    began = time.monotonic()
    stream = await openai.chat.completions.create(
        model="demo?tokens=4&first_delay_ms=60&delay_ms=30", messages=said("go"), stream=True
    )
    arrived = [time.monotonic() - began async for chunk in stream if chunk.choices[0].delta.content]

    # Lower bounds only: how late a busy machine may be is no property of the server.
    assert all(at >= 0.06 + 0.03 * index - 0.002 for index, at in enumerate(arrived))
    assert len(arrived) == 4


@pytest.mark.parametrize("stream", [True, False])
async def test_a_status_fault_is_an_error_of_that_status(openai: AsyncOpenAI, stream: bool) -> None:  # noqa: FBT001
    with pytest.raises(RateLimitError) as limited:
        await openai.chat.completions.create(model="demo?fault=429&retry_after=7", messages=said("go"), stream=stream)
    with pytest.raises(InternalServerError) as unavailable:
        await openai.chat.completions.create(model="demo?fault=503", messages=said("go"), stream=stream)

    assert limited.value.response.headers["retry-after"] == "7"
    assert limited.value.code == "rate_limit_exceeded"
    assert unavailable.value.status_code == 503
    assert "retry-after" not in unavailable.value.response.headers


async def test_a_late_status_fault_is_an_error_event_in_the_stream(openai: AsyncOpenAI) -> None:
    words: list[str] = []

    with pytest.raises(APIError) as caught:
        await collect(openai, "demo?tokens=9&fault=500&fault_after=2", words)

    assert words == ["w0", " w1"]
    assert caught.value.type == "server_error"


async def test_only_the_first_requests_of_a_key_fail(openai: AsyncOpenAI) -> None:
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(text_of(await streamed(openai, "demo?tokens=1&fault=500&fault_times=2&key=only-first")))
        except InternalServerError as error:
            outcomes.append(str(error.status_code))
    other = await streamed(openai, "demo?tokens=1&fault=500&fault_times=0&key=other")

    assert outcomes == ["500", "500", "w0", "w0"]
    assert text_of(other) == "w0"


async def test_the_client_gets_over_a_fault_by_its_own_retries(openai: AsyncOpenAI) -> None:
    client = openai.with_options(max_retries=2)

    completion = await client.chat.completions.create(
        model="demo?tokens=1&fault=503&fault_times=1&key=retried&retry_after=0", messages=said("go")
    )

    assert completion.choices[0].message.content == "w0"


async def test_an_answer_that_never_begins_runs_into_the_timeout(openai: AsyncOpenAI) -> None:
    client = openai.with_options(timeout=httpx2.Timeout(5, read=0.2))

    with pytest.raises(APITimeoutError):
        await client.chat.completions.create(model="demo?fault=hang", messages=said("go"))


async def test_an_answer_may_fall_silent_in_the_middle(openai: AsyncOpenAI) -> None:
    async with await openai.chat.completions.create(
        model="demo?tokens=9&fault=hang&fault_after=2", messages=said("go"), stream=True
    ) as stream:
        chunks = aiter(stream)
        words = [(await anext(chunks)).choices[0].delta.content for _ in range(3)]
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await anext(chunks)

    assert words == ["", "w0", " w1"]


async def test_a_cut_stream_breaks_the_connection(openai: AsyncOpenAI) -> None:
    words: list[str] = []

    with pytest.raises((APIConnectionError, httpx2.RemoteProtocolError)):
        await collect(openai, "demo?tokens=9&fault=cut&fault_after=2", words)
    with pytest.raises((APIConnectionError, httpx2.RemoteProtocolError)):
        await openai.chat.completions.create(model="demo?tokens=9&fault=cut", messages=said("go"))

    assert words == ["w0", " w1"]


async def test_garbage_is_no_json(openai: AsyncOpenAI) -> None:
    words: list[str] = []

    with pytest.raises((json.JSONDecodeError, UnicodeDecodeError, APIError)):
        await collect(openai, "demo?tokens=9&fault=garbage&fault_after=2", words)

    assert words == ["w0", " w1"]


async def test_html_comes_with_status_200(http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", json={"model": "demo?fault=html", "messages": said("go")})

    assert (response.status_code, response.headers["content-type"]) == (200, "text/html")
    assert "Bad Gateway" in response.text


@pytest.mark.parametrize(
    ("model", "text", "finish"),
    [
        ("demo?tokens=9&fault=empty", "", "stop"),
        ("demo?tokens=3&fault=no_finish", "w0 w1 w2", None),
        ("demo?tokens=9&fault=content_filter&fault_after=2", "w0 w1", "content_filter"),
        ("demo?tokens=9&fault=content_filter", "w0 w1 w2", "content_filter"),
    ],
)
async def test_a_stream_ends_as_the_fault_says(openai: AsyncOpenAI, model: str, text: str, finish: str | None) -> None:
    chunks = await streamed(openai, model)

    assert (text_of(chunks), finish_of(chunks)) == (text, finish)


async def test_a_call_may_have_arguments_that_are_no_json(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(model="demo?fault=bad_tool_json", messages=said("add eggs"))

    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    with pytest.raises(json.JSONDecodeError):
        json.loads(call.function.arguments)


async def test_a_call_may_be_of_a_tool_that_was_not_offered(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(model="demo?fault=unknown_tool", messages=said("add eggs"))

    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "no_such_tool"


async def test_an_endless_answer_ends_when_the_client_leaves(openai: AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    async with await openai.chat.completions.create(
        model="demo?fault=endless", messages=said("go"), stream=True
    ) as stream:
        seen = 0
        async for chunk in stream:
            seen += bool(chunk.choices[0].delta.content)
            if seen == 1000:
                break

    # The server is one thread: it answers others only if it neither blocks nor goes on for the client that left.
    answers = await asyncio.gather(*(http.get("/health/live") for _ in range(20)))
    assert all(answer.status_code == 200 for answer in answers)


async def test_an_endless_answer_ends_at_max_tokens(openai: AsyncOpenAI) -> None:
    chunks = await streamed(openai, "demo?fault=endless", max_tokens=3)

    assert (text_of(chunks), finish_of(chunks)) == ("w0 w1 w2", "length")


async def test_requests_are_recorded_by_their_key(openai: AsyncOpenAI, http: httpx2.AsyncClient) -> None:
    messages: Any = [*said("one"), {"role": "assistant", "content": "w0"}, *said("two [[demo: tokens=1 key=recorded]]")]
    await openai.chat.completions.create(model="demo", messages=messages[:1])
    await openai.chat.completions.create(model="demo", messages=messages)
    await openai.chat.completions.create(model="demo", messages=messages)

    recorded = (await http.get("/demo/requests", params={"key": "recorded"})).json()

    assert recorded["count"] == 2
    assert [(one["messages"], one["user_messages"], one["last_user_message"]) for one in recorded["requests"]] == [
        (3, 2, "two"),
        (3, 2, "two"),
    ]
