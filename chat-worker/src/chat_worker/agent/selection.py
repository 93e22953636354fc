"""Which tools one turn may use, and which of them its client wants to be asked about.

This only ever takes away: what a server may offer, and which calls need approval in any case, is the operator's policy
(`shared.tool_servers.ToolPolicy`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Self

from chat_worker.agent.values import JsonObject
from shared.agents import TASKS_SERVER


@dataclass(frozen=True, slots=True)
class ServerWish:
    """What a client wants of one server, by names of tools: the server's own names, or those the model is told.

    `use` is None for every tool. A call waits for approval if its tool is in `ask`, or if there is a `spare` and it is
    not in that.
    """

    use: frozenset[str] | None = None
    ask: frozenset[str] = frozenset()
    spare: frozenset[str] | None = None

    def uses(self, *names: str) -> bool:
        """Whether the tool that has these names is wanted."""
        return self.use is None or not self.use.isdisjoint(names)

    def asks(self, *names: str) -> bool:
        """Whether calls of the tool that has these names are to be approved."""
        is_spared = self.spare is None or not self.spare.isdisjoint(names)
        return not is_spared or not self.ask.isdisjoint(names)


@dataclass(frozen=True, slots=True)
class ToolSelection:
    """The servers that one turn may use, by label, and what its client wants of each."""

    servers: Mapping[str, ServerWish]

    @classmethod
    def of_request(cls, tools: Iterable[JsonObject], labels: Iterable[str]) -> Self:
        """The servers that the request's `tools` name; those of `labels`, its agent's, where it names none.

        Of others than these it may name our own only, which acts as its user anyway.
        """
        wishes = {tool["server_label"]: _wish_of(tool) for tool in tools if tool["type"] == "mcp"}
        if not wishes:
            return cls({label: ServerWish() for label in labels})
        return cls({label: wishes[label] for label in wishes.keys() & {*labels, TASKS_SERVER}})


_WORDS = ("always", "never")


def _wish_of(tool: JsonObject) -> ServerWish:
    allowed = tool["allowed_tools"]
    use = None if allowed is None else frozenset(allowed)
    match tool["require_approval"]:
        case "always":
            return ServerWish(use, spare=frozenset())
        case dict() as named:
            ask, spare = (frozenset(named[word]["tool_names"]) if word in named else None for word in _WORDS)
            return ServerWish(use, ask or frozenset(), spare)
        case _:
            return ServerWish(use)
