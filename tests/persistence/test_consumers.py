"""The whole service on a real broker and a real Postgres: what comes in, what is acknowledged, what goes out."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import aio_pika
import asyncpg
import msgspec
import pytest
from aio_pika.abc import AbstractChannel

from deploy.local.rabbitmq import service_urls
from persistence.announce import Announcer, Dispatcher
from persistence.app import Service, run_service
from persistence.consumers import BatchLimits, Intake, WriteBack
from persistence.maintenance import Limits, Maintenance
from persistence.settings import PersistenceSettings
from shared import contracts
from shared.contracts import (
    CancelRequested,
    JobReady,
    JournalChunk,
    JournalChunks,
    LiveBatch,
    LiveEvents,
    ResumeReply,
    encode,
)
from shared.db import Database
from shared.errors import DatabaseUnavailableError
from shared.events import response_of
from shared.ids import Prefix, from_wire
from shared.messaging import (
    ATTEMPTS,
    CANCELS,
    CONTROL,
    DEAD,
    JOBS,
    LIVE,
    Broker,
    Listener,
    Publisher,
    declare_topology,
    journal_queue,
    partition_of,
)
from tests.persistence.support import Attempt, Job, Services, all_events
from tests.support.waiting import wait_until

_PARTITION_COUNT = 2


@dataclass
class Surroundings:
    """The broker as the service's neighbours see it."""

    broker: Broker
    publisher: Publisher
    channel: AbstractChannel
    heard: list[LiveEvents] = field(default_factory=list)
    replies: list[ResumeReply] = field(default_factory=list)
    reply_queue: str = ""

    async def send(self, *messages: Any) -> None:
        """Publish to the partition of each message, one after the other."""
        for message in messages:
            wrapped = JournalChunks(chunks=[message]) if isinstance(message, JournalChunk) else message
            partition = partition_of(message.conversation_id, _PARTITION_COUNT)
            await self.publisher.send(journal_queue(partition), wrapped, reply_to=self.reply_queue)

    async def send_raw(self, exchange: str, conversation_id: UUID, body: bytes, reply_to: str | None = None) -> None:
        """Publish `body` as whoever may write to `exchange` could."""
        target = await self.channel.get_exchange(exchange)
        queue = journal_queue(partition_of(conversation_id, _PARTITION_COUNT))
        await target.publish(aio_pika.Message(body, reply_to=reply_to), queue)

    async def count(self, queue: str) -> int:
        """Messages in `queue`; what a consumer holds unacknowledged is not counted."""
        found = await self.channel.declare_queue(queue, passive=True)
        return found.declaration_result.message_count or 0

    async def pop(self, queue: str) -> bytes:
        message = await (await self.channel.get_queue(queue)).get(no_ack=True, timeout=5)
        assert message
        return message.body


@pytest.fixture
async def surroundings(rabbitmq_url: str) -> AsyncIterator[Surroundings]:
    broker = Broker(rabbitmq_url, "test", partition_count=_PARTITION_COUNT)
    connection = await aio_pika.connect(rabbitmq_url)
    channel = await connection.channel()
    await declare_topology(channel, _PARTITION_COUNT)
    for queue in (JOBS, DEAD, *(journal_queue(partition) for partition in range(_PARTITION_COUNT))):
        await (await channel.get_queue(queue)).purge()
    around = Surroundings(broker, Publisher(broker), channel)
    live = Listener(broker, LIVE, lambda body: around.heard.extend(_live(body)), lambda: None)
    control = Listener(broker, CONTROL, lambda body: around.replies.append(_reply(body)), lambda: None)
    for part in (around.publisher, live, control):
        part.start()
        await part.wait_until_up(10)
    around.reply_queue = control.queue or ""
    yield around
    for part in (around.publisher, live, control):
        await part.stop()
    await connection.close()


class InterruptedDatabase(Database):
    """A database that can be away."""

    is_away = False

    def __init__(self, pool: asyncpg.Pool, acquire_seconds: float) -> None:
        super().__init__(pool, acquire_seconds)
        self.refused = asyncio.Event()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[asyncpg.Connection]:
        if self.is_away:
            self.refused.set()
            raise DatabaseUnavailableError
        async with super().connection() as connection:
            yield connection


@asynccontextmanager
async def _writing_back(surroundings: Surroundings, database: Database) -> AsyncIterator[Intake]:
    """The write-back loop alone, on a database of the test's own."""
    dispatcher = Dispatcher(surroundings.publisher, database)
    announcer = Announcer(surroundings.publisher, dispatcher)
    limits = Limits(60, 60, 60, 60, 60, 10, 100)
    maintenance = Maintenance(database, surroundings.publisher, announcer, dispatcher, limits)
    intake = Intake(surroundings.broker, prefetch_count=10)
    write_back = WriteBack(intake, database, announcer, maintenance, BatchLimits(100, 2**20, 0.1, 3))
    for part in (dispatcher, announcer, intake, write_back):
        part.start()
    try:
        yield intake
    finally:
        await intake.close_door()
        await write_back.stop(5)
        await intake.stop()
        await announcer.stop(1)
        await dispatcher.stop(1)


Start = Callable[[], AbstractAsyncContextManager[Service]]


@pytest.fixture
def start(database_urls: dict[str, str], rabbitmq_url: str) -> Start:
    """Starts the service; it is up when the block is entered."""

    @asynccontextmanager
    async def started() -> AsyncIterator[Service]:
        settings = PersistenceSettings.model_validate(
            {
                "database_url": database_urls["parley_persistence"],
                "rabbitmq_url": service_urls(rabbitmq_url)["PERSISTENCE_RABBITMQ_URL"],
                "partition_count": _PARTITION_COUNT,
            }
        )
        async with run_service(settings) as service:
            await wait_until(lambda: _is_up(service))
            yield service

    return started


async def test_a_turn_is_stored_acknowledged_and_told_live(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempt = await services.claim(await services.accept())
    chunks = [attempt.begins(), attempt.says("hel"), attempt.says("lo"), attempt.ends()]

    async with start():
        await surroundings.send(*chunks)
        await wait_until(lambda: _are_ended(services, attempt))
        await wait_until(lambda: _has(surroundings.heard, all_events(*chunks)))

    assert (await services.journal(attempt.job))[1:] == all_events(*chunks)
    assert [await surroundings.count(journal_queue(partition)) for partition in range(_PARTITION_COUNT)] == [0, 0]


async def test_a_summary_and_a_title_come_in_and_are_stored(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    job = await services.accept()
    about: dict[str, Any] = {"conversation_id": job.conversation_id, "user_id": job.user_id}
    summary = contracts.ConversationSummarised(
        **about,
        job_id=job.id,
        conversation_ids=[job.conversation_id],
        deleted_item_count=0,
        text="In short.",
        token_count=3,
        covers_turn_count=1,
    )

    async with start():
        await surroundings.send(summary, contracts.TitleSuggested(**about, title="Groceries"))
        await wait_until(lambda: services.rows("select from conversations where title = 'Groceries'"))

    assert [row["job_id"] for row in await services.rows("select job_id from summaries")] == [job.id]


async def test_the_next_job_is_published_and_its_confirm_noted(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempt = await services.claim(await services.accept())
    following = await services.accept(conversation_id=attempt.job.conversation_id)

    async with start():
        await surroundings.send(attempt.ends())
        await wait_until(lambda: _is_dispatched(services, following.id))

    assert contracts.decode(await surroundings.pop(JOBS)) == contracts.JobReady(
        job_id=following.id, conversation_id=following.conversation_id, user_id=following.user_id
    )


async def test_a_barrier_is_answered_to_the_worker_that_asked(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    dead = await services.claim(await services.accept())
    successor = await services.claim(dead.job, is_redelivery=True)

    async with start():
        await surroundings.send(dead.says("half"), successor.asks_to_resume())
        await wait_until(lambda: _is_answered(surroundings))
        successor.goes_on(surroundings.replies[0])
        await surroundings.send(successor.says("whole"), successor.ends())
        await wait_until(lambda: _are_ended(services, successor))

    await services.journal(dead.job)


async def test_what_a_sender_may_not_send_or_nobody_can_read_changes_nothing_and_is_parked(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempt = await services.claim(await services.accept())
    job, chunk = attempt.job, attempt.says("forged")
    about: dict[str, Any] = {"job_id": job.id, "conversation_id": job.conversation_id}
    plain = msgspec.json.decode(encode(JournalChunks(chunks=[chunk])))
    before = await services.job_row(job)

    def with_field(name: str, value: object) -> bytes:
        return encode({**plain, "chunks": [{**plain["chunks"][0], name: value}]})

    forged = [
        (CANCELS, encode(JournalChunks(chunks=[chunk]))),
        (CANCELS, encode(JournalChunks(chunks=[attempt.ends()]))),
        (CANCELS, encode(attempt.is_released(0.0))),
        (CANCELS, encode(attempt.asks_to_resume())),
        (ATTEMPTS, encode(CancelRequested(**about))),
        (ATTEMPTS, encode(JobReady(**about, user_id=job.user_id))),
        (ATTEMPTS, encode(LiveBatch(jobs=[]))),
        (ATTEMPTS, encode(JournalChunks(v=2, chunks=[chunk]))),
        (ATTEMPTS, with_field("first_seq", -1)),
        (ATTEMPTS, with_field("first_seq", 2**31)),
        (ATTEMPTS, with_field("attempt", 2**63)),
        (ATTEMPTS, with_field("ended_as", "anything")),
        (ATTEMPTS, b'{"kind":"journal_chunks","v":1,"chunks":' + b"[" * 2_000),
        (ATTEMPTS, b"\x82\xa4kind\xaejournal_chunks"),
        (ATTEMPTS, b""),
    ]
    async with start():
        for exchange, body in forged:
            await surroundings.send_raw(exchange, job.conversation_id, body)
        letters = await wait_until(lambda: _dead_letters(services, len(forged)))

    assert {(letter["message_kind"], letter["job_id"]) for letter in letters} == {("unreadable", None)}
    assert await services.job_row(job) == before


async def test_the_row_wins_over_a_message_that_disagrees_with_it(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempt, other = [await services.claim(await services.accept()) for _ in range(2)]
    chunk = attempt.says("forged")
    about: dict[str, Any] = {"job_id": attempt.job.id, "conversation_id": attempt.job.conversation_id}
    before = await services.job_row(attempt.job)

    async with start():
        await surroundings.send(
            msgspec.structs.replace(chunk, conversation_id=other.job.conversation_id),
            msgspec.structs.replace(chunk, attempt=7),
            msgspec.structs.replace(chunk, attempt=0),
            contracts.TitleSuggested(conversation_id=attempt.job.conversation_id, user_id="mallory", title="Forged"),
            contracts.ConversationSummarised(
                **about,
                user_id="mallory",
                conversation_ids=[attempt.job.conversation_id],
                deleted_item_count=0,
                text="Forged.",
                token_count=1,
                covers_turn_count=1,
            ),
            contracts.JobReleased(**about, attempt=7, delay_seconds=0),
            other.says("behind all of it"),
        )
        await wait_until(lambda: _is_told(surroundings, other.job))

    assert await services.job_row(attempt.job) == before
    assert not await services.rows("select from summaries where job_id = $1", attempt.job.id)


async def test_no_answer_goes_to_a_queue_that_is_no_workers(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempt = await services.claim(await services.accept())
    question = encode(attempt.asks_to_resume())

    async with start():
        for reply_to in (JOBS, DEAD, "amq.rabbitmq.reply-to.forged"):
            await surroundings.send_raw(ATTEMPTS, attempt.job.conversation_id, question, reply_to=reply_to)
        await surroundings.send(attempt.asks_to_resume())
        await wait_until(lambda: _is_answered(surroundings))
        assert await surroundings.count(JOBS) == 0

    assert not await _dead_letters(services, 1)


async def test_what_cannot_be_decoded_is_recorded_as_a_dead_letter_and_harms_no_neighbour(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempt = await services.claim(await services.accept())
    queue = journal_queue(partition_of(attempt.job.conversation_id, _PARTITION_COUNT))

    async with start():
        await surroundings.send(attempt.says("before"))
        await surroundings.publisher.send_bytes(queue, b"{not json")
        await surroundings.publisher.send_bytes(queue, b'{"kind":"job_ready","v":99}')
        await surroundings.send(attempt.ends())
        await wait_until(lambda: _are_ended(services, attempt))
        letters = await wait_until(lambda: _dead_letters(services, 2))

    assert {(row["queue"], row["reason"], row["message_kind"]) for row in letters} == {
        (queue, "rejected", "unreadable")
    }
    assert letters[0]["body_bytes"] == len(b"{not json")
    assert await surroundings.count(DEAD) == 0


async def test_a_message_that_cannot_be_written_is_isolated_while_its_neighbours_are_stored(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    poisoned = await services.claim(await services.accept())
    neighbours = [await services.claim(await services.accept()) for _ in range(3)]
    said, end = poisoned.says("an answer"), poisoned.ends()
    await _occupy_message_id(services, neighbours[0], end)

    await surroundings.send(neighbours[0].ends(), said, end, neighbours[1].ends(), neighbours[2].ends())
    async with start():
        await wait_until(lambda: _are_ended(services, *neighbours))
        [letter] = await wait_until(lambda: _dead_letters(services, 1))
        await wait_until(lambda: _is_dispatched(services, poisoned.job.id))

    row = await services.job_row(poisoned.job)
    assert letter["job_id"] == poisoned.job.id
    assert (row["status"], row["journal_attempt"]) == ("queued", 0)


async def test_of_a_message_that_cannot_be_written_what_can_be_is_stored(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    poisoned, neighbour = [await services.claim(await services.accept()) for _ in range(2)]
    said, end = poisoned.says("an answer"), poisoned.ends()
    await services.write(said)
    await _occupy_message_id(services, neighbour, end)
    queue = journal_queue(partition_of(neighbour.job.conversation_id, _PARTITION_COUNT))

    async with start():
        await surroundings.publisher.send(queue, JournalChunks(chunks=[end, neighbour.ends()]))
        await wait_until(lambda: _are_ended(services, neighbour))
        await wait_until(lambda: _is_dispatched(services, poisoned.job.id))

    assert (await services.job_row(neighbour.job))["status"] == "completed"


async def test_a_message_that_postgres_always_gives_up_on_does_not_hold_up_the_others(
    services: Services, surroundings: Surroundings, start: Start, database_urls: dict[str, str]
) -> None:
    heavy, light = [await services.claim(await services.accept()) for _ in range(2)]

    async with _statement_timeout_for(database_urls["owner"], heavy):
        await surroundings.send(heavy.says("too much"), light.ends())
        async with start():
            await wait_until(lambda: _are_ended(services, light))
            await wait_until(lambda: _dead_letters(services, 1))
            await wait_until(lambda: _is_dispatched(services, heavy.job.id))

    assert (await services.job_row(heavy.job))["journal_attempt"] == 0


async def test_while_postgres_is_away_nothing_is_acknowledged_and_nothing_lost(
    services: Services, surroundings: Surroundings, database_urls: dict[str, str]
) -> None:
    attempt = await services.claim(await services.accept())
    chunks = [attempt.says("one"), attempt.says("two"), attempt.ends()]
    database = await InterruptedDatabase.connect(
        database_urls["parley_persistence"], application_name="test", pool_size=4
    )

    async with _writing_back(surroundings, database) as intake:
        database.is_away = True
        await surroundings.send(*chunks)
        await database.refused.wait()
        stored_meanwhile = await services.journal(attempt.job)
        database.is_away = False
        await wait_until(lambda: _are_ended(services, attempt))
        assert intake.is_up
    await database.close()

    assert len(stored_meanwhile) == 1
    assert (await services.journal(attempt.job))[1:] == all_events(*chunks)
    assert await surroundings.count(DEAD) == 0


async def test_messages_left_by_one_process_are_written_by_the_next(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempts = [await services.claim(await services.accept()) for _ in range(5)]
    chunks = [[attempt.says(f"word {n}") for n in range(10)] + [attempt.ends()] for attempt in attempts]
    stream = [chunk for turn in zip(*chunks, strict=True) for chunk in turn]

    async with start():
        await surroundings.send(*stream[: len(stream) // 2])
    await surroundings.send(*stream[len(stream) // 2 :])
    async with start():
        await wait_until(lambda: _are_ended(services, *attempts))

    for attempt, sent in zip(attempts, chunks, strict=True):
        assert (await services.journal(attempt.job))[1:] == all_events(*sent)
        assert (await services.job_row(attempt.job))["attempt"] == 1


async def test_two_processes_share_the_partitions_and_one_takes_over_from_the_other(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempts = [await services.claim(await services.accept()) for _ in range(6)]
    chunks = [[attempt.says(f"word {n}") for n in range(10)] + [attempt.ends()] for attempt in attempts]
    stream = [chunk for turn in zip(*chunks, strict=True) for chunk in turn]

    async with start():
        async with start():
            await surroundings.send(*stream[: len(stream) // 2])
        await surroundings.send(*stream[len(stream) // 2 :])
        await wait_until(lambda: _are_ended(services, *attempts))

    for attempt, sent in zip(attempts, chunks, strict=True):
        assert (await services.journal(attempt.job))[1:] == all_events(*sent)


async def test_a_deleted_queue_is_declared_and_consumed_again(
    services: Services, surroundings: Surroundings, start: Start
) -> None:
    attempt = await services.claim(await services.accept())
    queue = journal_queue(partition_of(attempt.job.conversation_id, _PARTITION_COUNT))

    async with start() as service:
        await surroundings.channel.queue_delete(queue)
        await wait_until(lambda: _is_down(service))
        await wait_until(lambda: _is_up(service))
        await surroundings.send(attempt.ends())
        await wait_until(lambda: _are_ended(services, attempt))


def _live(body: bytes) -> list[LiveEvents]:
    batch = contracts.decode(body)
    assert isinstance(batch, LiveBatch)
    return batch.jobs


def _reply(body: bytes) -> ResumeReply:
    reply = contracts.decode(body)
    assert isinstance(reply, ResumeReply)
    return reply


async def _occupy_message_id(services: Services, owner: Attempt, end: JournalChunk) -> None:
    """Store a message of `owner` under the id that the answer of `end` has."""
    message_id = from_wire(Prefix.MESSAGE, response_of(bytes(end.events[-1]))["output"][0]["id"])
    async with services.persistence.transaction(None) as connection:
        await connection.execute(
            """
            insert into messages (id, conversation_id, job_id, user_id, turn, ordinal, role, content, parts, status)
            values ($1, $2, $3, 'alice', 1, 1, 'assistant', '', '[]', 'completed')
            """,
            message_id,
            owner.job.conversation_id,
            owner.job.id,
        )


@asynccontextmanager
async def _statement_timeout_for(owner_url: str, attempt: Attempt) -> AsyncIterator[None]:
    """Every statement that adds to the journal of this job is cancelled, as by its timeout."""
    owner = await asyncpg.connect(owner_url)
    await owner.execute(
        f"""
        create function give_up() returns trigger language plpgsql as $$
        begin
            if new.job_id = '{attempt.job.id}' then
                raise exception 'canceling statement' using errcode = 'query_canceled';
            end if;
            return new;
        end $$;
        create trigger give_up before insert on journal for each row execute function give_up()
        """
    )
    try:
        yield
    finally:
        await owner.execute("drop trigger give_up on journal; drop function give_up()")
        await owner.close()


async def _dead_letters(services: Services, count: int) -> list[asyncpg.Record]:
    rows = await services.rows("select * from dead_letters order by body_bytes")
    return rows if len(rows) == count else []


async def _is_up(service: Service) -> bool:
    return service.intake.is_up and service.publisher.is_up


async def _is_down(service: Service) -> bool:
    return not service.intake.is_up


async def _are_ended(services: Services, *attempts: Attempt) -> bool:
    return all([(await services.job_row(attempt.job))["ended_at"] for attempt in attempts])


async def _is_dispatched(services: Services, job_id: Any) -> bool:
    [row] = await services.rows("select dispatched_at from jobs where id = $1", job_id)
    return row["dispatched_at"] is not None


async def _is_answered(surroundings: Surroundings) -> bool:
    return bool(surroundings.replies)


async def _has(heard: list[LiveEvents], events: list[bytes]) -> bool:
    return [bytes(event) for live in heard for event in live.events] == events


async def _is_told(surroundings: Surroundings, job: Job) -> bool:
    return any(live.job_id == job.id for live in surroundings.heard)
