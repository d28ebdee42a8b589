"""A MongoDB that is not there yet, not there for a moment, or not there at all: waited for as long as it may help, and no longer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
from prometheus_client import REGISTRY
from pymongo.client_session import ClientSession

from core.managers.base import BootError
from core.managers.database_manager import DatabaseManager
from tests.support.client import unique
from tests.support.fail_points import fail_point
from tests.support.in_process import Managers
from tests.support.polling import eventually
from tools.error_handling.errors import Unavailable
from tools.local_stack import LocalStack
from tools.local_stack.mongod import TRANSACTION_SECONDS, Mongod
from utils import deadline

T = TypeVar("T")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    folder = tmp_path_factory.mktemp("outages")
    with LocalStack(folder / "data", folder / "secrets", test_commands=True) as running:
        yield running


@pytest.fixture
def mongod(stack: LocalStack) -> Iterator[Mongod]:
    """A server that a test may kill."""
    assert stack.mongod is not None
    yield stack.mongod
    deadline.clear()


@contextmanager
def started(stack: LocalStack, **settings: Any) -> Iterator[DatabaseManager]:
    managers = Managers({**stack.environ, "AUDIT_SEAL_SECONDS": "3600", **{key: str(value) for key, value in settings.items()}})
    manager = DatabaseManager(managers)  # type: ignore[arg-type]
    try:
        assert manager.initialize()
        yield manager
    finally:
        manager.dispose()


@contextmanager
def beside(call: Callable[[], T]) -> Iterator[Future[T]]:
    """`call` runs on a thread of its own. (A server has to be started by ours: it ends with the thread that started it.)"""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(call)


def primary_changes() -> float:
    return REGISTRY.get_sample_value("credit_mongodb_primary_changes_total") or 0.0


def test_the_boot_waits_for_a_server_that_is_not_there_yet(stack: LocalStack, mongod: Mongod, caplog: pytest.LogCaptureFixture) -> None:
    mongod.kill()

    def boot() -> str:
        with started(stack, MONGODB_TIMEOUT=0.1, MONGODB_CONNECT_SECONDS=30) as db:
            return str(db.health_check()["status"])

    with beside(boot) as answer:
        eventually(lambda: "mongodb does not answer yet" in caplog.text, 10)
        mongod.start()
        assert answer.result() == "healthy"


def test_it_gives_up_in_time_and_says_why(stack: LocalStack) -> None:
    nobody = {"MONGODB_URI": "mongodb://127.0.0.1:1/?replicaSet=rs0", "MONGODB_TIMEOUT": 0.1}
    began = time.monotonic()
    with pytest.raises(BootError, match="not reachable"), started(stack, MONGODB_CONNECT_SECONDS=0.5, **nobody):
        pass
    # Once or twice a try of up to 1.1 s, and the pauses.
    assert 0.5 <= time.monotonic() - began < 5


def test_what_waiting_cannot_help_is_not_waited_for(stack: LocalStack, mongod: Mongod) -> None:
    with started(stack, MONGODB_CONNECT_SECONDS=30) as db:
        db.dispose()
        db.app_manager.config = {**db.app_manager.config, "MONGODB_PASSWORD": "wrong"}  # type: ignore[assignment]
        began = time.monotonic()
        with pytest.raises(BootError, match="log-in refused"):
            db.initialize()
        assert time.monotonic() - began < 10


def test_an_outage_lasts_no_longer_than_the_deadline_and_one_within_it_goes_unnoticed(stack: LocalStack, mongod: Mongod) -> None:
    with started(stack, MONGODB_TIMEOUT=0.2) as db:
        name, changes = unique("outage"), primary_changes()

        def read_and_write() -> Any:
            # Longer than a server may take to be found (MONGODB_TIMEOUT).
            deadline.start(60)
            before = db.find_one("settings", {"_id": name})
            db.insert_one("settings", {"_id": name})
            return before, db.find_one("settings", {"_id": name})

        mongod.kill()
        for call in (lambda: db.find_one("settings", {"_id": "x"}), lambda: db.insert_one("settings", {"_id": "x"})):
            deadline.start(0.6)
            began = time.monotonic()
            with pytest.raises(Unavailable):
                call()
            assert time.monotonic() - began < 2
        with beside(read_and_write) as answer:
            eventually(lambda: primary_changes() > changes, 10)
            mongod.start()
            assert answer.result() == (None, {"_id": name})
        deadline.clear()
        assert db.health_check()["status"] == "healthy"


def test_a_transaction_whose_time_is_over_blocks_nobody(stack: LocalStack, mongod: Mongod) -> None:
    def change(session: ClientSession) -> None:
        db.update_rows("settings", [({"_id": name}, {"$inc": {"times": 1}})], session)
        db.collection("settings").find_one({"_id": name}, session=session)

    name = unique("blocked")
    with started(stack) as db, mongod.client() as client:
        db.insert_one("settings", {"_id": name, "times": 0})
        deadline.start(0.5)
        with (
            fail_point(client.admin, {"times": 1}, failCommands=["find"], blockConnection=True, blockTimeMS=1000),
            pytest.raises(Unavailable),
        ):
            db.transaction(change)
        # Less than the server would take to give the other one up by itself.
        deadline.start(TRANSACTION_SECONDS - 2)
        db.transaction(change)
        deadline.clear()
        assert client["credit_system"]["settings"].find_one({"_id": name})["times"] == 1  # type: ignore[index]
