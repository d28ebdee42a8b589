"""Pages: everything once, in order, and no cursor of another list."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.web.paging import Pager
from tools.error_handling.errors import MalformedRequest

PAGER = Pager(lambda: (b"k" * 32,))


@given(st.lists(st.integers(0, 1000), max_size=30, unique=True), st.integers(1, 7))
def test_all_pages_together_are_the_list(numbers: list[int], limit: int) -> None:
    rows = [{"id": number} for number in sorted(numbers)]
    seen: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        after = PAGER.position(cursor, "list")
        found = [row for row in rows if after is None or row["id"] > after][: limit + 1]
        page = PAGER.page(found, limit, "list")
        assert len(page["data"]) <= limit
        seen += page["data"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == rows


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "é", "../../etc/passwd"])
def test_what_is_no_cursor_is_refused_by_name(cursor: str) -> None:
    with pytest.raises(MalformedRequest) as refusal:
        PAGER.position(cursor, "list")
    assert refusal.value.code == "invalid-cursor"


def test_a_cursor_of_another_caller_or_list_is_refused() -> None:
    cursor = PAGER.page([{"id": 1}, {"id": 2}], 1, "wallets:u_1")["next_cursor"]
    assert PAGER.position(cursor, "wallets:u_1") == 1
    for pager, binding in ((PAGER, "wallets:u_2"), (PAGER, "users:u_1"), (Pager(lambda: (b"x" * 32,)), "wallets:u_1")):
        with pytest.raises(MalformedRequest):
            pager.position(cursor, binding)
