"""The model endpoint as chat completions need it: one request, its answer in one piece or in chunks, its errors.

What is handed on is what belongs to a completion. The model's name is the operator's and stays here; so do fields of
the endpoint's own, some of which repeat the prompt. Errors are told in our words, with a stable code:

    503  model_unreachable         no connection
         model_timeout             no answer, or no further piece of it, in time
         model_failing             5xx, 408, 409, 425, 3xx, or an error in the middle of the stream
         model_cut_stream          the answer broke off
         overloaded                no connection is free
    502  model_bad_answer          not a completion
         model_output_too_large    more bytes than are taken
         model_misconfigured       401, 402, 403, 404: the operator's key, quota, model or address
    429  model_rate_limited        429
    400  context_length_exceeded   413, or the endpoint says so
         model_request_refused     any other 4xx
"""

import json
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, TypeAlias

import httpx2
import msgspec

from gateway.settings import GatewaySettings
from shared.errors import (
    InvalidInputError,
    LimitExceededError,
    ModelRefusedError,
    ModelUnavailableError,
    ParleyError,
    UnavailableError,
)
from shared.events import JsonObject
from shared.ids import Prefix, new_wire_id
from shared.observability import get_logger
from shared.tls import trusting

log = get_logger()

_CONNECT_SECONDS = 5.0
_WRITE_SECONDS = 30.0
_POOL_SECONDS = 2.0
_IDLE_CONNECTIONS_MAX = 20
_LINE_BYTES_MAX = 4 * 2**20  # one chunk of a stream
_ERROR_BYTES_MAX = 64 * 1024  # of an error's body; the rest is not read
_RETRY_SECONDS_MAX = 3_600.0

_NO_CHOICES = re.compile(rb"\[\s*\]")
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')  # inside a text its quotation marks would be escaped
_TRANSIENT_STATUSES = {408, 409, 425}
_OPERATORS_STATUSES = {401, 402, 403, 404}
_OPERATORS_WORDS = {"insufficient_quota", "invalid_api_key", "model_not_found"}
_RATE_WORDS = {"rate_limit_error", "rate_limit_exceeded"}
_TOO_LONG_WORDS = {"context_length_exceeded", "exceed_context_size_error"}
# Endpoints without a code for it say it in words, such as "This model's maximum context length is 4096 tokens".
_SAYS_TOO_LONG = re.compile(
    r"(maximum|exceed\w*|available|longer than).{0,60}\bcontext\b|prompt is too long", re.IGNORECASE
)
_MESSAGES = {
    "model_unreachable": "The model cannot be reached.",
    "model_timeout": "The model did not answer in time.",
    "model_failing": "The model reported a failure.",
    "model_cut_stream": "The model's answer broke off.",
    "model_bad_answer": "The model's answer could not be read.",
    "model_output_too_large": "The model's answer grew beyond all limits.",
    "model_misconfigured": "The model refuses our access; the operator has to look at its settings.",
    "overloaded": "Too many completions are under way; please try again a little later.",
}

_Raw: TypeAlias = msgspec.Raw | msgspec.UnsetType


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of a completion."""

    input_tokens: int = 0
    output_tokens: int = 0


class _ReportedUsage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class _Received(msgspec.Struct):
    """A completion, or a chunk of one: the fields that are handed on, most of them unread."""

    id: str | None = None
    created: float | None = None
    choices: _Raw = msgspec.UNSET
    usage: _Raw = msgspec.UNSET
    error: _Raw = msgspec.UNSET
    system_fingerprint: _Raw = msgspec.UNSET
    service_tier: _Raw = msgspec.UNSET


class _HandedOn(msgspec.Struct):
    id: str
    object: str
    created: int
    model: str
    choices: _Raw
    usage: _Raw = msgspec.UNSET
    system_fingerprint: _Raw = msgspec.UNSET
    service_tier: _Raw = msgspec.UNSET


class Answer:
    """A completion, or a chunk of one, as it came from the endpoint."""

    def __init__(self, data: bytes) -> None:
        """Raises ModelRefusedError (`model_bad_answer`) for what is neither, and the error where it is one."""
        try:
            self._received = _decoded(data)
            self.usage = self._reported_usage()
            said_error = _value_of(self._received.error)
        except (ValueError, RecursionError) as error:
            raise _refused("model_bad_answer", type(error).__name__) from error
        if said_error is not None:
            raise _stream_error(json.loads(said_error))

    @property
    def has_choices(self) -> bool:
        return not _NO_CHOICES.fullmatch(_value_of(self._received.choices) or b"[]")

    @property
    def is_finished(self) -> bool:
        """Whether a choice has its finish reason."""
        return _FINISHED.search(_value_of(self._received.choices) or b"") is not None

    def rendered(self, object_name: str, model: str, id_: str, *, with_usage: bool) -> bytes:
        """As it goes to the client, under the name of `model`; `id_` stands in where the endpoint gave none."""
        received = self._received
        return msgspec.json.encode(
            _HandedOn(
                id=received.id or id_,
                object=object_name,
                created=int(received.created or datetime.now(UTC).timestamp()),
                model=model,
                choices=msgspec.Raw(b"[]") if received.choices is msgspec.UNSET else received.choices,
                usage=received.usage if with_usage else msgspec.UNSET,
                system_fingerprint=received.system_fingerprint,
                service_tier=received.service_tier,
            )
        )

    def _reported_usage(self) -> Usage | None:
        usage = _value_of(self._received.usage)
        if usage is None:
            return None
        said = msgspec.json.decode(usage, type=_ReportedUsage)
        return Usage(max(0, said.prompt_tokens or 0), max(0, said.completion_tokens or 0))


def new_completion_id() -> str:
    return new_wire_id(Prefix.COMPLETION)


class ModelEndpoint:
    """One per process: it holds the connections; `close` it at the end."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._url = f"{settings.openai_base_url.rstrip('/')}/chat/completions"
        self._model = settings.model
        self._bytes_max = settings.completion_bytes_max
        self._client = httpx2.AsyncClient(
            headers={
                "authorization": f"Bearer {settings.openai_api_key.get_secret_value()}",
                "content-type": "application/json",
                # Compressed, a stream would arrive in lumps.
                "accept-encoding": "identity",
            },
            verify=trusting(settings.tls_ca_file),
            limits=httpx2.Limits(
                max_connections=settings.completions_max, max_keepalive_connections=_IDLE_CONNECTIONS_MAX
            ),
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def ask(self, body: JsonObject, silence_seconds_max: float) -> httpx2.Response:
        """The endpoint's answer to `body`, to be read and closed by the caller. Raises what is above."""
        request = self._client.build_request(
            "POST",
            self._url,
            content=msgspec.json.encode({**body, "model": self._model}),
            timeout=httpx2.Timeout(
                connect=_CONNECT_SECONDS, write=_WRITE_SECONDS, pool=_POOL_SECONDS, read=silence_seconds_max
            ),
        )
        with _translated():
            response = await self._client.send(request, stream=True)
        if response.status_code == HTTPStatus.OK:
            return response
        try:
            raise await _status_error(response, body)
        finally:
            await response.aclose()

    async def whole(self, response: httpx2.Response) -> Answer:
        """The completion in `response`."""
        data = b"".join([piece async for piece in self._pieces(response)])
        answer = Answer(data)
        if not answer.has_choices:
            raise _refused("model_bad_answer", "no choices")
        return answer

    async def chunks(self, response: httpx2.Response) -> AsyncGenerator[Sequence[Answer], None]:
        """The chunks in `response`, those that came together at once.

        What follows `[DONE]` is read too, so that the connection can be used again, and ignored.
        """
        if response.headers.get("content-type", "").startswith(("text/html", "application/json")):
            raise _refused("model_bad_answer", "not an event stream")
        rest = b""
        is_done = False
        async for piece in self._pieces(response):
            *lines, rest = (rest + piece).split(b"\n")
            if len(rest) > _LINE_BYTES_MAX:
                raise _refused("model_output_too_large", "one line")
            answers = []
            for data in _data_of(lines):
                is_done = is_done or data == b"[DONE]"
                if not is_done:
                    answers.append(Answer(data))
            if answers:
                yield answers

    async def _pieces(self, response: httpx2.Response) -> AsyncGenerator[bytes, None]:
        count = 0
        with _translated():
            async for piece in response.aiter_raw():
                count += len(piece)
                if count > self._bytes_max:
                    raise _refused("model_output_too_large", "all of it")
                yield piece


def cut_stream() -> ModelUnavailableError:
    """The stream ended in the middle."""
    return _unavailable("model_cut_stream", "no finish reason")


def late_answer() -> ModelUnavailableError:
    """The answer takes longer than it may."""
    return _unavailable("model_timeout", "no end")


def _data_of(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The data in the lines of an event stream. No endpoint spreads its JSON over several lines."""
    for line in lines:
        name, _, value = line.partition(b":")
        if name == b"data":
            yield value.strip()


def _decoded(data: bytes) -> _Received:
    data.decode()  # what is not read below is not checked either
    try:
        return msgspec.json.decode(data, type=_Received)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # msgspec refuses an escaped half of a surrogate pair, which a model may well write; the slow parser takes it.
        whole = json.dumps(json.loads(data), ensure_ascii=False).encode(errors="replace")
        return msgspec.json.decode(whole, type=_Received)


def _value_of(raw: _Raw) -> bytes | None:
    return None if raw is msgspec.UNSET or bytes(raw) in {b"null", b"{}"} else bytes(raw)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except httpx2.PoolTimeout as error:
        raise UnavailableError("overloaded", _MESSAGES["overloaded"], retry_after_seconds=5) from error
    except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
        raise _unavailable("model_unreachable", type(error).__name__) from error
    except httpx2.TimeoutException as error:
        raise _unavailable("model_timeout", type(error).__name__) from error
    except httpx2.HTTPError as error:
        raise _unavailable("model_cut_stream", type(error).__name__) from error


class _SaidError(msgspec.Struct):
    code: Any = None
    type: Any = None
    param: Any = None
    message: Any = None


class _SaidErrorBody(msgspec.Struct):
    error: _SaidError | str | None = None


async def _status_error(response: httpx2.Response, asked: JsonObject) -> ParleyError:
    said = bytearray()
    with _translated():
        async for piece in response.aiter_raw():
            said += piece
            if len(said) > _ERROR_BYTES_MAX:
                break
    try:
        body = msgspec.json.decode(said, type=_SaidErrorBody).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = None
    facts = body if isinstance(body, _SaidError) else _SaidError(message=body)
    return _classified(response.status_code, facts, asked, _retry_after(response.headers.get("retry-after", "")))


def _stream_error(raw: object) -> ParleyError:
    """An error that was sent within an answer. Its code may be a word or a status."""
    fields = raw if isinstance(raw, dict) else {"message": raw}
    facts = _SaidError(**{name: fields.get(name) for name in ("code", "type", "param", "message")})
    status = str(facts.code)
    if not re.fullmatch(r"[1-5]\d\d", status):
        status = "400" if facts.type == "invalid_request_error" else "500"
    return _classified(int(status), facts, {}, None)


def _classified(status: int, said: _SaidError, asked: JsonObject, retry_after_seconds: float | None) -> ParleyError:
    words = {str(said.code), str(said.type)}
    if status in _OPERATORS_STATUSES or words & _OPERATORS_WORDS:
        return _refused("model_misconfigured", status)
    if status == HTTPStatus.TOO_MANY_REQUESTS or words & _RATE_WORDS:
        log.warning("completion_failed", code="model_rate_limited", cause=status)
        return LimitExceededError(
            "model_rate_limited",
            "The model takes no more requests at the moment.",
            retry_after_seconds=retry_after_seconds or 1.0,
        )
    if status in _TRANSIENT_STATUSES or not 400 <= status < 500:  # noqa: PLR2004 - the client errors of HTTP
        return _unavailable("model_failing", status, retry_after_seconds)
    if (
        status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        or words & _TOO_LONG_WORDS
        or _SAYS_TOO_LONG.search(str(said.message))
    ):
        return InvalidInputError(
            "context_length_exceeded", "The messages are too long for the model; send fewer.", param="messages"
        )
    param = _param(said.param, asked)
    at_fault = f": look at '{param}'" if param else ""
    return InvalidInputError("model_request_refused", f"The model refuses this request{at_fault}.", param=param)


def _param(said: object, asked: JsonObject) -> str | None:
    """The field that the endpoint finds fault with, if it is one of the client's."""
    name = re.match(r"\w+", said) if isinstance(said, str) else None
    return name[0] if name and name[0] in asked else None


def _retry_after(said: str) -> float | None:
    return min(float(said), _RETRY_SECONDS_MAX) if re.fullmatch(r"\d{1,6}(\.\d+)?", said) else None


def _unavailable(code: str, cause: object, retry_after_seconds: float | None = None) -> ModelUnavailableError:
    log.warning("completion_failed", code=code, cause=cause)
    return ModelUnavailableError(code, _MESSAGES[code], retry_after_seconds=retry_after_seconds)


def _refused(code: str, cause: object) -> ModelRefusedError:
    log.warning("completion_failed", code=code, cause=cause)
    return ModelRefusedError(code, _MESSAGES[code])
