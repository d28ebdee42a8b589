"""The socket registry: which sockets there are on all workers, of whom and in which rooms, as Redis has it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from core.managers import socket_scripts as scripts
from core.managers.redis_sealing import Unreadable
from core.web.socket_events import Connection
from tools.error_handling.errors import Unavailable
from utils.batching import Batcher

if TYPE_CHECKING:
    from core.managers.redis_manager import RedisManager

# A worker that is killed says no goodbye: what it left counts no more after this time.
LEASE_SECONDS = 9.0
# What one script touches at a time: a larger one would keep Redis from everybody else.
_AT_ONCE = 500
_CARDS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Member:
    """A socket in a room: whose, and since when (seconds)."""

    user_id: str
    username: str | None
    since: float


@dataclass(frozen=True, slots=True)
class Presence:
    """Who is in a room, the longest there first, as of a time (seconds, by the clock of Redis)."""

    room: str
    members: list[Member]
    at: float


@dataclass(frozen=True, slots=True)
class Pulse:
    """What a renewal told: whether the lease ran until now, and which workers have lost theirs."""

    unbroken: bool
    dead: list[str]


class SocketRegistry:
    """One worker's hold on it. Every method is one round trip (more for thousands of sockets) and raises Unavailable."""

    def __init__(self, redis: RedisManager, worker: str, room_size: int) -> None:
        """`room_size`: how many sockets fit into a room."""
        self._redis = redis
        self._room_size = room_size
        self._worker = worker
        self._cards: dict[str, list[Any]] = {}
        self._joins: Batcher[tuple[str, str], int] = Batcher(self._join_all, _AT_ONCE)
        self._arrivals: Batcher[Connection, None] = Batcher(self._register_all, _AT_ONCE)

    # Sockets

    def register(self, connections: Iterable[Connection]) -> None:
        """Enter sockets of this worker; those that are there already stay as they are."""
        for chunk in _chunks(connections):
            entries = ((c.sid, self._card(c), self._user(c.principal.user_id)) for c in chunk)
            self._redis.run_script(scripts.REGISTER, [], [self._worker, *(value for entry in entries for value in entry)])

    def arrive(self, connection: Connection) -> None:
        """Enter one socket; those who come at the same time do it together."""
        self._arrivals.call(connection)

    def _register_all(self, connections: list[Connection]) -> list[None]:
        self.register(connections)
        return [None] * len(connections)

    def forget(self, connections: Iterable[Connection]) -> None:
        """Take sockets of this worker out, and out of all their rooms."""
        for chunk in _chunks(connections):
            rooms = {c.sid: {*c.rooms, *c.doubtful} for c in chunk}
            entries = ((c.sid, self._user(c.principal.user_id), len(rooms[c.sid]), *rooms[c.sid]) for c in chunk)
            self._redis.run_script(scripts.FORGET, [], [self._worker, *(value for entry in entries for value in entry)])

    def users_online(self, user_ids: Collection[str]) -> set[str]:
        """Those of `user_ids` that have a socket on a living worker."""
        ids = list(user_ids)
        if not ids:
            return set()
        answer = self._redis.run_script(scripts.ONLINE, [], [self._user(user_id) for user_id in ids])
        return {user_id for user_id, online in zip(ids, answer, strict=True) if online}

    # Rooms

    def join(self, room: str, connection: Connection) -> int | None:
        """Put a socket into a room that is not full: the size then, or None. Those who join at the same time do it together."""
        with _doubt(connection, room):
            size = self._joins.call((room, connection.sid))
        return None if size < 0 else size

    def leave(self, room: str, connection: Connection) -> bool:
        """Take a socket out of a room; whether it was in."""
        with _doubt(connection, room):
            return bool(self._redis.run_script(scripts.LEAVE, [], [self._worker, room, connection.sid]))

    def settle(self, connection: Connection) -> None:
        """Have Redis think of the doubtful rooms of a socket as we do."""
        for room in list(connection.doubtful):
            if room in connection.rooms:
                self.rejoin([connection])
            else:
                self.leave(room, connection)
            connection.doubtful.discard(room)

    def _join_all(self, joins: list[tuple[str, str]]) -> list[int]:
        args = [self._worker, self._room_size, *(value for join in joins for value in join)]
        sizes: list[int] = self._redis.run_script(scripts.JOIN, [], args)
        return sizes

    def rejoin(self, connections: Iterable[Connection]) -> None:
        """Put sockets of this worker back into their rooms, after Redis has lost them."""
        memberships = ((room, c.sid, int(since * 1000)) for c in connections for room, since in c.rooms.items())
        for chunk in _chunks(memberships):
            self._redis.run_script(scripts.REJOIN, [], [self._worker, *(value for entry in chunk for value in entry)])

    def presence(self, rooms: Sequence[str]) -> list[Presence]:
        """Who is in each of `rooms`, all read at the same moment."""
        now, *answer = self._redis.run_script(scripts.MEMBERS, [], rooms)
        return [Presence(room, self._members(flat), now / 1000) for room, flat in zip(rooms, answer, strict=True)]

    # Leases

    def renew(self) -> Pulse:
        """Prolong this worker's lease. When it had ended, or was lost with Redis, its sockets are to be registered again."""
        unbroken, *dead = self._redis.run_script(scripts.RENEW, [], [self._worker, int(LEASE_SECONDS * 1000)])
        return Pulse(bool(unbroken), [worker.decode() for worker in dead])

    def sweep(self, worker: str) -> set[str]:
        """Remove what a dead worker has left; the rooms that it was in."""
        return self._sweep(worker, own="0")

    def retire(self) -> set[str]:
        """Remove all of this worker; the rooms that it was in."""
        return self._sweep(self._worker, own="1")

    def _sweep(self, worker: str, own: str) -> set[str]:
        rooms: set[str] = set()
        done = False
        while not done:
            done, *swept = self._redis.run_script(scripts.SWEEP, [], [worker, _AT_ONCE, own])
            rooms.update(room.decode() for room in swept)
        return rooms

    # Cards: who a socket belongs to, sealed for its name

    def _user(self, user_id: str) -> str:
        return self._redis.pseudonym(user_id)

    def _card(self, connection: Connection) -> bytes:
        principal = connection.principal
        return self._redis.seal(f"socket:{connection.sid}", [principal.user_id, connection.username, principal.session_id])

    def _members(self, flat: list[bytes]) -> list[Member]:
        found = [self._member(flat[i].decode(), int(flat[i + 1]) / 1000, flat[i + 2]) for i in range(0, len(flat), 3)]
        return sorted((member for member in found if member is not None), key=lambda member: member.since)

    def _member(self, sid: str, since: float, sealed: bytes) -> Member | None:
        """None of a socket whose card is missing: it is about to be registered, or was just forgotten."""
        card = self._cards.get(sid)
        if card is None:
            try:
                card = self._redis.unseal(f"socket:{sid}", sealed)
            except Unreadable:
                return None
            if len(self._cards) >= _CARDS_KEPT:
                self._cards.clear()
            self._cards[sid] = card
        return Member(card[0], card[1], since)


@contextmanager
def _doubt(connection: Connection, room: str) -> Iterator[None]:
    """What Redis did not answer in time may be carried out all the same, when it goes on."""
    try:
        yield
    except Unavailable:
        connection.doubtful.add(room)
        raise


def _chunks(items: Iterable[Any]) -> Iterator[list[Any]]:
    remaining = iter(items)
    while chunk := list(islice(remaining, _AT_ONCE)):
        yield chunk
