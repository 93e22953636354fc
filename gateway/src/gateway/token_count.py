"""How many tokens a model would read, about. What it counts in the end is in the response's `usage`."""

from collections.abc import Iterable, Sequence

import msgspec

from gateway.content import is_file
from gateway.items import InputItem
from shared.agents import Agent
from shared.events import JsonObject

_BYTES_OF_TOKEN = 4  # of English text, about
_TOKENS_OF_FILE = 1_000  # an image of common size, or two pages


def estimated_tokens(agent: Agent, options: JsonObject, items: Sequence[InputItem], history_bytes: int) -> int:
    """Of an input to `agent` behind `history_bytes` of text; `options` are the Response object's fields.

    The tools of servers are not counted: only the worker knows them.
    """
    texts = [agent.instructions, options.get("instructions") or "", *_described(options["tools"])]
    byte_count = history_bytes + sum(len(text.encode()) for text in texts) + sum(map(_byte_count, items))
    file_count = sum(is_file(part) for item in items for part in item.parts or ())
    return -(-byte_count // _BYTES_OF_TOKEN) + file_count * _TOKENS_OF_FILE


def _described(tools: Iterable[JsonObject]) -> list[str]:
    return [msgspec.json.encode(tool).decode() for tool in tools if tool["type"] == "function"]


def _byte_count(item: InputItem) -> int:
    return len((item.content or "").encode()) if item.kind == "message" else len(msgspec.json.encode(item.item))
