"""A purge takes everything of its user, whatever interrupts it, and nothing of anybody else."""

from collections.abc import Mapping

import pytest

from persistence.purge import TABLES, Purges, State
from shared.contracts import ConversationSummarised, TitleSuggested
from shared.db.audit import ActorKind
from shared.db.purges import Purge, find_purge, request_purge
from tests.persistence.support import Services
from tests.support.accounts import fill_account, row_counts, user_tables

_CASCADING = {"message_words", "unindexed_messages"}  # with the message that they are of
_OF_JOBS = {"dead_letters"}  # which name no user


def a_process(services: Services, *, settle_seconds: float = 0) -> Purges:
    """The purges of one process; another one is another process."""
    return Purges(services.persistence, round_seconds=60, settle_seconds=settle_seconds)


async def requested(services: Services, user_id: str) -> Purge:
    async with services.gateway.transaction(user_id) as connection:
        return await request_purge(connection, user_id, ActorKind.USER)


async def found(services: Services, user_id: str, purge: Purge) -> Purge | None:
    async with services.gateway.transaction(user_id) as connection:
        return await find_purge(connection, user_id, purge.id)


async def test_every_table_with_rows_of_users_is_purged(database_urls: Mapping[str, str]) -> None:
    assert await user_tables(database_urls["owner"]) == {*TABLES, *_CASCADING} - _OF_JOBS


async def test_a_purge_leaves_nothing_of_its_user_and_everything_of_others(
    services: Services, database_urls: Mapping[str, str]
) -> None:
    owner_url = database_urls["owner"]
    for user_id in ("alice", "bob"):
        await fill_account(owner_url, user_id)
    before = await row_counts(owner_url, "bob")
    purge = await requested(services, "alice")

    await a_process(services).run_once()

    assert all(before.values()), "every table has something"
    assert not any((await row_counts(owner_url, "alice")).values())
    assert await row_counts(owner_url, "bob") == before
    [letter] = await services.rows("select job_id from dead_letters")
    assert await services.rows("select from jobs where id = $1 and user_id = 'bob'", letter["job_id"])
    [row] = await services.rows("select * from purges")
    assert (row["user_id"], row["deleted"]["conversations"], row["deleted"]["tasks"]) == (None, 2, 1)
    assert "alice" not in str(dict(row))
    assert (await found(services, "alice", purge)).finished_at is not None  # type: ignore[union-attr]
    assert await found(services, "bob", purge) is None


async def test_a_purge_that_dies_after_any_of_its_transactions_is_carried_on_by_another_process(
    services: Services, database_urls: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.purge._CONVERSATIONS_MAX", 1)
    await fill_account(database_urls["owner"], "alice")
    expected = await row_counts(database_urls["owner"], "alice")
    purge = await requested(services, "alice")

    while await a_process(services).delete_some(purge):
        await requested(services, "alice")  # again, which changes nothing
    await a_process(services).run_once()

    [row] = await services.rows("select id, deleted from purges")
    expected = {table: count for table, count in expected.items() if table not in _CASCADING}
    assert (row["id"], row["deleted"]) == (purge.id, {**expected, "dead_letters": 1})


async def test_many_rows_go_in_small_parts(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("persistence.purge._CONVERSATIONS_MAX", 2)
    for _ in range(5):
        await services.accept()
    purge = await requested(services, "alice")
    parts = 0

    while await a_process(services).delete_some(purge):
        parts += 1

    # Journals, events, messages, jobs and the conversations themselves, of two and two and one.
    assert parts == 5 * 3


async def test_a_purge_gives_nobody_a_new_quota_before_the_day_is_over(services: Services) -> None:
    days = "select (now() at time zone 'utc')::date - 1 as yesterday, (now() at time zone 'utc')::date as today"
    [day] = await services.rows(days)
    async with services.persistence.transaction("alice") as connection:
        await connection.executemany(
            "insert into usage_by_day (user_id, day, response_count, input_tokens) values ('alice', $1, 1, 7)",
            [(day["yesterday"],), (day["today"],)],
        )
    await requested(services, "alice")

    await a_process(services).run_once()

    [left] = await services.rows("select day, purged_at is not null as is_marked from usage_by_day")
    assert (left["day"], left["is_marked"]) == (day["today"], True)
    assert [row["finished_at"] is not None for row in await services.rows("select finished_at from purges")] == [True]


async def test_who_writes_faster_than_it_goes_does_not_hold_up_another_purge(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("persistence.purge._PARTS_MAX", 2)
    monkeypatch.setattr("persistence.purge._CONVERSATIONS_MAX", 1)
    for _ in range(3):
        await services.accept()
    purge = await requested(services, "alice")
    await requested(services, "carol")

    assert await a_process(services).carry_on(purge) is State.DELETING
    await a_process(services).run_once()

    [of_carol] = await services.rows("select finished_at from purges where requested_by = 'user' and user_id is null")
    assert of_carol["finished_at"]


async def test_a_job_that_runs_is_stopped_and_has_a_while_to_end(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    waiting = await services.accept(conversation_id=attempt.job.conversation_id)
    purge = await requested(services, "alice")

    first = await a_process(services, settle_seconds=60).carry_on(purge)
    row = await services.job_row(attempt.job)
    assert await services.job_row(waiting)
    await services.write(attempt.ends())
    second = await a_process(services, settle_seconds=60).carry_on(purge)
    deleted = await services.job_row(attempt.job)
    third = await a_process(services).carry_on(purge)

    assert (first, second, third) == (State.WAITING, State.DELETED, State.FINISHED)
    assert (row["cancel_requested_at"] is not None, deleted) == (True, None)


async def test_what_is_under_way_of_a_purged_job_is_dropped_without_harm(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    other = await services.claim(await services.accept(user_id="bob"))
    await requested(services, "alice")
    await a_process(services).run_once()
    summary = ConversationSummarised(
        job_id=attempt.job.id,
        conversation_id=attempt.job.conversation_id,
        user_id="alice",
        conversation_ids=[attempt.job.conversation_id],
        deleted_item_count=0,
        text="what was said",
        token_count=1,
        covers_turn_count=1,
    )
    title = TitleSuggested(conversation_id=attempt.job.conversation_id, user_id="alice", title="What was said")

    written = await services.write(
        attempt.says("late"),
        summary,
        title,
        attempt.is_released(0),
        attempt.asks_to_resume(),
        attempt.ends(),
        other.says("in time"),
        other.ends(),
    )

    assert [ended.job_id for ended in written.ended] == [other.job.id]
    assert [reply.message.granted for reply in written.replies] == [False]
    assert not await services.rows("select from conversations where user_id = 'alice'")


async def test_what_is_written_before_a_purge_finishes_goes_too(services: Services) -> None:
    await services.accept()
    purge = await requested(services, "alice")
    assert await a_process(services, settle_seconds=60).carry_on(purge) is State.DELETED
    late = await services.accept()

    await a_process(services).run_once()

    assert await services.job_row(late) is None
    after = await services.accept()  # an account anew
    await a_process(services).run_once()
    assert await services.job_row(after)


async def test_one_purge_that_fails_is_no_obstacle_to_the_next(services: Services) -> None:
    for user_id in ("alice", "bob"):
        await services.accept(user_id=user_id)
        await requested(services, user_id)

    class Failing(Purges):
        async def delete_some(self, purge: Purge) -> bool:
            if purge.user_id == "alice":
                raise RuntimeError
            return await super().delete_some(purge)

    await Failing(services.persistence, round_seconds=60, settle_seconds=0).run_once()

    assert [row["user_id"] for row in await services.rows("select user_id from conversations")] == ["alice"]
