"""The to-do list over HTTP."""

from typing import Any

import pytest

from shared.ids import Prefix, new_wire_id
from tests.gateway.conftest import Caller
from tests.support.client import object_of


def address(user: Caller, path: str = "") -> str:
    return f"/api/{user.user_id}/tasks{path}"


async def added(user: Caller, title: str = "Buy milk", **fields: Any) -> dict[str, Any]:
    answer = await user.post(address(user), json={"title": title, **fields})
    assert answer.status_code == 201, answer.text
    return object_of(answer)


async def titles(user: Caller, **query: Any) -> list[str]:
    return [task["title"] for task in (await user.get(address(user), params=query)).json()["items"]]


async def test_a_task_is_added_and_found_at_its_address(ada: Caller) -> None:
    answer = await ada.post(
        address(ada),
        json={"title": " Buy milk ", "description": "two\nlitres", "due": "2030-02-28", "priority": "high"},
    )

    task = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == address(ada, f"/{task['id']}")
    assert (task["title"], task["description"], task["due"], task["priority"]) == (
        "Buy milk",
        "two\nlitres",
        "2030-02-28",
        "high",
    )
    assert (task["completed"], task["completed_at"]) == (False, None)
    assert object_of(await ada.get(answer.headers["location"])) == task


async def test_a_title_is_all_a_task_needs(ada: Caller) -> None:
    task = await added(ada, "x")

    assert (task["description"], task["due"], task["priority"]) == ("", None, None)


async def test_tasks_are_listed_oldest_first_and_by_state(ada: Caller) -> None:
    tasks = [await added(ada, title) for title in ("one", "two", "three")]
    await ada.patch(address(ada, f"/{tasks[1]['id']}/complete"))

    assert await titles(ada) == await titles(ada, status="all") == ["one", "two", "three"]
    assert await titles(ada, status="open") == ["one", "three"]
    assert await titles(ada, status="done") == ["two"]


async def test_tasks_are_listed_by_priority(ada: Caller) -> None:
    await added(ada, "one", priority="low")
    await added(ada, "two", priority="high")

    assert await titles(ada, priority="high") == ["two"]


async def test_a_list_is_read_page_by_page(ada: Caller) -> None:
    for number in range(5):
        await added(ada, str(number))

    answer = await ada.get(address(ada), params={"limit": 2, "offset": 3})

    page = answer.json()
    assert [task["title"] for task in page["tasks"]] == ["3", "4"]
    assert page["items"] == page["tasks"]
    assert (page["total"], page["limit"], page["offset"]) == (5, 2, 3)


async def test_a_change_leaves_what_it_does_not_name(ada: Caller) -> None:
    task = await added(ada, "Buy milk", description="two litres", due="2030-01-01", priority="low")

    answer = await ada.put(address(ada, f"/{task['id']}"), json={"title": "Buy oat milk", "due": None})

    changed = object_of(answer)
    assert (changed["title"], changed["due"]) == ("Buy oat milk", None)
    assert (changed["description"], changed["priority"]) == ("two litres", "low")
    assert changed["updated_at"] > task["updated_at"]


async def test_a_task_is_completed_and_opened_again(ada: Caller) -> None:
    task = await added(ada)
    path = address(ada, f"/{task['id']}/complete")

    done, done_again = object_of(await ada.patch(path)), object_of(await ada.patch(path, json={}))
    opened = object_of(await ada.patch(path, json={"completed": False}))

    assert done["completed"] is done_again["completed"] is True
    assert done["completed_at"] == done_again["completed_at"] is not None
    assert (opened["completed"], opened["completed_at"]) == (False, None)


async def test_a_deleted_task_is_gone(ada: Caller) -> None:
    task = await added(ada)

    answer = await ada.delete(address(ada, f"/{task['id']}"))

    assert answer.json() == {"id": task["id"], "deleted": True}
    assert (await ada.delete(address(ada, f"/{task['id']}"))).status_code == 404
    assert await titles(ada) == []


BAD_FIELDS: list[dict[str, Any]] = [
    {"title": ""},
    {"title": "  "},
    {"title": "x" * 201},
    {"title": "two\nlines"},
    {"title": "a\0b"},
    {"title": 5},
    {"title": None},
    {"description": "x" * 2001},
    {"description": None},
    {"due": "tomorrow"},
    {"due": "2030-02-30"},
    {"due": "2030-W01-1"},
    {"due": 1_700_000_000},
    {"due": "2030-01-01T00:00:00"},
    {"priority": "urgent"},
]


@pytest.mark.parametrize("fault", BAD_FIELDS, ids=repr)
async def test_a_bad_field_is_refused_by_name_and_nothing_is_stored(ada: Caller, fault: dict[str, Any]) -> None:
    task = await added(ada)

    answers = [
        await ada.post(address(ada), json={"title": "x", **fault}),
        await ada.put(address(ada, f"/{task['id']}"), json=fault),
    ]

    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["details"]["field"] == next(iter(fault))
    assert (await ada.get(address(ada))).json()["items"] == [task]


@pytest.mark.parametrize("change", [{}, {"unknown": 1}, {"completed": "yes"}, {"completed": None}, []], ids=repr)
async def test_a_change_must_change_something(ada: Caller, change: Any) -> None:
    task = await added(ada)

    assert (await ada.put(address(ada, f"/{task['id']}"), json=change)).status_code == 400


@pytest.mark.parametrize("body", [{"completed": "yes"}, {"completed": None}, {"completed": 1}, []], ids=repr)
async def test_completion_is_true_or_false(ada: Caller, body: Any) -> None:
    task = await added(ada)

    assert (await ada.patch(address(ada, f"/{task['id']}/complete"), json=body)).status_code == 400


@pytest.mark.parametrize("query", ["status=late", "priority=urgent", "limit=0", "offset=-1"])
async def test_a_bad_filter_is_refused(ada: Caller, query: str) -> None:
    answer = await ada.get(f"{address(ada)}?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] in query


async def test_fields_that_are_not_the_callers_to_set_are_ignored(ada: Caller, bob: Caller) -> None:
    forged = {"user_id": bob.user_id, "id": new_wire_id(Prefix.TASK), "created_at": "2000-01-01T00:00:00Z"}

    task = await added(ada, **forged, completed=True)

    assert task["id"] != forged["id"]
    assert task["created_at"] > "2020"
    assert task["completed"] is False
    assert await titles(bob) == []


ROUTES = [("GET", ""), ("PUT", ""), ("DELETE", ""), ("PATCH", "/complete")]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_anothers_task_answers_like_one_that_does_not_exist(
    ada: Caller, bob: Caller, method: str, path: str
) -> None:
    task = await added(ada)
    body = {"title": "mine"} if method == "PUT" else None
    ids = (task["id"], new_wire_id(Prefix.TASK))

    foreign, unknown = [await bob.request(method, address(bob, f"/{one}{path}"), json=body) for one in ids]

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json()["error"]["error_message"] == unknown.json()["error"]["error_message"]
    assert foreign.json()["error"]["error_code"] == unknown.json()["error"]["error_code"]
    assert (await ada.get(address(ada))).json()["items"] == [task]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_a_malformed_id_is_refused(ada: Caller, method: str, path: str) -> None:
    body = {"title": "x"} if method == "PUT" else None

    answer = await ada.request(method, address(ada, f"/17{path}"), json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == "task_id"


async def test_tasks_answer_under_the_versioned_prefix_too(ada: Caller) -> None:
    task = await added(ada)

    answer = await ada.get(f"/api/v1/{ada.user_id}/tasks/{task['id']}")

    assert answer.json() == task


async def test_a_list_holds_so_many_tasks_and_no_more(ada: Caller) -> None:
    for number in range(150):
        await added(ada, str(number))

    answer = await ada.post(address(ada), json={"title": "one more"})

    assert answer.status_code == 409
    assert answer.json()["error"]["error_code"] == "task_limit_reached"
