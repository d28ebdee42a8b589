"""Behind a TLS front: whom we believe, browsers' cookies, and clients that take their time."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest
import requests
import socketio

from tests.support.app_server import AppServer
from tests.support.client import PASSWORD, Client, assert_problem, unique
from tools.local_stack import LocalStack

BROWSER = {"X-Forwarded-Proto": "https", "Origin": "https://app.example.com", "Sec-Fetch-Site": "same-origin"}
COOKIE = "__Secure-fingerprint"
REQUEST_SECONDS = 2.0


@pytest.fixture(scope="module")
def proxied(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppServer]:
    settings = {"PROXY_COUNT": 1, "WORKERS": 1, "REQUEST_TIMEOUT": REQUEST_SECONDS, "CORS_ORIGINS": BROWSER["Origin"]}
    with AppServer(servers.environ, tmp_path_factory.mktemp("proxied"), **settings) as running:
        yield running


@pytest.fixture
def browser(proxied: AppServer) -> tuple[Client, str]:
    """A browser that has just registered, and the cookie that it got."""
    name = unique("user")
    client = Client(proxied.url)
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    answer = client.call("POST", "/auth/register", body, headers=BROWSER)
    assert answer.status_code == 201, answer.text
    client.token = answer.json()["access_token"]
    cookie = answer.headers["Set-Cookie"]
    assert all(part in cookie for part in ("Secure", "HttpOnly", "SameSite=Strict", "Max-Age=", "Path=/"))
    return client, cookie.split(";", 1)[0].removeprefix(f"{COOKIE}=")


def test_a_browsers_token_is_bound_to_its_cookie(browser: tuple[Client, str]) -> None:
    client, cookie = browser
    client.http.cookies.clear()
    assert client.call("GET", "/auth/me", headers={**BROWSER, "Cookie": f"{COOKIE}={cookie}"}).status_code == 200
    assert_problem(client.call("GET", "/auth/me", headers=BROWSER), 401, "token-invalid")


def test_a_browser_opens_a_socket_with_its_cookie(browser: tuple[Client, str]) -> None:
    client, cookie = browser
    # Our header in place of the one that this client would add by itself.
    sockets = socketio.SimpleClient(websocket_extra_options={"suppress_origin": True})
    headers = {**BROWSER, "Cookie": f"{COOKIE}={cookie}"}
    sockets.connect(client.url, auth={"token": client.token}, headers=headers, transports=["websocket"])
    try:
        assert sockets.call("join_room", {"room": "lobby"})["ok"]
    finally:
        sockets.disconnect()


def test_a_page_of_another_site_gets_a_token_that_works_without_a_cookie(proxied: AppServer) -> None:
    name = unique("user")
    body = {"username": name, "email": f"{name}@example.com", "password": PASSWORD}
    answer = requests.post(f"{proxied.url}/auth/register", json=body, headers={**BROWSER, "Sec-Fetch-Site": "cross-site"}, timeout=20)
    assert answer.status_code == 201
    assert "Set-Cookie" not in answer.headers
    assert Client(proxied.url, token=answer.json()["access_token"]).call("GET", "/auth/me").status_code == 200


def test_answers_over_tls_tell_browsers_to_stay_there(proxied: AppServer) -> None:
    secure = requests.get(f"{proxied.url}/health/live", headers=BROWSER, timeout=20)
    plain = requests.get(f"{proxied.url}/health/live", timeout=20)
    assert secure.headers["Strict-Transport-Security"] == "max-age=31536000; includeSubDomains"
    assert "Strict-Transport-Security" not in plain.headers


def test_a_client_cannot_move_itself_below_another_path(proxied: AppServer) -> None:
    answer = requests.get(f"{proxied.url}/inside/metrics", headers={"SCRIPT_NAME": "/inside", "Script-Name": "/inside"}, timeout=20)
    assert answer.status_code in (400, 404)


def test_a_body_that_does_not_arrive_is_given_up(proxied: AppServer) -> None:
    head = "POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    with socket.create_connection(("127.0.0.1", proxied.port), timeout=5 * REQUEST_SECONDS) as connection:
        began = time.monotonic()
        connection.sendall(head.encode())
        answer = ""
        # Head and body may come in pieces.
        while '"code"' not in answer and (piece := connection.recv(4096)):
            answer += piece.decode()
        waited = time.monotonic() - began
    assert answer.startswith("HTTP/1.1 408 ")
    assert '"code": "request-timeout"' in answer or '"code":"request-timeout"' in answer
    assert waited < 4 * REQUEST_SECONDS
