"""Who is calling: the bearer token that the worker minted for this server, and nothing else."""

from collections.abc import Sequence

from pydantic import SecretStr
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from shared.errors import NotAuthenticatedError
from shared.observability import bound_ids, get_logger
from shared.tokens import (
    TASK_TOOLS_AUDIENCE,
    TOOL_TOKEN_ISSUER,
    TOOL_TOKEN_SECONDS_MAX,
    Identity,
    Rules,
    bearer_token,
    secret_keys,
    verify_token,
)

log = get_logger()

_IDENTITY = "parley.identity"
_RULES = Rules(issuer=TOOL_TOKEN_ISSUER, audience=TASK_TOOLS_AUDIENCE, lifetime_seconds_max=TOOL_TOKEN_SECONDS_MAX)


class BearerAuth:
    """Lets requests with a valid token through and answers all others with 401, before any tool is looked up."""

    def __init__(self, app: ASGIApp, secret: SecretStr, previous_secrets: Sequence[SecretStr] = ()) -> None:
        """The worker signs with `secret`; tokens by `previous_secrets` are taken as well, while they are replaced."""
        self._app = app
        self._keys = secret_keys(secret.get_secret_value(), [old.get_secret_value() for old in previous_secrets])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            identity = self._identity(Headers(scope=scope))
        except NotAuthenticatedError as refusal:
            log.warning("caller_refused", code=refusal.code)
            await _refusal(refusal)(scope, receive, send)
            return
        with bound_ids(user_id=identity.user_id):
            await self._app({**scope, _IDENTITY: identity}, receive, send)

    def _identity(self, headers: Headers) -> Identity:
        return verify_token(bearer_token(headers.getlist("authorization")), self._keys, _RULES)


def caller_of(request: Request) -> str:
    """The user id of a request that `BearerAuth` let through."""
    identity: Identity = request.scope[_IDENTITY]
    return identity.user_id


def _refusal(error: NotAuthenticatedError) -> JSONResponse:
    challenge = "Bearer" if error.code == "missing_token" else 'Bearer error="invalid_token"'
    return JSONResponse(
        {"error": {"code": error.code, "message": error.message}},
        status_code=401,
        headers={"www-authenticate": challenge},
    )
