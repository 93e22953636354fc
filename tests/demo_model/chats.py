"""A chat with the demo model without HTTP: its moves, played against task tools kept in memory."""

import json
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from demo_model.dialogue import Call, Calls, Move, next_move
from demo_model.wire import Function, Message, Tool, ToolCall, ToolFunction

TODAY = date(2026, 11, 25)  # a Wednesday
ROUNDS_MAX = 8
TOOL_NAMES = ("add_task", "list_tasks", "update_task", "complete_task", "delete_task")


def the_tools(*names: str) -> list[Tool]:
    return [Tool(ToolFunction(name)) for name in names or TOOL_NAMES]


@dataclass
class Chat:
    """A conversation that goes on: `say` plays rounds until the model answers with text."""

    tools: list[Tool] = field(default_factory=the_tools)
    today: date = TODAY
    messages: list[Message] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)  # of the last turn
    failing: dict[str, str] = field(default_factory=dict)  # tool name → what it answers instead

    def say(self, text: str) -> str:
        self.messages.append(Message("user", text))
        self.calls = []
        for _ in range(ROUNDS_MAX):
            move = self.next_move()
            if not isinstance(move, Calls):
                self.messages.append(Message("assistant", move.text))
                return move.text
            self._run(move)
        raise AssertionError(f"no answer after {ROUNDS_MAX} rounds: {self.calls}")

    def next_move(self) -> Move:
        return next_move(self.messages, self.tools, self.today)

    def has(self, *titles: str) -> "Chat":
        """Put tasks on the list without a word in the conversation."""
        for title in titles:
            self._add_task(title=title)
        return self

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def titles(self, *, done: bool | None = None) -> list[str]:
        return [task["title"] for task in self.tasks if done is None or task["completed"] is done]

    def task(self, title: str) -> dict[str, Any]:
        return next(task for task in self.tasks if task["title"] == title)

    def _run(self, move: Calls) -> None:
        first = len(self.messages)
        ids = [f"call_{first}_{index}" for index in range(len(move.calls))]
        calls = [
            ToolCall(call_id, Function(call.name, json.dumps(call.arguments)))
            for call_id, call in zip(ids, move.calls, strict=True)
        ]
        self.messages.append(Message("assistant", None, calls))
        for call_id, call in zip(ids, move.calls, strict=True):
            self.messages.append(Message("tool", self._result(call), tool_call_id=call_id))

    def _result(self, call: Call) -> str:
        assert isinstance(call.arguments, dict)
        self.calls.append((call.name, call.arguments))
        if call.name in self.failing:
            return self.failing[call.name]
        return json.dumps(getattr(self, f"_{call.name}")(**call.arguments))

    def _add_task(self, title: str, description: str = "", due: str | None = None, priority: str | None = None) -> Any:
        task = {"id": f"task_{len(self.tasks):032x}", "title": title, "description": description, "completed": False}
        task |= {"due": due, "priority": priority, "created_at": "2026-11-25T08:00:00Z"}
        self.tasks.append(task)
        return task

    def _list_tasks(self, status: str = "all") -> Any:
        tasks = [task for task in self.tasks if status == "all" or task["completed"] is (status == "done")]
        return {"tasks": tasks, "total": len(tasks)}

    def _update_task(self, task_id: str, **changes: Any) -> Any:
        task = self._by_id(task_id)
        task.update(changes)
        return task

    def _complete_task(self, task_id: str) -> Any:
        return self._update_task(task_id, completed=True)

    def _delete_task(self, task_id: str) -> Any:
        task = self._by_id(task_id)
        self.tasks.remove(task)
        return {"id": task_id, "title": task["title"], "deleted": True}

    def _by_id(self, task_id: str) -> dict[str, Any]:
        return next(task for task in self.tasks if task["id"] == task_id)
