"""Tools over MCP, and every way in which a tool server can misbehave.

Whatever a server does, a call ends in bounded time and bounded memory as one `ToolResult`, and no other call notices:

- Each call has an MCP client of its own, with the caller's token. A client whose server dies cancels whatever runs
  inside it, so nothing else may run inside; and a client that serves two users would mix their tokens and cookies.
  Beside a kept client that costs about a millisecond, as all share one pool of connections and one TLS context.
- `_Exchange` lies below each client: it counts the bytes of the answer, notes what HTTP said (the client itself does
  not tell 401 from 500) and turns broken connections into answers (they would break the client instead).
- Arguments and results are checked against the tool's schemas, in bounded time whatever these are (`schemas`).
- What a server says is data: cleaned of what nobody sees, and kept within its message (`untrusted`).
- What a server says of its tools is held against what was accepted of it (`pins`).

There are our own servers, which are called as the user, and those that the operator configures, which may change at any
time (`shared.tool_servers`). Such a one is told who the user is only where the operator gave it a secret of its own, by
a token that no other server takes.
"""

import asyncio
import math
import re
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import TracebackType
from typing import Any, Self, assert_never, cast

import httpx2
import pydantic
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
from mcp.types.version import MODERN_PROTOCOL_VERSIONS

from chat_worker.agent.pins import ToolPins, digest_of
from chat_worker.agent.schemas import Check
from chat_worker.agent.selection import ServerWish, ToolSelection
from chat_worker.agent.untrusted import cleaned, cleaned_json, shown, shown_json, unframed, unframed_schema
from chat_worker.agent.values import JsonObject, Tool, ToolError, ToolErrorKind, ToolResult
from shared import metrics, tracing
from shared.agents import Agent
from shared.errors import DatabaseUnavailableError
from shared.observability import get_logger
from shared.tokens import mint_tool_token
from shared.tool_servers import (
    NO_SERVERS,
    Approval,
    ConfiguredServer,
    OnChange,
    ToolPolicy,
    ToolServers,
    UserToken,
)

log = get_logger()

IDEMPOTENCY_META_KEY = "parley/idempotency-key"

_STATELESS_PROTOCOL = "2026-07-28"
_TIMEOUT_GRACE_SECONDS = 1.0  # what the client may take to give up by itself before it is cut off
_LIST_RETRY_SECONDS = 5.0
_LIST_PAGES_MAX = 10
_IDLE_CONNECTION_SECONDS = 3.0  # below the 5 s after which common servers close: no call meets a closing connection
_PINNED_TOOLS_MAX = 500  # of one server: more than may be offered, so that what is offered can change
_CHECKED_BYTES_MAX = 256 * 1024  # of a schema that is not shown to a model
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what model endpoints accept
_NEVER_RAN = frozenset({INVALID_PARAMS, METHOD_NOT_FOUND, HEADER_MISMATCH})
_JSON_RPC_STATUSES = frozenset({400, 404})  # MCP servers answer JSON-RPC errors with these
_HTTP_ERROR_MIN = 400
_HTTP_SERVER_ERROR_MIN = 500
_HTTP_UNAVAILABLE = 503
_WITHOUT_APPROVAL = ToolPolicy(Approval.NEVER)
_Answer = pydantic.TypeAdapter[CallToolResult | InputRequiredResult](CallToolResult | InputRequiredResult)


_CALLS = metrics.Counter(
    "parley_worker_tool_calls",
    "Tool calls, by the server's name, the name it listed and how it went.",
    ["server", "tool", "outcome"],
)
_CALL_SECONDS = metrics.Histogram(
    "parley_worker_tool_call_seconds", "Of tool calls.", ["server"], bounds=metrics.SLOW_SECONDS
)
_OUTCOMES: Mapping[ToolErrorKind, str] = {
    ToolErrorKind.EXECUTION: "tool_error",
    ToolErrorKind.PROTOCOL: "protocol_error",
    ToolErrorKind.HTTP: "http_error",
}


@dataclass(frozen=True, slots=True)
class ToolServer:
    """A tool server that the operator allows. `token_for` makes the bearer token that acts there for a user id.

    `pins` are digests of tools that hold whatever was accepted otherwise; without `on_change` nothing is pinned.
    `protocol` is an MCP revision, "legacy" for those with a handshake, or "auto": asked anew with each list of tools.
    """

    label: str
    url: str
    token_for: Callable[[str], str] | None = None
    protocol: str = _STATELESS_PROTOCOL
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    policy: ToolPolicy = _WITHOUT_APPROVAL
    on_change: OnChange | None = None
    pins: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MintedTokens:
    """Tokens for one tool server, which has the secret, from `now()` on; of two that are equal, so are the tokens."""

    token: UserToken
    now: Callable[[], float] = time.time

    def __call__(self, user_id: str) -> str:
        return mint_tool_token(self.token.secret, user_id, self.token.audience, now=self.now())


@dataclass(frozen=True, slots=True)
class ToolClientLimits:
    """What one server may cost. `result_bytes_max` is what the model reads, `body_bytes_max` what we do.

    `first_list_delays_seconds` are waited before one of our own servers that never told its list is asked again:
    without it, whoever writes just then is told that nothing can be done.
    """

    call_seconds: float = 30.0
    list_seconds: float = 5.0
    connect_seconds: float = 2.0
    list_ttl_seconds: float = 60.0
    first_list_delays_seconds: tuple[float, ...] = ()
    body_bytes_max: int = 2 * 1024 * 1024
    result_bytes_max: int = 32 * 1024
    tool_count_max: int = 64
    description_chars_max: int = 2_000
    schema_bytes_max: int = 16 * 1024
    connection_count_max: int = 100


class McpTools:
    """The tool servers of a process: one pool of connections, and what each server offers.

    `servers` are our own; `configured` tells the operator's as they are now, and is asked before every use. What these
    say of their tools is held against `pins`; `on_change` says what a change means where its server's entry does not.
    `now` dates the tokens of users.
    """

    def __init__(  # noqa: PLR0913 - the operator's part and the process's, both with defaults
        self,
        servers: Sequence[ToolServer],
        limits: ToolClientLimits | None = None,
        configured: Callable[[], ToolServers] = lambda: NO_SERVERS,
        *,
        pins: ToolPins | None = None,
        on_change: OnChange = OnChange.REPORT,
        verify: ssl.SSLContext | bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._now = now
        self._pins = pins
        self._on_change = on_change
        self._limits = limits or ToolClientLimits()
        self._transport = httpx2.AsyncHTTPTransport(
            verify=verify,
            trust_env=False,
            retries=1,  # of connecting only: nothing has been sent
            limits=httpx2.Limits(
                max_connections=self._limits.connection_count_max, keepalive_expiry=_IDLE_CONNECTION_SECONDS
            ),
        )
        self._own = {server.label: self._connector(server, is_own=True) for server in servers}
        self._connectors = self._own
        self._configured = configured
        self._followed = NO_SERVERS
        self._retired: list[_Connector] = []  # whose server is no more, and whose last list is still awaited

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        await asyncio.gather(*(connector.close() for connector in (*self._connectors.values(), *self._retired)))
        await self._transport.aclose()

    def for_user(self, user_id: str) -> "UserTools":
        """The tools as this user; nothing is opened, so nothing is to be closed."""
        return UserTools(self.connectors, user_id)

    def labels_for(self, agent: Agent) -> frozenset[str]:
        """The servers that `agent` may use now."""
        return self._configured().labels_for(agent)

    def connectors(self) -> "Mapping[str, _Connector]":
        """By label, of the servers that there are now. A call that runs at one that is gone ends as any other."""
        configured = self._configured()
        if configured is not self._followed:
            self._followed = configured
            self._follow(configured)
        return self._connectors

    def _follow(self, configured: ToolServers) -> None:
        before = self._connectors
        self._connectors = {**self._own, **{server.label: self._following(server) for server in configured}}
        gone = [connector for label, connector in before.items() if self._connectors.get(label) is not connector]
        self._retired = [connector for connector in (*self._retired, *gone) if connector.is_asking]

    def _following(self, configured: ConfiguredServer) -> "_Connector":
        """The connector that there is, with the list it knows, or a new one where anything about its server changed."""
        server = _server_of(configured, self._on_change, self._now)
        connector = self._connectors.get(server.label)
        unchanged = connector is not None and connector.server == server
        return connector if connector is not None and unchanged else self._connector(server, is_own=False)

    def _connector(self, server: ToolServer, *, is_own: bool) -> "_Connector":
        return _Connector(server, self._transport, self._limits, self._pins, is_own=is_own)


def _server_of(configured: ConfiguredServer, on_change: OnChange, now: Callable[[], float]) -> ToolServer:
    return ToolServer(
        label=configured.label,
        url=configured.url,
        token_for=None if configured.user_token is None else MintedTokens(configured.user_token, now),
        on_change=configured.on_change or on_change,
        pins=configured.pins,
        protocol=configured.protocol,
        headers=configured.headers,
        policy=configured.policy,
    )


class UserTools:
    """A `ToolSet`: the tools of the servers, run as one user."""

    def __init__(self, connectors: "Callable[[], Mapping[str, _Connector]]", user_id: str) -> None:
        self._connectors = connectors
        self._user_id = user_id

    async def list(self, selection: ToolSelection | None = None) -> Sequence[Tool]:
        """The selected tools of the servers that answer, and of those that lately did; without a selection all.

        A name that a configured server shares with another server is told as `server__tool`, so names are unique.
        """
        chosen = [
            (connector, ServerWish() if selection is None else selection.servers[label])
            for label, connector in self._connectors().items()
            if selection is None or label in selection.servers
        ]
        listings = await asyncio.gather(*(connector.listing(self._user_id) for connector, _ in chosen))
        taken = Counter(tool.name for listing in listings for tool in listing.tools)
        by_name: dict[str, Tool] = {}
        for (connector, wish), listing in zip(chosen, listings, strict=True):
            for tool in listing.tools:
                offered = connector.offered(tool, taken)
                if offered is None or offered.name in by_name:
                    log.warning("tool_name_taken", tool=tool.name, server=tool.server_label)
                elif wish.uses(offered.name, tool.name):
                    asks = offered.requires_approval or wish.asks(offered.name, tool.name)
                    by_name[offered.name] = replace(offered, requires_approval=asks)
        return tuple(by_name.values())

    async def call(self, tool: Tool, arguments: JsonObject, *, key: str) -> ToolResult:
        """Run `tool` once; see `ToolSet`. `outcome_unknown` is set where the tool may or may not have run."""
        connector = self._connectors().get(tool.server_label)
        if connector is None or not connector.allows(tool):  # it was offered under another configuration
            return _protocol_error(METHOD_NOT_FOUND, "This tool is no longer available.")
        return await connector.call(self._user_id, tool, arguments, key)


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a server offers, with checks of what is sent to its tools and of what they answer, by their names.

    `changed` are tools that are not as they were accepted.
    """

    tools: tuple[Tool, ...] = ()
    inputs: Mapping[str, Check] = field(default_factory=dict)
    outputs: Mapping[str, Check] = field(default_factory=dict)
    changed: frozenset[str] = frozenset()


class _Connector:
    """One tool server: asks and calls it, and remembers its list, which is the same for every user."""

    def __init__(
        self,
        server: ToolServer,
        transport: httpx2.AsyncHTTPTransport,
        limits: ToolClientLimits,
        pins: ToolPins | None,
        *,
        is_own: bool,
    ) -> None:
        self.server = server
        self._pins = pins
        self._is_own = is_own
        self._protocol = server.protocol  # what the server was last found to speak
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
                self._refresh = asyncio.create_task(self._refresh_listing(user_id), name=f"tools {self.server.label}")
            if self._listing is None:
                await asyncio.shield(self._refresh)  # others wait for it too
        return self._listing or _Listing()

    @property
    def is_asking(self) -> bool:
        """Whether an answer to a request for the list is still awaited."""
        return self._refresh is not None and not self._refresh.done()

    def offered(self, tool: Tool, taken: Mapping[str, int]) -> Tool | None:
        """`tool` as the model knows it, where `taken` counts the tools by name; None where no name is free for it."""
        if self._is_own or taken[tool.name] == 1:
            return tool
        name = f"{self.server.label}__{tool.name}"
        return replace(tool, name=name) if _TOOL_NAME.fullmatch(name) and name not in taken else None

    def allows(self, tool: Tool) -> bool:
        return self.server.policy.offers(self._own_name(tool))

    def _own_name(self, tool: Tool) -> str:
        """The server's name for an offered tool. `offered` gives none that is already the name of another."""
        prefix = f"{self.server.label}__"
        is_plain = self._is_own or any(tool.name == known.name for known in (self._listing or _Listing()).tools)
        return tool.name if is_plain else tool.name.removeprefix(prefix)

    async def close(self) -> None:
        if self._refresh is not None:
            self._refresh.cancel()
            await asyncio.gather(self._refresh, return_exceptions=True)

    async def _refresh_listing(self, user_id: str) -> None:
        began_at = asyncio.get_running_loop().time()
        listing = await self._fetch_listing(user_id)
        for delay_seconds in self._limits.first_list_delays_seconds if self._is_own and self._listing is None else ():
            if listing is not None:
                break
            await asyncio.sleep(delay_seconds)
            began_at = asyncio.get_running_loop().time()
            listing = await self._fetch_listing(user_id)
        lifetime = _LIST_RETRY_SECONDS if listing is None else self._limits.list_ttl_seconds
        self._listing = listing or self._listing
        self._listing_fresh_until = began_at + min(lifetime, self._limits.list_ttl_seconds)

    async def call(self, user_id: str, tool: Tool, arguments: JsonObject, key: str) -> ToolResult:
        name, label = self._own_name(tool), self.server.label
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": name,
            "mcp.method.name": "tools/call",
            "parley.tool.server": label,
        }
        began_at = time.perf_counter()
        with tracing.start(f"execute_tool {name}", tracing.Kind.CLIENT, attributes) as span:
            refusal = self._refusal(name, arguments)
            result = refusal or await self._call(user_id, name, arguments, key, span)
            outcome = _outcome_of(result)
            if result.error is not None:
                span.fail(outcome)
        took_seconds = time.perf_counter() - began_at
        _CALLS.labels(label, name, outcome).inc()
        _CALL_SECONDS.labels(label).observe(took_seconds)
        has_duration = refusal is None and not result.outcome_unknown
        return replace(result, duration_ms=math.ceil(took_seconds * 1000)) if has_duration else result

    async def _call(self, user_id: str, name: str, arguments: JsonObject, key: str, span: tracing.Span) -> ToolResult:
        seconds = self.server.policy.call_seconds(name, self._limits.call_seconds)
        meta = cast("RequestParamsMeta", {IDEMPOTENCY_META_KEY: key, **(span.headers or {})})
        request = CallToolRequest(params=CallToolRequestParams(name=name, arguments=arguments, _meta=meta))
        exchange = _Exchange(self._transport, self._limits.body_bytes_max)
        is_sent = False
        answer: CallToolResult | InputRequiredResult | None = None
        try:
            async with (
                asyncio.timeout(seconds + _TIMEOUT_GRACE_SECONDS),
                self._session(user_id, exchange, self._protocol, seconds) as session,
            ):
                is_sent = True
                answer = await session.send_request(request, _Answer, request_read_timeout_seconds=seconds)
        except Exception as error:  # noqa: BLE001 - what a foreign server can make the client raise is not bounded
            if answer is None:  # else only the farewell of older protocol revisions failed
                result = _explained(_root_of(error), exchange, replace(self._limits, call_seconds=seconds))
                result = result if is_sent else _never_sent(result)
                self._log_failure(name, result, _root_of(error))
                return result
        assert answer is not None
        return self._result_of(name, answer)

    def _refusal(self, name: str, arguments: JsonObject) -> ToolResult | None:
        """Why the call is not to be made, if it is not, by what is known of the server's tools now."""
        listing = self._listing or _Listing()
        if self.server.on_change is OnChange.BLOCK and name not in listing.inputs:
            log.warning("tool_call_withheld", server=self.server.label, tool=name)
            said = "This tool has changed since it was accepted, or is gone. The call was not made."
            return _protocol_error(INVALID_REQUEST, said)
        check = listing.inputs.get(name)
        misfit = None if check is None else check.misfit(arguments)
        if misfit is None:
            return None
        log.warning("tool_arguments_invalid", server=self.server.label, tool=name)
        said = unframed(str(misfit))
        return _protocol_error(
            INVALID_PARAMS, f"The arguments do not fit the tool's schema: {said}. The call was not made."
        )

    def _result_of(self, name: str, answer: CallToolResult | InputRequiredResult) -> ToolResult:
        if isinstance(answer, InputRequiredResult):
            return _protocol_error(INVALID_REQUEST, "The tool asks for further input, which is not supported.")
        limit = self._limits.result_bytes_max
        if answer.is_error:
            said = _text_of(answer.content).removeprefix(f"Error executing tool {name}: ")
            message = shown(said, limit) or "The tool failed without saying why."
            return ToolResult(None, ToolError(ToolErrorKind.EXECUTION, message))
        if not self._fits_schema(name, answer.structured_content):
            log.warning("tool_result_invalid", server=self.server.label, tool=name)
            return _protocol_error(INTERNAL_ERROR, "The tool ran, but its result is not what it declares. " + _NO_RETRY)
        if answer.structured_content is None:
            return ToolResult(shown(_text_of(answer.content), limit))
        return ToolResult(shown_json(answer.structured_content, limit))

    def _fits_schema(self, name: str, content: Any) -> bool:
        check = None if self._listing is None else self._listing.outputs.get(name)
        if check is None:
            return True
        return isinstance(content, dict) and check.misfit(content) is None

    async def _fetch_listing(self, user_id: str) -> _Listing | None:
        """What the server offers now; None if it does not say."""
        exchange, seconds = _Exchange(self._transport, self._limits.body_bytes_max), self._limits.list_seconds
        listed: list[ListedTool] | None = None
        try:
            async with (
                asyncio.timeout(seconds),
                self._session(user_id, exchange, self.server.protocol, seconds) as session,
            ):
                listed = await _listed_tools(session)
                spoken = session.protocol_version or "legacy"
                self._protocol = spoken if spoken in MODERN_PROTOCOL_VERSIONS else "legacy"
        except Exception as error:  # noqa: BLE001 - see `call`
            if listed is None:
                cause = type(_root_of(error)).__name__
                log.warning("tool_list_failed", server=self.server.label, status=exchange.status, cause=cause)
        return None if listed is None else await self._listing_of(listed)

    async def _listing_of(self, listed: Sequence[ListedTool]) -> _Listing | None:
        """The tools that can be used of those that the server lists; None where it cannot be told which may be."""
        policy, known_names = self.server.policy, {tool.name for tool in listed}
        if self._listing is None and not policy.named_tools() <= known_names:
            unknown = sorted(policy.named_tools() - known_names)
            log.warning("tool_names_unknown", server=self.server.label, tools=unknown)
        candidates = _usable(listed, self._limits.schema_bytes_max)
        changed = await self._changed({tool.name: digest_of(tool) for tool in candidates})
        if changed is None:
            return None
        withheld = changed if self.server.on_change is OnChange.BLOCK else frozenset()
        allowed_count = sum(policy.offers(tool.name) for tool in listed)
        usable = [tool for tool in candidates if policy.offers(tool.name) and tool.name not in withheld]
        offered = usable[: self._limits.tool_count_max]
        if len(offered) < allowed_count:
            log.warning("tools_left_out", server=self.server.label, count=allowed_count - len(offered))
        tools = tuple(self._tool_of(tool) for tool in offered)
        return _Listing(
            tools,
            inputs=_checks((tool.name, tool.input_schema) for tool in tools),
            outputs=_checks((tool.name, tool.output_schema) for tool in offered if tool.output_schema),
            changed=changed,
        )

    async def _changed(self, digests: Mapping[str, str]) -> frozenset[str] | None:
        """The tools that are not as they were accepted; None where that is not known and has to be."""
        if self.server.on_change is None:
            return frozenset()
        before = frozenset() if self._listing is None else self._listing.changed
        given = self.server.pins
        changed = {name for name, digest in digests.items() if given.get(name, digest) != digest}
        news = changed - before
        if self._pins is not None:
            try:
                seen = await self._pins.see(self.server.label, digests)
            except DatabaseUnavailableError:
                if self.server.on_change is OnChange.BLOCK:
                    return None
                return before
            of_record = [change for change in seen if change.tool not in given]
            changed |= {change.tool for change in of_record}
            news |= {change.tool for change in of_record if change.is_news}
        for name in sorted(news):
            log.warning(
                "tool_changed",
                server=self.server.label,
                tool=name,
                digest=digests[name],
                is_blocked=self.server.on_change is OnChange.BLOCK,
            )
        return frozenset(changed)

    def _tool_of(self, listed: ListedTool) -> Tool:
        hints = listed.annotations
        read_only = bool(hints and hints.read_only_hint)
        destructive = not read_only and not (hints and hints.destructive_hint is False)
        return Tool(
            server_label=self.server.label,
            name=listed.name,
            description=unframed(cleaned(listed.description or ""))[: self._limits.description_chars_max],
            input_schema=unframed_schema(cleaned_json(listed.input_schema)),
            read_only=read_only,
            idempotent=bool(hints and hints.idempotent_hint),
            destructive=destructive,
            requires_approval=self.server.policy.requires_approval(listed.name, is_destructive=destructive),
        )

    @asynccontextmanager
    async def _session(
        self, user_id: str, exchange: "_Exchange", protocol: str, seconds: float
    ) -> AsyncIterator[ClientSession]:
        """A client of this one call, as this user where the server is our own."""
        limits, server = self._limits, self.server
        headers = dict(server.headers)
        headers["accept-encoding"] = "identity"  # two packed megabytes may unpack to gigabytes
        if server.token_for is not None:
            headers["authorization"] = f"Bearer {server.token_for(user_id)}"
        # After the client's own timeout: at the same moment it would look like a lost connection.
        read_seconds = seconds + _TIMEOUT_GRACE_SECONDS
        timeout = httpx2.Timeout(read_seconds, connect=limits.connect_seconds, pool=limits.connect_seconds)
        async with httpx2.AsyncClient(transport=exchange, headers=headers, timeout=timeout, trust_env=False) as http:
            transport = streamable_http_client(server.url, http_client=http, max_sse_event_size=limits.body_bytes_max)
            async with Client(transport, mode=protocol, cache=None) as client:
                yield client.session

    def _log_failure(self, name: str, result: ToolResult, error: Exception) -> None:
        assert result.error is not None
        log.warning(
            "tool_call_failed",
            server=self.server.label,
            tool=name,
            kind=result.error.kind.value,
            code=result.error.code,
            outcome_unknown=result.outcome_unknown,
            cause=type(error).__name__,  # not its words: a server may quote the arguments, the client the answer
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
        self._note(request, None, None)
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
            stream=_CountedStream(
                response, self._body_bytes_max, lambda fault: self._note(request, response.status_code, fault)
            ),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """The shared transport outlives its clients."""

    def _ended(self, request: httpx2.Request, fault: _Fault) -> httpx2.Response:
        self._note(request, None, fault)
        return httpx2.Response(_HTTP_UNAVAILABLE, request=request)

    def _note(self, request: httpx2.Request, status: int | None, fault: _Fault | None) -> None:
        if request.method == "POST":  # not the side stream and the farewell of older protocol revisions
            self.status, self.fault = status, fault


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


def _outcome_of(result: ToolResult) -> str:
    """For counting."""
    if result.outcome_unknown:
        return "unknown"
    return "ok" if result.error is None else _OUTCOMES[result.error.kind]


def _never_sent(result: ToolResult) -> ToolResult:
    """The outcome of a call before which the server did not open: it has not happened, whatever `result` says."""
    assert result.error is not None
    is_http = result.error.kind is ToolErrorKind.HTTP
    said = result.error.message if is_http else "The tool server does not answer as MCP servers do."
    return ToolResult(None, replace(result.error, message=f"{said} The call was not made."))


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


def _usable(listed: Sequence[ListedTool], schema_bytes_max: int) -> list[ListedTool]:
    """Those whose names endpoints accept and whose schemas are not too large or deep; of equal names the first."""
    by_name: dict[str, ListedTool] = {}
    for tool in listed:
        if _TOOL_NAME.fullmatch(tool.name) and len(by_name) < _PINNED_TOOLS_MAX:
            by_name.setdefault(tool.name, tool)
    schemas = ((tool.name, tool.input_schema) for tool in by_name.values())
    checkable = _checks(schemas, bytes_max=schema_bytes_max)
    return [tool for name, tool in by_name.items() if name in checkable]


def _checks(schemas: Iterable[tuple[str, JsonObject]], bytes_max: int = _CHECKED_BYTES_MAX) -> dict[str, Check]:
    """By name, without those whose schema is too large or too deep to be checked."""
    checks: dict[str, Check] = {}
    for name, schema in schemas:
        with suppress(ValueError):
            checks[name] = Check(schema, bytes_max=bytes_max)
    return checks


def _text_of(blocks: Sequence[ContentBlock]) -> str:
    return "\n".join(_text_of_block(block) for block in blocks)


def _text_of_block(block: ContentBlock) -> str:
    match block:
        case TextContent(text=text):
            return text
        case EmbeddedResource(resource=TextResourceContents(text=text)):
            return text
        case ResourceLink(uri=uri):
            return f"[link: {uri}]"
        case _:
            return f"[{block.type} left out]"
