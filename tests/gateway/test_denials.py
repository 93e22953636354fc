"""Shutting out users and tokens: who may, what is refused, and what closes at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import httpx2
import pytest
from fastapi import FastAPI

from gateway.auth import User
from gateway.denials import Denials, Kind
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.errors import NotAuthenticatedError, PermissionDeniedError
from shared.ids import uuid7
from tests.gateway.conftest import Caller, Serve
from tests.support.stack import token_of
from tests.support.turns import Turns
from tests.support.waiting import wait_until

LIST = "/v1/conversations"


async def deny(operator: Caller, **fields: object) -> str:
    answer = await operator.post("/api/admin/denials", json=fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def caller_with(gateway: FastAPI, jti: str) -> Caller:
    user_id = f"user-{uuid7().hex}"
    return Caller(gateway, user_id, token_of(user_id, jti=jti))


async def test_a_user_who_is_shut_out_is_refused_until_let_in_again(operator: Caller, ada: Caller, bob: Caller) -> None:
    denial_id = await deny(operator, subject=ada.user_id, reason="abuse")

    refused, other = await ada.get(LIST), await bob.get(LIST)
    lifted = await operator.delete(f"/api/admin/denials/{denial_id}")
    accepted = await ada.get(LIST)
    again = await operator.delete(f"/api/admin/denials/{denial_id}")

    assert (refused.status_code, other.status_code, lifted.status_code) == (403, 200, 204)
    assert refused.json()["error"]["code"] == "user_denied"
    assert (accepted.status_code, again.status_code) == (200, 404)


async def test_a_token_that_is_shut_out_is_refused_and_the_users_next_one_is_not(
    gateway: FastAPI, operator: Caller
) -> None:
    ada = caller_with(gateway, "stolen-1")
    await deny(operator, token_id="stolen-1")

    refused = await ada.get("/api/conversations")
    next_one = await ada.get(LIST, headers={"authorization": f"Bearer {token_of(ada.user_id, jti='new-1')}"})

    assert (refused.status_code, next_one.status_code) == (401, 200)
    assert refused.json()["error"]["error_code"] == "token_denied"


async def test_a_denial_ends_by_itself(operator: Caller, ada: Caller) -> None:
    await deny(operator, subject=ada.user_id, until=int(time.time()) - 1)

    assert (await ada.get(LIST)).status_code == 200


async def test_denials_are_listed_while_they_hold(operator: Caller, ada: Caller) -> None:
    denial_id = await deny(operator, subject=ada.user_id, reason="abuse")

    listed = (await operator.get("/api/admin/denials", params={"value": ada.user_id})).json()["items"]
    await operator.delete(f"/api/admin/denials/{denial_id}")
    left = (await operator.get("/api/admin/denials", params={"value": ada.user_id})).json()["items"]

    [denial] = listed
    assert abs(denial.pop("created_at") - time.time()) < 60
    assert denial == {
        "id": denial_id,
        "kind": "subject",
        "value": ada.user_id,
        "reason": "abuse",
        "created_by": operator.user_id,
        "until": None,
    }
    assert left == []


@pytest.mark.parametrize("roles", [[], ["Admin"], ["administrator"], {"admin": True}, "user"])
async def test_nobody_else_may_shut_out(gateway: FastAPI, ada: Caller, roles: object) -> None:
    impostor = Caller(gateway, "eve", token_of("eve", roles=roles))
    path = f"/api/admin/denials/denial_{uuid7().hex}"

    answers = [
        await impostor.post("/api/admin/denials", json={"subject": ada.user_id}),
        await impostor.get("/api/admin/denials"),
        await impostor.delete(path),
    ]

    assert [(answer.status_code, answer.json()["error"]["error_code"]) for answer in answers] == [
        (403, "admin_only")
    ] * 3
    assert (await ada.get(LIST)).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"subject": "ada", "token_id": "t"},
        {"subject": ""},
        {"subject": "a b"},
        {"subject": "a" * 256},
        {"token_id": "\u00e4"},
        {"subject": "ada", "reason": "x" * 1_001},
        {"subject": "ada", "until": 2**60},
        {"subject": "ada", "until": "tomorrow"},
    ],
)
async def test_a_denial_of_nobody_is_refused(operator: Caller, body: object) -> None:
    assert (await operator.post("/api/admin/denials", json=body)).status_code == 400


async def test_another_gateway_knows_within_seconds_and_closes_what_is_open(
    operator: Caller, serve: Serve, turns: Turns
) -> None:
    user_id = f"user-{uuid7().hex}"
    accepted = await turns.ask(user_id, "hello")
    streams = [f"/v1/responses/{accepted.response_id}?stream=true", "/v1/events"]
    async with serve() as elsewhere, elsewhere.client(user_id) as http:

        async def read(path: str) -> bytes:
            async with http.stream("GET", path) as response:
                assert response.status_code == 200
                begun.release()
                return b"".join([piece async for piece in response.aiter_raw()])

        begun = asyncio.Semaphore(0)
        reading = [asyncio.create_task(read(path)) for path in streams]
        waiting = asyncio.create_task(
            http.post("/api/chat", json={"message": "hello"}, headers={"prefer": "wait=25"}, timeout=30)
        )
        async with asyncio.timeout(20):
            for _ in streams:
                await begun.acquire()
        started_at = time.monotonic()
        await deny(operator, subject=user_id)
        async with asyncio.timeout(20):
            read_until_closed = await asyncio.gather(*reading)
            waited = await waiting
        seconds = time.monotonic() - started_at
        refused = await http.get(streams[0])

    assert seconds < 10
    assert not any(b"[DONE]" in text for text in read_until_closed)
    assert (waited.status_code, refused.status_code) == (403, 403)


async def test_a_stream_closes_when_its_token_ends(serve: Serve, turns: Turns) -> None:
    user_id = f"user-{uuid7().hex}"
    accepted = await turns.ask(user_id, "hello")
    async with serve(jwt_leeway_seconds=1.0) as served:
        token, ends_at = token_of(user_id, lifetime_seconds=3), time.time() + 3
        headers = {"authorization": f"Bearer {token}"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", headers=headers, timeout=30) as http:
            path = f"/v1/responses/{accepted.response_id}?stream=true"
            text = (await http.get(path)).text
            closed_at = time.time()

            async def is_refused() -> bool:
                return (await http.get("/v1/models")).status_code == 401

            await wait_until(is_refused)

    assert "response.created" in text
    assert "[DONE]" not in text
    assert closed_at < ends_at + 5


@pytest.fixture
async def database(database_urls: dict[str, str]) -> Database:
    return await Database.connect(database_urls["parley_gateway"], application_name="test", pool_size=2)


async def test_while_postgres_is_away_the_last_answer_counts(
    database: Database, gateway_settings: GatewaySettings
) -> None:
    denials = Denials(database, gateway_settings.model_copy(update={"denials_refresh_seconds": 0.01}))
    await denials.start()
    user = User(f"user-{uuid7().hex}", time.time() + 60)
    await denials.deny("olga", Kind.SUBJECT, user.id, reason="")
    await database.close()

    try:
        await asyncio.sleep(0.1)  # some looks fail meanwhile
        with pytest.raises(PermissionDeniedError):
            denials.check(user)
        denials.check(User("another", time.time() + 60))
    finally:
        await denials.stop()


async def test_changes_of_others_are_seen_whenever_they_are_committed(
    database: Database, gateway_settings: GatewaySettings
) -> None:
    """A transaction that began long before a look, and commits after it, carries a time before the look."""
    denials = Denials(database, gateway_settings.model_copy(update={"denials_refresh_seconds": 0.01}))
    await denials.start()
    user = User(f"user-{uuid7().hex}", time.time() + 60, token_ids=(uuid7().hex,))
    try:
        async with database.transaction("olga") as slow:
            await slow.execute(
                "insert into denials (id, kind, value, created_by, until, changed_at)"
                " values ($1, 'token', $2, 'olga', 'infinity', now() - interval '10 s')",
                uuid7(),
                user.token_ids[0],
            )
            denials.check(user)

        await wait_until(_is_denied(denials, user))
    finally:
        await denials.stop()
        await database.close()


def _is_denied(denials: Denials, user: User) -> Callable[[], Awaitable[bool]]:
    async def is_denied() -> bool:
        try:
            denials.check(user)
        except NotAuthenticatedError:
            return True
        return False

    return is_denied


async def test_nothing_is_left_of_who_was_watched(gateway: FastAPI, ada: Caller) -> None:
    for _ in range(3):
        await ada.get(LIST)

    denials: Denials = gateway.state.services.denials

    async def is_forgotten() -> bool:
        return not any(ada.user_id == value for _, value in denials._watchers)  # noqa: SLF001

    await wait_until(is_forgotten)
