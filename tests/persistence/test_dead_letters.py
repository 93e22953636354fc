"""What becomes of messages that the broker threw out, and of the jobs they were about."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel

from persistence.announce import Announcer, Dispatcher
from persistence.dead_letters import DeadLetters
from shared import contracts
from shared.contracts import JobReady, JournalChunks, Message, ResumeRequest
from shared.ids import uuid7
from shared.messaging import DEAD, JOBS, Broker, declare_topology
from tests.persistence.support import Job, RecordingPublisher, Services
from tests.support.waiting import wait_until

_ATTEMPTS_MAX = 3


class Neighbourhood:
    """A reader of dead letters, and a way for messages to die."""

    def __init__(self, services: Services, broker: Broker, channel: AbstractChannel) -> None:
        self.publisher = RecordingPublisher()
        self._services = services
        self._broker = broker
        self._channel = channel

    async def throw_out(self, message: Message | bytes, message_id: str = "") -> None:
        """Have `message` rejected by a consumer of chat.jobs."""
        body = message if isinstance(message, bytes) else contracts.encode(message)
        envelope = aio_pika.Message(body, message_id=message_id or uuid7().hex)
        await self._channel.default_exchange.publish(envelope, JOBS)
        queue = await self._channel.get_queue(JOBS, ensure=False)
        thrown = await wait_until(lambda: queue.get(fail=False), what="the message to reject")
        assert thrown
        await thrown.reject(requeue=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[None]:
        dispatcher = Dispatcher(self.publisher, self._services.persistence)
        announcer = Announcer(self.publisher, dispatcher)
        reader = DeadLetters(
            self._broker, self._services.persistence, announcer, attempts_max=_ATTEMPTS_MAX, retry_seconds_max=0.1
        )
        for part in (dispatcher, announcer, reader):
            part.start()
        try:
            yield
        finally:
            await reader.stop()
            await announcer.stop(1)
            await dispatcher.stop(1)

    async def is_all_read(self) -> bool:
        queue = await self._channel.declare_queue(DEAD, passive=True)
        return not queue.declaration_result.message_count

    async def letters(self, count: int) -> list[UUID | None]:
        """The jobs of the recorded dead letters, as soon as there are so many."""

        async def recorded() -> list[UUID | None]:
            rows = await self._services.rows("select job_id from dead_letters order by received_at, id")
            return [row["job_id"] for row in rows] if len(rows) >= count else []

        return await wait_until(recorded)

    async def is_told(self, job: Job, times: int = 1) -> bool:
        return self.publisher.told.ready_jobs.count(job.id) == times


@pytest.fixture
async def around(services: Services, rabbitmq_url: str) -> AsyncIterator[Neighbourhood]:
    connection = await aio_pika.connect(rabbitmq_url)
    channel = await connection.channel()
    await declare_topology(channel, 1)
    for name in (JOBS, DEAD):
        await (await channel.get_queue(name)).purge()
    yield Neighbourhood(services, Broker(rabbitmq_url, "test", partition_count=1), channel)
    await connection.close()


async def test_a_job_whose_message_died_is_told_to_a_worker_again(services: Services, around: Neighbourhood) -> None:
    job = await services.accept()

    async with around.reading():
        await around.throw_out(_ready(job))
        await wait_until(lambda: around.is_told(job))
        assert await around.letters(1) == [job.id]

    assert (await services.job_row(job))["status"] == "queued"


async def test_a_job_whose_messages_die_again_and_again_fails(services: Services, around: Neighbourhood) -> None:
    job = await services.accept()

    async with around.reading():
        for count in range(1, _ATTEMPTS_MAX + 1):
            await around.throw_out(_ready(job))
            await around.letters(count)

        async def is_over() -> bool:
            return (await services.job_row(job))["ended_at"] is not None

        await wait_until(is_over)

    assert (await services.job_row(job))["status"] == "failed"
    assert await around.is_told(job, times=_ATTEMPTS_MAX - 1)


async def test_a_job_that_runs_or_ended_is_left_alone(services: Services, around: Neighbourhood) -> None:
    running, ended = [await services.claim(await services.accept()) for _ in range(2)]
    await services.write(ended.ends())

    async with around.reading():
        for attempt in (running, ended):
            await around.throw_out(_ready(attempt.job))
        await around.letters(2)

    statuses = [(await services.job_row(attempt.job))["status"] for attempt in (running, ended)]
    assert statuses == ["in_progress", "completed"]
    assert not around.publisher.told.ready


async def test_a_job_whose_last_chunk_died_is_fenced_and_runs_again(services: Services, around: Neighbourhood) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.says("one"))
    end = attempt.ends()

    async with around.reading():
        await around.throw_out(JournalChunks(chunks=[end]))
        await wait_until(lambda: around.is_told(attempt.job))
    await services.write(end)

    row = await services.job_row(attempt.job)
    assert (row["status"], row["journal_attempt"]) == ("queued", 0)


async def test_a_chunk_that_was_stored_before_it_died_is_no_loss(services: Services, around: Neighbourhood) -> None:
    attempt = await services.claim(await services.accept())
    said = attempt.says("one")
    await services.write(said)

    async with around.reading():
        await around.throw_out(JournalChunks(chunks=[said]))
        await around.letters(1)

    assert (await services.job_row(attempt.job))["status"] == "in_progress"


async def test_the_same_dead_letter_twice_counts_once(services: Services, around: Neighbourhood) -> None:
    job = await services.accept()
    later = await services.accept()

    async with around.reading():
        await around.throw_out(_ready(job), "same")
        await around.throw_out(_ready(job), "same")
        await around.throw_out(_ready(later))
        await wait_until(lambda: around.is_told(later))

    assert await around.letters(2) == [job.id, later.id]
    assert await around.is_told(job, times=1)


async def test_what_nobody_can_read_is_recorded_without_what_it_says(services: Services, around: Neighbourhood) -> None:
    secret = b'{"kind":"no kind of ours","text":"hush"}'

    async with around.reading():
        await around.throw_out(secret)
        assert await around.letters(1) == [None]
        await wait_until(around.is_all_read)

    [row] = await services.rows("select * from dead_letters")
    assert (row["queue"], row["reason"], row["message_kind"]) == (JOBS, "rejected", "unreadable")
    assert row["body_bytes"] == len(secret)
    assert "hush" not in str(dict(row))


async def test_a_question_that_died_is_recorded_and_left_to_be_asked_again(
    services: Services, around: Neighbourhood
) -> None:
    attempt = await services.claim(await services.accept())
    question = ResumeRequest(job_id=attempt.job.id, conversation_id=attempt.job.conversation_id, attempt=1)

    async with around.reading():
        await around.throw_out(question)
        assert await around.letters(1) == [attempt.job.id]

    assert (await services.job_row(attempt.job))["status"] == "in_progress"


def _ready(job: Job) -> JobReady:
    return JobReady(job_id=job.id, conversation_id=job.conversation_id, user_id=job.user_id)
