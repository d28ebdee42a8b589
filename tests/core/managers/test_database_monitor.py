"""What is measured of MongoDB: commands by name and role, pools, slow commands by the shape of their criteria, new primaries."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from pymongo.database import Database

from core.managers.database_manager import DatabaseManager
from core.managers.database_monitor import shape, shape_of_command
from tests.core.conftest import Factory
from tests.support.client import unique
from tools.error_handling.errors import Unavailable
from utils import deadline

Db = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def db(app_manager_factory: Factory) -> DatabaseManager:
    manager: DatabaseManager = app_manager_factory("database", MONGODB_SLOW_MS=100).database_manager
    return manager


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def failing(database: Db, mode: Any, **data: Any) -> None:
    # Only where these tests read: whatever else runs on this server would use the failures up.
    where = {"appName": "credit-system-read_write", "namespace": f"{database.name}.settings"}
    data = {"failCommands": ["find"], **where, **data}
    database.client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})


def commands(name: str, role: str) -> float:
    return sample("credit_mongodb_command_duration_seconds_count", command=name, role=role)


def test_commands_are_timed_by_name_and_role(db: DatabaseManager) -> None:
    before = {role: commands("find", role) for role in ("read_write", "read_only")}
    db.find_one("settings", {"_id": "x"})
    db.find_one("settings", {"_id": "x"}, role="read_only")
    db.find_one("settings", {"_id": "x"}, role="read_only")
    after = {role: commands("find", role) - count for role, count in before.items()}
    assert after == {"read_write": 1, "read_only": 2}
    inserts = commands("insert", "read_write"), commands("commitTransaction", "read_write")
    db.insert_one("settings", {"_id": unique("x")})
    # The row and its audit entry.
    assert (commands("insert", "read_write") - inserts[0], commands("commitTransaction", "read_write") - inserts[1]) == (2, 1)


def test_a_command_that_nobody_expects_has_no_series_of_its_own(db: DatabaseManager) -> None:
    before = commands("other", "read_write")
    db.collection("settings").database.command("dbStats")
    assert commands("other", "read_write") == before + 1
    assert commands("dbStats", "read_write") == 0


def test_failures_are_counted(db: DatabaseManager, database: Db) -> None:
    def failures() -> float:
        return sample("credit_mongodb_command_failures_total", command="find", role="read_write")

    before = failures()
    failing(database, {"times": 1}, errorCode=91)
    db.find_one("settings", {"_id": "x"})
    assert failures() == before + 1


def test_a_slow_command_is_logged_without_its_values(db: DatabaseManager, database: Db, caplog: pytest.LogCaptureFixture) -> None:
    failing(database, {"times": 1}, blockConnection=True, blockTimeMS=150)
    with caplog.at_level(logging.WARNING):
        db.find_one("settings", {"name": "canary", "size": {"$gte": 12345}})
    found = [record.credit_fields for record in caplog.records if record.getMessage() == "slow mongodb command"]  # type: ignore[attr-defined]
    assert len(found) == 1
    assert found[0].pop("ms") >= 150
    assert found[0] == {
        "command": "find",
        "role": "read_write",
        "collection": "settings",
        "shape": {"name": "?", "size": {"$gte": "?"}},
    }


def test_connections_are_counted_and_waits_for_one_too(app_manager_factory: Factory, database: Db) -> None:
    db: DatabaseManager = app_manager_factory("database", MONGODB_POOL_SIZE=2).database_manager
    pool = db._roles["read_write"].pool

    def hold(count: int) -> None:
        if count:
            with pool_of(db).checkout():
                hold(count - 1)
        else:
            assert pool.in_use == 2
            deadline.start(0.2)
            with pytest.raises(Unavailable):
                db.find_one("settings", {"_id": "x"})
            deadline.clear()

    hold(2)
    assert pool.in_use == 0
    assert pool.size == 2
    assert pool.waits >= 1
    assert pool.wait_seconds > 0.1
    pool.publish()
    assert sample("credit_mongodb_pool_connections", role="read_write") == 2
    assert sample("credit_mongodb_pool_in_use", role="read_write") == 0
    assert sample("credit_mongodb_pool_wait_seconds_total", role="read_write") >= pool.wait_seconds
    db.dispose()
    assert pool.size == 0


def pool_of(db: DatabaseManager) -> Any:
    return next(iter(db._roles["read_write"].client._topology._servers.values())).pool


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            {"find": "users", "filter": {"email": b"x", "$or": [{"a": 1}, {"b": {"$in": [1, 2]}}]}},
            {"email": "?", "$or": [{"a": "?"}, {"b": {"$in": "?"}}]},
        ),
        ({"findAndModify": "leases", "query": {"_id": "x"}, "update": {"$set": {"a": 1}}}, {"_id": "?"}),
        ({"update": "wallets", "updates": [{"q": {"_id": "w", "version": 3}, "u": {}}]}, {"_id": "?", "version": "?"}),
        ({"delete": "wallets", "deletes": [{"q": {"_id": "w"}, "limit": 1}]}, {"_id": "?"}),
        (
            {"aggregate": "wallets", "pipeline": [{"$match": {"owner_id": "u"}}, {"$count": "n"}]},
            [{"$match": {"owner_id": "?"}}, {"$count": "?"}],
        ),
        ({"insert": "wallets", "documents": [{"_id": "secret"}]}, None),
        ({"ping": 1}, None),
    ],
)
def test_the_shape_of_a_command_is_its_names(command: dict[str, Any], expected: Any) -> None:
    assert shape_of_command(command) == expected


@given(
    st.recursive(
        st.just("canary") | st.just(4711),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "$in", "b.c"]), inner, max_size=3),
        max_leaves=40,
    )
)
def test_no_value_is_ever_in_a_shape(value: Any) -> None:
    text = str(shape(value))
    assert "canary" not in text
    assert "4711" not in text
