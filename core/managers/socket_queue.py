"""The message queue of Socket.IO on Redis: what one worker says, the sockets of all workers hear."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import redis
from redis.exceptions import RedisError
from socketio.manager import Manager
from socketio.pubsub_manager import PubSubManager

from core import metrics
from tools.error_handling.errors import Unavailable
from tools.logger.custom_logger import custom_log, log_exception

if TYPE_CHECKING:
    from core.managers.redis_manager import RedisManager

_NAMESPACE = "/"
_CHANNEL = "credit-system-sockets"
_LISTEN_SECONDS = 1.0
# A link that says nothing for so long is asked, and given up when it stays silent for as long again.
_SILENCE_SECONDS = 3.0
_RETRY_SECONDS = 0.5
Command = Callable[[dict[str, Any]], None]


class SocketQueue(PubSubManager):
    """Publishes before anybody hears it: while Redis is away an emit raises Unavailable, and nobody has heard half of it.

    The library's own retries silently, for up to a minute, and looks through all rooms whenever a socket leaves.
    """

    name = "redis"

    def __init__(self, redis_manager: RedisManager, url: str) -> None:
        super().__init__(channel=_CHANNEL)
        self._redis = redis_manager
        self._url = url
        self._rooms_of: dict[str, set[str | None]] = {}
        self._stop = threading.Event()
        self._listener: threading.Thread | None = None
        self._lost: Callable[[], None] = lambda: None
        self._commands: dict[str, Command] = {
            "emit": self._handle_emit,
            "emits": self._handle_emits,
            "disconnect": self._handle_disconnect,
            "enter_room": self._handle_enter_room,
            "leave_room": self._handle_leave_room,
            "close_room": self._handle_close_room,
            # What a worker that stops says to wake its own listener.
            "stop": lambda message: None,
        }
        self.is_listening = False

    # Life

    def start(self, commands: Mapping[str, Command], lost: Callable[[], None]) -> None:
        """Begin to listen. `commands` by name are carried out where others `send` them; `lost` after messages may have been missed."""
        self._commands.update(commands)
        self._lost = lost
        self._listener = threading.Thread(target=self._listen_on, name="socket-queue", daemon=True)
        self._listener.start()

    def stop(self) -> None:
        """End the listening. Safe to call twice."""
        self._stop.set()
        listener, self._listener = self._listener, None
        if listener is not None:
            with suppress(Unavailable):
                # It need not wait any longer for somebody to say something.
                self._publish({"method": "stop"})
            listener.join(2 * _LISTEN_SECONDS)

    def initialize(self) -> None:
        """The library's would start its own listener at the first connection."""

    # Saying

    def emit(self, event: str, data: Any, *_: Any, room: Any = None, skip_sid: Any = None, **__: Any) -> None:
        """Send to a room, several, or everybody, on all workers. Raises Unavailable."""
        message = {"method": "emit", "event": event, "data": [data], "namespace": _NAMESPACE, "room": room, "skip_sid": skip_sid}
        self._publish(message)
        self._handle_emit(message)

    def emit_each(self, emits: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
        """Send each `(room, event, data)`, all in one round trip. Raises Unavailable."""
        if not (listed := [list(each) for each in emits]):
            return
        message = {"method": "emits", "emits": listed}
        self._publish(message)
        self._handle_emits(message)

    def tell(self, room: str, event: str, data: dict[str, Any]) -> None:
        """Send to the sockets of this worker only: a room, or the id of a socket."""
        Manager.emit(self, event, data, namespace=_NAMESPACE, room=room)

    def send(self, command: str, **data: Any) -> None:
        """Have `command` carried out by all workers, this one too. Raises Unavailable."""
        message = {"method": command, **data}
        self._publish(message)
        self._commands[command](message)

    def has(self, room: str) -> bool:
        """Whether a socket of this worker is in `room`."""
        return room in self.rooms.get(_NAMESPACE, {})

    def _publish(self, data: dict[str, Any]) -> None:
        self._redis.publish(_CHANNEL, json.dumps({**data, "host_id": self.host_id}, separators=(",", ":")))

    # Hearing

    def _handle_emits(self, message: dict[str, Any]) -> None:
        for room, event, data in message["emits"]:
            self.tell(room, event, data)

    def _listen_on(self) -> None:
        first = True
        while not self._stop.is_set():
            try:
                self._listen_once(first)
            except (RedisError, OSError) as error:
                self._note(listening=False, error=type(error).__name__)
                self._stop.wait(_RETRY_SECONDS)
            except Exception as error:  # noqa: BLE001  without this thread the workers hear nothing of each other any more
                log_exception("the socket queue stumbled", error)
                self._stop.wait(_RETRY_SECONDS)
            first = False
        self._note(listening=False)

    def _listen_once(self, first: bool) -> None:
        """Subscribe, and hear what comes until the link breaks."""
        # Nobody waits for this link: a message that arrives in pieces may take its time.
        options = {**self._redis.connection_options(), "max_connections": 2, "socket_timeout": _SILENCE_SECONDS}
        client = redis.Redis.from_url(self._url, **options)
        try:
            with client.pubsub() as link:
                link.subscribe(_CHANNEL)
                heard = asked = time.monotonic()
                while not self._stop.is_set():
                    message = link.get_message(timeout=_LISTEN_SECONDS)
                    now = time.monotonic()
                    if message is not None:
                        heard = asked = now
                        self._hear(message, first)
                    elif now - heard > 2 * _SILENCE_SECONDS:
                        raise redis.exceptions.TimeoutError("the link is silent")
                    elif now - asked > _SILENCE_SECONDS:
                        asked = now
                        link.ping()
        finally:
            with suppress(RedisError):
                client.close()
                client.connection_pool.disconnect()

    def _hear(self, message: dict[str, Any], first: bool) -> None:
        if message["type"] == "subscribe":
            self._note(listening=True)
            if not first:
                self._lost()
        elif message["type"] == "message":
            self._carry_out(message["data"])

    def _carry_out(self, raw: bytes) -> None:
        try:
            message = json.loads(raw)
            if message["host_id"] != self.host_id:
                self._commands[message["method"]](message)
        except Exception as error:  # noqa: BLE001  one message that cannot be read must not keep us from the next
            log_exception("a message from another worker could not be handled", error)

    def _note(self, *, listening: bool, **why: str) -> None:
        if listening != self.is_listening:
            custom_log("socket queue is there" if listening else "socket queue is away", level="INFO" if listening else "WARNING", **why)
        self.is_listening = listening
        metrics.SOCKET_QUEUE_UP.set(int(listening))

    # Rooms of this worker, with what the library looks for among all of them

    def basic_enter_room(self, sid: str, namespace: str, room: str | None, eio_sid: str | None = None) -> None:
        super().basic_enter_room(sid, namespace, room, eio_sid=eio_sid)
        self._rooms_of.setdefault(sid, set()).add(room)

    def basic_leave_room(self, sid: str, namespace: str, room: str | None) -> None:
        super().basic_leave_room(sid, namespace, room)
        self._rooms_of.get(sid, set()).discard(room)

    def basic_disconnect(self, sid: str, namespace: str, **_: Any) -> None:
        # The list of all sockets (None) goes last, as the others are found by it.
        for room in sorted(self._rooms_of.pop(sid, ()), key=lambda room: room is None):
            super().basic_leave_room(sid, namespace, room)
        self.callbacks.pop(sid, None)
        for pending in (self.pending_connect, self.pending_disconnect):
            if sid in pending.get(namespace, ()):
                pending[namespace].remove(sid)
