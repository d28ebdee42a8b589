"""What docs/security.md says and no other test shows: framing, methods, hosts, and where credentials may not be."""

from __future__ import annotations

import socket

import pytest
import requests
from flask import Flask

from core.web.flask_app import configure_flask_app
from tests.support.app_server import AppServer
from tests.support.client import Client, assert_problem

SMUGGLED = "0\r\n\r\nGET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    "lengths",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: +5\r\n",
    ],
    ids=["both", "two encodings", "another encoding", "two lengths", "a sign"],
)
def test_a_request_of_doubtful_length_is_refused_and_what_follows_is_no_request(server: AppServer, lengths: str) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as link:
        link.sendall(f"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{lengths}\r\n{SMUGGLED}".encode())
        answers = b"".join(iter(lambda: link.recv(65536), b""))
    assert answers.count(b"HTTP/1.1 ") == 1
    assert answers.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))


@pytest.mark.parametrize("method", ["TRACE", "CONNECT", "PROPFIND", "BREW"])
def test_methods_that_no_route_has_are_refused(server: AppServer, method: str) -> None:
    assert requests.request(method, f"{server.url}/wallets", timeout=10).status_code in (400, 405)


def test_credentials_count_in_their_headers_only(alice: Client) -> None:
    anonymous = Client(alice.url)
    for place in ({"params": {"access_token": alice.token}}, {"headers": {"Cookie": f"access_token={alice.token}"}}):
        assert_problem(anonymous.call("GET", "/auth/me", **place), 401, "unauthenticated")
    # A browser's cookie binds a token to it; alone it opens nothing, so no other site can ride on it.
    assert_problem(anonymous.call("POST", "/auth/logout", headers={"Cookie": "__Secure-fingerprint=anything"}), 401, "unauthenticated")


def test_only_the_hosts_that_are_listed_are_answered() -> None:
    app = Flask(__name__)
    configure_flask_app(app, {"MAX_BODY_BYTES": 1000, "TRUSTED_HOSTS": ("credits.example.com",), "CORS_ORIGINS": ()})
    app.add_url_rule("/", view_func=lambda: "here")
    answers = {
        host: app.test_client().get("/", base_url=f"http://{host}").status_code for host in ("credits.example.com", "evil.example.com")
    }
    assert answers == {"credits.example.com": 200, "evil.example.com": 400}
