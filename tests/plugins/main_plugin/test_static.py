"""The page's own files: what others wrote is what they published, and nothing is fetched from elsewhere."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import requests

from tests.support.app_server import ROOT, AppServer

FOLDER = ROOT / "plugins" / "main_plugin" / "static"
LIBRARY = "socket.io.esm.min.js"
OURS = sorted(path for path in FOLDER.iterdir() if path.suffix in (".js", ".css") and path.name != LIBRARY)
# Markup from text, code from text, and code in markup.
UNSAFE = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|srcdoc|localStorage|setTimeout\(\s*[\"'`]"
)


def recorded(name: str) -> str:
    found = re.search(rf"^{name} +(\S+)$", (FOLDER / "VENDORED.txt").read_text(), re.MULTILINE)
    assert found is not None
    return found[1]


def test_the_socket_io_client_is_the_published_file_with_its_licence() -> None:
    content = (FOLDER / LIBRARY).read_bytes()
    assert hashlib.sha256(content).hexdigest() == recorded("sha256")
    assert f"Socket.IO v{recorded('version')}\n".encode() in content[:100]
    assert "MIT License" in (FOLDER / "socket.io.LICENSE.txt").read_text()


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_files_fetch_nothing_from_elsewhere_and_make_no_code_of_text(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"https?://", text) == []
    assert UNSAFE.findall(text) == []
    assert all(source.startswith("./") for source in re.findall(r"\bfrom \"([^\"]+)\"", text))


def test_the_page_links_only_to_files_that_are_served(server: AppServer) -> None:
    page = requests.get(server.url, headers={"Accept": "text/html"}, timeout=20)
    links = re.findall(r"(?:src|href)=\"(/plugins/[^\"]+)\"", page.text)
    assert len(links) >= 4
    for link in links:
        answer = requests.get(server.url + link, timeout=20)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["Cache-Control"]
        assert "Set-Cookie" not in answer.headers
        again = requests.get(server.url + link, headers={"If-None-Match": answer.headers["ETag"]}, timeout=20)
        assert (again.status_code, again.content) == (304, b"")


def test_the_policy_of_the_page_allows_nothing_but_our_own_files(server: AppServer) -> None:
    page = requests.get(server.url, headers={"Accept": "text/html"}, timeout=20)
    policy = dict(part.split(" ", 1) for part in page.headers["Content-Security-Policy"].split("; "))
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy.values()) == {"'none'", "'self'"}
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bstyle=|\bon\w+=", page.text)
