"""Which client a request comes from, as tokens are bound to it."""

from __future__ import annotations

from flask import Request

from core.contracts import fingerprint_of

FINGERPRINT_COOKIE = "__Secure-fingerprint"


def client_fingerprint(request: Request) -> str:
    """The `fpt` of a request: of its header where the client sends one, else of the cookie that browsers get at log-in."""
    given = request.environ.get("HTTP_X_CLIENT_FINGERPRINT")
    if given is None and "HTTP_COOKIE" in request.environ:
        given = request.cookies.get(FINGERPRINT_COOKIE)
    return fingerprint_of(given)
