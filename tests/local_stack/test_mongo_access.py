"""The three users of the database: what each may do, and what it may not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from tools.local_stack import LocalStack
from utils.collections import apply_collections, load_collections, plugin_database

UNAUTHORIZED = 13
LISTED = load_collections()
APPEND_ONLY = [name for name, options in LISTED["collections"].items() if options.get("append_only")]
MUTABLE = [name for name in LISTED["collections"] if name not in APPEND_ONLY]
PRIVATE = [name for name, options in LISTED["collections"].items() if options.get("private")]

Db = Database[dict[str, Any]]
Connect = Callable[[str], Db]


@pytest.fixture(scope="module")
def connect(stack: LocalStack) -> Iterator[Connect]:
    """The database as one of the three users sees it: `mongodb`, `mongodb_analytics` or `mongodb_admin`."""
    clients: list[MongoClient[dict[str, Any]]] = []

    def connect(who: str) -> Db:
        user, password = stack.secrets[f"{who}_user"], stack.secrets[f"{who}_password"]
        clients.append(MongoClient(stack.environ["MONGODB_URI"], username=user, password=password))
        return clients[-1][stack.environ["MONGODB_DATABASE"]]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def application(connect: Connect) -> Db:
    return connect("mongodb")


@pytest.fixture(scope="module")
def analytics(connect: Connect) -> Db:
    return connect("mongodb_analytics")


@pytest.fixture(scope="module")
def admin(connect: Connect) -> Db:
    return connect("mongodb_admin")


def refused(action: Callable[[], object]) -> bool:
    with pytest.raises(OperationFailure) as refusal:
        action()
    return refusal.value.code == UNAUTHORIZED


@pytest.mark.parametrize("name", LISTED["collections"])
def test_the_application_reads_and_inserts_everywhere_and_deletes_nowhere(application: Db, name: str) -> None:
    application[name].insert_one({"_id": f"insert-{name}", "username": name, "email": name})
    assert application[name].find_one({"_id": f"insert-{name}"})
    assert refused(lambda: application[name].delete_one({"_id": f"insert-{name}"}))


@pytest.mark.parametrize("name", APPEND_ONLY)
def test_the_application_cannot_change_what_is_append_only(application: Db, name: str) -> None:
    assert refused(lambda: application[name].update_one({}, {"$set": {"amount": 1}}))
    assert refused(lambda: application[name].replace_one({}, {}))
    assert refused(lambda: application[name].find_one_and_update({}, {"$set": {"amount": 1}}))


@pytest.mark.parametrize("name", MUTABLE)
def test_the_application_updates_the_rest(application: Db, name: str) -> None:
    fields = {"username": f"{name}-2", "email": f"{name}-2"}
    application[name].update_one({"_id": f"update-{name}"}, {"$set": fields}, upsert=True)
    assert application[name].find_one({"_id": f"update-{name}"})


def test_the_application_cannot_drop_or_rename(application: Db) -> None:
    assert refused(lambda: application.drop_collection("entries"))
    assert refused(lambda: application["entries"].rename("elsewhere"))
    assert refused(lambda: application["entries"].drop_index("_id_"))


def test_the_application_commits_a_transaction_over_several_collections(application: Db) -> None:
    def post(session: Any) -> None:
        application["wallets"].insert_one({"_id": "w1", "settled": 5}, session=session)
        application["entries"].insert_one({"_id": "w1:000000000001", "amount": 5}, session=session)
        application["wallets"].update_one({"_id": "w1"}, {"$inc": {"settled": 1}}, session=session)

    with application.client.start_session() as session:
        session.with_transaction(post)
    assert application["wallets"].find_one({"_id": "w1"}) == {"_id": "w1", "settled": 6}


@pytest.mark.parametrize("name", LISTED["collections"])
def test_analytics_writes_nowhere(analytics: Db, name: str) -> None:
    assert refused(lambda: analytics[name].insert_one({}))
    assert refused(lambda: analytics[name].update_one({}, {"$set": {"a": 1}}))
    assert refused(lambda: analytics[name].delete_one({}))


@pytest.mark.parametrize("name", PRIVATE)
def test_analytics_cannot_read_what_is_private(analytics: Db, name: str) -> None:
    assert refused(analytics[name].find_one)
    joined = [{"$lookup": {"from": name, "pipeline": [], "as": "stolen"}}]
    assert refused(lambda: list(analytics["wallets"].aggregate(joined)))


def test_analytics_sees_public_fields_of_users_only(application: Db, analytics: Db) -> None:
    user = {"_id": "u1", "username": "secret", "email": "secret", "password_hash": "secret", "role": "user"}
    application["users"].insert_one({**user, "status": "active", "created_at": 1})
    seen = analytics["users_public"].find_one({"_id": "u1"})
    assert seen == {"_id": "u1", "role": "user", "status": "active", "created_at": 1}


def test_admin_deletes_and_makes_indexes(admin: Db) -> None:
    admin["entries"].insert_one({"_id": "gone"})
    assert admin["entries"].delete_one({"_id": "gone"}).deleted_count == 1
    admin["entries"].create_index("amount", name="trial")
    admin["entries"].drop_index("trial")


def test_admin_has_no_other_database(admin: Db) -> None:
    assert refused(lambda: admin.client["other"]["things"].insert_one({}))


def of_plugins(database: Db) -> Db:
    return database.client[plugin_database(database.name)]


def test_the_application_inserts_and_updates_what_plugins_bring_and_deletes_nothing(application: Db) -> None:
    things = of_plugins(application)["shop_things"]
    things.insert_one({"_id": "t1"})
    things.update_one({"_id": "t1"}, {"$set": {"a": 1}})
    assert things.find_one({"_id": "t1"}) == {"_id": "t1", "a": 1}
    assert refused(lambda: things.delete_one({"_id": "t1"}))
    assert refused(things.drop)


def test_admin_deletes_and_indexes_what_plugins_bring(admin: Db) -> None:
    things = of_plugins(admin)["shop_things"]
    things.create_index("a", name="trial")
    things.insert_one({"_id": "t2"})
    assert things.delete_one({"_id": "t2"}).deleted_count == 1


def test_analytics_sees_nothing_of_what_plugins_bring(analytics: Db) -> None:
    assert refused(of_plugins(analytics)["shop_things"].find_one)


def test_the_list_can_be_applied_again_by_admin(admin: Db) -> None:
    before = {name: admin[name].index_information() for name in LISTED["collections"]}
    apply_collections(admin)
    assert {name: admin[name].index_information() for name in LISTED["collections"]} == before
    for name, options in LISTED["collections"].items():
        assert {index["name"] for index in options["indexes"]} | {"_id_"} == set(before[name])


def test_names_of_users_are_unique_and_erased_ones_do_not_collide(application: Db) -> None:
    application["users"].insert_one({"username": "taken", "email": "one"})
    with pytest.raises(DuplicateKeyError):
        application["users"].insert_one({"username": "taken", "email": "two"})
    application["users"].insert_many([{"status": "erased"}, {"status": "erased"}])
