"""The greetings in the database; the only file of the plugin that sees it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from plugins.api import Pager, new_id, rfc3339, utc_now

COLLECTION = "hello_plugin_greetings"
# As in init-scripts/collections.json; made once a start, before any worker runs.
COLLECTIONS: Mapping[str, Mapping[str, Any]] = {
    COLLECTION: {"indexes": [{"name": "of_user", "key": {"user_id": 1, "_id": -1}}], "append_only": True},
}


class Greetings:
    """`database` is the database manager as the plugin sees it: it knows this collection and no other."""

    def __init__(self, database: Any, pager: Pager) -> None:
        self._database = database
        self._pager = pager

    def add(self, user_id: str, text: str, session: Any = None) -> dict[str, Any]:
        """Keep a greeting, in the transaction of `session` where there is one; as clients see it."""
        greeting = {"_id": new_id("hello"), "user_id": user_id, "text": text, "created_at": utc_now()}
        self._database.insert_one(COLLECTION, greeting, session)
        return _view(greeting)

    def page(self, user_id: str, limit: int, cursor: str | None) -> dict[str, Any]:
        """`{data, next_cursor}`: the user's greetings, the newest first."""
        binding = f"hello_plugin/{user_id}"
        query: dict[str, Any] = {"user_id": user_id}
        position = self._pager.position(cursor, binding)
        if position is not None:
            query["_id"] = {"$lt": position}
        rows = self._database.find_many(COLLECTION, query, sort=[("_id", -1)], limit=limit + 1)
        return self._pager.page([_view(row) for row in rows], limit, binding)

    def latest(self, limit: int) -> list[dict[str, Any]]:
        """The newest greetings of all users."""
        return [_view(row) for row in self._database.find_many(COLLECTION, {}, sort=[("_id", -1)], limit=limit)]


def _view(row: Mapping[str, Any]) -> dict[str, Any]:
    return {"id": row["_id"], "text": row["text"], "created_at": rfc3339(row["created_at"])}
