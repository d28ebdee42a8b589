"""MongoDB fails at any command of a commit, once or for good: an error answer moved nothing, and only what nobody can know is unknown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pymongo.database import Database

from tests.support.at_once import at_once
from tests.support.client import unique
from tests.support.engines import Engines, running_engines
from tests.support.fail_points import fail_point
from tests.support.history import Record, faults
from tests.support.own_database import own_database
from tests.support.verbs import WALLETS_OF_EACH, Recorder, each_verb
from tools.local_stack import LocalStack

COMMIT_SECONDS = 0.6
CONFLICT = {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}
GONE = {"errorCode": 251, "errorLabels": ["TransientTransactionError"]}
CUT = {"closeConnection": True}
STOPPING, STEPPED_DOWN, OUT_OF_TIME = {"errorCode": 91}, {"errorCode": 189}, {"errorCode": 50}
NOT_REPLICATED = {"errorCode": 64}
HAPPENED = {"writeConcernError": {"code": 64, "errmsg": "it has happened all the same", "errInfo": {"wtimeout": True}}}
WORK = ("find", "insert", "update")


class Books:
    """An engine, wallets for each verb, and what was told of them."""

    def __init__(self, database: Database[dict[str, Any]], recorder: Recorder, wallets: list[str]) -> None:
        self.database = database
        self.root = database.client.admin
        self.recorder = recorder
        self.wallets = wallets

    def under(self, mode: Any, command: str, how: dict[str, Any]) -> list[Record]:
        """What the callers are told of each verb while `command` fails in this way."""
        wishes = each_verb(self.recorder, self.wallets)
        claims = self.claims()
        with fail_point(self.root, mode, failCommands=[command], **how) as end:
            records = at_once(len(wishes), lambda number: self.recorder.call(*wishes[number], client=number))
            assert end() > 0
        self.committed = self.claims() - claims
        return records

    def claims(self) -> int:
        return self.database["idempotency"].count_documents({})

    def assert_settled(self, records: list[Record], *, replayed: bool | None = None) -> None:
        """A retry with the same key tells the truth, and there is nothing else in the ledger."""
        for record in records:
            settled = self.recorder.insist(record)
            assert settled.is_done, settled
            assert replayed is None or settled.replayed == replayed
        assert faults(self.recorder.history, self.database, self.wallets) == []


@pytest.fixture(scope="module")
def engines(servers: LocalStack) -> Iterator[Engines]:
    name = unique("faults")
    environ = {**servers.environ, "MONGODB_DATABASE": name}
    with own_database(servers, name), running_engines(environ, count=1, commit_seconds=COMMIT_SECONDS) as engines:
        yield engines


@pytest.fixture
def books(engines: Engines, servers: LocalStack) -> Iterator[Books]:
    assert servers.mongod is not None
    with servers.mongod.client() as client:
        yield Books(client[engines.name], Recorder(engines.transport), [engines.open() for _ in range(WALLETS_OF_EACH)])


@pytest.mark.parametrize("command", [*WORK, "commitTransaction"])
def test_twenty_write_conflicts_in_a_row_cost_nothing_but_time(books: Books, command: str) -> None:
    records = books.under({"times": 20}, command, CONFLICT)
    assert all(record.is_done or record.status == 503 for record in records)
    books.assert_settled(records)


@pytest.mark.parametrize(
    ("command", "how"),
    [("find", CUT), ("insert", CUT), ("update", STOPPING), ("commitTransaction", CUT), ("commitTransaction", STEPPED_DOWN)],
)
def test_what_fails_once_is_repeated_unnoticed(books: Books, command: str, how: dict[str, Any]) -> None:
    books.assert_settled(books.under({"times": 1}, command, how))


@pytest.mark.parametrize(
    ("command", "how"),
    [("find", CONFLICT), ("update", CONFLICT), ("insert", CUT), ("commitTransaction", CONFLICT), ("commitTransaction", GONE)],
)
def test_what_cannot_have_happened_is_told_as_failed_and_moved_nothing(books: Books, command: str, how: dict[str, Any]) -> None:
    records = books.under("alwaysOn", command, how)
    codes = {record.code for record in records if record.status == 503}
    assert "unavailable" in codes
    # Where the time ends while a commit is on its way, nobody can know.
    assert codes <= ({"unavailable", "outcome-unknown"} if command == "commitTransaction" else {"unavailable"})
    assert all(record.status == 503 for record in records)
    assert books.committed == 0
    books.assert_settled(records, replayed=False)


@pytest.mark.parametrize(
    ("how", "happened"),
    [(CUT, False), (OUT_OF_TIME, False), (NOT_REPLICATED, False), (HAPPENED, True)],
    ids=["connection cut", "out of time", "not replicated", "happened all the same"],
)
def test_what_nobody_can_know_is_told_as_unknown_and_its_retry_tells(books: Books, how: dict[str, Any], happened: bool) -> None:
    records = books.under("alwaysOn", "commitTransaction", how)
    unknown = [record for record in records if record.code == "outcome-unknown"]
    failed = [record for record in records if record.code == "unavailable"]
    # A server whose connection broke is looked for first: a second commit may not have come to its end.
    assert len(unknown) + len(failed) == len(records)
    assert unknown
    assert books.committed == (len(unknown) if happened else 0)
    books.assert_settled(unknown, replayed=happened)
    books.assert_settled(failed, replayed=False)
