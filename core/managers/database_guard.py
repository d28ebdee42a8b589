"""What may reach MongoDB as a query, an update or a document: nothing that a value from outside could turn into an operator.

Allowed is what is listed here, with plain values as operands; whatever runs code on the server, matches by pattern or compares
fields with each other is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bson import Binary, Decimal128, ObjectId, Timestamp

from core.contracts import FieldRules
from tools.error_handling.errors import Unprocessable

_COMBINING = frozenset({"$and", "$or", "$nor"})
_COMPARING = frozenset({"$eq", "$ne", "$gt", "$gte", "$lt", "$lte"})
_AMONG = frozenset({"$in", "$nin", "$all"})
_CHANGING = frozenset({"$set", "$setOnInsert", "$inc", "$min", "$max", "$unset", "$push", "$addToSet", "$pull", "$pullAll", "$currentDate"})
_LIST_CHANGING = frozenset({"$each", "$slice", "$position"})
_SCALARS = (str, int, float, bool, datetime, bytes, ObjectId, Timestamp, Binary, Decimal128, type(None))
_MAX_DEPTH, _MAX_VALUES, _MAX_AMONG = 16, 20_000, 10_000
_MAX_INT = 2**63
_SORT_FIELD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")
MAX_LIMIT = 10_000


class UnsafeValue(Unprocessable):
    """A value that MongoDB would not take as a value, or that no document can hold; the error names its field."""

    code, title = "unsafe-value", "Value not allowed"


def check_query(query: Mapping[str, Any], rules: FieldRules) -> None:
    """Raises UnsafeValue unless `query` consists of fields, the listed operators, and plain operands."""
    _check_criteria(query, rules, _MAX_DEPTH)


def check_update(update: Mapping[str, Any]) -> None:
    """Raises UnsafeValue unless `update` consists of the listed operators, fields, and plain values."""
    for operator, fields in update.items():
        if operator not in _CHANGING or not isinstance(fields, Mapping):
            raise _unsafe(operator, "is no update that is allowed here")
        count = _Count()
        for path, value in fields.items():
            if not isinstance(path, str) or "\x00" in path or any(not part or part.startswith("$") for part in path.split(".")):
                raise _unsafe(path, "is no name of a field")
            _check_change(operator, path, value, count)


def check_document(document: Mapping[str, Any]) -> None:
    """Raises UnsafeValue unless `document` has only names and values that mean nothing to the server, in a bounded size."""
    _check_members(document, _Count(), _MAX_DEPTH, "")


def check_bounds(limit: int, sort: Sequence[tuple[str, int]]) -> None:
    """Raises ValueError for a limit outside of 0 to MAX_LIMIT, or a sort that is not by fields and directions."""
    if not 0 <= limit <= MAX_LIMIT:
        raise ValueError(f"a limit is at most {MAX_LIMIT}")
    for name, direction in sort:
        if not _SORT_FIELD.fullmatch(name) or direction not in (1, -1):
            raise ValueError("a sort is by (field, 1 or -1)")


class _Count:
    """How many values were looked at: what is wide and deep at once ends here too."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES

    def one_more(self, name: str) -> None:
        self._left -= 1
        if self._left < 0:
            raise _unsafe(name, "is too large")


def _unsafe(name: Any, message: str) -> Unprocessable:
    # A name from outside may be of any length, and hold what no answer should.
    shown = name if isinstance(name, str) and name and name.isprintable() else "value"
    return UnsafeValue.of_field(shown[:64], message)


def _check_criteria(query: Any, rules: FieldRules, depth: int) -> None:
    if not isinstance(query, Mapping) or not depth:
        raise _unsafe("query", "is no query")
    for name, wanted in query.items():
        if name in _COMBINING:
            if not isinstance(wanted, (list, tuple)):
                raise _unsafe(name, "needs a list")
            for part in wanted:
                _check_criteria(part, rules, depth - 1)
        elif not isinstance(name, str) or not name or name.startswith("$") or "\x00" in name:
            raise _unsafe(name, "is no name of a field")
        elif name.partition(".")[0] in (*rules.private, *rules.sealed):
            raise _unsafe(name, "cannot be searched for")
        elif name in rules.lookup:
            # Encrypted before it is compared: there is nothing to compare with but a text, or a tuple of them, which no JSON makes.
            if not all(isinstance(text, str) for text in (wanted if isinstance(wanted, tuple) else (wanted,))):
                raise _unsafe(name, "must be text")
        else:
            _check_condition(name, wanted)


def _check_condition(name: str, wanted: Any) -> None:
    if not isinstance(wanted, Mapping):
        _check_operand(name, wanted)
    elif not wanted:
        raise _unsafe(name, "is no value to search for")
    else:
        for operator, operand in wanted.items():
            _check_operator(name, operator, operand)


def _check_operator(name: str, operator: Any, operand: Any) -> None:
    if operator in _COMPARING:
        _check_operand(name, operand)
    elif operator in _AMONG:
        if not isinstance(operand, (list, tuple)) or len(operand) > _MAX_AMONG:
            raise _unsafe(name, f"needs a list of up to {_MAX_AMONG} values")
        for each in operand:
            _check_operand(name, each)
    elif operator == "$exists":
        if not isinstance(operand, bool):
            raise _unsafe(name, "needs true or false")
    elif operator == "$not":
        if not isinstance(operand, Mapping):
            raise _unsafe(name, "needs a condition")
        _check_condition(name, operand)
    else:
        raise _unsafe(name, "is compared in a way that is not allowed here")


def _check_operand(name: str, operand: Any) -> None:
    if not isinstance(operand, _SCALARS) or (isinstance(operand, int) and not -_MAX_INT <= operand < _MAX_INT):
        raise _unsafe(name, "is no plain value")


def _check_change(operator: str, path: str, value: Any, count: _Count) -> None:
    if operator == "$pull" and isinstance(value, Mapping):
        _check_criteria(value, FieldRules(), _MAX_DEPTH)
    elif operator == "$currentDate":
        if value is not True and value != {"$type": "timestamp"}:
            raise _unsafe(path, "is set to the date in a way that is not allowed here")
    elif operator in ("$push", "$addToSet") and isinstance(value, Mapping) and _LIST_CHANGING.issuperset(value):
        for part in value.values():
            _check_value(part, count, _MAX_DEPTH, path)
    else:
        _check_value(value, count, _MAX_DEPTH, path)


def _check_members(document: Mapping[Any, Any], count: _Count, depth: int, path: str) -> None:
    for name, value in document.items():
        if not isinstance(name, str) or name.startswith("$") or "." in name or "\x00" in name:
            raise _unsafe(path or name, "has a name that is not allowed")
        if type(value) is not str:
            _check_value(value, count, depth, path or name)


def _check_value(value: Any, count: _Count, depth: int, path: str) -> None:
    count.one_more(path)
    if not isinstance(value, (Mapping, list, tuple)):
        _check_operand(path, value)
    elif not depth:
        raise _unsafe(path, "is nested too deep")
    elif isinstance(value, Mapping):
        _check_members(value, count, depth - 1, path)
    else:
        for each in value:
            _check_value(each, count, depth - 1, path)
