"""The next move in a conversation: a text, or tools to call. A pure function of the messages, the tools and the day.

The model is stateless, so each round works the turn out afresh. The intents of the last user message are carried out in
order against a script of what was already called in this turn: a call that is there is not made again and its result is
used; the first one that is missing is the next move. When nothing is missing, the answer is made from the results.

A task is found by what the conversation told: a number in the list shown last, the task spoken of last, words of its
title. Where that does not suffice (or the list was read too long ago to trust its titles) the list is read first.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any, TypeVar

from demo_model import grammar, phrases, references
from demo_model.conversation import Done, Knowledge, Task, Turn, read_list, read_task, turns_of
from demo_model.intents import (
    Add,
    Changes,
    Complete,
    Delete,
    Everything,
    Intent,
    It,
    Named,
    NewTask,
    Numbers,
    Priority,
    Ref,
    Reopen,
    Show,
    Status,
    Talk,
    Topic,
    Update,
    UseTool,
)
from demo_model.wire import Message, Tool

LISTED_AGO_MAX = 5  # turns: an older list is read again before a task is chosen by its title

QUESTIONS_BACK_MAX = 10  # questions in a row that are followed back to what was first asked for

_T = TypeVar("_T")
_Referring = Complete | Reopen | Delete | Update
_FIXED = {
    Topic.GREETING: phrases.GREETING,
    Topic.WELLBEING: phrases.WELLBEING,
    Topic.THANKS: phrases.THANKS,
    Topic.PRAISE: phrases.PRAISE,
    Topic.GOODBYE: phrases.GOODBYE,
    Topic.IDENTITY: phrases.IDENTITY,
    Topic.HELP: phrases.HELP,
    Topic.CLEARING: phrases.NO_CLEARING,
    Topic.YES: phrases.NOTHING_ASKED,
    Topic.NO: phrases.NOTHING_CHANGED,
    Topic.UNKNOWN: phrases.UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class Call:
    """A tool to call; `arguments` is an object, or its JSON text where the user dictated it."""

    name: str
    arguments: dict[str, Any] | str


@dataclass(frozen=True, slots=True)
class Calls:
    calls: tuple[Call, ...]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question left open: the intent that waits, the ids to choose from, and the intents that come after it."""

    intent: Intent
    options: tuple[str, ...] = ()
    rest: tuple[Intent, ...] = ()


@dataclass(frozen=True, slots=True)
class Say:
    text: str
    asked: Asked | None = None


Move = Say | Calls


def next_move(messages: Sequence[Message], tools: Sequence[Tool], today: date) -> Move:
    """What to do now. Calls only tools that are among `tools`."""
    turns = turns_of(messages)
    if not turns:
        return Say(phrases.GREETING)
    return _move(turns, {tool.function.name: tool for tool in tools}, today)


def forced_move(messages: Sequence[Message], tool: Tool, today: date) -> Calls:
    """A call of `tool` whatever was said, with the best arguments that the conversation offers."""
    name = tool.function.name
    turns = turns_of(messages)
    every = dict.fromkeys(("add_task", "list_tasks", "update_task", "complete_task", "delete_task"), tool)
    for tools in ({name: tool}, every) if turns else ():
        move = _move(turns, tools, today)
        if isinstance(move, Calls) and (calls := tuple(call for call in move.calls if call.name == name)):
            return Calls(calls)
    return Calls((Call(name, _least_arguments(turns, tool)),))


def _least_arguments(turns: Sequence[Turn], tool: Tool) -> dict[str, Any]:
    """A value for each required argument: the task spoken of, what was said, or nothing."""
    knowledge = _known_from(turns)
    known = next(iter(knowledge.spoken_of or knowledge.tasks), "")
    said = turns[-1].said if turns else ""
    values = {"task_id": known, "title": said[:200] or "task"}
    required = (tool.function.parameters or {}).get("required", [])
    return {name: values.get(name, "") for name in required}


# One turn


def _move(turns: Sequence[Turn], tools: dict[str, Tool], today: date, back: int = QUESTIONS_BACK_MAX) -> Move:
    """The move in the last of the turns."""
    intents, options = _intents(turns, tools, today, back)
    if len(intents) == 1 and isinstance(intents[0], Talk):
        return Say(_talk(intents[0].topic, turns, today))
    return _TurnScript(turns, tools, today).run(intents, options)


def _intents(
    turns: Sequence[Turn], tools: dict[str, Tool], today: date, back: int
) -> tuple[tuple[Intent, ...], tuple[str, ...]]:
    """The intents of the last turn, read as the answer to our question if the turn before ended with one."""
    said = turns[-1].said
    intents = grammar.understand(said, today)
    before = turns[-2].answer if len(turns) > 1 else ""
    if back == 0 or not any(question in before for question in phrases.QUESTIONS):
        return intents, ()
    earlier = _move(turns[:-1], tools, today, back - 1)
    if isinstance(earlier, Calls) or earlier.asked is None:
        return intents, ()
    answered = _answered(earlier.asked, intents, said, today)
    if answered is None:
        return intents, ()
    return (answered, *earlier.asked.rest), earlier.asked.options


def _answered(asked: Asked, intents: Sequence[Intent], said: str, today: date) -> Intent | None:
    """The intent that waited, completed by what the user said now; None if that was no answer."""
    now = intents[0]
    said_yes = now == Talk(Topic.YES)
    match asked.intent:
        case Add(items=items) if _is_fragment(now):
            return Add(tuple(item if item.title else _titled(item, said, today) for item in items))
        case Delete() if not asked.options and (said_yes or _repeats_delete(now)):
            return replace(asked.intent, confirmed=True)
        case Update(ref=ref) if not asked.options and (changes := grammar.read_changes(said, today)):
            return Update(ref, changes)
        case Complete() | Reopen() | Delete() | Update() if asked.options and (said_yes or _is_fragment(now)):
            ref = Numbers((1,)) if said_yes and len(asked.options) == 1 else grammar.read_reference(said)
            return replace(asked.intent, ref=ref)
    return None


def _repeats_delete(intent: Intent) -> bool:
    """ "delete them", as an answer to "are you sure?"."""
    return isinstance(intent, Delete) and isinstance(intent.ref, It | Everything)


def _titled(waiting: NewTask, said: str, today: date) -> NewTask:
    given = grammar.read_new_task(said, today)
    return replace(
        given,
        description=given.description or waiting.description,
        due=given.due or waiting.due,
        priority=given.priority or waiting.priority,
    )


def _is_fragment(intent: Intent) -> bool:
    """Whether a message makes no command by itself, so that it may answer a question."""
    return intent == Talk(Topic.UNKNOWN) or (isinstance(intent, Add | Complete) and intent.weak)


def _talk(topic: Topic, turns: Sequence[Turn], today: date) -> str:
    said = [turn.said for turn in turns if turn.said]
    match topic:
        case Topic.TODAY:
            return phrases.today(today)
        case Topic.MESSAGES_COUNT:
            return phrases.messages_count(len(said))
        case Topic.MESSAGE_FIRST:
            return phrases.quoted(said[0], first=True)
        case Topic.MESSAGE_BEFORE:
            return phrases.quoted(said[-2], first=False) if len(said) > 1 else phrases.FIRST_MESSAGE
        case _:
            return _FIXED[topic]


def _known_from(turns: Sequence[Turn]) -> Knowledge:
    knowledge = Knowledge()
    for turn in turns:
        knowledge.take_in(turn)
    return knowledge


class _MissingError(Exception):
    """The script needs calls that were not made yet."""

    def __init__(self, calls: Sequence[Call]) -> None:
        super().__init__()
        self.calls = tuple(calls)


class _StopError(Exception):
    """The intent ends here with this text: something has to be asked, or cannot be done."""

    def __init__(self, text: str, asked: Asked | None = None) -> None:
        super().__init__(text)
        self.text = text
        self.asked = asked


class _TurnScript:
    """One turn carried out against the calls already made for it."""

    def __init__(self, turns: Sequence[Turn], tools: dict[str, Tool], today: date) -> None:
        self._made = list(turns[-1].done)
        self._knowledge = _known_from(turns[:-1])
        self._tools = tools
        self._today = today
        self._listed: list[Task] | None = None  # read in this turn

    def run(self, intents: Sequence[Intent], options: tuple[str, ...]) -> Move:
        """The move; `options` are the tasks among which the first intent chooses, if it answers a question."""
        answers: list[str] = []
        for place, intent in enumerate(intents):
            try:
                answer = self._carry_out(intent, options if place == 0 else ())
            except _MissingError as missing:
                return Calls(missing.calls)
            except _StopError as stop:
                answer = stop.text
                if stop.asked:
                    asked = replace(stop.asked, rest=tuple(intents[place + 1 :]))
                    return Say("\n\n".join([*answers, answer]), asked)
            if answer not in answers:
                answers.append(answer)
        return Say("\n\n".join(filter(None, answers)))

    def _carry_out(self, intent: Intent, options: tuple[str, ...]) -> str:
        match intent:
            case Add(items=items):
                return self._add(intent, items)
            case Show():
                return self._show(intent)
            case UseTool(name=name, arguments=arguments):
                return self._results([Call(name, arguments)])[0].result or ""
            case Talk(topic=topic):
                return _FIXED.get(topic, "")
            case Complete() | Reopen() | Delete() | Update():
                return self._change(intent, options)

    # Calls and their results

    def _results(self, calls: Sequence[Call]) -> list[Done]:
        """The results of calls, in their order. Raises `_MissingError` for those that were not made yet.

        A call made earlier is recognised by its name and task, not by all its arguments: the day may have changed.
        """
        if not self._tools:
            raise _StopError(phrases.NO_TOOLS)
        found: list[Done] = []
        missing: list[Call] = []
        for call in calls:
            if call.name not in self._tools:
                raise _StopError(phrases.no_tool(call.name))
            made = next((done for done in self._made if done.result is not None and _is_made(call, done)), None)
            if made is None:
                missing.append(call)
            else:
                self._made.remove(made)
                found.append(made)
        if missing:
            raise _MissingError(missing)
        self._knowledge.take_in_results(found)
        return found

    def _list(self, status: Status) -> list[Task]:
        """The tasks, oldest first; read once for all the references of a turn."""
        tool = self._tools.get("list_tasks")
        takes_status = tool is None or _takes(tool, "status")
        result = self._results([Call("list_tasks", {"status": status.value} if takes_status else {})])[0].result
        tasks = read_list(result)
        if tasks is None:
            raise _StopError(phrases.failed("read your list", result or ""))
        return tasks

    # Adding and listing

    def _add(self, intent: Add, items: Sequence[NewTask]) -> str:
        if any(not item.title for item in items):
            if not self._tools:
                raise _StopError(phrases.NO_TOOLS)
            raise _StopError(phrases.TITLE, Asked(intent))
        done = self._results([Call("add_task", _add_arguments(item)) for item in items])
        tasks, answers = [], []
        for item, one in zip(items, done, strict=True):
            task = read_task(one.result)
            if task:
                tasks.append(task)
            else:
                answers.append(phrases.failed(f"add \u201c{item.title}\u201d", one.result or ""))
        return "\n".join([phrases.added(tasks), *answers] if tasks else answers)

    def _show(self, show: Show) -> str:
        tasks = [task for task in self._list(show.status) if _shown(task, show)]
        if show.about:
            fit = references.fitting(Named(show.about), [f"{task.title} {task.description}" for task in tasks])
            tasks = [tasks[index] for index in fit.indexes]
            if not tasks:
                return phrases.not_found(show.about)
        return phrases.listing(tasks, _kind(show, self._today))

    # Changing

    def _change(self, intent: _Referring, options: tuple[str, ...]) -> str:
        if not self._tools:
            raise _StopError(phrases.NO_TOOLS)
        tasks = self._find(intent, options)
        if isinstance(intent, Delete) and _is_sweeping(intent.ref) and not intent.confirmed and len(tasks) > 1:
            raise _StopError(phrases.sure(tasks), Asked(intent))
        if isinstance(intent, Update) and intent.changes == Changes():
            raise _StopError(phrases.change_what(tasks[0]), Asked(intent))
        idle = [task for task in tasks if _is_idle(intent, task)]
        tasks = [task for task in tasks if task not in idle]
        done = self._results([self._call(intent, task) for task in tasks])
        answers = [phrases.already(idle, done=isinstance(intent, Complete))] if idle else []
        return "\n".join([*_outcomes(intent, tasks, done), *answers])

    def _call(self, intent: _Referring, task: Task) -> Call:
        match intent:
            case Complete():
                if "complete_task" in self._tools:
                    return Call("complete_task", {"task_id": task.id})
                return Call("update_task", {"task_id": task.id, "completed": True})
            case Reopen():
                return Call("update_task", {"task_id": task.id, "completed": False})
            case Delete():
                return Call("delete_task", {"task_id": task.id})
            case Update():
                return Call("update_task", {"task_id": task.id, **_update_arguments(intent, task, self._today)})

    # Finding the tasks that are meant

    def _find(self, intent: _Referring, options: tuple[str, ...]) -> list[Task]:
        """The tasks meant, at least one. Raises `_StopError` with a question or with what is wrong."""
        if options:
            return self._choose(intent, [task for known in options if (task := self._knowledge.tasks.get(known))])
        return self._known(intent) or self._choose(intent, self._read_list())

    def _known(self, intent: _Referring) -> list[Task]:
        """The tasks meant, as far as the conversation tells; nothing where the list has to be read."""
        knowledge = self._knowledge
        match intent.ref:
            case It(several=several):
                known = [knowledge.tasks[one] for one in knowledge.spoken_of if one in knowledge.tasks]
                return known if several or len(known) == 1 else []
            case Numbers(places=places):
                # A number whose task is gone counts what is left of the list shown, as people do.
                left = [known for known in knowledge.shown if known in knowledge.tasks]
                for ids in ([_at(knowledge.shown, place) for place in places], [_at(left, place) for place in places]):
                    tasks = [knowledge.tasks[known] for known in ids if known in knowledge.tasks]
                    if len(tasks) == len(places):
                        return tasks
            case Named() as named if knowledge.listed_ago is not None and knowledge.listed_ago <= LISTED_AGO_MAX:
                pool = list(knowledge.tasks.values())
                fit = references.fitting(named, [task.title for task in pool])
                return [pool[fit.indexes[0]]] if fit.sure and len(fit.indexes) == 1 else []
        return []

    def _read_list(self) -> list[Task]:
        if self._listed is None:
            self._listed = self._list(Status.ALL)
        return [self._knowledge.tasks[task.id] for task in self._listed if task.id in self._knowledge.tasks]

    def _choose(self, intent: _Referring, tasks: list[Task]) -> list[Task]:
        wanted = _preferred(intent, tasks)
        match intent.ref:
            case Everything(status=status):
                chosen = [task for task in wanted if status is Status.ALL or task.completed is (status is Status.DONE)]
                if not chosen:
                    raise _StopError(phrases.nothing_to(_verb(intent)))
                return chosen
            case It(several=several):
                if several and wanted:
                    return wanted
                return self._only(intent, wanted, "it")
            case Numbers(places=places):
                chosen = [task for place in places if (task := _at(wanted, place))]
                if len(chosen) < len(places):
                    raise _StopError(phrases.no_number(len(wanted)))
                return chosen
            case Named() as named:
                return self._by_name(intent, named, tasks)

    def _by_name(self, intent: _Referring, named: Named, tasks: list[Task]) -> list[Task]:
        # The whole line is searched, so "the one due Friday" and "the high priority one" tell tasks apart too.
        for texts in ([task.title for task in tasks], [phrases.line(task) for task in tasks]):
            fit = references.fitting(named, texts)
            found = [tasks[index] for index in fit.indexes]
            if fit.sure:
                return self._only(intent, _preferred(intent, found) or found, named.text)
        if parts := references.parts(named):
            fits = [references.fitting(part, [task.title for task in tasks]) for part in parts]
            if all(fit.sure and len(fit.indexes) == 1 for fit in fits):
                return [tasks[fit.indexes[0]] for fit in fits]
        fit = references.fitting(named, [task.title for task in tasks])
        if not fit.indexes:
            raise _StopError(phrases.not_found(named.text))
        raise self._question(intent, [tasks[index] for index in fit.indexes])

    def _only(self, intent: _Referring, tasks: list[Task], words: str) -> list[Task]:
        if not tasks:
            raise _StopError(phrases.not_found(words))
        if len(tasks) > 1:
            raise self._question(intent, tasks)
        return tasks

    def _question(self, intent: _Referring, tasks: list[Task]) -> _StopError:
        return _StopError(phrases.which(tasks), Asked(intent, tuple(task.id for task in tasks)))


def _is_made(call: Call, done: Done) -> bool:
    if call.name != done.name:
        return False
    task_id = call.arguments.get("task_id") if isinstance(call.arguments, dict) else None
    return task_id is None or done.arguments.get("task_id") == task_id


def _takes(tool: Tool, argument: str) -> bool:
    """Whether the tool has the argument; one without a described schema is taken to have it."""
    properties = (tool.function.parameters or {}).get("properties")
    return not isinstance(properties, dict) or argument in properties


def _at(values: Sequence[_T], place: int) -> _T | None:
    index = place - 1 if place > 0 else place
    return values[index] if -len(values) <= index < len(values) else None


def _preferred(intent: _Referring, tasks: list[Task]) -> list[Task]:
    """The tasks that the intent can change: open ones to complete, done ones to reopen; all if there are none."""
    match intent:
        case Complete():
            return [task for task in tasks if not task.completed] or tasks
        case Reopen():
            return [task for task in tasks if task.completed] or tasks
        case _:
            return tasks


def _is_sweeping(ref: Ref) -> bool:
    """Whether a reference takes in tasks that the user did not name one by one."""
    return isinstance(ref, Everything) or (isinstance(ref, It) and ref.several)


def _is_idle(intent: _Referring, task: Task) -> bool:
    return (isinstance(intent, Complete) and task.completed) or (isinstance(intent, Reopen) and not task.completed)


def _verb(intent: _Referring) -> str:
    return {Complete: "complete", Reopen: "reopen", Delete: "delete", Update: "change"}[type(intent)]


def _add_arguments(item: NewTask) -> dict[str, Any]:
    values = {
        "title": item.title,
        "description": item.description or None,
        "due": item.due.isoformat() if item.due else None,
        "priority": item.priority.value if item.priority else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _update_arguments(update: Update, task: Task, today: date) -> dict[str, Any]:
    changes = update.changes
    due = changes.due
    if changes.shift_days is not None:
        due = (date.fromisoformat(task.due[:10]) if task.due else today) + timedelta(days=changes.shift_days)
    values = {
        "title": changes.title,
        "description": changes.description,
        "due": due.isoformat() if due else None,
        "priority": changes.priority.value if changes.priority else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _outcomes(intent: _Referring, tasks: Sequence[Task], done: Sequence[Done]) -> list[str]:
    """What came of the calls, those that went well together, each failure on its own."""
    changed: list[tuple[Task, Task]] = []
    failures: list[str] = []
    for task, one in zip(tasks, done, strict=True):
        parsed = read_task(one.result)
        if parsed or (isinstance(intent, Delete) and (one.result or "").lstrip().startswith("{")):
            changed.append((task, parsed or task))
        else:
            failures.append(phrases.failed(f"{_verb(intent)} {phrases.title(task)}", one.result or ""))
    if not changed:
        return failures
    after = [task for _, task in changed]
    match intent:
        case Complete():
            said = [phrases.completed(after)]
        case Reopen():
            said = [phrases.reopened(after)]
        case Delete():
            said = [phrases.deleted(after)]
        case Update():
            said = [phrases.changed(*pair) for pair in changed]
    return said + failures


def _shown(task: Task, show: Show) -> bool:
    if show.status is not Status.ALL and task.completed is not (show.status is Status.DONE):
        return False
    if show.priority is not None and (task.priority or Priority.NORMAL) != show.priority:
        return False
    if show.due_from is None and show.due_to is None:
        return True
    due = (task.due or "")[:10]
    late = show.due_to is None or due <= show.due_to.isoformat()
    return bool(due) and late and (show.due_from is None or due >= show.due_from.isoformat())


def _kind(show: Show, today: date) -> str:
    """What kind of tasks is listed, in words."""
    words = []
    if show.due_to is not None and show.due_to < today:
        words.append("overdue")
    elif show.status is not Status.ALL:
        words.append(show.status.value)
    if show.priority is not None:
        words.append(f"{show.priority.value}-priority")
    if show.due_to is not None and show.due_to >= today:
        words.append("due")
    return " ".join(words)
