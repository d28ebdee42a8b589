"""Redis: reachable, guarded by a password, and keeping what it is given."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import redis

from core.doctor.finding import Finding, fail, ok, warn
from core.doctor.mongodb import skew
from core.managers.redis_connections import connection_options

_OLDEST = (6, 2)
_POLICY = "noeviction"


def look_at_redis(config: Mapping[str, Any]) -> Iterator[Finding]:
    """Its log-in first; the rest is asked where that works."""
    options = connection_options(config)
    try:
        client = redis.Redis.from_url(config["REDIS_URL"], **options)
    except ValueError:
        yield fail("redis.address", "REDIS_URL is no redis:// or rediss:// address", "Set it right.")
        return
    with closing(client):
        try:
            client.ping()
        except redis.AuthenticationError:
            yield fail("redis.login", "refuses our password", "Give Redis and the secret redis_password the same one.")
            return
        except redis.RedisError as error:
            yield fail("redis.login", f"cannot be used ({type(error).__name__})", "Look at REDIS_URL, and whether Redis runs.")
            return
        yield ok("redis.login", "answers")
        before = time.time()
        seconds, microseconds = client.time()
        yield skew("redis.clock", seconds + microseconds / 1e6, before, time.time())
        yield from _told(client.info())
    with closing(redis.Redis.from_url(config["REDIS_URL"], **{**options, "password": None})) as stranger:
        yield _guarded(stranger)


def _guarded(stranger: redis.Redis) -> Finding:
    try:
        stranger.ping()
    except redis.RedisError:
        return ok("redis.password", "is needed")
    return fail("redis.password", "everybody may use it without one", "requirepass, with the secret redis_password.")


def _told(info: Mapping[str, Any]) -> Iterator[Finding]:
    version = str(info["redis_version"])
    if tuple(map(int, version.split(".")[:2])) < _OLDEST:
        yield fail("redis.version", version, "Use 6.2 or newer.")
    else:
        yield ok("redis.version", version)
    policy = info.get("maxmemory_policy", "unknown")
    if policy != _POLICY:
        yield fail("redis.policy", f"maxmemory-policy {policy}: it may drop a revocation or a ban", f"maxmemory-policy {_POLICY}")
    else:
        yield ok("redis.policy", policy)
    if not info.get("aof_enabled"):
        yield warn("redis.persistence", "keeps nothing over a restart but snapshots: counters start anew", "appendonly yes")
    elif info.get("aof_last_write_status") != "ok":
        yield fail("redis.persistence", "its last write to disk failed", "Look at its disk and its log.")
    else:
        yield ok("redis.persistence", "append-only file")
    if info.get("role") != "master":
        yield fail("redis.role", f"is a {info.get('role')}, which cannot be written to", "Point REDIS_URL at the primary.")
