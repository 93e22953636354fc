"""Links by which others read a conversation: what they show, what they never show, and where they end."""

import json
import re
from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
import structlog

from gateway.settings import GatewaySettings
from gateway.turns import Accepted
from shared.ids import Prefix, from_wire, to_wire, uuid7
from tests.gateway.conftest import Caller, GatewayWith, Serve
from tests.gateway.test_feed import told
from tests.support.client import object_of
from tests.support.stack import token_of
from tests.support.turns import Call, Turns

Shared = dict[str, Any]
UNKNOWN_TOKEN = "A" * 43


def conversation_of(accepted: Accepted) -> str:
    return to_wire(Prefix.CONVERSATION, accepted.conversation_id)


async def share(caller: Caller, accepted: Accepted, **asked: Any) -> Shared:
    return object_of(await caller.post(f"/v1/conversations/{conversation_of(accepted)}/shares", json=asked))


async def shown(stranger: Caller, shared: Shared, **query: int) -> Shared:
    return object_of(await stranger.get(f"/v1/shares/{shared['token']}", params=query))


def texts(document: Shared) -> list[str]:
    """What is said, and the names of tools, in order."""
    return [
        one["name"] if one["type"] == "tool_call" else "".join(part.get("text", "") for part in one["content"])
        for one in document["data"]
    ]


async def is_nowhere(caller: Caller, token: str) -> bool:
    """Whether the link is answered as one that nobody ever made, byte by byte."""
    answers = [await caller.get(f"/v1/shares/{one}") for one in (token, UNKNOWN_TOKEN)]
    copies = [await caller.post(f"/v1/shares/{one}/copy") for one in (token, UNKNOWN_TOKEN)]
    return answers[0].status_code == answers[1].status_code == 404 and (
        answers[0].content == answers[1].content and copies[0].content == copies[1].content
    )


# --- what is shown


async def test_whoever_has_the_link_reads_texts_and_names_of_tools(ada: Caller, stranger: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(
        ada.user_id, "Buy milk", "Done.", Call("add_task", '{"title":"argument"}', '{"id":"result"}')
    )

    made = await share(ada, accepted)
    answer = await stranger.get(f"/v1/shares/{made['token']}")

    document = object_of(answer)
    assert made["head"] == accepted.response_id
    assert made["url"].endswith(f"/#/shared/{made['token']}")
    assert (document["title"], document["has_more"], document["expires_at"]) == ("Buy milk", False, None)
    assert texts(document) == ["Buy milk", "add_task", "Done."]
    assert document["data"][1].keys() == {"position", "type", "created_at", "name", "status"}
    assert document["data"][2].keys() == {"position", "type", "created_at", "role", "content", "omitted_file_count"}
    assert answer.headers["x-robots-tag"] == "noindex, nofollow"
    assert answer.headers["cache-control"] == "no-store"


async def test_nothing_else_of_what_is_stored_is_shown(
    ada: Caller, stranger: Caller, turns: Turns, database_urls: Mapping[str, str]
) -> None:
    first = await turns.exchange(ada.user_id, "Hello", "Hello!", Call("f", "secret arguments", "secret result"))
    conversation_id = conversation_of(first)
    await ada.post(f"/v1/conversations/{conversation_id}", json={"metadata": {"topic": "secret metadata"}})
    items = [
        {"role": "system", "content": "secret instructions"},
        {"type": "function_call", "call_id": "secret call", "name": "weather", "arguments": "secret arguments"},
        {"type": "function_call_output", "call_id": "secret call", "output": "secret output"},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "secret reasoning"}]},
    ]
    object_of(await ada.post(f"/v1/conversations/{conversation_id}/items", json={"items": items}))
    files = [
        {"type": "input_image", "file_id": "file_secret", "detail": "auto"},
        {"type": "input_file", "file_id": "file_secret", "filename": "secret.pdf"},
        {"type": "input_text", "text": "Look"},
    ]
    owner = await asyncpg.connect(database_urls["owner"])
    try:
        async with owner.transaction():
            await owner.execute("select set_config('app.user_id', $1, true)", ada.user_id)
            await owner.execute(
                "update messages set parts = $2 where job_id = $1 and role = 'user'", first.job_id, json.dumps(files)
            )
    finally:
        await owner.close()

    answer = await stranger.get(f"/v1/shares/{(await share(ada, first))['token']}")

    document = object_of(answer)
    assert texts(document) == ["Look", "f", "Hello!", "weather"]
    assert document["data"][0]["omitted_file_count"] == 2
    assert "secret" not in answer.text
    assert ada.user_id not in answer.text
    assert not re.search(r"\b[a-z]+_[0-9a-f]{32}\b", answer.text), "an id of something stored"


async def test_what_is_shown_is_the_active_branch_as_it_was_then(ada: Caller, stranger: Caller, turns: Turns) -> None:
    root = await turns.exchange(ada.user_id, "Begin", "Begun.")
    place = {"conversation_id": root.conversation_id, "follows": root.job_id}
    await turns.exchange(ada.user_id, "Left", "Left.", **place)
    right = await turns.exchange(ada.user_id, "Right", "Right.", **place)
    path = f"/v1/conversations/{conversation_of(root)}"
    await ada.post(f"{path}/items", json={"items": [{"role": "user", "content": "By the way"}]})
    made = await share(ada, right)

    await turns.exchange(ada.user_id, "Later", "Later.", conversation_id=root.conversation_id)
    await ada.post(f"{path}/items", json={"items": [{"role": "user", "content": "Later, too"}]})
    await ada.post(path, json={"title": "A later title"})

    document = await shown(stranger, made)
    assert texts(document) == ["Begin", "Begun.", "Right", "Right.", "By the way"]
    assert document["title"] == "Begin"


async def test_turns_of_another_conversation_that_a_branch_goes_on_from_are_not_shown(
    ada: Caller, stranger: Caller, turns: Turns
) -> None:
    elsewhere = await turns.exchange(ada.user_id, "Elsewhere", "There.")
    here = await turns.exchange(ada.user_id, "Here", "Here.", follows=elsewhere.job_id)

    assert here.conversation_id != elsewhere.conversation_id
    assert texts(await shown(stranger, await share(ada, here))) == ["Here", "Here."]


async def test_what_is_deleted_later_is_not_shown_any_more_and_places_stay(
    ada: Caller, stranger: Caller, turns: Turns
) -> None:
    accepted = await turns.exchange(ada.user_id, "One", "Two")
    await turns.exchange(ada.user_id, "Three", "Four", conversation_id=accepted.conversation_id)
    made = await share(ada, accepted)
    items = object_of(await ada.get(f"/v1/conversations/{conversation_of(accepted)}/items?order=asc"))["data"]

    first = await shown(stranger, made, limit=2)
    await ada.delete(f"/v1/conversations/{conversation_of(accepted)}/items/{items[0]['id']}")
    second = await shown(stranger, made, limit=2, after=first["data"][-1]["position"])

    assert (texts(first), first["has_more"]) == (["One", "Two"], True)
    assert (texts(second), second["has_more"]) == (["Three", "Four"], False)
    assert texts(await shown(stranger, made)) == ["Two", "Three", "Four"]


# --- where links end


async def test_a_link_leads_nowhere_once_it_is_revoked(ada: Caller, stranger: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    kept, revoked = await share(ada, accepted), await share(ada, accepted)
    path = f"/v1/conversations/{conversation_of(accepted)}/shares"

    deletion = object_of(await ada.delete(f"{path}/{revoked['id']}"))

    assert deletion == {"id": revoked["id"], "object": "conversation.share.deleted", "deleted": True}
    assert await is_nowhere(stranger, revoked["token"])
    assert not await is_nowhere(stranger, kept["token"])
    listed = object_of(await ada.get(path))["data"]
    assert listed == [{name: kept[name] for name in kept if name not in {"token", "url"}}]


async def test_a_link_leads_nowhere_once_its_time_is_over(ada: Caller, stranger: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    made = await share(ada, accepted, expires_in_seconds=3600)
    assert made["expires_at"] == pytest.approx(made["created_at"] + 3600, abs=1)

    await turns.change("update shares set expires_at = now() where user_id = $1 returning id", ada.user_id)

    assert await is_nowhere(stranger, made["token"])
    assert object_of(await ada.get(f"/v1/conversations/{conversation_of(accepted)}/shares"))["data"] == []


async def test_a_link_leads_nowhere_while_its_conversation_is_deleted(
    ada: Caller, stranger: Caller, turns: Turns
) -> None:
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    made = await share(ada, accepted)

    await ada.delete(f"/v1/conversations/{conversation_of(accepted)}")
    was_nowhere = await is_nowhere(stranger, made["token"])
    await ada.post(f"/v1/conversations/{conversation_of(accepted)}/restore")

    assert was_nowhere
    assert texts(await shown(stranger, made)) == ["Hello", "Hello!"]


async def test_a_user_who_is_shut_out_shows_nothing(
    ada: Caller, operator: Caller, stranger: Caller, turns: Turns
) -> None:
    made = await share(ada, await turns.exchange(ada.user_id, "Hello", "Hello!"))

    denied = await operator.post("/api/admin/denials", json={"subject": ada.user_id})

    assert denied.is_success
    assert await is_nowhere(stranger, made["token"])


@pytest.mark.parametrize(
    "token", ["x", "A" * 42, "A" * 44, "A" * 42 + "=", "A" * 42 + "%00", "' or true --", "名" * 43]
)
async def test_what_is_no_token_is_answered_as_one_that_nobody_has(stranger: Caller, token: str) -> None:
    assert await is_nowhere(stranger, token)


async def test_an_id_or_the_stored_digest_is_no_token(ada: Caller, stranger: Caller, turns: Turns) -> None:
    made = await share(ada, await turns.exchange(ada.user_id, "Hello", "Hello!"))
    digest = await turns.change("select token_digest from shares where user_id = $1", ada.user_id)

    assert isinstance(digest, bytes)
    for wrong in (made["id"], digest.hex(), digest.hex()[:43], made["token"].swapcase()):
        assert await is_nowhere(stranger, wrong)


async def test_a_link_gives_no_right_beyond_it_to_the_role_that_reads_it(ada: Caller, turns: Turns) -> None:
    """What `read_share` reads as the link's user ends with it, whoever asked."""
    made = await share(ada, await turns.exchange(ada.user_id, "Hello", "Hello!"))
    asked = "select count(*) from read_share(sha256(convert_to($1, 'UTF8')), 0, 10)"

    for asker in (None, f"user-{uuid7().hex}"):
        async with turns.gateway.transaction(asker) as db:
            assert await db.fetchval(asked, made["token"]) == 1
            assert await db.fetchval("select coalesce(current_setting('app.user_id', true), '')") == (asker or "")
            for table in ("conversations", "messages", "shares"):
                assert await db.fetchval(f"select count(id) from {table}") == 0  # noqa: S608 - constants


# --- making links


async def test_a_conversation_is_not_shared_while_it_is_being_answered(ada: Caller, turns: Turns) -> None:
    accepted = await turns.ask(ada.user_id, "Hello")

    answer = await ada.post(f"/v1/conversations/{conversation_of(accepted)}/shares")

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conversation_locked")


async def test_links_have_limits(
    ada: Caller, turns: Turns, gateway_with: GatewayWith, gateway_settings: GatewaySettings
) -> None:
    changed = {"shares_per_user_max": 1, "share_seconds_max": 100.0, "public_url": "https://chat.example/"}
    app = gateway_with(gateway_settings.model_copy(update=changed))
    accepted = await turns.exchange(ada.user_id, "Hello", "Hello!")
    path = f"/v1/conversations/{conversation_of(accepted)}/shares"

    async with Caller(app, ada.user_id, token_of(ada.user_id)) as caller:
        too_long = await caller.post(path, json={"expires_in_seconds": 101})
        first = object_of(await caller.post(path))
        too_many = await caller.post(path)

    assert (too_long.status_code, too_long.json()["error"]["param"]) == (400, "expires_in_seconds")
    assert first["expires_at"] == pytest.approx(first["created_at"] + 100, abs=1)
    assert first["url"].startswith("https://chat.example/#/shared/")
    assert (too_many.status_code, too_many.json()["error"]["code"]) == (409, "share_limit_reached")


async def test_an_address_reads_so_many_in_a_minute_whatever_it_asks_for(serve: Serve) -> None:
    async with serve(share_reads_per_minute_max=2) as served, served.client("somebody") as client:
        answers = [await client.get(f"/v1/shares/{UNKNOWN_TOKEN}") for _ in range(3)]

    assert [answer.status_code for answer in answers] == [404, 404, 429]
    assert answers[2].json()["error"]["code"] == "too_many_share_reads"
    assert {answer.headers["x-robots-tag"] for answer in answers} == {"noindex, nofollow"}


async def test_tokens_are_not_logged(ada: Caller, stranger: Caller, turns: Turns) -> None:
    made = await share(ada, await turns.exchange(ada.user_id, "Hello", "Hello!"))

    with structlog.testing.capture_logs() as logs:
        await shown(stranger, made)
        await ada.post(f"/v1/shares/{made['token']}/copy")

    assert [one["route"] for one in logs if one["event"] == "request"] == [
        "/v1/shares/{token}",
        "/v1/shares/{token}/copy",
    ]
    assert made["token"] not in str(logs)


# --- going on from what was shown


async def test_a_copy_has_the_texts_and_is_the_users_own(ada: Caller, bob: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "Buy milk", "Done.", Call())
    made = await share(ada, accepted)

    copy = object_of(await bob.post(f"/v1/shares/{made['token']}/copy"))

    items = object_of(await bob.get(f"/v1/conversations/{copy['id']}/items?order=asc"))["data"]
    assert (copy["title"], copy["metadata"], copy["active_response_id"]) == ("Buy milk", {}, None)
    assert [(item["role"], item["content"][0]["text"], item["response_id"]) for item in items] == [
        ("user", "Buy milk", None),
        ("assistant", "Done.", None),
    ]
    assert len(await told(turns, bob.user_id, copy["id"])) == 2
    assert [one["id"] for one in object_of(await bob.get("/v1/conversations?search=done"))["data"]] == [copy["id"]]
    went_on = await turns.exchange(
        bob.user_id, "More", "More!", conversation_id=from_wire(Prefix.CONVERSATION, copy["id"])
    )
    assert conversation_of(went_on) == copy["id"]
    assert (await ada.get(f"/v1/conversations/{copy['id']}")).status_code == 404


async def test_nobody_copies_without_signing_in(ada: Caller, stranger: Caller, turns: Turns) -> None:
    made = await share(ada, await turns.exchange(ada.user_id, "Hello", "Hello!"))

    assert (await stranger.post(f"/v1/shares/{made['token']}/copy")).status_code == 401


@pytest.mark.parametrize("changed", [{"share_copy_items_max": 1}, {"share_copy_chars_max": 10}])
async def test_a_copy_has_limits(
    ada: Caller,
    turns: Turns,
    gateway_with: GatewayWith,
    gateway_settings: GatewaySettings,
    changed: Mapping[str, int],
) -> None:
    app = gateway_with(gateway_settings.model_copy(update=dict(changed)))
    made = await share(ada, await turns.exchange(ada.user_id, "Hello", "Hello!"))

    async with Caller(app, ada.user_id, token_of(ada.user_id)) as caller:
        answer = await caller.post(f"/v1/shares/{made['token']}/copy")

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "share_too_long")
    assert len(object_of(await ada.get("/v1/conversations"))["data"]) == 1
