"""Tools over MCP, and every way in which a tool server can misbehave.

Whatever a server does, a call ends in bounded time and bounded memory as one `ToolResult`, and no other call notices:

- Each call has an MCP client of its own, with the caller's token. A client whose server dies cancels whatever runs
  inside it, so nothing else may run inside; and a client that serves two users would mix their tokens and cookies.
  Beside a kept client that costs about a millisecond, as all share one pool of connections and one TLS context.
- `_Exchange` lies below each client: it counts the bytes of the answer, notes what HTTP said (the client itself does
  not tell 401 from 500) and turns broken connections into answers (they would break the client instead).
- A result is checked here against the tool's schema, with validators that live as long as the remembered list.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, assert_never, cast

import httpx2
import jsonschema  # type: ignore[import-untyped]
import pydantic
from jsonschema.validators import validator_for  # type: ignore[import-untyped]
from mcp import Client, ClientSession, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import (
    HEADER_MISMATCH,
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    CallToolRequest,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    EmbeddedResource,
    InputRequiredResult,
    PaginatedRequestParams,
    RequestParamsMeta,
    ResourceLink,
    TextContent,
    TextResourceContents,
)
from mcp.types import Tool as ListedTool
from referencing import Registry
from referencing.exceptions import Unresolvable

from chat_worker.agent.values import JsonObject, Tool, ToolError, ToolErrorKind, ToolResult
from shared.observability import get_logger

log = get_logger()

IDEMPOTENCY_META_KEY = "parley/idempotency-key"

_STATELESS_PROTOCOL = "2026-07-28"
_TIMEOUT_GRACE_SECONDS = 1.0  # what the client may take to give up by itself before it is cut off
_LIST_RETRY_SECONDS = 5.0
_LIST_PAGES_MAX = 10
_LOGGED_CHARS_MAX = 200
_IDLE_CONNECTION_SECONDS = 3.0  # below the 5 s after which common servers close: no call meets a closing connection
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what model endpoints accept
_NEVER_RAN = frozenset({INVALID_PARAMS, METHOD_NOT_FOUND, HEADER_MISMATCH})
_JSON_RPC_STATUSES = frozenset({400, 404})  # MCP servers answer JSON-RPC errors with these
_HTTP_ERROR_MIN = 400
_HTTP_SERVER_ERROR_MIN = 500
_HTTP_UNAVAILABLE = 503
_UNSHOWABLE = dict.fromkeys(
    code for code in (*range(0x20), *range(0x7F, 0xA0), *range(0xD800, 0xE000)) if chr(code) not in "\n\t"
)
_Answer = pydantic.TypeAdapter[CallToolResult | InputRequiredResult](CallToolResult | InputRequiredResult)


@dataclass(frozen=True, slots=True)
class ToolServer:
    """A tool server that the operator allows. `token_for` makes the bearer token that acts there for a user id.

    `protocol` is an MCP revision, or "auto" for a server that may be older; that costs a round trip per call.
    """

    label: str
    url: str
    token_for: Callable[[str], str]
    protocol: str = _STATELESS_PROTOCOL


@dataclass(frozen=True, slots=True)
class ToolClientLimits:
    """What one server may cost. `result_bytes_max` is what the model reads, `body_bytes_max` what we do."""

    call_seconds: float = 30.0
    list_seconds: float = 5.0
    connect_seconds: float = 2.0
    list_ttl_seconds: float = 60.0
    body_bytes_max: int = 2 * 1024 * 1024
    result_bytes_max: int = 32 * 1024
    tool_count_max: int = 64
    description_chars_max: int = 2_000
    connection_count_max: int = 100


class McpTools:
    """The tool servers of a process: one pool of connections, and what each server offers."""

    def __init__(self, servers: Sequence[ToolServer], limits: ToolClientLimits | None = None) -> None:
        self._limits = limits or ToolClientLimits()
        self._transport = httpx2.AsyncHTTPTransport(
            trust_env=False,
            retries=1,  # of connecting only: nothing has been sent
            limits=httpx2.Limits(
                max_connections=self._limits.connection_count_max, keepalive_expiry=_IDLE_CONNECTION_SECONDS
            ),
        )
        self._connectors = {server.label: _Connector(server, self._transport, self._limits) for server in servers}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(connector.close() for connector in self._connectors.values()))
        await self._transport.aclose()

    def for_user(self, user_id: str) -> "UserTools":
        """The tools as this user; nothing is opened, so nothing is to be closed."""
        return UserTools(self._connectors, user_id)


class UserTools:
    """A `ToolSet`: every tool of every server, run as one user."""

    def __init__(self, connectors: Mapping[str, "_Connector"], user_id: str) -> None:
        self._connectors = connectors
        self._user_id = user_id

    async def list(self) -> Sequence[Tool]:
        """The tools of the servers that answer, and of those that lately did. A name taken twice counts once."""
        listings = await asyncio.gather(*(connector.listing(self._user_id) for connector in self._connectors.values()))
        by_name: dict[str, Tool] = {}
        for tool in (tool for listing in listings for tool in listing.tools):
            if by_name.setdefault(tool.name, tool) is not tool:
                log.warning("tool_name_taken", tool=tool.name, server=tool.server_label)
        return tuple(by_name.values())

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult:
        """Run `tool` once; see `ToolSet`. `outcome_unknown` is set where the tool may or may not have run."""
        connector = self._connectors.get(tool.server_label)
        if connector is None:  # recorded by an earlier attempt, under another configuration
            return _protocol_error(METHOD_NOT_FOUND, "This tool is no longer available.")
        return await connector.call(self._user_id, tool, arguments, key)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a server offers. `validators` check the results of the tools that declare a schema."""

    tools: tuple[Tool, ...] = ()
    validators: Mapping[str, Any] = field(default_factory=dict)


class _Connector:
    """One tool server: asks and calls it, and remembers its list, which is the same for every user."""

    def __init__(self, server: ToolServer, transport: httpx2.AsyncHTTPTransport, limits: ToolClientLimits) -> None:
        self._server = server
        self._transport = transport
        self._limits = limits
        self._listing: _Listing | None = None  # until the server has told one
        self._listing_fresh_until = 0.0
        self._refresh: asyncio.Task[None] | None = None

    async def listing(self, user_id: str) -> _Listing:
        """The server's tools as it told them last; none if it never did. Only who comes before the first has to wait.

        Those told over `list_ttl_seconds` ago are asked for anew, for whoever comes next.
        """
        if asyncio.get_running_loop().time() >= self._listing_fresh_until:
            if self._refresh is None or self._refresh.done():
                self._refresh = asyncio.create_task(self._refresh_listing(user_id), name=f"tools {self._server.label}")
            if self._listing is None:
                await asyncio.shield(self._refresh)  # others wait for it too
        return self._listing or _Listing()

    async def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    async def _refresh_listing(self, user_id: str) -> None:
        began_at = asyncio.get_running_loop().time()
        listing = await self._fetch_listing(user_id)
        lifetime = _LIST_RETRY_SECONDS if listing is None else self._limits.list_ttl_seconds
        self._listing = listing or self._listing
        self._listing_fresh_until = began_at + min(lifetime, self._limits.list_ttl_seconds)

    async def call(self, user_id: str, tool: Tool, arguments: JsonObject, key: str) -> ToolResult:
        meta = cast("RequestParamsMeta", {IDEMPOTENCY_META_KEY: key})
        request = CallToolRequest(params=CallToolRequestParams(name=tool.name, arguments=arguments, _meta=meta))
        exchange = _Exchange(self._transport, self._limits.body_bytes_max)
        seconds = self._limits.call_seconds
        try:
            async with asyncio.timeout(seconds + _TIMEOUT_GRACE_SECONDS), self._session(user_id, exchange) as session:
                answer = await session.send_request(request, _Answer, request_read_timeout_seconds=seconds)
        except Exception as error:  # noqa: BLE001 - what a foreign server can make the client raise is not bounded
            result = _explained(_root_of(error), exchange, self._limits)
            self._log_failure(tool, result, _root_of(error))
            return result
        return self._result_of(tool, answer)

    def _result_of(self, tool: Tool, answer: CallToolResult | InputRequiredResult) -> ToolResult:
        if isinstance(answer, InputRequiredResult):
            return _protocol_error(INVALID_REQUEST, "The tool asks for further input, which is not supported.")
        limit = self._limits.result_bytes_max
        if answer.is_error:
            said = _text_of(answer.content).removeprefix(f"Error executing tool {tool.name}: ")
            message = _cut(said, limit) or "The tool failed without saying why."
            return ToolResult(None, ToolError(ToolErrorKind.EXECUTION, message))
        if not self._fits_schema(tool, answer.structured_content):
            log.warning("tool_result_invalid", server=self._server.label, tool=tool.name)
            return _protocol_error(INTERNAL_ERROR, "The tool ran, but its result is not what it declares. " + _NO_RETRY)
        if answer.structured_content is None:
            return ToolResult(_cut(_text_of(answer.content), limit))
        showable = _showable(answer.structured_content)
        return ToolResult(_cut(json.dumps(showable, ensure_ascii=False, separators=(",", ":")), limit))

    def _fits_schema(self, tool: Tool, content: Any) -> bool:
        validator = None if self._listing is None else self._listing.validators.get(tool.name)
        try:
            return validator is None or bool(validator.is_valid(content))
        except Unresolvable:  # its schema refers to something outside of itself, which is never fetched
            return False

    async def _fetch_listing(self, user_id: str) -> _Listing | None:
        """What the server offers now; None if it does not say."""
        exchange = _Exchange(self._transport, self._limits.body_bytes_max)
        try:
            async with asyncio.timeout(self._limits.list_seconds), self._session(user_id, exchange) as session:
                return self._listing_of(await _listed_tools(session))
        except Exception as error:  # noqa: BLE001 - see `call`
            cause = type(_root_of(error)).__name__
            log.warning("tool_list_failed", server=self._server.label, status=exchange.status, cause=cause)
            return None

    def _listing_of(self, listed: Sequence[ListedTool]) -> _Listing:
        usable = [tool for tool in listed if _TOOL_NAME.fullmatch(tool.name)][: self._limits.tool_count_max]
        if len(usable) < len(listed):
            log.warning("tools_left_out", server=self._server.label, count=len(listed) - len(usable))
        return _Listing(
            tuple(self._tool_of(tool) for tool in usable),
            {tool.name: _validator_of(tool.output_schema) for tool in usable if tool.output_schema is not None},
        )

    def _tool_of(self, listed: ListedTool) -> Tool:
        hints = listed.annotations
        read_only = bool(hints and hints.read_only_hint)
        return Tool(
            server_label=self._server.label,
            name=listed.name,
            description=_shown(listed.description or "")[: self._limits.description_chars_max],
            input_schema=listed.input_schema,
            read_only=read_only,
            idempotent=bool(hints and hints.idempotent_hint),
            destructive=not read_only and not (hints and hints.destructive_hint is False),
        )

    @asynccontextmanager
    async def _session(self, user_id: str, exchange: "_Exchange") -> AsyncIterator[ClientSession]:
        """A client of this one call, as this user."""
        limits = self._limits
        headers = {
            "authorization": f"Bearer {self._server.token_for(user_id)}",
            "accept-encoding": "identity",  # two packed megabytes may unpack to gigabytes
        }
        timeout = httpx2.Timeout(limits.call_seconds, connect=limits.connect_seconds, pool=limits.connect_seconds)
        async with httpx2.AsyncClient(transport=exchange, headers=headers, timeout=timeout, trust_env=False) as http:
            transport = streamable_http_client(
                self._server.url, http_client=http, max_sse_event_size=limits.body_bytes_max
            )
            async with Client(transport, mode=self._server.protocol, cache=None) as client:
                yield client.session

    def _log_failure(self, tool: Tool, result: ToolResult, error: Exception) -> None:
        assert result.error is not None
        log.warning(
            "tool_call_failed",
            server=self._server.label,
            tool=tool.name,
            kind=result.error.kind.value,
            code=result.error.code,
            outcome_unknown=result.outcome_unknown,
            cause=type(error).__name__,
            said=_shown(error.message)[:_LOGGED_CHARS_MAX] if isinstance(error, MCPError) else None,
        )


class _Fault(Enum):
    """What went wrong below HTTP."""

    UNREACHED = auto()  # nothing was sent
    CUT = auto()
    TOO_LARGE = auto()
    ENCODED = auto()


class _Exchange(httpx2.AsyncBaseTransport):
    """The transport of one client: the shared one, with its answers counted and its errors made into answers.

    `status` and `fault` say how the latest request ended.
    """

    def __init__(self, transport: httpx2.AsyncHTTPTransport, body_bytes_max: int) -> None:
        self._transport = transport
        self._body_bytes_max = body_bytes_max
        self.status: int | None = None
        self.fault: _Fault | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            response = await self._transport.handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol):
            return self._ended(request, _Fault.UNREACHED)
        except httpx2.TransportError:
            return self._ended(request, _Fault.CUT)
        self._note(request, response.status_code, None)
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            return self._ended(request, _Fault.ENCODED)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_CountedStream(response, self._body_bytes_max, lambda fault: self._note(request, None, fault)),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """The shared transport outlives its clients."""

    def _ended(self, request: httpx2.Request, fault: _Fault) -> httpx2.Response:
        self._note(request, None, fault)
        return httpx2.Response(_HTTP_UNAVAILABLE, request=request)

    def _note(self, request: httpx2.Request, status: int | None, fault: _Fault | None) -> None:
        if request.method == "POST":  # not the side stream and the farewell of older protocol revisions
            self.status = status or self.status
            self.fault = fault


class _BodyError(httpx2.StreamError):
    """The body cannot be read to its end. Of this class because the MCP client survives no other."""


class _CountedStream(httpx2.AsyncByteStream):
    """A response's body that ends with `_BodyError` where it is cut or grows too large."""

    def __init__(self, response: httpx2.Response, bytes_max: int, note: Callable[[_Fault], None]) -> None:
        self._response = response
        self._bytes_max = bytes_max
        self._note = note

    async def __aiter__(self) -> AsyncIterator[bytes]:
        byte_count = 0
        assert isinstance(self._response.stream, httpx2.AsyncByteStream)
        try:
            async for part in self._response.stream:
                byte_count += len(part)
                if byte_count > self._bytes_max:
                    self._note(_Fault.TOO_LARGE)
                    raise _BodyError("too large")
                yield part
        except httpx2.TransportError as error:
            self._note(_Fault.CUT)
            raise _BodyError("cut") from error

    async def aclose(self) -> None:
        await self._response.aclose()


_NO_RETRY = "Do not call it again for this."


def _explained(error: Exception, exchange: _Exchange, limits: ToolClientLimits) -> ToolResult:
    """What the model is told of a call that raised `error`. The server's own words are for the operator's log."""
    status = exchange.status or 0
    if exchange.fault is not None and status < _HTTP_ERROR_MIN:
        return _spoiled(exchange.fault, limits)
    if status >= _HTTP_ERROR_MIN and not (status in _JSON_RPC_STATUSES and isinstance(error, MCPError)):
        return _refused(status)
    return _failed(error, limits)


def _failed(error: Exception, limits: ToolClientLimits) -> ToolResult:
    """The outcome of a call that HTTP carried well and the MCP client could not finish."""
    match error:
        case TimeoutError():
            return _timed_out(limits)
        case MCPError(code=code) if code == REQUEST_TIMEOUT:
            return _timed_out(limits)
        case MCPError(code=code):
            message = "The tool server does not accept this call." if code in _NEVER_RAN else "The tool server failed."
            return _protocol_error(code, message, outcome_unknown=code not in _NEVER_RAN)
        case pydantic.ValidationError():
            return _protocol_error(INTERNAL_ERROR, "The tool ran, but its answer is not valid. " + _NO_RETRY)
        case _:
            return _protocol_error(INTERNAL_ERROR, "The tool server failed.", outcome_unknown=True)


def _refused(status: int) -> ToolResult:
    if status >= _HTTP_SERVER_ERROR_MIN:
        return _http_error(status, f"The tool server failed (HTTP {status}).", outcome_unknown=True)
    return _http_error(status, f"The tool server refused the call (HTTP {status}).")


def _spoiled(fault: _Fault, limits: ToolClientLimits) -> ToolResult:
    """The outcome of a call whose answer began and was of no use."""
    match fault:
        case _Fault.TOO_LARGE:
            message = f"The tool ran, but its result is over {limits.body_bytes_max} bytes. {_NO_RETRY}"
            return _protocol_error(INTERNAL_ERROR, message)
        case _Fault.ENCODED:
            return _protocol_error(INTERNAL_ERROR, f"The tool ran, but its result cannot be read. {_NO_RETRY}")
        case _Fault.CUT:
            message = "The connection to the tool server broke."
            return _protocol_error(INTERNAL_ERROR, message, outcome_unknown=True)
        case _Fault.UNREACHED:
            return _http_error(_HTTP_UNAVAILABLE, "The tool server cannot be reached.")
        case _ as unreachable:
            assert_never(unreachable)


def _timed_out(limits: ToolClientLimits) -> ToolResult:
    message = f"The tool did not answer within {limits.call_seconds:g} seconds."
    return _protocol_error(REQUEST_TIMEOUT, message, outcome_unknown=True)


def _protocol_error(code: int, message: str, *, outcome_unknown: bool = False) -> ToolResult:
    return ToolResult(None, ToolError(ToolErrorKind.PROTOCOL, message, code), outcome_unknown)


def _http_error(code: int, message: str, *, outcome_unknown: bool = False) -> ToolResult:
    return ToolResult(None, ToolError(ToolErrorKind.HTTP, message, code), outcome_unknown)


def _root_of(error: Exception) -> Exception:
    """The first leaf of the groups in which task groups wrap what happened inside."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def _listed_tools(session: ClientSession) -> list[ListedTool]:
    tools: list[ListedTool] = []
    cursor: str | None = None
    for _ in range(_LIST_PAGES_MAX):
        page = await session.list_tools(params=PaginatedRequestParams(cursor=cursor))
        tools += page.tools
        cursor = page.next_cursor
        if cursor is None:
            break
    return tools


def _validator_of(schema: JsonObject) -> Any:
    """A compiled check of `schema`, which may refer to its own parts only; None, no check, where it is no schema."""
    validator_class = validator_for(schema)
    try:
        validator_class.check_schema(schema)
    except jsonschema.SchemaError:
        return None
    return validator_class(schema, registry=Registry())


def _text_of(blocks: Sequence[ContentBlock]) -> str:
    return "\n".join(_text_of_block(block) for block in blocks)


def _text_of_block(block: ContentBlock) -> str:
    match block:
        case TextContent(text=text):
            return _shown(text)
        case EmbeddedResource(resource=TextResourceContents(text=text)):
            return _shown(text)
        case ResourceLink(uri=uri):
            return f"[link: {_shown(str(uri))}]"
        case _:
            return f"[{block.type} left out]"


def _showable(value: Any) -> Any:
    """`value` with the texts in it fit to store and to show."""
    match value:
        case str():
            return _shown(value)
        case list():
            return [_showable(item) for item in value]
        case dict():
            return {_shown(name): _showable(item) for name, item in value.items()}
        case _:
            return value


def _shown(text: str) -> str:
    return text.translate(_UNSHOWABLE)


def _cut(text: str, bytes_max: int) -> str:
    """`text`, its end replaced by a note where it has more than `bytes_max` bytes."""
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text
    note = f"\n[cut here; the whole result has {len(encoded)} bytes]"
    return encoded[: max(0, bytes_max - len(note))].decode(errors="ignore") + note
