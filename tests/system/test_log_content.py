"""What users say, name or show as a credential is in no line of a log and in no metric, whatever goes wrong."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any

import aio_pika
import asyncpg
import httpx2
import msgspec

from shared.contracts import JournalChunk, JournalChunks, encode
from shared.ids import Prefix, from_wire, uuid7
from shared.messaging import journal_queue, partition_of
from tests.support.backends import Backends
from tests.support.client import Client
from tests.support.stack import Stack, token_of
from tests.support.waiting import wait_until

_PARTITION_COUNT = 4
_KINDS = ("gateway", "chat-worker", "persistence", "task-tools")

ClientOf = Callable[..., Client]


class Canaries:
    """Words that nothing but a test says, each for one place."""

    def __init__(self) -> None:
        self._run = uuid7().hex[-10:]
        self.places: set[str] = set()

    def __getitem__(self, place: str) -> str:
        self.places.add(place)
        return f"canary{place}{self._run}"

    def found_in(self, text: str) -> set[str]:
        return {place for place in self.places if f"canary{place}{self._run}" in text}


async def test_no_word_of_users_and_no_credential_is_in_a_log_or_a_metric(
    stack: Stack, client_of: ClientOf, backends: Backends
) -> None:
    canary, statuses = Canaries(), Counter[int]()
    client = client_of(f"user-{uuid7().hex[-12:]}")

    async def count(answer: httpx2.Response) -> None:
        statuses[answer.status_code] += 1

    client.http.event_hooks["response"].append(count)
    conversation_id, job_id = await _talk(client, canary)
    link = await _tell_others(client, canary, conversation_id, job_id)
    await _keep_things(client, canary)
    await _read(client, canary, conversation_id)
    await _make_mistakes(client, canary)
    await _have_models_and_tools_fail(client, canary)
    await _send_what_is_refused(backends, canary, conversation_id, job_id)
    await client.http.request("DELETE", f"/api/{client.user_id}", json={"confirm": client.user_id})

    logs = "".join(stack.logs(kind) for kind in _KINDS)
    metrics = "".join([text async for text in _metrics(stack)])
    assert len(canary.places) > 30, "the canaries are there to be found"
    assert {200, 202, 400, 401, 404, 422} <= statuses.keys()
    assert 429 not in statuses, "all of it was looked at"
    assert canary.found_in(logs) == set()
    assert canary.found_in(metrics) == set()
    assert link not in logs + metrics
    assert token_of(client.user_id).rpartition(".")[2] not in logs
    assert "job_ended" in logs
    assert "dead_letter" in logs


async def _talk(client: Client, canary: Canaries) -> tuple[str, str]:
    answer = await client.chat(f"add a task: {canary['task']}", **{"Idempotency-Key": canary["key"]})
    reused = await client.http.post(
        f"/api/{client.user_id}/chat",
        json={"message": f"other {canary['reused']}"},
        headers={"idempotency-key": canary["key"]},
    )
    assert reused.status_code == httpx2.codes.UNPROCESSABLE_CONTENT
    response = await client.create(
        canary["input"], instructions=canary["instructions"], metadata={"topic": canary["metadata"]}
    )
    items = [{"type": "message", "role": "user", "content": canary["item"]}]
    await client.http.post(f"/v1/conversations/{answer['conversation_id']}/items", json={"items": items})
    title = {"title": canary["title"], "metadata": {"a": canary["value"]}}
    await client.http.patch(f"/api/conversations/{answer['conversation_id']}", json=title)
    await client.events(response["id"])
    completion = {"model": "chat", "messages": [{"role": "user", "content": canary["completion"]}]}
    await client.http.post("/v1/chat/completions", json=completion)
    return answer["conversation_id"], answer["job_id"]


async def _tell_others(client: Client, canary: Canaries, conversation_id: str, job_id: str) -> str:
    """What the user thinks of an answer, and a link to the conversation: the token of that, which opens it."""
    opinion = {"rating": "negative", "reason": canary["reason"]}
    told = await client.http.put(f"/v1/responses/{job_id}/feedback", json=opinion)
    assert told.status_code == httpx2.codes.OK, told.text
    shares = f"/v1/conversations/{conversation_id}/shares"
    shared = await client.http.post(shares, json={"expires_in_seconds": canary["seconds"]})
    assert shared.status_code == httpx2.codes.BAD_REQUEST
    token: str = (await client.http.post(shares)).json()["token"]
    for path in (token, token[:-1] + "_", canary["share"]):
        await client.http.get(f"/v1/shares/{path}")
        await client.http.post(f"/v1/shares/{path}/copy")
    return token


async def _keep_things(client: Client, canary: Canaries) -> None:
    tasks = f"/api/{client.user_id}/tasks"
    added = await client.http.post(tasks, json={"title": canary["todo"], "description": canary["description"]})
    await client.http.put(f"{tasks}/{added.json()['id']}", json={"title": canary["changed"]})
    form = {"purpose": "user_data"}
    file = (f"{canary['filename']}.txt", canary["content"].encode(), "text/plain")
    uploaded = await client.http.post("/v1/files", data=form, files={"file": file})
    await client.http.get(f"/v1/files/{uploaded.json()['id']}/content")
    endpoint = {"url": f"https://127.0.0.1/{canary['url']}", "name": canary["endpoint"], "secret": canary["secret"]}
    await client.http.post("/v1/webhook_endpoints", json=endpoint)


async def _read(client: Client, canary: Canaries, conversation_id: str) -> None:
    for path in ("/v1/conversations", "/api/conversations", f"/api/conversations/{conversation_id}/messages", "/v1/x"):
        for query in ("query", "search", "limit", "order", "after"):
            await client.http.get(path, params={query: canary[query], "q": canary["q"]})
    await client.http.get(f"/api/{client.user_id}/export")


async def _make_mistakes(client: Client, canary: Canaries) -> None:
    """Bodies, forms, headers and credentials that are refused."""
    bodies: list[Any] = [
        {"message": canary["unknownfield"] * 1_000},
        {"message": [canary["wrongtype"]]},
        {"model": canary["model"], "input": "x"},
        {"model": "chat", "input": [{"type": canary["kind"]}]},
        {"model": "chat", "input": "x", "tools": [{"type": "function", "name": f"{canary['tool']} !"}]},
        {"model": "chat", "input": f"\0{canary['nul']}"},
        {"model": "chat", "input": "x", "metadata": {canary["metadatakey"] * 10: "x"}},
        {"model": "chat", "input": "x", "previous_response_id": canary["previous"]},
    ]
    for body in bodies:
        for path in (f"/api/{client.user_id}/chat", "/v1/responses", "/v1/conversations", "/v1/chat/completions"):
            await client.http.post(path, json=body)
    broken = f'{{"message": "{canary["broken"]}'
    await client.http.post("/v1/responses", content=broken, headers={"content-type": "application/json"})
    await client.http.post("/v1/files", content=broken, headers={"content-type": f"multipart/{canary['mediatype']}"})
    for token in (canary["token"], f"a.{canary['payload']}.c", token_of(canary["subject"])[:-3] + "abc"):
        await client.http.get("/v1/models", headers={"authorization": f"Bearer {token}"})
    await client.http.get(
        "/v1/models", headers={"authorization": f"Basic {canary['basic']}", "cookie": canary["cookie"]}
    )
    await client.http.get("/v1/models", headers={"origin": f"https://{canary['origin']}.example"})
    session = {"x-csrf-token": canary["csrf"], "cookie": f"parley_session={canary['session']}"}
    async with httpx2.AsyncClient(base_url=client.http.base_url) as page:
        await page.post("/session/dev", json={"user_id": f"{canary['visitor']} {canary['visitor']}"})
        await page.delete("/session", headers=session)
    await client.http.post("/api/admin/denials", json={"subject": canary["denied"], "reason": canary["denial"]})


async def _have_models_and_tools_fail(client: Client, canary: Canaries) -> None:
    """Answers that end badly, with what their model or tool said of it."""
    arguments = msgspec.json.encode({"task_id": canary["taskid"], "title": canary["argument"] * 30}).decode()
    await asyncio.gather(
        client.create(f"{canary['refused']} [[demo: fault=400]]"),
        client.create(f"{canary['garbled']} [[demo: fault=garbage fault_times=1 key={client.user_id}]]", model="todo"),
        client.create(f"{canary['toolerror']} [[demo: call=update_task args={arguments}]]", model="todo"),
        client.create(f"{canary['badargs']} [[demo: call=add_task args={{}}]]", model="todo"),
    )


async def _send_what_is_refused(backends: Backends, canary: Canaries, conversation_id: str, job_id: str) -> None:
    """What comes by the broker and cannot be read, or does not agree with its row."""
    conversation, job = from_wire(Prefix.CONVERSATION, conversation_id), from_wire(Prefix.RESPONSE, job_id)
    event = {"type": "response.output_text.delta", "sequence_number": 0, "delta": canary["delta"]}
    chunk = JournalChunk(
        job_id=job,
        conversation_id=conversation,
        attempt=1,
        first_seq=0,
        events=[msgspec.Raw(msgspec.json.encode(event))],
    )
    bodies = [encode(JournalChunks(chunks=[chunk])), f'{{"type":"{canary["message"]}"'.encode()]
    owner = await asyncpg.connect(backends.database_urls["owner"])
    connection = await aio_pika.connect(backends.rabbitmq_url)
    try:
        before: int = await owner.fetchval("select count(*) from dead_letters")
        channel = await connection.channel()
        queue = journal_queue(partition_of(conversation, _PARTITION_COUNT))
        for body in bodies:
            await channel.default_exchange.publish(aio_pika.Message(body), queue)

        async def is_thrown_out() -> bool:
            return bool(await owner.fetchval("select count(*) > $1 from dead_letters", before))

        await wait_until(is_thrown_out, what="a dead letter")
    finally:
        await connection.close()
        await owner.close()


async def _metrics(stack: Stack) -> AsyncIterator[str]:
    async with httpx2.AsyncClient(timeout=20) as http:
        for kind in _KINDS:
            for process in stack.of_kind(kind):
                yield (await http.get(f"{process.url}/metrics")).text
