"""The policies that operators find on the broker: every queue has one, and a limit can be changed while all runs."""

import os
from collections.abc import Iterator
from urllib.parse import quote, urlsplit

import aio_pika
import httpx2
import pytest

from shared.contracts import JobReady
from shared.errors import BrokerUnavailableError
from shared.ids import uuid7
from shared.messaging import CONTROL, DEAD, JOBS, LIVE, Broker, Publisher, journal_queue
from tests.support.backends import PARTITION_COUNT, new_broker
from tests.support.waiting import wait_until


@pytest.fixture
def own_broker_url() -> Iterator[str]:
    with new_broker() as url:
        yield url


@pytest.fixture
def api(own_broker_url: str) -> Iterator[httpx2.Client]:
    management = os.environ.get("RABBITMQ_MANAGEMENT_URL")
    if management is None:
        pytest.skip("no management API")
    assert own_broker_url
    with httpx2.Client(base_url=f"{management}/api", timeout=30) as client:
        yield client


def _vhost(url: str) -> str:
    return quote(urlsplit(url).path[1:], safe="")


async def test_every_queue_has_a_policy_that_bounds_its_bytes(own_broker_url: str, api: httpx2.Client) -> None:
    connection = await aio_pika.connect(own_broker_url)
    async with connection:
        channel = await connection.channel()
        listeners = [f"{LIVE}.gateway vm.1.ab.{uuid7().hex}", f"{CONTROL}.chat-worker vm.1.ab.{uuid7().hex}"]
        for name in listeners:
            await channel.declare_queue(name, exclusive=True, auto_delete=True)

        async def policies() -> dict[str, str | None]:
            found = api.get(f"/queues/{_vhost(own_broker_url)}").raise_for_status().json()
            policies = {queue["name"]: queue.get("policy") for queue in found}
            return policies if len(policies) == 4 + PARTITION_COUNT and all(policies.values()) else {}

        found = await wait_until(policies, what="every queue to have its policy")

    assert found == {
        JOBS: "parley.jobs",
        DEAD: "parley.dead",
        **{journal_queue(partition): "parley.journal" for partition in range(PARTITION_COUNT)},
        **dict.fromkeys(listeners, "parley.listeners"),
    }
    told = api.get(f"/policies/{_vhost(own_broker_url)}").raise_for_status().json()
    assert all(policy["definition"]["max-length-bytes"] > 0 for policy in told)


async def test_a_limit_is_changed_while_all_runs(own_broker_url: str, api: httpx2.Client) -> None:
    """It is refused, not dropped, what comes on top: whoever sends it knows."""
    tight = {
        "pattern": "^chat\\.jobs$",
        "apply-to": "queues",
        "definition": {"max-length-bytes": 1_000},
        "priority": 10,
    }
    publisher = Publisher(Broker(own_broker_url, "test", partition_count=PARTITION_COUNT, declares=False))
    publisher.start()
    await publisher.wait_until_up(30)
    job = JobReady(job_id=uuid7(), conversation_id=uuid7(), user_id="ada")
    await publisher.send(JOBS, job)

    api.put(f"/policies/{_vhost(own_broker_url)}/parley.jobs", json=tight).raise_for_status()

    async def is_refused() -> bool:
        try:
            await publisher.send(JOBS, job)
        except BrokerUnavailableError:
            return True
        return False

    assert await wait_until(is_refused, what="the queue to be full")
    await publisher.stop()
