"""Leases: kept alive, and let go of for the right reason."""

import asyncio
from collections.abc import Mapping

import pytest

from chat_worker.leases import Lease, Leases, Stopped, StopReason
from gateway.turns import Accepted
from shared.db import Database
from shared.ids import uuid7
from tests.support.attempts import USER, Bench
from tests.support.waiting import wait_until


async def test_a_beat_renews_every_lease(bench: Bench) -> None:
    jobs = [await a_job_of(bench) for _ in range(3)]
    with (
        bench.leases.hold(jobs[0].job_id, 1, claimed_at=0.0) as first,
        bench.leases.hold(jobs[1].job_id, 1, claimed_at=0.0),
        bench.leases.hold(jobs[2].job_id, 1, claimed_at=0.0),
    ):
        await bench.leases.beat()

        assert first.expires_at > asyncio.get_running_loop().time()
    for job in jobs:
        is_alive = "select lease_until > now() + interval '20 s' from jobs where id = $1"
        assert await bench.in_database(is_alive, job)


async def test_a_beat_tells_what_time_it_is_in_postgres(bench: Bench) -> None:
    job = await a_job_of(bench)
    with bench.leases.hold(job.job_id, 1, claimed_at=0.0):
        bench.leases.clock.set(0.0)
        assert bench.leases.clock.now() < 1_000_000
        await bench.leases.beat()

    assert bench.leases.clock.now() > 1_000_000


@pytest.mark.parametrize(
    "change",
    [
        "update jobs set attempt = 2 where id = $1",
        "update jobs set worker_id = 'another' where id = $1",
        "update jobs set status = 'queued' where id = $1",
        "update jobs set status = 'completed' where id = $1",
    ],
)
async def test_a_beat_finds_what_is_lost(bench: Bench, change: str) -> None:
    job = await a_job_of(bench)
    await bench.in_database(change, job)
    with bench.leases.hold(job.job_id, 1, claimed_at=0.0) as lease:
        await bench.leases.beat()

    assert lease.stop_reason is StopReason.LEASE_LOST


async def test_leases_that_cannot_be_renewed_expire(database_urls: Mapping[str, str]) -> None:
    away = await Database.connect(database_urls["parley_worker"], application_name="test", pool_size=1)
    await away.close()
    leases = Leases(away, "a-worker", lease_seconds=0.1)
    beating = asyncio.create_task(leases.run())
    with leases.hold(uuid7(), 1, claimed_at=asyncio.get_running_loop().time()) as lease:
        with pytest.raises(Stopped) as stopped:
            async with lease.guard(10):
                await asyncio.Event().wait()
        beating.cancel()

    assert stopped.value.reason is StopReason.LEASE_EXPIRED


async def test_the_same_job_again_stops_the_attempt_that_was_here(bench: Bench) -> None:
    job_id = uuid7()
    with bench.leases.hold(job_id, 1, claimed_at=0.0) as old, bench.leases.hold(job_id, 2, claimed_at=0.0) as new:
        assert old.stop_reason is StopReason.LEASE_LOST
        assert new.stop_reason is None


async def test_the_end_of_an_old_attempt_leaves_the_new_one_held(bench: Bench) -> None:
    job_id = uuid7()
    old = bench.leases.hold(job_id, 1, claimed_at=0.0)
    old.__enter__()
    with bench.leases.hold(job_id, 2, claimed_at=0.0) as new:
        old.__exit__(None, None, None)

        bench.leases.stop_all(StopReason.SHUTDOWN)

    assert new.stop_reason is StopReason.SHUTDOWN


async def test_a_signal_that_comes_before_its_job_is_held_is_not_missed(bench: Bench) -> None:
    job = await a_job_of(bench)
    heart = asyncio.create_task(bench.leases.run())
    bench.leases.cancel_signalled(job.job_id)
    await bench.in_database("update jobs set cancel_requested_at = now() where id = $1", job)

    with bench.leases.hold(job.job_id, 1, claimed_at=asyncio.get_running_loop().time()) as lease:

        async def is_stopped() -> bool:
            return lease.stop_reason is StopReason.CANCELLED

        await wait_until(is_stopped, seconds=5)
    heart.cancel()


async def test_a_guard_is_interrupted_and_says_why() -> None:
    lease = Lease(uuid7(), 1, expires_at=0.0)
    asyncio.get_running_loop().call_soon(lease.stop, StopReason.CANCELLED)

    with pytest.raises(Stopped) as stopped:
        async with lease.guard(10):
            await asyncio.Event().wait()

    assert stopped.value.reason is StopReason.CANCELLED


async def test_a_guard_ends_at_its_time() -> None:
    with pytest.raises(Stopped) as stopped:
        async with Lease(uuid7(), 1, expires_at=0.0).guard(0.01):
            await asyncio.Event().wait()

    assert stopped.value.reason is StopReason.TIME_LIMIT


async def test_a_lease_that_was_stopped_guards_nothing() -> None:
    lease = Lease(uuid7(), 1, expires_at=0.0)
    lease.stop(StopReason.SHUTDOWN)
    lease.stop(StopReason.CANCELLED)

    with pytest.raises(Stopped) as stopped:
        async with lease.guard(10):
            pytest.fail("this must not run")

    assert stopped.value.reason is StopReason.SHUTDOWN


async def test_a_timeout_of_the_body_is_its_own() -> None:
    with pytest.raises(TimeoutError):
        async with Lease(uuid7(), 1, expires_at=0.0).guard(10):
            raise TimeoutError


async def test_a_cancelled_task_stays_cancelled() -> None:
    lease = Lease(uuid7(), 1, expires_at=0.0)

    async def guarded() -> None:
        async with lease.guard(10):
            await asyncio.Event().wait()

    task = asyncio.create_task(guarded())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def a_job_of(bench: Bench) -> Accepted:
    """A job that the bench's worker has claimed."""
    job = await bench.job()
    async with bench.database.connection() as db:
        claimed = await db.fetch(
            "select * from claim_job($1, $2, $3, 1, 'a-delivery')", USER, job.job_id, bench.leases.worker_id
        )
    assert len(claimed) == 1
    return job
