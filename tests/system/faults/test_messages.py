"""Every kind of message comes again, late, or out of order. The broker promises no less."""

import asyncio
from typing import Any
from uuid import UUID

from shared.contracts import CancelRequested, JobReady, JobReleased, ResumeRequest
from shared.ids import Prefix, from_wire, uuid7
from shared.messaging import CONTROL, JOBS, LIVE
from tests.system.faults.history import Said
from tests.system.faults.load import Arena
from tests.system.faults.wire import Wire, chunk_of, row_when, wired
from tests.system.faults.zombies import end_once_more, overtake_a_frozen_worker, speak_as_a_dead_attempt


async def test_a_job_that_is_sent_many_times_runs_once(whole: Arena) -> None:
    async with wired(whole.backends) as wire:
        said = await whole.talk()
        for _ in range(3):
            await asyncio.gather(*(_send_again(wire, spoken) for spoken in said))

        assert await whole.verdict(attempts_max=1) == []

        await asyncio.gather(*(_send_again(wire, spoken) for spoken in said))
        assert await whole.verdict(attempts_max=1) == []


async def test_a_job_that_nobody_knows_is_dropped(whole: Arena) -> None:
    async with wired(whole.backends) as wire:
        await wire.send(JOBS, JobReady(job_id=uuid7(), conversation_id=uuid7(), user_id="nobody"))
        await whole.talk()

    assert await whole.verdict(attempts_max=1) == []


async def test_what_was_stored_is_not_stored_again(whole: Arena) -> None:
    """Chunks, barriers and releases of jobs that ended: the whole past of a partition, once more."""
    await whole.talk()
    before = await whole.snapshot()

    async with wired(whole.backends) as wire:
        for job in (job for job in before.jobs if job.user_id in whole.history.users):
            for first_seq in (0, len(job.events) // 2):
                again = chunk_of(job, attempt=job.attempt, first_seq=first_seq)
                await wire.send_to_persistence(job.conversation_id, again)
            ids: dict[str, Any] = {"job_id": job.id, "conversation_id": job.conversation_id, "attempt": job.attempt}
            await wire.send_to_persistence(job.conversation_id, ResumeRequest(**ids))
            await wire.send_to_persistence(job.conversation_id, JobReleased(**ids, delay_seconds=0.0))
    assert await whole.verdict(attempts_max=1) == []

    after = await whole.snapshot()
    assert [job.events for job in after.jobs] == [job.events for job in before.jobs]


async def test_a_barrier_that_is_asked_for_by_others_moves_nothing(whole: Arena) -> None:
    """Requests for attempts that are over, and for some that never were, while the real one speaks."""
    user = whole.users[0]
    async with wired(whole.backends) as wire:
        said = await user.ask(tokens=100, delay_ms=10)
        whole.read(user, said)
        job_id = from_wire(Prefix.RESPONSE, said.response_id)
        row = await row_when(whole.backends, job_id, "next_seq > 10")
        for attempt in (0, 2, 7):
            request = ResumeRequest(job_id=job_id, conversation_id=row["conversation_id"], attempt=attempt)
            await wire.send_to_persistence(row["conversation_id"], request)

        assert await whole.verdict(attempts_max=1) == []


async def test_live_events_that_come_again_in_any_order_are_streamed_once(whole: Arena) -> None:
    async with wired(whole.backends) as wire:
        talking = asyncio.create_task(whole.talk())
        while not talking.done():
            await wire.repeat(LIVE)
            await asyncio.sleep(0.05)

        assert await whole.verdict(attempts_max=1) == []


async def test_a_cancel_that_comes_again_stops_what_it_was_for_and_nothing_else(whole: Arena) -> None:
    user = whole.users[0]
    async with wired(whole.backends) as wire:
        stopped = await user.ask(tokens=2_000, delay_ms=20)
        whole.read(user, stopped)
        await row_when(whole.backends, _job_id(stopped), "next_seq > 5")
        await user.cancel(stopped)
        later = await user.ask(stopped.conversation_id)
        whole.read(user, later)
        for _ in range(3):
            await wire.repeat(CONTROL)
            cancel = CancelRequested(
                job_id=_job_id(stopped), conversation_id=from_wire(Prefix.CONVERSATION, stopped.conversation_id)
            )
            await wire.send_to_persistence(cancel.conversation_id, cancel)

        assert await whole.verdict(attempts_max=1) == []
    assert stopped.finals[-1]["status"] == "cancelled"
    assert later.finals[-1]["status"] == "completed"


async def test_the_last_words_of_a_dead_attempt_are_not_stored(arena: Arena) -> None:
    await arena.stack.restart_with({"chat-worker-0": {"PARLEY_FAULT": "worker.mid_text:10"}})

    await speak_as_a_dead_attempt(arena, arena.stack.processes["chat-worker-0"])

    assert await arena.verdict(attempts_max=2) == []


async def test_an_answer_that_is_complete_does_not_fail_afterwards(whole: Arena) -> None:
    await end_once_more(whole)

    assert await whole.verdict(attempts_max=1) == []


async def test_a_worker_that_froze_and_wakes_finds_its_job_gone(whole: Arena) -> None:
    said = await overtake_a_frozen_worker(whole)

    assert await whole.verdict(attempts_max=2) == []
    assert (await whole.attempts())[said.response_id] == 2


async def _send_again(wire: Wire, said: Said) -> None:
    conversation_id = from_wire(Prefix.CONVERSATION, said.conversation_id)
    await wire.send(JOBS, JobReady(job_id=_job_id(said), conversation_id=conversation_id, user_id=said.user_id))


def _job_id(said: Said) -> UUID:
    return from_wire(Prefix.RESPONSE, said.response_id)
