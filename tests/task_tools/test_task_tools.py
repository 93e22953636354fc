"""The tool server over real HTTP: the tools, who may call them, what a repeat does, what happens without Postgres."""

import asyncio
import base64
import json
import os
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx2
import jwt
import pytest
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client
from mcp.types import INTERNAL_ERROR, CallToolResult, RequestParamsMeta, TextContent
from pydantic import SecretStr

from shared.db import Database
from shared.ids import uuid7
from shared.tokens import TASK_TOOLS_AUDIENCE, TOOL_TOKEN_ISSUER, mint_token, mint_tool_token
from task_tools.app import create_app
from task_tools.idempotency import META_KEY
from task_tools.settings import TaskToolsSettings
from tests.support.asgi import served
from tests.support.tcp import proxied

SECRET = "s" * 32
UNKNOWN_ID = "task_" + "0" * 32
TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # never used, and quicker than a client that loads authorities


@dataclass(frozen=True)
class Caller:
    """A user at a tool server."""

    base_url: str
    user_id: str

    async def tries(self, tool: str, *, key: Any = None, **arguments: Any) -> CallToolResult:
        headers = {"authorization": f"Bearer {mint_tool_token(SECRET, self.user_id, TASK_TOOLS_AUDIENCE)}"}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=20, verify=TLS) as http,
            Client(streamable_http_client(f"{self.base_url}/mcp", http_client=http), mode="2026-07-28") as client,
        ):
            meta = None if key is None else cast("RequestParamsMeta", {META_KEY: key})
            return await client.call_tool(tool, arguments, meta=meta)

    async def does(self, tool: str, *, key: Any = None, **arguments: Any) -> Any:
        """The structured result of a call that succeeds."""
        result = await self.tries(tool, key=key, **arguments)
        assert not result.is_error, result.content
        return result.structured_content

    async def fails(self, tool: str, *, key: Any = None, **arguments: Any) -> str:
        """What the model is told of a call that fails."""
        result = await self.tries(tool, key=key, **arguments)
        assert result.is_error
        assert isinstance(result.content[0], TextContent)
        return result.content[0].text.removeprefix(f"Error executing tool {tool}: ")

    async def titles(self) -> list[str]:
        return [task["title"] for task in (await self.does("list_tasks"))["tasks"]]


def settings_for(database_url: str, **changes: Any) -> TaskToolsSettings:
    return TaskToolsSettings(database_url=SecretStr(database_url), tool_token_secret=SecretStr(SECRET), **changes)


@asynccontextmanager
async def serving(database_url: str, **changes: Any) -> AsyncIterator[str]:
    async with served(create_app(settings_for(database_url, **changes))) as base_url:
        yield base_url


@pytest.fixture(scope="module")
async def base_url(database_urls: dict[str, str]) -> AsyncIterator[str]:
    async with serving(database_urls["parley_tools"]) as url:
        yield url


@pytest.fixture
def ada(base_url: str) -> Caller:
    return Caller(base_url, f"ada-{uuid7().hex}")


@pytest.fixture
def bob(base_url: str) -> Caller:
    return Caller(base_url, f"bob-{uuid7().hex}")


# --- the tools


async def test_the_tools_tell_a_model_all_it_needs_and_hint_the_truth(ada: Caller) -> None:
    headers = {"authorization": f"Bearer {mint_tool_token(SECRET, 'ada', TASK_TOOLS_AUDIENCE)}"}
    async with (
        httpx2.AsyncClient(headers=headers, verify=TLS) as http,
        Client(streamable_http_client(f"{ada.base_url}/mcp", http_client=http), mode="2026-07-28") as client,
    ):
        listed = {tool.name: tool for tool in (await client.list_tools()).tools}

    hints = {name: tool.annotations for name, tool in listed.items() if tool.annotations}
    assert set(listed) == {"add_task", "list_tasks", "update_task", "complete_task", "delete_task"}
    assert {name for name, hint in hints.items() if hint.read_only_hint} == {"list_tasks"}
    assert {name for name, hint in hints.items() if hint.destructive_hint} == {"update_task", "delete_task"}
    assert {name for name, hint in hints.items() if hint.idempotent_hint} == set(listed)
    for tool in listed.values():
        assert tool.description
        assert tool.output_schema
        assert all(argument.get("description") for argument in tool.input_schema["properties"].values())
        assert not {"ctx", "user_id"} & set(tool.input_schema["properties"])


async def test_a_task_is_added_listed_changed_completed_and_deleted(ada: Caller) -> None:
    milk = await ada.does("add_task", title=" Buy milk ", description="2 litres", due="2026-12-01", priority="high")
    await ada.does("add_task", title="Call Zoë")

    renamed = await ada.does("update_task", task_id=milk["id"], title="Buy oat milk")
    done = await ada.does("complete_task", task_id=milk["id"])
    everything = await ada.does("list_tasks")
    still_open = await ada.does("list_tasks", status="open")
    finished = await ada.does("list_tasks", status="done")
    deleted = await ada.does("delete_task", task_id=milk["id"])

    assert set(milk) == {"id", "title", "description", "completed", "due", "priority", "created_at", "updated_at"}
    assert milk["title"] == "Buy milk"
    assert (milk["completed"], milk["due"], milk["priority"]) == (False, "2026-12-01", "high")
    assert (renamed["title"], renamed["description"], renamed["due"]) == ("Buy oat milk", "2 litres", "2026-12-01")
    assert done["completed"]
    assert [task["title"] for task in everything["tasks"]] == ["Buy oat milk", "Call Zoë"]
    assert everything["total"] == 2
    assert [task["title"] for task in still_open["tasks"]] == ["Call Zoë"]
    assert [task["title"] for task in finished["tasks"]] == ["Buy oat milk"]
    assert deleted == {"id": milk["id"], "title": "Buy oat milk", "deleted": True}
    assert await ada.titles() == ["Call Zoë"]


async def test_null_leaves_a_field_and_an_empty_string_removes_it(ada: Caller) -> None:
    task = await ada.does("add_task", title="Pay rent", description="cash", due="2026-12-01", priority="low")

    kept = await ada.does("update_task", task_id=task["id"], due=None, priority=None, completed=True)
    cleared = await ada.does("update_task", task_id=task["id"], due="", priority="", description="", completed=False)

    assert (kept["due"], kept["priority"], kept["description"], kept["completed"]) == (
        "2026-12-01",
        "low",
        "cash",
        True,
    )
    assert (cleared["due"], cleared["priority"], cleared["description"]) == (None, None, "")
    assert not cleared["completed"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param({"title": ""}, "The title must not be empty.", id="empty title"),
        pytest.param({"title": "x" * 201}, "The title has 201 characters; at most 200 are allowed.", id="long title"),
        pytest.param({"title": "a\x00b"}, "The title contains characters that cannot be shown", id="NUL"),
        pytest.param({"title": "a\x1bb"}, "The title contains characters that cannot be shown", id="control"),
        pytest.param({"title": "a", "description": "x" * 2_001}, "The description has 2001", id="long description"),
        pytest.param({"title": "a", "due": "tomorrow"}, "a day written as YYYY-MM-DD", id="due in words"),
        pytest.param({"title": "a", "due": "2026-02-30"}, "a day written as YYYY-MM-DD", id="no such day"),
        pytest.param({"title": "a", "due": "20261201"}, "a day written as YYYY-MM-DD", id="another notation"),
        pytest.param({"title": "a", "priority": "urgent"}, "'low', 'normal' or 'high'", id="unknown priority"),
        pytest.param({"title": 7}, "valid string", id="a number as title"),
        pytest.param({}, "Field required", id="no title"),
    ],
)
async def test_arguments_that_do_not_fit_are_explained_and_store_nothing(
    ada: Caller, arguments: dict[str, Any], told: str
) -> None:
    assert told in await ada.fails("add_task", **arguments)
    assert await ada.titles() == []


@pytest.mark.parametrize("tool", ["update_task", "complete_task", "delete_task"])
async def test_a_foreign_task_cannot_be_told_from_none(ada: Caller, bob: Caller, tool: str) -> None:
    task = await ada.does("add_task", title="secret")
    changes = {"title": "mine"} if tool == "update_task" else {}

    foreign = await bob.fails(tool, task_id=task["id"], **changes)
    unknown = await bob.fails(tool, task_id=UNKNOWN_ID, **changes)
    malformed = await bob.fails(tool, task_id="1; drop table tasks", **changes)

    assert foreign == unknown == "There is no task with this id."
    assert malformed.startswith("Not a valid id")
    assert (await ada.does("list_tasks", status="open"))["tasks"] == [task]


async def test_the_user_is_the_one_of_the_token_whatever_the_arguments_say(ada: Caller, bob: Caller) -> None:
    await ada.does("add_task", title="for whom?", user_id=bob.user_id)

    assert await ada.titles() == ["for whom?"]
    assert await bob.titles() == []


async def test_an_update_without_a_field_is_refused(ada: Caller) -> None:
    task = await ada.does("add_task", title="as it is")

    assert await ada.fails("update_task", task_id=task["id"]) == "Give at least one field to change."


async def test_limits_come_from_the_settings(database_urls: dict[str, str]) -> None:
    limits = {"title_chars_max": 5, "description_chars_max": 6, "tasks_per_user_max": 3, "listed_tasks_max": 2}
    async with serving(database_urls["parley_tools"], **limits) as base_url:
        ada = Caller(base_url, f"ada-{uuid7().hex}")
        for title in ("one", "two", "three"):
            await ada.does("add_task", title=title)

        assert "at most 5" in await ada.fails("add_task", title="eleven")
        assert "at most 6" in await ada.fails("add_task", title="six", description="sixteen")
        assert "it holds 3 tasks at most" in await ada.fails("add_task", title="four")
        listed = await ada.does("list_tasks")

    assert [task["title"] for task in listed["tasks"]] == ["one", "two"]
    assert listed["total"] == 3


# --- the idempotency key


async def test_a_call_that_comes_again_under_its_key_has_its_effect_once(ada: Caller) -> None:
    first = await ada.does("add_task", key="job:0:0", title="Buy milk")
    again = await ada.does("add_task", key="job:0:0", title="Buy milk")
    other = await ada.does("add_task", key="job:0:1", title="Buy milk")

    assert again == first
    assert other["id"] != first["id"]
    assert await ada.titles() == ["Buy milk", "Buy milk"]


async def test_a_repeated_deletion_gives_the_first_result_again(ada: Caller) -> None:
    task = await ada.does("add_task", title="Buy milk")

    first = await ada.does("delete_task", key="k", task_id=task["id"])

    assert await ada.does("delete_task", key="k", task_id=task["id"]) == first
    assert await ada.fails("delete_task", key="k2", task_id=task["id"]) == "There is no task with this id."


async def test_a_repeat_gives_the_result_of_its_time_not_of_today(ada: Caller) -> None:
    task = await ada.does("add_task", key="k", title="Buy milk")
    await ada.does("update_task", task_id=task["id"], title="Buy bread")

    assert await ada.does("add_task", key="k", title="Buy milk") == task


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [("add_task", {"title": "Buy bread"}), ("complete_task", {"task_id": UNKNOWN_ID})],
    ids=["other arguments", "another tool"],
)
async def test_a_key_that_comes_with_another_call_is_refused(ada: Caller, tool: str, arguments: dict[str, str]) -> None:
    await ada.does("add_task", key="k", title="Buy milk")

    assert await ada.fails(tool, key="k", **arguments) == "This idempotency key was used for another call."
    assert await ada.titles() == ["Buy milk"]


async def test_users_do_not_share_their_keys(ada: Caller, bob: Caller) -> None:
    mine = await ada.does("add_task", key="k", title="Buy milk")
    theirs = await bob.does("add_task", key="k", title="Buy milk")

    assert mine["id"] != theirs["id"]
    assert await bob.titles() == ["Buy milk"]


async def test_the_same_call_many_times_at_once_has_its_effect_once(ada: Caller) -> None:
    results = await asyncio.gather(*(ada.does("add_task", key="k", title="Buy milk") for _ in range(8)))

    assert len({result["id"] for result in results}) == 1
    assert await ada.titles() == ["Buy milk"]


async def test_the_same_deletion_many_times_at_once_succeeds_each_time(ada: Caller) -> None:
    task = await ada.does("add_task", title="Buy milk")

    results = await asyncio.gather(*(ada.does("delete_task", key="k", task_id=task["id"]) for _ in range(8)))

    assert all(result == {"id": task["id"], "title": "Buy milk", "deleted": True} for result in results)


async def test_a_call_that_failed_leaves_its_key_unused(ada: Caller) -> None:
    await ada.fails("complete_task", key="k", task_id=UNKNOWN_ID)

    assert (await ada.does("add_task", key="k", title="Buy milk"))["title"] == "Buy milk"


@pytest.mark.parametrize("key", ["", "k" * 256, "k" * 10_000, "a\x00b", "a b", "é", 7, ["k"]])
async def test_a_key_that_is_none_is_refused_and_nothing_is_done(ada: Caller, key: Any) -> None:
    assert "idempotency key" in await ada.fails("add_task", key=key, title="Buy milk")
    assert await ada.titles() == []


# --- who may call


def token(**changes: Any) -> str:
    claims = {"issuer": TOOL_TOKEN_ISSUER, "audience": TASK_TOOLS_AUDIENCE, "lifetime_seconds": 60.0}
    rest = {name: value for name, value in changes.items() if name in claims}
    secret, user_id = changes.get("secret", SECRET), changes.get("user_id", "ada")
    return mint_token(secret, user_id, **{**claims, **rest})


OURS = {"iss": TOOL_TOKEN_ISSUER, "aud": TASK_TOOLS_AUDIENCE}
NEVER = 253_402_300_799  # the last second of the year 9999


def by_claims(**claims: Any) -> str:
    return jwt.encode(claims, SECRET, "HS256")


def unsigned(algorithm: str) -> str:
    head = base64.urlsafe_b64encode(json.dumps({"alg": algorithm, "typ": "JWT"}).encode()).rstrip(b"=").decode()
    return f"{head}.{token().split('.')[1]}."


@pytest.mark.parametrize(
    "authorizations",
    [
        pytest.param(list, id="none"),
        pytest.param(lambda: ["Basic YWRhOmFkYQ=="], id="Basic"),
        pytest.param(lambda: ["Bearer"], id="empty"),
        pytest.param(lambda: ["Bearer abc"], id="garbled"),
        pytest.param(lambda: [f"Bearer {token()}", f"Bearer {token()}"], id="two headers"),
        pytest.param(lambda: [f"Bearer {token(secret='x' * 32)}"], id="another secret"),
        pytest.param(lambda: [f"Bearer {token(audience='parley')}"], id="a user's own token"),
        pytest.param(lambda: [f"Bearer {token(issuer='someone')}"], id="another issuer"),
        pytest.param(lambda: [f"Bearer {token(lifetime_seconds=-60)}"], id="expired"),
        pytest.param(lambda: [f"Bearer {token(lifetime_seconds=3_600)}"], id="valid for too long"),
        pytest.param(lambda: [f"Bearer {token(user_id='ada lovelace')}"], id="a subject with a blank"),
        pytest.param(lambda: [f"Bearer {token(user_id='')}"], id="an empty subject"),
        pytest.param(lambda: [f"Bearer {token(user_id='a' * 256)}"], id="a long subject"),
        pytest.param(lambda: [f"Bearer {token(audience='files')}"], id="for another tool server"),
        pytest.param(lambda: [f"Bearer {token(audience='task-tools-2')}"], id="for one that begins alike"),
        pytest.param(lambda: [f"Bearer {unsigned('none')}"], id="without a signature"),
        pytest.param(lambda: [f"Bearer {unsigned('nOnE')}"], id="without a signature, oddly written"),
        pytest.param(lambda: [f"Bearer {token()[:-3]}"], id="with part of a signature"),
        pytest.param(lambda: [f"Bearer {token()}.x"], id="of four parts"),
        pytest.param(lambda: [f"Bearer {'a' * 9_000}.b.c"], id="huge"),
        pytest.param(lambda: [f"Bearer {by_claims(sub='ada', exp=NEVER)}"], id="without issuer and audience"),
        pytest.param(lambda: [f"Bearer {by_claims(**OURS, sub='ada')}"], id="without an end"),
        pytest.param(lambda: [f"Bearer {by_claims(**OURS, exp=time.time() + 60)}"], id="without a subject"),
        pytest.param(lambda: [f"Bearer {by_claims(**OURS, sub=7, exp=time.time() + 60)}"], id="a number as subject"),
        pytest.param(lambda: [f"Bearer {by_claims(**OURS, sub='ada', exp=NEVER)}"], id="for ever"),
        pytest.param(
            lambda: [f"Bearer {by_claims(**OURS, sub='ada', exp=time.time() + 60, nbf=time.time() + 90)}"],
            id="not yet valid",
        ),
    ],
)
@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
async def test_without_a_valid_token_nothing_is_reached(
    base_url: str, authorizations: Callable[[], list[str]], method: str
) -> None:
    headers = [("authorization", value) for value in authorizations()]
    async with httpx2.AsyncClient(verify=TLS) as http:
        answer = await http.request(method, f"{base_url}/mcp", headers=headers)
        in_query = await http.request(method, f"{base_url}/mcp?access_token={token()}", headers=headers)

    assert answer.status_code == in_query.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert set(answer.json()["error"]) == {"code", "message"}


async def test_only_known_host_names_are_answered(database_urls: dict[str, str]) -> None:
    async def status_for(http: httpx2.AsyncClient, base_url: str, host: str) -> int:
        headers = {"authorization": f"Bearer {token()}", "host": host, "content-type": "application/json"}
        return (await http.post(f"{base_url}/mcp", headers=headers, content="{}")).status_code

    async with (
        serving(database_urls["parley_tools"], allowed_hosts=("tools.internal:*",)) as base_url,
        httpx2.AsyncClient(verify=TLS) as http,
    ):
        assert await status_for(http, base_url, "tools.internal:8090") != 421
        assert await status_for(http, base_url, "evil.example:8090") == 421
        assert await status_for(http, base_url, "tools.internal.evil.example:8090") == 421


async def test_a_request_of_a_web_page_is_refused_wherever_it_comes_from(base_url: str) -> None:
    headers = {"authorization": f"Bearer {token()}", "content-type": "application/json"}
    async with httpx2.AsyncClient(verify=TLS) as http:
        for origin in (base_url, "https://evil.example", "null"):
            answer = await http.post(f"{base_url}/mcp", headers=headers | {"origin": origin}, content="{}")
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[" * 60_000, "application/json"),
        (b'{"a":' * 10_000, "application/json"),
        (b'{"jsonrpc": "2.0", "id": 1e400, "method": "tools/list"}', "application/json"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": []}', "application/json"),
        (b"[]", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "tools/list"}', "text/plain"),
    ],
    ids=["empty", "cut", "deep", "deep objects", "1e400", "wrong params", "batch", "no UTF-8", "other type"],
)
async def test_what_is_no_request_is_refused_without_internals(base_url: str, body: bytes, content_type: str) -> None:
    headers = {
        "authorization": f"Bearer {token()}",
        "content-type": content_type,
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
    }
    async with httpx2.AsyncClient(verify=TLS, timeout=20) as http:
        answer = await http.post(f"{base_url}/mcp", headers=headers, content=body)
        alive = await http.get(f"{base_url}/health/live")

    assert 400 <= answer.status_code < 500
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    assert alive.status_code == 200


async def test_arguments_of_every_odd_kind_are_told_to_the_model_and_store_nothing(ada: Caller) -> None:
    odd: list[Any] = [{"a": 1}, ["x"], "\u202e" * 300, "a\x07", 10**30, True, "x" * 30_000]
    for title in odd:
        told = await ada.fails("add_task", title=title)
        assert len(told) < 3_000
    assert await ada.titles() == []


def test_it_serves_http_alone_and_never_its_standard_input() -> None:
    sources = (Path(__file__).parents[2] / "task-tools" / "src").rglob("*.py")

    assert not any("stdio" in source.read_text() for source in sources)


async def test_without_the_predicates_of_its_statements_a_user_sees_nothing_of_others(
    ada: Caller, bob: Caller, database_urls: dict[str, str]
) -> None:
    await ada.does("add_task", key="k", title="secret")
    database = await Database.connect(database_urls["parley_tools"], application_name="test", pool_size=1)

    async def seen_by(user_id: str | None) -> tuple[int, int]:
        async with database.transaction(user_id) as connection:
            tasks = await connection.fetchval("select count(*) from tasks where title = 'secret'")
            keys = await connection.fetchval("select count(*) from idempotency_keys where tool_name = 'add_task'")
        return tasks, keys

    assert await seen_by(ada.user_id) == (1, 1)
    assert await seen_by(bob.user_id) == (0, 0)
    assert await seen_by(None) == (0, 0)
    await database.close()


async def test_a_body_over_the_limit_is_refused(ada: Caller) -> None:
    headers = {"authorization": f"Bearer {token()}", "content-type": "application/json"}
    async with httpx2.AsyncClient(verify=TLS) as http:
        answer = await http.post(f"{ada.base_url}/mcp", headers=headers, content=b"x" * 100_000)

    assert answer.status_code == 413


# --- Postgres, health, the process


async def test_without_postgres_a_call_may_have_happened_and_its_repeat_mends_it(
    database_urls: dict[str, str],
) -> None:
    async with proxied(database_urls["parley_tools"]) as (url, line), serving(url) as base_url:
        ada = Caller(base_url, f"ada-{uuid7().hex}")
        await ada.does("add_task", key="k1", title="Buy milk")

        line.cut()
        with pytest.RaisesGroup(_DATABASE_AWAY, flatten_subgroups=True):  # no result, so the client is to repeat it
            await ada.tries("add_task", key="k2", title="Buy bread")
        async with httpx2.AsyncClient(verify=TLS) as http:
            live = await http.get(f"{base_url}/health/live")
            ready = await http.get(f"{base_url}/health/ready")
        line.mend()
        await ada.does("add_task", key="k2", title="Buy bread")

        assert live.status_code == 200
        assert (ready.status_code, ready.json()["dependencies"]) == (503, {"postgres": "down"})
        assert await ada.titles() == ["Buy milk", "Buy bread"]


_DATABASE_AWAY = pytest.RaisesExc(
    MCPError, match="The to-do list is temporarily unavailable", check=lambda error: error.code == INTERNAL_ERROR
)


async def test_health_needs_no_token(base_url: str) -> None:
    async with httpx2.AsyncClient(verify=TLS) as http:
        live = await http.get(f"{base_url}/health/live")
        ready = await http.get(f"{base_url}/health/ready")

    assert live.json() == {"status": "ok"}
    assert ready.json() == {"status": "ok", "dependencies": {"postgres": "up"}}


async def test_the_process_serves_and_ends_on_sigterm(database_urls: dict[str, str], unused_port: int) -> None:
    environment = os.environ | {
        "PARLEY_PROFILE": "local",
        "TASK_TOOLS_PORT": str(unused_port),
        "TASK_TOOLS_DATABASE_URL": database_urls["parley_tools"],
        "TOOL_TOKEN_SECRET": SECRET,
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "task_tools", env=environment)
    try:
        await _until_ready(f"http://127.0.0.1:{unused_port}", process)
        ada = Caller(f"http://127.0.0.1:{unused_port}", f"ada-{uuid7().hex}")
        assert await ada.does("add_task", title="Buy milk")

        process.send_signal(signal.SIGTERM)

        assert await asyncio.wait_for(process.wait(), 10) in (0, -signal.SIGTERM)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


async def _until_ready(base_url: str, process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30), httpx2.AsyncClient(verify=TLS) as http:
        while process.returncode is None:
            with suppress(httpx2.TransportError):
                if (await http.get(f"{base_url}/health/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.05)
    pytest.fail("the process ended before it was ready")
