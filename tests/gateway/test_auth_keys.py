"""Tokens of an identity provider: its keys, fetched from a real server that misbehaves as told."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from gateway.app import create_app
from gateway.auth import Authenticator, User
from gateway.keys import ProviderKeys
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from shared.errors import UnavailableError
from shared.settings import Profile
from shared.tokens import Reason, TokenRefusedError
from tests.gateway.conftest import Caller
from tests.support.asgi import served
from tests.support.stack import JWT_SECRET, token_of
from tests.support.waiting import wait_until

ISSUER, AUDIENCE = "https://id.example", "chat"
RSA_KEY = rsa.generate_private_key(65_537, 2_048)
SHORT_RSA_KEY = rsa.generate_private_key(65_537, 1_024)  # noqa: S505 - to be refused
OTHER_RSA_KEY = rsa.generate_private_key(65_537, 2_048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
ED_KEY = ed25519.Ed25519PrivateKey.generate()


def rsa_jwk(kid: str | None = "rsa-1", key: rsa.RSAPrivateKey = RSA_KEY, **more: Any) -> dict[str, Any]:
    return {**RSAAlgorithm.to_jwk(key.public_key(), as_dict=True), **({"kid": kid} if kid else {}), **more}


ED_JWK = {**OKPAlgorithm.to_jwk(ED_KEY.public_key(), as_dict=True), "kid": "ed-1", "alg": "EdDSA"}
EC_JWK = {**ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True), "kid": "ec-1", "use": "sig"}


@dataclass
class Provider:
    """An identity provider: what it answers at /jwks, and how often it was asked for anything."""

    keys: list[Any] = field(default_factory=lambda: [rsa_jwk(), EC_JWK, ED_JWK])
    mood: str = "well"
    asked: list[str] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        self.asked.append(scope["path"])
        status, headers, body = 200, [], json.dumps({"keys": self.keys}).encode()
        match self.mood:
            case "hangs":
                await asyncio.sleep(30)
            case "fails":
                status = 500
            case "talks nonsense":
                body = b"<html>"
            case "nests deeply":
                body = b'{"keys":' + b"[" * 100_000
            case "has no keys":
                body = b'{"keys":[]}'
            case "says too much":
                body += b" " * 2**20
            case "redirects":
                status, headers = 302, [(b"location", b"/elsewhere")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


BAD_MOODS = ["hangs", "fails", "talks nonsense", "nests deeply", "has no keys", "says too much", "redirects"]


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    provider = Provider()
    async with served(provider) as url:
        provider.url = url
        yield provider


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def settings_of(provider: Provider, **changes: Any) -> GatewaySettings:
    settings: dict[str, Any] = {
        "profile": Profile.LOCAL,
        "database_url": "postgresql://nowhere",
        "jwt_secret": JWT_SECRET,
        "jwt_jwks_url": f"{provider.url}/jwks",
        "jwt_jwks_issuer": ISSUER,
        "jwt_jwks_audience": AUDIENCE,
    }
    return GatewaySettings(**(settings | changes))


@dataclass
class Gate:
    """Who gets in."""

    authenticator: Authenticator
    keys: ProviderKeys
    clock: Clock

    async def user(self, token: str) -> User:
        scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": []}
        scope["headers"] = [(b"authorization", f"Bearer {token}".encode())]
        return await self.authenticator.user_of(Request(scope))

    async def reason(self, token: str) -> Reason:
        with pytest.raises(TokenRefusedError) as refusal:
            await self.user(token)
        assert refusal.value.code in {"invalid_token", "token_expired"}
        return refusal.value.reason


@asynccontextmanager
async def gate_at(provider: Provider, **changes: Any) -> AsyncIterator[Gate]:
    """Its keys are asked for by requests alone: nothing runs in the background."""
    settings, clock = settings_of(provider, **changes), Clock()
    keys = ProviderKeys(settings, clock)
    try:
        yield Gate(Authenticator(settings, keys, Sessions(settings)), keys, clock)
    finally:
        await keys.stop()


def token(
    key: Any = RSA_KEY, algorithm: str = "RS256", kid: str | None = "rsa-1", headers: Any = None, **changes: Any
) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, **changes}
    kept = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(kept, key, algorithm, headers={**({"kid": kid} if kid else {}), **(headers or {})})


def segment(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def forged(secret: bytes, kid: str = "rsa-1") -> str:
    """A token by HS256 with any bytes as the secret, which no library would do."""
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now + 600}
    signed = f"{segment({'alg': 'HS256', 'kid': kid})}.{segment(claims)}"
    digest = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(token, id="RS256"),
        pytest.param(lambda: token(EC_KEY, "ES256", "ec-1"), id="ES256"),
        pytest.param(lambda: token(ED_KEY, "EdDSA", "ed-1"), id="EdDSA"),
        pytest.param(lambda: token(ED_KEY, "EdDSA", None), id="without a key id, one key of the algorithm"),
        pytest.param(lambda: token(aud=["account", AUDIENCE]), id="a list of audiences with ours"),
    ],
)
async def test_tokens_of_each_algorithm_hold(provider: Provider, make: Callable[[], str]) -> None:
    async with gate_at(provider) as gate:
        assert (await gate.user(make())).id == "ada"


async def test_tokens_of_either_source_hold_beside_each_other(provider: Provider) -> None:
    async with gate_at(provider) as gate:
        assert (await gate.user(token_of("bob"))).id == "bob"
        assert (await gate.user(token())).id == "ada"


async def test_tokens_as_better_auth_issues_them_hold(provider: Provider) -> None:
    provider.keys = [{"alg": "EdDSA", "crv": "Ed25519", "kty": "OKP", "x": ED_JWK["x"], "kid": "Vf0Cu6sKHj"}]
    base = "https://app.example"
    claims: dict[str, Any] = {
        "iss": base,
        "aud": base,
        "sub": "Zk9aQ2",
        "id": "Zk9aQ2",
        "email": "a@b.c",
        "name": "Ada",
        "role": "admin",
    }

    async with gate_at(provider, jwt_jwks_issuer=base, jwt_jwks_audience=base, jwt_roles_claim="role") as gate:
        user = await gate.user(token(ED_KEY, "EdDSA", "Vf0Cu6sKHj", **claims))

    assert (user.id, user.roles) == ("Zk9aQ2", frozenset({"admin"}))


async def test_tokens_as_keycloak_issues_them_hold(provider: Provider) -> None:
    x5: dict[str, Any] = {"x5c": ["MIICmzCCAYMCBg"], "x5t": "dGh1bWI", "x5t#S256": "dGh1bWI"}
    encryption = rsa_jwk("enc-1", OTHER_RSA_KEY, use="enc", alg="RSA-OAEP", **x5)
    provider.keys = [encryption, rsa_jwk("sig-1", use="sig", alg="RS256", **x5)]
    issuer = "https://keycloak.example/realms/main"
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": ["parley", "account"],
        "sub": "f:550e8400-e29b-41d4-a716-446655440000:ada",
        "typ": "Bearer",
        "azp": "web",
        "jti": "onrtac:0d5b",
        "realm_access": {"roles": ["admin"]},
        "scope": "openid profile",
    }

    async with gate_at(provider, jwt_jwks_issuer=issuer, jwt_jwks_audience="parley") as gate:
        user = await gate.user(token(kid="sig-1", **claims))
        by_encryption_key = await gate.reason(token(OTHER_RSA_KEY, kid="enc-1", **claims))

    assert (user.id, user.token_ids) == (claims["sub"], ("onrtac:0d5b",))
    assert by_encryption_key is Reason.UNKNOWN_KEY


async def test_tokens_as_auth0_issues_them_hold(provider: Provider) -> None:
    provider.keys = [rsa_jwk("NjVBRjY5MDlC", use="sig", alg="RS256", x5c=["MIIDDTCC"], x5t="NjVB")]
    issuer = "https://tenant.eu.auth0.com/"
    aud = ["https://api.example/", "https://tenant.eu.auth0.com/userinfo"]
    claims: dict[str, Any] = {
        "iss": issuer,
        "aud": aud,
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
        "azp": "web",
        "scope": "openid",
    }

    async with gate_at(provider, jwt_jwks_issuer=issuer, jwt_jwks_audience="https://api.example/") as gate:
        assert (await gate.user(token(kid="NjVBRjY5MDlC", **claims))).id == claims["sub"]


def _public_pem() -> bytes:
    return RSA_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(lambda: token(OTHER_RSA_KEY), Reason.SIGNATURE, id="another key"),
        pytest.param(lambda: forged(_public_pem()), Reason.SIGNATURE, id="HS256 by the public key"),
        pytest.param(lambda: forged(b""), Reason.SIGNATURE, id="HS256 by nothing"),
        pytest.param(lambda: forged(JWT_SECRET.encode()), Reason.ISSUER, id="our secret, their issuer"),
        pytest.param(lambda: token(iss="parley", aud="parley"), Reason.ISSUER, id="their key, our issuer"),
        pytest.param(lambda: token(EC_KEY, "ES256", "rsa-1"), Reason.UNKNOWN_KEY, id="a key of another family"),
        pytest.param(lambda: token(algorithm="RS512"), Reason.ALGORITHM, id="an algorithm that is not listed"),
        pytest.param(lambda: token(algorithm="PS256"), Reason.ALGORITHM, id="another padding"),
        pytest.param(lambda: token(kid="../../etc/passwd"), Reason.UNKNOWN_KEY, id="a path as key id"),
        pytest.param(lambda: token(kid="x" * 5_000), Reason.UNKNOWN_KEY, id="a huge key id"),
        pytest.param(lambda: token(aud="other"), Reason.AUDIENCE, id="another audience"),
        pytest.param(lambda: token(aud=["other"]), Reason.AUDIENCE, id="a list of other audiences"),
        pytest.param(lambda: token(iss="https://id.example.evil"), Reason.ISSUER, id="the issuer as a prefix"),
        pytest.param(lambda: token(sub="a" * 5_000), Reason.CLAIMS, id="a huge subject"),
        pytest.param(lambda: token(exp=None), Reason.CLAIMS, id="no end"),
        pytest.param(lambda: token(headers={"crit": ["exp"]}), Reason.MALFORMED, id="a critical extension"),
    ],
)
async def test_what_the_provider_did_not_say_is_refused(
    provider: Provider, make: Callable[[], str], reason: Reason
) -> None:
    async with gate_at(provider) as gate:
        assert await gate.reason(make()) is reason


async def test_without_a_shared_secret_none_is_believed(provider: Provider) -> None:
    async with gate_at(provider, jwt_secret=None, session_secret="s" * 32) as gate:
        assert await gate.reason(token_of("bob")) is Reason.ALGORITHM
        assert (await gate.user(token())).id == "ada"


@pytest.mark.parametrize("name", ["jku", "x5u", "jwk", "x5c"])
async def test_keys_that_a_token_names_or_brings_are_not_looked_at(provider: Provider, name: str) -> None:
    value = {
        "jku": f"{provider.url}/evil",
        "x5u": f"{provider.url}/evil",
        "jwk": rsa_jwk("rsa-1", OTHER_RSA_KEY),
        "x5c": ["MIIC"],
    }[name]

    async with gate_at(provider) as gate:
        assert await gate.reason(token(OTHER_RSA_KEY, headers={name: value})) is Reason.SIGNATURE
        assert await gate.reason(token(OTHER_RSA_KEY, kid="new", headers={name: value})) is Reason.UNKNOWN_KEY

    assert set(provider.asked) == {"/jwks"}


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param({"kty": "oct", "k": base64.urlsafe_b64encode(b"x" * 32).decode(), "kid": "rsa-1"}, id="symmetric"),
        pytest.param(rsa_jwk("rsa-1", SHORT_RSA_KEY), id="too short"),
        pytest.param({**rsa_jwk(), "d": "AQAB"}, id="private"),
        pytest.param(rsa_jwk(use="enc"), id="for encryption"),
        pytest.param(rsa_jwk(key_ops=["sign"]), id="for signing"),
        pytest.param(rsa_jwk(alg="RS512"), id="of another algorithm"),
        pytest.param({**rsa_jwk(), "n": "!"}, id="unreadable"),
        pytest.param({**rsa_jwk(), "kid": 7}, id="a number as id"),
        pytest.param(7, id="a number"),
        pytest.param(None, id="null"),
    ],
)
async def test_keys_that_are_not_for_us_are_skipped_and_the_others_count(provider: Provider, bad: Any) -> None:
    provider.keys = [bad, ED_JWK]

    async with gate_at(provider) as gate:
        assert await gate.reason(token()) is Reason.UNKNOWN_KEY
        assert (await gate.user(token(ED_KEY, "EdDSA", "ed-1"))).id == "ada"


async def test_a_token_without_a_key_id_is_refused_where_there_is_a_choice(provider: Provider) -> None:
    provider.keys = [rsa_jwk("rsa-1"), rsa_jwk("rsa-2", OTHER_RSA_KEY)]

    async with gate_at(provider) as gate:
        assert await gate.reason(token(kid=None)) is Reason.UNKNOWN_KEY


async def test_no_more_keys_than_the_limit_are_taken(provider: Provider) -> None:
    provider.keys = [rsa_jwk(f"rsa-{number}") for number in range(3)]

    async with gate_at(provider, jwt_jwks_keys_max=2) as gate:
        assert (await gate.user(token(kid="rsa-1"))).id == "ada"
        assert await gate.reason(token(kid="rsa-2")) is Reason.UNKNOWN_KEY


async def test_a_thousand_unknown_keys_ask_the_provider_once_in_each_window(provider: Provider) -> None:
    async with gate_at(provider) as gate:
        await gate.user(token())
        unknown = [token(ED_KEY, "EdDSA", f"unknown-{number}") for number in range(1_000)]

        for window in range(3):
            gate.clock.now = window * 31.0
            assert await asyncio.gather(*map(gate.reason, unknown)) == [Reason.UNKNOWN_KEY] * 1_000

    assert len(provider.asked) == 3


@pytest.mark.parametrize("mood", BAD_MOODS)
async def test_unknown_keys_ask_no_more_often_where_the_provider_is_unwell(provider: Provider, mood: str) -> None:
    async with gate_at(provider, jwt_jwks_seconds_max=1.0) as gate:
        await gate.user(token())
        provider.mood = mood
        gate.clock.now = 31.0

        reasons = await asyncio.gather(*(gate.reason(token(kid=f"unknown-{number}")) for number in range(20)))

    assert set(reasons) == {Reason.UNKNOWN_KEY}
    assert provider.asked == ["/jwks", "/jwks"]


async def test_requests_that_need_keys_at_once_share_one_fetch(provider: Provider) -> None:
    async with gate_at(provider) as gate:
        users = await asyncio.gather(*(gate.user(token()) for _ in range(50)))

    assert {user.id for user in users} == {"ada"}
    assert len(provider.asked) == 1


async def test_a_request_that_goes_away_does_not_take_the_keys_of_the_others_with_it(provider: Provider) -> None:
    async with gate_at(provider) as gate:
        gone, stays = (asyncio.create_task(gate.user(token())) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()

        assert (await stays).id == "ada"


async def test_a_new_key_is_known_once_a_token_names_it_and_the_old_one_is_not(provider: Provider) -> None:
    async with gate_at(provider) as gate:
        verified_before = token()
        await gate.user(verified_before)
        provider.keys = [rsa_jwk("rsa-2", OTHER_RSA_KEY)]
        gate.clock.now = 31.0

        assert (await gate.user(token(OTHER_RSA_KEY, kid="rsa-2"))).id == "ada"
        assert await gate.reason(verified_before) is Reason.UNKNOWN_KEY


async def test_a_key_that_is_another_under_the_same_name_ends_what_was_verified(provider: Provider) -> None:
    async with gate_at(provider) as gate:
        verified_before = token()
        await gate.user(verified_before)
        provider.keys = [rsa_jwk("rsa-1", OTHER_RSA_KEY), EC_JWK]
        gate.clock.now = 31.0
        await gate.reason(token(kid="unknown"))  # the keys are fetched again

        assert await gate.reason(verified_before) is Reason.SIGNATURE


@pytest.mark.parametrize("mood", BAD_MOODS)
async def test_the_last_keys_count_while_the_provider_is_unwell_but_not_for_ever(provider: Provider, mood: str) -> None:
    async with gate_at(provider, jwt_jwks_stale_seconds_max=3_600, jwt_jwks_seconds_max=1.0) as gate:
        await gate.user(token())
        provider.mood = mood
        gate.clock.now = 3_599.0
        await gate.reason(token(kid="unknown"))  # which asks for keys

        assert (await gate.user(token())).id == "ada"
        gate.clock.now = 3_601.0
        with pytest.raises(UnavailableError) as refusal:
            await gate.user(token())

    assert refusal.value.code == "keys_unavailable"


async def test_keys_are_fetched_before_anybody_needs_them_and_again_before_they_are_old(provider: Provider) -> None:
    async def has_asked_thrice() -> bool:
        return len(provider.asked) >= 3

    settings = settings_of(provider, jwt_jwks_refresh_seconds=0.01)
    keys = ProviderKeys(settings)
    keys.start()
    try:
        await wait_until(has_asked_thrice)
    finally:
        await keys.stop()


async def test_a_gateway_starts_without_the_provider_and_says_503_until_it_comes(
    provider: Provider, gateway_settings: GatewaySettings
) -> None:
    provider.mood = "fails"
    of_provider = settings_of(provider, jwt_jwks_pause_seconds=0.05)
    changes = {name: getattr(of_provider, name) for name in GatewaySettings.model_fields if name.startswith("jwt_jwks")}
    app = create_app(gateway_settings.model_copy(update=changes))

    async with app.router.lifespan_context(app), Caller(app, "ada", token()) as ada:
        away = await ada.get("/v1/conversations")
        by_secret = await ada.get("/v1/conversations", headers={"authorization": f"Bearer {token_of('bob')}"})
        provider.mood = "well"

        async def is_let_in() -> bool:
            return (await ada.get("/v1/conversations")).status_code == httpx2.codes.OK

        await wait_until(is_let_in)

    assert (away.status_code, by_secret.status_code) == (503, 200)
    assert away.json()["error"]["code"] == "keys_unavailable"
    assert int(away.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"jwt_secret": None, "jwt_jwks_url": None}, "JWT_SECRET or JWT_JWKS_URL"),
        ({"jwt_secret": None}, "SESSION_SECRET"),
        ({"jwt_jwks_issuer": None}, "JWT_JWKS_ISSUER"),
        ({"jwt_jwks_audience": None}, "JWT_JWKS_AUDIENCE"),
        ({"jwt_jwks_url": "http://id.example/jwks"}, "https"),
        ({"jwt_jwks_url": "https://user:word@id.example/jwks"}, "https"),
        ({"jwt_jwks_url": "file:///etc/keys"}, "https"),
        ({"jwt_jwks_algorithms": ["HS256"]}, "RS256"),
        ({"jwt_jwks_algorithms": ["none"]}, "RS256"),
        ({"jwt_jwks_algorithms": []}, "at least 1"),
        ({"jwt_previous_secrets": ["short"]}, "at least 32 bytes"),
    ],
)
def test_settings_that_would_let_others_in_are_refused(changes: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {
        "database_url": "postgresql://x",
        "profile": Profile.PRODUCTION,
        "jwt_secret": "7" * 32,
        "jwt_jwks_url": "https://id.example/jwks",
        "jwt_jwks_issuer": ISSUER,
        "jwt_jwks_audience": AUDIENCE,
    }
    GatewaySettings(**good)

    with pytest.raises(ValueError, match=message):
        GatewaySettings(**(good | changes))
