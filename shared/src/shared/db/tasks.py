"""The to-do list: every statement on `tasks`, for the task tools and for the gateway's endpoints.

Each function runs in the caller's transaction, is scoped to its user in the statement itself (row level security backs
it), and knows no other user's task: it answers as if there were none.
"""

import unicodedata
from dataclasses import dataclass
from datetime import date, datetime
from enum import StrEnum
from typing import Any, TypedDict
from uuid import UUID

from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import uuid7

TITLE_CHARS_MAX = 200
DESCRIPTION_CHARS_MAX = 2_000
_COLUMNS = (
    "id, user_id, title, description, completed, due, priority, created_at, updated_at, completed_at"  # one order
)


class Priority(StrEnum):
    LOW = "low"
    NORMAL = "normal"
    HIGH = "high"


class TaskStatus(StrEnum):
    """Which tasks to list."""

    ALL = "all"
    OPEN = "open"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Task:
    id: UUID
    user_id: str
    title: str
    description: str
    completed: bool
    due: date | None
    priority: Priority | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None


@dataclass(frozen=True, slots=True)
class TaskPage:
    """Some tasks of a list, oldest first, and how many the whole list has."""

    tasks: tuple[Task, ...]
    total: int


class TaskChanges(TypedDict, total=False):
    """The fields to change; one that is absent stays as it is. None takes a due date or a priority away."""

    title: str
    description: str
    completed: bool
    due: date | None
    priority: Priority | None


def clean_title(text: str, *, chars_max: int = TITLE_CHARS_MAX) -> str:
    """`text` without blanks around it. Raises InvalidInputError unless that is one line of 1 to `chars_max`."""
    title = text.strip()
    if not title:
        raise InvalidInputError("title_empty", "The title must not be empty.", param="title")
    return _checked(title, "title", chars_max, allowed_controls="")


def clean_description(text: str, *, chars_max: int = DESCRIPTION_CHARS_MAX) -> str:
    """`text` without blanks around it, its line ends as \\n. Raises InvalidInputError if it is over `chars_max`."""
    return _checked(text.strip().replace("\r\n", "\n"), "description", chars_max, allowed_controls="\n\t")


def _checked(text: str, param: str, chars_max: int, *, allowed_controls: str) -> str:
    if len(text) > chars_max:
        message = f"The {param} has {len(text)} characters; at most {chars_max} are allowed."
        raise InvalidInputError(f"{param}_too_long", message, param=param)
    # Cc: Postgres cannot store NUL, and the others only serve to deceive a reader. Cs: half a character.
    if any(unicodedata.category(char) in ("Cc", "Cs") and char not in allowed_controls for char in text):
        message = f"The {param} contains characters that cannot be shown; leave them out."
        raise InvalidInputError(f"{param}_unprintable", message, param=param)
    return text


async def list_tasks(  # noqa: PLR0913 - a filter each
    db: Any,
    user_id: str,
    *,
    status: TaskStatus = TaskStatus.ALL,
    priority: Priority | None = None,
    limit: int,
    offset: int = 0,
) -> TaskPage:
    """The user's tasks that match, oldest first (their ids are in the order of time)."""
    scope = "user_id = $1 and ($2::boolean is null or completed = $2) and ($3::text is null or priority = $3)"
    arguments = (user_id, None if status is TaskStatus.ALL else status is TaskStatus.DONE, priority)
    total = await db.fetchval(f"select count(*) from tasks where {scope}", *arguments)  # noqa: S608 - constants
    rows = await db.fetch(
        f"select {_COLUMNS} from tasks where {scope} order by id limit $4 offset $5",  # noqa: S608
        *arguments,
        limit,
        offset,
    )
    return TaskPage(tuple(_task(row, user_id) for row in rows), total)


async def get_task(db: Any, user_id: str, task_id: UUID) -> Task:
    """Raises NotFoundError if the user has no such task."""
    row = await db.fetchrow(
        f"select {_COLUMNS} from tasks where user_id = $1 and id = $2",  # noqa: S608 - constants
        user_id,
        task_id,
    )
    return _found(row, user_id)


async def add_task(  # noqa: PLR0913 - a column each
    db: Any,
    user_id: str,
    *,
    title: str,
    description: str = "",
    due: date | None = None,
    priority: Priority | None = None,
    count_max: int,
) -> Task:
    """Add an open task; texts have been cleaned.

    Raises ConflictError (`task_limit_reached`) if the user has `count_max` tasks. Adding several at the same instant
    may pass the limit by their number: it bounds what one user can store, it is no quota to bill.
    """
    row = await db.fetchrow(
        f"""
        insert into tasks (id, user_id, title, description, due, priority, created_at, updated_at)
        select $1, $2, $3, $4, $5, $6, now(), now()
        where (select count(*) from tasks where user_id = $2) < $7
        returning {_COLUMNS}
        """,  # noqa: S608 - constants
        uuid7(),
        user_id,
        title,
        description,
        due,
        priority,
        count_max,
    )
    if row is None:
        message = f"The list is full: it holds {count_max} tasks at most. Delete some that are done."
        raise ConflictError("task_limit_reached", message)
    return _task(row, user_id)


async def update_task(db: Any, user_id: str, task_id: UUID, changes: TaskChanges) -> Task:
    """Change the given fields, leave the others; texts have been cleaned. Raises NotFoundError.

    Completing a task that is completed keeps the time at which it first was.
    """
    row = await db.fetchrow(
        f"""
        update tasks set
            title = coalesce($3, title),
            description = coalesce($4, description),
            completed = coalesce($5, completed),
            completed_at = case when $5::boolean is null then completed_at
                                when $5 then coalesce(completed_at, now()) end,
            due = case when $6::boolean then $7::date else due end,
            priority = case when $8::boolean then $9::text else priority end,
            updated_at = now()
        where user_id = $1 and id = $2
        returning {_COLUMNS}
        """,  # noqa: S608 - constants
        user_id,
        task_id,
        changes.get("title"),
        changes.get("description"),
        changes.get("completed"),
        "due" in changes,
        changes.get("due"),
        "priority" in changes,
        changes.get("priority"),
    )
    return _found(row, user_id)


async def complete_task(db: Any, user_id: str, task_id: UUID) -> Task:
    """Raises NotFoundError."""
    return await update_task(db, user_id, task_id, {"completed": True})


async def delete_task(db: Any, user_id: str, task_id: UUID) -> Task:
    """Delete the task for good and return what it was. Raises NotFoundError."""
    row = await db.fetchrow(
        f"delete from tasks where user_id = $1 and id = $2 returning {_COLUMNS}",  # noqa: S608 - constants
        user_id,
        task_id,
    )
    return _found(row, user_id)


def _found(row: Any, user_id: str) -> Task:
    if row is None:
        raise NotFoundError("task_not_found", "There is no task with this id.")
    return _task(row, user_id)


def _task(row: Any, user_id: str) -> Task:
    # A connection that gave us somebody else's answer would pass every check before this one.
    assert row["user_id"] == user_id, "a row of another user"
    values = dict(row.items())
    return Task(**{**values, "priority": values["priority"] and Priority(values["priority"])})
