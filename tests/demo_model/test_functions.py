"""Tools of which the model knows only name, description and schema; images; reasoning; formats; chores."""

import json
from base64 import b64encode
from typing import Any

import httpx2
import pytest
from openai import AsyncOpenAI

from demo_model.knobs import read_knobs
from demo_model.wire import RequestError
from tests.demo_model.test_app import frames, said

PNG = b64encode(
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x02\x00\x00\x00\x03\x08\x06\x00\x00\x00" + b"\x00" * 8
).decode()


def function(name: str, description: str, **fields: Any) -> Any:
    parameters = {"type": "object", "properties": fields, "required": list(fields)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


WEATHER = function(
    "get_weather",
    "The weather of a city.",
    city={"type": "string"},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"]},
)
DICE = function("roll_dice", "Rolls dice.", sides={"type": "integer"}, secret={"type": "boolean"})
TASKS = function("add_task", "Adds a task to the list.", title={"type": "string"})


async def asked(openai: AsyncOpenAI, text: str, *tools: Any, **options: Any) -> Any:
    completion = await openai.chat.completions.create(model="demo", messages=said(text), tools=tools, **options)
    return completion.choices[0].message


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("What is the weather in Graz?", [("get_weather", {"city": "Graz", "unit": "celsius"})]),
        ("weather for New York in fahrenheit", [("get_weather", {"city": "New York", "unit": "fahrenheit"})]),
        ("Roll a 20 sided dice", [("roll_dice", {"sides": 20, "secret": False})]),
        ("add buy milk", [("add_task", {"title": "buy milk"})]),
        ("hello", []),
    ],
)
async def test_the_words_of_a_sentence_choose_the_function(openai: AsyncOpenAI, text: str, calls: list[Any]) -> None:
    message = await asked(openai, text, WEATHER, DICE, TASKS)

    made = [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]
    assert made == calls


async def test_two_places_are_two_calls(openai: AsyncOpenAI) -> None:
    city = function("get_weather", "The weather of a city.", city={"type": "string"})

    message = await asked(openai, "What is the weather in Graz and Linz?", city)

    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{"city": "Graz"}, {"city": "Linz"}]


async def test_the_answer_tells_what_the_function_said(openai: AsyncOpenAI) -> None:
    first = await asked(openai, "What is the weather in Graz?", WEATHER)
    call = first.tool_calls[0]
    messages: Any = [
        *said("What is the weather in Graz?"),
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]

    completion = await openai.chat.completions.create(model="demo", messages=messages, tools=[WEATHER])

    assert completion.choices[0].message.content == "get_weather answered: sunny"


async def test_a_knob_dictates_calls_and_their_arguments(openai: AsyncOpenAI) -> None:
    text = '[[demo: call=get_weather,roll_dice args={"list": [1], "city": "Bad Ischl"}]] go'

    message = await asked(openai, text, WEATHER, DICE)

    assert [call.function.name for call in message.tool_calls] == ["get_weather", "roll_dice"]
    assert json.loads(message.tool_calls[0].function.arguments) == {"list": [1], "city": "Bad Ischl"}


def test_arguments_that_are_no_object_are_refused() -> None:
    with pytest.raises(RequestError):
        read_knobs("demo", {}, ["call=fly args=[1]"])


async def test_reasoning_comes_before_the_answer_and_is_paid_for(http: httpx2.AsyncClient) -> None:
    *chunks, usage, _ = await frames(
        http, messages=said("[[demo: reasoning=3 tokens=2]] go"), stream_options={"include_usage": True}
    )

    deltas = [chunk["choices"][0]["delta"] for chunk in chunks[1:-1]]
    assert [delta.get("reasoning_content") for delta in deltas[:3]] == ["r0", " r1", " r2"]
    assert [delta.get("content") for delta in deltas[3:]] == ["w0", " w1"]
    assert usage["usage"]["completion_tokens"] == 5
    assert usage["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


async def test_effort_makes_it_think(http: httpx2.AsyncClient) -> None:
    body = {"model": "demo", "messages": said("thanks"), "reasoning_effort": "low"}

    whole = (await http.post("/v1/chat/completions", json=body)).json()

    assert len(whole["choices"][0]["message"]["reasoning_content"].split()) == 8
    assert whole["usage"]["completion_tokens_details"]["reasoning_tokens"] == 8


async def test_reasoning_counts_against_the_limit(openai: AsyncOpenAI) -> None:
    text = "[[demo: reasoning=3 tokens=9]] go"

    long = await openai.chat.completions.create(model="demo", messages=said(text), max_completion_tokens=5)
    short = await openai.chat.completions.create(model="demo", messages=said(text), max_completion_tokens=2)

    assert (long.choices[0].message.content, long.choices[0].finish_reason) == ("w0 w1", "length")
    assert (short.choices[0].message.content, short.choices[0].finish_reason) == ("", "length")


async def test_images_and_files_are_told_by_kind_and_size(openai: AsyncOpenAI) -> None:
    url = f"data:image/png;base64,{PNG}"
    file = {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{b64encode(b'%PDF').decode()}"}
    content: Any = [
        {"type": "text", "text": "[[demo: delay_ms=0]] what is this?"},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "file", "file": file},
    ]

    completion = await openai.chat.completions.create(model="demo", messages=[{"role": "user", "content": content}])

    assert completion.choices[0].message.content == (
        "You sent 2 images (image/png, 2 x 3 pixels, 37 bytes, at an address that I do not open)"
        " and 1 file (a.pdf: application/pdf, 4 bytes)."
    )


async def test_an_answer_has_the_format_that_was_asked_for(openai: AsyncOpenAI) -> None:
    schema = {"type": "object", "properties": {"day": {"type": "string"}}, "required": ["day"]}
    strict: Any = {"type": "json_schema", "json_schema": {"name": "day", "schema": schema}}

    by_schema = await asked(openai, "thanks", response_format=strict)
    by_hand = await asked(openai, "thanks", response_format={"type": "json_object"})

    assert json.loads(by_schema.content) == {"day": ""}
    assert json.loads(by_hand.content) == {"answer": "You are welcome."}


@pytest.mark.parametrize(
    ("asked_for", "said_in_it", "answer"),
    [
        ("Write a title for it.", "Please, could you add milk and eggs to the list?", "Add milk and eggs to the"),
        ("Write a title for it.", "hello", "A conversation"),
        (
            "Summarise a conversation.",
            '{"from": "user", "text": "add milk"}\n{"from": "assistant", "text": "Done."}',
            "Summary: user: add milk; assistant: Done.",
        ),
        ("Summarise a conversation.", "", "Summary: nothing was said."),
    ],
)
async def test_titles_and_summaries_are_made_of_the_words_there_are(
    openai: AsyncOpenAI, asked_for: str, said_in_it: str, answer: str
) -> None:
    messages: Any = [{"role": "system", "content": asked_for}, {"role": "user", "content": said_in_it}]

    completion = await openai.chat.completions.create(model="demo", messages=messages)

    assert completion.choices[0].message.content == answer
