"""Tokens (JWT): a user's, verified by the gateway, and a tool call's, made by the worker with a shared secret.

A token for a tool server is minted anew: the user's own token is never passed on, as it would open more than the tools.
"""

import base64
import hashlib
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import jwt
import msgspec

from shared.errors import NotAuthenticatedError

TOOL_TOKEN_ISSUER = "parley"  # noqa: S105 - a name, no secret
TASK_TOOLS_AUDIENCE = "task-tools"
TOOL_TOKEN_SECONDS_MAX = 300.0
USER_TOKEN_SECONDS_MAX = 86_400.0
LEEWAY_SECONDS = 30.0
TOKEN_CHARS_MAX = 8_192
TOKEN_ID_CHARS_MAX = 255

HMAC_ALGORITHM = "HS256"
_REQUIRED_CLAIMS = ["iss", "aud", "sub", "exp"]
# Exactly what RFC 7515 writes. Decoders skip other characters, which would give one token many spellings.
_FORM = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)
_SUBJECT = re.compile(r"[\x21-\x7e]{1,255}")
_TOKEN_ID = re.compile(rf"[\x21-\x7e]{{1,{TOKEN_ID_CHARS_MAX}}}")
_jwt = jwt.PyJWT(options={"enforce_minimum_key_length": True})


class Reason(StrEnum):
    """Why a token is refused: for counters and logs. Its sender is told less."""

    MISSING = "missing"
    IN_QUERY = "in_query"
    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    ALGORITHM = "algorithm"
    UNKNOWN_KEY = "unknown_key"
    SIGNATURE = "signature"
    EXPIRED = "expired"
    TOO_OLD = "too_old"
    NOT_YET_VALID = "not_yet_valid"
    ISSUER = "issuer"
    AUDIENCE = "audience"
    CLAIMS = "claims"


class TokenRefusedError(NotAuthenticatedError):
    """A token that does not hold."""

    def __init__(
        self, reason: Reason, code: str = "invalid_token", message: str = "The access token is not valid."
    ) -> None:
        super().__init__(code, message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Key:
    """What verifies signatures by one algorithm, and by no other."""

    algorithm: str
    material: Any = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the claims of a token have to say. The clocks of its issuer and ours may differ by `leeway_seconds`."""

    issuer: str
    audience: str
    lifetime_seconds_max: float = USER_TOKEN_SECONDS_MAX
    leeway_seconds: float = LEEWAY_SECONDS
    roles_claim: str = "roles"


@dataclass(frozen=True, slots=True)
class Head:
    """What a token says about its signature. Nothing of it is to be believed before the signature is verified."""

    algorithm: str
    key_id: str | None


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token speaks for, until when (seconds since the epoch), in which roles; `token_id` names the token."""

    user_id: str
    expires_at: float
    token_id: str
    roles: frozenset[str] = frozenset()


def mint_token(
    secret: str, user_id: str, *, issuer: str, audience: str, lifetime_seconds: float, **more_claims: object
) -> str:
    """A token that `verify_token` takes for `user_id`. Raises jwt.InvalidKeyError if `secret` has under 32 bytes."""
    now = int(time.time())
    claims = {"iss": issuer, "aud": audience, "sub": user_id, "iat": now, "exp": now + int(lifetime_seconds)}
    return _jwt.encode({**claims, **more_claims}, secret, HMAC_ALGORITHM)


def mint_tool_token(
    secret: str,
    user_id: str,
    audience: str,
    lifetime_seconds: float = TOOL_TOKEN_SECONDS_MAX,
    *,
    now: float | None = None,
) -> str:
    """A token that lets one tool server, `audience`, act for `user_id`, for five minutes at most.

    They begin `now`, or else when this machine's clock says that it is.
    """
    lifetime_seconds = min(lifetime_seconds, TOOL_TOKEN_SECONDS_MAX)
    issued_at = int(time.time() if now is None else now)
    return mint_token(
        secret,
        user_id,
        issuer=TOOL_TOKEN_ISSUER,
        audience=audience,
        lifetime_seconds=lifetime_seconds,
        iat=issued_at,
        exp=issued_at + int(lifetime_seconds),
    )


def secret_keys(secret: str, previous: Sequence[str] = ()) -> tuple[Key, ...]:
    """The keys of shared secrets: the one that signs, and those that did before it and are still believed."""
    return tuple(Key(HMAC_ALGORITHM, one) for one in (secret, *previous))


def read_head(token: str) -> Head:
    """What `token` says about itself. Raises TokenRefusedError for what is none, and for one that is too long."""
    if len(token) > TOKEN_CHARS_MAX:
        raise TokenRefusedError(Reason.TOO_LARGE)
    if _FORM.fullmatch(token) is None:
        raise TokenRefusedError(Reason.MALFORMED)
    segment = token.partition(".")[0]
    try:
        head = msgspec.json.decode(base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4)), type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise TokenRefusedError(Reason.MALFORMED) from error
    algorithm, key_id = head.get("alg"), head.get("kid")
    if not isinstance(algorithm, str) or not isinstance(key_id, str | None):
        raise TokenRefusedError(Reason.MALFORMED)
    if "crit" in head or "b64" in head:  # we know no extension, so none can be met
        raise TokenRefusedError(Reason.MALFORMED)
    return Head(algorithm, key_id)


def verify_token(token: str, keys: Sequence[Key], rules: Rules) -> Identity:
    """Whom `token` speaks for, if `verified_claims` finds nothing wrong with it. Raises as that does."""
    return identity_of(token, verified_claims(token, keys, rules), rules)


def verified_claims(token: str, keys: Sequence[Key], rules: Rules) -> Mapping[str, Any]:
    """What `token` says.

    Holds: the signature is by one of `keys`, by the algorithm of that key; `iss` and `aud` are as `rules` say; `exp`
    lies ahead and no further than `lifetime_seconds_max`; `iat` and `nbf`, if there, do not, and `iat` is no older than
    that; `sub` is printable ASCII without blanks. Keys that the token names or brings along are not looked at.

    Raises TokenRefusedError (`token_expired`, else `invalid_token`): which check failed is in its `reason` alone.
    """
    algorithm = read_head(token).algorithm
    fitting = [key for key in keys if key.algorithm == algorithm]
    if not fitting:
        raise TokenRefusedError(Reason.ALGORITHM)
    for key in fitting[:-1]:
        try:
            return _claims_by(token, key, rules)
        except TokenRefusedError as refusal:
            if refusal.reason is not Reason.SIGNATURE:
                raise
    return _claims_by(token, fitting[-1], rules)


def identity_of(token: str, claims: Mapping[str, Any], rules: Rules) -> Identity:
    """Whom the verified `claims` of `token` speak for."""
    expires_at, issued_at = claims["exp"], claims.get("iat")
    if issued_at is not None:
        expires_at = min(expires_at, issued_at + rules.lifetime_seconds_max)
    return Identity(
        user_id=claims["sub"],
        expires_at=float(expires_at),
        token_id=_token_id(token, claims.get("jti")),
        roles=_roles(claims.get(rules.roles_claim)),
    )


def bearer_token(authorization_headers: Sequence[str]) -> str:
    """The token of a request, given every `Authorization` header it has.

    Raises TokenRefusedError (`missing_token`) unless there is exactly one and it is a Bearer token.
    """
    if len(authorization_headers) == 1:
        scheme, _, token = authorization_headers[0].partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    message = "An access token is needed: 'Authorization: Bearer <token>'."
    raise TokenRefusedError(Reason.MISSING, "missing_token", message)


_REASONS: tuple[tuple[type[jwt.PyJWTError], Reason], ...] = (
    (jwt.ExpiredSignatureError, Reason.EXPIRED),
    (jwt.ImmatureSignatureError, Reason.NOT_YET_VALID),
    (jwt.InvalidIssuerError, Reason.ISSUER),
    (jwt.InvalidAudienceError, Reason.AUDIENCE),
    (jwt.InvalidSignatureError, Reason.SIGNATURE),
    (jwt.InvalidAlgorithmError, Reason.ALGORITHM),
    (jwt.DecodeError, Reason.MALFORMED),
)


def _claims_by(token: str, key: Key, rules: Rules) -> Mapping[str, Any]:
    try:
        claims = _jwt.decode(
            token,
            key.material,
            algorithms=[key.algorithm],
            issuer=rules.issuer,
            audience=rules.audience,
            leeway=rules.leeway_seconds,
            options={"require": _REQUIRED_CLAIMS},
        )
    except jwt.InvalidKeyError:
        raise  # a key of ours is unfit: no caller can mend that
    except jwt.PyJWTError as error:
        reason = next((reason for kind, reason in _REASONS if isinstance(error, kind)), Reason.CLAIMS)
        raise _expired(reason) if reason is Reason.EXPIRED else TokenRefusedError(reason) from error
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise TokenRefusedError(Reason.CLAIMS) from error  # of claims that the library did not expect
    _check_claims(claims, rules)
    return claims


def _check_claims(claims: Mapping[str, Any], rules: Rules) -> None:
    """What the library takes, and we do not."""
    for name in ("exp", "nbf", "iat"):
        if isinstance(claims.get(name), bool) or not isinstance(claims.get(name), int | float | None):
            raise TokenRefusedError(Reason.CLAIMS)  # numbers in text
    if _SUBJECT.fullmatch(claims["sub"]) is None:
        raise TokenRefusedError(Reason.CLAIMS)
    now = time.time()
    if claims["exp"] > now + rules.lifetime_seconds_max + rules.leeway_seconds:
        raise TokenRefusedError(Reason.TOO_OLD)
    if claims.get("iat") is not None and claims["iat"] < now - rules.lifetime_seconds_max - rules.leeway_seconds:
        raise _expired(Reason.TOO_OLD)


def _token_id(token: str, jwt_id: object) -> str:
    """Its `jti`; where there is none of use, the digest of what is signed: the signature has several spellings."""
    if isinstance(jwt_id, str) and _TOKEN_ID.fullmatch(jwt_id):
        return jwt_id
    return f"sha256:{hashlib.sha256(token.rpartition('.')[0].encode()).hexdigest()}"


def _roles(claim: object) -> frozenset[str]:
    """The roles in a list, or in the words of a text; anything else names none."""
    words = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else []
    return frozenset(word for word in words if isinstance(word, str))


def _expired(reason: Reason) -> TokenRefusedError:
    return TokenRefusedError(reason, "token_expired", "The access token has expired; get a new one.")
