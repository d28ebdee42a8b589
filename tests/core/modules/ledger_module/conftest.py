"""A ledger of the tests' own, with a history in which every verb occurs."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from bson import Timestamp
from pymongo.client_session import ClientSession
from pymongo.database import Database

from core import chain as chain_module
from core.managers.database_manager import DatabaseManager
from core.modules.ledger_module.repository import ProofRepository
from core.modules.ledger_module.verification import LedgerReport, Verification
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import GrantTerms
from core.modules.transactions_module.operations import Capture, PlaceHold, Release, Reverse, VoidGrant
from core.modules.wallet_module.service import new_wallet
from tests.core.conftest import Factory
from tests.support.engine import running_engine
from tests.support.ledger import assert_sound
from tests.support.money import command, debit, grant, transfer
from tests.support.own_database import own_database
from tools.local_stack import LocalStack
from utils.clock import utc_now

Db = Database[dict[str, Any]]
SMALL = 3
EVER = Timestamp(2**32 - 2, 0)
KEPT = ("transactions", "entries", "wallets", "holds", "grants", "ledger_seals", "ledger_state", "leases", "audit_logs", "outbox")


@pytest.fixture(scope="package")
def root(servers: LocalStack) -> Iterator[Db]:
    """As its root sees it, who may do everything."""
    with own_database(servers, "ledger_proofs") as database:
        yield database


@pytest.fixture(scope="module")
def db(root: Db, app_manager_factory: Factory) -> DatabaseManager:
    manager: DatabaseManager = app_manager_factory("database", MONGODB_DATABASE=root.name, AUDIT_SEAL_SECONDS=3600).database_manager
    return manager


@pytest.fixture
def empty(root: Db) -> Db:
    for name in KEPT:
        root[name].delete_many({})
    return root


@pytest.fixture
def proofs(db: DatabaseManager, empty: Db) -> ProofRepository:
    return ProofRepository(db)


@pytest.fixture
def engine(db: DatabaseManager, empty: Db) -> Iterator[PostingEngine]:
    with running_engine(db) as engine:
        yield engine


def open_wallet(db: DatabaseManager, name: str, **fields: Any) -> str:
    wallet = {**new_wallet(name, fields.pop("asset", "CREDIT")), **fields}
    db.insert_one("wallets", wallet)
    return str(wallet["_id"])


@pytest.fixture
def wallets(db: DatabaseManager, engine: PostingEngine, root: Db) -> dict[str, str]:
    """Three wallets and what was done with them; the last but one transaction has a reference, the last one is a transfer."""
    ann, bob = open_wallet(db, "ann"), open_wallet(db, "bob", credit_limit=50)
    gems = open_wallet(db, "ann", asset="GEM")

    def do(wish: Any) -> Any:
        verdict = engine.submit(command(wish))
        assert verdict.status in (200, 201), verdict.body
        return verdict

    do(grant(ann, 1000))
    do(grant(gems, 7))
    later = GrantTerms(effective_at=utc_now() + timedelta(days=1), expires_at=utc_now() + timedelta(days=2))
    do(grant(bob, 30, terms=later, reference="promised"))
    spent = do(debit(ann, 100, memo="a thing", metadata={"n": 1, "t": "x"})).transaction
    do(Reverse(spent.id, 40))
    do(PlaceHold(ann, 60, 3600))
    open_hold = hold_ids(root)[-1]
    do(PlaceHold(ann, 30, 3600))
    do(Capture(hold_ids(root)[-1], 10, final=True))
    do(PlaceHold(ann, 20, 3600))
    do(Release(hold_ids(root)[-1]))
    do(Capture(open_hold, 5))
    void = root["grants"].find_one({"wallet_id": gems})
    assert void is not None
    do(VoidGrant(gems, void["_id"]))
    do(grant(gems, 9, "promotional"))
    do(debit(bob, 20))
    do(debit(ann, 3, reference="order-1"))
    do(transfer(ann, bob, 250))
    assert_sound(root)
    return {"ann": ann, "bob": bob, "gems": gems}


def hold_ids(root: Db) -> list[str]:
    return [row["_id"] for row in root["holds"].find().sort("_id")]


def unfenced(_session: ClientSession) -> None:
    """A seal without a lease."""


def seal_all(proofs: ProofRepository) -> None:
    while proofs.chain.seal(EVER, unfenced):
        pass


def verified(proofs: ProofRepository, size: int = SMALL, anchor: str = "") -> LedgerReport:
    verification = Verification(proofs, size, anchor)
    for _ in verification.steps():
        pass
    return verification.report


@pytest.fixture
def sealed(proofs: ProofRepository, wallets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ProofRepository:
    """The history, with seals of four transactions each, and two transactions that have none yet."""
    monkeypatch.setattr(chain_module, "SEAL_ROWS", 4)
    while proofs.chain.seal(newest_but(proofs, 2), lambda _session: None):
        pass
    return proofs


def newest_but(proofs: ProofRepository, count: int) -> Timestamp:
    rows = proofs.tail(Timestamp(0, 0), None, 1000)
    stamp: Timestamp = rows[-1 - count]["stamp"]
    return stamp
