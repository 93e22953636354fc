"""The least value that a JSON schema allows. The common keywords are known; what else it wants is not looked at."""

from collections.abc import Mapping, Sequence
from typing import Any

_DEPTH_MAX = 32  # a schema may refer to itself
_FORMATS = {
    "date": "2026-01-01",
    "date-time": "2026-01-01T00:00:00Z",
    "time": "00:00:00Z",
    "email": "a@example.com",
    "uri": "https://example.com",
    "uuid": "00000000-0000-4000-8000-000000000000",
    "ipv4": "127.0.0.1",
}


def least_value(schema: Any) -> Any:
    """A value for `schema`: required fields only, the shortest texts and lists, the numbers nearest to 0."""
    return _value(schema, schema, _DEPTH_MAX)


def _value(schema: Any, root: Any, depth: int) -> Any:
    if not isinstance(schema, Mapping) or depth == 0:
        return None
    given = [schema[name] for name in ("const", "default") if name in schema] + list(schema.get("enum") or ())
    if given:
        return given[0]
    inner = _inner(schema, root)
    return _of_type(_type_of(schema), schema, root, depth) if inner is None else _value(inner, root, depth - 1)


def _inner(schema: Mapping[str, Any], root: Any) -> Any:
    """The schema that this one stands for, if it does: what it refers to, a choice of it, all its parts together."""
    if isinstance(schema.get("$ref"), str):
        return _referred(schema["$ref"], root)
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return _simplest(choices)
    return _merged([schema, *schema["allOf"]], root) if schema.get("allOf") else None


def _of_type(kind: str, schema: Mapping[str, Any], root: Any, depth: int) -> Any:
    match kind:
        case "object":
            fields = schema.get("properties") or {}
            return {name: _value(fields.get(name, {}), root, depth - 1) for name in schema.get("required") or ()}
        case "array":
            return [_value(schema.get("items", {}), root, depth - 1) for _ in range(schema.get("minItems", 0))]
        case "string":
            return _FORMATS.get(schema.get("format", ""), "x" * schema.get("minLength", 0))
        case "integer" | "number":
            return _number(schema, is_whole=kind == "integer")
        case "boolean":
            return False
        case _:
            return None


def _number(schema: Mapping[str, Any], *, is_whole: bool) -> Any:
    step = schema.get("multipleOf") or (1 if is_whole else 0.5)
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is not None and low >= 0:
        value = -(-low // step) * step
        return value + step if value == schema.get("exclusiveMinimum") else value
    if high is not None and high <= 0:
        value = high // step * step
        return value - step if value == schema.get("exclusiveMaximum") else value
    return 0


def _type_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, Sequence) and not isinstance(kind, str):
        kind = "null" if "null" in kind else next(iter(kind), None)
    if kind is None and ("properties" in schema or "required" in schema):
        return "object"
    return str(kind)


def _simplest(choices: Sequence[Any]) -> Any:
    is_null = (choice for choice in choices if isinstance(choice, Mapping) and choice.get("type") == "null")
    return next(is_null, choices[0])


def _merged(schemas: Sequence[Any], root: Any) -> Any:
    """One schema of several objects that all have to hold."""
    merged: dict[str, Any] = {"type": "object", "properties": {}, "required": []}
    for schema in schemas:
        found = _referred(schema["$ref"], root) if "$ref" in schema else schema
        merged |= {name: value for name, value in found.items() if name not in {"allOf", "properties", "required"}}
        merged["properties"] |= found.get("properties") or {}
        merged["required"] += [name for name in found.get("required") or () if name not in merged["required"]]
    return merged


def _referred(reference: str, root: Any) -> Any:
    """What a reference within the schema itself means; nothing for any other."""
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if step:
            found = found.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(found, Mapping) else {}
    return found
