"""Services: singletons by key, and calls to a real HTTP server that behaves, misbehaves and goes away."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from core.managers.services_manager import HttpService, ServiceRefused, ServicesManager
from tools.error_handling.errors import Unavailable
from utils import deadline
from utils.breaker import CircuitBreaker


class Handler(BaseHTTPRequestHandler):
    """/echo answers what it got, /health and /empty answer, /slow takes a second, /status/N answers N, /html no JSON."""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.seen.append(self.path)  # type: ignore[attr-defined]
        status, text = 200, b""
        if self.path == "/slow":
            time.sleep(1)
        elif self.path.startswith("/status/"):
            status = int(self.path.rpartition("/")[2])
        elif self.path == "/html":
            text = b"<html>"
        elif self.path == "/echo":
            given = json.loads(body) if body else None
            text = json.dumps({"method": self.command, "data": given, "authorization": self.headers.get("Authorization")}).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", "/echo")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        """Nothing on the console."""


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def http() -> Iterator[HttpServer]:
    with HttpServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def services() -> Iterator[ServicesManager]:
    # It uses no other manager.
    manager = ServicesManager(None)  # type: ignore[arg-type]
    manager.initialize()
    yield manager
    manager.dispose()


class Singleton:
    def __init__(self, name: str = "", log: list[str] | None = None, fails: bool = False) -> None:
        self.name, self.log, self.fails, self.initialized = name, log if log is not None else [], fails, False

    def initialize(self) -> None:
        self.initialized = True

    def dispose(self) -> None:
        self.log.append(self.name)
        if self.fails:
            raise RuntimeError("cannot end")


# Singletons


def test_a_service_is_initialised_and_handed_out(services: ServicesManager) -> None:
    one, plain = Singleton(), object()
    services.register_service("one", one)
    services.register_service("plain", plain)
    assert one.initialized
    assert services.get_service("one") is one
    assert services.get_service("plain") is plain
    assert services.health_check("plain") == {"service": "plain", "status": "healthy"}


def test_a_key_is_taken_once_and_an_unknown_one_is_an_error(services: ServicesManager) -> None:
    services.register_service("one", object())
    with pytest.raises(ValueError, match="service 'one' is registered already"):
        services.register_service("one", object())
    for use in (services.get_service, services.service_health):
        with pytest.raises(KeyError):
            use("two")


def test_services_end_in_reverse_and_one_that_fails_does_not_keep_the_others(services: ServicesManager) -> None:
    log: list[str] = []
    for name in ("a", "b", "c"):
        services.register_service(name, Singleton(name, log, fails=name == "b"))
    services.dispose()
    services.dispose()
    assert log == ["c", "b", "a"]


# Calls


def test_a_call_sends_json_and_answers_json(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url + "/"))
    assert services.call("shop", "POST", "/echo", data={"amount": 5}) == {"method": "POST", "data": {"amount": 5}, "authorization": None}
    assert services.call("shop", "GET", "/echo")["data"] is None
    assert services.call("shop", "GET", "/empty") is None


@pytest.mark.parametrize("path", ["/status/500", "/status/503", "/html"])
def test_an_answer_that_is_an_error_or_no_json_is_unavailable(path: str, services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url))
    with pytest.raises(Unavailable) as refusal:
        services.call("shop", "GET", path)
    assert http.url not in json.dumps(refusal.value.problem())


def test_a_refusal_by_the_service_is_no_outage(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url))
    for _ in range(10):
        with pytest.raises(ServiceRefused) as refusal:
            services.call("shop", "GET", "/status/404")
        assert refusal.value.status == 404
    assert services.call("shop", "GET", "/echo")["method"] == "GET"


def test_a_redirect_is_not_followed(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url))
    services.call("shop", "GET", "/status/302")
    assert http.seen == ["/status/302"]


def test_a_slow_service_is_cut_off_at_its_time_out(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url, timeout=0.2))
    began = time.monotonic()
    with pytest.raises(Unavailable):
        services.call("shop", "GET", "/slow")
    assert time.monotonic() - began < 0.6


def test_a_call_never_takes_longer_than_the_request_has_left(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url, timeout=30))
    deadline.start(0.2)
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            services.call("shop", "GET", "/slow")
        assert time.monotonic() - began < 0.6
    finally:
        deadline.clear()


def test_the_breaker_opens_after_failures_and_closes_after_a_success(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url, breaker=CircuitBreaker(3, 0.2)))
    for _ in range(3):
        with pytest.raises(Unavailable):
            services.call("shop", "GET", "/status/500")
    with pytest.raises(Unavailable, match="is away"):
        services.call("shop", "GET", "/echo")
    assert len(http.seen) == 3, "an open breaker asks nobody"
    assert services.health_check()["status"] == "degraded"
    assert services.health_check()["away"] == ["shop"]
    time.sleep(0.2)
    assert services.call("shop", "GET", "/echo")
    assert services.health_check()["status"] == "healthy"


def test_a_service_that_is_not_there_is_unavailable_and_unhealthy(services: ServicesManager) -> None:
    services.register_service("shop", HttpService("http://127.0.0.1:1", timeout=0.5))
    with pytest.raises(Unavailable):
        services.call("shop", "GET", "/echo")
    assert services.health_check("shop") == {"service": "shop", "status": "unhealthy"}


def test_health_asks_the_services_own_path(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url))
    services.register_service("mail", HttpService(http.url, health_path="/status/500"))
    assert services.health_check("shop")["status"] == "healthy"
    assert services.health_check("mail")["status"] == "unhealthy"
    assert http.seen == ["/health", "/status/500"]


def test_each_service_has_a_breaker_of_its_own(services: ServicesManager, http: HttpServer) -> None:
    services.register_service("shop", HttpService(http.url))
    services.register_service("mail", HttpService(http.url))
    for _ in range(5):
        with pytest.raises(Unavailable):
            services.call("mail", "GET", "/status/500")
    assert services.health_check()["away"] == ["mail"]
    assert services.call("shop", "GET", "/echo")


def test_credentials_of_the_machine_are_never_sent(
    services: ServicesManager, http: HttpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    services.register_service("shop", HttpService(http.url))
    assert services.call("shop", "GET", "/echo")["authorization"] is None


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com", "file:///etc/passwd"])
def test_an_address_that_is_not_http_is_refused_at_once(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        HttpService(url)
