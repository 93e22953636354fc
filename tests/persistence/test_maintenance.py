"""Each repair against a real Postgres, with a publisher that remembers."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import asyncpg
import pytest

from persistence.announce import Announcer, Dispatcher
from persistence.maintenance import FIND_ASTRAY, LOCK, Limits, Maintenance
from shared.states import JobStatus
from tests.persistence.support import Job, RecordingPublisher, Services, Told
from tests.support.waiting import wait_until

_LIMITS = Limits(
    round_seconds=60,
    dispatch_grace_seconds=30,
    wiped_broker_grace_seconds=30,
    redispatch_seconds=300,
    lease_grace_seconds=0,
    attempts_max=3,
    repairs_max=100,
)


@dataclass
class Caretaker:
    """A maintenance to be run round by round, and what came of it."""

    services: Services
    publisher: RecordingPublisher
    announcer: Announcer
    dispatcher: Dispatcher

    @property
    def told(self) -> Told:
        return self.publisher.told

    def maintenance(self, limits: Limits = _LIMITS) -> Maintenance:
        return Maintenance(self.services.persistence, self.publisher, self.announcer, self.dispatcher, limits)

    async def round(self, limits: Limits = _LIMITS) -> float:
        """One round with everything told that it leads to; returns the pause it asks for."""
        pause = await self.maintenance(limits).run_once()
        await self.dispatcher.drained()
        await self.announcer.drained()
        return pause


@pytest.fixture
async def caretaker(services: Services) -> AsyncIterator[Caretaker]:
    publisher = RecordingPublisher()
    dispatcher = Dispatcher(publisher, services.persistence)
    announcer = Announcer(publisher, dispatcher)
    dispatcher.start()
    announcer.start()
    yield Caretaker(services, publisher, announcer, dispatcher)
    await announcer.stop(1)
    await dispatcher.stop(1)


async def test_a_job_that_was_never_confirmed_is_published_after_a_grace(
    services: Services, caretaker: Caretaker
) -> None:
    job = await services.accept()
    await caretaker.round()
    at_first = caretaker.told.ready_jobs.copy()

    await services.change(job, "available_at = clock_timestamp() - interval '1 minute'")
    await caretaker.round()
    await caretaker.round()

    assert at_first == []
    assert caretaker.told.ready_jobs == [job.id]
    assert (await services.job_row(job))["dispatched_at"]


async def test_only_the_active_job_of_a_conversation_is_published(services: Services, caretaker: Caretaker) -> None:
    head = await services.accept()
    behind = await services.accept(conversation_id=head.conversation_id)
    for job in (head, behind):
        await services.change(job, "available_at = clock_timestamp() - interval '1 minute'")

    await caretaker.round()

    assert caretaker.told.ready_jobs == [head.id]


async def test_nothing_is_published_while_the_broker_is_away_and_everything_after(
    services: Services, caretaker: Caretaker
) -> None:
    job = await services.accept()
    await services.change(job, "available_at = clock_timestamp() - interval '1 minute'")

    caretaker.publisher.is_cut_off = True
    await caretaker.round()
    unsent = await services.job_row(job)
    caretaker.publisher.is_cut_off = False
    await caretaker.round()

    assert unsent["dispatched_at"] is None
    assert caretaker.told.ready_jobs == [job.id]


async def test_after_a_wipe_of_the_broker_sent_jobs_are_published_again(
    services: Services, caretaker: Caretaker
) -> None:
    job = await services.accept()
    await services.change(job, "dispatched_at = clock_timestamp() - interval '1 minute'")

    caretaker.publisher.jobs_in_queue = 1
    await caretaker.round()
    while_queued = caretaker.told.ready_jobs.copy()
    caretaker.publisher.jobs_in_queue = 0
    await caretaker.round()
    await caretaker.round()

    assert while_queued == []
    assert caretaker.told.ready_jobs == [job.id]


async def test_a_job_sent_long_ago_is_published_again_though_others_wait_in_the_queue(
    services: Services, caretaker: Caretaker
) -> None:
    job = await services.accept()
    await services.change(job, "dispatched_at = clock_timestamp() - interval '1 hour'")
    caretaker.publisher.jobs_in_queue = 1

    await caretaker.round()

    assert caretaker.told.ready_jobs == [job.id]


async def test_an_expired_lease_gives_the_job_to_the_next_worker(services: Services, caretaker: Caretaker) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.says("half"))
    await services.change(attempt.job, "lease_until = clock_timestamp() - interval '1 second'")

    await caretaker.round()
    row = await services.job_row(attempt.job)
    late = await services.write(attempt.says("late"))

    assert (row["status"], row["worker_id"], row["attempt"], row["journal_attempt"]) == ("queued", None, 1, 1)
    assert caretaker.told.ready_jobs == [attempt.job.id]
    assert late.live


async def test_a_lease_that_holds_is_left_alone(services: Services, caretaker: Caretaker) -> None:
    attempt = await services.claim(await services.accept())

    await caretaker.round()

    assert (await services.job_row(attempt.job))["status"] == "in_progress"
    assert caretaker.told.ready_jobs == []


async def test_a_cancel_that_nobody_carried_out_ends_the_job(services: Services, caretaker: Caretaker) -> None:
    job = await services.accept()
    following = await services.accept(conversation_id=job.conversation_id)
    await services.request_cancel(job)

    await caretaker.round()
    too_early = await services.job_row(job)
    await caretaker.round(replace(_LIMITS, dispatch_grace_seconds=0))

    assert too_early["status"] == "queued"
    assert (await services.job_row(job))["status"] == "cancelled"
    assert await services.active_job(job) == following.id
    assert following.id in caretaker.told.ready_jobs
    assert [live.job_id for live in caretaker.told.live] == [job.id]


async def test_a_cancelled_job_whose_worker_died_ends_in_one_round(services: Services, caretaker: Caretaker) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.says("so far"))
    await services.request_cancel(attempt.job)
    await services.change(attempt.job, "lease_until = clock_timestamp() - interval '1 second'")

    await caretaker.round(replace(_LIMITS, dispatch_grace_seconds=0))

    row = await services.job_row(attempt.job)
    assert (row["status"], row["response"]["output"][0]["content"][0]["text"]) == ("cancelled", "so far")


async def test_a_job_that_no_worker_survives_fails(services: Services, caretaker: Caretaker) -> None:
    attempt = await services.claim(await services.accept())
    await services.change(attempt.job, "attempt = 3, lease_until = clock_timestamp() - interval '1 second'")

    await caretaker.round()

    row = await services.job_row(attempt.job)
    assert (row["status"], row["error"]["type"]) == (JobStatus.FAILED, "attempts_exhausted")


@pytest.mark.parametrize("active_job", ["null", "id of the ended job"])
async def test_a_conversation_that_points_nowhere_goes_on_with_its_next_job(
    services: Services, caretaker: Caretaker, active_job: str
) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.ends())
    following = await services.accept(conversation_id=attempt.job.conversation_id)
    await _point_to(services, attempt.job, None if active_job == "null" else attempt.job)

    await caretaker.round(replace(_LIMITS, dispatch_grace_seconds=0))

    assert await services.active_job(following) == following.id
    assert caretaker.told.ready_jobs == [following.id]


async def test_a_conversation_that_points_to_an_ended_job_and_has_no_other_is_freed(
    services: Services, caretaker: Caretaker
) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.ends())
    await _point_to(services, attempt.job, attempt.job)

    await caretaker.round()

    assert await services.active_job(attempt.job) is None


async def test_a_released_job_is_published_when_it_is_due(services: Services, caretaker: Caretaker) -> None:
    attempt = await services.claim(await services.accept())
    maintenance = caretaker.maintenance()
    maintenance.start()

    await services.write(attempt.is_released(0.2))
    maintenance.wake()

    await wait_until(lambda: _is_told(caretaker, attempt.job))
    await maintenance.stop()
    row = await services.job_row(attempt.job)
    assert (row["available_at"] - row["started_at"]).total_seconds() >= 0.2


async def test_a_round_asks_to_be_repeated_when_the_next_job_is_due(services: Services, caretaker: Caretaker) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.is_released(20))

    pause = await caretaker.round()

    assert 10 < pause <= 20
    assert caretaker.told.ready_jobs == []


async def test_the_repair_of_active_jobs_looks_at_few_conversations(
    services: Services, database_urls: dict[str, str]
) -> None:
    await services.accept()
    owner = await asyncpg.connect(database_urls["owner"])
    async with owner.transaction():
        await owner.execute(
            """
            insert into conversations (id, user_id, deleted_at)
            select gen_random_uuid(), 'alice', clock_timestamp() from generate_series(1, 20000)
            """
        )
        await owner.execute("analyze conversations, jobs")
        rows = await owner.fetch(f"explain (analyze, buffers, timing off) {FIND_ASTRAY.replace('$1', '100')}")
    await owner.close()

    plan = "\n".join(row[0] for row in rows)
    assert "conversations_active" in plan
    pages_read = re.search(r"Buffers: shared hit=(\d+)", plan)
    assert pages_read
    assert int(pages_read[1]) < 50, plan  # of the hundreds that the table has


async def test_while_one_process_repairs_the_others_do_not(services: Services, caretaker: Caretaker) -> None:
    job = await services.accept()
    await services.change(job, "available_at = clock_timestamp() - interval '1 minute'")

    async with services.persistence.transaction(None) as connection:
        await connection.execute("select pg_advisory_xact_lock($1)", LOCK)
        await caretaker.round()

    assert caretaker.told.ready_jobs == []


async def _point_to(services: Services, job: Job, active: Job | None) -> None:
    async with services.persistence.transaction(None) as connection:
        await connection.execute(
            "update conversations set active_job_id = $2 where id = $1", job.conversation_id, active and active.id
        )


async def _is_told(caretaker: Caretaker, job: Job) -> bool:
    return job.id in caretaker.told.ready_jobs
