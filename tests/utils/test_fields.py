"""Dotted paths: every value that they name is found and changed, and nothing else."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from utils.fields import changed_at, found_at

Keys = st.sampled_from(["a", "b", "c", "a.b"])
Documents = st.dictionaries(
    Keys,
    st.recursive(
        st.none() | st.integers() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(Keys, inner, max_size=3),
        max_leaves=12,
    ),
    max_size=3,
)
Paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map(".".join)


def marked(value: Any) -> tuple[str, Any]:
    return ("marked", value)


def test_lists_on_the_way_are_walked_through_and_one_at_the_end_is_a_value() -> None:
    document = {"addresses": [{"street": "A", "city": "X"}, {"city": "Y"}, {"street": None}, [{"street": ["B", "C"]}]], "street": "D"}
    assert changed_at(document, "addresses.street", marked) == {
        "addresses": [{"street": ("marked", "A"), "city": "X"}, {"city": "Y"}, {"street": None}, [{"street": ("marked", ["B", "C"])}]],
        "street": "D",
    }
    assert list(found_at(document, "addresses.street")) == [("addresses.0.street", "A"), ("addresses.3.0.street", ["B", "C"])]


def test_the_dotted_keys_of_an_update_are_found_too() -> None:
    assert changed_at({"profile.email": "x"}, "profile.email", marked) == {"profile.email": ("marked", "x")}
    assert changed_at({"a.b": {"c": 1}}, "a.b.c", marked) == {"a.b": {"c": ("marked", 1)}}


@given(Documents, Paths)
def test_what_is_found_is_what_is_changed(document: dict[str, Any], path: str) -> None:
    seen: list[Any] = []
    changed_at(document, path, seen.append)
    assert seen == [value for _, value in found_at(document, path)]
    assert None not in seen


@given(Documents, Paths)
def test_a_change_and_its_reverse_leave_the_document_as_it_was(document: dict[str, Any], path: str) -> None:
    before = repr(document)
    changed = changed_at(document, path, lambda value: {"sealed": value})
    assert repr(document) == before
    assert changed_at(changed, path, lambda value: value["sealed"]) == document
