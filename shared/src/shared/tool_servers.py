"""The tool servers that an operator adds: the JSON file named by TOOL_SERVERS_FILE, in the `mcpServers` shape.

The gateway asks which labels a client may name, the worker which tools a server may offer and under which conditions;
both read the file anew when it changes, so a server is added, changed or removed without a restart. What each key
means for an operator is in docs/tool-servers.md.
"""

import ipaddress
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, TypeAlias
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError

from shared.agents import AGENTS, TASKS_SERVER, Agent
from shared.observability import get_logger
from shared.settings import SECRET_BYTES_MIN

log = get_logger()

_CHECK_SECONDS = 1.0  # between two looks at the file
_FILE_BYTES_MAX = 2**20
_LABEL = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_RESERVED_LABELS = frozenset({TASKS_SERVER, "parley"})
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_ENVIRONMENT_NAME = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_UNPRINTABLE = re.compile(r"[^\x20-\x7e\t]")
_URL = re.compile(r"[\x21-\x7e]+")
# The client sets these; an accepted encoding, too, would let two packed megabytes unpack to gigabytes.
_OUR_HEADERS = frozenset(
    {"accept", "accept-encoding", "connection", "content-length", "content-type", "host", "transfer-encoding"}
)
_OUR_HEADER_PREFIX = "mcp-"
# Secrets of ours that tokens are signed with.
_OUR_SECRETS = ("TOOL_TOKEN_SECRET", "JWT_SECRET")
_STDIO_KEYS = frozenset({"command", "args", "env", "cwd"})


class ToolServersError(ValueError):
    """The file cannot be used. The message names the server and the field, and never tells a secret."""


class Approval(StrEnum):
    """Which calls wait until the client has approved them."""

    NEVER = "never"
    DESTRUCTIVE = "destructive"  # those of tools that their server does not declare to be harmless
    ALWAYS = "always"


class OnChange(StrEnum):
    """What becomes of a tool of which its server says something else than was accepted."""

    REPORT = "report"  # it is used; the change is logged, counted, and listed until it is accepted
    BLOCK = "block"  # the same, and it is not used until then


@dataclass(frozen=True, slots=True)
class UserToken:
    """How a server is told who the user is: by tokens for `audience`, signed with a secret that it alone shares."""

    audience: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToolRule:
    """What holds for one tool, before what holds for its server; None leaves it to that."""

    is_enabled: bool = True
    approval: Approval | None = None
    timeout_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ToolPolicy:
    """What a server's tools may do here. Names are the server's own; `allow` is None where all are allowed."""

    approval: Approval = Approval.DESTRUCTIVE
    exempt: frozenset[str] = frozenset()  # from approval
    allow: frozenset[str] | None = None
    deny: frozenset[str] = frozenset()
    timeout_seconds: float | None = None
    rules: Mapping[str, ToolRule] = field(default_factory=dict)

    def offers(self, tool_name: str) -> bool:
        """Whether the tool may be used at all. What is denied or disabled is not, whatever else allows it."""
        is_allowed = self.allow is None or tool_name in self.allow
        return is_allowed and tool_name not in self.deny and self._rule(tool_name).is_enabled

    def requires_approval(self, tool_name: str, *, is_destructive: bool) -> bool:
        """Whether a call waits for the client's word: the tool's own rule decides, else `exempt`, else `approval`."""
        approval = self._rule(tool_name).approval
        if approval is None:
            approval = Approval.NEVER if tool_name in self.exempt else self.approval
        return approval is Approval.ALWAYS or (approval is Approval.DESTRUCTIVE and is_destructive)

    def call_seconds(self, tool_name: str, otherwise: float) -> float:
        """How long a call may take; `otherwise` where neither the tool nor its server says."""
        return self._rule(tool_name).timeout_seconds or self.timeout_seconds or otherwise

    def named_tools(self) -> frozenset[str]:
        """Every tool that the policy speaks of; one that the server does not have is a mistake of the operator's."""
        return self.exempt | (self.allow or frozenset()) | self.deny | self.rules.keys()

    def _rule(self, tool_name: str) -> ToolRule:
        return self.rules.get(tool_name, _NO_RULE)


_NO_RULE = ToolRule()


@dataclass(frozen=True, slots=True)
class ConfiguredServer:
    """One server of the file. `headers` are sent as they stand, secrets included; `agents` is None for all with tools.

    `protocol` is "auto" (asks the server, a round trip per call), "legacy" (older revisions) or an MCP revision.
    `pins` are digests (`sha256:…`) of tools, by name; `on_change` is None where the entry does not say.
    """

    label: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    agents: frozenset[str] | None = None
    protocol: str = "auto"
    policy: ToolPolicy = ToolPolicy()
    user_token: UserToken | None = None
    on_change: OnChange | None = None
    pins: Mapping[str, str] = field(default_factory=dict)

    def serves(self, agent: Agent) -> bool:
        return bool(agent.server_labels) if self.agents is None else agent.name in self.agents


class ToolServers:
    """The servers of one reading of the file; it never changes."""

    def __init__(self, servers: Mapping[str, ConfiguredServer]) -> None:
        self._servers = dict(servers)

    @property
    def labels(self) -> frozenset[str]:
        """Of the configured servers; our own is none of them."""
        return frozenset(self._servers)

    def __iter__(self) -> Iterator[ConfiguredServer]:
        return iter(self._servers.values())

    def server(self, label: str) -> ConfiguredServer | None:
        return self._servers.get(label)

    def labels_for(self, agent: Agent) -> frozenset[str]:
        """The servers that `agent` may use, ours and configured ones: what a client of it may name."""
        return agent.server_labels | {server.label for server in self._servers.values() if server.serves(agent)}


NO_SERVERS = ToolServers({})


class ToolServersFile:
    """The file as it is now. Raises `ToolServersError` at the start; a broken edit later leaves what held before.

    Without a path there are no servers. References in headers mean variables of `environment`; without one servers have
    no headers: who calls none needs none of their secrets.
    """

    def __init__(
        self,
        path: Path | None,
        environment: Mapping[str, str] | None = None,
        *,
        check_seconds: float = _CHECK_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._environment = environment
        self._check_seconds = check_seconds
        self._clock = clock
        self._checked_at = clock()
        self._version = None if path is None else _version_of(path)
        self._current = NO_SERVERS if path is None else _read(path, environment)

    def current(self) -> ToolServers:
        """The servers as configured now, at most a second ago. The same object as long as the file is the same."""
        if self._path is not None and self._clock() >= self._checked_at + self._check_seconds:
            self._checked_at = self._clock()
            self._follow(self._path)
        return self._current

    def _follow(self, path: Path) -> None:
        version = _version_of(path)  # before reading: what is written meanwhile is seen at the next look
        if version == self._version:
            return
        self._version = version
        try:
            self._current = _read(path, self._environment)
        except ToolServersError as error:
            kept = sorted(self._current.labels)
            log.error("tool_servers_file_broken", reason=str(error), kept=kept)  # noqa: TRY400 - the operator's mistake
        else:
            log.info("tool_servers_changed", labels=sorted(self._current.labels))


def tool_servers_or_exit(
    path: Path | None, service: str, environment: Mapping[str, str] | None = None
) -> ToolServersFile:
    """The file, opened at the start of a process; ends it with one line if the file cannot be used."""
    try:
        return ToolServersFile(path, environment)
    except ToolServersError as error:
        sys.exit(f"{service}: TOOL_SERVERS_FILE: {error}")


def parse_tool_servers(text: str | bytes, environment: Mapping[str, str] | None) -> ToolServers:
    """The servers that the file's text names; see `ToolServersFile`. Raises `ToolServersError`."""
    try:
        document = _File.model_validate(_decoded(text))
    except ValidationError as error:
        raise ToolServersError(_told(error)) from None
    servers = {label: _server_of(label, entry, environment) for label, entry in document.mcp_servers.items()}
    _check_secrets(servers, environment or {})
    return ToolServers(servers)


# --- the shape of the file

_ToolName: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
_Seconds: TypeAlias = Annotated[float, Field(strict=True, gt=0, le=600, allow_inf_nan=False)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class _ToolEntry(_Shape):
    enabled: StrictBool = True
    approval: Approval | None = None
    timeout_seconds: _Seconds | None = None


class _UserTokenEntry(_Shape):
    secret_env: Annotated[str, Field(pattern=_ENVIRONMENT_NAME.pattern)]
    audience: Annotated[str, Field(pattern=r"^[\x21-\x7e]{1,255}$")] | None = None


class _ServerEntry(_Shape):
    url: str
    type: str | None = None
    transport: str | None = None
    headers: dict[str, str] = {}
    description: Annotated[str, Field(max_length=2_000)] | None = None
    agents: list[str] | None = None
    protocol: Literal["auto", "legacy", "2026-07-28"] = "auto"
    allow_plain_http: StrictBool = False
    timeout_seconds: _Seconds | None = None
    approval: Approval = Approval.DESTRUCTIVE
    exempt: list[_ToolName] = []
    allow: list[_ToolName] | None = None
    deny: list[_ToolName] = []
    tools: dict[_ToolName, _ToolEntry] = {}
    user_token: _UserTokenEntry | None = None
    on_change: OnChange | None = None
    pins: dict[_ToolName, Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]] = {}


class _File(_Shape):
    mcp_servers: Annotated[dict[str, _ServerEntry], Field(alias="mcpServers")]


# --- from the file to its servers


def _version_of(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path, environment: Mapping[str, str] | None) -> ToolServers:
    try:
        with path.open("rb") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ToolServersError(f"{path} cannot be read: {error.strerror}") from None
    if len(text) > _FILE_BYTES_MAX:
        raise ToolServersError(f"{path}: it is larger than {_FILE_BYTES_MAX} bytes")
    try:
        return parse_tool_servers(text, environment)
    except ToolServersError as error:
        raise ToolServersError(f"{path}: {error}") from None


def _decoded(text: str | bytes) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except ToolServersError:
        raise
    except (ValueError, RecursionError) as error:
        raise ToolServersError(f"it is not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON keeps the last of two equal keys; here that would hide a server, or a rule for it."""
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise ToolServersError(f"the key {twice[0]!r} is given twice in one object")
    return dict(pairs)


def _told(error: ValidationError) -> str:
    """The first thing that is wrong, with its place."""
    fault = error.errors(include_input=False, include_url=False)[0]
    place = ".".join(_shown(part) for part in fault["loc"] if part != "[key]")
    if fault["type"] != "extra_forbidden":
        return f"{place}: {fault['msg']}" if place else fault["msg"]
    if len(fault["loc"]) == len(("mcpServers", "label", "key")) and fault["loc"][-1] in _STDIO_KEYS:
        return f"{place}: servers that run as a command (stdio) are not supported; give the `url` of an HTTP server"
    return f"{place}: this key is not known"


def _shown(part: int | str) -> str:
    """A key or an index as part of a line: whatever a key holds, the message stays one."""
    return str(part) if str(part).isprintable() else ascii(part)


def _server_of(label: str, entry: _ServerEntry, environment: Mapping[str, str] | None) -> ConfiguredServer:
    place = f"mcpServers.{_shown(label)}"
    if not _LABEL.fullmatch(label):
        _refuse(place, "a label has 1 to 64 letters, digits, '_' or '-'")
    if label.lower() in _RESERVED_LABELS:
        _refuse(place, "this label belongs to Parley itself; choose another")
    _check_transport(place, entry)
    _check_url(f"{place}.url", entry.url, allow_plain_http=entry.allow_plain_http)
    for name in entry.agents or ():
        if name not in AGENTS:
            _refuse(f"{place}.agents", f"there is no agent {name!r}; there are {', '.join(sorted(AGENTS))}")
    return ConfiguredServer(
        label=label,
        url=entry.url,
        headers=_headers(f"{place}.headers", entry.headers, environment),
        agents=None if entry.agents is None else frozenset(entry.agents),
        protocol=entry.protocol,
        policy=_policy_of(entry),
        user_token=_user_token(place, label, entry, environment),
        on_change=entry.on_change,
        pins=entry.pins,
    )


def _user_token(place: str, label: str, entry: _ServerEntry, environment: Mapping[str, str] | None) -> UserToken | None:
    """The audience is the label where none is given. None, too, without an environment: see `ToolServersFile`."""
    given = entry.user_token
    if given is None:
        return None
    if any(name.lower() == "authorization" for name in entry.headers):
        _refuse(f"{place}.user_token", "the user's token goes into the header Authorization, which headers sets too")
    if environment is None:
        return None
    secret = environment.get(given.secret_env, "")
    if len(secret.encode()) < SECRET_BYTES_MIN:
        reason = f"the environment variable {given.secret_env} must have at least {SECRET_BYTES_MIN} bytes"
        _refuse(f"{place}.user_token.secret_env", f"{reason}; make one with: openssl rand -hex 32")
    return UserToken(given.audience or label, secret)


def _check_secrets(servers: Mapping[str, ConfiguredServer], environment: Mapping[str, str]) -> None:
    """Refuse a secret that someone else has: with it, one server could make tokens that another takes."""
    owners = {environment[name]: name for name in _OUR_SECRETS if environment.get(name)}
    for label, server in servers.items():
        if server.user_token is None:
            continue
        owner = owners.setdefault(server.user_token.secret, label)
        if owner != label:
            place = f"mcpServers.{label}.user_token.secret_env"
            _refuse(place, f"it is the same secret as that of {owner}; each server needs one of its own")


def _policy_of(entry: _ServerEntry) -> ToolPolicy:
    return ToolPolicy(
        approval=entry.approval,
        exempt=frozenset(entry.exempt),
        allow=None if entry.allow is None else frozenset(entry.allow),
        deny=frozenset(entry.deny),
        timeout_seconds=entry.timeout_seconds,
        rules={name: ToolRule(rule.enabled, rule.approval, rule.timeout_seconds) for name, rule in entry.tools.items()},
    )


def _check_transport(place: str, entry: _ServerEntry) -> None:
    for key, value in (("type", entry.type), ("transport", entry.transport)):
        if value not in {None, "http", "streamable-http"}:
            _refuse(f"{place}.{key}", f"{value!r} is not supported; only 'http' (streamable HTTP) is")


def _check_url(place: str, url: str, *, allow_plain_http: bool) -> None:
    try:
        parts = urlsplit(url)
        host, _port = parts.hostname, parts.port
    except ValueError as error:
        _refuse(place, f"it is no URL: {error}")
    if not _URL.fullmatch(url) or parts.scheme not in {"http", "https"} or not host:
        _refuse(place, "it must be an address such as https://tools.example.org/mcp")
    if "${" in url:
        _refuse(place, "environment variables are put into headers only")
    if parts.username is not None or parts.password is not None or parts.fragment:
        _refuse(place, "no user, password or fragment; send credentials in a header")
    if parts.scheme == "http" and not allow_plain_http and not _is_loopback(host):
        _refuse(place, f'use https, or say "allow_plain_http": true if the way to {host} is private')


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _headers(place: str, headers: Mapping[str, str], environment: Mapping[str, str] | None) -> dict[str, str]:
    known: set[str] = set()
    for name in headers:
        lowered = name.lower()
        if not _HEADER_NAME.fullmatch(name):
            _refuse(place, f"{name!r} is no name of a header")
        if lowered in _OUR_HEADERS or lowered.startswith(_OUR_HEADER_PREFIX):
            _refuse(f"{place}.{name}", "this header is set by Parley")
        if lowered in known:
            _refuse(f"{place}.{name}", "this header is given twice")
        known.add(lowered)
    if environment is None:
        return {}
    return {name: _header_value(f"{place}.{name}", value, environment) for name, value in headers.items()}


def _header_value(place: str, template: str, environment: Mapping[str, str]) -> str:
    """The value to send. Whatever is wrong, the message names the variable, never what it holds."""

    def resolved(reference: re.Match[str]) -> str:
        name = reference[1]
        if not _ENVIRONMENT_NAME.fullmatch(name):
            _refuse(place, "after ${ comes the name of an environment variable and }")
        return environment.get(name) or _refuse(place, f"the environment variable {name} is not set, or empty")

    if "${" in _REFERENCE.sub("", template):
        _refuse(place, "a ${ is not closed")
    value = _REFERENCE.sub(resolved, template)
    if _UNPRINTABLE.search(value):
        _refuse(place, "a header holds printable ASCII characters only, and no line break")
    return value


def _refuse(place: str, reason: str) -> NoReturn:
    raise ToolServersError(f"{place}: {reason}") from None  # what was wrong may quote a secret
