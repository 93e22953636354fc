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

NOWHERE = "amqp://guest:guest@127.0.0.1:1/"
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
        await fill(services, database_urls["owner"], user)

    first = (await ops("purge-user", "alice", "--yes", "--json")).json
    again = (await ops("purge-user", "alice", "--yes", "--json")).json

    assert {name: count for name, count in first.items() if count} == {
        "conversations": 25,
        "jobs": 26,
        "dead_letters": 1,
        "tasks": 2,
        "tool_keys": 1,
        "files": 1,
    }
    assert set(again.values()) == {0}
    assert await row_counts(database_urls["owner"], "alice") == dict.fromkeys(_TABLES, 0)
    assert all((await row_counts(database_urls["owner"], "bob")).values())
    assert (await ops("dead", "--json")).json["count"] == 1


async def test_a_running_attempt_of_a_purged_user_stores_nothing_more(services: Services, ops: Ops) -> None:
    attempt = await services.claim(await services.accept())

    await ops("purge-user", "alice", "--yes")
    late = await services.write(attempt.says("late"), attempt.ends())

    assert (late.live, late.ended) == ([], [])


async def test_persistence_sees_no_task_unless_it_names_the_user_and_never_its_title(
    services: Services, database_urls: dict[str, str]
) -> None:
    await fill(services, database_urls["owner"], "alice")

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

    assert len(set(texts)) == 1
    assert database.transaction_count == 1


class CountedDatabase(Database):
    """Another's pool, with its transactions counted."""

    def __init__(self, other: Database) -> None:
        super().__init__(other._pool, 5)  # noqa: SLF001
        self.transaction_count = 0

    def transaction(self, user_id: str | None) -> Any:
        self.transaction_count += 1
        return super().transaction(user_id)


_TABLES = ("conversations", "jobs", "messages", "tool_calls", "steps", "journal", "tasks", "idempotency_keys", "files")


async def fill(services: Services, owner_url: str, user: str) -> None:
    """Rows of `user` in every table, and more conversations than one transaction deletes."""
    jobs = [await services.accept(user_id=user) for _ in range(25)]
    following = await services.accept(conversation_id=jobs[0].conversation_id, user_id=user)
    attempt = await services.claim(jobs[0])
    await record_step(services, jobs[0])
    await services.write(attempt.begins(), attempt.calls_tool("add_task"), attempt.says("done"), attempt.ends())
    await record_dead_letter(services, following)
    owner = await asyncpg.connect(owner_url)
    try:
        async with owner.transaction():
            await owner.execute("select set_config('app.user_id', $1, true)", user)
            for _ in range(2):
                await owner.execute("insert into tasks (id, user_id, title) values ($1, $2, 'milk')", uuid7(), user)
            await owner.execute(
                "insert into idempotency_keys (user_id, key, tool_name, arguments_hash, result) "
                "values ($1, '1', 'add_task', '', '{}')",
                user,
            )
            await owner.execute(
                "insert into files (id, user_id, filename, media_type, purpose, bytes, byte_count, sha256, is_inline) "
                "values (gen_random_uuid(), $1, 'a.txt', 'text/plain', 'user_data', '', 0, '', false)",
                user,
            )
    finally:
        await owner.close()


async def row_counts(owner_url: str, user: str) -> dict[str, int]:
    owner = await asyncpg.connect(owner_url)
    try:
        async with owner.transaction():
            await owner.execute("select set_config('app.user_id', $1, true)", user)
            return {
                table: await owner.fetchval(f"select count(*) from {table} where user_id = $1", user)  # noqa: S608
                for table in _TABLES
            }
    finally:
        await owner.close()


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
