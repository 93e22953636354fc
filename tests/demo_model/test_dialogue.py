"""Conversations over several turns: references, questions and their answers, and what tools report."""

from typing import Any

import pytest

from demo_model import phrases
from demo_model.dialogue import LISTED_AGO_MAX, Call, Calls, Say, next_move
from demo_model.wire import Function, Message, ToolCall
from tests.demo_model.chats import TODAY, Chat, the_tools


def test_a_list_from_an_earlier_turn_is_not_read_again() -> None:
    chat = Chat().has("buy milk", "call mom")
    chat.say("what is on my list?")

    chat.say("mark the first one done")

    assert chat.names == ["complete_task"]
    assert chat.titles(done=True) == ["buy milk"]


def test_a_list_read_long_ago_is_read_again_before_choosing_by_title() -> None:
    chat = Chat().has("buy milk")
    chat.say("what is on my list?")
    for _ in range(LISTED_AGO_MAX + 1):
        chat.say("thanks")
    chat.has("bring the milk bottles back")

    answer = chat.say("remove the milk one")

    assert chat.names == ["list_tasks"]
    assert phrases.WHICH in answer


def test_it_is_the_task_spoken_of_last() -> None:
    chat = Chat().has("call mom")
    chat.say("add buy milk")

    chat.say("make it high priority")
    chat.say("and it's due tomorrow")
    chat.say("actually, rename it to buy oat milk")
    chat.say("drop it")

    assert chat.titles() == ["call mom"]
    assert chat.names == ["delete_task"]


def test_numbers_mean_the_list_shown_last_and_not_the_one_read_last() -> None:
    chat = Chat().has("paint the fence", "buy milk", "buy bread")
    chat.say("mark the fence as done")
    chat.say("what do I have left?")

    chat.say("delete number 2")

    assert chat.titles() == ["paint the fence", "buy milk"]


def test_the_first_one_again_is_the_next_once_the_first_is_gone() -> None:
    chat = Chat().has("a walk", "a swim", "a nap")
    chat.say("show my list")

    chat.say("delete the first one")
    chat.say("delete the first one")

    assert chat.titles() == ["a nap"]


@pytest.mark.parametrize(
    ("choice", "done"),
    [
        ("the blue one", ["paint the blue door"]),
        ("the second", ["paint the red door"]),
        ("2", ["paint the red door"]),
        ("I mean the red door", ["paint the red door"]),
        ("the one due Friday", ["paint the red door"]),
        ("both", ["paint the blue door", "paint the red door"]),
        ("paint the blue door", ["paint the blue door"]),
        ("neither", []),
    ],
)
def test_a_question_which_one_is_answered_in_the_next_turn(choice: str, done: list[str]) -> None:
    chat = Chat().has("paint the blue door", "paint the red door", "call mom")
    chat.task("paint the red door")["due"] = "2026-11-27"
    question = chat.say("I painted the door")

    chat.say(choice)

    assert question.startswith(phrases.WHICH)
    assert chat.titles(done=True) == done


def test_a_question_may_be_asked_twice() -> None:
    chat = Chat().has("buy red paint", "buy red wine", "buy blue paint")
    chat.say("delete the paint or wine task")
    chat.say("the red one")

    chat.say("the first")

    assert chat.titles() == ["buy red wine", "buy blue paint"]


def test_a_new_command_is_no_answer_to_a_question() -> None:
    chat = Chat().has("paint the blue door", "paint the red door")
    chat.say("delete the door")

    chat.say("add call mom")

    assert chat.titles() == ["paint the blue door", "paint the red door", "call mom"]


def test_what_comes_after_the_question_is_carried_out_with_the_answer() -> None:
    chat = Chat().has("paint the blue door", "paint the red door")
    chat.say("delete the door and add call mom")

    chat.say("the red one")

    assert chat.titles() == ["paint the blue door", "call mom"]


@pytest.mark.parametrize("agreement", ["yes", "Yes please!", "yes, delete them", "go ahead", "delete all of them"])
def test_everything_is_deleted_only_after_a_yes(agreement: str) -> None:
    chat = Chat().has("buy milk", "call mom")

    question = chat.say("delete everything")
    before = chat.titles()
    chat.say(agreement)

    assert question.startswith(phrases.SURE)
    assert before == ["buy milk", "call mom"]
    assert chat.titles() == []


def test_nothing_is_deleted_after_a_no() -> None:
    chat = Chat().has("buy milk", "call mom")
    chat.say("clear my list")

    answer = chat.say("no, keep them")

    assert (answer, chat.calls) == (phrases.NOTHING_CHANGED, [])


def test_clearing_the_finished_tasks_keeps_the_open_ones() -> None:
    chat = Chat().has("buy milk", "call mom", "pay rent")
    chat.say("mark 1 and 3 as done")
    chat.say("delete all completed tasks")

    chat.say("yes")

    assert chat.titles() == ["call mom"]


def test_a_missing_title_is_asked_for_and_what_was_said_before_is_kept() -> None:
    chat = Chat()
    question = chat.say("add a high priority task for Friday")

    chat.say("buy stamps")

    assert question == phrases.TITLE
    assert chat.calls == [("add_task", {"title": "buy stamps", "due": "2026-11-27", "priority": "high"})]


@pytest.mark.parametrize(
    ("answer", "changes"),
    [
        ("the due date to Monday", {"due": "2026-11-30"}),
        ("high priority", {"priority": "high"}),
        ("next week", {"due": "2026-11-30"}),
        ("call it buy oat milk", {"title": "buy oat milk"}),
    ],
)
def test_a_missing_change_is_asked_for(answer: str, changes: dict[str, Any]) -> None:
    chat = Chat().has("buy milk", "call mom")
    chat.say("update the milk task")

    chat.say(answer)

    assert chat.calls == [("update_task", {"task_id": chat.tasks[0]["id"], **changes})]


def test_several_commands_in_one_message_are_carried_out_in_order() -> None:
    chat = Chat().has("buy milk", "write the report")

    answer = chat.say("Mark the milk as done, move the report to Friday and make it high priority. Then show my list")

    assert chat.names == ["list_tasks", "complete_task", "update_task", "update_task", "list_tasks"]
    assert "2. write the report (due Friday, 27 November 2026, high priority)" in answer


def test_a_shift_counts_from_the_due_date() -> None:
    chat = Chat()
    chat.say("add pay rent due 2026-12-31")

    chat.say("postpone it by two days")

    assert chat.tasks[0]["due"] == "2027-01-02"


def test_the_answer_is_made_from_the_results() -> None:
    chat = Chat()
    chat.say("add tasks: pay rent by friday, buy milk")
    chat.say("I bought the milk")

    answer = chat.say("what's on my list?")

    assert answer == "You have 2 tasks, 1 of them done:\n1. pay rent (due Friday, 27 November 2026)\n2. buy milk (done)"


def test_lists_can_be_narrowed_by_day_and_priority() -> None:
    chat = Chat()
    chat.say("add tasks: pay rent by tomorrow, call mom by december 20, buy milk")
    chat.say("add fix the roof, urgent")

    assert "1. pay rent" in chat.say("what is due this week?")
    assert chat.say("anything overdue?") == "You have no overdue tasks."
    assert chat.say("show my high priority tasks").endswith("\n1. fix the roof (high priority)")


def test_what_is_done_already_is_not_done_again() -> None:
    chat = Chat().has("buy milk")
    chat.say("I bought the milk")

    answer = chat.say("mark the milk as done")

    assert (answer, chat.calls) == ("\u201cbuy milk\u201d is already done.", [])


def test_the_same_title_twice_is_a_question() -> None:
    chat = Chat().has("buy milk", "buy milk")
    chat.task("buy milk")["due"] = "2026-11-27"

    question = chat.say("delete buy milk")
    chat.say("the first")

    assert question == f"{phrases.WHICH}\n1. buy milk (due Friday, 27 November 2026)\n2. buy milk"
    assert [task["due"] for task in chat.tasks] == [None]


def test_what_is_not_there_is_said_to_be_missing() -> None:
    chat = Chat().has("buy milk")

    assert "no task that fits \u201cpiano\u201d" in chat.say("delete the piano task")
    assert "no such number" in chat.say("mark number 7 as done")
    assert chat.titles(done=False) == ["buy milk"]


def test_the_error_of_a_tool_is_passed_on() -> None:
    chat = Chat(failing={"add_task": "Error: the title is too long"})

    assert chat.say("add buy milk") == "I could not add \u201cbuy milk\u201d: the title is too long"


def test_a_list_that_cannot_be_read_is_said_so() -> None:
    chat = Chat(failing={"list_tasks": "Error: the task server did not answer"}).has("buy milk")

    assert chat.say("I bought the milk") == "I could not read your list: the task server did not answer"
    assert chat.say("what is on my list?") == "I could not read your list: the task server did not answer"


def test_an_unknown_outcome_is_neither_success_nor_failure() -> None:
    chat = Chat(failing={"delete_task": "Error: outcome unknown: the call was interrupted"}).has("buy milk")

    answer = chat.say("delete the milk")

    assert "is unknown" in answer
    assert "deleted" not in answer


def test_without_tools_it_says_that_it_has_none() -> None:
    for sentence in ("add buy milk", "what is on my list?", "delete everything", "add a task"):
        assert Chat(tools=[]).say(sentence) == phrases.NO_TOOLS


def test_only_offered_tools_are_called() -> None:
    chat = Chat(tools=the_tools("list_tasks")).has("buy milk")

    assert "update_task is not available" in chat.say("I bought the milk")
    assert chat.names == ["list_tasks"]
    assert "add_task is not available" in chat.say("add eggs")
    assert chat.names == []


def test_update_task_stands_in_for_complete_task() -> None:
    chat = Chat(tools=the_tools("list_tasks", "update_task")).has("buy milk")

    chat.say("I bought the milk")

    assert chat.titles(done=True) == ["buy milk"]


def test_any_offered_tool_can_be_called_by_name() -> None:
    messages = [Message("user", 'call the tool get_weather with {"city": "Oslo"}')]

    move = next_move(messages, the_tools("get_weather"), TODAY)

    assert move == Calls((Call("get_weather", '{"city": "Oslo"}'),))


def test_a_call_without_a_result_is_made_again() -> None:
    call = ToolCall("call_1", Function("add_task", '{"title": "buy milk"}'))
    messages = [Message("user", "add buy milk"), Message("assistant", None, [call])]

    assert isinstance(next_move(messages, the_tools(), TODAY), Calls)


def test_a_call_is_not_repeated_when_the_day_has_changed_meanwhile() -> None:
    call = ToolCall("call_1", Function("add_task", '{"title": "buy milk", "due": "2026-11-25"}'))
    result = '{"id": "task_1", "title": "buy milk", "due": "2026-11-25"}'
    messages = [
        Message("user", "add buy milk due tomorrow"),
        Message("assistant", None, [call]),
        Message("tool", result, tool_call_id="call_1"),
    ]

    move = next_move(messages, the_tools(), TODAY)

    assert move == Say("I added \u201cbuy milk\u201d, due Wednesday, 25 November 2026.")


def test_the_history_can_be_asked_about() -> None:
    chat = Chat()
    chat.say("Hello, bot")
    chat.say("add buy milk")

    assert chat.say("How many messages have I sent so far?") == phrases.messages_count(3)
    assert chat.say("what did I say first?") == "Your first message was: \u201cHello, bot\u201d"
    assert chat.say("what did I just say?") == "Your message before this one was: \u201cwhat did I say first?\u201d"


def test_a_first_message_has_none_before_it() -> None:
    assert Chat().say("what did I say before?") == phrases.FIRST_MESSAGE


def test_many_questions_in_a_row_do_no_harm() -> None:
    chat = Chat().has("paint the blue door", "paint the red door")
    chat.say("delete the door")

    for _ in range(400):
        chat.messages += [Message("user", "paint the door"), Message("assistant", f"{phrases.WHICH} Say it.")]

    assert chat.say("the blue one")


def test_a_history_that_begins_in_the_middle_is_read_all_the_same() -> None:
    chat = Chat().has("buy milk", "call mom")
    chat.say("what is on my list?")
    chat.messages = chat.messages[1:]

    chat.say("mark the second one done")

    assert chat.titles(done=True) == ["call mom"]
