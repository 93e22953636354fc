"""The messages of a request, cut into turns, and what the turns tell about the user's tasks."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from demo_model.wire import Message

_NUMBERED_LINE = re.compile(r"^(\d{1,3})\. (.+)$", re.MULTILINE)
_TITLE_IN_TEXT = re.compile("\u201c([^\u201d]+)\u201d")


@dataclass(frozen=True, slots=True)
class Done:
    """A call made earlier and what came back: the text of the tool message; None if there is none."""

    name: str
    arguments: Mapping[str, Any]
    result: str | None


@dataclass(slots=True)
class Turn:
    """One user message, the calls made for it so far and the answer given."""

    said: str
    done: list[Done] = field(default_factory=list)
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    title: str
    description: str = ""
    completed: bool = False
    due: str | None = None
    priority: str | None = None


class _Result(msgspec.Struct):
    """Any result of the task tools: a task, a list of tasks, or a deletion."""

    id: str | None = None
    title: str | None = None
    description: str | None = None
    completed: bool | None = None
    due: str | None = None
    priority: str | None = None
    deleted: bool = False
    tasks: list["_Result"] | None = None


def turns_of(messages: Sequence[Message]) -> list[Turn]:
    """The turns, oldest first. A history cut in the middle begins with a turn in which nothing was said."""
    turns: list[Turn] = []
    results = {message.tool_call_id: message.text for message in messages if message.role == "tool"}
    for message in messages:
        if message.role == "user":
            turns.append(Turn(message.text))
        elif message.role == "assistant":
            if not turns:
                turns.append(Turn(""))
            turns[-1].done += [
                Done(call.function.name, _arguments(call.function.arguments), results.get(call.id))
                for call in message.tool_calls or ()
            ]
            turns[-1].answer = message.text or turns[-1].answer
    return turns


def read_list(result: str | None) -> list[Task] | None:
    """The tasks of a `list_tasks` result; None where it is none (an error, an outcome unknown)."""
    parsed = _parse(result)
    return None if parsed is None or parsed.tasks is None else _tasks(parsed.tasks)


def read_task(result: str | None) -> Task | None:
    """The task of a result about one task; None where there is none."""
    parsed = _parse(result)
    return next(iter(_tasks([parsed])), None) if parsed else None


class Knowledge:
    """What the conversation so far tells about the tasks, folded turn by turn.

    `tasks`: by id, as last seen. `listed_ago`: turns since the list was last read, None if never. `shown`: the ids
    under the numbers shown to the user last. `spoken_of`: the ids that "it" and "them" mean.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, Task] = {}
        self.listed_ago: int | None = None
        self.shown: tuple[str | None, ...] = ()
        self.spoken_of: tuple[str, ...] = ()

    def take_in(self, turn: Turn) -> None:
        """Add a whole turn."""
        if self.listed_ago is not None:
            self.listed_ago += 1
        touched = self.take_in_results(turn.done)
        self._take_in_answer(turn.answer, touched=touched)

    def take_in_results(self, done: Iterable[Done]) -> bool:
        """Add results alone. Says whether any was about a single task."""
        touched: list[str] = []
        for parsed in filter(None, (_parse(one.result) for one in done)):
            if parsed.tasks is not None:
                for task in _tasks(parsed.tasks):
                    self.tasks[task.id] = task
                self.listed_ago = 0
            elif parsed.deleted and parsed.id:
                self.tasks.pop(parsed.id, None)
                self.spoken_of = tuple(known for known in self.spoken_of if known != parsed.id)
            else:
                for task in _tasks([parsed]):
                    self.tasks[task.id] = task
                    touched.append(task.id)
        if touched:
            self.spoken_of = tuple(dict.fromkeys(touched))
        return bool(touched)

    def _take_in_answer(self, answer: str, *, touched: bool) -> None:
        lines = _NUMBERED_LINE.findall(answer)
        if lines and [int(number) for number, _ in lines] == list(range(1, len(lines) + 1)):
            self.shown = self._ids_of([line for _, line in lines])
            if not touched:
                self.spoken_of = tuple(known for known in self.shown if known)
        elif not touched and (named := self._ids_of(_TITLE_IN_TEXT.findall(answer))) and None not in named:
            self.spoken_of = tuple(known for known in named if known)

    def _ids_of(self, lines: Sequence[str]) -> tuple[str | None, ...]:
        """The task that each line begins with: the longest title wins, equal titles in their order."""
        free = sorted(self.tasks.values(), key=lambda task: -len(task.title))
        ids: list[str | None] = []
        for line in lines:
            task = next((task for task in free if line.startswith(task.title)), None)
            if task:
                free.remove(task)
            ids.append(task.id if task else None)
        return tuple(ids)


def _tasks(results: Iterable[_Result]) -> list[Task]:
    return [
        Task(one.id, one.title, one.description or "", bool(one.completed), one.due, one.priority)
        for one in results
        if one.id and one.title is not None and not one.deleted
    ]


def _parse(result: str | None) -> _Result | None:
    if not result or not result.lstrip().startswith("{"):
        return None
    try:
        return msgspec.json.decode(result, type=_Result)
    except msgspec.DecodeError:
        return None  # another tool's result; ValidationError is a DecodeError too


def _arguments(text: str) -> Mapping[str, Any]:
    try:
        arguments = msgspec.json.decode(text)
    except msgspec.DecodeError:
        return {}
    return arguments if isinstance(arguments, dict) else {}
