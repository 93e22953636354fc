"""Jobs that come together are claimed together, and each as if it had come alone."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import asyncpg
import pytest

from chat_worker.claims import Begun, Claims
from chat_worker.leases import Leases
from gateway.turns import Accepted
from shared.contracts import JobReady
from shared.ids import Prefix, new_wire_id, uuid7
from tests.chat_worker.conftest import Connected
from tests.support.attempts import RUNNER_LIMITS, Bench, said
from tests.support.owner import value_as_owner
from tests.support.waiting import wait_until

USERS = ("ada", "bob", "eve", "moe")


@pytest.fixture
def claims(bench: Bench) -> Claims:
    return Claims(bench.database, bench.leases, RUNNER_LIMITS.history)


async def jobs_of(bench: Bench, users: Sequence[str]) -> list[Accepted]:
    return [await bench.turns.ask(user_id, f"I am {user_id}") for user_id in users]


def ready(job: Accepted, user_id: str | None = None) -> JobReady:
    return JobReady(job_id=job.job_id, conversation_id=job.conversation_id, user_id=user_id or job.user_id)


async def claimed(claims: Claims, *jobs: JobReady) -> list[Begun | None]:
    return await asyncio.gather(*(claims.claim(job, uuid7().hex) for job in jobs))


async def transactions_of(connected: Connected, jobs: Sequence[Accepted]) -> list[str]:
    """Which transaction changed each job last."""
    async with connected.persistence.transaction(None) as db:
        rows = await db.fetch("select id, xmin::text from jobs where id = any($1)", [job.job_id for job in jobs])
    by_job = {row["id"]: row["xmin"] for row in rows}
    return [by_job[job.job_id] for job in jobs]


async def test_jobs_that_come_while_one_is_claimed_are_claimed_with_one_statement(
    bench: Bench, claims: Claims, connected: Connected
) -> None:
    jobs = await jobs_of(bench, USERS)

    begun = await claimed(claims, *map(ready, jobs))

    for job, one in zip(jobs, begun, strict=True):
        assert one is not None
        assert (one.claim.job_id, one.claim.user_id, one.claim.attempt) == (job.job_id, job.user_id, 1)
        assert one.claim.request["id"] == job.response_id
        assert [row["text"] for row in one.history] == [f"I am {job.user_id}"]
    first, *others = await transactions_of(connected, jobs)
    assert first not in others
    assert len(set(others)) == 1


async def test_each_gets_the_history_of_its_own_conversation(bench: Bench, claims: Claims) -> None:
    before = [await bench.turns.exchange(user_id, f"I am {user_id}", f"Hello {user_id}") for user_id in USERS]
    jobs = [await bench.turns.ask(job.user_id, "Who am I?", job.conversation_id) for job in before]

    begun = await claimed(claims, *map(ready, jobs))

    told = [[row["text"] for row in one.history] for one in begun if one is not None]
    assert told == [[f"I am {user_id}", f"Hello {user_id}", "Who am I?"] for user_id in USERS]


@pytest.mark.parametrize("note", ["none", "kept", "deleted"])
async def test_a_first_turn_is_told_the_same_as_one_whose_past_is_looked_for(
    bench: Bench, claims: Claims, note: str
) -> None:
    thought = {"type": "reasoning", "id": new_wire_id(Prefix.REASONING), "summary": []}
    call = {"type": "function_call", "call_id": "call_1", "name": "fly", "arguments": "{}", "status": "completed"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": "up"}
    job = await bench.accept(said("go"), thought, call, output, said("and?"))
    if note != "none":
        await bench.turns.change(
            """
            insert into messages (id, conversation_id, user_id, turn, ordinal, role, content, parts, status, deleted_at)
            values ($1, $2, $3, 0, 0, 'user', 'a note', '[]', 'completed', case when $4 then now() end)
            """,
            uuid7(),
            job.conversation_id,
            job.user_id,
            note == "deleted",
        )

    begun = await claims.claim(ready(job), uuid7().hex)
    async with bench.database.transaction(job.user_id) as db:
        looked_for = await db.fetch(
            "select * from history_of($1, $2, $3, $4, $5, true)",
            job.job_id,
            job.user_id,
            *RUNNER_LIMITS.history.of_chain,
        )

    assert begun is not None
    assert [[row[name] for name in looked_for[0].keys()] for row in begun.history] == [  # noqa: SIM118 - a record
        list(row.values()) for row in looked_for
    ]
    assert [row["kind"] for row in begun.history] == ["message", "function_call", "function_call_output", "message"]
    assert {row["has_loose"] for row in begun.history} == {note == "kept"}


async def test_who_may_not_have_a_job_does_not_get_it_among_others_who_may(bench: Bench, claims: Claims) -> None:
    ada, bob, eve = await jobs_of(bench, USERS[:3])
    await claimed(claims, ready(bob))

    begun = await claimed(claims, ready(ada), ready(bob), ready(eve, "moe"), ready(eve))

    assert [one is not None for one in begun] == [True, False, False, True]


async def test_a_job_that_comes_twice_at_once_is_claimed_once(bench: Bench, claims: Claims) -> None:
    ada, bob = await jobs_of(bench, USERS[:2])

    begun = await claimed(claims, ready(ada), ready(bob), ready(bob))

    assert [one and one.claim.attempt for one in begun] == [1, 1, None]


async def test_more_than_go_into_one_statement_are_all_claimed(bench: Bench, claims: Claims) -> None:
    jobs = await jobs_of(bench, [f"user-{number}" for number in range(70)])

    begun = await claimed(claims, *map(ready, jobs))

    assert [one and one.claim.job_id for one in begun] == [job.job_id for job in jobs]


async def test_one_that_cannot_even_be_asked_for_spoils_it_for_no_other(bench: Bench, claims: Claims) -> None:
    ada, bob, eve = await jobs_of(bench, USERS[:3])

    begun = await asyncio.gather(
        *(claims.claim(job, uuid7().hex) for job in (ready(ada), ready(bob, "b\0b"), ready(eve))),
        return_exceptions=True,
    )

    assert isinstance(begun[1], asyncpg.DataError)
    assert [isinstance(one, Begun) for one in begun] == [True, False, True]


async def test_a_job_whose_row_is_locked_holds_up_no_other(bench: Bench, claims: Claims, connected: Connected) -> None:
    jobs = await jobs_of(bench, USERS)
    async with locked(connected, jobs[1]):
        # The first goes alone, the others together.
        asked = [asyncio.ensure_future(claims.claim(ready(job), uuid7().hex)) for job in jobs]
        begun = await asyncio.gather(asked[0], *asked[2:])
        assert all(begun)
        assert not asked[1].done()
    assert await asked[1] is not None


async def test_those_that_come_behind_a_locked_one_are_not_held_up_either(
    bench: Bench, claims: Claims, connected: Connected
) -> None:
    jobs = await jobs_of(bench, USERS)
    async with locked(connected, jobs[0]):
        asked = [asyncio.ensure_future(claims.claim(ready(job), uuid7().hex)) for job in jobs]
        assert all(await asyncio.gather(*asked[1:]))
        assert not asked[0].done()
    assert await asked[0] is not None


@pytest.mark.parametrize("others", [[], ["bob", "eve"]], ids=["alone", "one of several"])
async def test_a_claim_that_nobody_waits_for_any_more_is_given_up(
    bench: Bench, claims: Claims, connected: Connected, others: list[str]
) -> None:
    """As when the channel is lost: the same delivery comes again, perhaps to another worker."""
    first, ada, *rest = await jobs_of(bench, ["moe", "ada", *others])
    delivery_id = uuid7().hex
    async with locked(connected, ada):
        asked = [asyncio.ensure_future(claims.claim(ready(job), uuid7().hex)) for job in (first, *rest)]
        gone = asyncio.ensure_future(claims.claim(ready(ada), delivery_id))
        assert all(await asyncio.gather(*asked))
        backend = await wait_until(lambda: _backend_that_waits(connected), what="the claim waits for the row")
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        # Not by a timeout of its statement, which would leave the connection as it is.
        await wait_until(lambda: _is_over(connected, backend), what="the claim is broken off")

    begun = await claims.claim(ready(ada), delivery_id)
    assert begun is not None
    assert begun.claim.attempt == 1


async def test_two_workers_that_are_told_of_the_same_jobs_at_once_share_them(
    bench: Bench, connected: Connected
) -> None:
    """Each claims many together, in another order, and neither waits for what the other holds in turn."""
    jobs = await jobs_of(bench, [f"user-{number}" for number in range(60)])
    workers = [
        Claims(bench.database, Leases(bench.database, f"worker-{number}", 30.0), RUNNER_LIMITS.history)
        for number in range(2)
    ]

    one, other = await asyncio.gather(
        claimed(workers[0], *map(ready, jobs)), claimed(workers[1], *map(ready, reversed(jobs)))
    )

    assert all((mine is None) != (theirs is None) for mine, theirs in zip(one, reversed(other), strict=True))
    async with connected.persistence.transaction(None) as db:
        attempts = await db.fetch("select attempt from jobs where id = any($1)", [job.job_id for job in jobs])
    assert {row["attempt"] for row in attempts} == {1}


async def _backend_that_waits(connected: Connected) -> int:
    """The process of a claim that waits for a row; 0: none does."""
    statement = """
        select pid from pg_stat_activity
        where datname = current_database() and wait_event_type = 'Lock' and query ~ 'from begin_attempts'
    """
    return int(await value_as_owner(connected.owner_url, statement) or 0)


async def _is_over(connected: Connected, backend: int) -> bool:
    statement = "select not exists (select from pg_stat_activity where pid = $1)"
    return bool(await value_as_owner(connected.owner_url, statement, backend))


@asynccontextmanager
async def locked(connected: Connected, job: Accepted) -> AsyncIterator[None]:
    async with connected.persistence.transaction(None) as db:
        await db.execute("select from jobs where id = $1 for update", job.job_id)
        yield
