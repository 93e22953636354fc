"""Purges and what operators see of the system: for administrators alone, as numbers, and on record."""

from collections.abc import Mapping

import asyncpg
import pytest

from persistence.purge import Purges
from shared.db import Database
from shared.ids import Prefix, new_wire_id
from tests.gateway.conftest import Caller
from tests.support.accounts import fill_account, row_counts
from tests.support.turns import Turns


async def purge_all(database_urls: Mapping[str, str]) -> None:
    """What persistence does with what was requested."""
    database = await Database.connect(database_urls["parley_persistence"], application_name="test", pool_size=1)
    try:
        await Purges(database, round_seconds=60, settle_seconds=0).run_once()
    finally:
        await database.close()


async def test_a_user_purges_their_own_account_and_begins_anew(
    ada: Caller, bob: Caller, database_urls: Mapping[str, str]
) -> None:
    for caller in (ada, bob):
        await fill_account(database_urls["owner"], caller.user_id)

    asked = await ada.request("DELETE", f"/api/{ada.user_id}", json={"confirm": ada.user_id})
    again = await ada.request("DELETE", f"/api/{ada.user_id}", json={"confirm": ada.user_id})
    before = await ada.get(asked.headers["location"])
    await purge_all(database_urls)
    after = await ada.get(asked.headers["location"])

    assert (asked.status_code, asked.json()["id"]) == (202, again.json()["id"])
    assert before.json() == asked.json()
    assert (before.json()["status"], after.json()["status"]) == ("in_progress", "finished")
    assert after.json()["deleted"]["conversations"] == 2
    assert not any((await row_counts(database_urls["owner"], ada.user_id)).values())
    assert all((await row_counts(database_urls["owner"], bob.user_id)).values())
    assert (await bob.get(asked.headers["location"].replace(ada.user_id, bob.user_id))).status_code == 404
    assert (await ada.post(f"/api/{ada.user_id}/tasks", json={"title": "begin anew"})).status_code == 201


async def test_asking_again_for_a_purge_is_no_act_of_its_own(
    ada: Caller, operator: Caller, database_urls: Mapping[str, str]
) -> None:
    """Or everybody could fill the audit log, of which nobody may delete anything."""
    for _ in range(5):
        await ada.request("DELETE", f"/api/{ada.user_id}", json={"confirm": ada.user_id})
    await operator.post("/api/admin/purges", json={"user_id": ada.user_id})

    owner = await asyncpg.connect(database_urls["owner"])
    try:
        rows = await owner.fetch("select actor_kind from audit_log where target = $1 order by id", ada.user_id)
    finally:
        await owner.close()
        await purge_all(database_urls)
    assert [row["actor_kind"] for row in rows] == ["user", "admin"]


@pytest.mark.parametrize("body", [None, {}, {"confirm": "somebody else"}, {"confirm": True}])
async def test_a_purge_wants_to_be_confirmed(ada: Caller, body: object) -> None:
    refused = await ada.request("DELETE", f"/api/{ada.user_id}", json=body)

    assert refused.status_code == 400
    assert "confirm" in refused.json()["error"]["error_message"] or body is None


async def test_nobody_purges_another_user(ada: Caller, bob: Caller) -> None:
    refused = await ada.request("DELETE", f"/api/{bob.user_id}", json={"confirm": bob.user_id})
    unknown = await ada.get(f"/api/{ada.user_id}/purges/{new_wire_id(Prefix.PURGE)}")

    assert (refused.status_code, unknown.status_code) == (403, 404)


async def test_an_administrator_purges_a_user_and_that_is_on_record(
    operator: Caller, ada: Caller, database_urls: Mapping[str, str]
) -> None:
    await fill_account(database_urls["owner"], ada.user_id)

    asked = await operator.post("/api/admin/purges", json={"user_id": ada.user_id})
    open_count = (await operator.get("/api/admin/overview")).json()["open_purge_count"]
    await purge_all(database_urls)
    after = await operator.get(asked.headers["location"])
    log = (await operator.get("/api/admin/audit_log", params={"limit": 2})).json()
    page = (await operator.get("/api/admin/audit_log", params={"limit": 1, "before": log["items"][0]["id"]})).json()

    assert (asked.status_code, asked.json()["user_id"]) == (202, ada.user_id)
    assert open_count >= 1
    assert (after.json()["status"], after.json()["user_id"]) == ("finished", None)
    assert not any((await row_counts(database_urls["owner"], ada.user_id)).values())
    assert [(entry["actor_kind"], entry["action"], entry["outcome"]) for entry in log["items"]] == [
        ("service", "user.purged", "done"),
        ("admin", "user.purge_requested", "done"),
    ]
    request = log["items"][1]
    assert (request["actor"], request["target"], request["request_id"]) == (
        operator.user_id,
        ada.user_id,
        asked.headers["x-request-id"],
    )
    assert [entry["id"] for entry in page["items"]] == [request["id"]]


async def test_denials_are_on_record(operator: Caller, ada: Caller) -> None:
    denied = await operator.post("/api/admin/denials", json={"subject": ada.user_id, "reason": "noise"})
    await operator.delete(f"/api/admin/denials/{denied.json()['id']}")
    log = (await operator.get("/api/admin/audit_log", params={"limit": 2})).json()["items"]

    assert [(entry["action"], entry["target"]) for entry in log] == [
        ("denial.lifted", denied.json()["id"]),
        ("subject.denied", ada.user_id),
    ]
    assert "noise" not in str(log)


async def test_an_administrator_sees_numbers_alone(operator: Caller, ada: Caller, turns: Turns) -> None:
    await turns.ask(ada.user_id, "a secret of mine")

    overview = await operator.get("/api/admin/overview")
    usage = await operator.get(f"/api/admin/users/{ada.user_id}/usage")
    own = await ada.get("/v1/usage")

    queued, running = overview.json()["open_responses"]
    assert (queued["status"], running["status"]) == ("queued", "in_progress")
    assert (queued["count"] >= 1, queued["oldest_seconds"] > 0) == (True, True)
    assert usage.json() == own.json()
    assert not any(word in overview.text + usage.text for word in ("secret", ada.user_id))


_FOR_ADMINISTRATORS = [
    ("GET", "/api/admin/overview", None),
    ("GET", "/api/admin/users/ada/usage", None),
    ("POST", "/api/admin/purges", {"user_id": "ada"}),
    ("POST", "/api/admin/purges", {"user_id": ""}),
    ("GET", "/api/admin/purges/purge_0199c3f2a4d87b3f8e5d2c1b0a998877", None),
    ("GET", "/api/admin/audit_log", None),
]


@pytest.mark.parametrize(("method", "path", "body"), _FOR_ADMINISTRATORS)
async def test_users_get_nothing_of_it(  # noqa: PLR0913, PLR0917 - who, and what they ask
    ada: Caller, stranger: Caller, database_urls: Mapping[str, str], method: str, path: str, body: object
) -> None:
    refused = await ada.request(method, path, json=body)
    unknown = await stranger.request(method, path, json=body)

    assert (refused.status_code, refused.json()["error"]["error_code"]) == (403, "admin_only")
    assert unknown.status_code == 401
    owner = await asyncpg.connect(database_urls["owner"])
    try:
        assert not await owner.fetchval("select exists (select from purges where user_id in ('ada', ''))")
    finally:
        await owner.close()


@pytest.mark.parametrize("user_id", ["", "with blank", "x" * 256, "n\u00e4me", 5])
async def test_a_user_whom_no_token_could_name_is_no_user_to_purge(operator: Caller, user_id: object) -> None:
    refused = await operator.post("/api/admin/purges", json={"user_id": user_id})

    assert (refused.status_code, refused.json()["error"]["details"]["field"]) == (400, "user_id")
