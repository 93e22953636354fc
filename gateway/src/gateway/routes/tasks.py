"""`/api/{user_id}/tasks`: the to-do list that the assistant works on too."""

import re
from datetime import date, datetime
from typing import Annotated, Any, Self, cast

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator
from pydantic.config import JsonDict

from gateway.deps import CurrentServices, PathUser, Postgres, TaskId
from gateway.intake import UserRoute
from gateway.limits import PageWanted
from gateway.problems import API_ERRORS
from shared.db import tasks
from shared.db.tasks import Priority, TaskChanges, TaskStatus
from shared.ids import Prefix, to_wire

router = APIRouter(prefix="/{user_id}/tasks", tags=["tasks"], route_class=UserRoute, responses=API_ERRORS)

_ISO_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_EXAMPLE: JsonDict = {
    "id": "task_0199c3f2a4d87b3f8e5d2c1b0a998877",
    "title": "buy milk",
    "description": "two litres",
    "completed": False,
    "due": "2026-03-02",
    "priority": "normal",
    "created_at": "2026-03-01T09:00:03Z",
    "updated_at": "2026-03-01T09:00:03Z",
    "completed_at": None,
}


def _is_iso_date(value: Any) -> Any:
    # pydantic would take numbers too, as seconds since 1970.
    if value is not None and not (isinstance(value, str) and _ISO_DATE.fullmatch(value)):
        raise ValueError("must be a date like 2026-03-02")
    return value


DueDate = Annotated[date, BeforeValidator(_is_iso_date), Field(examples=["2026-03-02"])]
TitleText = Annotated[str, Field(description="1 to 200 characters, one line", examples=["buy milk"])]
DescriptionText = Annotated[str, Field(description="at most 2000 characters", examples=["two litres"])]


class TaskView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    id: str
    title: str
    description: str
    completed: bool
    due: date | None
    priority: Priority | None
    created_at: datetime
    updated_at: datetime
    completed_at: datetime | None

    @classmethod
    def of(cls, task: tasks.Task) -> Self:
        values = {name: getattr(task, name) for name in cls.model_fields}
        return cls(**{**values, "id": to_wire(Prefix.TASK, task.id)})


class TaskPage(BaseModel):
    """A page of tasks, oldest first. `items` and `tasks` are the same list."""

    items: list[TaskView]
    tasks: list[TaskView]
    total: int
    limit: int
    offset: int


class NewTask(BaseModel):
    title: TitleText
    description: DescriptionText = ""
    due: DueDate | None = None
    priority: Priority | None = None


class TaskChange(BaseModel):
    """What to change; what is left out stays as it is. `null` takes a due date or a priority away."""

    title: TitleText = ""
    description: DescriptionText = ""
    completed: StrictBool = False
    due: DueDate | None = None
    priority: Priority | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("give at least one of: " + ", ".join(type(self).model_fields))
        return self

    def cleaned(self) -> TaskChanges:
        changes = cast("TaskChanges", self.model_dump(exclude_unset=True))
        if "title" in changes:
            changes["title"] = tasks.clean_title(changes["title"])
        if "description" in changes:
            changes["description"] = tasks.clean_description(changes["description"])
        return changes


class Completion(BaseModel):
    completed: Annotated[StrictBool, Field(description="false opens the task again")] = True


class TaskDeleted(BaseModel):
    id: str
    deleted: bool = True


@router.get("", summary="List tasks")
async def list_tasks(
    user: PathUser,
    database: Postgres,
    page: PageWanted,
    status: Annotated[TaskStatus, Query(description="Which tasks.")] = TaskStatus.ALL,
    priority: Annotated[Priority | None, Query(description="Only those of this priority.")] = None,
) -> TaskPage:
    """Your tasks, oldest first."""
    async with database.transaction(user.id) as db:
        found = await tasks.list_tasks(
            db, user.id, status=status, priority=priority, limit=page.limit, offset=page.offset
        )
    views = [TaskView.of(task) for task in found.tasks]
    return TaskPage(items=views, tasks=views, total=found.total, limit=page.limit, offset=page.offset)


@router.post("", summary="Add a task", status_code=201)
async def add_task(
    user: PathUser, services: CurrentServices, request: Request, response: Response, new: NewTask
) -> TaskView:
    """The answer's `Location` is the task's address."""
    title, description = tasks.clean_title(new.title), tasks.clean_description(new.description)
    async with services.database.transaction(user.id) as db:
        task = await tasks.add_task(
            db,
            user.id,
            title=title,
            description=description,
            due=new.due,
            priority=new.priority,
            count_max=services.settings.tasks_per_user_max,
        )
    view = TaskView.of(task)
    response.headers["location"] = f"{request.url.path}/{view.id}"
    return view


@router.get("/{task_id}", summary="Read a task")
async def read_task(user: PathUser, database: Postgres, task_id: TaskId) -> TaskView:
    async with database.transaction(user.id) as db:
        return TaskView.of(await tasks.get_task(db, user.id, task_id))


@router.put("/{task_id}", summary="Change a task")
async def change_task(user: PathUser, database: Postgres, task_id: TaskId, change: TaskChange) -> TaskView:
    """Changes the fields that are given. (A client that knows fewer fields than we do must not empty the others.)"""
    changes = change.cleaned()
    async with database.transaction(user.id) as db:
        return TaskView.of(await tasks.update_task(db, user.id, task_id, changes))


@router.patch("/{task_id}/complete", summary="Complete a task, or open it again")
async def complete_task(
    user: PathUser, database: Postgres, task_id: TaskId, completion: Completion | None = None
) -> TaskView:
    """Without a body the task is completed; doing so twice changes nothing."""
    completed = completion is None or completion.completed
    async with database.transaction(user.id) as db:
        return TaskView.of(await tasks.update_task(db, user.id, task_id, {"completed": completed}))


@router.delete("/{task_id}", summary="Delete a task")
async def delete_task(user: PathUser, database: Postgres, task_id: TaskId) -> TaskDeleted:
    """For good."""
    async with database.transaction(user.id) as db:
        await tasks.delete_task(db, user.id, task_id)
    return TaskDeleted(id=to_wire(Prefix.TASK, task_id))
