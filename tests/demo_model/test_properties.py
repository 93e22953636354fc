"""What holds for every text and every request."""

from datetime import date

from hypothesis import given, settings
from hypothesis import strategies as st

from demo_model import dates
from demo_model.completions import limited, pieces_of, text_reply
from demo_model.dialogue import Calls, next_move
from demo_model.grammar import understand
from demo_model.wire import Function, Message, ToolCall
from demo_model.words import one_slip_apart
from tests.demo_model.chats import TODAY, the_tools

_WORDS = st.sampled_from(
    [
        *[
            "add",
            "delete",
            "mark",
            "done",
            "the",
            "first",
            "milk",
            "and",
            "then",
            "all",
            "task",
            "tasks",
            "to",
            "on",
            "friday",
            "in",
            "2",
            "weeks",
            "it",
            "high",
            "priority",
        ],
        *["what", "list", "rename", "is", "not", "my", "yes", "move", "remind", "me", ":", ",", ".", "?"],
        '"',
    ]
)
_SENTENCES = st.one_of(st.lists(_WORDS, max_size=14).map(" ".join), st.text(max_size=80))


@given(st.text())
def test_the_tokens_of_a_text_joined_are_the_text(text: str) -> None:
    assert "".join(pieces_of(text)) == text


@given(st.text(), st.integers(1, 20))
def test_a_limit_is_kept_and_said(text: str, limit: int) -> None:
    reply = limited(text_reply(text), limit)

    assert len(list(reply.pieces)) == min(limit, len(pieces_of(text)))
    assert (reply.finish == "length") == (len(pieces_of(text)) > limit)


@settings(max_examples=200, deadline=None)
@given(_SENTENCES)
def test_every_message_has_a_meaning(message: str) -> None:
    assert understand(message, TODAY)


@settings(max_examples=100, deadline=None)
@given(st.lists(_SENTENCES, min_size=1, max_size=4), st.sets(st.sampled_from(["add_task", "list_tasks"])))
def test_only_offered_tools_are_ever_called(messages: list[str], offered: set[str]) -> None:
    tools = the_tools(*offered) if offered else []
    history = [message for text in messages for message in (Message("user", text), Message("assistant", "Hm?"))][:-1]

    move = next_move(history, tools, TODAY)

    assert not isinstance(move, Calls) or {call.name for call in move.calls} <= offered


@given(st.text(), st.text())
def test_results_and_arguments_of_any_kind_are_read(arguments: str, result: str) -> None:
    call = ToolCall("call_1", Function("list_tasks", arguments))
    history = [
        Message("user", "what is on my list?"),
        Message("assistant", None, [call]),
        Message("tool", result, tool_call_id="call_1"),
    ]

    assert not isinstance(next_move(history, the_tools(), TODAY), Calls)


@given(st.dates(date(2000, 1, 1), date(2100, 1, 1)))
def test_a_day_said_in_words_is_that_day(day: date) -> None:
    said = dates.say(day).partition(", ")[2]

    assert dates.whole(said, TODAY) == day


@given(st.text(min_size=1, max_size=6, alphabet="abc"), st.text(max_size=6, alphabet="abc"))
def test_one_slip_is_the_same_both_ways(one: str, other: str) -> None:
    assert one_slip_apart(one, other) == one_slip_apart(other, one)
