"""Page cursors: they come back as they were made, and every other text is refused."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.cursors import decode_cursor, encode_cursor

KEY = b"k" * 32
Positions = st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=30), lambda part: st.lists(part, max_size=3))
Bindings = st.text(max_size=40)
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/=.~ \n\x00é"


@given(Positions, Bindings)
def test_a_cursor_comes_back_as_the_position_it_was_made_of(position: Any, binding: str) -> None:
    assert decode_cursor(encode_cursor(position, binding, KEY), binding, KEY) == position


@given(Positions, Bindings)
def test_a_cursor_needs_no_escaping_in_an_address(position: Any, binding: str) -> None:
    cursor = encode_cursor(position, binding, KEY)
    assert all(character.isalnum() or character in "-_" for character in cursor)


@given(Positions, Bindings, st.data())
def test_an_altered_cursor_is_refused_whatever_was_altered(position: Any, binding: str, data: st.DataObject) -> None:
    cursor = encode_cursor(position, binding, KEY)
    start = data.draw(st.integers(0, len(cursor)))
    end = data.draw(st.integers(start, min(len(cursor), start + 3)))
    altered = cursor[:start] + data.draw(st.text(ALPHABET, max_size=3)) + cursor[end:]
    if altered != cursor:
        with pytest.raises(ValueError):
            decode_cursor(altered, binding, KEY)


@given(st.text(max_size=80))
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        decode_cursor(text, "list", KEY)


@given(Positions, Bindings, Bindings)
def test_a_cursor_of_another_list_or_caller_is_refused(position: Any, binding: str, other: str) -> None:
    if binding != other:
        with pytest.raises(ValueError):
            decode_cursor(encode_cursor(position, binding, KEY), other, KEY)


def test_a_cursor_under_another_key_is_refused() -> None:
    with pytest.raises(ValueError):
        decode_cursor(encode_cursor(1, "list", KEY), "list", b"x" * 32)


@pytest.mark.parametrize(
    "spelling", [lambda c: c + "=", lambda c: c + "==", lambda c: c.replace("-", "+").replace("_", "/"), lambda c: c + "A"]
)
def test_a_cursor_has_one_spelling(spelling: Any) -> None:
    for position in range(200):
        cursor = encode_cursor(position, "list", KEY)
        if spelling(cursor) != cursor:
            with pytest.raises(ValueError):
                decode_cursor(spelling(cursor), "list", KEY)


def test_a_payload_without_its_seal_is_refused() -> None:
    forged = base64.urlsafe_b64encode(b"\x00" * 16 + json.dumps(1).encode()).decode().rstrip("=")
    with pytest.raises(ValueError):
        decode_cursor(forged, "list", KEY)
