"""What is sent to an external service and what comes back, checked on both ways."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from core import context

_SAFE = ("GET", "HEAD", "OPTIONS")
_METHODS = (*_SAFE, "POST", "PUT", "PATCH", "DELETE")
_REDIRECT, _SERVER_ERROR = 300, 500
_TOO_EARLY, _TOO_MANY = 425, 429
# One slash and no second one (that would name a host), then visible ASCII without what ends or rewrites a path.
_PATH = re.compile(r"/(?![/\\])[\x21\x22\x24-\x5b\x5d-\x7e]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\x20-\x7e]*")
_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class ServiceRefused(Exception):
    """A service answered 3xx or 4xx: it is well, and does not want what it was asked for; `answer` is its JSON, or None."""

    def __init__(self, service: str, status: int, answer: Any = None) -> None:
        super().__init__(f"{service} answered {status}")
        self.status = status
        self.answer = answer


class BadAnswer(Exception):
    """What came back is an error of the service, too large, or no JSON."""


@dataclass(frozen=True)
class ServiceRequest:
    """One call: what is sent, and whether sending it twice does no harm."""

    method: str
    target: str
    body: bytes | None
    headers: Mapping[str, str]
    repeatable: bool

    @classmethod
    def of(cls, method: str, path: str, data: Any = None, idempotency_key: str | None = None) -> ServiceRequest:
        """Check and encode a call; raises ValueError for a method, path, key or data that cannot be sent."""
        method = method.upper()
        if method not in _METHODS:
            raise ValueError(f"method must be one of {', '.join(_METHODS)}")
        if not _PATH.fullmatch(path) or any(unquote(part) in (".", "..") for part in re.split(r"/|%2[fF]", path.partition("?")[0])):
            raise ValueError("path must start with one / and be a plain, escaped path")
        headers = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "credit-system"}
        if context.request_id.get():
            headers["X-Request-ID"] = context.request_id.get()
        if idempotency_key is not None:
            if not _KEY.fullmatch(idempotency_key):
                raise ValueError("idempotency_key must be 1 to 255 visible ASCII characters")
            headers["Idempotency-Key"] = idempotency_key
        body = None
        if data is not None:
            body = json.dumps(data, allow_nan=False).encode()
            headers["Content-Type"] = "application/json"
        return cls(method, path, body, headers, method in _SAFE or idempotency_key is not None)

    @property
    def kind(self) -> str:
        """For metrics: whether it may be sent again."""
        return "safe" if self.repeatable else "unsafe"


@dataclass(frozen=True)
class Reply:
    """A whole answer: its status, its body, and how long to wait before asking again (None: not said)."""

    status: int
    body: bytes
    retry_after: float | None

    @property
    def is_failure(self) -> bool:
        """Whether the service says that it is at fault."""
        return self.status >= _SERVER_ERROR

    @property
    def is_refusal(self) -> bool:
        """Whether the service is well and says no."""
        return _REDIRECT <= self.status < _SERVER_ERROR

    @property
    def may_pass(self) -> bool:
        """Whether the same call may well be answered otherwise a little later."""
        return self.is_failure or self.status in (_TOO_EARLY, _TOO_MANY)

    @cached_property
    def answer(self) -> Any:
        """The body's JSON, None without a body; raises BadAnswer for what is no JSON, unless it only explains a refusal."""
        try:
            return json.loads(self.body) if self.body else None
        except (ValueError, RecursionError) as error:
            if self.is_refusal:
                return None
            raise BadAnswer("no JSON") from error


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises ValueError for a header that could end its line, or is no ASCII; its value is never repeated."""
    for name, value in headers.items():
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise ValueError(f"headers: {name!r} cannot be sent")
