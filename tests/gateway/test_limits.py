"""Every limit on what a request may bring and hold."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from gateway.items import parse_items
from gateway.limits import JsonLimits, Metadata, Slots, checked_message, decode_json
from gateway.response_request import CreateResponse
from gateway.routes.chat_completions import CreateCompletion
from gateway.routes.v1_conversations import NewConversation
from gateway.settings import GatewaySettings
from shared.errors import InvalidInputError, LimitExceededError
from tests.gateway.conftest import Caller, Serve
from tests.support.waiting import wait_until

LIMIT = 256 * 1_024
JSON = JsonLimits(depth_max=64, values_max=150_000)


async def test_a_body_over_the_limit_is_refused_by_its_announced_length(ada: Caller) -> None:
    answer = await ada.post("/v1/webhook_endpoints", content=b" " * (LIMIT + 1))

    assert answer.status_code == 413
    assert str(LIMIT) in answer.json()["error"]["message"]
    assert answer.headers["connection"] == "close"


async def test_a_body_of_unknown_length_is_refused_before_all_of_it_was_read(ada: Caller) -> None:
    chunks_sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal chunks_sent
        while chunks_sent < 1_000:
            chunks_sent += 1
            yield b" " * 65_536

    answer = await ada.post("/api/chat", content=endless(), headers={"content-type": "application/json"})

    assert answer.status_code == 413
    assert answer.json()["error"]["error_code"] == "body_too_large"
    assert chunks_sent < 10


async def test_a_body_of_exactly_the_limit_is_read(ada: Caller) -> None:
    body = b"{}".ljust(LIMIT)

    answer = await ada.post("/v1/conversations", content=body, headers={"content-type": "application/json"})

    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("metadata", "is_allowed"),
    [
        ({f"k{n}": "v" for n in range(16)}, True),
        ({f"k{n}": "v" for n in range(17)}, False),
        ({"k" * 64: "v" * 512}, True),
        ({"k" * 65: "v"}, False),
        ({"k": "v" * 513}, False),
        ({"k": 1}, False),
        (["k"], False),
    ],
)
async def test_metadata_have_the_limits_that_clients_know(ada: Caller, metadata: object, is_allowed: bool) -> None:  # noqa: FBT001
    answer = await ada.post("/v1/conversations", json={"metadata": metadata})

    assert answer.status_code == (200 if is_allowed else 400)
    if not is_allowed:
        assert answer.json()["error"]["param"].startswith("metadata")


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=-1", "limit=1000000000", "limit=x", "limit=1e2"])
@pytest.mark.parametrize("path", ["/api/conversations", "/v1/conversations", "/api/{user_id}/tasks"])
async def test_a_page_has_1_to_100_entries(ada: Caller, path: str, query: str) -> None:
    answer = await ada.get(f"{path.format(user_id=ada.user_id)}?{query}")

    assert answer.status_code == 400
    assert "limit" in answer.text


@pytest.mark.parametrize("offset", ["-1", "9999999999999999999999", "x", "1.5"])
async def test_an_offset_is_a_reasonable_number(ada: Caller, offset: str) -> None:
    answer = await ada.get(f"/api/conversations?offset={offset}")

    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["field"] == "offset"


def test_a_message_is_measured_in_characters() -> None:
    assert checked_message("🥛" * 5_000, 5_000)
    with pytest.raises(InvalidInputError, match="5001 characters; at most 5000"):
        checked_message("🥛" * 5_001, 5_000)


def test_json_may_be_nested_as_deep_as_the_limit() -> None:
    limits = JsonLimits(depth_max=100, values_max=1_000)

    assert decode_json(b"[" * 100 + b"]" * 100, limits)
    with pytest.raises(InvalidInputError, match="at most 100 levels"):
        decode_json(b"[" * 102 + b"]" * 102, limits)


def test_text_that_postgres_cannot_store_is_found_wherever_it_hides() -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_json(b'{"input": [{"content": [{"text": "a\\u0000"}]}]}', JSON)

    assert caught.value.param == "input[0].content[0].text"


def test_an_error_names_no_more_of_a_key_than_its_beginning() -> None:
    with pytest.raises(InvalidInputError) as caught:
        decode_json(b'{"%b": [1, 9223372036854775808]}' % (b"k" * 100_000), JSON)

    assert caught.value.param == "k" * 64 + "[1]"
    assert len(caught.value.message) < 200


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CreateResponse, {"input": [0] * 1_000}),
        (CreateResponse, {"input": "hi", "tools": [0] * 1_000}),
        (CreateResponse, {"input": "hi", "include": ["nothing"] * 1_000}),
        (CreateCompletion, {"messages": [0] * 1_000}),
        (CreateCompletion, {"messages": [{}], "logit_bias": dict.fromkeys(map(str, range(2_000)), "much")}),
        (NewConversation, {"items": [0] * 1_000}),
    ],
)
def test_the_first_mistake_in_a_long_list_is_the_last_one_looked_at(kind: type[BaseModel], body: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)

    assert caught.value.error_count() <= 2  # of a union, one for each member


def test_too_many_metadata_are_not_looked_at() -> None:
    with pytest.raises(ValidationError, match="at most 16 keys") as caught:
        TypeAdapter(Metadata).validate_python(dict.fromkeys(map(str, range(1_000)), 0))

    assert caught.value.error_count() == 1


def test_all_items_together_may_have_so_many_content_parts(gateway_settings: GatewaySettings) -> None:
    settings = gateway_settings.model_copy(update={"input_parts_max": 3})
    part = {"type": "input_text", "text": "hi"}
    two, one = {"role": "user", "content": [part] * 2}, {"role": "user", "content": [part]}

    assert parse_items([two, one], settings, param="input")
    with pytest.raises(InvalidInputError, match="'input' hold more than 3") as caught:
        parse_items([two, two], settings, param="input")
    assert caught.value.code == "too_many_parts"


async def test_what_a_request_says_beside_its_input_has_a_limit(ada: Caller, gateway_settings: GatewaySettings) -> None:
    schema = {"type": "object", "description": "x" * gateway_settings.options_bytes_max}
    tools = [{"type": "function", "name": "weather", "parameters": schema}]

    answer = await ada.post("/v1/responses", json={"model": "todo", "input": "hi", "tools": tools})

    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "options_too_large"
    assert answer.json()["error"]["param"] == "tools"


async def test_a_large_body_holds_its_slot_until_it_is_answered(serve: Serve) -> None:
    """It is in memory as long."""
    body = {"model": "todo", "input": "hi", "filler": "x" * LIMIT}
    async with (
        serve(transfers_per_user_max=1, foreground_wait_seconds=20) as served,
        served.client("large-bodies") as client,
    ):
        waiting = asyncio.create_task(client.post("/v1/responses", json=body))

        async def is_accepted() -> bool:
            return bool((await client.get("/v1/conversations")).json()["data"])

        await wait_until(is_accepted)
        again = await client.post("/v1/responses", json={**body, "background": True})
        assert (again.status_code, again.json()["error"]["code"]) == (429, "too_many_transfers")
        small = await client.post("/v1/responses", json={"model": "todo", "input": "hi", "background": True})
        assert small.status_code == 200
        assert not waiting.done()
        waiting.cancel()


def test_a_user_may_hold_so_many_streams_and_no_more() -> None:
    slots = Slots("streams", per_user_max=2, all_max=4)

    with slots.take("ada") as first, slots.take("ada"):
        slots.take("bob")
        with pytest.raises(LimitExceededError) as caught:
            slots.take("ada")
        assert caught.value.code == "too_many_streams"
        first.close()
        first.close()
        third = slots.take("ada")
        with pytest.raises(LimitExceededError):
            slots.take("ada")
    third.close()
    slots.take("ada")
