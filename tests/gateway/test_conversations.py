"""Conversations by both interfaces: list, read, rename, delete, restore, messages, items."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import openai
import pytest

from shared.ids import Prefix, new_wire_id, to_wire, uuid7
from tests.gateway.conftest import Caller
from tests.support.client import object_of
from tests.support.openai_client import strict_client
from tests.support.turns import Call, Turns

UNKNOWN = to_wire(Prefix.CONVERSATION, uuid7())


async def a_conversation(turns: Turns, user: Caller, text: str = "Hello", reply: str = "Hi!") -> str:
    accepted = await turns.exchange(user.user_id, text, reply)
    return to_wire(Prefix.CONVERSATION, accepted.conversation_id)


async def a_long_conversation(turns: Turns, user: Caller, turn_count: int) -> str:
    """Turns of two messages: "0", "re: 0", "1", "re: 1" and so on."""
    accepted = await turns.exchange(user.user_id, "0", "re: 0")
    for number in range(1, turn_count):
        await turns.exchange(user.user_id, str(number), f"re: {number}", conversation_id=accepted.conversation_id)
    return to_wire(Prefix.CONVERSATION, accepted.conversation_id)


async def listed(user: Caller, **query: Any) -> list[str]:
    answer = await user.get("/api/conversations", params=query)
    return [conversation["id"] for conversation in answer.json()["items"]]


async def contents(user: Caller, conversation_id: str, **query: Any) -> list[str]:
    answer = await user.get(f"/api/conversations/{conversation_id}/messages", params=query)
    return [message["content"] for message in answer.json()["items"]]


async def test_a_list_shows_the_conversation_that_was_active_last_first(ada: Caller, turns: Turns) -> None:
    first, second = await a_conversation(turns, ada), await a_conversation(turns, ada)
    await ada.patch(f"/api/conversations/{first}", json={"title": "Again"})

    answer = await ada.get("/api/conversations")

    page = answer.json()
    assert [conversation["id"] for conversation in page["items"]] == [first, second]
    assert page["conversations"] == page["items"]
    assert (page["total"], page["limit"], page["offset"]) == (2, 20, 0)


async def test_a_list_is_read_page_by_page(ada: Caller, turns: Turns) -> None:
    made = [await a_conversation(turns, ada) for _ in range(5)]

    pages = [await listed(ada, limit=2, offset=offset) for offset in (0, 2, 4, 6)]

    assert [len(page) for page in pages] == [2, 2, 1, 0]
    assert sum(pages, []) == made[::-1]  # noqa: RUF017 - four short lists


async def test_a_conversation_tells_its_title_its_times_its_end_and_what_is_running(ada: Caller, turns: Turns) -> None:
    accepted = await turns.ask(ada.user_id, "What is  on my list?")
    waiting = await turns.ask(ada.user_id, "And then?", accepted.conversation_id)
    conversation_id = to_wire(Prefix.CONVERSATION, accepted.conversation_id)

    conversation = object_of(await ada.get(f"/api/conversations/{conversation_id}"))

    assert conversation["id"] == conversation_id
    assert conversation["title"] == "What is on my list?"
    assert conversation["running_response_id"] == accepted.response_id
    assert conversation["active_response_id"] == waiting.response_id
    assert conversation["created_at"].endswith("Z")
    assert datetime.fromisoformat(conversation["created_at"]) <= datetime.fromisoformat(conversation["updated_at"])


async def test_a_conversation_can_be_renamed(ada: Caller, turns: Turns) -> None:
    conversation_id = await a_conversation(turns, ada)

    answer = await ada.patch(f"/api/conversations/{conversation_id}", json={"title": "  Groceries ✓ "})

    assert answer.status_code == 200
    assert answer.json()["title"] == "Groceries ✓"
    assert (await ada.get(f"/api/conversations/{conversation_id}")).json() == answer.json()


async def test_metadata_change_without_touching_the_title(ada: Caller, turns: Turns) -> None:
    conversation_id = await a_conversation(turns, ada, "Hello")

    answer = await ada.patch(f"/api/conversations/{conversation_id}", json={"metadata": {"topic": "x"}})

    assert (answer.json()["title"], answer.json()["metadata"]) == ("Hello", {"topic": "x"})


async def test_an_archived_conversation_is_left_out_of_lists_unless_asked_for(ada: Caller, turns: Turns) -> None:
    kept, archived = await a_conversation(turns, ada), await a_conversation(turns, ada)

    change = await ada.patch(f"/api/conversations/{archived}", json={"archived": True})

    assert change.json()["archived"] is True
    assert await listed(ada) == await listed(ada, archived="false") == [kept]
    assert await listed(ada, archived="true") == [archived]
    assert await listed(ada, archived="all") == [archived, kept]
    await ada.post(f"/v1/conversations/{archived}", json={"archived": False})
    assert await listed(ada) == [archived, kept]


async def test_the_conversation_of_a_response_that_is_not_stored_is_shown_nowhere(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "between us", "yes", store=False)
    conversation_id = to_wire(Prefix.CONVERSATION, accepted.conversation_id)

    reads = [
        await ada.get(f"{prefix}/conversations/{conversation_id}{path}")
        for prefix, path in [("/api", ""), ("/api", "/messages")]
        + [("/v1", path) for path in ("", "/items", "/responses", "/events")]
    ]
    changes = [
        await ada.patch(f"/api/conversations/{conversation_id}", json={"title": "x"}),
        await ada.post(f"/api/conversations/{conversation_id}/restore"),
        await ada.post(
            f"/v1/conversations/{conversation_id}/items", json={"items": [{"role": "user", "content": "x"}]}
        ),
        await ada.delete(f"/v1/conversations/{conversation_id}"),
    ]
    lists = [await ada.get(path) for path in ("/api/conversations", "/v1/conversations?search=between")]

    assert {answer.status_code for answer in [*reads, *changes]} == {404}
    assert [answer.json().get("items", answer.json().get("data")) for answer in lists] == [[], []]


async def test_messages_are_those_of_the_active_branch(ada: Caller, turns: Turns) -> None:
    first = await turns.exchange(ada.user_id, "one", "two")
    for text in ("three", "edited"):
        await turns.exchange(
            ada.user_id, text, f"re: {text}", conversation_id=first.conversation_id, follows=first.job_id
        )
    conversation_id = to_wire(Prefix.CONVERSATION, first.conversation_id)

    assert await contents(ada, conversation_id, order="asc") == ["one", "two", "edited", "re: edited"]
    assert object_of(await ada.get(f"/api/conversations/{conversation_id}/messages"))["total"] == 4


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"archived": "maybe"},
        {"title": ""},
        {"title": "  "},
        {"title": "x" * 201},
        {"title": 5},
        {"title": None},
        {"metadata": {"a": 1}},
        {"title": "a\x00"},
        {"user_id": "bob"},
    ],
)
async def test_a_bad_change_is_refused_and_changes_nothing(ada: Caller, turns: Turns, change: dict[str, Any]) -> None:
    conversation_id = await a_conversation(turns, ada)
    before = object_of(await ada.get(f"/api/conversations/{conversation_id}"))

    answer = await ada.patch(f"/api/conversations/{conversation_id}", json=change)

    assert answer.status_code == 400
    assert object_of(await ada.get(f"/api/conversations/{conversation_id}")) == before


async def test_a_deleted_conversation_is_gone_everywhere(ada: Caller, turns: Turns) -> None:
    conversation_id = await a_conversation(turns, ada)

    deleted = await ada.delete(f"/api/conversations/{conversation_id}")

    assert deleted.json() == {"id": conversation_id, "deleted": True}
    assert await listed(ada) == []
    for path in ("", "/messages"):
        assert (await ada.get(f"/api/conversations/{conversation_id}{path}")).status_code == 404
    for path in ("", "/items"):
        assert (await ada.get(f"/v1/conversations/{conversation_id}{path}")).status_code == 404
    assert (await ada.delete(f"/api/conversations/{conversation_id}")).status_code == 404


async def test_a_restored_conversation_is_as_it_was(ada: Caller, turns: Turns) -> None:
    conversation_id = await a_conversation(turns, ada)
    before = object_of(await ada.get(f"/api/conversations/{conversation_id}"))
    await ada.delete(f"/api/conversations/{conversation_id}")

    restored = await ada.post(f"/api/conversations/{conversation_id}/restore")
    again = await ada.post(f"/api/conversations/{conversation_id}/restore")

    assert restored.status_code == again.status_code == 200
    assert restored.json() == again.json() == before | {"last_sequence_number": restored.json()["last_sequence_number"]}
    assert await contents(ada, conversation_id) == ["Hi!", "Hello"]


async def test_messages_come_newest_first_or_in_reading_order(ada: Caller, turns: Turns) -> None:
    conversation_id = await a_long_conversation(turns, ada, 3)

    newest_first, in_order = await contents(ada, conversation_id), await contents(ada, conversation_id, order="asc")

    assert in_order == ["0", "re: 0", "1", "re: 1", "2", "re: 2"]
    assert newest_first == in_order[::-1]


async def test_messages_are_read_page_by_page(ada: Caller, turns: Turns) -> None:
    conversation_id = await a_long_conversation(turns, ada, 3)

    answer = await ada.get(f"/api/conversations/{conversation_id}/messages?limit=2&offset=3&order=asc")

    page = answer.json()
    assert [message["content"] for message in page["messages"]] == ["re: 1", "2"]
    assert (page["total"], page["limit"], page["offset"]) == (6, 2, 3)
    assert page["conversation_id"] == conversation_id


async def test_a_message_holds_the_tool_calls_that_led_to_it(ada: Caller, turns: Turns) -> None:
    failed = Call(
        "delete_task", "not json", None, {"type": "mcp_tool_execution_error", "content": "no such task"}, None
    )
    accepted = await turns.exchange(ada.user_id, "Add milk", "Done.", Call(), failed)

    answer = await ada.get(f"/api/conversations/{to_wire(Prefix.CONVERSATION, accepted.conversation_id)}/messages")

    assistant, user = answer.json()["items"]
    assert (user["role"], user["tool_calls"]) == ("user", [])
    assert (assistant["role"], assistant["status"], assistant["content"]) == ("assistant", "completed", "Done.")
    added, refused = assistant["tool_calls"]
    assert (added["name"], added["server"], added["status"]) == ("add_task", "tasks", "completed")
    assert added["arguments"] == added["result"] == {"title": "buy milk"}
    assert (refused["arguments"], refused["result"], refused["status"]) == ("not json", None, "failed")
    assert refused["error"]["content"] == "no such task"
    assert (added["duration_ms"], refused["duration_ms"]) == (42, None)


async def test_the_tool_calls_of_a_turn_without_an_answer_are_not_lost(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "Add milk", None, Call())

    answer = await ada.get(f"/api/conversations/{to_wire(Prefix.CONVERSATION, accepted.conversation_id)}/messages")

    assert [len(message["tool_calls"]) for message in answer.json()["items"]] == [1]


@pytest.mark.parametrize("malformed", ["x", "conv_x", f"resp_{'0' * 32}", "0" * 32, "conv_" + "A" * 32, "conv_%0a"])
@pytest.mark.parametrize("path", ["/api/conversations/{}", "/api/conversations/{}/messages", "/v1/conversations/{}"])
async def test_a_malformed_id_is_refused(ada: Caller, path: str, malformed: str) -> None:
    answer = await ada.get(path.format(malformed))

    assert answer.status_code == 400
    assert "conv_" in answer.text


ROUTES = [
    ("GET", "/api/conversations/{}"),
    ("PATCH", "/api/conversations/{}"),
    ("DELETE", "/api/conversations/{}"),
    ("POST", "/api/conversations/{}/restore"),
    ("GET", "/api/conversations/{}/messages"),
    ("GET", "/v1/conversations/{}"),
    ("POST", "/v1/conversations/{}"),
    ("DELETE", "/v1/conversations/{}"),
    ("GET", "/v1/conversations/{}/items"),
    ("POST", "/v1/conversations/{}/items"),
    ("GET", "/v1/conversations/{}/responses"),
    ("GET", "/v1/conversations/{}/events"),
    ("GET", "/v1/conversations?after={}"),
]


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_anothers_conversation_answers_like_one_that_does_not_exist(
    ada: Caller, bob: Caller, turns: Turns, method: str, path: str
) -> None:
    conversation_id = await a_conversation(turns, ada)
    before = object_of(await ada.get(f"/api/conversations/{conversation_id}"))
    items = [{"role": "user", "content": "mine"}]
    body = None if method in {"GET", "DELETE"} else {"title": "mine", "metadata": {}, "items": items}

    foreign, unknown = [await bob.request(method, path.format(one), json=body) for one in (conversation_id, UNKNOWN)]

    assert foreign.status_code == unknown.status_code == 404
    assert without_request_id(foreign.json()) == without_request_id(unknown.json())
    assert object_of(await ada.get(f"/api/conversations/{conversation_id}")) == before


def without_request_id(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "error": {**body["error"], "request_id": None}}


async def test_lists_hold_nothing_of_another_user(ada: Caller, bob: Caller, turns: Turns) -> None:
    await a_conversation(turns, ada, "A secret")

    lists = [await bob.get(path) for path in ("/api/conversations", "/v1/conversations")]

    assert all("secret" not in answer.text for answer in lists)
    assert lists[0].json()["total"] == 0


async def test_the_simple_contract_answers_under_both_prefixes(ada: Caller, turns: Turns) -> None:
    conversation_id = await a_conversation(turns, ada)

    for path in ("", f"/{conversation_id}", f"/{conversation_id}/messages"):
        plain, versioned = [await ada.get(f"{prefix}/conversations{path}") for prefix in ("/api", "/api/v1")]
        assert plain.status_code == 200
        assert plain.json() == versioned.json()


@pytest.fixture
async def client(ada: Caller) -> AsyncIterator[openai.AsyncOpenAI]:
    """The strict client of OpenAI, as Ada."""
    async with strict_client(ada, ada.user_id) as client:
        yield client


async def test_openais_client_creates_reads_changes_and_deletes(client: openai.AsyncOpenAI) -> None:
    created = await client.conversations.create(metadata={"topic": "x"})
    updated = await client.conversations.update(created.id, metadata={"topic": "y"})
    emptied = await client.conversations.update(created.id, metadata=None)
    deleted = await client.conversations.delete(created.id)

    assert (created.object, created.metadata) == ("conversation", {"topic": "x"})
    assert (updated.metadata, emptied.metadata) == ({"topic": "y"}, {})
    assert (deleted.id, deleted.object, deleted.deleted) == (created.id, "conversation.deleted", True)
    with pytest.raises(openai.NotFoundError) as caught:
        await client.conversations.retrieve(created.id)
    assert caught.value.code == "not_found"
    assert caught.value.request_id


async def test_a_conversation_without_a_body_is_created(ada: Caller) -> None:
    answers = [await ada.post("/v1/conversations"), await ada.post("/v1/conversations", json={})]

    assert [answer.status_code for answer in answers] == [200, 200]


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_openais_client_reads_all_items_page_by_page(
    client: openai.AsyncOpenAI, ada: Caller, turns: Turns, order: Any
) -> None:
    accepted = await turns.exchange(ada.user_id, "one", "two", Call(), Call("list_tasks", "{}", "[]"))
    await turns.exchange(ada.user_id, "three", "four", conversation_id=accepted.conversation_id)
    conversation_id = to_wire(Prefix.CONVERSATION, accepted.conversation_id)

    items = [item.model_dump() async for item in client.conversations.items.list(conversation_id, limit=2, order=order)]

    seen = [item["content"][0]["text"] if item["type"] == "message" else item["name"] for item in items]
    expected = ["one", "add_task", "list_tasks", "two", "three", "four"]
    assert seen == (expected if order == "asc" else expected[::-1])
    assert len({item["id"] for item in items}) == 6


async def test_items_are_newest_first_and_can_be_read_one_by_one(
    client: openai.AsyncOpenAI, ada: Caller, turns: Turns
) -> None:
    accepted = await turns.exchange(ada.user_id, "one", "two", Call())
    conversation_id = to_wire(Prefix.CONVERSATION, accepted.conversation_id)

    page = await client.conversations.items.list(conversation_id)
    ids = [str(item.id) for item in page.data]
    read = [await client.conversations.items.retrieve(one, conversation_id=conversation_id) for one in ids]

    assert [item.type for item in page.data] == ["message", "mcp_call", "message"]
    assert read == page.data
    assert (page.last_id, page.has_more) == (ids[-1], False)


async def test_a_stored_tool_call_says_how_long_it_took_where_that_is_known(ada: Caller, turns: Turns) -> None:
    accepted = await turns.exchange(ada.user_id, "one", "two", Call(), Call(duration_ms=None))
    items = f"/v1/conversations/{to_wire(Prefix.CONVERSATION, accepted.conversation_id)}/items"

    listed = [item for item in (await ada.get(f"{items}?order=asc")).json()["data"] if item["type"] == "mcp_call"]
    read = [(await ada.get(f"{items}/{item['id']}")).json() for item in listed]

    assert [item["duration_ms"] for item in listed] == [42, None]
    assert read == listed


async def test_an_empty_list_has_no_ends(ada: Caller) -> None:
    conversation = object_of(await ada.post("/v1/conversations", json={}))

    items = await ada.get(f"/v1/conversations/{conversation['id']}/items")

    assert items.json() == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_a_cursor_must_be_an_item_of_this_conversation(ada: Caller, bob: Caller, turns: Turns) -> None:
    mine, other, foreign = [await a_conversation(turns, user) for user in (ada, ada, bob)]
    others = [
        object_of(await user.get(f"/v1/conversations/{one}/items"))["first_id"]
        for user, one in ((ada, other), (bob, foreign))
    ]
    cursors = [*others, new_wire_id(Prefix.MESSAGE), new_wire_id(Prefix.MCP_CALL)]

    answers = [await ada.get(f"/v1/conversations/{mine}/items?after={cursor}") for cursor in cursors]
    reads = [await ada.get(f"/v1/conversations/{mine}/items/{cursor}") for cursor in cursors]

    assert {answer.status_code for answer in [*answers, *reads]} == {404}
    assert len({answer.text for answer in answers}) == len({answer.text for answer in reads}) == 1


@pytest.mark.parametrize("query", ["after=x", "after=", "after=conv_1", "order=up", "limit=0", "after=" + "9" * 10_000])
async def test_a_bad_page_of_items_is_refused(ada: Caller, turns: Turns, query: str) -> None:
    conversation_id = await a_conversation(turns, ada)

    answer = await ada.get(f"/v1/conversations/{conversation_id}/items?{query}")

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] in query


async def test_the_list_of_conversations_is_read_by_cursor(ada: Caller, turns: Turns) -> None:
    made = [await a_conversation(turns, ada) for _ in range(5)]
    seen: list[str] = []
    after: dict[str, str] = {}
    for _ in range(3):
        page = object_of(await ada.get("/v1/conversations", params={"limit": 2, **after}))
        seen += [conversation["id"] for conversation in page["data"]]
        assert page["last_id"] == seen[-1]
        after = {"after": page["last_id"]}

    assert seen == made[::-1]
    assert page["has_more"] is False


async def test_models_are_the_agents(client: openai.AsyncOpenAI) -> None:
    models = [model async for model in client.models.list()]

    assert {"todo", "chat"} <= {model.id for model in models}
    assert (await client.models.retrieve("todo")).id == "todo"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("gpt-nothing")
