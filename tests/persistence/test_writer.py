"""Writing back against a real Postgres."""

import asyncio
import random
import re
from typing import Any
from uuid import UUID

import msgspec
import pytest

from persistence.drafts import AttemptsSpent
from persistence.writer import write_batch
from shared.contracts import CancelRequested, JobReady, JournalChunk, JournalChunks, raw_events
from shared.events import Failure, Usage, type_of
from shared.ids import Prefix, new_wire_id, uuid7
from shared.states import JobStatus
from tests.persistence.support import Attempt, Job, Services, all_events, incoming
from tests.support.waiting import wait_until

_CALLS = "select tool_name from tool_calls where job_id = $1"


async def test_a_chunk_is_stored_and_told_live(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    chunk = attempt.says("hello")

    written = await services.write(chunk)

    journal = await services.journal(attempt.job)
    assert journal[1:] == all_events(chunk)
    assert [(live.first_seq, all_events_of(live.events)) for live in written.live] == [(1, journal[1:])]


async def test_the_same_chunk_twice_is_stored_once(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    chunk = attempt.says("hello")
    await services.write(chunk)
    before = await services.journal(attempt.job)

    again = await services.write(chunk)
    both = await services.write(chunk, chunk)

    assert await services.journal(attempt.job) == before
    assert not again.live
    assert not both.live


async def test_chunks_of_a_batch_are_stored_as_one_row(services: Services) -> None:
    attempt = await services.claim(await services.accept())

    await services.write(attempt.begins(), attempt.says("hel"), attempt.says("lo"))

    assert len(await services.rows("select from journal where job_id = $1", attempt.job.id)) == 2
    assert (await services.job_row(attempt.job))["next_seq"] == len(await services.journal(attempt.job))


async def test_an_overlapping_chunk_is_cut_to_its_new_part(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    first, second = attempt.says("one"), attempt.says("two")
    await services.write(first)

    written = await services.write(attempt.chunk(all_events(first, second)))

    assert (await services.journal(attempt.job))[1:] == all_events(first, second)
    assert [len(live.events) for live in written.live] == [1]


async def test_a_gap_fences_the_attempt_and_runs_the_job_again(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    first, lost, late = attempt.says("one"), attempt.says("two"), attempt.says("three")
    await services.write(first)

    written = await services.write(late)
    after_all = await services.write(lost, late)

    row = await services.job_row(attempt.job)
    assert (await services.journal(attempt.job))[1:] == all_events(first)
    assert (row["status"], row["journal_attempt"], row["worker_id"]) == ("queued", 0, None)
    assert written.ready == [ready(attempt.job)]
    assert not after_all.live
    assert not after_all.ready


async def test_a_gap_left_by_a_dead_attempt_does_not_disturb_the_next_one(services: Services) -> None:
    dead = await services.claim(await services.accept())
    dead.says("lost")
    late = dead.says("late")
    successor = await services.claim(dead.job, is_redelivery=True)

    await services.write(late)
    reply = (await services.write(successor.asks_to_resume())).replies[0].message

    assert reply.granted
    assert (await services.job_row(dead.job))["status"] == "in_progress"


async def test_a_chunk_of_an_older_attempt_is_refused_after_the_barrier(services: Services) -> None:
    dead = await services.claim(await services.accept())
    await services.write(dead.says("one"))
    successor = await services.claim(dead.job, is_redelivery=True)
    await services.write(successor.asks_to_resume())
    before = await services.journal(dead.job)

    written = await services.write(dead.says(" a long"), dead.says(" way"), dead.says(" behind"), dead.ends())

    assert await services.journal(dead.job) == before
    assert not written.live
    assert (await services.job_row(dead.job))["status"] == "in_progress"


async def test_a_late_chunk_of_the_dead_attempt_before_the_barrier_is_stored(services: Services) -> None:
    dead = await services.claim(await services.accept())
    await services.write(dead.says("one"))
    successor = await services.claim(dead.job, is_redelivery=True)
    late = dead.says(" two")

    reply = (await services.write(late, successor.asks_to_resume())).replies[0].message

    journal = await services.journal(dead.job)
    assert all_events(late)[0] in journal
    assert reply.next_seq == len(journal)


async def test_an_ended_job_leaves_message_tool_calls_and_response(services: Services) -> None:
    attempt = await services.claim(await services.accept())

    written = await services.write(
        attempt.begins(), attempt.calls_tool("add_task"), attempt.says("Added"), attempt.says(" milk."), attempt.ends()
    )

    row = await services.job_row(attempt.job)
    assert (row["status"], row["error"], row["usage"], row["lease_until"]) == ("completed", None, None, None)
    assert row["ended_at"]
    assert row["response"]["output"][1]["content"][0]["text"] == "Added milk."
    messages = await services.rows("select * from messages where job_id = $1 order by ordinal", attempt.job.id)
    assert [(m["ordinal"], m["role"], m["content"]) for m in messages] == [
        (0, "user", "hello"),
        (2, "assistant", "Added milk."),
    ]
    assert messages[1]["parts"] == row["response"]["output"][1]["content"]
    [call] = await services.rows("select * from tool_calls where job_id = $1", attempt.job.id)
    assert (call["ordinal"], call["tool_name"], call["status"]) == (1, "add_task", "completed")
    assert (call["parameters"], call["result"]) == ('{"title":"milk"}', '{"id":"task_1"}')
    assert call["duration_ms"] == 42
    assert call["id"] == UUID(hex=row["response"]["output"][0]["id"].removeprefix("mcp_"))
    assert await services.active_job(attempt.job) is None
    assert [ended.status for ended in written.ended] == [JobStatus.COMPLETED]
    assert [touched.conversation_id for touched in written.touched] == [attempt.job.conversation_id]


async def test_every_kind_of_output_is_stored_in_the_order_of_the_output(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    told = attempt.events
    request_id = new_wire_id(Prefix.APPROVAL_REQUEST)
    thought = attempt.chunk([*told.reasoning("Hm."), *told.close_message()])
    called = attempt.chunk(
        [
            *told.open_mcp_call(new_wire_id(Prefix.MCP_CALL), "tasks", "add_task", "{}", request_id),
            *told.close_mcp_call("ok", None),
            *told.function_call(new_wire_id(Prefix.FUNCTION_CALL), "call_1", "fly", "{}"),
            *told.approval_request(request_id, "mail", "wipe", "{}"),
        ]
    )

    await services.write(thought, called, attempt.ends())

    output = (await services.job_row(attempt.job))["response"]["output"]
    items = await services.rows("select * from items where job_id = $1 order by ordinal", attempt.job.id)
    assert [(row["ordinal"], row["kind"]) for row in items] == [
        (1, "reasoning"),
        (3, "function_call"),
        (4, "mcp_approval_request"),
    ]
    assert [row["item"] for row in items] == [output[0], output[2], output[3]]
    assert all(row["item"]["id"].endswith(row["id"].hex) for row in items)
    [call] = await services.rows("select * from tool_calls where job_id = $1", attempt.job.id)
    assert (call["ordinal"], call["approval_request_id"]) == (2, request_id)


async def test_a_call_of_a_worker_of_the_version_before_has_no_duration(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    now = attempt.calls_tool("add_task"), attempt.ends()
    before = [
        msgspec.structs.replace(
            chunk, events=raw_events([re.sub(rb',"duration_ms":\w+', b"", bytes(event)) for event in chunk.events])
        )
        for chunk in now
    ]

    await services.write(*before)

    assert b"duration_ms" not in b"".join(await services.journal(attempt.job))
    [call] = await services.rows("select * from tool_calls where job_id = $1", attempt.job.id)
    assert (call["status"], call["duration_ms"]) == ("completed", None)


async def test_what_responses_cost_is_added_up_by_user_and_day_once(services: Services) -> None:
    first, second, theirs = [
        await services.claim(await services.accept(user_id=user)) for user in ("counted", "counted", "other")
    ]
    ends = [attempt.ends(usage=Usage(100, 10)) for attempt in (first, second, theirs)]
    await services.write(*ends)
    await services.write(*ends)

    third = await services.claim(await services.accept(user_id="counted"))
    await services.write(third.ends(JobStatus.FAILED, Failure("x", "x"), Usage(5, 1)))
    fourth = await services.claim(await services.accept(user_id="counted"))
    await services.write(fourth.ends())

    rows = await services.rows("select * from usage_by_day where user_id in ('counted', 'other') order by user_id")
    sums = [(row["user_id"], row["response_count"], row["input_tokens"], row["output_tokens"]) for row in rows]
    assert sums == [("counted", 3, 205, 21), ("other", 1, 100, 10)]


async def test_batches_that_add_to_the_same_users_in_any_order_do_not_deadlock(services: Services) -> None:
    users = [f"sharing-{number}" for number in range(6)]
    attempts = [await services.claim(await services.accept(user_id=user)) for user in users + users[::-1]]
    ends = [attempt.ends(usage=Usage(1, 1)) for attempt in attempts]

    await asyncio.gather(services.write(*ends[:6]), services.write(*ends[6:]))

    rows = await services.rows("select response_count from usage_by_day where user_id = any($1)", users)
    assert [row["response_count"] for row in rows] == [2] * 6


async def test_a_response_that_ends_without_its_worker_costs_what_its_rounds_did(services: Services) -> None:
    attempt = await services.claim(await services.accept(user_id="stopped"))
    await services.record_call(attempt, "send_mail", Usage(70, 7))
    cancel = await services.request_cancel(attempt.job)

    await services.write(cancel, attempt.is_released(60))

    assert (await services.job_row(attempt.job))["usage"]["total_tokens"] == 77


async def test_a_failed_job_keeps_its_error(services: Services) -> None:
    attempt = await services.claim(await services.accept())

    await services.write(attempt.ends(JobStatus.FAILED, Failure("model_unavailable", "The model is away.")))

    error = (await services.job_row(attempt.job))["error"]
    assert (error["type"], error["message"]) == ("model_unavailable", "The model is away.")


async def test_the_next_job_in_order_becomes_active_when_one_ends(services: Services) -> None:
    first = await services.accept()
    second = await services.accept(conversation_id=first.conversation_id)
    third = await services.accept(conversation_id=first.conversation_id)

    activated = []
    for job in (first, second, third):
        attempt = await services.claim(job)
        activated.append((await services.write(attempt.says("hi"), attempt.ends())).ready)

    assert activated == [[ready(second)], [ready(third)], []]
    assert await services.active_job(first) is None


async def test_a_terminal_state_is_written_once(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.says("done"), end := attempt.ends())
    before = await services.job_row(attempt.job)
    other = attempt.chunk(
        [msgspec.json.encode({"type": "response.failed", "sequence_number": end.next_seq, "response": {}})],
        JobStatus.FAILED,
    )

    await services.write(end)
    await services.write(other)
    await services.write(await services.request_cancel(attempt.job))

    after = await services.job_row(attempt.job)
    assert {**after, "cancel_requested_at": None} == dict(before)
    assert len(await services.rows("select from messages where job_id = $1", attempt.job.id)) == 2


async def test_a_late_end_of_a_requeued_job_counts(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    await services.change(attempt.job, "status = 'queued', worker_id = null, lease_until = null")

    await services.write(attempt.says("late but whole"), attempt.ends())

    assert (await services.job_row(attempt.job))["status"] == "completed"


async def test_resuming_closes_the_half_open_item_and_says_where_to_go_on(services: Services) -> None:
    dead = await services.claim(await services.accept())
    await services.write(dead.calls_tool("add_task"), dead.says("half"))
    successor = await services.claim(dead.job, is_redelivery=True)

    written = await services.write(successor.asks_to_resume())

    reply = written.replies[0].message
    journal = await services.journal(dead.job)
    assert [type_of(event) for event in journal[-3:]] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
    ]
    assert msgspec.json.decode(journal[-1])["item"]["status"] == "incomplete"
    assert (reply.granted, reply.next_seq, reply.next_output_index) == (True, len(journal), 2)
    assert [item["type"] for item in reply.output] == ["mcp_call"]
    assert all_events_of(written.live[0].events) == journal[-3:]


async def test_resuming_twice_answers_the_same(services: Services) -> None:
    dead = await services.claim(await services.accept())
    await services.write(dead.says("half"))
    successor = await services.claim(dead.job, is_redelivery=True)

    first = await services.write(successor.asks_to_resume())
    journal = await services.journal(dead.job)
    second = await services.write(successor.asks_to_resume())

    assert first.replies == second.replies
    assert await services.journal(dead.job) == journal


async def test_a_barrier_asked_again_later_leaves_the_new_attempt_alone(services: Services) -> None:
    dead = await services.claim(await services.accept())
    await services.write(dead.says("half"))
    successor = await services.claim(dead.job, is_redelivery=True)
    successor.goes_on((await services.write(successor.asks_to_resume())).replies[0].message)
    await services.write(successor.says("again"))

    more, end = successor.says(" and on"), successor.ends()

    await services.write(successor.asks_to_resume(), more, end)

    row = await services.job_row(dead.job)
    assert row["status"] == "completed"
    assert (await services.journal(dead.job))[-len(all_events(more, end)) :] == all_events(more, end)


async def test_resuming_is_refused_to_an_attempt_that_lost_the_job(services: Services) -> None:
    first = await services.claim(await services.accept())
    second = await services.claim(first.job, is_redelivery=True)
    third = await services.claim(first.job, is_redelivery=True)

    stale = await services.write(second.asks_to_resume())
    current = await services.write(third.asks_to_resume())
    await services.write(third.ends(JobStatus.FAILED))
    ended = await services.write(third.asks_to_resume())

    assert [written.replies[0].message.granted for written in (stale, current, ended)] == [False, True, False]


async def test_a_job_run_again_after_a_loss_ends_with_one_gapless_journal(services: Services) -> None:
    first = await services.claim(await services.accept())
    await services.write(first.says("one"))
    first.says("lost")
    await services.write(first.says("three"))
    second = await services.claim(first.job)

    second.goes_on((await services.write(second.asks_to_resume())).replies[0].message)
    await services.write(second.says("whole"), second.ends())

    journal = await services.journal(first.job)
    assert type_of(journal[-1]) == "response.completed"
    assert items_in_order(journal) == ["incomplete", "completed"]
    assert (await services.job_row(first.job))["attempt"] == 2


async def test_an_unsound_chunk_leaves_no_item_open_either(services: Services) -> None:
    first = await services.claim(await services.accept())
    await services.write(first.says("one"))
    unsound = replace_events(first.says("two"), b"{}")
    await services.write(unsound)
    second = await services.claim(first.job)

    second.goes_on((await services.write(second.asks_to_resume())).replies[0].message)
    await services.write(second.says("whole"), second.ends())

    assert items_in_order(await services.journal(first.job)) == ["incomplete", "completed"]


async def test_only_an_attempt_that_runs_is_granted_to_go_on(services: Services) -> None:
    dead = await services.claim(await services.accept())
    await services.write(dead.says("one"))
    late = await services.claim(dead.job, is_redelivery=True)
    await services.change(dead.job, "status = 'queued'")

    reply = (await services.write(late.asks_to_resume())).replies[0].message

    assert not reply.granted
    assert (await services.job_row(dead.job))["journal_attempt"] == 1


async def test_a_cancel_of_a_running_job_reads_no_journal(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    cancel = await services.request_cancel(attempt.job)

    async with services.persistence.transaction(None) as connection:
        with connection.query_logger(seen := Statements()):
            await write_batch(connection, [incoming(cancel)])

    assert seen.of_table("jobs")
    assert not seen.of_table("journal")


async def test_a_cancel_behind_what_queues_its_job_again_ends_it(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    attempt.says("lost")
    cancel = await services.request_cancel(attempt.job)

    await services.write(attempt.says("late"), cancel)

    assert (await services.job_row(attempt.job))["status"] == "cancelled"


async def test_a_cancelled_job_that_waits_is_ended_and_the_next_one_follows(services: Services) -> None:
    first = await services.accept()
    second = await services.accept(conversation_id=first.conversation_id)
    third = await services.accept(conversation_id=first.conversation_id)

    behind = await services.write(await services.request_cancel(second))
    head = await services.write(await services.request_cancel(first))

    assert not behind.ready
    assert head.ready == [ready(third)]
    for job in (first, second):
        row = await services.job_row(job)
        assert (row["status"], row["response"]["status"]) == ("cancelled", "cancelled")
        assert type_of((await services.journal(job))[-1]) == "response.incomplete"
    assert await services.active_job(first) == third.id


async def test_a_cancelled_job_that_runs_is_left_to_its_worker(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    await services.write(attempt.says("so far"))

    await services.write(await services.request_cancel(attempt.job))
    running = await services.job_row(attempt.job)
    await services.write(attempt.ends(JobStatus.CANCELLED))

    assert running["status"] == "in_progress"
    assert (await services.job_row(attempt.job))["status"] == "cancelled"


async def test_a_cancel_that_no_row_knows_of_is_ignored(services: Services) -> None:
    job = await services.accept()
    forged = CancelRequested(job_id=job.id, conversation_id=job.conversation_id)

    await services.write(forged)

    assert (await services.job_row(job))["status"] == "queued"


async def test_a_released_job_waits_for_its_time(services: Services) -> None:
    attempt = await services.claim(await services.accept())

    written = await services.write(attempt.is_released(60))
    row = await services.job_row(attempt.job)
    again = await services.write(attempt.is_released(600))

    waits = (row["available_at"] - row["started_at"]).total_seconds()
    assert (row["status"], row["worker_id"], row["dispatched_at"]) == ("queued", None, None)
    assert 59 < waits < 70
    assert written.has_delayed_job
    assert not written.ready
    assert (await services.job_row(attempt.job))["available_at"] == row["available_at"]
    assert not again.has_delayed_job


async def test_a_job_released_without_delay_is_published_at_once(services: Services) -> None:
    attempt = await services.claim(await services.accept())

    written = await services.write(attempt.is_released(0))

    assert written.ready == [ready(attempt.job)]


async def test_a_cancelled_job_that_is_released_ends(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    cancel = await services.request_cancel(attempt.job)

    await services.write(cancel, attempt.says("partial"), attempt.is_released(60))

    row = await services.job_row(attempt.job)
    assert (row["status"], row["response"]["output"][0]["content"][0]["text"]) == ("cancelled", "partial")


@pytest.mark.parametrize("is_told", [True, False])
async def test_a_call_that_was_begun_is_told_of_by_whoever_ends_the_job(services: Services, is_told: bool) -> None:  # noqa: FBT001
    attempt = await services.claim(await services.accept())
    await services.record_call(attempt, "send_mail")
    if is_told:
        await services.write(attempt.begins(), attempt.opens_tool("send_mail"))
    cancel = await services.request_cancel(attempt.job)

    await services.write(cancel, attempt.is_released(60))

    row = await services.job_row(attempt.job)
    [call] = row["response"]["output"]
    assert (row["status"], call["name"], call["status"]) == ("cancelled", "send_mail", "failed")
    assert call["error"]["content"][0]["text"].startswith("outcome unknown")
    assert [stored["tool_name"] for stored in await services.rows(_CALLS, attempt.job.id)] == ["send_mail"]


async def test_a_call_that_was_begun_behind_text_that_is_still_open_is_told_of(services: Services) -> None:
    stopped, spent = [await services.claim(await services.accept()) for _ in range(2)]
    for attempt in (stopped, spent):
        await services.record_call(attempt, "send_mail")
        await services.write(attempt.begins(), attempt.says("One moment"))
    cancel = await services.request_cancel(stopped.job)
    await services.change(spent.job, "status = 'queued', lease_until = null")

    await services.write(cancel, stopped.is_released(60))
    await services.write(AttemptsSpent(job_id=spent.job.id, conversation_id=spent.job.conversation_id))

    for attempt, status in ((stopped, "cancelled"), (spent, "failed")):
        row = await services.job_row(attempt.job)
        assert (row["status"], [item["type"] for item in row["response"]["output"]]) == (status, ["mcp_call"])
        items = [msgspec.json.decode(event).get("item") for event in await services.journal(attempt.job)]
        assert [item["status"] for item in items if item] == ["in_progress", "incomplete", "in_progress", "failed"]


async def test_what_disagrees_with_the_row_is_dropped(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    chunk = attempt.says("hello")
    elsewhere = msgspec.structs.replace(chunk, conversation_id=uuid7())
    unknown = msgspec.structs.replace(chunk, job_id=uuid7())
    unclaimed = msgspec.structs.replace(chunk, attempt=2)

    written = await services.write(elsewhere, unknown, unclaimed)

    assert not written.live
    assert len(await services.journal(attempt.job)) == 1


async def test_an_unknown_job_is_refused_its_barrier(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    unknown = msgspec.structs.replace(attempt.asks_to_resume(), job_id=uuid7())

    written = await services.write(unknown)

    assert [reply.message.granted for reply in written.replies] == [False]


@pytest.mark.parametrize(
    "event",
    [
        b'{"type":"response.in_progress","sequence_number":7,"response":{}}',
        b'{"type":"response.in_progress",\n"sequence_number":1,"response":{}}',
        b'{"type":"response.in_progress",\r"sequence_number":1,"response":{}}',
        b'{"sequence_number":1,"type":"response.in_progress"}',
        b'{"type":"response.in_progress","sequence_number":1,"response":{"id":"resp_of_another"}}',
        b'{"type":"response.in_progress","sequence_number":1,"response":[]}',
        b'{"type":"response.output_text.delta","sequence_number":1,"sequence_number":9,"delta":"\xff"}',
        b"[]",
    ],
)
async def test_events_that_are_none_count_as_lost_and_harm_no_neighbour(services: Services, event: bytes) -> None:
    spoilt = await services.claim(await services.accept())
    sound = await services.claim(await services.accept())
    bad = JournalChunk(
        job_id=spoilt.job.id,
        conversation_id=spoilt.job.conversation_id,
        attempt=1,
        first_seq=1,
        events=raw_events([event]),
    )

    written = await services.write(JournalChunks(chunks=[bad, sound.says("fine")]))

    assert len(await services.journal(spoilt.job)) == 1
    assert len(await services.journal(sound.job)) > 1
    assert written.ready == [ready(spoilt.job)]


@pytest.mark.parametrize("ended_as", [JobStatus.CANCELLED, JobStatus.IN_PROGRESS, None])
async def test_an_end_that_its_event_does_not_tell_of_counts_as_lost(
    services: Services, ended_as: JobStatus | None
) -> None:
    attempt = await services.claim(await services.accept())
    chunk = msgspec.structs.replace(attempt.ends(JobStatus.COMPLETED), ended_as=ended_as)

    await services.write(chunk)

    row = await services.job_row(attempt.job)
    assert (row["status"], row["next_seq"], row["ended_at"]) == ("queued", 1, None)


async def test_an_end_without_a_terminal_status_counts_as_lost(services: Services) -> None:
    attempt = await services.claim(await services.accept())
    end = attempt.ends()
    claimed = bytes(end.events[-1]).replace(b'"status":"completed"', b'"status":"in_progress"')

    await services.write(attempt.chunk([*all_events(end)[:-1], claimed], JobStatus.IN_PROGRESS))

    assert (await services.job_row(attempt.job))["ended_at"] is None


async def test_a_text_with_a_nul_is_kept_as_postgres_can_hold_it(services: Services) -> None:
    attempt = await services.claim(await services.accept())

    await services.write(said := attempt.says("a\0b"), attempt.ends())

    assert all_events(said)[-1] in await services.journal(attempt.job)
    [message] = await services.rows("select content from messages where role = 'assistant'")
    assert message["content"] == "a\ufffdb"


@pytest.mark.parametrize("table", ["conversations", "jobs"])
async def test_rows_are_locked_in_the_order_of_their_ids(services: Services, table: str) -> None:
    attempts = [await services.claim(await services.accept()) for _ in range(6)]
    ids = sorted(attempt.job.conversation_id if table == "conversations" else attempt.job.id for attempt in attempts)
    batch = [attempt.ends() for attempt in reversed(attempts)]

    async with services.persistence.transaction(None) as other:
        await other.execute(f"select from {table} where id = $1 for no key update", ids[0])
        writing = asyncio.create_task(services.write(*batch))
        await wait_until(lambda: _somebody_waits_for_a_lock(services))
        # Whoever waits for the first row holds none of the later ones, nor a row of the table that comes after.
        await other.execute(f"select from {table} where id = any($1) for no key update nowait", ids)
        if table == "conversations":
            await other.execute("select from jobs for no key update nowait")

    assert len((await writing).ended) == 6


async def test_overlapping_batches_of_two_writers_do_not_deadlock(services: Services) -> None:
    chance = random.Random(7)  # noqa: S311
    attempts = [await services.claim(await services.accept()) for _ in range(12)]
    chunks = [[attempt.says("a"), attempt.says("b"), attempt.ends()] for attempt in attempts]

    async def write_all(order: list[int]) -> None:
        for step in range(3):
            await services.write(*(chunks[index][step] for index in order))

    orders = [chance.sample(range(12), 12) for _ in range(4)]
    await asyncio.gather(*(write_all(order) for order in orders))

    assert {(await services.job_row(attempt.job))["status"] for attempt in attempts} == {"completed"}
    for attempt, sent in zip(attempts, chunks, strict=True):
        assert (await services.journal(attempt.job))[1:] == all_events(*sent)


@pytest.mark.parametrize("seed", range(8))
async def test_however_chunks_are_repeated_and_reordered_the_journal_is_a_prefix_of_what_was_sent(
    services: Services, seed: int
) -> None:
    chance = random.Random(seed)  # noqa: S311
    attempts = [await services.claim(await services.accept()) for _ in range(3)]
    sent = {attempt.job.id: _a_turn(attempt) for attempt in attempts}
    deliveries = [chunk for chunks in sent.values() for chunk in chunks for _ in range(chance.randint(1, 2))]
    deliveries.sort(key=lambda chunk: chunk.first_seq + chance.choice([0, 0, 0, 4]))

    while deliveries:
        batch, deliveries = deliveries[: (count := chance.randint(1, 6))], deliveries[count:]
        await services.write(*batch)

    for attempt in attempts:
        events = all_events(*sent[attempt.job.id])
        stored = (await services.journal(attempt.job))[1:]
        assert stored == events[: len(stored)]
        status = (await services.job_row(attempt.job))["status"]
        assert (status == "completed") == (stored == events)


class Statements:
    """What a connection was asked to do."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def __call__(self, record: Any) -> None:
        self._texts.append(record.query)

    def of_table(self, table: str) -> list[str]:
        return [text for text in self._texts if re.search(rf"\b(from|into|update) {table}\b", text)]


def replace_events(chunk: JournalChunk, event: bytes) -> JournalChunk:
    return msgspec.structs.replace(chunk, events=[msgspec.Raw(event) for _ in chunk.events])


def items_in_order(journal: list[bytes]) -> list[str]:
    """The statuses with which the items closed; asserts that they are open one after the other, numbered from 0."""
    statuses: list[str] = []
    is_open = False
    for event in map(msgspec.json.decode, journal):
        if event["type"] == "response.output_item.added":
            assert not is_open
            assert event["output_index"] == len(statuses)
            is_open = True
        if event["type"] == "response.output_item.done":
            assert is_open
            assert event["output_index"] == len(statuses)
            statuses.append(event["item"]["status"])
            is_open = False
    assert not is_open
    return statuses


async def _somebody_waits_for_a_lock(services: Services) -> bool:
    return bool(await services.rows("select from pg_locks where not granted"))


def _a_turn(attempt: Attempt) -> list[JournalChunk]:
    return [attempt.begins(), *(attempt.says(f"word {n} ") for n in range(8)), attempt.ends()]


def ready(job: Job) -> JobReady:
    return JobReady(job_id=job.id, conversation_id=job.conversation_id, user_id=job.user_id)


def all_events_of(raw: list[msgspec.Raw]) -> list[bytes]:
    return [bytes(event) for event in raw]
