"""What may be stored in Redis, and how it is written: JSON, with a tag for each type that JSON has no word for."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from bson import Int64, ObjectId

_PLAIN = (type(None), bool, int, float, str)
# Type, its tag, how it becomes JSON and back. Exact types only: a subclass would come back as something else.
_TAGGED: tuple[tuple[type, str, Callable[[Any], Any], Callable[[Any], Any]], ...] = (
    (bytes, "$bytes", lambda value: base64.b64encode(value).decode(), base64.b64decode),
    (datetime, "$datetime", lambda value: _in_utc(value).isoformat(), datetime.fromisoformat),
    (Decimal, "$decimal", str, Decimal),
    (UUID, "$uuid", str, UUID),
    (ObjectId, "$oid", str, ObjectId),
    (Int64, "$int64", int, Int64),
    (tuple, "$tuple", list, tuple),
    (set, "$set", list, set),
    (frozenset, "$frozenset", list, frozenset),
)
_WRITERS = {kind: (tag, write) for kind, tag, write, _ in _TAGGED}
# A mapping whose keys are not all text, or could be taken for a tag, is written as a list of pairs.
_PAIRS = "$dict"
_READERS = {**{tag: read for _, tag, _, read in _TAGGED}, _PAIRS: dict}


def dumps(value: Any) -> bytes:
    """`value` as bytes from which `loads` makes an equal value of the same type.

    Takes None, bool, int, float, str, list, dict, tuple, set, frozenset, bytes, aware datetimes (they come back in UTC),
    Decimal, UUID, ObjectId and BSON's Int64; raises TypeError that names any other type.
    """
    try:
        return json.dumps(_written(value), separators=(",", ":")).encode()
    except RecursionError:
        raise TypeError("this value cannot be stored: it is nested too deeply") from None


def loads(text: bytes) -> Any:
    """The value that `dumps` was given."""
    return json.loads(text, object_hook=_read)


def _written(value: Any) -> Any:
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is list:
        return [_written(each) for each in value]
    if kind is dict:
        return _written_mapping(value)
    if kind not in _WRITERS:
        raise TypeError(f"a value of type {kind.__name__} cannot be stored")
    tag, write = _WRITERS[kind]
    return {tag: _written(write(value))}


def _written_mapping(mapping: dict[Any, Any]) -> dict[str, Any]:
    if all(type(key) is str and not key.startswith("$") for key in mapping):
        return {key: _written(value) for key, value in mapping.items()}
    return {_PAIRS: [[_written(key), _written(value)] for key, value in mapping.items()]}


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise TypeError("a value of type datetime cannot be stored without its time zone")
    return moment.astimezone(UTC)


def _read(found: dict[str, Any]) -> Any:
    if len(found) == 1:
        ((tag, value),) = found.items()
        if tag in _READERS:
            return _READERS[tag](value)
    return found
