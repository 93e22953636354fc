"""Attempts from claim to end: what is told, what is recorded, and what another attempt makes of a dead one."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias, cast

import asyncpg
import pytest

from chat_worker.agent.loop import CLOSING_TEXTS, TurnLimits
from chat_worker.agent.values import (
    End,
    Finish,
    ModelRequest,
    ModelRound,
    ReasoningDelta,
    TextDelta,
    ToolCall,
    ToolRef,
    Usage,
)
from chat_worker.leases import StopReason
from chat_worker.runner import Verdict, turn_settings
from gateway.turns import Accepted
from shared.db import Database
from shared.errors import BrokerUnavailableError, ModelRefusedError, ModelUnavailableError
from shared.events import ResponseEvents
from shared.ids import uuid7
from shared.states import JobStatus
from tests.support.attempts import (
    ADD_TASK,
    RUNNER_LIMITS,
    SEND_MAIL,
    USER,
    Bench,
    ScriptedModel,
    ScriptedTools,
    asks,
    forever,
    said,
    says,
)
from tests.support.tcp import Line, proxied
from tests.support.waiting import wait_until

Look: TypeAlias = Callable[[], Awaitable[bool]]
MILK = ToolCall("call_1", "add_task", '{"title":"milk"}')
EGGS = ToolCall("call_2", "add_task", '{"title":"eggs"}')
MAIL = ToolCall("call_3", "send_mail", '{"to":"ann"}')
UNAVAILABLE = ModelUnavailableError("model_failing", "The model is not available.")


async def test_an_answer_is_told_in_the_order_of_the_wire(bench: Bench) -> None:
    job = await bench.job("hello")

    verdict = await bench.run(job, ScriptedModel(says("Hel", "lo")))

    assert verdict is Verdict.SETTLED
    assert bench.journal.types(job) == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    response = bench.journal.response(job)
    assert response["status"] == "completed"
    assert response["output"][0]["content"][0]["text"] == "Hello"
    assert response["usage"]["total_tokens"] == 15


async def test_the_model_is_asked_with_the_agents_instructions_and_what_the_user_says(bench: Bench) -> None:
    job = await bench.job("what is up?")
    model = ScriptedModel(says("Nothing."))

    await bench.run(job, model)

    [request] = model.requests
    assert "to-do list" in request.messages[0]["content"]
    assert request.messages[-1] == {"role": "user", "content": "what is up?"}
    assert [tool.name for tool in request.tools] == ["add_task"]
    assert request.temperature is None


async def test_a_tool_call_is_an_item_of_its_own_and_made_as_the_user(bench: Bench) -> None:
    job = await bench.job()
    tools = ScriptedTools()

    await bench.run(job, ScriptedModel(asks(MILK, text="One moment."), says("Done.")), tools)

    assert tools.users == [USER]
    assert tools.made == [("add_task", {"title": "milk"}, f"{job.job_id.hex}:0:0")]
    first, call, last = bench.journal.response(job)["output"]
    assert [first["status"], call["status"], last["status"]] == ["completed"] * 3
    assert (call["type"], call["name"], call["arguments"]) == ("mcp_call", "add_task", '{"title":"milk"}')
    assert (call["output"], call["error"], call["server_label"]) == ('{"number":1}', None, "tasks")
    assert call["duration_ms"] == 1


async def test_a_job_that_nobody_may_run_is_dropped(bench: Bench) -> None:
    job = await bench.job()
    model = ScriptedModel(says("Hello."))
    await bench.run(job, model)

    verdict = await bench.run(job, model)  # no redelivery: a message too many while the lease holds

    assert verdict is Verdict.SETTLED
    assert len(model.requests) == 1


async def test_a_duplicate_takes_no_job_from_a_live_worker_however_often_it_is_delivered(bench: Bench) -> None:
    job = await bench.job()
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel([TextDelta("Hel"), forever])))
    await wait_until(_says(bench, job, "Hel"))
    duplicate, other = uuid7().hex, ScriptedModel(says("Hello."))

    verdicts = [await bench.runner(other).run(bench.ready(job), delivery_id=duplicate) for _ in range(3)]
    unnamed = await bench.runner(other).run(bench.ready(job), delivery_id=None)

    assert [*verdicts, unnamed] == [Verdict.SETTLED] * 4
    assert other.requests == []
    assert not attempt.done()
    assert await bench.in_database("select attempt from jobs where id = $1", job) == 1
    bench.leases.stop_all(StopReason.SHUTDOWN)
    await attempt


async def test_a_lease_that_ran_out_is_free_for_any_delivery(bench: Bench) -> None:
    job = await bench.job()
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel([TextDelta("Hel"), forever])))
    await wait_until(_says(bench, job, "Hel"))
    await bench.kill(attempt)
    await bench.in_database("update jobs set lease_until = now() - interval '1 s' where id = $1", job)

    await bench.run(job, ScriptedModel(says("Hello.")))

    assert bench.journal.ends[job.job_id] == JobStatus.COMPLETED


async def test_a_claim_whose_answer_was_lost_is_followed_by_the_next_one(
    bench: Bench, database_urls: Mapping[str, str]
) -> None:
    job = await bench.job()
    async with proxied(database_urls["parley_worker"]) as (url, line):
        database = await Database.connect(url, application_name="test", pool_size=1)
        losing = _LosesTheFirstAnswer(database, line)
        runner = bench.runner(ScriptedModel(says("Hello.")), database=cast("Database", losing))

        verdict = await runner.run(bench.ready(job), delivery_id="the-delivery")
        await database.close()

    assert verdict is Verdict.SETTLED
    assert bench.journal.ends[job.job_id] == JobStatus.COMPLETED
    assert await bench.in_database("select attempt from jobs where id = $1", job) == 2


@pytest.mark.parametrize("message_count", range(12))
async def test_wherever_an_attempt_dies_the_next_one_does_only_the_rest(bench: Bench, message_count: int) -> None:
    job = await bench.job()
    script = asks(MILK, EGGS, text="One moment."), asks(MILK), says("All ", "done.")
    tools, first, second = ScriptedTools(), ScriptedModel(*script), ScriptedModel(*script)
    bench.journal.message_count_max = message_count
    attempt = asyncio.ensure_future(bench.run(job, first, tools))
    await wait_until(lambda: _is_stuck(bench, first, tools), what="the attempt waits for confirmation")

    await bench.kill(attempt)
    await bench.run(job, second, tools, is_redelivery=True)

    assert [arguments["title"] for _, arguments, _ in tools.made] == ["milk", "eggs", "milk"]
    assert len(second.requests) <= 1  # the last round only, since no tool follows that could record it
    output = bench.journal.response(job)["output"]
    assert [item["type"] for item in output] == ["message", "mcp_call", "mcp_call", "mcp_call", "message"]
    assert [item["output"] for item in output[1:4]] == ['{"number":1}', '{"number":2}', '{"number":3}']
    assert [item["duration_ms"] for item in output[1:4]] == [1, 2, 3]  # those of the calls that were made
    assert output[4]["content"][0]["text"] == "All done."
    _assert_well_formed(bench, job)


async def _is_stuck(bench: Bench, model: ScriptedModel, tools: ScriptedTools) -> bool:
    return len(model.requests) == 3 and len(tools.made) == 3 and bench.journal.message_count_max is not None


def _assert_well_formed(bench: Bench, job: Accepted) -> None:
    replayed = ResponseEvents(job.response)
    replayed.replay(bench.journal.events[job.job_id])
    assert not replayed.has_open_item
    assert replayed.output == bench.journal.response(job)["output"]


async def test_text_that_was_cut_by_a_death_is_abandoned_and_said_anew(bench: Bench) -> None:
    job = await bench.job()
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel([TextDelta("Hel"), forever])))
    await wait_until(_says(bench, job, "Hel"))

    await bench.kill(attempt)
    await bench.run(job, ScriptedModel(says("Good day.")), is_redelivery=True)

    assert bench.journal.text(job) == "HelGood day."
    [message] = bench.journal.response(job)["output"]
    assert message["content"][0]["text"] == "Good day."
    assert bench.journal.types(job).count("response.in_progress") == 1


async def test_a_call_cut_by_a_death_runs_again_with_its_key_where_it_may(bench: Bench) -> None:
    job = await bench.job()
    tools = ScriptedTools()
    tools.before = forever
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel(asks(MILK)), tools))
    await wait_until(_tells(bench, job, "response.mcp_call.in_progress"))

    await bench.kill(attempt)
    tools.before = None
    await bench.run(job, ScriptedModel(asks(MILK), says("Done.")), tools, is_redelivery=True)

    assert [key for _, _, key in tools.made] == [f"{job.job_id.hex}:0:0"]
    call, _ = bench.journal.response(job)["output"]
    assert call["status"] == "completed"


async def test_a_call_cut_by_a_death_is_not_repeated_where_it_might_do_twice(bench: Bench) -> None:
    job = await bench.job()
    tools = ScriptedTools(SEND_MAIL)
    tools.before = forever
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel(asks(MAIL)), tools))
    await wait_until(_tells(bench, job, "response.mcp_call.in_progress"))

    await bench.kill(attempt)
    await bench.run(job, ScriptedModel(asks(MAIL), says("Not sure.")), tools, is_redelivery=True)

    assert tools.made == []
    call, _ = bench.journal.response(job)["output"]
    assert call["status"] == "failed"
    assert call["error"]["type"] == "mcp_tool_execution_error"
    assert "outcome unknown" in call["error"]["content"][0]["text"]
    assert call["duration_ms"] is None


async def test_an_attempt_that_lost_its_job_stops_before_the_tool_runs(bench: Bench) -> None:
    job = await bench.job()
    tools = ScriptedTools()

    async def lose_the_job() -> None:
        await bench.in_database("update jobs set attempt = attempt + 1 where id = $1", job)

    verdict = await bench.run(job, ScriptedModel([lose_the_job, *asks(MILK)]), tools)

    assert verdict is Verdict.SETTLED
    assert tools.made == []
    assert job.job_id not in bench.journal.ends


async def test_an_attempt_that_is_not_granted_says_nothing(bench: Bench) -> None:
    job = await bench.job()
    await bench.run(job, ScriptedModel(says("Hello.")))
    told = len(bench.journal.events[job.job_id])

    verdict = await bench.run(job, ScriptedModel(says("Again.")), is_redelivery=True)

    assert verdict is Verdict.SETTLED
    assert len(bench.journal.events[job.job_id]) == told


async def test_an_attempt_that_lost_its_lease_stops_where_it_is_and_says_nothing_more(bench: Bench) -> None:
    job = await bench.job()
    is_closed = asyncio.Event()

    async def generate_until_closed() -> None:
        try:
            await forever()
        finally:
            is_closed.set()

    model = ScriptedModel([TextDelta("Hel"), generate_until_closed])
    attempt = asyncio.ensure_future(bench.run(job, model))
    await wait_until(_says(bench, job, "Hel"))
    await bench.in_database("update jobs set attempt = attempt + 1, worker_id = 'another' where id = $1", job)

    await bench.leases.beat()

    assert await attempt is Verdict.SETTLED
    assert is_closed.is_set()
    assert bench.journal.text(job) == "Hel"
    assert job.job_id not in bench.journal.ends


async def test_a_cancel_in_mid_text_keeps_what_was_said(bench: Bench) -> None:
    job = await bench.job()
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel([TextDelta("Hel"), forever])))
    await wait_until(_says(bench, job, "Hel"))
    await bench.in_database("update jobs set cancel_requested_at = now() where id = $1", job)

    bench.leases.cancel_signalled(job.job_id)

    async with beating(bench):
        assert await attempt is Verdict.SETTLED
    response = bench.journal.response(job)
    assert (response["status"], response["incomplete_details"]) == ("cancelled", None)
    assert response["output"][0]["status"] == "incomplete"
    assert response["output"][0]["content"][0]["text"] == "Hel"
    assert bench.journal.types(job)[-1] == "response.incomplete"


async def test_a_cancel_whose_signal_was_missed_is_found_with_the_lease(bench: Bench) -> None:
    job = await bench.job()
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel([TextDelta("Hel"), forever])))
    await wait_until(_says(bench, job, "Hel"))
    await bench.in_database("update jobs set cancel_requested_at = now() where id = $1", job)

    await bench.leases.beat()

    await attempt
    assert bench.journal.response(job)["status"] == "cancelled"


async def test_a_signal_that_the_row_knows_nothing_of_stops_nothing(bench: Bench) -> None:
    job = await bench.job()

    async def look() -> None:
        bench.leases.cancel_signalled(job.job_id)
        await bench.leases.beat()

    async with beating(bench):
        await bench.run(job, ScriptedModel([TextDelta("Hel"), look, *says("lo.")]))

    assert bench.journal.ends[job.job_id] == "completed"


async def test_a_cancel_during_a_tool_call_says_that_its_outcome_is_unknown(bench: Bench) -> None:
    job = await bench.job()
    tools = ScriptedTools(SEND_MAIL)

    async def cancel_and_wait() -> None:
        await bench.in_database("update jobs set cancel_requested_at = now() where id = $1", job)
        bench.leases.cancel_signalled(job.job_id)
        await forever()

    tools.before = cancel_and_wait
    async with beating(bench):
        await bench.run(job, ScriptedModel(asks(MAIL)), tools)

    response = bench.journal.response(job)
    [call] = response["output"]
    assert (response["status"], call["status"]) == ("cancelled", "failed")
    assert call["error"]["content"][0]["text"].startswith("outcome unknown")


async def test_a_cancel_after_a_death_in_a_tool_call_tells_of_the_call(bench: Bench) -> None:
    job = await bench.job()
    tools = ScriptedTools(SEND_MAIL)
    tools.before = forever
    first = asyncio.ensure_future(bench.run(job, ScriptedModel(asks(MAIL)), tools))
    await wait_until(_tells(bench, job, "response.mcp_call_arguments.done"))
    await bench.kill(first)
    await bench.in_database("update jobs set cancel_requested_at = now() where id = $1", job)

    await bench.run(job, ScriptedModel(), is_redelivery=True)

    response = bench.journal.response(job)
    [call] = response["output"]
    assert (response["status"], call["name"], call["server_label"]) == ("cancelled", "send_mail", "tasks")
    assert call["error"]["content"][0]["text"].startswith("outcome unknown")


async def test_a_cancel_that_meets_an_attempt_which_knows_nothing_of_the_last_one_yet_loses_no_call(
    bench: Bench,
) -> None:
    """It is left to persistence to end the job, which reads what was begun."""
    job = await bench.job()
    tools = ScriptedTools(SEND_MAIL)
    tools.before = forever
    first = asyncio.ensure_future(bench.run(job, ScriptedModel(asks(MAIL)), tools))
    await wait_until(_tells(bench, job, "response.mcp_call_arguments.done"))
    await bench.kill(first)
    owner = await asyncpg.connect(bench.turns.owner_url)
    try:
        async with beating(bench), owner.transaction():
            await owner.execute("lock table steps in access exclusive mode")
            second = asyncio.ensure_future(bench.run(job, ScriptedModel(), is_redelivery=True))
            await wait_until(partial(owner.fetchval, "select exists (select from pg_locks where not granted)"))

            await bench.in_database("update jobs set cancel_requested_at = now() where id = $1", job)
            bench.leases.cancel_signalled(job.job_id)
            await second
    finally:
        await owner.close()

    assert bench.journal.ends == {}
    [released] = bench.journal.released
    assert (released.job_id, released.attempt) == (job.job_id, 2)


async def test_a_job_that_was_cancelled_before_it_ran_asks_no_model(bench: Bench) -> None:
    job = await bench.job()
    await bench.in_database("update jobs set cancel_requested_at = now() where id = $1", job)
    model = ScriptedModel(says("Hello."))

    await bench.run(job, model)

    assert model.requests == []
    assert bench.journal.ends[job.job_id] == "cancelled"


async def test_a_model_that_is_away_releases_the_job_and_at_last_fails_it(bench: Bench) -> None:
    job = await bench.job()
    model = ScriptedModel([TextDelta("Hel"), UNAVAILABLE])
    limits = replace(RUNNER_LIMITS, attempts_max=2)

    await bench.run(job, model, limits=limits)
    [released] = bench.journal.released
    await bench.run(job, model, limits=limits, is_redelivery=True)

    assert (released.attempt, released.delay_seconds) == (1, 1.0)
    assert released.reason is not None
    assert released.reason.type == "model_failing"
    response = bench.journal.response(job)
    assert (response["status"], response["output"]) == ("failed", [])
    assert response["error"] == {
        "code": "server_error",
        "type": "model_failing",
        "message": "The model is not available. (2 attempts were made.)",
    }


async def test_the_endpoints_own_wait_is_respected_up_to_a_limit(bench: Bench) -> None:
    job = await bench.job()
    limited = ModelUnavailableError("model_rate_limited", "Too many requests.", retry_after_seconds=3_600)

    await bench.run(job, ScriptedModel([limited]))

    [released] = bench.journal.released
    assert released.delay_seconds == RUNNER_LIMITS.release_delay_seconds_max
    assert released.reason is not None
    assert released.reason.code == "rate_limit_exceeded"


async def test_a_refusing_model_fails_the_job_at_once(bench: Bench) -> None:
    job = await bench.job()
    refusal = ModelRefusedError("model_access_denied", "The model endpoint refuses our key.")

    await bench.run(job, ScriptedModel([refusal]))

    assert bench.journal.released == []
    assert bench.journal.response(job)["error"]["type"] == "model_access_denied"


async def test_a_history_that_is_too_long_for_the_model_is_shortened_from_its_oldest_turns(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "turn 0", "reply 0")
    for number in range(1, 8):
        await bench.turns.exchange(USER, f"turn {number}", f"reply {number}", conversation_id=first.conversation_id)
    job = await bench.accept(said("and now?"), conversation_id=first.conversation_id, truncation="auto")
    model = PickyModel(message_count_max=6)  # instructions, two turns, what is said now

    await bench.run(job, model)

    assert [request.messages[1]["content"] for request in model.requests] == ["turn 0", "turn 4", "turn 6"]
    assert bench.journal.response(job)["output"][0]["content"][0]["text"] == "I see."
    assert bench.journal.released == []


async def test_a_message_that_is_too_long_by_itself_fails_with_a_code_of_its_own(bench: Bench) -> None:
    job = await bench.job("Once upon a time, and so on.")
    model = PickyModel(message_count_max=1)

    await bench.run(job, model)

    assert len(model.requests) == 1
    error = bench.journal.response(job)["error"]
    assert (error["type"], error["code"]) == ("context_length_exceeded", "invalid_prompt")


async def test_an_answer_that_a_filter_cut_is_incomplete_for_that_reason(bench: Bench) -> None:
    job = await bench.job()

    await bench.run(
        job, ScriptedModel([TextDelta("Hel"), ModelRound(0, "Hel", (), Finish.CONTENT_FILTER, Usage(1, 2))])
    )

    response = bench.journal.response(job)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})


@pytest.mark.parametrize(
    ("code", "wire_code"), [("model_content_filter", "invalid_prompt"), ("model_output_too_large", "server_error")]
)
async def test_a_filtered_prompt_and_an_endless_stream_fail_at_once_with_their_codes(
    bench: Bench, code: str, wire_code: str
) -> None:
    job = await bench.job()

    await bench.run(job, ScriptedModel([ModelRefusedError(code, "No.")]))

    error = bench.journal.response(job)["error"]
    assert (error["type"], error["code"]) == (code, wire_code)
    assert bench.journal.released == []


async def test_a_bug_is_released_and_shows_nothing_of_itself(bench: Bench) -> None:
    job = await bench.job()

    await bench.run(job, ScriptedModel([KeyError("secret detail")]))

    [released] = bench.journal.released
    assert released.reason is not None
    assert released.reason.type == "internal_error"
    assert all(b"secret detail" not in body for body in bench.journal.bodies)


async def test_spent_attempts_end_the_job_without_running_it(bench: Bench) -> None:
    job = await bench.job()
    await bench.in_database("update jobs set attempt = 3 where id = $1", job)
    model = ScriptedModel(says("Hello."))

    await bench.run(job, model, limits=replace(RUNNER_LIMITS, attempts_max=3))

    assert model.requests == []
    assert bench.journal.response(job)["error"]["type"] == "attempts_exhausted"


async def test_a_turn_that_takes_too_long_says_so_and_keeps_what_it_said(bench: Bench) -> None:
    job = await bench.job()
    limits = replace(RUNNER_LIMITS, turn_seconds_max=0.2)

    await bench.run(job, ScriptedModel([TextDelta("Hel"), forever]), limits=limits)

    response = bench.journal.response(job)
    assert (response["status"], response["incomplete_details"]) == ("incomplete", None)
    assert [item["status"] for item in response["output"]] == ["incomplete", "completed"]
    assert response["output"][1]["content"][0]["text"] == CLOSING_TEXTS[End.TIME_LIMIT]


async def test_a_turn_without_end_is_stopped_at_its_steps(bench: Bench) -> None:
    job = await bench.job()
    limits = TurnLimits(step_count_max=2)

    await bench.run(job, ScriptedModel(asks(MILK), asks(EGGS), asks(MILK)), turn_limits=limits)

    response = bench.journal.response(job)
    assert response["status"] == "incomplete"
    assert response["output"][-1]["content"][0]["text"] == CLOSING_TEXTS[End.STEP_LIMIT]


async def test_a_shutdown_hands_the_delivery_back_and_says_nothing(bench: Bench) -> None:
    job = await bench.job()
    attempt = asyncio.ensure_future(bench.run(job, ScriptedModel([TextDelta("Hel"), forever])))
    await wait_until(_says(bench, job, "Hel"))

    bench.leases.stop_all(StopReason.SHUTDOWN)

    assert await attempt is Verdict.RETURNED
    assert job.job_id not in bench.journal.ends
    assert bench.journal.released == []


async def test_a_draining_runner_hands_deliveries_back_unclaimed(bench: Bench) -> None:
    job = await bench.job()
    runner = bench.runner(ScriptedModel(says("Hello.")))
    runner.drain()

    verdict = await runner.run(bench.ready(job), delivery_id="a-delivery")

    assert verdict is Verdict.RETURNED
    assert await bench.in_database("select attempt from jobs where id = $1", job) == 0


async def test_a_broker_that_does_not_confirm_for_a_while_changes_nothing(bench: Bench) -> None:
    job = await bench.job()
    bench.journal.failures = [BrokerUnavailableError("broker_unavailable", "away") for _ in range(5)]

    await bench.run(job, ScriptedModel(says("Hel", "lo")))

    assert bench.journal.text(job) == "Hello"
    assert bench.journal.ends[job.job_id] == JobStatus.COMPLETED


async def test_an_end_that_nobody_confirms_hands_the_delivery_back(bench: Bench) -> None:
    job = await bench.job()
    bench.journal.message_count_max = 0
    limits = replace(RUNNER_LIMITS, flush_seconds_max=0.1)

    verdict = await bench.run(job, ScriptedModel(says("Hello.")), limits=limits)

    assert verdict is Verdict.RETURNED


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("required", ("required", None)),
        ({"type": "function", "name": "add_task"}, (ToolRef("add_task"), None)),
        ({"type": "allowed_tools", "mode": "required", "tools": []}, ("required", ())),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "fly"}]},
            ("auto", (ToolRef("fly"),)),
        ),
        ({"type": "mcp", "server_label": "tasks"}, (ToolRef(None, "tasks"), None)),
    ],
)
async def test_the_clients_choices_of_tools_reach_the_loop(bench: Bench, asked: object, meant: object) -> None:
    job = await bench.job()
    request = {**job.response, "tool_choice": asked, "temperature": 0.5, "max_output_tokens": 100}

    settings = turn_settings(request)

    assert (settings.tool_choice, settings.allowed) == meant
    assert settings.parameters == {}
    assert (settings.temperature, settings.top_p, settings.output_token_count_max) == (0.5, None, 100)


async def test_parameters_of_the_client_go_to_the_endpoint_where_it_set_them(bench: Bench) -> None:
    schema = {"type": "json_schema", "name": "day", "schema": {"type": "object"}, "strict": None}
    job = await bench.accept(
        said("hello"),
        text={"format": schema, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        presence_penalty=0.5,
        service_tier="default",
        prompt_cache_key="mine",
    )
    model = ScriptedModel(says("{}"))

    await bench.run(job, model)

    assert model.requests[0].parameters == {
        "response_format": {"type": "json_schema", "json_schema": {"name": "day", "schema": {"type": "object"}}},
        "verbosity": "low",
        "reasoning_effort": "low",
        "presence_penalty": 0.5,
    }


async def test_nothing_is_left_out_of_a_history_that_must_be_whole(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "long ago " * 6_000, "I see. " * 6_000)
    job = await bench.accept(said("and now?"), conversation_id=first.conversation_id, truncation="disabled")
    model = ScriptedModel(says("What?"))

    await bench.run(job, model)

    error = bench.journal.response(job)["error"]
    assert (error["type"], error["code"]) == ("context_length_exceeded", "invalid_prompt")
    assert "truncation" in error["message"]
    assert model.requests == []


async def test_a_history_that_may_be_cut_leaves_out_what_does_not_fit(bench: Bench) -> None:
    first = await bench.turns.exchange(USER, "long ago " * 6_000, "I see. " * 6_000)
    job = await bench.accept(said("and now?"), conversation_id=first.conversation_id, truncation="auto")
    model = ScriptedModel(says("What?"))

    await bench.run(job, model)

    assert [message["role"] for message in model.requests[0].messages] == ["system", "user"]


# Functions of the client's, and approvals

FLY = {"type": "function", "name": "fly", "description": "Flies.", "parameters": {"type": "object"}, "strict": None}
TO_GRAZ = ToolCall("call_f", "fly", '{"to":"Graz"}')
TO_LINZ = ToolCall("call_g", "fly", '{"to":"Linz"}')


def flown(call: ToolCall, output: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call.call_id, "output": output}


def answered(request: dict[str, Any], *, approve: bool, reason: str | None = None) -> dict[str, Any]:
    return {
        "type": "mcp_approval_response",
        "approval_request_id": request["id"],
        "approve": approve,
        "reason": reason,
    }


async def test_a_function_call_ends_the_response_and_its_output_begins_the_next(bench: Bench) -> None:
    job = await bench.accept(said("to Graz"), tools=[FLY])
    tools = ScriptedTools()
    await bench.run(job, ScriptedModel(asks(TO_GRAZ, MILK, TO_LINZ, text="One moment.")), tools)
    await bench.write_back(job)

    response = bench.journal.response(job)
    assert response["status"] == "completed"
    kinds = [item["type"] for item in response["output"]]
    assert kinds == ["message", "mcp_call", "function_call", "function_call"]
    assert [name for name, _, _ in tools.made] == ["add_task"]

    answer = await bench.accept(
        flown(TO_GRAZ, "landed"), flown(TO_LINZ, "late"), parent=job, conversation_id=job.conversation_id, tools=[FLY]
    )
    model = ScriptedModel([], [], says("You are there."))
    await bench.run(answer, model)

    *_, made, told, asked, graz, linz = model.requests[0].messages
    assert (made["role"], told["role"]) == ("assistant", "tool")
    assert [call["id"] for call in asked["tool_calls"]] == ["call_f", "call_g"]
    assert [(one["tool_call_id"], one["content"]) for one in (graz, linz)] == [("call_f", "landed"), ("call_g", "late")]
    assert bench.journal.response(answer)["output"][0]["content"][0]["text"] == "You are there."


@pytest.mark.parametrize("message_count", range(9))
async def test_wherever_an_attempt_dies_the_next_one_hands_over_what_it_did_not(
    bench: Bench, message_count: int
) -> None:
    job = await bench.accept(said("to Graz"), tools=[FLY])
    script = asks(MILK, text="First.", reasoning="Let me see."), asks(TO_GRAZ, EGGS, text="Now.", reasoning="Hm.")
    tools, first, second = ScriptedTools(), ScriptedModel(*script), ScriptedModel(*script)
    bench.journal.message_count_max = message_count
    attempt = asyncio.ensure_future(bench.run(job, first, tools))
    await wait_until(lambda: _has_made(tools, 2), what="the attempt waits for confirmation")
    rounds_intents_results_and_handing_over = "select count(*) = 7 from steps where job_id = $1"
    await wait_until(lambda: _is_true(bench, job, rounds_intents_results_and_handing_over), what="it handed over")

    await bench.kill(attempt)
    await bench.run(job, second, tools, is_redelivery=True)

    assert [arguments["title"] for _, arguments, _ in tools.made] == ["milk", "eggs"]
    assert second.requests == []
    output = bench.journal.response(job)["output"]
    assert [item["type"] for item in output] == [
        "reasoning", "message", "mcp_call", "reasoning", "message", "mcp_call", "function_call",
    ]  # fmt: skip
    _assert_well_formed(bench, job)


async def _has_made(tools: ScriptedTools, count: int) -> bool:
    return len(tools.made) == count


async def _is_true(bench: Bench, job: Accepted, statement: str) -> bool:
    return bool(await bench.in_database(statement, job))


async def test_a_call_that_needs_approval_is_made_when_it_was_given(bench: Bench) -> None:
    tools = ScriptedTools(replace(SEND_MAIL, requires_approval=True))
    job = await bench.job("mail Ann")
    await bench.run(job, ScriptedModel(asks(MAIL)), tools)
    await bench.write_back(job)
    [request] = bench.journal.response(job)["output"]
    assert request["type"] == "mcp_approval_request"
    assert tools.made == []

    yes = await bench.accept(answered(request, approve=True), parent=job, conversation_id=job.conversation_id)
    model = ScriptedModel([], says("Sent."))
    await bench.run(yes, model, tools)
    await bench.write_back(yes)

    assert [name for name, _, _ in tools.made] == ["send_mail"]
    call, message = bench.journal.response(yes)["output"]
    assert (call["type"], call["approval_request_id"]) == ("mcp_call", request["id"])
    assert message["content"][0]["text"] == "Sent."

    twice = await bench.accept(
        answered(request, approve=True), said("?"), parent=yes, conversation_id=job.conversation_id
    )
    await bench.run(twice, again := ScriptedModel(says("Done already.")), tools)
    assert len(tools.made) == 1
    roles = [message["role"] for message in again.requests[0].messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant", "user"]


async def test_a_refused_call_is_not_made_and_the_model_knows(bench: Bench) -> None:
    tools = ScriptedTools(replace(SEND_MAIL, requires_approval=True))
    job = await bench.job("mail Ann")
    await bench.run(job, ScriptedModel(asks(MAIL, text="May I?")), tools)
    await bench.write_back(job)
    request = bench.journal.response(job)["output"][1]

    no = await bench.accept(
        answered(request, approve=False, reason="too late"), parent=job, conversation_id=job.conversation_id
    )
    model = ScriptedModel([], [], says("As you wish."))
    await bench.run(no, model, tools)

    assert tools.made == []
    assert [item["type"] for item in bench.journal.response(no)["output"]] == ["message"]
    assert "refused by the user: too late" in model.requests[0].messages[-1]["content"]


async def test_what_the_model_does_after_a_refusal_is_gone_on_with_by_the_next_attempt(bench: Bench) -> None:
    tools = ScriptedTools(replace(SEND_MAIL, requires_approval=True), ADD_TASK)
    job, [request] = await _asked(bench, tools, MAIL)
    no = await bench.accept(
        answered(request, approve=False), said("Add milk."), parent=job, conversation_id=job.conversation_id
    )
    tools.before = forever
    attempt = asyncio.ensure_future(bench.run(no, ScriptedModel([], asks(MILK)), tools))
    await wait_until(_tells(bench, no, "response.mcp_call.in_progress"))

    await bench.kill(attempt)
    tools.before = None
    await bench.run(no, ScriptedModel([], [], says("Done.")), tools, is_redelivery=True)

    assert [key for _, _, key in tools.made] == [f"{no.job_id.hex}:1:0"]
    assert [item["type"] for item in bench.journal.response(no)["output"]] == ["mcp_call", "message"]


@pytest.mark.parametrize("message_count", range(10))
async def test_wherever_an_attempt_dies_what_was_allowed_is_done_once(bench: Bench, message_count: int) -> None:
    tools = ScriptedTools(replace(SEND_MAIL, requires_approval=True), ADD_TASK)
    job, [ann, bob, cem] = await _asked(bench, tools, MAIL, replace(MAIL, call_id="b"), replace(MAIL, call_id="c"))
    yes, no, also = (
        answered(request, approve=approve) for request, approve in ((ann, True), (bob, False), (cem, True))
    )
    turn = await bench.accept(yes, no, also, said("Please."), parent=job, conversation_id=job.conversation_id)
    script = asks(MILK, text="So.", reasoning="Hm."), says("All ", "done.")
    first, second = ScriptedModel([], *script), ScriptedModel([], *script)
    bench.journal.message_count_max = len(bench.journal.bodies) + message_count
    attempt = asyncio.ensure_future(bench.run(turn, first, tools))
    await wait_until(lambda: _has_asked_and_made(first, 2, tools, 3), what="the attempt waits for confirmation")

    await bench.kill(attempt)
    await bench.run(turn, second, tools, is_redelivery=True)

    assert [name for name, _, _ in tools.made] == ["send_mail", "send_mail", "add_task"]
    output = bench.journal.response(turn)["output"]
    assert [item["type"] for item in output] == [
        "mcp_call", "mcp_call", "reasoning", "message", "mcp_call", "message",
    ]  # fmt: skip
    assert [item["approval_request_id"] for item in output[:2]] == [ann["id"], cem["id"]]
    _assert_well_formed(bench, turn)


async def test_an_allowed_call_whose_record_was_deleted_is_not_told_as_never_made(bench: Bench) -> None:
    tools = ScriptedTools(replace(SEND_MAIL, requires_approval=True))
    job, [request] = await _asked(bench, tools, MAIL)
    yes = await bench.accept(answered(request, approve=True), said("Yes."), conversation_id=job.conversation_id)
    await bench.run(yes, ScriptedModel([], says("Sent.")), tools)
    await bench.write_back(yes)
    async with bench.turns.gateway.transaction(USER) as db:
        await db.execute("update tool_calls set deleted_at = clock_timestamp() where job_id = $1", yes.job_id)
    after = await bench.job("And now?", job.conversation_id)

    await bench.run(after, model := ScriptedModel(says("Hm.")), tools)

    [told] = [message["content"] for message in model.requests[0].messages if message["role"] == "tool"]
    assert "There is no record of it" in told


async def _asked(bench: Bench, tools: ScriptedTools, *calls: ToolCall) -> tuple[Accepted, list[dict[str, Any]]]:
    """A turn that ended with asking whether these calls may be made, and what it asked."""
    job = await bench.job("mail them")
    await bench.run(job, ScriptedModel(asks(*calls)), tools)
    await bench.write_back(job)
    return job, bench.journal.response(job)["output"]


async def _has_asked_and_made(model: ScriptedModel, request_count: int, tools: ScriptedTools, call_count: int) -> bool:
    return (len(model.requests), len(tools.made)) == (request_count, call_count)


async def test_reasoning_is_an_item_before_what_it_led_to(bench: Bench) -> None:
    job = await bench.job()
    thought = ModelRound(0, "Hi.", (), Finish.STOP, Usage(10, 5, 0, 3), "Hm.")

    await bench.run(job, ScriptedModel([ReasoningDelta("H"), ReasoningDelta("m."), TextDelta("Hi."), thought]))

    reasoning, message = bench.journal.response(job)["output"]
    assert reasoning["summary"] == [{"type": "summary_text", "text": "Hm."}]
    assert message["type"] == "message"
    assert bench.journal.response(job)["usage"]["output_tokens_details"] == {"reasoning_tokens": 3}


async def test_what_a_stopped_answer_cost_is_known_as_far_as_it_came(bench: Bench) -> None:
    job = await bench.job()
    model = ScriptedModel(asks(MILK), [TextDelta("Once upon a time"), forever])
    attempt = asyncio.ensure_future(bench.run(job, model))
    await wait_until(_says(bench, job, "Once upon a time"))

    bench.leases._held[job.job_id].stop(StopReason.CANCELLED)  # noqa: SLF001 - as a beat does that finds the cancel
    await attempt

    usage = bench.journal.response(job)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (20, 9)  # 10 and 5 are told, the others are estimated


@asynccontextmanager
async def beating(bench: Bench) -> AsyncIterator[None]:
    """The worker's heart beats, as it does in a process."""
    heart = asyncio.create_task(bench.leases.run())
    try:
        yield
    finally:
        heart.cancel()
        await asyncio.gather(heart, return_exceptions=True)


def _says(bench: Bench, job: Accepted, text: str) -> Look:
    async def look() -> bool:
        return bench.journal.text(job) == text

    return look


def _tells(bench: Bench, job: Accepted, event_type: str) -> Look:
    async def look() -> bool:
        return event_type in bench.journal.types(job)

    return look


class PickyModel:
    """Refuses what has more messages than it can read."""

    def __init__(self, *, message_count_max: int) -> None:
        self.requests: list[ModelRequest] = []
        self._message_count_max = message_count_max

    async def round(self, request: ModelRequest) -> AsyncGenerator[TextDelta | ModelRound, None]:
        self.requests.append(request)
        if len(request.messages) > self._message_count_max:
            raise ModelRefusedError("context_length_exceeded", "The conversation is too long for the model.")
        for part in says("I see."):
            assert isinstance(part, TextDelta | ModelRound)
            yield part


class _LosesTheFirstAnswer:
    """A database whose first statement is carried out, and whose answer to it never arrives."""

    def __init__(self, database: Database, line: Line) -> None:
        self._database = database
        self._line = line
        self._is_first = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        async with self._database.connection() as connection:
            yield connection
            if self._is_first:
                self._is_first = False
                self._line.cut()
                self._line.mend()
                await connection.execute("select 1")
