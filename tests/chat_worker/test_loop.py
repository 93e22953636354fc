"""The agent loop with a model and tools that do as a test's script says."""

import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from chat_worker.agent.loop import CLOSING_TEXTS, Turn, TurnLimits, TurnSettings, run_turn
from chat_worker.agent.values import (
    OUTCOME_UNKNOWN,
    ApprovalAnswer,
    End,
    Finish,
    FunctionTool,
    HandedCall,
    HandedOver,
    Happening,
    JsonObject,
    ModelRequest,
    ModelRound,
    PastStep,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    ToolError,
    ToolErrorKind,
    ToolFinished,
    ToolRef,
    ToolResult,
    ToolStarted,
    TurnEnded,
    Usage,
    as_unknown,
)
from shared.errors import ModelRefusedError, ModelUnavailableError

ADD_TASK = Tool("tasks", "add_task", "Add a task.", {"type": "object"}, idempotent=True)
LIST_TASKS = Tool("tasks", "list_tasks", "List tasks.", {"type": "object"}, read_only=True)
SEND_MAIL = Tool("mail", "send_mail", "Send a mail.", {"type": "object"})

HELLO = {"role": "user", "content": "hello"}
ADD_MILK = ToolCall("call_a", "add_task", '{"title": "milk"}')
MAIL = ToolCall("call_m", "send_mail", '{"to": "ann"}')


async def test_an_answer_without_tools_is_its_text_its_round_and_the_end() -> None:
    model = ScriptedModel(answers("Hel", "lo"))

    happenings = await told(a_turn(), model, ScriptedTools())

    assert happenings == [
        TextDelta("Hel"),
        TextDelta("lo"),
        ModelRound(0, "Hello", (), Finish.STOP, Usage(1, 2)),
        TurnEnded(End.ANSWERED, Usage(1, 2)),
    ]


async def test_calls_are_made_in_order_and_their_results_told_to_the_model() -> None:
    listing = ToolCall("call_b", "list_tasks", "")
    model = ScriptedModel(asks(ADD_MILK, listing, text="One moment."), answers("Done."))
    tools = ScriptedTools({"add_task": ToolResult('{"id": "task_1"}'), "list_tasks": ToolResult("[]")})

    happenings = await told(a_turn(), model, tools)

    assert happenings == [
        TextDelta("One moment."),
        ModelRound(0, "One moment.", (ADD_MILK, listing), Finish.TOOL_CALLS, Usage(1, 2)),
        ToolStarted(0, 0, ADD_MILK, "tasks"),
        ToolFinished(0, 0, ADD_MILK, "tasks", ToolResult('{"id": "task_1"}')),
        ToolStarted(0, 1, listing, "tasks"),
        ToolFinished(0, 1, listing, "tasks", ToolResult("[]")),
        TextDelta("Done."),
        ModelRound(1, "Done.", (), Finish.STOP, Usage(1, 2)),
        TurnEnded(End.ANSWERED, Usage(2, 4)),
    ]
    assert tools.made == [("add_task", {"title": "milk"}, "job_1:0:0"), ("list_tasks", {}, "job_1:0:1")]
    assert model.requests[1].messages == (
        HELLO,
        {
            "role": "assistant",
            "content": "One moment.",
            "tool_calls": [
                {"id": "call_a", "type": "function", "function": {"name": "add_task", "arguments": ADD_MILK.arguments}},
                {"id": "call_b", "type": "function", "function": {"name": "list_tasks", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_a", "content": '{"id": "task_1"}'},
        {"role": "tool", "tool_call_id": "call_b", "content": "[]"},
    )


async def test_nothing_is_done_before_what_leads_to_it_was_taken() -> None:
    model = ScriptedModel(asks(ADD_MILK), answers("Done."))
    tools = ScriptedTools()
    turn = run_turn(a_turn(), model, tools)

    async with aclosing(turn):
        assert isinstance(await anext(turn), ModelRound)
        assert isinstance(await anext(turn), ToolStarted)
        assert tools.made == []  # the intent is ours to store first
        assert isinstance(await anext(turn), ToolFinished)
        assert len(tools.made) == 1
        assert len(model.requests) == 1  # and so is the result, before the model hears of it


async def test_a_step_number_is_part_of_the_key() -> None:
    model = ScriptedModel(asks(ADD_MILK), asks(ADD_MILK), answers("Done."))
    tools = ScriptedTools()

    await told(a_turn(), model, tools)

    assert [key for _, _, key in tools.made] == ["job_1:0:0", "job_1:1:0"]


async def test_of_two_tools_with_one_name_the_first_is_offered() -> None:
    model = ScriptedModel(answers("Hi."))
    other = Tool("other", "add_task", "Another one.", {})

    await told(a_turn(), model, ScriptedTools(tools=[ADD_TASK, other]))

    assert model.requests[0].tools == (ADD_TASK,)


# Calls that are not made


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        pytest.param(ToolCall("c", "fly", "{}"), "no tool named 'fly'", id="unknown tool"),
        pytest.param(ToolCall("c", "add_task", '{"title": '), "not a JSON object", id="half of the JSON"),
        pytest.param(ToolCall("c", "add_task", "[1]"), "not a JSON object", id="an array"),
        pytest.param(ToolCall("c", "add_task", '{"a":' * 5000), "not a JSON object", id="deep nesting"),
        pytest.param(ToolCall("c", "add_task", json.dumps({"title": "x" * 70_000})), "too long", id="too long"),
    ],
)
async def test_a_call_that_makes_no_sense_is_not_made_and_the_model_reads_why(call: ToolCall, reason: str) -> None:
    model = ScriptedModel(asks(call), answers("Sorry."))
    tools = ScriptedTools()

    happenings = await told(a_turn(), model, tools)

    (finished,) = (happening for happening in happenings if isinstance(happening, ToolFinished))
    assert finished.result.error is not None
    assert reason in finished.result.error.message
    assert model.requests[1].messages[-1]["content"] == f"Error: {finished.result.error.message}"
    assert tools.made == []


async def test_a_call_of_no_server_bears_the_label_of_the_agent() -> None:
    model = ScriptedModel(asks(ToolCall("c", "fly", "{}")), answers("Sorry."))

    happenings = await told(a_turn(), model, ScriptedTools())

    assert [one.server_label for one in happenings if isinstance(one, ToolStarted | ToolFinished)] == ["parley"] * 2


async def test_a_failed_call_is_told_to_the_model_and_the_turn_goes_on() -> None:
    failure = ToolResult(None, ToolError(ToolErrorKind.HTTP, "the server is away", 503))
    model = ScriptedModel(asks(ADD_MILK), answers("Later."))

    happenings = await told(a_turn(), model, ScriptedTools({"add_task": failure}))

    assert happenings[-1] == TurnEnded(End.ANSWERED, Usage(2, 4))
    assert model.requests[1].messages[-1]["content"] == "Error: the server is away"


async def test_a_result_is_made_fit_to_be_stored() -> None:
    model = ScriptedModel(asks(ADD_MILK), asks(ADD_MILK), answers("Done."))
    tools = ScriptedTools({"add_task": ToolResult("a\0b\ud800")})

    happenings = await told(a_turn(), model, tools)

    assert [one.result.output for one in happenings if isinstance(one, ToolFinished)] == ["ab\ufffd"] * 2


# Calls whose answer was lost

LOST = ToolResult(None, ToolError(ToolErrorKind.PROTOCOL, "The connection broke.", -32603), outcome_unknown=True)
AWAY = ToolResult(None, ToolError(ToolErrorKind.HTTP, "The tool server cannot be reached.", 503))
NO_TASK = ToolResult(None, ToolError(ToolErrorKind.EXECUTION, "There is no such task."))


@pytest.mark.parametrize(
    ("answers_of_server", "result"),
    [
        pytest.param([LOST, ToolResult("ok")], ToolResult("ok"), id="mended"),
        pytest.param([LOST, AWAY, ToolResult("ok")], ToolResult("ok"), id="away in between"),
        pytest.param([LOST, NO_TASK], NO_TASK, id="the tool itself refuses"),
    ],
)
async def test_a_repeatable_call_with_an_unknown_outcome_is_made_again_with_its_key_until_that_is_known(
    answers_of_server: list[ToolResult], result: ToolResult
) -> None:
    tools = ScriptedTools({"add_task": list(answers_of_server)})
    naps = Naps()

    happenings = await told(a_turn(), ScriptedModel(asks(ADD_MILK), answers("Done.")), tools, naps)

    assert ToolFinished(0, 0, ADD_MILK, "tasks", result) in happenings
    assert {key for _, _, key in tools.made} == {"job_1:0:0"}
    assert len(tools.made) == len(answers_of_server)
    assert naps.seconds == [0.5, 2.0][: len(answers_of_server) - 1]


@pytest.mark.parametrize("last", [LOST, AWAY])
async def test_an_outcome_that_stays_unknown_is_told_so(last: ToolResult) -> None:
    model = ScriptedModel(asks(ADD_MILK), answers("I am not sure."))
    tools = ScriptedTools({"add_task": [LOST, LOST, LOST, last]})

    happenings = await told(a_turn(), model, tools)

    assert last.error
    assert ToolFinished(0, 0, ADD_MILK, "tasks", as_unknown(last.error)) in happenings
    assert len(tools.made) == 4
    assert "outcome unknown" in model.requests[1].messages[-1]["content"]


async def test_a_call_that_must_not_be_repeated_is_made_once_and_its_outcome_told_as_unknown() -> None:
    model = ScriptedModel(asks(MAIL), answers("I am not sure."))
    tools = ScriptedTools({"send_mail": LOST})
    naps = Naps()

    await told(a_turn(), model, tools, naps)

    assert len(tools.made) == 1
    assert "outcome unknown: The connection broke." in model.requests[1].messages[-1]["content"]
    assert naps.seconds == []


async def test_a_call_that_never_reached_its_server_is_known_not_to_have_happened() -> None:
    tools = ScriptedTools({"add_task": AWAY})

    happenings = await told(a_turn(), ScriptedModel(asks(ADD_MILK), answers("Later.")), tools)

    assert ToolFinished(0, 0, ADD_MILK, "tasks", AWAY) in happenings
    assert len(tools.made) == 1


async def test_what_an_earlier_attempt_began_stays_unknown_while_the_server_is_away() -> None:
    tools = ScriptedTools({"add_task": AWAY})

    happenings = await told(a_turn(past=[PastStep(ASKED, frozenset({0}))]), ScriptedModel(answers("Hm.")), tools)

    assert AWAY.error
    assert happenings[1] == ToolFinished(0, 0, ADD_MILK, "tasks", as_unknown(AWAY.error))


# Limits


async def test_a_model_that_calls_tools_for_ever_is_stopped_at_the_step_limit_and_it_is_said() -> None:
    model = ScriptedModel(*[asks(ADD_MILK)] * 3)

    happenings = await told(a_turn(limits=TurnLimits(step_count_max=3)), model, ScriptedTools())

    assert len(model.requests) == 3
    assert happenings[-2:] == [TextDelta(CLOSING_TEXTS[End.STEP_LIMIT]), TurnEnded(End.STEP_LIMIT, Usage(3, 6))]


async def test_tokens_are_counted_over_rounds() -> None:
    model = ScriptedModel(*[asks(ADD_MILK)] * 3)

    happenings = await told(a_turn(limits=TurnLimits(output_token_count_max=6)), model, ScriptedTools())

    assert len(model.requests) == 3
    assert happenings[-2:] == [TextDelta(CLOSING_TEXTS[End.TOKEN_LIMIT]), TurnEnded(End.TOKEN_LIMIT, Usage(3, 6))]


async def test_tokens_are_estimated_where_the_endpoint_reports_none() -> None:
    model = ScriptedModel(*[asks(ADD_MILK, text="x" * 375, usage=Usage())] * 3)  # 400 bytes with the call: 100 tokens

    happenings = await told(a_turn(limits=TurnLimits(output_token_count_max=200)), model, ScriptedTools())

    assert len(model.requests) == 2
    assert happenings[-1] == TurnEnded(End.TOKEN_LIMIT, Usage())


async def test_the_tokens_that_a_client_allows_are_shared_by_the_rounds() -> None:
    settings = TurnSettings(output_token_count_max=5)
    model = ScriptedModel(*[asks(ADD_MILK)] * 3)

    happenings = await told(a_turn(settings=settings), model, ScriptedTools())

    assert [request.output_token_count_max for request in model.requests] == [5, 3, 1]
    assert isinstance(happenings[-2], ToolFinished)  # `incomplete_details` says it, no text has to
    assert happenings[-1] == TurnEnded(End.LENGTH, Usage(3, 6))


@pytest.mark.parametrize(
    ("limits", "settings"),
    [
        (TurnLimits(call_count_max=3), TurnSettings()),
        (TurnLimits(), TurnSettings(call_count_max=3)),
        (TurnLimits(call_count_max=3), TurnSettings(call_count_max=9)),
    ],
)
async def test_calls_above_the_limit_are_not_made_and_then_the_model_may_only_answer(
    limits: TurnLimits, settings: TurnSettings
) -> None:
    model = ScriptedModel(asks(ADD_MILK, ADD_MILK), asks(ADD_MILK, ADD_MILK), answers("Three were added."))
    tools = ScriptedTools()

    happenings = await told(a_turn(limits=limits, settings=settings), model, tools)

    assert [key for _, _, key in tools.made] == ["job_1:0:0", "job_1:0:1", "job_1:1:0"]
    assert "limit of tool calls" in model.requests[2].messages[-1]["content"]
    assert [request.tool_choice for request in model.requests] == ["auto", "auto", "none"]
    assert happenings[-1] == TurnEnded(End.ANSWERED, Usage(3, 6))


@pytest.mark.parametrize(
    ("asked_for", "sent"),
    [
        ("required", ["required", "auto"]),
        (ToolRef("add_task"), [{"type": "function", "function": {"name": "add_task"}}, "auto"]),
        (ToolRef(None, "tasks"), ["required", "auto"]),
        (ToolRef("fly", "tasks"), ["auto", "auto"]),
        ("none", ["none", "none"]),
    ],
)
async def test_a_forced_choice_of_tool_holds_for_the_first_round(asked_for: str | ToolRef, sent: list[object]) -> None:
    model = ScriptedModel(asks(ADD_MILK), answers("Done."))

    await told(a_turn(settings=TurnSettings(tool_choice=asked_for)), model, ScriptedTools())

    assert [request.tool_choice for request in model.requests] == sent


@pytest.mark.parametrize(("finish", "end"), [(Finish.LENGTH, End.LENGTH), (Finish.CONTENT_FILTER, End.CONTENT_FILTER)])
async def test_a_truncated_answer_is_never_called_answered(finish: Finish, end: End) -> None:
    model = ScriptedModel([TextDelta("Once upon"), ModelRound(0, "Once upon", (), finish, Usage(1, 2))])

    happenings = await told(a_turn(), model, ScriptedTools())

    assert happenings[-1] == TurnEnded(end, Usage(1, 2))


# Failures of the model

BUSY = ModelUnavailableError("model_failing", "Busy.")


async def test_a_round_that_failed_before_it_said_anything_is_asked_for_again_after_a_while() -> None:
    model = ScriptedModel([BUSY], [BUSY], answers("Hi."))
    naps = Naps()

    happenings = await told(a_turn(), model, ScriptedTools(), naps)

    assert happenings[-1] == TurnEnded(End.ANSWERED, Usage(1, 2))
    assert naps.seconds == [0.2, 1.0]


async def test_a_round_that_goes_on_failing_raises_what_the_model_raised() -> None:
    model = ScriptedModel(*[[BUSY]] * 3)

    with pytest.raises(ModelUnavailableError) as caught:
        await told(a_turn(), model, ScriptedTools())

    assert caught.value is BUSY
    assert len(model.requests) == 3


async def test_a_round_that_failed_after_it_said_something_is_left_to_the_runner() -> None:
    model = ScriptedModel([TextDelta("Hel"), BUSY], answers("Hello"))

    with pytest.raises(ModelUnavailableError):
        await told(a_turn(), model, ScriptedTools())

    assert len(model.requests) == 1


async def test_a_refusal_is_not_tried_again() -> None:
    model = ScriptedModel([ModelRefusedError("model_access_denied", "No.")], answers("Hello"))

    with pytest.raises(ModelRefusedError):
        await told(a_turn(), model, ScriptedTools())

    assert len(model.requests) == 1


TOO_LONG = ModelRefusedError("context_length_exceeded", "Too long.")
SHORTER = {"role": "user", "content": "hello, in short"}


async def test_what_is_too_long_is_asked_again_with_less_and_stays_short() -> None:
    model = ScriptedModel([TOO_LONG], asks(ADD_MILK), [TOO_LONG], answers("Done."))
    naps = Naps()

    happenings = await told(a_turn(shorter=[[HELLO, SHORTER], [SHORTER]]), model, ScriptedTools(), naps)

    assert happenings[-1] == TurnEnded(End.ANSWERED, Usage(2, 4))
    assert [[message["role"] for message in request.messages] for request in model.requests] == [
        ["user"],
        ["user", "user"],
        ["user", "user", "assistant", "tool"],
        ["user", "assistant", "tool"],
    ]
    assert naps.seconds == []


async def test_what_is_too_long_without_anything_to_leave_out_is_refused() -> None:
    model = ScriptedModel([TOO_LONG], [TOO_LONG])

    with pytest.raises(ModelRefusedError) as caught:
        await told(a_turn(shorter=[[SHORTER]]), model, ScriptedTools())

    assert caught.value is TOO_LONG
    assert len(model.requests) == 2


async def test_what_was_said_already_is_not_said_again_with_less() -> None:
    model = ScriptedModel([TextDelta("Hel"), TOO_LONG])

    with pytest.raises(ModelRefusedError):
        await told(a_turn(shorter=[[SHORTER]]), model, ScriptedTools())

    assert len(model.requests) == 1


async def test_a_short_wait_that_the_endpoint_asks_for_is_kept() -> None:
    model = ScriptedModel([unavailable_for(1.5)], answers("Hi."))
    naps = Naps()

    await told(a_turn(), model, ScriptedTools(), naps)

    assert naps.seconds == [1.5]


async def test_a_long_wait_that_the_endpoint_asks_for_is_left_to_the_runner() -> None:
    model = ScriptedModel([unavailable_for(3600)], answers("Hi."))
    naps = Naps()

    with pytest.raises(ModelUnavailableError):
        await told(a_turn(), model, ScriptedTools(), naps)

    assert naps.seconds == []


async def test_closing_the_turn_closes_the_round() -> None:
    model = ScriptedModel(answers("Hel", "lo"))

    async with aclosing(run_turn(a_turn(), model, ScriptedTools())) as turn:
        await anext(turn)

    assert model.closed_count == 1


# Going on where an earlier attempt ended

ASKED = ModelRound(0, "One moment.", (ADD_MILK,), Finish.TOOL_CALLS, Usage(1, 2))
ASKED_FOR_MAIL = ModelRound(0, "", (MAIL,), Finish.TOOL_CALLS, Usage(1, 2))


async def test_a_recorded_step_is_neither_repeated_nor_told_again() -> None:
    model = ScriptedModel(answers("Done."))
    tools = ScriptedTools()
    past = PastStep(ASKED, frozenset({0}), {0: ToolResult('{"id": "task_1"}')})

    happenings = await told(a_turn(past=[past]), model, tools)

    assert happenings == [
        TextDelta("Done."),
        ModelRound(1, "Done.", (), Finish.STOP, Usage(1, 2)),
        TurnEnded(End.ANSWERED, Usage(2, 4)),
    ]
    assert tools.made == []
    assert [message["role"] for message in model.requests[0].messages] == ["user", "assistant", "tool"]
    assert model.requests[0].messages[-1]["content"] == '{"id": "task_1"}'


async def test_a_call_that_was_never_started_is_made() -> None:
    tools = ScriptedTools()

    await told(a_turn(past=[PastStep(ASKED_FOR_MAIL)]), ScriptedModel(answers("Done.")), tools)

    assert tools.made == [("send_mail", {"to": "ann"}, "job_1:0:0")]


async def test_a_repeatable_call_without_a_result_is_made_again_with_the_same_key() -> None:
    tools = ScriptedTools()

    happenings = await told(a_turn(past=[PastStep(ASKED, frozenset({0}))]), ScriptedModel(answers("Done.")), tools)

    assert tools.made == [("add_task", {"title": "milk"}, "job_1:0:0")]
    assert happenings[:2] == [
        ToolStarted(0, 0, ADD_MILK, "tasks"),
        ToolFinished(0, 0, ADD_MILK, "tasks", ToolResult("ok")),
    ]


async def test_any_other_call_without_a_result_is_not_made_again_and_the_model_is_told() -> None:
    model = ScriptedModel(answers("I am not sure."))
    tools = ScriptedTools()

    happenings = await told(a_turn(past=[PastStep(ASKED_FOR_MAIL, frozenset({0}))]), model, tools)

    assert tools.made == []
    assert happenings[:2] == [ToolStarted(0, 0, MAIL, "mail"), ToolFinished(0, 0, MAIL, "mail", OUTCOME_UNKNOWN)]
    assert "outcome unknown" in model.requests[0].messages[-1]["content"]


async def test_a_started_call_of_a_tool_that_is_gone_has_an_unknown_outcome() -> None:
    past = PastStep(ASKED, frozenset({0}))

    happenings = await told(a_turn(past=[past]), ScriptedModel(answers("Done.")), ScriptedTools(tools=[]))

    assert happenings[1] == ToolFinished(0, 0, ADD_MILK, "parley", OUTCOME_UNKNOWN)


async def test_of_a_half_done_round_only_what_is_missing_is_done() -> None:
    calls = tuple(ToolCall(f"call_{index}", "add_task", f'{{"title": "{index}"}}') for index in range(3))
    round_ = ModelRound(0, "", calls, Finish.TOOL_CALLS, Usage(1, 2))
    past = PastStep(round_, frozenset({0, 1}), {0: ToolResult("first")})
    model = ScriptedModel(answers("Done."))
    tools = ScriptedTools()

    await told(a_turn(past=[past]), model, tools)

    assert [key for _, _, key in tools.made] == ["job_1:0:1", "job_1:0:2"]
    assert [message["content"] for message in model.requests[0].messages[-3:]] == ["first", "ok", "ok"]


async def test_a_recorded_answer_only_has_to_be_ended() -> None:
    model = ScriptedModel()
    past = PastStep(ModelRound(0, "Hello", (), Finish.STOP, Usage(1, 2)))

    happenings = await told(a_turn(past=[past]), model, ScriptedTools())

    assert happenings == [TurnEnded(End.ANSWERED, Usage(1, 2))]
    assert model.requests == []


async def test_earlier_attempts_count_against_the_limits() -> None:
    past = [PastStep(ASKED, frozenset({0}), {0: ToolResult("ok")})]
    limits = TurnLimits(step_count_max=2, call_count_max=1)
    model = ScriptedModel(asks(ADD_MILK))
    tools = ScriptedTools()

    happenings = await told(a_turn(past=past, limits=limits), model, tools)

    assert tools.made == []
    assert happenings[-1] == TurnEnded(End.STEP_LIMIT, Usage(2, 4))


# Calls that are the client's: to make, or to allow

WEATHER = FunctionTool("get_weather", "Tells the weather.", {"type": "object"})
ASK_WEATHER = ToolCall("call_w", "get_weather", '{"city": "Graz"}')
WIPE = Tool("mail", "wipe", "Delete all mail.", {"type": "object"}, requires_approval=True)
ASK_WIPE = ToolCall("call_x", "wipe", "{}")
YES = ApprovalAnswer("mcpr_1", "mail", ASK_WIPE, is_approved=True)
NO = ApprovalAnswer("mcpr_1", "mail", ASK_WIPE, is_approved=False, reason="not today")
WITH_WIPE = (ADD_TASK, WIPE)


async def test_a_call_of_the_clients_ends_the_turn_after_all_others_were_made() -> None:
    model = ScriptedModel(asks(ASK_WEATHER, ADD_MILK, text="One moment."))
    tools = ScriptedTools()

    happenings = await told(a_turn(functions=[WEATHER]), model, tools)

    assert model.requests[0].tools[-1] == WEATHER
    assert [name for name, _, _ in tools.made] == ["add_task"]
    assert happenings[2:] == [
        ToolStarted(0, 1, ADD_MILK, "tasks"),
        ToolFinished(0, 1, ADD_MILK, "tasks", ToolResult("ok")),
        HandedOver(0, (HandedCall(0, ASK_WEATHER),)),
        TurnEnded(End.HANDED_OVER, Usage(1, 2)),
    ]


async def test_a_call_that_was_handed_over_is_not_handed_over_again() -> None:
    asked = ModelRound(0, "", (ASK_WEATHER, ADD_MILK), Finish.TOOL_CALLS, Usage(1, 2))
    past = [PastStep(asked, frozenset({1}), {1: ToolResult("ok")}, handed=frozenset({0}))]
    tools = ScriptedTools()

    happenings = await told(a_turn(functions=[], past=past), ScriptedModel(), tools)

    assert happenings == [TurnEnded(End.HANDED_OVER, Usage(1, 2))]
    assert tools.made == []


async def test_a_function_of_the_clients_never_hides_a_servers_tool() -> None:
    theirs = FunctionTool("add_task")
    model = ScriptedModel(asks(ToolCall("c", "tasks__add_task", "{}")), answers("Done."))
    tools = ScriptedTools(tools=[ADD_TASK])

    await told(a_turn(functions=[theirs]), model, tools)

    assert [tool.name for tool in model.requests[0].tools] == ["tasks__add_task", "add_task"]
    assert [name for name, _, _ in tools.made] == ["add_task"]


async def test_only_allowed_tools_are_offered() -> None:
    allowed = ToolRef("get_weather"), ToolRef("list_tasks", "tasks"), ToolRef(None, "mail")
    model = ScriptedModel(asks(ADD_MILK), answers("No."))
    tools = ScriptedTools()

    await told(a_turn(functions=[WEATHER], settings=TurnSettings(allowed=allowed)), model, tools)

    assert {tool.name for tool in model.requests[0].tools} == {"get_weather", "list_tasks", "send_mail"}
    assert tools.made == []


async def test_calls_of_the_clients_do_not_count_against_the_limit_of_calls() -> None:
    settings = TurnSettings(call_count_max=1)
    tools = ScriptedTools()

    await told(a_turn(functions=[WEATHER], settings=settings), ScriptedModel(asks(ASK_WEATHER, ADD_MILK)), tools)

    assert [name for name, _, _ in tools.made] == ["add_task"]


async def test_a_call_that_needs_approval_is_not_made_but_asked_about() -> None:
    tools = ScriptedTools(tools=WITH_WIPE)

    happenings = await told(a_turn(), ScriptedModel(asks(ASK_WIPE, ADD_MILK)), tools)

    assert [name for name, _, _ in tools.made] == ["add_task"]
    assert happenings[-2:] == [
        HandedOver(0, (HandedCall(0, ASK_WIPE, "mail"),)),
        TurnEnded(End.HANDED_OVER, Usage(1, 2)),
    ]


async def test_nobody_is_asked_about_a_call_that_would_be_refused_anyway() -> None:
    tools = ScriptedTools(tools=WITH_WIPE)
    model = ScriptedModel(asks(ToolCall("c", "wipe", "[]")), answers("Sorry."))

    happenings = await told(a_turn(), model, tools)

    assert happenings[-1] == TurnEnded(End.ANSWERED, Usage(2, 4))
    assert tools.made == []


async def test_an_approved_call_is_made_before_the_model_is_asked() -> None:
    tools = ScriptedTools(tools=WITH_WIPE)
    model = ScriptedModel(answers("All gone."))

    happenings = await told(a_turn(approvals=[YES]), model, tools)

    assert tools.made == [("wipe", {}, "job_1:0:0")]
    assert happenings[:3] == [
        ModelRound(0, "", (ASK_WIPE,), Finish.TOOL_CALLS, Usage(), is_of_client=True),
        ToolStarted(0, 0, ASK_WIPE, "mail", "mcpr_1"),
        ToolFinished(0, 0, ASK_WIPE, "mail", ToolResult("ok")),
    ]
    assert model.requests[0].messages[-1] == {"role": "tool", "tool_call_id": "call_x", "content": "ok"}
    assert happenings[-1] == TurnEnded(End.ANSWERED, Usage(1, 2))


async def test_of_a_refused_call_the_model_is_told_that_the_user_refused_it() -> None:
    tools = ScriptedTools(tools=WITH_WIPE)
    model = ScriptedModel(answers("All right."))

    happenings = await told(a_turn(approvals=[NO]), model, tools)

    assert tools.made == []
    assert "refused by the user: not today" in model.requests[0].messages[-1]["content"]
    assert not any(isinstance(one, ToolStarted) for one in happenings)


async def test_an_approved_call_is_not_made_again_by_the_next_attempt() -> None:
    asked = ModelRound(0, "", (ASK_WIPE,), Finish.TOOL_CALLS, Usage(), is_of_client=True)
    tools = ScriptedTools(tools=WITH_WIPE)
    done = [PastStep(asked, frozenset({0}), {0: ToolResult("gone")})]
    begun = [PastStep(asked, frozenset({0}))]

    first, second = ScriptedModel(answers("Done.")), ScriptedModel(answers("Hm."))
    await told(a_turn(approvals=[YES], past=done), first, tools)
    await told(a_turn(approvals=[YES], past=begun), second, tools)

    assert tools.made == []  # what became of the second one is unknown, and the tool may not be repeated
    assert first.requests[0].messages[-1]["content"] == "gone"
    assert "outcome unknown" in second.requests[0].messages[-1]["content"]


async def test_an_approval_is_for_the_server_that_was_asked_about() -> None:
    elsewhere = replace(WIPE, server_label="disk")
    tools = ScriptedTools(tools=[elsewhere])

    happenings = await told(a_turn(approvals=[YES]), ScriptedModel(answers("No.")), tools)

    assert tools.made == []
    assert ToolStarted(0, 0, ASK_WIPE, "mail", "mcpr_1") in happenings


async def test_an_answer_that_was_deleted_meanwhile_allows_nothing_and_no_other_takes_its_place() -> None:
    spare = replace(ASK_WIPE, call_id="call_y", arguments='{"disk":"spare"}')
    asked = ModelRound(0, "", (ASK_WIPE, spare), Finish.TOOL_CALLS, Usage(), is_of_client=True)
    yes_to_spare = replace(YES, request_id="mcpr_2", call=spare)
    one_left, none_left = ScriptedTools(tools=WITH_WIPE), ScriptedTools(tools=WITH_WIPE)
    first, second = ScriptedModel(answers("Done.")), ScriptedModel(answers("Hm."))

    await told(a_turn(approvals=[yes_to_spare], past=[PastStep(asked)]), first, one_left)
    await told(a_turn(past=[PastStep(asked, started=frozenset({1}))]), second, none_left)

    assert one_left.made == [("wipe", {"disk": "spare"}, "job_1:0:1")]
    assert none_left.made == []
    contents = [str(message["content"]) for message in (*first.requests[0].messages, *second.requests[0].messages)]
    assert sum("answer was deleted. The call was not made" in content for content in contents) == 2
    assert "outcome unknown" in contents[-1]


async def test_calls_that_the_user_allowed_are_no_output_of_the_model() -> None:
    long_call = replace(ASK_WIPE, arguments='{"disk":"' + "x" * 1_000 + '"}')
    model = ScriptedModel(answers("Done."))
    settings = TurnSettings(output_token_count_max=10)

    happenings = await told(
        a_turn(approvals=[replace(YES, call=long_call)], settings=settings), model, ScriptedTools(tools=WITH_WIPE)
    )

    assert model.requests[0].output_token_count_max == 10
    assert happenings[-1] == TurnEnded(End.ANSWERED, Usage(1, 2))


@pytest.mark.parametrize(("asked_as", "offered_as"), [("mail__wipe", "wipe"), ("wipe", "mail__wipe")])
async def test_an_approval_is_for_the_tool_under_whatever_name_it_is_offered_now(
    asked_as: str, offered_as: str
) -> None:
    tools = ScriptedTools(tools=[replace(WIPE, name=offered_as)])
    yes = replace(YES, call=replace(ASK_WIPE, name=asked_as))

    await told(a_turn(approvals=[yes]), ScriptedModel(answers("Done.")), tools)

    assert [name for name, _, _ in tools.made] == [offered_as]


async def test_a_choice_of_tool_holds_for_the_first_round_that_a_model_is_asked_for() -> None:
    model = ScriptedModel(answers("Done."))

    await told(a_turn(approvals=[YES], settings=TurnSettings(tool_choice="required")), model, ScriptedTools())

    assert model.requests[0].tool_choice == "required"


async def test_what_the_model_thinks_is_told_before_what_it_says() -> None:
    round_ = ModelRound(0, "Hi.", (), Finish.STOP, Usage(1, 2), "Hm.")

    happenings = await told(a_turn(), ScriptedModel([ReasoningDelta("Hm."), TextDelta("Hi."), round_]), ScriptedTools())

    assert happenings == [ReasoningDelta("Hm."), TextDelta("Hi."), round_, TurnEnded(End.ANSWERED, Usage(1, 2))]


# The script

Line = ReasoningDelta | TextDelta | ModelRound | Exception


class ScriptedModel:
    """Gives each round the next of its scripts; remembers what it was asked."""

    def __init__(self, *scripts: Sequence[Line]) -> None:
        self._scripts = list(scripts)
        self.requests: list[ModelRequest] = []
        self.closed_count = 0

    async def round(self, request: ModelRequest) -> AsyncGenerator[ReasoningDelta | TextDelta | ModelRound, None]:
        self.requests.append(request)
        try:
            for line in self._scripts.pop(0):
                if isinstance(line, Exception):
                    raise line
                yield line
        finally:
            self.closed_count += 1


class ScriptedTools:
    """Answers each call with the result of its tool, or the next of its results; "ok" unless told otherwise.

    Remembers the calls.
    """

    def __init__(
        self,
        results: Mapping[str, ToolResult | list[ToolResult]] | None = None,
        *,
        tools: Sequence[Tool] = (ADD_TASK, LIST_TASKS, SEND_MAIL),
    ) -> None:
        self._results = results or {}
        self._tools = tools
        self.made: list[tuple[str, JsonObject, str]] = []

    async def list(self) -> Sequence[Tool]:
        return self._tools

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult:
        self.made.append((tool.name, arguments, key))
        result = self._results.get(tool.name, ToolResult("ok"))
        return result.pop(0) if isinstance(result, list) else result


class Naps:
    """Sleep that takes no time."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def answers(*pieces: str) -> Sequence[Line]:
    return [*map(TextDelta, pieces), ModelRound(0, "".join(pieces), (), Finish.STOP, Usage(1, 2))]


def asks(*calls: ToolCall, text: str = "", usage: Usage = Usage(1, 2)) -> Sequence[Line]:  # noqa: B008 - it is frozen
    said = [TextDelta(text)] if text else []
    return [*said, ModelRound(0, text, calls, Finish.TOOL_CALLS, usage)]


def unavailable_for(seconds: float) -> ModelUnavailableError:
    return ModelUnavailableError("model_rate_limited", "Wait.", retry_after_seconds=seconds)


def a_turn(**changes: Any) -> Turn:
    return Turn(**{"job_key": "job_1", "messages": [HELLO], **changes})


async def told(turn: Turn, model: ScriptedModel, tools: ScriptedTools, naps: Naps | None = None) -> list[Happening]:
    async with aclosing(run_turn(turn, model, tools, sleep=naps or Naps())) as happenings:
        return [happening async for happening in happenings]
