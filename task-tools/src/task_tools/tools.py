"""The five tools of the to-do list, as a language model sees them: names, descriptions, arguments, results."""

import re
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

from mcp import MCPError
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import INTERNAL_ERROR, ToolAnnotations
from pydantic import BaseModel, Field
from starlette.requests import Request

from shared import tracing
from shared.db import Database, tasks
from shared.db.tasks import Priority, TaskChanges, TaskStatus, clean_description, clean_title
from shared.errors import InvalidInputError, RejectedError, UnavailableError
from shared.ids import Prefix, from_wire, to_wire
from shared.metrics import FAST_SECONDS, Counter, Histogram
from task_tools.auth import caller_of
from task_tools.idempotency import keyed_call, once

_CALLS = Counter("parley_task_tools_calls", "Calls of the tools.", ["tool", "outcome"])
_CALL_SECONDS = Histogram("parley_task_tools_call_seconds", "Of calls of the tools.", ["tool"], bounds=FAST_SECONDS)

ResultT = TypeVar("ResultT", bound=BaseModel)
Effect = Callable[[Any, str], Awaitable[ResultT]]  # what a tool does, given the transaction and the user

Call = Context[Any, Request]  # what a tool is told of its call: the request with the caller, `_meta`
TaskId = Annotated[
    str, Field(description="The id of the task, 'task_' and 32 hexadecimal digits, exactly as list_tasks gives it.")
]
_ISO_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class TaskView(BaseModel):
    """One task of the user's to-do list."""

    id: str
    title: str
    description: str
    completed: bool
    due: date | None
    priority: Priority | None
    created_at: datetime
    updated_at: datetime

    @classmethod
    def of(cls, task: tasks.Task) -> Self:
        return cls(
            id=to_wire(Prefix.TASK, task.id),
            title=task.title,
            description=task.description,
            completed=task.completed,
            due=task.due,
            priority=task.priority,
            created_at=task.created_at,
            updated_at=task.updated_at,
        )


class TaskList(BaseModel):
    """Tasks, oldest first. `total` counts all that match; it is larger than the list if that was cut."""

    tasks: list[TaskView]
    total: int


class DeletedTask(BaseModel):
    """The task that is gone."""

    id: str
    title: str
    deleted: Literal[True] = True


@dataclass(frozen=True, slots=True)
class TaskLimits:
    title_chars_max: int
    description_chars_max: int
    tasks_per_user_max: int
    listed_tasks_max: int


class TaskTools:
    """The tools, each one transaction as the user whom the request's token names.

    With an idempotency key in its `_meta`, a call that comes again returns the stored result and changes nothing.
    What the model can mend is raised as ToolError with a text for the model. A database that is away is an error of the
    protocol instead: the change may have been committed, and only the client knows whether it can repeat the call.
    """

    def __init__(self, database: Database, limits: TaskLimits) -> None:
        self._database = database
        self._limits = limits

    def register(self, server: MCPServer[Any]) -> None:
        """Offer the tools at `server`. All are idempotent by the key that our worker sends with every call."""
        server.add_tool(self.add_task, annotations=_annotations("Add a task"))
        server.add_tool(self.list_tasks, annotations=_annotations("List tasks", read_only=True))
        server.add_tool(self.update_task, annotations=_annotations("Change a task", destructive=True))
        server.add_tool(self.complete_task, annotations=_annotations("Complete a task"))
        server.add_tool(self.delete_task, annotations=_annotations("Delete a task", destructive=True))

    async def add_task(
        self,
        ctx: Call,
        title: Annotated[str, Field(description="What is to be done, in a few words, for example 'Buy milk'.")],
        description: Annotated[str | None, Field(description="Details, if the user gave any.")] = None,
        due: Annotated[str | None, Field(description="The day it is due, as YYYY-MM-DD.")] = None,
        priority: Annotated[Literal["low", "normal", "high"] | None, Field(description="How urgent it is.")] = None,
    ) -> TaskView:
        """Add one task to the user's to-do list. Call it once for each task. Returns the new task with its id."""

        async def effect(db: Any, user_id: str) -> TaskView:
            task = await tasks.add_task(
                db,
                user_id,
                title=self._title(title),
                description=self._description(description or ""),
                due=_due(due),
                priority=_priority(priority),
                count_max=self._limits.tasks_per_user_max,
            )
            return TaskView.of(task)

        return await self._once(ctx, TaskView, effect)

    async def list_tasks(
        self,
        ctx: Call,
        status: Annotated[
            Literal["all", "open", "done"],
            Field(description="Which tasks: 'open' those still to do, 'done' those completed, 'all' both."),
        ] = "all",
    ) -> TaskList:
        """List the user's tasks, oldest first, with their ids. Call it before changing a task whose id is not known."""
        with _counted(ctx), _told_apart():
            async with self._database.transaction(_caller(ctx)) as db:
                page = await tasks.list_tasks(
                    db, _caller(ctx), status=TaskStatus(status), limit=self._limits.listed_tasks_max
                )
        return TaskList(tasks=[TaskView.of(task) for task in page.tasks], total=page.total)

    async def update_task(  # noqa: PLR0913, PLR0917 - a field each, filled by name
        self,
        ctx: Call,
        task_id: TaskId,
        title: Annotated[str | None, Field(description="The new title.")] = None,
        description: Annotated[str | None, Field(description="The new details; an empty string removes them.")] = None,
        due: Annotated[
            str | None, Field(description="The new due date as YYYY-MM-DD; an empty string removes it.")
        ] = None,
        priority: Annotated[
            Literal["low", "normal", "high", ""] | None,
            Field(description="The new priority; an empty string removes it."),
        ] = None,
        completed: Annotated[
            bool | None, Field(description="true marks the task as done, false opens it again.")
        ] = None,
    ) -> TaskView:
        """Change fields of one task; fields that are left out stay as they are. Returns the task as it is now."""

        async def effect(db: Any, user_id: str) -> TaskView:
            changes: TaskChanges = {}
            if title is not None:
                changes["title"] = self._title(title)
            if description is not None:
                changes["description"] = self._description(description)
            if due is not None:
                changes["due"] = _due(due)
            if priority is not None:
                changes["priority"] = _priority(priority)
            if completed is not None:
                changes["completed"] = completed
            if not changes:
                raise InvalidInputError("nothing_to_change", "Give at least one field to change.")
            return TaskView.of(await tasks.update_task(db, user_id, from_wire(Prefix.TASK, task_id), changes))

        return await self._once(ctx, TaskView, effect)

    async def complete_task(self, ctx: Call, task_id: TaskId) -> TaskView:
        """Mark one task as done. Returns the task as it is now."""

        async def effect(db: Any, user_id: str) -> TaskView:
            return TaskView.of(await tasks.complete_task(db, user_id, from_wire(Prefix.TASK, task_id)))

        return await self._once(ctx, TaskView, effect)

    async def delete_task(self, ctx: Call, task_id: TaskId) -> DeletedTask:
        """Delete one task for good. For a task that is done, use complete_task instead."""

        async def effect(db: Any, user_id: str) -> DeletedTask:
            task = await tasks.delete_task(db, user_id, from_wire(Prefix.TASK, task_id))
            return DeletedTask(id=to_wire(Prefix.TASK, task.id), title=task.title)

        return await self._once(ctx, DeletedTask, effect)

    async def _once(self, ctx: Call, result_type: type[ResultT], effect: Effect[ResultT]) -> ResultT:
        """Run `effect` in one transaction of the caller, at most once under the call's idempotency key."""
        user_id = _caller(ctx)
        with _counted(ctx), _told_apart():
            call = keyed_call(ctx.request_context)
            async with self._database.transaction(user_id) as db:
                if call is None:
                    return await effect(db, user_id)
                return await once(db, user_id, call, result_type, lambda: effect(db, user_id))

    def _title(self, text: str) -> str:
        return clean_title(text, chars_max=self._limits.title_chars_max)

    def _description(self, text: str) -> str:
        return clean_description(text, chars_max=self._limits.description_chars_max)


def _annotations(title: str, *, read_only: bool = False, destructive: bool = False) -> ToolAnnotations:
    return ToolAnnotations(
        title=title,
        read_only_hint=read_only,
        destructive_hint=destructive,
        idempotent_hint=True,
        open_world_hint=False,
    )


def _caller(ctx: Call) -> str:
    request = ctx.request_context.request
    assert request is not None, "tools are served over HTTP only"
    return caller_of(request)


def _due(text: str | None) -> date | None:
    if not text:
        return None
    try:
        if _ISO_DATE.fullmatch(text):
            return date.fromisoformat(text)
    except ValueError:
        pass  # such as 30 February
    raise InvalidInputError("due_invalid", "The due date must be a day written as YYYY-MM-DD.", param="due")


def _priority(text: str | None) -> Priority | None:
    return Priority(text) if text else None


@contextmanager
def _counted(ctx: Call) -> Iterator[None]:
    """Count the call, which is of one of our tools, and let the trace that it is part of have a span of it."""
    tool = str((ctx.request_context.params or {}).get("name"))
    attributes = {"mcp.method.name": "tools/call", "gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
    parent = tracing.position_of((ctx.request_context.meta or {}).get(tracing.HEADER))
    began_at, outcome = time.perf_counter(), "error"
    try:
        with tracing.start(f"tools/call {tool}", tracing.Kind.SERVER, attributes, parent=parent):
            yield
        outcome = "ok"
    finally:
        _CALLS.labels(tool, outcome).inc()
        _CALL_SECONDS.labels(tool).observe(time.perf_counter() - began_at)


@contextmanager
def _told_apart() -> Iterator[None]:
    """Tell the model what it can mend, and the client what it may repeat."""
    try:
        yield
    except RejectedError as error:
        raise ToolError(error.message) from error
    except UnavailableError as error:
        raise MCPError(INTERNAL_ERROR, "The to-do list is temporarily unavailable.") from error
