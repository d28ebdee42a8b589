"""What a commit leaves in MongoDB beside the ledger's own rows."""

from __future__ import annotations

from typing import Any

import pytest
from bson import Timestamp
from pymongo.database import Database

from core.modules.transactions_module.commands import Command, Outcome, Snapshot, decide
from core.modules.transactions_module.repository import LedgerRepository
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.service import new_wallet
from tests.core.conftest import Factory
from tests.support.client import unique
from tests.support.money import command, debit, grant
from utils.clock import utc_now

Rows = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory) -> Any:
    return app_manager_factory("database")


@pytest.fixture
def store(managers: Any) -> LedgerRepository:
    return LedgerRepository(managers.database_manager, WalletRepository(managers.database_manager))


@pytest.fixture
def a(managers: Any) -> str:
    wallet = new_wallet(unique("u"), "CREDIT")
    managers.database_manager.insert_one("wallets", wallet)
    return str(wallet["_id"])


def commit(store: LedgerRepository, *commands: Command) -> Outcome:
    return store.commit(commands, lambda snapshot: decide(snapshot, commands, utc_now()))


def told(database: Rows, outcome: Outcome) -> list[dict[str, Any]]:
    """The outbox documents that tell of a transaction of `outcome`."""
    ids = [posting.transaction.id for posting in outcome.posted]
    return list(database["outbox"].find({"events.id": {"$in": ids}}))


def test_one_outbox_document_tells_of_a_whole_commit(store: LedgerRepository, a: str, database: Rows) -> None:
    outcome = commit(store, command(grant(a, 10)), command(debit(a, 1)), command(debit(a, 100)))
    (row,) = told(database, outcome)
    assert [event["type"] for event in row["events"]] == ["transaction.posted", "transaction.posted", "grant.created"]
    assert row["relayed_at"] is None


def test_a_commit_that_fails_tells_nothing(store: LedgerRepository, a: str, database: Rows) -> None:
    commands, seen = [command(grant(a, 10))], []

    def fail(snapshot: Snapshot) -> Outcome:
        outcome = decide(snapshot, commands, utc_now())
        seen.append(outcome)
        outcome.wallets[0] = (outcome.wallets[0][0] + 1, outcome.wallets[0][1])
        return outcome

    with pytest.raises(Exception, match="snapshot"):
        store.commit(commands, fail)
    assert told(database, seen[0]) == []


def test_a_commit_of_refusals_writes_no_outbox(store: LedgerRepository, a: str, database: Rows) -> None:
    before = database["outbox"].count_documents({})
    commit(store, command(debit(a, 1)))
    assert database["outbox"].count_documents({}) == before


def test_transactions_are_stamped_by_the_server_in_their_order(store: LedgerRepository, a: str, database: Rows) -> None:
    outcomes = [commit(store, command(grant(a, amount))) for amount in (1, 2)]
    rows = [database["transactions"].find_one({"_id": outcome.posted[0].transaction.id}) for outcome in outcomes]
    stamps = [row["stamp"] for row in rows if row is not None]
    assert Timestamp(0, 1) < stamps[0] < stamps[1]


def test_what_waits_in_the_outbox_is_found_by_an_index(database: Rows) -> None:
    plan = database["outbox"].find({"relayed_at": None}).sort("_id", 1).limit(10).explain()["queryPlanner"]["winningPlan"]
    assert "waiting" in str(plan)
    assert "'stage': 'SORT'" not in str(plan), "its order comes from the index, not from a sort of all that waits"
