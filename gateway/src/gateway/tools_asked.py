"""The tools that a client asks for, and which of them the model is to choose.

Functions are the client's own: the model asks for a call, the client makes it. Tool servers are the operator's: a
client names them by their label, and never brings an address, which would let it reach what only we can reach.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, StrictBool, StringConstraints

from gateway.given import Given, read
from gateway.limits import Objects
from shared.agents import TASKS_SERVER, Agent
from shared.errors import InvalidInputError
from shared.events import JsonObject
from shared.tool_servers import ToolServers

# What our own tool server offers. (A test compares.)
TASK_TOOLS = frozenset({"add_task", "list_tasks", "update_task", "complete_task", "delete_task"})

_KINDS = "function, mcp"
# Where a server is and how it is spoken to is the operator's word alone.
_OPERATORS = ("server_url", "connector_id", "tunnel_id", "authorization", "headers")
_ToolName = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
_Label = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_ServerToolName = Annotated[str, StringConstraints(min_length=1, max_length=200)]
_CHOICES_MAX = 200
_ServerToolNames = Annotated[list[_ServerToolName], Field(max_length=200)]


class _Function(Given):
    name: _ToolName
    description: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    parameters: JsonObject | None = None
    strict: StrictBool | None = None


class _ToolFilter(Given):
    tool_names: _ServerToolNames | None = None
    read_only: StrictBool | None = None


class _ApprovalFilter(Given):
    always: _ToolFilter | None = None
    never: _ToolFilter | None = None


class _Server(Given):
    server_label: _Label
    server_description: Annotated[str, StringConstraints(max_length=10_000)] | None = None
    allowed_tools: Any = None
    require_approval: Any = None
    defer_loading: StrictBool | None = None


class _FunctionChoice(Given):
    name: _ToolName


class _ServerChoice(Given):
    server_label: _Label
    name: _ServerToolName | None = None


class _AllowedChoice(Given):
    mode: Literal["auto", "required"]
    tools: Annotated[Objects, Field(max_length=_CHOICES_MAX)]


@dataclass(frozen=True, slots=True)
class Offer:
    """What a client may ask for: of whom, of which servers, and how many tools."""

    agent: Agent
    servers: ToolServers
    tools_max: int

    @property
    def labels(self) -> frozenset[str]:
        """The servers that may be named: the agent's, and our own, which acts as the user anyway."""
        return self.servers.labels_for(self.agent) | {TASKS_SERVER}

    def labels_in_use(self, tools: Iterable[JsonObject]) -> frozenset[str]:
        """The servers that `tools` names; the agent's where it names none."""
        named = frozenset(tool["server_label"] for tool in tools if tool["type"] == "mcp")
        return named or self.servers.labels_for(self.agent)

    def known_tool_names(self, labels: Collection[str]) -> frozenset[str]:
        """The tools of these servers, as far as they are known without asking the servers."""
        named = (server.policy.named_tools() for server in self.servers if server.label in labels)
        return frozenset().union(TASK_TOOLS if TASKS_SERVER in labels else (), *named)


def parse_tools(given: list[JsonObject] | None, offer: Offer) -> list[JsonObject]:
    """The tools as the Response object echoes them. Raises InvalidInputError, which names the tool and its field."""
    if len(given or ()) > offer.tools_max:
        raise InvalidInputError("too_many_tools", f"'tools' holds more than {offer.tools_max} tools.", param="tools")
    tools = [_parse_tool(tool, f"tools[{index}]", offer) for index, tool in enumerate(given or ())]
    _check_names(tools, offer)
    return tools


def parse_tool_choice(given: str | JsonObject | None, tools: list[JsonObject], offer: Offer) -> str | JsonObject:
    """The choice as the Response object echoes it. Raises InvalidInputError where it names what is not there."""
    match given:
        case None:
            return "auto"
        case "required" if not tools and not offer.labels_in_use(tools):
            message = "tool_choice: 'required' needs tools, and there are none; send some in 'tools'."
            raise InvalidInputError("invalid_tool_choice", message, param="tool_choice")
        case "auto" | "none" | "required":
            return given
        case dict() if given.get("type") == "allowed_tools":
            allowed = read(_AllowedChoice, given, "tool_choice")
            chosen = [
                _parse_one_choice(tool, f"tool_choice.tools[{index}]", tools, offer)
                for index, tool in enumerate(allowed.tools)
            ]
            if not chosen:
                message = "tool_choice.tools: must name at least one tool."
                raise InvalidInputError("invalid_tool_choice", message, param="tool_choice.tools")
            return {"type": "allowed_tools", "mode": allowed.mode, "tools": chosen}
        case dict() if given.get("type") in {"function", "mcp"}:
            return _parse_one_choice(given, "tool_choice", tools, offer)
        case _:
            known = "auto, none, required, or an object of type function, mcp or allowed_tools"
            raise InvalidInputError("invalid_tool_choice", f"tool_choice: expected {known}.", param="tool_choice")


def _parse_one_choice(given: JsonObject, param: str, tools: list[JsonObject], offer: Offer) -> JsonObject:
    match given.get("type"):
        case "function":
            name = read(_FunctionChoice, given, param).name
            if name not in {tool["name"] for tool in tools if tool["type"] == "function"}:
                message = f"{param}: there is no function '{name}' in 'tools'."
                raise InvalidInputError("invalid_tool_choice", message, param=param)
            return {"type": "function", "name": name}
        case "mcp":
            choice = read(_ServerChoice, given, param)
            if choice.server_label not in offer.labels_in_use(tools):
                message = f"{param}: there is no server '{choice.server_label}' in 'tools'."
                raise InvalidInputError("invalid_tool_choice", message, param=param)
            return {"type": "mcp", **choice.model_dump(exclude_none=True)}
        case _:
            message = f"{param}: expected a tool of type {_KINDS}."
            raise InvalidInputError("invalid_tool_choice", message, param=param)


def _parse_tool(given: JsonObject, param: str, offer: Offer) -> JsonObject:
    match given.get("type"):
        case "function":
            return _parse_function(given, param)
        case "mcp":
            return _parse_server(given, param, offer)
        case str(kind):
            message = f"{param}: tools of type '{kind[:40]}' are not supported; send one of: {_KINDS}."
            raise InvalidInputError("unsupported_parameter", message, param=f"{param}.type")
        case _:
            message = f"{param}.type: expected one of: {_KINDS}."
            raise InvalidInputError("invalid_input", message, param=f"{param}.type")


def _parse_function(given: JsonObject, param: str) -> JsonObject:
    function = read(_Function, given, param)
    if function.parameters and function.parameters.get("type", "object") != "object":
        message = f"{param}.parameters: expected a JSON schema of type 'object'."
        raise InvalidInputError("invalid_function_parameters", message, param=f"{param}.parameters")
    return {"type": "function", **function.model_dump()}


def _parse_server(given: JsonObject, param: str, offer: Offer) -> JsonObject:
    for name in _OPERATORS:
        if given.get(name) is not None:
            message = f"{param}.{name}: tool servers are the operator's to add; name one by its 'server_label'."
            raise InvalidInputError("unsupported_parameter", message, param=f"{param}.{name}")
    server = read(_Server, given, param)
    if server.defer_loading:
        message = f"{param}.defer_loading: tools are always loaded; leave it out."
        raise InvalidInputError("unsupported_parameter", message, param=f"{param}.defer_loading")
    if server.server_label not in offer.labels:
        message = f"{param}.server_label: no such tool server; choose one of: {', '.join(sorted(offer.labels))}."
        raise InvalidInputError("unknown_tool_server", message, param=f"{param}.server_label")
    return {
        "type": "mcp",
        "server_label": server.server_label,
        "server_description": server.server_description,
        "server_url": None,
        "allowed_tools": _allowed_tools(server.allowed_tools, f"{param}.allowed_tools"),
        "require_approval": _require_approval(server.require_approval, f"{param}.require_approval"),
    }


def _allowed_tools(given: Any, param: str) -> list[str] | None:
    match given:
        case None:
            return None
        case list():
            return _tool_names({"tool_names": given}, param)
        case dict():
            return _tool_names(given, param)
        case _:
            raise InvalidInputError("invalid_input", f"{param}: expected a list of names.", param=param)


def _require_approval(given: Any, param: str) -> str | JsonObject:
    """What the client wants to be asked about, beyond what the operator requires in any case."""
    match given:
        case None:
            return "never"
        case "always" | "never":
            return str(given)
        case dict():
            read(_ApprovalFilter, given, param)
            filters = {word: given[word] for word in ("always", "never") if given.get(word) is not None}
            return {word: {"tool_names": _tool_names(named, f"{param}.{word}")} for word, named in filters.items()}
        case _:
            message = f"{param}: expected 'always', 'never', or an object with these."
            raise InvalidInputError("invalid_input", message, param=param)


def _tool_names(given: JsonObject, param: str) -> list[str]:
    named = read(_ToolFilter, given, param)
    if named.read_only is not None:
        message = f"{param}.read_only: name the tools in 'tool_names'."
        raise InvalidInputError("unsupported_parameter", message, param=f"{param}.read_only")
    return named.tool_names or []


def _check_names(tools: Sequence[JsonObject], offer: Offer) -> None:
    labels = offer.labels_in_use(tools)
    taken = offer.known_tool_names(labels)
    names: set[str] = set()
    for index, tool in enumerate(tools):
        if tool["type"] == "mcp":
            continue
        name, param = tool["name"], f"tools[{index}].name"
        if name in names:
            message = f"{param}: there is another function '{name}'; their names must differ."
            raise InvalidInputError("duplicate_tool", message, param=param)
        # Tools whose names collide across servers are offered as `server__tool`.
        if name in taken or (name.partition("__")[0] in labels and "__" in name):
            message = f"{param}: the name '{name}' is taken by a tool of a server; choose another."
            raise InvalidInputError("duplicate_tool", message, param=param)
        names.add(name)
