"""From the credential of a request to its user. Nothing else in the gateway knows how."""

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request

from gateway.keys import ProviderKeys
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from shared.tokens import (
    HMAC_ALGORITHM,
    Head,
    Identity,
    Key,
    Reason,
    Rules,
    TokenRefusedError,
    bearer_token,
    read_head,
    secret_keys,
    verify_token,
)

ADMIN = "admin"  # the role that operators' endpoints want

_QUERY_NAMES = ("access_token", "token", "jwt", "api_key")  # where clients put tokens that do not belong there


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. `expires_at`, in seconds since the epoch, is when the token ends, and with it an open stream.

    `token_ids` name the token, and what it was made of. With `session_id` it is the cookie of a session.
    """

    id: str
    expires_at: float
    roles: frozenset[str] = frozenset()
    token_ids: tuple[str, ...] = ()
    session_id: str | None = None


class Authenticator:
    """Knows which tokens hold: those by a shared secret, those by the identity provider's keys, and our sessions.

    Each issuer's tokens are verified with that issuer's keys alone, and each key by its own algorithm.
    """

    def __init__(self, settings: GatewaySettings, provider_keys: ProviderKeys | None, sessions: Sessions) -> None:
        self._secret_keys: tuple[Key, ...] = ()
        if settings.jwt_secret is not None:
            previous = [secret.get_secret_value() for secret in settings.jwt_previous_secrets]
            self._secret_keys = secret_keys(settings.jwt_secret.get_secret_value(), previous)
        self._provider_keys = provider_keys
        self._sessions = sessions
        self._known: dict[bytes, _Known] = {}  # the oldest first
        self._known_max = settings.known_tokens_max
        self._secret_rules = _rules(settings, settings.jwt_issuer, settings.jwt_audience)
        self._provider_rules = _rules(settings, settings.jwt_jwks_issuer or "", settings.jwt_jwks_audience or "")

    async def user_of(self, request: Request) -> User:
        """The user whose token the request carries: as `Authorization: Bearer`, or else in the cookie of a session.

        Raises NotAuthenticatedError; UnavailableError where the provider's keys cannot be had; PermissionDeniedError
        where the cookie may have been sent for another site's page.
        """
        if any(name in request.query_params for name in _QUERY_NAMES):
            message = "A token belongs into 'Authorization: Bearer <token>', never into an address, which gets around."
            raise TokenRefusedError(Reason.IN_QUERY, "token_in_query", message)
        headers = request.headers.getlist("authorization")
        session = None if headers else self._sessions.of(request)
        if session is not None:
            return User(session.user_id, session.expires_at, session.roles, session.token_ids, session.id)
        identity = await self._verified(bearer_token(headers))
        return User(identity.user_id, identity.expires_at, identity.roles, (identity.token_id,))

    async def _verified(self, token: str) -> Identity:
        """Whom `token` speaks for. What was verified before, by the keys that count today, holds until it expires."""
        digest = hashlib.sha256(token.encode()).digest()
        known = self._known.get(digest)
        head = known.head if known else read_head(token)
        keys, rules = await self._keys_for(head)
        if known and known.keys is keys and time.time() < known.identity.expires_at:
            return known.identity
        identity = verify_token(token, keys, rules)
        self._remember(digest, _Known(head, keys, identity))
        return identity

    @property
    def known_token_count(self) -> int:
        return len(self._known)

    async def _keys_for(self, head: Head) -> tuple[Sequence[Key], Rules]:
        if head.algorithm == HMAC_ALGORITHM and self._secret_keys:
            return self._secret_keys, self._secret_rules
        if self._provider_keys is not None and head.algorithm in self._provider_keys.algorithms:
            return await self._provider_keys.of(head), self._provider_rules
        raise TokenRefusedError(Reason.ALGORITHM)

    def _remember(self, digest: bytes, known: "_Known") -> None:
        self._known.pop(digest, None)
        if len(self._known) >= self._known_max:
            del self._known[next(iter(self._known))]
        self._known[digest] = known


@dataclass(frozen=True, slots=True)
class _Known:
    """A token that was found to hold. The token itself is not kept, only its digest."""

    head: Head
    keys: Sequence[Key]
    identity: Identity


def _rules(settings: GatewaySettings, issuer: str, audience: str) -> Rules:
    return Rules(
        issuer=issuer,
        audience=audience,
        lifetime_seconds_max=settings.jwt_lifetime_seconds_max,
        leeway_seconds=settings.jwt_leeway_seconds,
        roles_claim=settings.jwt_roles_claim,
    )
