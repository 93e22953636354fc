"""What the model is asked with, for any history."""

import json
from datetime import date
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_worker.agent.prompt import (
    Called,
    Instructions,
    PastTurn,
    Prompt,
    PromptLimits,
    Said,
    build_prompt,
    estimate_tokens,
    exchange,
    shorter_prompts,
)
from chat_worker.agent.values import OUTCOME_UNKNOWN, ToolCall, ToolError, ToolErrorKind, ToolResult
from shared.errors import ModelRefusedError

TODAY = date(2026, 3, 1)
INSTRUCTIONS = Instructions("You keep a list of tasks.", TODAY)
ROOMY = PromptLimits(token_count_max=1_000_000)

texts = st.text(max_size=40)
arguments = st.one_of(texts, st.dictionaries(texts, texts, max_size=2).map(json.dumps))
calls = st.builds(
    ToolCall, call_id=st.sampled_from(["", "call_a", "call_b", "call_c"]), name=texts, arguments=arguments
)
failures = st.builds(ToolError, st.sampled_from(ToolErrorKind), texts)
results = st.one_of(
    st.none(),
    st.just(OUTCOME_UNKNOWN),
    st.builds(ToolResult, output=st.one_of(texts, st.none())),
    st.builds(ToolResult, output=st.none(), error=failures),
)
entries = st.one_of(
    st.builds(Said, st.sampled_from(["user", "assistant", "system", "developer"]), texts),
    st.builds(Called, calls, results, step=st.integers(0, 2)),
)
turns = st.builds(PastTurn, st.lists(entries, max_size=6).map(tuple))
histories = st.lists(turns, max_size=6)
limits = st.builds(PromptLimits, st.integers(0, 500), st.integers(0, 60))


@settings(max_examples=40)
@given(histories, turns, limits)
def test_each_call_has_its_result_right_after_the_message_that_asked(
    history: list[PastTurn], current: PastTurn, limits: PromptLimits
) -> None:
    messages = list(build_prompt(INSTRUCTIONS, history, current, limits).messages)

    while messages:
        asked = [call["id"] for call in messages.pop(0).get("tool_calls", [])]
        answered = [messages.pop(0)["tool_call_id"] for _ in asked]
        assert answered == asked
        assert len(set(asked)) == len(asked)
        assert not messages or messages[0]["role"] != "tool"


@settings(max_examples=40)
@given(histories, turns, limits)
def test_every_message_is_one_that_an_endpoint_accepts(
    history: list[PastTurn], current: PastTurn, limits: PromptLimits
) -> None:
    messages = build_prompt(INSTRUCTIONS, history, current, limits).messages

    assert messages[0]["role"] == "system"
    for message in messages:
        assert message["role"] in {"system", "user", "assistant", "tool"}
        assert message["content"] or message["tool_calls"]
        for call in message.get("tool_calls", []):
            function = call["function"]
            assert isinstance(json.loads(function["arguments"]), dict)
            assert function["name"].isascii()
            assert 1 <= len(function["name"]) <= 64


@settings(max_examples=40)
@given(histories, turns, limits)
def test_history_is_kept_in_whole_turns_from_the_newest_within_the_budget(
    history: list[PastTurn], current: PastTurn, limits: PromptLimits
) -> None:
    prompt = build_prompt(INSTRUCTIONS, history, current, limits)

    kept = history[prompt.dropped_turn_count :]
    without_limit = PromptLimits(token_count_max=1_000_000, past_output_bytes_max=limits.past_output_bytes_max)
    # Whether the first message explains the client's rank is the only thing that dropped turns may change.
    assert prompt.messages[1:] == build_prompt(INSTRUCTIONS, kept, current, without_limit).messages[1:]
    assert prompt.token_count == estimate_tokens(prompt.messages)
    assert prompt.token_count <= limits.token_count_max or not kept


@settings(max_examples=40)
@given(histories, turns, limits)
def test_a_turn_is_dropped_only_for_lack_of_room(
    history: list[PastTurn], current: PastTurn, limits: PromptLimits
) -> None:
    prompt = build_prompt(INSTRUCTIONS, history, current, limits)

    if prompt.dropped_turn_count:
        one_more = history[prompt.dropped_turn_count - 1 :]
        first = estimate_tokens(prompt.messages[:1])
        unlimited = PromptLimits(token_count_max=1_000_000, past_output_bytes_max=limits.past_output_bytes_max)
        rest = estimate_tokens(build_prompt(INSTRUCTIONS, one_more, current, unlimited).messages[1:])
        assert first + rest > limits.token_count_max


@settings(max_examples=40)
@given(histories, turns, limits)
def test_each_shorter_prompt_leaves_out_more_and_only_of_the_history(
    history: list[PastTurn], current: PastTurn, limits: PromptLimits
) -> None:
    prompts = [build_prompt(INSTRUCTIONS, history, current, limits)]
    prompts += shorter_prompts(INSTRUCTIONS, history, current, limits)

    bare = build_prompt(INSTRUCTIONS, [], current, limits)
    assert all(one.messages[len(one.messages) - len(bare.messages) + 1 :] == bare.messages[1:] for one in prompts)
    counts = [prompt.token_count for prompt in prompts]
    assert counts == sorted(set(counts), reverse=True)
    assert len(prompts) <= 1 + limits.shortening_count_max


def test_a_prompt_is_shortened_by_half_of_its_history_at_a_time_and_not_for_ever() -> None:
    history = [PastTurn([Said("user", "x" * 96)]) for _ in range(20)]  # 32 tokens each
    current = PastTurn([Said("user", "now")])
    limits = PromptLimits(past_output_bytes_max=100, shortening_count_max=3)

    prompts = list(shorter_prompts(INSTRUCTIONS, history, current, limits))

    assert [20 - prompt.dropped_turn_count for prompt in prompts] == [10, 5, 2]
    assert list(shorter_prompts(INSTRUCTIONS, [], current, limits)) == []


@given(turns, limits)
def test_the_current_turn_is_always_there_whole(current: PastTurn, limits: PromptLimits) -> None:
    prompt = build_prompt(INSTRUCTIONS, [], current, limits)

    assert prompt == build_prompt(INSTRUCTIONS, [], current, ROOMY)


def test_the_operator_speaks_first_then_the_date_then_the_client() -> None:
    instructions = Instructions("Be brief.", TODAY, client="Talk like a pirate.")

    (first, _) = build_prompt(instructions, [], a_turn("hi"), ROOMY).messages

    operator, today, ranking, client = first["content"].split("\n\n")
    assert (operator, today, client) == ("Be brief.", "Today is 2026-03-01.", "Talk like a pirate.")
    assert "rank below" in ranking


def test_system_messages_in_the_history_are_ranked_below_the_operator() -> None:
    turn = PastTurn([Said("developer", "Talk like a pirate."), Said("user", "hi")])

    first, second, _ = build_prompt(INSTRUCTIONS, [], turn, ROOMY).messages

    assert "rank below" in first["content"]
    assert second == {"role": "system", "content": "Talk like a pirate."}


def test_without_instructions_of_a_client_there_is_no_talk_of_ranks() -> None:
    (first, _) = build_prompt(INSTRUCTIONS, [], a_turn("hi"), ROOMY).messages

    assert first["content"] == "You keep a list of tasks.\n\nToday is 2026-03-01."


def test_a_turn_with_tools_is_told_as_it_happened() -> None:
    milk, tea, shown = (
        ToolCall("a", "add_task", '{"title": "milk"}'),
        ToolCall("b", "add_task", '{"title": "tea"}'),
        ToolCall("c", "list_tasks", ""),
    )
    turn = PastTurn(
        [
            Said("user", "add milk and tea"),
            Said("assistant", "Adding both."),
            Called(milk, ToolResult('{"id": "task_1"}'), step=0),
            Called(tea, ToolResult(None, ToolError(ToolErrorKind.EXECUTION, "no room")), step=0),
            Called(shown, None, step=1),
            Said("assistant", "Milk is on your list."),
        ]
    )

    prompt = build_prompt(INSTRUCTIONS, [turn], a_turn("thanks"), ROOMY)

    assert prompt.messages[1:] == (
        {"role": "user", "content": "add milk and tea"},
        {
            "role": "assistant",
            "content": "Adding both.",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "add_task", "arguments": '{"title": "milk"}'}},
                {"id": "b", "type": "function", "function": {"name": "add_task", "arguments": '{"title": "tea"}'}},
            ],
        },
        {"role": "tool", "tool_call_id": "a", "content": '{"id": "task_1"}'},
        {"role": "tool", "tool_call_id": "b", "content": "Error: no room"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "list_tasks", "arguments": "{}"}}],
        },
        {
            "role": "tool",
            "tool_call_id": "c",
            "content": "Error: outcome unknown: No answer arrived. The call may or may not have happened. "
            "Check the state before repeating it.",
        },
        {"role": "assistant", "content": "Milk is on your list."},
        {"role": "user", "content": "thanks"},
    )


def test_a_long_result_is_cut_in_the_history_and_whole_in_the_current_turn() -> None:
    turn = PastTurn([Called(ToolCall("a", "list_tasks", ""), ToolResult("äöü" * 100))])

    prompt = build_prompt(INSTRUCTIONS, [turn], turn, PromptLimits(past_output_bytes_max=5))

    past, now = (message["content"] for message in prompt.messages if message["role"] == "tool")
    assert past == "äö… [cut here: 5 of 600 bytes shown]"
    assert now == "äöü" * 100


def test_a_bad_call_does_not_spoil_the_prompt() -> None:
    call = ToolCall("", "rm -rf /", '{"half": ')

    asked, answered = exchange("", [call], [ToolResult("")])

    assert function_of(asked) == {"name": "rm_-rf__", "arguments": "{}"}
    assert answered["content"] == "(no output)"


def test_a_message_with_images_keeps_its_parts_and_each_of_them_costs_room() -> None:
    parts = {"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    current = PastTurn([Said("user", "look", parts)])

    prompt = build_prompt(INSTRUCTIONS, [], current, ROOMY)

    assert prompt.messages[-1] == {"role": "user", "content": list(parts)}
    assert prompt.token_count > 1_000


def test_a_history_that_must_be_whole_is_refused_where_it_does_not_fit() -> None:
    history = [PastTurn([Said("user", "x" * 4_000)])]
    current = PastTurn([Said("user", "and now?")])

    with pytest.raises(ModelRefusedError) as refused:
        build_prompt(INSTRUCTIONS, history, current, PromptLimits(token_count_max=500), must_be_whole=True)
    fits = build_prompt(INSTRUCTIONS, history, current, PromptLimits(token_count_max=5_000), must_be_whole=True)

    assert refused.value.code == "context_length_exceeded"
    assert fits.dropped_turn_count == 0


def test_the_estimate_counts_bytes_and_frames() -> None:
    assert estimate_tokens([]) == 0
    assert estimate_tokens([{"role": "user", "content": ""}]) == 8
    assert estimate_tokens([{"role": "user", "content": "abcde"}]) == 10
    assert estimate_tokens([{"role": "user", "content": "👋"}]) == 9
    assert estimate_tokens(exchange("", [ToolCall("a", "abcd", '{"a": 1}')], [ToolResult("abcd")])) == 28


def test_two_hundred_turns_are_cut_to_the_newest_that_fit() -> None:
    history = [a_turn(f"message {number}") for number in range(200)]

    prompt = build_prompt(INSTRUCTIONS, history, a_turn("now"), PromptLimits(token_count_max=200))

    assert said_by_user(prompt) == [*(f"message {number}" for number in range(prompt.dropped_turn_count, 200)), "now"]
    assert 0 < prompt.dropped_turn_count < 200


def a_turn(text: str) -> PastTurn:
    return PastTurn([Said("user", text)])


def function_of(message: dict[str, Any]) -> dict[str, str]:
    (call,) = message["tool_calls"]
    function: dict[str, str] = call["function"]
    return function


def said_by_user(prompt: Prompt) -> list[str]:
    return [message["content"] for message in prompt.messages if message["role"] == "user"]
