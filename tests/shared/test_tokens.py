"""The HS256 rows of the token matrix: what holds, and everything that must not."""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.errors import NotAuthenticatedError
from shared.tokens import (
    TASK_TOOLS_AUDIENCE,
    TOOL_TOKEN_ISSUER,
    TOOL_TOKEN_SECONDS_MAX,
    Identity,
    Reason,
    Rules,
    TokenRefusedError,
    bearer_token,
    mint_token,
    mint_tool_token,
    secret_keys,
    verify_token,
)

SECRET = "a" * 16 + "b" * 16
OTHER_SECRET = "c" * 32


RULES = Rules(issuer="parley", audience="parley")
TOOL_RULES = Rules(issuer=TOOL_TOKEN_ISSUER, audience=TASK_TOOLS_AUDIENCE)


def verify(token: str, rules: Rules = RULES) -> Identity:
    return verify_token(token, secret_keys(SECRET), rules)


def segment(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return base64.urlsafe_b64encode(text.encode()).rstrip(b"=").decode()


def signed(claims: Any, header: Any = None, secret: str = SECRET) -> str:
    """A token signed by hand, so that it can hold what no library would write."""
    signing_input = f"{segment(header or {'alg': 'HS256', 'typ': 'JWT'})}.{segment(claims)}"
    digest = hmac.new(secret.encode(), signing_input.encode(), hashlib.sha256).digest()
    return f"{signing_input}.{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


@dataclass(frozen=True)
class FromNow:
    """A time by its distance from that of the test, which may run long after it was collected."""

    seconds: int
    as_text: bool = False

    def value(self) -> int | str:
        moment = int(time.time()) + self.seconds
        return str(moment) if self.as_text else moment


def claims_with(**changes: Any) -> dict[str, Any]:
    """Good claims, changed; a claim set to None is left out."""
    now = int(time.time())
    claims = {"iss": "parley", "aud": "parley", "sub": "ada", "iat": now, "exp": now + 600} | changes
    return {
        name: value.value() if isinstance(value, FromNow) else value
        for name, value in claims.items()
        if value is not None
    }


def test_a_minted_token_names_its_user_until_it_expires() -> None:
    token = mint_token(SECRET, "ada", issuer="parley", audience="parley", lifetime_seconds=600)

    identity = verify(token)

    assert identity.user_id == "ada"
    assert 590 < identity.expires_at - time.time() <= 600


def test_a_tool_token_is_good_for_its_tool_server_alone() -> None:
    token = mint_tool_token(SECRET, "ada", TASK_TOOLS_AUDIENCE)

    assert verify(token, TOOL_RULES).user_id == "ada"
    with pytest.raises(NotAuthenticatedError):
        verify(token)


def test_a_tool_token_never_lives_longer_than_five_minutes() -> None:
    token = mint_tool_token(SECRET, "ada", TASK_TOOLS_AUDIENCE, lifetime_seconds=86_400)

    identity = verify(token, TOOL_RULES)

    assert identity.expires_at <= time.time() + TOOL_TOKEN_SECONDS_MAX


def test_a_tool_token_begins_when_its_maker_says() -> None:
    an_hour_ago = int(time.time()) - 3_600
    token = mint_tool_token(SECRET, "ada", TASK_TOOLS_AUDIENCE, now=an_hour_ago + 0.5)

    told = jwt.decode(token, options={"verify_signature": False})

    assert (told["iat"], told["exp"]) == (an_hour_ago, an_hour_ago + TOOL_TOKEN_SECONDS_MAX)
    with pytest.raises(NotAuthenticatedError):
        verify(token, TOOL_RULES)


def test_a_secret_under_32_bytes_signs_and_verifies_nothing() -> None:
    with pytest.raises(jwt.InvalidKeyError):
        mint_token("short", "ada", issuer="parley", audience="parley", lifetime_seconds=600)
    with pytest.raises(jwt.InvalidKeyError):
        verify_token(signed(claims_with()), secret_keys("short"), RULES)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="all good"),
        pytest.param({"aud": ["other", "parley"]}, id="a list of audiences that contains ours"),
        pytest.param({"iat": None}, id="no iat"),
        pytest.param({"sub": "!" + "~" * 254}, id="the longest subject"),
        pytest.param({"exp": FromNow(-10)}, id="expired within the leeway"),
        pytest.param({"nbf": FromNow(10)}, id="valid soon, within the leeway"),
    ],
)
def test_a_good_token_is_accepted(changes: dict[str, Any]) -> None:
    claims = claims_with(**changes)

    assert verify(signed(claims)).user_id == claims["sub"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"exp": None}, id="no exp"),
        pytest.param({"sub": None}, id="no sub"),
        pytest.param({"aud": None}, id="no aud"),
        pytest.param({"iss": None}, id="no iss"),
        pytest.param({"exp": FromNow(-60)}, id="expired"),
        pytest.param({"exp": "never"}, id="exp is a word"),
        pytest.param({"exp": FromNow(600, as_text=True)}, id="exp is text"),
        pytest.param({"exp": True}, id="exp is a boolean"),
        pytest.param('{"iss":"parley","aud":"parley","sub":"ada","exp":1e400}', id="exp is infinite"),
        pytest.param('{"iss":"parley","aud":"parley","sub":"ada","exp":NaN}', id="exp is not a number"),
        pytest.param({"exp": 253_370_764_800}, id="exp in the year 9999"),
        pytest.param({"exp": 10**300}, id="exp beyond any date"),
        pytest.param({"nbf": FromNow(60)}, id="not valid yet"),
        pytest.param({"nbf": FromNow(-60, as_text=True)}, id="nbf is text"),
        pytest.param({"nbf": [1]}, id="nbf is a list"),
        pytest.param('{"iss":"parley","aud":"parley","sub":"ada","exp":9e9,"nbf":-1e400}', id="nbf is infinite"),
        pytest.param({"iat": FromNow(-60, as_text=True)}, id="iat is text"),
        pytest.param('{"iss":"parley","aud":"parley","sub":"ada","exp":9e9,"iat":-1e400}', id="iat is infinite"),
        pytest.param({"iat": FromNow(-90_000)}, id="issued longer ago than a token may last"),
        pytest.param({"iat": FromNow(60)}, id="issued in the future"),
        pytest.param({"iss": "someone"}, id="another issuer"),
        pytest.param({"iss": "parl"}, id="a prefix of the issuer"),
        pytest.param({"iss": "parley.example"}, id="the issuer as a prefix"),
        pytest.param({"iss": ["parley"]}, id="a list of issuers"),
        pytest.param({"aud": "other"}, id="another audience"),
        pytest.param({"aud": "parley2"}, id="the audience as a prefix"),
        pytest.param({"aud": []}, id="an empty list of audiences"),
        pytest.param({"aud": {"parley": 1}}, id="audiences as an object"),
        pytest.param({"sub": ""}, id="an empty subject"),
        pytest.param({"sub": 7}, id="a number as subject"),
        pytest.param({"sub": ["ada"]}, id="a list as subject"),
        pytest.param({"sub": "a" * 256}, id="a subject too long"),
        pytest.param({"sub": "a" * 5_000}, id="a subject of 5 kB"),
        pytest.param({"sub": "ad\x00a"}, id="NUL in the subject"),
        pytest.param({"sub": "ada\n"}, id="a newline at the end of the subject"),
        pytest.param({"sub": "ada lovelace"}, id="a blank in the subject"),
        pytest.param({"sub": "äda"}, id="a subject beyond ASCII"),
        pytest.param([{"iss": "parley", "aud": "parley", "sub": "ada", "exp": 4_000_000_000}], id="claims as a list"),
        pytest.param('"ada"', id="claims as text"),
        pytest.param("{", id="claims that are no JSON"),
        pytest.param("[" * 2_000 + "]" * 2_000, id="claims nested deeply"),
    ],
)
def test_a_signed_token_with_wrong_claims_is_refused(changes: Any) -> None:
    claims = claims_with(**changes) if isinstance(changes, dict) else changes

    with pytest.raises(NotAuthenticatedError):
        verify(signed(claims))


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"alg": "none"}, id="alg none"),
        pytest.param({"alg": "nOnE"}, id="alg nOnE"),
        pytest.param({"alg": "HS512"}, id="another length"),
        pytest.param({"alg": "RS256"}, id="another family"),
        pytest.param({"alg": ["HS256"]}, id="a list of algorithms"),
        pytest.param({"alg": None}, id="alg null"),
        pytest.param({"typ": "JWT"}, id="no alg"),
        pytest.param({"alg": "HS256", "crit": ["exp2"], "exp2": 1}, id="an unknown critical extension"),
        pytest.param({"alg": "HS256", "crit": ["b64"], "b64": False}, id="an unencoded payload"),
        pytest.param({"alg": "HS256", "b64": False}, id="an unencoded payload, in secret"),
        pytest.param("[" * 3_000, id="nested deeply"),
        pytest.param({"alg": "HS256", "kid": 7}, id="kid is a number"),
        pytest.param(["HS256"], id="a list as header"),
    ],
)
def test_a_token_with_an_odd_header_is_refused(header: Any) -> None:
    with pytest.raises(NotAuthenticatedError):
        verify(signed(claims_with(), header))


@pytest.mark.parametrize("kid", ["unknown", "../../etc/passwd"])
def test_headers_that_point_elsewhere_change_nothing(kid: str) -> None:
    header = {"alg": "HS256", "kid": kid, "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/cert"}

    assert verify(signed(claims_with(), header)).user_id == "ada"


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET])
def test_while_a_secret_is_replaced_tokens_of_both_hold(secret: str) -> None:
    keys = secret_keys(SECRET, [OTHER_SECRET])

    assert verify_token(signed(claims_with(), secret=secret), keys, RULES).user_id == "ada"
    with pytest.raises(TokenRefusedError) as refusal:
        verify_token(signed(claims_with(), secret="d" * 32), keys, RULES)
    assert refusal.value.reason is Reason.SIGNATURE


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": FromNow(-60)}, Reason.EXPIRED),
        ({"iat": FromNow(-90_000)}, Reason.TOO_OLD),
        ({"exp": FromNow(200_000)}, Reason.TOO_OLD),
        ({"nbf": FromNow(60)}, Reason.NOT_YET_VALID),
        ({"iss": "other"}, Reason.ISSUER),
        ({"aud": "other"}, Reason.AUDIENCE),
        ({"sub": ""}, Reason.CLAIMS),
    ],
)
def test_the_operator_learns_why_a_token_is_refused(claims: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(TokenRefusedError) as refusal:
        verify(signed(claims_with(**claims)))

    assert refusal.value.reason is reason


def test_an_old_token_ends_when_a_new_one_may_still_go_on() -> None:
    """Whatever its `exp`: from its issue on it lasts no longer than tokens may."""
    issued_at = int(time.time()) - 3_600

    identity = verify(signed(claims_with(iat=issued_at, exp=issued_at + 90_000)))

    assert identity.expires_at == issued_at + 86_400


@pytest.mark.parametrize(
    ("claim", "roles"),
    [
        (["admin", "user"], {"admin", "user"}),
        ("admin user", {"admin", "user"}),
        (["admin", 7, None], {"admin"}),
        ({"admin": True}, set()),
        (7, set()),
        (None, set()),
    ],
)
def test_roles_are_a_list_or_words(claim: object, roles: set[str]) -> None:
    assert verify(signed(claims_with(roles=claim))).roles == roles


def test_the_claim_of_roles_can_have_another_name() -> None:
    rules = Rules(issuer="parley", audience="parley", roles_claim="groups")

    assert verify(signed(claims_with(groups=["admin"], roles=["user"])), rules).roles == {"admin"}


def test_a_token_is_named_by_its_jti_or_by_what_it_signs() -> None:
    named = signed(claims_with(jti="t-1"))
    unnamed = signed(claims_with(jti=""))
    signed_part = unnamed.rpartition(".")[0]

    assert verify(named).token_id == "t-1"
    assert verify(unnamed).token_id == f"sha256:{hashlib.sha256(signed_part.encode()).hexdigest()}"


@pytest.mark.parametrize("character", ["=", "!", " ", "\n", "+"])
def test_a_token_has_one_spelling(character: str) -> None:
    with pytest.raises(TokenRefusedError):
        verify(signed(claims_with()) + character)


def test_a_token_signed_with_another_key_is_refused() -> None:
    with pytest.raises(NotAuthenticatedError):
        verify(signed(claims_with(), secret=OTHER_SECRET))


def test_a_token_signed_with_a_public_key_as_secret_is_refused() -> None:
    public = rsa.generate_private_key(65_537, 2_048).public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    with pytest.raises(NotAuthenticatedError):
        verify(signed(claims_with(), secret=pem))


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("", id="empty"),
        pytest.param("abc", id="no segments"),
        pytest.param("..", id="empty segments"),
        pytest.param("\ud800", id="a lone surrogate"),
    ],
)
def test_what_is_no_token_is_refused(token: str) -> None:
    with pytest.raises(NotAuthenticatedError):
        verify(token)


@pytest.mark.parametrize(
    "garble",
    [
        pytest.param(lambda token: token.rpartition(".")[0] + ".", id="signature stripped"),
        pytest.param(lambda token: token.rpartition(".")[0], id="two segments"),
        pytest.param(lambda token: token + ".e30", id="four segments"),
        pytest.param(lambda token: token[:-2], id="cut"),
        pytest.param(lambda token: token + "é", id="beyond ASCII"),
    ],
)
def test_a_good_token_garbled_is_refused(garble: Callable[[str], str]) -> None:
    token = signed(claims_with())
    assert verify(token)

    with pytest.raises(NotAuthenticatedError) as refusal:
        verify(garble(token))

    assert refusal.value.code == "invalid_token"


def test_a_token_of_64_kb_is_refused_unread() -> None:
    for token in ("a" * 65_536, "." * 65_536, signed(claims_with(pad="x" * 65_536))):
        with pytest.raises(NotAuthenticatedError) as refusal:
            verify(token)

        assert refusal.value.__cause__ is None  # the library never saw it


def test_an_expired_token_says_so_and_any_other_fault_does_not() -> None:
    with pytest.raises(NotAuthenticatedError) as expired:
        verify(signed(claims_with(exp=int(time.time()) - 60)))
    with pytest.raises(NotAuthenticatedError) as wrong:
        verify(signed(claims_with(aud="other")))

    assert expired.value.code == "token_expired"
    assert (wrong.value.code, wrong.value.message) == ("invalid_token", "The access token is not valid.")


@pytest.mark.parametrize("header", ["Bearer abc", "bearer abc", "BEARER  abc "])
def test_the_bearer_scheme_is_read_in_any_case(header: str) -> None:
    assert bearer_token([header]) == "abc"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([], id="none"),
        pytest.param([""], id="empty"),
        pytest.param(["Bearer"], id="no token"),
        pytest.param(["Bearer  "], id="a blank token"),
        pytest.param(["Basic YTpi"], id="another scheme"),
        pytest.param(["abc"], id="no scheme"),
        pytest.param(["Bearer abc", "Bearer abc"], id="two headers"),
    ],
)
def test_a_request_without_exactly_one_bearer_token_is_refused(headers: list[str]) -> None:
    with pytest.raises(NotAuthenticatedError) as refusal:
        bearer_token(headers)

    assert refusal.value.code == "missing_token"
