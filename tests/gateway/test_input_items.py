"""What clients send as input: every kind of item, made our own; what is refused; what answers and refers to what."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest
from openai.types.responses import ResponseItem
from pydantic import SecretStr, TypeAdapter

from gateway.items import parse_items
from gateway.settings import GatewaySettings, ModelInput
from shared.errors import InvalidInputError
from shared.ids import Prefix, from_wire, new_wire_id, to_wire, uuid7
from tests.gateway.conftest import Caller
from tests.support.turns import Call, Turns

Object = dict[str, Any]

SETTINGS = GatewaySettings(database_url=SecretStr("x"), jwt_secret=SecretStr("x" * 64), input_items_max=20)
CALL = {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
ASKED = {
    "type": "mcp_approval_request",
    "id": "mcpr_theirs",
    "server_label": "tasks",
    "name": "delete_task",
    "arguments": "{}",
}
APPROVED = {"type": "mcp_approval_response", "approval_request_id": "mcpr_theirs", "approve": True}
MCP_CALL = {
    "type": "mcp_call",
    "server_label": "tasks",
    "name": "delete_task",
    "arguments": "{}",
    "approval_request_id": "mcpr_theirs",
}
USER = {"role": "user", "content": "hi"}
KINDS: list[Object] = [
    {"role": "user", "content": "hi"},
    {"role": "user", "content": [{"type": "input_text", "text": "hi"}]},
    {"type": "message", "role": "developer", "content": "be brief"},
    {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant", "phase": "commentary",
     "content": [{"type": "output_text", "text": "hello", "annotations": [], "logprobs": []}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
    {**CALL, "id": "fc_1", "status": "completed", "namespace": None},
    OUTPUT,
    {**OUTPUT, "output": [{"type": "input_text", "text": "sunny"}]},
    {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "encrypted_content": None},
    {**MCP_CALL, "output": "done", "error": None, "status": "completed"},
    {**MCP_CALL, "error": {"type": "http_error", "code": 500, "message": "oh"}},
    {**MCP_CALL, "error": "broken"},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "tasks",
     "tools": [{"name": "f", "input_schema": {"type": "object"}, "description": None, "annotations": None}]},
    ASKED,
    {**APPROVED, "reason": "why not"},
]  # fmt: skip


@pytest.mark.parametrize("given", KINDS, ids=lambda item: item.get("type", item.get("role")))
def test_an_item_of_any_kind_is_what_strict_clients_can_read(given: Object) -> None:
    [item] = parse_items([given], SETTINGS, param="input")

    shown = item.to_wire()

    TypeAdapter(ResponseItem).validate_python(shown)
    assert shown["type"] == given.get("type", "message")
    assert UUID(hex=shown["id"].partition("_")[2]) == item.id
    assert shown["id"] != given.get("id")
    assert item.to_row(3)["ordinal"] == 3
    if shown["type"] not in {"mcp_list_tools", "mcp_approval_request", "mcp_approval_response"}:
        assert shown["status"] in {"completed", "failed"}


def test_a_text_is_a_message_of_the_user() -> None:
    [item] = parse_items("hi", SETTINGS, param="input")

    assert (item.kind, item.role, item.content) == ("message", "user", "hi")
    assert item.parts == [{"type": "input_text", "text": "hi"}]


def test_a_developer_ranks_as_system_and_all_texts_of_a_message_count() -> None:
    parts = [{"type": "input_text", "text": "one"}, {"type": "input_text", "text": "two"}]
    [item] = parse_items([{"role": "developer", "content": parts}], SETTINGS, param="input")

    assert (item.role, item.content, item.parts) == ("system", "one\ntwo", parts)


def test_nulls_that_some_clients_reject_are_left_out() -> None:
    [item] = parse_items([KINDS[12]], SETTINGS, param="input")

    assert item.to_wire()["tools"] == [{"name": "f", "input_schema": {"type": "object"}}]
    assert "error" not in item.to_wire()


@pytest.mark.parametrize(
    ("given", "code", "param"),
    [
        ([], "message_empty", "input"),
        ("  ", "message_empty", "input"),
        (7, "invalid_input", "input"),
        (["hi"], "invalid_input", "input[0]"),
        ([USER] * 21, "too_many_items", "input"),
        ([{"role": "user", "content": "x" * 100_001}], "message_too_long", "input"),
        ([{**OUTPUT, "output": "x" * 100_001}], "message_too_long", "input"),
        ([USER, {"type": "computer_call"}], "unsupported_input_item", "input[1]"),
        ([{"type": {}}], "unsupported_input_item", "input[0]"),
        ([{"role": "tool", "content": "x"}], "invalid_input", "input[0].role"),
        ([{"role": "user"}], "invalid_input", "input[0].content"),
        ([{"role": "user", "content": 7}], "invalid_input", "input[0].content"),
        ([{"role": "user", "content": [7]}], "unsupported_content", "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], "unsupported_content", "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "unsupported_content", "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "refusal", "refusal": "x"}]}], "unsupported_content",
         "input[0].content[0]"),
        ([{"role": "system", "content": [{"type": "input_image"}]}], "unsupported_content", "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}], "unsupported_content",
         "input[0].content[0]"),
        ([{"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}], "unsupported_content",
         "input[0].content[0]"),
        ([{"type": "function_call", "call_id": "c", "arguments": "{}"}], "invalid_input", "input[0].name"),
        ([{**CALL, "name": "no blanks"}], "invalid_input", "input[0].name"),
        ([{**CALL, "arguments": {}}], "invalid_input", "input[0].arguments"),
        ([{**OUTPUT, "output": None}], "invalid_input", "input[0].output"),
        ([{**OUTPUT, "output": [{"type": "input_image"}]}], "unsupported_content", "input[0].output[0]"),
        ([{**APPROVED, "approve": "yes"}], "invalid_input", "input[0].approve"),
        ([{**MCP_CALL, "error": {"type": "odd"}}], "invalid_input", "input[0].error"),
        ([{"type": "item_reference"}], "invalid_input", "input[0].id"),
        ([{"type": "reasoning", "summary": [{"type": "x", "text": "x"}]}], "invalid_input",
         "input[0].summary[0].type"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_is_refused_by_name(given: object, code: str, param: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_items(given, SETTINGS, param="input")

    assert (refused.value.code, refused.value.param) == (code, param)


def test_an_image_has_exactly_one_source() -> None:
    takes_images = SETTINGS.model_copy(update={"model_inputs": frozenset({ModelInput.IMAGE})})
    for part in ({"type": "input_image"}, {"type": "input_image", "image_url": "data:,", "file_id": "file_1"}):
        with pytest.raises(InvalidInputError, match="exactly one of 'image_url' and 'file_id'"):
            parse_items([{"role": "user", "content": [part]}], takes_images, param="input")


def test_an_approval_names_the_request_that_came_with_it_by_its_new_id() -> None:
    asked, approved = parse_items([ASKED, APPROVED], SETTINGS, param="input")

    assert approved.to_wire()["approval_request_id"] == asked.to_wire()["id"] != "mcpr_theirs"


def test_an_approval_that_was_obeyed_is_history_and_not_obeyed_again() -> None:
    history = [USER, ASKED, APPROVED, {**MCP_CALL, "output": "done"}, USER]

    items = parse_items(history, SETTINGS, param="input")

    assert [item.kind for item in items] == ["message", "mcp_call", "message"]


def test_an_approval_behind_all_that_the_assistant_did_is_open() -> None:
    items = parse_items([USER, {"role": "assistant", "content": "?"}, ASKED, APPROVED, USER], SETTINGS, param="input")

    assert [item.kind for item in items][2:4] == ["mcp_approval_request", "mcp_approval_response"]


def test_approvals_that_come_with_references_to_their_requests_are_all_open() -> None:
    ids = [new_wire_id(Prefix.APPROVAL_REQUEST) for _ in range(2)]
    pairs = [[{"type": "item_reference", "id": one}, {**APPROVED, "approval_request_id": one}] for one in ids]

    items = parse_items([USER, *pairs[0], *pairs[1]], SETTINGS, param="input")

    assert [item.to_wire().get("approval_request_id") for item in items] == [None, None, ids[0], None, ids[1]]


# --- over HTTP ------------------------------------------------------------------------------------------------------


async def create(caller: Caller, given: object, **fields: Any) -> Object:
    body = {"model": "todo", "input": given, "background": True, **fields}
    answer = await caller.post("/v1/responses", json=body)
    assert answer.status_code == 200, answer.text
    response: Object = answer.json()
    return response


async def refusal(caller: Caller, given: object, **fields: Any) -> tuple[int, str, str]:
    """Status, code and param of the error."""
    body = {"model": "todo", "input": given, "background": True, **fields}
    answer = await caller.post("/v1/responses", json=body)
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


async def input_of(caller: Caller, response: Object, **query: Any) -> Object:
    answer = await caller.get(f"/v1/responses/{response['id']}/input_items", params=query)
    assert answer.status_code == 200, answer.text
    page: Object = answer.json()
    return page


async def answer_with(turns: Turns, response: Object, *items: Mapping[str, Any]) -> None:
    """End the response with output items that are neither messages nor calls of ours."""
    job_id = from_wire(Prefix.RESPONSE, response["id"])
    async with turns.persistence.transaction(None) as db:
        for ordinal, item in enumerate(items, start=100):
            await db.execute(
                """
                insert into items (id, conversation_id, job_id, user_id, turn, ordinal, kind, item)
                select $1, conversation_id, id, user_id, turn, $3, $4, $5 from jobs where id = $2
                """,
                UUID(hex=item["id"].partition("_")[2]),
                job_id,
                ordinal,
                item["type"],
                item,
            )
        await db.execute("update jobs set status = 'completed' where id = $1", job_id)
        await db.execute("update conversations set active_job_id = null where active_job_id = $1", job_id)


def a_call(call_id: str = "call_1") -> Object:
    return {**CALL, "id": new_wire_id(Prefix.FUNCTION_CALL), "call_id": call_id, "status": "completed"}


def a_request() -> Object:
    return {**ASKED, "id": new_wire_id(Prefix.APPROVAL_REQUEST)}


async def test_the_input_of_a_response_is_listed_last_first_and_in_pages(ada: Caller) -> None:
    created = await create(ada, [{"role": "user", "content": str(number)} for number in range(5)])

    pages, after = [], None
    while True:
        page = await input_of(ada, created, limit=2, **({"after": after} if after else {}))
        pages.append([item["content"][0]["text"] for item in page["data"]])
        after = page["last_id"]
        if not page["has_more"]:
            break
    oldest = await input_of(ada, created, order="asc", limit=1)

    assert pages == [["4", "3"], ["2", "1"], ["0"]]
    assert oldest["data"][0]["content"][0]["text"] == "0"
    assert oldest["first_id"] == oldest["last_id"] == oldest["data"][0]["id"]


async def test_the_input_holds_what_the_client_sent_and_no_answer(ada: Caller, turns: Turns) -> None:
    answered = await turns.exchange(ada.user_id, "hi", "hello", Call())

    page = await input_of(ada, {"id": answered.response_id})

    assert [item["content"][0]["text"] for item in page["data"]] == ["hi"]


async def test_a_cursor_that_is_not_in_the_input_is_not_found(ada: Caller) -> None:
    created, other = await create(ada, "hi"), await create(ada, "there")
    [foreign] = (await input_of(ada, other))["data"]

    for after, status in ((foreign["id"], 404), (new_wire_id(Prefix.MESSAGE), 404), ("msg_1", 400)):
        answer = await ada.get(f"/v1/responses/{created['id']}/input_items", params={"after": after})
        assert answer.status_code == status


async def test_another_user_s_input_is_not_found(ada: Caller, bob: Caller) -> None:
    created = await create(ada, "hi")

    assert (await bob.get(f"/v1/responses/{created['id']}/input_items")).status_code == 404


@pytest.mark.parametrize("by_conversation", [True, False])
async def test_a_function_is_answered_in_the_next_turn(ada: Caller, turns: Turns, by_conversation: bool) -> None:  # noqa: FBT001
    asking = await create(ada, "what is the weather?")
    await answer_with(turns, asking, a_call())
    conversation, response = {"conversation": asking["conversation"]["id"]}, {"previous_response_id": asking["id"]}

    created = await create(ada, [OUTPUT], **(conversation if by_conversation else response))

    [item] = (await input_of(ada, created))["data"]
    assert (item["type"], item["call_id"], item["output"]) == ("function_call_output", "call_1", "sunny")


async def test_a_function_may_be_answered_turns_later(ada: Caller, turns: Turns) -> None:
    asking = await create(ada, "what is the weather?")
    await answer_with(turns, asking, a_call())
    later = await create(ada, "well?", previous_response_id=asking["id"])

    await create(ada, [OUTPUT], previous_response_id=later["id"])


async def test_an_output_that_answers_no_call_of_its_history_is_refused(ada: Caller, bob: Caller, turns: Turns) -> None:
    asking, elsewhere = await create(ada, "what is the weather?"), await create(ada, "hi")
    await answer_with(turns, asking, a_call())
    wanted = (400, "unknown_call", "input[0].call_id")

    assert await refusal(ada, [OUTPUT]) == wanted
    assert await refusal(ada, [OUTPUT], previous_response_id=elsewhere["id"]) == wanted
    assert await refusal(ada, [{**OUTPUT, "call_id": "call_2"}], previous_response_id=asking["id"]) == wanted
    at_start = {"conversation": asking["conversation"]["id"], "branch_at_start": True}
    assert await refusal(ada, [OUTPUT], **at_start) == wanted
    assert (await refusal(bob, [OUTPUT], conversation=asking["conversation"]["id"]))[0] == 404


async def test_a_call_is_answered_once_on_a_branch(ada: Caller, turns: Turns) -> None:
    asking = await create(ada, "what is the weather?")
    await answer_with(turns, asking, a_call())
    answering = await create(ada, [OUTPUT], previous_response_id=asking["id"])

    again = await refusal(ada, [OUTPUT], previous_response_id=answering["id"])
    await create(ada, [OUTPUT], previous_response_id=asking["id"])

    assert again == (400, "already_answered", "input[0].call_id")


async def test_a_whole_history_needs_nothing_that_is_stored(ada: Caller) -> None:
    created = await create(ada, [USER, CALL, OUTPUT, USER])

    kinds = [item["type"] for item in (await input_of(ada, created, order="asc"))["data"]]
    assert kinds == ["message", "function_call", "function_call_output", "message"]


async def test_two_outputs_of_one_call_are_refused(ada: Caller) -> None:
    assert await refusal(ada, [CALL, OUTPUT, OUTPUT]) == (400, "answered_twice", "input[2].call_id")


async def test_an_approval_is_given_once(ada: Caller, turns: Turns) -> None:
    asking, request = await create(ada, "delete it"), a_request()
    await answer_with(turns, asking, request)
    approval = {**APPROVED, "approval_request_id": request["id"]}
    unknown = {**APPROVED, "approval_request_id": new_wire_id(Prefix.APPROVAL_REQUEST)}
    wanted = (404, "approval_request_not_found", "input[0].approval_request_id")
    conversation = asking["conversation"]["id"]

    assert await refusal(ada, [approval]) == wanted
    assert await refusal(ada, [unknown], conversation=conversation) == wanted
    await create(ada, [approval], conversation=conversation)
    again = await refusal(ada, [{**approval, "approve": False}], conversation=conversation)

    assert again == (400, "already_answered", "input[0].approval_request_id")


async def test_an_approval_that_is_sent_again_with_its_key_gives_the_first_response(ada: Caller, turns: Turns) -> None:
    asking, request = await create(ada, "delete it"), a_request()
    await answer_with(turns, asking, request)
    body = {
        "model": "todo",
        "background": True,
        "conversation": asking["conversation"],
        "input": [{**APPROVED, "approval_request_id": request["id"]}],
    }

    answers = [await ada.post("/v1/responses", json=body, headers={"idempotency-key": "once"}) for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json()["id"] == answers[1].json()["id"]


async def test_a_request_that_is_referred_to_may_be_answered_elsewhere(ada: Caller, turns: Turns) -> None:
    (asking, request), (_, other) = await an_open_request(ada, turns), await an_open_request(ada, turns)

    elsewhere = await create(ada, [USER, *answered(other)])
    behind = await create(ada, answered(request), previous_response_id=asking["id"])

    _, copied, approved = (await input_of(ada, elsewhere, order="asc"))["data"]
    assert approved["approval_request_id"] == copied["id"] != other["id"]
    [approved] = (await input_of(ada, behind))["data"]
    assert approved["approval_request_id"] == request["id"]


async def test_a_request_is_answered_once_on_whichever_branch(ada: Caller, turns: Turns) -> None:
    asking, request = await an_open_request(ada, turns)
    [_, approval] = answered(request)
    body = {"model": "todo", "background": True, "previous_response_id": asking["id"], "input": [approval]}

    at_once = await asyncio.gather(*(ada.post("/v1/responses", json=body) for _ in range(4)))
    later = await refusal(ada, [approval], previous_response_id=asking["id"])
    elsewhere = await refusal(ada, [USER, *answered(request)])

    assert sorted(answer.status_code for answer in at_once) == [200, 400, 400, 400]
    assert (later[:2], elsewhere[:2]) == ((400, "already_answered"), (400, "already_answered"))


async def test_a_repeated_request_gets_its_response_though_what_it_names_is_gone(ada: Caller) -> None:
    parent = await create(ada, "hi")
    body = {"model": "todo", "background": True, "previous_response_id": parent["id"], "input": "and?"}
    first = await ada.post("/v1/responses", json=body, headers={"idempotency-key": "once"})
    await ada.delete(f"/v1/responses/{parent['id']}")

    again = await ada.post("/v1/responses", json=body, headers={"idempotency-key": "once"})
    other = await ada.post("/v1/responses", json=body, headers={"idempotency-key": "twice"})

    assert (again.status_code, again.json()["id"]) == (200, first.json()["id"])
    assert other.status_code == 404


async def an_open_request(caller: Caller, turns: Turns) -> tuple[Object, Object]:
    """A response that asked for an approval, and the request."""
    asking, request = await create(caller, "delete it"), a_request()
    await answer_with(turns, asking, request)
    return asking, request


def answered(request: Object) -> list[Object]:
    reference = {"type": "item_reference", "id": request["id"]}
    return [reference, {**APPROVED, "approval_request_id": request["id"]}]


async def test_a_reference_stands_for_a_stored_item_of_any_kind(ada: Caller, turns: Turns) -> None:
    answered = await turns.exchange(ada.user_id, "add milk", "Done.", Call())
    items = (await ada.get(f"/v1/conversations/{to_wire(Prefix.CONVERSATION, answered.conversation_id)}/items")).json()
    other = await create(ada, "what is the weather?")
    await answer_with(turns, other, called := a_call())
    ids = [item["id"] for item in reversed(items["data"])] + [called["id"]]

    references = [{"type": "item_reference", "id": item_id} for item_id in ids]
    created = await create(ada, [*references, OUTPUT, {"id": ids[0]}])

    listed = (await input_of(ada, created, order="asc"))["data"]
    kinds = ["message", "mcp_call", "message", "function_call", "function_call_output", "message"]
    assert [item["type"] for item in listed] == kinds
    assert [item["content"][0]["text"] for item in listed if item["type"] == "message"] == [
        "add milk",
        "Done.",
        "add milk",
    ]
    assert listed[1]["duration_ms"] == 42
    assert not {item["id"] for item in listed} & set(ids)


async def test_a_reference_to_what_the_turn_follows_anyway_says_nothing_twice(ada: Caller) -> None:
    first = await create(ada, "add milk")
    [said] = (await input_of(ada, first))["data"]

    created = await create(ada, [{"type": "item_reference", "id": said["id"]}, USER], previous_response_id=first["id"])

    assert [item["content"][0]["text"] for item in (await input_of(ada, created))["data"]] == ["hi"]


async def test_an_input_that_says_nothing_new_is_empty(ada: Caller) -> None:
    first = await create(ada, "add milk")
    [said] = (await input_of(ada, first))["data"]

    refused = await refusal(ada, [{"id": said["id"]}], conversation=first["conversation"]["id"])

    assert refused == (400, "message_empty", "input")


async def test_a_reference_to_nothing_of_the_user_s_is_not_found_and_named(ada: Caller, bob: Caller) -> None:
    created = await create(ada, "secret")
    [foreign] = (await input_of(ada, created))["data"]

    for missing in (foreign["id"], new_wire_id(Prefix.MESSAGE), f"rs_{uuid7().hex}", "msg_1", "nonsense"):
        answer = await bob.post(
            "/v1/responses", json={"model": "todo", "input": [USER, {"type": "item_reference", "id": missing}]}
        )
        assert answer.status_code == 404
        assert answer.json()["error"]["message"] == f"Item with id '{missing}' not found."
        assert answer.json()["error"]["param"] == "input[1].id"


@pytest.mark.parametrize(
    "given",
    [
        [{"role": "system", "content": "Say hello."}],
        [{"role": "assistant", "content": "Once upon a time"}],
        [CALL, OUTPUT],
        [ASKED, APPROVED],
    ],
    ids=["system", "assistant", "output", "approval"],
)
async def test_an_input_needs_no_message_of_the_user(ada: Caller, given: Sequence[Object]) -> None:
    await create(ada, given)


@pytest.mark.parametrize("given", ["", " ", [], [{"role": "user", "content": ""}], [{"role": "user", "content": []}]])
async def test_an_empty_input_is_refused(ada: Caller, given: object) -> None:
    assert await refusal(ada, given) == (400, "message_empty", "input")
