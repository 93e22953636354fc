"""The ledger: written only by the attempt that owns the job, and read back as it was meant."""

from dataclasses import replace

import pytest

from chat_worker import ledger
from chat_worker.agent.values import (
    Finish,
    HandedCall,
    HandedOver,
    ModelRound,
    PastStep,
    ToolCall,
    ToolError,
    ToolErrorKind,
    ToolFinished,
    ToolResult,
    ToolStarted,
    Usage,
)
from chat_worker.leases import Stopped, StopReason
from chat_worker.ledger import Row
from gateway.turns import Accepted
from tests.support.attempts import USER, Bench

CALL = ToolCall("call_1", "add_task", '{"title": "\\u0000 and \\"quotes\\""}')
ROUND = ModelRound(0, "One moment.", (CALL, CALL), Finish.TOOL_CALLS, Usage(1, 2, 3, 4))
FAILED = ToolResult(None, ToolError(ToolErrorKind.HTTP, "no", 503), outcome_unknown=True)


async def test_what_is_recorded_is_read_back(bench: Bench) -> None:
    job = await a_claimed_job(bench)

    await record(bench, job, 1, ROUND, ToolStarted(0, 0, CALL, "tasks"))
    await record(bench, job, 1, ToolFinished(0, 0, CALL, "tasks", FAILED))
    await record(bench, job, 1, ToolStarted(0, 1, CALL, "tasks"))

    [step] = await ledger.read(bench.database, USER, job.job_id)
    assert step.round == ROUND
    assert step.started.keys() == {0, 1}
    assert step.unfinished() == [ToolStarted(0, 1, CALL, "tasks")]
    assert step.to_past().results == {0: FAILED}


async def test_how_long_a_call_took_is_read_back_and_was_not_known_of_before(bench: Bench) -> None:
    job = await a_claimed_job(bench)
    took = ToolResult("ok", duration_ms=42)
    await record(bench, job, 1, ROUND, ToolStarted(0, 0, CALL, "tasks"), ToolFinished(0, 0, CALL, "tasks", took))
    await record(bench, job, 1, ToolStarted(0, 1, CALL, "tasks"), ToolFinished(0, 1, CALL, "tasks", took))
    await bench.in_database(
        "update steps set data = data #- '{result,duration_ms}' where job_id = $1 and index = 1", job
    )

    [step] = await ledger.read(bench.database, USER, job.job_id)

    assert [step.results[index].duration_ms for index in (0, 1)] == [42, None]


async def test_what_was_handed_over_and_allowed_is_read_back(bench: Bench) -> None:
    job = await a_claimed_job(bench)
    allowed = ToolStarted(0, 0, CALL, "tasks", "mcpr_1")
    handed = HandedCall(1, CALL), HandedCall(2, CALL, "mail")

    await record(bench, job, 1, replace(ROUND, calls=(CALL, CALL, CALL), reasoning="Hm."), allowed)
    await record(bench, job, 1, HandedOver(0, handed))

    [step] = await ledger.read(bench.database, USER, job.job_id)
    assert step.round.reasoning == "Hm."
    assert step.started == {0: allowed}
    assert step.handed == {1: handed[0], 2: handed[1]}
    assert step.to_past() == PastStep(step.round, frozenset({0}), {}, frozenset({1, 2}))


async def test_a_row_that_is_there_stays_as_it_is(bench: Bench) -> None:
    job = await a_claimed_job(bench)
    await record(bench, job, 1, ROUND)

    await record(bench, job, 1, ModelRound(0, "Other.", (CALL,), Finish.TOOL_CALLS, Usage()))

    [step] = await ledger.read(bench.database, USER, job.job_id)
    assert step.round == ROUND


async def test_an_attempt_that_lost_the_job_writes_nothing(bench: Bench) -> None:
    job = await a_claimed_job(bench)
    await bench.in_database("update jobs set attempt = 2 where id = $1", job)

    with pytest.raises(Stopped) as stopped:
        await record(bench, job, 1, ROUND)

    assert stopped.value.reason is StopReason.LEASE_LOST
    assert await ledger.read(bench.database, USER, job.job_id) == []


async def test_an_ended_job_takes_no_more_steps(bench: Bench) -> None:
    job = await a_claimed_job(bench)
    await bench.in_database("update jobs set status = 'cancelled' where id = $1", job)

    with pytest.raises(Stopped):
        await record(bench, job, 1, ROUND)


async def test_another_users_job_has_no_steps(bench: Bench) -> None:
    job = await a_claimed_job(bench)
    await record(bench, job, 1, ROUND)

    assert await ledger.read(bench.database, "somebody-else", job.job_id) == []
    with pytest.raises(Stopped):
        await ledger.record(bench.database, "somebody-else", job.job_id, 1, Row.all_of(ROUND))


async def a_claimed_job(bench: Bench) -> Accepted:
    job = await bench.job()
    await bench.in_database("update jobs set status = 'in_progress', attempt = 1 where id = $1", job)
    return job


async def record(
    bench: Bench, job: Accepted, attempt: int, *happenings: ModelRound | ToolStarted | ToolFinished | HandedOver
) -> None:
    rows = [row for happening in happenings for row in Row.all_of(happening)]
    await ledger.record(bench.database, USER, job.job_id, attempt, rows)
