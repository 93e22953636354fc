"""The wording of the answers. The questions are recognised again in the next turn by the sentences they begin with."""

from collections.abc import Sequence
from datetime import date

from demo_model import dates
from demo_model.conversation import Task

WHICH = "Which one do you mean?"
SURE = "Are you sure? That would delete"
TITLE = "What should the task be called?"
CHANGE = "What should I change about"
QUESTIONS = (WHICH, SURE, TITLE, CHANGE)

IDENTITY = (
    "I am Parley's built-in demo model: plain rules without weights, not GPT and no other language model. I understand"
    " to-do sentences and nothing else. To talk to a real model, set OPENAI_API_KEY (and OPENAI_BASE_URL for a provider"
    " other than OpenAI)."
)
HELP = (
    "I can look after your to-do list. Say for example:\n"
    "- \u201cadd buy milk, due tomorrow, high priority\u201d or \u201cremind me to call mom on Friday\u201d\n"
    "- \u201cwhat do I have left?\u201d, \u201cshow what is done\u201d or \u201cwhat is due this week?\u201d\n"
    "- \u201cmark the first one done\u201d or \u201cI bought the milk\u201d\n"
    "- \u201crename it to buy oat milk\u201d, \u201cmove the report to Monday\u201d or \u201creopen number 2\u201d\n"
    "- \u201cdelete the second\u201d or \u201cclear my finished tasks\u201d"
)
UNKNOWN = (
    "I did not understand that: I am only a demo model that follows rules and looks after a to-do list.\n\n" + HELP
)
GREETING = "Hello! I look after your to-do list. What would you like to add, see or change?"
WELLBEING = "I am a set of rules, so I have no feelings to report, but I am ready. What is to be done?"
THANKS = "You are welcome."
PRAISE = "Good. Anything else for your list?"
GOODBYE = "Goodbye. Your list is kept."
NOTHING_CHANGED = "All right, I changed nothing."
NOTHING_ASKED = "I had not asked anything. What can I do for your list?"
NO_CLEARING = "I can change a due date, a priority or a description, but my tools cannot take one away."
NO_TOOLS = "I have no to-do tools here, so I can neither see nor change a list."
FIRST_MESSAGE = "This is the first message I can see in this conversation."
_LOST = "The outcome of my attempt to {what} is unknown: it may have happened. Look at your list before trying again."


def no_tool(name: str) -> str:
    return f"I cannot do that here: the tool {name} is not available to me."


def today(day: date) -> str:
    return f"Today is {dates.say(day)} (UTC)."


def messages_count(count: int) -> str:
    return f"You have sent {_counted(count, 'message')} in this conversation, this one included."


def quoted(text: str, *, first: bool) -> str:
    return f"{'Your first message' if first else 'Your message before this one'} was: \u201c{text}\u201d"


def title(task: Task) -> str:
    return f"\u201c{task.title}\u201d"


def line(task: Task) -> str:
    """The task as a list shows it. Begins with the title: later references by number rely on it."""
    details = [
        "done" if task.completed else "",
        f"due {say_due(task.due)}" if task.due else "",
        f"{task.priority} priority" if task.priority in {"high", "low"} else "",
    ]
    said = ", ".join(filter(None, details))
    text = f"{task.title} ({said})" if said else task.title
    return f"{text}\n   {' '.join(task.description.split())}" if task.description else text


def say_due(due: str) -> str:
    """A due date in words; whatever is no ISO date is repeated as it is."""
    try:
        return dates.say(date.fromisoformat(due[:10]))
    except ValueError:
        return due


def numbered(tasks: Sequence[Task]) -> str:
    return "\n".join(f"{number}. {line(task)}" for number, task in enumerate(tasks, 1))


def listing(tasks: Sequence[Task], kind: str) -> str:
    """`kind` is what is listed: "open", "overdue", or empty for all tasks."""
    if not tasks:
        return f"You have no {kind} tasks." if kind else "Your list is empty."
    done = sum(task.completed for task in tasks)
    some_done = f", {done} of them done" if done and kind == "" else ""
    return f"You have {_counted(len(tasks), f'{kind} task'.strip())}{some_done}:\n{numbered(tasks)}"


def added(tasks: Sequence[Task]) -> str:
    if len(tasks) > 1:
        return f"I added {_counted(len(tasks), 'task')}:\n{numbered(tasks)}"
    return f"I added {_in_a_sentence(tasks[0])}."


def completed(tasks: Sequence[Task]) -> str:
    return f"Well done! I marked {_titles(tasks)} as done."


def reopened(tasks: Sequence[Task]) -> str:
    return f"I reopened {_titles(tasks)}."


def deleted(tasks: Sequence[Task]) -> str:
    return f"I deleted {_titles(tasks)}."


def changed(before: Task, after: Task) -> str:
    if before.title != after.title:
        return f"I renamed {title(before)} to {_in_a_sentence(after)}."
    return f"I changed {_in_a_sentence(after)}."


def already(tasks: Sequence[Task], *, done: bool) -> str:
    be = "is" if len(tasks) == 1 else "are"
    return f"{_titles(tasks)} {be} {'already done' if done else 'still open'}."


def which(options: Sequence[Task]) -> str:
    return f"{WHICH}\n{numbered(options)}"


def sure(tasks: Sequence[Task]) -> str:
    return f"{SURE} {_counted(len(tasks), 'task')}:\n{numbered(tasks)}\nSay \u201cyes\u201d to go on."


def change_what(task: Task) -> str:
    return f"{CHANGE} {title(task)}? Its title, due date, priority or description?"


def not_found(words: str) -> str:
    return f"I found no task that fits \u201c{words}\u201d. Ask me \u201cwhat is on my list?\u201d to see them all."


def no_number(count: int) -> str:
    return f"There is no such number: I see {_counted(count, 'task')}."


def nothing_to(verb: str) -> str:
    return f"There is nothing to {verb}."


def failed(what: str, result: str) -> str:
    """A tool's error, told as it is. `what` completes "I could not …"."""
    if "outcome unknown" in result.lower() or "outcome is unknown" in result.lower():
        return _LOST.format(what=what)
    reason = result.strip().removeprefix("Error:").strip() or "the tool gave no reason"
    return f"I could not {what}: {reason}"


def _in_a_sentence(task: Task) -> str:
    details = [
        f"due {say_due(task.due)}" if task.due else "",
        f"{task.priority} priority" if task.priority else "",
        f"with the description \u201c{task.description}\u201d" if task.description else "",
    ]
    return ", ".join(filter(None, [title(task), *details]))


def _titles(tasks: Sequence[Task]) -> str:
    names = [title(task) for task in tasks]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
