"""The decoders that read what foreign servers say, each as a function of bytes that fails where a promise is broken.

`fuzz.py` lets a fuzzer choose the bytes, `test_decoders.py` takes those that are kept in `corpus/`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress

import httpx2
import pydantic
from mcp.types import ListToolsResult

from chat_worker.agent.model import ModelLimits, _Answer, _chunk, _DataLines, _retry_after
from chat_worker.agent.schemas import Check
from chat_worker.agent.tools import ToolClientLimits, ToolServer, _Connector
from chat_worker.agent.untrusted import cleaned
from chat_worker.agent.values import Finish, ModelRound, ToolResult
from shared.errors import ModelRefusedError, ModelUnavailableError

_MODEL_LIMITS = ModelLimits(event_bytes_max=8_192, output_bytes_max=1_024, reasoning_bytes_max=256)
_TOOL_LIMITS = ToolClientLimits(
    call_seconds=5, body_bytes_max=64 * 1_024, result_bytes_max=1_024, schema_bytes_max=4_096, description_chars_max=200
)
_TOKENS_MAX = 2**53  # what every reader of JSON can tell apart


def attack_model_stream(data: bytes) -> None:
    """The first byte says how the rest is cut into pieces, the second whether it is a stream or a Retry-After."""
    head, rest = data[:2].ljust(2, b"\0"), data[2:]
    if head[1] == 1:
        seconds = _retry_after(httpx2.Headers([(b"retry-after", rest)]))
        assert seconds is None or 0 <= seconds < float("inf")
        return
    texts: list[str] = []
    thoughts: list[str] = []
    try:
        told = _read_stream(_pieces(rest, head[0] or 1), texts, thoughts)
    except (ModelUnavailableError, ModelRefusedError):
        return
    assert (told.text, told.reasoning) == ("".join(texts), "".join(thoughts))
    _check_round(told)


def _read_stream(pieces: Iterator[bytes], texts: list[str], thoughts: list[str]) -> ModelRound:
    """As `OpenAIModel.round` does, without its clocks and its connection."""
    lines, answer = _DataLines(_MODEL_LIMITS.event_bytes_max), _Answer(_MODEL_LIMITS)
    chunks = (_chunk(line) for piece in pieces for line in lines.feed(piece) if line != b"[DONE]")
    for chunk in chunks:
        thoughts.append(answer.take_reasoning(chunk))
        texts.append(answer.take(chunk))
        if answer.finish is not None:
            break
    with suppress(ModelUnavailableError, ModelRefusedError):
        for chunk in chunks:
            answer.take_usage(chunk)
    return answer.whole()


def _check_round(told: ModelRound) -> None:
    """What a round says can be stored, is no more than the limits, and is what its end says that it is."""
    said = [told.text, told.reasoning]
    said += [part for call in told.calls for part in (call.call_id, call.name, call.arguments)]
    assert all("\0" not in part and part.encode() is not None for part in said)
    size = len(told.text.encode()) + sum(len((call.name + call.arguments).encode()) for call in told.calls)
    assert size <= _MODEL_LIMITS.output_bytes_max
    assert len(told.reasoning.encode()) <= _MODEL_LIMITS.reasoning_bytes_max
    assert bool(told.calls) == (told.finish is Finish.TOOL_CALLS)
    assert all(call.call_id and call.name for call in told.calls)
    assert len({call.call_id for call in told.calls}) == len(told.calls)
    usage = told.usage
    counts = (usage.input_tokens, usage.output_tokens, usage.cached_tokens, usage.reasoning_tokens)
    assert all(0 <= count <= _TOKENS_MAX for count in counts)


def _pieces(data: bytes, length: int) -> Iterator[bytes]:
    return (data[start : start + length] for start in range(0, len(data), length))


class _Saying(httpx2.AsyncHTTPTransport):
    """A tool server that answers every request with the same bytes."""

    def __init__(self, status: int, content_type: str, body: bytes) -> None:
        super().__init__(verify=False)
        self._status, self._content_type, self._body = status, content_type, body

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        headers = {"content-type": self._content_type}
        return httpx2.Response(self._status, headers=headers, stream=_Whole(self._body), request=request)


class _Whole(httpx2.AsyncByteStream):
    def __init__(self, body: bytes) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._body


_STATUSES = (200, 200, 200, 202, 400, 404, 401, 500)
_CONTENT_TYPES = ("application/json", "text/event-stream", "text/plain")
_loop = asyncio.new_event_loop()


def attack_tool_answer(data: bytes) -> None:
    """The first byte chooses the status, the second the media type; the rest is the body of each answer."""
    head, body = data[:2].ljust(2, b"\0"), data[2:]
    status, content_type = _STATUSES[head[0] % len(_STATUSES)], _CONTENT_TYPES[head[1] % len(_CONTENT_TYPES)]
    connector = _connector(_Saying(status, content_type, body))
    tool = connector._tool_of(_listed(b'{"tools":[{"name":"say","inputSchema":{}}]}').tools[0])  # noqa: SLF001
    _check_result(_loop.run_until_complete(connector.call("ada", tool, {}, "key")))


def attack_tool_list(data: bytes) -> None:
    """The bytes are what a tool server says of its tools, then, behind a line feed, a value for each of them."""
    said, _, value = data.partition(b"\n")
    try:
        tools = _listed(said).tools
    except pydantic.ValidationError:
        return
    listing = _loop.run_until_complete(_connector(_Saying(200, "application/json", b""))._listing_of(tools))  # noqa: SLF001
    assert listing is not None
    assert len({tool.name for tool in listing.tools}) == len(listing.tools)
    for tool in listing.tools:
        assert tool.description == cleaned(tool.description)
        assert len(tool.description) <= _TOOL_LIMITS.description_chars_max
        json.dumps(tool.input_schema, ensure_ascii=False).encode()
    with suppress(ValueError, RecursionError):
        _misfits([*listing.inputs.values(), *listing.outputs.values()], json.loads(value))


def _misfits(checks: list[Check], value: object) -> None:
    for check in checks:
        misfit = check.misfit(value)
        assert misfit is None or str(misfit)


def _listed(said: bytes) -> ListToolsResult:
    return ListToolsResult.model_validate_json(said)


def _connector(transport: httpx2.AsyncHTTPTransport) -> _Connector:
    server = ToolServer("foreign", "http://127.0.0.1:1/mcp")
    return _Connector(server, transport, _TOOL_LIMITS, None, is_own=False)


def _check_result(result: ToolResult) -> None:
    """A call ends as a result or an error, whose text can be stored and is no longer than it may be."""
    assert (result.output is None) != (result.error is None)
    text = result.error.message if result.error else result.output or ""
    assert text == cleaned(text)
    assert len(text.encode()) <= _TOOL_LIMITS.result_bytes_max + 200  # and what we say about it


TARGETS: Mapping[str, Callable[[bytes], None]] = {
    "model_stream": attack_model_stream,
    "tool_answer": attack_tool_answer,
    "tool_list": attack_tool_list,
}
