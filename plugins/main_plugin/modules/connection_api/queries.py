"""Reads of the public collections for other modules and plugins, through the read-only role and a cache in Redis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bson import json_util

from tools.error_handling.errors import Forbidden
from utils.collections import load_collections

if TYPE_CHECKING:
    from core.managers.database_manager import DatabaseManager
    from core.managers.redis_manager import RedisManager

_READ_ONLY = "read_only"
# Every type of BSON and its exact numbers survive the cache; times come back as MongoDB gives them.
_JSON = json_util.JSONOptions(json_mode=json_util.JSONMode.CANONICAL, tz_aware=True)
QUERY_SECONDS = 60


class Queries:
    """For trusted code alone: a query may hold any operator, so none may ever come from a client."""

    def __init__(self, database: DatabaseManager, redis: RedisManager) -> None:
        self._database = database
        self._redis = redis
        listed = load_collections()
        collections = listed["collections"].items()
        self._public = {name for name, options in collections if not options.get("private")} | set(listed["views"])
        # A view is made anew with the collection that it looks at.
        self._views = {options["viewOn"]: name for name, options in listed["views"].items()}

    def execute(
        self,
        collection: str,
        query: Mapping[str, Any],
        projection: Sequence[str] | None,
        *,
        limit: int,
        sort: Sequence[tuple[str, int]],
        ttl: int,
    ) -> list[dict[str, Any]]:
        """Up to `limit` documents, at most `ttl` seconds old; Forbidden for a private collection."""
        if collection not in self._public:
            raise Forbidden("This collection cannot be queried.", code="collection-private")
        asked = _text([collection, query, list(projection) if projection is not None else None, limit, list(sort)])

        def load() -> str:
            found = self._database.find_many(collection, query, limit=limit, sort=sort, role=_READ_ONLY, projection=projection)
            return _text(found)

        # A keyed hash: a query may name people.
        key = f"query:{collection}:{self._redis.pseudonym(asked)}"
        cached: str = self._database.get_cached_query(key, load, ttl, (_tag(collection),))
        found: list[dict[str, Any]] = json_util.loads(cached, json_options=_JSON)
        return found

    def invalidate(self, *collections: str) -> None:
        """Forget what was cached of `collections` and of the views on them; called after the commit of a write."""
        names = {*collections, *(self._views[name] for name in collections if name in self._views)} & self._public
        if names:
            self._redis.invalidate_tags(*map(_tag, names))


def _tag(collection: str) -> str:
    return f"collection:{collection}"


def _text(value: Any) -> str:
    return json_util.dumps(value, json_options=_JSON)
