"""What handlers get passed in: the user, the database, the settings; and the ids of their paths, decoded.

All of them are coroutines, though none waits for anything: FastAPI calls any other in a thread of its own, which costs
more than what they do.
"""

from dataclasses import dataclass
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Path, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer

from gateway import metrics
from gateway.answers import Answers
from gateway.auth import ADMIN, Authenticator, User
from gateway.completions import Completions
from gateway.denials import Denials
from gateway.feed import Feeds
from gateway.limits import Slots
from gateway.rates import Rates, RequestRates
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.errors import NotAuthenticatedError, PermissionDeniedError
from shared.ids import Prefix, from_wire
from shared.messaging import Publisher
from shared.observability import get_logger
from shared.tokens import TokenRefusedError
from shared.tool_servers import ToolServersFile

log = get_logger()


@dataclass(frozen=True, kw_only=True)
class Services:
    """What the process holds open; `app.state.services`."""

    settings: GatewaySettings
    database: Database
    publisher: Publisher
    answers: Answers
    feeds: Feeds
    tool_servers: ToolServersFile
    transfers: Slots
    exports: Slots
    export_rates: Rates
    completions: Completions
    authenticator: Authenticator
    sessions: Sessions
    denials: Denials
    logins: Rates  # without a token, by address
    share_reads: Rates  # by address


def services_of(request: Request) -> Services:
    return cast("Services", request.app.state.services)


def rates_of(request: Request) -> RequestRates:
    return cast("RequestRates", request.app.state.rates)


async def identify(request: Request) -> User:
    """The request's user, as the credential says; `user_of` knows it from then on.

    Raises NotAuthenticatedError; PermissionDeniedError where the user is shut out, the path names another `user_id`, or
    a cookie was sent for another site's page; UnavailableError.
    """
    services = services_of(request)
    try:
        user = await services.authenticator.user_of(request)
        services.denials.check(user)
    except (NotAuthenticatedError, PermissionDeniedError) as refusal:
        reason = refusal.reason if isinstance(refusal, TokenRefusedError) else refusal.code
        metrics.TOKENS_REFUSED.labels(reason).inc()
        log.info("credential_refused", reason=reason)
        raise
    if request.path_params.get("user_id", user.id) != user.id:
        raise PermissionDeniedError("foreign_user", "The user_id in the path is not the user of the access token.")
    request.state.user = user
    return user


def user_of(request: Request) -> User:
    """The user of a request that was identified, as every one by a `UserRoute` is before anything else."""
    user: User = request.state.user
    return user


# They verify nothing: they are here for the security schemes in the OpenAPI document.
_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT", description="A token whose `sub` is the user's id.")
_session = APIKeyCookie(
    name="__Host-parley_session",
    auto_error=False,
    scheme_name="Session",
    description=(
        "The cookie that `POST /session` sets (`parley_session` without https). A request that changes something needs "
        "`X-CSRF-Token` as well, and an origin that is allowed."
    ),
)


async def _current_user(
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    _also_documented: Annotated[str | None, Depends(_session)],
) -> User:
    return user_of(request)


CurrentUser = Annotated[User, Depends(_current_user)]


async def _current_admin(user: CurrentUser) -> User:
    if ADMIN not in user.roles:
        raise PermissionDeniedError("admin_only", "Only for operators: the access token lacks the role 'admin'.")
    return user


CurrentAdmin = Annotated[User, Depends(_current_admin)]
FOR_ADMINS = Depends(_current_admin)  # where it makes no difference which


async def _path_user(
    user_id: Annotated[str, Path(description="Must be the subject of the access token.", examples=["ada"])],
    user: CurrentUser,
) -> User:
    assert user.id == user_id  # `user_of` has refused any other
    return user


PathUser = Annotated[User, Depends(_path_user)]


async def _database(request: Request) -> Database:
    return services_of(request).database


async def _settings(request: Request) -> GatewaySettings:
    return services_of(request).settings


Postgres = Annotated[Database, Depends(_database)]
Settings = Annotated[GatewaySettings, Depends(_settings)]


async def _services(request: Request) -> Services:
    return services_of(request)


CurrentServices = Annotated[Services, Depends(_services)]


async def _conversation_id(
    conversation_id: Annotated[str, Path(examples=["conv_0199c3f2a4d87b3f8e5d2c1b0a998877"])],
) -> UUID:
    return from_wire(Prefix.CONVERSATION, conversation_id, param="conversation_id")


async def _response_id(response_id: Annotated[str, Path(examples=["resp_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.RESPONSE, response_id, param="response_id")


async def _file_id(file_id: Annotated[str, Path(examples=["file_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.FILE, file_id, param="file_id")


async def _task_id(task_id: Annotated[str, Path(examples=["task_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.TASK, task_id, param="task_id")


ConversationId = Annotated[UUID, Depends(_conversation_id)]
ResponseId = Annotated[UUID, Depends(_response_id)]
FileId = Annotated[UUID, Depends(_file_id)]
TaskId = Annotated[UUID, Depends(_task_id)]
