"""WebSocketManager: Socket.IO connections of signed-in users, their rooms and messages, over all workers."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Annotated, Any

import socketio
from engineio.async_drivers import _websocket_wsgi
from flask import Flask, request
from flask_socketio import ConnectionRefusedError as Refused
from flask_socketio import SocketIO, emit, join_room, leave_room
from pydantic import BaseModel, Field, ValidationError

from core import context, metrics
from core.contracts import Identifier
from core.managers.base import Manager
from core.web.fingerprints import client_fingerprint
from core.web.models import Body, Text
from core.web.routing import ADMINS, Principal
from core.web.socket_events import Connection, Event
from core.web.socket_gate import SocketGate
from tools.error_handling.error_handler import from_validation
from tools.error_handling.errors import AppError, Conflict, Forbidden, MalformedRequest, RateLimited, Unauthenticated
from tools.logger.custom_logger import custom_log, game_log, log_exception
from utils import deadline, green
from utils.clock import rfc3339, utc_now
from utils.ids import new_id

_CHANNEL = "credit-system-sockets"
# A worker that is killed says no goodbye: what it left in Redis ends by itself after this time.
_LEASE_SECONDS = 15
_TEND_SECONDS = 5
_ROOMS_PER_SOCKET = 50
# Leases that one round trip renews: a larger script would keep Redis from everybody else.
_LEASES_AT_ONCE = 1000
_SESSIONS_AT_ONCE = 1000
_USER_ROOM, _SESSION_ROOM = "user:", "session:"


class RoomBody(Body):
    room: Annotated[Text, Field(min_length=1, max_length=64, pattern=r"^[\w:.-]+$")]


class MessageBody(RoomBody):
    data: Any


class DirectBody(Body):
    user_id: Annotated[Text, Field(min_length=1, max_length=64)]
    data: Any


class BroadcastBody(Body):
    data: Any


class WebSocketManager(Manager):
    """Socket.IO is a hint channel: whatever it loses, clients read again over REST."""

    name = "websocket"

    def initialize(self) -> bool:
        config = self.app_manager.config
        self.mode = green.current_mode()
        self._connections: dict[str, Connection] = {}
        self._burst = 2.0 * config["SOCKET_EVENTS_PER_SECOND"]
        self._stop = threading.Event()
        self._keeper: threading.Thread | None = None
        self._events: dict[str, Event] = {}
        self.socketio = SocketIO()
        for event in (
            Event("join_room", RoomBody, self._join),
            Event("leave_room", RoomBody, self._leave),
            Event("send_message", MessageBody, self._send),
            Event("direct_message", DirectBody, self._direct),
            Event("broadcast", BroadcastBody, self._broadcast, ADMINS),
        ):
            self.register_event(event)
        self.app_manager.hooks_manager.register_hook("session_revoked", self._end_sessions)
        self.initialized = True
        return True

    def register_event(self, event: Event) -> None:
        """Handle `event` of every client, from `attach` on; raises ValueError when its name is taken."""
        if event.name in self._events:
            raise ValueError(f"socket event {event.name!r} is registered already")
        self._events[event.name] = event

    @property
    def events(self) -> list[Event]:
        """All events that clients may send."""
        return list(self._events.values())

    def unregister_event(self, name: str) -> None:
        """Take back a `register_event`."""
        self._events.pop(name, None)

    def attach(self, app: Flask) -> None:
        """Put Socket.IO in front of `app` and start to look after its connections."""
        config = self.app_manager.config
        options = self.app_manager.redis_manager.connection_options()
        queue = socketio.RedisManager(config["REDIS_URL"], channel=_CHANNEL, redis_options=options)
        self.socketio.on_event("connect", self._connect)
        self.socketio.on_event("disconnect", self._disconnect)
        for event in self._events.values():
            self.socketio.on_event(event.name, partial(self._dispatch, event))
        self.socketio.init_app(
            app,
            async_mode=self.mode,
            client_manager=queue,
            cors_allowed_origins=_origin_check(config["CORS_ORIGINS"]),
            max_http_buffer_size=config["SOCKET_MAX_BYTES"],
            async_handlers=False,
            always_connect=False,
            manage_session=False,
            cookie=None,
        )
        app.wsgi_app = SocketGate(  # type: ignore[method-assign]
            app.wsgi_app, self._count_address, self.app_manager.error_handler, config["REQUEST_TIMEOUT"]
        )
        # What anonymous clients send wrong is theirs to know; these would log a traceback for each frame.
        for name in ("engineio.server", "socketio.server"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        if self.mode == "eventlet":
            _bound_eventlet_messages()
        else:
            _bound_messages(config["SOCKET_MAX_BYTES"])
        self._keeper = threading.Thread(target=self._keep, name="socket-keeper", daemon=True)
        self._keeper.start()

    def emit_to_user(self, user_id: str, event: str, data: dict[str, Any]) -> None:
        """Send `event` to all sockets of a user, whichever worker holds them."""
        self.socketio.emit(event, data, to=f"{_USER_ROOM}{user_id}")

    def check(self) -> tuple[str, dict[str, Any]]:
        # Sockets stay, but what is said in a room does not reach the other workers.
        status = "degraded" if self.app_manager.redis_manager.is_down else "healthy"
        return status, {"mode": self.mode, "connections": len(self._connections)}

    def drain(self) -> None:
        """Say goodbye to every socket of this worker."""
        for connection in list(self._connections.values()):
            self.socketio.server.disconnect(connection.sid)
        # Then those that never signed in, and those that would not go.
        for link in list(self.socketio.server.eio.sockets.values()):
            link.close(wait=False)

    def dispose(self) -> None:
        if self.initialized:
            self._stop.set()
            if self._keeper is not None:
                self._keeper.join(timeout=2)
        self.initialized = False

    # Connections

    def _connect(self, auth: Any = None) -> None:
        """Let a socket in that brings a valid token. Flask-SocketIO calls again without `auth` after a TypeError."""
        self._begin()
        try:
            connection = self._admit(auth)
        except AppError as error:
            metrics.SOCKET_EVENTS.labels("connect", error.code).inc()
            # The first is an error's `message` in the client, the second its `data`.
            raise Refused(error.detail, {**error.problem(), "request_id": context.request_id.get()}) from error
        finally:
            deadline.clear()
        self._connections[connection.sid] = connection
        join_room(f"{_USER_ROOM}{connection.principal.user_id}")
        join_room(f"{_SESSION_ROOM}{connection.principal.session_id}")
        metrics.SOCKETS.inc()
        metrics.SOCKET_EVENTS.labels("connect", "ok").inc()

    def _count_address(self, address: str) -> None:
        self.app_manager.rate_limiter_manager.check_rate_limit([Identifier("ip", address)])

    def _admit(self, auth: Any) -> Connection:
        """The address was counted at the handshake; on one link it may try again, and is counted when it fails."""
        try:
            if not isinstance(auth, dict) or not isinstance(auth.get("token"), str):
                raise Unauthenticated("Connect with auth: {token}.", code="token-invalid")
            claims = self.app_manager.jwt_manager.read_token(auth["token"], fingerprint=client_fingerprint(request))
            principal = Principal(claims["sub"], claims["role"], claims["sid"])
            self._count_user(principal)
        except Unauthenticated:
            self._count_address(request.remote_addr or "unknown")
            raise
        sid: str = request.sid  # type: ignore[attr-defined]
        lease = max(1, int(claims["exp"] - time.time()))
        self.app_manager.redis_manager.add_member(f"sockets:{principal.session_id}", sid, lease)
        return Connection(sid, principal, claims["exp"], budget=self._burst)

    def _count_user(self, principal: Principal) -> None:
        who = [Identifier("user", principal.user_id)]
        active = self.app_manager.rate_limiter_manager.check_rate_limit(who, session_id=principal.session_id).session_active
        if active is None:
            active = self.app_manager.jwt_manager.is_session_active(principal.session_id)
        if not active:
            raise Unauthenticated("The session has ended.", code="session-revoked")

    def _disconnect(self, *_: Any) -> None:
        connection = self._connections.pop(request.sid, None)  # type: ignore[attr-defined]
        if connection is None:
            return
        metrics.SOCKETS.dec()
        try:
            keys = [f"sockets:{connection.principal.session_id}", *(f"room:{room}" for room in connection.rooms)]
            self.app_manager.redis_manager.remove_from_all(keys, connection.sid)
        except AppError:
            # The leases end by themselves.
            custom_log("a socket's leases are left to expire", level="WARNING")

    def _end_sessions(self, session_ids: list[str]) -> None:
        """Sessions were revoked, here or in another worker: tell their sockets why, then close them."""
        sids = self.app_manager.redis_manager.members(*(f"sockets:{session_id}" for session_id in session_ids))
        if not sids:
            return
        self.socketio.emit("session_revoked", {"reason": "session-revoked"}, to=[f"{_SESSION_ROOM}{each}" for each in session_ids])
        for sid in sids:
            self.socketio.server.disconnect(sid)

    def _keep(self) -> None:
        """Look after this worker's sockets for as long as it runs."""
        tended = time.monotonic()
        while not self._stop.wait(1.0):
            try:
                self._end_expired()
                if time.monotonic() - tended >= _TEND_SECONDS:
                    tended = time.monotonic()
                    self._renew()
                    self._end_revoked()
            except AppError as error:
                custom_log("sockets could not be looked after", level="WARNING", code=error.code)
            except Exception as error:  # noqa: BLE001  without this thread nothing expires any more
                log_exception("the socket keeper stumbled", error)

    def _end_expired(self) -> None:
        now = time.time()
        for connection in [c for c in self._connections.values() if c.expires_at <= now]:
            self._end(connection.sid, "token-expired")

    def _end_revoked(self) -> None:
        """An announcement can get lost with Redis or with a worker: the record knows which sessions still live."""
        by_session = [(c.principal.session_id, c.sid) for c in self._connections.values()]
        for start in range(0, len(by_session), _SESSIONS_AT_ONCE):
            chunk = by_session[start : start + _SESSIONS_AT_ONCE]
            active = self.app_manager.jwt_manager.active_sessions({session_id for session_id, _ in chunk})
            for session_id, sid in chunk:
                if session_id not in active:
                    self._end(sid, "session-revoked")

    def _end(self, sid: str, reason: str) -> None:
        """Tell one socket of this worker why, then close it."""
        self.socketio.emit("session_revoked", {"reason": reason}, to=sid)
        self.socketio.server.disconnect(sid)

    def _renew(self) -> None:
        """Prolong the leases of this worker's sockets in their rooms."""
        leases = [(f"room:{room}", c.sid) for c in self._connections.values() for room in c.rooms]
        for start in range(0, len(leases), _LEASES_AT_ONCE):
            chunk = leases[start : start + _LEASES_AT_ONCE]
            self.app_manager.redis_manager.renew_members(chunk, _LEASE_SECONDS)

    # Events

    def _dispatch(self, event: Event, *args: Any) -> dict[str, Any]:
        """Run one event; whatever goes wrong is a problem in its ack."""
        self._begin()
        try:
            connection = self._connections.get(request.sid)  # type: ignore[attr-defined]
            if connection is None:
                raise Unauthenticated("This socket is not connected.")
            context.actor_id.set(connection.principal.user_id)
            self._spend(connection)
            if connection.principal.role not in event.roles:
                raise Forbidden("Your role may not do this.")
            if event.limit is not None:
                self.app_manager.rate_limiter_manager.check_rate_limit(_identifiers(connection.principal), event.limit)
            answer = event.handler(connection, _payload(event, args))
        except Exception as error:  # noqa: BLE001  the error handler decides what a client may see of it
            problem = self.app_manager.error_handler.handle(error, context.request_id.get())
            metrics.SOCKET_EVENTS.labels(event.name, problem.document["code"]).inc()
            return {"ok": False, "error": problem.document}
        finally:
            deadline.clear()
        metrics.SOCKET_EVENTS.labels(event.name, "ok").inc()
        return {"ok": True, **answer}

    def _begin(self) -> None:
        deadline.start(self.app_manager.config["REQUEST_TIMEOUT"])
        context.request_id.set(new_id("ev"))

    def _spend(self, connection: Connection) -> None:
        """A token bucket for each socket."""
        now = time.monotonic()
        rate = self.app_manager.config["SOCKET_EVENTS_PER_SECOND"]
        connection.budget = min(self._burst, connection.budget + (now - connection.refilled_at) * rate)
        connection.refilled_at = now
        if connection.budget < 1:
            raise RateLimited("Too many events.", retry_after=1)
        connection.budget -= 1

    def _join(self, connection: Connection, body: RoomBody) -> dict[str, Any]:
        _refuse_foreign(body.room, connection.principal)
        if len(connection.rooms) >= _ROOMS_PER_SOCKET and body.room not in connection.rooms:
            raise Conflict("This socket is in too many rooms.", code="too-many-rooms", limit=_ROOMS_PER_SOCKET)
        limit = self.app_manager.config["ROOM_MAX_MEMBERS"]
        size = self.app_manager.redis_manager.join(f"room:{body.room}", connection.sid, limit, _LEASE_SECONDS)
        if size is None:
            raise Conflict("The room is full.", code="room-full", limit=limit)
        join_room(body.room)
        connection.rooms.add(body.room)
        emit("room_joined", {"room": body.room, "size": size})
        game_log("room joined", room=body.room, user_id=connection.principal.user_id)
        return {"room": body.room, "size": size}

    def _leave(self, connection: Connection, body: RoomBody) -> dict[str, Any]:
        _refuse_foreign(body.room, connection.principal)
        self.app_manager.redis_manager.remove_member(f"room:{body.room}", connection.sid)
        leave_room(body.room)
        connection.rooms.discard(body.room)
        emit("room_left", {"room": body.room})
        return {"room": body.room}

    def _send(self, connection: Connection, body: MessageBody) -> dict[str, Any]:
        if body.room not in connection.rooms:
            raise Forbidden("Join the room first.")
        message = {"room": body.room, **_message(connection, body.data)}
        emit("message", message, to=body.room)
        return {"at": message["at"]}

    def _direct(self, connection: Connection, body: DirectBody) -> dict[str, Any]:
        message = {"room": None, **_message(connection, body.data)}
        self.emit_to_user(body.user_id, "message", message)
        return {"at": message["at"]}

    def _broadcast(self, connection: Connection, body: BroadcastBody) -> dict[str, Any]:
        message = {"room": None, **_message(connection, body.data)}
        self.socketio.emit("message", message)
        return {"at": message["at"]}


def _identifiers(principal: Principal) -> list[Identifier]:
    return [Identifier("ip", request.remote_addr or "unknown"), Identifier("user", principal.user_id)]


def _message(connection: Connection, data: Any) -> dict[str, Any]:
    return {"from": connection.principal.user_id, "data": data, "at": rfc3339(utc_now())}


def _payload(event: Event, args: tuple[Any, ...]) -> BaseModel:
    """The event's one argument as its model. What JSON has no word for would break every client that it is sent on to."""
    given = args[0] if len(args) == 1 else None
    try:
        json.dumps(given, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise MalformedRequest("The payload is not valid JSON.") from error
    try:
        return event.body.model_validate(given)
    except ValidationError as error:
        raise from_validation(error) from None


def _refuse_foreign(room: str, principal: Principal) -> None:
    """Rooms of users and sessions belong to them; the server puts their sockets there by itself."""
    if room.startswith((_USER_ROOM, _SESSION_ROOM)):
        raise Forbidden("This room is not open to join or leave.")


def _origin_check(origins: tuple[str, ...]) -> Callable[[str | None, dict[str, Any]], bool]:
    """Browsers may connect from `origins` and, as with every other request, from where they got our own pages."""

    def is_allowed(origin: str | None, environ: dict[str, Any]) -> bool:
        return origin in origins or origin == f"{environ['wsgi.url_scheme']}://{environ.get('HTTP_HOST')}"

    return is_allowed


def _bound_messages(max_bytes: int) -> None:
    """The gevent and threading drivers assemble a message of any size first; make theirs refuse what is too large.

    And their close waits for the client's: of one that vanished, they would keep the greenlets for ever.
    """
    original = _websocket_wsgi.SimpleWebSocketWSGI.__init__
    close = _websocket_wsgi.SimpleWebSocketWSGI.close
    if getattr(original, "bounded", False):
        return

    def bounded(self: Any, handler: Any, server: Any, **options: Any) -> None:
        original(self, handler, server, **{"max_message_size": max_bytes, **options})

    def hang_up(self: Any) -> None:
        with suppress(OSError):
            close(self)
            self.ws.sock.shutdown(socket.SHUT_RDWR)

    bounded.bounded = True  # type: ignore[attr-defined]
    _websocket_wsgi.SimpleWebSocketWSGI.__init__ = bounded
    _websocket_wsgi.SimpleWebSocketWSGI.close = hang_up


def _bound_eventlet_messages() -> None:
    """Eventlet's driver bounds each frame, but not how many make up a message; and it speaks a protocol that has no lengths."""
    from eventlet import websocket

    message = websocket.RFC6455WebSocket.Message
    original = message.push
    if getattr(original, "bounded", False):
        return

    def bounded(self: Any, data: bytes, final: bool = False) -> None:
        self.size = getattr(self, "size", 0) + len(data)
        if self.size > self.max_frame_length:
            raise websocket.FailedConnectionError(1009, "Message is too big")
        original(self, data, final)

    def refuse(self: Any, environ: dict[str, Any]) -> None:
        raise websocket.BadRequest

    bounded.bounded = True  # type: ignore[attr-defined]
    message.push = bounded
    websocket.WebSocketWSGI._handle_legacy_request = refuse
