"""What handlers get passed in: the user, the database, the settings; and the ids of their paths, decoded."""

from dataclasses import dataclass
from typing import Annotated, cast
from uuid import UUID

from fastapi import Depends, Path, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from gateway.answers import Answers
from gateway.auth import User, authenticate
from gateway.completions import Completions
from gateway.feed import Feeds
from gateway.limits import Slots
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.errors import PermissionDeniedError
from shared.ids import Prefix, from_wire
from shared.messaging import Publisher
from shared.tool_servers import ToolServersFile


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
    completions: Completions


def services_of(request: Request) -> Services:
    return cast("Services", request.app.state.services)


def user_of(request: Request) -> User:
    """The request's user, verified once per request.

    Raises NotAuthenticatedError, and PermissionDeniedError where the path names another `user_id`.
    """
    known: User | None = getattr(request.state, "user", None)
    if known is not None:
        return known
    user = authenticate(request.headers, services_of(request).settings)
    if request.path_params.get("user_id", user.id) != user.id:
        raise PermissionDeniedError("foreign_user", "The user_id in the path is not the user of the access token.")
    request.state.user = user
    return user


# Verifies nothing: it is here for the security scheme in the OpenAPI document.
_bearer = HTTPBearer(auto_error=False, bearerFormat="JWT", description="A token whose `sub` is the user's id.")


def _current_user(
    request: Request, _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> User:
    return user_of(request)


CurrentUser = Annotated[User, Depends(_current_user)]


def _path_user(
    user_id: Annotated[str, Path(description="Must be the subject of the access token.", examples=["ada"])],
    user: CurrentUser,
) -> User:
    assert user.id == user_id  # `user_of` has refused any other
    return user


PathUser = Annotated[User, Depends(_path_user)]


def _database(request: Request) -> Database:
    return services_of(request).database


def _settings(request: Request) -> GatewaySettings:
    return services_of(request).settings


Postgres = Annotated[Database, Depends(_database)]
Settings = Annotated[GatewaySettings, Depends(_settings)]
CurrentServices = Annotated[Services, Depends(services_of)]


def _conversation_id(
    conversation_id: Annotated[str, Path(examples=["conv_0199c3f2a4d87b3f8e5d2c1b0a998877"])],
) -> UUID:
    return from_wire(Prefix.CONVERSATION, conversation_id, param="conversation_id")


def _response_id(response_id: Annotated[str, Path(examples=["resp_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.RESPONSE, response_id, param="response_id")


def _file_id(file_id: Annotated[str, Path(examples=["file_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.FILE, file_id, param="file_id")


def _task_id(task_id: Annotated[str, Path(examples=["task_0199c3f2a4d87b3f8e5d2c1b0a998877"])]) -> UUID:
    return from_wire(Prefix.TASK, task_id, param="task_id")


ConversationId = Annotated[UUID, Depends(_conversation_id)]
ResponseId = Annotated[UUID, Depends(_response_id)]
FileId = Annotated[UUID, Depends(_file_id)]
TaskId = Annotated[UUID, Depends(_task_id)]
