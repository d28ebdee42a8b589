"""What clients do in rooms and say to each other: the events that every server has."""

from __future__ import annotations

import time
from typing import Any

from core import metrics
from core.managers.socket_presence import PresenceBoard, users_of
from core.managers.socket_queue import SocketQueue
from core.managers.socket_registry import SocketRegistry
from core.web.routing import ADMINS, Principal
from core.web.socket_events import BroadcastBody, Connection, DirectBody, Event, MessageBody, RoomBody
from tools.error_handling.errors import Conflict, Forbidden, Unauthenticated
from tools.logger.custom_logger import game_log
from utils.clock import rfc3339, utc_now

# Rooms that clients cannot name: those of a user, and the one of everybody who is signed in. The server puts sockets there.
USER_ROOM, EVERYBODY = "user:", "session:all"
_RESERVED = (USER_ROOM, "session:")
_ROOMS_PER_SOCKET = 50


class RoomEvents:
    """Handlers: a connection and a payload come in, what they return goes into the ack, and errors are raised."""

    def __init__(self, registry: SocketRegistry, queue: SocketQueue, board: PresenceBoard, room_size: int) -> None:
        self._registry = registry
        self._queue = queue
        self._board = board
        self._room_size = room_size

    def events(self) -> tuple[Event, ...]:
        return (
            Event("join_room", RoomBody, self._join),
            Event("leave_room", RoomBody, self._leave),
            Event("send_message", MessageBody, self._send),
            Event("direct_message", DirectBody, self._direct),
            Event("broadcast", BroadcastBody, self._broadcast, ADMINS),
            Event("presence", RoomBody, self._presence),
        )

    def _join(self, connection: Connection, body: RoomBody) -> dict[str, Any]:
        room = body.room
        _refuse_reserved(room)
        if len(connection.rooms) >= _ROOMS_PER_SOCKET and room not in connection.rooms:
            raise Conflict("This socket is in too many rooms.", code="too-many-rooms", limit=_ROOMS_PER_SOCKET)
        size = self._registry.join(room, connection)
        if size is None:
            raise Conflict("The room is full.", code="room-full", limit=self._room_size)
        if connection.ended is not None:
            # It went while we asked: nobody would take it out again.
            self._registry.leave(room, connection)
            raise Unauthenticated("This socket has ended.", code=connection.ended)
        self._queue.enter_room(connection.sid, "/", room)
        if room not in connection.rooms:
            connection.rooms[room] = time.time()
            self._board.changed([room])
        self._queue.tell(connection.sid, "room_joined", {"room": room, "size": size})
        game_log("room joined", room=room, user_id=connection.principal.user_id)
        return {"room": room, "size": size}

    def _leave(self, connection: Connection, body: RoomBody) -> dict[str, Any]:
        room = body.room
        _refuse_reserved(room)
        if self._registry.leave(room, connection):
            self._board.changed([room])
        self._queue.leave_room(connection.sid, "/", room)
        connection.rooms.pop(room, None)
        self._queue.tell(connection.sid, "room_left", {"room": room})
        return {"room": room}

    def _send(self, connection: Connection, body: MessageBody) -> dict[str, Any]:
        _refuse_outsider(connection, body.room)
        message = {"room": body.room, **_message(connection.principal, body.data)}
        self._queue.emit("message", message, room=body.room)
        metrics.SOCKET_MESSAGES.labels("room").inc()
        return {"at": message["at"]}

    def _direct(self, connection: Connection, body: DirectBody) -> dict[str, Any]:
        message = {"room": None, **_message(connection.principal, body.data)}
        self._queue.emit("message", message, room=f"{USER_ROOM}{body.user_id}")
        metrics.SOCKET_MESSAGES.labels("direct").inc()
        return {"at": message["at"]}

    def _broadcast(self, connection: Connection, body: BroadcastBody) -> dict[str, Any]:
        message = {"room": None, **_message(connection.principal, body.data)}
        self._queue.emit("message", message, room=EVERYBODY)
        metrics.SOCKET_MESSAGES.labels("broadcast").inc()
        return {"at": message["at"]}

    def _presence(self, connection: Connection, body: RoomBody) -> dict[str, Any]:
        """Who is in a room is for those to know who are in it themselves."""
        _refuse_outsider(connection, body.room)
        [presence] = self._registry.presence([body.room])
        return {"room": body.room, "users": users_of(presence), "size": len(presence.members)}


def _message(principal: Principal, data: Any) -> dict[str, Any]:
    return {"from": principal.user_id, "data": data, "at": rfc3339(utc_now())}


def _refuse_reserved(room: str) -> None:
    if room.startswith(_RESERVED):
        raise Forbidden("This room is not open to join or leave.")


def _refuse_outsider(connection: Connection, room: str) -> None:
    if room not in connection.rooms:
        raise Forbidden("Join the room first.")
