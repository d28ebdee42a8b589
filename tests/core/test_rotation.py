"""Rotation: everything under the newest key, nothing lost, while others write; and what cannot be read is named."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId
from pymongo.database import Database

from core.contracts import DecryptionError, FieldRules
from core.rotation import Rotation, Tally
from tests.core.conftest import Factory
from tests.support.in_process import Managers
from tests.support.own_database import own_database
from tools.local_stack import LocalStack

OLD, NEW = "old key material of 32 characters", "new key material of 32 characters"
RINGS = {"old": [OLD], "not yet promoted": [OLD, NEW], "both": [NEW, OLD], "new": [NEW]}
RULES = FieldRules(lookup=("login",), sealed=("profile", "contact.phone", "addresses.street"))
# A collection that may be updated, and that has no unique index on these.
NAME = "wallets"

Workers = dict[str, Managers]


@pytest.fixture(scope="module")
def stored(servers: LocalStack) -> Iterator[Database[dict[str, Any]]]:
    with own_database(servers, "rotation_in_process") as database:
        yield database


@pytest.fixture(scope="module")
def workers(app_manager_factory: Factory, stored: Database[dict[str, Any]], rings: Callable[[list[str]], Path]) -> Workers:
    """By name of its ring, what a worker with it is."""
    made = {}
    for name, keys in RINGS.items():
        made[name] = app_manager_factory("database", "encryption", SECRETS_DIR=rings(keys), MONGODB_DATABASE=stored.name)
        made[name].database_manager.declare_fields(NAME, RULES)
        made[name].database_manager.declare_fields("users", FieldRules(lookup=("username",)))
    return made


@pytest.fixture(autouse=True)
def empty(stored: Database[dict[str, Any]]) -> None:
    for name in (NAME, "users", "audit_logs"):
        stored[name].delete_many({})


def document(number: int) -> dict[str, Any]:
    return {
        "_id": f"d_{number:05}",
        "login": f"ann{number}@example.com",
        "profile": {"name": f"Ann {number}"},
        "contact": {"phone": f"+49 {number}", "kind": "mobile"},
        "addresses": [{"street": f"{number} Main St", "city": "X"}, {"city": "Y"}, {"street": f"{number} Side St"}],
        "plain": number,
    }


def fill(worker: Managers, count: int) -> list[dict[str, Any]]:
    documents = [document(number) for number in range(count)]
    worker.database_manager.insert_many(NAME, documents)
    return documents


def read_by(worker: Managers) -> list[dict[str, Any]]:
    """All documents, with the nested fields opened too."""
    rows = worker.database_manager.on_collection(NAME, lambda driver: list(driver.find().sort("_id", 1)))
    return [opened(worker, row) for row in rows]


def opened(worker: Managers, row: dict[str, Any]) -> dict[str, Any]:
    encryption = worker.encryption_manager
    plain = encryption.decrypt_fields(row, RULES.sealed, f"{NAME}/{row['_id']}")
    return {**plain, "login": encryption.decrypt_lookup(row["login"], f"{NAME}.login")}


def rotated(worker: Managers, batch_size: int = 7) -> Tally:
    return Rotation(worker, batch_size).rotate(NAME, lambda looked_at: None)  # type: ignore[arg-type]


def counted(worker: Managers) -> Tally:
    return Rotation(worker, 7).count(NAME, lambda looked_at: None)  # type: ignore[arg-type]


def test_after_it_the_newest_key_alone_opens_everything(workers: Workers, stored: Database[dict[str, Any]]) -> None:
    documents = fill(workers["old"], 30)
    before = {row["_id"]: row for row in stored[NAME].find()}
    tally = rotated(workers["both"])
    assert (tally.documents, tally.fields, tally.rewritten, tally.left, tally.unreadable) == (30, 150, 150, 0, [])
    assert read_by(workers["new"]) == documents
    for row in stored[NAME].find():
        assert row["login"] != before[row["_id"]]["login"]
        assert row["addresses"][0]["street"] != before[row["_id"]]["addresses"][0]["street"]
    with pytest.raises(DecryptionError):
        read_by(workers["old"])


def test_a_second_time_there_is_nothing_to_do(workers: Workers, stored: Database[dict[str, Any]]) -> None:
    fill(workers["old"], 10)
    rotated(workers["both"])
    before = list(stored[NAME].find())
    tally = rotated(workers["both"])
    assert (tally.fields, tally.rewritten, tally.left) == (50, 0, 0)
    assert list(stored[NAME].find()) == before


def test_counting_changes_nothing_and_knows_which_key_wrote_what(workers: Workers, stored: Database[dict[str, Any]]) -> None:
    fill(workers["old"], 10)
    before = list(stored[NAME].find())
    assert counted(workers["both"]).left == 50
    assert counted(workers["not yet promoted"]).left == 0
    assert list(stored[NAME].find()) == before
    workers["both"].database_manager.update_one(NAME, {"_id": "d_00003"}, {"$set": {"profile": {"name": "Bea"}}})
    assert counted(workers["both"]).left == 49


def test_every_batch_that_changes_something_leaves_an_audit_entry_without_values(
    workers: Workers, stored: Database[dict[str, Any]]
) -> None:
    fill(workers["old"], 20)
    rotated(workers["both"], batch_size=8)
    entries = list(stored.audit_logs.find({"action": "keys.rotate"}).sort("_id", 1))
    assert [(entry["documents"], entry["first"], entry["last"]) for entry in entries] == [
        (8, "d_00000", "d_00007"),
        (8, "d_00008", "d_00015"),
        (4, "d_00016", "d_00019"),
    ]
    assert all(entry["target"] == NAME for entry in entries)
    assert "Ann" not in str(entries)


def test_a_change_between_reading_and_writing_is_not_overwritten(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a worker that still writes under the old key, so that the value has to be seen to once more."""
    fill(workers["old"], 5)
    replace, late = Rotation._replace, iter(["changed meanwhile"])

    def change_first(self: Rotation, *args: Any) -> int:
        for name in late:
            workers["not yet promoted"].database_manager.update_one(NAME, {"_id": "d_00002"}, {"$set": {"profile": {"name": name}}})
        return replace(self, *args)

    monkeypatch.setattr(Rotation, "_replace", change_first)
    tally = rotated(workers["both"])
    assert (tally.rewritten, tally.left) == (25, 0)
    assert read_by(workers["new"])[2]["profile"] == {"name": "changed meanwhile"}


def test_nothing_is_lost_while_others_write_under_either_key(workers: Workers) -> None:
    documents = fill(workers["old"], 60)
    ended = threading.Event()
    written: dict[str, list[int]] = {"not yet promoted": [], "both": []}

    def write(name: str, start: int) -> None:
        number = start
        while not ended.is_set():
            target = documents[number % 60]["_id"]
            workers[name].database_manager.update_one(NAME, {"_id": target}, {"$set": {"profile": {"by": name, "number": number}}})
            written[name].append(number)
            number += 2

    # Even documents by the one, odd ones by the other.
    writers = [threading.Thread(target=write, args=(name, start)) for start, name in enumerate(written)]
    for writer in writers:
        writer.start()
    rotated(workers["both"], batch_size=5)
    ended.set()
    for writer in writers:
        writer.join()
    assert rotated(workers["both"]).left == 0
    assert all(written.values())
    expected = {number % 60: {"by": name, "number": number} for name, numbers in written.items() for number in numbers}
    for number, row in enumerate(read_by(workers["new"])):
        assert row["profile"] == expected.get(number, {"name": f"Ann {number}"})
        assert row["login"] == f"ann{number}@example.com"


def test_what_nobody_can_read_is_named_and_the_rest_is_done(workers: Workers, stored: Database[dict[str, Any]]) -> None:
    documents = fill(workers["old"], 10)
    row = stored[NAME].find_one({"_id": "d_00004"})
    assert row is not None
    # Somebody who can write to the database swaps a value in, another plain text, and another nonsense.
    stored[NAME].update_one({"_id": "d_00005"}, {"$set": {"profile": row["profile"]}})
    stored[NAME].update_one({"_id": "d_00006"}, {"$set": {"addresses.2.street": "plain"}})
    stored[NAME].update_one({"_id": "d_00007"}, {"$set": {"login": "plain", "contact.phone": {"not": "a token"}}})
    tally = rotated(workers["both"])
    assert sorted(tally.unreadable) == [
        ("d_00005", "profile"),
        ("d_00006", "addresses.2.street"),
        ("d_00007", "contact.phone"),
        ("d_00007", "login"),
    ]
    assert (tally.rewritten, tally.left) == (46, 4)
    good = stored[NAME].find_one({"_id": "d_00004"})
    assert good is not None
    assert opened(workers["new"], good) == documents[4]


def test_two_records_that_claim_one_unique_name_are_named(workers: Workers, stored: Database[dict[str, Any]]) -> None:
    old, new = (workers[name].encryption_manager.encrypt_lookup("ann", "users.username") for name in ("old", "new"))
    stored.users.insert_many([{"_id": "u_1", "username": old}, {"_id": "u_2", "username": new}])
    tally = Rotation(workers["both"]).rotate("users", lambda looked_at: None)  # type: ignore[arg-type]
    assert (tally.unreadable, tally.rewritten, tally.left) == ([("u_1", "username")], 0, 1)


def test_it_finds_the_collections_that_declared_fields(workers: Workers) -> None:
    rotation = Rotation(workers["both"])  # type: ignore[arg-type]
    assert rotation.collections() == ["users", NAME]
    fill(workers["old"], 3)
    assert rotation.size(NAME) == 3


def test_documents_without_the_fields_are_passed_over(workers: Workers, stored: Database[dict[str, Any]]) -> None:
    stored[NAME].insert_many([{"_id": str(ObjectId()), "profile": None, "addresses": [], "contact": "a word"} for _ in range(9)])
    tally = rotated(workers["both"])
    assert (tally.documents, tally.fields, tally.left) == (9, 0, 0)
