"""Calls to real HTTP servers that are slow, endless, closing, lying and flapping; and to several of them."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.services.http_service import HttpService
from core.services.messages import ServiceRequest, check_headers
from core.services.retry_budget import RetryBudget
from tests.support.app_server import free_port
from tests.support.http_services import HttpServer, certificate
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from utils import deadline
from utils.breaker import CircuitBreaker

ROOT = Path(__file__).parents[3]
Make = Callable[..., HttpService]


@pytest.fixture
def http() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def other() -> Iterator[HttpServer]:
    with HttpServer() as server:
        yield server


@pytest.fixture
def service() -> Iterator[Make]:
    """A started service at these servers, which may be on this machine."""
    with ExitStack() as stack:

        def make(*servers: HttpServer | str, **options: Any) -> HttpService:
            urls = [server if isinstance(server, str) else server.url for server in servers]
            options = {"private": True, "breaker": CircuitBreaker(1000, 10), **options}
            made = HttpService(urls, **options)
            made.initialize()
            stack.callback(made.dispose)
            return made

        yield make


def get(service: HttpService, path: str = "/echo", method: str = "GET", **more: Any) -> Any:
    return service.send(ServiceRequest.of(method, path, **more)).answer


# What goes wrong


@pytest.mark.parametrize("path", ["/status/500", "/closing/x", "/half", "/html", "/deep", "/huge", "/slow", "/drip"])
def test_whatever_the_service_does_the_call_ends_soon_as_unavailable(path: str, service: Make, http: HttpServer) -> None:
    shop = service(http, timeout=0.2, attempts=1)
    with pytest.raises(Unavailable) as refusal:
        get(shop, path)
    assert http.url not in str(refusal.value.problem())
    http.released.set()
    assert get(shop) is not None, "a broken connection is not used again"


def test_nobody_there_is_unavailable(service: Make) -> None:
    with pytest.raises(Unavailable):
        get(service(f"http://127.0.0.1:{free_port()}"))


def test_a_large_answer_is_taken_up_to_the_limit(service: Make, http: HttpServer) -> None:
    assert len(get(service(http), data="x" * 900_000, method="POST")["data"]) == 900_000
    with pytest.raises(Unavailable):
        get(service(http), data="x" * 1_100_000, method="POST")


def test_a_call_never_takes_longer_than_the_request_has_left(service: Make, http: HttpServer) -> None:
    shop = service(http, timeout=30)
    deadline.start(0.2)
    try:
        began = time.monotonic()
        with pytest.raises(Unavailable):
            get(shop, "/slow")
        assert time.monotonic() - began < 2
    finally:
        deadline.clear()


def test_connections_are_bounded_and_waiting_for_one_is_no_fault_of_the_service(service: Make, http: HttpServer) -> None:
    shop = service(http, connections=2, timeout=5, attempts=1)
    busy = [threading.Thread(target=lambda: _refused(shop, "/slow")) for _ in range(2)]
    for thread in busy:
        thread.start()
    eventually(lambda: http.waiting == 2, 5)
    shop.timeout = 0.05
    for _ in range(5):
        assert _refused(shop, "/echo") == "EmptyPoolError"
    assert shop.ejected == []
    http.released.set()
    for thread in busy:
        thread.join()
    assert "/echo" not in http.seen


def _refused(service: HttpService, path: str, method: str = "GET") -> str:
    """Why the call fails."""
    with pytest.raises(Unavailable) as refusal:
        get(service, path, method)
    return type(refusal.value.__cause__).__name__


# What is sent


def test_a_redirect_is_not_followed_and_cookies_are_not_kept(service: Make, http: HttpServer) -> None:
    shop = service(http)
    assert shop.send(ServiceRequest.of("GET", "/status/302")).status == 302
    get(shop, "/cookie")
    get(shop)
    assert http.seen == ["/status/302", "/cookie", "/echo"]
    assert "Cookie" not in http.headers[-1]


def test_headers_of_the_service_are_sent_and_never_shown(service: Make, http: HttpServer) -> None:
    shop = service(http, headers={"Authorization": "Bearer canary"})
    get(shop)
    assert http.headers[0]["Authorization"] == "Bearer canary"
    assert http.headers[0]["User-Agent"] == "credit-system"
    assert "canary" not in repr(shop)


def test_the_credentials_and_proxies_of_the_machine_are_not_used(
    service: Make, http: HttpServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login someone password else\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    get(service(http))
    assert "Authorization" not in http.headers[0]


@pytest.mark.parametrize(
    "path",
    [
        *("", "echo", "//evil.example", "/\\evil.example", "http://evil.example/", "/a\\b", "/a#b"),
        *("/a b", "/a\r\nHost: x", "/a\n", "/\x00", "/\u00e4"),
        *("/..", "/a/../b", "/%2e%2E/b", "/a/.%2e", "/a%2f..%2fb"),
    ],
)
def test_a_path_that_could_mean_something_else_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="path"):
        ServiceRequest.of("GET", path)


@given(st.text(max_size=40))
def test_whatever_the_path_what_is_sent_is_one_plain_line(path: str) -> None:
    try:
        target = ServiceRequest.of("GET", path).target
    except ValueError:
        return
    assert target.startswith("/")
    assert not target.startswith("//")
    assert target.isascii()
    assert target.isprintable()
    assert " " not in target


@given(st.text(max_size=20), st.text(max_size=20))
def test_no_header_ends_its_line(name: str, value: str) -> None:
    try:
        check_headers({name: value})
    except ValueError:
        return
    assert (name + value).isascii()
    assert (name + value).isprintable() or not name + value


@pytest.mark.parametrize("key", ["", "a b", "a\r\nX: y", "k\u00e4y", "k" * 256])
def test_an_idempotency_key_that_is_no_header_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="idempotency_key"):
        ServiceRequest.of("POST", "/", None, key)


@pytest.mark.parametrize("data", [float("nan"), {1, 2}, object()])
def test_what_is_no_json_is_not_sent(data: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        ServiceRequest.of("POST", "/", data)


@pytest.mark.parametrize("options", [{"urls": []}, {"balance": "best"}, {"health_path": "health"}, {"headers": {"X": "a\r\nb"}}])
def test_what_cannot_be_used_is_refused_at_once(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        HttpService(**{"urls": "https://example.com", **options})


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1", "http://10.1.2.3:8080", "http://[::1]", "http://169.254.169.254", "http://[::ffff:10.0.0.1]"]
)
def test_a_private_address_has_to_be_declared(url: str) -> None:
    with pytest.raises(ValueError, match="no address of the public network"):
        HttpService(url)


def test_the_metadata_service_cannot_even_be_declared() -> None:
    with pytest.raises(ValueError, match="no address of a private network"):
        HttpService("http://169.254.169.254", private=True)


@pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "0177.0.0.1", "localhost", "127.1"])
def test_no_other_way_to_write_it_reaches_this_machine(host: str, service: Make, http: HttpServer) -> None:
    shop = service(f"http://{host}:{http.server_port}", private=False, attempts=1, timeout=1)
    with pytest.raises(Unavailable):
        get(shop)
    assert http.seen == []


# Names


def test_a_name_is_connected_to_where_it_resolves_and_asked_for_by_its_name(service: Make, http: HttpServer) -> None:
    shop = service(f"http://shop.test:{http.server_port}/api/", resolve=lambda host, port: ["127.0.0.1"])
    assert get(shop)["path"] == "/api/echo"
    assert http.headers[0]["Host"] == f"shop.test:{http.server_port}"


def test_a_name_is_resolved_anew_and_its_new_address_is_used(service: Make, http: HttpServer) -> None:
    found = ["127.0.0.2"]
    shop = service(f"http://shop.test:{http.server_port}", resolve=lambda host, port: found, upkeep_seconds=0.02, attempts=1)
    with pytest.raises(Unavailable):
        get(shop)
    found[:] = ["127.0.0.1"]

    def answered() -> bool:
        try:
            return get(shop) is not None
        except Unavailable:
            return False

    assert eventually(answered, 5)


def test_a_name_that_is_rebound_to_our_own_network_is_not_followed(service: Make, http: HttpServer) -> None:
    answers = iter([["1.1.1.1"]])
    shop = service(
        f"http://shop.test:{http.server_port}", resolve=lambda host, port: next(answers, ["127.0.0.1"]), private=False, upkeep_seconds=0.02
    )
    eventually(lambda: not shop._addresses.all, 5)
    with pytest.raises(Unavailable):
        get(shop)
    assert http.seen == []


def test_tls_is_verified_for_the_name_although_the_address_is_connected_to(service: Make, tmp_path: Path) -> None:
    path, context = certificate(tmp_path, "shop.test")
    asked: list[str | None] = []
    context.sni_callback = lambda link, name, _: asked.append(name)
    with HttpServer(context) as server:
        options = {"resolve": lambda host, port: ["127.0.0.1"], "attempts": 1}
        assert get(service(f"https://shop.test:{server.server_port}", ca_file=str(path), **options))
        assert asked == ["shop.test"]
        for url, more in (
            (f"https://mail.test:{server.server_port}", {"ca_file": str(path)}),
            (f"https://127.0.0.1:{server.server_port}", {"ca_file": str(path)}),
            (f"https://shop.test:{server.server_port}", {}),
        ):
            with pytest.raises(Unavailable) as refusal:
                get(service(url, **options, **more))
            assert type(refusal.value.__cause__).__name__ == "SSLError"
        assert len(server.seen) == 1


# Retries


@pytest.mark.parametrize(
    ("method", "key", "asked"), [("GET", None, 3), ("HEAD", None, 3), ("POST", None, 1), ("POST", "key-1", 3), ("DELETE", None, 1)]
)
def test_only_what_is_safe_to_repeat_is_tried_again(method: str, key: str | None, asked: int, service: Make, http: HttpServer) -> None:
    with pytest.raises(Unavailable):
        get(service(http), "/status/503", method, idempotency_key=key)
    assert len(http.seen) == asked
    assert {headers.get("Idempotency-Key") for headers in http.headers} == {key}


def test_retry_after_is_honoured_within_the_time_there_is(service: Make, http: HttpServer) -> None:
    began = time.monotonic()
    assert get(service(http, timeout=5), "/later/1") == "well"
    assert time.monotonic() - began >= 1
    with pytest.raises(Unavailable):
        get(service(http, timeout=0.2), "/later/60")
    assert http.seen.count("/later/60") == 1


def test_retries_end_when_their_budget_is_spent(service: Make, http: HttpServer) -> None:
    shop = service(http, budget=RetryBudget(share=0.1, reserve=2))
    for _ in range(10):
        with pytest.raises(Unavailable):
            get(shop, "/status/503")
    assert 10 + 2 <= len(http.seen) <= 10 + 3


def test_a_budget_is_a_share_of_the_calls() -> None:
    budget = RetryBudget(share=0.1, reserve=5)
    spent = 0
    for _ in range(1000):
        budget.called()
        spent += budget.take()
    assert 100 <= spent <= 105


# Several addresses


def test_the_other_address_answers_when_one_fails_and_the_failing_one_is_left_alone(
    service: Make, http: HttpServer, other: HttpServer
) -> None:
    shop = service(http, other, budget=RetryBudget(reserve=50), eject_seconds=60)
    http.broken = True
    for _ in range(20):
        assert get(shop)
    assert len(http.seen) == 3
    assert shop.ejected == [http.url.removeprefix("http://")]
    other.broken = True
    eventually(lambda: not _answers(shop), 5)
    asked = len(http.seen)
    http.broken = False
    assert eventually(lambda: _answers(shop), 5), "when all are away, all are tried"
    assert len(http.seen) > asked


def _answers(service: HttpService) -> bool:
    try:
        return get(service) is not None
    except Unavailable:
        return False


def test_an_ejected_address_comes_back_when_it_answers(service: Make, http: HttpServer, other: HttpServer) -> None:
    shop = service(http, other, budget=RetryBudget(reserve=50), eject_seconds=0.05)
    http.broken = True
    for _ in range(8):
        get(shop)
    http.broken = False
    before = len(http.seen)
    eventually(lambda: get(shop) and len(http.seen) > before + 2, 5)
    assert shop.ejected == []


def test_probes_eject_before_a_caller_notices_and_bring_back(service: Make, http: HttpServer, other: HttpServer) -> None:
    shop = service(http, other, probe=True, upkeep_seconds=0.02, eject_seconds=60)
    http.broken = True
    eventually(lambda: shop.ejected, 5)
    http.broken = False
    eventually(lambda: not shop.ejected, 5)
    assert "/health" in http.seen


def test_least_pending_goes_round_a_slow_address(service: Make, http: HttpServer, other: HttpServer) -> None:
    shop = service(http, other, balance="least_pending", timeout=5)
    slow = threading.Thread(target=lambda: _refused(shop, "/slow", "POST"))
    slow.start()
    eventually(lambda: "/slow" in http.seen + other.seen, 5)
    busy, idle = (http, other) if "/slow" in http.seen else (other, http)
    for _ in range(6):
        get(shop)
    busy.released.set()
    slow.join()
    assert (busy.seen.count("/echo"), idle.seen.count("/echo")) == (0, 6)


# Health, start and stop


def test_health_tells_of_each_address(service: Make, http: HttpServer, other: HttpServer) -> None:
    shop = service(http, other)
    other.broken = True
    health = shop.health_check()
    assert health["status"] == "degraded"
    assert health["breaker"] == "closed"
    assert [each["status"] for each in health["addresses"]] == ["healthy", "unhealthy"]
    http.broken = True
    assert shop.health_check()["status"] == "unhealthy"


def test_an_end_leaves_no_thread_and_no_connection_and_it_can_start_again(service: Make, http: HttpServer) -> None:
    shop = service(f"http://shop.test:{http.server_port}", resolve=lambda host, port: ["127.0.0.1"])
    get(shop)
    shop.dispose()
    shop.dispose()
    assert "service upkeep" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(Unavailable):
        get(shop)
    shop.initialize()
    assert get(shop)


# Green threads

GREEN = """
import sys
from utils import green
green.patch(sys.argv[1])
import threading, time
from core.services.http_service import HttpService
from core.services.messages import ServiceRequest
from tests.support.http_services import HttpServer, certificate
from tools.error_handling.errors import Unavailable
with HttpServer() as server:
    shop = HttpService(f"http://localhost:{server.server_port}", private=True, timeout=3, connections=50)
    shop.initialize()
    answers = []
    ticks = []
    def call(path):
        try:
            answers.append(shop.send(ServiceRequest.of("POST", path, 1)).answer["data"])
        except Unavailable as error:
            answers.append(type(error.__cause__).__name__)
    began = time.monotonic()
    threads = [threading.Thread(target=call, args=[path]) for path in ["/echo"] * 10 + ["/slow", "/drip", "/drip"]]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert time.monotonic() - began < 20
    assert answers.count(1) == 10, answers
    assert len(answers) == 13, answers
    server.released.set()
    shop.dispose()
print("ok")
"""


@pytest.mark.parametrize("mode", ["eventlet", "gevent"])
def test_it_works_in_green_threads_and_cuts_off_who_drips(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", GREEN, mode], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, "ok"), done.stderr


def test_a_dead_resolver_holds_nobody_up_for_longer_than_the_call(service: Make) -> None:
    wake = threading.Event()

    def hangs(host: str, port: int) -> list[str]:
        wake.wait(5)
        raise socket.gaierror

    shop = service("http://shop.test", resolve=hangs, timeout=0.1)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        get(shop)
    wake.set()
    assert time.monotonic() - began < 2
