"""The door of Socket.IO: its requests go past Flask, so who opens a connection is counted here."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from core import context
from tools.error_handling.error_handler import ErrorHandler
from tools.error_handling.errors import AppError
from utils import deadline
from utils.ids import new_id

_PATH = "/socket.io/"


class SocketGate:
    """WSGI middleware; `check(address)` raises for an address that may not open a connection now."""

    def __init__(self, application: Any, check: Callable[[str], None], errors: ErrorHandler, seconds: float) -> None:
        self._application = application
        self._check = check
        self._errors = errors
        self._seconds = seconds

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        # What carries a sid belongs to a connection that was let in.
        if not environ["PATH_INFO"].startswith(_PATH) or "sid=" in environ.get("QUERY_STRING", ""):
            return self._application(environ, start_response)
        deadline.start(self._seconds)
        try:
            self._check(environ.get("REMOTE_ADDR") or "unknown")
        except AppError as error:
            return self._refuse(error, start_response)
        finally:
            deadline.clear()
        return self._application(environ, start_response)

    def _refuse(self, error: AppError, start_response: Any) -> list[bytes]:
        problem = self._errors.handle(error, context.request_id.get() or new_id("ev"))
        body = json.dumps(problem.document).encode()
        headers = {**problem.headers, "Content-Type": "application/problem+json", "Content-Length": str(len(body))}
        start_response(f"{problem.status} {problem.document['title']}", list(headers.items()))
        return [body]
