"""What the clock has done is written down by itself, once among all workers, and whoever crashes is succeeded."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest

from core.lease import Lease
from core.modules.transactions_module.engine import PostingEngine
from core.modules.transactions_module.ledger import GrantTerms
from core.modules.transactions_module.operations import PlaceHold
from core.modules.transactions_module.repository import LedgerRepository, to_wallet
from core.modules.transactions_module.sweeper import Sweeper
from core.modules.wallet_module.repository import WalletRepository
from core.modules.wallet_module.service import new_wallet
from tests.core.conftest import Factory
from tests.support.client import unique
from tests.support.in_process import Managers
from tests.support.money import command, grant
from tests.support.own_database import own_database
from tests.support.polling import eventually
from tools.local_stack import LocalStack
from utils.clock import utc_now


@pytest.fixture(scope="module")
def managers(servers: LocalStack, app_manager_factory: Factory) -> Iterator[Managers]:
    """On a database of its own, where no application sweeps."""
    with own_database(servers, "swept_by_tests") as database:
        managers = app_manager_factory("database", MONGODB_DATABASE=database.name)
        yield managers
        managers.dispose()


@pytest.fixture
def ledger(managers: Managers) -> LedgerRepository:
    return LedgerRepository(managers.database_manager, WalletRepository(managers.database_manager))


@pytest.fixture
def engine(ledger: LedgerRepository) -> Iterator[PostingEngine]:
    engine = PostingEngine(ledger, batch_max=256, queue_max=256, commit_seconds=5, on_commit=lambda outcome: None)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture
def lease_name() -> str:
    return unique("sweeper")


@pytest.fixture
def sweeper(managers: Managers, engine: PostingEngine, ledger: LedgerRepository, lease_name: str) -> Iterator[Sweeper]:
    sweeper = Sweeper(engine, ledger, Lease(managers.database_manager, lease_name, 5))
    yield sweeper
    sweeper.stop()


def opened(managers: Managers) -> str:
    wallet = new_wallet(unique("u"), "CREDIT")
    managers.database_manager.insert_one("wallets", wallet)
    return str(wallet["_id"])


def soon() -> datetime:
    return utc_now() + timedelta(seconds=1.5)


def stored(managers: Managers, wallet_id: str) -> tuple[int, int, datetime | None]:
    document = managers.database_manager.find_one("wallets", {"_id": wallet_id})
    return document["settled"], document["held"], document["next_event_at"]


def test_holds_end_and_grants_begin_and_expire_without_anybody_asking(managers: Managers, engine: PostingEngine, sweeper: Sweeper) -> None:
    first, second, third = (opened(managers) for _ in range(3))
    engine.submit(command(grant(first, 10, terms=GrantTerms(expires_at=soon()))))
    engine.submit(command(grant(second, 10, terms=GrantTerms(effective_at=soon()))))
    engine.submit(command(grant(third, 10)))
    engine.submit(command(PlaceHold(third, 4, 2)))
    assert stored(managers, third)[1] == 4

    def all_done() -> bool:
        sweeper.tick()
        return [stored(managers, each) for each in (first, second, third)] == [(0, 0, None), (10, 0, None), (10, 0, None)]

    eventually(all_done, 20)
    hold = managers.database_manager.find_one("holds", {"wallet_id": third})
    assert (hold["status"], hold["captured"]) == ("expired", 0)


def test_an_expired_grant_that_a_hold_counts_on_waits_for_the_hold_and_not_in_the_way(
    managers: Managers, engine: PostingEngine, ledger: LedgerRepository, sweeper: Sweeper
) -> None:
    wallet_id = opened(managers)
    engine.submit(command(grant(wallet_id, 10, terms=GrantTerms(expires_at=soon()))))
    engine.submit(command(PlaceHold(wallet_id, 10, 5)))

    def has_looked() -> bool:
        sweeper.tick()
        return to_wallet(managers.database_manager.find_one("wallets", {"_id": wallet_id})).version > 2 or utc_now() > due

    due = soon() + timedelta(milliseconds=500)
    eventually(has_looked, 10)
    assert wallet_id not in ledger.due_wallets(utc_now(), 1000), "nothing is to be done before the hold ends"

    def has_expired() -> bool:
        sweeper.tick()
        return stored(managers, wallet_id) == (0, 0, None)

    eventually(has_expired, 20)


def test_only_the_holder_of_the_lease_works_and_the_next_one_goes_on(
    managers: Managers, engine: PostingEngine, ledger: LedgerRepository, sweeper: Sweeper, lease_name: str
) -> None:
    wallet_id = opened(managers)
    engine.submit(command(grant(wallet_id, 10, terms=GrantTerms(expires_at=soon()))))
    other = Sweeper(engine, ledger, Lease(managers.database_manager, lease_name, 5))
    sweeper.tick()
    eventually(lambda: wallet_id in ledger.due_wallets(utc_now(), 1000), 10)
    assert other.tick() == 0
    assert stored(managers, wallet_id)[0] == 10
    sweeper.stop()
    assert other.tick() >= 1
    assert stored(managers, wallet_id) == (0, 0, None)
    other.stop()
