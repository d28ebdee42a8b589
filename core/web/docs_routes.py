"""The documentation: /openapi.json, and /docs, a page to read and try it whose files all come from here."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flask import request
from pydantic import BaseModel

from core.web.openapi import JSON, build_document
from core.web.routing import PUBLIC, Answer, Call, Route
from core.web.socket_events import Event
from tools.error_handling.errors import NotFound

_STATIC = Path(__file__).parent / "static"
_JAVASCRIPT, _CSS, _HTML = "text/javascript; charset=utf-8", "text/css; charset=utf-8", "text/html; charset=utf-8"
_ASSETS = {
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", _JAVASCRIPT),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", _CSS),
    "docs.js": ("docs.js", _JAVASCRIPT),
}
# Its icons are data: URLs.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_WITHOUT_CHANGE = "public, max-age=3600"
_ASK_AGAIN = "public, no-cache"


@dataclass(frozen=True)
class _File:
    content: bytes
    content_type: str
    compressed: bytes
    etag: str

    @classmethod
    def of(cls, content: bytes, content_type: str) -> _File:
        return cls(content, content_type, gzip.compress(content, 6, mtime=0), hashlib.sha256(content).hexdigest()[:32])


class DocumentationRoutes:
    """`routes` describe `others`, themselves, and what clients (`events`) and we (`sent`) say over Socket.IO; made once."""

    def __init__(self, others: Iterable[Route], events: Iterable[Event], sent: Mapping[str, type[BaseModel]]) -> None:
        page = {200: "text/html", 304: None}
        asset = {200: ("text/javascript", "text/css"), 304: None}
        self.routes = [
            Route("GET", "/openapi.json", self._serve_document, PUBLIC, "This document", answers={200: JSON, 304: None}),
            Route("GET", "/docs", self._serve_page, PUBLIC, "This document, to read and to try", html=True, answers=page),
            Route("GET", "/docs/{asset}", self._serve_asset, PUBLIC, "What that page is made of", answers=asset),
        ]
        document = build_document([*others, *self.routes], events, sent)
        self._document = _File.of(json.dumps(document, separators=(",", ":")).encode(), JSON)

    def _serve_document(self, call: Call) -> Answer:
        return _served(self._document, _ASK_AGAIN)

    def _serve_page(self, call: Call) -> Answer:
        answer = _served(_static("docs.html", _HTML), _ASK_AGAIN)
        answer.headers["Content-Security-Policy"] = _POLICY
        return answer

    def _serve_asset(self, call: Call) -> Answer:
        name = call.params["asset"]
        if name not in _ASSETS:
            raise NotFound("There is no such file.")
        return _served(_static(*_ASSETS[name]), _WITHOUT_CHANGE)


@cache
def _static(name: str, content_type: str) -> _File:
    """Read when it is first asked for: most workers never serve the page."""
    return _File.of((_STATIC / name).read_bytes(), content_type)


def _served(file: _File, cache_control: str) -> Answer:
    """The file, compressed for who takes that; 304 for who has it."""
    headers = {"ETag": f'W/"{file.etag}"', "Cache-Control": cache_control, "Vary": "Accept-Encoding"}
    if request.if_none_match.contains_weak(file.etag):
        return Answer(status=304, headers=headers)
    if not request.accept_encodings.quality("gzip"):
        return Answer(content=file.content, content_type=file.content_type, headers=headers)
    return Answer(content=file.compressed, content_type=file.content_type, headers={**headers, "Content-Encoding": "gzip"})
