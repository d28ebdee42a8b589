"""Pages of a list: where to go on, and the signed cursor for what comes next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from tools.error_handling.errors import MalformedRequest
from utils.cursors import decode_cursor, encode_cursor


class Pager:
    """`binding` names the caller and the filters: a cursor of another list or caller is refused."""

    def __init__(self, keys: Callable[[], Sequence[bytes]]) -> None:
        """`keys`: whom to ask for the keys of now: the first one signs, any of them is accepted."""
        self._keys = keys

    def position(self, cursor: str | None, binding: str) -> Any:
        """The position inside `cursor`, or None for the first page."""
        if cursor is None:
            return None
        for key in self._keys():
            with suppress(ValueError):
                return decode_cursor(cursor, binding, key)
        raise MalformedRequest("cursor: not one of this list.", code="invalid-cursor")

    def page(self, rows: list[dict[str, Any]], limit: int, binding: str, key: str = "id") -> dict[str, Any]:
        """`{data, next_cursor}` of `rows`, of which one more than `limit` was asked for; `key` is the position."""
        data = rows[:limit]
        next_cursor = encode_cursor(data[-1][key], binding, self._keys()[0]) if len(rows) > limit else None
        return {"data": data, "next_cursor": next_cursor}
