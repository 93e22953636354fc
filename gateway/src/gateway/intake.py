"""The way into every handler that serves a user: first the token, then the body, as strict JSON."""

from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute

from gateway.deps import services_of, user_of
from gateway.limits import decode_json, read_body
from gateway.problems import UnsupportedMediaTypeError
from shared.errors import InvalidInputError


class UserRoute(APIRoute):
    """A route that needs a user: `APIRouter(route_class=UserRoute)`.

    FastAPI reads the body before it asks any dependency; here nobody's body is read before its sender is known, nor
    more of it than the limit, nor anything but JSON that Postgres can store.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def take_in(request: Request) -> Response:
            user_of(request)
            _check_address(request)
            if self.body_field is None:
                return await handle(request)
            return await handle(await _with_json(request))

        return take_in


class _JsonRequest(Request):
    """A request whose body was read and decoded by us."""

    def __init__(self, request: Request, body: bytes, value: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._read = body
        self._value = value

    async def body(self) -> bytes:
        return self._read

    async def json(self) -> Any:
        return self._value


async def _with_json(request: Request) -> Request:
    settings = services_of(request).settings
    body = await read_body(request, settings.body_bytes_max, settings.body_seconds_max)
    if body:
        _check_media_type(request)
    return _JsonRequest(request, body, decode_json(body) if body else None)


def _check_media_type(request: Request) -> None:
    media_type = Message()
    media_type["content-type"] = request.headers.get("content-type", "")
    if media_type.get_content_type() != "application/json" or "content-encoding" in request.headers:
        raise UnsupportedMediaTypeError(
            "unsupported_media_type", "The body must be plain JSON, sent with 'Content-Type: application/json'."
        )


def _check_address(request: Request) -> None:
    if (
        "\0" in request.url.path
        or "\0" in request.scope["path"]
        or any("\0" in v for v in request.query_params.values())
    ):
        raise InvalidInputError("invalid_text", "The address must not contain the character U+0000.")
