"""Stock Socket.IO clients, default options, through the HAProxy of the compose stack to four copies of the app; and what it keeps off."""

from __future__ import annotations

import datetime
import ipaddress
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
import socketio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from playwright.sync_api import Browser, Page

from tests.support.app_server import AppServer
from tests.support.browser import Visitor, chromium
from tests.support.client import Client, unique
from tests.support.front import COPIES, Front
from tests.support.polling import eventually
from tools.local_stack import LocalStack

PYTHON_CLIENTS = 250
# In two windows: a browser opens up to 255 WebSockets for each.
JAVASCRIPT_CLIENTS = (125, 125)
ARRIVAL_SECONDS = 2
CERTIFICATE = "front.pem"
OPEN = "/socket.io/?EIO=4&transport=polling"


@pytest.fixture(scope="module")
def apps(servers: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[AppServer]]:
    """Four copies with one worker each, as in the compose file."""
    folder = tmp_path_factory.mktemp("copies")
    copies = [AppServer(servers.environ, folder / f"app{number}", WORKERS=1, PROXY_COUNT=1) for number in range(1, COPIES + 1)]
    with ExitStack() as stack:
        for copy in copies:
            copy.spawn()
            stack.callback(copy.stop)
        eventually(lambda: all(copy.is_ready() for copy in copies), 120)
        yield copies


@pytest.fixture(scope="module")
def front(apps: list[AppServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with Front(apps, tmp_path_factory.mktemp("front"), ARRIVAL_TIME=f"{ARRIVAL_SECONDS}s") as running:
        yield running


@pytest.fixture(scope="module")
def admin(front: Front, secrets_dir: Path) -> Client:
    return Client.admin(front.url, secrets_dir)


@pytest.fixture(scope="module")
def secure(apps: list[AppServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """The same with TLS."""
    folder = tmp_path_factory.mktemp("secure")
    with Front(apps, folder, TLS_CERTIFICATE=own_certificate(folder / CERTIFICATE)) as running:
        yield running


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as running:
        yield running


def own_certificate(path: Path) -> Path:
    """A certificate for 127.0.0.1 and its key, as HAProxy wants them: in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(certificate.public_bytes(pem) + plain)
    return path


# Sockets


class PythonClients:
    """Stock clients with default options: polling first, then a WebSocket."""

    def __init__(self, url: str, token: str, room: str, count: int) -> None:
        self.clients = [socketio.Client() for _ in range(count)]
        self.heard: list[tuple[str, int]] = []
        self.ends: list[str] = []
        for number, client in enumerate(self.clients):
            client.on("disconnect", self.ends.append)
            for event in ("message", "wallet_updated"):
                client.on(event, lambda data, event=event, number=number: self.heard.append((event, number)))
        with ThreadPoolExecutor(25) as pool:
            self.acks = list(pool.map(lambda client: self._join(client, url, token, room), self.clients))

    @staticmethod
    def _join(client: socketio.Client, url: str, token: str, room: str) -> dict[str, Any]:
        client.connect(url, auth={"token": token}, wait_timeout=20)
        ack: dict[str, Any] = client.call("join_room", {"room": room}, timeout=20)
        return ack

    def who_heard(self, event: str) -> int:
        return len({number for heard, number in list(self.heard) if heard == event})

    def close(self) -> None:
        with ThreadPoolExecutor(25) as pool:
            list(pool.map(lambda client: client.shutdown(), self.clients))


# The library's own `io`, from the file that we serve; only `auth` is given, and that each has a connection of its own.
OPEN_JAVASCRIPT = """
async ([library, count, token, room]) => {
  const { io } = await import(library);
  window.sockets = Array.from({ length: count }, () => io({ auth: { token }, forceNew: true }));
  window.ends = [];
  window.heard = { message: new Set(), wallet_updated: new Set() };
  const joined = sockets.map((socket, number) => {
    socket.on("disconnect", (reason) => ends.push(reason));
    for (const event in heard) socket.on(event, () => heard[event].add(number));
    return new Promise((done, fail) => {
      socket.on("connect_error", fail);
      socket.on("connect", () => socket.emit("join_room", { room }, (ack) => (ack.ok ? done() : fail(new Error(JSON.stringify(ack))))));
    });
  });
  return (await Promise.allSettled(joined)).filter((each) => each.status === "fulfilled").length;
}
"""
UPGRADED = "sockets.filter((socket) => socket.io.engine.transport.name === 'websocket').length"


def open_page(browser: Browser, url: str) -> tuple[Page, str]:
    """A window on the page, and where that has its Socket.IO library from."""
    page = browser.new_context().new_page()
    page.goto(url)
    folder = page.locator("script[type=module]").get_attribute("src")
    assert folder is not None
    return page, folder.replace("page.js", "socket.io.esm.min.js")


def sockets_of(app: AppServer) -> float:
    text = requests.get(f"{app.url}/metrics", timeout=10).text
    return sum(float(value) for value in re.findall(r"^credit_socket_connections\S* (\S+)$", text, re.MULTILINE))


@pytest.mark.timeout(300)
def test_five_hundred_stock_clients_of_two_kinds_connect_meet_in_a_room_and_get_pushes(
    front: Front, apps: list[AppServer], browser: Browser, admin: Client
) -> None:
    alice, bob, room = Client.register(front.url), Client.register(front.url), unique("room")
    python = PythonClients(front.url, alice.token, room, PYTHON_CLIENTS)
    try:
        assert [ack for ack in python.acks if not ack["ok"]] == []
        windows = [open_page(browser, front.url) for _ in JAVASCRIPT_CLIENTS]
        for (page, library), count in zip(windows, JAVASCRIPT_CLIENTS, strict=True):
            assert page.evaluate(OPEN_JAVASCRIPT, [library, count, bob.token, room]) == count
        pages = [page for page, _ in windows]
        # All have become WebSockets, and every copy has some.
        assert {client.transport() for client in python.clients} == {"websocket"}
        eventually(lambda: [page.evaluate(UPGRADED) for page in pages] == list(JAVASCRIPT_CLIENTS), 20)
        # Each is the first try of a client that has stayed ever since.
        assert [python.ends, *(page.evaluate("ends") for page in pages)] == [[], [], []]
        shares = [sockets_of(app) for app in apps]
        assert sum(shares) == PYTHON_CLIENTS + sum(JAVASCRIPT_CLIENTS)
        assert min(shares) > 50, shares

        def all_heard(event: str) -> bool:
            wanted = [PYTHON_CLIENTS, *JAVASCRIPT_CLIENTS]
            return [python.who_heard(event), *(page.evaluate(f"heard.{event}.size") for page in pages)] == wanted

        python.clients[0].call("send_message", {"room": room, "data": "hello"}, timeout=20)
        eventually(lambda: all_heard("message"), 20)
        for client in (alice, bob):
            admin.grant(client.wallet()["id"], 5)
        eventually(lambda: all_heard("wallet_updated"), 20)
        for page in pages:
            page.context.close()
    finally:
        python.close()


def test_a_client_that_only_polls_and_keeps_no_cookie_comes_to_its_own_copy_each_time(front: Front) -> None:
    token = Client.register(front.url).token

    def poll(_: int) -> bool:
        sid = json.loads(requests.get(front.url + OPEN, timeout=10).text[1:])["sid"]
        own = f"{front.url}{OPEN}&sid={sid}"
        sent = requests.post(own, data="40" + json.dumps({"token": token}), timeout=10)
        return sent.status_code == 200 and requests.get(own, timeout=10).text.startswith('40{"sid"')

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(poll, range(40)))


def test_a_refused_handshake_is_told_at_once(front: Front) -> None:
    began = time.monotonic()
    refused = requests.get(f"{front.url}/socket.io/?EIO=3&transport=polling", timeout=10)
    assert refused.status_code == 400
    assert time.monotonic() - began < 1.5


# What does not get through


def test_what_clients_say_of_themselves_is_not_believed(front: Front, admin: Client) -> None:
    forged = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    answer = requests.get(f"{front.url}/health/live", headers=forged, timeout=10)
    assert "Strict-Transport-Security" not in answer.headers
    requests.get(f"{front.url}/", headers=forged, timeout=10)
    counted = admin.get("/rate-limits/ip/203.0.113.9")
    assert {policy["used"] for policy in counted["policies"]} == {0}


def test_a_head_and_a_body_that_dribble_in_are_cut_off_before_a_worker_hears_of_them(front: Front) -> None:
    starts = (
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ",
        b"POST /auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{",
    )
    for start in starts:
        with socket.create_connection(("127.0.0.1", front.port), timeout=3 * ARRIVAL_SECONDS) as connection:
            connection.sendall(start)
            assert connection.recv(4096).startswith(b"HTTP/1.1 408 ")


def test_a_body_that_is_too_large_is_refused(front: Front) -> None:
    answer = requests.post(f"{front.url}/auth/login", data=b"x" * 1_100_000, headers={"Content-Type": "application/json"}, timeout=10)
    assert answer.status_code == 413


# TLS


def test_over_tls_browsers_get_a_bound_session_and_a_live_wallet(secure: Front, browser: Browser) -> None:
    context = browser.new_context(ignore_https_errors=True)
    visitor = Visitor.arrive(context, secure.secure_url).register()
    cookie = next(each for each in context.cookies() if each["name"] == "__Secure-fingerprint")
    assert cookie["httpOnly"]
    assert cookie["secure"]
    visitor.page.reload()
    visitor.expect_live()
    visitor.join("lobby")
    context.close()


def test_with_tls_the_plain_port_only_points_there(secure: Front) -> None:
    answer = requests.get(f"{secure.url}/wallets/me", allow_redirects=False, timeout=10)
    assert answer.status_code == 308
    assert answer.headers["Location"].startswith("https://")
    over_tls = requests.get(f"{secure.secure_url}/health/live", verify=secure.log.with_name(CERTIFICATE), timeout=10)
    assert "max-age" in over_tls.headers["Strict-Transport-Security"]


def test_haproxy_tells_prometheus_of_itself(front: Front) -> None:
    assert 'haproxy_server_status{proxy="app",server="app1",state="UP"} 1' in requests.get(f"{front.stats_url}/metrics", timeout=10).text


# Draining: the last test, for it leaves one copy less.


def test_a_copy_that_leaves_costs_no_request(front: Front, apps: list[AppServer]) -> None:
    client = Client.register(front.url)
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(client.call("GET", "/wallets/me", timeout=10).status_code)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        apps[0].stop()
        eventually(lambda: front.states()["app1"].startswith("DOWN"), 10)
        missing = len(answers) + 20
        eventually(lambda: len(answers) > missing, 10)
    finally:
        stop.set()
        asking.join()
    assert set(answers) == {200}
