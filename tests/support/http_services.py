"""Real HTTP servers that behave, misbehave, and go away, for who calls them."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Received:
    """One request, as it came."""

    path: str
    headers: dict[str, str]
    body: bytes


class _Handler(BaseHTTPRequestHandler):
    """/echo answers what it got, anything else that is not listed below an empty 200."""

    protocol_version = "HTTP/1.1"
    server: HttpServer

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)
        self.server.headers.append(dict(self.headers))
        self.server.received.append(Received(self.path, dict(self.headers), body))
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
        self.received: list[Received] = []
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


def certificate(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """A certificate for these names, signed by itself, and a server's context with it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([_san(name) for name in names]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return path, context


def _san(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
