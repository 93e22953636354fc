"""The least value of a schema is a value of it."""

from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from demo_model.schemas import least_value

SCHEMAS: list[tuple[Any, Any]] = [
    (
        {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "integer"}}, "required": ["a"]},
        {"a": ""},
    ),
    ({"enum": ["red", "blue"]}, "red"),
    ({"const": 7}, 7),
    ({"type": "string", "minLength": 3}, "xxx"),
    ({"type": "string", "format": "date"}, "2026-01-01"),
    ({"type": "integer", "exclusiveMinimum": 2, "multipleOf": 2}, 4),
    ({"type": "number", "maximum": -1.5}, -1.5),
    ({"type": ["string", "null"]}, None),
    ({"anyOf": [{"type": "string"}, {"type": "null"}]}, None),
    ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [False, False]),
    (
        {
            "$defs": {"point": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
            "allOf": [{"$ref": "#/$defs/point"}, {"required": ["y"], "properties": {"y": {"type": "null"}}}],
        },
        {"x": 0, "y": None},
    ),
]


@pytest.mark.parametrize(("schema", "value"), SCHEMAS)
def test_the_least_value_fits_its_schema(schema: Any, value: Any) -> None:
    assert least_value(schema) == value
    jsonschema.validate(value, schema)


def test_a_schema_that_refers_to_itself_has_an_end() -> None:
    assert least_value({"$ref": "#"}) is None
    least_value({"type": "object", "properties": {"more": {"$ref": "#"}}, "required": ["more"]})
