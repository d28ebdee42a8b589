"""Who is in a room, shown to the room whenever it changes: few changes at once, many of them together."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from core import metrics
from core.managers.socket_queue import SocketQueue
from core.managers.socket_registry import Presence, SocketRegistry
from utils.clock import rfc3339

COMMAND = "presence"
# Changes of this time are shown together; of a large room those of a longer one, as each member is shown all the others.
_PAUSE_SECONDS = 0.2
_PAUSE_PER_MEMBER = 0.004
_ROOMS_AT_ONCE = 100
# Users that the event lists; the size always counts all, and the ack of a question lists all.
_LISTED = 100


class PresenceBoard:
    """Notes the rooms that have changed, and shows them later.

    Every worker reads for itself when it has changed something, and what it read may be overtaken: workers show only what
    is newer, by the clock of Redis, than what they have shown last.
    """

    def __init__(self, registry: SocketRegistry, queue: SocketQueue) -> None:
        self._registry = registry
        self._queue = queue
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._pause_until: dict[str, float] = {}
        self._shown: dict[str, float] = {}

    def changed(self, rooms: Iterable[str]) -> None:
        """Have these rooms shown soon."""
        soon = time.monotonic() + _PAUSE_SECONDS
        with self._lock:
            for room in rooms:
                self._due.setdefault(room, max(soon, self._pause_until.get(room, 0.0)))

    def flush(self, *, at_once: bool = False) -> None:
        """Show what is due, or all that has changed; raises Unavailable, and keeps it for later."""
        while rooms := self._take(float("inf") if at_once else time.monotonic()):
            try:
                for presence in self._registry.presence(rooms):
                    self._publish(presence)
            except Exception:
                self.changed(rooms)
                raise

    def show(self, message: dict[str, Any]) -> None:
        """A worker has read who is in a room: tell those that are here."""
        room, at = message["room"], message["at"]
        if not self._queue.has(room):
            self._shown.pop(room, None)
        elif at > self._shown.get(room, 0.0):
            self._shown[room] = at
            self._queue.tell(room, "presence", {"room": room, "users": message["users"], "size": message["size"]})

    def _take(self, now: float) -> list[str]:
        with self._lock:
            self._pause_until = {room: until for room, until in self._pause_until.items() if until > now}
            rooms = [room for room, due in self._due.items() if due <= now][:_ROOMS_AT_ONCE]
            for room in rooms:
                del self._due[room]
        return rooms

    def _publish(self, presence: Presence) -> None:
        size = len(presence.members)
        with self._lock:
            self._pause_until[presence.room] = time.monotonic() + max(_PAUSE_SECONDS, size * _PAUSE_PER_MEMBER)
        if size:
            self._queue.send(COMMAND, room=presence.room, users=users_of(presence)[:_LISTED], size=size, at=presence.at)
            metrics.SOCKET_MESSAGES.labels("presence").inc()


def users_of(presence: Presence) -> list[dict[str, Any]]:
    """`[{user_id, username, since}]`: each user once, since their first socket came."""
    first = {member.user_id: member for member in reversed(presence.members)}
    users = sorted(first.values(), key=lambda member: member.since)
    return [{"user_id": user.user_id, "username": user.username, "since": _moment(user.since)} for user in users]


def _moment(seconds: float) -> str:
    return rfc3339(datetime.fromtimestamp(seconds, UTC))
