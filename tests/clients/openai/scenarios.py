"""OpenAI's client for Python, of any generation; `STRICT` in the environment switches strict validation on."""

import asyncio
import os
from typing import Any

import openai
from openai import AsyncOpenAI
from pydantic import BaseModel

from tests.clients.harness import (
    ADD_MILK,
    BASE_URL,
    FAILING,
    LONG,
    OTHER_TOKEN,
    RED_PIXEL,
    SHOW_LIST,
    THINKING,
    TOKEN,
    WEATHER,
    WEATHER_PARAMETERS,
    WEATHER_RESULT,
    holds,
    raised,
    run,
    same,
    scenario,
)

IS_STRICT = bool(os.environ.get("STRICT"))
GET_WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": WEATHER_PARAMETERS,
    "strict": True,
}


def client_of(token: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=BASE_URL, api_key=token, _strict_response_validation=IS_STRICT)


client = client_of(TOKEN)


async def ended(response_id: str) -> Any:
    """The response, polled until it has ended."""
    while True:
        response = await client.responses.retrieve(response_id)
        if response.status not in {"queued", "in_progress"}:
            return response


async def in_mid_text(text: str) -> Any:
    """A background response that has begun to speak."""
    stream = await client.responses.create(model="chat", input=text, background=True, stream=True)
    response: Any = None
    async for event in stream:
        if event.type == "response.created":
            response = event.response
        if event.type == "response.output_text.delta":
            break
    await stream.close()
    return response


def is_journal(events: list[Any]) -> None:
    """Fails unless the numbers are gapless, and one terminal event is last."""
    same([event.sequence_number for event in events], list(range(len(events))))
    terminal = {"response.completed", "response.failed", "response.incomplete"}
    same([event.type in terminal for event in events], [False] * (len(events) - 1) + [True])


@scenario
async def answers_a_message() -> None:
    response = await client.responses.create(model="chat", input="hello", metadata={"topic": "greeting"})

    same(response.status, "completed")
    assert response.output_text
    assert response.usage is not None
    same(response.usage.total_tokens, response.usage.input_tokens + response.usage.output_tokens)
    same(response.metadata, {"topic": "greeting"})
    assert response._request_id  # noqa: SLF001 - so the client calls it


@scenario
async def answers_items_with_instructions() -> None:
    response = await client.responses.create(
        model="chat",
        instructions="Be brief.",
        input=[
            {"role": "system", "content": "Speak plainly."},
            {"role": "user", "content": [{"type": "input_text", "text": "[[demo: echo]] a word in parts"}]},
        ],
    )

    holds("a word in parts", response.output_text)
    same(response.instructions, "Be brief.")
    items = [item async for item in client.responses.input_items.list(response.id, limit=1, order="asc")]
    same([getattr(item, "role", None) for item in items], ["system", "user"])


@scenario
async def streams_text() -> None:
    stream = await client.responses.create(model="chat", input="[[demo: tokens=30]] go", stream=True)
    events: list[Any] = [event async for event in stream]

    is_journal(events)
    same(events[0].type, "response.created")
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    same(said, events[-1].response.output_text)
    same({event.response.id for event in (events[0], events[-1])}, {events[0].response.id})
    [message] = events[-1].response.output
    same({event.item_id for event in events if hasattr(event, "item_id")}, {message.id})


@scenario
async def streams_through_the_helper() -> None:
    async with client.responses.stream(model="todo", input=ADD_MILK) as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_response()

    same((types[0], types[-1]), ("response.created", "response.completed"))
    holds("buy milk", final.output_text)


@scenario
async def streams_to_a_blocking_client() -> None:
    def said() -> str:
        with (
            openai.OpenAI(base_url=BASE_URL, api_key=TOKEN, _strict_response_validation=IS_STRICT) as blocking,
            blocking.responses.create(model="chat", input="[[demo: tokens=30]] go", stream=True) as stream,
        ):
            return "".join(event.delta for event in stream if event.type == "response.output_text.delta")

    same(len((await asyncio.to_thread(said)).split()), 30)


@scenario
async def has_tools_run_by_the_server() -> None:
    added = await client.responses.create(model="todo", input=ADD_MILK)
    listed = await client.responses.create(model="todo", input=SHOW_LIST, previous_response_id=added.id)

    same([item.type for item in added.output], ["mcp_call", "message"])
    holds("buy milk", listed.output_text)
    same(listed.previous_response_id, added.id)


@scenario
async def runs_a_function_for_the_model() -> None:
    asked = await client.responses.create(model="chat", input=WEATHER, tools=[GET_WEATHER])
    [call] = asked.output

    same((asked.status, call.type), ("completed", "function_call"))
    assert call.type == "function_call"
    same((call.name, call.arguments.replace(" ", "")), ("get_weather", '{"city":"Oslo"}'))
    answered = await client.responses.create(
        model="chat",
        previous_response_id=asked.id,
        input=[{"type": "function_call_output", "call_id": call.call_id, "output": WEATHER_RESULT}],
        tools=[GET_WEATHER],
    )
    holds(WEATHER_RESULT, answered.output_text)


@scenario
async def runs_a_function_without_storing() -> None:
    question: Any = {"role": "user", "content": WEATHER}
    asked = await client.responses.create(model="chat", input=[question], tools=[GET_WEATHER], store=False)
    [call] = asked.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": WEATHER_RESULT}

    sent: Any = [question, call.model_dump(exclude_none=True), result]
    answered = await client.responses.create(model="chat", input=sent, tools=[GET_WEATHER], store=False)

    holds(WEATHER_RESULT, answered.output_text)


@scenario
async def streams_a_function_call() -> None:
    async with client.responses.stream(model="chat", input=WEATHER, tools=[GET_WEATHER]) as stream:
        events: list[Any] = [event async for event in stream]
        final = await stream.get_final_response()

    is_journal(events)
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    [call] = final.output
    assert call.type == "function_call"
    same(arguments, call.arguments)


@scenario
async def approves_a_tool_call() -> None:
    tasks: Any = {"type": "mcp", "server_label": "tasks", "require_approval": "always"}
    asked = await client.responses.create(model="todo", input="add a task: buy bread", tools=[tasks])
    [request] = asked.output
    assert request.type == "mcp_approval_request"
    same((asked.status, request.name, request.server_label), ("completed", "add_task", "tasks"))

    answer: Any = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    made = await client.responses.create(model="todo", input=[answer], previous_response_id=asked.id, tools=[tasks])

    call = made.output[0]
    assert call.type == "mcp_call"
    same((call.name, getattr(call, "approval_request_id", request.id)), ("add_task", request.id))
    holds("buy bread", made.output_text)


@scenario
async def shows_its_reasoning() -> None:
    async with client.responses.stream(
        model="chat", input=THINKING, reasoning={"effort": "low", "summary": "auto"}
    ) as stream:
        events: list[Any] = [event async for event in stream]
        final = await stream.get_final_response()

    is_journal(events)
    thought, answer = final.output
    assert thought.type == "reasoning"
    said = "".join(event.delta for event in events if event.type == "response.reasoning_summary_text.delta")
    same(said, "".join(part.text for part in thought.summary))
    same((len(said.split()), answer.type), (5, "message"))


@scenario
async def sends_its_reasoning_back() -> None:
    question: Any = {"role": "user", "content": THINKING}
    first = await client.responses.create(
        model="chat",
        input=[question],
        reasoning={"effort": "low"},
        store=False,
    )
    same([item.type for item in first.output], ["reasoning", "message"])

    said: Any = [item.model_dump(exclude_none=True) for item in first.output]
    again: Any = {"role": "user", "content": "how many messages have I sent?"}
    second = await client.responses.create(model="chat", input=[question, *said, again], store=False)

    holds("2", second.output_text)


@scenario
async def answers_in_a_schema() -> None:
    class Weather(BaseModel):
        city: str
        degrees: int

    response = await client.responses.parse(model="chat", input="the weather in Oslo?", text_format=Weather)

    assert isinstance(response.output_parsed, Weather), response.output_text
    assert response.text is not None
    assert response.text.format is not None
    same(response.text.format.type, "json_schema")


@scenario
async def looks_at_an_image() -> None:
    part: Any = {"type": "input_image", "image_url": RED_PIXEL, "detail": "auto"}
    message: Any = {"role": "user", "content": [{"type": "input_text", "text": "what is in this image?"}, part]}
    response = await client.responses.create(model="chat", input=[message])

    same(response.status, "completed")
    [item] = [item async for item in client.responses.input_items.list(response.id)]
    assert item.type == "message"
    same([part.type for part in item.content], ["input_text", "input_image"])


@scenario
async def polls_a_background_response() -> None:
    created = await client.responses.create(model="chat", input="[[demo: tokens=20]] go", background=True)
    same((created.status, created.output), ("queued", []))

    response = await ended(created.id)

    same((response.status, response.background), ("completed", True))
    same(len(response.output_text.split()), 20)


@scenario
async def resumes_a_background_stream() -> None:
    stream: Any = await client.responses.create(
        model="chat", input="[[demo: tokens=60 delay_ms=5]] go", background=True, stream=True
    )
    seen: list[Any] = []
    async for event in stream:
        seen.append(event)
        if event.sequence_number == 10:
            break
    await stream.close()
    response_id = seen[0].response.id

    seen += [event async for event in await client.responses.retrieve(response_id, stream=True, starting_after=10)]
    replay = [event async for event in await client.responses.retrieve(response_id, stream=True)]

    is_journal(seen)
    same([event.model_dump() for event in seen], [event.model_dump() for event in replay])


@scenario
async def resumes_through_the_helper() -> None:
    created = await client.responses.create(model="chat", input="[[demo: tokens=60]] go", background=True)

    async with client.responses.stream(response_id=created.id, starting_after=10) as stream:
        events: list[Any] = [event async for event in stream]
        final = await stream.get_final_response()

    same(events[0].sequence_number, 11)
    same(final.output_text, (await ended(created.id)).output_text)


@scenario
async def keeps_a_conversation() -> None:
    conversation = await client.conversations.create(metadata={"topic": "numbers"})
    same(conversation.metadata, {"topic": "numbers"})
    for number in ("one", "two", "three"):
        await client.responses.create(model="chat", input=f"[[demo: echo]] {number}", conversation=conversation.id)

    items: list[Any] = [item async for item in client.conversations.items.list(conversation.id, limit=4, order="asc")]
    same([item.role for item in items], ["user", "assistant"] * 3)
    holds("two", items[3].content[0].text)
    same((await client.conversations.items.retrieve(items[0].id, conversation_id=conversation.id)).id, items[0].id)
    changed = await client.conversations.update(conversation.id, metadata={"topic": "counting"})
    same(changed.metadata, {"topic": "counting"})
    same((await client.conversations.retrieve(conversation.id)).metadata, {"topic": "counting"})
    assert (await client.conversations.delete(conversation.id)).deleted
    await is_not_found(client.conversations.retrieve(conversation.id))


@scenario
async def puts_items_into_a_conversation() -> None:
    first: Any = {"type": "message", "role": "user", "content": "the code word is apricot"}
    conversation = await client.conversations.create(items=[first])
    second: Any = {"type": "message", "role": "user", "content": "and the number is seven"}
    added = await client.conversations.items.create(conversation.id, items=[second])

    same(len(added.data), 1)
    listed = [item.id async for item in client.conversations.items.list(conversation.id, limit=1, order="asc")]
    same((len(listed), listed[1]), (2, added.data[0].id))
    assert added.last_id is not None
    left = await client.conversations.items.delete(added.last_id, conversation_id=conversation.id)
    same(left.id, conversation.id)
    same([item.id async for item in client.conversations.items.list(conversation.id)], listed[:1])


@scenario
async def reads_an_empty_conversation() -> None:
    conversation = await client.conversations.create()

    same([item async for item in client.conversations.items.list(conversation.id)], [])


@scenario
async def follows_up() -> None:
    first = await client.responses.create(model="chat", input="[[demo: echo]] the code word is apricot")
    second = await client.responses.create(
        model="chat", input="how many messages have I sent?", previous_response_id=first.id
    )

    holds("2", second.output_text)
    assert second.conversation is not None
    assert first.conversation is not None
    same(second.conversation.id, first.conversation.id)


@scenario
async def cancels_in_mid_text() -> None:
    running = await in_mid_text(LONG)

    cancelled = await client.responses.cancel(running.id)

    same(cancelled.status, "cancelled")
    final = await client.responses.retrieve(running.id)
    same((final.status, final.incomplete_details), ("cancelled", None))
    assert final.output_text.startswith("w0")
    replay: list[Any] = [event async for event in await client.responses.retrieve(running.id, stream=True)]
    is_journal(replay)
    same((replay[-1].type, replay[-1].response.status), ("response.incomplete", "cancelled"))
    same((await client.responses.cancel(running.id)).status, "cancelled")


@scenario
async def cancels_in_the_queue() -> None:
    running = await in_mid_text(LONG)
    waiting = await client.responses.create(
        model="chat", input="hello", background=True, conversation=running.conversation.id
    )

    same((await client.responses.cancel(waiting.id)).status, "cancelled")
    same((await ended(waiting.id)).output, [])
    await client.responses.cancel(running.id)


@scenario
async def hears_of_a_failure() -> None:
    failed = await client.responses.create(model="chat", input=FAILING)

    same(failed.status, "failed")
    assert failed.error is not None
    same(failed.error.code, "invalid_prompt")
    replay: list[Any] = [event async for event in await client.responses.retrieve(failed.id, stream=True)]
    is_journal(replay)
    same(replay[-1].type, "response.failed")


@scenario
async def deletes_a_response() -> None:
    response = await client.responses.create(model="chat", input="hello")

    await client.responses.delete(response.id)

    await is_not_found(client.responses.retrieve(response.id))
    await is_not_found(client.responses.create(model="chat", input="hello", previous_response_id=response.id))


@scenario
async def leaves_nothing_that_is_not_to_be_stored() -> None:
    response = await client.responses.create(model="chat", input="hello", store=False)

    assert response.output_text
    await is_not_found(client.responses.retrieve(response.id))


@scenario
async def finds_nothing_of_another_user() -> None:
    theirs = await client.responses.create(model="chat", input="hello")
    assert theirs.conversation is not None
    async with client_of(OTHER_TOKEN) as other:
        told = {
            await is_not_found(other.responses.retrieve(theirs.id)),
            await is_not_found(other.responses.retrieve("resp_" + "0" * 32)),
            await is_not_found(other.responses.cancel(theirs.id)),
            await is_not_found(other.responses.delete(theirs.id)),
        }
        await is_not_found(other.responses.create(model="chat", input="hello", previous_response_id=theirs.id))
        await is_not_found(other.responses.create(model="chat", input="hello", conversation=theirs.conversation.id))
        await is_not_found(other.conversations.retrieve(theirs.conversation.id))

    same(len(told), 1)


async def is_not_found(request: Any) -> str:
    """What the answer says; fails unless it is a 404."""
    return (await raised(openai.NotFoundError, request)).message


@scenario
async def is_told_what_is_wrong() -> None:
    request = client.responses.create(
        model="chat", input="hello", conversation="conv_" + "0" * 32, previous_response_id="resp_" + "0" * 32
    )

    error = await raised(openai.BadRequestError, request)

    holds("mutually exclusive", error.message)
    assert error.request_id


@scenario
async def is_refused_with_a_bad_key() -> None:
    async with client_of("nonsense") as nobody:
        error = await raised(openai.AuthenticationError, nobody.responses.create(model="chat", input="hello"))

    same(error.code, "invalid_api_key")


@scenario
async def gets_the_same_response_for_the_same_key() -> None:
    headers = {"Idempotency-Key": f"key-of-{os.urandom(8).hex()}"}
    first = await client.responses.create(model="todo", input=ADD_MILK, extra_headers=headers)
    second = await client.responses.create(model="todo", input=ADD_MILK, extra_headers=headers)

    same(second.id, first.id)


@scenario
async def lists_models() -> None:
    names = [model.id async for model in client.models.list()]

    same({"chat", "todo"} - set(names), set())


@scenario
async def completes_a_chat() -> None:
    messages: Any = [{"role": "user", "content": "[[demo: echo]] as in former times"}]
    whole = await client.chat.completions.create(model="chat", messages=messages)
    stream: Any = await client.chat.completions.create(model="chat", messages=messages, stream=True)
    streamed = "".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices])

    holds("as in former times", whole.choices[0].message.content)
    same(streamed, whole.choices[0].message.content)


@scenario
async def keeps_a_file() -> None:
    kept = await client.files.create(file=("notes.txt", b"the code word is apricot"), purpose="user_data")
    message: Any = {
        "role": "user",
        "content": [{"type": "input_text", "text": "read this"}, {"type": "input_file", "file_id": kept.id}],
    }

    same((await client.responses.create(model="chat", input=[message])).status, "completed")
    same((await client.files.retrieve(kept.id)).filename, "notes.txt")
    same((await client.files.content(kept.id)).content, b"the code word is apricot")
    assert (await client.files.delete(kept.id)).deleted


if __name__ == "__main__":
    run()
