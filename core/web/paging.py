"""Pages of a list: where to go on, and the signed cursor for what comes next."""

from __future__ import annotations

from typing import Any

from tools.error_handling.errors import MalformedRequest
from utils.cursors import decode_cursor, encode_cursor


class Pager:
    """`binding` names the caller and the filters: a cursor of another list or caller is refused."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def position(self, cursor: str | None, binding: str) -> Any:
        """The position inside `cursor`, or None for the first page."""
        try:
            return decode_cursor(cursor, binding, self._key) if cursor is not None else None
        except ValueError as error:
            raise MalformedRequest("cursor: not one of this list.", code="invalid-cursor") from error

    def page(self, rows: list[dict[str, Any]], limit: int, binding: str, key: str = "id") -> dict[str, Any]:
        """`{data, next_cursor}` of `rows`, of which one more than `limit` was asked for; `key` is the position."""
        data = rows[:limit]
        next_cursor = encode_cursor(data[-1][key], binding, self._key) if len(rows) > limit else None
        return {"data": data, "next_cursor": next_cursor}
