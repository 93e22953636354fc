"""The tool client against real servers: ours, those an operator adds, and one that misbehaves in every way it can."""

import asyncio
import gzip
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jwt
import pytest
import structlog
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.types import ToolAnnotations
from pydantic import SecretStr

from chat_worker.agent.selection import ServerWish, ToolSelection
from chat_worker.agent.tools import McpTools, MintedTokens, ToolClientLimits, ToolServer
from chat_worker.agent.values import Tool, ToolErrorKind, ToolResult, ToolSet
from shared.agents import AGENTS
from shared.ids import uuid7
from shared.tokens import TASK_TOOLS_AUDIENCE, mint_tool_token
from shared.tool_servers import Approval, ConfiguredServer, ToolPolicy, ToolServers, ToolServersFile, UserToken
from task_tools.app import create_app
from task_tools.settings import TaskToolsSettings
from tests.support.asgi import served
from tests.support.waiting import wait_until

SECRET = "s" * 32
LIMITS = ToolClientLimits(
    call_seconds=1.5, list_seconds=3.0, connect_seconds=1.0, body_bytes_max=100_000, result_bytes_max=1_000
)
# Generous beside the 1.5 s of a call, so that a busy machine fails no test; far from "never".
BOUNDED_SECONDS = 15.0
LATE_SECONDS = 0.05


def token_for(user_id: str) -> str:
    return f"token-of-{user_id}"


def a_tool(name: str, label: str = "odd") -> Tool:
    return Tool(server_label=label, name=name, description="", input_schema={"type": "object"})


class OddServer:
    """An MCP server whose tools are its faults: calling the tool `hang` hangs, and so on.

    It notes what it was asked: `methods`, `list_count`, `call_count`, the `names` and `keys` of calls, the bytes it
    sent. With `is_old` it speaks the protocol with a handshake only.
    """

    def __init__(self, *names: str, is_old: bool = False) -> None:
        self.is_old = is_old
        self.methods: list[str] = []
        self.names: list[str] = []
        self.gate = asyncio.Event()
        self.tools: list[dict[str, Any]] = [
            {"name": name, "inputSchema": {"type": "object"}} for name in names or ("fine",)
        ]
        self.list_status = 200
        self.list_count = 0
        self.list_asked = asyncio.Event()  # since it was last made to wait
        self.list_gate = asyncio.Event()
        self.list_gate.set()
        self.call_count = 0
        self.sent_bytes = 0
        self.keys: list[str] = []
        self.called = asyncio.Event()
        self.abandoned = asyncio.Event()
        self.elsewhere = ""  # what some answers point to

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        reply = _Reply(self, scope, receive, send)
        request = json.loads(await reply.body())
        self.methods.append(request["method"])
        match request["method"]:
            case "initialize" if self.is_old:
                info = {"name": "old", "version": "1"}
                await reply.result(
                    request["id"], protocolVersion="2025-06-18", capabilities={"tools": {}}, serverInfo=info
                )
            case "notifications/initialized" if self.is_old:
                await reply.whole(b"", 202)
            case "tools/list":
                self.list_count += 1
                if not self.list_gate.is_set():
                    self.list_asked.set()
                    await self.list_gate.wait()
                await reply.lists(request["id"])
            case "tools/call":
                self.call_count += 1
                self.called.set()
                self.keys.append(request["params"]["_meta"]["parley/idempotency-key"])
                self.names.append(request["params"]["name"])
                behave: Callable[[Any], Awaitable[None]] = getattr(reply, request["params"]["name"])
                await behave(request["id"])
            case _:
                await reply.error(request["id"], -32601, 404)


class _Reply:
    """One request at the odd server and the ways to answer it."""

    def __init__(self, server: OddServer, scope: Any, receive: Any, send: Any) -> None:
        self.server = server
        self.headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        self._receive = receive
        self._send = send

    async def body(self) -> bytes:
        body = bytearray()
        while True:
            message = await self._receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                return bytes(body)

    async def start(self, status: int = 200, *, content_type: str = "application/json", **headers: str) -> None:
        headers["content_type"] = content_type
        pairs = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def part(self, body: bytes, *, more: bool = True) -> None:
        self.server.sent_bytes += len(body)
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def whole(
        self, body: bytes, status: int = 200, *, content_type: str = "application/json", **headers: str
    ) -> None:
        await self.start(status, content_type=content_type, **headers)
        await self.part(body, more=False)

    async def result(self, request_id: Any, **result: Any) -> None:
        await self.whole(
            json.dumps({"jsonrpc": "2.0", "id": request_id, "result": {"resultType": "complete", **result}}).encode()
        )

    async def text(self, request_id: Any, text: str, **more: Any) -> None:
        await self.result(request_id, content=[{"type": "text", "text": text}], **more)

    async def error(self, request_id: Any, code: int, status: int) -> None:
        error = {"code": code, "message": "secret internals"}
        await self.whole(json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode(), status)

    async def lists(self, request_id: Any) -> None:
        if self.server.list_status != 200:
            await self.whole(b"", self.server.list_status)
            return
        await self.result(request_id, tools=self.server.tools, ttlMs=0, cacheScope="private")

    # what the tools do

    async def fine(self, request_id: Any) -> None:
        await self.text(request_id, "fine")

    async def patient(self, request_id: Any) -> None:
        await self.server.gate.wait()
        await self.text(request_id, "done")

    async def headers_seen(self, request_id: Any) -> None:
        await self.text(request_id, json.dumps(self.headers))

    async def who(self, request_id: Any) -> None:
        await self.start(set_cookie=f"session={self.headers['authorization']}")
        seen = json.dumps([self.headers["authorization"], self.headers.get("cookie")])
        result = {"resultType": "complete", "content": [{"type": "text", "text": seen}]}
        await self.part(json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode(), more=False)

    async def unauthorised(self, _id: Any) -> None:
        await self.whole(b'{"error": "secret internals"}', 401)

    async def forbidden(self, _id: Any) -> None:
        await self.whole(b"secret internals", 403, content_type="text/plain")

    async def busy(self, _id: Any) -> None:
        await self.whole(b"", 429, retry_after="1")

    async def broken(self, _id: Any) -> None:
        await self.whole(b"secret internals", 500)

    async def bad_gateway(self, _id: Any) -> None:
        await self.whole(b"<html>" + b"x" * 300_000, 502, content_type="text/html")

    async def not_found(self, _id: Any) -> None:
        await self.whole(b"<html>", 404, content_type="text/html")

    async def redirect(self, _id: Any) -> None:
        await self.whole(b"", 307, location="http://127.0.0.1:9/elsewhere")

    async def challenge(self, _id: Any) -> None:
        metadata = self.server.elsewhere
        asks = f'Bearer resource_metadata="{metadata}", authorization_uri="{metadata}", token_endpoint="{metadata}"'
        await self.whole(b"", 401, www_authenticate=asks)

    async def redirect_away(self, _id: Any) -> None:
        await self.whole(b"", 302, location=self.server.elsewhere)

    async def redirect_inwards(self, _id: Any) -> None:
        await self.whole(b"", 308, location=self.server.elsewhere.replace("127.0.0.1", "127.1"))

    async def no_answer(self, _id: Any) -> None:
        await self.whole(b"", 202)

    async def page(self, _id: Any) -> None:
        await self.whole(b"<html>secret internals", content_type="text/html")

    async def garbage(self, _id: Any) -> None:
        await self.whole(b'{"jsonrpc": "2.0", "id"')

    async def invalid_params(self, request_id: Any) -> None:
        await self.error(request_id, -32602, 400)

    async def unknown_method(self, request_id: Any) -> None:
        await self.error(request_id, -32601, 404)

    async def internal_error(self, request_id: Any) -> None:
        await self.error(request_id, -32603, 200)

    async def asks_back(self, request_id: Any) -> None:
        body = {"resultType": "input_required", "inputRequests": {}, "requestState": "s"}
        await self.whole(json.dumps({"jsonrpc": "2.0", "id": request_id, "result": body}).encode())

    async def no_result(self, request_id: Any) -> None:
        await self.result(request_id, content="none")

    async def another_id(self, request_id: Any) -> None:
        await self.text(f"{request_id}9", "fine")

    async def says_error(self, request_id: Any) -> None:
        await self.text(request_id, "Error executing tool says_error: the title\x00 is empty", isError=True)

    async def says_nothing(self, request_id: Any) -> None:
        await self.result(request_id, content=[], isError=True)

    async def structured(self, request_id: Any) -> None:
        await self.text(request_id, "ignored", structuredContent={"n\x00ame": "Zoë\x1b", "list": [1, "\x07b"]})

    async def misfit(self, request_id: Any) -> None:
        await self.text(request_id, "fine", structuredContent={"total": "many"})

    async def unstructured(self, request_id: Any) -> None:
        await self.text(request_id, "fine")

    async def mixed(self, request_id: Any) -> None:
        content = [
            {"type": "text", "text": "a\x00b\x1b[31m\n\tc"},
            {"type": "image", "data": "AAAA", "mimeType": "image/png"},
            {"type": "resource", "resource": {"uri": "file:///a", "text": "inside"}},
            {"type": "resource_link", "uri": "https://example.org/a", "name": "a"},
        ]
        await self.result(request_id, content=content)

    async def late(self, request_id: Any) -> None:
        await asyncio.sleep(LATE_SECONDS)
        await self.text(request_id, "at last")

    async def long(self, request_id: Any) -> None:
        await self.text(request_id, "ü" * 2_000)

    async def long_error(self, request_id: Any) -> None:
        await self.text(request_id, "ü" * 2_000, isError=True)

    async def hang(self, _id: Any) -> None:
        await self._until_abandoned()

    async def drip(self, _id: Any) -> None:
        await self.start(content_type="text/event-stream")
        while not self.server.abandoned.is_set():
            await self.part(b": still here\n\n")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._until_abandoned(), 0.05)

    async def drip_json(self, _id: Any) -> None:
        await self.start()
        while not self.server.abandoned.is_set():
            await self.part(b" ")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._until_abandoned(), 0.05)

    async def flood(self, _id: Any) -> None:
        await self._flood("application/json")

    async def flood_events(self, _id: Any) -> None:
        await self._flood("text/event-stream")

    async def _flood(self, content_type: str) -> None:
        """60 MB, unless the client leaves."""
        await self.start(content_type=content_type)
        leaving = asyncio.create_task(self._until_abandoned())
        for _ in range(60):
            if self.server.abandoned.is_set():
                break
            await self.part(b"x" * 1_000_000)
            await asyncio.sleep(0)
        leaving.cancel()

    async def bomb(self, _id: Any) -> None:
        await self.whole(gzip.compress(b" " * 10_000_000), content_encoding="gzip")

    async def cut(self, _id: Any) -> None:
        await self.start(content_length="1000")
        await self.part(b'{"jsonrpc"')

    async def cut_events(self, _id: Any) -> None:
        await self.start(content_type="text/event-stream")
        await self.part(b": begun\n\n")
        raise ConnectionError  # the server closes the connection in the middle of the answer

    async def _until_abandoned(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.server.abandoned.set()


@pytest.fixture
def odd() -> OddServer:
    return OddServer()


@pytest.fixture
async def url(odd: OddServer) -> AsyncIterator[str]:
    async with served(odd) as base_url:
        yield f"{base_url}/mcp"


@pytest.fixture
async def tools(url: str) -> AsyncIterator[ToolSet]:
    async with McpTools([ToolServer("odd", url, token_for)], LIMITS) as tools:
        yield tools.for_user("ada")


# --- against our own server


@pytest.fixture
async def tasks_url(database_urls: dict[str, str]) -> AsyncIterator[str]:
    settings = TaskToolsSettings(
        database_url=SecretStr(database_urls["parley_tools"]), tool_token_secret=SecretStr(SECRET)
    )
    async with served(create_app(settings)) as base_url:
        yield f"{base_url}/mcp"


async def test_a_task_goes_round_through_our_own_server(tasks_url: str) -> None:
    server = ToolServer("tasks", tasks_url, lambda user_id: mint_tool_token(SECRET, user_id, TASK_TOOLS_AUDIENCE))
    async with McpTools([server]) as tools:
        ada, bob = tools.for_user(f"ada-{uuid7().hex}"), tools.for_user(f"bob-{uuid7().hex}")
        offered = {tool.name: tool for tool in await ada.list()}

        added = await ada.call(offered["add_task"], {"title": "Buy milk"}, key="job:0:0")
        again = await ada.call(offered["add_task"], {"title": "Buy milk"}, key="job:0:0")
        listed = await ada.call(offered["list_tasks"], {}, key="job:1:0")
        foreign = await bob.call(offered["list_tasks"], {}, key="job:1:0")
        refused = await ada.call(offered["add_task"], {"title": ""}, key="job:2:0")

    assert set(offered) == {"add_task", "list_tasks", "update_task", "complete_task", "delete_task"}
    assert all(tool.server_label == "tasks" and tool.repeatable for tool in offered.values())
    assert {name for name, tool in offered.items() if tool.read_only} == {"list_tasks"}
    assert {name for name, tool in offered.items() if tool.destructive} == {"update_task", "delete_task"}
    assert added == again
    assert [task["title"] for task in json.loads(listed.output or "")["tasks"]] == ["Buy milk"]
    assert json.loads(foreign.output or "") == {"tasks": [], "total": 0}
    assert refused.error
    assert (refused.error.kind, refused.error.message) == (ToolErrorKind.EXECUTION, "The title must not be empty.")


# --- results


@pytest.mark.parametrize(
    ("tool", "output"),
    [
        ("fine", "fine"),
        ("structured", '{"name":"Zoë","list":[1,"b"]}'),
        ("mixed", "ab[31m\n\tc\n[image left out]\ninside\n[link: https://example.org/a]"),
    ],
)
async def test_a_result_reaches_the_model_as_clean_text(tools: ToolSet, tool: str, output: str) -> None:
    assert await tools.call(a_tool(tool), {}, key="k") == ToolResult(output)


async def test_a_result_says_how_long_its_call_took(tools: ToolSet) -> None:
    """At least as long as the tool did nothing, at most as long as was waited for it."""
    began = time.perf_counter()

    result = await tools.call(a_tool("late"), {}, key="k")

    assert result.duration_ms is not None
    assert LATE_SECONDS * 1000 <= result.duration_ms <= (time.perf_counter() - began) * 1000 + 1


@pytest.mark.parametrize(
    ("tool", "message"),
    [("says_error", "the title is empty"), ("says_nothing", "The tool failed without saying why.")],
)
async def test_what_a_tool_says_of_its_failure_reaches_the_model(tools: ToolSet, tool: str, message: str) -> None:
    result = await tools.call(a_tool(tool), {}, key="k")

    assert result.error
    assert (result.error.kind, result.error.message) == (ToolErrorKind.EXECUTION, message)
    assert not result.outcome_unknown


@pytest.mark.parametrize(
    "tool", ["invalid_params", "unknown_method", "internal_error", "unauthorised", "broken", "page", "garbage"]
)
async def test_what_a_server_says_of_a_failed_call_is_in_no_log_as_it_may_quote_the_arguments(
    tools: ToolSet, tool: str
) -> None:
    with structlog.testing.capture_logs() as logged:
        result = await tools.call(a_tool(tool), {}, key="k")

    assert result.error
    assert "tool_call_failed" in [event["event"] for event in logged]
    assert "secret" not in str(logged)


@pytest.mark.parametrize("tool", ["long", "long_error"])
async def test_a_long_result_is_cut_between_characters_and_says_so(tools: ToolSet, tool: str) -> None:
    result = await tools.call(a_tool(tool), {}, key="k")

    text = result.output or (result.error and result.error.message) or ""
    assert text.startswith("üüü")
    assert text.endswith("\n[cut here; the whole result has 4000 bytes]")
    assert 990 <= len(text.encode()) <= 1_000


async def test_the_key_goes_with_the_call(tools: ToolSet, odd: OddServer) -> None:
    await tools.call(a_tool("fine"), {}, key="job:3:1")

    assert odd.keys == ["job:3:1"]


# --- misbehaviour


@pytest.mark.parametrize(
    ("tool", "expected"),
    [
        ("unauthorised", (ToolErrorKind.HTTP, 401, False)),
        ("forbidden", (ToolErrorKind.HTTP, 403, False)),
        ("busy", (ToolErrorKind.HTTP, 429, False)),
        ("broken", (ToolErrorKind.HTTP, 500, True)),
        ("bad_gateway", (ToolErrorKind.HTTP, 502, True)),
        ("not_found", (ToolErrorKind.PROTOCOL, -32601, False)),
        ("redirect", (ToolErrorKind.PROTOCOL, -32600, True)),
        ("no_answer", (ToolErrorKind.PROTOCOL, -32600, True)),
        ("page", (ToolErrorKind.PROTOCOL, -32600, True)),
        ("garbage", (ToolErrorKind.PROTOCOL, -32700, True)),
        ("invalid_params", (ToolErrorKind.PROTOCOL, -32602, False)),
        ("unknown_method", (ToolErrorKind.PROTOCOL, -32601, False)),
        ("internal_error", (ToolErrorKind.PROTOCOL, -32603, True)),
        ("asks_back", (ToolErrorKind.PROTOCOL, -32600, False)),
        ("no_result", (ToolErrorKind.PROTOCOL, -32603, False)),
        ("another_id", (ToolErrorKind.PROTOCOL, -32001, True)),
        ("hang", (ToolErrorKind.PROTOCOL, -32001, True)),
        ("drip", (ToolErrorKind.PROTOCOL, -32001, True)),
        ("drip_json", (ToolErrorKind.PROTOCOL, -32001, True)),
        ("flood", (ToolErrorKind.PROTOCOL, -32603, False)),
        ("flood_events", (ToolErrorKind.PROTOCOL, -32603, False)),
        ("bomb", (ToolErrorKind.PROTOCOL, -32603, False)),
        ("cut", (ToolErrorKind.PROTOCOL, -32603, True)),
        ("cut_events", (ToolErrorKind.PROTOCOL, -32603, True)),
    ],
)
async def test_every_misbehaviour_ends_as_a_result_in_bounded_time_and_troubles_no_sibling(
    tools: ToolSet, odd: OddServer, tool: str, expected: tuple[ToolErrorKind, int, bool]
) -> None:
    began = time.monotonic()
    sibling, result, other_sibling = await asyncio.gather(
        tools.call(a_tool("fine"), {}, key="a"),
        tools.call(a_tool(tool), {}, key="b"),
        tools.call(a_tool("fine"), {}, key="c"),
    )

    assert result.error
    assert (result.error.kind, result.error.code, result.outcome_unknown) == expected
    assert (result.duration_ms is None) == result.outcome_unknown
    assert result.output is None
    assert "secret" not in result.error.message
    assert sibling == other_sibling == await tools.call(a_tool("fine"), {}, key="d") == ToolResult("fine")
    assert time.monotonic() - began < BOUNDED_SECONDS
    assert odd.call_count == 4  # none was made twice
    assert odd.sent_bytes < 30_000_000


@pytest.mark.parametrize("tool", ["misfit", "unstructured"])
async def test_a_result_that_breaks_the_tools_own_schema_is_done_and_invalid(
    tools: ToolSet, odd: OddServer, tool: str
) -> None:
    schema = {"type": "object", "properties": {"total": {"type": "integer"}}, "required": ["total"]}
    odd.tools = [{"name": tool, "inputSchema": {"type": "object"}, "outputSchema": schema}]
    (offered,) = await tools.list()

    result = await tools.call(offered, {}, key="k")

    assert result.error
    assert (result.error.kind, result.outcome_unknown) == (ToolErrorKind.PROTOCOL, False)
    assert "ran" in result.error.message
    assert odd.call_count == 1


async def test_a_server_that_is_down_is_unreached_and_works_when_it_is_back(odd: OddServer) -> None:
    async with served(odd) as base_url:
        port = int(base_url.rpartition(":")[2])
    async with McpTools([ToolServer("odd", f"{base_url}/mcp", token_for)], LIMITS) as tools:
        ada = tools.for_user("ada")

        down = await ada.call(a_tool("fine"), {}, key="k")
        async with served(odd, port=port):
            up = await ada.call(a_tool("fine"), {}, key="k")
        down_again = await ada.call(a_tool("fine"), {}, key="k")

    assert down.error
    assert (down.error.kind, down.error.code, down.outcome_unknown) == (ToolErrorKind.HTTP, 503, False)
    assert up == ToolResult("fine")
    assert down_again.error


async def test_an_abandoned_call_is_cancelled_at_the_server(tools: ToolSet, odd: OddServer) -> None:
    call = asyncio.create_task(tools.call(a_tool("hang"), {}, key="k"))
    await odd.called.wait()

    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    await asyncio.wait_for(odd.abandoned.wait(), BOUNDED_SECONDS)


async def test_a_call_that_ran_out_of_time_is_cancelled_at_the_server(tools: ToolSet, odd: OddServer) -> None:
    await tools.call(a_tool("hang"), {}, key="k")

    await asyncio.wait_for(odd.abandoned.wait(), BOUNDED_SECONDS)


async def test_a_tool_of_a_server_that_is_configured_no_more_is_an_error(tools: ToolSet) -> None:
    result = await tools.call(a_tool("fine", label="gone"), {}, key="k")

    assert result.error
    assert result.error.message == "This tool is no longer available."


# --- users


async def test_nobodys_token_or_cookie_goes_with_anothers_call(url: str) -> None:
    patient = ToolClientLimits(connect_seconds=60.0, call_seconds=60.0)  # there are fewer connections than calls
    tokens = MintedTokens(UserToken("odd", SECRET))
    async with McpTools([ToolServer("odd", url, tokens)], patient) as tools:
        users = [f"user-{number % 50}" for number in range(500)]
        results = await asyncio.gather(*(tools.for_user(user).call(a_tool("who"), {}, key="k") for user in users))

    seen = [json.loads(result.output or "null") for result in results]
    subjects = [jwt.decode(authorization[7:], SECRET, ["HS256"], audience="odd")["sub"] for authorization, _ in seen]
    assert subjects == users
    assert not any(cookie for _, cookie in seen)


async def test_the_tokens_of_a_configured_servers_users_are_dated_by_whom_we_believe(url: str) -> None:
    own_token = UserToken("odd", SECRET)
    servers = ToolServers({"odd": ConfiguredServer("odd", url, protocol="2026-07-28", user_token=own_token)})
    an_hour_ago = int(time.time()) - 3_600
    async with McpTools([], LIMITS, lambda: servers, now=lambda: an_hour_ago) as tools:
        result = await tools.for_user("ada").call(a_tool("who"), {}, key="k")

    authorization, _ = json.loads(result.output or "null")
    assert jwt.decode(authorization[7:], options={"verify_signature": False})["iat"] == an_hour_ago


# --- the list


async def test_the_list_is_asked_for_once_by_all_and_remembered(url: str, odd: OddServer) -> None:
    async with McpTools([ToolServer("odd", url, token_for)], LIMITS) as tools:
        lists = await asyncio.gather(*(tools.for_user(f"user-{number}").list() for number in range(5)))
        await tools.for_user("ada").list()

    assert [[tool.name for tool in offered] for offered in lists] == [["fine"]] * 5
    assert odd.list_count == 1


async def test_a_list_past_its_time_is_asked_for_again(url: str, odd: OddServer) -> None:
    async with McpTools([ToolServer("odd", url, token_for)], ToolClientLimits(list_ttl_seconds=0)) as tools:
        before = await tools.for_user("ada").list()
        odd.tools = []

        async def is_gone() -> bool:
            return await tools.for_user("ada").list() == ()

        await wait_until(is_gone, what="the new list")

    assert len(before) == 1


async def test_nobody_waits_for_a_list_where_there_is_an_older_one(url: str, odd: OddServer) -> None:
    async with McpTools([ToolServer("odd", url, token_for)], ToolClientLimits(list_ttl_seconds=0)) as tools:
        before = await tools.for_user("ada").list()
        odd.list_gate.clear()

        lists = [await tools.for_user(f"user-{number}").list() for number in range(5)]
        await asyncio.wait_for(odd.list_asked.wait(), BOUNDED_SECONDS)
        odd.list_gate.set()

    assert lists == [before] * 5
    assert odd.list_count == 2  # one for all


async def test_a_turn_that_stops_waiting_for_the_first_list_leaves_it_to_the_others(url: str, odd: OddServer) -> None:
    odd.list_gate.clear()
    async with McpTools([ToolServer("odd", url, token_for)], LIMITS) as tools:
        stopped = asyncio.create_task(_listed(tools, "ada"))
        waiting = asyncio.create_task(_listed(tools, "bob"))
        await asyncio.wait_for(odd.list_asked.wait(), BOUNDED_SECONDS)

        stopped.cancel()
        await asyncio.wait([stopped])
        odd.list_gate.set()

        assert len(await waiting) == 1
    assert odd.list_count == 1


async def _listed(tools: McpTools, user_id: str) -> Sequence[Tool]:
    return await tools.for_user(user_id).list()


async def test_a_server_that_does_not_list_keeps_what_it_lately_offered(url: str, odd: OddServer) -> None:
    async with McpTools([ToolServer("odd", url, token_for)], ToolClientLimits(list_ttl_seconds=0)) as tools:
        ada = tools.for_user("ada")
        before = await ada.list()
        odd.list_status = 500

        assert await ada.list() == before


async def test_a_server_that_never_listed_costs_its_tools_only_and_is_not_asked_at_once_again(
    url: str, odd: OddServer
) -> None:
    other = OddServer()
    other.list_status = 500
    async with (
        served(other) as base_url,
        McpTools(
            [ToolServer("other", f"{base_url}/mcp", token_for), ToolServer("odd", url, token_for)], LIMITS
        ) as tools,
    ):
        offered = [await tools.for_user("ada").list() for _ in range(3)]

    assert [[tool.server_label for tool in tools] for tools in offered] == [["odd"]] * 3
    assert other.list_count == 1
    assert odd.list_count == 1


async def test_the_first_list_of_our_own_server_is_asked_for_again(url: str, odd: OddServer) -> None:
    odd.list_status = 503
    async with McpTools(
        [ToolServer("odd", url, token_for)], replace(LIMITS, first_list_delays_seconds=(0.01,) * 500)
    ) as tools:
        asked = asyncio.create_task(tools.for_user("ada").list())

        async def is_asked_again() -> bool:
            return odd.list_count >= 2

        await wait_until(is_asked_again, what="another question for the list")
        odd.list_status = 200

        assert await asked


async def test_names_that_a_model_endpoint_refuses_and_tools_over_the_limit_are_left_out(
    url: str, odd: OddServer
) -> None:
    names = ["a b", "x" * 65, "ok", "dots.and/slashes", *(f"tool_{number}" for number in range(10))]
    odd.tools = [{"name": name, "inputSchema": {"type": "object"}, "description": "d" * 9_000} for name in names]
    async with McpTools([ToolServer("odd", url, token_for)], ToolClientLimits(tool_count_max=3)) as tools:
        offered = await tools.for_user("ada").list()

    assert [tool.name for tool in offered] == ["ok", "tool_0", "tool_1"]
    assert all(len(tool.description) == 2_000 for tool in offered)


async def test_of_two_tools_with_one_name_the_first_servers_is_offered(url: str) -> None:
    servers = [ToolServer("first", url, token_for), ToolServer("second", url, token_for)]
    async with McpTools(servers, LIMITS) as tools:
        offered = await tools.for_user("ada").list()

    assert [tool.server_label for tool in offered] == ["first"]


async def test_a_tool_without_hints_is_taken_for_the_most_dangerous(tools: ToolSet) -> None:
    (offered,) = await tools.list()

    assert (offered.read_only, offered.idempotent, offered.destructive) == (False, False, True)
    assert not offered.repeatable


# --- servers that the operator adds


class Configuration:
    """The operator's file, and the tools of a worker that follows it beside an own server `tasks`."""

    def __init__(self, path: Path, own_url: str) -> None:
        self._path = path
        self._entries: dict[str, Any] = {}
        self.edit()
        file = ToolServersFile(path, {"TOKEN": "of-the-operator"}, check_seconds=0)
        self.tools = McpTools([ToolServer("tasks", own_url, token_for)], LIMITS, file.current)

    def edit(self, **entries: dict[str, Any] | None) -> None:
        """Set these servers' entries, None takes one away; the file is replaced at once, as editors do."""
        self._entries |= entries
        left = {label: entry for label, entry in self._entries.items() if entry is not None}
        self.write(json.dumps({"mcpServers": left}))

    def write(self, text: str) -> None:
        new = self._path.with_suffix(".new")
        new.write_text(text)
        new.replace(self._path)

    async def names(self, selection: ToolSelection | None = None) -> dict[str, str]:
        """The tools that a user is offered, each with its server."""
        return {tool.name: tool.server_label for tool in await self.tools.for_user("ada").list(selection)}

    async def tool(self, name: str, selection: ToolSelection | None = None) -> Tool:
        return {tool.name: tool for tool in await self.tools.for_user("ada").list(selection)}[name]

    async def call(self, name: str) -> ToolResult:
        return await self.tools.for_user("ada").call(await self.tool(name), {}, key="k")


@pytest.fixture
async def configuration(tmp_path: Path, url: str) -> AsyncIterator[Configuration]:
    """Beside an own server that offers `fine`."""
    configuration = Configuration(tmp_path / "servers.json", url)
    async with configuration.tools:
        yield configuration


Serving = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
async def serving() -> AsyncIterator[Serving]:
    """Serves an application and gives its entry for the file; with `protocol`, as these servers know no older one."""
    async with AsyncExitStack() as stack:

        async def serve(app: Any, **keys: Any) -> dict[str, Any]:
            base_url = await stack.enter_async_context(served(app))
            return {"url": f"{base_url}/mcp", "protocol": "2026-07-28", **keys}

        yield serve


async def test_a_server_is_added_changed_and_removed_without_a_restart(
    configuration: Configuration, serving: Serving
) -> None:
    first, second = OddServer("structured"), OddServer("mixed")
    assert await configuration.names() == {"fine": "tasks"}

    configuration.edit(extra=await serving(first))
    assert await configuration.names() == {"fine": "tasks", "structured": "extra"}
    assert (await configuration.call("structured")).error is None

    configuration.edit(extra=await serving(second))
    assert await configuration.names() == {"fine": "tasks", "mixed": "extra"}
    removed = await configuration.tool("mixed")

    configuration.edit(extra=None)
    assert await configuration.names() == {"fine": "tasks"}
    result = await configuration.tools.for_user("ada").call(removed, {}, key="k")
    assert result.error
    assert result.error.message == "This tool is no longer available."
    assert (first.call_count, second.call_count) == (1, 0)


async def test_a_call_that_runs_when_its_server_is_removed_ends_as_any_other(
    configuration: Configuration, serving: Serving
) -> None:
    server = OddServer("patient")
    configuration.edit(extra=await serving(server))
    call = asyncio.create_task(configuration.call("patient"))
    await asyncio.wait_for(server.called.wait(), BOUNDED_SECONDS)

    configuration.edit(extra=None)
    assert await configuration.names() == {"fine": "tasks"}
    server.gate.set()

    assert await call == ToolResult("done")


async def test_a_list_that_is_awaited_when_its_server_is_removed_troubles_nobody(
    configuration: Configuration, serving: Serving
) -> None:
    server = OddServer("structured")
    server.list_gate.clear()
    configuration.edit(extra=await serving(server))
    waiting = asyncio.create_task(configuration.names())
    await asyncio.wait_for(server.list_asked.wait(), BOUNDED_SECONDS)

    configuration.edit(extra=None)
    assert await configuration.names() == {"fine": "tasks"}
    server.list_gate.set()

    assert await waiting == {"fine": "tasks", "structured": "extra"}


async def test_a_change_of_one_server_leaves_the_others_lists(configuration: Configuration, serving: Serving) -> None:
    kept = OddServer("structured")
    configuration.edit(kept=await serving(kept))
    await configuration.names()

    configuration.edit(other=await serving(OddServer("mixed")))

    assert await configuration.names() == {"fine": "tasks", "structured": "kept", "mixed": "other"}
    assert kept.list_count == 1


async def test_a_broken_edit_leaves_the_servers_as_they_were(configuration: Configuration, serving: Serving) -> None:
    configuration.edit(extra=await serving(OddServer("structured")))
    before = await configuration.names()

    configuration.write('{"mcpServers": {"extra": {"url": ')

    assert await configuration.names() == before
    assert (await configuration.call("structured")).error is None


async def test_names_that_servers_share_are_told_apart_and_ours_stay_plain(
    configuration: Configuration, serving: Serving
) -> None:
    first, second = OddServer("fine", "structured", "mixed"), OddServer("structured", "unstructured")
    configuration.edit(first=await serving(first), second=await serving(second))

    assert await configuration.names() == {
        "fine": "tasks",
        "first__fine": "first",
        "first__structured": "first",
        "mixed": "first",
        "second__structured": "second",
        "unstructured": "second",
    }
    assert await configuration.call("first__fine") == ToolResult("fine")
    assert (await configuration.call("second__structured")).error is None
    assert (first.names, second.names) == (["fine"], ["structured"])


async def test_a_shared_name_for_which_no_other_is_free_is_left_out(
    configuration: Configuration, serving: Serving, odd: OddServer
) -> None:
    long_name = "x" * 60
    odd.tools += [{"name": long_name, "inputSchema": {"type": "object"}}]
    server = OddServer("fine", "extra__fine", long_name)
    configuration.edit(extra=await serving(server))

    assert await configuration.names() == {"fine": "tasks", long_name: "tasks", "extra__fine": "extra"}
    await configuration.call("extra__fine")
    assert server.names == ["extra__fine"]


async def test_a_configured_server_gets_its_headers_and_no_users_token(
    configuration: Configuration, serving: Serving
) -> None:
    bare, known = OddServer("headers_seen"), OddServer("headers_seen")
    headers = {"Authorization": "Bearer ${TOKEN}", "X-Team": "blue"}
    configuration.edit(bare=await serving(bare), known=await serving(known, headers=headers))

    seen = {
        label: json.loads((await configuration.call(f"{label}__headers_seen")).output or "")
        for label in ("bare", "known")
    }

    assert "authorization" not in seen["bare"]
    assert (seen["known"]["authorization"], seen["known"]["x-team"]) == ("Bearer of-the-operator", "blue")
    assert "ada" not in json.dumps(seen)


HOSTILE = {
    "type": "object",
    "$ref": "#/$defs/a",
    "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}] * 2}},
    "pattern": "^(a+)+$",
}


async def test_schemas_of_a_configured_server_are_checked_and_hold_nobody_up(
    configuration: Configuration, serving: Serving
) -> None:
    server = OddServer()
    integer = {"type": "object", "properties": {"total": {"type": "integer"}}}
    server.tools = [
        {"name": "misfit", "inputSchema": {"type": "object"}, "outputSchema": integer},
        {"name": "structured", "inputSchema": HOSTILE, "outputSchema": HOSTILE},
        {"name": "fine", "inputSchema": integer},
    ]
    configuration.edit(extra=await serving(server))
    began = time.monotonic()

    misfit = await configuration.call("misfit")
    hostile = await configuration.call("structured")
    fine = await configuration.tools.for_user("ada").call(a_tool("extra__fine", "extra"), {"total": "x"}, key="k")

    assert misfit.error
    assert "its result is not what it declares" in misfit.error.message
    assert hostile.error is None
    assert fine.error
    assert (fine.error.kind, fine.error.code, fine.outcome_unknown) == (ToolErrorKind.PROTOCOL, -32602, False)
    assert fine.error.message == (
        "The arguments do not fit the tool's schema: total: this must be of type integer. The call was not made."
    )
    assert server.names == ["misfit", "structured"]
    assert time.monotonic() - began < BOUNDED_SECONDS


@pytest.mark.parametrize(
    "schema",
    [{"type": "object", "description": "x" * 20_000}, {"type": "object", "default": [[[[[[[[]]]]]]]] * 3}],
    ids=["large", "deep"],
)
async def test_a_tool_whose_schema_is_too_large_or_too_deep_is_left_out(
    configuration: Configuration, serving: Serving, schema: dict[str, Any]
) -> None:
    for _ in range(60):
        schema["default"] = [schema.get("default")]
    server = OddServer("structured")
    server.tools += [{"name": "mixed", "inputSchema": schema}]
    configuration.edit(extra=await serving(server))

    assert await configuration.names() == {"fine": "tasks", "structured": "extra"}


@pytest.mark.parametrize("answer", ["challenge", "redirect_away", "redirect_inwards"])
async def test_where_a_server_points_to_is_not_asked(
    configuration: Configuration, serving: Serving, answer: str
) -> None:
    inside = OddServer()
    inside_url = (await serving(inside))["url"]
    server = OddServer(answer)
    server.elsewhere = inside_url
    configuration.edit(extra=await serving(server))

    result = await configuration.call(answer)

    assert result.error
    assert inside_url not in result.error.message
    assert inside.methods == []
    assert server.call_count == 1


async def test_a_policy_says_which_tools_there_are_also_when_they_are_called(
    configuration: Configuration, serving: Serving
) -> None:
    server = OddServer("structured", "mixed", "unstructured", "misfit")
    entry = await serving(server)
    configuration.edit(extra=entry)
    mixed = await configuration.tool("mixed")

    rules = {"unstructured": {"enabled": False}}
    configuration.edit(
        extra=entry | {"allow": ["structured", "mixed", "unstructured"], "deny": ["mixed"], "tools": rules}
    )

    assert await configuration.names() == {"fine": "tasks", "structured": "extra"}
    result = await configuration.tools.for_user("ada").call(mixed, {}, key="k")
    assert result.error
    assert result.error.message == "This tool is no longer available."
    assert server.call_count == 0


async def test_a_tool_has_its_own_time(configuration: Configuration, serving: Serving) -> None:
    entry = await serving(OddServer("hang", "patient"), timeout_seconds=60, tools={"hang": {"timeout_seconds": 0.2}})
    configuration.edit(extra=entry)

    result = await configuration.call("hang")

    assert result.error
    assert (result.error.code, result.outcome_unknown) == (-32001, True)
    assert result.error.message.startswith("The tool did not answer within 0.2 seconds.")


async def test_approval_is_required_as_the_operator_says_and_of_destructive_tools_by_default(
    configuration: Configuration, serving: Serving
) -> None:
    server = OddServer("unmarked", "reading", "adding", "exempt", "careful")
    hints: dict[str, dict[str, bool]] = {"reading": {"readOnlyHint": True}, "adding": {"destructiveHint": False}}
    server.tools = [tool | {"annotations": hints.get(tool["name"], {})} for tool in server.tools]
    keys = {"exempt": ["exempt"], "tools": {"reading": {"approval": "always"}}}
    configuration.edit(extra=await serving(server, **keys))

    tools = await configuration.tools.for_user("ada").list()

    assert {tool.name for tool in tools if tool.requires_approval} == {"unmarked", "reading", "careful"}


@pytest.mark.parametrize(("approval", "count"), [(Approval.NEVER, 0), (Approval.DESTRUCTIVE, 1), (Approval.ALWAYS, 2)])
async def test_our_own_tools_need_approval_as_set(url: str, odd: OddServer, approval: Approval, count: int) -> None:
    read_only = {"name": "who", "inputSchema": {"type": "object"}, "annotations": {"readOnlyHint": True}}
    odd.tools.append(read_only)
    server = ToolServer("tasks", url, token_for, policy=ToolPolicy(approval))
    async with McpTools([server], LIMITS) as tools:
        offered = await tools.for_user("ada").list()

    assert sum(tool.requires_approval for tool in offered) == count


async def test_an_agents_servers_follow_the_file(configuration: Configuration, serving: Serving) -> None:
    todo, chat = AGENTS["todo"], AGENTS["chat"]
    entry = await serving(OddServer("structured"))
    configuration.edit(extra=entry, chats=entry | {"agents": ["chat"]})

    assert configuration.tools.labels_for(todo) == {"tasks", "extra"}
    assert configuration.tools.labels_for(chat) == {"chats"}


# --- what a turn selects


async def test_a_turn_uses_the_servers_and_tools_that_it_selects(
    configuration: Configuration, serving: Serving
) -> None:
    unselected = OddServer("misfit")
    configuration.edit(
        extra=await serving(OddServer("structured", "mixed", "fine")), unselected=await serving(unselected)
    )
    some = ToolSelection({"extra": ServerWish(frozenset({"mixed", "fine", "unheard_of"}))})
    both = ToolSelection({"tasks": ServerWish(), "extra": ServerWish(frozenset({"extra__fine"}))})

    assert await configuration.names(some) == {"mixed": "extra", "fine": "extra"}
    assert await configuration.names(both) == {"fine": "tasks", "extra__fine": "extra"}
    assert await configuration.names(ToolSelection({})) == {}
    assert unselected.list_count == 0


@pytest.mark.parametrize(
    ("wish", "asked"),
    [
        ("never", {"writing"}),
        ("always", {"reading", "other_reading", "writing"}),
        ({"always": {"tool_names": ["reading"]}}, {"reading", "writing"}),
        ({"never": {"tool_names": ["reading", "writing"]}}, {"other_reading", "writing"}),
        (
            {"always": {"tool_names": ["reading"]}, "never": {"tool_names": ["reading", "other_reading"]}},
            {"reading", "writing"},
        ),
    ],
)
async def test_a_client_can_ask_for_more_approvals_and_never_for_fewer(
    configuration: Configuration, serving: Serving, wish: Any, asked: set[str]
) -> None:
    server = OddServer("reading", "other_reading", "writing")
    server.tools = [tool | {"annotations": {"readOnlyHint": tool["name"] != "writing"}} for tool in server.tools]
    configuration.edit(extra=await serving(server))
    selection = ToolSelection.of_request([wanted("extra", approval=wish)], {"extra"})

    tools = await configuration.tools.for_user("ada").list(selection)

    assert {tool.name for tool in tools} == {"reading", "other_reading", "writing"}
    assert {tool.name for tool in tools if tool.requires_approval} == asked


def wanted(label: str, allowed: list[str] | None = None, approval: Any = "never") -> dict[str, Any]:
    """A server as a request names it."""
    return {"type": "mcp", "server_label": label, "allowed_tools": allowed, "require_approval": approval}


def test_a_request_that_names_no_server_gets_those_of_its_agent() -> None:
    selection = ToolSelection.of_request([{"type": "function", "name": "f"}], {"tasks", "extra"})

    assert selection == ToolSelection({"tasks": ServerWish(), "extra": ServerWish()})


def test_a_request_gets_the_servers_that_it_names_among_its_agents_and_ours() -> None:
    tools = [wanted("extra", ["a"]), wanted("tasks", []), wanted("of_another_agent")]

    assert ToolSelection.of_request(tools, {"extra", "unnamed"}) == ToolSelection(
        {"extra": ServerWish(frozenset({"a"})), "tasks": ServerWish(frozenset())}
    )


# --- servers of every age


async def test_an_older_server_is_used_and_its_age_found_out_with_its_list_only(
    configuration: Configuration, serving: Serving
) -> None:
    old = OddServer("structured", "unauthorised", is_old=True)
    configuration.edit(extra=await serving(old, protocol="auto"))

    await configuration.names()
    assert old.methods == ["server/discover", "initialize", "notifications/initialized", "tools/list"]
    old.methods.clear()
    assert (await configuration.call("structured")).error is None
    assert old.methods == ["initialize", "notifications/initialized", "tools/call"]

    refused = await configuration.call("unauthorised")
    assert refused.error
    assert (refused.error.kind, refused.error.code) == (ToolErrorKind.HTTP, 401)


async def test_a_server_that_follows_the_newest_protocol_is_asked_for_it_once(
    configuration: Configuration, serving: Serving
) -> None:
    server = MCPServer("new", log_level="WARNING")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    async def whoami(context: Context) -> str:
        return str((context.headers or {}).get("authorization"))

    @server.tool()
    async def wipe() -> str:
        return "wiped"

    headers = {"Authorization": "Bearer ${TOKEN}"}
    app = server.streamable_http_app(stateless_http=True)
    configuration.edit(extra=await serving(app, protocol="auto", headers=headers))

    assert (await configuration.tool("wipe")).requires_approval
    assert not (await configuration.tool("whoami")).requires_approval
    assert json.loads((await configuration.call("whoami")).output or "") == {"result": "Bearer of-the-operator"}


async def test_a_server_that_does_not_open_gets_no_call_and_that_is_known(
    configuration: Configuration, serving: Serving
) -> None:
    """With a handshake a call begins before it is sent: what fails there leaves nothing unknown."""
    configuration.edit(extra=await serving(OddServer("fine"), protocol="legacy"))

    result = await configuration.tools.for_user("ada").call(a_tool("fine", "extra"), {}, key="k")

    assert result.error
    assert "The call was not made." in result.error.message
    assert not result.outcome_unknown
