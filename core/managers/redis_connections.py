"""The connections to Redis: short time-outs, no retries, a pool in which callers wait for their turn."""

from __future__ import annotations

import select
import socket
from collections.abc import Mapping
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from utils.certificates import refuse_unusable_pem
from utils.green import native_poll


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


def connection_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Options for any client of our Redis. No retries: the driver's are not idempotent."""
    return {
        **_tls_options(config),
        "password": config["REDIS_PASSWORD"],
        "socket_timeout": config["REDIS_TIMEOUT"],
        "socket_connect_timeout": config["REDIS_TIMEOUT"],
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        # Notices of a hosted product. Where they may come, the driver does not look whether a pooled connection was closed,
        # and after a restart of Redis each of them would fail one request.
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "max_connections": config["REDIS_POOL_SIZE"],
        "decode_responses": False,
    }


def connection_pool(config: Mapping[str, Any]) -> redis.BlockingConnectionPool:
    """A pool in which callers wait for their turn: the driver's usual one fails them, as if Redis were away.

    Raises ValueError when REDIS_URL is no address.
    """
    kind = _TlsConnection if _over_tls(config) else _Connection
    options = connection_options(config)
    return redis.BlockingConnectionPool.from_url(config["REDIS_URL"], connection_class=kind, timeout=config["REDIS_TIMEOUT"], **options)


def refuse_bad_certificates(config: Mapping[str, Any]) -> None:
    """Raises ValueError that names the setting whose file cannot be used, or is not used for want of TLS."""
    for key in ("REDIS_CA_FILE", "REDIS_CERTIFICATE_FILE"):
        if config[key] and not _over_tls(config):
            raise ValueError(f"{key} is only of use with a REDIS_URL that begins with rediss://")
    refuse_unusable_pem(config, "REDIS")


def _over_tls(config: Mapping[str, Any]) -> bool:
    return bool(config["REDIS_URL"].startswith("rediss://"))


def _tls_options(config: Mapping[str, Any]) -> dict[str, Any]:
    """Certificate and name of the server are always checked."""
    if not _over_tls(config):
        return {}
    own = config["REDIS_CERTIFICATE_FILE"] or None
    return {
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,
        "ssl_ca_certs": config["REDIS_CA_FILE"] or None,
        "ssl_certfile": own,
        "ssl_keyfile": own,
    }


def connections_in_use(pool: redis.BlockingConnectionPool) -> int:
    """How many callers hold a connection of `pool` just now."""
    return int(pool.max_connections - pool.pool.qsize())
