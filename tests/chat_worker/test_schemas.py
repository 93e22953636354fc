"""The check of arguments and results: right where it speaks, and over soon whatever it is given."""

import re
import time
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chat_worker.agent.schemas import Check

BYTES_MAX = 256 * 1024
# Far above what it takes on an idle machine, some 0.1 s at most; far below for ever.
SECONDS_MAX = 3.0


def misfit(value: Any, schema: dict[str, Any]) -> str | None:
    found = Check(schema, bytes_max=BYTES_MAX).misfit(value)
    return None if found is None else str(found)


TITLE = {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}
NODE = {"$defs": {"node": {"properties": {"next": {"$ref": "#/$defs/node"}, "n": {"type": "integer"}}}}}


@pytest.mark.parametrize(
    ("value", "schema", "told"),
    [
        ({"title": 7}, TITLE, "title: this must be of type string"),
        ({}, TITLE, "title: this is required"),
        ({"a": 1}, {"properties": {}, "additionalProperties": False}, "a: there is no such field"),
        ({"a": 1}, {"additionalProperties": {"type": "string"}}, "a: this must be of type string"),
        ({"a": "x"}, {"properties": {"a": {"enum": ["low", 1]}}}, 'a: this must be one of "low", 1'),
        ({"a": 2}, {"properties": {"a": {"const": 1}}}, "a: this must be one of 1"),
        ({"a": [1, "b"]}, {"properties": {"a": {"items": {"type": "integer"}}}}, "a.1: this must be of type integer"),
        ([1, 2], {"prefixItems": [True, {"type": "string"}]}, "1: this must be of type string"),
        ([1, 2], {"items": [True, {"type": "string"}]}, "1: this must be of type string"),
        ("abcd", {"maxLength": 3}, "this must have at most 3 characters; it has 4"),
        ([], {"minItems": 1}, "this must have at least 1 items; it has 0"),
        (True, {"type": "integer"}, "this must be of type integer"),
        (True, {"type": ["number", "null"]}, "this must be of type number or null"),
        (3, {"minimum": 4}, "this must be at least 4"),
        (4, {"exclusiveMaximum": 4}, "this must be less than 4"),
        ("x", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, "this fits none of the allowed forms"),
        ("x", {"oneOf": [{"type": "integer"}]}, "this must be of type integer"),
        ("x", {"allOf": [{}, {"type": "null"}]}, "this must be of type null"),
        ({"next": {"next": {"n": "x"}}}, NODE | {"$ref": "#/$defs/node"}, "next.next.n: this must be of type integer"),
        ({"a": 1}, {"properties": {"a": False}}, "a: nothing is allowed here"),
    ],
)
def test_what_breaks_the_schema_is_told_with_its_place(value: Any, schema: dict[str, Any], told: str) -> None:
    assert misfit(value, schema) == told


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        ({"title": "x", "more": 1}, TITLE),
        (1.0, {"type": "integer"}),
        (None, {"type": ["string", "null"]}),
        ("x", {"pattern": "^y$"}),
        ("x", {"format": "date"}),
        ("x", {"not": {"type": "string"}}),
        ({"xa": 1}, {"patternProperties": {"^x": True}, "additionalProperties": False}),
        ("x", {"$ref": "https://example.org/schema"}),
        ("x", {"$ref": "#/$defs/nowhere"}),
        ("x", {"$ref": "#", "type": "integer"}),
        ("x", {"type": "of a later draft"}),
        (1, {"type": 7, "enum": "x", "properties": [], "required": {}, "anyOf": {}, "items": 3, "minimum": "a"}),
        ({"a": 1}, {"$id": "a", "properties": {"a": {"$id": "b", "$ref": "#/$defs/x"}}, "$defs": {"x": False}}),
    ],
)
def test_what_it_does_not_know_it_lets_pass(value: Any, schema: dict[str, Any]) -> None:
    assert misfit(value, schema) is None


def _nested(depth: int, leaf: Any) -> Any:
    for _ in range(depth):
        leaf = {"allOf": [leaf]}
    return leaf


_DOUBLING = {
    "$ref": "#/$defs/0",
    "$defs": {str(n): {"allOf": [{"$ref": f"#/$defs/{n + 1}"}] * 2} for n in range(60)} | {"60": {"type": "string"}},
}
_LONG_NAME = "n" * 60_000


@pytest.mark.parametrize(
    ("value", "schema"),
    [
        pytest.param("a" * 50_000 + "!", {"pattern": "^(a+)+$"}, id="a catastrophic pattern"),
        pytest.param({"a" * 40 + "!": 1}, {"patternProperties": {"^(a+)+$": False}}, id="a catastrophic name"),
        pytest.param({"a" * 40 + "!": 1}, {"propertyNames": {"pattern": "^(a+)+$"}}, id="of names"),
        pytest.param("x", {"$ref": "#"}, id="itself"),
        pytest.param("x", {"$ref": "#/a", "a": {"$ref": "#/b"}, "b": {"$ref": "#/a"}}, id="each other"),
        pytest.param("x", _DOUBLING, id="two to the power of sixty"),
        pytest.param("x", {"anyOf": [{"anyOf": [{"type": "null"}] * 200}] * 200}, id="many alternatives"),
        pytest.param("x", {"enum": list(range(50_000))}, id="a huge enum"),
        pytest.param(["x"] * 100_000, {"items": {"enum": list(range(10_000))}}, id="a huge enum for each of many"),
        pytest.param(list(range(30_000)), {"uniqueItems": True}, id="unique items"),
        pytest.param([[n] for n in range(100_000)], {"items": {"allOf": [{"type": "array"}] * 100}}, id="many items"),
        pytest.param({str(n): n for n in range(100_000)}, {"required": ["a"] * 10_000}, id="many fields"),
        pytest.param({_LONG_NAME: 1}, {"allOf": [{"properties": {_LONG_NAME: {"allOf": [{}] * 100}}}]}, id="long name"),
        pytest.param(1, {"multipleOf": 1e-320}, id="a tiny factor"),
        pytest.param(10**4_000, {"minimum": 1e308, "maximum": -1}, id="a huge number"),
    ],
)
def test_a_hostile_schema_takes_no_time(value: Any, schema: dict[str, Any]) -> None:
    check = Check(schema, bytes_max=2**20)
    began = time.perf_counter()

    check.misfit(value)

    assert time.perf_counter() - began < SECONDS_MAX


def test_what_is_too_large_or_too_deep_is_no_schema() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = [deep]

    with pytest.raises(ValueError, match="over 100 bytes"):
        Check({"description": "x" * 100}, bytes_max=100)
    with pytest.raises(ValueError, match="levels deep"):
        Check(_nested(40, {}), bytes_max=BYTES_MAX)
    with pytest.raises(ValueError, match="too deep"):
        Check({"default": deep}, bytes_max=BYTES_MAX)


def test_a_misfit_is_short_whatever_the_schema_holds() -> None:
    schema = {"properties": {_LONG_NAME: {"enum": [_LONG_NAME, [_LONG_NAME]]}}}

    told = misfit({_LONG_NAME: "x"}, schema)

    assert told
    assert re.fullmatch(r'n{100}: this must be one of "n{100}", …', told)


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "bc"]),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "c"]), parts, max_size=3),
    max_leaves=8,
)
_types = st.sampled_from(["object", "array", "string", "integer", "number", "boolean", "null"])
_counts = st.integers(0, 3)


def _larger(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keywords: dict[str, st.SearchStrategy[Any]] = {
        "type": _types | st.lists(_types, min_size=1, max_size=2, unique=True),
        "enum": st.lists(_values, min_size=1, max_size=3),
        "const": _values,
        "properties": st.dictionaries(st.sampled_from(["a", "b", "c"]), parts, max_size=2),
        "required": st.lists(st.sampled_from(["a", "b", "c"]), max_size=2, unique=True),
        "additionalProperties": parts,
        "items": parts,
        "prefixItems": st.lists(parts, min_size=1, max_size=2),
        "minItems": _counts,
        "maxItems": _counts,
        "minLength": _counts,
        "maxLength": _counts,
        "minimum": st.integers(-2, 2),
        "exclusiveMaximum": st.integers(-2, 2),
        "anyOf": st.lists(parts, min_size=1, max_size=2),
        "oneOf": st.lists(parts, min_size=1, max_size=2),
        "allOf": st.lists(parts, min_size=1, max_size=2),
        "not": parts,
        "pattern": st.just("^a"),
        "$ref": st.sampled_from(["#", "#/$defs/a", "#/properties/a"]),
    }
    return st.booleans() | st.fixed_dictionaries({}, optional=keywords)


@settings(deadline=None, max_examples=60)  # others may need the machine at the same time
@given(_values, _larger(_larger(st.booleans() | st.fixed_dictionaries({"type": _types}))), st.booleans())
def test_what_the_common_validator_accepts_is_never_refused(value: Any, schema: Any, with_definition: bool) -> None:  # noqa: FBT001
    if not isinstance(schema, dict):
        return
    if with_definition:
        schema["$defs"] = {"a": {"type": "object"}}
    try:
        is_valid = jsonschema.Draft202012Validator(schema).is_valid(value)
    except (RecursionError, jsonschema.exceptions._WrappedReferencingError):  # noqa: SLF001 - a reference to nowhere
        return
    if is_valid:
        assert misfit(value, schema) is None
