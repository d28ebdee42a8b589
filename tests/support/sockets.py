"""Socket.IO clients: a stock one that keeps what it receives, and a bare one that sends frames no honest client would."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest
import socketio

from tests.support.app_server import AppServer
from tests.support.contract import check_event
from tests.support.polling import eventually

CALL_SECONDS = 10


class SocketClient:
    """A stock python-socketio client on the websocket transport; `events` holds (name, data) in order of arrival."""

    def __init__(self) -> None:
        self.events: list[tuple[str, Any]] = []
        self.io = socketio.Client(reconnection=False, handle_sigint=False)
        self.io.on("*", lambda name, *data: self.events.append((name, data[0] if data else None)))
        for name in ("connect_error", "disconnect"):
            self.io.on(name, lambda *data, name=name: self.events.append((name, data[0] if data else None)))

    @classmethod
    def connected(cls, url: str, token: str) -> SocketClient:
        client = cls()
        client.connect(url, {"token": token})
        return client

    def connect(self, url: str, auth: Any, **options: Any) -> None:
        self.url = url
        self.io.connect(url, auth=auth, transports=["websocket"], wait_timeout=CALL_SECONDS, **options)

    def call(self, event: str, data: Any = None) -> dict[str, Any]:
        """Send an event; its ack."""
        ack: dict[str, Any] = self.io.call(event, data, timeout=CALL_SECONDS)
        return ack

    def join(self, room: str) -> None:
        ack = self.call("join_room", {"room": room})
        assert ack["ok"], ack

    def received(self, name: str) -> list[Any]:
        return [data for event, data in list(self.events) if event == name]

    def expect(self, name: str, matches: Callable[[Any], bool] = lambda data: True, seconds: float = CALL_SECONDS) -> Any:
        """The data of the first event of that name that `matches`, once it is there."""
        eventually(lambda: any(matches(data) for data in self.received(name)), seconds)
        found = next(data for data in self.received(name) if matches(data))
        if name not in ("connect_error", "disconnect"):
            check_event(self.url, name, found)
        return found

    def expect_end(self, seconds: float = CALL_SECONDS) -> list[str]:
        """The names of all events, once the connection has ended."""
        eventually(lambda: not self.io.connected, seconds)
        self.expect("disconnect", seconds=seconds)
        return [name for name, _ in self.events]

    def close(self) -> None:
        self.io.disconnect()

    @property
    def local_port(self) -> int:
        port: int = self.io.eio.ws.sock.getsockname()[1]
        return port


def refusal_of(url: str, auth: Any, **options: Any) -> Any:
    """The problem that a client is told whose connection is refused."""
    client = SocketClient()
    with pytest.raises(socketio.exceptions.ConnectionError):
        client.connect(url, auth, **options)
    return client.expect("connect_error")["data"]


def worker_of(server: AppServer, client: SocketClient) -> int:
    """The pid of the worker that holds the connection of `client`."""

    def holder() -> int:
        for worker in server.workers():
            peers = {link.raddr.port for link in worker.net_connections("tcp") if link.raddr and link.laddr.port == server.port}
            if client.local_port in peers:
                return worker.pid
        return 0

    return eventually(holder, CALL_SECONDS)


def on_two_workers(server: AppServer, connect: Callable[[], SocketClient]) -> tuple[SocketClient, SocketClient]:
    """Two clients that different workers hold."""
    first = connect()
    spare: list[SocketClient] = []
    for _ in range(40):
        other = connect()
        if worker_of(server, other) != worker_of(server, first):
            break
        spare.append(other)
    else:
        raise AssertionError("one worker takes all connections")
    for client in spare:
        client.close()
    return first, other


def worker_memory(server: AppServer) -> int:
    """Bytes that the largest worker occupies."""
    return max(psutil.Process(worker.pid).memory_info().rss for worker in server.workers())


class BareSocket:
    """A websocket handshake and frames, byte by byte."""

    def __init__(self, url: str, *headers: str, standard: bool = True, body: bytes = b"") -> None:
        parts = urlsplit(url)
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        self.link = socket.create_connection((parts.hostname, parts.port), timeout=CALL_SECONDS)
        lines = [
            "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1",
            f"Host: {parts.netloc}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
            "Sec-WebSocket-Extensions: permessage-deflate",
            *(("Sec-WebSocket-Version: 13",) if standard else ()),
            *headers,
        ]
        self.link.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        self.answer = self._read_head()

    def _read_head(self) -> str:
        head = b""
        while b"\r\n\r\n" not in head and (piece := self.link.recv(1)):
            head += piece
        return head.decode()

    def sign_in(self, token: str) -> None:
        """The Socket.IO handshake on top of the websocket's."""
        self.send(b"40" + json.dumps({"token": token}).encode())
        while not (answer := self.read()).startswith(b"4"):
            pass
        assert answer.startswith(b'40{"sid"'), answer

    def read(self) -> bytes:
        """The payload of one frame."""
        head, size = self._read_exactly(2)
        length = size if size < 126 else int.from_bytes(self._read_exactly(2 if size == 126 else 8), "big")
        payload = self._read_exactly(length)
        return self._inflater.decompress(payload + b"\x00\x00\xff\xff") if head & 0x40 else payload

    def _read_exactly(self, count: int) -> bytes:
        received = b""
        while len(received) < count:
            piece = self.link.recv(count - len(received))
            assert piece, "the connection has ended"
            received += piece
        return received

    def send(self, payload: bytes, *, first: bool = True, final: bool = True, compressed: bool = False) -> None:
        """Send one frame."""
        self.link.sendall(self.frame(payload, first=first, final=final, compressed=compressed))

    @staticmethod
    def frame(payload: bytes, *, first: bool = True, final: bool = True, compressed: bool = False) -> bytes:
        """One text frame; masked with zeros, as a client may."""
        head = (0x80 if final else 0) | (0x40 if compressed else 0) | (1 if first else 0)
        length = len(payload)
        size = struct.pack("!BH", 0xFE, length) if length < 65536 else struct.pack("!BQ", 0xFF, length)
        return struct.pack("!B", head) + (size if length > 125 else struct.pack("!B", 0x80 | length)) + bytes(4) + payload

    def close(self) -> None:
        self.link.close()


def deflated(text: bytes) -> bytes:
    """`text` as the payload of a compressed frame."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
