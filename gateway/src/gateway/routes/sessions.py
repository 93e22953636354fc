"""`/session`: for web pages, which exchange their token for a cookie that no script can read."""

import re
from http import HTTPStatus

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from gateway.auth import ADMIN, User
from gateway.deps import CurrentServices, CurrentUser
from gateway.intake import UserRoute
from gateway.limits import JsonLimits, decode_json, read_body
from gateway.problems import API_ERRORS, UnsupportedMediaTypeError
from gateway.rates import address_of
from gateway.sessions import Session
from shared.errors import InvalidInputError
from shared.tokens import bearer_token

router = APIRouter(prefix="/session", tags=["session"], route_class=UserRoute, responses=API_ERRORS)
dev_router = APIRouter(prefix="/session", tags=["session"])

_LOGIN_BYTES_MAX = 4_096
_USER_ID = re.compile(r"[\x21-\x7e]{1,255}")


class SessionView(BaseModel):
    """Who one is. `csrf_token` is for `X-CSRF-Token`; null with a Bearer token, which needs none."""

    user_id: str
    roles: list[str]
    expires_at: int = Field(description="Seconds since the epoch.")
    csrf_token: str | None


@router.post("", summary="Begin a session", status_code=HTTPStatus.CREATED)
async def begin_session(
    request: Request, response: Response, user: CurrentUser, services: CurrentServices
) -> SessionView:
    """Exchange the Bearer token for a cookie, which ends with it. The page need not keep the token."""
    bearer_token(request.headers.getlist("authorization"))  # a session does not beget another
    session = services.sessions.begin(
        response,
        user_id=user.id,
        expires_at=user.expires_at,
        roles=user.roles & {ADMIN},  # no other means anything here, and a cookie is small
        token_ids=user.token_ids,
    )
    return _begun(response, session, services)


@router.get("", summary="Who am I?")
async def read_session(response: Response, user: CurrentUser, services: CurrentServices) -> SessionView:
    """Of the session's cookie, or of the Bearer token. 401: of none."""
    response.headers["cache-control"] = "no-store"
    return SessionView(
        user_id=user.id,
        roles=sorted(user.roles),
        expires_at=int(user.expires_at),
        csrf_token=services.sessions.csrf_token(user.session_id) if user.session_id is not None else None,
    )


@router.delete("", summary="Log out", status_code=HTTPStatus.NO_CONTENT)
async def end_session(user: CurrentUser, services: CurrentServices) -> Response:
    """The session, or the Bearer token, is worth nothing any more, wherever it is; open streams close."""
    await services.denials.log_out(user, services.settings.jwt_leeway_seconds)
    response = Response(status_code=HTTPStatus.NO_CONTENT)
    services.sessions.end(response)
    return response


@dev_router.post("/dev", include_in_schema=False, status_code=HTTPStatus.CREATED)
async def log_in_without_token(request: Request, response: Response, services: CurrentServices) -> SessionView:
    """Be whoever one says: for the page of a local stack, as `./dev token` is for curl."""
    services.logins.spend(address_of(request.scope))
    services.sessions.check_origin(request, is_browser=False)
    services.sessions.check_host(request)
    settings = services.settings
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        message = "The body must be plain JSON, sent with 'Content-Type: application/json'."
        raise UnsupportedMediaTypeError("unsupported_media_type", message)
    body = await read_body(request, _LOGIN_BYTES_MAX, settings.body_seconds_max)
    said = decode_json(body, JsonLimits.of(settings))
    user_id = said.get("user_id") if isinstance(said, dict) else None
    if not isinstance(user_id, str) or _USER_ID.fullmatch(user_id) is None:
        message = "user_id: 1 to 255 printable ASCII characters, without blanks, are needed."
        raise InvalidInputError("invalid_input", message, param="user_id")
    session = services.sessions.begin(response, user_id=user_id)
    services.denials.check(User(user_id, session.expires_at))
    return _begun(response, session, services)


def _begun(response: Response, session: Session, services: CurrentServices) -> SessionView:
    response.headers["cache-control"] = "no-store"
    return SessionView(
        user_id=session.user_id,
        roles=sorted(session.roles),
        expires_at=int(session.expires_at),
        csrf_token=services.sessions.csrf_token(session.id),
    )
