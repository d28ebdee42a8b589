"""WebSocketManager: Socket.IO connections of signed-in users, their rooms and messages, over all workers."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any

from flask import Flask, Request
from flask_socketio import SocketIO
from socketio import Namespace
from socketio.exceptions import ConnectionRefusedError as Refused

from core import context, metrics
from core.contracts import IP, USER, USER_DIRECTORY, Identifier
from core.managers.base import Manager
from core.managers.socket_keeper import SocketKeeper
from core.managers.socket_presence import COMMAND as SHOW_PRESENCE
from core.managers.socket_presence import PresenceBoard
from core.managers.socket_queue import SocketQueue
from core.managers.socket_registry import SocketRegistry
from core.managers.socket_rooms import EVERYBODY, USER_ROOM, RoomEvents
from core.managers.socket_table import SocketTable
from core.web.fingerprints import client_fingerprint
from core.web.routing import Principal
from core.web.socket_events import Connection, Event
from core.web.socket_gate import SocketGate
from core.web.socket_transport import bound_transport
from tools.error_handling.errors import Forbidden, NotFound, RateLimited, Unauthenticated, Unavailable
from tools.logger.custom_logger import custom_log
from utils import deadline, green
from utils.ids import new_id

_END_SESSIONS = "end_sessions"
# Somebody who is refused all the time is read more slowly.
_REFUSED_SECONDS = 0.01
_RETRY_AFTER = 1
# Binary parts that a packet announces are kept until all of them are there.
_ATTACHMENTS = re.compile(r"[56](\d+)-")
_MOST_ATTACHMENTS = 8
# How long a client may take to read our goodbye.
_GOODBYE_SECONDS = 2.0


class WebSocketManager(Manager):
    """Socket.IO is a hint channel: whatever it loses, clients read again over REST."""

    name = "websocket"

    def initialize(self) -> bool:
        config = self.app_manager.config
        redis = self.app_manager.redis_manager
        self.mode = green.current_mode()
        self.socketio = SocketIO()
        self._queue = SocketQueue(redis, config["REDIS_URL"])
        self._registry = SocketRegistry(redis, new_id("w"), config["ROOM_MAX_MEMBERS"])
        self._board = PresenceBoard(self._registry, self._queue)
        self._table = SocketTable(self._queue, config["SOCKET_EVENTS_PER_SECOND"], config["SOCKET_USER_EVENTS_PER_SECOND"])
        self._keeper: SocketKeeper | None = None
        self._draining_since: float | None = None
        self._events: dict[str, Event] = {}
        for event in RoomEvents(self._registry, self._queue, self._board, config["ROOM_MAX_MEMBERS"]).events():
            self.register_event(event)
        self.app_manager.hooks_manager.register_hook("session_revoked", self._announce_ended)
        self.initialized = True
        return True

    # For modules and plugins

    def register_event(self, event: Event) -> None:
        """Handle `event` of every client; raises ValueError when its name is taken."""
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

    def emit_to_user(self, user_id: str, event: str, data: dict[str, Any]) -> None:
        """Send `event` to all sockets of a user, whichever worker holds them. Raises Unavailable."""
        self.emit_to_users([(user_id, event, data)])

    def emit_to_users(self, emits: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
        """Send each `(user_id, event, data)`, all in one round trip. Raises Unavailable."""
        addressed = [(f"{USER_ROOM}{user_id}", event, data) for user_id, event, data in emits]
        self._queue.emit_each(addressed)
        metrics.SOCKET_MESSAGES.labels("push").inc(len(addressed))

    def users_online(self, user_ids: Collection[str]) -> set[str]:
        """Those of `user_ids` that have a socket on any worker, in one round trip. Raises Unavailable.

        Of a worker that was killed this is true again after seconds.
        """
        return self._registry.users_online(user_ids)

    # Life

    def attach(self, app: Flask) -> None:
        """Put Socket.IO in front of `app` and start to look after its connections."""
        config = self.app_manager.config
        self.socketio.init_app(
            app,
            async_mode=self.mode,
            client_manager=self._queue,
            cors_allowed_origins=_origin_check(config["CORS_ORIGINS"]),
            max_http_buffer_size=config["SOCKET_MAX_BYTES"],
            async_handlers=False,
            always_connect=False,
            manage_session=False,
            cookie=None,
        )
        server = self.socketio.server
        server.register_namespace(_Door(self._trigger))
        server.eio.on("message", self._read)
        self._transport = bound_transport(server.eio, config["SOCKET_BUFFER_BYTES"], config["SOCKET_EVENTS_PER_SECOND"])
        app.wsgi_app = SocketGate(  # type: ignore[method-assign]
            app.wsgi_app,
            self._count_address,
            self.app_manager.error_handler,
            config["REQUEST_TIMEOUT"],
            links=server.eio.sockets,
            polling=config["WORKERS"] == 1 or config["PROXY_COUNT"] > 0,
            max_bytes=config["SOCKET_MAX_BYTES"],
            is_draining=lambda: self._draining_since is not None,
        )
        # What anonymous clients send wrong is theirs to know; these would log a traceback for each frame.
        for name in ("engineio.server", "socketio.server"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        active_sessions = self.app_manager.jwt_manager.active_sessions
        self._keeper = SocketKeeper(self._table, self._registry, self._board, server.eio, active_sessions)
        self._queue.start({_END_SESSIONS: self._end_sessions, SHOW_PRESENCE: self._board.show}, self._say_resync)
        self._keeper.start()

    def check(self) -> tuple[str, dict[str, Any]]:
        # Sockets stay, but what is said in a room does not reach the other workers.
        attached = self._keeper is not None
        away = self.app_manager.redis_manager.is_down or (attached and not self._queue.is_listening)
        figures = {"mode": self.mode, "connections": len(self._table), "rooms": self._table.room_count()}
        return "degraded" if away else "healthy", {**figures, "queue": "listening" if self._queue.is_listening else "away"}

    def drain(self) -> None:
        """Say goodbye to every socket of this worker; then close those that came meanwhile, or never signed in.

        No Socket.IO disconnect is sent: clients would take that for a wish of ours that they stay away.
        """
        is_first = self._draining_since is None
        if self._draining_since is None:
            self._draining_since = time.monotonic()
            self._queue.tell(EVERYBODY, "server_draining", {"reason": "shutdown", "retry_after": _RETRY_AFTER})
        for link in list(self.socketio.server.eio.sockets.values()):
            link.close(wait=False, abort=True)
        if is_first:
            self._retire()
        if time.monotonic() - self._draining_since > _GOODBYE_SECONDS:
            self._transport.cut()

    def dispose(self) -> None:
        if self.initialized and self._keeper is not None:
            self._keeper.stop()
            self._retire()
            self._queue.stop()
            self.socketio.server.shutdown()
            self._keeper = None
        self.initialized = False

    def _retire(self) -> None:
        """Nobody is here any more: say so in Redis, and to those who are left in the rooms."""
        try:
            self._board.changed(self._registry.retire())
            self._board.flush(at_once=True)
        except Unavailable:
            custom_log("sockets are left to their leases", level="WARNING")

    def _say_resync(self) -> None:
        """What the others said meanwhile was lost: clients should read it again over REST."""
        self._queue.tell(EVERYBODY, "resync", {"reason": "messages-lost"})

    # What comes from below

    def _read(self, link_id: str, data: Any) -> None:
        """One message of a link; those that are no Socket.IO packet end it."""
        server = self.socketio.server
        try:
            if isinstance(data, str) and (announced := _ATTACHMENTS.match(data)) and int(announced[1]) > _MOST_ATTACHMENTS:
                raise ValueError
            server._handle_eio_message(link_id, data)
        except Exception:  # noqa: BLE001  the library raises whatever a client's packet makes it stumble over
            connection = self._table.get(self._queue.sid_from_eio_sid(link_id, "/"))
            if connection is not None:
                self._table.end([connection], "malformed-packet")
            else:
                server.eio.disconnect(link_id)

    def _trigger(self, name: Any, sid: str, *args: Any) -> Any:
        """Clients may call their events as they like: what has really happened, the library knows."""
        if name == "connect" and self._queue.is_pre_connected(sid, "/"):
            return self._connect(sid, *args)
        if name == "disconnect" and not self._queue.is_connected(sid, "/"):
            return self._dismiss(sid)
        return self._receive(name, sid, *args)

    # Connections

    def _connect(self, sid: str, environ: dict[str, Any], auth: Any = None) -> None:
        """Let a socket in that brings a valid token. python-socketio calls again without `auth` after a TypeError."""
        self._begin()
        try:
            self._admit(sid, environ, auth)
        except Exception as error:
            self._dismiss(sid)
            problem = self.app_manager.error_handler.handle(error, context.request_id.get()).document
            metrics.SOCKET_EVENTS.labels("connect", problem["code"]).inc()
            # The first is an error's `message` in the client, the second its `data`.
            raise Refused(problem.get("detail", problem["title"]), problem) from error
        finally:
            deadline.clear()
        metrics.SOCKET_EVENTS.labels("connect", "ok").inc()

    def _count_address(self, address: str) -> None:
        self.app_manager.rate_limiter_manager.check_rate_limit([Identifier(IP, address)])

    def _admit(self, sid: str, environ: dict[str, Any], auth: Any) -> None:
        """The address was counted at the handshake; on one link it may try again, and is counted when it fails."""
        address = environ.get("REMOTE_ADDR") or "unknown"
        try:
            if not isinstance(auth, dict) or not isinstance(auth.get("token"), str):
                raise Unauthenticated("Connect with auth: {token}.", code="token-invalid")
            claims = self.app_manager.jwt_manager.read_token(auth["token"], fingerprint=client_fingerprint(Request(environ)))
            principal = Principal(claims["sub"], claims["role"], claims["sid"])
            connection = self._table.open(sid, principal, claims["exp"], address)
            self._count_user(principal)
        except Unauthenticated:
            self._count_address(address)
            raise
        connection.username = self._username_of(principal.user_id)
        self._registry.arrive(connection)
        if connection.ended is not None:
            raise Unauthenticated("The session has ended.", code=connection.ended)
        for room in (EVERYBODY, f"{USER_ROOM}{principal.user_id}"):
            self._queue.enter_room(sid, "/", room)

    def _count_user(self, principal: Principal) -> None:
        who = [Identifier(USER, principal.user_id)]
        active = self.app_manager.rate_limiter_manager.check_rate_limit(who, session_id=principal.session_id).session_active
        if active is None:
            active = self.app_manager.jwt_manager.is_session_active(principal.session_id)
        if not active:
            raise Unauthenticated("The session has ended.", code="session-revoked")

    def _username_of(self, user_id: str) -> str | None:
        """None where no plugin brings accounts."""
        try:
            directory = self.app_manager.services_manager.get_service(USER_DIRECTORY)
        except KeyError:
            return None
        username: str | None = directory.username_of(user_id)
        return username

    def _dismiss(self, sid: str) -> None:
        connection = self._table.close(sid)
        if connection is None:
            return
        connection.ended = connection.ended or "disconnected"
        if self._keeper is not None and self._draining_since is None:
            self._keeper.forget(connection)

    def _announce_ended(self, session_ids: list[str]) -> None:
        """Sessions were revoked, here or in another worker; each ends those of its sockets that belong to them."""
        self._queue.send(_END_SESSIONS, session_ids=list(session_ids))

    def _end_sessions(self, message: dict[str, Any]) -> None:
        self._table.end(self._table.of_sessions(message["session_ids"]), "session-revoked")

    # Events

    def _receive(self, name: Any, sid: str, *args: Any) -> dict[str, Any]:
        """Any event of a client; whatever goes wrong is a problem in its ack."""
        event = self._events.get(name) if isinstance(name, str) else None
        label = event.name if event is not None else "unknown"
        self._begin()
        connection = self._table.get(sid)
        try:
            if connection is None:
                raise Unauthenticated("This socket is not connected.")
            answer = self._run(connection, event, args)
        except Exception as error:  # noqa: BLE001  the error handler decides what a client may see of it
            problem = self.app_manager.error_handler.handle(error, context.request_id.get())
            metrics.SOCKET_EVENTS.labels(label, problem.document["code"]).inc()
            return {"ok": False, "error": problem.document}
        finally:
            deadline.clear()
        metrics.SOCKET_EVENTS.labels(label, "ok").inc()
        return {"ok": True, **answer}

    def _run(self, connection: Connection, event: Event | None, args: tuple[Any, ...]) -> dict[str, Any]:
        context.actor_id.set(connection.principal.user_id)
        self._spend(connection)
        if event is None:
            raise NotFound("There is no such event.", code="unknown-event")
        if connection.principal.role not in event.roles:
            raise Forbidden("Your role may not do this.")
        if event.limit is not None:
            who = [Identifier(IP, connection.address), Identifier(USER, connection.principal.user_id)]
            self.app_manager.rate_limiter_manager.check_rate_limit(who, event.limit)
        return event.handler(connection, event.payload(args))

    def _begin(self) -> None:
        deadline.start(self.app_manager.config["REQUEST_TIMEOUT"])
        context.request_id.set(new_id("ev"))

    def _spend(self, connection: Connection) -> None:
        if connection.budget.spend() and connection.user_budget.spend():
            return
        if connection.patience.spend():
            self.socketio.server.sleep(_REFUSED_SECONDS)
        else:
            metrics.SOCKET_DROPPED.labels("too-many-events").inc()
            self._table.end([connection], "too-many-events")
        raise RateLimited("Too many events.", retry_after=1)


class _Door(Namespace):
    """Hands everything on, whatever it is called."""

    def __init__(self, trigger: Callable[..., Any]) -> None:
        super().__init__("/")
        self._trigger = trigger

    def trigger_event(self, event: Any, *args: Any) -> Any:
        return self._trigger(event, *args)


def _origin_check(origins: tuple[str, ...]) -> Callable[[str | None, dict[str, Any]], bool]:
    """Browsers may connect from `origins` and, as with every other request, from where they got our own pages."""

    def is_allowed(origin: str | None, environ: dict[str, Any]) -> bool:
        return origin in origins or origin == f"{environ['wsgi.url_scheme']}://{environ.get('HTTP_HOST')}"

    return is_allowed
