"""The chain of a log, be it the audit log or the ledger: every row gets its seal, once, and whoever touches a sealed row is found out."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from bson import ObjectId, Timestamp
from prometheus_client import REGISTRY
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from core import chain as chain_module
from core.audit import AUDIT, audit_entry
from core.chain import Chain, Log, Problem, head_of
from core.chain_sealer import ChainSealer
from core.lease import LeaseLost
from core.managers.database_manager import DatabaseManager
from core.modules.ledger_module.repository import LEDGER
from tests.support.commands import flask
from tests.support.in_process import Managers
from tools.error_handling.errors import OutcomeUnknown
from tools.local_stack import LocalStack
from utils.ids import new_id

Db = Database[dict[str, Any]]
EVER = Timestamp(2**32 - 2, 0)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A database of our own: the rows that are spoilt here are nobody else's."""
    folder = tmp_path_factory.mktemp("audit")
    with LocalStack(folder / "data", folder / "secrets", test_commands=True) as running:
        yield running


@pytest.fixture(scope="module")
def database(stack: LocalStack) -> Iterator[Db]:
    assert stack.mongod is not None
    with stack.mongod.client() as client:
        yield client[stack.environ["MONGODB_DATABASE"]]


@pytest.fixture(scope="module")
def db(stack: LocalStack) -> Iterator[DatabaseManager]:
    # Nothing is sealed behind the tests' backs.
    managers = Managers({**stack.environ, "AUDIT_SEAL_SECONDS": "3600"}, "database")
    yield managers.database_manager
    managers.dispose()


@pytest.fixture(params=[AUDIT, LEDGER], ids=lambda log: log.rows)
def log(request: pytest.FixtureRequest) -> Log:
    """What is true of one chain is true of the other."""
    sealed: Log = request.param
    return sealed


@pytest.fixture
def chain(db: DatabaseManager, database: Db, log: Log, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """An empty log; seals of three rows each."""
    monkeypatch.setattr(chain_module, "SEAL_ROWS", 3)
    monkeypatch.setattr("core.chain_sealer.SEAL_ROWS", 3)
    for name in (log.rows, log.seals, "leases"):
        database[name].delete_many({})
    return Chain(db, log)


def unfenced(_session: ClientSession) -> None:
    """A seal without a lease."""


def row_of(log: Log, target: str) -> dict[str, Any]:
    """Anything that could be a row of `log`; the server stamps it."""
    row = audit_entry("things.insert", target)
    return row if log is AUDIT else {**row, "_id": new_id("tx")}


def write(chain: Chain, count: int) -> list[Any]:
    """`count` rows in one commit; their ids."""
    rows = [row_of(chain.log, f"t{number}") for number in range(count)]
    db = chain._database
    db.transaction(lambda session: db.insert_rows(chain.log.rows, rows, session))
    return [row["_id"] for row in rows]


def seal_all(chain: Chain) -> None:
    while chain.seal(EVER, unfenced):
        pass


# Sealing


def test_each_row_is_sealed_once_in_the_order_in_which_the_server_took_it(chain: Chain, db: DatabaseManager, database: Db) -> None:
    ids = write(chain, 4) + write(chain, 4)
    seal_all(chain)
    seals = list(database[chain.log.seals].find().sort("_id"))
    assert [row_id for seal in seals for row_id in seal["ids"]] == ids
    assert [(seal["_id"], seal["first"], seal["count"]) for seal in seals] == [(1, 1, 3), (2, 4, 3), (3, 7, 2)]
    assert chain.seal(EVER, unfenced) == 0
    report = chain.verify()
    assert report.problems == []
    assert (report.ok, report.rows, report.unsealed) == (True, 8, 0)
    assert report.head == head_of(seals[-1])


def test_an_empty_log_is_intact(chain: Chain) -> None:
    report = chain.verify()
    assert (report.ok, report.rows, report.head) == (True, 0, f"0:{'00' * 32}")


def test_the_clock_of_the_one_who_writes_plays_no_part(chain: Chain, db: DatabaseManager) -> None:
    """A host whose clock is years behind makes ids and dates that lie before rows that were sealed long ago."""
    write(chain, 2)
    seal_all(chain)
    first_of_all = ObjectId("000000010000000000000000") if chain.log is AUDIT else "tx_0"
    late = {**row_of(chain.log, "late"), "_id": first_of_all, "created_at": None}
    db.transaction(lambda session: db.insert_rows(chain.log.rows, [late], session))
    seal_all(chain)
    assert (chain.verify().ok, chain.verify().rows) == (True, 3)


def test_a_row_that_commits_late_is_not_missed(chain: Chain, db: DatabaseManager) -> None:
    """Its stamp is older than that of rows that are visible already: the sealer waits until nothing can be under way any more."""
    now = [0.0]
    sealer = ChainSealer(db, chain.log, delay=100.0, clock=lambda: now[0])
    written, commit = threading.Event(), threading.Event()

    def slow(session: ClientSession) -> None:
        db.insert_rows(chain.log.rows, [row_of(chain.log, "slow")], session)
        written.set()
        assert commit.wait(4)

    thread = threading.Thread(target=lambda: db.transaction(slow))
    thread.start()
    assert written.wait(4)
    write(chain, 2)
    try:
        assert sealer.tick() == 0
        now[0] = 99.0
        assert sealer.tick() == 0
    finally:
        commit.set()
        thread.join()
    now[0] = 199.5
    assert sealer.tick() == 3
    assert chain.verify().ok
    sealer.stop()


def test_of_many_sealers_one_seals_and_the_next_goes_on_when_it_stops(chain: Chain, db: DatabaseManager) -> None:
    first, second = ChainSealer(db, chain.log, delay=0), ChainSealer(db, chain.log, delay=0)
    write(chain, 7)
    assert [first.tick(), second.tick()] == [7, 0]
    write(chain, 2)
    first.stop()
    assert second.tick() == 2
    second.stop()
    assert (chain.verify().ok, chain.verify().rows) == (True, 9)


def test_a_sealer_that_slept_over_its_lease_writes_nothing(chain: Chain, db: DatabaseManager, database: Db) -> None:
    sleeper, awake = ChainSealer(db, chain.log, delay=0), ChainSealer(db, chain.log, delay=0)
    write(chain, 2)
    assert sleeper._lease.take()
    database["leases"].update_one({"_id": chain.log.lease}, {"$currentDate": {"expires_at": True}})
    assert awake._lease.take()
    with pytest.raises(LeaseLost):
        sleeper._seal(EVER)
    assert database[chain.log.seals].count_documents({}) == 0
    assert awake._seal(EVER) == 2
    awake.stop()


def test_two_seals_cannot_follow_the_same_one(chain: Chain, db: DatabaseManager) -> None:
    """Without any lease: the number of a seal is taken once."""
    write(chain, 2)

    def meanwhile(_session: ClientSession) -> None:
        if not chain.last_seal():
            chain.seal(EVER, unfenced)

    with pytest.raises(DuplicateKeyError):
        chain.seal(EVER, meanwhile)
    assert chain.verify().ok


@pytest.mark.parametrize("command", ["insert", "commitTransaction"])
def test_a_seal_whose_fate_is_unknown_leaves_no_gap_and_no_twin(command: str, chain: Chain, db: DatabaseManager, database: Db) -> None:
    write(chain, 5)
    data = {"failCommands": [command], "appName": "credit-system-read_write", "closeConnection": True}
    database.client.admin.command({"configureFailPoint": "failCommand", "mode": {"times": 2}, "data": data})
    try:
        chain.seal(EVER, unfenced)
    except OutcomeUnknown:
        pass
    finally:
        database.client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})
    seal_all(chain)
    assert (chain.verify().ok, chain.verify().rows) == (True, 5)


def test_a_thousand_rows_are_one_round_trip(chain: Chain, db: DatabaseManager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain_module, "SEAL_ROWS", 1000)
    write(chain, 1500)
    assert [chain.seal(EVER, unfenced), chain.seal(EVER, unfenced)] == [1000, 500]
    assert (chain.verify().ok, chain.verify().rows) == (True, 1500)


# Tampering


def change(database: Db, log: Log, ids: list[Any]) -> None:
    database[log.rows].update_one({"_id": ids[3]}, {"$set": {"actor_id": "u_innocent"}})


def change_type(database: Db, log: Log, ids: list[Any]) -> None:
    database[log.rows].update_one({"_id": ids[3]}, {"$unset": {"target": ""}})


def change_stamp(database: Db, log: Log, ids: list[Any]) -> None:
    database[log.rows].update_one({"_id": ids[3]}, {"$set": {"stamp": EVER}})


def delete(database: Db, log: Log, ids: list[Any]) -> None:
    database[log.rows].delete_one({"_id": ids[3]})


def insert(database: Db, log: Log, ids: list[Any]) -> None:
    stamp = database[log.rows].find_one({"_id": ids[2]})["stamp"]  # type: ignore[index]
    database[log.rows].insert_one({**row_of(log, "forged"), "_id": "forged", "stamp": stamp})


def insert_without_stamp(database: Db, log: Log, ids: list[Any]) -> None:
    row = row_of(log, "forged")
    del row["stamp"]
    database[log.rows].insert_one({**row, "_id": "forged"})


def swap(database: Db, log: Log, ids: list[Any]) -> None:
    a, b = (database[log.rows].find_one({"_id": ids[index]}) for index in (3, 4))
    assert a is not None
    assert b is not None
    database[log.rows].replace_one({"_id": ids[3]}, {**b, "_id": ids[3], "stamp": a["stamp"]})


def delete_seal(database: Db, log: Log, ids: list[Any]) -> None:
    database[log.seals].delete_one({"_id": 2})


def forge_seal(database: Db, log: Log, ids: list[Any]) -> None:
    database[log.seals].update_one({"_id": 2}, {"$set": {"prev": bytes(32)}})


@pytest.mark.parametrize(
    ("tamper", "kind", "seq"),
    [
        (change, "changed", 4),
        (change_type, "changed", 4),
        (change_stamp, "changed", 4),
        (swap, "changed", 4),
        (delete, "deleted", 4),
        (insert, "inserted", 3),
        (insert_without_stamp, "inserted", 9),
        (delete_seal, "seal deleted", 4),
        (forge_seal, "seal changed", 4),
    ],
)
def test_the_first_bad_row_is_named(
    tamper: Callable[[Db, Log, list[Any]], None], kind: str, seq: int, chain: Chain, db: DatabaseManager, database: Db
) -> None:
    ids = write(chain, 8)
    seal_all(chain)
    tamper(database, chain.log, ids)
    report = chain.verify()
    row = {"inserted": "forged", "changed": str(ids[3]), "deleted": str(ids[3])}.get(kind)
    assert report.problems[0] == Problem(kind, seq, row)
    assert len(report.problems) == 1 or kind.startswith("seal"), "one bad row does not spoil the others"


def test_a_tail_that_was_cut_off_with_its_seals_is_missed_by_an_anchor(chain: Chain, db: DatabaseManager, database: Db) -> None:
    ids = write(chain, 8)
    seal_all(chain)
    anchor = chain.verify().head
    assert chain.verify(anchor=anchor).ok
    database[chain.log.rows].delete_many({"_id": {"$in": ids[6:]}})
    database[chain.log.seals].delete_one({"_id": 3})
    assert chain.verify().ok, "by itself the rest is a chain"
    assert chain.verify(anchor=anchor).problems == [Problem("deleted", 8)]


def test_a_chain_that_was_made_anew_is_not_the_one_of_the_anchor(chain: Chain, db: DatabaseManager, database: Db) -> None:
    ids = write(chain, 4)
    seal_all(chain)
    anchor = chain.verify().head
    change(database, chain.log, ids)
    database[chain.log.seals].delete_many({})
    seal_all(chain)
    write(chain, 4)
    seal_all(chain)
    assert chain.verify().ok
    assert chain.verify(anchor=anchor).problems == [Problem("changed", 4)]


@pytest.mark.parametrize("anchor", ["x", "1:zz", "1", "1:00"])
def test_an_anchor_that_is_none_is_refused(anchor: str, chain: Chain) -> None:
    with pytest.raises(ValueError):
        chain.verify(anchor=anchor)


def test_the_sealer_looks_again_at_what_it_sealed(chain: Chain, db: DatabaseManager, database: Db) -> None:
    def gauge(name: str) -> float:
        value = REGISTRY.get_sample_value(f"credit_{'audit' if chain.log is AUDIT else 'ledger'}_{name}")
        assert value is not None
        return value

    sealer = ChainSealer(db, chain.log, delay=0)
    ids = write(chain, 5)
    for _ in range(4):
        sealer.tick()
    assert gauge("chain_ok") == 1
    assert gauge("unsealed_rows") == 0
    assert gauge("last_sealed_timestamp_seconds") > 0
    change(database, chain.log, ids)
    for _ in range(3):
        sealer.tick()
    assert gauge("chain_ok") == 0
    sealer.stop()


def test_progress_is_told(chain: Chain, db: DatabaseManager) -> None:
    write(chain, 7)
    seal_all(chain)
    told: list[tuple[int, int]] = []
    chain.verify(lambda done, total: told.append((done, total)))
    assert told == [(3, 7), (6, 7), (7, 7)]


# flask audit verify


@pytest.mark.parametrize("log", [AUDIT], indirect=True)
def test_the_command_says_it_by_its_exit_code_too(
    chain: Chain, db: DatabaseManager, database: Db, stack: LocalStack, tmp_path: Path
) -> None:
    ids = write(chain, 5)
    seal_all(chain)
    fine = flask(stack.environ, tmp_path, "audit", "verify", "--json")
    assert fine.returncode == 0, fine.stderr
    report = chain.verify()
    assert json.loads(fine.stdout) == {"ok": True, **asdict(report)}
    delete(database, chain.log, ids)
    broken = flask(stack.environ, tmp_path, "audit", "verify", "--anchor", report.head)
    assert broken.returncode == 1
    assert broken.stdout.splitlines()[0] == "BROKEN: 5 rows sealed, 0 wait for their seal"
    assert broken.stdout.splitlines()[2] == f"deleted: row {ids[3]}, number 4"
