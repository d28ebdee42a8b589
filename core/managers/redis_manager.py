"""RedisManager: pooled, time-limited access to Redis; every stored value is encrypted, names carry no personal data.

Redis is never the record: whatever it forgets is found again in MongoDB.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any

import hiredis
import redis
from cryptography.fernet import Fernet, InvalidToken
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, NoScriptError, RedisError
from redis.retry import Retry

from core.managers.base import BootError, Manager
from tools.error_handling.errors import Unavailable
from utils.breaker import CircuitBreaker
from utils.green import native_poll
from utils.keys import fernet_key, stretch

_PURPOSE = "credit-system/redis"
_BREAKER_FAILURES = 3
_BREAKER_SECONDS = 1.0


class _QuickCheck:
    """A part of a connection: its readiness check is one system call.

    The driver asks, before each command, whether a pooled connection was closed meanwhile. In a patched process its
    way of asking goes round the whole event loop, which costs more than the command.
    """

    _sock: socket.socket | None

    def can_read(self, timeout: float = 0) -> bool:
        if timeout or self._sock is None:
            return bool(super().can_read(timeout))  # type: ignore[misc]
        poller = native_poll()
        poller.register(self._sock.fileno(), select.POLLIN)
        return bool(poller.poll(0))


class _Connection(_QuickCheck, redis.Connection):
    """A plain connection."""


class _TlsConnection(_QuickCheck, redis.SSLConnection):
    """The same over TLS, for rediss:// addresses."""


class RedisManager(Manager):
    """Values, sessions, rooms and scripts. Every failure of Redis surfaces as Unavailable, within the time-out."""

    name = "redis"
    critical = False

    def initialize(self) -> bool:
        config = self.app_manager.config
        master = stretch(config["REDIS_ENCRYPTION_KEY"], _PURPOSE)
        self._fernet = Fernet(fernet_key(master))
        self._pseudonym_key = master
        self._breaker = CircuitBreaker(_BREAKER_FAILURES, _BREAKER_SECONDS)
        self._client = redis.Redis(connection_pool=self._pool(config["REDIS_URL"], config["REDIS_TIMEOUT"]))
        self._scripts: dict[str, str] = {}
        self._refuse_unusable(config["REDIS_URL"])
        self.initialized = True
        return True

    def connection_options(self) -> dict[str, Any]:
        """Options for any client of this Redis: short time-outs, and no retries (the driver's are not idempotent)."""
        config = self.app_manager.config
        return {
            "password": config["REDIS_PASSWORD"],
            "socket_timeout": config["REDIS_TIMEOUT"],
            "socket_connect_timeout": config["REDIS_TIMEOUT"],
            "retry": Retry(NoBackoff(), 0),
            "health_check_interval": 0,
            "max_connections": config["REDIS_POOL_SIZE"],
            "decode_responses": False,
        }

    @property
    def is_down(self) -> bool:
        """Whether the breaker is open, that is, whether Redis has failed several times in a row."""
        return self._breaker.is_open

    # Values

    def set(self, key: str, value: Any, ttl: int | None = None) -> None:
        """Store `value` (JSON-able) encrypted under `key`, for `ttl` seconds or for ever."""
        token = self._fernet.encrypt(json.dumps(value, separators=(",", ":")).encode())
        self.guard(lambda: self._client.set(key, token, ex=ttl))

    def get(self, key: str) -> Any:
        """The value under `key`, or None. A value that our key does not open counts as absent."""
        token = self.guard(lambda: self._client.get(key))
        if token is None:
            return None
        try:
            return json.loads(self._fernet.decrypt(token))
        except InvalidToken:
            return None

    def read_flag(self, key: str) -> bytes | None:
        """A value that scripts keep in plain (a flag or a counter), or None."""
        flag: bytes | None = self.guard(lambda: self._client.get(key))
        return flag

    def delete(self, *keys: str) -> int:
        """Remove `keys`; how many there were."""
        return int(self.guard(lambda: self._client.delete(*keys))) if keys else 0

    def exists(self, key: str) -> bool:
        return bool(self.guard(lambda: self._client.exists(key)))

    # Sessions

    def set_session(self, session_id: str, data: dict[str, Any], ttl: int = 3600) -> None:
        """Store the data of a session, encrypted."""
        self.set(f"session_data:{session_id}", data, ttl)

    def get_session(self, session_id: str) -> dict[str, Any] | None:
        """The data of a session, or None."""
        data: dict[str, Any] | None = self.get(f"session_data:{session_id}")
        return data

    def delete_session(self, session_id: str) -> None:
        self.delete(f"session_data:{session_id}")

    # Sets of members with a lease, for rooms and for the sockets of a session

    def add_member(self, key: str, member: str, lease_seconds: int) -> None:
        """Put `member` into the set `key` until its lease ends (scored by the server's clock)."""
        self.run_script(_ADD_MEMBER, [key], [member, lease_seconds])

    def remove_member(self, key: str, member: str) -> None:
        self.remove_from_all([key], member)

    def remove_from_all(self, keys: Sequence[str], member: str) -> None:
        """Take `member` out of all the sets `keys`, in one round trip."""
        self.run_script(_REMOVE_MEMBER, keys, [member])

    def members(self, key: str) -> list[str]:
        """The members of `key` whose lease has not ended."""
        return [member.decode() for member in self.run_script(_MEMBERS, [key], [])]

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
        try:
            answer = command()
        except RedisError as error:
            self._breaker.failed()
            raise Unavailable("A store that we depend on does not answer.", retry_after=1) from error
        self._breaker.succeeded()
        return answer

    def pseudonym(self, value: str) -> str:
        """A keyed hash of `value`, for names that would otherwise show an address or a user."""
        return hashlib.blake2b(value.encode(), key=self._pseudonym_key, digest_size=12).hexdigest()

    def check(self) -> tuple[str, dict[str, Any]]:
        started = time.perf_counter()
        try:
            self.guard(self._client.ping)
        except Unavailable:
            return "unhealthy", {"connection": "failed"}
        latency = round((time.perf_counter() - started) * 1000, 2)
        return "healthy", {"connection": "ok", "latency_ms": latency}

    def dispose(self) -> None:
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
            client.connection_pool.disconnect()
        self.initialized = False

    def _pool(self, url: str, timeout: float) -> redis.BlockingConnectionPool:
        """A pool in which callers wait for their turn: the driver's usual one fails them, as if Redis were away."""
        self.connection_class = _TlsConnection if url.startswith("rediss://") else _Connection
        try:
            return redis.BlockingConnectionPool.from_url(
                url, connection_class=self.connection_class, timeout=timeout, **self.connection_options()
            )
        except ValueError as error:
            raise BootError("REDIS_URL cannot be used: it must be a redis:// address without credentials") from error

    def _refuse_unusable(self, url: str) -> None:
        """Boot only on a Redis that answers, accepts our password and never evicts (eviction would forget bans)."""
        place = url.rsplit("@", 1)[-1].removeprefix("redis://")
        try:
            policy = self._client.config_get("maxmemory-policy").get("maxmemory-policy", "")
        except AuthenticationError as error:
            raise BootError(f"redis at {place}: password refused (redis_password)") from error
        except ConnectionError as error:
            raise BootError(f"redis at {place}: not reachable") from error
        except RedisError as error:
            raise BootError(f"redis at {place}: {type(error).__name__}") from error
        if policy != "noeviction":
            raise BootError(f"redis at {place}: maxmemory-policy is {policy!r}, it must be noeviction")


_ADD_MEMBER = """
local now = tonumber(redis.call('TIME')[1])
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
if redis.call('TTL', KEYS[1]) < tonumber(ARGV[2]) then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
"""

_REMOVE_MEMBER = "for _, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[1]) end"

_MEMBERS = """
local now = tonumber(redis.call('TIME')[1])
return redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')
"""
