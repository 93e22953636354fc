"""Who may come in, and as whom."""

import base64
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import jwt
import pytest
from pydantic import SecretStr
from starlette.requests import Request

from gateway.app import create_app
from gateway.auth import Authenticator
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from shared.metrics import value
from shared.settings import Profile
from tests.gateway.conftest import Caller
from tests.support.stack import JWT_SECRET, token_of
from tests.support.waiting import wait_until

ADDRESSES = ["/api/conversations", "/api/v1/conversations", "/v1/conversations", "/v1/models"]


def signed(secret: str = JWT_SECRET, algorithm: str = "HS256", **changes: object) -> str:
    now = int(time.time())
    claims = {"iss": "parley", "aud": "parley", "sub": "ada", "iat": now, "exp": now + 600, **changes}
    return jwt.encode({name: value for name, value in claims.items() if value is not None}, secret, algorithm)


def bearer(secret: str = JWT_SECRET, algorithm: str = "HS256", **changes: object) -> str:
    return f"Bearer {signed(secret, algorithm, **changes)}"


def unsigned(algorithm: str = "none") -> str:
    header, claims = ({"alg": algorithm, "typ": "JWT"}, {"iss": "parley", "aud": "parley", "sub": "ada", "exp": 9e9})
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)]
    return ".".join([*parts, ""])


BAD_CREDENTIALS = {
    "none": [],
    "empty": [""],
    "no token": ["Bearer "],
    "basic": ["Basic YWRhOmFkYQ=="],
    "two headers": [bearer(), bearer()],
    "garbled": ["Bearer abc.def.ghi"],
    "expired": [bearer(exp=int(time.time()) - 600)],
    "never expires": [bearer(exp=None)],
    "expires in a year": [bearer(exp=int(time.time()) + 31_536_000)],
    "other secret": [bearer(secret="x" * 32)],
    "other algorithm": [bearer(secret=JWT_SECRET * 2, algorithm="HS512")],
    "unsigned": [f"Bearer {unsigned()}"],
    "other issuer": [bearer(iss="else")],
    "other audience": [bearer(aud="task-tools")],
    "no subject": [bearer(sub=None)],
    "empty subject": [bearer(sub="")],
    "subject with a line end": [bearer(sub="a\n")],
    "unsigned, in other letters": [f"Bearer {unsigned('nOnE')}"],
    "signature stripped": [bearer().rpartition(".")[0] + "."],
    "four segments": [f"{bearer()}.e30"],
    "no audience": [bearer(aud=None)],
    "no issuer": [bearer(iss=None)],
    "a prefix of the issuer": [bearer(iss="parl")],
    "expires in the year 9999": [bearer(exp=253_370_764_800)],
    "not valid yet": [bearer(nbf=int(time.time()) + 86_400)],
    "issued in the future": [bearer(iat=int(time.time()) + 86_400)],
    "subject is a number": [bearer(sub=7)],
    "subject of 5 kB": [bearer(sub="a" * 5_000)],
    "subject with NUL": [bearer(sub="a\0")],
    "huge": ["Bearer " + "a" * 60_000],
}


@pytest.mark.parametrize("credential", BAD_CREDENTIALS)
async def test_a_credential_that_does_not_hold_is_refused(stranger: Caller, credential: str) -> None:
    headers = [("authorization", value) for value in BAD_CREDENTIALS[credential]]

    answer = await stranger.get("/v1/conversations", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["error"]["code"] == "invalid_api_key"


@pytest.mark.parametrize("address", ADDRESSES)
async def test_every_interface_wants_a_token_and_takes_a_good_one(stranger: Caller, address: str) -> None:
    refused = await stranger.get(address)
    accepted = await stranger.get(address, headers={"authorization": f"Bearer {signed()}"})

    assert (refused.status_code, accepted.status_code) == (401, 200)


async def test_the_simple_contract_says_in_its_own_form_that_a_token_has_expired(stranger: Caller) -> None:
    expired = f"Bearer {signed(exp=int(time.time()) - 600)}"

    answer = await stranger.get("/api/conversations", headers={"authorization": expired})

    assert answer.status_code == 401
    assert answer.json()["error"]["error_code"] == "token_expired"


@pytest.mark.parametrize("name", ["access_token", "token", "jwt", "api_key"])
async def test_a_token_in_the_address_is_refused_and_told_where_it_belongs(
    stranger: Caller, ada: Caller, name: str
) -> None:
    """Also beside a good one: an address gets around, and its token with it."""
    for who in (stranger, ada):
        answer = await who.get("/api/conversations", params={name: signed()})

        assert answer.status_code == 401
        assert answer.json()["error"]["error_code"] == "token_in_query"
        assert "Authorization: Bearer" in answer.json()["error"]["error_message"]


async def test_refused_tokens_are_counted_by_what_is_wrong_with_them(stranger: Caller) -> None:
    def count(reason: str) -> float:
        return value("parley_gateway_refused_tokens_total", reason=reason)

    before = count("audience"), count("missing")
    await stranger.get("/v1/models", headers={"authorization": bearer(aud="else")})
    await stranger.get("/v1/models")

    assert (count("audience"), count("missing")) == (before[0] + 1, before[1] + 1)


async def test_while_the_secret_is_replaced_tokens_of_the_old_one_are_taken(gateway_settings: GatewaySettings) -> None:
    changes = {"jwt_secret": SecretStr("n" * 32), "jwt_previous_secrets": (SecretStr(JWT_SECRET),)}
    app = create_app(gateway_settings.model_copy(update=changes))

    async with app.router.lifespan_context(app), Caller(app, "ada", signed()) as ada:
        statuses = [
            (await ada.get("/v1/models", headers={"authorization": bearer(secret=secret)})).status_code
            for secret in (JWT_SECRET, "n" * 32, "x" * 32)
        ]

    assert statuses == [200, 200, 401]


async def test_a_token_that_is_known_ends_when_it_ends(gateway_settings: GatewaySettings) -> None:
    settings = gateway_settings.model_copy(update={"jwt_leeway_seconds": 0.0})
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        caller = Caller(app, "ada", signed(exp=int(time.time()) + 3))
        assert (await caller.get("/v1/models")).status_code == 200

        async def is_refused() -> bool:
            return (await caller.get("/v1/models")).status_code == 401

        await wait_until(is_refused)


async def test_no_more_tokens_are_remembered_than_the_limit(gateway_settings: GatewaySettings) -> None:
    settings = gateway_settings.model_copy(update={"known_tokens_max": 2})
    authenticator = Authenticator(settings, None, Sessions(settings))
    tokens = [token_of(f"user-{number}") for number in range(5)]

    for token in [*tokens, *tokens]:
        scope = {"type": "http", "query_string": b"", "headers": [(b"authorization", f"Bearer {token}".encode())]}
        user = await authenticator.user_of(Request(scope))

        assert token == token_of_user(user.id, tokens)
    assert authenticator.known_token_count == 2


def token_of_user(user_id: str, tokens: list[str]) -> str:
    return tokens[int(user_id.removeprefix("user-"))]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "tasks"),
        ("POST", "tasks"),
        ("GET", "tasks/x"),
        ("PUT", "tasks/x"),
        ("DELETE", "tasks/x"),
        ("PATCH", "tasks/x/complete"),
        ("POST", "chat"),
    ],
)
async def test_the_path_must_name_the_user_of_the_token(ada: Caller, bob: Caller, method: str, path: str) -> None:
    answer = await ada.request(method, f"/api/{bob.user_id}/{path}", json={"title": "x", "message": "x"})

    assert answer.status_code == 403
    assert answer.json()["error"]["error_code"] == "foreign_user"


async def test_the_body_of_a_stranger_is_not_read(stranger: Caller) -> None:
    was_read = False

    async def body() -> AsyncIterator[bytes]:
        nonlocal was_read
        was_read = True
        yield b"{}"

    answer = await stranger.post("/v1/conversations", content=body(), headers={"content-type": "application/json"})

    assert answer.status_code == 401
    assert not was_read


async def test_a_user_id_may_hold_what_an_address_must_quote(stranger: Caller) -> None:
    user_id = "auth0|a/b@c.d"
    headers = {"authorization": f"Bearer {token_of(user_id)}"}

    answer = await stranger.get("/api/conversations", headers=headers)

    assert answer.status_code == 200


def test_a_production_gateway_refuses_an_example_secret() -> None:
    settings: dict[str, Any] = {"database_url": "postgresql://x", "profile": Profile.PRODUCTION}

    with pytest.raises(ValueError, match="example"):
        GatewaySettings(jwt_secret="change-me-change-me-change-me-change-me", **settings)
    with pytest.raises(ValueError, match="at least 32 bytes"):
        GatewaySettings(jwt_secret="short", **settings)
