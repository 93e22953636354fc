"""The server as its clients see it: through the unmodified OpenAI client, and byte by byte where the shape matters."""

import json
from itertools import pairwise
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError

TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"The tool {name}",
            "parameters": {"type": "object", "properties": {field: {"type": "string"} for field in fields}},
        },
    }
    for name, fields in {
        "add_task": ("title", "description", "due", "priority"),
        "list_tasks": ("status",),
        "complete_task": ("task_id",),
    }.items()
]


def said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def forced(name: str) -> Any:
    return {"type": "function", "function": {"name": name}}


async def frames(http: httpx2.AsyncClient, **body: Any) -> list[Any]:
    """The data of all events of a streamed completion, the end mark as text."""
    response = await http.post("/v1/chat/completions", json={"model": "demo", "stream": True, **body})
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [one if one == "[DONE]" else json.loads(one) for one in data]


async def test_a_streamed_answer_has_the_role_first_then_words_then_the_reason(http: httpx2.AsyncClient) -> None:
    *chunks, end = await frames(http, messages=said("thanks"))

    assert end == "[DONE]"
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "", "refusal": None},
        {"content": "You"},
        {"content": " are"},
        {"content": " welcome."},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in chunks}) == 1
    assert all("usage" not in chunk for chunk in chunks)


async def test_the_usage_comes_in_a_last_chunk_without_choices_when_asked_for(http: httpx2.AsyncClient) -> None:
    *chunks, usage, _end = await frames(http, messages=said("thanks a lot"), stream_options={"include_usage": True})

    assert usage["choices"] == []
    assert usage["usage"]["prompt_tokens"] == 3
    assert usage["usage"]["completion_tokens"] == 3
    assert usage["usage"]["total_tokens"] == 6
    assert all(chunk["usage"] is None for chunk in chunks)


async def test_a_streamed_tool_call_has_its_name_once_and_its_arguments_in_pieces(http: httpx2.AsyncClient) -> None:
    *chunks, _end = await frames(http, messages=said("add tasks: buy milk; call mom"), tools=TOOLS)

    role, *deltas, last = [chunk["choices"][0] for chunk in chunks]
    calls = [call for choice in deltas for call in choice["delta"]["tool_calls"]]
    opening = [call for call in calls if "id" in call]
    pieces = {index: [call for call in calls if call["index"] == index and "id" not in call] for index in (0, 1)}
    assert role["delta"] == {"role": "assistant", "content": None, "refusal": None}
    assert [(call["index"], call["type"], call["function"]) for call in opening] == [
        (0, "function", {"name": "add_task", "arguments": ""}),
        (1, "function", {"name": "add_task", "arguments": ""}),
    ]
    assert len({call["id"] for call in opening}) == 2
    assert [json.loads("".join(call["function"]["arguments"] for call in one)) for one in pieces.values()] == [
        {"title": "buy milk"},
        {"title": "call mom"},
    ]
    assert all(len(one) > 1 for one in pieces.values())
    assert last["finish_reason"] == "tool_calls"


async def test_the_stream_helper_of_the_client_puts_text_and_calls_together(openai: AsyncOpenAI) -> None:
    async with openai.chat.completions.stream(model="demo", messages=said("add eggs"), tools=TOOLS) as stream:
        async for _event in stream:
            pass
        completion = await stream.get_final_completion()

    (call,) = completion.choices[0].message.tool_calls or []
    assert completion.choices[0].finish_reason == "tool_calls"
    assert (call.function.name, json.loads(call.function.arguments)) == ("add_task", {"title": "eggs"})


async def test_an_answer_in_one_piece_has_message_reason_and_usage(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(model="demo", messages=said("thanks"))

    (choice,) = completion.choices
    assert completion.object == "chat.completion"
    assert completion.model == "demo"
    assert (choice.message.role, choice.message.content, choice.finish_reason) == (
        "assistant",
        "You are welcome.",
        "stop",
    )
    assert completion.usage
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens) == (1, 3)


async def test_a_turn_with_tools_runs_over_several_requests(openai: AsyncOpenAI) -> None:
    messages: Any = said("mark the milk as done")
    results = {
        "list_tasks": {"tasks": [{"id": "task_1", "title": "buy milk", "completed": False}], "total": 1},
        "complete_task": {"id": "task_1", "title": "buy milk", "completed": True},
    }
    called = []
    while calls := (
        reply := (await openai.chat.completions.create(model="demo", messages=messages, tools=TOOLS)).choices[0].message
    ).tool_calls:
        messages.append(reply.model_dump(exclude_none=True))
        for call in calls:
            assert call.type == "function"
            called.append((call.function.name, json.loads(call.function.arguments)))
            content = json.dumps(results[call.function.name])
            messages.append({"role": "tool", "tool_call_id": call.id, "content": content})

    assert called == [("list_tasks", {"status": "all"}), ("complete_task", {"task_id": "task_1"})]
    assert reply.content == "Well done! I marked \u201cbuy milk\u201d as done."


@pytest.mark.parametrize("limit", ["max_tokens", "max_completion_tokens"])
async def test_an_answer_that_is_too_long_is_cut_with_reason_length(openai: AsyncOpenAI, limit: str) -> None:
    model = "demo?tokens=50"

    whole = await openai.chat.completions.create(model=model, messages=said("go"), **{limit: 5})  # type: ignore[call-overload]
    stream = await openai.chat.completions.create(model=model, messages=said("go"), stream=True, **{limit: 5})  # type: ignore[call-overload]
    chunks = [chunk async for chunk in stream]

    assert (whole.choices[0].message.content, whole.choices[0].finish_reason) == ("w0 w1 w2 w3 w4", "length")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "w0 w1 w2 w3 w4"
    assert chunks[-1].choices[0].finish_reason == "length"


async def test_an_answer_that_just_fits_is_not_cut(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(model="demo?tokens=5", messages=said("go"), max_tokens=5)

    assert completion.choices[0].finish_reason == "stop"


async def test_tool_arguments_that_are_too_long_are_cut_too(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(
        model="demo", messages=said("add eggs"), tools=TOOLS, max_tokens=1
    )

    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.arguments, completion.choices[0].finish_reason) == ('{"title":', "length")


async def test_tool_choice_none_calls_nothing(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(
        model="demo", messages=said("add eggs"), tools=TOOLS, tool_choice="none"
    )

    assert completion.choices[0].message.tool_calls is None
    assert "no to-do tools" in (completion.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        ("required", "list_tasks"),
        (forced("add_task"), "add_task"),
        (forced("complete_task"), "complete_task"),
    ],
)
async def test_a_required_call_is_made_whatever_was_said(openai: AsyncOpenAI, choice: Any, name: str) -> None:
    completion = await openai.chat.completions.create(
        model="demo", messages=said("hello"), tools=TOOLS, tool_choice=choice
    )

    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == name


async def test_parallel_calls_can_be_switched_off(openai: AsyncOpenAI) -> None:
    completion = await openai.chat.completions.create(
        model="demo", messages=said("add tasks: a, b"), tools=TOOLS, parallel_tool_calls=False
    )

    assert len(completion.choices[0].message.tool_calls or []) == 1


async def test_a_system_message_may_state_the_day(openai: AsyncOpenAI) -> None:
    messages: Any = [
        {"role": "system", "content": "Be brief. Today is 2030-01-31, a Thursday."},
        *said("add eggs for tomorrow"),
    ]

    completion = await openai.chat.completions.create(model="demo", messages=messages, tools=TOOLS)

    (call,) = completion.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert json.loads(call.function.arguments) == {"title": "eggs", "due": "2030-02-01"}


async def test_content_may_come_in_parts(openai: AsyncOpenAI) -> None:
    parts: Any = [{"role": "user", "content": [{"type": "text", "text": "add eggs"}]}]

    completion = await openai.chat.completions.create(model="demo", messages=parts, tools=TOOLS)

    assert completion.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": said("hi"), "n": 2}, "n"),
        ({"messages": said("hi"), "max_tokens": 0}, "max_tokens"),
        ({"messages": said("hi"), "tool_choice": "required"}, "tool_choice"),
        ({"messages": said("hi"), "tool_choice": "sometimes"}, "tool_choice"),
        ({"messages": said("hi"), "tools": TOOLS, "tool_choice": forced("drop_table")}, "tool_choice"),
        ({"messages": "hi"}, None),
        ({"messages": said("hi"), "model": "demo?tokns=3"}, "tokns"),
        ({"messages": said("hi"), "model": "demo?tokens=many"}, "tokens"),
        ({"messages": said("hi"), "model": "demo?fault=boredom"}, "fault"),
    ],
)  # fmt: skip
async def test_a_wrong_request_gets_an_error_object(
    openai: AsyncOpenAI, body: dict[str, Any], param: str | None
) -> None:
    with pytest.raises(BadRequestError) as caught:
        await openai.chat.completions.create(**{"model": "demo", **body})

    assert caught.value.type == "invalid_request_error"
    assert caught.value.param == param


async def test_a_body_that_is_no_json_gets_an_error_object(http: httpx2.AsyncClient) -> None:
    response = await http.post("/v1/chat/completions", content=b'{"model": "de')

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


async def test_an_unknown_path_gets_an_error_object(openai: AsyncOpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        await openai.embeddings.create(model="demo", input="hi")

    assert caught.value.type == "not_found_error"


async def test_the_models_are_listed(openai: AsyncOpenAI) -> None:
    assert [model.id async for model in openai.models.list()] == ["demo"]
    assert (await openai.models.retrieve("demo?tokens=3")).id == "demo?tokens=3"


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_health_is_ok(http: httpx2.AsyncClient, path: str) -> None:
    assert (await http.get(path)).status_code == 200


async def test_the_same_sentence_streams_as_the_same_text_it_has_in_one_piece(openai: AsyncOpenAI) -> None:
    whole = await openai.chat.completions.create(model="demo", messages=said("help"))
    stream = await openai.chat.completions.create(model="demo", messages=said("help"), stream=True)
    pieces = [chunk.choices[0].delta.content or "" async for chunk in stream]

    assert "".join(pieces) == whole.choices[0].message.content
    assert all(one != other for one, other in pairwise(pieces) if one)
