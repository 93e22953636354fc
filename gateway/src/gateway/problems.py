"""Errors → HTTP: the only place that knows status codes, and both renderings of an error.

    /v1      {"error": {"message", "type", "param", "code"}}, as OpenAI's clients know it
    others   {"status": "error", "data": null, "error": {"error_code", "error_message", "status_code", "details",
              "request_id"}}

An unknown error is answered by `AnswersFailures`, which is around all that could raise one.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Literal

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from pydantic.config import JsonDict
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway import metrics
from gateway.application import Application
from shared import errors
from shared.observability import get_logger

log = get_logger()


class UnsupportedMediaTypeError(errors.InvalidInputError):
    """The body is in a form that is not read."""


class BodyTimeoutError(errors.InvalidInputError):
    """The body did not come in time."""


class AnswerFailedError(errors.ParleyError):
    """The message was accepted and is kept, but its job ended `failed`; `details` hold the ids."""


_STATUSES: tuple[tuple[type[errors.ParleyError], HTTPStatus], ...] = (
    (UnsupportedMediaTypeError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (BodyTimeoutError, HTTPStatus.REQUEST_TIMEOUT),
    (errors.InvalidInputError, HTTPStatus.BAD_REQUEST),
    (errors.NotAuthenticatedError, HTTPStatus.UNAUTHORIZED),
    (errors.PermissionDeniedError, HTTPStatus.FORBIDDEN),
    (errors.NotFoundError, HTTPStatus.NOT_FOUND),
    (errors.ConflictError, HTTPStatus.CONFLICT),
    (errors.TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (errors.KeyReusedError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (errors.LimitExceededError, HTTPStatus.TOO_MANY_REQUESTS),
    (errors.UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE),
    (AnswerFailedError, HTTPStatus.BAD_GATEWAY),
    (errors.ModelRefusedError, HTTPStatus.BAD_GATEWAY),
)
_OPENAI_TYPES = {
    HTTPStatus.UNAUTHORIZED: "authentication_error",
    HTTPStatus.FORBIDDEN: "permission_error",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limit_error",
}
_HEADERS: dict[int, dict[str, str]] = {
    HTTPStatus.UNAUTHORIZED: {"www-authenticate": "Bearer"},
    # OpenAI's clients send a 409 twice more unless they are told not to.
    HTTPStatus.CONFLICT: {"x-should-retry": "false"},
    # The same message would be said a second time.
    HTTPStatus.BAD_GATEWAY: {"x-should-retry": "false"},
    # The rest of the body is not read, so the connection cannot serve another request.
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: {"connection": "close"},
    HTTPStatus.REQUEST_TIMEOUT: {"connection": "close"},
}
_RETRY_AFTER_SECONDS = 2.0
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

_API_EXAMPLE: JsonDict = {
    "status": "error",
    "data": None,
    "error": {
        "error_code": "message_too_long",
        "error_message": "The message has 5001 characters; at most 5000 are allowed.",
        "status_code": 400,
        "details": {"field": "message"},
        "request_id": "req_0199c3f2a4d87b3f8e5d2c1b0a998877",
    },
}
_OPENAI_EXAMPLE: JsonDict = {
    "error": {
        "message": "No such conversation.",
        "type": "invalid_request_error",
        "param": None,
        "code": "not_found",
    }
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """An error as it is told to a client."""

    status: int
    code: str
    message: str
    param: str | None = None
    details: dict[str, Any] | None = None
    retry_after_seconds: float | None = None


_INTERNAL = Problem(
    status=HTTPStatus.INTERNAL_SERVER_ERROR,
    code="internal_error",
    message="Something went wrong on our side. If it persists, tell us the request id.",
)


def problem_of(error: errors.ParleyError) -> Problem:
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), None)
    if status is None:
        return _INTERNAL
    wait = getattr(error, "retry_after_seconds", None)
    if status is HTTPStatus.SERVICE_UNAVAILABLE and wait is None:
        wait = _RETRY_AFTER_SECONDS
    return Problem(
        status=status,
        code=error.code,
        message=error.message,
        param=error.param,
        details=error.details,
        retry_after_seconds=wait,
    )


def render(scope: Scope, problem: Problem, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to the request of `scope`, in the form of the interface that it came by; counted by its code."""
    metrics.REFUSED.labels(problem.code).inc()
    path: str = scope["path"]
    is_openai = path == "/v1" or path.startswith("/v1/")
    body = openai_error(problem) if is_openai else _for_api(problem, request_id_of(scope))
    own = dict(_HEADERS.get(problem.status, {}))
    if problem.retry_after_seconds is not None:
        own["retry-after"] = str(max(1, math.ceil(problem.retry_after_seconds)))
    return JSONResponse(body, int(problem.status), headers={**(headers or {}), **own})


def openai_error(problem: Problem) -> dict[str, Any]:
    """The body that OpenAI's clients know."""
    is_ours = problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    error_type = "server_error" if is_ours else _OPENAI_TYPES.get(HTTPStatus(problem.status), "invalid_request_error")
    code = "invalid_api_key" if problem.status == HTTPStatus.UNAUTHORIZED else problem.code
    return {"error": {"message": problem.message, "type": error_type, "param": problem.param, "code": code}}


def _for_api(problem: Problem, request_id: str) -> dict[str, Any]:
    details = dict(problem.details or {})
    if problem.param is not None:
        details["field"] = problem.param
    return {
        "status": "error",
        "data": None,
        "error": {
            "error_code": problem.code,
            "error_message": problem.message,
            "status_code": int(problem.status),
            "details": details or None,
            "request_id": request_id,
        },
    }


class _ApiErrorFacts(BaseModel):
    error_code: str
    error_message: str
    status_code: int
    details: dict[str, Any] | None
    request_id: str


class ApiError(BaseModel):
    """An error under `/api`. `error_code` is stable; `error_message` is fit to show."""

    model_config = ConfigDict(json_schema_extra={"examples": [_API_EXAMPLE]})

    status: Literal["error"]
    data: None
    error: _ApiErrorFacts


class _OpenAIErrorFacts(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(BaseModel):
    """An error under `/v1`, as OpenAI's clients know it."""

    model_config = ConfigDict(json_schema_extra={"examples": [_OPENAI_EXAMPLE]})

    error: _OpenAIErrorFacts


def _documented(model: type[BaseModel]) -> dict[int | str, dict[str, Any]]:
    meanings: dict[int | str, str] = {
        400: "The request is malformed; the message names the field and its limit.",
        401: "No valid access token.",
        404: "No such thing, or not yours.",
        503: "Something we need is failing: try again after `Retry-After` seconds.",
        "default": "Any other error.",
    }
    return {status: {"model": model, "description": meaning} for status, meaning in meanings.items()}


# For `APIRouter(responses=…)`.
API_ERRORS = _documented(ApiError)
V1_ERRORS = _documented(OpenAIError)


def install_problems(app: Application) -> None:
    """Let `app` answer every error in our form."""
    app.add_exception_handler(errors.ParleyError, _answer_parley_error)
    app.add_exception_handler(RequestValidationError, _answer_validation_error)
    app.add_exception_handler(HTTPException, _answer_router_error)
    app.add_middleware(AnswersFailures)


async def _answer_parley_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.ParleyError)
    problem = problem_of(error)
    if problem is _INTERNAL:
        log.error("error_without_status", code=error.code, exc_info=error)
    return render(request.scope, problem)


async def _answer_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    faults = [_fault(fault) for fault in error.errors()]
    first = faults[0]
    problem = Problem(
        status=HTTPStatus.BAD_REQUEST,
        code="invalid_input",
        message=f"{first['field']}: {first['message']}",
        param=first["field"],
        details={"fields": faults} if len(faults) > 1 else None,
    )
    return render(request.scope, problem)


def _fault(fault: dict[str, Any]) -> dict[str, str]:
    message = fault["msg"].removeprefix("Value error, ")
    return {"field": _field_of(fault["loc"]) or "body", "message": message[:1].lower() + message[1:]}


def _field_of(location: tuple[int | str, ...]) -> str:
    """`("body", "items", 0, "title")` → `items[0].title`; the leading word says only where the field was looked for."""
    text = ""
    for part in location[1:]:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


async def _answer_router_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    messages = {
        HTTPStatus.NOT_FOUND: "There is nothing at this address.",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.method} is not possible at this address.",
    }
    problem = Problem(
        status=status,
        code=status.phrase.lower().replace(" ", "_"),
        message=messages.get(status, status.phrase),
    )
    allowed = {"allow": _allowed_methods(request)} if status is HTTPStatus.METHOD_NOT_ALLOWED else None
    return render(request.scope, problem, allowed)


def _allowed_methods(request: Request) -> str:
    """What is possible at the address of `request`: often by several routes, of which the router names one."""

    def is_possible(method: str) -> bool:
        asked = {**request.scope, "method": method, "fastapi": {}}
        return any(route.matches(asked)[0] is Match.FULL for route in request.app.router.routes)

    return ", ".join(method for method in _METHODS if is_possible(method))


def request_id_of(scope: Scope) -> str:
    request_id: str = scope.get("state", {}).get("request_id", "")
    return request_id


def answer_headers_of(scope: Scope) -> dict[str, str]:
    """More headers for the answer to the request of `scope`, whatever it will be."""
    headers: dict[str, str] = scope["state"]["answer_headers"]
    return headers


class AnswersFailures:
    """Answers what nobody caught; gives each answer the request's id, and the headers that were found for it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = scope["state"]["status"] = message["status"]
                metrics.ANSWER_SECONDS.labels(metrics.route_of(scope)).observe(time.monotonic() - started_at)
                more = {"x-request-id": request_id_of(scope), **answer_headers_of(scope)}
                message["headers"] = [*message["headers"], *((k.encode(), v.encode()) for k, v in more.items())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            log.info("client_gone", route=metrics.route_of(scope))
        except Exception:
            log.exception("request_failed", method=scope["method"], route=metrics.route_of(scope))
            if status:
                raise  # half an answer is out: only a broken connection tells the client
            await render(scope, _INTERNAL)(scope, receive, send_with_id)
