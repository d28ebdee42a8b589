"""The WebSocket below Engine.IO: one for all async modes, that bounds what it takes in and what waits to go out.

The library's own assemble a message of any size, inflate it, read on while nobody handles what came, and keep for a reader
that reads nothing whatever it is sent. Compression is not offered: it costs 300 kB a connection, and hides such messages.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, ClassVar

from engineio.packet import MESSAGE
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, generate_accept_token

from core import metrics
from core.web.budget import Budget

_CHUNK = 16_384
# What a packet occupies besides its text; and how many are never too many.
_PACKET_BYTES = 200
_FEW = 8
# Packets of any kind, for each event that a socket may send; and how long one over that waits.
_PACKETS_PER_EVENT = 10
_OVER_SECONDS = 0.02
# After so many messages that had come already, the others get their turn.
_TURN = 16


class WebSocket:
    """The server's end of one connection, as Engine.IO wants it: called as a WSGI application, then wait, send, close.

    Messages go out at once where nothing waits and the kernel takes them: waking up the writer of each of a room's sockets
    costs several times what the sending does. What is left, the writer sends.
    """

    # The frame of what was sent last: to a whole room it is the same.
    _last: ClassVar[tuple[Any, bytes]] = (None, b"")

    def __init__(self, handler: Callable[[WebSocket], Any], transport: Transport) -> None:
        self._handler = handler
        self._transport = transport
        self._max_bytes: int = transport.engine.max_http_buffer_size
        self._frames = Connection(ConnectionType.SERVER)
        self._arrived: Iterator[Event] = iter(())
        self._count = 0
        self._budget = Budget(transport.packet_rate, 2 * transport.packet_rate)
        self._socket: Any = None
        # What never waits, where greenlets take turns: threads would write into each other's frames.
        self._at_once: Any = None
        self._writing = False
        # Engine.IO's socket, whose method the handler is.
        self._link = handler.__self__  # type: ignore[attr-defined]
        self._queue = self._link.queue
        self._queue.cut, self._queue.write = self.cut, self.write

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        key = environ.get("HTTP_SEC_WEBSOCKET_KEY")
        if environ.get("HTTP_SEC_WEBSOCKET_VERSION") != "13" or not key:
            start_response("426 Upgrade Required", [("Sec-WebSocket-Version", "13"), ("Content-Length", "0")])
            return []
        self._socket = _socket_of(environ)
        self._at_once = _unblocked(self._socket)
        self._socket.settimeout(self._transport.silence)
        self._socket.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + generate_accept_token(key.encode("latin-1"))
            + b"\r\n\r\n"
        )
        self._transport.open.add(self)
        try:
            self._handler(self)
        finally:
            self._transport.open.discard(self)
            self.close()
            self._queue.let_go()
        return _taken_over(environ)

    def wait(self) -> str | bytes | None:
        """The next message, or None when the connection has ended."""
        self._take_turns()
        parts: list[Any] = []
        size = 0
        while (event := self._next()) is not None:
            if isinstance(event, (TextMessage, BytesMessage)):
                size += len(event.data)
                if size > self._max_bytes:
                    self._say(CloseConnection(CloseReason.MESSAGE_TOO_BIG, "Message is too big"))
                    return None
                parts.append(event.data)
                if event.message_finished:
                    return parts[0] if len(parts) == 1 else _joined(parts)
            elif isinstance(event, Ping):
                self._say(event.response())
                self._transport.sleep(_OVER_SECONDS)
            elif isinstance(event, CloseConnection):
                self._say(event.response())
                return None
        return None

    def send(self, message: str | bytes) -> None:
        """Send one message, as the writer; OSError when the connection has ended."""
        frame = self._frame_of(message)
        self._writing = True
        try:
            self._socket.sendall(frame)
        finally:
            self._writing = False

    def write(self, packet: Any) -> Any:
        """What is left of a packet after as much was sent as can be at once: the packet, the end of its frame, or None.

        Pings are left whole: without them the writer would take the connection for dead.
        """
        if self._at_once is None or self._writing or not self._link.upgraded or packet.packet_type != MESSAGE:
            return packet
        try:
            frame = self._frame_of(packet.encode())
            sent = self._at_once.send(frame)
        except BlockingIOError:
            return packet
        except OSError:
            self.cut()
            return None
        return _Frame(frame[sent:]) if sent < len(frame) else None

    def _frame_of(self, message: str | bytes) -> bytes:
        given, frame = WebSocket._last
        if type(message) is _Frame:
            frame = message
        elif given is not message:
            try:
                frame = self._frames.send(TextMessage(message) if isinstance(message, str) else BytesMessage(message))
            except LocalProtocolError as error:
                raise OSError("the connection is being closed") from error
            WebSocket._last = message, frame
        return frame

    def close(self) -> None:
        """Say so, and hang up; for who writes, or when nobody does any more. Safe to call twice."""
        with suppress(OSError, LocalProtocolError):
            self._socket.sendall(self._frames.send(CloseConnection(CloseReason.GOING_AWAY)))
        self.cut()

    def cut(self) -> None:
        """Hang up: whoever reads or writes here ends."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _take_turns(self) -> None:
        """Reading what has come already waits for nobody: make it wait for the others, and for those who send too much."""
        self._count += 1
        if not self._budget.spend():
            self._transport.sleep(_OVER_SECONDS)
        elif self._count % _TURN == 0:
            self._transport.sleep(0)

    def _next(self) -> Event | None:
        while True:
            for event in self._arrived:
                return event
            try:
                data = self._socket.recv(_CHUNK)
                if not data:
                    return None
                self._frames.receive_data(data)
            except (OSError, LocalProtocolError):
                return None
            self._arrived = self._frames.events()

    def _say(self, event: Event) -> None:
        with suppress(LocalProtocolError):
            self._queue.put(_Frame(self._frames.send(event)))


class Transport:
    """What the WebSockets of a server have in common."""

    def __init__(self, engine: Any, packet_rate: float) -> None:
        self.engine = engine
        self.packet_rate = packet_rate
        self.sleep: Callable[[float], None] = engine.sleep
        # A client that answers no ping for so long is gone.
        self.silence: float = engine.ping_interval + engine.ping_timeout
        self.open: set[WebSocket] = set()

    def make(self, handler: Callable[[WebSocket], Any], _: Any) -> WebSocket:
        """As Engine.IO makes its own: by a handler and a server."""
        return WebSocket(handler, self)

    def cut(self) -> None:
        """Hang up on everybody who is left."""
        for each in list(self.open):
            each.cut()


def bound_transport(engine: Any, buffer_bytes: int, events_per_second: float) -> Transport:
    """Have the Engine.IO server `engine` use this WebSocket, and queues of at most `buffer_bytes` for each client."""
    transport = Transport(engine, _PACKETS_PER_EVENT * events_per_second)
    driver = dict(engine._async)
    engine._async = {**driver, "websocket": transport.make, "queue": lambda: _outgoing(driver["queue"], buffer_bytes)}
    return transport


def _outgoing(kind: type[Any], limit: int) -> Any:
    """A queue of the mode's `kind`; over its limit it takes nothing more, and cuts the connection that does not read it."""
    return _queue_class(kind)(limit)


_queue_classes: dict[type[Any], type[Any]] = {}


def _queue_class(kind: type[Any]) -> type[Any]:
    found = _queue_classes.get(kind)
    if found is None:
        found = _queue_classes[kind] = type("Outgoing", (_Bounded, kind), {})
    return found


class _Bounded:
    """A part of a queue: lets what can go out at once pass, and counts the bytes that wait."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._bytes = 0
        self._overflowed = False
        self.let_go()

    def let_go(self) -> None:
        """Know no connection (any more): what knows each other only goes away when the collector comes."""
        self.cut: Callable[[], None] = lambda: None
        self.write: Callable[[Any], Any] = lambda packet: packet

    def put(self, packet: Any, *more: Any, **options: Any) -> None:
        if packet is not None:
            if self._overflows():
                return
            if self.empty() and (packet := self.write(packet)) is None:  # type: ignore[attr-defined]
                return
        super().put(packet, *more, **options)  # type: ignore[misc]

    def _put(self, packet: Any) -> None:
        self._bytes += _size_of(packet)
        super()._put(packet)  # type: ignore[misc]

    def _get(self) -> Any:
        packet = super()._get()  # type: ignore[misc]
        self._bytes -= _size_of(packet)
        return packet

    def _overflows(self) -> bool:
        if not self._overflowed and self._bytes >= self._limit and self.qsize() > _FEW:  # type: ignore[attr-defined]
            self._overflowed = True
            metrics.SOCKET_DROPPED.labels("slow-reader").inc()
            self.cut()
        return self._overflowed


def _size_of(packet: Any) -> int:
    data = None if packet is None else packet.data
    return _PACKET_BYTES + (len(data) if isinstance(data, (str, bytes)) else 0)


class _Frame(bytes):
    """A control frame among the packets, or the end of one: what is queued goes out in its order, whole."""

    packet_type = None

    @property
    def data(self) -> bytes:
        return self

    def encode(self) -> _Frame:
        return self


def _joined(parts: list[Any]) -> str | bytes:
    return "".join(parts) if isinstance(parts[0], str) else b"".join(parts)


def _socket_of(environ: dict[str, Any]) -> Any:
    """The connection, which every server keeps elsewhere."""
    for name in ("gunicorn.socket", "werkzeug.socket"):
        if name in environ:
            return environ[name]
    if "eventlet.input" in environ:
        return environ["eventlet.input"].get_socket()
    reader = environ["wsgi.input"].rfile
    return reader.raw._sock


def _unblocked(connection: Any) -> Any:
    """What is below a green connection, and never waits; None of one that threads use."""
    return getattr(connection, "fd", getattr(connection, "_sock", None))


def _taken_over(environ: dict[str, Any]) -> list[bytes]:
    """Tell the server that nothing is to be written any more, as each wants to hear it."""
    if "gunicorn.socket" in environ:
        raise StopIteration
    if "werkzeug.socket" in environ:
        raise ConnectionError
    if "eventlet.input" in environ:
        from eventlet import wsgi

        wsgi.WSGI_LOCAL.already_handled = True
    return []
