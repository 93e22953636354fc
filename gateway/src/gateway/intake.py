"""The way into every handler that serves a user: first the token, then the body, as strict JSON or a bounded form."""

import sys
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from email.message import Message
from functools import lru_cache
from typing import Any, ClassVar, TypeAlias

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser

from gateway.auth import User
from gateway.deps import identify, rates_of, services_of
from gateway.limits import JsonLimits, announced_length, arriving, body_chunks, decode_json, read_body
from gateway.problems import UnsupportedMediaTypeError
from gateway.settings import GatewaySettings
from shared.errors import InvalidInputError, NotAuthenticatedError, PermissionDeniedError

_FORM_FIELDS_MAX = 8
_FORM_FIELD_BYTES_MAX = 4_096
_FORM_OVERHEAD_BYTES_MAX = 64 * 1_024  # of a form, beside the file in it

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]


@dataclass(frozen=True, slots=True)
class BodyLimits:
    bytes_max: int
    seconds_max: float


class UserRoute(APIRoute):
    """A route that needs a user: `APIRouter(route_class=UserRoute)`.

    FastAPI reads the body before it asks any dependency; here nobody's body is read before its sender is known, nor
    more of it than the limit, nor anything but JSON that Postgres can store.
    """

    media_type: ClassVar[str] = "application/json"

    def body_limits(self, settings: GatewaySettings) -> BodyLimits:
        return BodyLimits(settings.body_bytes_max, settings.body_seconds_max)

    def handler(self) -> Handler:
        """What is asked once the user and the body are known."""
        return super().get_route_handler()

    def get_route_handler(self) -> Handler:
        handle = self.handler()

        async def take_in(request: Request) -> Response:
            user = await _admit(request)
            _check_address(request)
            async with services_of(request).denials.guarded(user):
                return await self._take_in(request, user, handle)

        return take_in

    async def _take_in(self, request: Request, user: User, handle: Handler) -> Response:
        if self.body_field is None:
            return await handle(request)
        services = services_of(request)
        settings = services.settings
        limits = self.body_limits(settings)
        if _is_small(request, limits, settings):
            limits = BodyLimits(limits.bytes_max, settings.body_seconds_max)
            return await handle(await self._read(request, limits))
        # The body is in memory until there is an answer, so that its slot is held as long.
        with services.transfers.take(user.id):
            return await handle(await self._read(request, limits))

    async def _read(self, request: Request, limits: BodyLimits) -> Request:
        body = await read_body(request, limits.bytes_max, limits.seconds_max)
        if body:
            _check_media_type(request, self.media_type)
        value = decode_json(body, JsonLimits.of(services_of(request).settings)) if body else None
        return _JsonRequest(request, body, value)


class LargeBodyRoute(UserRoute):
    """A route whose JSON may hold images and files as data URLs."""

    def body_limits(self, settings: GatewaySettings) -> BodyLimits:
        return BodyLimits(settings.large_body_bytes_max, settings.large_body_seconds_max)


class UploadRoute(UserRoute):
    """A route whose body is a form with one file. It is held in memory, never on a disk."""

    media_type = "multipart/form-data"

    def body_limits(self, settings: GatewaySettings) -> BodyLimits:
        return BodyLimits(settings.file_bytes_max + _FORM_OVERHEAD_BYTES_MAX, settings.large_body_seconds_max)

    async def _read(self, request: Request, limits: BodyLimits) -> Request:
        _check_media_type(request, self.media_type)
        chunks = body_chunks(request, limits.bytes_max)
        parser = _FormParser(
            request.headers,
            chunks,
            max_files=1,
            max_fields=_FORM_FIELDS_MAX,
            max_part_size=_FORM_FIELD_BYTES_MAX,
        )
        async with arriving(limits.seconds_max):
            try:
                form = await parser.parse()
            except MultiPartException as error:
                raise InvalidInputError("invalid_form", f"The form cannot be read: {error.message}") from error
        return _FormRequest(request, form)


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


class _FormParser(MultiPartParser):
    spool_max_size = sys.maxsize


class _FormRequest(Request):
    """A request whose form was read by us."""

    def __init__(self, request: Request, form: FormData) -> None:
        super().__init__(request.scope, request.receive)
        self._form = form  # where Starlette keeps a form that it has read


def _is_small(request: Request, limits: BodyLimits, settings: GatewaySettings) -> bool:
    """Whether the body is known to be no larger than bodies may be everywhere, before any of it is read."""
    announced = announced_length(request)
    return limits.bytes_max <= settings.body_bytes_max or (
        announced is not None and announced <= settings.body_bytes_max
    )


async def _admit(request: Request) -> User:
    """The user. Raises as `identify`, and LimitExceededError for who asks too often: a user, or an address."""
    rates = rates_of(request)
    try:
        user = await identify(request)
    except (NotAuthenticatedError, PermissionDeniedError):
        rates.count_address(request.scope)
        raise
    rates.count_user(request.scope, user.id)
    return user


def _check_media_type(request: Request, wanted: str) -> None:
    if _media_type(request.headers.get("content-type", "")) != wanted or "content-encoding" in request.headers:
        what = "plain JSON" if wanted == "application/json" else "a form"
        raise UnsupportedMediaTypeError(
            "unsupported_media_type", f"The body must be {what}, sent with 'Content-Type: {wanted}'."
        )


@lru_cache(maxsize=64)
def _media_type(content_type: str) -> str:
    """The media type that a header names, without its parameters."""
    header = Message()
    header["content-type"] = content_type
    return header.get_content_type()


def _check_address(request: Request) -> None:
    if "\0" in request.scope["path"] or any("\0" in value for value in request.query_params.values()):
        raise InvalidInputError("invalid_text", "The address must not contain the character U+0000.")
