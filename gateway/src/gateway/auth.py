"""From the credential of a request to its user. Nothing else in the gateway knows how."""

from dataclasses import dataclass

from starlette.datastructures import Headers

from gateway.settings import GatewaySettings
from shared.tokens import bearer_token, verify_token


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. `expires_at`, in seconds since the epoch, is when the token ends, and with it an open stream."""

    id: str
    expires_at: float


def authenticate(headers: Headers, settings: GatewaySettings) -> User:
    """The user whose token the request carries as `Authorization: Bearer`. Raises NotAuthenticatedError."""
    identity = verify_token(
        bearer_token(headers.getlist("authorization")),
        settings.jwt_secret.get_secret_value(),
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
    )
    return User(identity.user_id, identity.expires_at)
