"""Tokens by shared secret (JWT, HS256): a user's, verified by the gateway, and a tool call's, made by the worker.

A token for a tool server is minted anew: the user's own token is never passed on, as it would open more than the tools.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from shared.errors import NotAuthenticatedError

TOOL_TOKEN_ISSUER = "parley"  # noqa: S105 - a name, no secret
TASK_TOOLS_AUDIENCE = "task-tools"
TOOL_TOKEN_SECONDS_MAX = 300.0
USER_TOKEN_SECONDS_MAX = 86_400.0
LEEWAY_SECONDS = 30.0
TOKEN_CHARS_MAX = 8_192

_ALGORITHM = "HS256"
_REQUIRED_CLAIMS = ["iss", "aud", "sub", "exp"]
_SUBJECT = re.compile(r"[\x21-\x7e]{1,255}")
_SEGMENT_SEPARATORS = 2
_jwt = jwt.PyJWT(options={"enforce_minimum_key_length": True})


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom a token speaks for, until when (seconds since the epoch)."""

    user_id: str
    expires_at: float


def mint_token(secret: str, user_id: str, *, issuer: str, audience: str, lifetime_seconds: float) -> str:
    """A token that `verify_token` takes for `user_id`. Raises jwt.InvalidKeyError if `secret` has under 32 bytes."""
    now = int(time.time())
    claims = {"iss": issuer, "aud": audience, "sub": user_id, "iat": now, "exp": now + int(lifetime_seconds)}
    return _jwt.encode(claims, secret, _ALGORITHM)


def mint_tool_token(secret: str, user_id: str, audience: str, lifetime_seconds: float = TOOL_TOKEN_SECONDS_MAX) -> str:
    """A token that lets one tool server, `audience`, act for `user_id`, for five minutes at most."""
    lifetime_seconds = min(lifetime_seconds, TOOL_TOKEN_SECONDS_MAX)
    return mint_token(secret, user_id, issuer=TOOL_TOKEN_ISSUER, audience=audience, lifetime_seconds=lifetime_seconds)


def verify_token(
    token: str, secret: str, *, issuer: str, audience: str, lifetime_seconds_max: float = USER_TOKEN_SECONDS_MAX
) -> Identity:
    """Whom `token` speaks for.

    Holds: our signature by our algorithm, `iss` and `aud` are ours, `exp` lies ahead and no further than
    `lifetime_seconds_max`, `sub` is printable ASCII without blanks. Clocks may differ by `LEEWAY_SECONDS`.

    Raises NotAuthenticatedError (`token_expired`, else `invalid_token`); which check failed is in its cause only.
    """
    if len(token) > TOKEN_CHARS_MAX or not token.isascii() or token.count(".") != _SEGMENT_SEPARATORS:
        raise _invalid()
    try:
        claims = _jwt.decode(
            token,
            secret,
            algorithms=[_ALGORITHM],
            issuer=issuer,
            audience=audience,
            leeway=LEEWAY_SECONDS,
            options={"require": _REQUIRED_CLAIMS},
        )
    except jwt.ExpiredSignatureError as exc:
        raise NotAuthenticatedError("token_expired", "The access token has expired; get a new one.") from exc
    except jwt.InvalidKeyError:
        raise  # our own secret is unfit: no caller can mend that
    except jwt.PyJWTError as exc:
        raise _invalid() from exc
    return _identity(claims, lifetime_seconds_max)


def bearer_token(authorization_headers: Sequence[str]) -> str:
    """The token of a request, given every `Authorization` header it has.

    Raises NotAuthenticatedError (`missing_token`) unless there is exactly one and it is a Bearer token.
    """
    if len(authorization_headers) == 1:
        scheme, _, token = authorization_headers[0].partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            return token.strip()
    raise NotAuthenticatedError("missing_token", "An access token is needed: 'Authorization: Bearer <token>'.")


def _identity(claims: dict[str, Any], lifetime_seconds_max: float) -> Identity:
    expires_at, subject = claims["exp"], claims["sub"]
    if not isinstance(expires_at, int | float):  # the library takes numbers in text, too
        raise _invalid()
    if expires_at > time.time() + lifetime_seconds_max + LEEWAY_SECONDS:
        raise _invalid()
    if _SUBJECT.fullmatch(subject) is None:
        raise _invalid()
    return Identity(user_id=subject, expires_at=float(expires_at))


def _invalid() -> NotAuthenticatedError:
    return NotAuthenticatedError("invalid_token", "The access token is not valid.")
