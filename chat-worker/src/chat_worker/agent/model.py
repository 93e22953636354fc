"""A chat model behind any OpenAI-compatible endpoint, streamed.

The `openai` client makes the request; its stream is read as bytes and parsed here, since the client's own typed chunks
cost several times what everything else does per token, and its request transformer blocks the loop for as long as the
history is. A round counts only with a finish reason: a stream that was cut looks like one that ended, until you ask.

Whatever goes wrong is a `ModelUnavailableError` (another try may help) or a `ModelRefusedError` (none will), with a
stable code:

    unavailable  model_unreachable        no connection
                 model_timeout            no answer, no further piece of it, or no end of it in time
                 model_rate_limited       429
                 model_failing            5xx, 408, 409, 425, 3xx, or an error in the middle of the stream
                 model_cut_stream         the stream ended, or broke, without a finish reason
                 model_bad_stream         no HTTP, no event stream, no JSON of a chunk, an unknown finish reason,
                                          nameless calls
    refused      model_access_denied      401, 403: the key
                 model_not_found          404: the model's name or the endpoint's address
                 model_quota_exhausted    402, or any status with `insufficient_quota`
                 context_length_exceeded  413, or the endpoint says so: fewer messages would do
                 model_content_filter     the endpoint's filter refuses the prompt
                 model_request_refused    any other 4xx; the message names the parameter, where the endpoint does
                 model_output_too_large   more bytes than `ModelLimits` allows: a runaway, dear to repeat

Messages of these errors are fit for the user. What the endpoint said is in the error's notes, for the log.
"""

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import isfinite
from secrets import token_hex
from typing import Any, Literal

import aiohttp
import httpx2
import msgspec
import openai

from chat_worker.agent.values import (
    Finish,
    FunctionTool,
    JsonObject,
    ModelRequest,
    ModelRound,
    ReasoningDelta,
    TextDelta,
    Tool,
    ToolCall,
    Usage,
    storable,
)
from shared.errors import ModelRefusedError, ModelUnavailableError
from shared.model_calls import ModelCall


@dataclass(frozen=True, slots=True)
class ModelLimits:
    connect_seconds: float = 5
    silence_seconds: float = 60  # longest pause between two pieces of the answer, the one before the first included
    write_seconds: float = 10
    pool_seconds: float = 5
    round_seconds: float = 600  # checked as pieces arrive, so silence may add `silence_seconds`
    trailer_seconds: float = 2  # wait for the usage, which comes after the finish reason
    stream_bytes_max: int = 64 * 2**20  # of one round, frames and comments included
    event_bytes_max: int = 2**20  # of one line of the stream
    output_bytes_max: int = 2**20  # of one round's text, names and arguments
    reasoning_bytes_max: int = 2**16  # of one round's reasoning; the rest is not told
    error_bytes_max: int = 2**16  # of an error's body; the rest is not read


class OpenAIModel:
    """The implementation of `values.Model`. One per process: it holds the connection pool; `close` it at the end.

    `output_limit_name` is how the endpoint calls the limit of output tokens; old ones know only `max_tokens`.
    """

    def __init__(  # noqa: PLR0913 - each is one property of the endpoint
        self,
        base_url: str,
        api_key: str,
        model: str,
        *,
        limits: ModelLimits | None = None,
        output_limit_name: Literal["max_completion_tokens", "max_tokens"] = "max_completion_tokens",
        verify: ssl.SSLContext | bool = True,
    ) -> None:
        self._model = model
        self._limits = limits or ModelLimits()
        self._output_limit_name = output_limit_name
        self._client = _client(base_url, api_key, self._limits, verify=verify)

    async def round(self, request: ModelRequest) -> AsyncGenerator[ReasoningDelta | TextDelta | ModelRound, None]:
        answer = _Answer(self._limits)
        with ModelCall(request.use, self._model) as call:
            async with aclosing(self._chunks(request)) as chunks:
                async for chunk in chunks:
                    reasoning, text = answer.take_reasoning(chunk), answer.take(chunk)
                    if call.is_silent and (reasoning or text):
                        call.break_silence()
                    if reasoning:
                        yield ReasoningDelta(reasoning)
                    if text:
                        yield TextDelta(text)
                    if answer.finish is not None:
                        await self._take_trailer(answer, chunks)
                        break
            whole = answer.whole()
            used = whole.usage
            call.used(used.input_tokens, used.output_tokens, used.cached_tokens, used.reasoning_tokens)
        yield whole

    async def close(self) -> None:
        await self._client.close()

    async def _take_trailer(self, answer: "_Answer", chunks: "AsyncIterator[_Chunk]") -> None:
        """Take the usage, if it comes soon. The answer is whole already: nothing that happens now can spoil it."""
        with suppress(TimeoutError, ModelUnavailableError, ModelRefusedError):
            async with asyncio.timeout(self._limits.trailer_seconds):
                async for chunk in chunks:
                    answer.take_usage(chunk)

    async def _chunks(self, request: ModelRequest) -> "AsyncGenerator[_Chunk, None]":
        """The stream's chunks. It may end anywhere; every failure is one of the errors above."""
        try:
            async with (
                aclosing(await self._post(msgspec.json.encode(self._body(request)))) as response,
                aclosing(self._events(response.aiter_bytes())) as events,
            ):
                async for data in events:
                    yield _chunk(data)
        except openai.APIStatusError as error:
            raise _status_error(error) from error
        except (openai.APITimeoutError, httpx2.TimeoutException, TimeoutError) as error:
            raise _timeout_or_loss(error) from error
        except openai.APIConnectionError as error:
            raise _unavailable("model_unreachable", error.__cause__ or error) from error
        except (openai.APIError, httpx2.HTTPError) as error:
            raise _unavailable("model_cut_stream", error) from error
        except aiohttp.ClientError as error:
            # What the transport knows no word of httpx2's for: answers that are no HTTP. It quotes them, and so would
            # a traceback.
            raise _unavailable("model_bad_stream", f"no HTTP: {type(error).__name__}") from None

    async def _post(self, body: bytes) -> httpx2.Response:
        """The answer as it begins; to be closed by the caller.

        As bytes, the request is neither transformed nor encoded by the client, which blocks the loop for as long as the
        history is, and for a quarter of a second where a large file is part of it.
        """
        limits = self._limits
        # The transport bounds each wait but that for an endpoint which does not take the request.
        async with asyncio.timeout(limits.connect_seconds + limits.write_seconds + limits.silence_seconds):
            answer: object = await self._client.post(
                "/chat/completions",
                cast_to=httpx2.Response,
                content=body,
                options={"headers": {"Content-Type": "application/json"}},
                stream=True,
                stream_cls=openai.AsyncStream[Any],
            )
        assert isinstance(answer, httpx2.Response)  # as cast, whatever the client's types say of streams
        return answer

    async def _events(self, pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The data of the stream's events.

        What follows `[DONE]` is read too, so that the connection can be used again, and ignored.
        """
        clock = asyncio.get_running_loop().time
        deadline = clock() + self._limits.round_seconds
        received = 0
        lines = _DataLines(self._limits.event_bytes_max)
        done = False
        while True:
            # The transport bounds this wait too, but not behind a frame that it cannot read: it hangs up then, and
            # neither tells who waits for the rest nor counts the seconds any more.
            async with asyncio.timeout(self._limits.silence_seconds):
                piece = await anext(pieces, None)
            if piece is None:
                return
            received += len(piece)
            if received > self._limits.stream_bytes_max:
                raise _refused("model_output_too_large", f"over {self._limits.stream_bytes_max} bytes of stream")
            if clock() > deadline:
                raise _unavailable("model_timeout", f"no end within {self._limits.round_seconds} seconds")
            for data in lines.feed(piece):
                done = done or data == b"[DONE]"
                if not done:
                    yield data

    def _body(self, request: ModelRequest) -> JsonObject:
        """What the client sends as it is. What was not asked for is left out: endpoints differ in what they know."""
        body: JsonObject = {
            **request.parameters,
            "model": self._model,
            "messages": request.messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if request.tools:
            body["tools"] = [_described(tool) for tool in request.tools]
            body["tool_choice"] = request.tool_choice
            if not request.parallel_tool_calls:
                body["parallel_tool_calls"] = False
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.top_p is not None:
            body["top_p"] = request.top_p
        if request.output_token_count_max is not None:
            body[self._output_limit_name] = request.output_token_count_max
        return body


def _client(base_url: str, api_key: str, limits: ModelLimits, *, verify: ssl.SSLContext | bool) -> openai.AsyncOpenAI:
    timeout = httpx2.Timeout(
        connect=limits.connect_seconds,
        read=limits.silence_seconds,
        write=limits.write_seconds,
        pool=limits.pool_seconds,
    )

    async def bound_error_body(response: httpx2.Response) -> None:
        # The client reads the whole body of an error before it raises it, however long that is.
        if response.is_error and isinstance(response.stream, httpx2.AsyncByteStream):
            response.stream = _Head(response.stream, limits.error_bytes_max)

    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=api_key,
        max_retries=0,  # ours to decide: what was said already, what may be paid for twice, who waits
        timeout=timeout,
        # Compressed, a stream would arrive in lumps, and bytes on the wire would say nothing about bytes in memory.
        default_headers={"Accept-Encoding": "identity"},
        http_client=openai.DefaultAioHttpClient(
            timeout=timeout,
            event_hooks={"response": [bound_error_body]},
            verify=verify,
            follow_redirects=False,  # a conversation goes where the operator said, and nowhere else
        ),
    )


def _timeout_or_loss(error: BaseException) -> ModelUnavailableError:
    """What it was: the transport says the same of every connection that is refused, or lost before its time."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, aiohttp.ClientConnectionError):
        cause = cause.__cause__
    if cause is None or isinstance(cause, aiohttp.ServerTimeoutError):
        return _unavailable("model_timeout", error)
    # Of a connection that was not made it names host and reason; of one that was lost, perhaps what came until then.
    said = cause if isinstance(cause, aiohttp.ClientConnectorError) else type(cause).__name__
    return _unavailable(
        "model_unreachable" if isinstance(error, openai.APIConnectionError) else "model_cut_stream", said
    )


def _described(tool: Tool | FunctionTool) -> JsonObject:
    if isinstance(tool, Tool):
        function = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
        return {"type": "function", "function": function}
    said = {"description": tool.description, "parameters": tool.parameters, "strict": tool.strict}
    known = {name: value for name, value in said.items() if value is not None}
    return {"type": "function", "function": {"name": tool.name, **known}}


class _Head(httpx2.AsyncByteStream):
    """The first bytes of a stream."""

    def __init__(self, stream: httpx2.AsyncByteStream, bytes_max: int) -> None:
        self._stream = stream
        self._bytes_max = bytes_max

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._bytes_max
        async for piece in self._stream:
            yield piece[:left]
            left -= len(piece)
            if left <= 0:
                return

    async def aclose(self) -> None:
        await self._stream.aclose()


class _DataLines:
    """Finds the `data` lines in pieces of an event stream.

    Each is taken for an event, since no endpoint spreads its JSON over several. A last line without its end is not
    given out: it may be half of one.
    """

    def __init__(self, line_bytes_max: int) -> None:
        self._line_bytes_max = line_bytes_max
        self._open = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        self._open += piece
        if b"\n" in piece:
            *lines, self._open = self._open.split(b"\n")
            for line in lines:
                self._check(line)
                if (data := _data(bytes(line).rstrip(b"\r"))) is not None:
                    yield data
        self._check(self._open)

    def _check(self, line: bytearray) -> None:
        if len(line) > self._line_bytes_max:
            raise _refused("model_output_too_large", f"a line of over {self._line_bytes_max} bytes")


def _data(line: bytes) -> bytes | None:
    """The data of a line, if that is what it holds. Other fields mean nothing here; no field means another format."""
    name, _, value = line.partition(b":")
    if name == b"data":
        return value.strip()
    if name in {b"", b"event", b"id", b"retry"}:  # an empty name is an empty line, or a comment
        return None
    raise _unavailable("model_bad_stream", f"no event stream: a line of {len(line)} bytes")


class _FunctionDelta(msgspec.Struct):
    name: str | None = None
    arguments: str | None = None


class _CallDelta(msgspec.Struct):
    index: int | None = None
    id: str | None = None
    function: _FunctionDelta | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_CallDelta] | None = None
    reasoning_content: Any = None  # DeepSeek's name for it, and vLLM's
    reasoning: Any = None  # OpenRouter's, and newer vLLM's


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct):
    """The fields of a chunk that matter here. Usage and error are looked at only where they are there."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


class _CachedTokens(msgspec.Struct):
    cached_tokens: int | None = None


class _ReasoningTokens(msgspec.Struct):
    reasoning_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _CachedTokens | None = None
    completion_tokens_details: _ReasoningTokens | None = None


_CHUNK = msgspec.json.Decoder(_Chunk)
_TOKENS_MAX = 1_000_000_000  # of a round: beyond it is nonsense, whose sums no column could hold


def _chunk(data: bytes) -> _Chunk:
    try:
        chunk = _decoded(data)
    except (ValueError, RecursionError) as error:
        raise _unavailable("model_bad_stream", f"no chunk, of {len(data)} bytes") from error
    if chunk.error:
        raise _stream_error(chunk.error)
    return chunk


def _decoded(data: bytes) -> _Chunk:
    try:
        return _CHUNK.decode(data)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        # msgspec refuses an escaped lone surrogate, which a model may well write; the slow parser takes it.
        return msgspec.convert(json.loads(data), _Chunk)


class _Call:
    """A tool call as it arrives: its id and name once, its arguments in pieces."""

    def __init__(self, index: int | None) -> None:
        self.index = index
        self.id = ""
        self.name = ""
        self.arguments: list[str] = []

    def is_continued_by(self, delta: _CallDelta) -> bool:
        """Some endpoints leave out the index, or give each call of a round the same one: then a new id tells."""
        same_index = delta.index is None or delta.index == self.index
        return same_index and (not delta.id or delta.id == self.id)

    def take(self, delta: _CallDelta) -> str:
        """Returns what was added."""
        function = delta.function or _FunctionDelta()
        self.id = self.id or storable(delta.id or "")
        name = storable(function.name or "")
        if name == self.name:  # some endpoints repeat it with each piece
            name = ""
        self.name += name
        arguments = storable(function.arguments or "")
        self.arguments.append(arguments)
        return name + arguments


class _Answer:
    """A round as it arrives."""

    def __init__(self, limits: ModelLimits) -> None:
        self.finish: Finish | None = None
        self._limits = limits
        self._reasoning: list[str] = []
        self._reasoning_bytes_left = limits.reasoning_bytes_max
        self._texts: list[str] = []
        self._calls: list[_Call] = []
        self._usage = Usage()
        self._size = 0

    def take_reasoning(self, chunk: _Chunk) -> str:
        """Returns the reasoning that was added. What comes behind text, or is too much, is left out."""
        delta = chunk.choices[0].delta if chunk.choices else None
        if delta is None or self._size or not self._reasoning_bytes_left:
            return ""
        said = delta.reasoning_content or delta.reasoning
        if not isinstance(said, str) or not said:
            return ""
        text = storable(said).encode()[: self._reasoning_bytes_left].decode(errors="ignore")
        self._reasoning_bytes_left = max(0, self._reasoning_bytes_left - len(said.encode(errors="replace")))
        self._reasoning.append(text)
        return text

    def take(self, chunk: _Chunk) -> str:
        """Returns the text that was added."""
        self.take_usage(chunk)
        if not chunk.choices:
            return ""
        choice = chunk.choices[0]
        delta = choice.delta or _Delta()
        text = storable((delta.content or "") + (delta.refusal or ""))
        self._texts.append(text)
        self._grow(text)
        for call_delta in delta.tool_calls or ():
            self._grow(self._call_of(call_delta).take(call_delta))
        if choice.finish_reason:
            self.finish = self._checked_finish(choice.finish_reason)
        return text

    def take_usage(self, chunk: _Chunk) -> None:
        if chunk.usage is not None:
            self._usage = _usage(chunk.usage)

    def whole(self) -> ModelRound:
        if self.finish is None:
            raise _unavailable("model_cut_stream", "no finish reason")
        calls = tuple(self._tool_calls()) if self.finish is Finish.TOOL_CALLS else ()
        return ModelRound(0, "".join(self._texts), calls, self.finish, self._usage, "".join(self._reasoning))

    def _call_of(self, delta: _CallDelta) -> _Call:
        for call in reversed(self._calls):
            if call.is_continued_by(delta):
                return call
        self._calls.append(_Call(delta.index))
        return self._calls[-1]

    def _grow(self, text: str) -> None:
        self._size += len(text.encode())
        if self._size > self._limits.output_bytes_max:
            raise _refused("model_output_too_large", f"over {self._limits.output_bytes_max} bytes of output")

    def _checked_finish(self, reason: str) -> Finish:
        """The finish reason, where what arrived agrees with it; some endpoints end rounds of tool calls with "stop"."""
        try:
            finish = Finish(reason)
        except ValueError as error:
            raise _unavailable("model_bad_stream", f"finish reason {_word(reason)}") from error
        if finish is Finish.STOP and self._calls:
            finish = Finish.TOOL_CALLS
        if finish is Finish.TOOL_CALLS and not (self._calls and all(call.name for call in self._calls)):
            raise _unavailable("model_bad_stream", "no tool calls, or nameless ones, in a round of tool calls")
        return finish

    def _tool_calls(self) -> Iterator[ToolCall]:
        """The calls, each with an id of its own: missing and repeated ones are made up."""
        seen: set[str] = set()
        for call in self._calls:
            call_id = f"call_{token_hex(12)}" if not call.id or call.id in seen else call.id
            seen.add(call_id)
            yield ToolCall(call_id, call.name, "".join(call.arguments))


def _usage(raw: object) -> Usage:
    """The usage; zeros where it makes no sense, which is no reason to lose an answer."""
    try:
        usage = msgspec.convert(raw, _Usage, strict=False)
    except ValueError:
        return Usage()
    cached = usage.prompt_tokens_details or _CachedTokens()
    reasoning = usage.completion_tokens_details or _ReasoningTokens()
    counts = (usage.prompt_tokens, usage.completion_tokens, cached.cached_tokens, reasoning.reasoning_tokens)
    if any(count is not None and not 0 <= count <= _TOKENS_MAX for count in counts):
        return Usage()
    return Usage(*(count or 0 for count in counts))


_MESSAGES = {
    "model_unreachable": "The model cannot be reached.",
    "model_timeout": "The model did not answer in time.",
    "model_rate_limited": "The model takes no more requests at the moment.",
    "model_failing": "The model reported a failure.",
    "model_cut_stream": "The model's answer broke off.",
    "model_bad_stream": "The model's answer could not be read.",
    "model_access_denied": "The model refuses our access; its key has to be checked.",
    "model_not_found": "The configured model does not exist at its endpoint.",
    "model_quota_exhausted": "The quota of the model is used up.",
    "context_length_exceeded": "The conversation is too long for the model.",
    "model_content_filter": "The model's content filter refuses this conversation.",
    "model_request_refused": "The model refuses this request.",
    "model_output_too_large": "The model's answer grew beyond all limits.",
}
_REFUSED_STATUSES = {
    401: "model_access_denied",
    402: "model_quota_exhausted",
    403: "model_access_denied",
    404: "model_not_found",
    413: "context_length_exceeded",
}
_REFUSED_WORDS = {
    "insufficient_quota": "model_quota_exhausted",
    "context_length_exceeded": "context_length_exceeded",
    "exceed_context_size_error": "context_length_exceeded",  # llama.cpp
    "content_filter": "model_content_filter",  # Azure
    "content_policy_violation": "model_content_filter",
    "invalid_api_key": "model_access_denied",
    "model_not_found": "model_not_found",
}
_TRANSIENT_STATUSES = {408, 409, 425, 429}
_STATUS = re.compile(r"[1-5]\d\d", re.ASCII)
_WORD = re.compile(r"[a-zA-Z][a-zA-Z0-9_.]{0,63}|[0-9]{1,6}")
# Endpoints without a code for it say it in words, such as "This model's maximum context length is 4096 tokens".
_SAYS_TOO_LONG = re.compile(
    r"(maximum|exceed\w{0,4}|available|longer than).{0,60}\bcontext\b|prompt is too long", re.IGNORECASE
)


# What our clients call the parameters that an endpoint may refuse.
_PARAMETERS = {
    "response_format": "text.format",
    "verbosity": "text.verbosity",
    "reasoning_effort": "reasoning.effort",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
} | {
    name: name
    for name in (
        "frequency_penalty",
        "parallel_tool_calls",
        "presence_penalty",
        "temperature",
        "tool_choice",
        "tools",
        "top_p",
    )
}


def _status_error(error: openai.APIStatusError) -> ModelUnavailableError | ModelRefusedError:
    retry_after = _retry_after(error.response.headers)
    found = _classified(error.status_code, error.code, error.type, error.message, retry_after)
    refused = _PARAMETERS.get(re.split(r"[.\[]", str(error.param))[0])
    if found.code == "model_request_refused" and refused is not None:
        found.message = f"The model does not take '{refused}' as it was sent. Leave it out, or choose another value."
    return found


def _stream_error(raw: object) -> ModelUnavailableError | ModelRefusedError:
    """An error that was sent as an event. Its code may be a word or a status."""
    fields = raw if isinstance(raw, dict) else {"message": raw}
    code, kind = fields.get("code"), fields.get("type")
    status = 400 if kind == "invalid_request_error" else 500
    if isinstance(code, int) or (isinstance(code, str) and _STATUS.fullmatch(code)):
        status = int(code)
    return _classified(status, code, kind, str(fields.get("message")), None)


def _classified(
    status: int, code: object, kind: object, message: str, retry_after_seconds: float | None
) -> ModelUnavailableError | ModelRefusedError:
    said = f"status {status}, code {_word(code)}, type {_word(kind)}, a message of {len(message)} characters"
    if refusal := _refusal_code(status, str(code), str(kind), message):
        return _refused(refusal, said)
    code = "model_rate_limited" if status == HTTPStatus.TOO_MANY_REQUESTS else "model_failing"
    return _unavailable(code, said, retry_after_seconds)


def _refusal_code(status: int, code: str, kind: str, message: str) -> str | None:
    """The words tell more than the status, where an endpoint uses them."""
    if known := _REFUSED_WORDS.get(code) or _REFUSED_WORDS.get(kind) or _REFUSED_STATUSES.get(status):
        return known
    if status in _TRANSIENT_STATUSES or not 400 <= status < 500:  # noqa: PLR2004 - the client errors of HTTP
        return None
    return "context_length_exceeded" if _SAYS_TOO_LONG.search(message) else "model_request_refused"


def _unavailable(code: str, said: object, retry_after_seconds: float | None = None) -> ModelUnavailableError:
    error = ModelUnavailableError(code, _MESSAGES[code], retry_after_seconds=retry_after_seconds)
    error.add_note(f"model endpoint: {said}")
    return error


def _refused(code: str, said: object) -> ModelRefusedError:
    error = ModelRefusedError(code, _MESSAGES[code])
    error.add_note(f"model endpoint: {said}")
    return error


def _retry_after(headers: httpx2.Headers) -> float | None:
    """How long the endpoint wants us to wait: seconds, or a date."""
    said = headers.get("retry-after", "")
    try:
        seconds = float(said)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(said) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):  # no date, one without a time zone, or in no year that there is
            return None
    return max(0.0, seconds) if isfinite(seconds) else None


def _word(said: object) -> str:
    """`said`, where it is a word of a machine. Anything else may quote the prompt or the key, and is not noted."""
    return said if isinstance(said, str) and _WORD.fullmatch(said) else type(said).__name__
