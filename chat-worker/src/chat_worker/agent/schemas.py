"""Whether a value is what a tool server's JSON schema says, told in bounded time whatever the schema is.

Schema and value may come from one hand, which then can make a common validator run for ever, in the loop that serves
all: by a regular expression, by definitions that refer to each other, by millions of comparisons. So a check here takes
`_STEPS_MAX` steps, each of bounded cost, and knows what is cheap only. It is one-sided: whatever it refuses breaks the
schema, and what it does not know (`pattern`, `format`, `not`, `if`, `uniqueItems`, references out of the schema), or
could not finish, it lets pass. Who needs more than that checks for itself, as a server does with what it is sent.
"""

import json
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_SCHEMA_DEPTH_MAX = 64
_DEPTH_MAX = 100
_STEPS_MAX = 20_000
_PLACE_CHARS_MAX = 100
_CHOICES_SHOWN_MAX = 10


@dataclass(frozen=True, slots=True)
class Misfit:
    """Where a value breaks its schema, and what is wanted there: fit to be told to a model."""

    place: str
    wanted: str

    def __str__(self) -> str:
        return f"{self.place}: {self.wanted}" if self.place else self.wanted


class _TooCostlyError(Exception):
    """The check would take more steps, or go deeper, than it may."""


class Check:
    """A check of values against one schema; never changes, so one serves all."""

    def __init__(self, schema: Mapping[str, Any], *, bytes_max: int) -> None:
        """Raises ValueError where the schema has more than `bytes_max` bytes, as JSON, or is too deep."""
        try:
            text = json.dumps(schema)
        except RecursionError:
            raise ValueError("the schema is too deep") from None
        if len(text) > bytes_max:
            raise ValueError(f"the schema has over {bytes_max} bytes")
        self._schema = dict(schema)
        # An id within moves what references mean, so they are passed over where there is one.
        self._follows_references = not [
            node for node in _nodes(self._schema) if node is not self._schema and _has_id(node)
        ]

    def misfit(self, value: Any) -> Misfit | None:
        """The first place that surely breaks the schema; None where there is none, or the check gave up."""
        try:
            return _Run(self._schema, follows_references=self._follows_references).misfit(value, self._schema, "", 0)
        except _TooCostlyError:
            return None


class _Run:
    """One check under way: counts its steps."""

    def __init__(self, root: dict[str, Any], *, follows_references: bool) -> None:
        self._root = root
        self._referents: dict[str, Any] = {}
        self._follows_references = follows_references
        self._steps_left = _STEPS_MAX

    def misfit(self, value: Any, schema: Any, place: str, depth: int) -> Misfit | None:
        self._spend(1)
        if depth > _DEPTH_MAX:
            raise _TooCostlyError
        if schema is False:
            return Misfit(place, "nothing is allowed here")
        if not isinstance(schema, dict):
            return None
        if "$ref" in schema:  # in older drafts what stands beside it does not count
            return self.misfit(value, self._referred(schema["$ref"]), place, depth + 1)
        return next(self._misfits(value, schema, place, depth), None)

    def _misfits(self, value: Any, schema: dict[str, Any], place: str, depth: int) -> Iterator[Misfit]:
        yield from self._of_type(value, schema, place)
        yield from self._of_choice(value, schema, place)
        match value:
            case bool() | None:
                pass
            case int() | float():
                yield from _of_number(value, schema, place)
            case str():
                yield from _of_length(len(value), schema, place, ("minLength", "maxLength", "characters"))
            case list():
                yield from _of_length(len(value), schema, place, ("minItems", "maxItems", "items"))
                yield from self._of_items(value, schema, place, depth)
            case dict():
                yield from _of_length(len(value), schema, place, ("minProperties", "maxProperties", "properties"))
                yield from self._of_properties(value, schema, place, depth)
        yield from self._of_alternatives(value, schema, place, depth)

    def _of_type(self, value: Any, schema: dict[str, Any], place: str) -> Iterator[Misfit]:
        wanted = schema.get("type")
        names = [wanted] if isinstance(wanted, str) else wanted
        if not isinstance(names, list):
            return
        self._spend(len(names))
        known = [_TYPES[name] for name in names if isinstance(name, str) and name in _TYPES]
        if len(known) == len(names) and not any(is_one(value) for is_one in known):
            yield Misfit(place, f"this must be of type {' or '.join(names)}")

    def _of_choice(self, value: Any, schema: dict[str, Any], place: str) -> Iterator[Misfit]:
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if not isinstance(choices, list):
            return
        self._spend(len(choices))
        if value not in choices:
            yield Misfit(place, f"this must be one of {_told(choices)}")

    def _of_items(self, value: list[Any], schema: dict[str, Any], place: str, depth: int) -> Iterator[Misfit]:
        rest = schema.get("items", True)
        first = rest if isinstance(rest, list) else schema.get("prefixItems", ())
        if not isinstance(first, list | tuple):
            return
        if isinstance(rest, list):  # as older drafts write it
            rest = True
        for index, item in enumerate(value):
            of_item = first[index] if index < len(first) else rest
            if of_item is True:
                self._spend(1)
            elif found := self.misfit(item, of_item, _within(place, str(index)), depth + 1):
                yield found

    def _of_properties(self, value: dict[str, Any], schema: dict[str, Any], place: str, depth: int) -> Iterator[Misfit]:
        required, known = schema.get("required", ()), schema.get("properties", {})
        if isinstance(required, list):
            self._spend(len(required))
            for name in required:
                if isinstance(name, str) and name not in value:
                    yield Misfit(_within(place, name), "this is required")
        if not isinstance(known, dict):
            return
        others = True if "patternProperties" in schema else schema.get("additionalProperties", True)
        for name, item in value.items():
            self._spend(1)
            if name in known:
                found = self.misfit(item, known[name], _within(place, name), depth + 1)
            elif others is False:
                found = Misfit(_within(place, name), "there is no such field")
            else:
                found = self.misfit(item, others, _within(place, name), depth + 1)
            if found:
                yield found

    def _of_alternatives(self, value: Any, schema: dict[str, Any], place: str, depth: int) -> Iterator[Misfit]:
        every = schema.get("allOf", ())
        for part in every if isinstance(every, list) else ():
            if found := self.misfit(value, part, place, depth + 1):
                yield found
        # That no more than one of `oneOf` fits cannot be told by a check that lets pass what it does not know.
        for keyword in ("anyOf", "oneOf"):
            parts = schema.get(keyword)
            if not isinstance(parts, list) or not parts:
                continue
            misfits = []
            for part in parts:
                found = self.misfit(value, part, place, depth + 1)
                if found is None:
                    break
                misfits.append(found)
            else:
                yield misfits[0] if len(misfits) == 1 else Misfit(place, "this fits none of the allowed forms")

    def _referred(self, reference: Any) -> Any:
        """What `reference` means, if that is a part of this schema; else what everything fits."""
        if not self._follows_references or not isinstance(reference, str) or not reference.startswith("#"):
            return True
        if reference not in self._referents:
            self._referents[reference] = _at(reference[1:], self._root)
        return self._referents[reference]

    def _spend(self, count: int) -> None:
        self._steps_left -= count
        if self._steps_left < 0:
            raise _TooCostlyError


def _at(pointer: str, root: Any) -> Any:
    """The part of `root` that a JSON pointer names; True, which everything fits, where there is none."""
    start, *names = pointer.split("/")
    if start:
        return True
    found = root
    for name in names:
        key = name.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            return True
        found = found[key]
    return found


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, float) and value.is_integer())


_TYPES: Mapping[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "integer": _is_integer,
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
}


_BOUNDS: tuple[tuple[str, Callable[[Any, Any], bool], str], ...] = (
    ("minimum", operator.ge, "at least"),
    ("maximum", operator.le, "at most"),
    ("exclusiveMinimum", operator.gt, "more than"),
    ("exclusiveMaximum", operator.lt, "less than"),
)


def _of_number(value: float, schema: dict[str, Any], place: str) -> Iterator[Misfit]:
    for keyword, holds, words in _BOUNDS:
        bound = schema.get(keyword)
        if isinstance(bound, int | float) and not isinstance(bound, bool) and not holds(value, bound):
            yield Misfit(place, f"this must be {words} {bound}")


def _of_length(length: int, schema: dict[str, Any], place: str, words: tuple[str, str, str]) -> Iterator[Misfit]:
    least, most = schema.get(words[0]), schema.get(words[1])
    if isinstance(least, int) and length < least:
        yield Misfit(place, f"this must have at least {least} {words[2]}; it has {length}")
    if isinstance(most, int) and length > most:
        yield Misfit(place, f"this must have at most {most} {words[2]}; it has {length}")


def _told(choices: list[Any]) -> str:
    shown = [
        json.dumps(choice[:_PLACE_CHARS_MAX] if isinstance(choice, str) else choice)
        for choice in choices[:_CHOICES_SHOWN_MAX]
        if not isinstance(choice, list | dict)
    ]
    return ", ".join([*shown, "…"] if len(shown) < len(choices) else shown)


def _within(place: str, name: str) -> str:
    return ".".join(part for part in (place, name[:_PLACE_CHARS_MAX]) if part)[:_PLACE_CHARS_MAX]


def _has_id(node: dict[str, Any]) -> bool:
    return isinstance(node.get("$id", node.get("id")), str)


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Every object in `schema`. Raises ValueError where it is too deep."""
    waiting = [(schema, 0)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _SCHEMA_DEPTH_MAX:
            raise ValueError(f"the schema is more than {_SCHEMA_DEPTH_MAX} levels deep")
        match node:
            case dict():
                yield node
                waiting += ((part, depth + 1) for part in node.values())
            case list():
                waiting += ((part, depth + 1) for part in node)
