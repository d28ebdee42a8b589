"""Pushes: to those who are there, the newest state of a wallet once, and never in the way of a commit."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from core.modules.transactions_module.commands import Command, decide
from core.modules.transactions_module.pushes import Pusher
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import START, command, debit, grant, transfer, wallet
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable


class Listeners:
    """Sockets of some users, which keep what they get."""

    def __init__(self, *online: str) -> None:
        self.online = set(online)
        self.got: list[tuple[str, str, dict[str, Any]]] = []
        self.asked: list[set[str]] = []
        self.down = False
        self.emits = 0

    def users_online(self, user_ids: Collection[str]) -> set[str]:
        self.asked.append(set(user_ids))
        if self.down:
            raise Unavailable("Redis is away.")
        return self.online & set(user_ids)

    def emit_to_users(self, emits: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
        self.emits += 1
        self.got.extend(emits)


@pytest.fixture
def store() -> MemoryLedger:
    return MemoryLedger(wallet("a", "u_1", settled=100), wallet("b", "u_2"), wallet("c", "u_3"))


@pytest.fixture
def commit(store: MemoryLedger) -> Callable[..., None]:
    def commit(pusher: Pusher, *commands: Command) -> None:
        pusher.take(store.commit(commands, lambda snapshot: decide(snapshot, commands, START)))

    return commit


def test_the_owner_is_told_the_newest_state_once_and_each_transaction(store: MemoryLedger, commit: Callable[..., None]) -> None:
    sockets = Listeners("u_1")
    pusher = Pusher(sockets)
    commit(pusher, command(transfer("a", "b", 10)), command(debit("a", 5)))
    commit(pusher, command(debit("a", 1)))
    pusher.tell()
    assert [(user, event) for user, event, _ in sockets.got] == [("u_1", "transaction_posted")] * 3 + [("u_1", "wallet_updated")]
    newest = {"wallet_id": "a", "settled": 84, "held": 0, "available": 84, "seq": 3, "version": 2}
    assert sockets.got[-1][2] == newest
    assert store.wallets["a"].version == 2
    assert [data["id"] for _, event, data in sockets.got if event == "transaction_posted"] == [t.id for t in store.transactions]
    assert (sockets.asked, sockets.emits) == ([{"u_1", "u_2"}], 1), "one round trip for all"


def test_each_side_of_a_transfer_sees_its_own_balance_only(commit: Callable[..., None]) -> None:
    sockets = Listeners("u_1", "u_2")
    pusher = Pusher(sockets)
    commit(pusher, command(transfer("a", "b", 10)))
    pusher.tell()
    for user, own in (("u_1", "a"), ("u_2", "b")):
        (view,) = [data for to, event, data in sockets.got if (to, event) == (user, "transaction_posted")]
        assert {entry["wallet_id"] for entry in view["entries"] if "balance_after" in entry} == {own}


def test_nobody_is_told_who_is_not_there(commit: Callable[..., None]) -> None:
    sockets = Listeners()
    pusher = Pusher(sockets)
    commit(pusher, command(grant("c", 10)))
    pusher.tell()
    pusher.tell()
    assert (sockets.got, sockets.asked) == ([], [{"u_3"}])


def test_of_a_commit_and_a_change_by_hand_the_newer_state_is_told(store: MemoryLedger, commit: Callable[..., None]) -> None:
    sockets = Listeners("u_1")
    pusher = Pusher(sockets)
    for version, told in ((5, 5), (1, 2)):
        commit(pusher, command(debit("a", 1)))
        pusher.note(replace(store.wallets["a"], version=version, credit_limit=50))
        pusher.tell()
        assert sockets.got[-1][:2] == ("u_1", "wallet_updated")
        assert sockets.got[-1][2]["version"] == told


def test_a_refusal_is_not_told(commit: Callable[..., None]) -> None:
    sockets = Listeners("u_1")
    pusher = Pusher(sockets)
    commit(pusher, command(debit("a", 101)))
    pusher.tell()
    assert (sockets.got, sockets.asked) == ([], [])


def test_what_cannot_be_told_is_dropped_and_the_next_commit_is_told(commit: Callable[..., None]) -> None:
    sockets = Listeners("u_1")
    pusher = Pusher(sockets)
    sockets.down = True
    commit(pusher, command(debit("a", 1)))
    with pytest.raises(Unavailable):
        pusher.tell()
    sockets.down = False
    commit(pusher, command(debit("a", 1)))
    pusher.tell()
    assert [data["seq"] for _, event, data in sockets.got if event == "wallet_updated"] == [2]


@pytest.fixture
def running() -> Iterator[tuple[Pusher, Listeners]]:
    sockets = Listeners("u_1")
    pusher = Pusher(sockets)
    pusher.start()
    yield pusher, sockets
    pusher.stop()


def test_it_tells_by_itself_also_after_a_failure(running: tuple[Pusher, Listeners], commit: Callable[..., None]) -> None:
    pusher, sockets = running
    sockets.down = True
    commit(pusher, command(debit("a", 1)))
    eventually(lambda: sockets.asked, 5)
    sockets.down = False
    commit(pusher, command(debit("a", 1)))
    eventually(lambda: ("u_1", "wallet_updated") in [(user, event) for user, event, _ in sockets.got], 5)
