"""A part of Redis of its own, for a plugin or a module: whatever key it names, it stays in there."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.managers.redis_manager import RedisManager

# No character that a pattern gives a meaning to, and none that could end the name early.
_NAME = re.compile(r"[a-z0-9_:.-]{1,64}")


class Namespace:
    """The value and caching methods of RedisManager, each for keys and tags of this namespace only."""

    def __init__(self, redis: RedisManager, name: str) -> None:
        """Raises ValueError for a name that is not made of lower-case letters, digits and `_ : . -`."""
        if not _NAME.fullmatch(name):
            raise ValueError(f"namespace {name!r}: 1 to 64 of a-z, 0-9, _ : . -")
        self._redis = redis
        # No name holds a slash: of two namespaces none can reach into the other, whatever they are called.
        self._prefix = f"ns:{name}/"

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """As RedisManager.set."""
        self._redis.set(self._prefix + key, value, ttl)

    def get(self, key: str) -> Any:
        """As RedisManager.get."""
        return self._redis.get(self._prefix + key)

    def delete(self, *keys: str) -> int:
        """As RedisManager.delete."""
        return self._redis.delete(*(self._prefix + key for key in keys))

    def exists(self, key: str) -> bool:
        """As RedisManager.exists."""
        return self._redis.exists(self._prefix + key)

    def cached(self, key: str, load: Callable[[], Any], ttl: float, tags: Sequence[str] = ()) -> Any:
        """As RedisManager.cached."""
        own = [self._prefix + tag for tag in tags]
        return self._redis.cached(self._prefix + key, load, ttl, [self._prefix, *own])

    def invalidate_tags(self, *tags: str) -> None:
        """As RedisManager.invalidate_tags, for tags of this namespace."""
        self._redis.invalidate_tags(*(self._prefix + tag for tag in tags))

    def clear(self) -> None:
        """Remove all values, in batches that keep nobody from Redis, and end at once all that is cached."""
        self._redis.invalidate_tags(self._prefix)
        self._redis.delete_prefix(self._prefix)
