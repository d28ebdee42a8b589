"""Nested encrypted fields: stored and changed without a word of them in plain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.database import Database

from core.contracts import FieldRules
from tests.core.conftest import Factory
from tests.support.in_process import Managers
from tests.support.own_database import own_database
from tools.error_handling.errors import AppError
from tools.local_stack import LocalStack

NAME = "wallets"
RULES = FieldRules(lookup=("contact.login",), sealed=("contact.phone", "addresses.street"))


@pytest.fixture(scope="module")
def stored(servers: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    with own_database(servers, "nested_fields") as database:
        yield database


@pytest.fixture(scope="module")
def managers(app_manager_factory: Factory, stored: Database[dict[str, Any]]) -> Managers:
    started = app_manager_factory("database", "encryption", MONGODB_DATABASE=stored.name)
    started.database_manager.declare_fields(NAME, RULES)
    return started


@pytest.fixture
def document(managers: Managers, stored: Database[dict[str, Any]]) -> dict[str, Any]:
    stored[NAME].delete_many({})
    addresses = [{"street": "canary A", "city": "X"}, {"city": "Y"}]
    made = {"_id": "w_1", "contact": {"login": "canary", "phone": "canary 1", "kind": "mobile"}, "addresses": addresses}
    managers.database_manager.insert_one(NAME, made)
    return made


def test_they_are_found_and_read_and_lie_there_encrypted(
    managers: Managers, stored: Database[dict[str, Any]], document: dict[str, Any]
) -> None:
    assert "canary" not in str(stored[NAME].find_one())
    assert managers.database_manager.find_one(NAME, {"contact.login": "canary"}) == document


@pytest.mark.parametrize(
    "change",
    [
        {"contact.phone": "canary 2"},
        {"contact": {"login": "canary2", "phone": "canary 2"}},
        {"addresses": [{"street": "canary B"}, {"street": "canary C"}]},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_change_of_one_or_of_what_it_lies_in_is_encrypted(
    managers: Managers, stored: Database[dict[str, Any]], document: dict[str, Any], change: dict[str, Any]
) -> None:
    managers.database_manager.update_one(NAME, {"_id": "w_1"}, {"$set": change})
    assert "canary" not in str(stored[NAME].find_one())
    assert "canary" in str(managers.database_manager.find_one(NAME, {"_id": "w_1"}))
    with pytest.raises(ValueError, match="by _id"):
        managers.database_manager.update_many(NAME, {}, {"$set": change})


@pytest.mark.parametrize(
    "update",
    [
        {"$set": {"addresses.0.street": "canary"}},
        {"$set": {"addresses.$[].street": "canary"}},
        {"$set": {"contact.phone.area": "canary"}},
        {"$push": {"addresses": {"street": "canary"}}},
        {"$setOnInsert": {"contact.phone": "canary"}},
    ],
    ids=str,
)
def test_a_change_that_could_not_be_encrypted_is_refused(
    managers: Managers, stored: Database[dict[str, Any]], document: dict[str, Any], update: dict[str, Any]
) -> None:
    with pytest.raises((ValueError, AppError)):
        managers.database_manager.update_one(NAME, {"_id": "w_1"}, update)
    assert "canary" not in str(stored[NAME].find_one())


def test_their_neighbours_can_be_changed_as_ever(managers: Managers, document: dict[str, Any]) -> None:
    managers.database_manager.update_one(NAME, {"_id": "w_1"}, {"$set": {"contact.kind": "home"}, "$unset": {"contact.phone": ""}})
    found = managers.database_manager.find_one(NAME, {"_id": "w_1"})
    assert found is not None
    assert found["contact"] == {"login": "canary", "kind": "home"}
