"""What may be stored: it comes back equal and of the same type, and everything else is refused by the name of its type."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any

import pytest
from bson import Int64, ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from core.managers.redis_values import dumps, loads

Hashable = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.datetimes(timezones=st.just(UTC))
    | st.decimals(allow_nan=False)
    | st.uuids()
    | st.binary(min_size=12, max_size=12).map(ObjectId)
    | st.integers(-(2**63), 2**63 - 1).map(Int64)
)
Text = st.text(max_size=5) | st.sampled_from(["$bytes", "$dict", "$", "$set"])
Storable = st.recursive(
    Hashable,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.sets(Hashable, max_size=3)
        | st.frozensets(Hashable, max_size=3)
        | st.dictionaries(Text, inner, max_size=3)
        | st.dictionaries(Hashable, inner, max_size=3)
    ),
    max_leaves=8,
)


class Colour(Enum):
    RED = "red"


class Level(IntEnum):
    LOW = 1


class Name(str):
    __slots__ = ()


def shape(value: Any) -> Any:
    """The types in `value`, down to its leaves; those of a set in any order."""
    if isinstance(value, dict):
        return dict, [(shape(key), shape(each)) for key, each in value.items()]
    if isinstance(value, (set, frozenset)):
        return type(value), sorted((str(type(each)), str(each)) for each in value)
    if isinstance(value, (list, tuple)):
        return type(value), [shape(each) for each in value]
    return type(value)


@given(Storable)
@settings(deadline=None)
def test_a_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    back = loads(dumps(value))
    assert back == value
    assert shape(back) == shape(value)


def test_a_moment_of_another_zone_comes_back_as_the_same_moment_in_utc() -> None:
    moment = datetime(2026, 11, 21, 12, 0, 0, 123456, timezone(timedelta(hours=5, minutes=30)))
    back = loads(dumps(moment))
    assert (back, back.tzinfo) == (moment, UTC)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (object(), "object"),
        (date(2026, 11, 21), "date"),
        (Colour.RED, "Colour"),
        (Level.LOW, "Level"),
        (Name("x"), "Name"),
        (1j, "complex"),
        ({"deep": [{"inside": print}]}, "builtin_function_or_method"),
        ({("a",): {1: {object}}}, "type"),
        (datetime(2026, 11, 21), "datetime cannot be stored without its time zone"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_the_name_of_its_type(value: Any, name: str) -> None:
    with pytest.raises(TypeError, match=name):
        dumps(value)


def test_what_has_no_end_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(TypeError, match="nested too deeply"):
        dumps(endless)


def test_infinity_and_special_decimals_come_back() -> None:
    assert loads(dumps([float("inf"), float("-inf"), Decimal("-0"), Decimal("1E+400")])) == [
        float("inf"),
        float("-inf"),
        Decimal("-0"),
        Decimal("1E+400"),
    ]
