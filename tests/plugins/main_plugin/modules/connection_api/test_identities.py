"""Names and addresses: what may stand in them, and when two are the same."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plugins.main_plugin.modules.connection_api.identities import RESERVED, compared_email, compared_username, shown_email, shown_username


@pytest.mark.parametrize("name", ["ann", "Ann_B.c-9", "Ünïcödé", "李小龙", "a" * 32, "①②③", "ﬁona"])
def test_letters_digits_and_a_little_punctuation_make_a_username(name: str) -> None:
    assert shown_username(name) == unicodedata.normalize("NFKC", name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "ab",
        "a" * 33,
        "a b",
        "ann@x",
        "ann/..",
        "ann\x00",
        "ann\n",
        "ann\u200b",
        "\u202eann",
        "ann😀",
        "ﷺ" * 3,
        "ann\u0301\u0301\u0301",
        "a$b",
    ],
)
def test_nothing_else_does(name: str) -> None:
    with pytest.raises(ValueError, match=r"must have|may contain"):
        shown_username(name)


@pytest.mark.parametrize(
    ("one", "other"), [("Ann", "aNN"), ("straße", "STRASSE"), ("ﬁona", "FIONA"), ("é", "e\u0301"), ("Ⅷ", "viii"), ("ℌ", "h")]
)
def test_two_spellings_are_the_same_name(one: str, other: str) -> None:
    assert compared_username(one) == compared_username(other)


@given(st.text(max_size=40))
def test_comparing_what_was_compared_changes_nothing(text: str) -> None:
    assert compared_username(compared_username(text)) == compared_username(text)


@given(st.text(max_size=40))
def test_a_shown_name_is_the_same_as_what_was_typed(text: str) -> None:
    try:
        shown = shown_username(text)
    except ValueError:
        return
    assert compared_username(shown) == compared_username(text)


def test_reserved_names_are_in_the_form_in_which_names_are_compared() -> None:
    assert all(compared_username(name) == name for name in RESERVED)
    assert compared_username("ＡＤＭＩＮ") in RESERVED


@pytest.mark.parametrize(
    ("text", "shown"), [("ann@example.com", "ann@example.com"), ("Ann@EXAMPLE.com", "Ann@example.com"), ("a+b@x.co", "a+b@x.co")]
)
def test_an_address_is_shown_as_it_was_typed_but_for_its_domain(text: str, shown: str) -> None:
    assert shown_email(text) == shown


@pytest.mark.parametrize(
    "text", ["", "ann", "ann@", "@example.com", "ann@localhost", "a b@example.com", "ann@example.com\n", "ann@[127.0.0.1]"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an e-mail address"):
        shown_email(text)


def test_addresses_are_the_same_whatever_their_case() -> None:
    assert compared_email(" Ann@Example.COM ") == compared_email("ann@example.com")
