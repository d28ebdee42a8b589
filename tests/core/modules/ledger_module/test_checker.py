"""The background finds what a verification finds, a little at a time, once among all workers, and says so."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from prometheus_client import REGISTRY

from core.lease import Lease
from core.managers.database_manager import DatabaseManager
from core.modules.ledger_module import checker as checker_module
from core.modules.ledger_module.checker import VERIFICATION, Checker
from core.modules.ledger_module.repository import ProofRepository
from core.modules.ledger_module.store import LOADING, LedgerStore
from tests.core.modules.ledger_module.conftest import Db
from utils.clock import rfc3339


def gauge(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(f"credit_ledger_{name}", labels)


def checker_of(db: DatabaseManager, proofs: ProofRepository) -> Checker:
    return Checker(proofs, Lease(db, "ledger-checker", 30), 0, LedgerStore(db, proofs).epoch)


@pytest.fixture
def checker(db: DatabaseManager, sealed: ProofRepository) -> Iterator[Checker]:
    checker = checker_of(db, sealed)
    yield checker
    checker.stop()


def test_a_round_is_remembered_and_measured(checker: Checker, sealed: ProofRepository, root: Db) -> None:
    checker.tick()
    state = sealed.state(VERIFICATION)
    assert state is not None
    assert (state["ok"], state["complete"], state["checked"]["transactions"]) == (True, True, root["transactions"].count_documents({}))
    assert (gauge("chain_ok"), gauge("imbalance", asset="CREDIT"), gauge("imbalance", asset="GEM")) == (1, 0, 0)
    assert rfc3339(datetime.fromtimestamp(gauge("last_verified_timestamp_seconds") or 0, UTC)) == state["started_at"]
    assert root["outbox"].count_documents({"events.type": "chain.broken"}) == 0


def test_a_tick_does_little_and_the_next_one_goes_on(checker: Checker, sealed: ProofRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checker_module, "_TICK_SECONDS", 0)
    ticks = 0
    while sealed.state(VERIFICATION) is None:
        checker.tick()
        ticks += 1
        assert ticks < 100
    assert ticks > 3


def test_of_many_checkers_one_checks_and_the_next_begins_anew_when_it_stops(
    checker: Checker, sealed: ProofRepository, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checker_module, "_TICK_SECONDS", 0)
    checker.tick()
    other = checker_of(db, sealed)
    other.tick()
    assert other._round is None
    checker.stop()
    other.tick()
    assert other._round is not None
    other.stop()


def test_what_is_bad_is_told_once_by_log_metric_and_event(
    checker: Checker, sealed: ProofRepository, root: Db, caplog: pytest.LogCaptureFixture
) -> None:
    row = root["transactions"].find_one({"type": "debit", "amount": 100})
    assert row is not None
    root["transactions"].update_one({"_id": row["_id"]}, {"$set": {"memo": "nothing"}})
    for _ in range(3):
        checker.tick()
    assert gauge("chain_ok") == 0
    told = [event for each in root["outbox"].find({"events.type": "chain.broken"}) for event in each["events"]]
    assert [event["id"] for event in told] == [row["_id"]]
    assert told[0]["data"]["collection"] == "transactions"
    assert sum("tampered" in record.getMessage() for record in caplog.records) >= 1
    state = sealed.state(VERIFICATION)
    assert state is not None
    assert (state["ok"], state["first_bad"]["id"]) == (False, row["_id"])
    root["transactions"].replace_one({"_id": row["_id"]}, row)
    checker.tick()
    assert gauge("chain_ok") == 1


def test_nothing_is_checked_while_an_import_is_under_way(checker: Checker, sealed: ProofRepository, db: DatabaseManager) -> None:
    LedgerStore(db, sealed).mark(LOADING)
    checker.tick()
    assert sealed.state(VERIFICATION) is None
