"""The unmodified openai client is a Parley client: only its address and its key differ."""

from collections.abc import AsyncIterator

import openai
import pytest
from openai import AsyncOpenAI

from shared.ids import uuid7
from tests.support.stack import Stack, token_of


@pytest.fixture
async def openai_client(stack: Stack) -> AsyncIterator[AsyncOpenAI]:
    user = f"user-{uuid7().hex[-12:]}"
    async with AsyncOpenAI(
        base_url=f"{stack.gateway().url}/v1", api_key=token_of(user), _strict_response_validation=True
    ) as client:
        yield client


async def test_a_foreground_response(openai_client: AsyncOpenAI) -> None:
    response = await openai_client.responses.create(model="chat", input="hello")

    assert response.status == "completed"
    assert response.output_text
    assert response.usage is not None
    assert response.usage.total_tokens > 0


async def test_a_tool_turn_and_a_follow_up(openai_client: AsyncOpenAI) -> None:
    added = await openai_client.responses.create(model="todo", input="add a task: buy milk")
    listed = await openai_client.responses.create(
        model="todo", input="what is on my list?", previous_response_id=added.id
    )

    assert [item.type for item in added.output] == ["mcp_call", "message"]
    assert "buy milk" in listed.output_text


async def test_a_streamed_response(openai_client: AsyncOpenAI) -> None:
    async with openai_client.responses.stream(model="todo", input="add a task: buy milk") as stream:
        types = [event.type async for event in stream]
        final = await stream.get_final_response()

    assert types[0] == "response.created"
    assert types[-1] == "response.completed"
    assert "buy milk" in final.output_text


async def test_a_background_response_resumed_in_the_middle(openai_client: AsyncOpenAI) -> None:
    created = await openai_client.responses.create(
        model="chat", input="[[demo: tokens=60 delay_ms=5]] go", background=True, stream=True
    )
    seen = []
    async for event in created:
        seen.append(event)
        if event.sequence_number == 10:
            break
    await created.close()
    response_id = seen[0].response.id  # type: ignore[union-attr]

    rest = await openai_client.responses.retrieve(response_id, stream=True, starting_after=10)
    seen += [event async for event in rest]
    replay = await openai_client.responses.retrieve(response_id, stream=True)

    assert [event.model_dump() for event in seen] == [event.model_dump() async for event in replay]
    assert seen[-1].type == "response.completed"


async def test_what_is_not_there_is_not_found(openai_client: AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        await openai_client.responses.retrieve(f"resp_{uuid7().hex}")


async def test_a_bad_key_is_refused(stack: Stack) -> None:
    async with AsyncOpenAI(base_url=f"{stack.gateway().url}/v1", api_key="nonsense") as client:
        with pytest.raises(openai.AuthenticationError) as refused:
            await client.responses.create(model="chat", input="hello")

    assert refused.value.code == "invalid_api_key"
