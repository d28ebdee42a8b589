"""MongoDB: what each role may do, transactions that are all or nothing, audit rows, encrypted fields, and its failures as ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from core import context
from core.contracts import ADMIN, READ_ONLY, READ_WRITE, FieldRules
from core.managers.base import BootError
from core.managers.database_guard import UnsafeValue
from core.managers.database_manager import DatabaseManager
from core.managers.encryption_manager import DecryptionError
from tests.core.conftest import Factory
from tests.support.client import unique
from tests.support.in_process import Managers
from tests.support.polling import eventually
from tools.error_handling.errors import NotFound, OutcomeUnknown, Unavailable
from tools.local_stack.redis_server import RedisServer
from utils import deadline
from utils.collections import load_collections

# A collection that every role may see and no other test looks at; its documents have the fields of nobody.
THINGS = "settings"
RULES = FieldRules(lookup=("email",), sealed=("profile",))
UNAUTHORIZED = 13
APPEND_ONLY = [name for name, options in load_collections()["collections"].items() if options.get("append_only")]

Db = Database[dict[str, Any]]


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory) -> Managers:
    started = app_manager_factory("database", "redis", "encryption")
    started.database_manager.declare_fields(THINGS, RULES)
    return started


@pytest.fixture(scope="module")
def db(managers: Managers) -> DatabaseManager:
    manager: DatabaseManager = managers.database_manager
    return manager


@pytest.fixture
def thing() -> dict[str, Any]:
    name = unique("thing")
    return {"_id": name, "email": f"{name}@example.com", "profile": {"name": "canary"}, "size": 1}


@pytest.fixture(autouse=True)
def no_deadline() -> Iterator[None]:
    yield
    deadline.clear()


@contextmanager
def failing(database: Db, commands: list[str], *, times: int | None = None, **how: Any) -> Iterator[None]:
    """MongoDB fails `commands` of our read-write clients, `times` times or until the end of the block."""
    data = {"failCommands": commands, "appName": "credit-system-read_write", **how}
    mode = {"times": times} if times is not None else "alwaysOn"
    database.client.admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
    try:
        yield
    finally:
        database.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


def audits(database: Db, target: str) -> list[dict[str, Any]]:
    return list(database["audit_logs"].find({"target": target}).sort("_id"))


# Roles, as the server sees them


@pytest.mark.parametrize(
    ("role", "write"),
    [
        (READ_WRITE, lambda things: things.delete_one({})),
        (READ_WRITE, lambda things: things.drop()),
        (READ_WRITE, lambda things: things.create_index("x")),
        (READ_ONLY, lambda things: things.insert_one({})),
        (READ_ONLY, lambda things: things.update_one({}, {"$set": {"x": 1}})),
        (READ_ONLY, lambda things: things.delete_one({})),
    ],
)
def test_the_server_refuses_what_a_role_may_not(role: str, write: Callable[[Any], Any], db: DatabaseManager) -> None:
    with pytest.raises(OperationFailure) as refusal:
        write(db.collection(THINGS, role))
    assert refusal.value.code == UNAUTHORIZED


def test_the_server_shows_no_password_hash_to_the_read_only_role(db: DatabaseManager) -> None:
    with pytest.raises(OperationFailure) as refusal:
        db.find_one("users", {"_id": "u"}, role=READ_ONLY)
    assert refusal.value.code == UNAUTHORIZED


@pytest.mark.parametrize("role", [READ_WRITE, READ_ONLY, ADMIN])
def test_every_role_reads(role: str, db: DatabaseManager, thing: dict[str, Any]) -> None:
    db.insert_one(THINGS, thing)
    assert db.find_one(THINGS, {"_id": thing["_id"]}, role=role) == thing
    assert db.find_many(THINGS, {"_id": thing["_id"]}, limit=5, role=role) == [thing]


# Operations


def test_documents_are_inserted_found_updated_and_deleted(db: DatabaseManager, thing: dict[str, Any]) -> None:
    assert db.insert_one(THINGS, thing) == thing["_id"]
    assert db.update_one(THINGS, {"_id": thing["_id"]}, {"$set": {"size": 2}}).modified_count == 1
    found = db.find_one(THINGS, {"_id": thing["_id"]})
    assert found == {**thing, "size": 2}
    assert db.find_one(THINGS, {"_id": thing["_id"]}, projection=("size",)) == {"_id": thing["_id"], "size": 2}
    assert db.delete_one(THINGS, {"_id": thing["_id"]}).deleted_count == 1
    assert db.find_one(THINGS, {"_id": thing["_id"]}) is None


def test_many_are_sorted_and_bounded(db: DatabaseManager) -> None:
    group = unique("group")
    ids = db.insert_many(THINGS, [{"_id": f"{group}-{number}", "group": group, "size": number} for number in range(5)])
    assert len(ids) == 5
    largest = db.find_many(THINGS, {"group": group}, limit=2, sort=(("size", -1),))
    assert [row["size"] for row in largest] == [4, 3]
    assert db.update_many(THINGS, {"group": group}, {"$inc": {"size": 10}}).modified_count == 5
    assert db.delete_many(THINGS, {"group": group}).deleted_count == 5


def test_of_many_documents_all_are_inserted_or_none(db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    db.insert_one(THINGS, thing)
    first = {"_id": unique("first")}
    with pytest.raises(DuplicateKeyError):
        db.insert_many(THINGS, [first, {"_id": thing["_id"]}])
    assert db.find_one(THINGS, first) is None
    assert audits(database, first["_id"]) == []


def test_every_write_leaves_an_audit_row_that_says_who_and_never_what(db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    context.actor_id.set("u_tester")
    context.request_id.set("req-audit")
    try:
        db.insert_one(THINGS, thing)
        db.update_one(THINGS, {"_id": thing["_id"]}, {"$set": {"size": 2}})
        db.delete_one(THINGS, {"_id": thing["_id"]})
    finally:
        context.actor_id.set("system")
        context.request_id.set("")
    rows = audits(database, thing["_id"])
    assert [row["action"] for row in rows] == [f"{THINGS}.insert", f"{THINGS}.update", f"{THINGS}.delete"]
    assert {(row["actor_id"], row["request_id"]) for row in rows} == {("u_tester", "req-audit")}
    assert "canary" not in str(rows)
    assert "example.com" not in str(rows)


def test_a_write_that_changed_nothing_leaves_no_audit_row(db: DatabaseManager, database: Db) -> None:
    nobody = unique("nobody")
    assert db.update_one(THINGS, {"_id": nobody}, {"$set": {"size": 2}}).matched_count == 0
    assert db.delete_one(THINGS, {"_id": nobody}).deleted_count == 0
    assert audits(database, nobody) == []


# Transactions


def test_a_transaction_that_fails_leaves_nothing(db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    other = {"_id": unique("other")}

    def work(session: Any) -> None:
        db.insert_one(THINGS, thing, session)
        db.insert_one(THINGS, other, session)
        assert db.find_one(THINGS, other, session=session) == other
        raise NotFound("changed our mind")

    with pytest.raises(NotFound):
        db.transaction(work)
    for document in (thing, other):
        assert db.find_one(THINGS, {"_id": document["_id"]}) is None
        assert audits(database, document["_id"]) == []


def test_a_transaction_is_seen_as_a_whole(db: DatabaseManager, thing: dict[str, Any]) -> None:
    other = {"_id": unique("other")}

    def work(session: Any) -> str:
        db.insert_one(THINGS, thing, session)
        assert db.find_one(THINGS, {"_id": thing["_id"]}) is None, "nobody else sees it yet"
        db.insert_one(THINGS, other, session)
        return "done"

    assert db.transaction(work) == "done"
    assert db.find_one(THINGS, {"_id": thing["_id"]}) == thing
    assert db.find_one(THINGS, other) == other


def test_transactions_that_meet_are_run_again_and_lose_nothing(db: DatabaseManager) -> None:
    counter = {"_id": unique("counter"), "size": 0}
    db.insert_one(THINGS, counter)

    def increment(session: Any) -> None:
        found = db.find_one(THINGS, {"_id": counter["_id"]}, session=session)
        assert found is not None
        db.update_one(THINGS, {"_id": counter["_id"]}, {"$set": {"size": found["size"] + 1}}, session)

    threads = [threading.Thread(target=lambda: [db.transaction(increment) for _ in range(5)]) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = db.find_one(THINGS, {"_id": counter["_id"]})
    assert found is not None
    assert found["size"] == 30


@pytest.mark.parametrize("command", ["find", "insert", "update", "commitTransaction"])
def test_a_transaction_that_stumbles_is_run_again(command: str, db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    def work(session: Any) -> None:
        db.find_one(THINGS, {"_id": thing["_id"]}, session=session)
        db.insert_one(THINGS, thing, session)
        db.update_one(THINGS, {"_id": thing["_id"]}, {"$set": {"size": 2}}, session)

    with failing(database, [command], times=1, errorCode=251, errorLabels=["TransientTransactionError"]):
        db.transaction(work)
    assert db.find_one(THINGS, {"_id": thing["_id"]}) == {**thing, "size": 2}


# Encrypted fields


def test_declared_fields_are_encrypted_at_rest_and_plain_for_us(db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    db.insert_one(THINGS, thing)
    stored = database[THINGS].find_one({"_id": thing["_id"]})
    assert stored is not None
    assert "canary" not in str(stored)
    assert b"example.com" not in stored["email"]
    assert stored["size"] == 1
    assert db.find_one(THINGS, {"_id": thing["_id"]}) == thing
    assert thing["profile"] == {"name": "canary"}, "what the caller gave is not changed"


def test_a_look_up_field_is_found_by_its_plain_value(db: DatabaseManager, thing: dict[str, Any]) -> None:
    db.insert_one(THINGS, thing)
    assert db.find_one(THINGS, {"email": thing["email"]}) == thing
    assert db.find_many(THINGS, {"email": thing["email"], "size": 1}, limit=5) == [thing]
    assert db.find_one(THINGS, {"email": "nobody@example.com"}) is None
    assert db.update_one(THINGS, {"email": thing["email"]}, {"$set": {"size": 3}}).matched_count == 1
    assert db.delete_one(THINGS, {"email": thing["email"]}).deleted_count == 1


def test_an_update_encrypts_declared_fields(db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    db.insert_one(THINGS, thing)
    fields = {"email": "new@example.com", "profile": "new canary", "size": 5}
    db.update_one(THINGS, {"_id": thing["_id"]}, {"$set": fields})
    assert "canary" not in str(database[THINGS].find_one({"_id": thing["_id"]}))
    assert db.find_one(THINGS, {"email": "new@example.com"}) == {**thing, "email": "new@example.com", "profile": "new canary", "size": 5}


@pytest.mark.parametrize("query", [{"size": 1}, {"email": "a@example.com"}, {"_id": {"$in": ["a", "b"]}}])
def test_an_encrypted_field_is_never_updated_in_plain(query: dict[str, Any], db: DatabaseManager) -> None:
    for update in (db.update_one, db.update_many):
        with pytest.raises(ValueError, match="name its document by _id"):
            update(THINGS, query, {"$set": {"email": "plain@example.com"}})


def test_a_ciphertext_that_was_moved_to_another_document_is_noticed(db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    victim = {**thing, "_id": unique("victim")}
    db.insert_many(THINGS, [thing, victim])
    stolen = database[THINGS].find_one({"_id": victim["_id"]})
    assert stolen is not None
    database[THINGS].update_one({"_id": thing["_id"]}, {"$set": {"profile": stolen["profile"]}})
    with pytest.raises(DecryptionError):
        db.find_one(THINGS, {"_id": thing["_id"]})
    database[THINGS].delete_one({"_id": thing["_id"]})


def test_a_collection_without_rules_is_stored_as_it_is(app_manager_factory: Factory, thing: dict[str, Any]) -> None:
    bare: DatabaseManager = app_manager_factory("database").database_manager
    bare.insert_one(THINGS, {**thing, "email": None})
    assert bare.find_one(THINGS, {"_id": thing["_id"]}) == {**thing, "email": None}
    bare.delete_one(THINGS, {"_id": thing["_id"]})


# Failures


def test_a_database_that_hangs_up_is_unavailable_without_the_drivers_words(db: DatabaseManager, database: Db) -> None:
    deadline.start(0.5)
    with failing(database, ["find"], closeConnection=True), pytest.raises(Unavailable) as refusal:
        db.find_one(THINGS, {"_id": "x"})
    assert type(refusal.value) is Unavailable
    assert "mongo" not in str(refusal.value.problem())


def test_a_slow_read_ends_with_the_requests_deadline(db: DatabaseManager, database: Db) -> None:
    deadline.start(0.3)
    # The fail point is only off again when the server has woken up, so the time is taken inside.
    with failing(database, ["find"], blockConnection=True, blockTimeMS=1000):
        began = time.monotonic()
        with pytest.raises(Unavailable):
            db.find_one(THINGS, {"_id": "x"})
        assert time.monotonic() - began < 0.8


def test_a_commit_whose_answer_is_lost_is_not_called_a_failure(db: DatabaseManager, database: Db, thing: dict[str, Any]) -> None:
    deadline.start(0.6)
    with failing(database, ["commitTransaction"], closeConnection=True), pytest.raises(OutcomeUnknown):
        db.insert_one(THINGS, thing)


def test_an_error_of_ours_is_not_dressed_up_as_an_outage(db: DatabaseManager) -> None:
    with pytest.raises(OperationFailure), db.errors():
        db.collection(THINGS).find_one({"$nonsense": 1})


def test_health_says_whether_it_can_write_and_when_it_cannot(db: DatabaseManager, database: Db) -> None:
    health = db.health_check()
    assert (health["status"], health["connection"], health["writable"]) == ("healthy", "ok", True)
    with failing(database, ["ping"], errorCode=91, errorLabels=[]):
        assert db.health_check()["status"] == "unhealthy"


def test_health_counts_connections_and_members(db: DatabaseManager) -> None:
    db.find_one(THINGS, {"_id": "x"})
    health = db.health_check()
    assert set(health["pools"]) == {READ_WRITE, READ_ONLY, ADMIN}
    assert health["pools"][READ_WRITE]["size"] >= 1
    # The sealer of the audit log may just be using one.
    eventually(lambda: db.health_check()["pools"][READ_WRITE]["in_use"] == 0, 5)
    assert health["members"] == {"primary": 1, "secondary": 0, "other": 0}
    assert health["latency_ms"] > 0


# What the seeds say, line by line


def test_loads_credentials(app_manager_factory: Factory, database: Db) -> None:
    """Of three users, each with connections of its own."""
    db: DatabaseManager = app_manager_factory("database").database_manager
    config = db.app_manager.config
    users = {READ_WRITE: "MONGODB_USER", READ_ONLY: "MONGODB_ANALYTICS_USER", ADMIN: "MONGODB_ADMIN_USER"}
    for role, setting in users.items():
        status = db.collection(THINGS, role).database.command("connectionStatus")
        assert [user["user"] for user in status["authInfo"]["authenticatedUsers"]] == [config[setting]]


def test_returns_inserted_ids(db: DatabaseManager) -> None:
    names = [unique("one"), unique("two")]
    assert db.insert_one(THINGS, {"_id": unique("id")}).startswith("id")
    assert db.insert_many(THINGS, [{"_id": name} for name in names]) == names


def test_returns_cursor_or_document(db: DatabaseManager, thing: dict[str, Any]) -> None:
    """A bounded list stands in for a cursor, which would hold a connection for as long as its reader likes."""
    db.insert_one(THINGS, thing)
    assert db.find_one(THINGS, {"_id": thing["_id"]}) == thing
    assert list(db.find_many(THINGS, {"_id": thing["_id"]})) == [thing]


def test_returns_update_result(db: DatabaseManager, thing: dict[str, Any]) -> None:
    db.insert_one(THINGS, thing)
    result = db.update_one(THINGS, {"_id": thing["_id"]}, {"$set": {"size": 2}})
    assert (result.matched_count, result.modified_count, result.acknowledged) == (1, 1, True)


def test_requires_admin_role(db: DatabaseManager, thing: dict[str, Any]) -> None:
    """Deleting does: the manager uses that user, and the server lets no other one do it."""
    db.insert_one(THINGS, thing)
    for role in (READ_WRITE, READ_ONLY):
        with pytest.raises(OperationFailure) as refusal:
            db.collection(THINGS, role).delete_one({"_id": thing["_id"]})
        assert refusal.value.code == UNAUTHORIZED
    assert db.delete_one(THINGS, {"_id": thing["_id"]}).deleted_count == 1


@pytest.mark.parametrize("name", APPEND_ONLY)
def test_what_is_append_only_is_changed_by_nobody_but_admin(name: str, db: DatabaseManager) -> None:
    for role in (READ_WRITE, READ_ONLY):
        with pytest.raises(OperationFailure) as refusal:
            db.collection(name, role).update_one({"_id": "x"}, {"$set": {"a": 1}})
        assert refusal.value.code == UNAUTHORIZED


def test_the_read_only_role_sees_the_public_side_of_users(db: DatabaseManager) -> None:
    user = {"_id": unique("u"), "username": unique("n"), "password_hash": "canary", "role": "user", "status": "active"}
    db.insert_one("users", user)
    assert db.find_one("users_public", {"_id": user["_id"]}, role=READ_ONLY) == {"_id": user["_id"], "role": "user", "status": "active"}
    db.delete_one("users", {"_id": user["_id"]})


# Values from outside


@pytest.mark.parametrize("injected", [{"$where": "1"}, {"$regex": ".*"}, {"$gt": {"$ne": None}}, ["a"], {"a": 1}])
def test_a_value_from_outside_cannot_become_an_operator(injected: Any, db: DatabaseManager, thing: dict[str, Any]) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: db.find_one(THINGS, {"_id": injected}),
        lambda: db.find_many(THINGS, {"size": injected}),
        lambda: db.update_one(THINGS, {"_id": injected}, {"$set": {"size": 1}}),
        lambda: db.update_many(THINGS, {"_id": injected}, {"$set": {"size": 1}}),
        lambda: db.delete_one(THINGS, {"_id": injected}),
        lambda: db.delete_many(THINGS, {"_id": injected}),
    ]
    for call in calls:
        with pytest.raises(UnsafeValue):
            call()


def test_a_look_up_is_by_text_alone(db: DatabaseManager) -> None:
    with pytest.raises(UnsafeValue, match="email: must be text"):
        db.find_one(THINGS, {"email": {"$ne": None}})


def test_a_document_with_operators_for_names_is_not_stored(db: DatabaseManager, thing: dict[str, Any]) -> None:
    with pytest.raises(UnsafeValue):
        db.insert_one(THINGS, {**thing, "note": {"$set": 1}})
    with pytest.raises(UnsafeValue):
        db.update_one(THINGS, {"_id": thing["_id"]}, {"$set": {"note": {"$inc": 1}}})


@pytest.mark.parametrize("update", [{"$push": {"profile": 1}}, {"$set": {"profile.name": "plain"}}, {"$min": {"email": "a@example.com"}}])
def test_a_part_of_an_encrypted_field_is_not_changed_in_plain(update: dict[str, Any], db: DatabaseManager) -> None:
    with pytest.raises(ValueError, match="is encrypted"):
        db.update_one(THINGS, {"_id": "x"}, update)


def test_a_read_has_always_a_limit(db: DatabaseManager) -> None:
    group = unique("group")
    db.insert_many(THINGS, [{"_id": f"{group}-{number:03d}", "group": group} for number in range(120)])
    assert len(db.find_many(THINGS, {"group": group})) == 100
    assert db.find_many(THINGS, {"group": group}, limit=0) == []
    for limit in (-1, 10_001):
        with pytest.raises(ValueError, match="limit"):
            db.find_many(THINGS, {"group": group}, limit=limit)
    db.delete_many(THINGS, {"group": group})


def test_a_private_field_comes_only_when_it_is_named(app_manager_factory: Factory, thing: dict[str, Any]) -> None:
    db: DatabaseManager = app_manager_factory("database", "encryption").database_manager
    db.declare_fields(THINGS, FieldRules(private=("hash",)))
    whole = {**thing, "hash": "canary"}
    named = {"_id": thing["_id"]}
    db.insert_one(THINGS, whole)
    assert db.find_one(THINGS, named) == thing
    assert db.find_many(THINGS, named) == [thing]
    assert db.find_one(THINGS, named, reveal=("hash",)) == whole
    assert db.find_one(THINGS, named, projection=("hash",)) == {**named, "hash": "canary"}
    assert db.find_one(THINGS, named, projection=("size",), reveal=("hash",)) == {**named, "size": 1, "hash": "canary"}
    with pytest.raises(UnsafeValue, match="hash: cannot be searched for"):
        db.find_one(THINGS, {"hash": {"$gt": ""}})
    db.delete_one(THINGS, named)


# The cache


class Query:
    """Answers `value`, and counts how often it was asked."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        return self.value


@pytest.mark.parametrize("value", [{"total": 5}, 0, [], "", False, None])
def test_a_cached_query_is_asked_once_whatever_its_result(value: Any, db: DatabaseManager) -> None:
    key, query = unique("query"), Query(value)
    assert [db.get_cached_query(key, query, ttl=60) for _ in range(3)] == [value] * 3
    assert query.asked == 1


WRITES: dict[str, Callable[[DatabaseManager, str], Any]] = {
    "insert": lambda db, name: db.insert_one("wallets", {"_id": f"{name}-2"}),
    "update": lambda db, name: db.update_one("wallets", {"_id": name}, {"$set": {"size": 2}}),
    "delete": lambda db, name: db.delete_one("wallets", {"_id": name}),
    "in a transaction": lambda db, name: db.transaction(lambda s: db.update_one("wallets", {"_id": name}, {"$set": {"size": 2}}, s)),
    "in bulk": lambda db, name: db.transaction(lambda s: db.update_rows("wallets", [({"_id": name}, {"$set": {"size": 2}})], s)),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_ends_what_is_cached_of_its_collection(write: str, app_manager_factory: Factory) -> None:
    db: DatabaseManager = app_manager_factory("database", "redis").database_manager
    db.declare_cached("wallets")
    name, key, query = unique("w"), unique("query"), Query(1)
    db.insert_one("wallets", {"_id": name})
    db.get_cached_query(key, query, tags=("wallets",))
    db.insert_one(THINGS, {"_id": name})
    db.get_cached_query(key, query, tags=("wallets",))
    assert query.asked == 1, "another collection's writes do not matter"
    WRITES[write](db, name)
    db.get_cached_query(key, query, tags=("wallets",))
    assert query.asked == 2
    db.delete_many("wallets", {"_id": {"$in": [name, f"{name}-2"]}})


def test_it_ends_after_the_commit_and_not_before(app_manager_factory: Factory) -> None:
    db: DatabaseManager = app_manager_factory("database", "redis").database_manager
    db.declare_cached("wallets")
    name, key = unique("w"), unique("query")

    def read() -> bool:
        return bool(db.get_cached_query(key, lambda: db.find_one("wallets", {"_id": name}) is not None, tags=("wallets",)))

    def work(session: Any) -> None:
        db.insert_one("wallets", {"_id": name}, session)
        assert read() is False, "nobody else sees it yet, and the cache has what they see"

    db.transaction(work)
    assert read() is True
    db.delete_one("wallets", {"_id": name})


def test_a_query_is_answered_while_redis_is_away(app_manager_factory: Factory, own_redis: RedisServer) -> None:
    db = app_manager_factory("database", "redis", REDIS_URL=own_redis.url).database_manager
    db.declare_cached(THINGS)
    own_redis.kill()
    assert [db.get_cached_query("key", lambda: 5) for _ in range(5)] == [5] * 5
    assert db.insert_one(THINGS, {"_id": unique("written")})


# Boot


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("mongodb://127.0.0.1:1/?replicaSet=rs0", "mongodb at 127.0.0.1:1: not reachable"),
        ("http://127.0.0.1", "MONGODB_URI cannot be used"),
        ("mongodb://user:hidden@127.0.0.1:1/?nonsense=%", "(MONGODB_URI cannot be used|not reachable)"),
        ("", "MONGODB_URI cannot be used"),
    ],
)
def test_an_address_that_cannot_be_used_stops_the_boot_by_name(uri: str, reason: str, app_manager_factory: Factory) -> None:
    with pytest.raises(BootError, match=reason) as refusal:
        app_manager_factory("database", MONGODB_URI=uri, MONGODB_TIMEOUT=0.2, MONGODB_CONNECT_SECONDS=0)
    assert "hidden" not in str(refusal.value)


@pytest.mark.parametrize("name", ["mongodb", "mongodb_analytics", "mongodb_admin"])
def test_a_wrong_password_stops_the_boot_and_names_its_secret(name: str, app_manager_factory: Factory, copied_secrets: Any) -> None:
    (copied_secrets / f"{name}_password").write_text("wrong-and-hidden")
    with pytest.raises(BootError, match=f"log-in refused .{name}_user and its password") as refusal:
        app_manager_factory("database", SECRETS_DIR=copied_secrets)
    assert "hidden" not in str(refusal.value)


def test_preparing_twice_changes_nothing(db: DatabaseManager, database: Db) -> None:
    def indexes() -> dict[str, Any]:
        return {name: database[name].index_information() for name in database.list_collection_names(filter={"type": "collection"})}

    before = indexes()
    db.prepare()
    db.prepare()
    assert indexes() == before


def test_a_disposed_manager_has_closed_its_pools(app_manager_factory: Factory) -> None:
    db: DatabaseManager = app_manager_factory("database").database_manager
    clients: list[MongoClient[Any]] = [each.client for each in db._roles.values()]
    db.dispose()
    assert len(clients) == 3
    assert all(client._closed for client in clients)


# Collections of plugins

OF_PLUGIN = {"shop_things": {"indexes": [{"name": "of_x", "key": {"x": 1}}]}, "shop_log": {"indexes": [], "append_only": True}}


@pytest.fixture
def with_plugin(db: DatabaseManager) -> Iterator[None]:
    db.declare_plugin_collections(OF_PLUGIN)
    db.prepare_plugin_collections(OF_PLUGIN)
    yield
    db.forget_plugin_collections(OF_PLUGIN)


def test_a_plugins_collection_has_a_database_of_its_own_and_takes_every_operation(db: DatabaseManager, with_plugin: None) -> None:
    name = unique("thing")
    db.insert_one("shop_things", {"_id": name, "x": 1})
    assert db.update_one("shop_things", {"_id": name}, {"$set": {"x": 2}}).modified_count == 1
    with db._roles[READ_WRITE].client.start_session() as session, session.start_transaction():
        db.insert_rows("shop_things", [{"_id": f"{name}-2", "x": 3}], session)
        assert db.update_rows("shop_things", [({"_id": f"{name}-2"}, {"$set": {"x": 4}})], session) == 1
    assert [row["x"] for row in db.find_many("shop_things", {"_id": {"$in": [name, f"{name}-2"]}}, limit=5)] == [2, 4]
    assert db.collection("shop_things").database.name.endswith("_plugins")
    assert db.delete_many("shop_things", {"_id": {"$in": [name, f"{name}-2"]}}).deleted_count == 2


def test_it_commits_with_ours_or_not_at_all(db: DatabaseManager, with_plugin: None) -> None:
    name = unique("thing")

    def work(session: Any) -> None:
        db.insert_one(THINGS, {"_id": name}, session)
        db.insert_one("shop_log", {"_id": name}, session)
        raise NotFound("on the way")

    with pytest.raises(NotFound):
        db.transaction(work)
    assert db.find_one(THINGS, {"_id": name}) is None
    assert db.find_one("shop_log", {"_id": name}) is None


def test_an_append_only_one_is_not_updated(db: DatabaseManager, with_plugin: None) -> None:
    for update in (db.update_one, db.update_many):
        with pytest.raises(ValueError, match=r"^shop_log is append-only$"):
            update("shop_log", {"_id": "x"}, {"$set": {"x": 1}})


def test_indexes_that_contradict_each_other_are_named(db: DatabaseManager, with_plugin: None) -> None:
    other = {"shop_things": {"indexes": [{"name": "of_x", "key": {"x": -1}}]}}
    with pytest.raises(BootError, match=r"^collections shop_things: MongoDB refuses them \(\d+\)$"):
        db.prepare_plugin_collections(other)
