"""The ends of responses are told to those who asked for it, signed, at least once, and to nobody else."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx2
import openai
import pytest
from pydantic import ValidationError

from persistence.announce import Announcer, Dispatcher
from persistence.metrics import Metrics
from persistence.retention import Ages, Retention
from persistence.settings import PersistenceSettings
from persistence.webhooks import (
    DEPLOYMENT_ENDPOINT_ID,
    EVENT_TYPES,
    USER_AGENT,
    Limits,
    Sender,
    keep_deployment_endpoint,
    signed_headers,
)
from persistence.writer import write_batch
from shared.egress import EgressPolicy, guarded_client
from shared.events import Failure
from shared.ids import Prefix, to_wire, uuid7
from shared.settings import Profile
from shared.states import JobStatus
from tests.persistence.support import Job, RecordingPublisher, Services, incoming
from tests.support.waiting import wait_until

SECRET = "whsec_" + "c2VjcmV0LW9mLXRoZS10ZXN0cy0zMi1ieXRlcy1sb25n"
_DAY = 86_400.0
_DOCUMENTATION = Path(__file__).parents[2] / "docs" / "webhooks.md"
LIMITS = Limits(
    round_seconds=0.05,
    concurrency=8,
    endpoint_concurrency=2,
    timeout_seconds=5,
    answer_bytes_max=4_096,
    retry_delays_seconds=(60.0, 600.0),
    retry_after_seconds_max=3_600,
    disable_after_seconds=5 * _DAY,
)
CLIENT = openai.OpenAI(api_key="none", webhook_secret=SECRET)


@pytest.fixture(autouse=True)
async def _empty(database_urls: dict[str, str]) -> None:
    owner = await asyncpg.connect(database_urls["owner"])
    try:
        await owner.execute("truncate webhook_endpoints, webhook_deliveries")
    finally:
        await owner.close()


@dataclass
class Received:
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def unwrapped(self) -> dict[str, Any]:
        """The event, as OpenAI's client verifies and reads it."""
        return CLIENT.webhooks.unwrap(self.body, self.headers).model_dump()


@dataclass
class Receiver:
    """A web server of somebody's: answers what it is told to, the last answer again and again."""

    answers: list[str] = field(default_factory=lambda: ["200 OK"])
    received: list[Received] = field(default_factory=list)
    port: int = 0
    open_count: int = 0
    open_count_max: int = 0
    holds: asyncio.Event | None = None  # answers wait for it
    is_endless: bool = False  # answers begin, and go on until the other side closes

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook?token=hidden"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open_count += 1
        self.open_count_max = max(self.open_count_max, self.open_count)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            headers = {k.lower(): v for k, v in re.findall(r"^([\w-]+): (.*?)\r$", head, re.MULTILINE)}
            self.received.append(Received(headers, await reader.readexactly(int(headers["content-length"]))))
            answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
            if self.holds:
                await self.holds.wait()
            length, body = (10**9, "a" * 1_000) if self.is_endless else (2, "ok")
            writer.write(f"HTTP/1.1 {answer}\r\ncontent-length: {length}\r\n\r\n{body}".encode())
            await writer.drain()
            while self.is_endless and await reader.read(1):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open_count -= 1
            writer.close()


@asynccontextmanager
async def _receiving() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    server = await asyncio.start_server(receiver.serve, "127.0.0.1", 0)
    receiver.port = server.sockets[0].getsockname()[1]
    async with server:
        yield receiver


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with _receiving() as receiver:
        yield receiver


@pytest.fixture
async def other_receiver() -> AsyncIterator[Receiver]:
    async with _receiving() as receiver:
        yield receiver


MakeSender = Callable[..., Sender]


@pytest.fixture
async def sender_of(services: Services, receiver: Receiver, other_receiver: Receiver) -> AsyncIterator[MakeSender]:
    """Makes senders that may talk to the receivers, with changed limits where named."""
    ports = frozenset({receiver.port, other_receiver.port})
    policy = EgressPolicy(hosts=frozenset({"127.0.0.1"}), ports=ports, allows_http=True)
    async with guarded_client(policy, timeout_seconds=5, user_agent=USER_AGENT) as client:

        def make(**changed: Any) -> Sender:
            values = {name: getattr(LIMITS, name) for name in Limits.__slots__}
            return Sender(services.persistence, client, Limits(**{**values, **changed}))

        yield make


async def an_endpoint(services: Services, url: str, *, user_id: str = "alice", types: Any = EVENT_TYPES) -> UUID:
    """As the gateway's role may make it."""
    endpoint_id = uuid7()
    async with services.gateway.transaction(user_id) as connection:
        await connection.execute(
            "insert into webhook_endpoints (id, user_id, url, event_types, secret) values ($1, $2, $3, $4, $5)",
            endpoint_id,
            user_id,
            url,
            types,
            SECRET,
        )
    return endpoint_id


async def an_ended_job(services: Services, status: JobStatus = JobStatus.COMPLETED, user_id: str = "alice") -> Job:
    attempt = await services.claim(await services.accept(user_id=user_id))
    failure = Failure("model_unavailable", "away") if status is JobStatus.FAILED else None
    await services.write(attempt.ends(status, failure))
    return attempt.job


async def deliveries(services: Services) -> list[asyncpg.Record]:
    return await services.rows("select * from webhook_deliveries order by event_id")


async def make_due(services: Services) -> None:
    """As if all pauses, and the claims of processes that died, had run out."""
    async with services.persistence.transaction(None) as connection:
        await connection.execute(
            "update webhook_deliveries set next_attempt_at = clock_timestamp() where next_attempt_at is not null"
        )


async def endpoint(services: Services, endpoint_id: UUID) -> Any:
    [row] = await services.rows("select * from webhook_endpoints where id = $1", endpoint_id)
    return row


@pytest.mark.parametrize(
    "status", [JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.INCOMPLETE, JobStatus.CANCELLED], ids=str
)
async def test_an_end_is_told_so_that_the_openai_client_believes_it(
    services: Services, receiver: Receiver, sender_of: MakeSender, status: JobStatus
) -> None:
    await an_endpoint(services, receiver.url)
    job = await an_ended_job(services, status)

    await sender_of().run_once()

    [told] = receiver.received
    event = told.unwrapped()
    assert event == json.loads(told.body)
    assert event == {
        "id": told.id,
        "object": "event",
        "created_at": event["created_at"],
        "type": f"response.{status}",
        "data": {"id": to_wire(Prefix.RESPONSE, job.id)},
    }
    assert re.fullmatch("evt_[0-9a-f]{32}", told.id)
    assert (told.headers["content-type"], told.headers["user-agent"]) == ("application/json", USER_AGENT)
    [row] = await deliveries(services)
    assert (row["attempts"], row["last_status"], row["next_attempt_at"]) == (1, 200, None)
    assert row["delivered_at"]


@pytest.mark.parametrize("secret", [SECRET, "plain text of enough bytes, 32 or more"])
def test_a_signature_holds_for_its_body_and_secret_alone(secret: str) -> None:
    body = '{"id":"evt_1","type":"response.completed","data":{"id":"resp_1"},"created_at":1}'
    headers = signed_headers("evt_1", body, ["another", secret], int(datetime.now(UTC).timestamp()))

    CLIENT.webhooks.verify_signature(body, headers, secret=secret)
    for other_body, other_secret in ((body + " ", secret), (body, "a third")):
        with pytest.raises(openai.InvalidWebhookSignatureError):
            CLIENT.webhooks.verify_signature(other_body, headers, secret=other_secret)


async def test_an_end_that_comes_again_is_told_once(services: Services) -> None:
    await an_endpoint(services, "https://hooks.example.com/")
    attempt = await services.claim(await services.accept())
    end = attempt.ends()

    first = await services.write(end, end)
    again = await services.write(end)

    assert (first.has_webhooks, again.has_webhooks) == (True, False)
    assert len(await deliveries(services)) == 1


async def test_an_end_that_is_not_committed_is_not_told(services: Services) -> None:
    await an_endpoint(services, "https://hooks.example.com/")
    attempt = await services.claim(await services.accept())

    async def write_and_fail() -> None:
        async with services.persistence.transaction(None) as connection:
            await write_batch(connection, [incoming(attempt.ends())])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await write_and_fail()

    assert not await deliveries(services)


async def test_each_is_told_of_its_own_responses_and_wanted_types_alone(services: Services) -> None:
    of_alice = await an_endpoint(services, "https://a.example.com/")
    only_failed = await an_endpoint(services, "https://b.example.com/", types=["response.failed"])
    of_bob = await an_endpoint(services, "https://c.example.com/", user_id="bob")
    async with services.gateway.transaction("alice") as connection:
        await connection.execute(
            "update webhook_endpoints set disabled_at = now(), disabled_reason = 'by_user' where id = $1",
            disabled := await an_endpoint(services, "https://d.example.com/"),
        )

    completed, failed = await an_ended_job(services), await an_ended_job(services, JobStatus.FAILED)

    told = {(row["endpoint_id"], row["job_id"]) for row in await deliveries(services)}
    assert told == {(of_alice, completed.id), (of_alice, failed.id), (only_failed, failed.id)}
    assert not {of_bob, disabled} & {endpoint_id for endpoint_id, _ in told}


async def test_without_an_endpoint_nothing_is_stored(services: Services) -> None:
    attempt = await services.claim(await services.accept())

    written = await services.write(attempt.ends())

    assert not written.has_webhooks
    assert not await deliveries(services)


async def test_the_deployments_endpoint_hears_of_everybodys_responses(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await keep_deployment_endpoint(services.persistence, "https://old.example.com/", SECRET)
    await keep_deployment_endpoint(services.persistence, receiver.url, SECRET)
    jobs = [await an_ended_job(services, user_id=user) for user in ("alice", "bob")]

    await sender_of().run_once()
    await keep_deployment_endpoint(services.persistence, None, None)
    await an_ended_job(services)

    told = {one.unwrapped()["data"]["id"] for one in receiver.received}
    assert told == {to_wire(Prefix.RESPONSE, job.id) for job in jobs}
    assert len(await deliveries(services)) == 2


async def test_a_failure_is_attempted_again_with_the_same_id_and_body_until_it_succeeds(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    endpoint_id = await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.answers = ["500 No", "302 Found\r\nlocation: /elsewhere", "204 Fine"]
    sender = sender_of()

    await sender.run_once()
    [after_one] = await deliveries(services)
    idle = await sender.run_once()
    failing = await endpoint(services, endpoint_id)
    for _ in range(2):
        await make_due(services)
        await sender.run_once()

    assert idle == 0
    wait = after_one["next_attempt_at"] - datetime.now(UTC)
    assert timedelta(seconds=50) < wait < timedelta(seconds=73)
    assert (after_one["attempts"], after_one["last_status"], after_one["delivered_at"]) == (1, 500, None)
    assert (failing["failure_count"], failing["disabled_at"]) == (1, None)
    assert len(receiver.received) == 3
    assert len({(one.id, one.body) for one in receiver.received}) == 1
    [done] = await deliveries(services)
    assert (done["attempts"], done["last_status"], done["next_attempt_at"]) == (3, 204, None)
    healed = await endpoint(services, endpoint_id)
    assert (healed["failure_count"], healed["failing_since"]) == (0, None)


async def test_after_the_last_attempt_it_is_given_up(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.answers = ["503 Later"]
    sender = sender_of()

    for _ in range(5):
        await sender.run_once()
        await make_due(services)

    assert len(receiver.received) == 1 + len(LIMITS.retry_delays_seconds)
    [row] = await deliveries(services)
    assert (row["delivered_at"], row["next_attempt_at"], row["last_status"]) == (None, None, 503)


@pytest.mark.parametrize(
    ("asked", "bounds"),
    [
        ("1800", (1_790, 1_801)),
        ("1", (50, 73)),
        ("999999999999", (3_590, 3_601)),
        ("in 3 hours", (3_590, 3_601)),
        ("soon", (50, 73)),
        ("-5", (50, 73)),
    ],
)
async def test_a_receiver_may_ask_for_a_pause_within_bounds(
    services: Services, receiver: Receiver, sender_of: MakeSender, asked: str, bounds: tuple[int, int]
) -> None:
    await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    date = format_datetime(datetime.now(UTC) + timedelta(hours=3), usegmt=True)
    receiver.answers = [f"429 Slow\r\nretry-after: {asked.replace('in 3 hours', date)}"]

    await sender_of().run_once()

    [row] = await deliveries(services)
    least, most = bounds
    assert least < (row["next_attempt_at"] - datetime.now(UTC)).total_seconds() < most


async def test_a_receiver_that_is_gone_is_not_told_again(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    endpoint_id = await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.answers = ["410 Gone"]

    await sender_of().run_once()
    await an_ended_job(services)

    [row] = await deliveries(services)
    assert (row["next_attempt_at"], row["last_status"]) == (None, 410)
    assert (await endpoint(services, endpoint_id))["disabled_reason"] == "gone"


async def test_the_deployments_endpoint_is_never_disabled(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await keep_deployment_endpoint(services.persistence, receiver.url, SECRET)
    await an_ended_job(services)
    receiver.answers = ["410 Gone"]

    await sender_of(disable_after_seconds=0.000_001).run_once()

    assert (await endpoint(services, DEPLOYMENT_ENDPOINT_ID))["disabled_at"] is None
    assert [row["next_attempt_at"] for row in await deliveries(services)] == [None]


async def test_an_endpoint_that_only_fails_is_disabled_after_its_time(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    endpoint_id = await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.answers = ["500 No"]
    sender = sender_of(disable_after_seconds=0.000_001)

    await sender.run_once()
    first = await endpoint(services, endpoint_id)
    await make_due(services)
    await sender.run_once()
    await make_due(services)
    left = await sender.run_once()

    assert first["disabled_at"] is None
    assert (await endpoint(services, endpoint_id))["disabled_reason"] == "failing"
    assert left == 0


async def test_what_a_dead_process_had_claimed_is_attempted_again_with_the_same_id(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.holds = asyncio.Event()
    dying, heir = sender_of(), sender_of()
    dying.start()
    await wait_until(lambda: _is(len(receiver.received) == 1))

    await dying.stop(0)  # the receiver has it, and nothing notes it
    receiver.holds.set()
    too_early = await heir.run_once()
    await make_due(services)
    await heir.run_once()

    assert too_early == 0
    assert [one.id for one in receiver.received] == [receiver.received[0].id] * 2
    [row] = await deliveries(services)
    assert (row["attempts"], bool(row["delivered_at"])) == (2, True)


async def test_who_lost_its_claim_notes_nothing(services: Services, receiver: Receiver, sender_of: MakeSender) -> None:
    await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.answers = ["500 No", "200 OK"]
    receiver.holds = asyncio.Event()
    slow, quick = sender_of(), sender_of()
    slow_run = asyncio.create_task(slow.run_once())
    await wait_until(lambda: _is(len(receiver.received) == 1))
    await make_due(services)
    quick_run = asyncio.create_task(quick.run_once())
    await wait_until(lambda: _is(len(receiver.received) == 2))

    receiver.holds.set()
    await asyncio.gather(slow_run, quick_run)

    [row] = await deliveries(services)
    assert (row["attempts"], row["last_status"], row["next_attempt_at"]) == (2, 200, None)


async def test_several_senders_share_the_work_and_do_nothing_twice(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    for _ in range(2):
        await an_endpoint(services, receiver.url)
    for _ in range(10):
        await an_ended_job(services)
    senders = [sender_of(endpoint_concurrency=20, concurrency=20) for _ in range(3)]

    counts = await asyncio.gather(*(sender.run_once() for sender in senders))

    assert sum(counts) == len(receiver.received) == 20
    assert {row["attempts"] for row in await deliveries(services)} == {1}


async def test_one_slow_endpoint_takes_no_more_than_its_share(
    services: Services, receiver: Receiver, other_receiver: Receiver, sender_of: MakeSender
) -> None:
    await an_endpoint(services, receiver.url)
    await an_endpoint(services, other_receiver.url, user_id="bob")
    for user in [*["alice"] * 5, *["bob"] * 5]:
        await an_ended_job(services, user_id=user)
    receiver.holds = asyncio.Event()
    sender = sender_of(endpoint_concurrency=2, concurrency=3)

    sender.start()
    await wait_until(lambda: _is(len(other_receiver.received) == 5 and receiver.open_count == 2))
    receiver.holds.set()
    await wait_until(lambda: _all_delivered(services))
    await sender.stop(5)

    assert receiver.open_count_max == 2
    assert len(receiver.received) == 5


async def test_the_sender_is_woken_by_the_batch_that_has_something_to_tell(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await an_endpoint(services, receiver.url)
    sender = sender_of(round_seconds=3_600)
    publisher = RecordingPublisher()
    announcer = Announcer(publisher, Dispatcher(publisher, services.persistence), sender.wake)
    attempt = await services.claim(await services.accept())
    sender.start()

    announcer.announce(await services.write(attempt.ends()))

    await wait_until(lambda: _all_delivered(services))
    await sender.stop(5)


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:{port}/", "address_refused"),
        ("https://hooks.example.com:{port}/", "address_refused"),
        ("http://localhost:{port}/", "address_refused"),
    ],
)
async def test_an_address_that_is_not_public_is_not_asked(
    services: Services, receiver: Receiver, url: str, error: str
) -> None:
    await an_endpoint(services, url.format(port=receiver.port))
    await an_ended_job(services)
    async with guarded_client(EgressPolicy(), timeout_seconds=5, user_agent=USER_AGENT) as client:
        await Sender(services.persistence, client, LIMITS).run_once()

    [row] = await deliveries(services)
    assert (row["last_status"], row["last_error"], receiver.received) == (None, error, [])
    assert row["next_attempt_at"]


async def test_a_receiver_that_does_not_answer_is_a_timeout_and_one_that_is_away_a_failure(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.holds = asyncio.Event()
    await sender_of(timeout_seconds=0.2).run_once()
    [slow] = await deliveries(services)

    receiver.holds.set()
    receiver.answers = ["not http"]
    await make_due(services)
    await sender_of().run_once()

    [broken] = await deliveries(services)
    assert (slow["last_error"], broken["last_error"]) == ("timeout", "connection_failed")


async def test_an_endless_answer_is_read_no_further_than_its_limit(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.is_endless = True

    await sender_of(answer_bytes_max=100, timeout_seconds=60).run_once()

    [row] = await deliveries(services)
    assert row["delivered_at"]
    assert receiver.open_count == 0


async def test_a_rotated_secret_signs_beside_the_old_one_for_its_time(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    endpoint_id = await an_endpoint(services, receiver.url)
    new = "whsec_" + "bmV3LXNlY3JldC1vZi10aGUtdGVzdHMtMzItYnl0ZXMu"
    for until in ("now() + interval '1 day'", "null"):
        async with services.gateway.transaction("alice") as connection:
            await connection.execute(
                f"update webhook_endpoints set secret = $2, previous_secret_until = {until} where id = $1",  # noqa: S608
                endpoint_id,
                new if "interval" in until else SECRET,
            )
        await an_ended_job(services)
        await sender_of().run_once()

    both, one = receiver.received
    for secret in (SECRET, new):
        CLIENT.webhooks.verify_signature(both.body, both.headers, secret=secret)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        CLIENT.webhooks.verify_signature(one.body, one.headers, secret=new)


async def test_the_receiver_in_the_documentation_takes_what_is_signed_once_and_nothing_else(
    services: Services, sender_of: MakeSender, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    [example] = re.findall(r"^```python\n(.*?)^```", _DOCUMENTATION.read_text(), re.MULTILINE | re.DOTALL)
    for name, value in (("URL", "http://parley/v1"), ("TOKEN", "none"), ("WEBHOOK_SECRET", SECRET)):
        monkeypatch.setenv(f"PARLEY_{name}", value)
    names: dict[str, Any] = {}
    exec(example, names)  # noqa: S102 - our own text
    await an_endpoint(services, receiver.url)
    job = await an_ended_job(services)
    await sender_of().run_once()
    [told] = receiver.received

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(names["app"]), base_url="http://receiver") as client:
        signed = {name: value for name, value in told.headers.items() if name.startswith("webhook-")}
        answers = [await client.post("/parley", content=told.body, headers=signed) for _ in range(2)]
        forged = await client.post("/parley", content=told.body + b" ", headers=signed)
        unsigned = await client.post("/parley", content=told.body)

    assert [answer.status_code for answer in (*answers, forged, unsigned)] == [204, 204, 401, 401]
    assert names["seen"] == {told.id}
    assert json.loads(told.body)["data"]["id"] == to_wire(Prefix.RESPONSE, job.id)


@pytest.mark.parametrize("columns", ["secret", "previous_secret", "*"])
async def test_the_gateways_role_may_not_read_a_secret(services: Services, columns: str) -> None:
    await an_endpoint(services, "https://hooks.example.com/")

    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with services.gateway.transaction("alice") as connection:
            await connection.fetch(f"select {columns} from webhook_endpoints")  # noqa: S608


async def test_workers_and_other_users_see_no_endpoint_and_no_delivery(services: Services) -> None:
    await an_endpoint(services, "https://hooks.example.com/")
    await keep_deployment_endpoint(services.persistence, "https://deployment.example.com/", SECRET)
    await an_ended_job(services)

    async with services.gateway.transaction("bob") as connection:
        seen = [
            await connection.fetch("select id from webhook_endpoints"),
            await connection.fetch("select event_id from webhook_deliveries"),
        ]
    async with services.gateway.transaction("alice") as connection:
        own = await connection.fetch("select id from webhook_endpoints")

    assert seen == [[], []]
    assert len(own) == 1
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with services.worker.transaction("alice") as connection:
            await connection.fetch("select id from webhook_endpoints")


async def test_old_deliveries_go(services: Services) -> None:
    await keep_deployment_endpoint(services.persistence, "https://deployment.example.com/", SECRET)
    for user in ("alice", "bob"):
        await an_endpoint(services, f"https://{user}.example.com/", user_id=user)
        await an_ended_job(services, user_id=user)
    keep_all = Ages(**dict.fromkeys(Ages.__slots__, _DAY))
    keep_none = replace(keep_all, webhook_deliveries_kept_seconds=0.0)

    await Retention(services.persistence, keep_all, round_seconds=60).run_once()
    kept = len(await deliveries(services))
    await Retention(services.persistence, keep_none, round_seconds=60).run_once()

    assert kept == 4
    assert not await deliveries(services)
    assert len(await services.rows("select from webhook_endpoints")) == 3


async def test_the_metrics_tell_what_waits_and_what_is_disabled(
    services: Services, receiver: Receiver, sender_of: MakeSender
) -> None:
    await an_endpoint(services, receiver.url)
    await an_ended_job(services)
    receiver.answers = ["410 Gone"]
    before = (await Metrics(services.persistence, RecordingPublisher()).text()).decode()

    await sender_of().run_once()

    after = (await Metrics(services.persistence, RecordingPublisher()).text()).decode()
    assert "parley_webhook_deliveries_waiting 1.0" in before
    assert "parley_webhook_deliveries_waiting 0.0" in after
    assert "parley_webhook_overdue_seconds 0.0" in after
    assert "parley_webhook_endpoints_disabled 1.0" in after


@pytest.mark.parametrize(
    ("url", "secret", "complaint"),
    [
        ("https://hooks.example.com/", None, "go together"),
        (None, SECRET, "go together"),
        ("http://hooks.example.com/", SECRET, "WEBHOOK_URL"),
        ("https://10.0.0.1/", SECRET, "WEBHOOK_URL"),
        ("https://hooks.example.com/", "whsec_not base64, though long enough", "WEBHOOK_SECRET"),
        ("https://hooks.example.com/", "short", "32 bytes"),
    ],
)
def test_a_webhook_of_the_deployment_that_cannot_work_is_refused_at_the_start(
    url: str | None, secret: str | None, complaint: str
) -> None:
    with pytest.raises(ValidationError, match=complaint):
        PersistenceSettings(
            profile=Profile.PRODUCTION, database_url="postgresql://", webhook_url=url, webhook_secret=secret
        )


async def _all_delivered(services: Services) -> bool:
    rows = await deliveries(services)
    return bool(rows) and all(row["delivered_at"] for row in rows)


async def _is(fact: bool) -> bool:  # noqa: FBT001
    return fact
