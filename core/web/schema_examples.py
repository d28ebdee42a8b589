"""Examples of what a JSON schema describes, put together from the examples, defaults and bounds of its parts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_REF = "#/components/schemas/"
Schema = Mapping[str, Any]
_OF_FORMAT = {"date-time": "2040-01-01T00:00:00Z", "uri": "https://example.com/"}


def example_of(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    """A value of `schema`: of an object what is required, and what has an example of its own. `schemas` are the named ones."""
    if "$ref" in schema:
        return example_of(schemas[schema["$ref"].removeprefix(_REF)], schemas)
    for word in ("examples", "enum"):
        if schema.get(word):
            return schema[word][0]
    for word in ("const", "default"):
        if word in schema:
            return schema[word]
    branches = schema.get("anyOf") or schema.get("oneOf")
    return example_of(branches[0], schemas) if branches else _example_of_type(schema, schemas)


def _example_of_type(schema: Schema, schemas: Mapping[str, Schema]) -> Any:
    match schema.get("type"):
        case "object":
            return _example_object(schema, schemas)
        case "array":
            return [example_of(schema["items"], schemas)]
        case "string":
            return _OF_FORMAT.get(schema.get("format", ""), "text")
        case simple:
            return {"integer": 0, "number": 0, "boolean": False}.get(str(simple))


def _example_object(schema: Schema, schemas: Mapping[str, Schema]) -> dict[str, Any]:
    required = schema.get("required", [])
    members = schema.get("properties", {})
    shown = {name: member for name, member in members.items() if name in required or "examples" in member}
    return {name: example_of(member, schemas) for name, member in shown.items()}


def example_problem(status: int, code: str) -> dict[str, Any]:
    """The least that a problem of this code says."""
    return {
        "type": f"urn:credit-system:problem:{code}",
        "title": code.replace("-", " ").capitalize(),
        "status": status,
        "code": code,
        "request_id": "5f2b8c0e9a7d41f3b6c1e2d4",
    }
