"""The operator's commands against a real Postgres and a real RabbitMQ: what they print, change and refuse."""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import pytest
from aio_pika.abc import AbstractChannel

from persistence.drafts import GivenUp
from persistence.metrics import Metrics
from persistence.writer import Incoming, write_batch
from shared import contracts
from shared.contracts import CancelRequested, JobReady, LiveBatch
from shared.db import Database
from shared.events import is_terminal
from shared.ids import Prefix, to_wire, uuid7
from shared.messaging import JOBS, LIVE, Broker, Publisher, declare_topology
from tests.persistence.support import Job, Services
from tests.support.accounts import fill_account, row_counts

NOWHERE = "amqp://nobody:7d1f0c@127.0.0.1:1/"
_PARTITION_COUNT = 2


@dataclass(frozen=True)
class Ended:
    """A command that ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code == 0, self.err
        return json.loads(self.out)


Ops = Callable[..., Awaitable[Ended]]


@pytest.fixture
def ops(services: Services, database_urls: dict[str, str]) -> Ops:
    """Runs a command as a process, with a broker that does not exist unless one is given."""
    assert services, "emptied for this test"

    async def run(*arguments: str, rabbitmq_url: str = NOWHERE, database_url: str | None = None) -> Ended:
        environment = {
            "PARLEY_PROFILE": "local",  # where the broker's own user will do
            "PERSISTENCE_DATABASE_URL": database_url or database_urls["parley_persistence"],
            "RABBITMQ_URL": rabbitmq_url,
            "JOURNAL_PARTITION_COUNT": str(_PARTITION_COUNT),
            "PUBLISH_TIMEOUT_SECONDS": "0.5" if rabbitmq_url == NOWHERE else "20",
            "PATH": os.environ["PATH"],
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "persistence.ops", *arguments),
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode is not None
        return Ended(process.returncode, out.decode(), err.decode())

    return run


@pytest.fixture
async def broker(rabbitmq_url: str) -> Any:
    """A channel to the real broker, whose queue of jobs is empty."""
    connection = await aio_pika.connect(rabbitmq_url)
    channel = await connection.channel()
    await declare_topology(channel, _PARTITION_COUNT)
    await (await channel.get_queue(JOBS)).purge()
    yield channel
    await connection.close()


async def test_jobs_counts_open_jobs_by_what_they_wait_for(services: Services, ops: Ops) -> None:
    due = await services.accept()
    await services.accept(conversation_id=due.conversation_id)
    later = await services.claim(await services.accept())
    await services.write(later.is_released(600))
    await services.claim(await services.accept())
    expired = await services.claim(await services.accept())
    await services.change(expired.job, "lease_until = clock_timestamp() - interval '1 second'")
    await services.write((await services.claim(await services.accept())).ends())

    table = await ops("jobs")
    counts = await ops("jobs", "--json")

    assert {line.split()[0]: int(line.split()[1]) for line in table.out.splitlines()[1:]} == {
        "queued_due": 1,
        "queued_later": 1,
        "queued_behind": 1,
        "running": 1,
        "lease_expired": 1,
    }
    assert [state["count"] for state in counts.json] == [1, 1, 1, 1, 1]


@pytest.mark.parametrize(("state", "expected"), [("queued", 2), ("queued_due", 1), ("completed", 1), ("failed", 0)])
async def test_jobs_of_a_state_are_listed_with_id_age_attempt_and_worker(
    services: Services, ops: Ops, state: str, expected: int
) -> None:
    due = await services.accept()
    await services.accept(conversation_id=due.conversation_id)
    await services.write((await services.claim(await services.accept())).ends())

    listed = (await ops("jobs", "--state", state, "--json")).json

    assert len(listed) == expected
    assert all(set(job) == {"id", "state", "age_seconds", "attempt", "worker"} for job in listed)
    assert state != "queued_due" or listed[0]["id"] == wire(due)


@pytest.mark.parametrize("form", ["wire", "uuid"])
async def test_a_jobs_life_is_told_without_a_word_of_what_was_said(services: Services, ops: Ops, form: str) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.begins(), attempt.says("a secret"))
    await record_step(services, attempt.job)

    shown = await ops("job", wire(attempt.job) if form == "wire" else str(attempt.job.id))
    life = (await ops("job", wire(attempt.job), "--json")).json

    assert (life["state"], life["facts"]["attempt"], life["facts"]["worker_id"]) == ("running", 1, "worker-1")
    assert life["journal"] == {
        "row_count": 2,
        "packed_row_count": 0,
        "first_seq": 0,
        "last_seq": life["facts"]["next_seq"] - 1,
        "missing_count": 0,
    }
    assert [step["kind"] for step in life["steps"]] == ["tool_intent"]
    assert "tool_intent" in shown.out
    assert not any(word in shown.out + json.dumps(life) for word in ("hello", "secret"))


@pytest.mark.parametrize("command", [["job"], ["requeue"], ["fail", "--reason", "x"]])
async def test_an_unknown_job_is_one_line_and_refused(ops: Ops, command: list[str]) -> None:
    ended = await ops(*command, wire_id(uuid7()))

    assert (ended.code, ended.out, len(ended.err.splitlines())) == (1, "", 1)
    assert "there is no job" in ended.err


@pytest.mark.parametrize("arguments", [["jobs", "--state", "lost"], ["job", "resp_1"], ["job", "x"], ["fail", "x"], []])
async def test_a_command_that_makes_no_sense_is_refused_with_2(ops: Ops, arguments: list[str]) -> None:
    assert (await ops(*arguments)).code == 2


async def test_a_requeued_job_goes_to_the_next_attempt_and_its_worker_is_fenced(
    services: Services, ops: Ops, broker: AbstractChannel, rabbitmq_url: str
) -> None:
    stuck = await services.claim(await services.accept())
    await services.write(stuck.begins(), stuck.says("half"))

    done = await ops("requeue", wire(stuck.job), rabbitmq_url=rabbitmq_url)
    row = await services.job_row(stuck.job)
    told = await pop(broker, JOBS)
    following = await services.claim(stuck.job)
    [reply] = (await services.write(following.asks_to_resume())).replies
    late = await services.write(stuck.says("late"))

    assert (done.code, row["status"], row["lease_until"], row["worker_id"]) == (0, "queued", None, None)
    assert isinstance(told, JobReady)
    assert told.job_id == stuck.job.id
    assert (following.number, reply.message.granted, late.live) == (2, True, [])


async def test_without_a_broker_a_requeued_job_is_left_to_maintenance(services: Services, ops: Ops) -> None:
    job = await services.accept()
    await services.change(job, "dispatched_at = clock_timestamp()")

    done = (await ops("requeue", wire(job), "--json")).json

    assert "later" in done["told"]
    assert (await services.job_row(job))["dispatched_at"] is None


async def test_a_job_that_waits_for_another_is_not_requeued_and_names_it(services: Services, ops: Ops) -> None:
    head = await services.accept()
    behind = await services.accept(conversation_id=head.conversation_id)

    refused = await ops("requeue", wire(behind))

    assert refused.code == 1
    assert wire(head) in refused.err


@pytest.mark.parametrize("command", [["requeue"], ["fail", "--reason", "x"]])
async def test_what_ended_stays_as_it_ended(services: Services, ops: Ops, command: list[str]) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.ends())
    before = await services.job_row(attempt.job)

    refused = await ops(*command, wire(attempt.job))

    assert refused.code == 1
    assert "completed" in refused.err
    assert await services.job_row(attempt.job) == before


@pytest.mark.parametrize("is_running", [True, False])
async def test_a_failed_job_tells_its_stream_why_and_lets_the_next_one_run(
    services: Services, ops: Ops, broker: AbstractChannel, rabbitmq_url: str, *, is_running: bool
) -> None:
    job = await services.accept()
    following = await services.accept(conversation_id=job.conversation_id)
    attempt = await services.claim(job) if is_running else None
    if attempt:
        await services.write(attempt.begins(), attempt.says("half"))
    live = await broker.declare_queue(exclusive=True)
    await live.bind(LIVE)

    done = await ops("fail", wire(job), "--reason", "The model was switched off.", rabbitmq_url=rabbitmq_url)
    late = await services.write(attempt.says("late"), attempt.ends()) if attempt else None

    row = await services.job_row(job)
    heard, told = await pop(broker, live.name), await pop(broker, JOBS)
    assert done.code == 0, done.err
    assert (row["status"], row["error"]["type"]) == ("failed", "ended_by_operator")
    assert row["error"]["message"] == "The model was switched off."
    assert is_terminal((await services.journal(job))[-1])
    assert late is None or not late.live
    assert isinstance(heard, LiveBatch)
    assert heard.jobs[0].job_id == job.id
    assert isinstance(told, JobReady)
    assert told.job_id == following.id == await services.active_job(following)


async def test_giving_up_a_job_in_one_batch_with_its_end_keeps_the_end(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    async with services.persistence.transaction(None) as connection:
        ends = contracts.JournalChunks(chunks=[attempt.ends()])
        gives_up = GivenUp(attempt.job.id, attempt.job.conversation_id, "x")
        await write_batch(connection, [Incoming(ends), Incoming(gives_up)])

    assert (await services.job_row(attempt.job))["status"] == "completed"


async def test_a_dead_letter_is_listed_and_requeued_once(services: Services, ops: Ops) -> None:
    job = await services.accept()
    await services.change(job, "dispatched_at = clock_timestamp()")
    letter_id = await record_dead_letter(services, job)

    listed = (await ops("dead", "--json")).json
    first = await ops("dead", "requeue", str(letter_id))
    again = await ops("dead", "requeue", str(letter_id))

    assert (listed["count"], listed["latest"][0]["id"], listed["latest"][0]["job"]) == (1, str(letter_id), wire(job))
    assert (first.code, again.code) == (0, 1)
    assert (await services.job_row(job))["dispatched_at"] is None


async def test_a_dead_letter_of_no_job_or_of_an_ended_one_is_refused_and_stays(services: Services, ops: Ops) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.ends())
    letter_ids = [await record_dead_letter(services, job) for job in (attempt.job, None)]

    codes = [(await ops("dead", "requeue", str(letter_id))).code for letter_id in letter_ids]

    assert codes == [1, 1]
    assert (await ops("dead", "--json")).json["count"] == 2


async def test_queues_shows_what_waits_and_who_consumes(ops: Ops, broker: AbstractChannel, rabbitmq_url: str) -> None:
    message = aio_pika.Message(contracts.encode(CancelRequested(job_id=uuid7(), conversation_id=uuid7())))
    await broker.default_exchange.publish(message, JOBS)

    queues = (await ops("queues", "--json", rabbitmq_url=rabbitmq_url)).json

    assert [queue["name"] for queue in queues] == [JOBS, "chat.journal.0", "chat.journal.1", "chat.dead"]
    assert (queues[0]["message_count"], queues[0]["consumer_count"]) == (1, 0)


async def test_a_broker_or_database_that_is_away_is_one_line_and_3(ops: Ops) -> None:
    no_broker = await ops("queues")
    no_database = await ops("jobs", database_url="postgresql://parley_persistence:x@127.0.0.1:1/x")

    assert (no_broker.code, no_database.code) == (3, 3)
    assert (len(no_broker.err.splitlines()), len(no_database.err.splitlines())) == (1, 1)


async def test_a_purge_wants_to_be_confirmed(services: Services, ops: Ops) -> None:
    job = await services.accept()

    refused = await ops("purge-user", "alice")

    assert (refused.code, "--yes" in refused.err) == (1, True)
    assert await services.job_row(job)


async def test_a_purge_takes_everything_of_one_user_and_nothing_of_another(
    services: Services, ops: Ops, database_urls: dict[str, str]
) -> None:
    for user in ("alice", "bob"):
        await fill_account(database_urls["owner"], user)

    purged = (await ops("purge-user", "alice", "--yes", "--json")).json
    open_ones = (await ops("purges", "--json")).json

    assert (purged["deleted"]["conversations"], purged["deleted"]["tasks"], purged["is_finished"]) == (2, 1, False)
    assert [(one["id"], one["user_id"]) for one in open_ones] == [(purged["purge"], "alice")]
    assert not any((await row_counts(database_urls["owner"], "alice")).values())
    assert all((await row_counts(database_urls["owner"], "bob")).values())
    [entry] = await services.rows("select * from audit_log")
    assert (entry["action"], entry["target"], entry["details"]) == (
        "user.purge_requested",
        "alice",
        {"purge_id": purged["purge"]},
    )


async def test_interventions_are_in_the_audit_log_with_their_outcome(services: Services, ops: Ops) -> None:
    job = await services.accept()
    letter = await record_dead_letter(services, job)

    await ops("dead", "requeue", str(letter))
    for _ in range(2):
        await ops("fail", wire(job), "--reason", "out of order")

    table = (await ops("audit", "--limit", "2")).out
    entries = await services.rows("select * from audit_log order by id")
    assert [(entry["action"], entry["target"], entry["outcome"]) for entry in entries] == [
        ("dead_letter.requeued", str(letter), "done"),
        ("job.failed", str(job.id), "done"),
        ("job.failed", str(job.id), "job_ended"),
    ]
    assert {(entry["actor_kind"], entry["actor"] != "") for entry in entries} == {("ops", True)}
    assert (table.count("job.failed"), table.count("dead_letter.requeued")) == (2, 0)
    assert not any("out of order" in str(dict(entry)) for entry in entries)


@pytest.mark.parametrize("statement", ["update audit_log set actor = 'nobody'", "delete from audit_log"])
async def test_no_service_changes_or_deletes_an_entry(services: Services, statement: str) -> None:
    for database in (services.persistence, services.gateway, services.worker):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.transaction(None) as connection:
                await connection.execute(statement)


async def test_persistence_sees_no_task_unless_it_names_the_user_and_never_its_title(
    services: Services, database_urls: dict[str, str]
) -> None:
    await fill_account(database_urls["owner"], "alice")

    unnamed = await services.rows("select id from tasks")
    async with services.persistence.transaction("bob") as connection:
        others = await connection.fetch("select id from tasks where user_id = 'alice'")

    assert (unnamed, others) == ([], [])
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await services.rows("select title from tasks")


async def test_the_metrics_say_what_ops_prints(services: Services, rabbitmq_url: str) -> None:
    job = await services.accept()
    await services.change(job, "available_at = clock_timestamp() - interval '1 minute'")
    await record_dead_letter(services, job)
    publisher = Publisher(Broker(rabbitmq_url, "test", partition_count=_PARTITION_COUNT))
    publisher.start()
    try:
        await publisher.wait_until_up(10)

        samples = read((await Metrics(services.persistence, publisher).text()).decode())
    finally:
        await publisher.stop()

    assert samples['parley_jobs{state="queued_due"}'] == 1
    assert samples['parley_jobs{state="running"}'] == 0
    assert samples["parley_oldest_queued_job_age_seconds"] >= 60
    assert samples["parley_dead_letters"] == 1
    assert 'parley_queue_messages{queue="chat.dead"}' in samples
    assert 'parley_queue_consumers{queue="chat.journal.1"}' in samples


async def test_a_scrape_without_a_broker_leaves_its_numbers_out(services: Services) -> None:
    samples = read((await Metrics(services.persistence, Publisher(Broker(NOWHERE, "test"))).text()).decode())

    assert "parley_dead_letters" in samples
    assert not any(name.startswith("parley_queue") for name in samples)


async def test_many_scrapes_ask_the_database_once(services: Services) -> None:
    database = CountedDatabase(services.persistence)
    metrics = Metrics(database, Publisher(Broker(NOWHERE, "test")))

    texts = await asyncio.gather(*(metrics.text() for _ in range(5)))

    assert all(b"\nparley_jobs{" in text for text in texts)
    assert database.transaction_count == 1


async def test_a_changed_tool_is_listed_until_it_is_accepted(ops: Ops, services: Services) -> None:
    server = f"s-{uuid7().hex[-8:]}"
    first, other = (f"sha256:{number:064x}" for number in range(2))
    for digest in (first, other):
        async with services.worker.transaction(None) as connection:
            await connection.execute("select see_tools($1, $2)", server, {"read": digest, "send": first})

    listed = (await ops("tools", "list", server, "--json")).json
    stale = await ops("tools", "accept", server, "read", "--digest", first)
    accepted = await ops("tools", "accept", server, "--json")
    again = await ops("tools", "accept", server)
    unknown = await ops("tools", "accept", "nowhere")
    forgotten = await ops("tools", "forget", server)

    assert [(tool["tool"], tool["is_changed"], tool["seen_digest"]) for tool in listed] == [
        ("read", True, other),
        ("send", False, first),
    ]
    assert (stale.code, unknown.code) == (1, 1)
    assert accepted.json == {"server": server, "accepted": ["read"]}
    assert again.out == "nothing had changed\n"
    assert forgotten.out == "forgotten: 2; what it says next is trusted\n"


class CountedDatabase(Database):
    """Another's pool, with its transactions counted."""

    def __init__(self, other: Database) -> None:
        super().__init__(other._pool, 5)  # noqa: SLF001
        self.transaction_count = 0

    def transaction(self, user_id: str | None) -> Any:
        self.transaction_count += 1
        return super().transaction(user_id)


_TABLES = ("conversations", "jobs", "messages", "tool_calls", "steps", "journal", "tasks", "idempotency_keys", "files")


async def record_step(services: Services, job: Job) -> None:
    async with services.worker.transaction(job.user_id) as connection:
        await connection.execute(
            "insert into steps (job_id, step, kind, user_id, attempt, data) values ($1, 0, 'tool_intent', $2, 1, '{}')",
            job.id,
            job.user_id,
        )


async def record_dead_letter(services: Services, job: Job | None) -> UUID:
    letter_id = uuid7()
    async with services.persistence.transaction(None) as connection:
        await connection.execute(
            """
            insert into dead_letters (id, job_id, queue, reason, message_kind, body_bytes, body_hash)
            values ($1, $2, 'chat.jobs', 'delivery_limit', 'JobReady', 10, '')
            """,
            letter_id,
            job and job.id,
        )
    return letter_id


async def pop(channel: AbstractChannel, queue: str) -> contracts.AnyMessage:
    message = await (await channel.get_queue(queue, ensure=False)).get(no_ack=True, timeout=10)
    assert message
    return contracts.decode(message.body)


def wire(job: Job) -> str:
    return wire_id(job.id)


def wire_id(job_id: UUID) -> str:
    return to_wire(Prefix.RESPONSE, job_id)


def read(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}
