"""Files that a plugin serves as they are: read once, and named by what is in them, so that browsers keep them for good."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from flask import request

from core.managers.base import BootError
from core.web.routing import PUBLIC, Answer, Call, Route
from tools.error_handling.errors import NotFound

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
    ".woff2": "font/woff2",
}
_FOR_GOOD = "public, max-age=31536000, immutable"
# Asked for under another version, as by a page of a worker that runs another release: right now, and not to be kept.
_ASK_AGAIN = "no-cache"


@dataclass(frozen=True)
class _File:
    content: bytes
    content_type: str
    etag: str


class Assets:
    """The files of one flat folder. BootError for one of a kind that is not served.

    All share one version, which stands in their address before the name: so JavaScript modules import each other by relative paths,
    and never one of another release.
    """

    def __init__(self, folder: Path, plugin: str) -> None:
        self._files = {path.name: _read(path) for path in sorted(folder.iterdir())}
        etags = "".join(name + file.etag for name, file in self._files.items())
        self._version = hashlib.sha256(etags.encode()).hexdigest()[:16]
        self._prefix = f"/plugins/{plugin}/assets"
        types = tuple(sorted({file.content_type.split(";")[0] for file in self._files.values()}))
        path = f"{self._prefix}/{{version}}/{{name}}"
        self.route = Route("GET", path, self._serve, PUBLIC, f"A file of the pages of {plugin}", answers={200: types, 304: None})

    def url(self, name: str) -> str:
        """The address of a file, for templates; KeyError for one that is not there."""
        if name not in self._files:
            raise KeyError(name)
        return f"{self._prefix}/{self._version}/{name}"

    def _serve(self, call: Call) -> Answer:
        file = self._files.get(call.params["name"])
        if file is None:
            raise NotFound("There is no such file.")
        headers = {"Cache-Control": _FOR_GOOD if call.params["version"] == self._version else _ASK_AGAIN, "ETag": f'"{file.etag}"'}
        if request.if_none_match.contains_weak(file.etag):
            return Answer(status=304, headers=headers)
        return Answer(headers=headers, content=file.content, content_type=file.content_type)


def _read(path: Path) -> _File:
    if path.suffix not in _TYPES:
        raise BootError(f"asset {path.name}: is none of {', '.join(_TYPES)}")
    content = path.read_bytes()
    return _File(content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:32])
