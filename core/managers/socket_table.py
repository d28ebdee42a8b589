"""The sockets of this worker: found by their id, by their session, and ended with a reason."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Collection, Iterable
from weakref import WeakValueDictionary

from core import metrics
from core.managers.socket_queue import SocketQueue
from core.web.budget import Budget
from core.web.routing import Principal
from core.web.socket_events import Connection


class SocketTable:
    """What is said here reaches the sockets of this worker only."""

    def __init__(self, queue: SocketQueue, socket_rate: float, user_rate: float) -> None:
        """Rates: events a second of each socket, and of each user on this worker; bursts are twice that."""
        self._queue = queue
        self._socket_rate, self._user_rate = socket_rate, user_rate
        self._by_id: dict[str, Connection] = {}
        self._by_session: defaultdict[str, set[str]] = defaultdict(set)
        self._user_budgets: WeakValueDictionary[str, Budget] = WeakValueDictionary()

    def __len__(self) -> int:
        return len(self._by_id)

    def all(self) -> list[Connection]:
        return list(self._by_id.values())

    def get(self, sid: str | None) -> Connection | None:
        return None if sid is None else self._by_id.get(sid)

    def open(self, sid: str, principal: Principal, expires_at: float, address: str) -> Connection:
        """Enter a socket, before it is asked whether its session lives: from now on an end of the session finds it."""
        user_budget = self._user_budgets.setdefault(principal.user_id, Budget(self._user_rate, 2 * self._user_rate))
        connection = Connection(
            sid,
            principal,
            expires_at,
            address,
            budget=Budget(self._socket_rate, 2 * self._socket_rate),
            user_budget=user_budget,
            patience=Budget(self._socket_rate, 20 * self._socket_rate),
        )
        self._by_id[sid] = connection
        self._by_session[principal.session_id].add(sid)
        metrics.SOCKETS.set(len(self._by_id))
        return connection

    def close(self, sid: str) -> Connection | None:
        """Take a socket out; None when it is not there (any more)."""
        connection = self._by_id.pop(sid, None)
        if connection is None:
            return None
        of_session = self._by_session[connection.principal.session_id]
        of_session.discard(sid)
        if not of_session:
            del self._by_session[connection.principal.session_id]
        metrics.SOCKETS.set(len(self._by_id))
        return connection

    def of_sessions(self, session_ids: Iterable[str]) -> list[Connection]:
        return [self._by_id[sid] for session_id in session_ids if session_id in self._by_session for sid in self._by_session[session_id]]

    def session_ids(self) -> list[str]:
        return list(self._by_session)

    def expired(self) -> list[Connection]:
        now = time.time()
        return [connection for connection in self._by_id.values() if connection.expires_at <= now]

    def doubtful(self) -> list[Connection]:
        return [connection for connection in self._by_id.values() if connection.doubtful]

    def link_ids(self) -> set[str | None]:
        """The Engine.IO sockets below those that are signed in."""
        return {self._queue.eio_sid_from_sid(sid, "/") for sid in self._by_id}

    def room_count(self) -> int:
        """How many rooms have members here."""
        return len({room for connection in self._by_id.values() for room in connection.rooms})

    def end(self, connections: Collection[Connection], reason: str) -> None:
        """Tell sockets why, then close them."""
        for connection in connections:
            # One that is being let in just now sees this at the end.
            connection.ended = reason
            self._queue.tell(connection.sid, "session_revoked", {"reason": reason})
            self._hang_up(connection.sid)

    def _hang_up(self, sid: str) -> None:
        """Disconnect the socket, and close the link below it, which an honest client would do by itself."""
        server = self._queue.server
        link_id = self._queue.eio_sid_from_sid(sid, "/")
        server.disconnect(sid, ignore_queue=True)
        link = server.eio.sockets.get(link_id)
        if link is not None:
            link.close(wait=False)
