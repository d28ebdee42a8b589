"""Leases: one holder at a time by the server's clock, and nobody writes under a lease that has gone to somebody else."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.client_session import ClientSession
from pymongo.database import Database

from core.lease import Lease, LeaseLost, LeaseTaken, hold_lease
from core.managers.database_manager import DatabaseManager
from tests.core.conftest import Factory
from tests.support.at_once import at_once
from tests.support.client import unique

Db = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def db(app_manager_factory: Factory) -> DatabaseManager:
    manager: DatabaseManager = app_manager_factory("database").database_manager
    return manager


@pytest.fixture
def name() -> str:
    return unique("lease")


def expire(database: Db, name: str) -> None:
    database["leases"].update_one({"_id": name}, {"$currentDate": {"expires_at": True}})


def test_of_many_who_want_it_one_gets_it(db: DatabaseManager, name: str) -> None:
    leases = [Lease(db, name, 30) for _ in range(8)]
    assert sum(at_once(8, lambda index: leases[index].take())) == 1


def test_it_is_held_for_longer_and_let_go(db: DatabaseManager, name: str) -> None:
    first, second = Lease(db, name, 30), Lease(db, name, 30)
    assert [first.take(), first.take(), second.take()] == [True, True, False]
    assert second.holder == first.holder
    first.release()
    first.release()
    assert second.take()
    assert second.token == first.token + 1


def test_one_that_ended_goes_to_the_next_with_a_higher_token(db: DatabaseManager, database: Db, name: str) -> None:
    first, second = Lease(db, name, 30), Lease(db, name, 30)
    assert first.take()
    expire(database, name)
    assert second.take()
    assert (second.token, second.time > first.time) == (first.token + 1, True)
    with pytest.raises(LeaseLost):
        first.keep()
    first.release()
    second.keep()


def test_one_that_ended_unnoticed_and_was_nobody_elses_goes_on(db: DatabaseManager, database: Db, name: str) -> None:
    lease = Lease(db, name, 30)
    assert lease.take()
    expire(database, name)
    lease.keep()
    assert lease.token == 1


def test_a_holder_that_was_paused_cannot_write(db: DatabaseManager, database: Db, name: str) -> None:
    paused, other = Lease(db, name, 30), Lease(db, name, 30)
    assert paused.take()
    expire(database, name)
    assert other.take()

    def work(session: ClientSession) -> None:
        db.insert_rows("settings", [{"_id": name}], session)
        paused.fence(session)

    with pytest.raises(LeaseLost):
        db.transaction(work)
    assert db.find_one("settings", {"_id": name}) is None


def test_a_lease_that_is_taken_during_the_write_undoes_it(db: DatabaseManager, database: Db, name: str) -> None:
    paused, other = Lease(db, name, 30), Lease(db, name, 30)
    assert paused.take()
    expire(database, name)
    tries: list[int] = []

    def work(session: ClientSession) -> None:
        db.insert_rows("settings", [{"_id": name}], session)
        tries.append(1)
        if len(tries) == 1:
            # After this transaction's snapshot, before its fence.
            assert other.take()
        paused.fence(session)

    with pytest.raises(LeaseLost):
        db.transaction(work)
    assert db.find_one("settings", {"_id": name}) is None


def test_holding_one_for_a_block(db: DatabaseManager, name: str) -> None:
    with hold_lease(db, name, 30) as lease:
        lease.keep()
        with pytest.raises(LeaseTaken) as refusal, hold_lease(db, name, 30):
            pass
        assert refusal.value.holder == lease.holder
    with hold_lease(db, name, 30):
        pass
