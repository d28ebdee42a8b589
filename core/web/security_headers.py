"""The headers that every answer carries, added below Flask, where they cost a list and not a header object each."""

from __future__ import annotations

from typing import Any

_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Content-Security-Policy", "default-src 'none'; base-uri 'none'; frame-ancestors 'none'"),
)
_OVER_TLS = (*_HEADERS, ("Strict-Transport-Security", "max-age=31536000; includeSubDomains"))


class SecurityHeaders:
    """WSGI middleware; a header that the application has set itself is left alone."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        wanted = _OVER_TLS if environ["wsgi.url_scheme"] == "https" else _HEADERS

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            present = {name.title() for name, _ in headers}
            return start_response(status, headers + [header for header in wanted if header[0].title() not in present], exc_info)

        return self._application(environ, start)
