"""Nothing that comes from outside as a value becomes an operator, a name of another field, or a document that no server takes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import ObjectId
from hypothesis import given
from hypothesis import strategies as st

from core.contracts import FieldRules
from core.managers.database_guard import MAX_LIMIT, UnsafeValue, check_bounds, check_document, check_query, check_update

RULES = FieldRules(lookup=("email",), sealed=("profile",), private=("password_hash",))
NOW = datetime(2026, 11, 21, tzinfo=UTC)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text() | st.binary(max_size=20)
names = st.text(st.characters(exclude_characters="$.\x00", exclude_categories=["Cs"]), min_size=1, max_size=12)
odd_names = st.text(max_size=12) | st.sampled_from(["$ne", "$gt", "$where"])
anything = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12) | st.sampled_from(["$ne", "$gt", "$where"]), inner, max_size=4)
    ),
    max_leaves=12,
)


def has_operator(value: Any) -> bool:
    if isinstance(value, dict):
        return any(str(name).startswith("$") for name in value) or any(map(has_operator, value.values()))
    return isinstance(value, list) and any(map(has_operator, value))


# Queries


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"_id": "u1"},
        {"_id": {"$in": ["a", "b"]}, "role": "admin"},
        {"_id": {"$gt": "a", "$lt": "b"}},
        {"expires_at": {"$gt": NOW}, "revoked_at": None},
        {"_id": {"$ne": None}},
        {"$or": [{"status": "active"}, {"status": {"$exists": False}}]},
        {"size": {"$not": {"$gte": 5}}},
        {"_id": ObjectId(), "email": "a@example.com"},
    ],
)
def test_what_repositories_ask_is_allowed(query: dict[str, Any]) -> None:
    check_query(query, RULES)


@pytest.mark.parametrize(
    "query",
    [
        {"$where": "sleep(1000)"},
        {"$expr": {"$function": {"body": "function() {}", "args": [], "lang": "js"}}},
        {"$expr": {"$eq": ["$a", "$b"]}},
        {"$or": [{"$where": "1"}]},
        {"$and": {"status": "active"}},
        {"$jsonSchema": {}},
        {"$text": {"$search": "x"}},
        {"$comment": "x"},
        {"name": {"$regex": ".*"}},
        {"name": {"$where": "1"}},
        {"name": {"$gt": {"$ne": None}}},
        {"name": {"$in": [{"$regex": ".*"}]}},
        {"name": {"$in": "abc"}},
        {"name": {"$not": {"$where": "1"}}},
        {"name": {"$elemMatch": {"$gt": 1}}},
        {"name": {"$exists": 1}},
        {"name": {"first": "a"}},
        {"name": {}},
        {"name": ["a"]},
        {"": 1},
        {"a\x00b": 1},
        {1: 2},
        {"size": 2**63},
        {"_id": {"$in": ["a"] * 10_001}},
        # Encrypted ones: a text to look up, and nothing else.
        {"email": {"$ne": ""}},
        {"email": {"$in": ["a@example.com"]}},
        {"email": None},
        {"profile": "x"},
        {"profile.name": "x"},
        # Nobody finds out by asking.
        {"password_hash": {"$gt": ""}},
        {"$or": [{"password_hash": "x"}]},
    ],
)
def test_what_could_change_the_meaning_of_a_query_is_refused_by_the_name_of_its_field(query: dict[str, Any]) -> None:
    with pytest.raises(UnsafeValue) as refusal:
        check_query(query, RULES)
    problem = refusal.value.problem()
    assert (problem["status"], problem["code"]) == (422, "unsafe-value")
    assert problem["errors"][0]["field"]


@given(anything)
def test_a_query_that_passes_holds_only_listed_operators_with_plain_operands(value: Any) -> None:
    try:
        check_query({"name": value}, FieldRules())
    except UnsafeValue:
        return
    if isinstance(value, dict):
        assert set(value) <= {"$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$all", "$exists", "$not"}
        assert not any(has_operator(operand) for operator, operand in value.items() if operator != "$not")
    else:
        assert not isinstance(value, list)


# Documents


@given(st.dictionaries(names, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))))
def test_a_plain_document_passes(document: dict[str, Any]) -> None:
    check_document(document)


@given(st.dictionaries(st.text(max_size=8), anything, max_size=4))
def test_a_document_that_passes_can_be_stored_and_has_no_operator(document: dict[str, Any]) -> None:
    try:
        check_document(document)
    except UnsafeValue:
        return
    assert not has_operator(document)
    assert bson.decode(bson.encode(document)).keys() == document.keys()


@pytest.mark.parametrize(
    "document",
    [
        {"$set": 1},
        {"a": {"$ne": 1}},
        {"a": [{"b": {"$where": "1"}}]},
        {"a.b": 1},
        {"a": {"b.c": 1}},
        {"a\x00": 1},
        {1: 1},
        {"a": 2**63},
        {"a": object()},
        {"a": list(range(20_001))},
    ],
)
def test_a_document_that_means_something_to_the_server_is_refused(document: dict[Any, Any]) -> None:
    with pytest.raises(UnsafeValue):
        check_document(document)


def test_depth_is_bounded_before_any_stack_is() -> None:
    deep: Any = 1
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(UnsafeValue):
        check_document({"a": deep})
    with pytest.raises(UnsafeValue):
        check_query({"$or": [{"$or": [{"$or": [{"a": deep}]}]}]}, RULES)
    del deep


def test_the_answer_does_not_repeat_a_name_without_end() -> None:
    with pytest.raises(UnsafeValue) as refusal:
        check_document({"$" + "a" * 1000: 1})
    assert len(refusal.value.detail) < 200


# Updates


@pytest.mark.parametrize(
    "update",
    [
        {"$set": {"status": "frozen", "settings.theme": "dark"}, "$inc": {"version": 1}},
        {"$unset": {"email": ""}, "$set": {"deleted_at": NOW}},
        {"$push": {"log": {"$each": [1, 2], "$slice": -5}}},
        {"$addToSet": {"rooms": "r1"}, "$pull": {"seats": {"user": "u1"}}},
        {"$currentDate": {"seen_at": True, "stamp": {"$type": "timestamp"}}},
        {"$setOnInsert": {"made": {"by": "u1"}}},
    ],
)
def test_what_repositories_change_is_allowed(update: dict[str, Any]) -> None:
    check_update(update)


@pytest.mark.parametrize(
    "update",
    [
        {"status": "a replacement"},
        {"$set": "x"},
        {"$where": {"a": 1}},
        {"$rename": {"password_hash": "memo"}},
        {"$set": {"a": {"$where": "1"}}},
        {"$set": {"a.$[]": 1}},
        {"$set": {"$a": 1}},
        {"$set": {"a..b": 1}},
        {"$set": {"a\x00": 1}},
        {"$push": {"log": {"$each": [{"$a": 1}]}}},
        {"$pull": {"seats": {"$where": "1"}}},
        {"$currentDate": {"a": {"$type": "date", "b": 1}}},
    ],
)
def test_an_update_that_does_something_else_is_refused(update: dict[str, Any]) -> None:
    with pytest.raises(UnsafeValue):
        check_update(update)


# Bounds


@pytest.mark.parametrize(("limit", "sort"), [(-1, ()), (MAX_LIMIT + 1, ()), (1, (("$natural", 1),)), (1, (("a", 2),)), (1, (("", 1),))])
def test_a_read_without_bounds_is_refused(limit: int, sort: tuple[tuple[str, int], ...]) -> None:
    with pytest.raises(ValueError):
        check_bounds(limit, sort)
