"""An attempt connects only to addresses that were checked just before, under the URL's own name, and tells what came of it."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from core.modules.webhooks_module import sender as sender_module
from core.modules.webhooks_module.sender import Attempt, Sender
from tests.support.app_server import free_port
from tests.support.http_services import HttpServer, certificate
from tests.support.polling import eventually

Make = Callable[..., Sender]


@pytest.fixture
def make() -> Iterator[Make]:
    with ExitStack() as stack:

        def made(**options: Any) -> Sender:
            sender = Sender(**{"private": True, "seconds": 5.0, **options})
            stack.callback(sender.close)
            return sender

        yield made


def post(sender: Sender, url: str) -> Attempt:
    return sender.post(url, {"X-Test": "1"}, b"{}")


def found(attempt: Attempt) -> tuple[int | None, str | None]:
    return attempt.status_code, attempt.error


def test_a_name_that_moved_into_our_network_after_it_was_checked_is_not_connected_to(make: Make, receiver: HttpServer) -> None:
    """DNS rebinding: public when the webhook was made, loopback now."""
    sender = make(private=False, resolve=lambda host, port: ["127.0.0.1"])
    assert found(post(sender, f"https://hooks.example.com:{receiver.server_port}/")) == (None, "address")
    assert receiver.received == []


def test_what_is_connected_to_is_the_address_that_was_checked_and_no_second_look_up(make: Make, receiver: HttpServer) -> None:
    answers = [["127.0.0.1"], ["169.254.169.254"]]
    sender = make(resolve=lambda host, port: answers.pop(0))
    for _ in range(3):
        assert found(post(sender, f"http://hooks.example.com:{receiver.server_port}/a")) == (200, None)
    assert len(answers) == 1
    assert {request.headers["Host"] for request in receiver.received} == {f"hooks.example.com:{receiver.server_port}"}


def test_a_url_that_was_taken_under_other_rules_is_not_asked(make: Make, receiver: HttpServer) -> None:
    assert found(post(make(private=False), f"{receiver.url}/a")) == (None, "address")
    assert receiver.received == []


@pytest.mark.parametrize("answer", [["169.254.169.254"], ["10.0.0.1", "fe80::1"], []])
def test_nothing_is_connected_to_where_no_address_may_be(make: Make, answer: list[str]) -> None:
    assert found(post(make(private=False, resolve=lambda host, port: answer), "https://hooks.example.com/")) == (None, "address")


def test_an_unknown_name_is_told_apart(make: Make) -> None:
    def unknown(host: str, port: int) -> list[str]:
        raise OSError

    assert found(post(make(resolve=unknown), "http://hooks.example.com/")) == (None, "dns")


def test_of_several_addresses_the_next_is_tried_when_one_takes_no_connection(make: Make, receiver: HttpServer) -> None:
    sender = make(resolve=lambda host, port: ["127.0.0.9", "127.0.0.1"])
    assert found(post(sender, f"http://hooks.example.com:{receiver.server_port}/a")) == (200, None)
    assert len(receiver.received) == 1


def test_where_nobody_listens_is_a_failed_connection(make: Make) -> None:
    assert found(post(make(), f"http://127.0.0.1:{free_port()}/")) == (None, "connection")


def test_the_certificate_is_verified_for_the_name_although_the_address_is_connected_to(make: Make, tmp_path: Path) -> None:
    path, context = certificate(tmp_path, "hooks.test")
    asked: list[str | None] = []
    context.sni_callback = lambda link, name, _: asked.append(name)
    with HttpServer(context) as server:
        options = {"resolve": lambda host, port: ["127.0.0.1"], "make_tls": lambda: ssl.create_default_context(cafile=str(path))}
        sender = make(**options)
        assert found(post(sender, f"https://hooks.test:{server.server_port}/")) == (200, None)
        assert asked == ["hooks.test"]
        assert found(post(sender, f"https://mail.test:{server.server_port}/")) == (None, "tls")
        assert found(post(make(resolve=options["resolve"]), f"https://hooks.test:{server.server_port}/")) == (None, "tls")
        assert len(server.received) == 1


def test_a_connection_serves_several_deliveries_when_answers_are_short(make: Make, receiver: HttpServer) -> None:
    connections = []
    handle = receiver.process_request
    receiver.process_request = lambda *args: (connections.append(1), handle(*args))[1]  # type: ignore[method-assign]
    sender = make()
    for _ in range(3):
        assert found(post(sender, f"{receiver.url}/a")) == (200, None)
    assert len(connections) == 1


def test_retry_after_is_told(make: Make, receiver: HttpServer) -> None:
    assert post(make(), f"{receiver.url}/status/503").retry_after == 0
    assert post(make(), f"{receiver.url}/a").retry_after is None


def test_closing_breaks_off_what_is_on_its_way(make: Make, receiver: HttpServer) -> None:
    sender, results = make(seconds=60), []
    thread = threading.Thread(target=lambda: results.append(post(sender, f"{receiver.url}/slow")))
    thread.start()
    eventually(lambda: receiver.waiting == 1, 5)
    sender.close()
    thread.join(5)
    assert receiver.waiting == 1, "it is not the receiver who has ended it"
    assert [attempt.status_code for attempt in results] == [None]


def test_no_more_connections_and_look_ups_are_kept_than_a_few(make: Make, receiver: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender_module, "_ADDRESSES_KEPT", 2)
    monkeypatch.setattr(sender_module, "_LOOK_UPS_KEPT", 2)
    sender = make(resolve=lambda host, port: ["127.0.0.1"])
    for name in "abcd":
        assert found(post(sender, f"http://{name}.test:{receiver.server_port}/")) == (200, None)
    assert (len(sender._addresses), len(sender._found)) == (2, 2)
