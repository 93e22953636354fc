"""Parts of the system are killed while it talks; the answer arrives all the same, once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import asyncpg
import httpx2
import pytest

from shared.ids import Prefix, from_wire, uuid7
from tests.support.backends import Backends, new_backends
from tests.support.client import Client, JsonObject, is_terminal, text_of
from tests.support.stack import Stack, running_stack

ClientOf = Callable[..., Client]


@pytest.fixture
def own_backends() -> Iterator[Backends]:
    with new_backends() as backends:
        yield backends


@pytest.fixture
async def fragile(own_backends: Backends, tmp_path: Path) -> AsyncIterator[Stack]:
    """A system to break: two gateways, two workers, short leases, a database and a broker of its own."""
    counts = {"gateway": 2, "chat-worker": 2}
    variables = {
        "CHAT_WORKER_LEASE_SECONDS": "5",
        "CHAT_WORKER_RELEASE_DELAYS_SECONDS": "[0.2, 0.5, 1.0]",
        "PERSISTENCE_DISPATCH_GRACE_SECONDS": "1",
    }
    async with running_stack(own_backends, tmp_path, counts=counts, variables=variables) as running:
        yield running


@pytest.fixture
async def client_of(fragile: Stack) -> AsyncIterator[ClientOf]:
    """A new user's client at a gateway by its number, or at the same user's other one."""
    clients: list[Client] = []

    def make(gateway: int = 0, user_id: str | None = None) -> Client:
        clients.append(Client(fragile.gateway(gateway).url, user_id or f"user-{uuid7().hex[-12:]}"))
        return clients[-1]

    yield make
    for client in clients:
        await client.close()


def words(count: int) -> str:
    return " ".join(f"w{number}" for number in range(count))


def assert_is_journal(events: list[JsonObject]) -> None:
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [is_terminal(event) for event in events] == [False] * (len(events) - 1) + [True]


async def read_until(client: Client, response_id: str, word: str) -> list[JsonObject]:
    seen = []
    async with client.stream(response_id) as events:
        async for event in events:
            seen.append(event)
            if word in event.get("delta", ""):
                return seen
    raise AssertionError(f"the stream ended before {word}")


async def test_a_gateway_stops_in_mid_stream_and_the_client_resumes_at_the_other(
    fragile: Stack, client_of: ClientOf
) -> None:
    here, there = client_of(0, "grace"), client_of(1, "grace")
    created = await here.create("[[demo: tokens=150 delay_ms=20]] go", background=True)
    seen: list[JsonObject] = []
    stopping: asyncio.Task[int] | None = None

    async with here.stream(created["id"]) as events:
        async for event in events:
            seen.append(event)
            if stopping is None and "w20" in event.get("delta", ""):
                stopping = asyncio.create_task(asyncio.to_thread(fragile.gateway(0).stop))

    assert stopping is not None
    assert not is_terminal(seen[-1])
    await stopping
    seen += await there.events(created["id"], starting_after=seen[-1]["sequence_number"])
    assert_is_journal(seen)
    assert text_of(seen[-1]["response"]).split() == words(150).split()
    fragile.gateway(0).start()
    await fragile.gateway(0).ready()
    assert await here.events(created["id"]) == seen


async def test_a_worker_is_killed_in_mid_text_and_the_answer_arrives_once(
    fragile: Stack, client_of: ClientOf, own_backends: Backends
) -> None:
    client = client_of()
    created = await client.create("[[demo: tokens=100 delay_ms=30]] go", background=True)
    seen = await read_until(client, created["id"], "w15")

    await _kill_the_worker_of(fragile, own_backends, created["id"])
    seen += await client.events(created["id"], starting_after=seen[-1]["sequence_number"])

    assert_is_journal(seen)
    final = seen[-1]["response"]
    assert final["status"] == "completed"
    assert text_of(final).split() == words(100).split()
    closed = [event["item"] for event in seen if event["type"] == "response.output_item.done"]
    assert [item["status"] for item in closed] == ["incomplete", "completed"]
    assert [item["id"] for item in final["output"]] == [closed[1]["id"]]
    assert await client.events(created["id"]) == seen


async def test_messages_are_accepted_without_a_worker_and_answered_once_there_is_one(
    fragile: Stack, client_of: ClientOf
) -> None:
    client = client_of()
    for worker in fragile.of_kind("chat-worker"):
        worker.kill()

    created = [await client.create(f"[[demo: echo]] {number}", background=True) for number in range(5)]
    fragile.processes["chat-worker-0"].start()
    ended = [await client.ended(response["id"]) for response in created]

    assert [response["status"] for response in ended] == ["completed"] * 5


async def test_persistence_is_killed_in_mid_stream_and_nothing_is_missing(fragile: Stack, client_of: ClientOf) -> None:
    client = client_of()
    created = await client.create("[[demo: tokens=100 delay_ms=20]] go", background=True)
    seen = await read_until(client, created["id"], "w10")

    persistence = fragile.processes["persistence-0"]
    persistence.kill()
    persistence.start()
    seen += await client.events(created["id"], starting_after=seen[-1]["sequence_number"])

    assert_is_journal(seen)
    assert text_of(seen[-1]["response"]).split() == words(100).split()


async def test_a_model_that_is_down_ends_the_job_with_a_code_and_keeps_the_message(
    fragile: Stack, client_of: ClientOf
) -> None:
    client = client_of()
    fragile.processes["demo-model-0"].kill()

    created = await client.create("hello there", background=True)
    ended = await client.ended(created["id"], seconds=90)

    assert ended["status"] == "failed"
    assert ended["error"]["type"] == "model_unreachable"
    conversation = created["conversation"]["id"]
    kept = await client.http.get(f"/api/conversations/{conversation}/messages")
    assert kept.status_code == httpx2.codes.OK
    assert [message["content"] for message in kept.json()["items"]] == ["hello there"]


async def _kill_the_worker_of(stack: Stack, backends: Backends, response_id: str) -> None:
    """Kills the worker that holds the job's lease; a worker's id holds its process id."""
    owner = await asyncpg.connect(backends.database_urls["owner"])
    job_id = from_wire(Prefix.RESPONSE, response_id)
    worker_id = await owner.fetchval("select worker_id from jobs where id = $1 and status = 'in_progress'", job_id)
    await owner.close()
    assert worker_id is not None, "no worker runs the job"
    pid = int(worker_id.split(".")[-2])
    [worker] = [worker for worker in stack.of_kind("chat-worker") if worker.popen and worker.popen.pid == pid]
    worker.kill()
