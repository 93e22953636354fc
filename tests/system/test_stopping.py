"""Stopping an answer in each of its states, and messages that do not wait for their turn."""

import asyncio
import signal
from collections.abc import Callable

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from shared.ids import uuid7
from tests.support.client import Client, JsonObject, object_of, text_of
from tests.support.stack import Stack, token_of

ClientOf = Callable[..., Client]
_LONG = "[[demo: tokens=3000 delay_ms=20]] go"


@pytest.fixture
def client(client_of: ClientOf) -> Client:
    return client_of(f"user-{uuid7().hex[-12:]}")


async def begun(client: Client, **fields: object) -> JsonObject:
    """A long answer in the background that has begun to say something."""
    created = await client.create(_LONG, background=True, **fields)
    async with client.stream(created["id"]) as events:
        async for event in events:
            if event["type"] == "response.output_text.delta":
                return created
    raise AssertionError("it ended at once")


async def cancelled(client: Client, response: JsonObject) -> JsonObject:
    answer = await client.http.post(f"/v1/responses/{response['id']}/cancel")
    assert answer.status_code == httpx2.codes.OK, answer.text
    return object_of(answer)


async def test_an_answer_that_waits_for_its_turn_is_cancelled_and_the_others_go_on(client: Client) -> None:
    running = await begun(client)
    conversation = running["conversation"]["id"]
    waiting = await client.create("[[demo: echo]] one", background=True, conversation=conversation)
    last = await client.create("[[demo: echo]] two", background=True, conversation=conversation)

    assert (await cancelled(client, waiting))["status"] == "cancelled"
    assert (await client.response(running["id"]))["status"] == "in_progress"
    assert (await cancelled(client, running))["status"] == "cancelled"

    assert "two" in text_of(await client.ended(last["id"]))
    assert (await client.events(waiting["id"]))[-1]["response"]["output"] == []


async def test_an_answer_that_waits_for_a_tool_is_cancelled(client: Client, stack: Stack) -> None:
    # Each worker knows its tools now.
    await asyncio.gather(*(client.chat("what is on my list?") for _ in range(8)))
    [tools] = stack.of_kind("task-tools")
    tools.signal(signal.SIGSTOP)
    try:
        created = await client.create("add a task: buy milk", model="todo", background=True)
        async with client.stream(created["id"]) as events:
            async for event in events:
                if event["type"] == "response.mcp_call.in_progress":
                    break
            else:
                raise AssertionError("no tool was called")
        assert (await cancelled(client, created))["status"] == "cancelled"
    finally:
        tools.signal(signal.SIGCONT)

    assert (await client.response(created["id"]))["status"] == "cancelled"


async def test_a_cancel_of_what_has_ended_changes_nothing(client: Client) -> None:
    ended = await client.ended((await client.create("hello", background=True))["id"])

    assert await cancelled(client, ended) == ended


async def test_a_second_cancel_gives_the_same(client: Client) -> None:
    running = await begun(client)

    first, second = await cancelled(client, running), await cancelled(client, running)

    assert first["status"] == second["status"] == "cancelled"
    assert first["output"] == second["output"]


async def test_a_message_that_interrupts_is_answered_after_what_it_stopped(client: Client) -> None:
    running = await begun(client)
    conversation = running["conversation"]["id"]
    waiting = await client.create("[[demo: echo]] never said", background=True, conversation=conversation)

    answer = await client.create("[[demo: echo]] stop that", conversation=conversation, multitask_strategy="interrupt")

    assert "stop that" in text_of(answer)
    assert (await client.ended(running["id"]))["status"] == "cancelled"
    assert (await client.ended(waiting["id"]))["status"] == "cancelled"
    assert text_of(await client.response(running["id"])).startswith("w0")


async def test_openais_client_hears_of_a_busy_conversation_once(stack: Stack) -> None:
    user = f"user-{uuid7().hex[-12:]}"
    async with AsyncOpenAI(base_url=f"{stack.gateway().url}/v1", api_key=token_of(user)) as api:
        running = await api.responses.create(model="chat", input=_LONG, background=True)
        assert running.conversation is not None

        with pytest.raises(openai.ConflictError) as caught:
            await api.responses.create(
                model="chat",
                input="me too",
                conversation=running.conversation.id,
                extra_body={"multitask_strategy": "reject"},
            )
        await api.responses.cancel(running.id)

    assert caught.value.code == "conversation_locked"


async def test_deleting_a_conversation_stops_its_answer_and_closes_its_streams_everywhere(
    client: Client, client_of: ClientOf
) -> None:
    running = await begun(client)
    conversation = running["conversation"]["id"]
    elsewhere = client_of(client.user_id, gateway=1)

    async with elsewhere.stream(running["id"]) as events:
        await anext(events)
        deleted = await client.http.delete(f"/v1/conversations/{conversation}")
        async for _ in events:
            pass

    assert deleted.status_code == httpx2.codes.OK
    assert (await elsewhere.http.get(f"/v1/responses/{running['id']}")).status_code == httpx2.codes.NOT_FOUND
    await client.http.post(f"/api/conversations/{conversation}/restore")
    assert (await client.ended(running["id"]))["status"] == "cancelled"
