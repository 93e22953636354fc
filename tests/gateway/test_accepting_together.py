"""Turns that come together are accepted together, and each as if it had come alone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from gateway.items import Role, text_message
from gateway.turns import Acceptance, Accepted, AcceptLimits, MultitaskStrategy, Submission, Turn
from shared.errors import ConflictError, DatabaseUnavailableError, LimitExceededError, NotFoundError, ParleyError
from tests.support.turns import Turns

USERS = ("ada", "bob", "eve", "moe")
LIMITS = AcceptLimits(open_jobs_max=1_000)


@pytest.fixture
def acceptance(turns: Turns) -> Acceptance:
    return Acceptance(turns.gateway, LIMITS)


def said(user_id: str, text: str = "", conversation_id: UUID | None = None, **fields: Any) -> Turn:
    items = [text_message(Role.USER, text or f"I am {user_id}")]
    return Turn(user_id, items, model="chat", options={}, conversation_id=conversation_id, **fields)


async def together(acceptance: Acceptance, *turns: Turn) -> list[Any]:
    """What becomes of each. The first goes alone, those behind it as one statement."""
    return await asyncio.gather(*map(acceptance.accept, turns), return_exceptions=True)


async def stored(turns: Turns, accepted: Accepted) -> Any:
    """The job, its conversation, what it says, and the transaction that stored it."""
    async with turns.persistence.transaction(None) as db:
        return await db.fetchrow(
            """
            select j.xmin::text as stored_by, j.user_id, j.turn, j.idempotency_key, c.user_id as owner,
                   c.active_job_id, c.head_job_id, c.event_count,
                   (select array_agg(content order by ordinal) from messages where job_id = j.id) as said,
                   (select count(*) from conversation_events where conversation_id = c.id) as told,
                   (select count(*) from journal where job_id = j.id) as journalled
            from jobs j join conversations c on c.id = j.conversation_id where j.id = $1
            """,
            accepted.job_id,
        )


async def test_turns_that_come_while_one_is_accepted_are_accepted_in_one_transaction(
    acceptance: Acceptance, turns: Turns
) -> None:
    accepted = await together(acceptance, *map(said, USERS))

    rows = [await stored(turns, one) for one in accepted]
    for user_id, one, row in zip(USERS, accepted, rows, strict=True):
        assert (row["user_id"], row["owner"], row["turn"], row["said"]) == (user_id, user_id, 1, [f"I am {user_id}"])
        assert row["active_job_id"] == row["head_job_id"] == one.job_id
        assert (row["event_count"], row["told"], row["journalled"]) == (1, 1, 1)
        assert one.is_active
    first, *others = (row["stored_by"] for row in rows)
    assert first not in others
    assert len(set(others)) == 1


async def test_those_of_one_conversation_follow_each_other(acceptance: Acceptance, turns: Turns) -> None:
    first = await acceptance.accept(said("ada"))

    later = await together(acceptance, *(said("ada", f"{n}", first.conversation_id) for n in range(6)))

    rows = sorted([await stored(turns, one) for one in later], key=lambda row: row["turn"])
    assert [row["turn"] for row in rows] == [2, 3, 4, 5, 6, 7]
    assert sorted(row["said"][0] for row in rows) == [f"{n}" for n in range(6)]
    assert {row["active_job_id"] for row in rows} == {first.job_id}
    assert rows[-1]["event_count"] == rows[-1]["told"] == 7
    assert not any(one.is_active for one in later)


async def test_what_is_refused_leaves_nothing_and_the_others_are_accepted(turns: Turns) -> None:
    acceptance = Acceptance(turns.gateway, AcceptLimits(open_jobs_max=2))
    others = (await acceptance.accept(said("ben"))).conversation_id
    busy = (await acceptance.accept(said("mia"))).conversation_id

    outcomes = await together(
        acceptance,
        said("lee"),
        said("kim", "not mine", others),
        said("mia", "now", busy, multitask_strategy=MultitaskStrategy.REJECT),
        said("kim", "one"),
        said("kim", "two"),
        said("kim", "three"),
        said("lee"),
    )

    kinds = [type(outcome) for outcome in outcomes]
    assert kinds[:3] == [Accepted, NotFoundError, ConflictError]
    assert sorted(kind.__name__ for kind in kinds[3:6]) == ["Accepted", "Accepted", "LimitExceededError"]
    assert kinds[6] is Accepted
    assert kinds.count(LimitExceededError) == 1
    assert await turns.change("select count(*) from jobs where user_id = 'kim'") == 2
    assert await turns.change("select count(*) from messages where content in ('not mine', 'now')") == 0


async def test_the_same_key_twice_at_once_is_one_turn_and_another_body_is_refused(
    acceptance: Acceptance, turns: Turns
) -> None:
    keyed = said("ada", "once", submission=Submission("key", b"1" * 32))
    other = replace(keyed, submission=Submission("key", b"2" * 32))

    accepted = await together(acceptance, said("bob"), keyed, keyed, other)

    assert accepted[1].job_id == accepted[2].job_id
    assert sorted(one.is_repeat for one in accepted[1:3]) == [False, True]
    assert isinstance(accepted[3], ParleyError)
    assert accepted[3].code == "idempotency_key_reused"
    assert (await stored(turns, accepted[1]))["idempotency_key"] == "key"


async def test_one_that_cannot_be_stored_spoils_it_for_no_other(acceptance: Acceptance, turns: Turns) -> None:
    spoilt = said("bob", "a\0b")

    outcomes = await together(acceptance, said("moe"), said("ada"), spoilt, said("eve"))

    assert [type(outcome) for outcome in outcomes[:2]] == [Accepted, Accepted]
    assert isinstance(outcomes[2], asyncpg.PostgresError)
    assert isinstance(outcomes[3], Accepted)
    assert (await stored(turns, outcomes[3]))["said"] == ["I am eve"]


async def test_one_whose_conversation_is_locked_holds_up_no_other(acceptance: Acceptance, turns: Turns) -> None:
    before = [await acceptance.accept(said(user_id)) for user_id in USERS]
    more = [said(user_id, "more", one.conversation_id) for user_id, one in zip(USERS, before, strict=True)]
    async with locked(turns, before[1]):
        asked = [asyncio.ensure_future(acceptance.accept(turn)) for turn in more]
        assert all(one.is_repeat is False for one in await asyncio.gather(asked[0], *asked[2:]))
        assert not asked[1].done()
    assert (await stored(turns, await asked[1]))["turn"] == 2


async def test_one_that_interrupts_goes_alone_and_stops_what_runs(acceptance: Acceptance, turns: Turns) -> None:
    running = [await acceptance.accept(said(user_id)) for user_id in USERS]
    interrupting = [
        said(user_id, "stop", one.conversation_id, multitask_strategy=MultitaskStrategy.INTERRUPT)
        for user_id, one in zip(USERS, running, strict=True)
    ]

    accepted = await together(acceptance, *interrupting)

    assert [list(one.interrupted) for one in accepted] == [[one.job_id] for one in running]
    assert len({(await stored(turns, one))["stored_by"] for one in accepted}) == len(USERS)


async def test_two_gateways_that_speak_to_the_same_conversations_at_once_lose_nothing(
    acceptance: Acceptance, turns: Turns
) -> None:
    """Each in another order; neither waits for what the other holds in turn."""
    begun = [(await acceptance.accept(said("sue"))).conversation_id for _ in range(20)]
    other = Acceptance(turns.gateway, LIMITS)

    accepted = await asyncio.gather(
        together(acceptance, *(said("sue", "one", conversation_id) for conversation_id in begun)),
        together(other, *(said("sue", "other", conversation_id) for conversation_id in reversed(begun))),
    )

    assert [type(one) for one in (*accepted[0], *accepted[1])] == [Accepted] * 40
    counted = "select array_agg(distinct last_turn) from conversations where user_id = 'sue'"
    assert await turns.change(counted) == [3]


async def test_the_same_requests_sent_again_to_another_gateway_at_once_are_accepted_once(
    turns: Turns,
) -> None:
    """Blind retries, in another order, each in a conversation of its own until its first one is found."""
    patient = replace(LIMITS, retry_window_seconds=60.0)
    gateways = [Acceptance(turns.gateway, patient) for _ in range(2)]
    bodies = [bytes([number]) * 32 for number in range(30)]

    def asked(body: bytes) -> Turn:
        return said("tom", submission=Submission(body_hash=body, is_retry=True))

    one, other = await asyncio.gather(
        together(gateways[0], *map(asked, bodies)), together(gateways[1], *map(asked, reversed(bodies)))
    )

    for mine, theirs in zip(one, reversed(other), strict=True):
        assert mine.job_id == theirs.job_id
        assert sorted((mine.is_repeat, theirs.is_repeat)) == [False, True]
    assert await turns.change("select count(*) from jobs where user_id = 'tom'") == len(bodies)


async def test_where_nobody_knows_what_was_stored_each_is_told_and_none_is_asked_for_again(
    acceptance: Acceptance, turns: Turns
) -> None:
    """Their connection is cut: it could have been behind the commit, and then they would be stored twice."""
    await turns.change("create sequence cuts")
    await turns.change("grant usage on sequence cuts to public")
    await turns.change(
        "create function cut() returns trigger language plpgsql as "
        "$$ begin perform nextval('cuts'), pg_terminate_backend(pg_backend_pid()); return null; end $$"
    )
    await turns.change(
        "create trigger cut after insert on messages for each row when (new.content = 'cut') execute function cut()"
    )

    outcomes = await together(acceptance, *(said(user_id, text) for user_id, text in zip(USERS, "abcd", strict=True)))
    cut = await together(acceptance, said("moe"), said("ada", "cut"), said("bob"), said("eve"))

    assert [type(outcome) for outcome in outcomes] == [Accepted] * 4
    assert [type(outcome) for outcome in cut] == [Accepted, *[DatabaseUnavailableError] * 3]
    assert await turns.change("select nextval('cuts')") == 2
    await turns.change("drop function cut cascade")
    await turns.change("drop sequence cuts")
    assert isinstance(await acceptance.accept(said("bob")), Accepted)


@asynccontextmanager
async def locked(turns: Turns, accepted: Accepted) -> AsyncIterator[None]:
    async with turns.persistence.transaction(None) as db:
        await db.execute("select from conversations where id = $1 for update", accepted.conversation_id)
        yield
