"""Migrations: in order, once, by one process, between two batches if need be; and the first one of the product."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bson import Timestamp
from pymongo.database import Database

from core.audit import AUDIT, audit_entry
from core.chain import Chain
from core.chain_sealer import ChainSealer
from core.lease import Lease, LeaseLost, LeaseTaken, hold_lease
from core.managers.database_manager import DatabaseManager
from core.migrations import runner
from core.migrations.migration import Migration, Progress
from core.migrations.registry import MIGRATIONS
from core.migrations.runner import APPLIED, CHANGED, PENDING, MigrationError, Status, run, settle, status
from core.modules.ledger_module.repository import LEDGER
from tests.support.commands import flask
from tests.support.in_process import Managers
from tools.local_stack import LocalStack

Db = Database[dict[str, Any]]
FIRST, SECOND = MIGRATIONS[:2]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStack]:
    """A database of our own, with data as earlier releases left them."""
    folder = tmp_path_factory.mktemp("migrations")
    with LocalStack(folder / "data", folder / "secrets") as running:
        yield running


@pytest.fixture(scope="module")
def root(stack: LocalStack) -> Iterator[Db]:
    assert stack.mongod is not None
    with stack.mongod.client() as client:
        yield client[stack.environ["MONGODB_DATABASE"]]


@pytest.fixture
def database(root: Db) -> Db:
    for name in ("migrations", "leases", "settings", "audit_logs", "audit_seals", "transactions", "ledger_seals"):
        root[name].delete_many({})
    return root


@pytest.fixture(scope="module")
def started(stack: LocalStack) -> Iterator[DatabaseManager]:
    managers = Managers({**stack.environ, "AUDIT_SEAL_SECONDS": "3600"}, "database")
    yield managers.database_manager
    managers.dispose()


@pytest.fixture
def db(started: DatabaseManager, database: Db) -> DatabaseManager:
    return started


def shouting(name: str, order: list[str]) -> Migration:
    """Puts every `text` of the settings into capitals, one at a time."""

    def pending(database: DatabaseManager) -> int:
        return len(database.find_many("settings", {"loud": None}))

    def up(database: DatabaseManager, progress: Progress) -> None:
        order.append(name)
        for row in database.find_many("settings", {"loud": None}):
            database.update_one("settings", {"_id": row["_id"]}, {"$set": {"text": row["text"].upper(), "loud": True}})
            progress(1)

    return Migration(name, "Texts become loud.", pending, up)


def quiet(_status: Status) -> Progress:
    return lambda _documents: None


def put_texts(db: DatabaseManager, *texts: str) -> None:
    db.insert_many("settings", [{"_id": f"text-{text}", "text": text} for text in texts])


def test_what_is_pending_is_applied_in_order_and_once(db: DatabaseManager) -> None:
    order: list[str] = []
    both = [shouting("0001_first", order), shouting("0002_second", order)]
    put_texts(db, "a", "b")
    assert [(each.state, each.documents) for each in status(db, both)] == [(PENDING, 2), (PENDING, 2)]
    done = run(db, quiet, both)
    assert [(each.migration.id, each.documents) for each in done] == [("0001_first", 2), ("0002_second", 0)]
    assert order == ["0001_first", "0002_second"]
    assert [row["text"] for row in db.find_many("settings", {})] == ["A", "B"]
    assert run(db, quiet, both) == []
    assert [(each.state, each.applied_at is not None) for each in status(db, both)] == [(APPLIED, True)] * 2


def test_one_that_was_interrupted_goes_on_where_it_was(db: DatabaseManager) -> None:
    put_texts(db, "a", "b", "c")
    each = shouting("0001_first", [])

    def interrupted(_status: Status) -> Progress:
        def stop(_documents: int) -> None:
            raise KeyboardInterrupt

        return stop

    with pytest.raises(KeyboardInterrupt):
        run(db, interrupted, [each])
    assert [(s.state, s.documents) for s in status(db, [each])] == [(PENDING, 2)]
    assert [s.documents for s in run(db, quiet, [each])] == [2]


def test_two_processes_do_not_run_them_together(db: DatabaseManager) -> None:
    with hold_lease(db, "migrations", 30), pytest.raises(LeaseTaken):
        run(db, quiet, [])


def test_who_lost_the_lease_stops_between_two_batches(db: DatabaseManager, database: Db) -> None:
    put_texts(db, "a", "b", "c")

    def robbed(_status: Status) -> Progress:
        def after_the_first(_documents: int) -> None:
            database["leases"].update_one({"_id": "migrations"}, {"$currentDate": {"expires_at": True}})
            assert Lease(db, "migrations", 30).take()

        return after_the_first

    each = shouting("0001_first", [])
    with pytest.raises(LeaseLost):
        run(db, robbed, [each])
    assert [(s.state, s.documents) for s in status(db, [each])] == [(PENDING, 1)]


def test_one_that_was_changed_after_it_was_applied_is_noticed(db: DatabaseManager, database: Db) -> None:
    each = shouting("0001_first", [])
    run(db, quiet, [each])
    database["migrations"].update_one({"_id": each.id}, {"$set": {"checksum": "another"}})
    assert status(db, [each])[0].state == CHANGED
    with pytest.raises(MigrationError, match="0001_first"):
        run(db, quiet, [each])


def test_a_boot_applies_nothing_but_counts_what_has_nothing_to_change(db: DatabaseManager, caplog: pytest.LogCaptureFixture) -> None:
    each = shouting("0001_first", [])
    put_texts(db, "a")
    settle(db, [each])
    assert status(db, [each])[0].state == PENDING
    assert "a migration is pending" in caplog.text
    run(db, quiet, [each])
    other = shouting("0002_second", [])
    settle(db, [each, other])
    settle(db, [each, other])
    assert status(db, [other])[0].state == APPLIED


def test_the_list_is_in_order_and_named_like_its_files() -> None:
    ids = [each.id for each in MIGRATIONS]
    assert ids == sorted(set(ids))
    folder = Path(runner.__file__).parent
    assert [f"m{each}.py" for each in ids] == sorted(path.name for path in folder.glob("m0*.py"))


# The first one, by its command


def old_rows(database: Db, count: int) -> list[dict[str, Any]]:
    """Audit rows as releases without the chain wrote them."""
    rows = [audit_entry("things.insert", f"old{number}") for number in range(count)]
    for row in rows:
        del row["stamp"]
    database["audit_logs"].insert_many(rows)
    return rows


def test_earlier_audit_rows_get_into_the_chain(db: DatabaseManager, database: Db, stack: LocalStack, tmp_path: Path) -> None:
    rows = old_rows(database, 1500)
    assert len(Chain(db, AUDIT).verify().problems) == 100, "until then they are as good as forged"
    rehearsed = flask(stack.environ, tmp_path, "migrations", "run", "--dry-run")
    assert rehearsed.stdout.split()[:4] == [FIRST.id, "pending", "1500", "documents"], rehearsed.stderr
    assert FIRST.pending(db) == 1500
    done = flask(stack.environ, tmp_path, "migrations", "run")
    assert (done.returncode, done.stdout.split()[:2]) == (0, [FIRST.id, "applied"]), done.stderr
    assert FIRST.pending(db) == 0
    sealer = ChainSealer(db, AUDIT, delay=0)
    sealer.tick()
    sealer.stop()
    report = Chain(db, AUDIT).verify()
    assert (report.problems, report.rows) == ([], 1500 + len(MIGRATIONS)), "and the rows about the migrations themselves"
    sealed = [row_id for seal in database["audit_seals"].find().sort("_id") for row_id in seal["ids"]]
    assert sealed[:1500] == [row["_id"] for row in rows]
    assert "applied" in flask(stack.environ, tmp_path, "migrations", "status").stdout
    assert flask(stack.environ, tmp_path, "migrations", "run").stdout == "nothing to do\n"


def test_transactions_from_before_the_ledgers_chain_get_their_place_in_it(db: DatabaseManager, database: Db) -> None:
    ids = [f"tx_{number:04d}" for number in range(1500)]
    database["transactions"].insert_many([{"_id": each, "amount": 1} for each in ids])
    assert SECOND.pending(db) == 1500
    batches: list[int] = []
    SECOND.up(db, batches.append)
    assert (SECOND.pending(db), batches) == (0, [1000, 500])
    chain = Chain(db, LEDGER)
    while chain.seal(Timestamp(2**32 - 2, 0), lambda _session: None):
        pass
    report = chain.verify()
    assert (report.problems, report.rows) == ([], 1500)
    assert [row_id for seal in database["ledger_seals"].find().sort("_id") for row_id in seal["ids"]] == ids
