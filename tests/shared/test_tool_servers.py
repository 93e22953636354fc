"""The file of tool servers: what it may say, what it is refused for, and how a change of it is followed."""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict

from shared.agents import AGENTS, TASKS_SERVER
from shared.tool_servers import (
    Approval,
    ConfiguredServer,
    OnChange,
    ToolPolicy,
    ToolRule,
    ToolServers,
    ToolServersError,
    ToolServersFile,
    UserToken,
    parse_tool_servers,
    tool_servers_or_exit,
)

DOCUMENT = Path(__file__).parents[2] / "docs" / "tool-servers.md"
URL = "https://tools.example.org/mcp"
DIGEST = f"sha256:{'0' * 64}"
ENVIRONMENT = {
    "TOKEN": "t0p-secret",
    "OWN": "o" * 32,
    "SAME_AS_OWN": "o" * 32,
    "TOOL_TOKEN_SECRET": "t0p-secret" * 4,
    "SHORT": "t0p-secret",
    "COPY": "t0p-secret" * 4,
    "EMPTY": "",
    "BROKEN": "t0p-secret\r\nx-evil: 1",
}
TODO, CHAT = AGENTS["todo"], AGENTS["chat"]


def servers(entries: Mapping[str, Any]) -> ToolServers:
    return parse_tool_servers(json.dumps({"mcpServers": entries}), ENVIRONMENT)


def the_server(**keys: Any) -> ConfiguredServer:
    server = servers({"github": {"url": URL, **keys}}).server("github")
    assert server is not None
    return server


def refusal(text: str) -> str:
    with pytest.raises(ToolServersError) as refused:
        parse_tool_servers(text, ENVIRONMENT)
    return str(refused.value)


# --- what it may say


def test_a_url_is_enough_and_destructive_tools_then_need_approval() -> None:
    assert the_server() == ConfiguredServer("github", URL, policy=ToolPolicy(Approval.DESTRUCTIVE))


def test_every_key_has_its_effect() -> None:
    server = the_server(
        type="http",
        transport="streamable-http",
        headers={"Authorization": "Bearer ${TOKEN}", "X-Team": "blue"},
        description="Issues and pull requests.",
        agents=["chat"],
        protocol="legacy",
        timeout_seconds=90,
        approval="always",
        exempt=["search"],
        allow=["search", "merge", "slow"],
        deny=["merge"],
        tools={"slow": {"enabled": True, "approval": "never", "timeout_seconds": 300.5}},
        on_change="block",
        pins={"search": DIGEST},
    )

    assert server == ConfiguredServer(
        label="github",
        url=URL,
        headers={"Authorization": "Bearer t0p-secret", "X-Team": "blue"},
        agents=frozenset({"chat"}),
        protocol="legacy",
        policy=ToolPolicy(
            approval=Approval.ALWAYS,
            exempt=frozenset({"search"}),
            allow=frozenset({"search", "merge", "slow"}),
            deny=frozenset({"merge"}),
            timeout_seconds=90,
            rules={"slow": ToolRule(approval=Approval.NEVER, timeout_seconds=300.5)},
        ),
        on_change=OnChange.BLOCK,
        pins={"search": DIGEST},
    )


@pytest.mark.parametrize(
    ("keys", "audience"), [({}, "github"), ({"audience": "https://api.example"}, "https://api.example")]
)
def test_a_server_with_a_secret_of_its_own_is_told_the_user(keys: dict[str, str], audience: str) -> None:
    assert the_server(user_token={"secret_env": "OWN", **keys}).user_token == UserToken(audience, "o" * 32)


def test_two_servers_never_share_a_secret_with_which_one_could_act_at_the_other() -> None:
    own, same = ({"url": URL, "user_token": {"secret_env": name}} for name in ("OWN", "SAME_AS_OWN"))
    told = refusal(json.dumps({"mcpServers": {"first": own, "second": same}}))

    assert told == (
        "mcpServers.second.user_token.secret_env: it is the same secret as that of first; "
        "each server needs one of its own"
    )


def test_the_documents_example_is_a_file_that_can_be_used() -> None:
    example = re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[0]

    assert parse_tool_servers(example, {"GITHUB_TOKEN": "t"}).labels == {"github"}


@pytest.mark.parametrize("url", ["http://127.0.0.1:9000/mcp", "http://localhost/mcp", "http://[::1]:9000/mcp"])
def test_plain_http_is_fine_on_this_machine(url: str) -> None:
    assert the_server(url=url).url == url


def test_plain_http_elsewhere_is_the_operators_word() -> None:
    assert the_server(url="http://tools.internal/mcp", allow_plain_http=True).url == "http://tools.internal/mcp"


def test_secrets_are_in_no_representation() -> None:
    assert "t0p-secret" not in repr(the_server(headers={"Authorization": "Bearer ${TOKEN}"}))
    assert "ooo" not in repr(the_server(user_token={"secret_env": "OWN"}))


def test_a_server_without_agents_serves_every_agent_that_has_tools() -> None:
    configured = servers({"all": {"url": URL}, "chats": {"url": URL, "agents": ["chat"]}})

    assert configured.labels == {"all", "chats"}
    assert configured.labels_for(TODO) == {TASKS_SERVER, "all"}
    assert configured.labels_for(CHAT) == {"chats"}


def test_an_unknown_label_has_no_server() -> None:
    assert servers({}).server("github") is None


# --- what it is refused for


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "it is not valid JSON: "),
        ("{", "it is not valid JSON: "),
        ("[" * 100_000, "it is not valid JSON: "),
        ("[]", "Input should be"),
        ("{}", "mcpServers: Field required"),
        ('{"mcpServers": {}, "inputs": []}', "inputs: this key is not known"),
        ('{"mcpServers": {"a": {}, "a": {}}}', "the key 'a' is given twice in one object"),
        ('{"mcpServers": {"a": {"url": "https://a.example", "timeout_seconds": NaN}}}', "mcpServers.a.timeout_seconds"),
    ],
)
def test_a_file_of_another_shape_is_refused(text: str, told: str) -> None:
    assert refusal(text).startswith(told)


@pytest.mark.parametrize("label", ["", "a b", "a.b", "é", "x" * 65, "two\nlines", "tasks", "Tasks", "parley"])
def test_a_label_that_cannot_be_used_is_refused(label: str) -> None:
    told = refusal(json.dumps({"mcpServers": {label: {"url": URL}}}))

    assert told.startswith("mcpServers.")
    assert "label" in told
    assert told.isprintable()


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"url": None}, "url: Input should be a valid string"),
        ({"command": "npx"}, "command: servers that run as a command (stdio) are not supported"),
        ({"args": []}, "args: servers that run as a command (stdio) are not supported"),
        ({"type": "sse"}, "type: 'sse' is not supported; only 'http' (streamable HTTP) is"),
        ({"transport": "stdio"}, "transport: 'stdio' is not supported"),
        ({"disabled": True}, "disabled: this key is not known"),
        ({"approval": "sometimes"}, "approval: Input should be 'never', 'destructive' or 'always'"),
        ({"timeout_seconds": 0}, "timeout_seconds: Input should be greater than 0"),
        ({"timeout_seconds": 601}, "timeout_seconds: Input should be less than or equal to 600"),
        ({"timeout_seconds": "30"}, "timeout_seconds: Input should be a valid number"),
        ({"allow": "search"}, "allow: Input should be a valid list"),
        ({"protocol": "2025-11-25"}, "protocol: Input should be 'auto', 'legacy' or '2026-07-28'"),
        ({"agents": ["nobody"]}, "agents: there is no agent 'nobody'; there are chat, todo"),
        ({"tools": {"merge": {"aproval": "never"}}}, "tools.merge.aproval: this key is not known"),
        ({"tools": {"merge": {"enabled": "no"}}}, "tools.merge.enabled: Input should be a valid boolean"),
        ({"url": "tools.example.org"}, "url: it must be an address such as"),
        ({"url": "ftp://tools.example.org"}, "url: it must be an address such as"),
        ({"url": "https://"}, "url: it must be an address such as"),
        ({"url": "https://tools.example.org/m cp"}, "url: it must be an address such as"),
        ({"url": "https://tools.example.org:99999"}, "url: it is no URL"),
        ({"url": "https://me:secret@tools.example.org"}, "url: no user, password or fragment"),
        ({"url": "https://tools.example.org/${TOKEN}"}, "url: environment variables are put into headers only"),
        ({"url": "http://tools.example.org"}, 'url: use https, or say "allow_plain_http": true'),
        ({"url": "http://127.1/mcp"}, 'url: use https, or say "allow_plain_http": true'),
        ({"url": "http://localhost.example.org"}, 'url: use https, or say "allow_plain_http": true'),
        ({"headers": {"A": 1}}, "headers.A: Input should be a valid string"),
        ({"headers": {"A B": "1"}}, "headers: 'A B' is no name of a header"),
        ({"headers": {"Host": "x"}}, "headers.Host: this header is set by Parley"),
        ({"headers": {"Accept-Encoding": "gzip"}}, "headers.Accept-Encoding: this header is set by Parley"),
        ({"headers": {"Mcp-Session-Id": "x"}}, "headers.Mcp-Session-Id: this header is set by Parley"),
        ({"headers": {"A": "1", "a": "2"}}, "headers.a: this header is given twice"),
        ({"headers": {"A": "x\r\ny"}}, "headers.A: a header holds printable ASCII characters only"),
        ({"headers": {"A": "ü"}}, "headers.A: a header holds printable ASCII characters only"),
        ({"headers": {"A": "Bearer ${MISSING}"}}, "headers.A: the environment variable MISSING is not set, or empty"),
        ({"headers": {"A": "Bearer ${EMPTY}"}}, "headers.A: the environment variable EMPTY is not set, or empty"),
        ({"headers": {"A": "${BROKEN}"}}, "headers.A: a header holds printable ASCII characters only"),
        ({"headers": {"A": "${}"}}, "headers.A: after ${ comes the name"),
        ({"headers": {"A": "${TOKEN:-x}"}}, "headers.A: after ${ comes the name"),
        ({"headers": {"A": "${TOKEN"}}, "headers.A: a ${ is not closed"),
        ({"headers": {"A": "x\nb: y"}}, "headers.A: a header holds printable ASCII characters only"),
        ({"headers": {"A\r\nB": "x"}}, "headers: "),
        ({"user_token": {}}, "user_token.secret_env: Field required"),
        ({"user_token": {"secret_env": "${OWN}"}}, "user_token.secret_env: "),
        ({"user_token": {"secret_env": "OWN", "audience": "a b"}}, "user_token.audience: "),
        (
            {"user_token": {"secret_env": "MISSING"}},
            "user_token.secret_env: the environment variable MISSING must have",
        ),
        ({"user_token": {"secret_env": "SHORT"}}, "user_token.secret_env: the environment variable SHORT must have"),
        (
            {"user_token": {"secret_env": "COPY"}},
            "user_token.secret_env: it is the same secret as that of TOOL_TOKEN_SEC",
        ),
        (
            {"user_token": {"secret_env": "OWN"}, "headers": {"authorization": "Bearer ${TOKEN}"}},
            "user_token: the user's token goes into the header Authorization",
        ),
        ({"on_change": "ask"}, "on_change: Input should be 'report' or 'block'"),
        ({"pins": {"search": "abc"}}, "pins.search: "),
    ],
)
def test_a_server_that_cannot_be_used_is_refused_by_name_and_field(keys: dict[str, Any], told: str) -> None:
    message = refusal(json.dumps({"mcpServers": {"good": {"url": URL}, "github": {"url": URL, **keys}}}))

    assert message.startswith(f"mcpServers.github.{told}")
    assert not any(secret in message for secret in ("t0p-secret", "me:secret", "ooo"))
    assert message.isprintable()


# --- policy


@pytest.mark.parametrize(
    ("policy", "offered"),
    [
        (ToolPolicy(), {"read", "write"}),
        (ToolPolicy(allow=frozenset({"read"})), {"read"}),
        (ToolPolicy(allow=frozenset()), set()),
        (ToolPolicy(deny=frozenset({"read"})), {"write"}),
        (ToolPolicy(allow=frozenset({"read", "write"}), deny=frozenset({"write"})), {"read"}),
        (ToolPolicy(rules={"read": ToolRule(is_enabled=False)}), {"write"}),
        (ToolPolicy(deny=frozenset({"read"}), rules={"read": ToolRule(is_enabled=True)}), {"write"}),
    ],
)
def test_what_is_denied_or_disabled_is_not_offered_whatever_allows_it(policy: ToolPolicy, offered: set[str]) -> None:
    assert {name for name in ("read", "write") if policy.offers(name)} == offered


@pytest.mark.parametrize(
    ("policy", "harmless", "destructive"),
    [
        (ToolPolicy(Approval.NEVER), False, False),
        (ToolPolicy(Approval.DESTRUCTIVE), False, True),
        (ToolPolicy(Approval.ALWAYS), True, True),
        (ToolPolicy(Approval.ALWAYS, exempt=frozenset({"it"})), False, False),
        (ToolPolicy(Approval.DESTRUCTIVE, exempt=frozenset({"it"})), False, False),
        (ToolPolicy(Approval.DESTRUCTIVE, exempt=frozenset({"other"})), False, True),
        (ToolPolicy(Approval.NEVER, rules={"it": ToolRule(approval=Approval.ALWAYS)}), True, True),
        (ToolPolicy(Approval.ALWAYS, rules={"it": ToolRule(approval=Approval.NEVER)}), False, False),
        (
            ToolPolicy(exempt=frozenset({"it"}), rules={"it": ToolRule(approval=Approval.DESTRUCTIVE)}),
            False,
            True,
        ),
    ],
)
def test_the_nearest_rule_says_what_needs_approval(policy: ToolPolicy, *, harmless: bool, destructive: bool) -> None:
    assert policy.requires_approval("it", is_destructive=False) is harmless
    assert policy.requires_approval("it", is_destructive=True) is destructive


def test_the_nearest_timeout_holds() -> None:
    policy = ToolPolicy(timeout_seconds=60, rules={"slow": ToolRule(timeout_seconds=300)})

    assert policy.call_seconds("slow", 30) == 300
    assert policy.call_seconds("other", 30) == 60
    assert replace(policy, timeout_seconds=None).call_seconds("other", 30) == 30


# --- the file as it changes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return written(tmp_path / "servers.json", "first")


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as events:
        yield events


def written(path: Path, *labels: str) -> Path:
    path.write_text(json.dumps({"mcpServers": {label: {"url": URL} for label in labels}}))
    return path


def test_a_change_is_followed_and_without_one_nothing_is_made_anew(path: Path) -> None:
    file = ToolServersFile(path, ENVIRONMENT, check_seconds=0)
    before = file.current()

    assert file.current() is before
    written(path, "first", "second")
    assert file.current().labels == {"first", "second"}
    written(path)
    assert file.current().labels == set()


def test_a_replaced_file_of_equal_size_and_time_is_followed(path: Path, tmp_path: Path) -> None:
    file = ToolServersFile(path, ENVIRONMENT, check_seconds=0)
    other = written(tmp_path / "other.json", "other")
    status = path.stat()
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert other.stat().st_size == status.st_size

    other.replace(path)

    assert file.current().labels == {"other"}


def test_the_file_is_looked_at_once_a_second_at_most(path: Path) -> None:
    now = 100.0
    file = ToolServersFile(path, clock=lambda: now)
    written(path, "first", "second")

    now = 100.9
    assert file.current().labels == {"first"}
    now = 101.0
    assert file.current().labels == {"first", "second"}


def test_a_broken_edit_keeps_what_held_and_is_told_once(path: Path, logged: list[EventDict]) -> None:
    file = ToolServersFile(path, ENVIRONMENT, check_seconds=0)
    path.write_text('{"mcpServers": {"first": {"url": "https://a.example", "headers": {"A": "${MISSING}"}}}}')

    assert [file.current().labels for _ in range(3)] == [{"first"}] * 3
    errors = [event for event in logged if event["log_level"] == "error"]
    assert [event["event"] for event in errors] == ["tool_servers_file_broken"]
    assert "mcpServers.first.headers.A: the environment variable MISSING" in errors[0]["reason"]

    written(path, "repaired")
    assert file.current().labels == {"repaired"}


def test_a_file_that_goes_away_keeps_what_held_and_is_followed_when_it_is_back(
    path: Path, logged: list[EventDict]
) -> None:
    file = ToolServersFile(path, ENVIRONMENT, check_seconds=0)
    path.unlink()

    assert [file.current().labels for _ in range(2)] == [{"first"}] * 2
    assert len(logged) == 1
    written(path, "back")
    assert file.current().labels == {"back"}


def test_who_calls_no_server_needs_none_of_their_secrets(path: Path) -> None:
    path.write_text('{"mcpServers": {"first": {"url": "https://a.example", "headers": {"A": "${MISSING}"}}}}')

    server = ToolServersFile(path).current().server("first")

    assert server == ConfiguredServer("first", "https://a.example")


def test_without_a_file_there_are_no_servers() -> None:
    assert ToolServersFile(None).current().labels == set()


@pytest.mark.parametrize("content", [None, b"{", b"\xff\xfe\xff", b" " * (2**20 + 1), b'{"mcpServers": {"a": {}}}'])
def test_a_process_does_not_start_with_a_broken_file_and_says_why_in_a_line(
    tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "servers.json"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(SystemExit) as ended:
        tool_servers_or_exit(path, "chat-worker")

    assert str(ended.value.code).startswith(f"chat-worker: TOOL_SERVERS_FILE: {path}")
    assert str(ended.value.code).isprintable()


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ToolServersError, match="cannot be read: Is a directory"):
        ToolServersFile(tmp_path)
