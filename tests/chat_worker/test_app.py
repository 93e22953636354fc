"""The process as a whole, on a real broker: it takes jobs, says how it is, and lets go of them when it stops."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager

import httpx2
import pytest

from chat_worker.app import create_app
from chat_worker.settings import ChatWorkerSettings
from shared.messaging import DEAD, JOBS, Broker, Publisher, journal_queue
from shared.settings import Profile
from tests.support.attempts import Bench
from tests.support.backends import new_broker
from tests.support.waiting import wait_until

PARTITION_COUNT = 1


@pytest.fixture
def own_broker_url() -> Iterator[str]:
    with new_broker() as url:
        yield url


@pytest.fixture
async def silent_model() -> AsyncIterator[str]:
    """The URL of a model that takes a request and never answers."""

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    server.close()
    await server.wait_closed()


@pytest.fixture
def settings(database_urls: Mapping[str, str], own_broker_url: str, silent_model: str) -> ChatWorkerSettings:
    return ChatWorkerSettings(
        profile=Profile.LOCAL,
        database_url=database_urls["parley_worker"],
        rabbitmq_url=own_broker_url,
        partition_count=PARTITION_COUNT,
        openai_base_url=silent_model,
        task_tools_url="http://127.0.0.1:9/mcp",  # nobody listens there
        tool_token_secret="x" * 32,
        grace_seconds=0,
    )


@pytest.fixture
async def publisher(settings: ChatWorkerSettings) -> AsyncIterator[Publisher]:
    publisher = Publisher(Broker(settings.rabbitmq_url.get_secret_value(), "test", PARTITION_COUNT))
    publisher.start()
    await publisher.wait_until_up(30)
    yield publisher
    await publisher.stop()


async def test_a_running_worker_is_ready(settings: ChatWorkerSettings) -> None:
    async with serving(settings) as http:
        answer = await http.get("/health/ready")

        assert answer.json() == {
            "status": "ok",
            "dependencies": dict.fromkeys(
                ["postgres", "rabbitmq_jobs", "rabbitmq_publisher", "rabbitmq_control"], "up"
            ),
        }
        assert (await http.get("/health/live")).status_code == httpx2.codes.OK


async def test_a_worker_that_stops_hands_its_running_jobs_back(
    settings: ChatWorkerSettings, publisher: Publisher, bench: Bench
) -> None:
    jobs = [await bench.job() for _ in range(3)]

    async def is_something_said() -> bool:
        return await publisher.queue_length(journal_queue(0)) > 0

    async def are_back() -> bool:
        return await publisher.queue_length(JOBS) == len(jobs)

    async with serving(settings):
        for job in jobs:
            await publisher.send(JOBS, bench.ready(job))
        for job in jobs:
            await wait_until(lambda job=job: bench.in_database(_RUNS, job), what="the job runs")  # type: ignore[misc]
        await wait_until(is_something_said, what="a job has said something")
        assert await publisher.queue_length(JOBS) == 0

    await wait_until(are_back, what="the deliveries are back")
    assert await publisher.queue_length(DEAD) == 0
    assert await is_something_said()  # what they said before is kept


async def test_a_message_that_is_no_job_becomes_a_dead_letter(
    settings: ChatWorkerSettings, publisher: Publisher
) -> None:
    async with serving(settings):
        await publisher.send_bytes(JOBS, b"not json")

        async def is_dead() -> bool:
            return await publisher.queue_length(DEAD) == 1

        await wait_until(is_dead, what="the dead letter")


_RUNS = "select status = 'in_progress' from jobs where id = $1"


@asynccontextmanager
async def serving(settings: ChatWorkerSettings) -> AsyncIterator[httpx2.AsyncClient]:
    """A running worker, and a client to its HTTP side."""
    app = create_app(settings)
    transport = httpx2.ASGITransport(app=app)
    async with app.start_lifespan_context(), httpx2.AsyncClient(transport=transport, base_url="http://worker") as http:

        async def is_ready() -> bool:
            return (await http.get("/health/ready")).status_code == httpx2.codes.OK

        await wait_until(is_ready, what="the worker is ready")
        yield http
