"""What all request models have in common: strict types, no unknown fields, no text that a store cannot hold."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, WithJsonSchema

from tools.error_handling.error_handler import from_validation
from tools.error_handling.errors import MalformedRequest

MAX_AMOUNT = 2**53 - 1


def _refuse_nul(text: str) -> str:
    if "\x00" in text:
        raise ValueError("must not contain the NUL character")
    return text


Text = Annotated[str, AfterValidator(_refuse_nul)]
Amount = Annotated[int, Field(gt=0, le=MAX_AMOUNT, examples=[500])]


def _checked_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    if len(metadata) > 50:
        raise ValueError("must have at most 50 members")
    for name, value in metadata.items():
        # MongoDB gives a meaning to $ and dots in names.
        if not 1 <= len(name) <= 40 or name.startswith("$") or "." in name or "\x00" in name:
            raise ValueError("names have 1 to 40 characters, without dots, and do not start with $")
        if not _is_plain(value):
            raise ValueError("values are text of up to 500 characters, integers of up to 2^53-1, booleans or null")
    return metadata


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= 500 and "\x00" not in value
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) <= MAX_AMOUNT)


_PLAIN_SCHEMA = {
    "anyOf": [
        {"type": "string", "maxLength": 500},
        {"type": "integer", "minimum": -MAX_AMOUNT, "maximum": MAX_AMOUNT},
        {"type": "boolean"},
        {"type": "null"},
    ]
}
# `_checked_metadata`, as the document says it.
_METADATA_SCHEMA = {
    "type": "object",
    "maxProperties": 50,
    "propertyNames": {"pattern": r"^[^$.\x00][^.\x00]{0,39}$"},
    "additionalProperties": _PLAIN_SCHEMA,
    "examples": [{"order": "A-1001"}],
}
Metadata = Annotated[dict[str, Any], AfterValidator(_checked_metadata), WithJsonSchema(_METADATA_SCHEMA)]


class Body(BaseModel):
    """Base of all request bodies; parsed from the raw bytes, so that nothing is lost or coerced on the way."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)


class Query(BaseModel):
    """Base of all query strings: text is converted, unknown parameters are refused."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class NoQuery(Query):
    """The query of a route that takes none."""


class PageQuery(Query):
    """`limit` and `cursor` of every list."""

    limit: int = Field(default=25, ge=1, le=100)
    cursor: str | None = Field(default=None, max_length=1024)


def parse_body(model: type[BaseModel], raw: bytes) -> BaseModel:
    """`raw` as `model`; raises MalformedRequest (not JSON, duplicate keys) or Unprocessable (does not fit)."""
    try:
        parsed = model.model_validate_json(raw)
    except ValidationError as error:
        raise from_validation(error) from None
    try:
        json.loads(raw, object_pairs_hook=_refuse_duplicates)
    except RecursionError as error:
        raise MalformedRequest("The body is nested too deeply.") from error
    return parsed


def parse_query(model: type[BaseModel], arguments: Any) -> BaseModel:
    """A query string (a MultiDict) as `model`; a parameter that comes twice is refused."""
    values: dict[str, str] = {}
    for name, entries in arguments.lists():
        if len(entries) > 1:
            raise MalformedRequest(f"The parameter {name[:64]} is given more than once.")
        values[name] = entries[0]
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise from_validation(error) from None


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise MalformedRequest("The body names a field more than once.")
    return members
