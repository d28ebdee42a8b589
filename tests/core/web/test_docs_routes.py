"""The documentation over HTTP: served once built, compressed, cached, and with nothing from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from core.managers.app_manager import AppManager
from core.web import docs_routes
from core.web.docs_routes import DocumentationRoutes
from core.web.routing import PUBLIC, Answer, Route

STATIC = Path(docs_routes.__file__).parent / "static"


@pytest.fixture(scope="module")
def client(application: AppManager) -> FlaskClient:
    assert application.app is not None
    return application.app.test_client()


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/docs/docs.js", "/docs/swagger-ui.css", "/docs/swagger-ui-bundle.js"])
def test_what_a_client_has_it_does_not_get_again(client: FlaskClient, path: str) -> None:
    first = client.get(path, headers={"Accept-Encoding": "gzip"})
    plain = client.get(path)
    assert (first.status_code, plain.status_code) == (200, 200)
    assert first.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert gzip.decompress(first.data) == plain.data
    assert len(first.data) < len(plain.data)
    assert first.headers["Cache-Control"].startswith("public")
    assert first.headers["Vary"] == "Accept-Encoding"
    again = client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_document_with_other_routes_has_another_etag(application: AppManager) -> None:
    assert application.app is not None

    def etag(*routes: Route) -> str:
        with application.app.test_request_context("/openapi.json"):  # type: ignore[union-attr]
            return DocumentationRoutes(routes, (), {}).routes[0].handler(None).headers["ETag"]  # type: ignore[arg-type]

    one = Route("GET", "/one", lambda call: Answer(), PUBLIC, "One")
    assert etag() != etag(one)
    assert etag(one) == etag(one)


def test_the_page_brings_everything_itself_and_may_load_nothing_else(client: FlaskClient) -> None:
    page = client.get("/docs")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    html = page.get_data(as_text=True)
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=|style=", html)
    links = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert len(links) >= 3
    for link in (link for link in links if not link.startswith("data:")):
        assert client.get(f"/{link}").status_code == 200, link


def test_there_are_no_other_files(client: FlaskClient) -> None:
    for name in ("SHA256SUMS", "docs.html", "..%2Fdocs_routes.py", "swagger-ui", "%00"):
        answer = client.get(f"/docs/{name}")
        assert (answer.status_code, json.loads(answer.data)["code"]) == (404, "not-found")


def test_the_files_of_the_library_are_the_ones_that_were_published() -> None:
    """SHA256SUMS was made from the package, whose own hash stands in the README beside it."""
    lines = (STATIC / "swagger-ui" / "SHA256SUMS").read_text().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    assert set(sums) == {path.name for path in (STATIC / "swagger-ui").iterdir()} - {"SHA256SUMS", "README.md"}
    for name, digest in sums.items():
        assert hashlib.sha256((STATIC / "swagger-ui" / name).read_bytes()).hexdigest() == digest, name
