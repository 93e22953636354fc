"""Whether a tool is still what it was when it was accepted.

A server can say one thing of a tool while it is looked at, and another later. So what a model would read of it, and
what decides whether a call of it needs approval, is put into a digest, and a digest that is not the accepted one is
told to the operator; whether the tool is used meanwhile is the operator's choice.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mcp.types import Tool as ListedTool


@dataclass(frozen=True, slots=True)
class Changed:
    """A tool that is not as it was accepted. `is_new`: its server did not have it. `is_news`: first seen just now."""

    tool: str
    is_new: bool
    is_news: bool


class ToolPins(Protocol):
    """The record of what was accepted, common to all workers."""

    async def see(self, server: str, digests: Mapping[str, str]) -> list[Changed]:
        """Put on record what `server` says, by names of tools, and tell which of these are not as accepted.

        What the first list of a server has is accepted. Raises DatabaseUnavailableError.
        """
        ...


def digest_of(tool: ListedTool) -> str:
    """`sha256:…` of the tool's name, description, input schema and annotations, as the server says them.

    Raises RecursionError for a schema that is too deep.
    """
    said = {
        "name": tool.name,
        "description": tool.description,
        "inputSchema": tool.input_schema,
        "annotations": None
        if tool.annotations is None
        else tool.annotations.model_dump(mode="json", by_alias=True, exclude_none=True),
    }
    text = json.dumps(said, sort_keys=True, separators=(",", ":"))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
