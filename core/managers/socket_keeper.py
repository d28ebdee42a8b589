"""Looks after a worker's sockets in the background: their leases, their tokens and sessions, what the rooms are shown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from core import metrics
from core.managers.socket_presence import PresenceBoard
from core.managers.socket_registry import LEASE_SECONDS, SocketRegistry
from core.managers.socket_table import SocketTable
from core.web.socket_events import Connection
from tools.error_handling.errors import AppError, Unavailable
from tools.logger.custom_logger import custom_log, log_exception
from utils.background import Ticker

_SESSIONS_AT_ONCE = 1000
# How long a link may stay without signing in.
_SIGN_IN_SECONDS = 10.0


class SocketKeeper:
    """Whatever fails (Redis, the database) is tried again at the next turn."""

    def __init__(
        self,
        table: SocketTable,
        registry: SocketRegistry,
        board: PresenceBoard,
        engine: Any,
        active_sessions: Callable[[list[str]], set[str]],
    ) -> None:
        """`engine`: the Engine.IO server below; `active_sessions`: which of these sessions live, by the record."""
        self._table = table
        self._registry = registry
        self._board = board
        self._engine = engine
        self._active_sessions = active_sessions
        self._unforgotten: list[Connection] = []
        self._strangers: dict[str, float] = {}
        self._tickers = [
            Ticker("socket-leases", LEASE_SECONDS / 3, self.renew, self._failed, first=0.0),
            Ticker("socket-tokens", 1.0, self._end_expired, self._failed),
            Ticker("socket-sessions", 5.0, self._end_revoked, self._failed),
            Ticker("socket-presence", 0.1, self._board.flush, self._failed),
        ]

    def start(self) -> None:
        for ticker in self._tickers:
            ticker.start()

    def stop(self) -> None:
        """Safe to call twice."""
        for ticker in self._tickers:
            ticker.stop()

    def forget(self, connection: Connection) -> None:
        """Take a socket that has gone out of Redis; later, where that cannot be done now."""
        try:
            self._registry.forget([connection])
        except Unavailable:
            self._unforgotten.append(connection)
        self._board.changed(connection.rooms)

    def renew(self) -> None:
        """Keep this worker's sockets known, and take out those of workers that were killed."""
        pulse = self._registry.renew()
        gone, self._unforgotten = self._unforgotten, []
        try:
            self._registry.forget(gone)
            if not pulse.unbroken:
                self._restore()
        except Unavailable:
            self._unforgotten += gone
            raise
        for connection in self._table.doubtful():
            self._board.changed(connection.doubtful)
            self._registry.settle(connection)
        for worker in pulse.dead:
            self._board.changed(self._registry.sweep(worker))
        metrics.SOCKET_ROOMS.set(self._table.room_count())

    def _restore(self) -> None:
        """Redis has lost us, or we have not told it of us for too long."""
        connections = self._table.all()
        self._registry.register(connections)
        self._registry.rejoin(connections)
        self._board.changed({room for connection in connections for room in connection.rooms})

    def _end_expired(self) -> None:
        self._table.end(self._table.expired(), "token-expired")
        self._end_strangers()

    def _end_strangers(self) -> None:
        """Links that do not sign in, and those whose readers are too slow."""
        links = dict(self._engine.sockets)
        now = time.monotonic()
        known = self._table.link_ids()
        self._strangers = {link_id: self._strangers.get(link_id, now) for link_id in links if link_id not in known}
        for link_id, since in self._strangers.items():
            if now - since > _SIGN_IN_SECONDS:
                metrics.SOCKET_DROPPED.labels("not-signed-in").inc()
                links[link_id].close(wait=False)

    def _end_revoked(self) -> None:
        """An announcement can get lost with Redis or with a worker: the record knows which sessions still live."""
        session_ids = self._table.session_ids()
        for start in range(0, len(session_ids), _SESSIONS_AT_ONCE):
            chunk = session_ids[start : start + _SESSIONS_AT_ONCE]
            ended = set(chunk) - self._active_sessions(chunk)
            self._table.end(self._table.of_sessions(ended), "session-revoked")

    @staticmethod
    def _failed(error: Exception) -> None:
        if isinstance(error, AppError):
            custom_log("sockets could not be looked after", level="WARNING", code=error.code)
        else:
            log_exception("the socket keeper stumbled", error)
