"""From the credential of a request to its user. Nothing else in the gateway knows how."""

from dataclasses import dataclass

from starlette.requests import Request

from gateway.keys import ProviderKeys
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from shared.tokens import (
    HMAC_ALGORITHM,
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
        head = read_head(token)
        if head.algorithm == HMAC_ALGORITHM and self._secret_keys:
            return verify_token(token, self._secret_keys, self._secret_rules)
        if self._provider_keys is not None and head.algorithm in self._provider_keys.algorithms:
            return verify_token(token, await self._provider_keys.of(head), self._provider_rules)
        raise TokenRefusedError(Reason.ALGORITHM)


def _rules(settings: GatewaySettings, issuer: str, audience: str) -> Rules:
    return Rules(
        issuer=issuer,
        audience=audience,
        lifetime_seconds_max=settings.jwt_lifetime_seconds_max,
        leeway_seconds=settings.jwt_leeway_seconds,
        roles_claim=settings.jwt_roles_claim,
    )
