"""Every limit on what a request may bring and hold: sizes, pages, nesting, streams."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, TypeAlias

import msgspec
from fastapi import Depends, Query
from pydantic import Field, StringConstraints
from starlette.requests import Request

from shared.errors import InvalidInputError, LimitExceededError, TooLargeError

# The wire's own limits, which clients know: not for an operator to set.
METADATA_PAIRS_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512
TITLE_CHARS_MAX = 200
PAGE_LENGTH_DEFAULT = 20
PAGE_LENGTH_MAX = 100
OFFSET_MAX = 1_000_000
JSON_DEPTH_MAX = 64
INTEGER_MAX = 2**63 - 1

Metadata: TypeAlias = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=METADATA_KEY_CHARS_MAX)],
        Annotated[str, StringConstraints(max_length=METADATA_VALUE_CHARS_MAX)],
    ],
    Field(max_length=METADATA_PAIRS_MAX, examples=[{"topic": "shopping"}]),
]
Title: TypeAlias = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=TITLE_CHARS_MAX),
    Field(examples=["Groceries"]),
]
PageLength: TypeAlias = Annotated[int, Query(ge=1, le=PAGE_LENGTH_MAX, description="Length of the page.")]


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list: `limit` entries after the first `offset`."""

    limit: PageLength = PAGE_LENGTH_DEFAULT
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX, description="How many to skip.")] = 0


PageWanted: TypeAlias = Annotated[Page, Depends(Page)]


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The request's body. Raises TooLargeError before more than `bytes_max` were read, announced or not."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > bytes_max:
        raise _body_too_large(bytes_max)
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > bytes_max:
            raise _body_too_large(bytes_max)
    return bytes(body)


def _body_too_large(bytes_max: int) -> TooLargeError:
    return TooLargeError("body_too_large", f"The request body is too large: at most {bytes_max} bytes are allowed.")


def decode_json(body: bytes) -> Any:
    """The value of a JSON text that Postgres can store. Raises InvalidInputError (`invalid_json`, or as below)."""
    try:
        value = msgspec.json.decode(body)
    except RecursionError as error:
        raise _too_deep() from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError("invalid_json", f"The body is not valid JSON: {error}.") from error
    check_storable(value)
    return value


def check_storable(value: Any, param: str = "", depth: int = 0) -> None:
    """Raises InvalidInputError where `value` holds what Postgres cannot: NUL, half characters, huge numbers; or is too
    deeply nested.
    """
    if depth > JSON_DEPTH_MAX:
        raise _too_deep()
    match value:
        case str():
            _check_text(value, param)
        case dict():
            for key, inner in value.items():
                _check_text(key, param)
                check_storable(inner, f"{param}.{key}" if param else key, depth + 1)
        case list():
            for index, inner in enumerate(value):
                check_storable(inner, f"{param}[{index}]", depth + 1)
        case int() if abs(value) > INTEGER_MAX:
            raise InvalidInputError("number_too_large", f"The number in '{param}' is too large.", param=param or None)


def _check_text(text: str, param: str) -> None:
    if "\0" in text:
        message = "Text must not contain the character U+0000."
        raise InvalidInputError("invalid_text", message, param=param or None)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "Text must not contain half of a surrogate pair."
        raise InvalidInputError("invalid_text", message, param=param or None) from error


def _too_deep() -> InvalidInputError:
    return InvalidInputError("json_too_deep", f"The body is nested too deeply: at most {JSON_DEPTH_MAX} levels.")


def checked_message(text: str, chars_max: int, param: str = "message") -> str:
    """`text`, as a user may send it. Raises InvalidInputError if it is blank or over `chars_max`."""
    if not text.strip():
        raise InvalidInputError("message_empty", "The message must not be empty.", param=param)
    if len(text) > chars_max:
        message = f"The message has {len(text)} characters; at most {chars_max} are allowed."
        raise InvalidInputError("message_too_long", message, param=param)
    return text


class StreamSlots:
    """How many streams each user may hold open at this process."""

    def __init__(self, per_user_max: int) -> None:
        self._per_user_max = per_user_max
        self._open: Counter[str] = Counter()

    def check(self, user_id: str) -> None:
        """Raises LimitExceededError (`too_many_streams`) where the user has as many as allowed."""
        if self._open[user_id] >= self._per_user_max:
            message = f"Too many open streams: at most {self._per_user_max} at a time."
            raise LimitExceededError("too_many_streams", message, retry_after_seconds=5)

    @contextmanager
    def held(self, user_id: str) -> Iterator[None]:
        """Count one stream. It was checked before anything was stored, so nothing is refused here."""
        self._open[user_id] += 1
        try:
            yield
        finally:
            self._open[user_id] -= 1
            if not self._open[user_id]:
                del self._open[user_id]
