"""The to-do list's statements, as the role of the task tools against a real Postgres."""

from collections.abc import AsyncIterator
from datetime import date
from uuid import UUID

import pytest

from shared.db import Database, tasks
from shared.db.tasks import Priority, Task, TaskStatus, clean_description, clean_title
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import uuid7


@pytest.fixture(scope="module")
async def database(database_urls: dict[str, str]) -> AsyncIterator[Database]:
    database = await Database.connect(database_urls["parley_tools"], application_name="test", pool_size=3)
    yield database
    await database.close()


@pytest.fixture
def user_id() -> str:
    return f"user-{uuid7().hex}"


async def added(database: Database, user_id: str, title: str = "Buy milk", **fields: str) -> Task:
    async with database.transaction(user_id) as db:
        return await tasks.add_task(db, user_id, title=title, count_max=100, **fields)  # type: ignore[arg-type]


async def listed(database: Database, user_id: str, **filters: object) -> list[str]:
    async with database.transaction(user_id) as db:
        page = await tasks.list_tasks(db, user_id, **{"limit": 100, **filters})  # type: ignore[arg-type]
    return [task.title for task in page.tasks]


async def test_a_new_task_is_open_and_found_by_its_id(database: Database, user_id: str) -> None:
    async with database.transaction(user_id) as db:
        task = await tasks.add_task(
            db,
            user_id,
            title="Pay rent",
            description="to Ms Byron",
            due=date(2026, 12, 1),
            priority=Priority.HIGH,
            count_max=100,
        )
        found = await tasks.get_task(db, user_id, task.id)

    assert found == task
    assert (task.title, task.description, task.due, task.priority) == (
        "Pay rent",
        "to Ms Byron",
        date(2026, 12, 1),
        Priority.HIGH,
    )
    assert not task.completed
    assert task.completed_at is None
    assert task.created_at == task.updated_at


async def test_tasks_are_listed_oldest_first_in_pages_with_their_total(database: Database, user_id: str) -> None:
    for number in range(5):
        await added(database, user_id, f"task {number}")

    async with database.transaction(user_id) as db:
        page = await tasks.list_tasks(db, user_id, limit=2, offset=1)
        beyond = await tasks.list_tasks(db, user_id, limit=2, offset=9)

    assert [task.title for task in page.tasks] == ["task 1", "task 2"]
    assert page.total == 5
    assert (beyond.tasks, beyond.total) == ((), 5)


async def test_filters_select_and_count_alike(database: Database, user_id: str) -> None:
    await added(database, user_id, "open", priority="high")
    done = await added(database, user_id, "done")
    async with database.transaction(user_id) as db:
        await tasks.complete_task(db, user_id, done.id)
        page = await tasks.list_tasks(db, user_id, status=TaskStatus.DONE, limit=10)

    assert [task.title for task in page.tasks] == ["done"]
    assert page.total == 1
    assert await listed(database, user_id, status=TaskStatus.OPEN) == ["open"]
    assert await listed(database, user_id, status=TaskStatus.ALL) == ["open", "done"]
    assert await listed(database, user_id, priority=Priority.HIGH) == ["open"]


async def test_an_update_changes_the_given_fields_only(database: Database, user_id: str) -> None:
    async with database.transaction(user_id) as db:
        task = await tasks.add_task(
            db, user_id, title="Pay rent", due=date(2026, 12, 1), priority=Priority.LOW, count_max=9
        )
    async with database.transaction(user_id) as db:
        changed = await tasks.update_task(db, user_id, task.id, {"title": "Pay the rent"})
        cleared = await tasks.update_task(db, user_id, task.id, {"due": None, "priority": None})

    assert (changed.title, changed.due, changed.priority) == ("Pay the rent", date(2026, 12, 1), Priority.LOW)
    assert changed.updated_at > task.updated_at
    assert changed.created_at == task.created_at
    assert (cleared.title, cleared.due, cleared.priority) == ("Pay the rent", None, None)


async def test_completing_again_keeps_the_first_time_and_reopening_forgets_it(database: Database, user_id: str) -> None:
    task = await added(database, user_id)
    async with database.transaction(user_id) as db:
        first = await tasks.complete_task(db, user_id, task.id)
    async with database.transaction(user_id) as db:
        second = await tasks.complete_task(db, user_id, task.id)
        renamed = await tasks.update_task(db, user_id, task.id, {"title": "Buy oat milk"})
        reopened = await tasks.update_task(db, user_id, task.id, {"completed": False})

    assert first.completed
    assert first.completed_at is not None
    assert first.completed_at == second.completed_at == renamed.completed_at
    assert not reopened.completed
    assert reopened.completed_at is None


async def test_a_deleted_task_is_returned_once_and_gone(database: Database, user_id: str) -> None:
    task = await added(database, user_id)
    async with database.transaction(user_id) as db:
        deleted = await tasks.delete_task(db, user_id, task.id)

    assert deleted.title == "Buy milk"
    async with database.transaction(user_id) as db:
        with pytest.raises(NotFoundError):
            await tasks.delete_task(db, user_id, task.id)


async def test_a_full_list_takes_no_more(database: Database, user_id: str) -> None:
    await added(database, user_id)

    async with database.transaction(user_id) as db:
        with pytest.raises(ConflictError, match="holds 1 tasks at most"):
            await tasks.add_task(db, user_id, title="one more", count_max=1)

    assert await listed(database, user_id) == ["Buy milk"]


@pytest.mark.parametrize("session_user_is_owner", [True, False], ids=["by the statement", "by row level security"])
async def test_a_foreign_task_answers_like_none(
    database: Database, user_id: str, *, session_user_is_owner: bool
) -> None:
    """Each of the two defences holds alone: the other one is taken away by naming the owner to it."""
    task = await added(database, user_id)
    stranger = f"{user_id}-stranger"
    session_user, statement_user = (user_id, stranger) if session_user_is_owner else (stranger, user_id)

    async with database.transaction(session_user) as db:
        assert (await tasks.list_tasks(db, statement_user, limit=10)).total == 0
        for attempt in (tasks.get_task, tasks.complete_task, tasks.delete_task):
            with pytest.raises(NotFoundError) as refusal:
                await attempt(db, statement_user, task.id)
            with pytest.raises(NotFoundError) as unknown:
                await attempt(db, statement_user, UUID(int=1))
            assert refusal.value.message == unknown.value.message

    assert await listed(database, user_id, status=TaskStatus.OPEN) == ["Buy milk"]


@pytest.mark.parametrize(
    ("text", "code"),
    [
        pytest.param("", "title_empty", id="empty"),
        pytest.param(" \n ", "title_empty", id="blank"),
        pytest.param("x" * 201, "title_too_long", id="too long"),
        pytest.param("milk\x00", "title_unprintable", id="NUL"),
        pytest.param("milk\x1b[31m", "title_unprintable", id="an escape sequence"),
        pytest.param("milk\nand bread", "title_unprintable", id="two lines"),
        pytest.param("mi\x85lk", "title_unprintable", id="a control character above ASCII"),
        pytest.param("milk\ud800", "title_unprintable", id="a lone surrogate"),
    ],
)
def test_a_title_that_is_no_title_is_refused(text: str, code: str) -> None:
    with pytest.raises(InvalidInputError) as refusal:
        clean_title(text)

    assert (refusal.value.code, refusal.value.param) == (code, "title")


def test_texts_are_trimmed_and_kept_otherwise() -> None:
    assert clean_title("  Zoë's 🎂 ") == "Zoë's 🎂"
    assert clean_title("x" * 200 + " ") == "x" * 200
    assert clean_description(" one\r\n\ttwo ") == "one\n\ttwo"
    assert clean_description("") == ""


@pytest.mark.parametrize("text", ["x" * 2_001, "a\x00b", "a\rb", "\ud800"])
def test_a_description_too_long_or_unprintable_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError):
        clean_description(text)
