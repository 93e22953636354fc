"""Items of conversations: adding, listing by branches, deleting; the tree of responses."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest

from gateway.turns import Accepted
from shared.ids import Prefix, new_wire_id, to_wire, uuid7
from tests.gateway.conftest import Caller
from tests.support.client import object_of
from tests.support.openai_client import strict_client
from tests.support.turns import Call, Turns

HELLO = {"type": "message", "role": "user", "content": "Hello"}
OF_EVERY_KIND: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Add milk"}]},
    {"type": "message", "role": "assistant", "content": "Shall I?", "phase": "commentary"},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "They want milk."}]},
    {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "rain"},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": [{"name": "t", "input_schema": {}}]},
    {"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "t", "arguments": "{}", "output": "done"},
    {"type": "mcp_approval_request", "id": "mcpr_1", "server_label": "s", "name": "t", "arguments": "{}"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
]


@pytest.fixture
async def client(ada: Caller) -> AsyncIterator[openai.AsyncOpenAI]:
    async with strict_client(ada, ada.user_id) as client:
        yield client


def conversation_of(accepted: Accepted) -> str:
    return to_wire(Prefix.CONVERSATION, accepted.conversation_id)


async def texts(user: Caller, conversation_id: str, **query: Any) -> list[str]:
    """What is said in a conversation, in reading order."""
    answer = await user.get(f"/v1/conversations/{conversation_id}/items", params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    return [item["content"][0]["text"] for item in answer.json()["data"] if item["type"] == "message"]


async def responses_of(user: Caller, conversation_id: str, **query: Any) -> list[dict[str, Any]]:
    answer = await user.get(f"/v1/conversations/{conversation_id}/responses", params={"order": "asc", **query})
    assert answer.status_code == 200, answer.text
    responses: list[dict[str, Any]] = answer.json()["data"]
    return responses


# --- adding ---------------------------------------------------------------------------------------------------------


async def test_items_of_every_kind_are_added_and_read_by_the_strict_client(client: openai.AsyncOpenAI) -> None:
    conversation = await client.conversations.create()

    added = await client.conversations.items.create(conversation.id, items=OF_EVERY_KIND)  # type: ignore[arg-type]
    listed = [item async for item in client.conversations.items.list(conversation.id, order="asc", limit=3)]

    assert [item.type for item in added.data] == [item.get("type", "message") for item in OF_EVERY_KIND]
    assert listed == added.data
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[-1].id, False)
    for item in listed:
        assert item.id
        assert await client.conversations.items.retrieve(item.id, conversation_id=conversation.id) == item


async def test_a_conversation_begins_with_the_items_it_is_given(client: openai.AsyncOpenAI, ada: Caller) -> None:
    created = await client.conversations.create(
        items=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is on  my list?"}],
        metadata={"topic": "x"},
    )

    conversation = object_of(await ada.get(f"/v1/conversations/{created.id}"))
    assert (conversation["title"], conversation["metadata"]) == ("What is on my list?", {"topic": "x"})
    assert await texts(ada, created.id) == ["Be brief.", "What is on  my list?"]


async def test_what_was_added_stands_between_the_turns_around_it(ada: Caller, turns: Turns) -> None:
    first = await turns.exchange(ada.user_id, "one", "two")
    await ada.post(f"/v1/conversations/{conversation_of(first)}/items", json={"items": [HELLO]})
    second = await turns.exchange(ada.user_id, "three", "four", conversation_id=first.conversation_id)

    answer = await ada.get(f"/v1/conversations/{conversation_of(first)}/items?order=asc")

    items = answer.json()["data"]
    assert [item["content"][0]["text"] for item in items] == ["one", "two", "Hello", "three", "four"]
    of_first, of_second = first.response_id, second.response_id
    assert [item["response_id"] for item in items] == [of_first, of_first, None, of_second, of_second]
    assert all(isinstance(item["created_at"], int) for item in items)


async def test_items_added_at_once_get_turns_of_their_own(ada: Caller, turns: Turns) -> None:
    conversation_id = conversation_of(await turns.exchange(ada.user_id, "one", "two"))

    answers = await asyncio.gather(
        *(
            ada.post(f"/v1/conversations/{conversation_id}/items", json={"items": [{**HELLO, "content": str(number)}]})
            for number in range(10)
        )
    )

    assert {answer.status_code for answer in answers} == {200}
    assert sorted((await texts(ada, conversation_id))[2:]) == sorted(map(str, range(10)))


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "items"),
        ({"items": []}, "items"),
        ({"items": [HELLO] * 21}, "items"),
        ({"items": [{"type": "wishes"}]}, "items[0]"),
        ({"items": [{"role": "user", "content": [{"type": "video"}]}]}, "items[0].content[0]"),
        ({"items": "Hello"}, "items"),
    ],
)
async def test_bad_items_are_refused_by_name_and_nothing_is_added(
    ada: Caller, turns: Turns, body: dict[str, Any], param: str
) -> None:
    conversation_id = conversation_of(await turns.exchange(ada.user_id, "one", "two"))

    answer = await ada.post(f"/v1/conversations/{conversation_id}/items", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert await texts(ada, conversation_id) == ["one", "two"]


async def test_items_may_be_as_long_as_the_input_of_a_response(ada: Caller) -> None:
    conversation_id = object_of(await ada.post("/v1/conversations"))["id"]

    answers = [
        await ada.post(
            f"/v1/conversations/{conversation_id}/items", json={"items": [{**HELLO, "content": "é" * length}]}
        )
        for length in (100_000, 100_001)
    ]

    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].json()["error"]["code"] == "message_too_long"


async def test_an_item_that_is_part_of_the_conversation_is_not_added_again(ada: Caller, turns: Turns) -> None:
    here, there = await turns.exchange(ada.user_id, "one", "two"), await turns.exchange(ada.user_id, "three", "four")
    references = [
        {"type": "item_reference", "id": object_of(await ada.get(f"/v1/conversations/{one}/items"))["first_id"]}
        for one in (conversation_of(here), conversation_of(there))
    ]

    added = await ada.post(f"/v1/conversations/{conversation_of(here)}/items", json={"items": references})

    assert [item["content"][0]["text"] for item in added.json()["data"]] == ["four"]
    assert await texts(ada, conversation_of(here)) == ["one", "two", "four"]


async def test_a_conversation_with_too_many_first_items_is_refused(ada: Caller) -> None:
    answer = await ada.post("/v1/conversations", json={"items": [HELLO] * 21})

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "too_many_items")
    assert object_of(await ada.get("/v1/conversations"))["data"] == []


# --- deleting -------------------------------------------------------------------------------------------------------


async def test_a_deleted_item_is_gone_and_its_neighbours_stay(
    client: openai.AsyncOpenAI, ada: Caller, turns: Turns
) -> None:
    accepted = await turns.exchange(ada.user_id, "one", "two", Call())
    conversation_id = conversation_of(accepted)
    added = await client.conversations.items.create(conversation_id, items=OF_EVERY_KIND)  # type: ignore[arg-type]
    before = [str(item.id) async for item in client.conversations.items.list(conversation_id)]
    call = next(one for one in before if one.startswith("mcp_") and one not in {item.id for item in added.data})
    gone = [call, str(added.data[1].id), str(added.data[4].id)]

    for item_id in gone:
        answer = await client.conversations.items.delete(item_id, conversation_id=conversation_id)
        assert answer.id == conversation_id
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(item_id, conversation_id=conversation_id)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.delete(item_id, conversation_id=conversation_id)

    after = [str(item.id) async for item in client.conversations.items.list(conversation_id)]
    assert after == [one for one in before if one not in gone]
    messages = object_of(await ada.get(f"/api/conversations/{conversation_id}/messages?limit=100"))["items"]
    assert all(message["tool_calls"] == [] for message in messages)


async def test_an_item_of_a_running_response_cannot_be_deleted(ada: Caller, turns: Turns) -> None:
    accepted = await turns.ask(ada.user_id, "one")
    path = f"/v1/conversations/{conversation_of(accepted)}/items"
    item = object_of(await ada.get(path))["data"][0]

    early = await ada.delete(f"{path}/{item['id']}")
    await turns.answer(accepted, "two")
    late = await ada.delete(f"{path}/{item['id']}")

    assert (early.status_code, early.json()["error"]["code"]) == (409, "response_running")
    assert late.status_code == 200
    assert await texts(ada, conversation_of(accepted)) == ["two"]


async def test_anothers_item_is_deleted_by_nobody_else(ada: Caller, bob: Caller, turns: Turns) -> None:
    mine, theirs = await turns.exchange(ada.user_id, "one", "two"), await turns.exchange(bob.user_id, "three", "four")
    foreign = object_of(await bob.get(f"/v1/conversations/{conversation_of(theirs)}/items"))["first_id"]

    answers = [
        await ada.delete(f"/v1/conversations/{conversation_of(one)}/items/{item_id}")
        for one in (mine, theirs)
        for item_id in (foreign, new_wire_id(Prefix.MESSAGE), new_wire_id(Prefix.REASONING))
    ]

    assert {answer.status_code for answer in answers} == {404}
    assert await texts(bob, conversation_of(theirs)) == ["three", "four"]


# --- branches -------------------------------------------------------------------------------------------------------


class Tree:
    """A conversation whose second message was edited, and whose edit went on.

    one ── three ── four          (abandoned)
     └──── edited ── after        (active)
    """

    def __init__(self, **turns: Accepted) -> None:
        self.turns = turns
        self.id = conversation_of(turns["one"])

    def __getitem__(self, text: str) -> str:
        return self.turns[text].response_id


async def a_tree(turns: Turns, user: Caller) -> Tree:
    one = await turns.exchange(user.user_id, "one", "re: one")
    within = {"conversation_id": one.conversation_id}
    three = await turns.exchange(user.user_id, "three", "re: three", **within)
    four = await turns.exchange(user.user_id, "four", "re: four", **within)
    edited = await turns.exchange(user.user_id, "edited", "re: edited", **within, follows=one.job_id)
    after = await turns.exchange(user.user_id, "after", "re: after", **within)
    return Tree(one=one, three=three, four=four, edited=edited, after=after)


def branch(*said: str) -> list[str]:
    return [text for one in said for text in (one, f"re: {one}")]


async def test_items_are_those_of_the_active_branch_of_another_or_of_all(ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)

    assert await texts(ada, tree.id) == await texts(ada, tree.id, branch="active") == branch("one", "edited", "after")
    assert await texts(ada, tree.id, branch=tree["three"]) == branch("one", "three", "four")
    assert await texts(ada, tree.id, branch=tree["one"]) == branch("one", "edited", "after")
    assert await texts(ada, tree.id, branch="all") == branch("one", "three", "four", "edited", "after")


async def test_a_branch_is_read_page_by_page(client: openai.AsyncOpenAI, ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)

    seen = [
        item.model_dump()["content"][0]["text"]
        async for item in client.conversations.items.list(tree.id, limit=2, extra_query={"branch": tree["four"]})
    ]

    assert seen == branch("one", "three", "four")[::-1]


async def test_items_without_a_response_are_in_every_branch(ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)
    await ada.post(f"/v1/conversations/{tree.id}/items", json={"items": [HELLO]})

    assert await texts(ada, tree.id) == [*branch("one", "edited", "after"), "Hello"]
    assert await texts(ada, tree.id, branch=tree["four"]) == [*branch("one", "three", "four"), "Hello"]


async def test_the_tree_tells_parents_siblings_and_the_active_branch(ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)

    responses = {response["id"]: response for response in await responses_of(ada, tree.id)}

    assert list(responses) == [tree[text] for text in ("one", "three", "four", "edited", "after")]
    assert [response["previous_response_id"] for response in responses.values()] == [
        None,
        tree["one"],
        tree["three"],
        tree["one"],
        tree["edited"],
    ]
    assert [response["is_active"] for response in responses.values()] == [True, False, False, True, True]
    assert responses[tree["edited"]]["sibling_ids"] == [tree["three"], tree["edited"]]
    assert responses[tree["one"]]["sibling_ids"] == [tree["one"]]
    assert {response["status"] for response in responses.values()} == {"completed"}


async def test_the_tree_is_read_page_by_page(ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)
    seen: list[str] = []
    after: dict[str, str] = {}
    for _ in range(3):
        page = object_of(await ada.get(f"/v1/conversations/{tree.id}/responses", params={"limit": 2, **after}))
        seen += [response["id"] for response in page["data"]]
        after = {"after": page["last_id"]}

    assert seen == [tree[text] for text in ("after", "edited", "four", "three", "one")]
    assert page["has_more"] is False


async def test_first_turns_can_have_siblings_too(ada: Caller, turns: Turns) -> None:
    first = await turns.exchange(ada.user_id, "one", "two")
    again = await turns.exchange(ada.user_id, "uno", "dos", conversation_id=first.conversation_id, is_at_start=True)

    responses = await responses_of(ada, conversation_of(first))

    assert [response["sibling_ids"] for response in responses] == [[first.response_id, again.response_id]] * 2
    assert await texts(ada, conversation_of(first)) == ["uno", "dos"]


async def test_a_conversation_that_never_forked_is_one_branch(ada: Caller, turns: Turns) -> None:
    first = await turns.exchange(ada.user_id, "one", "two")
    second = await turns.exchange(ada.user_id, "three", "four", conversation_id=first.conversation_id)

    responses = await responses_of(ada, conversation_of(first))

    assert [response["sibling_ids"] for response in responses] == [[first.response_id], [second.response_id]]
    assert [response["is_active"] for response in responses] == [True, True]
    assert await texts(ada, conversation_of(first), branch=first.response_id) == ["one", "two", "three", "four"]


async def test_a_chosen_branch_is_the_active_one_and_the_next_message_follows_it(ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)

    chosen = await ada.post(f"/v1/conversations/{tree.id}", json={"active_response_id": tree["three"]})

    assert chosen.json()["active_response_id"] == tree["four"]
    assert await texts(ada, tree.id) == branch("one", "three", "four")
    five = await turns.exchange(ada.user_id, "five", "re: five", conversation_id=tree.turns["one"].conversation_id)
    assert await texts(ada, tree.id) == branch("one", "three", "four", "five")
    assert (await responses_of(ada, tree.id))[-1]["previous_response_id"] == tree["four"]
    assert object_of(await ada.get(f"/v1/conversations/{tree.id}"))["active_response_id"] == five.response_id


async def test_the_branch_does_not_change_while_something_runs(ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)
    await turns.ask(ada.user_id, "wait", tree.turns["one"].conversation_id)

    answer = await ada.post(f"/v1/conversations/{tree.id}", json={"active_response_id": tree["three"], "title": "x"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conversation_locked")
    assert answer.headers["x-should-retry"] == "false"
    assert object_of(await ada.get(f"/v1/conversations/{tree.id}"))["title"] == "one"


@pytest.mark.parametrize("field", ["branch", "active_response_id", "after"])
async def test_a_branch_is_named_by_a_response_of_this_conversation(
    ada: Caller, bob: Caller, turns: Turns, field: str
) -> None:
    tree, other, foreign = await a_tree(turns, ada), await a_tree(turns, ada), await a_tree(turns, bob)
    named = [other["one"], foreign["one"], to_wire(Prefix.RESPONSE, uuid7()), "resp_x"]

    if field == "active_response_id":
        answers = [await ada.post(f"/v1/conversations/{tree.id}", json={field: one}) for one in named]
    else:
        what = "items" if field == "branch" else "responses"
        answers = [await ada.get(f"/v1/conversations/{tree.id}/{what}", params={field: one}) for one in named]

    assert [answer.status_code for answer in answers] == [404, 404, 404, 400]
    assert len({answer.text for answer in answers[:3]}) == 1
    assert {answer.json()["error"]["param"] for answer in answers} == {field}


async def test_a_deleted_response_is_in_no_tree_and_its_items_stay(ada: Caller, turns: Turns) -> None:
    tree = await a_tree(turns, ada)
    async with turns.gateway.transaction(ada.user_id) as db:
        await db.execute("update jobs set deleted_at = clock_timestamp() where id = $1", tree.turns["edited"].job_id)

    responses = {response["id"]: response for response in await responses_of(ada, tree.id)}

    assert tree["edited"] not in responses
    assert responses[tree["three"]]["sibling_ids"] == [tree["three"]]
    assert await texts(ada, tree.id) == branch("one", "edited", "after")
    for chosen in (
        await ada.post(f"/v1/conversations/{tree.id}", json={"active_response_id": tree["edited"]}),
        await ada.get(f"/v1/conversations/{tree.id}/items", params={"branch": tree["edited"]}),
    ):
        assert chosen.status_code == 404
