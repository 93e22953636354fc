"""Tools that the rules know nothing of: which one a sentence asks for, by its words, and with which arguments."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from demo_model.conversation import Done
from demo_model.dialogue import Call
from demo_model.schemas import least_value
from demo_model.wire import Tool
from demo_model.words import content_words, stem

SCORE_MIN = 2

_KNOWN = frozenset({"add_task", "list_tasks", "update_task", "complete_task", "delete_task"})
_WORD_END = re.compile(r"[_\-.\s]+|(?<=[a-z0-9])(?=[A-Z])")
_PLAIN_VERBS = frozenset({"get", "set", "do", "make", "fetch", "find", "list", "show", "tell", "give", "run", "call"})
_QUOTED = re.compile(r"[\"“”'‘]([^\"“”'’]+)[\"“”'’]")  # noqa: RUF001 - as people write them
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_PLACES = re.compile(
    r"\b(?:in|at|for|to|from|of|near|about)\s+((?:[A-ZÄÖÜ][\w'-]*)(?:(?:\s+|,\s*|,?\s+and\s+)[A-ZÄÖÜ][\w'-]*)*)"
)
_BETWEEN = re.compile(r",\s*(?:and\s+)?|\s+and\s+")


def calls_for(text: str, tools: Sequence[Tool]) -> tuple[Call, ...]:
    """The calls that `text` asks for; none where no tool's name and description have enough of its words."""
    words = set(content_words(text))
    unknown = [tool for tool in tools if tool.function.name not in _KNOWN]
    best = max(unknown, key=lambda tool: _score(words, tool), default=None)
    if best is None or _score(words, best) < SCORE_MIN:
        return ()
    return tuple(Call(best.function.name, arguments) for arguments in _argument_sets(text, best))


def answer_from(results: Sequence[Done]) -> str:
    """What there is to say once the calls were made."""
    return "\n".join(f"{one.name} answered: {one.result or '(nothing)'}" for one in results)


def results_of_others(done: Sequence[Done]) -> list[Done]:
    """Those of the calls whose tools the rules know nothing of."""
    return [one for one in done if one.name not in _KNOWN]


def _score(words: set[str], tool: Tool) -> int:
    name = {stem(word.lower()) for word in _WORD_END.split(tool.function.name) if word.lower() not in _PLAIN_VERBS}
    description = set(content_words(tool.function.description or ""))
    return 2 * len(words & name) + len(words & (description - name))


def _argument_sets(text: str, tool: Tool) -> list[dict[str, Any]]:
    """The arguments of each call: one, or one for each place that a sentence names for the only text it has to give."""
    schema = tool.function.parameters or {}
    fields = schema.get("properties") or {}
    required = list(schema.get("required") or ())
    texts = [name for name in required if _is_text(fields.get(name))]
    places = _places(text)
    if len(texts) == 1 and len(places) > 1:
        return [_arguments(text, schema, place) for place in places]
    return [_arguments(text, schema, places[0] if places else None)]


def _arguments(text: str, schema: Mapping[str, Any], place: str | None) -> dict[str, Any]:
    fields = schema.get("properties") or {}
    found = {name: _found(text, field, place) for name, field in fields.items()}
    arguments = {name: value for name, value in found.items() if value is not None}
    for name in schema.get("required") or ():
        if name not in arguments:
            arguments[name] = text if _is_text(fields.get(name)) else least_value({**schema, **fields.get(name, {})})
    return arguments


def _found(text: str, field: Any, place: str | None) -> Any:
    """The value that the sentence gives for a field; null: none."""
    if not isinstance(field, Mapping):
        return None
    if choices := field.get("enum"):
        return next((choice for choice in choices if str(choice).lower() in text.lower()), None)
    numbers = _NUMBER.findall(text)
    match field.get("type"):
        case "string":
            quoted = _QUOTED.search(text)
            return quoted[1] if quoted else place
        case "integer" if numbers:
            return int(float(numbers[0]))
        case "number" if numbers:
            return float(numbers[0])
        case _:
            return None


def _places(text: str) -> list[str]:
    return [part for match in _PLACES.findall(text) for part in _BETWEEN.split(match) if part]


def _is_text(field: Any) -> bool:
    return isinstance(field, Mapping) and field.get("type") == "string" and not field.get("enum")
