"""Real HTTP servers that behave, misbehave, and go away, for who calls them."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class _Handler(BaseHTTPRequestHandler):
    """/echo answers what it got, anything else that is not listed below an empty 200."""

    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)
        self.server.headers.append(dict(self.headers))
        misbehaviour = getattr(self, f"_{self.path.strip('/').split('/')[0]}", None)
        if self.server.broken:
            self._status("503")
        elif misbehaviour is not None:
            misbehaviour(self.path.partition("?")[0].rpartition("/")[2])
        elif self.path.partition("?")[0].endswith("/echo"):
            given = json.loads(body) if body else None
            self._say(200, json.dumps({"method": self.command, "data": given, "path": self.path}).encode())
        else:
            self._say(200, b"")

    do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = do_OPTIONS = do_GET  # noqa: N815

    def _say(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _status(self, last: str) -> None:
        self._say(int(last), b'{"reason": "so"}', Location="http://169.254.169.254/latest/meta-data", Retry_After="0")

    def _later(self, last: str) -> None:
        """503 until it was asked twice."""
        if self.server.seen.count(self.path) < 2:
            self._say(503, b"", Retry_After=last)
        else:
            self._say(200, b'"well"')

    def _slow(self, _: str) -> None:
        with self.server.counted():
            self.server.released.wait(5)
        self.close_connection = True

    def _drip(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        try:
            while not self.server.released.wait(0.02):
                self.wfile.write(b" ")
        except OSError:
            self.close_connection = True

    def _huge(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(1 << 40))
        self.end_headers()
        try:
            while not self.server.released.is_set():
                self.wfile.write(b" " * 65536)
        except OSError:
            self.close_connection = True

    def _closing(self, _: str) -> None:
        self.close_connection = True
        self.connection.close()

    def _half(self, _: str) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.wfile.write(b'{"half":')
        self.close_connection = True

    def _html(self, _: str) -> None:
        self._say(200, b"<html>")

    def _deep(self, _: str) -> None:
        self._say(200, b"[" * 200_000)

    def _cookie(self, _: str) -> None:
        self._say(200, b"", Set_Cookie="session=1; Path=/")

    def log_message(self, *_: Any) -> None:
        """Nothing on the console."""


class HttpServer(ThreadingHTTPServer):
    """`seen`: the paths that were asked for; `broken`: every answer is 503."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scheme = "http" if tls is None else "https"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)
        self.seen: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.broken = False
        self.waiting = 0
        self.released = threading.Event()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.server_port}"

    @contextmanager
    def counted(self) -> Iterator[None]:
        self.waiting += 1
        yield
        self.waiting -= 1

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: Any) -> None:
        """A client that went away, or did not like our certificate."""
