"""Many at once: nothing is lost, nothing is doubled, order holds."""

import asyncio
from collections.abc import Callable

import httpx2

from shared.ids import uuid7
from tests.support.client import Client, text_of

ClientOf = Callable[..., Client]
_MANY = 100


async def test_a_hundred_posts_to_one_conversation_are_answered_once_each_in_order(client_of: ClientOf) -> None:
    client, other_gateway = client_of("ada-many"), client_of("ada-many", gateway=1)
    first = await client.create("[[demo: echo]] zero")
    conversation = first["conversation"]["id"]

    async def post(number: int) -> str:
        chosen = client if number % 2 else other_gateway
        body = {"model": "chat", "input": f"[[demo: echo]] number {number}", "conversation": conversation}
        while True:
            answer = await chosen.http.post("/v1/responses", json={**body, "background": True})
            if answer.status_code == httpx2.codes.OK:
                return str(answer.json()["id"])
            # The limit on open responses of one user: wait for some to end, as the answer says.
            assert answer.status_code == httpx2.codes.TOO_MANY_REQUESTS, answer.text
            await asyncio.sleep(0.1)

    posted = await asyncio.gather(*(post(number) for number in range(1, _MANY + 1)))
    ended = await asyncio.gather(*(client.ended(response_id, seconds=120) for response_id in posted))

    assert {response["status"] for response in ended} == {"completed"}
    for number, response in enumerate(ended, start=1):
        assert f"number {number}" in text_of(response)
    messages = await _all_messages(client, conversation)
    assert len(messages) == 2 * (_MANY + 1)
    assert [message["role"] for message in messages] == ["user", "assistant"] * (_MANY + 1)
    for question, answer in zip(messages[2::2], messages[3::2], strict=True):
        assert question["content"].removeprefix("[[demo: echo]] ") in answer["content"]


async def test_a_hundred_conversations_at_once(client_of: ClientOf) -> None:
    clients = [client_of(f"user-{uuid7().hex[-12:]}", gateway=number % 2) for number in range(_MANY)]

    answers = await asyncio.gather(
        *(client.chat(f"add a task: item {number}") for number, client in enumerate(clients))
    )

    for number, answer in enumerate(answers):
        assert f"item {number}" in answer["response"]
        assert len(answer["tool_calls"]) == 1


async def test_a_conversation_of_two_hundred_messages_is_remembered(client_of: ClientOf) -> None:
    client = client_of(f"user-{uuid7().hex[-12:]}")
    begun = await client.create("[[demo: echo]] the code word is apricot")
    conversation = begun["conversation"]["id"]
    for number in range(2, 100):
        await client.create(f"[[demo: echo]] {number}", conversation=conversation)

    count = await client.create("how many messages have I sent?", conversation=conversation)

    assert "100" in text_of(count)
    assert len(await _all_messages(client, conversation)) == 200


async def _all_messages(client: Client, conversation: str) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = []
    while True:
        page = await client.http.get(
            f"/api/conversations/{conversation}/messages",
            params={"order": "asc", "limit": 100, "offset": len(messages)},
        )
        assert page.status_code == httpx2.codes.OK, page.text
        found = page.json()["items"]
        messages += found
        if len(found) < 100:
            return messages
