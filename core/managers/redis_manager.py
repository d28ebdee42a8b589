"""RedisManager: pooled, time-limited access to Redis; every stored value is encrypted, names carry no personal data.

Redis is never the record: whatever it forgets is found again in MongoDB.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import hiredis
import redis
from redis.exceptions import AuthenticationError, ConnectionError, DataError, NoScriptError, RedisError, ResponseError

from core import metrics
from core.managers import redis_scripts as scripts
from core.managers.base import BootError, Manager
from core.managers.redis_cache import Cache
from core.managers.redis_connections import connection_options, connection_pool, connections_in_use, refuse_bad_certificates
from core.managers.redis_namespace import Namespace
from core.managers.redis_sealing import Sealer, Unreadable
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log
from utils.breaker import CircuitBreaker
from utils.certificates import is_about_trust
from utils.green import run_native
from utils.keys import REDIS_RING, Stretcher

_BREAKER_FAILURES = 3
_BREAKER_SECONDS = 1.0
_SCAN_BATCH = 500


class RedisManager(Manager):
    """Values, sessions, tokens, messages, a cache and scripts. Every failure of Redis surfaces as Unavailable, within the time-out."""

    name = "redis"
    critical = False
    live_settings = frozenset({"REDIS_ENCRYPTION_KEY"})

    def initialize(self) -> bool:
        config = self.app_manager.config
        self._stretcher = Stretcher(REDIS_RING)
        self._sealer = Sealer(self._stretcher.masters(config["REDIS_ENCRYPTION_KEY"]))
        self._breaker = CircuitBreaker(_BREAKER_FAILURES, _BREAKER_SECONDS)
        self._away = metrics.BREAKER_OPEN.labels("redis")
        self._cache = Cache(self)
        try:
            refuse_bad_certificates(config)
        except ValueError as error:
            raise BootError(str(error)) from error
        try:
            self._client = redis.Redis(connection_pool=connection_pool(config))
        except ValueError as error:
            raise BootError("REDIS_URL cannot be used: it must be a redis:// address without credentials") from error
        self._scripts: dict[str, str] = {}
        self._refuse_unusable(config["REDIS_URL"])
        self._away.set(0)
        self.initialized = True
        return True

    def reload(self) -> None:
        """Seal with the first line of REDIS_ENCRYPTION_KEY from now on, and open with all of them.

        Raises ValueError when the last line is another: every ban that runs would be lost to this worker, and not to others.
        """
        sealer = Sealer(run_native(self._stretcher.masters, self.app_manager.config["REDIS_ENCRYPTION_KEY"]))
        if not sealer.names_like(self._sealer):
            raise ValueError("REDIS_ENCRYPTION_KEY: the last line names the bans, and only changes at a start")
        self._sealer = sealer

    def connection_options(self) -> dict[str, Any]:
        """Options for any client of this Redis: short time-outs, and no retries (the driver's are not idempotent)."""
        return connection_options(self.app_manager.config)

    @property
    def is_down(self) -> bool:
        """Whether the breaker is open, that is, whether Redis has failed several times in a row."""
        return self._breaker.is_open

    # Values

    def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Store `value` encrypted under `key`, for `ttl` seconds or for ever; TypeError that names a type that cannot be stored.

        JSON's types, tuples, sets, bytes, datetimes with a zone, Decimal, UUID, ObjectId and Int64 come back as they were.
        """
        if ttl is not None and ttl <= 0:
            raise ValueError("ttl: must be more than 0 seconds")
        sealed = self.seal(key, value)
        self.guard(lambda: self._client.set(key, sealed, px=None if ttl is None else int(ttl * 1000)))

    def get(self, key: str) -> Any:
        """The value under `key`, or None. A value that our keys do not open counts as absent."""
        sealed = self.guard(lambda: self._client.get(key))
        if sealed is None:
            return None
        try:
            return self.unseal(key, sealed)
        except Unreadable:
            return None

    def delete(self, *keys: str) -> int:
        """Remove `keys`; how many there were."""
        return int(self.guard(lambda: self._client.delete(*keys))) if keys else 0

    def exists(self, key: str) -> bool:
        return bool(self.guard(lambda: self._client.exists(key)))

    def delete_prefix(self, prefix: str) -> None:
        """Remove all keys that begin with `prefix` (which holds none of `* ? [ \\`), batch by batch."""
        cursor, more = 0, True
        while more:
            cursor = self.guard(partial(self._delete_batch, cursor, f"{prefix}*"))
            more = cursor != 0

    def namespace(self, name: str) -> Namespace:
        """The same for keys that cannot leave the namespace `name`, such as `plugin:hello`; raises ValueError for a bad name."""
        return Namespace(self, name)

    # The cache

    def cached(self, key: str, load: Callable[[], Any], ttl: float, tags: Sequence[str] = ()) -> Any:
        """The cached value of `key`; where there is none, what `load()` returns (None too), kept encrypted for `ttl` seconds.

        Of all callers in all workers one loads, the others wait for it as long as their deadline allows (then Unavailable),
        and what `load` raises reaches those who wait with it. Shortly before the end one caller loads anew, while the others
        are still served. While Redis is away every call loads, still one at a time in this worker.
        """
        return self._cache.cached(key, load, ttl, tags)

    def invalidate_tags(self, *tags: str) -> None:
        """End at once all that was cached under any of `tags`, and what is just being loaded under them. One round trip.

        While Redis is away this is remembered, and carried out as soon as it answers again.
        """
        self._cache.invalidate_tags(*tags)

    # Sessions

    def set_session(self, session_id: str, data: dict[str, Any], ttl: float = 3600) -> None:
        """Store the data of a session, encrypted."""
        self.set(self._session_name(session_id), data, ttl)

    def get_session(self, session_id: str) -> dict[str, Any] | None:
        """The data of a session, or None."""
        data: dict[str, Any] | None = self.get(self._session_name(session_id))
        return data

    def delete_session(self, session_id: str) -> None:
        self.delete(self._session_name(session_id))

    def _session_name(self, session_id: str) -> str:
        return f"session_data:{self.pseudonym(session_id)}"

    # Tokens: what is known of their validity, readable for scripts

    def set_token(self, key: str, ttl: int) -> None:
        """Remember for `ttl` seconds that a token is valid, unless it is known to be revoked."""
        self.run_script(scripts.SET_TOKEN, [key], [ttl])

    def get_token(self, key: str) -> bool | None:
        """Whether a token is valid; None when nothing is known."""
        flag = self.guard(lambda: self._client.get(key))
        return None if flag is None else flag == b"1"

    def revoke_tokens(self, keys: Sequence[str], ttl: int) -> None:
        """Remember for `ttl` seconds that these tokens are revoked, in one round trip."""
        self.run_script(scripts.REVOKE_TOKENS, keys, [ttl])

    # Messages

    def publish(self, channel: str, message: str) -> None:
        """Send `message` to whoever listens on `channel` just now."""
        self.guard(lambda: self._command("PUBLISH", channel, message))

    # Below the values

    def run_script(self, source: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
        """Run a Lua script in one round trip (it is sent once, then called by its hash)."""
        digest = self._scripts.get(source)
        if digest is None:
            digest = self._scripts[source] = hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest()
        return self.guard(lambda: self._evaluate(digest, source, (len(keys), *keys, *args)))

    def _evaluate(self, digest: str, source: str, args: tuple[Any, ...]) -> Any:
        try:
            return self._command("EVALSHA", digest, *args)
        except NoScriptError:
            return self._command("EVAL", source, *args)

    def _command(self, *command: Any) -> Any:
        """One command on a connection of the pool. The client's way (retries, which are off, and telemetry) costs more than this."""
        pool = self._client.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([hiredis.pack_command(command)], check_health=False)
            return connection.read_response()
        finally:
            pool.release(connection)

    def guard(self, command: Callable[[], Any]) -> Any:
        """Run `command`; Unavailable when Redis fails, or at once while it is known to be away."""
        if not self._breaker.allows():
            raise Unavailable("A store that we depend on is away.", retry_after=1)
        began = time.perf_counter()
        try:
            answer = command()
        except RedisError as error:
            self._count_failure(error)
            raise Unavailable("A store that we depend on does not answer.", retry_after=1) from error
        finally:
            metrics.REDIS_SECONDS.observe(time.perf_counter() - began)
        self._count_success()
        return answer

    def seal(self, name: str, value: Any) -> bytes:
        """`value` encrypted, to be stored under `name` and nowhere else; raises TypeError."""
        return self._sealer.seal(name, value)

    def unseal(self, name: str, sealed: bytes) -> Any:
        """What was sealed for `name`; raises Unreadable."""
        return self._sealer.unseal(name, sealed)

    def pseudonym(self, value: str) -> str:
        """A keyed hash of `value`, for names that would otherwise show an address or a user.

        It follows the last line of REDIS_ENCRYPTION_KEY: names stay as they are when a new first line is added.
        """
        return self._sealer.pseudonym(value)

    def check(self) -> tuple[str, dict[str, Any]]:
        started = time.perf_counter()
        pool = self._client.connection_pool
        figures = {"pool": {"in_use": connections_in_use(pool), "max": pool.max_connections}, "keys": self._sealer.keys}
        try:
            self.guard(self._client.ping)
        except Unavailable:
            return "unhealthy", {"connection": "failed", "breaker_open": self.is_down, **figures}
        latency = round((time.perf_counter() - started) * 1000, 2)
        with suppress(Unavailable):
            self._cache.settle()
        return "healthy", {"connection": "ok", "breaker_open": self.is_down, "latency_ms": latency, **figures}

    def dispose(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
            client.connection_pool.disconnect()
        self.initialized = False

    def _delete_batch(self, cursor: int, pattern: str) -> int:
        following, keys = self._client.scan(cursor, match=pattern, count=_SCAN_BATCH)
        if keys:
            self._client.unlink(*keys)
        return int(following)

    def _count_failure(self, error: RedisError) -> None:
        """A command that Redis or the driver finds wrong is our mistake, and says nothing about Redis."""
        if type(error) in (ResponseError, DataError):
            return
        was_open = self._breaker.is_open
        self._breaker.failed()
        if self._breaker.is_open and not was_open:
            self._away.set(1)
            custom_log("redis is away", level="WARNING", error=type(error).__name__)

    def _count_success(self) -> None:
        was_open = self._breaker.is_open
        self._breaker.succeeded()
        if was_open:
            self._away.set(0)
            custom_log("redis is back")

    def _refuse_unusable(self, url: str) -> None:
        """Boot only on a Redis that answers, accepts our password and never evicts (eviction would forget bans)."""
        place = url.rsplit("@", 1)[-1].removeprefix("redis://").removeprefix("rediss://")
        try:
            policy = self._client.config_get("maxmemory-policy").get("maxmemory-policy", "")
        except AuthenticationError as error:
            raise BootError(f"redis at {place}: password refused (redis_password)") from error
        except ConnectionError as error:
            why = "its certificate is not trusted (REDIS_CA_FILE)" if is_about_trust(error) else "not reachable"
            raise BootError(f"redis at {place}: {why}") from error
        except RedisError as error:
            raise BootError(f"redis at {place}: {type(error).__name__}") from error
        if policy != "noeviction":
            raise BootError(f"redis at {place}: maxmemory-policy is {policy!r}, it must be noeviction")
