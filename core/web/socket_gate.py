"""The door of Socket.IO: its requests go past Flask, so who opens a connection is counted here, and who cannot stay is told why."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import parse_qs

from core import context
from core.web.budget import Budget
from tools.error_handling.error_handler import ErrorHandler
from tools.error_handling.errors import AppError, MalformedRequest, PayloadTooLarge, RateLimited, RequestTimeout, Unavailable
from utils import deadline, green
from utils.ids import new_id

_PATH = "/socket.io/"
# Requests of one long-polling client.
_POLLS_PER_SECOND, _POLLS_AT_ONCE = 50.0, 100.0
_STICK = "Connect with transports: ['websocket'], or set up a proxy that keeps each client at one worker (PROXY_COUNT)."


class SocketGate:
    """WSGI middleware; `check(address)` raises for an address that may not open a connection now.

    `links`: the Engine.IO sockets of this worker, by sid. `polling`: whether all requests of a client reach one worker.
    """

    def __init__(
        self,
        application: Any,
        check: Callable[[str], None],
        errors: ErrorHandler,
        seconds: float,
        *,
        links: Mapping[str, Any],
        polling: bool,
        max_bytes: int,
        is_draining: Callable[[], bool],
    ) -> None:
        self._application = application
        self._check = check
        self._errors = errors
        self._seconds = seconds
        self._links = links
        self._polling = polling
        self._max_bytes = max_bytes
        self._is_draining = is_draining

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        if not environ["PATH_INFO"].startswith(_PATH):
            return self._application(environ, start_response)
        # Compression is not spoken here.
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        deadline.start(self._seconds)
        try:
            query = parse_qs(environ.get("QUERY_STRING", ""))
            if "sid" in query:
                self._pass(environ, query["sid"][0])
            else:
                self._open(environ, query.get("transport", ["polling"])[0])
        except AppError as error:
            return self._refuse(error, start_response)
        finally:
            deadline.clear()
        return self._application(environ, start_response)

    def _open(self, environ: dict[str, Any], transport: str) -> None:
        """Somebody new."""
        if self._is_draining():
            raise Unavailable("This worker is about to stop.", retry_after=1)
        self._check(environ.get("REMOTE_ADDR") or "unknown")
        if transport == "polling" and not self._polling and environ["REQUEST_METHOD"] == "GET":
            raise MalformedRequest(f"Long polling does not work with several workers and no proxy. {_STICK}", code="polling-unavailable")

    def _pass(self, environ: dict[str, Any], sid: str) -> None:
        """Somebody who was let in already, by us."""
        link = self._links.get(sid)
        if link is None:
            raise MalformedRequest(f"This worker does not know the session: it has ended, or is another's. {_STICK}", code="socket-unknown")
        if not link.session.setdefault("polls", Budget(_POLLS_PER_SECOND, _POLLS_AT_ONCE)).spend():
            raise RateLimited("Too many requests on one connection.", retry_after=1)
        if environ["REQUEST_METHOD"] == "POST":
            environ["wsgi.input"] = BytesIO(self._read(environ))

    def _read(self, environ: dict[str, Any]) -> bytes:
        """A body that is small, and there in time."""
        try:
            length = int(environ.get("CONTENT_LENGTH") or 0)
        except ValueError as error:
            raise MalformedRequest("Content-Length is no number.") from error
        if length > self._max_bytes:
            raise PayloadTooLarge("The body is too large.")
        try:
            with green.time_limit(self._seconds):
                body: bytes = environ["wsgi.input"].read(length)
        except green.TimeLimitReached as error:
            raise RequestTimeout("The body did not arrive in time.") from error
        return body

    def _refuse(self, error: AppError, start_response: Any) -> list[bytes]:
        problem = self._errors.handle(error, context.request_id.get() or new_id("ev"))
        body = json.dumps(problem.document).encode()
        headers = {**problem.headers, "Content-Type": "application/problem+json", "Content-Length": str(len(body))}
        start_response(f"{problem.status} {problem.document['title']}", list(headers.items()))
        return [body]
