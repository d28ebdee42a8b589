"""Bodies and queries: parsed from the raw bytes, strictly, and every refusal is the client's."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from werkzeug.datastructures import MultiDict

from core.web.models import MAX_AMOUNT, Amount, Body, PageQuery, Text, parse_body, parse_query
from tools.error_handling.errors import AppError, MalformedRequest, Unprocessable


class Order(Body):
    amount: Amount
    memo: Text | None = None
    deep: dict[str, Any] | None = None


def refused(raw: bytes) -> AppError:
    with pytest.raises(AppError) as refusal:
        parse_body(Order, raw)
    assert refusal.value.status in (400, 422)
    return refusal.value


def test_what_fits_is_taken_as_it_is() -> None:
    order = parse_body(Order, '{"amount": 5, "memo": "héllo \\u0001"}'.encode())
    assert order == Order(amount=5, memo="héllo \x01")


@pytest.mark.parametrize(
    "amount", ["0", "-1", "1.0", "1e3", "true", '"1"', "null", "[]", "NaN", "Infinity", "1e999", str(MAX_AMOUNT + 1), "9" * 5000]
)
def test_an_amount_is_a_whole_number_that_every_client_can_hold(amount: str) -> None:
    error = refused(f'{{"amount": {amount}}}'.encode())
    assert error.code in ("amount-invalid", "malformed-request")
    assert parse_body(Order, f'{{"amount": {MAX_AMOUNT}}}'.encode()) == Order(amount=MAX_AMOUNT)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"5",
        b'"text"',
        b'{"amount": 5} {"amount": 5}',
        b'\xef\xbb\xbf{"amount": 5}',
        b'{"amount": 5, "memo": "\xff"}',
        b'{"amount": 5, "memo": "\\ud800"}',
        b'{"amount": 5, "memo": "a\\u0000b"}',
        b"\x00",
        '{"amount": 5}'.encode("utf-16"),
    ],
)
def test_what_is_no_object_of_ours_is_the_clients_fault(raw: bytes) -> None:
    refused(raw)


@pytest.mark.parametrize(
    "raw", [b'{"amount": 5, "amount": 6}', b'{"amount": 5, "deep": {"a": 1, "a": 2}}', b'{"amount": 5, "\\u0061mount": 6}']
)
def test_a_field_that_comes_twice_is_refused(raw: bytes) -> None:
    assert isinstance(refused(raw), MalformedRequest)


@pytest.mark.parametrize("depth", [100, 1000, 100_000])
def test_nesting_has_an_end_that_is_not_ours(depth: int) -> None:
    raw = b'{"amount": 5, "deep": ' + b'{"a": ' * depth + b"1" + b"}" * depth + b"}"
    try:
        parse_body(Order, raw)
    except AppError as error:
        assert error.status in (400, 422)  # noqa: PT017  both ends are right: taken, or refused as the client's fault


def test_an_unknown_field_is_named() -> None:
    error = refused(b'{"amount": 5, "amuont": 6}')
    assert error.extra["errors"][0]["field"] == "amuont"


@given(st.binary(max_size=60))
def test_no_bytes_are_our_fault(raw: bytes) -> None:
    try:
        parse_body(Order, raw)
    except (MalformedRequest, Unprocessable):
        return


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v) | st.dictionaries(st.text(), v))
)
def test_no_json_is_our_fault(value: Any) -> None:
    try:
        parse_body(Order, json.dumps(value).encode())
    except (MalformedRequest, Unprocessable):
        return


def test_a_query_is_converted_and_bounded() -> None:
    query = parse_query(PageQuery, MultiDict([("limit", "100")]))
    assert query == PageQuery(limit=100)
    assert parse_query(PageQuery, MultiDict()) == PageQuery(limit=25)


@pytest.mark.parametrize(
    "pairs", [[("limit", "0")], [("limit", "101")], [("limit", "x")], [("limit", "")], [("limti", "5")], [("cursor", "x" * 1025)]]
)
def test_a_query_that_does_not_fit_is_refused(pairs: list[tuple[str, str]]) -> None:
    with pytest.raises(Unprocessable) as refusal:
        parse_query(PageQuery, MultiDict(pairs))
    assert refusal.value.extra["errors"][0]["field"] == pairs[0][0]


def test_a_parameter_that_comes_twice_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="limit is given more than once"):
        parse_query(PageQuery, MultiDict([("limit", "5"), ("limit", "6")]))
