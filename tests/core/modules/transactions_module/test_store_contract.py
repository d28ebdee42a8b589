"""One contract for both ledgers: the one in memory, on which the engine is tested, and the one in MongoDB."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import pytest
from pymongo.database import Database

from core.modules.transactions_module.alerts import Alert
from core.modules.transactions_module.commands import Command, Outcome, Snapshot, decide
from core.modules.transactions_module.engine import LedgerStore
from core.modules.transactions_module.ledger import Draft, Wallet
from core.modules.transactions_module.repository import LedgerRepository, to_wallet
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.service import new_wallet
from tests.core.conftest import Factory
from tests.support import money
from tests.support.client import unique
from tests.support.ledger import assert_sound
from tests.support.memory_ledger import MemoryLedger
from tests.support.money import command, debit, grant, transfer
from tools.error_handling.errors import NotFound
from utils.clock import utc_now


class Ledger(Protocol):
    """A store, how a wallet gets into it, and what is in it."""

    store: LedgerStore

    def open(self) -> str: ...

    def wallet(self, wallet_id: str) -> Wallet: ...

    def count(self, wallet_id: str) -> int: ...

    def watch(self, wallet_id: str, alert: Alert) -> None: ...


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryLedger()

    def open(self) -> str:
        wallet = money.wallet(unique("w"))
        self.store.wallets[wallet.id] = wallet
        return wallet.id

    def wallet(self, wallet_id: str) -> Wallet:
        return self.store.wallets[wallet_id]

    def count(self, wallet_id: str) -> int:
        return sum(entry.wallet_id == wallet_id for posted in self.store.transactions for entry in posted.entries)

    def watch(self, wallet_id: str, alert: Alert) -> None:
        self.store.wallets[wallet_id] = replace(self.store.wallets[wallet_id], alerts=(alert,))


class InMongoDB:
    def __init__(self, managers: Any) -> None:
        self._database = managers.database_manager
        self._wallets = WalletRepository(self._database)
        self.store = LedgerRepository(self._database, self._wallets)

    def open(self) -> str:
        wallet = new_wallet(unique("u"), "CREDIT")
        self._database.insert_one("wallets", wallet)
        return str(wallet["_id"])

    def wallet(self, wallet_id: str) -> Wallet:
        document = self._wallets.find(wallet_id)
        assert document is not None
        return to_wallet(document)

    def count(self, wallet_id: str) -> int:
        return len(self.store.history(wallet_id, {}, None, 1000))

    def watch(self, wallet_id: str, alert: Alert) -> None:
        self._wallets.change(wallet_id, lambda document: {"alerts": [asdict(alert)]})


@pytest.fixture(scope="module", params=["in memory", "in mongodb"])
def ledger(request: pytest.FixtureRequest, app_manager_factory: Factory) -> Ledger:
    return InMemory() if request.param == "in memory" else InMongoDB(app_manager_factory("database"))


@pytest.fixture(scope="module", autouse=True)
def sound(database: Database[dict[str, Any]]) -> Iterator[None]:
    """Whatever was done here, the ledger in MongoDB is sound."""
    yield
    assert_sound(database)


@pytest.fixture
def a(ledger: Ledger) -> str:
    return ledger.open()


@pytest.fixture
def b(ledger: Ledger) -> str:
    return ledger.open()


def commit(ledger: Ledger, *commands: Command) -> Outcome:
    return ledger.store.commit(commands, lambda snapshot: decide(snapshot, commands, utc_now()))


def statuses(ledger: Ledger, *commands: Command) -> list[int]:
    return [verdict.status for verdict in commit(ledger, *commands).verdicts]


def test_what_was_committed_is_what_the_next_commit_starts_from(ledger: Ledger, a: str, b: str) -> None:
    assert statuses(ledger, command(grant(a, 100)), command(transfer(a, b, 30))) == [201, 201]
    assert (ledger.wallet(a).settled, ledger.wallet(a).seq, ledger.wallet(a).version) == (70, 2, 1)
    assert (ledger.wallet(b).settled, ledger.wallet(b).seq, ledger.wallet(b).version) == (30, 1, 1)
    assert statuses(ledger, command(transfer(a, b, 71)), command(transfer(a, b, 70))) == [402, 201]
    assert (ledger.wallet(a).settled, ledger.wallet(b).settled) == (0, 100)
    assert (ledger.count(a), ledger.count(b)) == (3, 2)


def test_the_snapshot_holds_exactly_the_wallets_of_the_commands(ledger: Ledger, a: str, b: str) -> None:
    seen: list[Snapshot] = []

    def look(snapshot: Snapshot) -> Outcome:
        seen.append(snapshot)
        return Outcome([])

    ledger.store.commit([command(transfer(a, "w_nowhere", 1), key="never used")], look)
    assert [own.id for own in seen[-1].wallets] == [a]
    assert (seen[-1].answers, seen[-1].references) == ({}, {})
    assert seen[-1].wallets[0] == ledger.wallet(a)


def test_grants_travel_with_their_wallet(ledger: Ledger, a: str) -> None:
    outcome = commit(ledger, command(grant(a, 10, "promotional", 1)), command(grant(a, 20)))
    kept = [posting.transaction.grant for posting in outcome.posted]
    assert list(ledger.wallet(a).lots) == kept
    spent = commit(ledger, command(debit(a, 15))).posted[0].transaction
    assert kept[0] is not None
    assert kept[1] is not None
    assert spent.allocations == ((kept[0].grant_id, 10), (kept[1].grant_id, 5))
    assert [lot.remaining for lot in ledger.wallet(a).lots] == [15]


def test_an_answer_is_remembered_over_commits(ledger: Ledger, a: str) -> None:
    key = unique("key")
    (first,) = commit(ledger, command(grant(a, 10), key=key)).verdicts
    (again,) = commit(ledger, command(grant(a, 10), key=key)).verdicts
    assert (again.status, again.body, again.replayed) == (201, first.body, True)
    assert statuses(ledger, command(grant(a, 11), key=key)) == [422]
    assert ledger.wallet(a).settled == 10


def test_a_refusal_is_remembered_too_even_if_it_would_fit_by_now(ledger: Ledger, a: str) -> None:
    key = unique("key")
    assert statuses(ledger, command(debit(a, 10), key=key)) == [402]
    commit(ledger, command(grant(a, 100)))
    (again,) = commit(ledger, command(debit(a, 10), key=key)).verdicts
    assert (again.status, again.replayed) == (402, True)


def test_a_reference_is_used_once_over_commits(ledger: Ledger, a: str, b: str) -> None:
    first = commit(ledger, command(grant(a, 10, reference="r"))).posted[0].transaction
    (refusal,) = commit(ledger, command(debit(a, 1, reference="r"))).verdicts
    assert (refusal.status, json.loads(refusal.body)["transaction_id"]) == (409, first.id)
    assert statuses(ledger, command(grant(b, 10, reference="r"))) == [201]


def test_an_alert_remembers_over_commits_that_it_has_fired(ledger: Ledger, a: str) -> None:
    commit(ledger, command(grant(a, 100)))
    ledger.watch(a, Alert("al_1", "available", "below", 50, 20, armed=True, level=100, created_at=ledger.wallet(a).posted_at))
    crossed = [
        [crossing.current for crossing in commit(ledger, command(wish)).crossings] for wish in (debit(a, 60), grant(a, 29), debit(a, 20))
    ]
    assert crossed == [[40], [], []]
    (kept,) = ledger.wallet(a).alerts
    assert (kept.armed, kept.level, kept.fired_at is not None) == (False, 49, True)
    assert [len(commit(ledger, command(wish)).crossings) for wish in (grant(a, 21), debit(a, 50))] == [0, 1]


def test_a_dry_run_leaves_nothing(ledger: Ledger, a: str) -> None:
    commit(ledger, command(grant(a, 10)))
    before = ledger.wallet(a)
    assert statuses(ledger, command(debit(a, 5, reference="r"), dry_run=True)) == [200]
    assert ledger.wallet(a) == before
    assert statuses(ledger, command(debit(a, 5, reference="r"))) == [201]


@pytest.mark.parametrize("error", [NotFound("changed our mind"), ValueError("a fault of ours")], ids=repr)
def test_of_a_commit_that_fails_nothing_is_kept(error: Exception, ledger: Ledger, a: str) -> None:
    commands = [command(grant(a, 10, reference="r"), key=unique("key"))]

    def fail(snapshot: Snapshot) -> Outcome:
        decide(snapshot, commands, utc_now())
        raise error

    with pytest.raises(type(error)):
        ledger.store.commit(commands, fail)
    assert (ledger.wallet(a).settled, ledger.wallet(a).version, ledger.count(a)) == (0, 0, 0)
    assert statuses(ledger, *commands) == [201]


def at_once(*calls: Callable[[], Any]) -> None:
    gate, errors = threading.Barrier(len(calls)), []

    def run(call: Callable[[], Any]) -> None:
        gate.wait()
        try:
            call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_commits_of_several_workers_that_meet_lose_nothing(ledger: Ledger, a: str, b: str) -> None:
    commit(ledger, command(grant(a, 30)))
    results: list[int] = []

    def spend() -> None:
        for _ in range(4):
            results.extend(statuses(ledger, command(transfer(a, b, 1)), command(transfer(a, b, 1))))

    at_once(*[spend] * 5)
    assert (results.count(201), results.count(402)) == (30, 10)
    assert (ledger.wallet(a).settled, ledger.wallet(b).settled, ledger.wallet(b).seq) == (0, 30, 30)


@pytest.mark.parametrize("more", [{}, {"reference": "same"}])
def test_twins_in_several_workers_have_one_effect(more: dict[str, str], ledger: Ledger, a: str) -> None:
    key, bodies = unique("key"), []

    def post() -> None:
        (verdict,) = commit(ledger, command(grant(a, 7, **more), key=key)).verdicts
        bodies.append((verdict.status, verdict.body))

    at_once(*[post] * 5)
    assert len(set(bodies)) == 1
    assert (ledger.wallet(a).settled, ledger.count(a)) == (7, 1)


def test_one_reference_in_several_workers_has_one_effect(ledger: Ledger, a: str) -> None:
    results: list[int] = []
    drafts: Sequence[Draft] = [grant(a, number, reference="same") for number in (1, 2, 3, 4)]
    at_once(*[lambda draft=draft: results.extend(statuses(ledger, command(draft))) for draft in drafts])
    assert sorted(results) == [201, 409, 409, 409]
    assert ledger.count(a) == 1
