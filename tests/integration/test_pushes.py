"""A user's sockets are told of every change of the user's wallets, whichever worker made it, and of nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.support.app_server import AppServer
from tests.support.client import Client
from tests.support.sockets import SocketClient, on_two_workers

FIELDS = {"wallet_id", "settled", "held", "available", "seq", "version"}


@pytest.fixture
def listen(server: AppServer) -> Iterator[Callable[[Client], SocketClient]]:
    """A socket of a user, closed afterwards."""
    opened: list[SocketClient] = []

    def connect(user: Client) -> SocketClient:
        opened.append(SocketClient.connected(server.url, user.token))
        return opened[-1]

    yield connect
    for client in opened:
        client.close()


Listen = Callable[[Client], SocketClient]


def levels(update: dict[str, Any]) -> tuple[int, int, int]:
    assert set(update) == FIELDS
    return update["settled"], update["held"], update["available"]


def test_both_sides_of_a_transfer_hear_of_it(listen: Listen, alice: Client, bob: Client, admin: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    hers, his = listen(alice), listen(bob)
    posted = alice.transfer(bob.wallet()["id"], 30).json()
    for socket, user, settled, seq in ((hers, alice, 70, 2), (his, bob, 30, 1)):
        wallet_id = user.wallet()["id"]
        update = socket.expect(
            "wallet_updated", lambda data, wallet_id=wallet_id, seq=seq: (data["wallet_id"], data["seq"]) == (wallet_id, seq)
        )
        assert levels(update) == (settled, 0, settled)
        view = socket.expect("transaction_posted", lambda data: data["id"] == posted["id"])
        assert {entry["wallet_id"] for entry in view["entries"] if "balance_after" in entry} == {wallet_id}
        assert {each["wallet_id"] for each in socket.received("wallet_updated")} == {wallet_id}


def test_a_hold_is_seen_at_once_though_no_number_was_used(listen: Listen, alice: Client, admin: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    socket = listen(alice)
    hold = alice.post("/wallets/me/holds", {"amount": 60})
    placed = socket.expect("wallet_updated", lambda data: data["held"] == 60)
    assert (levels(placed), placed["seq"]) == ((100, 60, 40), 1)
    alice.post(f"/holds/{hold['id']}/release", {}, 200)
    released = socket.expect("wallet_updated", lambda data: data["version"] > placed["version"])
    assert levels(released) == (100, 0, 100)
    # The grant may still have been on its way when the socket opened.
    assert {each["type"] for each in socket.received("transaction_posted")} <= {"grant"}


def test_a_client_that_counts_seq_misses_nothing(listen: Listen, server: AppServer, alice: Client, bob: Client, admin: Client) -> None:
    admin.grant(alice.wallet()["id"], 100)
    first, second = on_two_workers(server, lambda: listen(alice))
    for _ in range(20):
        alice.transfer(bob.wallet()["id"], 1)
    for socket in (first, second):
        last = socket.expect("wallet_updated", lambda data: data["seq"] == 21)
        assert levels(last) == (80, 0, 80)
        socket.expect("transaction_posted", lambda data: data["entries"][0]["seq"] == 21)
        told = sorted(data["entries"][0]["seq"] for data in socket.received("transaction_posted") if data["type"] == "transfer")
        assert told == list(range(2, 22))


def test_another_credit_limit_is_told_as_well(listen: Listen, alice: Client, admin: Client) -> None:
    socket = listen(alice)
    changed = admin.call("PATCH", f"/wallets/{alice.wallet()['id']}", {"credit_limit": 40}).json()
    update = socket.expect("wallet_updated", lambda data: data["available"] == 40)
    assert (levels(update), update["version"]) == ((0, 0, 40), changed["version"])
