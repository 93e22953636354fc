"""A message goes in, a job crosses RabbitMQ, the answer comes back: over real HTTP, between real processes."""

from collections.abc import Callable

import asyncpg
import httpx2

from shared.ids import uuid7
from tests.support.backends import Backends
from tests.support.client import Client, text_of

ClientOf = Callable[..., Client]


def a_user() -> str:
    return f"user-{uuid7().hex[-12:]}"


async def test_a_message_adds_a_task_and_the_answer_says_so(client_of: ClientOf, backends: Backends) -> None:
    client = client_of(a_user())

    answer = await client.chat("add a task: buy milk")

    assert answer["status"] == "success"
    assert "buy milk" in answer["response"]
    assert [call["name"] for call in answer["tool_calls"]] == ["add_task"]
    assert [message["role"] for message in answer["messages"]] == ["user", "assistant"]
    owner = await asyncpg.connect(backends.database_urls["owner"])
    tasks = await owner.fetch("select title, completed from tasks where user_id = $1", client.user_id)
    await owner.close()
    assert [tuple(task) for task in tasks] == [("buy milk", False)]


async def test_the_history_is_rebuilt_for_the_next_message(client_of: ClientOf) -> None:
    client = client_of(a_user())
    first = await client.chat("add a task: buy milk")
    conversation_id = first["conversation_id"]
    await client.chat("also add: call the dentist tomorrow", conversation_id)

    listing = await client.chat("what is on my list?", conversation_id)
    done = await client.chat("mark the first one done", conversation_id)
    rest = await client.chat("what is left?", conversation_id)

    assert "buy milk" in listing["response"]
    assert "call the dentist" in listing["response"]
    assert [call["name"] for call in done["tool_calls"]][-1] == "complete_task"
    assert "buy milk" not in rest["response"]
    assert "call the dentist" in rest["response"]


async def test_the_model_hears_the_whole_conversation(client_of: ClientOf) -> None:
    client = client_of(a_user())
    first = await client.create("the first thing I say is apricot")
    conversation = first["conversation"]["id"]
    await client.create("and the second is a plum", conversation=conversation)

    answer = await client.create("how many messages have I sent?", conversation=conversation)

    assert "3" in text_of(answer)


async def test_a_chat_without_the_user_in_its_path_takes_the_token_s(client_of: ClientOf) -> None:
    client = client_of(a_user())
    begun = await client.chat("add a task: water the plants")

    body = {
        "message": "what is on my list?",
        "conversation_context": {"conversation_id": begun["conversation_id"]},
    }
    answer = await client.http.post("/api/v1/chat", json=body)

    assert answer.status_code == httpx2.codes.OK
    assert answer.json()["conversation_id"] == begun["conversation_id"]
    assert "water the plants" in answer.json()["response"]


async def test_an_asynchronous_chat_can_be_polled_and_followed(client_of: ClientOf) -> None:
    client = client_of(a_user())

    accepted = await client.http.post(
        f"/api/{client.user_id}/chat", json={"message": "hello"}, headers={"prefer": "respond-async"}
    )

    assert accepted.status_code == httpx2.codes.ACCEPTED
    job_id = accepted.json()["job_id"]
    assert accepted.headers["location"] == f"/v1/responses/{job_id}"
    ended = await client.ended(job_id)
    assert ended["status"] == "completed"
    events = await client.events(job_id)
    assert events[-1]["response"] == ended


async def test_the_stream_is_the_journal(client_of: ClientOf) -> None:
    client = client_of(a_user())
    created = await client.create("add a task: buy milk", model="todo", background=True)
    assert created["status"] == "queued"

    live = await client.events(created["id"])

    assert [event["sequence_number"] for event in live] == list(range(len(live)))
    types = [event["type"] for event in live]
    assert types[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert "response.mcp_call.completed" in types
    assert types[-1] == "response.completed"
    deltas = "".join(event["delta"] for event in live if event["type"] == "response.output_text.delta")
    assert deltas == text_of(live[-1]["response"])
    elsewhere = client_of(client.user_id, gateway=1)
    assert await elsewhere.events(created["id"]) == live
    for cut in (0, 3, len(live) - 2, len(live) - 1, len(live) + 5):
        assert await elsewhere.events(created["id"], starting_after=cut) == live[cut + 1 :]


async def test_a_repeated_submission_gives_the_first_response(client_of: ClientOf) -> None:
    client = client_of(a_user())
    body = {"model": "chat", "input": "hello", "background": True}
    headers = {"idempotency-key": uuid7().hex}

    first = await client.http.post("/v1/responses", json=body, headers=headers)
    again = await client.http.post("/v1/responses", json=body, headers=headers)
    other = await client.http.post("/v1/responses", json={**body, "input": "hello!"}, headers=headers)

    assert again.json()["id"] == first.json()["id"]
    assert other.status_code == httpx2.codes.UNPROCESSABLE_CONTENT


async def test_a_cancel_stops_a_running_response_and_keeps_its_text(client_of: ClientOf) -> None:
    client = client_of(a_user())
    created = await client.create("[[demo: tokens=2000 delay_ms=20]] go", background=True)
    async with client.stream(created["id"]) as events:
        async for event in events:
            if event["type"] == "response.output_text.delta":
                break

    cancelled = await client.http.post(f"/v1/responses/{created['id']}/cancel")

    assert cancelled.json()["status"] == "cancelled"
    events_stored = await client.events(created["id"])
    assert events_stored[-1]["type"] == "response.incomplete"
    assert events_stored[-1]["response"]["status"] == "cancelled"
    assert text_of(events_stored[-1]["response"]).startswith("w0")
