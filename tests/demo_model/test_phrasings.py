"""What people type to a to-do assistant, and the tool call that has to come of it.

The list holds the tasks of `ON_THE_LIST` in this order, unread: the day is Wednesday, 25 November 2026.
"""

# ruff: noqa: E501 - a sentence and what it means stand on one line

from typing import Any

import pytest

from tests.demo_model.chats import Chat

ON_THE_LIST = ("buy milk", "call mom", "finish the quarterly report", "book dentist appointment", "pay rent")
MILK, MOM, REPORT, DENTIST, RENT = ON_THE_LIST


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("add buy stamps", {"title": "buy stamps"}),
        ("Please add “water the plants” to my list", {"title": "water the plants"}),
        ("hey, can you put eggs on my list?", {"title": "eggs"}),
        ("I need to pick up the dry cleaning tomorrow", {"title": "pick up the dry cleaning", "due": "2026-11-26"}),
        ("remind me to send Anna the photos on Friday", {"title": "send Anna the photos", "due": "2026-11-27"}),
        ("Remind me next Friday to renew my passport", {"title": "renew my passport", "due": "2026-12-04"}),
        ("don't let me forget to feed the cat tonight!", {"title": "feed the cat", "due": "2026-11-25"}),
        ("new task: clean the garage, it's urgent", {"title": "clean the garage", "priority": "high"}),
        ("Create a high-priority task to fix the roof by March 3rd", {"title": "fix the roof", "due": "2027-03-03", "priority": "high"}),
        ("i gotta return the library books in 3 days", {"title": "return the library books", "due": "2026-11-28"}),
        ("todo: sweep the stairs", {"title": "sweep the stairs"}),
        ("Could you make a note to ask Tom about the tickets?", {"title": "ask Tom about the tickets"}),
        ("add a task call the bank with description ask about the fees, due 2026-12-24", {"title": "call the bank", "description": "ask about the fees", "due": "2026-12-24"}),
        ("jot down: order printer paper, low priority", {"title": "order printer paper", "priority": "low"}),
        ("we should wash the car this weekend", {"title": "wash the car", "due": "2026-11-28"}),
        ("add write thank-you cards for the day after tomorrow", {"title": "write thank-you cards", "due": "2026-11-27"}),
        ("I have a haircut on Saturday at 3pm", {"title": "haircut at 3pm", "due": "2026-11-28"}),
        ("tomorrow I have to talk to the landlord", {"title": "talk to the landlord", "due": "2026-11-26"}),
        ("Book the flights to Rome on 1 December", {"title": "Book the flights to Rome", "due": "2026-12-01"}),
        ("schedule a call with the lawyer for Monday", {"title": "a call with the lawyer", "due": "2026-11-30"}),
        ("can u add taxes to my todo list, no rush", {"title": "taxes", "priority": "low"}),
        ("I'd like you to add plan the Sunday dinner", {"title": "plan the Sunday dinner"}),
        ("would you mind adding vacuum the living room?", {"title": "vacuum the living room"}),
        ("ad mow the lawn", {"title": "mow the lawn"}),
        ("set a reminder to stretch for next week", {"title": "stretch", "due": "2026-11-30"}),
        ("also put down 'renew insurance' due end of the month", {"title": "renew insurance", "due": "2026-11-30"}),
        ("add get milk and bread", {"title": "get milk and bread"}),
        ("add a reminder for the parents' evening in two weeks", {"title": "the parents' evening", "due": "2026-12-09"}),
        ("I want to learn Spanish", {"title": "learn Spanish"}),
    ],
)  # fmt: skip
def test_people_add_tasks(sentence: str, expected: dict[str, Any]) -> None:
    chat = Chat().has(*ON_THE_LIST)

    chat.say(sentence)

    assert chat.calls == [("add_task", expected)]


@pytest.mark.parametrize(
    ("sentence", "titles"),
    [
        ("add tasks: buy stamps, wash the car and mow the lawn", ["buy stamps", "wash the car", "mow the lawn"]),
        ("Please add these to my list:\n- eggs\n- butter\n- a nice bread", ["eggs", "butter", "a nice bread"]),
        ("add three things: rice, beans, corn", ["rice", "beans", "corn"]),
        ("add eggs and remind me to ring the plumber", ["eggs", "ring the plumber"]),
        ("add:\n1. sharpen the knives\n2. oil the door", ["sharpen the knives", "oil the door"]),
        ("new todos: iron the shirts; polish the shoes", ["iron the shirts", "polish the shoes"]),
        ('add "lunch with Jo" and "gym"', ["lunch with Jo", "gym"]),
        ("Add eggs. Then add flour.", ["eggs", "flour"]),
    ],
)
def test_people_add_several_tasks_at_once(sentence: str, titles: list[str]) -> None:
    chat = Chat()

    chat.say(sentence)

    assert chat.titles() == titles


@pytest.mark.parametrize(
    ("sentence", "status"),
    [
        ("what's on my list?", "all"),
        ("show me my tasks", "all"),
        ("What do I have left?", "open"),
        ("anything still open?", "open"),
        ("what have I finished so far?", "done"),
        ("list everything", "all"),
        ("Can you tell me what I still need to do", "open"),
        ("which tasks are done", "done"),
        ("show completed", "done"),
        ("what's due this week?", "open"),
        ("what do I need to do today?", "open"),
        ("is anything overdue", "open"),
        ("my to-do list please", "all"),
        ("how many tasks do I have?", "all"),
        ("whats next", "open"),
        ("give me an overview of my tasks", "all"),
        ("let me see the list again", "all"),
        ("what's on my plate tomorrow", "open"),
        ("did I already pay the rent?", "all"),
        ("when is the report due?", "all"),
        ("do I have anything about the dentist?", "all"),
        ("todos", "all"),
        ("shwo my tasks", "all"),
        ("what am I supposed to do today?", "open"),
    ],
)
def test_people_ask_for_their_list(sentence: str, status: str) -> None:
    chat = Chat().has(*ON_THE_LIST)

    chat.say(sentence)

    assert chat.calls == [("list_tasks", {"status": status})]


@pytest.mark.parametrize(
    ("sentence", "titles"),
    [
        ("mark the first one done", [MILK]),
        ("I bought the milk", [MILK]),
        ("finish task 2", [MOM]),
        ("I'm done with the report!", [REPORT]),
        ("check off the dentist", [DENTIST]),
        ("the rent is paid", [RENT]),
        ("just called mom", [MOM]),
        ("I've already paid the rent, thanks", [RENT]),
        ("number 3 is done", [REPORT]),
        ("milk done", [MILK]),
        ("cross the milk off my list please", [MILK]),
        ("tick off the last one", [RENT]),
        ("complete the dentist thing", [DENTIST]),
        ("2 and 3 are finished", [MOM, REPORT]),
        ("mark milk and rent as done", [MILK, RENT]),
        ("Okay, I finally finished the quarterly report", [REPORT]),
        ("mark everything as completed", list(ON_THE_LIST)),
        ("I did the first two", [MILK, MOM]),
        ("got the milk", [MILK]),
        ("set the rent task to done", [RENT]),
        ("You can tick the dentist off", [DENTIST]),
        ("I have booked the dentist appointment", [DENTIST]),
        ("mark the reprot as done", [REPORT]),
        ("done: call mom", [MOM]),
    ],
)
def test_people_report_what_is_done(sentence: str, titles: list[str]) -> None:
    chat = Chat().has(*ON_THE_LIST)

    chat.say(sentence)

    assert chat.titles(done=True) == titles
    assert set(chat.names) == {"list_tasks", "complete_task"}


@pytest.mark.parametrize(
    ("sentence", "title"),
    [
        ("remove the milk one", MILK),
        ("delete the second", MOM),
        ("get rid of the dentist appointment", DENTIST),
        ("I don't need to pay the rent anymore", RENT),
        ("take the report off my list", REPORT),
        ("please scrap number 4", DENTIST),
        ("could you erase task #5?", RENT),
        ("cancel the dentist", DENTIST),
        ("drop “call mom”", MOM),
        ("the report is no longer needed", REPORT),
        ("delte the milk", MILK),
        ("forget about the rent", RENT),
    ],
)
def test_people_delete_tasks(sentence: str, title: str) -> None:
    chat = Chat().has(*ON_THE_LIST)

    chat.say(sentence)

    assert title not in chat.titles()
    assert chat.names == ["list_tasks", "delete_task"]


@pytest.mark.parametrize(
    ("sentence", "title", "changes"),
    [
        ("rename the first one to buy oat milk", MILK, {"title": "buy oat milk"}),
        ("change “buy milk” to “buy oat milk”", MILK, {"title": "buy oat milk"}),
        ("move the report to next Monday", REPORT, {"due": "2026-11-30"}),
        ("change the due date of the rent to 2026-12-01", RENT, {"due": "2026-12-01"}),
        ("push the dentist back a week", DENTIST, {"due": "2026-12-02"}),
        ("the report is due on Friday", REPORT, {"due": "2026-11-27"}),
        ("call mom should be done by Sunday", MOM, {"due": "2026-11-29"}),
        ("make the rent high priority", RENT, {"priority": "high"}),
        ("the dentist isn't urgent", DENTIST, {"priority": "low"}),
        ("set the priority of number 3 to high", REPORT, {"priority": "high"}),
        ("Can you postpone the milk until tomorrow?", MILK, {"due": "2026-11-26"}),
        ("add a note to the report: use the new template", REPORT, {"description": "use the new template"}),
        ("change the description of the rent to use the new account", RENT, {"description": "use the new account"}),
        ("reschedule task 4 for the 3rd of December", DENTIST, {"due": "2026-12-03"}),
        ("give the report a deadline of December 15", REPORT, {"due": "2026-12-15"}),
        ("the rent can wait until next week", RENT, {"due": "2026-11-30"}),
        ("prioritise the report", REPORT, {"priority": "high"}),
        ("call the second one ring grandma instead", MOM, {"title": "ring grandma"}),
        ("set the deadline for the rent to Friday", RENT, {"due": "2026-11-27"}),
        ("mark the milk as urgent", MILK, {"priority": "high"}),
    ],
)
def test_people_change_tasks(sentence: str, title: str, changes: dict[str, Any]) -> None:
    chat = Chat().has(*ON_THE_LIST)
    task = chat.task(title)

    chat.say(sentence)

    assert chat.calls[1:] == [("update_task", {"task_id": task["id"], **changes})]


@pytest.mark.parametrize(
    "sentence",
    [
        "reopen the milk task",
        "I haven't bought the milk yet",
        "actually the milk isn't done",
        "mark the milk as not done",
        "put the milk back on my list",
        "uncheck buy milk",
    ],
)
def test_people_take_back_what_was_done(sentence: str) -> None:
    chat = Chat().has(*ON_THE_LIST)
    chat.task(MILK)["completed"] = True

    chat.say(sentence)

    assert chat.titles(done=True) == []


@pytest.mark.parametrize(
    ("sentence", "part_of_the_answer"),
    [
        ("hi there!", "Hello"),
        ("Good morning", "Hello"),
        ("how are you?", "no feelings"),
        ("thank you so much", "welcome"),
        ("who are you?", "OPENAI_API_KEY"),
        ("Are you GPT-4?", "not GPT"),
        ("are you a real AI?", "demo model"),
        ("which model am I talking to", "demo model"),
        ("what can you do?", "to-do list"),
        ("help", "to-do list"),
        ("What is the capital of France?", "did not understand"),
        ("tell me a joke", "did not understand"),
        ("2+2", "did not understand"),
        ("Wie wird das Wetter morgen?", "did not understand"),
        ("the weather is nice", "did not understand"),
        ("I love you", "did not understand"),
        ("what do you think about love?", "did not understand"),
        ("write me a poem about autumn", "did not understand"),
        ("bye", "Goodbye"),
        ("never mind", "changed nothing"),
        ("what day is it today?", "Wednesday, 25 November 2026"),
        ("remove the due date from the milk", "cannot take one away"),
        ("?", "to-do list"),
        ("   ", "did not understand"),
    ],
)
def test_talk_is_answered_briefly_and_without_a_call(sentence: str, part_of_the_answer: str) -> None:
    chat = Chat().has(*ON_THE_LIST)

    answer = chat.say(sentence)

    assert part_of_the_answer in answer
    assert chat.calls == []
