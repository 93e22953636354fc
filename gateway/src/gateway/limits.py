"""Every limit on what a request may bring and hold: sizes, pages, nesting, streams.

(What holds before a request is one, of its head and its connection, is in `http_server.py`.)
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Annotated, Any, Self, TypeAlias

import msgspec
from fastapi import Depends, Query
from pydantic import BeforeValidator, Field, StringConstraints
from starlette.requests import Request

from gateway import metrics
from gateway.problems import BodyTimeoutError
from gateway.settings import GatewaySettings
from shared.db import Database
from shared.errors import InvalidInputError, LimitExceededError, TooLargeError, UnavailableError

# The wire's own limits, which clients know: not for an operator to set.
METADATA_PAIRS_MAX = 16
METADATA_KEY_CHARS_MAX = 64
METADATA_VALUE_CHARS_MAX = 512
TITLE_CHARS_MAX = 200
PAGE_LENGTH_DEFAULT = 20
PAGE_LENGTH_MAX = 100
OFFSET_MAX = 1_000_000
INTEGER_MAX = 2**63 - 1
_PARAM_KEY_CHARS_MAX = 64  # of a key of the client's, in an error


def few(count_max: int) -> BeforeValidator:
    """Refuses an object with more than `count_max` keys before any of them is looked at.

    Pydantic looks at all of them first and has an error for each: a megabyte of bad ones would hold up everybody.
    """

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count_max:
            raise ValueError(f"at most {count_max} keys are allowed")
        return value

    return BeforeValidator(check)


# The first that is no object ends the look at them; without that there would be an error for each.
Objects: TypeAlias = Annotated[list[dict[str, Any]], Field(fail_fast=True)]

Metadata: TypeAlias = Annotated[
    dict[
        Annotated[str, StringConstraints(max_length=METADATA_KEY_CHARS_MAX)],
        Annotated[str, StringConstraints(max_length=METADATA_VALUE_CHARS_MAX)],
    ],
    Field(max_length=METADATA_PAIRS_MAX, examples=[{"topic": "shopping"}]),
    few(METADATA_PAIRS_MAX),
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

    limit: int = PAGE_LENGTH_DEFAULT
    offset: int = 0


async def _page(
    limit: PageLength = PAGE_LENGTH_DEFAULT,
    offset: Annotated[int, Query(ge=0, le=OFFSET_MAX, description="How many to skip.")] = 0,
) -> Page:
    return Page(limit, offset)


PageWanted: TypeAlias = Annotated[Page, Depends(_page)]


async def read_body(request: Request, bytes_max: int, seconds_max: float) -> bytes:
    """The request's body.

    Raises TooLargeError before more than `bytes_max` were read, announced or not; BodyTimeoutError where it is not
    there after `seconds_max`.
    """
    body = bytearray()
    async with arriving(seconds_max):
        async for chunk in body_chunks(request, bytes_max):
            body += chunk
    return bytes(body)


@asynccontextmanager
async def arriving(seconds_max: float) -> AsyncIterator[None]:
    """Raises BodyTimeoutError where the body that is read inside is not there after `seconds_max`."""
    try:
        async with asyncio.timeout(seconds_max):
            yield
    except TimeoutError as error:
        message = f"The request body did not arrive within {seconds_max:g} seconds."
        raise BodyTimeoutError("body_too_slow", message) from error


async def body_chunks(request: Request, bytes_max: int) -> AsyncGenerator[bytes, None]:
    """The request's body as it arrives. Raises TooLargeError before more than `bytes_max` were given out."""
    announced = announced_length(request)
    if announced is not None and announced > bytes_max:
        raise _body_too_large(bytes_max)
    count = 0
    async for chunk in request.stream():
        count += len(chunk)
        if count > bytes_max:
            raise _body_too_large(bytes_max)
        yield chunk


def announced_length(request: Request) -> int | None:
    """What the request says that its body has; null where it does not say."""
    announced = request.headers.get("content-length", "")
    return int(announced) if announced.isdecimal() else None


def _body_too_large(bytes_max: int) -> TooLargeError:
    return TooLargeError("body_too_large", f"The request body is too large: at most {bytes_max} bytes are allowed.")


@dataclass(frozen=True, slots=True)
class JsonLimits:
    """How deep the JSON of a body may be nested, and how many values it may have."""

    depth_max: int
    values_max: int

    @classmethod
    def of(cls, settings: GatewaySettings) -> Self:
        return cls(settings.json_depth_max, settings.json_values_max)


def decode_json(body: bytes, limits: JsonLimits) -> Any:
    """The value of a JSON text that Postgres can store. Raises InvalidInputError (`invalid_json`, or as below)."""
    # A few bytes of JSON can become a hundred times as many in memory, and every value is looked at below.
    if sum(map(body.count, (b"[", b"{", b","))) > limits.values_max:
        message = f"The body holds too many values: at most {limits.values_max}, each comma or bracket counts as one."
        raise InvalidInputError("json_too_many_values", message)
    try:
        value = msgspec.json.decode(body)
    except RecursionError as error:
        raise _too_deep(limits.depth_max) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError("invalid_json", f"The body is not valid JSON: {error}.") from error
    _check_storable(value, limits.depth_max)
    return value


def _check_storable(value: Any, depth_max: int, *path: str | int) -> None:
    """Raises InvalidInputError where `value` holds what Postgres cannot: NUL, half characters, huge numbers; or is too
    deeply nested. `path` is where it is: keys and indexes.
    """
    if len(path) > depth_max:
        raise _too_deep(depth_max)
    match value:
        case str():
            _check_text(value, path)
        case dict():
            for key, inner in value.items():
                _check_text(key, path)
                _check_storable(inner, depth_max, *path, key)
        case list():
            for index, inner in enumerate(value):
                _check_storable(inner, depth_max, *path, index)
        case int() if abs(value) > INTEGER_MAX:
            param = _param_of(path)
            raise InvalidInputError("number_too_large", f"The number in '{param}' is too large.", param=param or None)


def _check_text(text: str, path: Sequence[str | int]) -> None:
    if "\0" in text:
        message = "Text must not contain the character U+0000."
        raise InvalidInputError("invalid_text", message, param=_param_of(path) or None)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "Text must not contain half of a surrogate pair."
        raise InvalidInputError("invalid_text", message, param=_param_of(path) or None) from error


def _param_of(path: Sequence[str | int]) -> str:
    """The path as errors name it. Only they do: a key may have megabytes, and be that of a thousand values."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part[:_PARAM_KEY_CHARS_MAX]}" for part in path]
    return "".join(parts).removeprefix(".")


def _too_deep(depth_max: int) -> InvalidInputError:
    return InvalidInputError("json_too_deep", f"The body is nested too deeply: at most {depth_max} levels.")


def checked_message(text: str, chars_max: int, param: str = "message") -> str:
    """`text`, as a user may send it. Raises InvalidInputError if it is blank or over `chars_max`."""
    if not text.strip():
        raise InvalidInputError("message_empty", "The message must not be empty.", param=param)
    if len(text) > chars_max:
        message = f"The message has {len(text)} characters; at most {chars_max} are allowed."
        raise InvalidInputError("message_too_long", message, param=param)
    return text


class Slots:
    """How many requests of one kind each user, and all users together, may hold open at this process."""

    def __init__(self, what: str, *, per_user_max: int, all_max: int) -> None:
        """`what` they are is told to the user, and in the code: `too_many_<what>`."""
        self._what = what
        self._per_user_max = per_user_max
        self._all_max = all_max
        self._taken: Counter[str] = Counter()
        self._all_taken = 0
        self._gauge = metrics.OPEN.labels(what)

    def take(self, user_id: str) -> "Slot":
        """Count one more.

        Raises LimitExceededError where the user has as many as allowed; UnavailableError where all together have.
        """
        if self._taken[user_id] >= self._per_user_max:
            message = f"Too many open {self._what}: at most {self._per_user_max} at a time."
            raise LimitExceededError(f"too_many_{self._what}", message, retry_after_seconds=5)
        if self._all_taken >= self._all_max:
            message = f"There is no room for more {self._what} here; please try again a little later."
            raise UnavailableError("overloaded", message, retry_after_seconds=5)
        self._taken[user_id] += 1
        self._all_taken += 1
        self._gauge.inc()
        return Slot(self, user_id)

    def give_back(self, user_id: str) -> None:
        self._all_taken -= 1
        self._gauge.dec()
        self._taken[user_id] -= 1
        if not self._taken[user_id]:
            del self._taken[user_id]


class Slot:
    """A slot that is held until `close`, or the end of a `with`; closing it again does nothing."""

    def __init__(self, slots: Slots, user_id: str) -> None:
        self._slots: Slots | None = slots
        self._user_id = user_id

    def close(self) -> None:
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back(self._user_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_COUNT_SECONDS = 1.0


class OpenJobs:
    """How many responses of all users are queued or running, counted at most once a second.

    What is accepted between two counts is not counted: a limit for the system's sake, not an exact one.
    """

    def __init__(self, database: Database, count_max: int) -> None:
        self._database = database
        self._count_max = count_max
        self._count = 0
        self._counted_at = float("-inf")
        self._counting: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Raises UnavailableError (`overloaded`) where there are as many as allowed."""
        if asyncio.get_running_loop().time() - self._counted_at > _COUNT_SECONDS:
            if self._counting is None or self._counting.done():
                self._counting = asyncio.create_task(self._read())
            # One count for all who ask meanwhile: while Postgres hangs, nobody waits for more than one.
            await asyncio.shield(self._counting)
        if self._count >= self._count_max:
            message = "Too many messages are waiting to be answered; please try again a little later."
            raise UnavailableError("overloaded", message, retry_after_seconds=5)

    async def _read(self) -> None:
        async with self._database.transaction(None) as connection:
            await connection.execute("select set_config('app.scope', 'dispatch', true)")
            self._count = await connection.fetchval(
                "select count(*) from (select from jobs where status in ('queued', 'in_progress') limit $1) open_jobs",
                self._count_max,
            )
        self._counted_at = asyncio.get_running_loop().time()
