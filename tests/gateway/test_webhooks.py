"""Webhook endpoints over HTTP: a user's own, with a secret that is told once, and addresses on the Internet alone."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import openai
import pytest

from gateway.settings import GatewaySettings
from shared.ids import Prefix, new_wire_id, to_wire, uuid7
from tests.gateway.conftest import Caller, Serve
from tests.support.client import object_of
from tests.support.stack import token_of

PATH = "/v1/webhook_endpoints"
URL = "https://hooks.example.com/parley"
ALL_TYPES = ["response.completed", "response.failed", "response.incomplete", "response.cancelled"]


async def created(user: Caller, **fields: Any) -> dict[str, Any]:
    answer = await user.post(PATH, json={"url": URL, **fields})
    assert answer.status_code == 200, answer.text
    return object_of(answer)


def shown(endpoint: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in endpoint.items() if name != "signing_secret"}


@pytest.fixture
async def owner(database_urls: dict[str, str]) -> AsyncIterator[asyncpg.Connection]:
    """Sees no row of these tables, as row level security is forced, until it names a user."""
    connection = await asyncpg.connect(database_urls["owner"])
    yield connection
    await connection.close()


async def row_of(owner: asyncpg.Connection, user: Caller, endpoint: dict[str, Any]) -> Any:
    await owner.execute("select set_config('app.user_id', $1, false)", user.user_id)
    return await owner.fetchrow("select * from webhook_endpoints where id = $1", endpoint["id"].removeprefix("wh_"))


async def test_an_address_is_all_an_endpoint_needs(ada: Caller) -> None:
    endpoint = await created(ada)

    assert shown(endpoint) == {
        "id": endpoint["id"],
        "object": "webhook_endpoint",
        "created_at": endpoint["created_at"],
        "updated_at": endpoint["created_at"],
        "name": "",
        "url": URL,
        "event_types": ALL_TYPES,
        "enabled": True,
        "disabled_reason": None,
        "failing_since": None,
    }
    assert endpoint["id"].startswith("wh_")
    assert endpoint["signing_secret"].startswith("whsec_")
    assert (await created(ada))["signing_secret"] != endpoint["signing_secret"]


async def test_a_secret_is_shown_when_it_is_made_and_never_again(ada: Caller) -> None:
    endpoint = await created(ada)
    address = f"{PATH}/{endpoint['id']}"

    texts = [
        (await ada.get(PATH)).text,
        (await ada.get(address)).text,
        (await ada.post(address, json={"name": "x"})).text,
        (await ada.get(f"{address}/deliveries")).text,
        (await ada.post(f"{address}/rotate_secret")).text,
        (await ada.delete(address)).text,
    ]

    assert not any(endpoint["signing_secret"] in text for text in texts)
    assert [text.count("whsec_") for text in texts] == [0, 0, 0, 0, 1, 0]


async def test_a_rotated_secret_takes_the_place_of_the_old_one(ada: Caller, owner: asyncpg.Connection) -> None:
    endpoint = await created(ada)
    address = f"{PATH}/{endpoint['id']}/rotate_secret"

    kept = object_of(await ada.post(address, json={"keep_old_secret_active_for_24_hours": True}))
    after_keeping = await row_of(owner, ada, endpoint)
    alone = object_of(await ada.post(address))
    after_all = await row_of(owner, ada, endpoint)

    assert (after_keeping["secret"], after_keeping["previous_secret"]) == (
        kept["signing_secret"],
        endpoint["signing_secret"],
    )
    assert (after_all["secret"], after_all["previous_secret"]) == (alone["signing_secret"], None)
    assert len({one["signing_secret"] for one in (endpoint, kept, alone)}) == 3


async def test_endpoints_are_listed_newest_first_and_page_by_page(ada: Caller) -> None:
    made = [shown(await created(ada, name=str(number))) for number in range(3)]

    first = object_of(await ada.get(PATH, params={"limit": 2}))
    second = object_of(await ada.get(PATH, params={"limit": 2, "after": first["last_id"]}))

    assert first["data"] == [made[2], made[1]]
    assert (first["object"], first["first_id"], first["has_more"]) == ("list", made[2]["id"], True)
    assert (second["data"], second["has_more"]) == ([made[0]], False)
    assert object_of(await ada.get(PATH, params={"after": made[0]["id"]})) == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


async def test_a_change_leaves_what_it_does_not_name(ada: Caller) -> None:
    endpoint = await created(ada, name="one")
    address = f"{PATH}/{endpoint['id']}"

    renamed = object_of(await ada.post(address, json={"name": " two "}))
    moved = object_of(
        await ada.post(address, json={"url": "https://B\u00fccher.example/", "event_types": ["response.failed"]})
    )

    assert (renamed["name"], renamed["url"], renamed["event_types"]) == ("two", URL, ALL_TYPES)
    assert (moved["name"], moved["url"]) == ("two", "https://xn--bcher-kva.example/")
    assert moved["event_types"] == ["response.failed"]
    assert object_of(await ada.get(address)) == moved


async def test_an_endpoint_is_disabled_and_enabled_again(ada: Caller, owner: asyncpg.Connection) -> None:
    endpoint = await created(ada)
    address = f"{PATH}/{endpoint['id']}"

    off = object_of(await ada.post(address, json={"enabled": False}))
    still_off = object_of(await ada.post(address, json={"name": "x"}))
    await row_of(owner, ada, endpoint)
    await owner.execute("update webhook_endpoints set failure_count = 3, failing_since = now()")
    failing = object_of(await ada.get(address))
    on = object_of(await ada.post(address, json={"enabled": True}))

    assert (off["enabled"], off["disabled_reason"]) == (False, "by_user")
    assert still_off["enabled"] is False
    assert failing["failing_since"]
    assert (on["enabled"], on["disabled_reason"], on["failing_since"]) == (True, None, None)


async def test_a_deleted_endpoint_is_gone_with_its_deliveries(ada: Caller, owner: asyncpg.Connection) -> None:
    endpoint = await created(ada)
    await a_delivery(owner, ada, endpoint)

    answer = await ada.delete(f"{PATH}/{endpoint['id']}")

    assert answer.json() == {"id": endpoint["id"], "object": "webhook_endpoint.deleted", "deleted": True}
    assert (await ada.get(f"{PATH}/{endpoint['id']}")).status_code == 404
    assert not await owner.fetch("select from webhook_deliveries where user_id = $1", ada.user_id)


async def test_the_last_deliveries_say_how_they_went(ada: Caller, owner: asyncpg.Connection) -> None:
    endpoint = await created(ada)
    waiting = await a_delivery(owner, ada, endpoint, "next_attempt_at = now(), attempts = 1, last_error = 'timeout'")
    done = await a_delivery(owner, ada, endpoint, "delivered_at = now(), next_attempt_at = null, last_status = 200")
    lost = await a_delivery(owner, ada, endpoint, "next_attempt_at = null, last_status = 500")
    address = f"{PATH}/{endpoint['id']}/deliveries"

    page = object_of(await ada.get(address, params={"limit": 2}))
    rest = object_of(await ada.get(address, params={"limit": 2, "after": page["last_id"]}))

    assert [(one["id"], one["status"], one["last_status"]) for one in page["data"]] == [
        (lost, "given_up", 500),
        (done, "delivered", 200),
    ]
    assert (page["has_more"], rest["has_more"]) == (True, False)
    [last] = rest["data"]
    assert (last["id"], last["status"], last["attempt_count"], last["last_error"]) == (waiting, "waiting", 1, "timeout")
    assert last["response_id"].startswith("resp_")
    assert "body" not in last
    assert (await ada.get(address, params={"after": new_wire_id(Prefix.WEBHOOK_EVENT)})).status_code == 404


REFUSED_URLS = [
    "http://hooks.example.com/",
    "file:///etc/passwd",
    "https://user:password@hooks.example.com/",
    "https://hooks.example.com:5432/",
    "https://127.0.0.1/",
    "https://2130706433/",
    "https://[::ffff:169.254.169.254]/",
    "https://localhost/",
    "https://metadata.google.internal/",
    "https://l\u043ec\u0430lhost/",
    "",
    "https://hooks.example.com/" + "a" * 2_000,
]


@pytest.mark.parametrize("url", REFUSED_URLS, ids=ascii)
async def test_an_address_that_is_not_the_internets_is_refused(ada: Caller, url: str) -> None:
    endpoint = await created(ada)

    answers = [await ada.post(PATH, json={"url": url}), await ada.post(f"{PATH}/{endpoint['id']}", json={"url": url})]

    for answer in answers:
        assert answer.status_code == 400, answer.text
        assert (answer.json()["error"]["code"], answer.json()["error"]["param"]) == ("address_refused", "url")
    assert [one["url"] for one in (await ada.get(PATH)).json()["data"]] == [URL]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": None}, "url"),
        ({"url": 5}, "url"),
        ({"url": URL, "name": "x" * 201}, "name"),
        ({"url": URL, "event_types": []}, "event_types"),
        ({"url": URL, "event_types": ["batch.completed"]}, "event_types[0]"),
        ({"url": URL, "event_types": ["response.completed"] * 5}, "event_types"),
    ],
    ids=repr,
)
async def test_a_bad_field_is_refused_by_name(ada: Caller, body: dict[str, Any], field: str) -> None:
    answer = await ada.post(PATH, json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


@pytest.mark.parametrize("change", [{}, {"enabled": "no"}, {"enabled": None}, {"url": None}, {"unknown": 1}], ids=repr)
async def test_a_change_must_change_something(ada: Caller, change: dict[str, Any]) -> None:
    endpoint = await created(ada)

    assert (await ada.post(f"{PATH}/{endpoint['id']}", json=change)).status_code == 400


ROUTES = [
    ("GET", "", None),
    ("POST", "", {"name": "mine"}),
    ("DELETE", "", None),
    ("POST", "/rotate_secret", None),
    ("GET", "/deliveries", None),
]


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_anothers_endpoint_answers_like_one_that_does_not_exist(
    ada: Caller, bob: Caller, method: str, path: str, body: Any
) -> None:
    endpoint = await created(ada)
    ids = (endpoint["id"], new_wire_id(Prefix.WEBHOOK))

    foreign, unknown = [await bob.request(method, f"{PATH}/{one}{path}", json=body) for one in ids]

    assert foreign.status_code == unknown.status_code == 404
    assert foreign.json() == unknown.json()
    assert (await bob.get(PATH)).json()["data"] == []
    assert (await bob.get(PATH, params={"after": endpoint["id"]})).status_code == 404
    assert object_of(await ada.get(f"{PATH}/{endpoint['id']}")) == shown(endpoint)


@pytest.mark.parametrize(("method", "path", "body"), ROUTES)
async def test_a_malformed_id_is_refused_and_so_is_a_stranger(
    ada: Caller, stranger: Caller, method: str, path: str, body: Any
) -> None:
    answer = await ada.request(method, f"{PATH}/17{path}", json=body)
    unnamed = await stranger.request(method, f"{PATH}/17{path}", json=body)

    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "endpoint_id")
    assert unnamed.status_code == 401


async def test_a_user_has_so_many_endpoints_and_no_more(
    ada: Caller, bob: Caller, gateway_settings: GatewaySettings
) -> None:
    for _ in range(gateway_settings.webhook_endpoints_per_user_max):
        await created(ada)

    answer = await ada.post(PATH, json={"url": URL})

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "webhook_limit_reached")
    await created(bob)


async def test_the_operator_may_allow_an_intranet(serve: Serve) -> None:
    url = "http://hooks.intranet:8443/"
    async with (
        serve(egress_allowed=("hooks.intranet",), egress_ports=(8443,), egress_allows_http=True) as served,
        served.client("ada") as client,
    ):
        allowed = await client.post(PATH, json={"url": url})
        refused = await client.post(PATH, json={"url": "http://10.0.0.1:8443/"})

    assert (allowed.status_code, allowed.json()["url"]) == (200, url)
    assert refused.status_code == 400


async def test_openais_client_keeps_endpoints_as_it_does_elsewhere(serve: Serve) -> None:
    user_id = f"user-{uuid7().hex}"
    async with (
        serve() as served,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{served.port}/v1",
            api_key=token_of(user_id),
            max_retries=0,
            _strict_response_validation=True,
        ) as client,
    ):
        types = await client.webhooks.event_types.list()
        made = await client.webhooks.create(name="mine", url=URL, event_types=["response.completed"])
        changed = await client.webhooks.update(made.id, name="yours", event_types=["response.failed"])
        rotated = await client.webhooks.rotate_secret(made.id, keep_old_secret_active_for_24_hours=True)
        listed = [endpoint async for endpoint in client.webhooks.list(limit=1)]
        deleted = await client.webhooks.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.webhooks.retrieve(made.id)

    assert types.data == ALL_TYPES
    assert made.signing_secret != rotated.signing_secret
    assert (changed.name, changed.event_types) == ("yours", ["response.failed"])
    assert [endpoint.id for endpoint in listed] == [made.id]
    assert deleted.deleted


async def a_delivery(
    owner: asyncpg.Connection, user: Caller, endpoint: dict[str, Any], assignment: str = "attempts = 0"
) -> str:
    """As persistence would have stored it; its id on the wire."""
    event_id = uuid7()
    await owner.execute("select set_config('app.user_id', $1, false)", user.user_id)
    await owner.execute(
        """
        insert into webhook_deliveries (event_id, endpoint_id, user_id, job_id, type, body)
        values ($1, $2, $3, $4, 'response.completed', '{}')
        """,
        event_id,
        endpoint["id"].removeprefix("wh_"),
        user.user_id,
        uuid7(),
    )
    await owner.execute(
        f"update webhook_deliveries set {assignment} where event_id = $1",  # noqa: S608
        event_id,
    )
    return to_wire(Prefix.WEBHOOK_EVENT, event_id)
