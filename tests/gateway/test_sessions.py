"""Sessions of the web page: the cookie, what it is good for, and what other sites' pages cannot do with it."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from http.cookies import SimpleCookie
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette.responses import Response

from gateway.app import create_app
from gateway.rates import Rates
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings, SameSite
from shared.ids import uuid7
from shared.settings import Profile
from tests.gateway.conftest import Caller
from tests.support.stack import token_of

OWN = {"origin": "http://gateway"}
COOKIE = "parley_session"


class Page(Caller):
    """A browser with our page, which has begun a session."""

    csrf_token: str = ""

    async def begin(self, **claims: Any) -> None:
        token = token_of(self.user_id, **claims)
        answer = await self.post("/session", headers={"authorization": f"Bearer {token}"})
        assert answer.status_code == 201, answer.text
        self.csrf_token = answer.json()["csrf_token"]

    async def change(self, **headers: str) -> int:
        """The status of a request that would change something, with these headers."""
        answer = await self.post("/v1/conversations", json={}, headers=headers)
        return answer.status_code


@pytest.fixture
async def page(gateway: FastAPI) -> AsyncIterator[Page]:
    async with Page(gateway, f"user-{uuid7().hex}", None) as page:
        await page.begin()
        yield page


async def test_a_token_is_exchanged_for_a_cookie_that_says_who_one_is(page: Page) -> None:
    me = await page.get("/session")
    read = await page.get("/v1/conversations")

    assert (me.status_code, read.status_code) == (200, 200)
    said = me.json()
    assert abs(said.pop("expires_at") - time.time() - 3_600) < 60
    assert said == {"user_id": page.user_id, "roles": [], "csrf_token": page.csrf_token}
    assert me.headers["cache-control"] == "no-store"


async def test_without_a_session_nobody_is_anybody(stranger: Caller) -> None:
    assert (await stranger.get("/session")).status_code == 401
    assert (await stranger.post("/session")).status_code == 401


async def test_a_session_does_not_beget_another(page: Page) -> None:
    answer = await page.post("/session", headers={**OWN, "x-csrf-token": page.csrf_token})

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(gateway: FastAPI) -> None:
    answer = await Caller(gateway, "ada", token_of("ada")).post("/session")
    [morsel] = SimpleCookie(answer.headers["set-cookie"]).values()

    assert (morsel.key, morsel["httponly"], morsel["samesite"], morsel["path"]) == (COOKIE, True, "lax", "/")
    assert not morsel["domain"]
    assert 3_500 < int(morsel["max-age"]) <= 3_600


@pytest.mark.parametrize(
    "changes",
    [{"profile": Profile.PRODUCTION}, {"public_url": "https://chat.example"}],
    ids=["production", "https"],
)
async def test_over_https_the_cookie_is_of_this_host_alone(
    gateway_settings: GatewaySettings, changes: dict[str, Any]
) -> None:
    settings = gateway_settings.model_copy(update={"session_same_site": SameSite.STRICT, **changes})
    response = Response()

    Sessions(settings).begin(response, user_id="ada")

    [morsel] = SimpleCookie(response.headers["set-cookie"]).values()
    assert (morsel.key, morsel["secure"], morsel["httponly"]) == ("__Host-parley_session", True, True)
    assert (morsel["samesite"], morsel["path"], morsel["domain"]) == ("strict", "/", "")


async def test_a_request_that_changes_something_needs_the_origin_and_the_word(page: Page) -> None:
    word = {"x-csrf-token": page.csrf_token}

    assert await page.change(**OWN, **word) == 200
    assert await page.change(**word, **{"sec-fetch-site": "same-origin"}) == 200
    assert await page.change() == 403
    assert await page.change(**OWN) == 403
    assert await page.change(**word) == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "http://gateway.evil.example"},
        {"origin": "http://gateway:81"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://evil.example", "sec-fetch-site": "same-origin"},
        {"origin": "http://evil.example", "x-forwarded-host": "evil.example"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "none"},
    ],
    ids=str,
)
async def test_another_sites_page_can_change_nothing(page: Page, headers: dict[str, str]) -> None:
    answer = await page.post("/v1/conversations", json={}, headers={**headers, "x-csrf-token": page.csrf_token})

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "origin_not_allowed"


async def test_the_word_is_that_of_the_session(page: Page, gateway: FastAPI) -> None:
    other = Page(gateway, page.user_id, None)
    await other.begin()

    for word in (other.csrf_token, page.csrf_token[:-1], "", "\u00e9"):
        headers = [("origin", OWN["origin"]), ("x-csrf-token", word)]
        answer = await page.post("/v1/conversations", json={}, headers=httpx2.Headers(headers, encoding="utf-8"))
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "csrf_token_invalid")


@pytest.fixture
async def strict_gateway(gateway_settings: GatewaySettings) -> AsyncIterator[FastAPI]:
    """One that knows its address and two more origins, and is not local."""
    changes = {
        "profile": Profile.PRODUCTION,
        "public_url": "https://chat.example",
        "allowed_origins": frozenset({"https://app.example"}),
    }
    app = create_app(gateway_settings.model_copy(update=changes))
    async with app.router.lifespan_context(app):
        yield app


async def test_the_origins_that_are_listed_and_the_public_one_may_change_something(strict_gateway: FastAPI) -> None:
    async with Page(strict_gateway, f"user-{uuid7().hex}", None) as page:
        page.base_url = httpx2.URL("https://gateway")
        await page.begin()
        word = {"x-csrf-token": page.csrf_token}

        assert await page.change(origin="https://chat.example", **word) == 200
        assert await page.change(origin="https://app.example", **word) == 200
        assert await page.change(origin="https://gateway", **word) == 403
        assert (await page.post("/session/dev", json={"user_id": "eve"})).status_code == 404


async def test_a_bearer_token_counts_before_the_cookie_and_needs_no_word(page: Page) -> None:
    headers = {"authorization": f"Bearer {token_of('bob-with-a-token')}"}

    assert await page.change(**headers) == 200
    assert (await page.get("/session", headers=headers)).json()["user_id"] == "bob-with-a-token"
    assert (await page.get("/session", headers=headers)).json()["csrf_token"] is None
    assert (await page.get("/session", headers={"authorization": "Bearer x.y.z"})).status_code == 401


@pytest.mark.parametrize("sealed", ["", "x", "a.b.c", "{token}", "{cookie}x"])
async def test_a_cookie_that_is_not_ours_is_nothing(gateway: FastAPI, page: Page, sealed: str) -> None:
    """Nor is a token, which would be a cookie that lasts as long as it does; nor is the cookie a token."""
    ours = page.cookies[COOKIE]
    forged = sealed.format(token=token_of("ada"), cookie=ours)
    stranger = Caller(gateway, "nobody", None)

    assert (await stranger.get("/session", headers={"cookie": f"{COOKIE}={forged}"})).status_code == 401
    assert (await stranger.get("/session", headers={"authorization": f"Bearer {ours}"})).status_code == 401


async def test_a_session_ends_with_its_token(gateway: FastAPI) -> None:
    async with Page(gateway, "ada", None) as page:
        begun = await page.post(
            "/session", headers={"authorization": f"Bearer {token_of('ada', lifetime_seconds=100)}"}
        )

    assert 90 < begun.json()["expires_at"] - time.time() <= 100


async def test_whoever_logs_out_is_out_wherever_the_cookie_is(gateway: FastAPI, page: Page) -> None:
    copied = {"cookie": f"{COOKIE}={page.cookies[COOKIE]}"}

    without_word = await page.delete("/session", headers=OWN)
    ended = await page.delete("/session", headers={**OWN, "x-csrf-token": page.csrf_token})
    copy = await Caller(gateway, "thief", None).get("/session", headers=copied)

    assert (without_word.status_code, ended.status_code, copy.status_code) == (403, 204, 401)
    assert copy.json()["error"]["error_code"] == "token_denied"
    assert COOKIE not in page.cookies
    assert (await page.get("/session")).status_code == 401


async def test_logging_out_with_a_token_ends_the_token_and_its_sessions(gateway: FastAPI) -> None:
    page = Page(gateway, f"user-{uuid7().hex}", None)
    jti = uuid7().hex
    await page.begin(jti=jti)
    headers = {"authorization": f"Bearer {token_of(page.user_id, jti=jti)}"}

    ended = await Caller(gateway, page.user_id, None).delete("/session", headers=headers)

    assert ended.status_code == 204
    assert (await page.get("/session", headers=headers)).status_code == 401
    assert (await page.get("/session")).status_code == 401


async def test_logouts_of_one_user_are_limited(gateway: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.state.services.denials, "_per_user_max", 1)
    user_id = f"user-{uuid7().hex}"

    statuses = []
    for number in range(2):
        ada = Caller(gateway, user_id, token_of(user_id, jti=f"{user_id}-{number}"))
        statuses.append((await ada.delete("/session")).status_code)

    assert statuses == [204, 429]


async def test_a_session_of_an_operator_is_an_operators(gateway: FastAPI) -> None:
    async with Page(gateway, "olga", None) as page:
        await page.begin(roles=["admin", "x" * 5_000])

        assert (await page.get("/api/admin/denials")).status_code == 200
        assert len(page.cookies[COOKIE]) < 2_000


async def test_the_local_profile_lets_everybody_in_as_anybody(gateway: FastAPI) -> None:
    async with Page(gateway, "ada", None) as page:
        begun = await page.post("/session/dev", json={"user_id": "ada"}, headers=OWN)
        page.csrf_token = begun.json()["csrf_token"]

        assert begun.status_code == 201
        assert (await page.get("/session")).json()["user_id"] == "ada"
        assert await page.change(**OWN, **{"x-csrf-token": page.csrf_token}) == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"json": {"user_id": "ada"}, "headers": {"origin": "http://evil.example"}}, 403),
        ({"json": {"user_id": "a b"}}, 400),
        ({"json": {"user_id": ""}}, 400),
        ({"json": {"user_id": 7}}, 400),
        ({"json": []}, 400),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400),
        ({"content": b'{"user_id": "ada"}', "headers": {"content-type": "text/plain"}}, 415),
        ({"json": {"user_id": "a" * 10_000}}, 413),
    ],
)
async def test_but_not_from_elsewhere_nor_as_nobody(stranger: Caller, request_: dict[str, Any], status: int) -> None:
    answer = await stranger.post("/session/dev", **request_)

    assert answer.status_code == status
    assert "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 201),
        ("[::1]:8080", 201),
        ("localhost:8080", 201),
        ("chat.localhost", 201),
        ("rebound.evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("[", 403),
    ],
)
async def test_a_page_whose_own_name_leads_here_logs_nobody_in(stranger: Caller, host: str, status: int) -> None:
    headers = {"host": host, "origin": f"http://{host}"}

    answer = await stranger.post("/session/dev", json={"user_id": "ada"}, headers=headers)

    assert answer.status_code == status


async def test_logins_without_a_token_are_limited(gateway: FastAPI, stranger: Caller) -> None:
    services = gateway.state.services
    gateway.state.services = replace(services, logins=Rates("logins", per_second_max=0.001, burst_max=2))
    try:
        answers = [await stranger.post("/session/dev", json={"user_id": "ada"}) for _ in range(3)]
    finally:
        gateway.state.services = services

    assert [answer.status_code for answer in answers] == [201, 201, 429]
    assert int(answers[-1].headers["retry-after"]) > 0
    assert answers[-1].json()["error"]["error_code"] == "too_many_logins"
